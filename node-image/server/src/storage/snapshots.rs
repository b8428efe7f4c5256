//! Snapshots on the volume: one file each, named by the last index that it covers.
//!
//! A file: magic, then blocks `length u32 | checksum u32 | bytes`, the first of which is the head as JSON; at the end a
//! mark with the checksum of everything before it. A snapshot is written, or received, under a name that says that it
//! is not one yet, and becomes one by a rename after its sync: what carries a snapshot's name is whole.
//!
//! What blocks hold, and when a snapshot may be published, is not known here.

use super::{StorageError, Tried, remove_file, rename, sync_directory};
use quorate_api::{Configuration, EntryId, Position};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"qsnap001";
/// In place of a length.
const END: u32 = u32::MAX;
/// A longer block is no block: the longest value and the rest of one fit.
const MAX_BLOCK_LEN: u32 = 64 << 20;
/// Written and not synced: a sync at the very end would be long, and hold up those of the log.
const SYNC_EVERY: u64 = 8 << 20;
const EXTENSION: &str = "snapshot";

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotHead {
    /// It holds the effects of every entry up to here.
    pub position: Position,
    /// The configuration in force there.
    pub configuration: (EntryId, Configuration),
    /// The clock of the log there.
    pub timestamp_millis: u64,
    /// Keys.
    pub keys: u64,
}

/// The folder of a node's snapshots. Cheap to clone; it holds nothing open.
#[derive(Clone, Debug)]
pub struct SnapshotDirectory {
    pub(crate) path: PathBuf,
}

impl SnapshotDirectory {
    /// Makes the folder if it is missing, and removes what a stop left unfinished.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(path: PathBuf) -> Result<Self, StorageError> {
        std::fs::create_dir_all(&path).tried("create", &path)?;
        let directory = Self { path };
        for file in directory.files()? {
            if file.extension().is_some_and(|extension| extension == "partial") {
                std::fs::remove_file(&file).tried("remove", &file)?;
            }
        }
        Ok(directory)
    }

    fn files(&self) -> Result<Vec<PathBuf>, StorageError> {
        std::fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .tried("list", &self.path)
    }

    /// The path of an unfinished file.
    #[must_use]
    pub fn partial(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.partial"))
    }

    /// The path of the snapshot that covers `index`.
    #[must_use]
    pub fn path(&self, index: u64) -> PathBuf {
        self.path.join(format!("{index:020}.{EXTENSION}"))
    }

    /// The indexes that the snapshots cover, the greatest first.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn indexes(&self) -> Result<Vec<u64>, StorageError> {
        let mut indexes: Vec<u64> = self
            .files()?
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .collect();
        indexes.sort_unstable_by(|a, b| b.cmp(a));
        Ok(indexes)
    }

    /// Makes an unfinished file, whole and synced, the snapshot that covers `index`. Durable on return.
    ///
    /// # Errors
    /// Fatal: the snapshot is there or not.
    pub fn publish(&self, partial: &Path, index: u64) -> Result<(), StorageError> {
        rename(partial, &self.path(index))?;
        sync_directory(&self.path)
    }

    /// Removes the snapshots that cover less.
    ///
    /// # Errors
    /// When the system refuses; nothing is lost by it.
    pub fn remove_before(&self, index: u64) -> Result<(), StorageError> {
        for other in self.indexes()?.into_iter().filter(|other| *other < index) {
            remove_file(&self.path(other))?;
        }
        Ok(())
    }

    /// Takes a snapshot that does not read out of the way, for people to look at.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn put_aside(&self, index: u64) -> Result<(), StorageError> {
        let path = self.path(index);
        rename(&path, &path.with_extension("damaged"))?;
        sync_directory(&self.path)
    }
}

/// Writes a snapshot. See the module.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: BufWriter<File>,
    path: PathBuf,
    checksum: u32,
    written: u64,
    synced: u64,
}

impl SnapshotWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(path: PathBuf, head: &SnapshotHead) -> Result<Self, StorageError> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)
            .tried("create", &path)?;
        let mut writer = Self {
            file: BufWriter::with_capacity(256 << 10, file),
            path,
            checksum: 0,
            written: 0,
            synced: 0,
        };
        writer.put(&MAGIC)?;
        let head = serde_json::to_vec(head).map_err(|e| StorageError::Corrupt(format!("{}: {e}", writer.path.display())))?;
        writer.block(&head)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).tried("write", &self.path)
    }

    /// Adds a block and gives how much is written so far.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn block(&mut self, bytes: &[u8]) -> Result<u64, StorageError> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= MAX_BLOCK_LEN)
            .expect("blocks are bounded by whoever cuts them");
        self.put(&length.to_le_bytes())?;
        self.put(&crc32c::crc32c(bytes).to_le_bytes())?;
        self.put(bytes)?;
        if self.written - self.synced >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(self.written)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.flush().tried("write", &self.path)?;
        self.file.get_ref().sync_data().tried("sync", &self.path)?;
        self.synced = self.written;
        Ok(())
    }

    /// Ends the file; whole and synced on return. It is published by its directory.
    ///
    /// # Errors
    /// When the system refuses; the file is then worth nothing.
    pub fn finish(mut self) -> Result<(), StorageError> {
        let checksum = self.checksum;
        self.put(&END.to_le_bytes())?;
        self.put(&checksum.to_le_bytes())?;
        self.sync()
    }
}

/// Reads a snapshot and checks every byte of it. See the module.
#[derive(Debug)]
pub struct SnapshotReader {
    file: BufReader<File>,
    path: PathBuf,
    checksum: u32,
}

impl SnapshotReader {
    /// Opens a file and reads its head.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is no snapshot.
    pub fn open(path: PathBuf) -> Result<(Self, SnapshotHead), StorageError> {
        let file = File::open(&path).tried("open", &path)?;
        let mut reader = Self {
            file: BufReader::with_capacity(256 << 10, file),
            path,
            checksum: 0,
        };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(reader.corrupt("is not a snapshot of this version"));
        }
        let head = reader.block()?.ok_or_else(|| reader.corrupt("ends before its head"))?;
        let head = serde_json::from_slice(&head).map_err(|_| reader.corrupt("has a head that does not read"))?;
        Ok((reader, head))
    }

    fn corrupt(&self, what: &str) -> StorageError {
        StorageError::Corrupt(format!("{} {what}", self.path.display()))
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, StorageError> {
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                self.corrupt("is cut off")
            } else {
                StorageError::Io {
                    what: format!("read {}", self.path.display()),
                    source: error,
                }
            }
        })?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, StorageError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    /// The next block; None at the end, which was then checked.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if a checksum does not hold or the file is cut off.
    pub fn block(&mut self) -> Result<Option<Vec<u8>>, StorageError> {
        let whole = self.checksum;
        let length = self.number()?;
        if length == END {
            let expected = self.number()?;
            let mut beyond = [0u8; 1];
            let ended = self.file.read(&mut beyond).tried("read", &self.path)? == 0;
            return if expected == whole && ended {
                Ok(None)
            } else {
                Err(self.corrupt("is damaged"))
            };
        }
        if length > MAX_BLOCK_LEN {
            return Err(self.corrupt("is damaged"));
        }
        let expected = self.number()?;
        let bytes = self.take(length as usize)?;
        if crc32c::crc32c(&bytes) != expected {
            return Err(self.corrupt("is damaged"));
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{Incarnation, Member};

    fn head(index: u64) -> SnapshotHead {
        let members = vec![Member {
            incarnation: Incarnation(uuid::Uuid::nil()),
            ordinal: 0,
            host: "a".into(),
        }];
        let mut position = Position::default();
        position.id.index = index;
        SnapshotHead {
            position,
            configuration: (EntryId::default(), Configuration::new(members, 1, 1).unwrap()),
            timestamp_millis: 5,
            keys: 2,
        }
    }

    fn write(directory: &SnapshotDirectory, index: u64) {
        let partial = directory.partial("own");
        let mut writer = SnapshotWriter::create(partial.clone(), &head(index)).unwrap();
        writer.block(b"first").unwrap();
        writer.block(&vec![7; 300_000]).unwrap();
        writer.finish().unwrap();
        directory.publish(&partial, index).unwrap();
    }

    fn read(path: PathBuf) -> Result<(SnapshotHead, Vec<Vec<u8>>), StorageError> {
        let (mut reader, head) = SnapshotReader::open(path)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.block()? {
            blocks.push(block);
        }
        Ok((head, blocks))
    }

    #[test]
    fn a_snapshot_reads_back_and_no_cut_or_flipped_bit_goes_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SnapshotDirectory::open(folder.path().to_owned()).unwrap();
        write(&directory, 9);
        let path = directory.path(9);
        let expected = (head(9), vec![b"first".to_vec(), vec![7; 300_000]]);
        assert_eq!(read(path.clone()).unwrap(), expected);
        let whole = std::fs::read(&path).unwrap();
        let places = (0..400).chain((400..whole.len()).step_by(9973)).chain(whole.len() - 8..whole.len());
        for at in places {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(read(path.clone()), Err(StorageError::Corrupt(_))), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(path.clone()), Err(StorageError::Corrupt(_))), "cut at {at}");
        }
        let mut longer = whole;
        longer.push(0);
        std::fs::write(&path, &longer).unwrap();
        assert!(matches!(read(path), Err(StorageError::Corrupt(_))));
    }

    #[test]
    fn what_was_not_published_is_no_snapshot_and_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SnapshotDirectory::open(folder.path().to_owned()).unwrap();
        write(&directory, 3);
        write(&directory, 12);
        SnapshotWriter::create(directory.partial("own"), &head(20)).unwrap();
        assert_eq!(directory.indexes().unwrap(), [12, 3]);
        let directory = SnapshotDirectory::open(folder.path().to_owned()).unwrap();
        assert!(!directory.partial("own").exists());
        directory.remove_before(12).unwrap();
        assert_eq!(directory.indexes().unwrap(), [12]);
        directory.put_aside(12).unwrap();
        assert_eq!(directory.indexes().unwrap(), [0u64; 0]);
    }
}
