//! Slots that move under load, and what the load saw of it.

use super::System;
use super::load::{Operation, Seen};
use anyhow::{Result, ensure};
use quorate_api::SlotSet;
use std::time::{Duration, Instant};

/// Slots of a move: an eighth of what a shard of two owns.
pub(super) const SLOTS_OF_A_MOVE: u16 = 1024;
/// Moves of ours in a round: enough to speak of a 99th percentile over the rounds.
const OURS: usize = 20;
/// Valkey's tool goes slot by slot: one takes longer than all of ours.
const THEIRS: usize = 2;
/// Between two moves, so that what one left behind is not laid at the door of the next.
const PAUSE: Duration = Duration::from_millis(100);

/// One move, as whoever ordered it saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) ordered: Instant,
    pub(super) ended: Instant,
}

/// Times since a load began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Duration,
    pub(super) until: Duration,
}

/// The slots that move, the same in both systems.
pub(super) fn moving() -> SlotSet {
    (0..SLOTS_OF_A_MOVE).collect()
}

/// Moves the slots to the second shard and back, several times.
pub(super) fn there_and_back(system: &mut System) -> Result<Vec<Moved>> {
    let count = if matches!(system, System::Ours(_)) { OURS } else { THEIRS };
    let slots = moving();
    let mut all = Vec::new();
    for number in 0..count {
        let (from, to) = (number % 2, 1 - number % 2);
        let ordered = Instant::now();
        match system {
            System::Ours(store) => {
                let handoff = store.begin_move(from, u32::try_from(to)?, &slots, 0)?;
                ensure!(store.await_end(from, handoff, to, &slots)?, "the target rejected a move");
            }
            System::Theirs(cluster) => cluster.reshard(from, to, slots.len())?,
        }
        let ended = Instant::now();
        all.push(Moved { ordered, ended });
        if let System::Ours(store) = system {
            store.tell_routes()?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(all)
}

impl Window {
    pub(super) fn of(seen: &Seen, moved: &Moved) -> Self {
        Self {
            from: super::since(seen, moved.ordered),
            until: super::since(seen, moved.ended),
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.until.saturating_sub(self.from).as_secs_f64()
    }

    /// The writes that were acknowledged in it.
    pub(super) fn operations<'a>(&self, seen: &'a Seen) -> impl Iterator<Item = &'a Operation> + use<'a> {
        let Self { from, until } = *self;
        let inside = move |operation: &&Operation| (from..until).contains(&operation.ended);
        seen.operations.iter().filter(inside)
    }

    /// Writes a second, and the 99th percentile of their latencies in microseconds.
    pub(super) fn rate_and_p99(&self, seen: &Seen) -> (f64, f64) {
        let latencies: Vec<Duration> = self.operations(seen).map(|operation| operation.latency).collect();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 writes")]
        let rate = latencies.len() as f64 / self.seconds();
        (rate.round(), micros(quantile(latencies, 0.99)))
    }

    /// The longest time that a write to one of these slots took, of those under way in this window.
    pub(super) fn longest_wait(&self, seen: &Seen, slots: &SlotSet) -> Duration {
        let touched = seen
            .operations
            .iter()
            .filter(|operation| operation.ended >= self.from && operation.ended.saturating_sub(operation.latency) <= self.until);
        let of_slots = touched.filter(|operation| slots.contains(operation.slot));
        of_slots.map(|operation| operation.latency).max().unwrap_or_default()
    }
}

/// The smallest value that so large a share of all is not above. Zero of none.
pub(super) fn quantile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index below a length in memory"
    )]
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

pub(super) fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn seen(operations: &[(u64, u64, u16)]) -> Seen {
        let operation = |(ended, latency, slot): &(u64, u64, u16)| Operation {
            ended: millis(*ended),
            latency: millis(*latency),
            slot: *slot,
        };
        Seen {
            began: Instant::now(),
            operations: operations.iter().map(operation).collect(),
            redirections: 0,
        }
    }

    #[test]
    fn a_wait_counts_if_it_was_under_way_during_the_move_and_for_its_slots() {
        let window = Window {
            from: millis(100),
            until: millis(200),
        };
        let seen = seen(&[(99, 50, 1), (100, 20, 1), (150, 3, 9), (230, 60, 2), (250, 40, 2), (180, 90, 7)]);
        let slots: SlotSet = "1-2".parse().unwrap();
        assert_eq!(window.longest_wait(&seen, &slots), millis(60));
        assert_eq!(window.rate_and_p99(&seen), (30.0, 90_000.0));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<Duration> = (1..=200).map(millis).collect();
        assert_eq!(quantile(values.clone(), 0.99), millis(198));
        assert_eq!(quantile(values, 1.0), millis(200));
        assert_eq!(quantile(Vec::new(), 0.5), Duration::ZERO);
    }
}
