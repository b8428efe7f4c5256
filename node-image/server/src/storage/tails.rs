//! Tails: entries that were cut off a log although clients may have been told that they are done. They are kept for people
//! to look at; no node ever reads one back into its state.
//!
//! A tail is a file `tail-<epoch>-<first>-<last>.log` in the folder `tails` of the data directory: the number of the epoch
//! that wrote its last entry, and the indices of its first and last entry. It holds `magic "qtail001" | length u32 | crc32c
//! u32 of the JSON | JSON of a [`CutTail`]`, little endian, and then the entries as [`quorate_api::entry`] encodes them.
//!
//! Writing one again gives the same file, so that a crash between keeping and cutting does no harm. None is ever deleted: a
//! person does that.

use super::{StorageError, Tried, sync_directory};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_api::{CutTail, Entry, Epoch};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"qtail001";
/// Magic, length and checksum.
const HEADER_LEN: usize = 16;
/// Longest JSON that is believed.
const MAX_HEAD_LEN: usize = 1 << 16;
/// Tails that a node tells of: the newest. All of them stay on the volume.
const TOLD: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct TailDirectory {
    path: PathBuf,
    told: Vec<CutTail>,
}

impl TailDirectory {
    /// Looks which tails there are. The folder need not exist.
    ///
    /// # Errors
    /// When the system refuses. A file that does not read is left alone.
    pub fn open(path: PathBuf) -> Result<Self, StorageError> {
        let mut told = Vec::new();
        if path.exists() {
            for found in std::fs::read_dir(&path).tried("list", &path)? {
                let file = found.tried("list", &path)?.path();
                match read_head(&file) {
                    Ok((head, _)) => told.push(head),
                    Err(error) => tracing::warn!(%error, "not a tail that was kept aside"),
                }
            }
        }
        told.sort_by_key(|tail: &CutTail| (tail.epoch, tail.first));
        let mut directory = Self { path, told };
        directory.shorten();
        Ok(directory)
    }

    /// The newest, oldest first.
    #[must_use]
    pub fn told(&self) -> &[CutTail] {
        &self.told
    }

    /// Keeps entries that are about to be cut off; durable on return. `writes` counts the changes of keys in them, `epoch` goes
    /// on without them.
    ///
    /// # Errors
    /// When the system refuses: the log must not be cut then.
    pub fn keep(&mut self, entries: &[Arc<Entry>], writes: u64, epoch: Epoch, exact: bool) -> Result<&CutTail, StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(StorageError::Corrupt("a tail has entries".to_owned()));
        };
        let (first, last) = (first.id, last.id);
        let tail = CutTail {
            first,
            last,
            epoch,
            entries: entries.len() as u64,
            writes,
            exact,
            file: format!("tail-{}-{}-{}.log", last.epoch.number, first.index, last.index),
        };
        if !self.path.exists() {
            std::fs::create_dir_all(&self.path).tried("create", &self.path)?;
            sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
        }
        let (fresh, file) = (self.path.join(format!("{}.new", tail.file)), self.path.join(&tail.file));
        write(&fresh, &tail, entries).tried("write", &fresh)?;
        std::fs::rename(&fresh, &file).tried("rename", &fresh)?;
        sync_directory(&self.path)?;
        self.told.retain(|known| known.file != tail.file);
        self.told.push(tail);
        self.shorten();
        Ok(self.told.last().expect("one was pushed"))
    }

    fn shorten(&mut self) {
        self.told.drain(..self.told.len().saturating_sub(TOLD));
    }
}

fn write(path: &Path, tail: &CutTail, entries: &[Arc<Entry>]) -> std::io::Result<()> {
    let json = serde_json::to_vec(tail)?;
    let mut bytes = BytesMut::new();
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(u32::try_from(json.len()).map_err(std::io::Error::other)?);
    bytes.put_u32_le(crc32c::crc32c(&json));
    bytes.put_slice(&json);
    let mut file = File::create(path)?;
    for entry in entries {
        // Nothing of it is committed.
        entry.encode(0, &mut bytes);
        file.write_all(&bytes)?;
        bytes.clear();
    }
    file.sync_all()
}

fn read_head(path: &Path) -> Result<(CutTail, File), StorageError> {
    let corrupt = |why: &str| StorageError::Corrupt(format!("{}: {why}", path.display()));
    let mut file = File::open(path).tried("open", path)?;
    let mut header = [0u8; HEADER_LEN];
    file.read_exact(&mut header).map_err(|_| corrupt("too short for a tail"))?;
    let mut fields = &header[MAGIC.len()..];
    let (length, checksum) = (fields.get_u32_le() as usize, fields.get_u32_le());
    if !header.starts_with(MAGIC) || length > MAX_HEAD_LEN {
        return Err(corrupt("no tail of this version"));
    }
    let mut json = vec![0; length];
    file.read_exact(&mut json).map_err(|_| corrupt("its head is cut off"))?;
    if crc32c::crc32c(&json) != checksum {
        return Err(corrupt("its head is damaged"));
    }
    let head = serde_json::from_slice(&json).map_err(|error| corrupt(&error.to_string()))?;
    Ok((head, file))
}

/// Reads a tail: what it is, and its entries.
///
/// # Errors
/// When the system refuses or the file is damaged.
pub fn read_tail(path: &Path) -> Result<(CutTail, Vec<Entry>), StorageError> {
    let (head, mut file) = read_head(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).tried("read", path)?;
    let (mut bytes, mut entries) = (Bytes::from(bytes), Vec::new());
    while bytes.has_remaining() {
        let (entry, _) = Entry::decode(&mut bytes).map_err(|error| StorageError::Corrupt(format!("{}: {error}", path.display())))?;
        entries.push(entry);
    }
    if entries.len() as u64 != head.entries {
        let (found, told) = (entries.len(), head.entries);
        return Err(StorageError::Corrupt(format!(
            "{}: {found} entries instead of {told}",
            path.display()
        )));
    }
    Ok((head, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{EntryBody, Position};

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 9 }
    }

    fn entries(count: usize) -> Vec<Arc<Entry>> {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        for number in 0..count {
            let before = entries.last().map_or_else(Position::default, |entry| entry.position());
            let body = EntryBody::Effects(Bytes::from(vec![b'x'; 10 * number]));
            entries.push(Arc::new(Entry::next(before, epoch(3), 7, body)));
        }
        entries
    }

    #[test]
    fn a_tail_is_kept_once_told_after_a_restart_and_read_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tails");
        let (mut tails, entries) = (TailDirectory::open(path.clone()).unwrap(), entries(5));
        let kept = tails.keep(&entries, 12, epoch(4), true).unwrap().clone();
        assert_eq!((kept.file.as_str(), kept.entries, kept.writes), ("tail-3-1-5.log", 5, 12));
        assert_eq!(
            tails.keep(&entries, 12, epoch(4), true).unwrap(),
            &kept,
            "a crash came between keeping and cutting"
        );
        tails.keep(&entries[..2], 1, epoch(6), false).unwrap();
        std::fs::write(path.join("notes.txt"), "somebody's").unwrap();
        let again = TailDirectory::open(path.clone()).unwrap();
        assert_eq!(again.told(), tails.told());
        assert_eq!(again.told().len(), 2);
        let (head, read) = read_tail(&path.join("tail-3-1-5.log")).unwrap();
        assert_eq!((head, read), (kept, entries.iter().map(|entry| (**entry).clone()).collect()));
    }

    #[test]
    fn a_damaged_tail_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut tails = TailDirectory::open(folder.path().join("tails")).unwrap();
        let file = tails.keep(&entries(3), 3, epoch(4), true).unwrap().file.clone();
        let path = folder.path().join("tails").join(file);
        let whole = std::fs::read(&path).unwrap();
        for (change, says) in [(whole.len() - 1, "corrupt"), (20, "its head is damaged")] {
            let mut bytes = whole.clone();
            bytes[change] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = read_tail(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert!(read_tail(&path).unwrap_err().to_string().contains("cut off"));
    }
}
