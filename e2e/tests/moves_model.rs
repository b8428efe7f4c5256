//! Slot moves between groups: every state within bounds, and random histories beyond them.

use quorate_e2e::model::{moves, report};
use quorate_e2e::sim::moves as histories;

const THREADS: usize = 2;

#[test]
fn a_slot_has_one_owner_in_every_state_and_every_scenario_reaches_its_point() {
    println!("{}", report::head());
    let mut broken = Vec::new();
    for scenario in moves::quick() {
        let name = scenario.name;
        if !moves::check(scenario, None, THREADS).holds(name) {
            broken.push(name);
        }
    }
    assert_eq!(broken, [] as [&str; 0]);
}

#[test]
fn every_rule_of_a_move_that_is_taken_away_is_missed() {
    println!("{}", report::head());
    let mut alive = Vec::new();
    for (name, mutation, scenario) in moves::mutants() {
        if !moves::check(scenario, Some(mutation), THREADS).is_missed(name) {
            alive.push(name);
        }
    }
    assert_eq!(alive, [] as [&str; 0]);
}

#[test]
fn slots_have_one_owner_and_lose_nothing_in_random_histories_of_two_and_three_groups() {
    let (mut steps, mut failovers, mut accepted, mut rejected) = (0, 0, 0, 0);
    for seed in 0..3_000 {
        let seen = histories::run(seed, 2 + seed as usize % 2).unwrap_or_else(|broken| panic!("{broken}"));
        steps += seen.steps;
        failovers += seen.failovers;
        accepted += usize::from(seen.ended.0);
        rejected += usize::from(seen.ended.1);
    }
    println!("3000 histories, {steps} steps, {failovers} failovers; moves accepted in {accepted}, rejected in {rejected}");
    assert!(failovers > 1_000 && accepted > 500 && rejected > 100);
}
