//! What a person asks for in annotations of the store: a switchover, or to go on although acknowledged writes may be lost.
//!
//! Each is answered once, by an event that says what became of it, and taken away then. A switchover waits for its replica to
//! be in step and is tried a few times; the other one holds for the shard and the epoch that it names: an attempt that fails and
//! leaves another epoch behind is answered by a refusal, and the person decides again.

use super::failover::settling;
use super::membership::{self, holds_log};
use super::{Goal, Memory, Note, Observation, Phase, ViewChange, heard, leader};
use crate::observe::{Observed, configuration};
use crate::view_change::Known;
use quorate_api::{Configuration, Member, Quorum};

/// A switchover under load may find that the old primary alone held the last entries: it is tried again so often.
const ATTEMPTS: u32 = 5;

/// What becomes of the requests.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The view change to begin.
    pub(super) start: Option<ViewChange>,
    /// The pod that is to be primary.
    pub(super) target_primary: Option<String>,
    /// The answer, if there is one now.
    pub(super) note: Option<Note>,
}

enum Answer {
    /// Done, or never to be done: the event.
    Said(Note),
    /// Begin this.
    Begin(Box<ViewChange>),
    /// Not yet.
    Wait,
}

fn say(warning: bool, reason: &'static str, text: String) -> Answer {
    Answer::Said(Note { warning, reason, text })
}

pub(super) fn judge(seen: &Observation<'_>, memory: &mut Memory, phase: &Phase) -> Request {
    // What was answered and is taken away may be asked for again.
    if memory.answered.promote != seen.asked.promote {
        memory.answered.promote = None;
    }
    if memory.answered.accept_data_loss != seen.asked.accept_data_loss {
        memory.answered.accept_data_loss = None;
    }
    let mut request = Request::default();
    if let Some(asked) = seen
        .asked
        .accept_data_loss
        .as_ref()
        .filter(|_| memory.answered.accept_data_loss.is_none())
    {
        match accept_data_loss(seen, memory, phase, asked) {
            Answer::Said(note) => {
                request.note = Some(note);
                memory.answered.accept_data_loss = Some(asked.clone());
            }
            // Answered when it has come about: an operator that dies before that leaves the request to the next one.
            Answer::Begin(change) => {
                request.start = Some(*change);
                memory.accepting = Some(asked.clone());
            }
            Answer::Wait => {}
        }
        return request;
    }
    if let Some(pod) = seen.asked.promote.as_ref().filter(|_| memory.answered.promote.is_none()) {
        match promote(seen, memory, phase, pod) {
            Answer::Said(note) => {
                request.note = Some(note);
                memory.answered.promote = Some(pod.clone());
                memory.attempts = 0;
                return request;
            }
            Answer::Begin(change) => {
                request.start = Some(*change);
                memory.attempts += 1;
            }
            Answer::Wait => {}
        }
        request.target_primary = Some(pod.clone());
    }
    request
}

fn promote(seen: &Observation<'_>, memory: &Memory, phase: &Phase, pod: &str) -> Answer {
    if seen.driving.is_some() || *phase == Phase::Starting {
        return Answer::Wait;
    }
    // An operator that has just begun may have heard a follower before the primary: that is no reason to refuse.
    let refuse = |why: &str| match settling(seen, memory) {
        true => Answer::Wait,
        false => say(true, "PromotionRefused", format!("{pod} is not promoted: {why}")),
    };
    let Some(leader) = leader(seen, phase) else {
        return refuse("there is no primary that serves and that the operator hears, and a failover chooses by itself");
    };
    let Some(member) = seen.members.iter().find(|member| member.pod == pod) else {
        return refuse("the store has no such pod");
    };
    let Some(incarnation) = member.incarnation() else {
        return refuse("the operator does not hear it");
    };
    if incarnation == leader.id.incarnation {
        return say(false, "Promoted", format!("{pod} is the primary"));
    }
    if !leader
        .configuration
        .as_ref()
        .is_some_and(|(_, current)| current.contains(incarnation))
    {
        return refuse("it is no member yet, or no member any more");
    }
    if member.fresh(seen.now, seen.settings.suspect_after).is_none() {
        return refuse("the operator does not hear it");
    }
    if member.status.as_ref().is_some_and(|status| status.damaged) {
        return refuse("its log is damaged");
    }
    if memory.attempts >= ATTEMPTS {
        let failure = memory.change_failure.as_deref().unwrap_or("another replica was chosen");
        return refuse(&format!("{ATTEMPTS} attempts failed, the last one so: {failure}"));
    }
    if !holds_log(leader, incarnation) || seen.now < memory.change_retry_at {
        return Answer::Wait;
    }
    Answer::Begin(Box::new(begin(
        seen,
        memory,
        Goal::Switchover(incarnation),
        format!("a person asks for {pod}"),
    )))
}

fn accept_data_loss(seen: &Observation<'_>, memory: &Memory, phase: &Phase, asked: &str) -> Answer {
    if seen.driving.is_some() || *phase == Phase::Starting {
        return Answer::Wait;
    }
    let refuse = |why: String| say(true, "DataLossRefused", format!("{asked} is not accepted: {why}"));
    let epoch = seen.told.shards.first().map_or(0, |shard| shard.epoch);
    let parsed = asked
        .split_once('@')
        .and_then(|(shard, epoch)| Some((shard.parse::<i32>().ok()?, epoch.parse::<i64>().ok()?)));
    let Some((shard, named)) = parsed else {
        return refuse("it is to be written as <shard>@<epoch>".to_owned());
    };
    if u32::try_from(shard) != Ok(seen.shard) {
        return refuse(format!("the store has no shard {shard}"));
    }
    if !matches!(phase, Phase::Blocked(_)) {
        return refuse("the shard is not blocked: nothing has to be lost".to_owned());
    }
    if named != epoch {
        return refuse(format!("the shard is blocked in epoch {epoch}"));
    }
    if seen.now < memory.retry_at {
        return Answer::Wait;
    }
    let known = configuration(seen.members);
    let well = |incarnation| heard(seen, incarnation).is_some_and(|status| !status.damaged);
    let current = known.into_iter().flat_map(|(_, current)| current.members());
    let left: Vec<Member> = current
        .filter(|member| well(member.incarnation))
        .cloned()
        .chain(come_back_as_others(seen, known.map(|(_, current)| current)))
        .collect();
    let quorum = Quorum::majority(u32::try_from(left.len()).unwrap_or_default());
    let Ok(survivors) = Configuration::new(left, quorum.write, quorum.read) else {
        return refuse("no undamaged member answers".to_owned());
    };
    let lost = known.into_iter().flat_map(|(_, current)| current.members());
    let lost: Vec<String> = lost
        .filter(|member| !survivors.contains(member.incarnation))
        .map(|member| member.ordinal.to_string())
        .collect();
    let reason = format!("given up: replicas {}", lost.join(", "));
    Answer::Begin(Box::new(begin(seen, memory, Goal::Recover(survivors), reason)))
}

/// Replicas that are no members and hold a log, where the member of their ordinal is gone: those whose machine restarted
/// under them and that may have lost what they acknowledged. They may hold more than the members that are left, and a person
/// has accepted that it is not all: whoever of all these has the greatest log goes on.
fn come_back_as_others<'a>(
    seen: &'a Observation<'_>,
    current: Option<&'a quorate_api::Configuration>,
) -> impl Iterator<Item = Member> + use<'a> {
    let statuses = seen
        .members
        .iter()
        .filter_map(|member| member.fresh(seen.now, seen.settings.suspect_after));
    let others = statuses.filter(move |status| {
        let place = current.and_then(|current| current.members().iter().find(|member| member.ordinal == status.id.ordinal));
        place.is_some_and(|member| member.incarnation != status.id.incarnation) && status.last.index > 0 && !status.damaged
    });
    others.map(|status| membership::member(seen, status.id.ordinal, status.id.incarnation))
}

fn begin(seen: &Observation<'_>, memory: &Memory, goal: Goal, reason: String) -> ViewChange {
    let from = seen.told.shards.first().and_then(|shard| shard.primary.clone());
    let primary = seen.members.iter().find(|member| Some(&member.pod) == from.as_ref());
    ViewChange {
        avoid: primary
            .and_then(Observed::incarnation)
            .filter(|_| matches!(goal, Goal::Switchover(_))),
        goal,
        reason,
        from,
        primary: None,
        leave_out: None,
        silence: None,
        known: Known::of(seen.members, memory.highest),
    }
}
