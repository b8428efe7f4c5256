//! Small durable state in two slots. A write goes to the slot that holds the older one, so a torn write leaves the other.
//!
//! A slot: magic, sequence u64, length u32, crc32c u32 of sequence and JSON, JSON.

use super::{StorageError, Tried, sync_directory};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"quorate1";
/// Configurations of proposals are in it: far less than this.
const SLOT_LEN: u64 = 1 << 20;
const HEADER_LEN: usize = 24;

/// The open file. See the module.
#[derive(Debug)]
pub struct Superblock {
    file: File,
    path: PathBuf,
    sequence: u64,
}

impl Superblock {
    /// Opens it; None if the directory has none.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if neither slot is whole: the volume must not be taken for an empty one.
    pub fn open<T: DeserializeOwned>(directory: &Path) -> Result<Option<(Self, T)>, StorageError> {
        let path = directory.join("superblock");
        if !path.exists() {
            return Ok(None);
        }
        let file = File::options().read(true).write(true).open(&path).tried("open", &path)?;
        allocate(&file, &path);
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        let Some((sequence, json)) = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence) else {
            return Err(StorageError::Corrupt(format!(
                "{} is unreadable in both copies: remove the whole data directory to let this replica come back as a new one",
                path.display()
            )));
        };
        let value = serde_json::from_slice(&json).map_err(|e| StorageError::Corrupt(format!("{}: {e}", path.display())))?;
        Ok(Some((Self { file, path, sequence }, value)))
    }

    /// Makes a new one, durably.
    ///
    /// # Errors
    /// When the system refuses, or there is one already.
    pub fn create<T: Serialize>(directory: &Path, value: &T) -> Result<Self, StorageError> {
        let (path, fresh) = (directory.join("superblock"), directory.join("superblock.new"));
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&fresh)
            .tried("create", &fresh)?;
        file.set_len(2 * SLOT_LEN).tried("extend", &fresh)?;
        allocate(&file, &fresh);
        let mut superblock = Self {
            file,
            path: fresh.clone(),
            sequence: 0,
        };
        superblock.write(value)?;
        superblock.file.sync_all().tried("sync", &fresh)?;
        std::fs::rename(&fresh, &path).tried("rename", &fresh)?;
        sync_directory(directory)?;
        superblock.path = path;
        Ok(superblock)
    }

    /// Replaces the value; durable on return.
    ///
    /// # Errors
    /// Any error is fatal to the caller: nobody knows which value is on the disk.
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<(), StorageError> {
        let json = serde_json::to_vec(value).map_err(|e| StorageError::Corrupt(format!("{}: {e}", self.path.display())))?;
        if json.len() as u64 > SLOT_LEN - HEADER_LEN as u64 {
            return Err(StorageError::Corrupt(format!(
                "{}: {} bytes do not fit a slot",
                self.path.display(),
                json.len()
            )));
        }
        self.sequence += 1;
        let mut slot = Vec::with_capacity(HEADER_LEN + json.len());
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&self.sequence.to_le_bytes());
        slot.extend_from_slice(&(json.len() as u32).to_le_bytes());
        slot.extend_from_slice(&checksum(self.sequence, &json).to_le_bytes());
        slot.extend_from_slice(&json);
        self.file
            .write_all_at(&slot, self.sequence % 2 * SLOT_LEN)
            .tried("write", &self.path)?;
        self.file.sync_data().tried("sync", &self.path)
    }
}

/// Takes the room for both slots: a disk that is full later must not keep a promise from being written.
fn allocate(file: &File, path: &Path) {
    if let Err(error) = fallocate(file, FallocateFlags::empty(), 0, 2 * SLOT_LEN) {
        // A file system that cannot, or a disk that is full now: writes go on as long as they find room.
        tracing::debug!(%error, path = %path.display(), "no room is kept for the superblock");
    }
}

fn checksum(sequence: u64, json: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), json)
}

fn read_slot(file: &File, number: u64) -> Option<(u64, Vec<u8>)> {
    let mut header = [0u8; HEADER_LEN];
    file.read_exact_at(&mut header, number * SLOT_LEN).ok()?;
    let (magic, rest) = header.split_at(8);
    let sequence = u64::from_le_bytes(rest[..8].try_into().ok()?);
    let length = u32::from_le_bytes(rest[8..12].try_into().ok()?);
    let expected = u32::from_le_bytes(rest[12..].try_into().ok()?);
    if magic != MAGIC || u64::from(length) > SLOT_LEN - HEADER_LEN as u64 {
        return None;
    }
    let mut json = vec![0; length as usize];
    file.read_exact_at(&mut json, number * SLOT_LEN + HEADER_LEN as u64).ok()?;
    (checksum(sequence, &json) == expected).then_some((sequence, json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_value_before_it_and_two_leave_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Superblock::open::<u32>(directory.path()).unwrap().is_none());
        let mut superblock = Superblock::create(directory.path(), &1u32).unwrap();
        superblock.write(&2u32).unwrap();
        superblock.write(&3u32).unwrap();
        let path = directory.path().join("superblock");
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"torn", SLOT_LEN + 20).unwrap();
        assert_eq!(Superblock::open::<u32>(directory.path()).unwrap().unwrap().1, 2);
        file.write_all_at(b"torn", 20).unwrap();
        assert!(matches!(Superblock::open::<u32>(directory.path()), Err(StorageError::Corrupt(_))));
    }
}
