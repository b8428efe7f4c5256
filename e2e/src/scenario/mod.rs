//! The end-to-end scenarios: a fault each, under the checked workload, on a real cluster.

mod change;
mod consistency;
mod disk;
mod operator;
mod plugin;
mod primary;
mod recovery;
mod shards;
mod store;
mod trial;
mod update;

pub use trial::{RECOVERS, Timeline, Trial};

use crate::bench::measure::median;
use crate::cluster::Cannot;
use crate::lab::Lab;
use crate::report::{Report, ScenarioReport, Verdict, folder};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// What one repetition found.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Of these before, during and after the outage.
    pub around: [usize; 3],
    /// Acknowledged keys that were not there in the end.
    pub lost: Vec<String>,
    /// Registers whose history is not linearizable.
    pub violations: Vec<String>,
    /// See [`ScenarioReport::deposed_acks`].
    pub deposed_acks: usize,
    /// The longest outage of a journal writer.
    pub outage_millis: Option<f64>,
    /// The same of redis-rs's cluster client.
    pub ordinary_outage_millis: Option<f64>,
    /// The steps of the failover.
    pub timeline: Timeline,
    /// Seed of the workload.
    pub seed: u64,
}

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, for `SCENARIO=`.
    pub name: &'static str,
    /// What it does and expects.
    pub about: &'static str,
    /// How often it is repeated in a full run.
    pub repetitions: u32,
    /// The bar of the median outage, in milliseconds.
    pub bar_millis: Option<f64>,
    /// One repetition. None: it measures nothing.
    run: fn(&Lab, u64) -> Result<Option<Measured>>,
}

impl Scenario {
    /// One that runs once and whose outage has no bar.
    fn new(name: &'static str, about: &'static str, run: fn(&Lab, u64) -> Result<Option<Measured>>) -> Self {
        Self {
            name,
            about,
            repetitions: 1,
            bar_millis: None,
            run,
        }
    }

    fn repeated(self, repetitions: u32) -> Self {
        Self { repetitions, ..self }
    }

    /// With a bar for the median outage, in milliseconds.
    fn within(self, bar_millis: f64) -> Self {
        Self {
            bar_millis: Some(bar_millis),
            ..self
        }
    }
}

/// All scenarios, in the order in which they run.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        store::scenarios(),
        primary::scenarios(),
        operator::scenarios(),
        recovery::scenarios(),
        plugin::scenarios(),
        consistency::scenarios(),
        shards::scenarios(),
        disk::scenarios(),
        // Last of all, a machine that is gone for good: a cluster keeps traces of that.
        update::scenarios(),
        change::scenarios(),
    ]
    .concat()
}

/// Settings of a run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Run these only, by name; several with commas.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Repetitions of the measured ones. Default: ten.
    #[arg(long)]
    repetitions: Option<u32>,
    /// Seed of the first repetition. Default: drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Write what clients were told into files of this folder; docs/histories.md has the format.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
}

/// Runs scenarios and writes the report.
///
/// # Errors
/// If one fails.
pub fn run(args: Args) -> Result<()> {
    let Args {
        scenario: names,
        repetitions,
        seed,
        export,
        list,
    } = args;
    let scenarios = all();
    if list {
        for scenario in scenarios {
            println!("{:<28} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    if let Some(unknown) = names.iter().find(|name| !scenarios.iter().any(|scenario| scenario.name == **name)) {
        bail!("there is no scenario {unknown:?}: `make e2e-list` lists them");
    }
    let mut lab = Lab::new("lab")?;
    lab.export = export;
    operator::sweep(&lab)?;
    // Pods of an earlier run have an earlier image, and keep it until somebody deletes them.
    lab.remove()?;
    let mut seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let mut report = Report::default();
    let begun = Instant::now();
    for scenario in scenarios {
        if !names.is_empty() && !names.iter().any(|name| name == scenario.name) {
            continue;
        }
        let count = if scenario.repetitions > 1 {
            repetitions.unwrap_or(scenario.repetitions)
        } else {
            1
        };
        println!("\n{:>5} s  {}: {}", begun.elapsed().as_secs(), scenario.name, scenario.about);
        report.scenarios.push(repeat(&lab, scenario, count, seed));
        report.write()?;
        seed += u64::from(count);
    }
    conclude(&report)
}

fn conclude(report: &Report) -> Result<()> {
    let path = report.write()?;
    let of = |verdict| report.scenarios.iter().filter(|scenario| scenario.outcome == verdict).count();
    let (passed, failed, skipped) = (of(Verdict::Passed), of(Verdict::Failed), of(Verdict::Skipped));
    let acknowledged: u64 = report.scenarios.iter().map(|scenario| scenario.acknowledged).sum();
    let lost: u64 = report.scenarios.iter().map(|scenario| scenario.lost).sum();
    println!(
        "\n{passed} scenarios passed, {failed} failed, {skipped} skipped; {acknowledged} writes acknowledged, {lost} lost. {}",
        path.display()
    );
    if failed > 0 {
        bail!("{failed} scenarios failed");
    }
    Ok(())
}

/// A store to try things on: made anew if the one that is there is not well.
fn prepare(lab: &Lab) -> Result<()> {
    let there = lab.get().is_ok();
    if there && lab.await_ready(RECOVERS).is_ok() {
        return Ok(());
    }
    lab.remove()?;
    lab.create(&json!({"storage": {"size": "1Gi"}}))?;
    lab.await_ready(RECOVERS).map(drop)
}

fn repeat(lab: &Lab, scenario: Scenario, count: u32, seed: u64) -> ScenarioReport {
    let mut report = ScenarioReport {
        name: scenario.name.to_owned(),
        outcome: Verdict::Passed,
        reason: String::new(),
        acknowledged: 0,
        lost: 0,
        violations: 0,
        deposed_acks: 0,
        outage_millis: Vec::new(),
        seed,
    };
    for repetition in 0..count {
        let outcome = prepare(lab)
            .context("make a store to try things on")
            .and_then(|()| (scenario.run)(lab, seed + u64::from(repetition)));
        match outcome {
            Ok(Some(measured)) => add(&mut report, &measured),
            Ok(None) => println!("         as expected"),
            Err(error) if error.downcast_ref::<Cannot>().is_some() => {
                report.outcome = Verdict::Skipped;
                report.reason = format!("{error:#}");
            }
            Err(error) => {
                report.outcome = Verdict::Failed;
                report.reason = format!("{error:#}");
            }
        }
        if report.outcome != Verdict::Passed {
            break;
        }
    }
    if report.outcome == Verdict::Skipped {
        println!("         skipped: {}", report.reason);
    }
    if report.outcome == Verdict::Passed
        && let (Some(bar), Some(median)) = (scenario.bar_millis, median(&report.outage_millis))
    {
        println!(
            "         median outage {median:.1} ms of {}, the bar is {bar:.0} ms",
            report.outage_millis.len()
        );
        if median > bar {
            report.outcome = Verdict::Failed;
            report.reason = format!("the median outage is {median:.1} ms, the bar is {bar:.0} ms");
        }
    }
    if report.outcome == Verdict::Failed {
        println!("         FAILED: {}", report.reason);
        let dump = folder().join(format!("dump-{}", scenario.name));
        match lab.cluster.dump(&dump) {
            Ok(()) => println!("         resources, events and logs are in {}", dump.display()),
            Err(error) => println!("         no dump: {error:#}"),
        }
    }
    report
}

/// Runs `scenario` with a change of the spec that is taken back afterwards.
fn with_spec<T>(lab: &Lab, change: &Value, back: &Value, scenario: impl FnOnce() -> Result<T>) -> Result<T> {
    lab.change_spec(change)?;
    let outcome = scenario();
    let mended = lab.change_spec(back);
    let found = outcome?;
    mended.map(|()| found)
}

fn add(report: &mut ScenarioReport, measured: &Measured) {
    let part = |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!(", {name} {value:.1}"));
    let Timeline {
        detected,
        fenced,
        promoted,
        first_write,
    } = measured.timeline;
    let millis = |value: Option<f64>| value.map_or("not counted".to_owned(), |value| format!("{value:.1} ms"));
    println!(
        "         outage {} (after the fault: {}) · redis-rs {} · {} acknowledged, {} lost, {} violations, {} deposed",
        millis(measured.outage_millis),
        [
            part("detected", detected),
            part("fenced", fenced),
            part("promoted", promoted),
            part("first write", first_write)
        ]
        .concat()
        .trim_start_matches(", "),
        millis(measured.ordinary_outage_millis),
        measured.acknowledged,
        measured.lost.len(),
        measured.violations.len(),
        measured.deposed_acks,
    );
    report.acknowledged += measured.acknowledged;
    report.lost += measured.lost.len() as u64;
    report.violations += measured.violations.len() as u64;
    report.deposed_acks += measured.deposed_acks as u64;
    report.outage_millis.extend(measured.outage_millis);
    if !measured.lost.is_empty() || !measured.violations.is_empty() || measured.deposed_acks > 0 {
        report.outcome = Verdict::Failed;
        report.reason = format!(
            "seed {}: {} acknowledged writes lost ({}), {} registers not linearizable ({}), {} acknowledgements after the fence",
            measured.seed,
            measured.lost.len(),
            measured.lost.iter().take(3).cloned().collect::<Vec<_>>().join(" "),
            measured.violations.len(),
            measured.violations.join(" "),
            measured.deposed_acks
        );
    }
}
