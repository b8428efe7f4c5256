//! What to do about a shard of a store: a value of what is observed in, a value of what to do out.
//!
//! [`plan`] takes an [`Observation`] and a [`Memory`] and gives a [`Plan`]: the view change to start, if any, the learners to
//! admit, the size of the StatefulSet, the pod to make anew, the roles and the status to publish, the events to write, how
//! closely to listen, when to look again, and the next memory. [`conclude`] takes the outcome of a view change. No client, no
//! clock, no random number, no `async`; the keeper only carries out.
//!
//! By concern: `failover` a primary that is lost, and the first epoch · `membership` members and quorums that are not as
//! the spec wants them · `requests` what a person asks for in annotations · `recovery` machines that do not come back ·
//! `update` pods that are out of date · `conclude` outcomes.
//!
//! What holds, and is tested over generated states: one view change of a shard at a time, and a failover waits for no other
//! one · no failover without a fence quorum in reach, none while the members hear a primary that only the operator has lost,
//! none in Manual mode or before the minimum interval is over · no pod is taken away whose ordinal a member knows, or promised, to be one ·
//! no pod that runs is restarted while another replica of its shard is not well ·
//! either the primary serves or a condition says what it waits for.

mod conclude;
mod failover;
mod membership;
mod recovery;
mod requests;
mod update;

pub use conclude::{Conclusion, conclude};
pub use update::Restart;

use crate::detect::highest_promise;
use crate::observe::{Asked, Fate, Observed};
use crate::report::{notes, report};
use crate::settings::Settings;
use crate::view_change::Known;
use k8s_openapi::jiff::Timestamp;
use quorate_api::{Configuration, Epoch, Incarnation, Member, NodeRole, NodeStatus};
use quorate_crds::{ReplicatedStoreStatus, ShardChange, ShardUpdate};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After a failover that did not come about; doubled each time up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// After a change or a switchover that did not come about: every attempt costs a moment without writes, and nobody waits for
/// it as for a failover. Doubled each time up to [`MAX_CHANGE_BACKOFF`].
const MIN_CHANGE_BACKOFF: Duration = Duration::from_secs(1);
/// See [`MIN_CHANGE_BACKOFF`].
const MAX_CHANGE_BACKOFF: Duration = Duration::from_secs(60);
/// A change or a switchover that takes longer is overtaken by a failover if one is needed then.
const PATIENCE: Duration = Duration::from_millis(1500);
/// A view change that somebody else began is left alone for so long: a primary that hands over needs milliseconds, and a
/// duel with it would cost more.
const GRACE: Duration = Duration::from_millis(250);
/// A replica that was chosen and does not come to serve in this time is given up.
const ACTIVATION: Duration = Duration::from_secs(5);
/// Between two heartbeats of members while the operator alone has lost the primary and wants their votes.
const CLOSE: Duration = Duration::from_millis(25);
/// Nothing that is to be seen by the mere passing of time takes longer to be seen.
const LOOK: Duration = Duration::from_secs(1);

/// `primary` or `replica` for every pod that has an address, by name, with its UID.
pub type Roles = BTreeMap<String, (String, &'static str)>;

/// Everything that a plan depends on, but for the memory.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Index of the shard.
    pub shard: u32,
    /// What the other shards of the store leave to this one.
    pub others: &'a Others,
    /// The spec, checked.
    pub settings: &'a Settings,
    /// What came of the last reconciliation.
    pub reconciled: &'a Reconciled,
    /// Label selector of the pods.
    pub selector: &'a str,
    /// The replicas by ordinal.
    pub members: &'a [Observed],
    /// What a person asks of this shard.
    pub asked: &'a Asked,
    /// What was found out of pods that do not answer, by their UID.
    pub fates: &'a BTreeMap<String, Fate>,
    /// The view change that is under way.
    pub driving: Option<&'a Drive>,
    /// The status that the last plan gave, or that was found: that of a store which has no other shard.
    pub told: &'a ReplicatedStoreStatus,
    /// The moment, for durations.
    pub now: Instant,
    /// The moment, for people.
    pub wall: Timestamp,
}

/// What the other shards of a store leave to one. The default is that of a store which has no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// What they have against its first epoch.
    pub birth: Birth,
    /// Why no pod of it that runs may be restarted now; None if nothing speaks against it.
    pub restart: Option<String>,
}

/// What the other shards of a store have against the first epoch of one. The group of shard 0 owns every slot until it has given
/// some away, so it must never begin anew beside a shard that was given some: it begins before any other, and only where
/// every replica of the store was heard and is blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Birth {
    /// Nothing.
    #[default]
    Free,
    /// Not yet: what it waits for.
    Waits(String),
    /// Never: who holds data.
    Refused(String),
}

/// What came of the last reconciliation of the store's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// The generation of the spec that it was about.
    pub generation: i64,
    /// How it went.
    pub outcome: Outcome,
    /// Pods that the StatefulSet of the shard has for sure: the smaller number while it is being changed. None while that is not known.
    pub scale: Option<u32>,
    /// What its template asks for, in one word. None while that is not known.
    pub revision: Option<String>,
}

impl Reconciled {
    /// What is known of a spec of that `generation`, after what was known `before`; `outcome` is None while it is not known yet.
    #[must_use]
    pub fn after(before: Option<Self>, generation: i64, outcome: Option<Outcome>) -> Self {
        let scale = before.as_ref().and_then(|before| before.scale);
        let revision = before.as_ref().and_then(|before| before.revision.clone());
        let same = before.filter(|before| before.generation == generation);
        Self {
            generation,
            outcome: outcome.or(same.map(|same| same.outcome)).unwrap_or(Outcome::Begun),
            scale,
            revision,
        }
    }
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
    /// No failover before.
    retry_at: Instant,
    backoff: Duration,
    last_failover: Option<Instant>,
    /// Why the last failover did not come about; None after one that did.
    failure: Option<String>,
    /// The same three for changes and switchovers.
    change_retry_at: Instant,
    change_backoff: Duration,
    change_failure: Option<String>,
    data_lost: Option<String>,
    /// The highest promise seen, and since when.
    promised: (Epoch, Instant),
    /// The last epoch that this operator proposed itself.
    own: Option<Epoch>,
    /// The highest epoch number heard of from a driver.
    highest: u64,
    /// Attempts at the switchover that a person asks for now.
    attempts: u32,
    /// What a person asked for and was answered, until it is taken away.
    answered: Asked,
    /// The acceptance of a loss that the view change under way makes use of.
    accepting: Option<String>,
    /// The pod that was made anew last, by its UID, and when.
    recreated: Option<(String, Instant)>,
    /// The pod that is being restarted, by its UID.
    restarted: Option<String>,
}

impl Memory {
    /// Of an operator that begins to keep a store of that status.
    #[must_use]
    pub fn new(told: &ReplicatedStoreStatus, now: Instant, wall: Timestamp) -> Self {
        let mut memory = Self {
            since: now,
            retry_at: now,
            backoff: MIN_BACKOFF,
            last_failover: None,
            failure: None,
            change_retry_at: now,
            change_backoff: MIN_CHANGE_BACKOFF,
            change_failure: None,
            data_lost: None,
            promised: (Epoch::ZERO, now),
            own: None,
            highest: 0,
            attempts: 0,
            answered: Asked::default(),
            accepting: None,
            recreated: None,
            restarted: None,
        };
        memory.learn(told, now, wall);
        memory
    }

    /// Takes the last failover that the status tells as known: another operator's, or one of before this operator began.
    pub fn learn(&mut self, told: &ReplicatedStoreStatus, now: Instant, wall: Timestamp) {
        let promoted: Option<Timestamp> = told.last_failover.as_ref().and_then(|failover| failover.promoted_at.parse().ok());
        let ago = promoted.and_then(|promoted| Duration::try_from(wall.duration_since(promoted)).ok());
        let moment = ago.and_then(|ago| now.checked_sub(ago));
        self.last_failover = self.last_failover.max(moment);
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

/// What a view change is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// The first epoch, over these members.
    Bootstrap(Configuration),
    /// Another primary for one that is lost.
    Failover,
    /// Another primary for one that is well: that member.
    Switchover(Incarnation),
    /// Other members or quorums.
    Change(Configuration),
    /// A group of these members alone, because a person said so: too few are left for anything else.
    Recover(Configuration),
}

/// A view change to start.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewChange {
    /// What for.
    pub goal: Goal,
    /// Why.
    pub reason: String,
    /// The pod of the primary before.
    pub from: Option<String>,
    /// The primary, if it serves: a change leaves it where it is.
    pub primary: Option<Incarnation>,
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
    /// A primary was chosen, and too few members have room for its first entry.
    NoRoom(String),
    /// The primary may be lost, but too few say so.
    Doubt(String),
    /// A view change that is no failover is under way, or somebody else's.
    ViewChanging(String),
    /// A failover of this operator is under way, or about to be tried again.
    FailingOver(String),
    /// One is needed, and `failover.mode` leaves it to a person.
    Manual(String),
    /// One is needed, and the last one was less than the minimum interval ago.
    Held(String),
    /// One is needed, and too few members are there for it.
    Blocked(String),
}

/// What the plan says of a shard beside its phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// The change that is under way.
    pub change: Option<ShardChange>,
    /// The pod that is to be primary.
    pub target_primary: Option<String>,
    /// What the replacement of a lost machine waits for.
    pub replacement: Option<String>,
    /// Pods that are out of date.
    pub update: Option<ShardUpdate>,
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

/// Whom the primary is to stream its log to beside its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The primary.
    pub primary: Incarnation,
    /// Its epoch: it forgets them when it is primary anew.
    pub epoch: Epoch,
    /// The learners.
    pub learners: Vec<Member>,
}

/// What the objects of a shard depend on beside the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pods of the StatefulSet.
    pub replicas: u32,
    /// Pods that may be disrupted at a time; None to leave the budget as it is.
    pub max_unavailable: Option<u32>,
}

/// A pod to delete together with its claim, so that both are made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recreate {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// UID of the claim, if there is one.
    pub claim: Option<String>,
    /// Without waiting for its machine, which is gone.
    pub force: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The view change to start. A failover is started although a change is under way, which is given up then.
    pub start: Option<ViewChange>,
    /// Whom to admit as learners; None while no primary is heard.
    pub admission: Option<Admission>,
    /// The shape of the objects; None while too little is known.
    pub shape: Option<Shape>,
    /// Pods of which to find out what became of their machine and their claim.
    pub inspect: Vec<String>,
    /// The pod to make anew.
    pub recreate: Option<Recreate>,
    /// The pod to restart.
    pub restart: Option<Restart>,
    /// What a person asked for and is answered: to be taken away.
    pub answered: Asked,
    /// What the shard is doing.
    pub phase: Phase,
    /// The role of every pod; None to leave the labels as they are.
    pub roles: Option<Roles>,
    /// The status to publish, as that of a store which has no other shard.
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
    let mut memory = memory.notice(seen.members, seen.now);
    let (phase, failover) = failover::decide(seen, &memory);
    let progress = membership::progress(seen, &memory, &phase);
    let request = requests::judge(seen, &mut memory, &phase);
    let idle = failover.is_none() && seen.driving.is_none();
    let (change, requested) = (progress.start.filter(|_| idle), request.start.filter(|_| idle));
    let start = failover.or(requested).or(change);
    let replacement = recovery::replacement(seen, &mut memory, &phase, idle && start.is_none());
    let calm = idle && start.is_none() && replacement.recreate.is_none() && progress.told.is_none();
    let rollout = update::rollout(seen, &mut memory, &phase, calm);
    let doing = Doing {
        update: rollout.told,
        change: progress.told,
        target_primary: request.target_primary.or(progress.target_primary),
        replacement: replacement.waits,
    };
    let status = match phase {
        Phase::Starting => seen.told.clone(),
        _ => report(seen, &phase, &doing),
    };
    let mut told = notes(seen.told, &status);
    told.extend(request.note);
    told.extend(replacement.note);
    told.extend(rollout.note);
    Plan {
        admission: membership::admission(seen, &phase),
        shape: membership::shape(seen, &phase),
        inspect: replacement.inspect,
        recreate: replacement.recreate,
        restart: rollout.restart,
        answered: memory.answered.clone(),
        start,
        roles: roles(seen.members, &phase),
        notes: told,
        heartbeat: heartbeat(seen, &phase),
        look_at: look_at(seen, &memory),
        phase,
        status,
        memory,
    }
}

fn statuses(members: &[Observed]) -> impl Iterator<Item = &NodeStatus> {
    members.iter().filter_map(|member| member.status.as_ref())
}

/// What the primary says, if it serves and the operator hears it. One that reaches too few members is asked too: where they
/// are lost for good, a change that replaces them is the only way out.
fn leader<'a>(seen: &Observation<'a>, phase: &Phase) -> Option<&'a NodeStatus> {
    let primary = match phase {
        Phase::Serving(primary, true) => *primary,
        Phase::NoQuorum(_) => crate::detect::primary_of(&seen.members.iter().collect::<Vec<_>>())?,
        _ => return None,
    };
    heard(seen, primary).filter(|status| status.role == NodeRole::Primary)
}

/// What a replica says, if the operator hears it.
fn heard<'a>(seen: &Observation<'a>, incarnation: Incarnation) -> Option<&'a NodeStatus> {
    let limit = seen.settings.suspect_after;
    let mut fresh = seen.members.iter().filter_map(|member| member.fresh(seen.now, limit));
    fresh.find(|status| status.id.incarnation == incarnation)
}

fn with_failure(reason: &str, failure: Option<&String>) -> String {
    match failure {
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
        memory.change_retry_at,
    ];
    moments.extend(failover::interval_ends(settings, memory));
    moments.extend(seen.driving.map(|drive| drive.begun + PATIENCE));
    moments.extend(recovery::moments(seen, memory));
    moments.extend(update::moments(seen));
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

#[cfg(test)]
mod tests;
