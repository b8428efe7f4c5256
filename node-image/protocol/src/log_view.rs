//! What a replica holds of its log in memory: where it begins and ends, which epoch wrote what, its configurations,
//! and its newest entries.
//!
//! Invariants: `tail` is contiguous and ends at `last` · everything above min(commit, applied) is in the tail ·
//! `runs` and `configurations` are in log order. It neither reads nor writes a file.

use quorate_api::{Configuration, Consistency, Entry, EntryBody, EntryId, Epoch, Position};
use std::collections::VecDeque;
use std::sync::Arc;

/// See [`crate::Settings::tail_bytes`]; until a replica says its own.
const TAIL_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub struct LogView {
    base: Position,
    last: Position,
    /// First index of each run of entries of one epoch, above the base.
    runs: Vec<(u64, Epoch)>,
    tail: VecDeque<Arc<Entry>>,
    /// The position before the first entry of the tail.
    tail_base: Position,
    tail_bytes: usize,
    max_tail_bytes: usize,
    /// Epoch starts with their configurations; the first may lie at or below the base.
    configurations: Vec<(EntryId, Configuration)>,
    clock: u64,
}

impl LogView {
    /// An empty log that starts after `base`, where `configuration` is in force and the clock stood at `timestamp_millis`.
    #[must_use]
    pub fn new(base: Position, configuration: Option<(EntryId, Configuration)>, timestamp_millis: u64) -> Self {
        Self {
            base,
            last: base,
            runs: Vec::new(),
            tail: VecDeque::new(),
            tail_base: base,
            tail_bytes: 0,
            max_tail_bytes: TAIL_BYTES,
            configurations: configuration.into_iter().collect(),
            clock: timestamp_millis,
        }
    }

    /// The position before the first entry.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// The position of the last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// The greatest timestamp seen, in milliseconds: no later entry has a lower one.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The epoch start with the configuration that an entry at `index` is under, as far back as they are remembered.
    #[must_use]
    pub fn governing(&self, index: u64) -> Option<&(EntryId, Configuration)> {
        self.configurations.iter().rfind(|(start, _)| start.index <= index)
    }

    /// Epoch starts from the last committed one on, with their configurations.
    #[must_use]
    pub fn configurations(&self) -> &[(EntryId, Configuration)] {
        &self.configurations
    }

    /// The entry at an index, if the log reaches there: base ≤ index ≤ last.
    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        if index < self.base.id.index || index > self.last.id.index {
            return None;
        }
        if index == self.base.id.index {
            return Some(self.base.id);
        }
        let run = self.runs.partition_point(|&(first, _)| first <= index).checked_sub(1)?;
        Some(EntryId {
            epoch: self.runs[run].1,
            index,
        })
    }

    /// The position of an index, if memory knows it.
    #[must_use]
    pub fn position_at(&self, index: u64) -> Option<Position> {
        if index == self.tail_base.id.index {
            return Some(self.tail_base);
        }
        if index == self.base.id.index {
            return Some(self.base);
        }
        let offset = index.checked_sub(self.tail_base.id.index + 1)?;
        self.tail.get(usize::try_from(offset).ok()?).map(|entry| entry.position())
    }

    /// The greatest entry whose index and epoch are both at most those of `bound`: where two logs may still agree.
    #[must_use]
    pub fn agreement(&self, bound: EntryId) -> Option<EntryId> {
        let mut index = bound.index.min(self.last.id.index);
        loop {
            let id = self.id_at(index)?;
            if id.epoch <= bound.epoch {
                return Some(id);
            }
            // The whole run is of a higher epoch: go to before it.
            let run = self.runs.partition_point(|&(first, _)| first <= index).checked_sub(1)?;
            index = self.runs[run].0 - 1;
        }
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// If it does not follow.
    pub fn push(&mut self, entry: Arc<Entry>) {
        assert_eq!(entry.id.index, self.last.id.index + 1, "log entries are contiguous");
        assert!(entry.id.epoch >= self.last.id.epoch, "epochs never fall along a log");
        if self.runs.last().is_none_or(|&(_, epoch)| epoch != entry.id.epoch) {
            self.runs.push((entry.id.index, entry.id.epoch));
        }
        if let EntryBody::EpochStart(configuration) = &entry.body {
            self.configurations.push((entry.id, configuration.clone()));
        }
        self.last = entry.position();
        self.clock = self.clock.max(entry.timestamp_millis);
        self.tail_bytes += entry.encoded_len();
        self.tail.push_back(entry);
    }

    /// Cuts everything after `position`, which is in this log.
    pub fn truncate_after(&mut self, position: Position) {
        let index = position.id.index;
        while self.tail.back().is_some_and(|entry| entry.id.index > index) {
            let entry = self.tail.pop_back().expect("checked by the condition");
            self.tail_bytes -= entry.encoded_len();
        }
        if self.tail.is_empty() {
            self.tail_base = position;
        }
        self.runs.retain(|&(first, _)| first <= index);
        self.configurations.retain(|(id, _)| id.index <= index);
        self.last = position;
    }

    /// Entries after `after`, at least one and about `max_bytes`. None if memory does not reach back so far.
    #[must_use]
    pub fn entries(&self, after: u64, max_bytes: usize) -> Option<Vec<Arc<Entry>>> {
        let skip = usize::try_from(after.checked_sub(self.tail_base.id.index)?).ok()?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.tail.range(skip.min(self.tail.len())..) {
            if bytes >= max_bytes {
                break;
            }
            bytes += entry.encoded_len();
            entries.push(Arc::clone(entry));
        }
        Some(entries)
    }

    /// The entries after `after`, if one of them has effects that an eventual configuration may have acknowledged. `after` is
    /// not below the commit index, so that memory holds them all.
    #[must_use]
    pub fn acknowledged_tail(&self, after: u64) -> Vec<Arc<Entry>> {
        let eventual = |entry: &Arc<Entry>| {
            self.governing(entry.id.index)
                .is_some_and(|(_, c)| c.quorum().consistency == Consistency::Eventual)
        };
        let entries = self.entries(after, usize::MAX).unwrap_or_default();
        let acknowledged = entries
            .iter()
            .any(|entry| eventual(entry) && matches!(entry.body, EntryBody::Effects(_)));
        if acknowledged { entries } else { Vec::new() }
    }

    /// `commit` and all before it is committed: older configurations are history.
    pub fn forget_configurations(&mut self, commit: u64) {
        let committed = self.configurations.partition_point(|(id, _)| id.index <= commit);
        self.configurations.drain(..committed.saturating_sub(1));
    }

    /// How much [`LogView::shrink_tail`] leaves.
    pub(crate) fn keep_tail(&mut self, max_bytes: usize) {
        self.max_tail_bytes = max_bytes;
    }

    /// Entries up to `settled` are durable, committed and applied: memory may let them go.
    pub fn shrink_tail(&mut self, settled: u64) {
        while self.tail_bytes > self.max_tail_bytes && self.tail.front().is_some_and(|entry| entry.id.index <= settled) {
            self.drop_front();
        }
    }

    /// The log now starts after `base`, which is in it.
    pub fn trim(&mut self, base: Position) {
        if base.id.index <= self.base.id.index {
            return;
        }
        while self.tail.front().is_some_and(|entry| entry.id.index <= base.id.index) {
            self.drop_front();
        }
        if self.tail_base.id.index < base.id.index {
            self.tail_base = base;
        }
        let run = self.runs.partition_point(|&(first, _)| first <= base.id.index + 1);
        if run > 0 {
            self.runs.drain(..run - 1);
            self.runs[0].0 = self.runs[0].0.max(base.id.index + 1);
            if self.runs[0].0 > self.last.id.index {
                self.runs.clear();
            }
        }
        self.base = base;
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry.encoded_len();
            self.tail_base = entry.position();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 0 }
    }

    fn log(epochs: &[u64]) -> LogView {
        let mut log = LogView::new(Position::default(), None, 0);
        for &number in epochs {
            log.push(Arc::new(Entry::next(
                log.last(),
                epoch(number),
                0,
                EntryBody::Effects(Bytes::new()),
            )));
        }
        log
    }

    #[test]
    fn every_index_tells_its_epoch_before_and_after_trimming_and_truncation() {
        let epochs = [1, 1, 2, 2, 2, 5, 5, 9];
        for base in 0..=epochs.len() {
            for end in base..=epochs.len() {
                let mut log = log(&epochs);
                log.trim(log.position_at(base as u64).unwrap());
                log.truncate_after(log.position_at(end as u64).unwrap());
                for index in 0..=epochs.len() + 1 {
                    let expected = (base..=end).contains(&index).then(|| index.checked_sub(1).map_or(0, |i| epochs[i]));
                    assert_eq!(
                        log.id_at(index as u64).map(|id| id.epoch.number),
                        expected,
                        "base {base} end {end} index {index}"
                    );
                }
                assert_eq!(log.entries(base as u64, usize::MAX).unwrap().len(), end - base);
            }
        }
    }

    #[test]
    fn two_logs_agree_at_most_where_neither_epoch_nor_index_is_above_the_bound() {
        let log = log(&[1, 1, 2, 2, 2, 5, 5, 9]);
        let agreement = |number, index| {
            log.agreement(EntryId {
                epoch: epoch(number),
                index,
            })
            .map(|id| (id.epoch.number, id.index))
        };
        assert_eq!(agreement(9, 20), Some((9, 8)));
        assert_eq!(agreement(4, 20), Some((2, 5)));
        assert_eq!(agreement(4, 4), Some((2, 4)));
        assert_eq!(agreement(0, 8), Some((0, 0)));
    }
}
