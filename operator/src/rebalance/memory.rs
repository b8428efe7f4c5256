//! What an operator ordered, and what became of it.

use quorate_api::{MoveRefusal, MoveSlots, SlotSet};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An order that is on record nowhere this long after it was answered, or not answered, is given up.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// After a refusal; doubled each time up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Sizes of slots are good for so long.
const SIZES_GOOD_FOR: Duration = Duration::from_secs(30);

/// A move that this operator ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Who gives.
    pub from: u32,
    /// Who takes.
    pub to: u32,
    /// What.
    pub slots: SlotSet,
    /// About so many bytes.
    pub bytes: u64,
    /// Whether the source has it on record, by its answer.
    pub recorded: bool,
    /// Whether the source told of it.
    pub seen: bool,
    /// When it was sent or answered, whatever was last.
    pub at: Instant,
}

/// A source that refused an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// No order before.
    pub retry_at: Instant,
    /// For the next refusal.
    backoff: Duration,
    /// What it said.
    pub why: String,
}

/// Sizes of the slots of a shard that are not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// When they were told.
    pub at: Instant,
    /// Bytes by slot.
    pub bytes: BTreeMap<u16, u64>,
}

/// What one plan leaves for the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The highest handoff that this operator used or heard of in a refusal.
    pub(super) handoff: u64,
    /// By handoff.
    pub(super) orders: BTreeMap<u64, Ordered>,
    /// By source.
    pub(super) refused: BTreeMap<u32, Refused>,
    /// By shard.
    pub(super) sizes: BTreeMap<u32, Sizes>,
    /// Shards that were asked for their sizes and did not answer yet.
    pub(super) asked: BTreeSet<u32>,
    /// Moves that were asked to end.
    pub(super) aborted: BTreeSet<u64>,
    /// What this operator has brought about since the last time that all was well.
    pub(super) run: Option<Run>,
    /// What it waits for, in a word, and since when.
    pub(super) stalled: Option<(&'static str, Instant)>,
}

/// A rebalance from its beginning to its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// Slots that were moved, and their bytes.
    pub(super) slots: u64,
    pub(super) bytes: u64,
    /// For the rate: bytes that were moved at some moment, and how fast it went before.
    pub(super) mark: (Instant, u64),
    pub(super) rate: u64,
    /// When progress was told last.
    pub(super) told: Instant,
}

impl Memory {
    /// A source answered an order.
    pub fn on_answer(&mut self, handoff: u64, answer: Result<(), String>, refusal: Option<&MoveRefusal>, now: Instant) {
        let Some(order) = self.orders.get_mut(&handoff) else { return };
        let from = order.from;
        order.at = now;
        let why = match answer {
            Ok(()) => {
                order.recorded = true;
                self.refused.remove(&from);
                return;
            }
            Err(why) => why,
        };
        match refusal {
            // It may be on record or not: what the source tells shows it.
            None | Some(MoveRefusal::NotPrimary) => {}
            Some(MoveRefusal::StaleHandoff(last)) => {
                self.handoff = self.handoff.max(*last);
                self.orders.remove(&handoff);
                return;
            }
            Some(MoveRefusal::NotOwner(_) | MoveRefusal::Busy | MoveRefusal::UnknownTarget | MoveRefusal::UnknownMove) => {
                self.orders.remove(&handoff);
            }
        }
        let backoff = self.refused.get(&from).map_or(MIN_BACKOFF, |refused| refused.backoff);
        let refused = Refused {
            retry_at: now + backoff,
            backoff: (backoff * 2).min(MAX_BACKOFF),
            why,
        };
        self.refused.insert(from, refused);
    }

    /// A shard told how large its slots are; None if it did not answer.
    pub fn on_sizes(&mut self, shard: u32, sizes: Option<BTreeMap<u16, u64>>, now: Instant) {
        self.asked.remove(&shard);
        match sizes {
            Some(bytes) => drop(self.sizes.insert(shard, Sizes { at: now, bytes })),
            None => {
                let refused = Refused {
                    retry_at: now + MIN_BACKOFF,
                    backoff: MIN_BACKOFF,
                    why: "it did not tell how large its slots are".to_owned(),
                };
                self.refused.entry(shard).or_insert(refused);
            }
        }
    }

    /// A source answered the wish to end a move: `ended` if it is being ended, or is over. If not, it may be asked again.
    pub fn on_abort(&mut self, handoff: u64, ended: bool) {
        if !ended {
            self.aborted.remove(&handoff);
        }
    }

    /// Takes an order for sent.
    pub(super) fn order(&mut self, from: u32, order: &MoveSlots, bytes: u64, now: Instant) {
        self.handoff = self.handoff.max(order.handoff);
        let ordered = Ordered {
            from,
            to: order.to,
            slots: order.slots.clone(),
            bytes,
            recorded: false,
            seen: false,
            at: now,
        };
        self.orders.insert(order.handoff, ordered);
    }

    /// What a move took with it is its target's now: a slot that moves on is not empty because it came lately.
    pub(super) fn sizes_move(&mut self, order: &Ordered) {
        let Some(source) = self.sizes.get_mut(&order.from) else { return };
        let gone: BTreeMap<u16, u64> = source.bytes.extract_if(.., |slot, _| order.slots.contains(*slot)).collect();
        if let Some(target) = self.sizes.get_mut(&order.to) {
            target.bytes.extend(gone);
        }
    }

    /// The sizes of a shard's slots, while they are good.
    pub(super) fn sizes(&self, shard: u32, now: Instant) -> Option<&Sizes> {
        self.sizes.get(&shard).filter(|sizes| now <= sizes.at + SIZES_GOOD_FOR)
    }
}

impl Ordered {
    /// Whether nothing more is to be heard of it.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        now > self.at + SEEN_WITHIN
    }

    /// The moment at which it is given up.
    pub(super) fn patience_ends(&self) -> Instant {
        self.at + SEEN_WITHIN
    }
}
