//! A primary that is lost, and the first epoch of a store.

use super::{ACTIVATION, Birth, Drive, GRACE, Goal, Memory, Observation, PATIENCE, Phase, ViewChange, statuses, with_failure};
use crate::detect::{Verdict, is_cut_off, judge};
use crate::observe::{Health, Observed, group};
use crate::settings::Settings;
use crate::view_change::Known;
use quorate_api::{Configuration, Consistency, DiskRoom, Epoch, Incarnation, NodeRole, Quorum};
use std::time::Instant;

/// What the shard is doing, and the failover or the first view change to start.
pub(super) fn decide(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    let Some(drive) = seen.driving else {
        return stand(seen, memory);
    };
    if is_overtaken(seen, drive)
        && let (phase, Some(change)) = stand(seen, memory)
        && change.goal == Goal::Failover
    {
        return (phase, Some(change));
    }
    let reason = drive.change.reason.clone();
    let phase = match drive.change.goal {
        Goal::Bootstrap(_) => Phase::Bootstrapping(reason),
        Goal::Failover | Goal::Recover(_) => Phase::FailingOver(reason),
        Goal::Switchover(_) | Goal::Change(_) => Phase::ViewChanging(reason),
    };
    (phase, None)
}

/// Whether a view change that is no failover has lost its right of way: it takes long, or the primary has died meanwhile.
fn is_overtaken(seen: &Observation<'_>, drive: &Drive) -> bool {
    let yields = matches!(drive.change.goal, Goal::Switchover(_) | Goal::Change(_));
    let from = seen.members.iter().find(|member| Some(&member.pod) == drive.change.from.as_ref());
    let died = from.is_none_or(|member| !member.connected || member.health == Health::Gone);
    yields && (died || seen.now > drive.begun + PATIENCE)
}

fn stand(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    let unborn = statuses(seen.members).all(|status| status.role == NodeRole::Blank && status.primary.is_none());
    if unborn { first(seen, memory) } else { running(seen, memory) }
}

/// No replica that was heard has ever been in a group.
fn first(seen: &Observation<'_>, memory: &Memory) -> (Phase, Option<ViewChange>) {
    let Observation { settings, members, .. } = seen;
    let served = seen.told.shards.iter().any(|shard| shard.epoch > 0);
    let fresh = members
        .iter()
        .filter(|member| member.fresh(seen.now, settings.suspect_after).is_some())
        .count();
    // A pod more may hold data: one that was not heard is no reason to begin anew.
    let wanted = members.len().max(settings.quorum.replicas as usize);
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
    // Where an epoch was begun already, all that promised are asked again: the group is made smaller once it is one.
    let begun = statuses(members).any(|status| status.promised > Epoch::ZERO);
    if members.len() > settings.quorum.replicas as usize && !begun {
        let text = format!(
            "{} pods, and {} are wanted: the first epoch starts when the others are gone",
            members.len(),
            settings.quorum.replicas
        );
        return (Phase::Gathering(text), None);
    }
    if served {
        return (Phase::DataLost(DATA_LOST.to_owned()), None);
    }
    match &seen.others.birth {
        Birth::Free => {}
        Birth::Waits(what) => return (Phase::Gathering(what.clone()), None),
        Birth::Refused(why) => return (Phase::DataLost(why.clone()), None),
    }
    if settings.paused {
        return (Phase::Paused, None);
    }
    let each = members.iter().filter_map(|member| {
        Some(quorate_api::Member {
            incarnation: member.incarnation()?,
            ordinal: member.ordinal,
            host: crate::names::replica_host(&settings.name, &settings.namespace, seen.shard, member.ordinal),
        })
    });
    let target = match Configuration::of(each.collect(), first_quorum(settings.quorum, members.len())) {
        Ok(target) => target,
        Err(error) => return (Phase::Gathering(format!("the replicas make no group: {error}")), None),
    };
    let phase = Phase::Bootstrapping(with_failure("starting the first epoch", memory.failure.as_ref()));
    if seen.now < memory.retry_at {
        return (phase, None);
    }
    let change = ViewChange {
        goal: Goal::Bootstrap(target),
        reason: "starting the first epoch".to_owned(),
        from: None,
        primary: None,
        avoid: None,
        leave_out: None,
        silence: None,
        known: Known::of(members, memory.highest),
    };
    (phase, Some(change))
}

/// The quorum of the first epoch of so many replicas.
fn first_quorum(wanted: Quorum, replicas: usize) -> Quorum {
    let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    match wanted.consistency {
        _ if wanted.replicas == replicas => wanted,
        Consistency::Strong => Quorum::majority(replicas),
        Consistency::Eventual => Quorum::eventual(replicas),
    }
}

/// What is said of a store that had data and whose replicas are empty.
pub(super) const DATA_LOST: &str = "this store was bootstrapped before, and all its replicas come back empty: bring back its volumes, or delete the \
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
    if let Verdict::Activating { primary } = verdict
        && let Some((room, needed)) = lacks_room(&members, quorum, seen)
    {
        // Whoever else was chosen would find no more room for its first entry.
        let text = format!(
            "{} was chosen, and {room} of the {needed} members that its first entry needs have room for it",
            name(primary)
        );
        return (Phase::NoRoom(text), None);
    }
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

/// Members with room for an entry, and how many have to take one, if full disks make the former less than the latter.
fn lacks_room(members: &[&Observed], quorum: Quorum, seen: &Observation<'_>) -> Option<(usize, usize)> {
    let heard = || {
        members
            .iter()
            .filter_map(|member| member.fresh(seen.now, seen.settings.suspect_after))
    };
    let room = heard().filter(|status| status.disk != DiskRoom::Full).count();
    let needed = quorum.commit() as usize;
    (room < needed && room < heard().count()).then_some((room, needed))
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
    let phase = Phase::FailingOver(with_failure(reason, memory.failure.as_ref()));
    if *now < memory.retry_at {
        return (phase, None);
    }
    let from = members.iter().find(|member| primary.is_some() && member.incarnation() == primary);
    let change = ViewChange {
        goal: Goal::Failover,
        reason: reason.to_owned(),
        from: from.map(|member| member.pod.clone()),
        primary: None,
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
    let others = seen.members.iter().filter(|member| {
        let fresh = member.fresh(seen.now, seen.settings.suspect_after);
        fresh.is_some_and(|status| status.role == NodeRole::Learner)
    });
    let uncounted = match others.count() {
        0 => String::new(),
        others => {
            format!(". {others} more answer that are no members: new ones, or such whose machine restarted with writes in its page cache")
        }
    };
    Phase::Blocked(format!(
        "{reachable} of {} replicas answer and a failover needs {needed}: it goes on by itself when {} more come back{uncounted}",
        quorum.replicas,
        needed.saturating_sub(reachable)
    ))
}

/// Whether this operator is too young to call a silent replica silent.
pub(super) fn settling(seen: &Observation<'_>, memory: &Memory) -> bool {
    seen.now <= memory.since + seen.settings.suspect_after
}

/// The epoch of a view change that another driver began a moment ago, and that nobody serves yet.
fn somebody_elses(seen: &Observation<'_>, memory: &Memory) -> Option<Epoch> {
    let (highest, since) = memory.promised;
    let known = statuses(seen.members).filter_map(|status| status.primary.as_ref());
    let served = known.map(|view| view.epoch).max().unwrap_or_default();
    let own = Some(highest) == memory.own || seen.driving.is_some_and(|drive| drive.epoch == highest);
    let other = highest > served && !own && highest != Epoch::ZERO;
    (other && seen.now < since + GRACE).then_some(highest)
}

/// When the next failover may begin.
pub(super) fn interval_ends(settings: &Settings, memory: &Memory) -> Option<Instant> {
    memory.last_failover.map(|last| last + settings.min_interval)
}
