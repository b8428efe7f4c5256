//! Machines that do not come back: their pod and its claim are deleted, so that both are made anew elsewhere. The volume that
//! was there is given up, and the new replica is another one; [`super::membership`] does the rest.
//!
//! Never before `failover.recreateAfterSeconds` · never a pod whose machine is well, whatever else it suffers from · one at a
//! time, and only while the others can afford the change that follows · without waiting for the machine only where the
//! cluster says that it is gone.

use super::membership::in_step;
use super::{Memory, Note, Observation, Phase, Recreate, leader};
use crate::observe::{Fate, Machine, Observed};
use std::time::{Duration, Instant};

/// What was found out of a pod is good for so long.
const FATE_GOOD_FOR: Duration = Duration::from_secs(10);
/// Between two pods that are made anew: the one before must have begun to speak, or it will not.
const PACE: Duration = Duration::from_secs(60);

/// What to do about machines that are gone.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    pub(super) inspect: Vec<String>,
    pub(super) recreate: Option<Recreate>,
    pub(super) waits: Option<String>,
    pub(super) note: Option<Note>,
}

/// Since when nobody hears a pod.
fn silent_since(member: &Observed, memory: &Memory) -> Instant {
    [member.heard, member.since]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(memory.since)
        .max(memory.since)
}

pub(super) fn replacement(seen: &Observation<'_>, memory: &mut Memory, phase: &Phase, idle: bool) -> Replacement {
    let mut replacement = Replacement::default();
    let (Some(after), Some(leader), false) = (seen.settings.recreate_after, leader(seen, phase), seen.settings.paused) else {
        return replacement;
    };
    let Some((_, current)) = &leader.configuration else {
        return replacement;
    };
    let limit = seen.settings.suspect_after;
    let silent = seen
        .members
        .iter()
        .filter(|member| member.exists && member.ordinal < seen.settings.quorum.replicas)
        .filter(|member| member.fresh(seen.now, limit).is_none() && seen.now > silent_since(member, memory) + after);
    let mut lost: Vec<(&Observed, &Fate)> = Vec::new();
    for member in silent {
        match seen.fates.get(&member.uid).filter(|fate| seen.now <= fate.at + FATE_GOOD_FOR) {
            None => replacement.inspect.push(member.pod.clone()),
            Some(fate) if fate.machine != Machine::Standing => lost.push((member, fate)),
            Some(_) => {}
        }
    }
    let busy = memory.recreated.as_ref().is_some_and(|(_, at)| seen.now <= *at + PACE);
    let Some((member, fate)) = lost.into_iter().next() else {
        return replacement;
    };
    let (pod, seconds) = (&member.pod, after.as_secs());
    let others: Vec<_> = current
        .members()
        .iter()
        .filter(|other| other.ordinal != member.ordinal)
        .cloned()
        .collect();
    let quorum = current.quorum();
    // Those that fence and commit the change. Where reads need every member, they wait for the new one either way.
    let needed = quorum.fence_for_change().max(quorum.commit()) as usize;
    let there = in_step(seen, leader, &others);
    if there < needed {
        replacement.waits = Some(format!(
            "{pod} is to be replaced, once {needed} other members are in step with the primary ({there} are)"
        ));
        return replacement;
    }
    if !idle || busy {
        replacement.waits = Some(format!("{pod} is to be replaced after what is under way"));
        return replacement;
    }
    let machine = match fate.machine {
        Machine::Gone => "its machine is gone",
        Machine::OutOfService => "its machine is out of service",
        Machine::NotReady | Machine::Standing => "its machine is not ready",
    };
    replacement.note = Some(Note {
        warning: true,
        reason: "Recreating",
        text: format!("{pod} was not heard for {seconds} s and {machine}: the pod and its claim are deleted, to be made anew elsewhere"),
    });
    replacement.recreate = Some(Recreate {
        pod: pod.clone(),
        uid: member.uid.clone(),
        claim: fate.claim.clone(),
        force: matches!(fate.machine, Machine::Gone | Machine::OutOfService),
    });
    memory.recreated = Some((member.uid.clone(), seen.now));
    replacement
}

/// Moments at which the passing of time alone has another pod made anew.
pub(super) fn moments(seen: &Observation<'_>, memory: &Memory) -> Vec<Instant> {
    let after = seen.settings.recreate_after.unwrap_or_default();
    let silences = seen.members.iter().map(|member| silent_since(member, memory) + after);
    let fates = seen.fates.values().map(|fate| fate.at + FATE_GOOD_FOR);
    let pace = memory.recreated.iter().map(|(_, at)| *at + PACE);
    silences.chain(fates).chain(pace).collect()
}
