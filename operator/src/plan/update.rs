//! Pods that do not run what the spec asks for: the operator restarts them, one of the shard at a time.
//!
//! The next one is restarted only while every other replica runs, is in step with the primary and has been so for a while; the
//! primary goes last, and hands over when it is told to stop. So a replica that is not well holds the update, and a template
//! that does not run stops at its first pod. A pod whose process does not run is out of that order: it has nothing to lose,
//! and is made anew as soon as there is another template for it. That is how a broken one is mended.
//!
//! What is out of date is what a person changed. A new version of the operator may build pods in another way; they take that
//! up when they restart, and none restarts for it.

use super::membership::{holds_log, in_step};
use super::{Memory, Note, Observation, Phase, leader};
use crate::observe::{Health, Observed};
use quorate_api::{Member, NodeStatus};
use quorate_crds::ShardUpdate;
use std::time::{Duration, Instant};

/// A pod that was restarted has to be well for so long before the next one goes.
const PROVEN: Duration = Duration::from_secs(5);

/// A pod to delete, so that it is made anew over the same volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
}

/// What to do about pods that are out of date.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    pub(super) restart: Option<Restart>,
    pub(super) told: Option<ShardUpdate>,
    pub(super) note: Option<Note>,
}

/// The next step; `idle` says that nothing else is under way.
pub(super) fn rollout(seen: &Observation<'_>, memory: &mut Memory, phase: &Phase, idle: bool) -> Rollout {
    let pods = present(seen).count();
    let outdated: Vec<&Observed> = outdated(seen).collect();
    if outdated.is_empty() {
        memory.restarted = None;
        return Rollout::default();
    }
    let chosen = match choose(seen, memory, phase, &outdated, idle) {
        Ok(member) => member,
        Err(waits) => return told(pods, outdated.len(), waits, None),
    };
    memory.restarted = Some(chosen.uid.clone());
    let pod = &chosen.pod;
    let text = format!(
        "{pod} is restarted to run what the spec asks for ({} of {pods} pods do)",
        pods - outdated.len()
    );
    let restart = Restart {
        pod: pod.clone(),
        uid: chosen.uid.clone(),
    };
    let note = Note {
        warning: false,
        reason: "Restarting",
        text,
    };
    let mut rollout = told(pods, outdated.len(), format!("{pod} restarts"), Some(note));
    rollout.restart = Some(restart);
    rollout
}

fn present<'a>(seen: &Observation<'a>) -> impl Iterator<Item = &'a Observed> {
    seen.members.iter().filter(|member| member.exists)
}

/// None while it is not known what the template asks for; a pod that does not say what it was made for is left alone.
fn outdated<'a>(seen: &Observation<'a>) -> impl Iterator<Item = &'a Observed> {
    let wanted = seen.reconciled.revision.as_ref();
    present(seen).filter(move |member| wanted.is_some() && member.revision.is_some() && member.revision.as_ref() != wanted)
}

fn told(pods: usize, outdated: usize, reason: String, note: Option<Note>) -> Rollout {
    let int = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    Rollout {
        restart: None,
        told: Some(ShardUpdate {
            pods: int(pods),
            updated: int(pods - outdated),
            reason,
        }),
        note,
    }
}

/// The pod to restart now, or what that waits for.
fn choose<'a>(
    seen: &Observation<'_>,
    memory: &Memory,
    phase: &Phase,
    outdated: &[&'a Observed],
    idle: bool,
) -> Result<&'a Observed, String> {
    if seen.settings.paused {
        return Err("spec.paused is set".to_owned());
    }
    if !seen.settings.restarts {
        return Err("update.mode is Manual: delete the pods, replicas first".to_owned());
    }
    if let Some(leaving) = present(seen).find(|member| memory.restarted.as_ref() == Some(&member.uid)) {
        return Err(format!("{} stops", leaving.pod));
    }
    if let Some(idle) = outdated.iter().find(|member| does_not_run(member)) {
        return Ok(idle);
    }
    let Some(leader) = leader(seen, phase).filter(|_| matches!(phase, Phase::Serving(..))) else {
        return Err("there is no primary that serves and that the operator hears".to_owned());
    };
    if !idle {
        return Err("something else is under way in this shard".to_owned());
    }
    if let Some(why) = &seen.others.restart {
        return Err(why.clone());
    }
    if let Some(trouble) = present(seen).find_map(|member| trouble(seen, leader, member)) {
        return Err(trouble);
    }
    let is_primary = |member: &&&Observed| member.incarnation() == Some(leader.id.incarnation);
    let last_first = outdated.iter().rev();
    let next = last_first.clone().find(|member| !is_primary(member)).or(last_first.clone().next());
    let next = next.expect("the caller found one that is out of date");
    enough_without(seen, leader, next)?;
    Ok(next)
}

/// No process of it runs, and none is about to stop.
fn does_not_run(member: &Observed) -> bool {
    !member.connected && (member.health == Health::Gone || (member.address.is_none() && member.health != Health::Leaving))
}

/// Why a replica holds the update.
fn trouble(seen: &Observation<'_>, leader: &NodeStatus, member: &Observed) -> Option<String> {
    let pod = &member.pod;
    let status = member.fresh(seen.now, seen.settings.suspect_after);
    match (member.health, status) {
        (Health::Gone, _) | (_, None) => Some(format!("{pod} does not run or is not heard")),
        (Health::Leaving, _) => Some(format!("{pod} stops")),
        (Health::Doubtful, _) => Some(format!("{pod} is not ready")),
        (Health::Running, Some(status)) if status.damaged => Some(format!("{pod} waits for a repair of its log")),
        (Health::Running, Some(status)) if !holds_log(leader, status.id.incarnation) => {
            Some(format!("{pod} is not in step with the primary"))
        }
        (Health::Running, Some(_)) if member.since.is_some_and(|since| seen.now < since + PROVEN) => {
            Some(format!("{pod} has not run for {} s yet", PROVEN.as_secs()))
        }
        (Health::Running, Some(_)) => None,
    }
}

/// Whether the group goes on without that one. Where no group of its size could, it has to bear the restart.
fn enough_without(seen: &Observation<'_>, leader: &NodeStatus, member: &Observed) -> Result<(), String> {
    let Some((_, current)) = &leader.configuration else {
        return Err("the primary tells no configuration".to_owned());
    };
    let others: Vec<Member> = current
        .members()
        .iter()
        .filter(|other| Some(other.incarnation) != member.incarnation())
        .cloned()
        .collect();
    let quorum = current.quorum();
    let needed = quorum.write.max(quorum.read).max(quorum.fence()) as usize;
    let there = in_step(seen, leader, &others);
    if there >= needed.min(others.len()) {
        return Ok(());
    }
    Err(format!(
        "{there} members beside {} are in step with the primary, and {needed} are needed",
        member.pod
    ))
}

/// Moments at which the passing of time alone lets the next pod go.
pub(super) fn moments(seen: &Observation<'_>) -> impl Iterator<Item = Instant> {
    let under_way = outdated(seen).next().is_some();
    let each = seen.members.iter().filter_map(|member| member.since).map(|since| since + PROVEN);
    each.filter(move |_| under_way)
}
