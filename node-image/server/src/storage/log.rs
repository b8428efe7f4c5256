//! The log: segments written ahead with zeros, records with a checksum that only this use of the bytes satisfies.
//!
//! A segment file begins with a header (magic, salt, the position that its first entry follows, checksum). A record is
//! `durable u64 | checksum u32 | entry`, where `durable` is how far the log was known durable when the record was written
//! and the checksum covers salt, `durable` and entry, so that what an earlier use of the file left behind never reads as
//! a record. Zeros end the log.
//!
//! Invariants: a segment is synced before the next one is begun · a cut is durable before anything is written over it ·
//! the log is given back from its front in whole segments, and only what a durable snapshot covers · want of room shows
//! where a segment is begun, before anything of it is in use, and is no failure: what was not written can be later.
//! It does not decide what is committed or what may be given back.

use super::recovery::{self, Recovered};
use super::scrub::ClosedSegment;
use super::{StorageError, Tried, remove_file, rename, sync_directory};
use bytes::{Bytes, BytesMut};
use quorate_api::{DiskRoom, Entry, EntryId, Epoch, Position};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) const MAGIC: [u8; 8] = *b"qlog0002";
/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_LEN: usize = 56;
/// Bytes before the entry of a record.
pub(super) const RECORD_HEADER_LEN: usize = 12;

/// Between two attempts to find room for the next segment.
const RETRY: Duration = Duration::from_millis(500);

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
    /// What the first entry follows.
    pub(super) prev: Position,
    /// Where each record begins.
    pub(super) offsets: Vec<u64>,
    /// Where the next record goes.
    pub(super) end: u64,
    pub(super) capacity: u64,
}

impl Segment {
    pub(super) fn first(&self) -> u64 {
        self.prev.id.index + 1
    }

    /// Bytes of the entries after `index`.
    fn bytes_after(&self, index: u64) -> u64 {
        let held = usize::try_from((index + 1).saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.offsets.get(held).map_or(0, |begin| self.end - begin)
    }
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
    last: Position,
    durable: u64,
    buffer: BytesMut,
    ahead: Option<Ahead>,
    /// There is no room for the next segment.
    full: Arc<AtomicBool>,
    /// See [`Log::leave_to_the_system`].
    lazy: bool,
}

/// The thread that fills the next segment's file.
#[derive(Debug)]
struct Ahead {
    thread: JoinHandle<Option<u64>>,
    stop: Arc<AtomicBool>,
    /// Size that is wanted: a segment's, or more for a longer entry.
    wanted: Arc<AtomicU64>,
}

impl Ahead {
    /// Ends the thread; the size of the file if it is ready.
    fn finish(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(None)
    }
}

/// Reads the log beside its writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogReader {
    index: Index,
    full: Arc<AtomicBool>,
}

impl Log {
    /// Opens the log in `directory`, or begins one, and gives what it holds.
    ///
    /// # Errors
    /// When the system refuses, or a file is not a segment of a log.
    pub fn open(directory: &Path, options: LogOptions) -> Result<(Self, Recovered), StorageError> {
        std::fs::create_dir_all(directory).tried("create", directory)?;
        let (segments, recovered) = recovery::recover(directory)?;
        let last = recovered.entries.last().map_or(recovered.base, |entry| entry.position());
        let index = Arc::new(RwLock::new(segments));
        let mut log = Self {
            directory: directory.to_owned(),
            options,
            index,
            last,
            durable: last.id.index,
            buffer: BytesMut::new(),
            ahead: None,
            full: Arc::default(),
            lazy: false,
        };
        if recovered.damage.is_none() {
            // What stands behind the last record is torn: it must not be there when something else is written before it.
            log.cut(last.id.index)?;
        }
        log.prepare_ahead(options.segment_bytes);
        Ok((log, recovered))
    }

    /// The position of the last entry written.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// For reading beside this writer.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader {
            index: Arc::clone(&self.index),
            full: Arc::clone(&self.full),
        }
    }

    /// Writes entries that continue the log, with the writer's commit index, and gives how many: fewer than all when there is
    /// no room for more. Durable after [`Log::sync`].
    ///
    /// # Errors
    /// When the system refuses; the caller must not go on with this log.
    ///
    /// # Panics
    /// If the entries do not continue the log.
    pub fn append(&mut self, entries: &[Arc<Entry>], commit: u64) -> Result<usize, StorageError> {
        let mut written = 0;
        while let Some(first) = entries.get(written) {
            assert_eq!(first.id.index, self.last.id.index + 1, "log entries are contiguous");
            if !self.make_room((RECORD_HEADER_LEN + first.encoded_len()) as u64)? {
                break;
            }
            let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let segment = segments.last_mut().expect("make_room leaves a segment");
            self.buffer.clear();
            let mut offsets = Vec::new();
            while let Some(entry) = entries.get(written + offsets.len()) {
                let begin = self.buffer.len();
                if segment.end + (begin + RECORD_HEADER_LEN + entry.encoded_len()) as u64 > segment.capacity {
                    break;
                }
                offsets.push(segment.end + begin as u64);
                encode_record(entry, commit, self.durable, segment.salt, &mut self.buffer);
            }
            let wrote = segment.file.write_all_at(&self.buffer, segment.end).tried("write", &segment.path);
            if !had_room(wrote)? {
                // A file system that does not write in place. Whatever is there now is written over, and not synced before.
                break;
            }
            written += offsets.len();
            self.last = entries[written - 1].position();
            segment.end += self.buffer.len() as u64;
            segment.offsets.extend(offsets);
        }
        Ok(written)
    }

    /// From now on [`Log::sync`] leaves entries in the page cache: they outlive this process and not the machine. What a
    /// record tells to be durable is so all the same, as are segments before the last one.
    pub fn leave_to_the_system(&mut self) {
        self.lazy = true;
    }

    /// Makes everything written durable, or as durable as was asked for, and gives the last index.
    ///
    /// # Errors
    /// Fatal: what was not synced may be lost although it reads back, and a second sync would say nothing about it.
    pub fn sync(&mut self) -> Result<u64, StorageError> {
        if self.lazy {
            return Ok(self.last.id.index);
        }
        self.sync_to_disk()
    }

    /// Makes everything written durable and gives the last index.
    ///
    /// # Errors
    /// See [`Log::sync`].
    pub fn sync_to_disk(&mut self) -> Result<u64, StorageError> {
        let current = self
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .map(|s| (Arc::clone(&s.file), s.path.clone()));
        if let Some((file, path)) = current {
            file.sync_data().tried("sync", &path)?;
        }
        self.durable = self.last.id.index;
        Ok(self.durable)
    }

    /// Cuts the log after `index`, which is not before the log. Durable on return; what is cut never comes back.
    ///
    /// # Errors
    /// Fatal: the log may be cut or not.
    pub fn truncate_after(&mut self, index: u64) -> Result<(), StorageError> {
        if index < self.last.id.index {
            let Some((position, _)) = self.reader().read(index, 0)? else {
                return Err(StorageError::Corrupt(format!("the log does not reach back to entry {index}")));
            };
            self.last = position;
        }
        self.cut(index)?;
        self.durable = self.durable.min(index);
        self.sync_to_disk().map(drop)
    }

    /// Gives up what `damage` says does not read: the log ends before it. The caller has remembered it, durably.
    ///
    /// # Errors
    /// Fatal: the log may be cut or not.
    pub fn cut_damage(&mut self, headless: &[PathBuf]) -> Result<(), StorageError> {
        let begins_behind = self.reader().base().is_some_and(|base| base.id.index > self.last.id.index);
        if begins_behind {
            // The entries before the first segment that reads are gone, and what is behind them stands on nothing.
            self.restart_after(self.last)?;
        } else {
            self.truncate_after(self.last.id.index)?;
        }
        for path in headless {
            remove_file(path)?;
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// Forgets every entry: the log goes on after `position`, which a durable snapshot covers. A crash half-way leaves
    /// a part of the old log, which the snapshot also covers.
    ///
    /// # Errors
    /// Fatal: the log may be whole or not.
    pub fn restart_after(&mut self, position: Position) -> Result<(), StorageError> {
        let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
        while let Some(segment) = segments.pop() {
            remove_file(&segment.path)?;
            sync_directory(&self.directory)?;
        }
        self.last = position;
        self.durable = position.id.index;
        Ok(())
    }

    fn cut(&mut self, index: u64) -> Result<(), StorageError> {
        let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
        // From the end, so that a crash half-way leaves a log without gaps. The first one tells where the log begins.
        while segments.len() > 1 && segments.last().is_some_and(|segment| segment.first() > index) {
            let segment = segments.pop().expect("checked by the condition");
            remove_file(&segment.path)?;
            sync_directory(&self.directory)?;
        }
        let Some(segment) = segments.last_mut() else { return Ok(()) };
        let keep = usize::try_from((index + 1).saturating_sub(segment.first())).unwrap_or(usize::MAX);
        if let Some(&end) = segment.offsets.get(keep) {
            segment.end = end;
            segment.offsets.truncate(keep);
        }
        zero(&segment.file, segment.end, segment.capacity).tried("clear the end of", &segment.path)?;
        segment.file.sync_data().tried("sync", &segment.path)
    }

    /// Begins another segment when the current one cannot take `bytes`; false if there is no room for one.
    fn make_room(&mut self, bytes: u64) -> Result<bool, StorageError> {
        let fits = self
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .is_some_and(|s| s.end + bytes <= s.capacity);
        if fits {
            return Ok(true);
        }
        let needed = self.options.segment_bytes.max(SEGMENT_HEADER_LEN as u64 + bytes);
        let ahead = self.directory.join("ahead");
        if !self.await_ahead(&ahead, needed)? {
            return Ok(false);
        }
        // Records behind this point claim that what is before them is durable.
        self.sync_to_disk()?;
        let path = self.directory.join(format!("{:020}.log", self.last.id.index + 1));
        let file = File::options().read(true).write(true).open(&ahead).tried("open", &ahead)?;
        let salt: u64 = rand::random();
        file.write_all_at(&encode_header(salt, self.last), 0).tried("write", &ahead)?;
        file.sync_data().tried("sync", &ahead)?;
        rename(&ahead, &path)?;
        sync_directory(&self.directory)?;
        let capacity = file.metadata().tried("look at", &path)?.len();
        let segment = Segment {
            file: Arc::new(file),
            path,
            salt,
            prev: self.last,
            offsets: Vec::new(),
            end: SEGMENT_HEADER_LEN as u64,
            capacity,
        };
        self.index.write().unwrap_or_else(PoisonError::into_inner).push(segment);
        self.prepare_ahead(self.options.segment_bytes);
        Ok(true)
    }

    /// Has a file of `needed` bytes for the next segment; false if there is no room for it, and somebody looks for it.
    fn await_ahead(&mut self, path: &Path, needed: u64) -> Result<bool, StorageError> {
        if self.full.load(Ordering::Relaxed)
            && let Some(ahead) = &self.ahead
        {
            // It tries again by itself; whoever writes must not wait for it.
            ahead.wanted.fetch_max(needed, Ordering::Relaxed);
            return Ok(false);
        }
        let ready = self.ahead.take().and_then(Ahead::finish);
        if ready.is_some_and(|bytes| bytes >= needed) {
            return Ok(true);
        }
        let made = prepare(path, needed);
        match &made {
            Ok(()) => self.full.store(false, Ordering::Relaxed),
            Err(error) => {
                now_full(&self.full, error);
                self.prepare_ahead(needed);
            }
        }
        had_room(made)
    }

    /// Does what found no room while the next segment's file took it. That file is made again afterwards.
    pub fn without_ahead<T>(&mut self, work: impl FnOnce() -> T) -> T {
        if let Some(ahead) = self.ahead.take() {
            ahead.finish();
        }
        // It may not be there; whoever needs it makes it.
        let _ = std::fs::remove_file(self.directory.join("ahead"));
        let done = work();
        self.prepare_ahead(self.options.segment_bytes);
        done
    }

    /// Fills the file of the next segment while this one is written, trying again while there is no room.
    fn prepare_ahead(&mut self, bytes: u64) {
        let (path, full) = (self.directory.join("ahead"), Arc::clone(&self.full));
        let (stop, wanted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(bytes)));
        let (stopped, asked) = (Arc::clone(&stop), Arc::clone(&wanted));
        let fill = move || loop {
            let size = asked.load(Ordering::Relaxed);
            let made = prepare(&path, size);
            if let Err(error) = &made {
                now_full(&full, error);
            }
            if made.is_ok() && asked.load(Ordering::Relaxed) == size {
                if full.swap(false, Ordering::Relaxed) {
                    tracing::info!("there is room for the log again");
                }
                return Some(size);
            }
            if stopped.load(Ordering::Relaxed) {
                return None;
            }
            if made.is_err() {
                std::thread::park_timeout(RETRY);
            }
        };
        let thread = std::thread::Builder::new().name("log-ahead".into()).spawn(fill).ok();
        self.ahead = thread.map(|thread| Ahead { thread, stop, wanted });
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The next log in this directory must not find a thread that still fills a file.
        if let Some(ahead) = self.ahead.take() {
            ahead.finish();
        }
    }
}

impl LogReader {
    /// Entries after `after` of about `max_bytes`, at least one if there are any and `max_bytes` is not 0, and the position
    /// of `after`. None if the log does not reach back so far.
    ///
    /// # Errors
    /// When the system refuses or a record is damaged.
    pub fn read(&self, after: u64, max_bytes: usize) -> Result<Option<Piece>, StorageError> {
        let Some(mut position) = self.known_position(after) else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        let (mut bytes, mut next) = (0, if position.is_some() { after + 1 } else { after });
        while bytes < max_bytes || position.is_none() {
            let Some((file, path, salt, begin, end)) = self.locate(next) else {
                break;
            };
            let mut record = BytesMut::zeroed(usize::try_from(end - begin).expect("a record fits memory"));
            file.read_exact_at(&mut record, begin).tried("read", &path)?;
            let Some((entry, ..)) = decode_record(&mut record.freeze(), salt) else {
                return Err(StorageError::Corrupt(format!("entry {next} in {} is damaged", path.display())));
            };
            if next == after {
                position = Some(entry.position());
            } else {
                bytes += entry.encoded_len();
                entries.push(Arc::new(entry));
            }
            next += 1;
        }
        Ok(position.map(|position| (position, entries)))
    }

    /// How much more the disk takes, for one who has these entries to write.
    #[must_use]
    pub fn room(&self, entries: &[Arc<Entry>]) -> DiskRoom {
        if !self.full.load(Ordering::Relaxed) {
            return DiskRoom::Ample;
        }
        let bytes: usize = entries.iter().map(|entry| RECORD_HEADER_LEN + entry.encoded_len()).sum();
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let left = segments.last().map_or(0, |segment| segment.capacity - segment.end);
        if bytes as u64 <= left { DiskRoom::Tight } else { DiskRoom::Full }
    }

    /// Bytes of the entries after `index`.
    #[must_use]
    pub fn bytes_after(&self, index: u64) -> u64 {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|segment| segment.bytes_after(index)).sum()
    }

    /// The position before the first entry, if there is a segment.
    #[must_use]
    pub fn base(&self) -> Option<Position> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().map(|segment| segment.prev)
    }

    /// The greatest position at or below `index` that the log can begin after, with `keep_bytes` of entries between the two.
    #[must_use]
    pub fn boundary(&self, index: u64, keep_bytes: u64) -> Option<Position> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let beyond: u64 = segments.iter().map(|segment| segment.bytes_after(index)).sum();
        let fits = |segment: &&Segment| {
            let after: u64 = segments.iter().map(|other| other.bytes_after(segment.prev.id.index)).sum();
            segment.prev.id.index <= index && after.saturating_sub(beyond) >= keep_bytes
        };
        segments.iter().rev().find(fits).map(|segment| segment.prev)
    }

    /// Gives back every segment before `base`, which [`LogReader::boundary`] gave and a durable snapshot covers.
    ///
    /// # Errors
    /// When the system refuses; what is left is still a log.
    pub fn trim(&self, base: Position) -> Result<(), StorageError> {
        loop {
            let first = {
                let mut segments = self.index.write().unwrap_or_else(PoisonError::into_inner);
                // The last one is in use, whatever it holds.
                let begins_before = segments.first().is_some_and(|segment| segment.prev.id.index < base.id.index);
                if segments.len() < 2 || !begins_before {
                    return Ok(());
                }
                segments.remove(0).path
            };
            // One after the other: a crash leaves no gap.
            remove_file(&first)?;
            sync_directory(first.parent().expect("a segment lies in a directory"))?;
        }
    }

    /// The segments that are written no more.
    #[must_use]
    pub fn closed_segments(&self) -> Vec<ClosedSegment> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let closed = segments.split_last().map_or(&[][..], |(_, closed)| closed);
        let look = |segment: &Segment| ClosedSegment {
            file: Arc::clone(&segment.file),
            path: segment.path.clone(),
            salt: segment.salt,
            prev: segment.prev,
            end: segment.end,
            through: segment.prev.id.index + segment.offsets.len() as u64,
        };
        closed.iter().map(look).collect()
    }

    /// What the heads of segments tell about the position of `index`: None if the log does not reach there, `Some(None)`
    /// if its record has to be read.
    fn known_position(&self, index: u64) -> Option<Option<Position>> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = segments.first() else {
            return (index == 0).then(|| Some(Position::default()));
        };
        if index < first.prev.id.index {
            return None;
        }
        let at_head = segments.iter().find(|segment| segment.prev.id.index == index);
        Some(at_head.map(|segment| segment.prev))
    }

    fn locate(&self, index: u64) -> Option<(Arc<File>, PathBuf, u64, u64, u64)> {
        let segments = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let segment = &segments[segments.partition_point(|segment| segment.first() <= index).checked_sub(1)?];
        let number = usize::try_from(index - segment.first()).ok()?;
        let begin = *segment.offsets.get(number)?;
        let end = segment.offsets.get(number + 1).copied().unwrap_or(segment.end);
        Some((Arc::clone(&segment.file), segment.path.clone(), segment.salt, begin, end))
    }
}

fn encode_header(salt: u64, prev: Position) -> [u8; SEGMENT_HEADER_LEN] {
    let Position { id, chain } = prev;
    let mut header = [0u8; SEGMENT_HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    let fields = [salt, id.epoch.number, id.epoch.token, id.index, chain];
    for (field, place) in fields.iter().zip(header[8..48].chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&header[..48]);
    header[48..52].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Whether the checksum of a segment's header holds, whatever its version.
pub(super) fn head_is_whole(bytes: &[u8]) -> bool {
    let checksum = bytes.get(48..52).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    checksum.is_some_and(|checksum| crc32c::crc32c(&bytes[..48]) == checksum)
}

/// Salt and position of a segment's header; None if it is none.
pub(super) fn decode_header(bytes: &[u8]) -> Option<(u64, Position)> {
    let header = bytes.get(..SEGMENT_HEADER_LEN)?;
    let number = |at: usize| Some(u64::from_le_bytes(header[at..at + 8].try_into().ok()?));
    let checksum = u32::from_le_bytes(header[48..52].try_into().ok()?);
    if header[..8] != MAGIC || crc32c::crc32c(&header[..48]) != checksum {
        return None;
    }
    let (epoch, index) = (
        Epoch {
            number: number(16)?,
            token: number(24)?,
        },
        number(32)?,
    );
    let prev = Position {
        id: EntryId { epoch, index },
        chain: number(40)?,
    };
    Some((number(8)?, prev))
}

/// There is no room for the next segment: said once.
fn now_full(full: &AtomicBool, error: &StorageError) {
    if !full.swap(true, Ordering::Relaxed) {
        tracing::error!(%error, "no room for the next segment of the log: no more entries are taken than the current one holds");
    }
}

/// Whether something was done, or there was no room for it.
fn had_room(outcome: Result<(), StorageError>) -> Result<bool, StorageError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_room() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a file of zeros, so that a later sync has only data to write. One that did not fit leaves its room to others.
fn prepare(path: &Path, bytes: u64) -> Result<(), StorageError> {
    let made = try_prepare(path, bytes);
    if made.is_err() {
        // The next attempt overwrites what is left.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn try_prepare(path: &Path, bytes: u64) -> Result<(), StorageError> {
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

    /// Appends, cuts, trims, reopens and tears what was not synced, against a plain list of entries.
    #[test]
    fn what_was_synced_comes_back_and_what_was_cut_does_not() {
        for seed in 0..60 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let directory = tempfile::tempdir().unwrap();
            let (mut log, _) = Log::open(directory.path(), SMALL).unwrap();
            let (mut all, mut synced, mut base) = (Vec::<Arc<Entry>>::new(), 0usize, 0usize);
            for step in 0..60u64 {
                match rng.random_range(0..11) {
                    10 if synced > base => {
                        let covered = rng.random_range(base..=synced);
                        if let Some(boundary) = log.reader().boundary(covered as u64, rng.random_range(0..2000)) {
                            assert_eq!(boundary, position(&all[..boundary.id.index as usize]), "seed {seed}");
                            log.reader().trim(boundary).unwrap();
                            base = boundary.id.index as usize;
                        }
                    }
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
                        let keep = rng.random_range(base..=all.len());
                        log.truncate_after(keep as u64).unwrap();
                        all.truncate(keep);
                        synced = all.len();
                    }
                    8 => {
                        let after = rng.random_range(0..=all.len());
                        let piece = log.reader().read(after as u64, usize::MAX).unwrap();
                        let expected = (after >= base).then(|| (position(&all[..after]), all[after..].to_vec()));
                        assert_eq!(piece, expected, "seed {seed}");
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
                        assert_eq!(
                            (recovered.damage, recovered.base, &recovered.entries[..]),
                            (None, position(&all[..base]), &all[base..]),
                            "seed {seed}"
                        );
                        log = reopened;
                        synced = all.len();
                    }
                }
            }
        }
    }

    #[test]
    fn the_room_of_the_next_segment_can_be_lent_and_the_log_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(directory.path(), SMALL).unwrap();
        let mut all = Vec::new();
        for _ in 0..3 {
            let ahead = log.without_ahead(|| directory.path().join("ahead").exists());
            assert!(!ahead);
            for _ in 0..10 {
                all.push(entry(position(&all), 1, 900));
                assert_eq!(log.append(&all[all.len() - 1..], 0).unwrap(), 1);
            }
            log.sync().unwrap();
        }
        drop(log);
        let (_, recovered) = Log::open(directory.path(), SMALL).unwrap();
        assert_eq!((recovered.damage, recovered.entries), (None, all));
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
            assert_eq!(
                recovered.damage,
                Some(recovery::Damage {
                    first: 4,
                    last,
                    open_end: false
                })
            );
        }
    }
}
