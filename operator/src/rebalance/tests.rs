//! Stores that rebalance while shards fail over, people change their minds, moves fail and operators begin anew: a world of
//! values stands in for the nodes, which keep the rules of a move themselves.

use super::plan::{Ask, Plan, Scene, ShardSlots, plan};
use super::*;
use crate::settings::Settings;
use crate::testing::settings;
use proptest::prelude::*;
use quorate_api::slot::SLOTS;
use quorate_api::{MovePhase, MoveRefusal, MoveStatus, Quorum, SlotSet, SlotsStatus};
use quorate_crds::conditions::reasons;
use quorate_crds::{RebalanceState, RebalanceStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const QUORUM: Quorum = Quorum::strong(3, 2, 2);
/// Between two looks of the operator.
const STEP: Duration = Duration::from_millis(200);

struct Shard {
    owned: SlotSet,
    exports: Vec<MoveStatus>,
    last_handoff: u64,
    serves: bool,
    /// Its replicas all heard of the last change.
    settled: bool,
}

struct World {
    settings: Settings,
    shards: BTreeMap<u32, Shard>,
    sizes: BTreeMap<u16, u64>,
    requested: bool,
    memory: Memory,
    told: Option<RebalanceStatus>,
    now: Instant,
    moved: usize,
    begun: u64,
}

impl World {
    fn new(shards: u32) -> Self {
        let mut settings = settings(QUORUM);
        settings.shards = shards;
        let mut world = Self {
            settings,
            shards: BTreeMap::new(),
            sizes: BTreeMap::new(),
            requested: false,
            memory: Memory::default(),
            told: None,
            now: Instant::now(),
            moved: 0,
            begun: 0,
        };
        world.respec(shards);
        world.shards.get_mut(&0).unwrap().owned = SlotSet::all();
        world
    }

    /// Shards that are missing are made.
    fn respec(&mut self, shards: u32) {
        self.settings.shards = shards;
        for index in 0..shards {
            self.shards.entry(index).or_insert_with(|| Shard {
                owned: SlotSet::new(),
                exports: Vec::new(),
                last_handoff: 0,
                serves: true,
                settled: true,
            });
        }
    }

    fn imports(&self, index: u32) -> Vec<MoveStatus> {
        let to = |(from, shard): (&u32, &Shard)| {
            let exports = shard.exports.iter().filter(|export| export.peer == index);
            exports
                .map(|export| MoveStatus {
                    peer: *from,
                    ..export.clone()
                })
                .collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(to).collect()
    }

    fn seen(&self) -> BTreeMap<u32, ShardSlots> {
        let bytes = |owned: &SlotSet| owned.iter().filter_map(|slot| self.sizes.get(&slot)).sum();
        let each = self.shards.iter().map(|(index, shard)| {
            let slots = SlotsStatus {
                owned: shard.owned.clone(),
                last_handoff: shard.last_handoff,
                bytes: bytes(&shard.owned),
                route_version: 0,
                exports: shard.exports.clone(),
                imports: self.imports(*index),
            };
            let empty = shard.owned.is_empty() && shard.exports.is_empty() && slots.imports.is_empty() && shard.settled;
            let known = ShardSlots {
                serves: shard.serves,
                group: true,
                last_handoff: shard.last_handoff,
                heard: Some(self.now),
                slots: Some(slots),
                holds: (!empty).then(|| "a replica is not known to own nothing".to_owned()),
            };
            (*index, known)
        });
        each.collect()
    }

    /// One look of the operator, and what the nodes do about it; what no world may see is asserted.
    fn step(&mut self) -> Plan {
        let seen = self.seen();
        let scene = Scene {
            settings: &self.settings,
            shards: &seen,
            requested: self.requested,
            told: self.told.as_ref(),
            now: self.now,
        };
        let plan = plan(&scene, &self.memory);
        assert!(plan.look_at > self.now);
        (self.memory, self.told) = (plan.memory.clone(), plan.told.clone());
        for index in plan.removable.iter().rev() {
            assert!(*index >= self.settings.shards && *index > 0, "a shard that is wanted is kept");
            let shard = self.shards.remove(index).unwrap();
            assert!(
                shard.owned.is_empty() && shard.exports.is_empty(),
                "a shard that owns a slot is kept"
            );
            assert!(self.shards.keys().all(|left| left < index), "the last one goes first");
        }
        for ask in plan.asks.clone() {
            self.answer(ask);
        }
        let under_way: usize = self.shards.values().map(|shard| shard.exports.len()).sum();
        assert!(under_way <= self.settings.rebalance.max_concurrent_moves as usize);
        self.now += STEP;
        plan
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Sizes(index) => {
                let owned = &self.shards[&index].owned;
                let sizes = self.sizes.iter().filter(|(slot, _)| owned.contains(**slot));
                let sizes = sizes.map(|(slot, bytes)| (*slot, *bytes)).collect();
                self.memory.on_sizes(index, Some(sizes), self.now);
            }
            Ask::Abort(index, handoff) => {
                let shard = self.shards.get_mut(&index).unwrap();
                shard
                    .exports
                    .retain(|export| export.handoff != handoff || export.phase != MovePhase::Exporting);
            }
            Ask::Move(index, order) => {
                let moving = self.shards.values().flat_map(|shard| &shard.exports);
                for export in moving {
                    assert!(export.slots.is_disjoint(&order.slots), "no slot is in two moves");
                }
                assert!(order.to < self.settings.shards, "slots move to shards that stay");
                assert!(!order.slots.is_empty());
                let carried: u64 = order.slots.iter().filter_map(|slot| self.sizes.get(&slot)).sum();
                assert!(
                    carried <= 32 << 20 || order.slots.len() == 1,
                    "one move carries {carried} bytes in {} slots",
                    order.slots.len()
                );
                let source = self.shards.get_mut(&index).unwrap();
                assert!(
                    order.slots.difference(&source.owned).is_empty(),
                    "a shard is asked for what it owns"
                );
                let answer = if !source.serves {
                    Err(MoveRefusal::NotPrimary)
                } else if order.handoff <= source.last_handoff {
                    Err(MoveRefusal::StaleHandoff(source.last_handoff))
                } else {
                    source.last_handoff = order.handoff;
                    self.begun = self.begun.max(order.handoff);
                    source.exports.push(MoveStatus {
                        handoff: order.handoff,
                        slots: order.slots,
                        peer: order.to,
                        phase: MovePhase::Exporting,
                        bytes_sent: 0,
                        bytes_total: 0,
                        waits_for: None,
                    });
                    Ok(())
                };
                let said = answer.clone().map_err(|refusal| refusal.to_string());
                self.memory.on_answer(order.handoff, said, answer.as_ref().err(), self.now);
            }
        }
    }

    /// A move ends.
    fn end(&mut self, which: usize, comes_about: bool) {
        let each: Vec<(u32, u64)> = self
            .shards
            .iter()
            .flat_map(|(index, shard)| shard.exports.iter().map(|export| (*index, export.handoff)))
            .collect();
        let Some((index, handoff)) = each.get(which % each.len().max(1)).copied() else {
            return;
        };
        let source = self.shards.get_mut(&index).unwrap();
        let at = source.exports.iter().position(|export| export.handoff == handoff).unwrap();
        let export = source.exports.remove(at);
        if !comes_about {
            return;
        }
        source.owned = source.owned.difference(&export.slots);
        self.moved += export.slots.len();
        let target = self.shards.get_mut(&export.peer).unwrap();
        target.owned = target.owned.union(&export.slots);
        target.last_handoff = target.last_handoff.max(handoff);
    }

    fn one_owner(&self) {
        let total: usize = self.shards.values().map(|shard| shard.owned.len()).sum();
        assert_eq!(total, usize::from(SLOTS));
    }

    /// Everything works, until nothing is left to do.
    fn calm(&mut self) {
        for shard in self.shards.values_mut() {
            (shard.serves, shard.settled) = (true, true);
        }
        for _ in 0..2000 {
            if self.step().balanced {
                self.one_owner();
                let counts = self.shards.values().map(|shard| shard.owned.len());
                let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
                assert!(most - least <= 1);
                assert_eq!(self.shards.len(), self.settings.shards as usize);
                return;
            }
            self.end(0, true);
        }
        panic!("it does not come to an end: {:?} {:?}", self.told, self.memory);
    }
}

fn counts(world: &World) -> Vec<usize> {
    world.shards.values().map(|shard| shard.owned.len()).collect()
}

#[test]
fn a_new_store_of_three_is_spread_by_two_moves_and_then_left_alone() {
    let mut world = World::new(3);
    world.calm();
    assert_eq!((counts(&world), world.begun, world.moved), (vec![5462, 5461, 5461], 2, 10_922));
    let told = world.told.clone().unwrap();
    assert_eq!(
        (told.state, told.percent, told.slots_moved),
        (RebalanceState::Balanced, 100, 10_922)
    );
    for _ in 0..100 {
        let plan = world.step();
        assert_eq!(
            (plan.asks.len(), plan.told),
            (0, Some(told.clone())),
            "nothing is asked and nothing told anew"
        );
    }
}

#[test]
fn a_store_of_one_shard_has_nothing_to_tell() {
    let mut world = World::new(1);
    let plan = world.step();
    assert_eq!((plan.told, plan.asks.len(), plan.rebalancing.1), (None, 0, reasons::BALANCED));
}

#[test]
fn full_slots_move_in_batches_and_the_figures_are_told() {
    let mut world = World::new(1);
    world.sizes = (0..SLOTS).map(|slot| (slot, 256 << 10)).collect();
    world.respec(2);
    let plan = world.step();
    assert_eq!(plan.asks, [Ask::Sizes(0)]);
    let plan = world.step();
    assert_eq!(plan.asks.len(), 4, "as many as may be under way");
    for ask in &plan.asks {
        let Ask::Move(0, order) = ask else { panic!("{ask:?}") };
        assert_eq!((order.slots.len(), order.to), (128, 1), "32 MiB each");
    }
    world.now += Duration::from_secs(1);
    let told = world.step().told.unwrap();
    assert_eq!(
        (told.state, told.slots_moved, told.slots_total, told.moves),
        (RebalanceState::Moving, 0, 8192, 4)
    );
    assert_eq!(told.bytes_total, 2 << 30);
    world.calm();
    assert_eq!((world.moved, world.begun), (8192, 64));
    assert_eq!(world.told.unwrap().bytes_moved, 2 << 30);
}

#[test]
fn full_slots_that_came_lately_move_on_in_batches_too() {
    let mut world = World::new(1);
    world.sizes = (0..SLOTS).map(|slot| (slot, 256 << 10)).collect();
    for shards in [2, 1, 2] {
        world.respec(shards);
        world.calm();
    }
    // A change of mind before anything is balanced.
    world.respec(3);
    for _ in 0..4 {
        world.step();
        world.end(0, true);
    }
    for shards in [1, 2] {
        world.respec(shards);
        for _ in 0..4 {
            world.step();
            world.end(0, true);
        }
    }
    world.calm();
    assert_eq!(counts(&world), [8192; 2]);
}

#[test]
fn slots_that_were_filled_after_they_were_found_empty_move_in_batches() {
    let mut world = World::new(1);
    world.respec(2);
    world.calm();
    world.sizes = (0..SLOTS).map(|slot| (slot, 256 << 10)).collect();
    world.respec(4);
    world.calm();
    assert_eq!(counts(&world), [4096; 4]);
}

#[test]
fn a_limit_is_shared_by_the_moves_that_may_be_under_way() {
    let mut world = World::new(3);
    world.settings.rebalance.max_bytes_per_second = 64 << 20;
    world.step();
    let asks = world.step().asks;
    let limits: Vec<u64> = asks
        .iter()
        .map(|ask| match ask {
            Ask::Move(_, order) => order.max_bytes_per_second,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(limits, [16 << 20; 2]);
}

#[test]
fn a_change_of_mind_half_way_ends_with_the_last_word() {
    let mut world = World::new(3);
    world.calm();
    world.respec(5);
    for _ in 0..6 {
        world.step();
    }
    world.end(0, true);
    world.respec(3);
    for _ in 0..3 {
        world.step();
        world.end(1, true);
    }
    world.respec(4);
    world.calm();
    assert_eq!(counts(&world), [4096; 4]);
}

#[test]
fn a_drain_that_the_others_cannot_hold_is_refused_with_the_numbers() {
    let mut world = World::new(3);
    world.calm();
    world.sizes = (0..SLOTS).map(|slot| (slot, 64 << 10)).collect();
    world.settings.max_memory = 500 << 20;
    world.respec(2);
    world.step();
    let moved = world.moved;
    let mut plan = world.step();
    assert_eq!((plan.asks.len(), plan.stalled.0), (0, false), "not at once");
    for _ in 0..60 {
        plan = world.step();
    }
    let (stalled, reason, text) = plan.stalled;
    assert_eq!((stalled, reason), (true, reasons::INSUFFICIENT_CAPACITY));
    assert!(
        text.starts_with("the shards that remain cannot hold the data: shard 1 would hold 512.0 MiB of at most 450.0 MiB"),
        "{text}"
    );
    assert_eq!((world.moved, world.shards.len()), (moved, 3));
    // A refusal does not outlive its cause.
    world.sizes.retain(|slot, _| *slot < SLOTS / 2);
    world.calm();
}

#[test]
fn in_manual_mode_data_moves_when_a_person_says_so() {
    let mut world = World::new(1);
    world.settings.rebalance.automatic = false;
    world.respec(2);
    world.calm();
    assert_eq!(counts(&world), [8192; 2], "a store without data is spread all the same");
    world.sizes = (0..SLOTS).map(|slot| (slot, 100)).collect();
    world.respec(4);
    for _ in 0..20 {
        let plan = world.step();
        assert_eq!((plan.asks.len(), plan.rebalancing.1), (0, reasons::MANUAL_REBALANCE));
    }
    world.requested = true;
    world.calm();
}

#[test]
fn a_shard_that_does_not_serve_is_waited_for_and_the_others_get_on() {
    let mut world = World::new(1);
    world.respec(3);
    world.shards.get_mut(&1).unwrap().serves = false;
    for _ in 0..10 {
        world.step();
        world.end(0, true);
    }
    assert_eq!(counts(&world), [10_923, 0, 5461]);
    let plan = world.step();
    assert_eq!((plan.rebalancing.1, plan.stalled.0), (reasons::SHARD_NOT_SERVING, false));
    for _ in 0..60 {
        world.step();
    }
    assert_eq!(world.step().stalled.1, reasons::SHARD_NOT_SERVING);
    world.calm();
}

#[test]
fn a_shard_is_removed_only_once_every_replica_owns_nothing() {
    let mut world = World::new(2);
    world.calm();
    world.respec(1);
    world.shards.get_mut(&1).unwrap().settled = false;
    for _ in 0..100 {
        world.step();
        world.end(0, true);
    }
    assert_eq!(counts(&world), [usize::from(SLOTS), 0]);
    assert_eq!(world.told.as_ref().unwrap().state, RebalanceState::Removing);
    assert_eq!(world.step().stalled.1, reasons::REMOVING_SHARDS);
    world.calm();
}

#[derive(Clone, Debug)]
enum Happens {
    Look,
    Ends(usize, bool),
    Serves(u32, bool),
    Settled(u32, bool),
    Respec(u32),
    /// Another operator takes over, and knows what the nodes say.
    NewOperator,
    Freeze(usize),
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        8 => Just(Happens::Look),
        4 => (0usize..8, prop::bool::weighted(0.8)).prop_map(|(which, well)| Happens::Ends(which, well)),
        2 => (0u32..6, any::<bool>()).prop_map(|(shard, serves)| Happens::Serves(shard, serves)),
        1 => (0u32..6, any::<bool>()).prop_map(|(shard, settled)| Happens::Settled(shard, settled)),
        1 => (1u32..6).prop_map(Happens::Respec),
        1 => Just(Happens::NewOperator),
        2 => (0usize..8).prop_map(Happens::Freeze),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happens_no_slot_moves_twice_no_owner_is_removed_and_the_end_is_balanced(
        shards in 1u32..6,
        data in prop::option::of(1u64..(1 << 20)),
        happenings in happenings(),
    ) {
        let mut world = World::new(shards);
        if let Some(bytes) = data {
            world.sizes = (0..SLOTS).step_by(3).map(|slot| (slot, bytes)).collect();
        }
        for happens in happenings {
            match happens {
                Happens::Look => drop(world.step()),
                Happens::Ends(which, well) => world.end(which, well),
                Happens::Serves(index, serves) => if let Some(shard) = world.shards.get_mut(&index) {
                    shard.serves = serves;
                },
                Happens::Settled(index, settled) => if let Some(shard) = world.shards.get_mut(&index) {
                    shard.settled = settled;
                },
                Happens::Respec(shards) => world.respec(shards),
                Happens::NewOperator => world.memory = Memory::default(),
                Happens::Freeze(which) => {
                    let mut exports = world.shards.values_mut().flat_map(|shard| &mut shard.exports);
                    if let Some(export) = exports.nth(which) {
                        export.phase = MovePhase::Frozen;
                    }
                }
            }
            world.one_owner();
        }
        // Once all is calm, only the difference moves, and what is under way: it arrives, and something else may have to make
        // room for it.
        let exported = world.shards.values().flat_map(|shard| shard.exports.iter().map(|export| &export.slots));
        let under_way: BTreeSet<u16> = exported.flat_map(SlotSet::iter).collect();
        let owned: BTreeMap<u32, SlotSet> = world.shards.iter().map(|(index, shard)| (*index, shard.owned.clone())).collect();
        let needed: usize = assignment::transfers(&owned, world.settings.shards).iter().map(|transfer| transfer.slots.len()).sum();
        let before = world.moved;
        world.calm();
        prop_assert!(world.moved - before <= needed + 2 * under_way.len());
        let rest = world.step();
        prop_assert!(rest.asks.is_empty() && rest.balanced);
    }
}
