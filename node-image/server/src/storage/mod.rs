//! What a node keeps on its volume: the log, snapshots, the superblock, and the lock that keeps a second process out.
//!
//! Synchronous file operations with no retry: a caller whose sync failed ends the process.

pub(crate) mod crash;
mod lock;
mod log;
mod recovery;
mod scrub;
mod snapshots;
mod superblock;
mod tails;

pub use lock::DirectoryLock;
pub use log::{Log, LogOptions, LogReader, Piece};
pub use recovery::{Damage, Recovered};
pub use scrub::{ClosedSegment, Pass, Rot, scrub};
pub use snapshots::{SnapshotDirectory, SnapshotHead, SnapshotReader, SnapshotWriter};
pub use superblock::Superblock;
pub use tails::{TailDirectory, read_tail};

use std::io;
use std::path::Path;

/// Why storage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// Bytes are not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// Another process uses the directory.
    #[error("{0} is used by another process: stop it, or give this node a directory of its own")]
    Locked(String),
}

impl StorageError {
    /// Whether what was written does not read: a bad checksum, or a disk that says so itself.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Io { source, .. } => is_unreadable(source),
            Self::Locked(_) => false,
        }
    }

    /// Whether there was no room, or no more of it allowed.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Whether an error says that bytes are lost, not that something is wrong with the request or the machine.
fn is_unreadable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::IO, Errno::NODATA, Errno::UCLEAN, Errno::BADMSG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Adds what was tried to an I/O error.
trait Tried<T> {
    fn tried(self, what: &str, path: &Path) -> Result<T, StorageError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: &str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::Io {
            what: format!("{what} {}", path.display()),
            source: source.into(),
        })
    }
}

fn remove_file(path: &Path) -> Result<(), StorageError> {
    crash::point().and_then(|()| std::fs::remove_file(path)).tried("remove", path)
}

fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    crash::point().and_then(|()| std::fs::rename(from, to)).tried("rename", from)
}

fn sync_directory(path: &Path) -> Result<(), StorageError> {
    crash::point().tried("sync directory", path)?;
    std::fs::File::open(path)
        .and_then(|directory| directory.sync_all())
        .tried("sync directory", path)
}
