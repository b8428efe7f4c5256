//! The status of a store from what its shards say. Pure.
//!
//! A condition of the store is that of its worst shard, which the message names; what concerns the store as a whole is added.
//! Until every keeper has listened, what was told before stays: an operator that has just started takes nothing back.

use super::Word;
use crate::plan::Note;
use crate::records::adopt;
use crate::report::{condition, notes, told_index};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use quorate_crds::ReplicatedStoreStatus;
use quorate_crds::conditions::{AVAILABLE, CHANGING, READY, REBALANCE_STALLED, REBALANCING, RECONCILED, UPDATING, WARNING, reasons};
use std::collections::BTreeMap;

/// Reasons for which a shard is not ready, the worst first.
const WORST_FIRST: [&str; 16] = [
    reasons::DATA_LOST,
    reasons::TOO_FEW_REPLICAS,
    reasons::MANUAL,
    reasons::NO_WRITE_QUORUM,
    reasons::DISK_FULL,
    reasons::MINIMUM_INTERVAL,
    reasons::PRIMARY_SUSPECTED,
    reasons::FAILING_OVER,
    reasons::VIEW_CHANGING,
    reasons::PAUSED,
    reasons::BOOTSTRAPPING,
    reasons::WAITING_FOR_REPLICAS,
    reasons::DAMAGED,
    reasons::CHANGING,
    reasons::REPLICAS_BEHIND,
    reasons::SERVING,
];

/// What is told of a store beside its shards.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// How the slots stand; None while that was not looked at.
    pub rebalance: Option<&'a crate::rebalance::Plan>,
    /// The generation of the spec that the objects follow.
    pub generation: i64,
    /// What was told last.
    pub told: &'a ReplicatedStoreStatus,
    /// The moment.
    pub wall: Timestamp,
}

/// What a store's status says of one shard, as the status of a store that has no other: what its keeper begins with.
#[must_use]
pub fn of_shard(told: &ReplicatedStoreStatus, shard: u32) -> ReplicatedStoreStatus {
    let index = told_index(shard);
    let mut own = told.clone();
    own.shards.retain(|known| known.index == index);
    own.rebalance = None;
    own.data_loss.retain(|loss| loss.shard == index);
    own.last_failover = own.last_failover.filter(|failover| failover.shard == index);
    let changing = own.shards.iter().any(|shard| shard.change.is_some());
    let updating = own.shards.iter().any(|shard| shard.update.is_some());
    for condition in &mut own.conditions {
        // What is said of another shard is no news when it is not so of this one.
        match condition.type_.as_str() {
            CHANGING => condition.status = if changing { "True" } else { "False" }.to_owned(),
            UPDATING => condition.status = if updating { "True" } else { "False" }.to_owned(),
            _ => {}
        }
    }
    own
}

/// Whether an event of that reason is about the store as a whole: every shard finds it.
#[must_use]
pub fn is_of_the_whole(reason: &str) -> bool {
    [
        reasons::APPLY_FAILED,
        reasons::INVALID_SPEC,
        reasons::EVEN_REPLICAS,
        reasons::MAY_LOSE_WRITES,
        reasons::SINGLE_REPLICA,
    ]
    .contains(&reason)
}

/// The status of the store, and the events of what no shard tells.
#[must_use]
pub fn merge(whole: &Whole<'_>, words: &BTreeMap<u32, Word>) -> (ReplicatedStoreStatus, Vec<Note>) {
    let told = whole.told;
    let Some(first) = words.values().next().filter(|_| words.values().all(|word| word.spoken)) else {
        return (told.clone(), Vec::new());
    };
    let (first, several) = (&first.publication.status, words.len() > 1);
    let statuses = || words.values().map(|word| &word.publication.status);
    let mut status = ReplicatedStoreStatus {
        observed_generation: first.observed_generation,
        selector: first.selector.clone(),
        ready_shards: statuses().map(|status| status.ready_shards).sum(),
        conditions: first
            .conditions
            .iter()
            .map(|condition| worst(told, words, &condition.type_, several))
            .collect(),
        shards: statuses().flat_map(|status| status.shards.iter().cloned()).collect(),
        rebalance: whole.rebalance.map_or_else(|| told.rebalance.clone(), |plan| plan.told.clone()),
        last_failover: told.last_failover.clone(),
        data_loss: told.data_loss.clone(),
    };
    for said in statuses() {
        adopt(&mut status, said);
    }
    // A store that never had more than one shard has nothing to rebalance.
    if let Some(plan) = whole.rebalance.filter(|plan| plan.told.is_some()) {
        for (type_, say) in [(REBALANCING, &plan.rebalancing), (REBALANCE_STALLED, &plan.stalled)] {
            let said = condition(told, type_, say.clone(), whole.wall, whole.generation);
            status.conditions.push(said);
        }
    } else if whole.rebalance.is_none() {
        status.conditions.extend(rebalancing(told));
    }
    let only = |status: &ReplicatedStoreStatus| ReplicatedStoreStatus {
        conditions: rebalancing(status).collect(),
        ..ReplicatedStoreStatus::default()
    };
    let notes = notes(&only(told), &only(&status));
    (status, notes)
}

/// The conditions that no shard has.
fn rebalancing(status: &ReplicatedStoreStatus) -> impl Iterator<Item = Condition> {
    let of_slots = |condition: &&Condition| [REBALANCING, REBALANCE_STALLED].contains(&condition.type_.as_str());
    status.conditions.iter().filter(of_slots).cloned()
}

/// What the worst shard says in a condition. What concerns the whole store, every shard says; the first one is taken.
fn worst(told: &ReplicatedStoreStatus, words: &BTreeMap<u32, Word>, type_: &str, several: bool) -> Condition {
    let good = if [READY, AVAILABLE, RECONCILED].contains(&type_) {
        "True"
    } else {
        "False"
    };
    let named = several && ![RECONCILED, WARNING].contains(&type_);
    let each = words.iter().filter_map(|(index, word)| {
        let conditions = &word.publication.status.conditions;
        let found = conditions.iter().find(|condition| condition.type_ == type_)?;
        let rank = WORST_FIRST.iter().position(|reason| *reason == found.reason);
        Some((found.status == good, rank, *index, found))
    });
    let mut each: Vec<_> = each.collect();
    each.sort_by_key(|(well, rank, index, _)| (*well, *rank, *index));
    let (well, _, index, found) = each[0];
    let mut said = found.clone();
    let others: Vec<String> = each[1..]
        .iter()
        .filter(|(well, ..)| !well)
        .map(|(_, _, index, _)| index.to_string())
        .collect();
    if named && !well {
        said.message = format!("shard {index}: {}", found.message);
        if !others.is_empty() {
            said.message += &format!(" (also not well: shards {})", others.join(", "));
        }
    }
    let known = told
        .conditions
        .iter()
        .find(|known| known.type_ == type_ && known.status == said.status);
    if let Some(known) = known {
        said.last_transition_time = known.last_transition_time.clone();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Publication;
    use quorate_crds::conditions::FAILOVER_BLOCKED;
    use quorate_crds::{DataLoss, ShardStatus};

    fn word(shard: u32, says: &[(&'static str, bool, &'static str, &str)], second: i64) -> Word {
        let none = ReplicatedStoreStatus::default();
        let each = says.iter().map(|(type_, holds, reason, message)| {
            let wall = Timestamp::from_second(second).unwrap();
            condition(&none, type_, (*holds, reason, (*message).to_owned()), wall, 1)
        });
        Word {
            spoken: true,
            publication: Publication {
                status: ReplicatedStoreStatus {
                    conditions: each.collect(),
                    ready_shards: 1,
                    shards: vec![ShardStatus {
                        index: told_index(shard),
                        ..ShardStatus::default()
                    }],
                    ..none
                },
                ..Publication::default()
            },
            ..Word::default()
        }
    }

    fn well(shard: u32, second: i64) -> Word {
        let said = [
            (READY, true, reasons::SERVING, "all replicas are in step"),
            (AVAILABLE, true, reasons::SERVING, "the primary acknowledges writes"),
            (RECONCILED, true, reasons::APPLIED, "applied"),
            (FAILOVER_BLOCKED, false, reasons::NONE, ""),
            (CHANGING, false, reasons::NONE, "members and quorum are as the spec wants them"),
        ];
        word(shard, &said, second)
    }

    fn blocked(shard: u32, second: i64) -> Word {
        let text = "1 of 3 replicas answer";
        let said = [
            (READY, false, reasons::TOO_FEW_REPLICAS, text),
            (AVAILABLE, false, reasons::TOO_FEW_REPLICAS, text),
            (RECONCILED, true, reasons::APPLIED, "applied"),
            (FAILOVER_BLOCKED, true, reasons::TOO_FEW_REPLICAS, text),
            (CHANGING, false, reasons::NONE, ""),
        ];
        let mut word = word(shard, &said, second);
        word.publication.status.ready_shards = 0;
        word
    }

    fn merged(told: &ReplicatedStoreStatus, words: impl IntoIterator<Item = Word>) -> (ReplicatedStoreStatus, Vec<Note>) {
        let whole = Whole {
            rebalance: None,
            generation: 1,
            told,
            wall: Timestamp::UNIX_EPOCH,
        };
        let words = words
            .into_iter()
            .map(|word| (u32::try_from(word.publication.status.shards[0].index).unwrap(), word));
        merge(&whole, &words.collect())
    }

    fn of<'a>(status: &'a ReplicatedStoreStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
        let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn the_worst_shard_speaks_for_the_store_and_is_named() {
        let none = ReplicatedStoreStatus::default();
        let late = [
            (READY, false, reasons::REPLICAS_BEHIND, "late"),
            (AVAILABLE, true, reasons::SERVING, ""),
            (RECONCILED, true, reasons::APPLIED, "applied"),
            (FAILOVER_BLOCKED, false, reasons::NONE, ""),
            (CHANGING, false, reasons::NONE, ""),
        ];
        let (status, _) = merged(&none, [word(0, &late, 0), well(1, 0), blocked(2, 0)]);
        let text = "shard 2: 1 of 3 replicas answer";
        assert_eq!(
            of(&status, READY),
            ("False", reasons::TOO_FEW_REPLICAS, &*format!("{text} (also not well: shards 0)"))
        );
        assert_eq!(of(&status, AVAILABLE), ("False", reasons::TOO_FEW_REPLICAS, text));
        assert_eq!(of(&status, FAILOVER_BLOCKED), ("True", reasons::TOO_FEW_REPLICAS, text));
        assert_eq!(of(&status, CHANGING).0, "False");
        assert_eq!(of(&status, RECONCILED), ("True", reasons::APPLIED, "applied"));
        assert_eq!((status.ready_shards, status.shards.len()), (2, 3));
    }

    #[test]
    fn a_store_of_one_shard_is_told_as_its_shard_tells_it() {
        for shard in [blocked(0, 3), well(0, 4)] {
            let said = shard.publication.status.clone();
            let (status, notes) = merged(&ReplicatedStoreStatus::default(), [shard]);
            assert_eq!((status, notes), (said, Vec::new()));
        }
    }

    #[test]
    fn conditions_keep_their_time_while_another_shard_is_the_worst_one() {
        let (first, _) = merged(&ReplicatedStoreStatus::default(), [blocked(0, 1), well(1, 1)]);
        let (second, _) = merged(&first, [well(0, 2), blocked(1, 2)]);
        let since = |status: &ReplicatedStoreStatus| status.conditions[0].last_transition_time.0;
        assert_eq!(since(&second), since(&first));
        let (third, _) = merged(&second, [well(0, 2), well(1, 3)]);
        assert_ne!(since(&third), since(&first));
    }

    #[test]
    fn nothing_is_told_before_every_shard_has_listened() {
        let (told, _) = merged(&ReplicatedStoreStatus::default(), [well(0, 1), well(1, 1)]);
        let mut young = well(1, 2);
        young.spoken = false;
        assert_eq!(merged(&told, [blocked(0, 2), young]), (told, Vec::new()));
    }

    #[test]
    fn losses_of_every_shard_are_kept_even_of_one_that_is_gone() {
        let loss = |shard, at: i64| DataLoss {
            shard,
            at: Timestamp::from_second(at).unwrap().to_string(),
            epoch: at,
            ..DataLoss::default()
        };
        let told = ReplicatedStoreStatus {
            data_loss: vec![loss(0, 1), loss(4, 2)],
            ..ReplicatedStoreStatus::default()
        };
        let mut lost = well(0, 1);
        lost.publication.status.data_loss = vec![loss(0, 1), loss(0, 3)];
        let (status, _) = merged(&told, [lost, well(1, 1)]);
        assert_eq!(status.data_loss, [loss(0, 1), loss(4, 2), loss(0, 3)]);
        assert_eq!(of_shard(&status, 4).data_loss, [loss(4, 2)]);
    }
}
