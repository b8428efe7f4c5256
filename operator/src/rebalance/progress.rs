//! How a rebalance is told: its record in the status, and the conditions Rebalancing and RebalanceStalled.
//!
//! Figures are told once a second at most, and nothing is told anew while nothing happens.

use super::assignment::Transfer;
use super::memory::{Memory, Run};
use super::plan::{Flight, Scene, weigh};
use crate::report::Say;
use quorate_crds::conditions::reasons;
use quorate_crds::{RebalanceState, RebalanceStatus};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two times that figures are told.
pub(super) const TELL: Duration = Duration::from_secs(1);
/// What a rebalance waits for is a stall after this time: a failover is none.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How a rebalance stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Every slot is where it is to be, and no shard is too many.
    Balanced,
    /// It is not known who owns what: why.
    Unknown(String),
    /// Somebody wants it to wait: the reason and the message.
    Held(&'static str, String),
    /// It cannot get on: the reason, the message, and whether that is a stall if it lasts.
    Waits(&'static str, String, bool),
    /// Slots move.
    Moving,
    /// Shards that own nothing are to be removed: what that waits for.
    Removing(String),
}

/// The record, and both conditions.
pub(super) fn tell(
    scene: &Scene<'_>,
    memory: &mut Memory,
    standing: &Standing,
    todo: &[Transfer],
    flights: &BTreeMap<u64, Flight>,
) -> (Option<RebalanceStatus>, Say, Say) {
    let stalled = stalled(scene, memory, standing, flights);
    let (rebalancing, state, reason) = words(scene, standing, todo, flights);
    let told = if state == RebalanceState::Balanced {
        finished(scene, memory)
    } else {
        Some(running(scene, memory, (state, reason), todo, flights))
    };
    (told, rebalancing, stalled)
}

fn words(scene: &Scene<'_>, standing: &Standing, todo: &[Transfer], flights: &BTreeMap<u64, Flight>) -> (Say, RebalanceState, String) {
    let drains = |from: u32| from >= scene.settings.shards;
    let draining = todo.iter().any(|transfer| drains(transfer.from)) || flights.values().any(|flight| drains(flight.from));
    let (holds, code, state, text) = match standing {
        Standing::Balanced => {
            let text = "every slot is where it is to be".to_owned();
            return ((false, reasons::BALANCED, text), RebalanceState::Balanced, String::new());
        }
        Standing::Unknown(text) => (true, reasons::SLOTS_UNKNOWN, RebalanceState::Waiting, text.clone()),
        Standing::Held(code, text) => (false, *code, RebalanceState::Waiting, text.clone()),
        Standing::Waits(code, text, _) => (true, *code, RebalanceState::Waiting, text.clone()),
        Standing::Removing(text) => (true, reasons::REMOVING_SHARDS, RebalanceState::Removing, text.clone()),
        Standing::Moving if draining => {
            let text = format!("the shards from {} on give their slots to the others", scene.settings.shards);
            (true, reasons::DRAINING, RebalanceState::Draining, text)
        }
        Standing::Moving => {
            let text = format!("slots move so that {} shards own as many each", scene.settings.shards);
            (true, reasons::MOVING_SLOTS, RebalanceState::Moving, text)
        }
    };
    let waits = flights
        .values()
        .find_map(|flight| flight.waits_for.as_ref().map(|what| (flight.from, flight.to, what)));
    let text = match waits {
        Some((from, to, what)) if *standing == Standing::Moving => format!("{text}; the move {from} -> {to} waits: {what}"),
        _ => text,
    };
    ((holds, code, text.clone()), state, text)
}

/// What it waits for, once that has lasted.
fn stalled(scene: &Scene<'_>, memory: &mut Memory, standing: &Standing, flights: &BTreeMap<u64, Flight>) -> Say {
    let waits = flights.values().find_map(|flight| flight.waits_for.clone());
    let now = match standing {
        Standing::Unknown(text) => Some((reasons::SLOTS_UNKNOWN, text.clone())),
        Standing::Waits(code, text, true) => Some((*code, text.clone())),
        Standing::Removing(text) => Some((reasons::REMOVING_SHARDS, text.clone())),
        Standing::Moving => waits.map(|what| (reasons::MOVE_WAITS, what)),
        Standing::Balanced | Standing::Held(..) | Standing::Waits(_, _, false) => None,
    };
    let Some((code, text)) = now else {
        memory.stalled = None;
        return (false, reasons::NONE, String::new());
    };
    let since = match memory.stalled {
        Some((known, since)) if known == code => since,
        _ => scene.now,
    };
    memory.stalled = Some((code, since));
    if scene.now > since + STALLED_AFTER {
        (true, code, text)
    } else {
        (false, reasons::NONE, String::new())
    }
}

/// The record of what is over.
fn finished(scene: &Scene<'_>, memory: &mut Memory) -> Option<RebalanceStatus> {
    let run = memory.run.take();
    let mut told = match scene.told {
        Some(told) => told.clone(),
        // A store of one shard that never had another one has nothing to tell.
        None if run.is_none() && scene.settings.shards == 1 => return None,
        None => RebalanceStatus::default(),
    };
    if let Some(run) = run {
        (told.slots_moved, told.bytes_moved) = (int(run.slots), int(run.bytes));
    }
    (told.slots_total, told.bytes_total) = (told.slots_moved, told.bytes_moved);
    told.state = RebalanceState::Balanced;
    (told.percent, told.moves, told.bytes_per_second, told.eta_seconds) = (100, 0, 0, None);
    (told.reason, told.progress) = (String::new(), String::new());
    Some(told)
}

fn running(
    scene: &Scene<'_>,
    memory: &mut Memory,
    (state, reason): (RebalanceState, String),
    todo: &[Transfer],
    flights: &BTreeMap<u64, Flight>,
) -> RebalanceStatus {
    let now = scene.now;
    let under_way: u64 = flights.values().map(|flight| flight.slots.len() as u64).sum();
    let slots_left = under_way + todo.iter().map(|transfer| transfer.slots.len() as u64).sum::<u64>();
    let sent: u64 = flights.values().map(|flight| flight.sent.min(flight.total)).sum();
    let on_the_way: u64 = flights.values().map(|flight| flight.total - flight.sent.min(flight.total)).sum();
    let to_come = todo
        .iter()
        .map(|transfer| memory.sizes.get(&transfer.from).map_or(0, |sizes| weigh(sizes, &transfer.slots)));
    let bytes_left = on_the_way + to_come.sum::<u64>();
    let run = memory.run.get_or_insert_with(|| begin(scene.told, now));
    let (slots, bytes) = (run.slots, run.bytes + sent);
    if now >= run.mark.0 + TELL {
        let per_second = (bytes.saturating_sub(run.mark.1) as f64 / (now - run.mark.0).as_secs_f64()) as u64;
        run.rate = if run.rate == 0 {
            per_second
        } else {
            (run.rate + 2 * per_second) / 3
        };
        run.mark = (now, bytes);
    }
    if let Some(told) = scene.told
        && (told.state, &told.reason) == (state, &reason)
        && now < run.told + TELL
    {
        return told.clone();
    }
    run.told = now;
    let (slots_total, bytes_total) = (slots + slots_left, bytes + bytes_left);
    let percent = percent(slots, slots_total, bytes, bytes_total);
    RebalanceStatus {
        state,
        slots_moved: int(slots),
        slots_total: int(slots_total),
        bytes_moved: int(bytes),
        bytes_total: int(bytes_total),
        percent,
        moves: i32::try_from(flights.len()).unwrap_or(i32::MAX),
        bytes_per_second: int(run.rate),
        eta_seconds: (run.rate > 0 && bytes_left > 0).then(|| int(bytes_left.div_ceil(run.rate))),
        reason,
        progress: format!("{percent}% ({slots}/{slots_total} slots)"),
    }
}

/// A record that was found is gone on with: an operator that starts anew is the same rebalance.
fn begin(told: Option<&RebalanceStatus>, now: Instant) -> Run {
    let known = told.filter(|told| told.state != RebalanceState::Balanced);
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    let bytes = known.map_or(0, |told| count(told.bytes_moved));
    Run {
        slots: known.map_or(0, |told| count(told.slots_moved)),
        bytes,
        mark: (now, bytes),
        rate: 0,
        // So that the first figures are told at once.
        told: now.checked_sub(TELL).unwrap_or(now),
    }
}

/// By bytes where there are any: an empty slot moves in no time.
fn percent(slots: u64, slots_total: u64, bytes: u64, bytes_total: u64) -> i32 {
    let (done, all) = if bytes_total > 0 {
        (bytes, bytes_total)
    } else {
        (slots, slots_total)
    };
    let hundred = (done.min(all) * 100).checked_div(all).unwrap_or_default();
    i32::try_from(hundred).unwrap_or(100)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Bytes for people.
pub(super) fn in_bytes(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} B"),
    }
}
