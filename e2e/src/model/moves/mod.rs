//! An exhaustive model of slot moves between groups.
//!
//! `stateright` visits every state that a [`Scenario`] can reach and checks in each: at most one group serves a slot · some group
//! owns it · whoever serves it has every acknowledged write, each once and in order. Each scenario must also reach what it is
//! about: a move that is accepted, and where something can go wrong, one that is rejected.
//!
//! **What is real.** `SlotTable` and `Mover` of `quorate-protocol`, with everything that they log, ask and answer.
//!
//! **What is abstract.** A group. Its log is what its primary appends; up to an index it is there for good; a failover takes any
//! prefix that holds all that is, and the primary of before goes on without being able to commit anything ([`World`]). That a group
//! behaves like this is the matter of the model of the view change and of the simulation. Clients write at the primary of the day;
//! what a deposed one executes is acknowledged to nobody. A message is lost with its connection, or arrives at any later time,
//! then without an answer.
//!
//! The same [`World`], larger and at random, is [`crate::sim::moves`].

mod world;

pub use world::{Budget, Step, World};

use quorate_api::SlotSet;
use quorate_api::slots::MoveSlots;
use quorate_protocol_mutants::mutation::{self, Mutation};
use stateright::{Model, Property};

use super::report::{Outcome, exhaust};

/// A move that the operator orders, from this shard.
pub type Order = (usize, MoveSlots);

/// What is modelled.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// How many groups there are.
    pub groups: usize,
    /// What is ordered, in any order and at any time, each as often as it is listed.
    pub orders: Vec<Order>,
    /// What may happen beside.
    pub budget: Budget,
}

/// An order to move the slots.
#[must_use]
pub fn order(handoff: u64, slots: &[u16], from: usize, to: u32) -> Order {
    let slots: SlotSet = slots.iter().copied().collect();
    let order = MoveSlots {
        handoff,
        slots,
        to,
        max_bytes_per_second: 0,
    };
    (from, order)
}

/// What the ordinary tests exhaust.
#[must_use]
pub fn quick() -> Vec<Scenario> {
    let there = || vec![order(1, &[0], 0, 1)];
    let scenario = |name, groups, orders, failovers, cuts, writes, aborts| Scenario {
        name,
        groups,
        orders,
        budget: Budget {
            failovers,
            cuts,
            writes,
            aborts,
        },
    };
    vec![
        scenario("one move under a write, a failover", 2, there(), 1, 0, 1, 0),
        scenario("one move, two failovers", 2, there(), 2, 0, 0, 0),
        scenario("one move, a failover, a broken connection, an abort", 2, there(), 1, 1, 0, 1),
        scenario("one move under a write, a failover, an abort", 2, there(), 1, 0, 1, 1),
        scenario("two moves at once", 2, vec![order(1, &[0], 0, 1), order(2, &[1], 0, 1)], 0, 0, 0, 0),
        scenario(
            "there and back, a failover",
            2,
            vec![order(1, &[0], 0, 1), order(2, &[0], 1, 0)],
            1,
            0,
            0,
            0,
        ),
        scenario(
            "on to a third group, a failover",
            3,
            vec![order(1, &[0], 0, 1), order(2, &[0], 1, 2)],
            1,
            0,
            0,
            0,
        ),
    ]
}

/// Rules that are taken away, and where it is noticed.
#[must_use]
pub fn mutants() -> Vec<(&'static str, Mutation, Scenario)> {
    let one = |failovers, cuts, writes, aborts| Scenario {
        name: "one move",
        groups: 2,
        orders: vec![order(1, &[0], 0, 1)],
        budget: Budget {
            failovers,
            cuts,
            writes,
            aborts,
        },
    };
    let again = Scenario {
        orders: vec![order(1, &[0], 0, 1), order(1, &[0], 0, 1)],
        ..one(0, 2, 0, 1)
    };
    vec![
        ("thaw without asking the target", Mutation::ThawUnasked, one(1, 0, 1, 0)),
        ("decision by the source's log", Mutation::SourceDecides, one(1, 0, 1, 0)),
        ("release before accept", Mutation::ReleaseBeforeAccept, one(0, 1, 1, 1)),
        ("handoff used again", Mutation::HandoffReused, again),
        (
            "target asked before the freeze is there for good",
            Mutation::AskBeforeForGood,
            one(1, 0, 0, 0),
        ),
    ]
}

/// The transition system of a scenario.
struct Moves {
    scenario: Scenario,
    broken: Option<Mutation>,
}

/// Breaks a rule on this thread for as long as it lives.
struct Broken;

impl Broken {
    fn new(mutation: Option<Mutation>) -> Self {
        mutation::set(mutation);
        Self
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        mutation::set(None);
    }
}

impl Model for Moves {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.scenario.groups, self.scenario.orders.len(), self.scenario.budget)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let _broken = Broken::new(self.broken);
        steps.extend(world.steps(&self.scenario.orders));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let _broken = Broken::new(self.broken);
        let mut next = world.clone();
        next.take(&self.scenario.orders, &step);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("a slot is served by one group at most", |_, world: &World| {
                world.at_most_one_serves()
            }),
            Property::always("some group owns every slot", |_, world: &World| world.every_slot_is_owned()),
            Property::always("who serves a slot has every acknowledged write once", |_, world: &World| {
                world.acknowledged_writes_are_there()
            }),
            Property::sometimes("a move is accepted, released and forgotten", |_, world: &World| world.ended().0),
        ];
        let Budget { failovers, aborts, .. } = self.scenario.budget;
        if failovers + aborts > 0 {
            properties.push(Property::sometimes(
                "a move is rejected, thawed and forgotten",
                |_, world: &World| world.ended().1,
            ));
        }
        properties
    }
}

/// Visits every state of a scenario, or ends with the first violation.
#[must_use]
pub fn check(scenario: Scenario, broken: Option<Mutation>, threads: usize) -> Outcome<Step> {
    exhaust(Moves { scenario, broken }, threads)
}
