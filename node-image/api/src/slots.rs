//! Sets of hash slots, who serves them, and their moves from one group to another.
//!
//! Who owns a slot is state in the groups' logs. A [`RoutingMap`] is what the operator tells every node of the others: where
//! to send clients, and where the target of a move is. It is a hint: a node's own log outranks it for its own slots.

use crate::epoch::Epoch;
use crate::identity::{Incarnation, ReplicaId};
use crate::slot::SLOTS;
use crate::wire::NodeAddresses;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A set of hash slots. In JSON a list of texts, `"5"` or `"0-5460"`, in order.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotSet {
    /// Sorted, disjoint and not adjacent; both ends included.
    ranges: Vec<(u16, u16)>,
}

/// Why a text or a number is no set of slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of slots: write a-b or a, with 0 ≤ a ≤ b < {SLOTS}")]
pub struct SlotSetError(String);

impl SlotSet {
    /// No slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every slot.
    #[must_use]
    pub fn all() -> Self {
        Self {
            ranges: vec![(0, SLOTS - 1)],
        }
    }

    /// The slots of these ranges, in any order.
    ///
    /// # Errors
    /// When a range is empty or reaches beyond the last slot.
    pub fn from_ranges(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Result<Self, SlotSetError> {
        let mut sorted = Vec::new();
        for range in ranges {
            let (first, last) = (*range.start(), *range.end());
            if first > last || last >= SLOTS {
                return Err(SlotSetError(format!("{first}-{last}")));
            }
            sorted.push((first, last));
        }
        sorted.sort_unstable();
        let mut set = Self::new();
        for (first, last) in sorted {
            match set.ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => set.ranges.push((first, last)),
            }
        }
        Ok(set)
    }

    /// Its ranges in order, as few as can be; both ends included.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + Clone {
        self.ranges.iter().map(|&(first, last)| first..=last)
    }

    /// The slots in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|&(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the slot is in it.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < slot);
        self.ranges.get(at).is_some_and(|&(first, _)| first <= slot)
    }

    /// The slots of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b)
    }

    /// The slots of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b)
    }

    /// The slots of this one that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b)
    }

    /// Between two ends of ranges, all slots are alike.
    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Self {
        let ranges = self.ranges.iter().chain(&other.ranges);
        let mut ends: Vec<u16> = ranges.flat_map(|&(first, last)| [first, last + 1]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut set = Self::new();
        for pair in ends.windows(2) {
            let (first, last) = (pair[0], pair[1] - 1);
            if keep(self.contains(first), other.contains(first)) {
                match set.ranges.last_mut() {
                    Some((_, end)) if *end + 1 == first => *end = last,
                    _ => set.ranges.push((first, last)),
                }
            }
        }
        set
    }

    /// Whether no slot is in both.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.intersection(other).is_empty()
    }
}

impl FromIterator<u16> for SlotSet {
    /// Numbers beyond the last slot are left out.
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut sorted: Vec<u16> = slots.into_iter().filter(|slot| *slot < SLOTS).collect();
        sorted.sort_unstable();
        let mut set = Self::new();
        for slot in sorted {
            match set.ranges.last_mut() {
                Some((_, end)) if slot <= *end + 1 => *end = slot,
                _ => set.ranges.push((slot, slot)),
            }
        }
        set
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, &(first, last)) in self.ranges.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for SlotSet {
    type Err = SlotSetError;

    /// Reads what [`fmt::Display`] wrote; an empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ranges: Result<Vec<_>, _> = text.split(',').filter(|part| !part.is_empty()).map(parse_range).collect();
        Self::from_ranges(ranges?)
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, SlotSetError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => Ok(first..=last),
        _ => Err(SlotSetError(text.to_owned())),
    }
}

impl Serialize for SlotSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.ranges.iter().map(|&(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        }))
    }
}

impl<'de> Deserialize<'de> for SlotSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let ranges: Result<Vec<_>, _> = texts.iter().map(|text| parse_range(text)).collect();
        Self::from_ranges(ranges.map_err(D::Error::custom)?).map_err(D::Error::custom)
    }
}

/// The whole store as the operator knows it. A node keeps the one of the highest version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingMap {
    /// Grows with every map that an operator tells; [`SlotsStatus::route_version`] says which one a node holds.
    pub version: u64,
    /// In any order.
    pub shards: Vec<RoutingShard>,
}

/// One shard of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingShard {
    /// Its number.
    pub shard: u32,
    /// Number of its epoch.
    pub epoch: u64,
    /// Its primary, if one is known.
    pub primary: Option<Incarnation>,
    /// What it owns.
    pub slots: SlotSet,
    /// Its members.
    pub members: Vec<RoutingMember>,
}

/// A member of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingMember {
    /// Who it is.
    pub id: ReplicaId,
    /// Where it listens now.
    pub addresses: NodeAddresses,
}

/// Operator to the primary that owns the slots: move them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveSlots {
    /// Names the move. Above every handoff that any of the slots ever had, and never used for another move.
    pub handoff: u64,
    /// What moves, at least one slot. All of it changes its owner at one moment, or none of it.
    pub slots: SlotSet,
    /// The shard that receives it.
    pub to: u32,
    /// Bytes a second at which the slots are copied; 0 for no limit. Writes that come meanwhile are not held back by it.
    pub max_bytes_per_second: u64,
}

/// Why a move is not begun or not aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum MoveRefusal {
    /// This node does not serve as the primary of its shard, or was deposed before the move was on record.
    #[error("this node is not the primary of its shard")]
    NotPrimary,
    /// The shard does not own these.
    #[error("the shard does not own the slots {0}")]
    NotOwner(SlotSet),
    /// One of the slots was in a move of this number or a higher one.
    #[error("the handoff is not above {0}, the last one of these slots")]
    StaleHandoff(u64),
    /// One of the slots moves already, or too many moves are under way.
    #[error("one of the slots moves already, or too many moves are under way")]
    Busy,
    /// The target is this shard itself, or no [`RoutingMap`] told of it, or there is no slot to move.
    #[error("the routing map does not know the target, or there is nothing to move to it")]
    UnknownTarget,
    /// There is no such move: it never was, or is over.
    #[error("no move of that number is under way")]
    UnknownMove,
}

/// What a node says of its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotsStatus {
    /// What its group owns, by this node's log: on a primary that may run ahead of what is committed, on another member it
    /// may lag.
    pub owned: SlotSet,
    /// The highest handoff in its log; 0 for none.
    pub last_handoff: u64,
    /// Bytes of memory that the data of the owned slots takes.
    pub bytes: u64,
    /// Version of the map that the node holds; 0 for none.
    pub route_version: u64,
    /// Moves away from this group.
    pub exports: Vec<MoveStatus>,
    /// Moves to this group.
    pub imports: Vec<MoveStatus>,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveStatus {
    /// Its name.
    pub handoff: u64,
    /// What moves.
    pub slots: SlotSet,
    /// The other shard.
    pub peer: u32,
    /// How far it is.
    pub phase: MovePhase,
    /// Bytes that the target holds by now, as far as this node knows. 0 on a node that does not drive the move.
    pub bytes_sent: u64,
    /// Bytes to send, about.
    pub bytes_total: u64,
    /// What the move waits for, if it does not get on.
    pub waits_for: Option<String>,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MovePhase {
    /// The source copies; clients are served there.
    Exporting,
    /// The source holds back clients of the slots while the last writes travel.
    Frozen,
    /// The target was asked to decide.
    Deciding,
    /// Decided; the source forgets the slots, or serves them again.
    Releasing,
    /// The target holds a copy that it serves to nobody.
    Staging,
}

/// Slot, keys in it, bytes of memory that they take.
pub type SlotSize = (u16, u64, u64);

/// Names one copy of the slots of a move. A copy that is begun anew, by another primary or by the same, is another
/// attempt; later ones are greater, and end the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Epoch of the primary that sends.
    pub epoch: Epoch,
    /// Counts its attempts.
    pub number: u32,
}

/// The source's primary to the target's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handoff {
    /// Which move.
    pub handoff: u64,
    /// The shard that asks.
    pub from: u32,
    /// The shard that is asked.
    pub to: u32,
    /// What moves.
    pub slots: SlotSet,
    /// What is asked.
    pub step: HandoffStep,
}

/// What the source asks of the target. Every step may come twice, late, or from a deposed primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HandoffStep {
    /// Take a copy; says how much of this attempt is there already.
    Begin(Attempt),
    /// The next piece of the copy.
    Chunk(HandoffChunk),
    /// The slots are frozen and the copy is complete: decide.
    Decide {
        /// The copy that is complete.
        attempt: Attempt,
        /// Pieces in it.
        chunks: u64,
        /// The source's clock when it froze, in milliseconds since the Unix epoch: the target's never is behind it
        /// afterwards, so that a key that had expired stays so.
        clock_millis: u64,
    },
    /// Decide now, against the move unless it is decided already.
    Abandon,
    /// The source has heard the decision and acted on it for good: forget it.
    Forget,
}

/// A piece of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoffChunk {
    /// Of which copy.
    pub attempt: Attempt,
    /// Which piece, from 0.
    pub sequence: u64,
    /// Opaque here: the store node's encoding.
    #[serde(skip)]
    pub bytes: Bytes,
}

/// The target's answer, given once what it says is committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoffAnswer {
    /// Which move.
    pub handoff: u64,
    /// What became of the question.
    pub outcome: HandoffOutcome,
}

/// See [`HandoffAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HandoffOutcome {
    /// So many pieces of this attempt are held.
    Staged {
        /// The attempt that is staged now.
        attempt: Attempt,
        /// Its pieces.
        chunks: u64,
    },
    /// The target owns the slots.
    Accepted,
    /// The target does not, and never will by this handoff.
    Rejected,
    /// It is forgotten.
    Forgotten,
    /// Ask the primary.
    NotPrimary,
    /// The question fits nothing that this group knows: it came late, or the handoff was used before.
    Stale,
    /// Not now: the reason, for people.
    Later(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn plain(set: &SlotSet) -> BTreeSet<u16> {
        set.iter().collect()
    }

    proptest! {
        #[test]
        fn sets_of_slots_are_sets(a in prop::collection::btree_set(0u16..300, 0..200), b in prop::collection::btree_set(0u16..300, 0..200)) {
            let (x, y): (SlotSet, SlotSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(&plain(&x), &a);
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(plain(&x.union(&y)), &a | &b);
            prop_assert_eq!(plain(&x.intersection(&y)), &a & &b);
            prop_assert_eq!(plain(&x.difference(&y)), &a - &b);
            prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
            for slot in 0..300 {
                prop_assert_eq!(x.contains(slot), a.contains(&slot));
            }
            prop_assert_eq!(&SlotSet::from_ranges(x.ranges()).unwrap(), &x);
            prop_assert_eq!(&x.to_string().parse::<SlotSet>().unwrap(), &x);
            let json = serde_json::to_string(&x).unwrap();
            prop_assert_eq!(serde_json::from_str::<SlotSet>(&json).unwrap(), x);
        }
    }

    #[test]
    fn a_set_of_slots_is_a_list_of_ranges_in_json() {
        let set = SlotSet::from_ranges([7..=9, 0..=5, 6..=6, 11..=11]).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["0-9","11"]"#);
        assert_eq!(SlotSet::all().len(), usize::from(SLOTS));
        assert_eq!(SlotSet::all().difference(&set).len(), usize::from(SLOTS) - 11);
        for text in [r#"["5-4"]"#, r#"["16384"]"#, r#"["x"]"#, r#"[""]"#] {
            assert!(serde_json::from_str::<SlotSet>(text).is_err(), "{text}");
        }
    }
}
