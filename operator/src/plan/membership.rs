//! Members and quorums that are not as the spec wants them: which change to begin, and what it waits for.
//!
//! Wanted are the ordinals from 0 to `replicasPerShard`, each with the volume that it has now. A replica with another volume
//! than the member of its ordinal is another replica: it takes its place by a change. New replicas are learners first; a
//! change begins when they hold the log but for a few entries, and when so many members are in step that the fence and the
//! commit of the epoch start take no time. The primary moves first if it is to go; where nobody who stays is a member yet, those
//! become members before. The StatefulSet grows before a change and
//! shrinks after it, when no member knows a configuration any more that lists what goes.
//!
//! Nothing is kept between two plans: each begins with what is in force, so a change of mind half-way is no other case.

use super::{Admission, GRACE, Goal, Memory, Observation, Phase, Shape, ViewChange, heard, leader, statuses, with_failure};
use crate::names;
use crate::observe::{Observed, configuration};
use crate::report::told_lag;
use crate::view_change::Known;
use quorate_api::{Configuration, Consistency, Epoch, Incarnation, Member, NodeStatus, PeerStatus, Quorum};
use quorate_crds::{ChangeStep, ShardChange};

/// A replica that is behind by fewer entries holds the log, as far as a change is concerned: the rest takes a round trip.
const IN_STEP: u64 = 1000;

/// How a change stands.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// For the status; None while all is as it should be.
    pub(super) told: Option<ShardChange>,
    /// The view change to begin.
    pub(super) start: Option<ViewChange>,
    /// The pod that is to be primary.
    pub(super) target_primary: Option<String>,
}

/// What is wanted, against what is in force.
struct Survey {
    /// Members that stay.
    kept: Vec<Member>,
    /// New replicas, with the member whose place each takes.
    arrivals: Vec<(Member, Option<Member>)>,
    /// Ordinals without a replica that ever spoke.
    absent: Vec<u32>,
}

impl Survey {
    fn of(seen: &Observation<'_>, current: &Configuration) -> Self {
        let (mut kept, mut arrivals, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for ordinal in 0..seen.settings.quorum.replicas {
            let old = current.members().iter().find(|member| member.ordinal == ordinal);
            let present = seen
                .members
                .iter()
                .find(|member| member.ordinal == ordinal)
                .and_then(Observed::incarnation);
            match (old, present) {
                (Some(old), Some(present)) if old.incarnation != present => {
                    arrivals.push((member(seen, ordinal, present), Some(old.clone())));
                }
                (Some(old), _) => kept.push(old.clone()),
                (None, Some(present)) => arrivals.push((member(seen, ordinal, present), None)),
                (None, None) => absent.push(ordinal),
            }
        }
        Self { kept, arrivals, absent }
    }

    /// Everything that is wanted, at once.
    fn whole(&self, wanted: Quorum) -> Option<Configuration> {
        let members = self
            .kept
            .iter()
            .chain(self.arrivals.iter().map(|(member, _)| member))
            .cloned()
            .collect();
        let complete = self.absent.is_empty();
        complete.then(|| Configuration::of(members, wanted).ok()).flatten()
    }

    /// Replicas whose volume was lost replaced by those that took their place and hold the log, and nothing else.
    fn repaired(&self, current: &Configuration, leader: &NodeStatus) -> Option<Configuration> {
        let mut members = current.members().to_vec();
        for (new, old) in &self.arrivals {
            let place = members.iter_mut().find(|member| Some(&**member) == old.as_ref());
            if let (Some(place), true) = (place, holds_log(leader, new.incarnation)) {
                *place = new.clone();
            }
        }
        let target = Configuration::of(members, current.quorum()).ok();
        target.filter(|target| target != current)
    }
}

impl Survey {
    /// Whether the primary is to go and could hand over to nobody who stays.
    fn strands(target: &Configuration, current: &Configuration, leader: &NodeStatus) -> bool {
        let stays = |member: &Member| current.contains(member.incarnation);
        !target.contains(leader.id.incarnation) && !target.members().iter().any(stays)
    }

    /// The present members and the new ones that hold the log, together: the primary can hand over to one of these then.
    fn bridge(&self, current: &Configuration, leader: &NodeStatus) -> Option<Configuration> {
        let mut members = current.members().to_vec();
        let news = self.arrivals.iter().filter(|(new, _)| holds_log(leader, new.incarnation));
        members.extend(news.map(|(new, _)| new.clone()));
        let quorum = Quorum::majority(u32::try_from(members.len()).ok()?);
        let target = Configuration::new(members, quorum.write, quorum.read).ok();
        target.filter(|target| target != current)
    }
}

pub(super) fn member(seen: &Observation<'_>, ordinal: u32, incarnation: Incarnation) -> Member {
    Member {
        incarnation,
        ordinal,
        host: names::replica_host(&seen.settings.name, &seen.settings.namespace, seen.shard, ordinal),
    }
}

fn peer(leader: &NodeStatus, incarnation: Incarnation) -> Option<&PeerStatus> {
    leader.peers.iter().find(|peer| peer.incarnation == incarnation)
}

/// Whether a replica holds the primary's log durably, but for a few entries.
pub(super) fn holds_log(leader: &NodeStatus, incarnation: Incarnation) -> bool {
    leader.id.incarnation == incarnation
        || peer(leader, incarnation)
            .is_some_and(|peer| peer.connected && !peer.snapshot && peer.matched > 0 && peer.matched + IN_STEP > leader.last.index)
}

/// Members that hold the log and that the operator hears.
pub(super) fn in_step(seen: &Observation<'_>, leader: &NodeStatus, members: &[Member]) -> usize {
    let well = |incarnation| heard(seen, incarnation).is_some_and(|status| !status.damaged);
    let each = members.iter().map(|member| member.incarnation);
    each.filter(|incarnation| holds_log(leader, *incarnation) && well(*incarnation))
        .count()
}

pub(super) fn progress(seen: &Observation<'_>, memory: &Memory, phase: &Phase) -> Progress {
    let leader = leader(seen, phase);
    // What the primary itself says is committed; what others say is good enough to be told.
    let in_force = match leader {
        Some(leader) => leader.configuration.as_ref(),
        None => configuration(seen.members),
    };
    let Some((_, current)) = in_force else {
        return Progress::default();
    };
    let survey = Survey::of(seen, current);
    let wanted = seen.settings.quorum;
    if survey.whole(wanted).as_ref() == Some(current) {
        return Progress {
            told: going(seen, current).map(|reason| ShardChange {
                from: describe(current),
                to: describe(current),
                step: ChangeStep::ScalingDown,
                reason,
            }),
            ..Progress::default()
        };
    }
    let (step, reason, start, target_primary) = match leader {
        _ if seen.driving.is_some_and(|drive| matches!(drive.change.goal, Goal::Change(_))) => {
            (ChangeStep::Committing, "the view change is under way".to_owned(), None, None)
        }
        None => (
            ChangeStep::Waiting,
            "there is no primary that serves and that the operator hears".to_owned(),
            None,
            None,
        ),
        Some(_) if seen.settings.paused => (ChangeStep::Waiting, "spec.paused is set".to_owned(), None, None),
        Some(leader) => next_step(seen, memory, current, leader, &survey),
    };
    Progress {
        told: Some(ShardChange {
            from: describe(current),
            to: describe_wanted(&survey, wanted),
            step,
            reason,
        }),
        start,
        target_primary,
    }
}

type Step = (ChangeStep, String, Option<ViewChange>, Option<String>);

fn next_step(seen: &Observation<'_>, memory: &Memory, current: &Configuration, leader: &NodeStatus, survey: &Survey) -> Step {
    let wait = |step, reason| (step, reason, None, None);
    let due = seen.now >= memory.change_retry_at && seen.driving.is_none();
    let failure = memory.change_failure.as_ref();
    let from = seen
        .members
        .iter()
        .find(|member| member.incarnation() == Some(leader.id.incarnation));
    let begin = |goal: Goal, reason: String| {
        due.then(|| ViewChange {
            avoid: matches!(goal, Goal::Switchover(to) if to != leader.id.incarnation).then_some(leader.id.incarnation),
            goal,
            reason,
            from: from.map(|member| member.pod.clone()),
            primary: Some(leader.id.incarnation),
            leave_out: None,
            silence: None,
            known: Known::of(seen.members, memory.highest),
        })
    };
    let late: Vec<&Member> = survey
        .arrivals
        .iter()
        .map(|(member, _)| member)
        .filter(|member| !holds_log(leader, member.incarnation))
        .collect();
    let whole = survey.whole(seen.settings.quorum).filter(|_| late.is_empty());
    let whole = whole.and_then(|target| match Survey::strands(&target, current, leader) {
        true => survey.repaired(current, leader).or_else(|| survey.bridge(current, leader)),
        false => Some(target),
    });
    let Some(target) = whole.or_else(|| survey.repaired(current, leader)) else {
        if late.is_empty() {
            let missing: Vec<String> = survey.absent.iter().map(|ordinal| pod(seen, *ordinal)).collect();
            return wait(ChangeStep::ScalingUp, format!("{} did not speak yet", missing.join(", ")));
        }
        if let Some(ahead) = late.iter().find(|member| is_ahead(seen, memory, leader, member)) {
            // The primary serves: it is interrupted only where it can go on at once.
            if let Some(shortage) = shortage(seen, leader, current, current) {
                return wait(ChangeStep::Waiting, shortage);
            }
            let reason = format!(
                "{} promised a higher epoch than the primary's in a view change that came to nothing, and takes nothing below it",
                pod(seen, ahead.ordinal)
            );
            let change = begin(Goal::Switchover(leader.id.incarnation), reason.clone());
            return (ChangeStep::CatchingUp, with_failure(&reason, failure), change, None);
        }
        let each: Vec<String> = late.iter().map(|member| lateness(seen, leader, member)).collect();
        return wait(ChangeStep::CatchingUp, each.join(", "));
    };
    let pods = target.pods();
    if seen.reconciled.scale.is_none_or(|scale| scale < pods) {
        return wait(ChangeStep::ScalingUp, format!("the StatefulSet is to have {pods} pods"));
    }
    if let Some(shortage) = shortage(seen, leader, current, &target) {
        return wait(ChangeStep::Waiting, shortage);
    }
    if !target.contains(leader.id.incarnation) {
        let mut staying = target.members().iter().filter(|member| current.contains(member.incarnation));
        let Some(next) = staying.find(|member| in_step(seen, leader, std::slice::from_ref(*member)) == 1) else {
            return wait(
                ChangeStep::Waiting,
                "no replica that stays is in step with the primary, which is to go".to_owned(),
            );
        };
        let reason = "the primary is to be removed".to_owned();
        let change = begin(Goal::Switchover(next.incarnation), reason.clone());
        let step = ChangeStep::MovingPrimary;
        return (step, with_failure(&reason, failure), change, Some(pod(seen, next.ordinal)));
    }
    let reason = format!("{} -> {}", describe(current), describe(&target));
    let change = begin(Goal::Change(target), reason);
    (ChangeStep::Committing, with_failure("the view change", failure), change, None)
}

/// Why too few members are in step for the view change to be quick; None if they are enough.
fn shortage(seen: &Observation<'_>, leader: &NodeStatus, current: &Configuration, target: &Configuration) -> Option<String> {
    let counted = |configuration: &Configuration, needed: u32, name: &str| {
        let there = in_step(seen, leader, configuration.members());
        let replicas = configuration.quorum().replicas;
        (there < needed as usize)
            .then(|| format!("{there} of {replicas} {name} members are in step with the primary, and {needed} are needed"))
    };
    let sizes = target.quorum();
    let new = sizes.fence_for_change().max(sizes.commit()).max(sizes.read);
    counted(current, current.quorum().fence_for_change(), "present").or_else(|| counted(target, new, "future"))
}

/// Whether a replica that is to be a member refuses the primary, because it promised a higher epoch in a view change that came
/// to nothing: it catches up only in an epoch above that. One that may still be under way is given its time.
fn is_ahead(seen: &Observation<'_>, memory: &Memory, leader: &NodeStatus, member: &Member) -> bool {
    let ahead = heard(seen, member.incarnation).is_some_and(|status| status.promised > leader.promised);
    ahead && seen.now >= memory.promised.1 + GRACE
}

fn lateness(seen: &Observation<'_>, leader: &NodeStatus, member: &Member) -> String {
    let pod = pod(seen, member.ordinal);
    match peer(leader, member.incarnation) {
        Some(peer) if !peer.connected => format!("{pod} is not connected to the primary"),
        Some(peer) if peer.snapshot => format!("{pod} receives a snapshot"),
        Some(peer) => format!(
            "{pod} is {} entries behind",
            told_lag(leader.last.index.saturating_sub(peer.matched))
        ),
        None => format!("{pod} is not followed by the primary yet"),
    }
}

fn pod(seen: &Observation<'_>, ordinal: u32) -> String {
    format!("{}-{ordinal}", names::stateful_set(&seen.settings.name, seen.shard))
}

/// Pods that are no members and wanted no more, and what their end waits for.
fn going(seen: &Observation<'_>, current: &Configuration) -> Option<String> {
    let wanted = seen.settings.quorum.replicas;
    let left: Vec<&str> = seen
        .members
        .iter()
        .filter(|member| member.ordinal >= wanted)
        .map(|member| member.pod.as_str())
        .collect();
    let scale = seen.reconciled.scale.unwrap_or(wanted);
    if left.is_empty() && scale <= wanted {
        return None;
    }
    if seen.settings.paused {
        return Some("spec.paused is set".to_owned());
    }
    let behind: Vec<String> = ignorant(seen, current).map(|member| pod(seen, member.ordinal)).collect();
    Some(if behind.is_empty() {
        format!("{} are no members any more and are deleted; their claims are kept", left.join(", "))
    } else {
        format!(
            "{} are no members any more; {} did not hear of it yet, or promised to a group in which they are",
            left.join(", "),
            behind.join(", ")
        )
    })
}

/// Members that may know another configuration with ordinals that are to go: because they do not have the present one, because
/// they do not know, durably, that it is committed, or because they promised to it. Whoever fails over asks the members of
/// every one that is known.
fn ignorant<'a>(seen: &'a Observation<'_>, current: &'a Configuration) -> impl Iterator<Item = &'a Member> {
    current.members().iter().filter(|member| {
        let told = statuses(seen.members).find(|status| status.id.incarnation == member.incarnation);
        let settled = told.and_then(|status| {
            let (start, _) = status.configuration.as_ref()?;
            Some(start.index <= status.commit.min(status.durable) && pods_of(status) <= current.pods())
        });
        settled != Some(true)
    })
}

/// The shape of the objects. The StatefulSet is never smaller than any configuration that a member knows, nor than the one
/// that a view change may be bringing about.
pub(super) fn shape(seen: &Observation<'_>, phase: &Phase) -> Option<Shape> {
    let wanted = seen.settings.quorum;
    let Some((_, current)) = configuration(seen.members) else {
        return unborn_shape(seen, phase);
    };
    let settled = leader(seen, phase)
        .and_then(|leader| leader.configuration.as_ref())
        .filter(|(_, committed)| seen.driving.is_none() && ignorant(seen, committed).next().is_none());
    let replicas = match settled {
        Some((_, committed)) => wanted.replicas.max(committed.pods()),
        None => wanted.replicas.max(listed(seen)).max(seen.reconciled.scale?),
    };
    Some(Shape {
        replicas,
        max_unavailable: [current.quorum(), wanted]
            .into_iter()
            .filter(|quorum| quorum.replicas > 1)
            .map(disruptions)
            .min(),
    })
}

/// Pods that may be missing at a time without anybody noticing.
#[must_use]
fn disruptions(quorum: Quorum) -> u32 {
    quorum.failover_tolerates().min(quorum.writes_tolerate())
}

/// Pods of every configuration that a replica knows or promised to: whoever fails over has to ask its members.
fn listed(seen: &Observation<'_>) -> u32 {
    statuses(seen.members).map(pods_of).max().unwrap_or_default()
}

/// The same of one replica. Nodes of before do not tell of what they promised to.
fn pods_of(status: &NodeStatus) -> u32 {
    let known = status.configuration.as_ref().map_or(0, |(_, known)| known.pods());
    known.max(status.pods)
}

/// Nobody told of a configuration. A store that is known to be new, pod by pod, follows its spec; any other one only grows. One
/// that was promised to a first epoch is not new: that epoch may still begin.
fn unborn_shape(seen: &Observation<'_>, phase: &Phase) -> Option<Shape> {
    let wanted = seen.settings.quorum;
    let limit = seen.settings.suspect_after;
    let scale = seen.reconciled.scale?;
    let new = matches!(phase, Phase::Gathering(_) | Phase::Paused)
        && seen.members.len() >= scale as usize
        && seen
            .members
            .iter()
            .all(|member| member.fresh(seen.now, limit).is_some_and(|status| status.promised == Epoch::ZERO));
    Some(Shape {
        replicas: if new {
            wanted.replicas
        } else {
            // Also where the store was deleted since and made again with fewer.
            wanted.replicas.max(scale).max(listed(seen))
        },
        max_unavailable: (wanted.replicas > 1).then(|| disruptions(wanted)),
    })
}

/// Replicas that are no members: those that are to be, and those that were, so that they hear that they are it no more.
pub(super) fn admission(seen: &Observation<'_>, phase: &Phase) -> Option<Admission> {
    let leader = leader(seen, phase)?;
    let (_, current) = leader.configuration.as_ref()?;
    let strangers = statuses(seen.members).filter(|status| !current.contains(status.id.incarnation));
    Some(Admission {
        primary: leader.id.incarnation,
        epoch: leader.promised,
        learners: strangers
            .map(|status| member(seen, status.id.ordinal, status.id.incarnation))
            .collect(),
    })
}

fn describe(configuration: &Configuration) -> String {
    let mut ordinals: Vec<u32> = configuration.members().iter().map(|member| member.ordinal).collect();
    ordinals.sort_unstable();
    in_words(&ordinals, &[], configuration.quorum())
}

fn describe_wanted(survey: &Survey, wanted: Quorum) -> String {
    let ordinals: Vec<u32> = (0..wanted.replicas).collect();
    let replaced: Vec<u32> = survey
        .arrivals
        .iter()
        .filter(|(_, old)| old.is_some())
        .map(|(new, _)| new.ordinal)
        .collect();
    in_words(&ordinals, &replaced, wanted)
}

fn in_words(ordinals: &[u32], replaced: &[u32], quorum: Quorum) -> String {
    let Quorum {
        replicas: _,
        write,
        read,
        consistency,
    } = quorum;
    let worth = match consistency {
        Consistency::Strong => "",
        Consistency::Eventual => ", eventual",
    };
    let each: Vec<String> = ordinals
        .iter()
        .map(|ordinal| format!("{ordinal}{}", if replaced.contains(ordinal) { " (new volume)" } else { "" }))
        .collect();
    format!("replicas {}; write {write}, read {read}{worth}", each.join(", "))
}
