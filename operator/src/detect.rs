//! Failure detection: whether a shard has lost its primary, from three inputs: what pods are, what the operator's own
//! streams say, and what the members say of each other.
//!
//! Pure. A wrong suspicion costs a short outage; it cannot lose a write, because the members fence before anyone serves.

use quorate_api::{Incarnation, NodeRole, NodeStatus, Quorum};
use std::time::{Duration, Instant};

/// What the operator knows of one replica.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its pod.
    pub pod: String,
    /// Whether the operator's stream to it stands.
    pub connected: bool,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// What it said then.
    pub status: Option<NodeStatus>,
}

impl Observed {
    /// What it says, if that is news.
    #[must_use]
    pub fn fresh(&self, now: Instant, limit: Duration) -> Option<&NodeStatus> {
        let heard = self.heard?;
        (self.connected && now.duration_since(heard) <= limit).then_some(self.status.as_ref()?)
    }
}

/// What a shard looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its primary serves.
    Serving {
        /// The primary.
        primary: Incarnation,
    },
    /// Somebody is becoming primary, or it is not sure that the primary is lost.
    Waiting {
        /// For what.
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

/// Judges a shard of `quorum` that was bootstrapped.
#[must_use]
pub fn judge(members: &[Observed], quorum: Quorum, suspect_after: Duration, now: Instant) -> Verdict {
    let fresh: Vec<&NodeStatus> = members.iter().filter_map(|member| member.fresh(now, suspect_after)).collect();
    let epoch = members
        .iter()
        .filter_map(|member| member.status.as_ref())
        .map(|status| status.promised)
        .max()
        .unwrap_or_default();
    let primary = primary_of(members);
    let fence = quorum.fence() as usize;
    let Some(primary) = primary else {
        return if fresh.len() < fence {
            Verdict::Waiting {
                reason: format!("{} of {} replicas answer, {fence} are needed", fresh.len(), quorum.replicas),
            }
        } else {
            Verdict::Lost {
                primary: None,
                reason: "no replica knows a primary".to_owned(),
            }
        };
    };
    let lost_by = fresh.iter().filter(|status| has_lost(status, primary, suspect_after)).count();
    let own = fresh.iter().find(|status| status.id.incarnation == primary);
    match own {
        Some(status) if status.role == NodeRole::Primary && status.promised == epoch => {
            let peers = status.peers.iter().filter(|peer| alive(peer, suspect_after)).count();
            let reaches_quorum = peers + 1 >= quorum.write.max(quorum.read) as usize;
            if !reaches_quorum && lost_by >= fence {
                return Verdict::Lost {
                    primary: Some(primary),
                    reason: format!("the primary reaches {peers} members, and {lost_by} members that could go on have lost it"),
                };
            }
            Verdict::Serving { primary }
        }
        Some(status) if status.role == NodeRole::Activating && status.promised == epoch => Verdict::Waiting {
            reason: "a replica is becoming primary".to_owned(),
        },
        Some(status) => Verdict::Lost {
            primary: Some(primary),
            reason: match status.role {
                NodeRole::Primary | NodeRole::Activating => "a higher epoch was begun and nobody serves it".to_owned(),
                NodeRole::Follower | NodeRole::Blank => "the last primary serves no more".to_owned(),
            },
        },
        None if lost_by >= fence => Verdict::Lost {
            primary: Some(primary),
            reason: format!("neither the operator nor {lost_by} members hear the primary"),
        },
        None => Verdict::Waiting {
            reason: format!("the operator does not hear the primary; {lost_by} members have lost it too, {fence} are needed"),
        },
    }
}

/// The replica that serves, or served last: of the highest epoch in which anybody knows a primary.
#[must_use]
pub fn primary_of(members: &[Observed]) -> Option<Incarnation> {
    let known = members.iter().filter_map(|member| member.status.as_ref()?.primary.as_ref());
    known.max_by_key(|view| view.epoch).map(|view| view.incarnation)
}

fn alive(peer: &quorate_api::PeerStatus, suspect_after: Duration) -> bool {
    peer.connected && Duration::from_millis(peer.heard_millis_ago) <= suspect_after
}

/// Whether a member has lost that primary: its connection is gone, it is silent, or the member follows nobody.
fn has_lost(status: &NodeStatus, primary: Incarnation, suspect_after: Duration) -> bool {
    if status.id.incarnation == primary {
        return false;
    }
    match &status.primary {
        None => true,
        Some(view) => view.incarnation == primary && (!view.connected || Duration::from_millis(view.heard_millis_ago) > suspect_after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{EntryId, Epoch, PeerStatus, PrimaryView, ReplicaId, StoreId};

    const LIMIT: Duration = Duration::from_secs(1);
    const QUORUM: Quorum = Quorum {
        replicas: 3,
        write: 2,
        read: 2,
    };

    fn incarnation(number: u32) -> Incarnation {
        serde_json::from_value(serde_json::json!(format!("00000000-0000-0000-0000-{number:012}"))).unwrap()
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 1 }
    }

    fn store() -> StoreId {
        serde_json::from_value(serde_json::json!("00000000-0000-0000-0000-000000000000")).unwrap()
    }

    /// Replica 0 is the primary of epoch 1, and all are well.
    fn group(now: Instant) -> Vec<Observed> {
        (0..3)
            .map(|ordinal| Observed {
                pod: format!("s-0-{ordinal}"),
                connected: true,
                heard: Some(now),
                status: Some(NodeStatus {
                    id: ReplicaId {
                        store: store(),
                        shard: 0,
                        ordinal,
                        incarnation: incarnation(ordinal),
                    },
                    version: String::new(),
                    role: if ordinal == 0 { NodeRole::Primary } else { NodeRole::Follower },
                    promised: epoch(1),
                    last: EntryId::default(),
                    durable: 1,
                    commit: 1,
                    configuration: None,
                    primary: Some(PrimaryView {
                        incarnation: incarnation(0),
                        epoch: epoch(1),
                        heard_millis_ago: 0,
                        connected: true,
                    }),
                    peers: (1..3)
                        .filter(|_| ordinal == 0)
                        .map(|peer| PeerStatus {
                            incarnation: incarnation(peer),
                            connected: true,
                            matched: 1,
                            heard_millis_ago: 0,
                            snapshot: false,
                        })
                        .collect(),
                    damaged: false,
                    terminating: false,
                    keys: 0,
                    memory_bytes: 0,
                    writes_refused: None,
                }),
            })
            .collect()
    }

    fn loses_primary(member: &mut Observed) {
        let status = member.status.as_mut().unwrap();
        status.primary.as_mut().unwrap().connected = false;
    }

    #[test]
    fn a_group_that_is_well_is_left_alone() {
        let now = Instant::now();
        assert_eq!(judge(&group(now), QUORUM, LIMIT, now), Verdict::Serving { primary: incarnation(0) });
    }

    #[test]
    fn a_reset_seen_by_operator_and_members_counts_at_once() {
        let now = Instant::now();
        let mut group = group(now);
        group[0].connected = false;
        loses_primary(&mut group[1]);
        assert!(
            matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Waiting { .. }),
            "one member is not enough to fence"
        );
        loses_primary(&mut group[2]);
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Lost { primary: Some(p), .. } if p == incarnation(0)));
    }

    #[test]
    fn losing_only_the_link_between_operator_and_primary_is_no_reason() {
        let now = Instant::now();
        let mut group = group(now);
        group[0].connected = false;
        group[0].heard = now.checked_sub(Duration::from_secs(60));
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Waiting { .. }));
    }

    #[test]
    fn silence_counts_after_the_limit() {
        let begin = Instant::now();
        let now = begin + Duration::from_millis(1500);
        let mut group = group(now);
        group[0].heard = Some(begin);
        for member in &mut group[1..] {
            member.status.as_mut().unwrap().primary.as_mut().unwrap().heard_millis_ago = 1500;
        }
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Lost { .. }));
    }

    #[test]
    fn a_primary_cut_from_its_peers_is_lost_although_the_operator_hears_it() {
        let now = Instant::now();
        let mut group = group(now);
        loses_primary(&mut group[1]);
        loses_primary(&mut group[2]);
        assert!(
            matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Serving { .. }),
            "it still reaches them"
        );
        for peer in &mut group[0].status.as_mut().unwrap().peers {
            peer.connected = false;
        }
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Lost { .. }));
    }

    #[test]
    fn members_that_follow_nobody_need_a_primary_if_they_are_enough_to_fence() {
        let now = Instant::now();
        let mut group = group(now);
        for member in &mut group {
            let status = member.status.as_mut().unwrap();
            (status.primary, status.role) = (None, NodeRole::Follower);
        }
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Lost { primary: None, .. }));
        group[0].connected = false;
        group[1].connected = false;
        assert!(matches!(judge(&group, QUORUM, LIMIT, now), Verdict::Waiting { .. }));
    }
}
