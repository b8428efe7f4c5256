//! The rule by which members fail over when no operator is there: whether one that hears no primary may drive a view change,
//! from what it and the others that it reaches say. Pure; the node runs it.
//!
//! A member does nothing while one of the others serves, or while fewer than a fence quorum, itself included, have lost the
//! primary: one whose own links are cut disturbs nobody. One that the others know to be no member drives nothing. Nothing here is
//! needed for safety.

use quorate_api::{Configuration, Incarnation, NodeRole, NodeStatus};

/// What came of asking the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Enough have lost the primary: a view change takes an epoch above this number.
    Lost(u64),
    /// Somebody serves or is about to, or too few have lost it, or this replica is no member any more.
    Wait,
}

/// Whether a replica of that status has no primary that it hears. One that serves, or is about to, has.
fn has_lost(status: &NodeStatus, suspect_after_millis: u64) -> bool {
    let hears = |view: &quorate_api::PrimaryView| view.connected && view.heard_millis_ago < suspect_after_millis;
    match status.role {
        NodeRole::Primary | NodeRole::Activating => false,
        NodeRole::Follower | NodeRole::Learner | NodeRole::Blank => !status.primary.as_ref().is_some_and(hears),
    }
}

/// Whether a replica of that status follows nobody that it hears, and may do something about it.
#[must_use]
pub fn is_alone(status: &NodeStatus, suspect_after_millis: u64) -> bool {
    status.role == NodeRole::Follower && !status.terminating && has_lost(status, suspect_after_millis)
}

/// Judges what this replica and the others that answered say, by this one's configuration.
#[must_use]
pub fn poll(me: &NodeStatus, others: &[NodeStatus], suspect_after_millis: u64) -> Poll {
    let Some((start, configuration)) = &me.configuration else {
        return Poll::Wait;
    };
    let later = |status: &&NodeStatus| status.configuration.as_ref().is_some_and(|(theirs, _)| theirs > start);
    let dropped = others
        .iter()
        .filter(later)
        .filter_map(|status| status.configuration.as_ref())
        .any(|(_, configuration)| !configuration.contains(me.id.incarnation));
    let served = others
        .iter()
        .any(|status| matches!(status.role, NodeRole::Primary | NodeRole::Activating) && status.promised >= me.promised);
    if dropped || served || me.damaged || !configuration.contains(me.id.incarnation) {
        return Poll::Wait;
    }
    let votes = std::iter::once(me)
        .chain(others)
        .filter(|status| configuration.contains(status.id.incarnation) && has_lost(status, suspect_after_millis))
        .count();
    if votes < configuration.quorum().fence() as usize {
        return Poll::Wait;
    }
    let highest = std::iter::once(me).chain(others).map(|status| status.promised.number).max();
    Poll::Lost(highest.unwrap_or_default())
}

/// How many members come before this one.
#[must_use]
pub fn rank(configuration: &Configuration, me: Incarnation) -> u32 {
    let Some(mine) = configuration.member(me) else { return 0 };
    let before = configuration.members().iter().filter(|other| other.ordinal < mine.ordinal);
    u32::try_from(before.count()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{EntryId, Epoch, Member, PrimaryView, ReplicaId, StoreId};
    use uuid::Uuid;

    fn incarnation(n: u32) -> Incarnation {
        Incarnation(Uuid::from_u128(u128::from(n) + 1))
    }

    fn configuration(members: &[u32]) -> Configuration {
        let member = |&n: &u32| Member {
            incarnation: incarnation(n),
            ordinal: n,
            host: format!("n{n}"),
        };
        Configuration::new(members.iter().map(member).collect(), 2, 2).unwrap()
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 0 }
    }

    /// A follower of replica 0 in epoch 3, which it heard so long ago.
    fn follower(n: u32, heard_millis_ago: u64) -> NodeStatus {
        let start = EntryId { epoch: epoch(3), index: 9 };
        let id = ReplicaId {
            store: StoreId(Uuid::nil()),
            shard: 0,
            ordinal: n,
            incarnation: incarnation(n),
        };
        NodeStatus {
            role: NodeRole::Follower,
            promised: epoch(3),
            last: start,
            durable: 9,
            commit: 9,
            configuration: Some((start, configuration(&[0, 1, 2]))),
            primary: Some(PrimaryView {
                incarnation: incarnation(0),
                epoch: epoch(3),
                heard_millis_ago,
                connected: true,
            }),
            ..NodeStatus::blank(id)
        }
    }

    #[test]
    fn a_fence_quorum_that_lost_the_primary_takes_an_epoch_above_all_that_it_heard_of() {
        let mut other = follower(2, 5000);
        other.promised = epoch(7);
        assert_eq!(poll(&follower(1, 5000), &[other], 1000), Poll::Lost(7));
    }

    #[test]
    fn a_member_whose_own_links_are_cut_waits() {
        let me = follower(1, 5000);
        assert_eq!(poll(&me, &[], 1000), Poll::Wait, "alone");
        assert_eq!(poll(&me, &[follower(2, 100)], 1000), Poll::Wait, "the other hears it");
        let mut primary = follower(0, 0);
        primary.role = NodeRole::Primary;
        assert_eq!(
            poll(&me, &[primary.clone(), follower(2, 5000)], 1000),
            Poll::Wait,
            "it answers for itself"
        );
        primary.promised = epoch(2);
        assert_eq!(
            poll(&me, &[primary, follower(2, 5000)], 1000),
            Poll::Lost(3),
            "one of an earlier epoch is no primary"
        );
    }

    #[test]
    fn a_connection_that_was_reset_counts_at_once() {
        let (mut me, mut other) = (follower(1, 0), follower(2, 0));
        for status in [&mut me, &mut other] {
            status.primary.as_mut().unwrap().connected = false;
        }
        assert_eq!(poll(&me, &[other], 1000), Poll::Lost(3));
    }

    #[test]
    fn a_member_that_was_dropped_and_strangers_count_for_nothing() {
        let me = follower(1, 5000);
        let mut other = follower(2, 5000);
        other.configuration = Some((
            EntryId {
                epoch: epoch(5),
                index: 20,
            },
            configuration(&[2, 3, 4]),
        ));
        assert_eq!(poll(&me, &[other, follower(0, 5000)], 1000), Poll::Wait, "dropped");
        let stranger = follower(9, 5000);
        assert_eq!(poll(&me, &[stranger], 1000), Poll::Wait, "a stranger is no vote");
        let mut damaged = follower(1, 5000);
        damaged.damaged = true;
        assert_eq!(poll(&damaged, &[follower(2, 5000)], 1000), Poll::Wait);
    }
}
