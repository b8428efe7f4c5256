//! Groups of replicas for the tests of the pure parts.

use crate::observe::{Health, Observed};
use crate::settings::{Rebalance, Settings};
use quorate_api::{
    Configuration, DiskRoom, EntryId, Epoch, Incarnation, Member, NodeRole, NodeStatus, PeerStatus, PrimaryView, Quorum, ReplicaId, StoreId,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Default of `suspectAfterMillis`.
pub(crate) const LIMIT: Duration = Duration::from_secs(1);

pub(crate) fn incarnation(ordinal: u32) -> Incarnation {
    Incarnation(Uuid::from_u128(u128::from(ordinal) + 1))
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch { number, token: 1 }
}

pub(crate) fn settings(quorum: Quorum) -> Settings {
    Settings {
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
        uid: "u".to_owned(),
        generation: 1,
        shards: 1,
        quorum,
        durability: quorate_crds::Durability::Fsync,
        max_memory: 0,
        automatic: true,
        heartbeat: Duration::from_millis(200),
        suspect_after: LIMIT,
        min_interval: Duration::ZERO,
        recreate_after: Some(Duration::from_secs(300)),
        operator_away: Some(Duration::from_secs(10)),
        restarts: true,
        rebalance: Rebalance {
            automatic: true,
            max_concurrent_moves: 4,
            max_bytes_per_second: 0,
        },
        paused: false,
    }
}

pub(crate) fn configuration(quorum: Quorum) -> Configuration {
    let members = (0..quorum.replicas).map(|ordinal| Member {
        incarnation: incarnation(ordinal),
        ordinal,
        host: format!("orders-0-{ordinal}:7400"),
    });
    Configuration::of(members.collect(), quorum).unwrap()
}

/// Replica `ordinal` of a store that was never bootstrapped, heard just now.
pub(crate) fn blank(ordinal: u32, now: Instant) -> Observed {
    Observed {
        pod: format!("orders-0-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        ordinal,
        exists: true,
        revision: Some("new".to_owned()),
        since: Some(now),
        address: Some(format!("10.0.0.{ordinal}:7400")),
        health: Health::Running,
        connected: true,
        heard: Some(now),
        status: Some(NodeStatus::blank(ReplicaId {
            store: StoreId(Uuid::nil()),
            shard: 0,
            ordinal,
            incarnation: incarnation(ordinal),
        })),
    }
}

pub(crate) fn blanks(quorum: Quorum, now: Instant) -> Vec<Observed> {
    (0..quorum.replicas).map(|ordinal| blank(ordinal, now)).collect()
}

/// A group that is well: replica 0 is the primary of epoch 1.
pub(crate) fn well(quorum: Quorum, now: Instant) -> Vec<Observed> {
    let mut members = blanks(quorum, now);
    let start = EntryId { epoch: epoch(1), index: 1 };
    for (ordinal, member) in members.iter_mut().enumerate() {
        let status = member.status.as_mut().unwrap();
        status.role = if ordinal == 0 { NodeRole::Primary } else { NodeRole::Follower };
        (status.promised, status.last) = (epoch(1), start);
        (status.commit, status.durable) = (1, 1);
        status.configuration = Some((start, configuration(quorum)));
        status.primary = Some(PrimaryView {
            incarnation: incarnation(0),
            epoch: epoch(1),
            heard_millis_ago: 0,
            connected: true,
        });
        if ordinal == 0 {
            status.peers = (1..quorum.replicas)
                .map(|peer| PeerStatus {
                    incarnation: incarnation(peer),
                    connected: true,
                    matched: 1,
                    heard_millis_ago: 0,
                    snapshot: false,
                    learner: false,
                    disk: DiskRoom::Ample,
                })
                .collect();
        }
    }
    members
}

pub(crate) fn status(member: &mut Observed) -> &mut NodeStatus {
    member.status.as_mut().unwrap()
}

/// The member's connection from its primary was reset.
pub(crate) fn loses_primary(member: &mut Observed) {
    status(member).primary.as_mut().unwrap().connected = false;
}

/// The operator's stream to the member was reset.
pub(crate) fn unheard(member: &mut Observed) {
    member.connected = false;
}
