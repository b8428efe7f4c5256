//! The map of a store that every node is told: who owns which slots, who is primary, where everybody is. Merged from what the
//! nodes say; a hint for clients, and where the target of a move is. Pure.

use super::{View, Word};
use crate::roster::addresses_at;
use quorate_api::{RoutingMap, RoutingMember, RoutingShard, SlotSet};
use std::collections::BTreeMap;

/// The map by what the keepers said last, without its version; None while the nodes of some shard know of no slots.
///
/// A slot that two shards tell of, because one has not heard of a move yet, is that of the later move's.
#[must_use]
pub(super) fn route(words: &BTreeMap<u32, Word>) -> Option<Vec<RoutingShard>> {
    let mut views: Vec<(u32, &View)> = words.iter().map(|(index, word)| (*index, &word.view)).collect();
    if views.iter().any(|(_, view)| view.is_group() && view.slots.is_none()) {
        return None;
    }
    views.sort_by_key(|(index, view)| (std::cmp::Reverse(view.last_handoff()), *index));
    let mut taken = SlotSet::new();
    let mut shards = Vec::new();
    for (index, view) in views {
        let owned = view.slots.as_ref().map(|slots| slots.owned.clone()).unwrap_or_default();
        let slots = owned.difference(&taken);
        taken = taken.union(&slots);
        let members = view.replicas.iter().filter_map(|replica| {
            Some(RoutingMember {
                id: replica.id?,
                addresses: addresses_at(replica.address.clone()?)?,
            })
        });
        shards.push(RoutingShard {
            shard: index,
            epoch: view.epoch,
            primary: view.primary,
            slots,
            members: members.collect(),
        });
    }
    shards.sort_by_key(|shard| shard.shard);
    Some(shards)
}

/// The map to tell next: with a version above every one that a node holds, if it is another one than `last` or some node holds
/// none that is as new.
#[must_use]
pub(super) fn next(last: &RoutingMap, shards: Vec<RoutingShard>, words: &BTreeMap<u32, Word>) -> Option<RoutingMap> {
    let held = words
        .values()
        .flat_map(|word| &word.view.replicas)
        .map(|replica| replica.route_version);
    let highest = held.max().unwrap_or_default().max(last.version);
    // Another operator told a map meanwhile: this one's is to be the last word while it leads.
    let same = last.shards == shards && last.version == highest;
    (!same).then_some(RoutingMap {
        version: highest + 1,
        shards,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ReplicaView;
    use quorate_api::SlotsStatus;

    fn word(owned: std::ops::RangeInclusive<u16>, last_handoff: u64, route_version: u64) -> Word {
        let slots = SlotsStatus {
            owned: SlotSet::from_ranges([owned]).unwrap(),
            ..SlotsStatus::default()
        };
        let replica = ReplicaView {
            pod: "orders-0-0".to_owned(),
            id: None,
            address: None,
            heard: true,
            blank: false,
            begun: true,
            idle: false,
            last_handoff,
            route_version,
        };
        Word {
            view: View {
                slots: Some(slots),
                replicas: vec![replica],
                ..View::default()
            },
            ..Word::default()
        }
    }

    #[test]
    fn a_slot_that_two_shards_tell_of_is_that_of_the_later_move() {
        let words = BTreeMap::from([(0, word(0..=100, 3, 0)), (1, word(50..=100, 7, 0))]);
        let slots: Vec<String> = route(&words).unwrap().iter().map(|shard| shard.slots.to_string()).collect();
        assert_eq!(slots, ["0-49", "50-100"]);
    }

    #[test]
    fn a_map_is_told_when_it_differs_or_when_somebody_else_told_one() {
        let words = BTreeMap::from([(0, word(0..=100, 0, 4))]);
        let first = next(&RoutingMap::default(), route(&words).unwrap(), &words).unwrap();
        assert_eq!(first.version, 5, "above what a node holds");
        let settled = BTreeMap::from([(0, word(0..=100, 0, 5))]);
        assert_eq!(next(&first, route(&settled).unwrap(), &settled), None);
        let moved = BTreeMap::from([(0, word(0..=99, 1, 5))]);
        assert_eq!(next(&first, route(&moved).unwrap(), &moved).unwrap().version, 6);
        let told = BTreeMap::from([(0, word(0..=100, 0, 9))]);
        assert_eq!(next(&first, route(&told).unwrap(), &told).unwrap().version, 10);
    }
}
