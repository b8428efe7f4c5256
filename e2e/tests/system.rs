//! Whole systems: a bounded part of their simulation, and the crash sweep of the operator. `e2e/test.sh sim` runs far more of it, with the
//! optimizer's help.

use quorate_e2e::sim::{Kind, Options, history};
use quorate_e2e::system::{Counts, sweep};

/// Histories of whole systems, of the first seeds.
const HISTORIES: u64 = 30;
/// The same of those that live long.
const LONG_HISTORIES: u64 = 1;
/// The operator dies after every so many-th step; `make sweep` has all of them.
const STRIDE: u64 = 29;

fn options(kind: Kind) -> Options {
    Options {
        kind,
        length_millis: kind.length_millis(),
        ..Options::default()
    }
}

fn run(kind: Kind, seeds: u64) -> Counts {
    let (mut counts, mut broken, mut micros) = (Counts::default(), Vec::new(), 0);
    for seed in 0..seeds {
        let history = history::run(seed, &options(kind));
        counts.add(&history.counts);
        micros += history.micros;
        if let Some(violation) = history.violation {
            println!("seed {seed} of {kind:?}: {}: {}", violation.check, violation.detail);
            broken.push((seed, violation.check));
        }
    }
    println!("{} cluster-hours: {counts:?}", micros as f64 / 3.6e9);
    assert_eq!(broken, []);
    counts
}

#[test]
fn whole_systems_under_faults_break_no_rule_and_converge_when_they_end() {
    let counts = run(Kind::System, HISTORIES);
    let least = [
        (counts.operator_drives, 200),
        (counts.member_drives, 4),
        (counts.operator_deaths, 120),
        (counts.edits, 200),
        (counts.recreated, 4),
        (counts.conflicts, 100),
        (counts.adoptions, 10),
    ];
    assert!(
        least.iter().all(|(done, least)| done >= least),
        "the simulation does too little: {least:?}"
    );
}

#[test]
fn whole_systems_that_live_for_hours_break_no_rule() {
    run(Kind::LongSystem, LONG_HISTORIES);
}

#[test]
fn the_same_seed_gives_the_same_system_again() {
    let trace = |seed| history::run(seed, &options(Kind::System)).trace;
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}

#[test]
fn an_operator_that_dies_after_some_step_changes_nothing_in_the_end() {
    let mut broken = Vec::new();
    for scenario in sweep::scenarios() {
        let swept = sweep::sweep(&scenario, STRIDE);
        println!("{}", swept.line(scenario.name));
        for (step, violation) in swept.failures {
            println!("  after step {step}: {}: {}", violation.check, violation.detail);
            broken.push((scenario.name, step, violation.check));
        }
        assert!(swept.steps > 0, "{} has no step", scenario.name);
    }
    assert_eq!(broken, []);
}
