//! The model of the view change within bounds that take about a minute; `make model` exhausts more.

use quorate_e2e::model::{check, report, scenarios};

const THREADS: usize = 2;

#[test]
fn the_view_change_keeps_the_promise_in_every_state_and_every_scenario_reaches_its_point() {
    println!("{}", report::head());
    let mut broken = Vec::new();
    for scenario in scenarios::quick() {
        let name = scenario.name;
        if !check(scenario, None, THREADS).holds(name) {
            broken.push(name);
        }
    }
    assert_eq!(broken, [] as [&str; 0]);
}

#[test]
fn every_rule_that_is_taken_away_is_missed() {
    println!("{}", report::head());
    let mut alive = Vec::new();
    for (name, mutation, scenario) in scenarios::mutants() {
        if !check(scenario, Some(mutation), THREADS).is_missed(name) {
            alive.push(name);
        }
    }
    assert_eq!(alive, [] as [&str; 0]);
}
