//! The status of a store, from what was observed. Pure: conditions keep their time while their status is the same.

use crate::detect::{Observed, Verdict, primary_of};
use crate::settings::Settings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use quorate_api::slot::SLOTS;
use quorate_api::{NodeRole, Quorum};
use quorate_crds::conditions::{AVAILABLE, FAILOVER_BLOCKED, READY, RECONCILED, WARNING, reasons};
use quorate_crds::{LastFailover, ReplicaRole, ReplicaStatus, ReplicatedStoreStatus, ShardQuorum, ShardStatus};
use std::time::{Duration, Instant};

/// A replica that is behind by fewer entries than this is in step with its primary.
const IN_STEP: u64 = 10_000;

/// What a shard is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not bootstrapped: not all replicas are there.
    Gathering,
    /// The first epoch is being started.
    Bootstrapping,
    /// Refused: the store had data, and its replicas are empty.
    DataLost(String),
    /// Bootstrapped.
    Running(Verdict),
    /// A view change is under way.
    FailingOver(String),
    /// One is needed and cannot be: why.
    Blocked(String),
}

/// Everything that the status depends on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The spec, checked.
    pub settings: &'a Settings,
    /// Whether its objects could be applied.
    pub applied: &'a Result<(), String>,
    /// The replicas by ordinal.
    pub members: &'a [Observed],
    /// What the shard is doing.
    pub phase: &'a Phase,
    /// The last failover, if there was one.
    pub last_failover: Option<&'a LastFailover>,
    /// Label selector of the pods.
    pub selector: String,
}

/// The status.
#[must_use]
pub fn report(facts: &Facts<'_>, before: &ReplicatedStoreStatus, now: Instant, wall: Timestamp) -> ReplicatedStoreStatus {
    let shard = shard(facts, before, now);
    let primary = shard.primary.is_some();
    let synced = shard.replicas.iter().filter(|replica| replica.synced).count();
    let mut status = ReplicatedStoreStatus {
        observed_generation: Some(facts.settings.generation),
        selector: Some(facts.selector.clone()),
        ready_shards: i32::from(primary),
        conditions: Vec::new(),
        shards: vec![shard],
        last_failover: facts.last_failover.cloned().or_else(|| before.last_failover.clone()),
    };
    for (type_, (holds, reason, message)) in [
        (READY, ready(facts, synced)),
        (AVAILABLE, available(facts)),
        (RECONCILED, reconciled(facts)),
        (FAILOVER_BLOCKED, blocked(facts)),
        (WARNING, warning(facts.settings.quorum)),
    ] {
        let value = if holds { "True" } else { "False" };
        let since = before
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == value)
            .map_or(Time(wall), |condition| condition.last_transition_time.clone());
        status.conditions.push(Condition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since,
            observed_generation: Some(facts.settings.generation),
        });
    }
    status
}

type Say = (bool, &'static str, String);

fn available(facts: &Facts<'_>) -> Say {
    match facts.phase {
        Phase::Running(Verdict::Serving { .. }) => (true, reasons::SERVING, "the primary acknowledges writes".to_owned()),
        Phase::Gathering => {
            let there = facts.members.iter().filter(|member| member.connected).count();
            let wanted = facts.settings.quorum.replicas;
            (
                false,
                reasons::WAITING_FOR_REPLICAS,
                format!("{there} of {wanted} replicas answer; the first epoch needs all of them"),
            )
        }
        Phase::Bootstrapping => (false, reasons::BOOTSTRAPPING, "starting the first epoch".to_owned()),
        Phase::DataLost(message) => (false, reasons::DATA_LOST, message.clone()),
        Phase::Running(Verdict::Waiting { reason }) => (false, reasons::WAITING_FOR_REPLICAS, reason.clone()),
        Phase::Running(Verdict::Lost { reason, .. }) if !facts.settings.automatic => {
            (false, reasons::MANUAL, format!("{reason}; spec.failover.mode is Manual"))
        }
        Phase::Running(Verdict::Lost { reason, .. }) | Phase::FailingOver(reason) => (false, reasons::FAILING_OVER, reason.clone()),
        Phase::Blocked(reason) => (false, reasons::TOO_FEW_REPLICAS, reason.clone()),
    }
}

fn ready(facts: &Facts<'_>, synced: usize) -> Say {
    let (available, reason, message) = available(facts);
    let wanted = facts.settings.quorum.replicas as usize;
    if !available {
        (false, reason, message)
    } else if synced < wanted {
        (
            false,
            reasons::REPLICAS_BEHIND,
            format!("{synced} of {wanted} replicas are in step with the primary"),
        )
    } else {
        (true, reasons::SERVING, format!("{wanted} replicas are in step"))
    }
}

fn reconciled(facts: &Facts<'_>) -> Say {
    match facts.applied {
        _ if facts.settings.paused => (
            false,
            reasons::PAUSED,
            "spec.paused is set: objects are left alone, failovers still happen".to_owned(),
        ),
        Ok(()) => (true, reasons::APPLIED, "all objects are as the spec wants them".to_owned()),
        Err(error) => (false, reasons::APPLY_FAILED, error.clone()),
    }
}

fn blocked(facts: &Facts<'_>) -> Say {
    match facts.phase {
        Phase::Blocked(reason) => (true, reasons::TOO_FEW_REPLICAS, reason.clone()),
        _ => (false, reasons::NONE, String::new()),
    }
}

fn warning(quorum: Quorum) -> Say {
    match quorum.replicas {
        1 => (
            true,
            reasons::SINGLE_REPLICA,
            "one replica: its loss is the loss of the data".to_owned(),
        ),
        even if even % 2 == 0 => (
            true,
            reasons::EVEN_REPLICAS,
            format!(
                "{even} replicas tolerate {} failed ones in a failover, no more than {} would",
                quorum.failover_tolerates(),
                even - 1
            ),
        ),
        _ => (false, reasons::NONE, String::new()),
    }
}

fn shard(facts: &Facts<'_>, before: &ReplicatedStoreStatus, now: Instant) -> ShardStatus {
    let limit = facts.settings.suspect_after.max(Duration::from_secs(2));
    let serving = match facts.phase {
        Phase::Running(Verdict::Serving { primary }) => Some(*primary),
        _ => None,
    };
    let newest = facts.members.iter().filter_map(|member| member.status.as_ref());
    let epoch = newest.clone().map(|status| status.promised.number).max().unwrap_or_default();
    let leader = newest
        .clone()
        .filter(|status| status.role == NodeRole::Primary && Some(status.id.incarnation) == serving)
        .max_by_key(|status| status.promised);
    let mut replicas = Vec::new();
    for member in facts.members {
        let status = member.fresh(now, limit);
        let incarnation = member.status.as_ref().map(|status| status.id.incarnation);
        let role = match status {
            None => ReplicaRole::Unreachable,
            Some(status) if status.role == NodeRole::Blank => ReplicaRole::Blank,
            Some(status) if Some(status.id.incarnation) == serving => ReplicaRole::Primary,
            Some(_) => ReplicaRole::Replica,
        };
        let synced = match (role, leader) {
            (ReplicaRole::Primary, _) => true,
            (ReplicaRole::Replica, Some(leader)) => leader.peers.iter().any(|peer| {
                Some(peer.incarnation) == incarnation && peer.connected && peer.matched > 0 && peer.matched + IN_STEP >= leader.last.index
            }),
            _ => false,
        };
        replicas.push(ReplicaStatus {
            name: member.pod.clone(),
            id: incarnation.map(|incarnation| incarnation.to_string()),
            role,
            synced,
        });
    }
    let quorum = newest
        .filter_map(|status| status.configuration.as_ref())
        .max_by_key(|(start, _)| *start)
        .map(|(_, configuration)| sizes(configuration.quorum()));
    let known = before.shards.first();
    ShardStatus {
        index: 0,
        epoch: i64::try_from(epoch).unwrap_or(i64::MAX).max(known.map_or(0, |shard| shard.epoch)),
        primary: facts
            .members
            .iter()
            .find(|member| serving.is_some() && id(member) == serving)
            .map(|member| member.pod.clone()),
        quorum: quorum.or_else(|| known.and_then(|shard| shard.quorum)),
        slots: i32::from(SLOTS),
        replicas,
    }
}

fn id(member: &Observed) -> Option<quorate_api::Incarnation> {
    member.status.as_ref().map(|status| status.id.incarnation)
}

/// The pod of the replica that serves, or served last.
#[must_use]
pub fn primary_pod(members: &[Observed]) -> Option<String> {
    let primary = primary_of(members)?;
    members
        .iter()
        .find(|member| id(member) == Some(primary))
        .map(|member| member.pod.clone())
}

fn sizes(quorum: Quorum) -> ShardQuorum {
    let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    ShardQuorum {
        replicas: int(quorum.replicas),
        write: int(quorum.write),
        read: int(quorum.read),
        fence: int(quorum.fence()),
        writes_tolerate: int(quorum.writes_tolerate()),
        reads_tolerate: int(quorum.reads_tolerate()),
        failover_tolerates: int(quorum.failover_tolerates()),
    }
}
