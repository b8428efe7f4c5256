//! The status of a shard, as that of a store which has no other, and the events that go with a change of it, from what was
//! observed and decided. Pure: a condition keeps its time while its status is the same. How a store of several shards is told
//! is the part of [`crate::store`].

mod disks;

use crate::losses;
use crate::observe::{Observed, configuration};
use crate::plan::{Doing, Note, Observation, Outcome, Phase};
use crate::settings::Settings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use quorate_api::SlotSet;
use quorate_api::{Incarnation, NodeRole, NodeStatus, PeerStatus, Quorum};
use quorate_crds::conditions::{
    AVAILABLE, CHANGING, FAILOVER_BLOCKED, READY, REBALANCE_STALLED, REBALANCING, RECONCILED, UPDATING, WARNING, reasons,
};
use quorate_crds::{ChangeStep, ReplicaRole, ReplicaStatus, ReplicatedStoreStatus, ShardQuorum, ShardStatus};
use std::time::Duration;

/// A replica that is behind by fewer entries than this is in step with its primary.
const IN_STEP: u64 = 10_000;
/// A lag below this is told as none.
const TOLD_LAG: u64 = 1000;
/// A replica that was not heard for so long, at least, is told to be unreachable: people need no flicker.
const UNREACHABLE: Duration = Duration::from_secs(2);

/// A replica that was not heard for longer is told to be unreachable.
#[must_use]
pub fn unreachable_after(settings: &Settings) -> Duration {
    settings.suspect_after.max(UNREACHABLE)
}

/// The index of a shard as it is told.
#[must_use]
pub fn told_index(shard: u32) -> i32 {
    i32::try_from(shard).unwrap_or(i32::MAX)
}

/// A condition; it keeps its time while its status is the one that was told before.
#[must_use]
pub fn condition(
    before: &ReplicatedStoreStatus,
    type_: &str,
    (holds, reason, message): Say,
    wall: Timestamp,
    generation: i64,
) -> Condition {
    let value = if holds { "True" } else { "False" };
    let known = before.conditions.iter().find(|known| known.type_ == type_ && known.status == value);
    Condition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: known.map_or(Time(wall), |known| known.last_transition_time.clone()),
        observed_generation: Some(generation),
    }
}

/// The status.
#[must_use]
pub fn report(seen: &Observation<'_>, phase: &Phase, doing: &Doing) -> ReplicatedStoreStatus {
    let shard = shard(seen, phase, doing);
    let shards_ready = i32::from(shard.primary.is_some());
    let behind = disks::ill(seen).or_else(|| behind(seen, &shard, doing));
    let available = disks::refused(seen, phase).unwrap_or_else(|| available(phase));
    let (changing, updating) = (changing(&shard), updating(seen, &shard));
    let mut status = ReplicatedStoreStatus {
        observed_generation: Some(seen.reconciled.generation),
        selector: Some(seen.selector.to_owned()),
        ready_shards: shards_ready,
        conditions: Vec::new(),
        shards: vec![shard],
        rebalance: None,
        last_failover: losses::completed(seen.told.last_failover.as_ref(), seen.members),
        data_loss: seen.told.data_loss.clone(),
    };
    for (type_, say) in [
        (READY, ready(available.clone(), behind)),
        (AVAILABLE, available),
        (RECONCILED, reconciled(seen)),
        (FAILOVER_BLOCKED, blocked(phase)),
        (CHANGING, changing),
        (UPDATING, updating),
        (WARNING, warning(seen.settings)),
    ] {
        let said = condition(seen.told, type_, say, seen.wall, seen.reconciled.generation);
        status.conditions.push(said);
    }
    status
}

/// The events of a change of the conditions. A message that changes alone is none.
#[must_use]
pub fn notes(before: &ReplicatedStoreStatus, after: &ReplicatedStoreStatus) -> Vec<Note> {
    let lost = losses::in_words(before.last_failover.as_ref(), after.last_failover.as_ref()).map(|text| Note {
        warning: true,
        reason: "WritesLost",
        text,
    });
    let news = after.conditions.iter().filter(|condition| {
        let known = before.conditions.iter().find(|known| known.type_ == condition.type_);
        known.is_none_or(|known| (&known.status, &known.reason) != (&condition.status, &condition.reason))
    });
    news.filter_map(|condition| {
        let (type_, holds) = (condition.type_.as_str(), condition.status == "True");
        let was = before
            .conditions
            .iter()
            .find(|known| known.type_ == type_)
            .is_some_and(|known| known.status == "True");
        let (warning, reason) = match (type_, holds, condition.reason.as_str()) {
            (CHANGING, true, _) if !was => (false, "ChangeBegun"),
            (CHANGING, false, _) if was => (false, "ChangeDone"),
            (REBALANCING, true, _) if !was => (false, "RebalanceBegun"),
            (REBALANCING, false, reasons::BALANCED) if was => (false, "RebalanceDone"),
            (REBALANCE_STALLED, true, _) => (true, "RebalanceStalled"),
            (UPDATING, true, _) if !was => (false, "UpdateBegun"),
            (UPDATING, false, _) if was => (false, "UpdateDone"),
            (FAILOVER_BLOCKED, true, _) => (true, "FailoverBlocked"),
            (READY, false, reasons::DISK_FULL) => (true, reasons::DISK_FULL),
            (READY, false, reasons::DAMAGED) => (true, reasons::DAMAGED),
            (AVAILABLE, false, reasons::DISK_FULL) => (true, "WritesRefused"),
            (AVAILABLE, false, reasons::DATA_LOST) => (true, reasons::DATA_LOST),
            (RECONCILED, false, reasons::APPLY_FAILED) => (true, reasons::APPLY_FAILED),
            (RECONCILED, false, reasons::INVALID_SPEC) => (true, reasons::INVALID_SPEC),
            (WARNING, true, reasons::EVEN_REPLICAS) => (true, reasons::EVEN_REPLICAS),
            (WARNING, true, reasons::MAY_LOSE_WRITES) => (true, reasons::MAY_LOSE_WRITES),
            (WARNING, true, reasons::SINGLE_REPLICA) => (true, reasons::SINGLE_REPLICA),
            _ => return None,
        };
        let text = condition.message.clone();
        Some(Note { warning, reason, text })
    })
    .chain(lost)
    .collect()
}

const APPLIED: &str = "all objects are as the spec wants them";

/// Whether a condition holds, the reason and the message.
pub type Say = (bool, &'static str, String);

fn available(phase: &Phase) -> Say {
    match phase {
        Phase::Serving(_, true) => (true, reasons::SERVING, "the primary acknowledges writes".to_owned()),
        Phase::Serving(_, false) => {
            let text = "a write quorum follows the primary; the operator itself does not hear it".to_owned();
            (true, reasons::SERVING, text)
        }
        Phase::Starting => (false, reasons::WAITING_FOR_REPLICAS, "the operator begins to listen".to_owned()),
        Phase::Gathering(text) => (false, reasons::WAITING_FOR_REPLICAS, text.clone()),
        Phase::Bootstrapping(text) => (false, reasons::BOOTSTRAPPING, text.clone()),
        Phase::Paused => {
            let text = "spec.paused is set: the first epoch starts when it is not".to_owned();
            (false, reasons::PAUSED, text)
        }
        Phase::DataLost(text) => (false, reasons::DATA_LOST, text.clone()),
        Phase::NoQuorum(text) => (false, reasons::NO_WRITE_QUORUM, text.clone()),
        Phase::NoRoom(text) => (false, reasons::DISK_FULL, text.clone()),
        Phase::Doubt(text) => (false, reasons::PRIMARY_SUSPECTED, text.clone()),
        Phase::ViewChanging(text) => (false, reasons::VIEW_CHANGING, text.clone()),
        Phase::FailingOver(text) => (false, reasons::FAILING_OVER, text.clone()),
        Phase::Manual(text) => (false, reasons::MANUAL, text.clone()),
        Phase::Held(text) => (false, reasons::MINIMUM_INTERVAL, text.clone()),
        Phase::Blocked(text) => (false, reasons::TOO_FEW_REPLICAS, text.clone()),
    }
}

fn changing(shard: &ShardStatus) -> Say {
    let Some(change) = &shard.change else {
        let text = "members and quorum are as the spec wants them".to_owned();
        return (false, reasons::NONE, text);
    };
    let reason = match change.step {
        ChangeStep::Waiting => reasons::WAITING,
        ChangeStep::ScalingUp => reasons::SCALING_UP,
        ChangeStep::CatchingUp => reasons::CATCHING_UP,
        ChangeStep::MovingPrimary => reasons::MOVING_PRIMARY,
        ChangeStep::Committing => reasons::COMMITTING,
        ChangeStep::ScalingDown => reasons::SCALING_DOWN,
    };
    (true, reason, format!("{} -> {}: {}", change.from, change.to, change.reason))
}

fn updating(seen: &Observation<'_>, shard: &ShardStatus) -> Say {
    let Some(update) = &shard.update else {
        return (false, reasons::NONE, "all pods run what the spec asks for".to_owned());
    };
    let reason = if seen.settings.restarts {
        reasons::RESTARTING
    } else {
        reasons::MANUAL_UPDATE
    };
    let text = format!(
        "{} of {} pods run what the spec asks for: {}",
        update.updated, update.pods, update.reason
    );
    (true, reason, text)
}

fn ready(available: Say, behind: Option<(&'static str, String)>) -> Say {
    let (available, reason, message) = available;
    match behind {
        _ if !available => (false, reason, message),
        Some((reason, behind)) => (false, reason, behind),
        None => (true, reasons::SERVING, "all replicas are in step".to_owned()),
    }
}

/// Why a shard that serves is not all that it should be, and what will change that.
fn behind(seen: &Observation<'_>, shard: &ShardStatus, doing: &Doing) -> Option<(&'static str, String)> {
    if let Some(change) = &shard.change {
        let text = format!("{} -> {}: {}", change.from, change.to, change.reason);
        return Some((reasons::CHANGING, text));
    }
    let wanted = seen.settings.quorum.replicas;
    let late: Vec<&str> = shard
        .replicas
        .iter()
        .filter(|replica| !replica.synced)
        .map(|replica| replica.name.as_str())
        .collect();
    let synced = shard.replicas.len() - late.len();
    if late.is_empty() && synced >= wanted as usize {
        return None;
    }
    let missing = if late.is_empty() {
        "the rest has no pod".to_owned()
    } else {
        format!("not {}", late.join(", "))
    };
    let until = doing.replacement.as_deref().unwrap_or("they catch up by themselves once they run");
    let text = format!("{synced} of {wanted} replicas are in step with the primary, {missing}: {until}");
    Some((reasons::REPLICAS_BEHIND, text))
}

fn reconciled(seen: &Observation<'_>) -> Say {
    let known = seen.told.conditions.iter().find(|condition| condition.type_ == RECONCILED);
    match &seen.reconciled.outcome {
        // An operator that has just started does not take back what the one before it found.
        Outcome::Begun
            if known.is_some_and(|known| known.status == "True" && known.observed_generation == Some(seen.reconciled.generation)) =>
        {
            (true, reasons::APPLIED, APPLIED.to_owned())
        }
        Outcome::Invalid(error) => (false, reasons::INVALID_SPEC, error.clone()),
        _ if seen.settings.paused => (
            false,
            reasons::PAUSED,
            "spec.paused is set: objects are left alone, failovers still happen".to_owned(),
        ),
        Outcome::Begun => (false, reasons::APPLYING, "objects are being applied".to_owned()),
        Outcome::Applied => (true, reasons::APPLIED, APPLIED.to_owned()),
        Outcome::Failed(error) => (false, reasons::APPLY_FAILED, format!("{error}; it is tried again by itself")),
    }
}

fn blocked(phase: &Phase) -> Say {
    match phase {
        Phase::Blocked(reason) => (true, reasons::TOO_FEW_REPLICAS, reason.clone()),
        _ => (false, reasons::NONE, String::new()),
    }
}

fn warning(settings: &Settings) -> Say {
    let quorum = settings.quorum;
    match quorum.replicas {
        _ if quorum.failover_loses() => (
            true,
            reasons::MAY_LOSE_WRITES,
            format!(
                "consistency is Eventual: a write is acknowledged when {} of {} replicas hold it, and a failover loses what fewer than {} do",
                quorum.write,
                quorum.replicas,
                quorum.commit()
            ),
        ),
        1 => (
            true,
            reasons::SINGLE_REPLICA,
            "one replica: its loss is the loss of the data".to_owned(),
        ),
        even if even % 2 == 0 => (
            true,
            reasons::EVEN_REPLICAS,
            format!(
                "{even} replicas go on with {} failed, no more than {} do",
                quorum
                    .failover_tolerates()
                    .min(quorum.writes_tolerate())
                    .min(quorum.reads_tolerate()),
                even - 1
            ),
        ),
        _ => (false, reasons::NONE, String::new()),
    }
}

fn shard(seen: &Observation<'_>, phase: &Phase, doing: &Doing) -> ShardStatus {
    let limit = unreachable_after(seen.settings);
    let serving = match phase {
        Phase::Serving(primary, _) => Some(*primary),
        _ => None,
    };
    let statuses = || seen.members.iter().filter_map(|member| member.status.as_ref());
    // What blank replicas promised to a first view change that did not come about is no epoch, nor is what a replica began and
    // has not on its disk: a store that never had one must not be told to have had data.
    let born = statuses().any(|status| status.has_begun() || status.damaged);
    let promised = statuses().map(|status| status.promised.number).max().unwrap_or_default();
    let epoch = if born { promised } else { 0 };
    let leader = statuses().find(|status| status.role == NodeRole::Primary && Some(status.id.incarnation) == serving);
    let current = configuration(seen.members).map(|(_, current)| current);
    let replicas = seen.members.iter().map(|member| {
        let incarnation = member.incarnation();
        let role = match member.fresh(seen.now, limit) {
            None => ReplicaRole::Unreachable,
            Some(status) if status.role == NodeRole::Blank => ReplicaRole::Blank,
            Some(_) if serving.is_some() && incarnation == serving => ReplicaRole::Primary,
            Some(status) if current.is_some_and(|current| !current.contains(status.id.incarnation)) => ReplicaRole::Learner,
            Some(_) => ReplicaRole::Replica,
        };
        let synced = match (role, leader) {
            (ReplicaRole::Primary, _) => true,
            (ReplicaRole::Replica, Some(leader)) => peer_of(leader, incarnation)
                .is_some_and(|peer| peer.connected && peer.matched > 0 && peer.matched + IN_STEP >= leader.last.index),
            _ => false,
        };
        let lag = match (role, leader) {
            (ReplicaRole::Primary, _) => Some(0),
            (ReplicaRole::Unreachable | ReplicaRole::Blank, _) | (_, None) => None,
            (_, Some(leader)) => peer_of(leader, incarnation).map(|peer| told_lag(leader.last.index.saturating_sub(peer.matched))),
        };
        ReplicaStatus {
            name: member.pod.clone(),
            id: incarnation.map(|incarnation| incarnation.to_string()),
            role,
            synced,
            lag,
        }
    });
    let quorum = current.map(|current| sizes(current.quorum()));
    let most = statuses().max_by_key(|status| (serving == Some(status.id.incarnation), status.role != NodeRole::Blank, status.last));
    let slots = match most.and_then(|status| status.slots.as_ref()) {
        Some(slots) => slots.owned.clone(),
        // A group that tells of no slots is one from before they could move: its store has no other shard.
        None if seen.shard == 0 => SlotSet::all(),
        None => SlotSet::new(),
    };
    let known = seen.told.shards.first();
    ShardStatus {
        index: told_index(seen.shard),
        epoch: i64::try_from(epoch).unwrap_or(i64::MAX).max(known.map_or(0, |shard| shard.epoch)),
        primary: serving.and_then(|serving| pod_of(seen.members, serving)),
        target_primary: doing.target_primary.clone(),
        change: doing.change.clone(),
        update: doing.update.clone(),
        quorum: quorum.or_else(|| known.and_then(|shard| shard.quorum)),
        slots: i32::try_from(slots.len()).unwrap_or(i32::MAX),
        slot_ranges: slots.to_string(),
        replicas: replicas.collect(),
    }
}

fn peer_of(leader: &NodeStatus, incarnation: Option<Incarnation>) -> Option<&PeerStatus> {
    leader.peers.iter().find(|peer| Some(peer.incarnation) == incarnation)
}

/// A lag as people are told: a replica that keeps step is a few entries behind at every look, and the status is written only
/// when something changes.
#[must_use]
pub fn told_lag(entries: u64) -> i64 {
    let magnitude = entries.checked_ilog10().map_or(1, |digits| 10u64.pow(digits));
    let told = if entries < TOLD_LAG { 0 } else { entries / magnitude * magnitude };
    i64::try_from(told).unwrap_or(i64::MAX)
}

fn pod_of(members: &[Observed], incarnation: Incarnation) -> Option<String> {
    let found = members.iter().find(|member| member.incarnation() == Some(incarnation));
    found.map(|member| member.pod.clone())
}

fn sizes(quorum: Quorum) -> ShardQuorum {
    let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    ShardQuorum {
        replicas: int(quorum.replicas),
        write: int(quorum.write),
        read: int(quorum.read),
        fence: int(quorum.fence()),
        commit: int(quorum.commit()),
        writes_tolerate: int(quorum.writes_tolerate()),
        reads_tolerate: int(quorum.reads_tolerate()),
        failover_tolerates: int(quorum.failover_tolerates()),
    }
}
