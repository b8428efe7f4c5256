//! `quorate-e2e model`: the scenarios and the mutants, and a table of what came of them.

use super::moves;
use super::rules::{Step, ViewChanges};
use super::scenarios::{self, Scenario};
use anyhow::{Result, bail};
use quorate_protocol_mutants::mutation::Mutation;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Exhausts a model of the view change.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only what the ordinary tests exhaust.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name has this in it.
    #[arg(long)]
    scenario: Option<String>,
    /// Threads; one for each core if it is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Do not run the mutants.
    #[arg(long)]
    no_mutants: bool,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome<S = Step> {
    /// States that were generated, the same ones again included.
    pub states: usize,
    /// Different states.
    pub unique: usize,
    /// Steps of the longest path on which a state was first met.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The property that does not hold, and the steps that lead there.
    pub violation: Option<(&'static str, Vec<S>)>,
    /// What should happen somewhere and happens nowhere. Empty if there is a violation: the search ends with it.
    pub unreached: Vec<&'static str>,
}

/// Visits every state of a scenario, or ends with the first violation.
#[must_use]
pub fn check(scenario: Scenario, broken: Option<Mutation>, threads: usize) -> Outcome {
    exhaust(ViewChanges::new(scenario, broken), threads)
}

/// Visits every state of a model, or ends with the first violation.
pub(super) fn exhaust<M>(model: M, threads: usize) -> Outcome<M::Action>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let began = Instant::now();
    let properties = model.properties();
    let builder = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_dfs().join();
    let violation = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .find_map(|property| Some((property.name, checker.discovery(property.name)?.into_actions())));
    let unreached = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Sometimes && violation.is_none())
        .filter(|property| checker.discovery(property.name).is_none())
        .map(|property| property.name)
        .collect();
    Outcome {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        violation,
        unreached,
    }
}

impl<S: Debug> Outcome<S> {
    /// Prints what came of a scenario, with the steps to a violation; true if everything holds and happens that should.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        println!("{}", self.line(name));
        for step in self.violation.iter().flat_map(|(_, steps)| steps) {
            println!("    {step:?}");
        }
        self.violation.is_none() && self.unreached.is_empty()
    }

    /// Prints what came of a rule that was taken away; true if that was noticed.
    #[must_use]
    pub fn is_missed(&self, name: &str) -> bool {
        println!("{}", self.line(name));
        self.violation.is_some()
    }
}

impl<S> Outcome<S> {
    /// One line of the table.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        let result = match (&self.violation, self.unreached.is_empty()) {
            (Some((property, steps)), _) => format!("VIOLATED in {} steps: {property}", steps.len()),
            (None, true) => "holds".to_owned(),
            (None, false) => format!("NOT REACHED: {}", self.unreached.join(", ")),
        };
        let Self { states, unique, depth, .. } = self;
        let seconds = self.took.as_secs_f64();
        format!("{name:<62} {states:>13} {unique:>12} {depth:>5} {seconds:>8.1}  {result}")
    }
}

/// The head of the table.
#[must_use]
pub fn head() -> String {
    format!(
        "{:<62} {:>13} {:>12} {:>5} {:>8}  result",
        "scenario", "states", "unique", "depth", "seconds"
    )
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.scenario.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

/// The slot moves; gives what is not as it should be.
fn run_moves(args: &Args, threads: usize) -> Vec<&'static str> {
    let mut failed = Vec::new();
    println!("\nslot moves");
    for scenario in moves::quick().into_iter().filter(|scenario| args.wants(scenario.name)) {
        let name = scenario.name;
        if !moves::check(scenario, None, threads).holds(name) {
            failed.push(name);
        }
    }
    let mutants = if args.no_mutants { Vec::new() } else { moves::mutants() };
    for (name, mutation, scenario) in mutants.into_iter().filter(|(name, ..)| args.wants(name)) {
        if !moves::check(scenario, Some(mutation), threads).is_missed(name) {
            failed.push(name);
        }
    }
    failed
}

/// Runs the command.
///
/// # Errors
/// When a property does not hold, a scenario does not reach what it should, or a mutant lives.
pub fn run(args: &Args) -> Result<()> {
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let mut failed = Vec::new();
    println!("{}", head());
    let more = if args.quick { Vec::new() } else { scenarios::full() };
    let (mut states, mut unique) = (0, 0);
    for scenario in scenarios::quick()
        .into_iter()
        .chain(more)
        .filter(|scenario| args.wants(scenario.name))
    {
        let name = scenario.name;
        let outcome = check(scenario, None, threads);
        if !outcome.holds(name) {
            failed.push(name);
        }
        states += outcome.states;
        unique += outcome.unique;
    }
    println!("{:<62} {states:>13} {unique:>12}", "together");
    if !args.no_mutants {
        println!("\nrules taken away: each must be violated");
        for (name, mutation, scenario) in scenarios::mutants().into_iter().filter(|(name, ..)| args.wants(name)) {
            if !check(scenario, Some(mutation), threads).is_missed(name) {
                failed.push(name);
            }
        }
    }
    failed.extend(run_moves(args, threads));
    if !failed.is_empty() {
        bail!("not as it should be: {}", failed.join("; "));
    }
    Ok(())
}
