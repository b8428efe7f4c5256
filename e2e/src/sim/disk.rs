//! The disk of a simulated replica: what a crash leaves of it, and what a start finds on it.
//!
//! It behaves as the node's storage does: hard state is written at once; a log record carries how far the log was known
//! durable when it was written, so that a start can tell a torn tail from damage; a snapshot that was received is published,
//! and then the log restarted behind it: a stop between the two leaves a log that the snapshot outranks.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_api::{Configuration, Entry, EntryBody, EntryId, Position};
use quorate_protocol_mutants::{HardState, LogView};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::sync::Arc;

/// Registers that the clients work on.
pub(crate) const KEYS: usize = 6;

/// Entries that a log's end has room for, beside those that are there.
const END_ROOM: u64 = 1000;

/// A register: its value (the number of the operation that wrote it; 0 at first) and the index of its last write.
pub(crate) type Register = (u64, u64);
/// The whole state: the registers of the clients, and at [`EXPIRES`] what expires.
pub(crate) type Registers = [Register; KEYS + 1];

/// A value that lasts for [`LASTS_MILLIS`] from the entry that made it; the next entry after that counts its end and makes it
/// anew. Its two numbers are that count and the time of its end.
pub(crate) const EXPIRES: usize = KEYS;
const LASTS_MILLIS: u64 = 50;

/// What expires, at an entry of that time.
pub(crate) fn expire((count, end): Register, timestamp_millis: u64) -> Register {
    match timestamp_millis >= end {
        true => (count + 1, timestamp_millis + LASTS_MILLIS),
        false => (count, end),
    }
}

/// Effects on the registers, as an entry's body carries them.
pub(crate) fn encode(writes: &[(usize, u64)]) -> Bytes {
    let mut out = BytesMut::with_capacity(writes.len() * 9);
    for &(key, value) in writes {
        out.put_u8(u8::try_from(key).expect("few keys"));
        out.put_u64_le(value);
    }
    out.freeze()
}

/// The writes of an entry.
pub(crate) fn decode(entry: &Entry) -> Vec<(usize, u64)> {
    let EntryBody::Effects(body) = &entry.body else { return Vec::new() };
    let mut body = body.clone();
    let mut writes = Vec::new();
    while body.has_remaining() {
        writes.push((usize::from(body.get_u8()), body.get_u64_le()));
    }
    writes
}

/// Applies one entry, as of its own time.
pub(crate) fn apply(registers: &mut Registers, entry: &Entry) {
    apply_at(registers, entry, entry.timestamp_millis);
}

/// Applies one entry as of some time.
pub(crate) fn apply_at(registers: &mut Registers, entry: &Entry, timestamp_millis: u64) {
    for (key, value) in decode(entry) {
        registers[key] = (value, entry.id.index);
    }
    if matches!(entry.body, EntryBody::Effects(_)) {
        registers[EXPIRES] = expire(registers[EXPIRES], timestamp_millis);
    }
}

/// The state as of a position, with what a log needs to go on from there.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) position: Position,
    pub(crate) configuration: (EntryId, Configuration),
    pub(crate) timestamp_millis: u64,
    pub(crate) registers: Registers,
}

#[derive(Clone, Debug)]
struct Record {
    entry: Arc<Entry>,
    /// The writer's commit index.
    hint: u64,
    /// How far the log was known durable when this was written.
    durable: u64,
    /// The bytes on the disk do not read.
    unreadable: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    base: Position,
    records: Vec<Record>,
    synced: u64,
    pub(crate) generation: u64,
    /// Entries that were cut off and kept for people.
    pub(crate) aside: Vec<Arc<Entry>>,
    /// A record reads no more that once was durable, and no start has noticed yet.
    rotten: bool,
    /// So does everything behind it, with the room for more: nobody can say how far the log went.
    end_unread: bool,
}

/// What a start finds.
pub(crate) struct Recovered {
    pub(crate) log: LogView,
    pub(crate) commit: u64,
    pub(crate) registers: Registers,
    pub(crate) damaged: bool,
}

impl Disk {
    pub(crate) fn last(&self) -> u64 {
        self.base.id.index + self.records.len() as u64
    }

    /// Durable up to here, as far as the system says.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    pub(crate) fn base(&self) -> Position {
        self.base
    }

    /// The entry at an index, if the log holds it.
    pub(crate) fn entry(&self, index: u64) -> Option<&Arc<Entry>> {
        let offset = index.checked_sub(self.base.id.index + 1)?;
        Some(&self.records.get(usize::try_from(offset).ok()?)?.entry)
    }

    /// The position at an index, if the log reaches there.
    pub(crate) fn position(&self, index: u64) -> Option<Position> {
        if index == self.base.id.index {
            return Some(self.base);
        }
        self.entry(index).map(|entry| entry.position())
    }

    /// Whether this exact entry is in the log, or in what was trimmed.
    pub(crate) fn holds_durably(&self, id: EntryId) -> bool {
        id.index <= self.base.id.index || (id.index <= self.synced && self.entry(id.index).is_some_and(|entry| entry.id == id))
    }

    pub(crate) fn append(&mut self, entries: Vec<Arc<Entry>>, hint: u64) {
        for entry in entries {
            assert!(
                entry.follows(self.position(self.last()).expect("the end of the log is in it")),
                "what is appended to a log follows its end"
            );
            self.records.push(Record {
                entry,
                hint,
                durable: self.synced,
                unreadable: false,
            });
        }
    }

    pub(crate) fn truncate_after(&mut self, index: u64) {
        let kept = usize::try_from(index - self.base.id.index).expect("fits memory");
        self.records.truncate(kept);
        self.synced = self.synced.min(index);
        self.generation += 1;
    }

    /// A sync that covered the log up to `index` succeeded, or the system says so.
    pub(crate) fn sync(&mut self, generation: u64, index: u64) {
        if generation == self.generation {
            self.synced = self.synced.max(index);
        }
    }

    /// A sync failed: pages may have been dropped, and the next sync will know nothing of them.
    pub(crate) fn fail_sync(&mut self, rng: &mut SmallRng) {
        let first = usize::try_from(self.synced.saturating_sub(self.base.id.index)).expect("fits memory");
        for record in self.records.iter_mut().skip(first) {
            record.unreadable |= rng.random_ratio(2, 3);
        }
    }

    /// The log up to `position` is given back; the snapshot covers it.
    pub(crate) fn trim(&mut self, position: Position) {
        let gone = usize::try_from(position.id.index.saturating_sub(self.base.id.index)).expect("fits memory");
        if gone > 0 {
            self.records.drain(..gone.min(self.records.len()));
            self.base = position;
            self.synced = self.synced.max(position.id.index);
        }
    }

    /// A received snapshot carries its name: it is in force whatever the log holds.
    pub(crate) fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
    }

    /// A snapshot takes the place of everything.
    pub(crate) fn install(&mut self, snapshot: Arc<Snapshot>) {
        let position = snapshot.position;
        self.publish(snapshot);
        self.restart_after(position);
        self.generation += 1;
    }

    fn restart_after(&mut self, position: Position) {
        self.base = position;
        self.synced = position.id.index;
        self.records.clear();
    }

    /// The state at `index` from snapshot and log. None if they do not reach there.
    pub(crate) fn state_at(&self, index: u64) -> Option<Registers> {
        let (mut registers, mut at) = match &self.snapshot {
            Some(snapshot) => (snapshot.registers, snapshot.position.id.index),
            None => ([(0, 0); KEYS + 1], 0),
        };
        while at < index {
            at += 1;
            apply(&mut registers, self.entry(at)?);
        }
        (at == index).then_some(registers)
    }

    /// The machine stopped: of what was not synced, a part reached the disk.
    pub(crate) fn crash(&mut self, rng: &mut SmallRng) {
        let first = usize::try_from(self.synced.saturating_sub(self.base.id.index)).expect("fits memory");
        let (lost, of) = [(0, 1), (1, 1), (1, 2), (1, 8)][rng.random_range(0..4)];
        for record in self.records.iter_mut().skip(first) {
            record.unreadable |= rng.random_ratio(lost, of);
        }
    }

    /// A record that was durable stops reading, if there is one behind it that tells; sometimes with all that is behind it.
    pub(crate) fn rot(&mut self, rng: &mut SmallRng) -> bool {
        let Some(told) = self
            .records
            .iter()
            .rposition(|record| !record.unreadable && record.durable > self.base.id.index)
        else {
            return false;
        };
        let told = usize::try_from(self.records[told].durable - self.base.id.index).expect("fits memory");
        let near = rng.random_range(0..told.min(12));
        self.end_unread = rng.random_ratio(1, 3);
        let reach = if self.end_unread { usize::MAX } else { 1 };
        for record in self.records.iter_mut().skip(told - 1 - near).take(reach) {
            record.unreadable = true;
        }
        self.rotten = true;
        true
    }

    /// Whether something is lost here that others have to make good.
    pub(crate) fn is_damaged(&self) -> bool {
        self.rotten || self.hard.unreadable.is_some()
    }

    /// The configurations that matter to whoever starts from this disk, whatever a crash takes from it.
    pub(crate) fn configurations(&self) -> Vec<Configuration> {
        let synced = usize::try_from(self.synced.saturating_sub(self.base.id.index)).expect("fits memory");
        let hints = self
            .records
            .iter()
            .take(synced)
            .map(|record| record.hint.min(record.entry.id.index));
        let settled = self.hard.settled.min(self.last());
        let commit = hints.max().unwrap_or(0).max(self.base.id.index).max(settled);
        let begun = self
            .snapshot
            .iter()
            .map(|snapshot| (snapshot.configuration.0, &snapshot.configuration.1));
        let entered = self.records.iter().filter_map(|record| match &record.entry.body {
            EntryBody::EpochStart(configuration) => Some((record.entry.id, configuration)),
            EntryBody::Effects(_) => None,
        });
        let mut all: Vec<(EntryId, &Configuration)> = begun.chain(entered).collect();
        all.sort_by_key(|(id, _)| *id);
        let committed = all.iter().rposition(|(id, _)| id.index <= commit).unwrap_or(0);
        all.into_iter()
            .skip(committed)
            .map(|(_, configuration)| configuration.clone())
            .collect()
    }

    /// What the node's recovery does: reads up to the first record that does not read, and reports damage if something
    /// behind it says that it was durable. `report` false is the mistake of cutting there and saying nothing.
    pub(crate) fn recover(&mut self, report: bool) -> Recovered {
        let whole = self.records.iter().position(|r| r.unreadable).unwrap_or(self.records.len());
        let last = self.base.id.index + whole as u64;
        let behind = || self.records.iter().skip(whole).filter(|record| !record.unreadable);
        let told = || behind().any(|record| record.durable > last);
        let damage = match std::mem::take(&mut self.end_unread) {
            // As much as may have been there, of whatever epoch.
            true => Some(EntryId {
                epoch: self.hard.promised,
                index: self.last() + END_ROOM,
            }),
            false => told().then(|| behind().map(|record| record.entry.id).max()).flatten(),
        };
        let covered = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.position.id.index);
        let damage = damage.filter(|lost| lost.index > covered);
        if report {
            self.hard.unreadable = self.hard.unreadable.max(damage);
        }
        self.rotten = false;
        self.records.truncate(whole);
        self.synced = last;
        self.generation = 0;
        let snapshot = self.snapshot.clone();
        if let Some(snapshot) = &snapshot {
            if self.position(snapshot.position.id.index) == Some(snapshot.position) {
                // A log view starts where a snapshot stands; what the log holds before that is only for others.
                self.trim(snapshot.position);
            } else {
                // What an installation left behind when it was stopped.
                self.restart_after(snapshot.position);
            }
        }
        let mut log = match &snapshot {
            Some(s) => LogView::new(s.position, Some(s.configuration.clone()), s.timestamp_millis),
            None => LogView::new(Position::default(), None, 0),
        };
        let mut commit = self.base.id.index;
        for record in &self.records {
            log.push(Arc::clone(&record.entry));
            commit = commit.max(record.hint.min(record.entry.id.index));
        }
        commit = commit.max(self.hard.settled.min(last));
        log.forget_configurations(commit);
        let registers = self.state_at(commit).expect("the commit index lies in the log");
        Recovered {
            log,
            commit,
            registers,
            damaged: damage.is_some(),
        }
    }
}
