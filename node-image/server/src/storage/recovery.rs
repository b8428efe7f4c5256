//! Reads the log back after a stop of any kind, and tells a torn tail from damage.
//!
//! A record that does not read, with nothing after it that says it was durable, was being written when the process or
//! the machine stopped: the log ends before it. One that was durable once is damage: what it held may have been
//! acknowledged, so it is reported and never cut off silently. What the disk refuses to give is damage too, wherever it
//! lies: nobody can say what was there.

use super::log::{MAGIC, RECORD_HEADER_LEN, SEGMENT_HEADER_LEN, Segment, decode_header, decode_record, head_is_whole};
use super::{StorageError, Tried, is_unreadable};
use bytes::{Buf, Bytes};
use quorate_api::{Entry, EntryId, Position};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries that were durable once and do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first index that does not read.
    pub first: u64,
    /// The greatest entry known to have been in the log; if its end did not read, one that none in it was above, but for
    /// its epoch.
    pub last: EntryId,
    /// The end did not read: the last entry may be of any epoch that this replica has promised.
    pub open_end: bool,
}

impl Damage {
    /// Something is lost behind the last entry that reads; what follows may tell how much.
    fn after(position: Position) -> Self {
        let last = EntryId {
            index: position.id.index + 1,
            ..position.id
        };
        Self {
            first: last.index,
            last,
            open_end: false,
        }
    }

    /// What stands here for an entry of a later place in the log.
    fn widen(&mut self, last: EntryId) {
        self.last = self.last.max(last);
    }
}

/// What a log held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The position before the first entry.
    pub base: Position,
    /// All entries up to the end or the first damage.
    pub entries: Vec<Arc<Entry>>,
    /// The greatest commit index stored with one of them, at most the last index.
    pub commit_hint: u64,
    /// Set if there is more that does not read.
    pub damage: Option<Damage>,
    /// Files of the log of which not even the head reads. They stay until the damage is remembered.
    pub headless: Vec<PathBuf>,
}

/// Read at once, and where that fails.
const BLOCK: usize = 1 << 20;
/// See [`BLOCK`].
const SECTOR: usize = 4096;
/// No record is shorter.
const MIN_RECORD_LEN: u64 = RECORD_HEADER_LEN as u64 + 16;

pub(super) fn recover(directory: &Path) -> Result<(Vec<Segment>, Recovered), StorageError> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .tried("list", directory)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    let mut segments = Vec::new();
    let mut recovered = Recovered {
        base: Position::default(),
        entries: Vec::new(),
        commit_hint: 0,
        damage: None,
        headless: Vec::new(),
    };
    let mut position = Position::default();
    let count = paths.len();
    // Since the last head of a segment, which tells how far the log went before it.
    let mut unread_bytes = 0;
    for (number, path) in paths.into_iter().enumerate() {
        let file = Arc::new(File::options().read(true).write(true).open(&path).tried("open", &path)?);
        let (bytes, holes) = read_around(&file, &path)?;
        let Some((salt, prev)) = decode_header(&bytes) else {
            refuse_other_versions(&bytes, &path)?;
            unread_bytes += bytes.len() as u64;
            recovered.damage.get_or_insert(Damage::after(position));
            recovered.headless.push(path);
            continue;
        };
        if let Some(damage) = &mut recovered.damage {
            damage.widen(prev.id);
        } else if number == 0 {
            recovered.base = prev;
            position = prev;
        } else if prev != position {
            // Entries between the two were durable before this segment was begun.
            recovered.damage = Some(Damage {
                first: position.id.index + 1,
                last: prev.id,
                open_end: false,
            });
        }
        let capacity = bytes.len() as u64;
        let mut rest = bytes.slice(SEGMENT_HEADER_LEN..);
        let mut segment = Segment {
            file,
            path,
            salt,
            prev,
            offsets: Vec::new(),
            end: 0,
            capacity,
        };
        while recovered.damage.is_none() {
            let offset = capacity - rest.len() as u64;
            let Some((entry, commit, _)) = decode_record(&mut rest, salt).filter(|(entry, ..)| entry.follows(position)) else {
                break;
            };
            position = entry.position();
            recovered.commit_hint = recovered.commit_hint.max(commit).min(position.id.index);
            recovered.entries.push(Arc::new(entry));
            segment.offsets.push(offset);
        }
        segment.end = capacity - rest.len() as u64;
        if let Some(last) = claims_more(&rest, salt, position.id.index, number + 1 < count) {
            recovered.damage.get_or_insert(Damage::after(position)).widen(last);
        }
        unread_bytes = holes.iter().filter(|hole| **hole + SECTOR as u64 > segment.end).count() as u64 * SECTOR as u64;
        segments.push(segment);
    }
    if unread_bytes > 0 {
        // The head of a next segment would tell what they held; so does their size.
        let damage = recovered.damage.get_or_insert(Damage::after(position));
        damage.last.index += unread_bytes.div_ceil(MIN_RECORD_LEN);
        damage.open_end = true;
    }
    Ok((segments, recovered))
}

/// The bytes of a file, with zeros for those that the disk does not give, and where the sectors of those begin.
fn read_around(file: &File, path: &Path) -> Result<(Bytes, Vec<u64>), StorageError> {
    let length = file.metadata().tried("look at", path)?.len();
    let mut bytes = vec![0; usize::try_from(length).expect("a segment fits memory")];
    let mut holes = Vec::new();
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let at = (number * BLOCK) as u64;
        match file.read_exact_at(block, at) {
            Err(error) if is_unreadable(&error) => {}
            read => {
                read.tried("read", path)?;
                continue;
            }
        }
        for (number, sector) in block.chunks_mut(SECTOR).enumerate() {
            let at = at + (number * SECTOR) as u64;
            match file.read_exact_at(sector, at) {
                Err(error) if is_unreadable(&error) => {
                    sector.fill(0);
                    holes.push(at);
                }
                read => read.tried("read", path)?,
            }
        }
    }
    if !holes.is_empty() {
        tracing::error!(path = %path.display(), sectors = holes.len(), "the disk does not give a part of the log");
    }
    Ok((bytes.into(), holes))
}

/// A whole head of another version is no damage.
fn refuse_other_versions(bytes: &[u8], path: &Path) -> Result<(), StorageError> {
    let other = bytes.starts_with(&MAGIC[..4]) && !bytes.starts_with(&MAGIC) && head_is_whole(bytes);
    match other {
        true => Err(StorageError::Corrupt(format!(
            "{} is a log segment of another version",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// The greatest entry behind a record that does not read, if something shows that the record was durable: a later
/// record that says so, or a later segment, which is begun only after a sync.
fn claims_more(rest: &Bytes, salt: u64, last: u64, has_successor: bool) -> Option<EntryId> {
    let (mut greatest, mut claimed) = (None, false);
    let mut at = 0;
    while at < rest.len() {
        // Zeros are the end of most segments: pass them quickly.
        if rest[at] == 0 && rest[at..].len() > 4096 && rest[at..at + 4096].iter().all(|&byte| byte == 0) {
            at += 4096 - super::log::RECORD_HEADER_LEN - 8;
            continue;
        }
        let mut candidate = rest.slice(at..);
        match decode_record(&mut candidate, salt) {
            Some((entry, _, durable)) => {
                claimed |= durable > last;
                greatest = greatest.max(Some(entry.id));
                at = rest.len() - candidate.remaining();
            }
            None => at += 1,
        }
    }
    let torn_end = rest.iter().any(|&byte| byte != 0);
    match greatest {
        Some(id) if claimed || has_successor => Some(id),
        None if has_successor && torn_end => Some(EntryId {
            index: last + 1,
            ..EntryId::default()
        }),
        _ => None,
    }
}
