//! Reads the log back after a stop of any kind, and tells a torn tail from damage.
//!
//! A record that does not read, with nothing after it that says it was durable, was being written when the process or
//! the machine stopped: the log ends before it. One that was durable once is damage: what it held may have been
//! acknowledged, so it is reported and never cut off silently.

use super::log::{SEGMENT_HEADER_LEN, Segment, decode_header, decode_record};
use super::{StorageError, Tried};
use bytes::{Buf, Bytes};
use quorate_api::{Entry, EntryId, Position};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries that were durable once and do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first index that does not read.
    pub first: u64,
    /// The greatest entry known to have been in the log.
    pub last: EntryId,
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
}

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
    };
    let mut position = Position::default();
    let count = paths.len();
    for (number, path) in paths.into_iter().enumerate() {
        let bytes = Bytes::from(std::fs::read(&path).tried("read", &path)?);
        let file = Arc::new(File::options().read(true).write(true).open(&path).tried("open", &path)?);
        let Some((salt, prev)) = decode_header(&bytes) else {
            return Err(StorageError::Corrupt(format!(
                "{} is not a log segment of this version",
                path.display()
            )));
        };
        if number == 0 {
            recovered.base = prev;
            position = prev;
        } else if prev != position && recovered.damage.is_none() {
            // Entries between the two were durable before this segment was begun.
            recovered.damage = Some(Damage {
                first: position.id.index + 1,
                last: prev.id,
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
            let first = recovered.damage.map_or(position.id.index + 1, |damage| damage.first);
            let last = recovered.damage.map_or(last, |damage| damage.last.max(last));
            recovered.damage = Some(Damage { first, last });
        }
        segments.push(segment);
    }
    Ok((segments, recovered))
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
