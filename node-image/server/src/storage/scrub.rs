//! Reads what was written long ago again, past the system's cache and slowly, and checks every byte of it: a disk may lose
//! what it once held, and whoever reads it only after the next stop finds it when it is needed most.
//!
//! It changes nothing. What was cut or given back while it was read is no finding.

use super::log::{LogReader, SEGMENT_HEADER_LEN, decode_header, decode_record};
use super::{SnapshotReader, StorageError, Tried};
use bytes::{Bytes, BytesMut};
use quorate_api::Position;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Read at once.
const PIECE: u64 = 1 << 20;

/// A segment of the log that is written no more.
#[derive(Clone, Debug)]
pub struct ClosedSegment {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) salt: u64,
    pub(super) prev: Position,
    /// Where its records end.
    pub(super) end: u64,
    /// Its last entry.
    pub(super) through: u64,
}

/// A file that does not read as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// Which, and where.
    pub what: String,
    /// It matters no more once a snapshot covers every entry up to here and the log begins behind it.
    pub through: u64,
}

/// What one pass read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Bytes.
    pub bytes: u64,
    /// What does not read.
    pub rot: Vec<Rot>,
}

/// One pass over the closed segments and `snapshot`, with the index that it covers, at `bytes_per_second`; 0 for no limit.
#[must_use]
pub fn scrub(log: &LogReader, snapshot: Option<(PathBuf, u64)>, bytes_per_second: u64) -> Pass {
    let mut pace = Pace {
        begun: Instant::now(),
        read: 0,
        bytes_per_second,
    };
    let mut rot = Vec::new();
    for segment in log.closed_segments() {
        if let Err(error) = check_segment(&segment, &mut pace)
            && log.closed_segments().iter().any(|other| other.is(&segment))
        {
            let what = error.to_string();
            rot.push(Rot {
                what,
                through: segment.through,
            });
        }
    }
    if let Some((path, through)) = snapshot
        && let Err(error) = check_snapshot(&path, &mut pace)
        && path.exists()
    {
        let what = error.to_string();
        rot.push(Rot { what, through });
    }
    Pass { bytes: pace.read, rot }
}

impl ClosedSegment {
    /// Its last entry.
    #[must_use]
    pub fn through(&self) -> u64 {
        self.through
    }

    /// The same file in the same state.
    fn is(&self, other: &Self) -> bool {
        (&self.path, self.salt, self.end) == (&other.path, other.salt, other.end)
    }
}

struct Pace {
    begun: Instant,
    read: u64,
    bytes_per_second: u64,
}

impl Pace {
    fn add(&mut self, bytes: u64) {
        self.read += bytes;
        if let Some(nanos) = (u128::from(self.read) * 1_000_000_000).checked_div(u128::from(self.bytes_per_second)) {
            let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
    }
}

/// Has the next read come from the disk.
fn forget_cached(file: &File) {
    // Without it the cache is read: less is found, nothing is wrong.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

fn check_segment(segment: &ClosedSegment, pace: &mut Pace) -> Result<(), StorageError> {
    let ClosedSegment {
        file,
        path,
        salt,
        prev,
        end,
        through,
    } = segment;
    forget_cached(file);
    let mut header = [0; SEGMENT_HEADER_LEN];
    file.read_exact_at(&mut header, 0).tried("read", path)?;
    if decode_header(&header) != Some((*salt, *prev)) {
        return Err(StorageError::Corrupt(format!("the head of {} is damaged", path.display())));
    }
    let (mut position, mut at, mut rest) = (*prev, SEGMENT_HEADER_LEN as u64, Bytes::new());
    while position.id.index < *through {
        if let Some((entry, ..)) = decode_record(&mut rest, *salt)
            && entry.follows(position)
        {
            position = entry.position();
            continue;
        }
        if at == *end {
            let index = position.id.index + 1;
            return Err(StorageError::Corrupt(format!("entry {index} in {} is damaged", path.display())));
        }
        let piece = PIECE.min(end - at);
        let mut longer = BytesMut::with_capacity(rest.len() + PIECE as usize);
        longer.extend_from_slice(&rest);
        longer.resize(rest.len() + usize::try_from(piece).expect("a piece fits memory"), 0);
        file.read_exact_at(&mut longer[rest.len()..], at).tried("read", path)?;
        (rest, at) = (longer.freeze(), at + piece);
        pace.add(piece);
    }
    Ok(())
}

fn check_snapshot(path: &Path, pace: &mut Pace) -> Result<(), StorageError> {
    forget_cached(&File::open(path).tried("open", path)?);
    let (mut reader, _) = SnapshotReader::open(path.to_owned())?;
    while let Some(block) = reader.block()? {
        pace.add(block.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Log, LogOptions};
    use quorate_api::{Entry, EntryBody, Epoch};

    /// A log of several segments, and where in the file each record begins is not known here.
    fn log(directory: &Path) -> Log {
        let (mut log, _) = Log::open(directory, LogOptions { segment_bytes: 4096 }).unwrap();
        for _ in 0..60 {
            let body = EntryBody::Effects(Bytes::from(vec![b'x'; 300]));
            let entry = Arc::new(Entry::next(log.last(), Epoch { number: 1, token: 7 }, 1, body));
            log.append(&[entry], 0).unwrap();
        }
        log.sync().unwrap();
        log
    }

    #[test]
    fn every_flipped_bit_of_a_closed_segment_is_found_and_a_log_that_is_whole_is_not_blamed() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path());
        let reader = log.reader();
        let whole = scrub(&reader, None, 0);
        assert_eq!(whole.rot, []);
        assert!(whole.bytes > 3 * 4096, "{}", whole.bytes);
        let segment = reader.closed_segments()[1].clone();
        let mut byte = [0];
        // Bytes 52 to 55 of the head mean nothing.
        for at in (0..52).chain(56..segment.end) {
            segment.file.read_exact_at(&mut byte, at).unwrap();
            segment.file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            let found = scrub(&reader, None, 0).rot;
            assert!(
                matches!(&found[..], [rot] if rot.through == segment.through),
                "byte {at}: {found:?}"
            );
            segment.file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(scrub(&reader, None, 0).rot, []);
    }

    #[test]
    fn a_damaged_snapshot_is_found_and_one_that_went_meanwhile_is_not_missed() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path());
        let path = directory.path().join("9.snapshot");
        let found = || scrub(&log.reader(), Some((path.clone(), 9)), 0).rot;
        assert_eq!(found(), []);
        std::fs::write(&path, b"qsnap001 and then nothing of the kind").unwrap();
        assert!(matches!(&found()[..], [Rot { through: 9, .. }]), "{:?}", found());
    }
}
