//! The slots of one group as its log has them.

use super::record::SlotRecord;
use crate::mutation::{self, Mutation};
use quorate_api::slots::{Attempt, Handoff, HandoffChunk, HandoffOutcome, HandoffStep};
use quorate_api::{MovePhase, MoveRefusal, MoveSlots, MoveStatus, SlotSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Moves that one group gives away at once, and takes at once: each costs a connection and a copy in memory.
const MAX_MOVES: usize = 64;

/// See [the folder](super).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotTable {
    shard: u32,
    owned: SlotSet,
    /// The highest handoff of every slot that ever had one.
    #[serde(with = "by_handoff")]
    last: BTreeMap<u16, u64>,
    exports: BTreeMap<u64, Export>,
    imports: BTreeMap<u64, Import>,
    /// As the target: what was decided, until the source has acted on it.
    decisions: BTreeMap<u64, Decision>,
    /// As the source: moves that are over, until the target has forgotten them.
    settled: BTreeMap<u64, Settled>,
    /// Where slots went that are not owned any more: what clients are told until a map says it.
    went: BTreeMap<u32, SlotSet>,
    /// Index of the last record by which slots left.
    released_at: u64,
}

/// A move away from this group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// What moves.
    pub slots: SlotSet,
    /// Who receives it.
    pub to: u32,
    /// Bound of the copy; 0 for none.
    pub max_bytes_per_second: u64,
    /// Clients wait.
    pub frozen: bool,
    /// Index of its last record.
    pub changed: u64,
}

/// A move to this group that is not decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Import {
    /// What moves.
    pub slots: SlotSet,
    /// Who gives it away.
    pub from: u32,
    /// The copy that is staged.
    pub attempt: Attempt,
    /// Its pieces so far.
    pub chunks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decision {
    slots: SlotSet,
    from: u32,
    accepted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settled {
    slots: SlotSet,
    to: u32,
    changed: u64,
}

/// What a record changes beside the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotData {
    /// Nothing.
    Untouched,
    /// A copy begins, empty; the one before, if any, goes.
    BeginCopy(u64),
    /// The bytes beside the record are the next piece of this copy.
    Stage(u64),
    /// The copy becomes data of the group.
    Adopt(u64, SlotSet),
    /// The copy goes.
    DropCopy(u64),
    /// The data of the slots goes.
    Drop(SlotSet),
}

/// A record that does not fit the table. A primary logs only what fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {0:?} does not fit the slots of this group")]
pub struct Misfit(pub SlotRecord);

/// What a primary does when it is asked something as the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Log this, then look again.
    Log(SlotRecord),
    /// Say this, once everything in the log up to now is there for good.
    Answer(HandoffOutcome),
}

/// How far a move away is, by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveState {
    /// Clients are served.
    Exporting,
    /// Clients wait.
    Frozen,
    /// Decided and acted on.
    Settled,
}

impl MoveState {
    /// The same in the words of the status.
    #[must_use]
    pub fn phase(self) -> MovePhase {
        match self {
            Self::Exporting => MovePhase::Exporting,
            Self::Frozen => MovePhase::Frozen,
            Self::Settled => MovePhase::Releasing,
        }
    }
}

impl SlotTable {
    /// The slots of a group whose log says nothing of slots: shard 0 owns all of them, others none.
    #[must_use]
    pub fn new(shard: u32) -> Self {
        Self {
            shard,
            owned: if shard == 0 { SlotSet::all() } else { SlotSet::new() },
            last: BTreeMap::new(),
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            decisions: BTreeMap::new(),
            settled: BTreeMap::new(),
            went: BTreeMap::new(),
            released_at: 0,
        }
    }

    /// The table that a log begins with whose first record about slots is this one; None if none can begin with it.
    #[must_use]
    pub fn before(first: &SlotRecord) -> Option<Self> {
        match first {
            SlotRecord::Export { shard, .. } | SlotRecord::Import { shard, .. } | SlotRecord::Reject { shard, .. } => {
                Some(Self::new(*shard))
            }
            _ => None,
        }
    }

    /// What the group owns; frozen slots are still owned.
    #[must_use]
    pub fn owned(&self) -> &SlotSet {
        &self.owned
    }

    /// Moves away.
    #[must_use]
    pub fn exports(&self) -> &BTreeMap<u64, Export> {
        &self.exports
    }

    /// Moves to this group.
    #[must_use]
    pub fn imports(&self) -> &BTreeMap<u64, Import> {
        &self.imports
    }

    /// Slots whose clients wait.
    #[must_use]
    pub fn frozen(&self) -> SlotSet {
        let frozen = self.exports.values().filter(|export| export.frozen);
        frozen.fold(SlotSet::new(), |all, export| all.union(&export.slots))
    }

    /// The shard that a slot went to when it left this one.
    #[must_use]
    pub fn went_to(&self, slot: u16) -> Option<u32> {
        self.went.iter().find(|(_, slots)| slots.contains(slot)).map(|(shard, _)| *shard)
    }

    /// Index of the last record by which slots left; 0 for none.
    #[must_use]
    pub fn released_at(&self) -> u64 {
        self.released_at
    }

    /// The slots that went to a shard when they left this one.
    #[must_use]
    pub fn went(&self, shard: u32) -> Option<&SlotSet> {
        self.went.get(&shard)
    }

    /// The highest handoff in the log; 0 for none.
    #[must_use]
    pub fn last_handoff(&self) -> u64 {
        self.last.values().copied().max().unwrap_or(0)
    }

    /// Moves away that a primary has to see to, those included that the target has yet to forget: the handoff and the target.
    pub fn moves(&self) -> impl Iterator<Item = (u64, u32)> {
        let exports = self.exports.iter().map(|(handoff, export)| (*handoff, export.to));
        exports.chain(self.settled.iter().map(|(handoff, settled)| (*handoff, settled.to)))
    }

    /// How far a move away is, and the index of the record that brought it there. None if it is over.
    #[must_use]
    pub fn state(&self, handoff: u64) -> Option<(MoveState, u64)> {
        if let Some(export) = self.exports.get(&handoff) {
            let state = if export.frozen { MoveState::Frozen } else { MoveState::Exporting };
            return Some((state, export.changed));
        }
        self.settled.get(&handoff).map(|settled| (MoveState::Settled, settled.changed))
    }

    /// What moves, and where to.
    #[must_use]
    pub fn subject(&self, handoff: u64) -> Option<(&SlotSet, u32)> {
        let export = self.exports.get(&handoff).map(|export| (&export.slots, export.to));
        export.or_else(|| self.settled.get(&handoff).map(|settled| (&settled.slots, settled.to)))
    }

    /// Moves to this group, for people.
    #[must_use]
    pub fn import_statuses(&self) -> Vec<MoveStatus> {
        let status = |(handoff, import): (&u64, &Import)| MoveStatus {
            handoff: *handoff,
            slots: import.slots.clone(),
            peer: import.from,
            phase: MovePhase::Staging,
            bytes_sent: 0,
            bytes_total: 0,
            waits_for: None,
        };
        self.imports.iter().map(status).collect()
    }

    /// What to log for an order; None if it is on record already.
    ///
    /// # Errors
    /// See [`MoveRefusal`].
    pub fn order(&self, order: &MoveSlots) -> Result<Option<SlotRecord>, MoveRefusal> {
        let MoveSlots {
            handoff,
            slots,
            to,
            max_bytes_per_second,
        } = order;
        if *to == self.shard || slots.is_empty() {
            return Err(MoveRefusal::UnknownTarget);
        }
        if let Some(export) = self.exports.get(handoff)
            && (&export.slots, export.to) == (slots, *to)
        {
            return Ok(None);
        }
        if let Some(last) = self
            .last_of(slots)
            .filter(|last| last >= handoff && !mutation::active(Mutation::HandoffReused))
        {
            return Err(MoveRefusal::StaleHandoff(last));
        }
        if self.knows(*handoff) {
            return Err(MoveRefusal::StaleHandoff(*handoff));
        }
        let missing = slots.difference(&self.owned);
        if !missing.is_empty() {
            return Err(MoveRefusal::NotOwner(missing));
        }
        if self.exports.len() >= MAX_MOVES || self.exports.values().any(|export| !export.slots.is_disjoint(slots)) {
            return Err(MoveRefusal::Busy);
        }
        Ok(Some(SlotRecord::Export {
            shard: self.shard,
            handoff: *handoff,
            slots: slots.clone(),
            to: *to,
            max_bytes_per_second: *max_bytes_per_second,
        }))
    }

    /// What the primary of this group does about a question of a source.
    #[must_use]
    pub fn react(&self, asked: &Handoff) -> Reaction {
        use HandoffOutcome::{Accepted, Forgotten, Later, Rejected, Staged, Stale};
        let Handoff {
            handoff,
            from,
            to,
            slots,
            step,
        } = asked;
        let (handoff, from) = (*handoff, *from);
        // A piece does not say what moves.
        let same = |known: &SlotSet, source: u32| source == from && (known == slots || matches!(step, HandoffStep::Chunk(_)));
        if *to != self.shard {
            return Reaction::Answer(Stale);
        }
        if let Some(decision) = self.decisions.get(&handoff) {
            return match step {
                _ if !same(&decision.slots, decision.from) => Reaction::Answer(Stale),
                HandoffStep::Forget => Reaction::Log(SlotRecord::Forget { handoff }),
                _ if decision.accepted => Reaction::Answer(Accepted),
                _ => Reaction::Answer(Rejected),
            };
        }
        let import = self.imports.get(&handoff);
        if import.is_some_and(|import| !same(&import.slots, import.from)) {
            return Reaction::Answer(Stale);
        }
        let reject = SlotRecord::Reject {
            shard: self.shard,
            handoff,
            slots: slots.clone(),
            from,
        };
        let begin = |attempt: &Attempt| {
            Reaction::Log(SlotRecord::Import {
                shard: self.shard,
                handoff,
                slots: slots.clone(),
                from,
                attempt: *attempt,
            })
        };
        match (step, import) {
            (HandoffStep::Forget, None) => Reaction::Answer(Forgotten),
            (HandoffStep::Forget, Some(_)) => Reaction::Answer(Stale),
            (HandoffStep::Begin(attempt), Some(import)) if *attempt == import.attempt => Reaction::Answer(Staged {
                attempt: import.attempt,
                chunks: import.chunks,
            }),
            (HandoffStep::Begin(attempt), Some(import)) if *attempt > import.attempt => begin(attempt),
            (HandoffStep::Begin(_), Some(_)) => Reaction::Answer(Stale),
            (HandoffStep::Chunk(HandoffChunk { attempt, sequence, .. }), Some(import)) if *attempt == import.attempt => {
                if *sequence == import.chunks {
                    return Reaction::Log(SlotRecord::Stage {
                        handoff,
                        sequence: *sequence,
                    });
                }
                Reaction::Answer(Staged {
                    attempt: import.attempt,
                    chunks: import.chunks,
                })
            }
            (HandoffStep::Chunk(_), _) => Reaction::Answer(Stale),
            (HandoffStep::Decide { attempt, chunks, .. }, Some(import)) => match (*attempt, *chunks) == (import.attempt, import.chunks) {
                true => Reaction::Log(SlotRecord::Accept { handoff }),
                false => Reaction::Log(reject),
            },
            (HandoffStep::Abandon, Some(_)) => Reaction::Log(reject),
            // Nothing is known of it: it is new, or it came after everything about it was forgotten.
            (_, None) if !self.is_fresh(handoff, slots) => Reaction::Answer(Stale),
            (HandoffStep::Decide { .. } | HandoffStep::Abandon, None) => Reaction::Log(reject),
            (HandoffStep::Begin(_), None) if self.imports.len() >= MAX_MOVES => {
                Reaction::Answer(Later("the target takes as many moves as it can".to_owned()))
            }
            (HandoffStep::Begin(_), None) if !self.is_free(slots) => {
                Reaction::Answer(Later("another move of these slots has to end first at the target".to_owned()))
            }
            (HandoffStep::Begin(attempt), None) => begin(attempt),
        }
    }

    /// Whether this is a move that the group never heard of, and not one that it has forgotten.
    fn is_fresh(&self, handoff: u64, slots: &SlotSet) -> bool {
        let newer = self.last_of(slots).is_none_or(|last| last < handoff);
        (newer || mutation::active(Mutation::HandoffReused)) && !slots.is_empty() && !self.knows(handoff)
    }

    /// Whether the group neither owns one of the slots nor takes it by another move.
    fn is_free(&self, slots: &SlotSet) -> bool {
        slots.is_disjoint(&self.owned) && self.imports.values().all(|import| import.slots.is_disjoint(slots))
    }

    /// Whether the number names some move now.
    fn knows(&self, handoff: u64) -> bool {
        self.exports.contains_key(&handoff)
            || self.imports.contains_key(&handoff)
            || self.decisions.contains_key(&handoff)
            || self.settled.contains_key(&handoff)
    }

    fn last_of(&self, slots: &SlotSet) -> Option<u64> {
        slots.iter().filter_map(|slot| self.last.get(&slot).copied()).max()
    }

    fn remember(&mut self, handoff: u64, slots: &SlotSet) {
        for slot in slots.iter() {
            let last = self.last.entry(slot).or_default();
            *last = handoff.max(*last);
        }
    }

    /// Takes the record at `index`, and says what it changes beside the table.
    ///
    /// # Errors
    /// When it does not fit; the table is then unchanged.
    pub fn apply(&mut self, record: &SlotRecord, index: u64) -> Result<SlotData, Misfit> {
        self.try_apply(record, index).ok_or_else(|| Misfit(record.clone()))
    }

    fn try_apply(&mut self, record: &SlotRecord, index: u64) -> Option<SlotData> {
        Some(match record {
            SlotRecord::Export {
                shard,
                handoff,
                slots,
                to,
                max_bytes_per_second,
            } => {
                let free = self.exports.values().all(|export| export.slots.is_disjoint(slots));
                (*shard == self.shard && free && slots.difference(&self.owned).is_empty() && !self.knows(*handoff)).then_some(())?;
                self.remember(*handoff, slots);
                let export = Export {
                    slots: slots.clone(),
                    to: *to,
                    max_bytes_per_second: *max_bytes_per_second,
                    frozen: false,
                    changed: index,
                };
                self.exports.insert(*handoff, export);
                SlotData::Untouched
            }
            SlotRecord::Freeze { handoff } => {
                let export = self.exports.get_mut(handoff).filter(|export| !export.frozen)?;
                (export.frozen, export.changed) = (true, index);
                SlotData::Untouched
            }
            SlotRecord::Release { handoff } => {
                self.exports.get(handoff).filter(|export| export.frozen)?;
                let export = self.settle(*handoff, index)?;
                self.owned = self.owned.difference(&export.slots);
                self.released_at = index;
                let gone = self.went.entry(export.to).or_default();
                *gone = gone.union(&export.slots);
                SlotData::Drop(export.slots)
            }
            SlotRecord::Thaw { handoff } => {
                self.settle(*handoff, index)?;
                SlotData::Untouched
            }
            SlotRecord::Settle { handoff } => {
                self.settled.remove(handoff)?;
                SlotData::Untouched
            }
            SlotRecord::Import { .. } | SlotRecord::Stage { .. } | SlotRecord::Accept { .. } | SlotRecord::Reject { .. } => {
                return self.try_apply_as_target(record);
            }
            SlotRecord::Forget { handoff } => {
                self.decisions.remove(handoff)?;
                SlotData::Untouched
            }
        })
    }

    fn try_apply_as_target(&mut self, record: &SlotRecord) -> Option<SlotData> {
        Some(match record {
            SlotRecord::Import {
                shard,
                handoff,
                slots,
                from,
                attempt,
            } => {
                let known = self.imports.get(handoff);
                let again = known.is_some_and(|import| import.slots == *slots && import.from == *from && import.attempt < *attempt);
                (*shard == self.shard && (again || (known.is_none() && self.is_fresh(*handoff, slots) && self.is_free(slots))))
                    .then_some(())?;
                self.remember(*handoff, slots);
                let import = Import {
                    slots: slots.clone(),
                    from: *from,
                    attempt: *attempt,
                    chunks: 0,
                };
                self.imports.insert(*handoff, import);
                SlotData::BeginCopy(*handoff)
            }
            SlotRecord::Stage { handoff, sequence } => {
                let import = self.imports.get_mut(handoff).filter(|import| import.chunks == *sequence)?;
                import.chunks += 1;
                SlotData::Stage(*handoff)
            }
            SlotRecord::Accept { handoff } => {
                let import = self.imports.remove(handoff)?;
                self.owned = self.owned.union(&import.slots);
                for gone in self.went.values_mut() {
                    *gone = gone.difference(&import.slots);
                }
                self.went.retain(|_, gone| !gone.is_empty());
                self.decide(*handoff, import.slots.clone(), import.from, true);
                SlotData::Adopt(*handoff, import.slots)
            }
            SlotRecord::Reject {
                shard,
                handoff,
                slots,
                from,
            } => {
                (*shard == self.shard && !self.decisions.contains_key(handoff)).then_some(())?;
                let staged = self.imports.remove(handoff).is_some();
                self.remember(*handoff, slots);
                self.decide(*handoff, slots.clone(), *from, false);
                if staged {
                    SlotData::DropCopy(*handoff)
                } else {
                    SlotData::Untouched
                }
            }
            _ => return None,
        })
    }

    fn settle(&mut self, handoff: u64, index: u64) -> Option<Export> {
        let export = self.exports.remove(&handoff)?;
        let settled = Settled {
            slots: export.slots.clone(),
            to: export.to,
            changed: index,
        };
        self.settled.insert(handoff, settled);
        Some(export)
    }

    fn decide(&mut self, handoff: u64, slots: SlotSet, from: u32, accepted: bool) {
        self.decisions.insert(handoff, Decision { slots, from, accepted });
    }
}

/// The last handoff of every slot, written by handoff: thousands of slots share a few.
mod by_handoff {
    use super::{BTreeMap, SlotSet};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(last: &BTreeMap<u16, u64>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut by_handoff: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        for (&slot, &handoff) in last {
            by_handoff.entry(handoff).or_default().push(slot);
        }
        serializer.collect_seq(
            by_handoff
                .into_iter()
                .map(|(handoff, slots)| (handoff, slots.into_iter().collect::<SlotSet>())),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, u64>, D::Error> {
        let by_handoff = Vec::<(u64, SlotSet)>::deserialize(deserializer)?;
        let slots = |(handoff, slots): &(u64, SlotSet)| slots.iter().map(|slot| (slot, *handoff)).collect::<Vec<_>>();
        Ok(by_handoff.iter().flat_map(slots).collect())
    }
}
