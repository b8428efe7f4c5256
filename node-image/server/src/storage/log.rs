//! The log: segments written ahead with zeros, records with a checksum that only this use of the bytes satisfies.
//!
//! A segment file begins with a header (magic, salt). A record is `durable u64 | checksum u32 | entry`, where `durable` is
//! how far the log was known durable when the record was written and the checksum covers salt, `durable` and entry, so
//! that what an earlier use of the file left behind never reads as a record. Zeros end the log.
//!
//! Invariants: a segment is synced before the next one is begun · a cut is durable before anything is written over it.
//! It does not decide what is committed, and it is never trimmed yet.

use super::recovery::{self, Recovered};
use super::{StorageError, Tried, sync_directory};
use bytes::{Bytes, BytesMut};
use quorate_api::{Entry, Position};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

pub(super) const MAGIC: [u8; 8] = *b"qlog0001";
/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_LEN: usize = 16;
/// Bytes before the entry of a record.
pub(super) const RECORD_HEADER_LEN: usize = 12;

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment; one that must hold a longer entry is longer.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// A segment as memory knows it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) salt: u64,
    pub(super) first: u64,
    /// Where each record begins.
    pub(super) offsets: Vec<u64>,
    /// Where the next record goes.
    pub(super) end: u64,
    pub(super) capacity: u64,
}

/// Entries in order, and the position that the first one follows.
pub type Piece = (Position, Vec<Arc<Entry>>);

type Index = Arc<RwLock<Vec<Segment>>>;

/// The log, for its one writer. See the module.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    options: LogOptions,
    index: Index,
    last: u64,
    durable: u64,
    buffer: BytesMut,
    ahead: Option<JoinHandle<Result<(), StorageError>>>,
}

/// Reads the log beside its writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogReader {
    index: Index,
}

impl Log {
    /// Opens the log in `directory`, or begins one, and gives what it holds.
    ///
    /// # Errors
    /// When the system refuses, or a file is not a segment of a log.
    pub fn open(directory: &Path, options: LogOptions) -> Result<(Self, Recovered), StorageError> {
        std::fs::create_dir_all(directory).tried("create", directory)?;
        let (segments, recovered) = recovery::recover(directory)?;
        let last = recovered.entries.last().map_or(0, |entry| entry.id.index);
        let index = Arc::new(RwLock::new(segments));
        let mut log = Self {
            directory: directory.to_owned(),
            options,
            index,
            last,
            durable: last,
            buffer: BytesMut::new(),
            ahead: None,
        };
        if recovered.damage.is_none() {
            // What stands behind the last record is torn: it must not be there when something else is written before it.
            log.cut(last)?;
        }
        Ok((log, recovered))
    }

    /// Index of the last entry written.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// For reading beside this writer.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader {
            index: Arc::clone(&self.index),
        }
    }

    /// Writes entries that continue the log, with the writer's commit index. Durable after [`Log::sync`].
    ///
    /// # Errors
    /// When the system refuses; the caller must not go on with this log.
    ///
    /// # Panics
    /// If the entries do not continue the log.
    pub fn append(&mut self, entries: &[Arc<Entry>], commit: u64) -> Result<(), StorageError> {
        let mut entries = entries.iter().peekable();
        while let Some(first) = entries.peek() {
            assert_eq!(first.id.index, self.last + 1, "log entries are contiguous");
            self.make_room((RECORD_HEADER_LEN + first.encoded_len()) as u64)?;
            let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let segment = segments.last_mut().expect("make_room leaves a segment");
            self.buffer.clear();
            let mut offsets = Vec::new();
            while let Some(entry) = entries.peek() {
                let begin = self.buffer.len();
                if segment.end + (begin + RECORD_HEADER_LEN + entry.encoded_len()) as u64 > segment.capacity {
                    break;
                }
                offsets.push(segment.end + begin as u64);
                encode_record(entry, commit, self.durable, segment.salt, &mut self.buffer);
                self.last = entry.id.index;
                entries.next();
            }
            segment.file.write_all_at(&self.buffer, segment.end).tried("write", &segment.path)?;
            segment.end += self.buffer.len() as u64;
            segment.offsets.extend(offsets);
        }
        Ok(())
    }

    /// Makes everything written durable and gives the last index.
    ///
    /// # Errors
    /// Fatal: what was not synced may be lost although it reads back, and a second sync would say nothing about it.
    pub fn sync(&mut self) -> Result<u64, StorageError> {
        let current = self
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .map(|s| (Arc::clone(&s.file), s.path.clone()));
        if let Some((file, path)) = current {
            file.sync_data().tried("sync", &path)?;
        }
        self.durable = self.last;
        Ok(self.durable)
    }

    /// Cuts the log after `index`. Durable on return; what is cut never comes back.
    ///
    /// # Errors
    /// Fatal: the log may be cut or not.
    pub fn truncate_after(&mut self, index: u64) -> Result<(), StorageError> {
        self.cut(index)?;
        self.last = self.last.min(index);
        self.durable = self.durable.min(index);
        self.sync().map(drop)
    }

    fn cut(&mut self, index: u64) -> Result<(), StorageError> {
        let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
        // From the end, so that a crash half-way leaves a log without gaps.
        while segments.last().is_some_and(|segment| segment.first > index && segment.first > 1) {
            let segment = segments.pop().expect("checked by the condition");
            std::fs::remove_file(&segment.path).tried("remove", &segment.path)?;
            sync_directory(&self.directory)?;
        }
        let Some(segment) = segments.last_mut() else { return Ok(()) };
        let keep = usize::try_from((index + 1).saturating_sub(segment.first)).unwrap_or(usize::MAX);
        if let Some(&end) = segment.offsets.get(keep) {
            segment.end = end;
            segment.offsets.truncate(keep);
        }
        zero(&segment.file, segment.end, segment.capacity).tried("clear the end of", &segment.path)?;
        segment.file.sync_data().tried("sync", &segment.path)
    }

    /// Begins another segment when the current one cannot take `bytes`.
    fn make_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        let fits = self
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .is_some_and(|s| s.end + bytes <= s.capacity);
        if fits {
            return Ok(());
        }
        // Records behind this point claim that what is before them is durable.
        self.sync()?;
        let first = self.last + 1;
        let (ahead, path) = (self.directory.join("ahead"), self.directory.join(format!("{first:020}.log")));
        let ready = match self.ahead.take() {
            Some(thread) => thread.join().is_ok_and(|made| made.is_ok()),
            None => false,
        };
        let needed = self.options.segment_bytes.max(SEGMENT_HEADER_LEN as u64 + bytes);
        if !ready || needed > self.options.segment_bytes {
            prepare(&ahead, needed)?;
        }
        let file = File::options().read(true).write(true).open(&ahead).tried("open", &ahead)?;
        let salt: u64 = rand::random();
        let mut header = [0u8; SEGMENT_HEADER_LEN];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&salt.to_le_bytes());
        file.write_all_at(&header, 0).tried("write", &ahead)?;
        file.sync_data().tried("sync", &ahead)?;
        std::fs::rename(&ahead, &path).tried("rename", &ahead)?;
        sync_directory(&self.directory)?;
        let capacity = file.metadata().tried("look at", &path)?.len();
        let segment = Segment {
            file: Arc::new(file),
            path,
            salt,
            first,
            offsets: Vec::new(),
            end: SEGMENT_HEADER_LEN as u64,
            capacity,
        };
        self.index.write().unwrap_or_else(PoisonError::into_inner).push(segment);
        let bytes = self.options.segment_bytes;
        self.ahead = std::thread::Builder::new()
            .name("log-ahead".into())
            .spawn(move || prepare(&ahead, bytes))
            .ok();
        Ok(())
    }
}

impl LogReader {
    /// Entries after `after`, at least one if there are any and about `max_bytes`, and the position of `after`.
    ///
    /// # Errors
    /// When the system refuses or a record is damaged.
    pub fn read(&self, after: u64, max_bytes: usize) -> Result<Piece, StorageError> {
        let mut position = Position::default();
        let mut entries = Vec::new();
        let (mut bytes, mut next) = (0, after.max(1));
        while bytes < max_bytes || entries.is_empty() {
            let Some((file, path, salt, begin, end)) = self.locate(next) else {
                break;
            };
            let mut record = BytesMut::zeroed(usize::try_from(end - begin).expect("a record fits memory"));
            file.read_exact_at(&mut record, begin).tried("read", &path)?;
            let Some((entry, ..)) = decode_record(&mut record.freeze(), salt) else {
                return Err(StorageError::Corrupt(format!("entry {next} in {} is damaged", path.display())));
            };
            if next == after {
                position = entry.position();
            } else {
                bytes += entry.encoded_len();
                entries.push(Arc::new(entry));
            }
            next += 1;
        }
        Ok((position, entries))
    }

    fn locate(&self, index: u64) -> Option<(Arc<File>, PathBuf, u64, u64, u64)> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let segment = &segments[segments.partition_point(|segment| segment.first <= index).checked_sub(1)?];
        let number = usize::try_from(index - segment.first).ok()?;
        let begin = *segment.offsets.get(number)?;
        let end = segment.offsets.get(number + 1).copied().unwrap_or(segment.end);
        Some((Arc::clone(&segment.file), segment.path.clone(), segment.salt, begin, end))
    }
}

/// Writes a file of zeros, so that a later sync has only data to write.
fn prepare(path: &Path, bytes: u64) -> Result<(), StorageError> {
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .tried("create", path)?;
    zero(&file, 0, bytes).tried("fill", path)?;
    file.sync_all().tried("sync", path)
}

fn zero(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = vec![0u8; 1 << 20];
    let mut at = from;
    while at < to {
        let length = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

fn encode_record(entry: &Entry, commit: u64, durable: u64, salt: u64, out: &mut BytesMut) {
    let begin = out.len();
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    entry.encode(commit, out);
    let checksum = checksum(salt, durable, &out[begin + RECORD_HEADER_LEN..]);
    out[begin + 8..begin + RECORD_HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
}

/// The entry, its commit hint and durable mark at the front of `input`, if there is a whole record of this salt.
pub(super) fn decode_record(input: &mut Bytes, salt: u64) -> Option<(Entry, u64, u64)> {
    let durable = u64::from_le_bytes(input.get(..8)?.try_into().ok()?);
    let expected = u32::from_le_bytes(input.get(8..RECORD_HEADER_LEN)?.try_into().ok()?);
    let length = Entry::frame_len(input.get(RECORD_HEADER_LEN..)?).ok()?;
    let body = input.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN + length)?;
    if checksum(salt, durable, body) != expected {
        return None;
    }
    let mut record = input.slice(RECORD_HEADER_LEN..RECORD_HEADER_LEN + length);
    let (entry, commit) = Entry::decode(&mut record).ok()?;
    bytes::Buf::advance(input, RECORD_HEADER_LEN + length);
    Some((entry, commit, durable))
}

/// The entry's own checksum covers its body; this one ties its head to the place.
fn checksum(salt: u64, durable: u64, entry: &[u8]) -> u32 {
    let mut head = [0u8; 16 + 16];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..16].copy_from_slice(&durable.to_le_bytes());
    head[16..].copy_from_slice(&entry[..16]);
    crc32c::crc32c(&head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{EntryBody, EntryId, Epoch};
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    const SMALL: LogOptions = LogOptions { segment_bytes: 4096 };

    fn entry(before: Position, epoch: u64, length: usize) -> Arc<Entry> {
        let epoch = Epoch { number: epoch, token: 7 };
        Arc::new(Entry::next(before, epoch, 1, EntryBody::Effects(Bytes::from(vec![b'x'; length]))))
    }

    fn position(entries: &[Arc<Entry>]) -> Position {
        entries.last().map_or_else(Position::default, |entry| entry.position())
    }

    fn tail_of(directory: &Path) -> (PathBuf, u64) {
        let (segments, _) = recovery::recover(directory).unwrap();
        let segment = segments.last().unwrap();
        (segment.path.clone(), segment.end)
    }

    /// Appends, cuts, reopens and tears what was not synced, against a plain list of entries.
    #[test]
    fn what_was_synced_comes_back_and_what_was_cut_does_not() {
        for seed in 0..60 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let directory = tempfile::tempdir().unwrap();
            let (mut log, _) = Log::open(directory.path(), SMALL).unwrap();
            let (mut all, mut synced) = (Vec::<Arc<Entry>>::new(), 0usize);
            for step in 0..60u64 {
                match rng.random_range(0..10) {
                    0..5 => {
                        let mut batch = Vec::new();
                        for _ in 0..rng.random_range(1..6) {
                            let next = entry(position(&all), step, rng.random_range(0..900));
                            all.push(Arc::clone(&next));
                            batch.push(next);
                        }
                        log.append(&batch, 0).unwrap();
                    }
                    5..7 => {
                        assert_eq!(log.sync().unwrap(), all.len() as u64, "seed {seed}");
                        synced = all.len();
                    }
                    7 => {
                        let keep = rng.random_range(0..=all.len());
                        log.truncate_after(keep as u64).unwrap();
                        all.truncate(keep);
                        synced = all.len();
                    }
                    8 => {
                        let after = rng.random_range(0..=all.len());
                        let (before, entries) = log.reader().read(after as u64, usize::MAX).unwrap();
                        assert_eq!((before, entries), (position(&all[..after]), all[after..].to_vec()), "seed {seed}");
                    }
                    _ => {
                        drop(log);
                        let torn = synced < all.len() && rng.random();
                        if torn {
                            // The last record is the one that a stop can tear in the middle.
                            let (path, end) = tail_of(directory.path());
                            File::options()
                                .write(true)
                                .open(path)
                                .unwrap()
                                .write_all_at(&[0xff; 8], end - 8)
                                .unwrap();
                            all.pop();
                        }
                        let (reopened, recovered) = Log::open(directory.path(), SMALL).unwrap();
                        assert_eq!((recovered.damage, &recovered.entries), (None, &all), "seed {seed}");
                        log = reopened;
                        synced = all.len();
                    }
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_a_durable_entry_is_reported_and_not_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        let (mut log, _) = Log::open(directory.path(), LogOptions { segment_bytes: 1 << 20 }).unwrap();
        for _ in 0..10 {
            all.push(entry(position(&all), 1, 100));
            log.append(&all[all.len() - 1..], 0).unwrap();
            log.sync().unwrap();
        }
        let (file, _, _, begin, _) = log.reader().locate(4).unwrap();
        file.write_all_at(b"?", begin + 90).unwrap();
        drop(log);
        for _ in 0..2 {
            let (_, recovered) = Log::open(directory.path(), SMALL).unwrap();
            assert_eq!(recovered.entries, all[..3]);
            let last = EntryId {
                epoch: Epoch { number: 1, token: 7 },
                index: 10,
            };
            assert_eq!(recovered.damage, Some(recovery::Damage { first: 4, last }));
        }
    }
}
