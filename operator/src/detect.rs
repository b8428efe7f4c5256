//! Failure detection: whether a shard has lost its primary, from three inputs: what pods are, what the operator's own
//! streams say, and what the members say of each other.
//!
//! The operator's stream to the primary decides alone while it is fresh. Once it is not, the members vote: enough of them
//! to fence, where the pod seems well; one, where Kubernetes doubts the pod or it was told to stop; none, where it is gone.
//! So losing only the link between operator and primary is no reason to fail over.
//!
//! Pure. A wrong suspicion costs a short outage; it cannot lose a write, because the members fence before anyone serves.

use crate::observe::{Health, Observed};
use quorate_api::{Incarnation, NodeRole, NodeStatus, PeerStatus, PrimaryView, Quorum};
use std::time::{Duration, Instant};

/// What a shard looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its primary serves.
    Serving {
        /// The primary.
        primary: Incarnation,
        /// Whether it says so itself; else a write quorum that follows it does.
        heard: bool,
    },
    /// The primary is there, too few members follow it, and nobody else could do better.
    NoQuorum {
        /// The primary.
        primary: Incarnation,
        /// The numbers.
        reason: String,
    },
    /// A replica was chosen and is becoming primary.
    Activating {
        /// The replica.
        primary: Incarnation,
    },
    /// The primary may be lost; too few say so.
    Doubt {
        /// The numbers.
        reason: String,
    },
    /// There is no primary.
    Lost {
        /// The last one known.
        primary: Option<Incarnation>,
        /// What shows it.
        reason: String,
    },
}

/// Judges a shard of `quorum` that was bootstrapped, by its `members` in the configuration in force.
#[must_use]
pub fn judge(members: &[&Observed], quorum: Quorum, suspect_after: Duration, now: Instant) -> Verdict {
    let Some(primary) = primary_of(members) else {
        return Verdict::Lost {
            primary: None,
            reason: "no replica knows a primary".to_owned(),
        };
    };
    let fresh: Vec<&NodeStatus> = members.iter().filter_map(|member| member.fresh(now, suspect_after)).collect();
    let votes = Votes::count(&fresh, primary, suspect_after);
    match fresh.iter().find(|status| status.id.incarnation == primary) {
        Some(status) => judge_by_itself(status, highest_promise(members), &votes, quorum, suspect_after),
        None => judge_by_others(members, primary, &votes, quorum),
    }
}

/// What fresh members say of their primary.
struct Votes {
    lost: usize,
    follow: usize,
}

impl Votes {
    fn count(fresh: &[&NodeStatus], primary: Incarnation, suspect_after: Duration) -> Self {
        let others = || fresh.iter().filter(|status| status.id.incarnation != primary);
        Self {
            lost: others().filter(|status| has_lost(status, suspect_after)).count(),
            follow: others()
                .filter(|status| {
                    let followed = status.primary.as_ref().is_some_and(|view| view.incarnation == primary);
                    followed && !has_lost(status, suspect_after)
                })
                .count(),
        }
    }
}

/// The primary itself is heard.
fn judge_by_itself(status: &NodeStatus, highest: quorate_api::Epoch, votes: &Votes, quorum: Quorum, suspect_after: Duration) -> Verdict {
    let primary = status.id.incarnation;
    let lost = |reason: String| Verdict::Lost {
        primary: Some(primary),
        reason,
    };
    match status.role {
        NodeRole::Primary | NodeRole::Activating if status.promised < highest => {
            lost("a higher epoch was begun and nobody serves it".to_owned())
        }
        NodeRole::Activating => Verdict::Activating { primary },
        // Chosen a moment ago, and its members tell of it sooner than it does itself. Had it restarted, they would have lost it.
        NodeRole::Follower | NodeRole::Learner | NodeRole::Blank if votes.follow > 0 && status.promised == highest => {
            Verdict::Activating { primary }
        }
        NodeRole::Follower | NodeRole::Learner | NodeRole::Blank => lost("the last primary serves no more".to_owned()),
        NodeRole::Primary => {
            let (reached, wanted) = (reached(status, suspect_after), wanted(quorum));
            if !is_cut_off(status, quorum, suspect_after) {
                return Verdict::Serving { primary, heard: true };
            }
            if votes.lost >= quorum.fence() as usize {
                return lost(format!(
                    "the primary reaches {reached} members of the {wanted} that it needs, and {} members that could go on have lost it",
                    votes.lost
                ));
            }
            if quorum.failover_loses() && reached + 1 >= quorum.write.max(quorum.read) as usize {
                // It acknowledges what nobody else holds yet, and nobody could do better.
                return Verdict::Serving { primary, heard: true };
            }
            Verdict::NoQuorum {
                primary,
                reason: format!("the primary reaches {reached} other replicas and needs {wanted} to acknowledge writes and answer reads"),
            }
        }
    }
}

/// Whether a primary reaches too few members to acknowledge anything. One that was just made has not told of them yet.
#[must_use]
pub fn is_cut_off(status: &NodeStatus, quorum: Quorum, suspect_after: Duration) -> bool {
    status.role == NodeRole::Primary && !status.peers.is_empty() && reached(status, suspect_after) < wanted(quorum)
}

fn reached(status: &NodeStatus, suspect_after: Duration) -> usize {
    status
        .peers
        .iter()
        .filter(|peer| !peer.learner && alive(peer, suspect_after))
        .count()
}

/// Other members that a primary needs to commit what it acknowledges.
fn wanted(quorum: Quorum) -> usize {
    quorum.commit().max(quorum.read) as usize - 1
}

/// The primary is not heard: its members vote.
fn judge_by_others(members: &[&Observed], primary: Incarnation, votes: &Votes, quorum: Quorum) -> Verdict {
    let health = members
        .iter()
        .find(|member| member.incarnation() == Some(primary))
        // One that has not spoken to this operator yet may be the primary: its pod is not known, so the members decide.
        .map_or(Health::Running, |member| member.health);
    let (needed, shown) = match health {
        Health::Running => (quorum.fence() as usize, ""),
        Health::Doubtful => (1, " and its pod is not ready"),
        Health::Leaving => (1, " and its pod was told to stop"),
        Health::Gone => (0, " and its pod has ended"),
    };
    if votes.lost >= needed {
        return Verdict::Lost {
            primary: Some(primary),
            reason: format!("neither the operator nor {} members hear the primary{shown}", votes.lost),
        };
    }
    if votes.follow + 1 >= quorum.commit() as usize {
        return Verdict::Serving { primary, heard: false };
    }
    Verdict::Doubt {
        reason: format!(
            "the operator does not hear the primary{shown}; {} members have lost it too, {needed} are needed",
            votes.lost
        ),
    }
}

/// The replica that serves, or served last: of the highest epoch in which anybody knows a primary.
#[must_use]
pub fn primary_of(members: &[&Observed]) -> Option<Incarnation> {
    let known = members.iter().filter_map(|member| member.status.as_ref()?.primary.as_ref());
    known.max_by_key(|view| view.epoch).map(|view| view.incarnation)
}

/// The highest epoch that anybody promised.
#[must_use]
pub fn highest_promise(members: &[&Observed]) -> quorate_api::Epoch {
    let promised = members.iter().filter_map(|member| member.status.as_ref());
    promised.map(|status| status.promised).max().unwrap_or_default()
}

fn alive(peer: &PeerStatus, suspect_after: Duration) -> bool {
    in_time(peer.connected, peer.heard_millis_ago, suspect_after)
}

/// Whether a member hears no primary: its connection is gone, it is silent, or the member follows nobody. One that missed the
/// last failover speaks of the primary before, and can hear that one no more.
fn has_lost(status: &NodeStatus, suspect_after: Duration) -> bool {
    let hears = |view: &PrimaryView| in_time(view.connected, view.heard_millis_ago, suspect_after);
    !status.primary.as_ref().is_some_and(hears)
}

fn in_time(connected: bool, heard_millis_ago: u64, suspect_after: Duration) -> bool {
    connected && Duration::from_millis(heard_millis_ago) <= suspect_after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LIMIT, epoch, incarnation, loses_primary, status, unheard, well};

    const QUORUM: Quorum = Quorum::strong(3, 2, 2);

    fn verdict(group: &[Observed], now: Instant) -> Verdict {
        judge(&group.iter().collect::<Vec<_>>(), QUORUM, LIMIT, now)
    }

    fn serving(heard: bool) -> Verdict {
        Verdict::Serving {
            primary: incarnation(0),
            heard,
        }
    }

    fn is_lost(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Lost { primary: Some(primary), .. } if *primary == incarnation(0))
    }

    #[test]
    fn a_group_that_is_well_is_left_alone() {
        let now = Instant::now();
        assert_eq!(verdict(&well(QUORUM, now), now), serving(true));
    }

    #[test]
    fn a_reset_seen_by_operator_and_members_counts_at_once() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        unheard(&mut group[0]);
        loses_primary(&mut group[1]);
        assert_eq!(verdict(&group, now), serving(false), "one member is not enough to fence");
        loses_primary(&mut group[2]);
        assert!(is_lost(&verdict(&group, now)));
    }

    #[test]
    fn losing_only_the_link_between_operator_and_primary_is_no_reason_however_long() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut group = well(QUORUM, now);
        unheard(&mut group[0]);
        group[0].heard = now.checked_sub(Duration::from_secs(60));
        group[0].health = Health::Doubtful;
        assert_eq!(verdict(&group, now), serving(false));
    }

    #[test]
    fn silence_counts_after_the_limit() {
        let begin = Instant::now();
        let now = begin + Duration::from_millis(1500);
        let mut group = well(QUORUM, now);
        group[0].heard = Some(begin);
        for member in &mut group[1..] {
            status(member).primary.as_mut().unwrap().heard_millis_ago = 1000;
        }
        assert_eq!(verdict(&group, now), serving(false), "the limit itself is in time");
        for member in &mut group[1..] {
            status(member).primary.as_mut().unwrap().heard_millis_ago = 1001;
        }
        assert!(is_lost(&verdict(&group, now)));
    }

    #[test]
    fn the_health_of_the_pod_lowers_the_number_of_votes() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        unheard(&mut group[0]);
        group[0].health = Health::Gone;
        assert!(is_lost(&verdict(&group, now)), "a pod that ended needs no vote");
        for doubt in [Health::Leaving, Health::Doubtful] {
            group[0].health = doubt;
            assert_eq!(verdict(&group, now), serving(false), "{doubt:?} alone is no vote");
        }
        loses_primary(&mut group[2]);
        for doubt in [Health::Leaving, Health::Doubtful] {
            group[0].health = doubt;
            assert!(is_lost(&verdict(&group, now)), "{doubt:?} and one member");
        }
    }

    #[test]
    fn a_primary_that_is_heard_serves_whatever_kubernetes_says_of_its_pod() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        for health in [Health::Doubtful, Health::Leaving, Health::Gone] {
            group[0].health = health;
            assert_eq!(verdict(&group, now), serving(true), "{health:?}");
        }
    }

    #[test]
    fn a_primary_that_this_operator_has_not_heard_yet_is_not_taken_for_gone() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        (group[0].status, group[0].heard, group[0].connected) = (None, None, false);
        assert_eq!(verdict(&group, now), serving(false));
    }

    #[test]
    fn a_primary_cut_from_its_peers_is_lost_although_the_operator_hears_it() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        loses_primary(&mut group[1]);
        loses_primary(&mut group[2]);
        assert_eq!(verdict(&group, now), serving(true), "it still reaches them");
        for peer in &mut status(&mut group[0]).peers {
            peer.connected = false;
        }
        assert!(is_lost(&verdict(&group, now)));
    }

    #[test]
    fn a_primary_without_members_does_not_serve_and_is_not_replaced() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        for peer in &mut status(&mut group[0]).peers {
            peer.connected = false;
        }
        unheard(&mut group[1]);
        unheard(&mut group[2]);
        let Verdict::NoQuorum { primary, reason } = verdict(&group, now) else {
            panic!("not NoQuorum")
        };
        assert_eq!(primary, incarnation(0));
        assert_eq!(
            reason,
            "the primary reaches 0 other replicas and needs 1 to acknowledge writes and answer reads"
        );
    }

    #[test]
    fn a_member_that_missed_the_last_failover_has_lost_the_primary_too() {
        let now = Instant::now();
        let mut group = well(Quorum::strong(5, 4, 2), now);
        for member in &mut group[1..4] {
            loses_primary(member);
        }
        let late = status(&mut group[4]).primary.as_mut().unwrap();
        (late.incarnation, late.epoch, late.connected) = (incarnation(1), epoch(0), false);
        // The volume of the primary is gone: what runs in its place is no member.
        let members: Vec<&Observed> = group[1..].iter().collect();
        assert!(
            is_lost(&judge(&members, Quorum::strong(5, 4, 2), LIMIT, now)),
            "all that are left have lost it"
        );
    }

    #[test]
    fn members_that_follow_nobody_need_a_primary() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        for member in &mut group {
            let status = status(member);
            (status.primary, status.role) = (None, NodeRole::Follower);
        }
        assert!(matches!(verdict(&group, now), Verdict::Lost { primary: None, .. }));
    }

    #[test]
    fn a_replica_that_others_follow_before_it_says_so_itself_is_becoming_primary_and_one_that_restarted_is_lost() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        (status(&mut group[0]).role, status(&mut group[0]).primary) = (NodeRole::Follower, None);
        status(&mut group[2]).primary = None;
        assert_eq!(verdict(&group, now), Verdict::Activating { primary: incarnation(0) });
        loses_primary(&mut group[1]);
        assert!(is_lost(&verdict(&group, now)));
    }

    #[test]
    fn a_replica_that_was_chosen_is_given_time_unless_a_higher_epoch_was_begun() {
        let now = Instant::now();
        let mut group = well(QUORUM, now);
        status(&mut group[0]).role = NodeRole::Activating;
        assert_eq!(verdict(&group, now), Verdict::Activating { primary: incarnation(0) });
        status(&mut group[1]).promised = epoch(2);
        assert!(is_lost(&verdict(&group, now)));
    }
}
