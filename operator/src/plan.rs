//! What to do about a store: a value of what is observed in, a value of what to do out.
//!
//! [`plan`] takes an [`Observation`] and a [`Memory`] and gives a [`Plan`]: the view change to start, if any, the roles and
//! the status to publish, the events to write, how closely to listen, when to look again, and the next memory. [`conclude`]
//! takes the outcome of a view change. No client, no clock, no random number, no `async`; the keeper only carries out.
//!
//! What holds, and is tested over generated states: one view change of a shard at a time · no failover without a fence
//! quorum in reach, none while the members hear a primary that only the operator has lost, none in Manual mode or before the
//! minimum interval is over · either the primary serves or a condition says what it waits for.

use crate::detect::{Verdict, highest_promise, is_cut_off, judge};
use crate::observe::{Health, Observed, group};
use crate::publish::Roles;
use crate::report::{notes, report};
use crate::settings::Settings;
use crate::view_change::{Known, ViewChangeError};
use k8s_openapi::jiff::Timestamp;
use quorate_api::{Configuration, Epoch, Incarnation, NodeRole, NodeStatus};
use quorate_client::{DriveError, Driven};
use quorate_crds::{LastFailover, ReplicatedStoreStatus};
use quorate_protocol::DriverFailure;
use std::time::{Duration, Instant};

/// After a view change that did not come about; doubled each time up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A view change that somebody else began is left alone for so long: a primary that hands over needs milliseconds, and a
/// duel with it would cost more.
const GRACE: Duration = Duration::from_millis(250);
/// A replica that was chosen and does not come to serve in this time is given up.
const ACTIVATION: Duration = Duration::from_secs(5);
/// Between two heartbeats of members while the operator alone has lost the primary and wants their votes.
const CLOSE: Duration = Duration::from_millis(25);
/// Nothing that is to be seen by the mere passing of time takes longer to be seen.
const LOOK: Duration = Duration::from_secs(1);

/// Everything that a plan depends on, but for the memory.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The spec, checked.
    pub settings: &'a Settings,
    /// What came of the last reconciliation.
    pub reconciled: &'a Reconciled,
    /// Label selector of the pods.
    pub selector: &'a str,
    /// The replicas by ordinal.
    pub members: &'a [Observed],
    /// The view change that is under way.
    pub driving: Option<&'a Drive>,
    /// The status that the last plan gave, or that was found.
    pub told: &'a ReplicatedStoreStatus,
    /// The moment, for durations.
    pub now: Instant,
    /// The moment, for people.
    pub wall: Timestamp,
}

/// What came of the last reconciliation of the store's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// The generation of the spec that it was about.
    pub generation: i64,
    /// How it went.
    pub outcome: Outcome,
}

/// See [`Reconciled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Under way for the first time.
    Begun,
    /// All objects are as the spec wants them.
    Applied,
    /// The API server refused one.
    Failed(String),
    /// This operator cannot run that spec; the last one that it could is in force.
    Invalid(String),
}

/// What one plan leaves for the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// When this operator began to keep the store.
    since: Instant,
    /// No view change before.
    retry_at: Instant,
    backoff: Duration,
    last_failover: Option<Instant>,
    /// Why the last view change did not come about; None after one that did.
    failure: Option<String>,
    data_lost: Option<String>,
    /// The highest promise seen, and since when.
    promised: (Epoch, Instant),
    /// The last epoch that this operator proposed itself.
    own: Option<Epoch>,
    /// The highest epoch number heard of from a driver.
    highest: u64,
}

impl Memory {
    /// Of an operator that begins to keep a store of that status.
    #[must_use]
    pub fn new(told: &ReplicatedStoreStatus, now: Instant, wall: Timestamp) -> Self {
        let promoted: Option<Timestamp> = told.last_failover.as_ref().and_then(|failover| failover.promoted_at.parse().ok());
        let ago = promoted.and_then(|promoted| Duration::try_from(wall.duration_since(promoted)).ok());
        Self {
            since: now,
            retry_at: now,
            backoff: MIN_BACKOFF,
            last_failover: ago.and_then(|ago| now.checked_sub(ago)),
            failure: None,
            data_lost: None,
            promised: (Epoch::ZERO, now),
            own: None,
            highest: 0,
        }
    }

    /// With what the members promise by now.
    fn notice(&self, members: &[Observed], now: Instant) -> Self {
        let mut next = self.clone();
        let highest = highest_promise(&members.iter().collect::<Vec<_>>());
        if highest > self.promised.0 {
            next.promised = (highest, now);
        }
        next
    }
}

/// A view change to start.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewChange {
    /// The members of the first epoch; None for a failover, which keeps the configuration.
    pub first: Option<Configuration>,
    /// Why.
    pub reason: String,
    /// The pod of the primary before.
    pub from: Option<String>,
    /// A replica that is about to stop: not to be chosen while another one is as good.
    pub avoid: Option<Incarnation>,
    /// The primary, if it is heard but cut off from its members: not to be asked.
    pub leave_out: Option<Incarnation>,
    /// How long the operator had not heard that primary.
    pub silence: Option<Duration>,
    /// What its driver has to know.
    pub known: Known,
}

/// A view change under way.
#[derive(Clone, Debug)]
pub struct Drive {
    /// What was planned.
    pub change: ViewChange,
    /// The epoch that it proposes.
    pub epoch: Epoch,
    /// When it was begun.
    pub begun: Instant,
    /// The same for people.
    pub detected: Timestamp,
}

/// What a shard is doing, as its conditions tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// This operator has just begun to keep it and has not heard enough to say anything.
    Starting,
    /// Not bootstrapped: what is missing.
    Gathering(String),
    /// The first epoch is being started.
    Bootstrapping(String),
    /// Not bootstrapped, and `spec.paused` keeps it so.
    Paused,
    /// Refused: the store had data, and its replicas are empty.
    DataLost(String),
    /// The primary serves; whether the operator itself hears it.
    Serving(Incarnation, bool),
    /// The primary reaches too few members.
    NoQuorum(String),
    /// The primary may be lost, but too few say so.
    Doubt(String),
    /// Somebody else's view change is under way.
    ViewChanging(String),
    /// A view change of this operator is under way, or about to be tried again.
    FailingOver(String),
    /// One is needed, and `failover.mode` leaves it to a person.
    Manual(String),
    /// One is needed, and the last one was less than the minimum interval ago.
    Held(String),
    /// One is needed, and too few members are there for it.
    Blocked(String),
}

/// An event for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub text: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The view change to start.
    pub start: Option<ViewChange>,
    /// What the shard is doing.
    pub phase: Phase,
    /// The role of every pod; None to leave the labels as they are.
    pub roles: Option<Roles>,
    /// The status to publish.
    pub status: ReplicatedStoreStatus,
    /// The events to write.
    pub notes: Vec<Note>,
    /// The heartbeat to ask of the nodes.
    pub heartbeat: Duration,
    /// When to plan again if nothing is heard before.
    pub look_at: Instant,
    /// For the next plan.
    pub memory: Memory,
}

/// Plans. See the module.
#[must_use]
pub fn plan(seen: &Observation<'_>, memory: &Memory) -> Plan {
    let memory = memory.notice(seen.members, seen.now);
    let (phase, start) = decide(seen, &memory);
    let status = match phase {
        Phase::Starting => seen.told.clone(),
        _ => report(seen, &phase),
    };
    Plan {
        start,
        roles: roles(seen.members, &phase),
        notes: notes(seen.told, &status),
        heartbeat: heartbeat(seen, &phase),
        look_at: look_at(seen, &memory),
        phase,
        status,
        memory,
    }
}

fn decide(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    if let Some(Drive { change, .. }) = seen.driving {
        let reason = change.reason.clone();
        let phase = match change.first {
            Some(_) => Phase::Bootstrapping(reason),
            None => Phase::FailingOver(reason),
        };
        return (phase, None);
    }
    let unborn = statuses(seen.members).all(|status| status.role == NodeRole::Blank && status.primary.is_none());
    if unborn { first(seen, memory) } else { running(seen, memory) }
}

fn statuses(members: &[Observed]) -> impl Iterator<Item = &NodeStatus> {
    members.iter().filter_map(|member| member.status.as_ref())
}

/// No replica that was heard has ever been in a group.
fn first(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    let Observation { settings, members, .. } = seen;
    let served = seen.told.shards.iter().any(|shard| shard.epoch > 0);
    let fresh = members
        .iter()
        .filter(|member| member.fresh(seen.now, settings.suspect_after).is_some())
        .count();
    let wanted = settings.quorum.replicas as usize;
    if let Some(message) = &memory.data_lost {
        return (Phase::DataLost(message.clone()), None);
    }
    if served && fresh < wanted {
        return (blocked_or_starting(seen, memory, fresh, settings.quorum), None);
    }
    if fresh < wanted {
        let text = format!("{fresh} of {wanted} replicas answer; the first epoch needs all of them and starts by itself when they do");
        return (Phase::Gathering(text), None);
    }
    if served {
        return (Phase::DataLost(DATA_LOST.to_owned()), None);
    }
    if settings.paused {
        return (Phase::Paused, None);
    }
    let each = members.iter().filter_map(|member| {
        Some(quorate_api::Member {
            incarnation: member.incarnation()?,
            ordinal: member.ordinal,
            host: crate::names::replica_host(&settings.name, &settings.namespace, 0, member.ordinal),
        })
    });
    let target = match Configuration::new(each.collect(), settings.quorum.write, settings.quorum.read) {
        Ok(target) => target,
        Err(error) => return (Phase::Gathering(format!("the replicas make no group: {error}")), None),
    };
    let phase = Phase::Bootstrapping(with_failure("starting the first epoch", memory));
    if seen.now < memory.retry_at {
        return (phase, None);
    }
    let change = ViewChange {
        first: Some(target),
        reason: "starting the first epoch".to_owned(),
        from: None,
        avoid: None,
        leave_out: None,
        silence: None,
        known: Known::of(members, memory.highest),
    };
    (phase, Some(change))
}

/// What is said of a store that had data and whose replicas are empty.
pub const DATA_LOST: &str = "this store was bootstrapped before, and all its replicas come back empty: bring back its volumes, or delete the \
                             store and its claims and create it anew";

/// The shard is a group.
fn running(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    let Observation {
        settings, members, now, ..
    } = seen;
    let (members, quorum) = group(members, settings.quorum);
    let reachable = members
        .iter()
        .filter(|member| member.fresh(*now, settings.suspect_after).is_some())
        .count();
    let verdict = judge(&members, quorum, settings.suspect_after, *now);
    let name = |incarnation| {
        let found = members.iter().find(|member| member.incarnation() == Some(incarnation));
        found.map_or_else(|| incarnation.to_string(), |member| member.pod.clone())
    };
    let phase = match verdict {
        Verdict::Serving { primary, heard } => Phase::Serving(primary, heard),
        _ if reachable < quorum.fence() as usize => blocked_or_starting(seen, memory, reachable, quorum),
        Verdict::NoQuorum { reason, .. } => Phase::NoQuorum(format!("{reason}: it goes on by itself when they are back")),
        Verdict::Doubt { .. } if settling(seen, memory) => Phase::Starting,
        Verdict::Doubt { reason } => Phase::Doubt(reason),
        Verdict::Activating { primary } if *now < memory.promised.1 + ACTIVATION => {
            Phase::ViewChanging(format!("{} was chosen and is becoming primary", name(primary)))
        }
        Verdict::Activating { primary } => {
            let pod = name(primary);
            return lost(seen, memory, Some(primary), &format!("{pod} was chosen and does not come to serve"));
        }
        Verdict::Lost { primary, reason } => return lost(seen, memory, primary, &reason),
    };
    (phase, None)
}

/// There is no primary, and a fence quorum is in reach.
fn lost(seen: &Observation<'_>, memory: &Memory, primary: Option<Incarnation>, reason: &str) -> (Phase, Option<ViewChange>) {
    let Observation {
        settings, members, now, ..
    } = seen;
    if let Some(epoch) = somebody_elses(seen, memory) {
        let text = format!(
            "somebody began epoch {}, in a hand-over or another failover: waiting for it to serve",
            epoch.number
        );
        return (Phase::ViewChanging(text), None);
    }
    if !settings.automatic {
        let text = format!("{reason}; spec.failover.mode is Manual: set it to Automatic, or start the failover by hand");
        return (Phase::Manual(text), None);
    }
    if interval_ends(settings, memory).is_some_and(|end| *now < end) {
        let text = format!(
            "{reason}; spec.failover.minIntervalSeconds keeps the next failover {} s away from the last one",
            settings.min_interval.as_secs()
        );
        return (Phase::Held(text), None);
    }
    let phase = Phase::FailingOver(with_failure(reason, memory));
    if *now < memory.retry_at {
        return (phase, None);
    }
    let from = members.iter().find(|member| primary.is_some() && member.incarnation() == primary);
    let change = ViewChange {
        first: None,
        reason: reason.to_owned(),
        from: from.map(|member| member.pod.clone()),
        avoid: members.iter().find(|member| leaving(member)).and_then(Observed::incarnation),
        leave_out: from.and_then(|primary| cut_off(seen, primary)),
        silence: from.and_then(|member| member.heard).map(|heard| now.duration_since(heard)),
        known: Known::of(members, memory.highest),
    };
    (phase, Some(change))
}

/// The primary, if it is cut off from its members and those that are in reach are enough without it.
fn cut_off(seen: &Observation<'_>, primary: &Observed) -> Option<Incarnation> {
    let limit = seen.settings.suspect_after;
    let (members, quorum) = group(seen.members, seen.settings.quorum);
    let status = primary.fresh(seen.now, limit)?;
    let others = members
        .iter()
        .filter(|member| member.pod != primary.pod && member.fresh(seen.now, limit).is_some());
    let enough = others.count() >= quorum.fence() as usize;
    (enough && is_cut_off(status, quorum, limit)).then_some(status.id.incarnation)
}

fn leaving(member: &Observed) -> bool {
    member.health == Health::Leaving || member.status.as_ref().is_some_and(|status| status.terminating)
}

fn blocked_or_starting(seen: &Observation<'_>, memory: &Memory, reachable: usize, quorum: quorate_api::Quorum) -> Phase {
    if settling(seen, memory) {
        return Phase::Starting;
    }
    let needed = quorum.fence() as usize;
    Phase::Blocked(format!(
        "{reachable} of {} replicas answer and a failover needs {needed}: it goes on by itself when {} more come back",
        quorum.replicas,
        needed.saturating_sub(reachable)
    ))
}

/// Whether this operator is too young to call a silent replica silent.
fn settling(seen: &Observation<'_>, memory: &Memory) -> bool {
    seen.now <= memory.since + seen.settings.suspect_after
}

/// The epoch of a view change that another driver began a moment ago, and that nobody serves yet.
fn somebody_elses(seen: &Observation<'_>, memory: &Memory) -> Option<Epoch> {
    let (highest, since) = memory.promised;
    let known = statuses(seen.members).filter_map(|status| status.primary.as_ref());
    let served = known.map(|view| view.epoch).max().unwrap_or_default();
    let other = highest > served && Some(highest) != memory.own && highest != Epoch::ZERO;
    (other && seen.now < since + GRACE).then_some(highest)
}

fn interval_ends(settings: &Settings, memory: &Memory) -> Option<Instant> {
    memory.last_failover.map(|last| last + settings.min_interval)
}

fn with_failure(reason: &str, memory: &Memory) -> String {
    match &memory.failure {
        Some(failure) => format!("{reason}; the last attempt failed: {failure}; it is tried again by itself"),
        None => reason.to_owned(),
    }
}

fn roles(members: &[Observed], phase: &Phase) -> Option<Roles> {
    // While nobody serves, the labels stay as they are: clients find nobody either way.
    let Phase::Serving(primary, _) = phase else { return None };
    let each = members.iter().filter(|member| member.address.is_some()).filter_map(|member| {
        let role = if member.incarnation()? == *primary { "primary" } else { "replica" };
        Some((member.pod.clone(), (member.uid.clone(), role)))
    });
    Some(each.collect())
}

/// How often nodes are to tell their status: more often while only their votes are missing.
fn heartbeat(seen: &Observation<'_>, phase: &Phase) -> Duration {
    let Observation {
        settings, members, now, ..
    } = seen;
    let in_doubt = matches!(phase, Phase::Serving(_, false) | Phase::Doubt(_));
    let primary = crate::detect::primary_of(&members.iter().collect::<Vec<_>>());
    let heard = members
        .iter()
        .find(|member| primary.is_some() && member.incarnation() == primary)
        .and_then(|member| member.heard);
    // Bounded: when they have not lost it by then, it is the operator's link that is cut, and that may last.
    let lately = heard.is_some_and(|heard| *now <= heard + settings.suspect_after * 4);
    if in_doubt && lately {
        settings.heartbeat.min(CLOSE)
    } else {
        settings.heartbeat
    }
}

/// The next moment at which the same observation may lead to another plan.
fn look_at(seen: &Observation<'_>, memory: &Memory) -> Instant {
    let Observation {
        settings, members, now, ..
    } = seen;
    let mut moments = vec![
        memory.since + settings.suspect_after,
        memory.retry_at,
        memory.promised.1 + GRACE,
        memory.promised.1 + ACTIVATION,
    ];
    moments.extend(interval_ends(settings, memory));
    for heard in members.iter().filter_map(|member| member.heard) {
        moments.extend([
            heard + settings.suspect_after,
            heard + settings.suspect_after * 4,
            heard + crate::report::unreachable_after(settings),
        ]);
    }
    // The limits themselves still count as in time.
    let beyond = Duration::from_nanos(1);
    let next = moments
        .into_iter()
        .map(|moment| moment + beyond)
        .filter(|moment| moment > now)
        .min();
    next.map_or(*now + LOOK, |next| next.min(*now + LOOK))
}

/// What follows from the outcome of a view change.
#[derive(Clone, Debug, PartialEq)]
pub struct Conclusion {
    /// For the next plan.
    pub memory: Memory,
    /// The events to write.
    pub notes: Vec<Note>,
    /// What the status shall tell, if it was a failover that came about.
    pub failover: Option<LastFailover>,
}

/// Concludes the view change `drive`.
#[must_use]
pub fn conclude(
    memory: &Memory,
    drive: &Drive,
    outcome: &Result<Driven, ViewChangeError>,
    members: &[Observed],
    now: Instant,
) -> Conclusion {
    let mut memory = memory.clone();
    memory.own = Some(drive.epoch);
    match outcome {
        Ok(driven) => {
            (memory.backoff, memory.retry_at, memory.failure) = (MIN_BACKOFF, now, None);
            succeeded(memory, drive, driven, members, now)
        }
        Err(error) => {
            memory.retry_at = now + memory.backoff;
            memory.backoff = (memory.backoff * 2).min(MAX_BACKOFF);
            memory.failure = Some(error.to_string());
            match error {
                ViewChangeError::DataLost => memory.data_lost = Some(DATA_LOST.to_owned()),
                ViewChangeError::Drive(DriveError::Failed(DriverFailure::Superseded { highest })) => {
                    memory.highest = memory.highest.max(*highest);
                }
                ViewChangeError::Drive(_) | ViewChangeError::Api(_) => {}
            }
            Conclusion {
                memory,
                notes: Vec::new(),
                failover: None,
            }
        }
    }
}

fn succeeded(mut memory: Memory, drive: &Drive, driven: &Driven, members: &[Observed], now: Instant) -> Conclusion {
    let primary = &driven.changed.primary;
    let found = members.iter().find(|member| member.incarnation() == Some(primary.incarnation));
    let to = found.map_or_else(|| primary.host.clone(), |member| member.pod.clone());
    let number = driven.changed.start.epoch.number;
    if drive.change.first.is_some() {
        let note = Note {
            warning: false,
            reason: "Bootstrapped",
            text: format!("{to} serves epoch {number}, the first one"),
        };
        return Conclusion {
            memory,
            notes: vec![note],
            failover: None,
        };
    }
    memory.last_failover = Some(now);
    let after = |moment: tokio::time::Instant| moment.into_std().saturating_duration_since(drive.begun);
    let (fenced, served) = (after(driven.fenced), after(driven.served));
    let moment = |offset: Duration| format!("{:.3}", drive.detected.saturating_add(offset).unwrap_or(drive.detected));
    let ViewChange { from, reason, .. } = &drive.change;
    let note = Note {
        warning: false,
        reason: "FailedOver",
        text: format!(
            "{} -> {to}, epoch {number}: fenced after {} ms, serving after {} ms. Reason: {reason}",
            from.as_deref().unwrap_or("nobody"),
            fenced.as_millis(),
            served.as_millis(),
        ),
    };
    Conclusion {
        memory,
        notes: vec![note],
        failover: Some(LastFailover {
            shard: 0,
            from: from.clone(),
            to,
            reason: reason.clone(),
            detected_at: moment(Duration::ZERO),
            fenced_at: moment(fenced),
            promoted_at: moment(served),
            duration_millis: i64::try_from(served.as_millis()).unwrap_or(i64::MAX),
        }),
    }
}

#[cfg(test)]
mod tests;
