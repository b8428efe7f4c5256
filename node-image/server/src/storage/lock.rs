//! One process per directory.

use super::{StorageError, Tried};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;

/// Holds the directory until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, making it if it is missing.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process has it.
    pub fn acquire(directory: &Path) -> Result<Self, StorageError> {
        std::fs::create_dir_all(directory).tried("create", directory)?;
        let path = directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .tried("open", &path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| StorageError::Locked(directory.display().to_string()))?;
        Ok(Self { _file: file })
    }
}
