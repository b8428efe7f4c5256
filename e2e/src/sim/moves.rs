//! Random histories of slot moves between groups: the [`World`] of the model, larger and for longer, with orders, aborts,
//! failovers and broken connections at any moment; then a calm, in which everything has to come to its end.
//!
//! One seed replays one history.

use crate::model::moves::{Budget, Order, Step, World, order};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Orders of one history. Most do not fit when they come, which is what refusals are for.
const ORDERS: usize = 12;
/// Steps with faults.
const STEPS: usize = 600;
/// Steps in which everything ends, or never will.
const CALM_STEPS: usize = 5_000;

/// What one history saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Steps.
    pub steps: usize,
    /// Failovers.
    pub failovers: usize,
    /// Whether a move was accepted, and whether one was rejected.
    pub ended: (bool, bool),
}

/// Runs the history of a seed with so many groups.
///
/// # Errors
/// What does not hold, and after which step.
pub fn run(seed: u64, groups: usize) -> Result<Seen, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let orders = orders(&mut rng, groups);
    let budget = Budget {
        failovers: rng.random_range(0..12),
        cuts: rng.random_range(0..20),
        writes: rng.random_range(0..60),
        aborts: rng.random_range(0..4),
    };
    let mut world = World::new(groups, orders.len(), budget);
    let mut seen = Seen::default();
    for _ in 0..STEPS {
        let steps = world.steps(&orders);
        if steps.is_empty() {
            break;
        }
        let step = pick(&mut rng, &steps);
        seen.failovers += usize::from(matches!(step, Step::FailOver(..)));
        world.take(&orders, step);
        seen.steps += 1;
        look(&world).map_err(|broken| format!("seed {seed}: {broken} after step {} ({step:?})", seen.steps))?;
    }
    world.calm();
    for _ in 0..CALM_STEPS {
        let steps: Vec<Step> = world
            .steps(&orders)
            .into_iter()
            .filter(|step| !matches!(step, Step::Order(_)))
            .collect();
        if steps.is_empty() {
            break;
        }
        let step = pick(&mut rng, &steps);
        world.take(&orders, step);
        seen.steps += 1;
        look(&world).map_err(|broken| format!("seed {seed}: {broken} after step {} ({step:?})", seen.steps))?;
    }
    if !world.is_quiet() {
        return Err(format!("seed {seed}: a move does not come to its end:\n{}", world.outline()));
    }
    seen.ended = world.ended();
    Ok(seen)
}

fn look(world: &World) -> Result<(), &'static str> {
    if !world.at_most_one_serves() {
        return Err("two groups serve a slot");
    }
    if !world.every_slot_is_owned() {
        return Err("a slot has no owner");
    }
    if !world.acknowledged_writes_are_there() {
        return Err("an acknowledged write is gone, doubled or out of order");
    }
    Ok(())
}

fn orders(rng: &mut SmallRng, groups: usize) -> Vec<Order> {
    let mut order_of = |number: usize| {
        let (from, to) = (rng.random_range(0..groups), rng.random_range(0..groups));
        let slots: Vec<u16> = match rng.random_range(0..3) {
            0 => vec![0],
            1 => vec![1],
            _ => vec![0, 1],
        };
        order(number as u64 + 1, &slots, from, to as u32)
    };
    // Sources of one order are targets of others: slots go round.
    (0..ORDERS).map(&mut order_of).collect()
}

/// Failovers and the like are rare beside what moves things on.
fn pick<'a>(rng: &mut SmallRng, steps: &'a [Step]) -> &'a Step {
    loop {
        let step = &steps[rng.random_range(0..steps.len())];
        let rare = matches!(step, Step::FailOver(..) | Step::Cut(..) | Step::Abort(..) | Step::Order(_));
        let alone = steps
            .iter()
            .all(|step| matches!(step, Step::FailOver(..) | Step::Cut(..) | Step::Abort(..) | Step::Order(_)));
        if !rare || alone || rng.random_ratio(1, 8) {
            return step;
        }
    }
}
