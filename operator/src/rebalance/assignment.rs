//! Which slots every shard is to own. Pure.
//!
//! Balanced to one slot, and with the fewest slots moved: a shard gives away only what it owns beyond its share, and the shares
//! that are one slot larger go to the shards that own most now. What moves is taken from the end of what a shard owns, so that
//! sets stay ranges as far as they can.

use quorate_api::SlotSet;
use std::collections::BTreeMap;

/// Slots that are to move from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who owns them.
    pub from: u32,
    /// Who is to own them.
    pub to: u32,
    /// At least one.
    pub slots: SlotSet,
}

/// How many slots each of the shards `0..shards` is to own, of those that are owned now. A shard that is not in `owned` owns none.
///
/// # Panics
/// Never: there is at least one shard.
#[must_use]
pub fn shares(owned: &BTreeMap<u32, SlotSet>, shards: u32) -> BTreeMap<u32, usize> {
    let shards = shards.max(1);
    let total: usize = owned.values().map(SlotSet::len).sum();
    let (least, larger) = (total / shards as usize, total % shards as usize);
    let count = |shard: &u32| owned.get(shard).map_or(0, SlotSet::len);
    let mut most_first: Vec<u32> = (0..shards).collect();
    most_first.sort_by_key(|shard| (std::cmp::Reverse(count(shard)), *shard));
    let share = |(rank, shard): (usize, u32)| (shard, least + usize::from(rank < larger));
    most_first.into_iter().enumerate().map(share).collect()
}

/// What has to move so that each of the shards `0..shards` owns its share, and no other shard anything.
#[must_use]
pub fn transfers(owned: &BTreeMap<u32, SlotSet>, shards: u32) -> Vec<Transfer> {
    let shares = shares(owned, shards);
    let mut wanting: Vec<(u32, usize)> = shares
        .iter()
        .map(|(shard, share)| (*shard, share.saturating_sub(owned.get(shard).map_or(0, SlotSet::len))))
        .filter(|(_, missing)| *missing > 0)
        .collect();
    let mut transfers = Vec::new();
    for (from, slots) in owned {
        let share = shares.get(from).copied().unwrap_or_default();
        let mut surplus: Vec<u16> = slots.iter().skip(share).collect();
        while !surplus.is_empty() {
            // The shares add up to what is owned, so what one has too much another one lacks.
            let Some((to, missing)) = wanting.first_mut() else { break };
            let taken = surplus.len().min(*missing);
            transfers.push(Transfer {
                from: *from,
                to: *to,
                slots: surplus.drain(..taken).collect(),
            });
            *missing -= taken;
            if *missing == 0 {
                wanting.remove(0);
            }
        }
    }
    transfers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_api::slot::SLOTS;

    fn apply(owned: &BTreeMap<u32, SlotSet>, transfers: &[Transfer]) -> BTreeMap<u32, SlotSet> {
        let mut next = owned.clone();
        for Transfer { from, to, slots } in transfers {
            let source = next.get_mut(from).unwrap();
            assert_eq!(slots.difference(source), SlotSet::new(), "a shard gives what it owns");
            assert!(!slots.is_empty());
            *source = source.difference(slots);
            let target = next.entry(*to).or_default();
            *target = target.union(slots);
        }
        next
    }

    fn moved(transfers: &[Transfer]) -> usize {
        transfers.iter().map(|transfer| transfer.slots.len()).sum()
    }

    fn balanced(owned: &BTreeMap<u32, SlotSet>, shards: u32) -> bool {
        let counts: Vec<usize> = (0..shards).map(|shard| owned.get(&shard).map_or(0, SlotSet::len)).collect();
        let beyond = owned
            .iter()
            .filter(|(shard, _)| **shard >= shards)
            .all(|(_, slots)| slots.is_empty());
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        beyond && most - least <= 1 && counts.iter().sum::<usize>() == usize::from(SLOTS)
    }

    /// What can stay at most if `counts` become balanced over `shards`: a shard keeps no more than its share, a share is one of
    /// two sizes, and only so many are of the larger one.
    fn fewest(counts: &[usize], shards: usize) -> usize {
        let total = usize::from(SLOTS);
        let (small, larger) = (total / shards, total % shards);
        let stays: usize = counts.iter().take(shards).map(|count| (*count).min(small)).sum();
        let richer = counts.iter().take(shards).filter(|count| **count > small).count();
        total - stays - richer.min(larger)
    }

    fn counts(owned: &BTreeMap<u32, SlotSet>, shards: u32) -> Vec<usize> {
        (0..shards).map(|shard| owned.get(&shard).map_or(0, SlotSet::len)).collect()
    }

    #[test]
    fn from_every_size_to_every_size_up_to_fifty_the_fewest_slots_move() {
        for from in 1..=50u32 {
            let one = BTreeMap::from([(0, SlotSet::all())]);
            let before = apply(&one, &transfers(&one, from));
            assert!(balanced(&before, from));
            for to in 1..=50u32 {
                let transfers = transfers(&before, to);
                let after = apply(&before, &transfers);
                assert!(balanced(&after, to), "{from} -> {to}");
                let bound = fewest(&counts(&before, from), to as usize);
                assert_eq!(moved(&transfers), bound, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_drain_is_spread_over_all_that_remain() {
        let one = BTreeMap::from([(0, SlotSet::all())]);
        let five = apply(&one, &transfers(&one, 5));
        let back = transfers(&five, 3);
        assert!(
            back.iter().all(|transfer| transfer.from >= 3),
            "what remains gives nothing away: {back:?}"
        );
        let takers: std::collections::BTreeSet<u32> = back.iter().map(|transfer| transfer.to).collect();
        assert_eq!(takers, [0, 1, 2].into());
    }

    prop_compose! {
        /// Any ownership of all slots, in pieces as they are after a few changes of mind.
        fn ownerships()(owners in prop::collection::vec(0u32..7, 1..200)) -> BTreeMap<u32, SlotSet> {
            let piece = usize::from(SLOTS).div_ceil(owners.len());
            let mut owned: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
            for slot in 0..SLOTS {
                owned.entry(owners[usize::from(slot) / piece]).or_default().push(slot);
            }
            owned.into_iter().map(|(shard, slots)| (shard, slots.into_iter().collect())).collect()
        }
    }

    proptest! {
        #[test]
        fn any_ownership_becomes_balanced_with_the_fewest_moves_and_then_rests(owned in ownerships(), shards in 1u32..9) {
            let todo = transfers(&owned, shards);
            let after = apply(&owned, &todo);
            prop_assert!(balanced(&after, shards));
            prop_assert_eq!(moved(&todo), fewest(&counts(&owned, 9), shards as usize));
            prop_assert_eq!(transfers(&after, shards), Vec::new());
        }

        #[test]
        fn what_is_done_half_way_costs_no_move_more(owned in ownerships(), shards in 1u32..9, done in 0.0f64..1.0) {
            let todo = transfers(&owned, shards);
            let whole = moved(&todo);
            let half: Vec<Transfer> = todo.into_iter().filter_map(|Transfer { from, to, slots }| {
                let some: SlotSet = slots.iter().take((slots.len() as f64 * done) as usize).collect();
                (!some.is_empty()).then_some(Transfer { from, to, slots: some })
            }).collect();
            let after = apply(&owned, &half);
            prop_assert_eq!(moved(&half) + moved(&transfers(&after, shards)), whole);
        }
    }
}
