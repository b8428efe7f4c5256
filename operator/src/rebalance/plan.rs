//! Which moves to begin, which shards may be removed, and how the rebalance stands.

use super::assignment::{Transfer, transfers};
use super::memory::{Memory, Ordered, Sizes};
use super::progress::{self, Standing};
use crate::report::Say;
use crate::settings::Settings;
use quorate_api::slot::SLOTS;
use quorate_api::{MovePhase, MoveSlots, SlotSet, SlotsStatus};
use quorate_crds::RebalanceStatus;
use quorate_crds::conditions::reasons;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Bytes that one move carries, about. Small enough that one which fails costs little and that many can share the way, large
/// enough that its records in both logs do not count.
const BATCH_BYTES: u64 = 32 << 20;
/// Slots with data that one move carries at most: clients of all of them wait while it is decided.
const BATCH_SLOTS: usize = 1024;
/// Nothing that is to be seen by the mere passing of time takes longer to be seen.
const LOOK: Duration = Duration::from_secs(1);
/// A shard is said to hold no more than this part of its memory limit after a drain: the rest is for what clients add.
const FILL: (u64, u64) = (9, 10);

/// What is known of the slots of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardSlots {
    /// Whether its primary serves and the operator hears it.
    pub serves: bool,
    /// Whether it is a group, as far as anybody told.
    pub group: bool,
    /// What its primary says, or the replica that knows most. None: nothing was heard, or its nodes know of no slots.
    pub slots: Option<SlotsStatus>,
    /// When the operator heard that.
    pub heard: Option<Instant>,
    /// The highest handoff that any of its replicas knows.
    pub last_handoff: u64,
    /// Why it is not known of every replica that it owns nothing and takes part in no move; None if it is.
    pub holds: Option<String>,
}

/// Everything that a plan depends on, but for the memory.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The spec, checked.
    pub settings: &'a Settings,
    /// Every shard that is wanted or present.
    pub shards: &'a BTreeMap<u32, ShardSlots>,
    /// Whether a person asks for a rebalance.
    pub requested: bool,
    /// What was told last.
    pub told: Option<&'a RebalanceStatus>,
    /// The moment, for durations.
    pub now: Instant,
}

/// Something to ask of the primary of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To move slots.
    Move(u32, MoveSlots),
    /// To end a move.
    Abort(u32, u64),
    /// How large its slots are.
    Sizes(u32),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// To be asked now.
    pub asks: Vec<Ask>,
    /// Shards that are not wanted any more and own nothing: the last ones. Their objects may be deleted.
    pub removable: BTreeSet<u32>,
    /// For the status; None for a store that has and is to have one shard.
    pub told: Option<RebalanceStatus>,
    /// The condition Rebalancing.
    pub rebalancing: Say,
    /// The condition RebalanceStalled.
    pub stalled: Say,
    /// Whether every slot is where it is to be and no shard is too many.
    pub balanced: bool,
    /// When to plan again if nothing is heard before.
    pub look_at: Instant,
    /// For the next plan.
    pub memory: Memory,
}

/// A move that is under way, as far as anybody knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flight {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) slots: SlotSet,
    pub(super) sent: u64,
    pub(super) total: u64,
    pub(super) phase: Option<MovePhase>,
    pub(super) waits_for: Option<String>,
}

/// Plans. See the module.
#[must_use]
pub fn plan(scene: &Scene<'_>, memory: &Memory) -> Plan {
    let mut memory = memory.clone();
    settle(scene, &mut memory);
    let flights = flights(scene, &memory);
    let wanted = scene.settings.shards;
    let survey = survey(scene, &flights);
    let todo = match &survey {
        Ok(owned) => transfers(owned, wanted),
        Err(_) => Vec::new(),
    };
    let removable = removable(scene, survey.is_ok(), &flights);
    let leaving = scene.shards.keys().any(|shard| *shard >= wanted && !removable.contains(shard));
    let mut asks = aborts(scene, &mut memory, &flights);
    let born = scene
        .shards
        .get(&0)
        .is_some_and(|shard| shard.group || shard.slots.as_ref().is_some_and(|slots| !slots.owned.is_empty()));
    let standing = if !born {
        Standing::Held(reasons::WAITING, "shard 0 has not begun its first epoch".to_owned())
    } else if let Err(unknown) = survey {
        Standing::Unknown(unknown)
    } else if todo.is_empty() && flights.is_empty() {
        if leaving {
            Standing::Removing(why_it_stays(scene))
        } else {
            // Clients go on: what is empty now may be full when slots move again.
            memory.sizes.clear();
            Standing::Balanced
        }
    } else if let Some(held) = held(scene, &memory, &todo, &mut asks) {
        held
    } else {
        issue(scene, &mut memory, &todo, &flights, &mut asks)
    };
    for ask in &asks {
        if let Ask::Sizes(shard) = ask {
            memory.asked.insert(*shard);
        }
    }
    let (told, rebalancing, stalled) = progress::tell(scene, &mut memory, &standing, &todo, &flights);
    Plan {
        asks,
        balanced: standing == Standing::Balanced,
        removable,
        told,
        rebalancing,
        stalled,
        look_at: look_at(scene, &memory),
        memory,
    }
}

/// What became of moves: those that others ordered are taken up, those that are over are counted.
fn settle(scene: &Scene<'_>, memory: &mut Memory) {
    let highest = scene.shards.values().map(|shard| shard.last_handoff).max().unwrap_or_default();
    memory.handoff = memory.handoff.max(highest);
    for (index, shard) in scene.shards {
        for export in shard.slots.iter().flat_map(|slots| &slots.exports) {
            memory.handoff = memory.handoff.max(export.handoff);
            let order = memory.orders.entry(export.handoff).or_insert_with(|| Ordered {
                from: *index,
                to: export.peer,
                slots: export.slots.clone(),
                bytes: export.bytes_total,
                recorded: true,
                seen: true,
                at: scene.now,
            });
            (order.seen, order.recorded) = (true, true);
            order.bytes = order.bytes.max(export.bytes_total);
        }
    }
    let over: Vec<(u64, bool)> = memory
        .orders
        .iter()
        .filter_map(|(handoff, order)| Some((*handoff, became(scene, *handoff, order)?)))
        .collect();
    for (handoff, moved) in over {
        memory.aborted.remove(&handoff);
        let Some(order) = memory.orders.remove(&handoff) else { continue };
        if !moved {
            continue;
        }
        memory.sizes_move(&order);
        if let Some(run) = &mut memory.run {
            run.slots += order.slots.len() as u64;
            run.bytes += order.bytes;
        }
    }
}

/// Whether a move that is over came about; None while it is not over, or that is not known.
fn became(scene: &Scene<'_>, handoff: u64, order: &Ordered) -> Option<bool> {
    let source = scene.shards.get(&order.from);
    let Some(slots) = source.filter(|source| source.serves).and_then(|source| source.slots.as_ref()) else {
        // Nobody is there to tell. A shard that is gone gave everything away.
        return source.is_none().then_some(true);
    };
    if slots.exports.iter().any(|export| export.handoff == handoff) {
        return None;
    }
    let gone = slots.owned.is_disjoint(&order.slots);
    // What the source told after its answer is without the move: it came about, or it failed before anybody told of it.
    let told_since = order.recorded && source.and_then(|source| source.heard).is_some_and(|heard| heard > order.at);
    if order.seen || told_since {
        return Some(gone);
    }
    order.is_given_up(scene.now).then_some(gone)
}

fn flights(scene: &Scene<'_>, memory: &Memory) -> BTreeMap<u64, Flight> {
    let mut flights = BTreeMap::new();
    for (handoff, order) in &memory.orders {
        let Ordered {
            from, to, slots, bytes, ..
        } = order;
        let flight = Flight {
            from: *from,
            to: *to,
            slots: slots.clone(),
            sent: 0,
            total: *bytes,
            phase: None,
            waits_for: None,
        };
        flights.insert(*handoff, flight);
    }
    for (index, shard) in scene.shards {
        for export in shard.slots.iter().flat_map(|slots| &slots.exports) {
            let flight = Flight {
                from: *index,
                to: export.peer,
                slots: export.slots.clone(),
                sent: export.bytes_sent,
                // What was weighed before stands until the source has counted.
                total: export
                    .bytes_total
                    .max(flights.get(&export.handoff).map_or(0, |known: &Flight| known.total)),
                phase: Some(export.phase),
                waits_for: export.waits_for.clone(),
            };
            flights.insert(export.handoff, flight);
        }
        // The source may not be heard.
        for import in shard.slots.iter().flat_map(|slots| &slots.imports) {
            flights.entry(import.handoff).or_insert_with(|| Flight {
                from: import.peer,
                to: *index,
                slots: import.slots.clone(),
                sent: 0,
                total: import.bytes_total,
                phase: Some(import.phase),
                waits_for: import.waits_for.clone(),
            });
        }
    }
    flights
}

/// Who will own what once the moves under way have come about, or why that cannot be said.
fn survey(scene: &Scene<'_>, flights: &BTreeMap<u64, Flight>) -> Result<BTreeMap<u32, SlotSet>, String> {
    let mut owner: Vec<Option<u32>> = vec![None; usize::from(SLOTS)];
    let mut contested = 0usize;
    // Of two that both say that they own a slot, the one that took part in the later move knows.
    let mut by_handoff: Vec<(u64, u32, &SlotSet)> = scene
        .shards
        .iter()
        .filter_map(|(index, shard)| Some((shard.last_handoff, *index, &shard.slots.as_ref()?.owned)))
        .collect();
    by_handoff.sort_by_key(|(handoff, index, _)| (*handoff, *index));
    let in_flight = |slot: u16| flights.values().any(|flight| flight.slots.contains(slot));
    for (_, index, owned) in by_handoff {
        for slot in owned.iter() {
            let before = owner[usize::from(slot)].replace(index);
            contested += usize::from(before.is_some() && !in_flight(slot));
        }
    }
    for flight in flights.values() {
        for slot in flight.slots.iter() {
            owner[usize::from(slot)] = Some(flight.to);
        }
    }
    let silent: Vec<String> = scene
        .shards
        .iter()
        .filter(|(_, shard)| shard.slots.is_none())
        .map(|(index, _)| index.to_string())
        .collect();
    let missing: SlotSet = (0..SLOTS).filter(|slot| owner[usize::from(*slot)].is_none()).collect();
    match (missing.is_empty(), silent.is_empty()) {
        _ if contested > 0 => {
            return Err(format!(
                "{contested} slots are told by two shards: one of them is not heard anew yet"
            ));
        }
        (false, false) => return Err(format!("shards {} did not tell which slots they own", silent.join(", "))),
        (false, true) => {
            return Err(format!(
                "no shard tells that it owns the slots {missing}: a store that is made again over kept claims needs as many shards as it had"
            ));
        }
        (true, _) => {}
    }
    let mut owned: BTreeMap<u32, Vec<u16>> = scene.shards.keys().map(|index| (*index, Vec::new())).collect();
    for (slot, index) in (0..SLOTS).zip(owner) {
        owned.entry(index.unwrap_or_default()).or_default().push(slot);
    }
    Ok(owned
        .into_iter()
        .map(|(index, slots)| (index, slots.into_iter().collect()))
        .collect())
}

/// The last shards, as far as they are not wanted and own nothing: every slot is known to be somebody's, the primary of the shard
/// serves and says that it has none, and so does every other replica. One that never became a group has nobody to say so:
/// there the primaries of all other shards must serve, and own every slot between them.
fn removable(scene: &Scene<'_>, all_known: bool, flights: &BTreeMap<u64, Flight>) -> BTreeSet<u32> {
    let busy = |index: u32| flights.values().any(|flight| flight.from == index || flight.to == index);
    let last_first = scene
        .shards
        .iter()
        .rev()
        .filter(|(index, _)| **index >= scene.settings.shards && **index > 0);
    let others_serve = |index: u32| {
        scene
            .shards
            .iter()
            .all(|(other, shard)| *other == index || shard.serves || is_unborn(shard))
    };
    let empty = last_first.take_while(|(index, shard)| {
        let says_so = shard.serves && shard.holds.is_none();
        let never = is_unborn(shard) && others_serve(**index);
        !scene.settings.paused && all_known && !busy(**index) && (says_so || never)
    });
    empty.map(|(index, _)| *index).collect()
}

/// Nobody ever told of a group of that shard.
fn is_unborn(shard: &ShardSlots) -> bool {
    !shard.group && shard.last_handoff == 0
}

fn why_it_stays(scene: &Scene<'_>) -> String {
    if scene.settings.paused {
        return "spec.paused is set".to_owned();
    }
    let removed = "shards that own nothing are removed, their claims are kept";
    let Some((index, shard)) = scene.shards.iter().next_back() else {
        return removed.to_owned();
    };
    match &shard.holds {
        Some(why) => format!("shard {index} owns nothing; {why}"),
        None if !shard.serves => format!("shard {index} owns nothing; its primary has to serve and say so"),
        None => removed.to_owned(),
    }
}

/// Moves to shards that are to go are ended while that costs nothing.
fn aborts(scene: &Scene<'_>, memory: &mut Memory, flights: &BTreeMap<u64, Flight>) -> Vec<Ask> {
    let mut asks = Vec::new();
    for (handoff, flight) in flights {
        let leaving = flight.to >= scene.settings.shards && flight.phase == Some(MovePhase::Exporting);
        let serves = scene.shards.get(&flight.from).is_some_and(|shard| shard.serves);
        if leaving && serves && memory.aborted.insert(*handoff) {
            asks.push(Ask::Abort(flight.from, *handoff));
        }
    }
    asks
}

/// Why no move may begin at all; asks for what has to be known to say so.
fn held(scene: &Scene<'_>, memory: &Memory, todo: &[Transfer], asks: &mut Vec<Ask>) -> Option<Standing> {
    let settings = scene.settings;
    if settings.paused {
        return Some(Standing::Held(reasons::PAUSED, "spec.paused is set".to_owned()));
    }
    let bytes: u64 = scene.shards.values().filter_map(|shard| Some(shard.slots.as_ref()?.bytes)).sum();
    if !settings.rebalance.automatic && !scene.requested && bytes > 0 && !todo.is_empty() {
        let text = "spec.rebalance.mode is Manual: set the annotation quorate.io/rebalance to begin";
        return Some(Standing::Held(reasons::MANUAL_REBALANCE, text.to_owned()));
    }
    let drains = todo.iter().any(|transfer| transfer.from >= settings.shards);
    if settings.max_memory == 0 || !drains {
        return None;
    }
    let sources: BTreeSet<u32> = todo.iter().map(|transfer| transfer.from).collect();
    // Judged by what is known meanwhile: clients may delete, and a refusal must not outlive its cause.
    let stale = sources.iter().copied().filter(|source| memory.sizes(*source, scene.now).is_none());
    asks.extend(ask_sizes(scene, memory, &stale.collect::<Vec<_>>()));
    if sources.iter().any(|source| !memory.sizes.contains_key(source)) {
        let text = "asking how large the slots are, to see whether the remaining shards can hold them";
        return Some(Standing::Waits(reasons::WAITING, text.to_owned(), false));
    }
    let limit = settings.max_memory / FILL.1 * FILL.0;
    let (index, needed) = expected(scene, memory, todo).into_iter().max_by_key(|(_, bytes)| *bytes)?;
    (needed > limit).then(|| {
        let text = format!(
            "the shards that remain cannot hold the data: shard {index} would hold {} of at most {} (nine tenths of spec.maxMemory); raise spec.maxMemory \
             or spec.shards, or delete data",
            progress::in_bytes(needed),
            progress::in_bytes(limit)
        );
        Standing::Waits(reasons::INSUFFICIENT_CAPACITY, text, true)
    })
}

/// Bytes that the remaining shards would hold.
fn expected(scene: &Scene<'_>, memory: &Memory, todo: &[Transfer]) -> BTreeMap<u32, u64> {
    let remaining = scene.shards.iter().filter(|(index, _)| **index < scene.settings.shards);
    let now = |shard: &ShardSlots| shard.slots.as_ref().map_or(0, |slots| slots.bytes);
    let mut bytes: BTreeMap<u32, u64> = remaining.map(|(index, shard)| (*index, now(shard))).collect();
    for Transfer { from, to, slots } in todo {
        let moved = memory.sizes.get(from).map_or(0, |sizes| weigh(sizes, slots));
        if let Some(source) = bytes.get_mut(from) {
            *source = source.saturating_sub(moved);
        }
        *bytes.entry(*to).or_default() += moved;
    }
    bytes
}

pub(super) fn weigh(sizes: &Sizes, slots: &SlotSet) -> u64 {
    sizes
        .bytes
        .iter()
        .filter(|(slot, _)| slots.contains(**slot))
        .map(|(_, bytes)| bytes)
        .sum()
}

fn ask_sizes(scene: &Scene<'_>, memory: &Memory, of: &[u32]) -> Vec<Ask> {
    let due = of.iter().filter(|shard| {
        let serves = scene.shards.get(shard).is_some_and(|shard| shard.serves);
        let patient = memory.refused.get(shard).is_some_and(|refused| scene.now < refused.retry_at);
        serves && !patient && !memory.asked.contains(shard)
    });
    due.map(|shard| Ask::Sizes(*shard)).collect()
}

/// Begins moves: one source after the other, so that all of them get on, until enough are under way.
fn issue(scene: &Scene<'_>, memory: &mut Memory, todo: &[Transfer], flights: &BTreeMap<u64, Flight>, asks: &mut Vec<Ask>) -> Standing {
    let under_way = flights.len();
    let limits = &scene.settings.rebalance;
    let mut room = (limits.max_concurrent_moves as usize).saturating_sub(under_way);
    let serves = |index: u32| scene.shards.get(&index).is_some_and(|shard| shard.serves);
    let mut waits: Option<(&'static str, String)> = None;
    let mut ready: Vec<Transfer> = Vec::new();
    for transfer in todo {
        let Transfer { from, to, .. } = transfer;
        let refused = memory.refused.get(from);
        if let Some(shard) = [from, to].into_iter().find(|shard| !serves(**shard)) {
            waits.get_or_insert_with(|| {
                (
                    reasons::SHARD_NOT_SERVING,
                    format!("shard {shard} has no primary that serves and that the operator hears"),
                )
            });
        } else if let Some(refused) = refused.filter(|refused| scene.now < refused.retry_at) {
            waits.get_or_insert_with(|| (reasons::MOVE_REFUSED, format!("shard {from} refused: {}", refused.why)));
        } else if memory.sizes(*from, scene.now).is_none() {
            asks.extend(
                ask_sizes(scene, memory, &[*from])
                    .into_iter()
                    .filter(|ask| !asks.contains(ask))
                    .collect::<Vec<_>>(),
            );
        } else {
            // What is still on its way to that shard moves on when it has arrived.
            ready.extend(here(scene, transfer, flights));
        }
    }
    let limit = match limits.max_bytes_per_second {
        0 => 0,
        all => (all / u64::from(limits.max_concurrent_moves.max(1))).max(1),
    };
    while room > 0 && !ready.is_empty() {
        let mut served = BTreeSet::new();
        for transfer in &mut ready {
            if room == 0 || !served.insert(transfer.from) {
                continue;
            }
            let Some(sizes) = memory.sizes(transfer.from, scene.now) else {
                continue;
            };
            let (slots, bytes) = batch(&transfer.slots, sizes);
            transfer.slots = transfer.slots.difference(&slots);
            let order = MoveSlots {
                handoff: memory.handoff + 1,
                slots,
                to: transfer.to,
                max_bytes_per_second: limit,
            };
            memory.order(transfer.from, &order, bytes, scene.now);
            asks.push(Ask::Move(transfer.from, order));
            room -= 1;
        }
        ready.retain(|transfer| !transfer.slots.is_empty());
    }
    let orders = asks.iter().any(|ask| matches!(ask, Ask::Move(..)));
    match waits {
        Some((code, what)) if under_way == 0 && !orders => Standing::Waits(code, what, true),
        _ => Standing::Moving,
    }
}

/// The part of a transfer that its source owns by now, and that is in no move.
fn here(scene: &Scene<'_>, transfer: &Transfer, flights: &BTreeMap<u64, Flight>) -> Option<Transfer> {
    let owned = &scene.shards.get(&transfer.from)?.slots.as_ref()?.owned;
    let flying = flights.values().fold(SlotSet::new(), |flying, flight| flying.union(&flight.slots));
    let slots = transfer.slots.intersection(owned).difference(&flying);
    (!slots.is_empty()).then(|| Transfer { slots, ..transfer.clone() })
}

/// What to move first of these slots, and its bytes: everything that is empty at once, else as much as one move carries.
fn batch(slots: &SlotSet, sizes: &Sizes) -> (SlotSet, u64) {
    let empty: SlotSet = slots.iter().filter(|slot| !sizes.bytes.contains_key(slot)).collect();
    if !empty.is_empty() {
        return (empty, 0);
    }
    let (mut taken, mut bytes) = (Vec::new(), 0u64);
    for slot in slots.iter().take(BATCH_SLOTS) {
        let size = sizes.bytes.get(&slot).copied().unwrap_or_default();
        if !taken.is_empty() && bytes + size > BATCH_BYTES {
            break;
        }
        taken.push(slot);
        bytes += size;
    }
    (taken.into_iter().collect(), bytes)
}

/// The next moment at which the same scene may lead to another plan.
fn look_at(scene: &Scene<'_>, memory: &Memory) -> Instant {
    let beyond = Duration::from_nanos(1);
    let patience = memory.orders.values().map(Ordered::patience_ends);
    let retries = memory.refused.values().map(|refused| refused.retry_at);
    let told = memory.run.iter().map(|run| run.told + progress::TELL);
    let stalled = memory.stalled.iter().map(|(_, since)| *since + progress::STALLED_AFTER);
    let moments = patience.chain(retries).chain(told).chain(stalled).map(|moment| moment + beyond);
    let next = moments.filter(|moment| *moment > scene.now).min();
    next.map_or(scene.now + LOOK, |next| next.min(scene.now + LOOK))
}
