//! `quorate-e2e sim`: many histories on all cores, the mutants, and what came of it.

use super::history::{self, Activity, History, Kind, LENGTH_MILLIS, Options};
use super::mutants::{self, Death, Mutant};
use crate::histories;
use crate::system::Counts;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What lives in the history of a seed, by its remainder: whole systems are a quarter.
const KINDS: [Kind; 8] = [
    Kind::Dense,
    Kind::Dense,
    Kind::System,
    Kind::LongLived,
    Kind::Dense,
    Kind::Dense,
    Kind::LongSystem,
    Kind::LongLived,
];
/// Histories with a violation after which the run stops: more would say the same.
const ENOUGH_VIOLATIONS: usize = 5;

/// Simulates one replication group under faults and checks every history.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The first seed; random if it is not given. Alone, it replays the one history of that seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Run so many histories. Without this, --minutes and --hours: 1000, or one with --seed.
    #[arg(long, conflicts_with = "minutes")]
    histories: Option<u64>,
    /// Simulated milliseconds of faults in a history. Part of what a seed means: replay with the same.
    #[arg(long, default_value_t = LENGTH_MILLIS)]
    length_millis: u64,
    /// Only histories of this kind, whatever the seed. Part of what a seed means: replay with the same.
    #[arg(long)]
    kind: Option<Kind>,
    /// Run until so many cluster-hours were simulated: the same work on every machine.
    #[arg(long, conflicts_with_all = ["minutes", "histories"])]
    hours: Option<f64>,
    /// Threads; one for each core if it is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Histories that a mutant may live through before it counts as alive.
    #[arg(long, default_value_t = 20_000)]
    mutant_histories: u64,
    /// Do not run the mutants.
    #[arg(long)]
    no_mutants: bool,
    /// Run with one rule taken away, until a check notices.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Judge by what clients saw and by the end of each history only, not by the invariants at every step.
    #[arg(long)]
    clients_only: bool,
    /// Say everything that happens.
    #[arg(long)]
    trace: bool,
    /// Write what clients were told in each history into a file of this folder; docs/histories.md has the format.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long, default_value = "target/sim/report.json")]
    report: PathBuf,
}

/// `target/sim/report.json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    cluster_hours: f64,
    histories: u64,
    /// Things that happened: a cluster-hour without faults has few.
    events: u64,
    /// Groups without a calm moment, and groups that live long with storms of faults minutes apart.
    dense: Part,
    long_lived: Part,
    /// Whole systems, with operators, an API server and a cluster: both kinds of them together.
    systems: Part,
    violations: u64,
    lost: u64,
    first_seed: u64,
    last_seed: u64,
    mutants: Vec<MutantRow>,
}

/// Some kind of histories.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    cluster_hours: f64,
    histories: u64,
    events: u64,
    #[serde(skip)]
    micros: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MutantRow {
    name: &'static str,
    /// The check; null if the mutant lives.
    killed_by: Option<String>,
    /// The seed of the history that it died in; 0 in the model, which has none.
    seed: u64,
}

/// What a process that hunts a mutant prints.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hunted {
    killed_by: Option<String>,
    seed: u64,
}

impl Args {
    fn options(&self, mutant: Option<Mutant>, seed: u64) -> Options {
        let kind = match mutant {
            Some(mutant) => mutants::kind(mutant),
            None => self.kind.unwrap_or(KINDS[usize::try_from(seed % 8).expect("below eight")]),
        };
        Options {
            kind,
            length_millis: if kind == Kind::Dense {
                self.length_millis
            } else {
                kind.length_millis()
            },
            mutant,
            clients_only: self.clients_only,
            verbose: self.trace,
            told: self.export.is_some(),
        }
    }
}

#[derive(Debug, Default)]
struct Totals {
    histories: u64,
    micros: u64,
    kinds: [Part; 3],
    lost: u64,
    last_seed: u64,
    activity: Activity,
    counts: Counts,
    violations: Vec<u64>,
}

thread_local! {
    /// The seed that this thread is at, for a failed assertion to name.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs it.
///
/// # Errors
/// When a history breaks a rule or a mutant lives; the message names the seed.
pub fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.mutant {
        return hunt_here(args, name);
    }
    let replay = args.seed.is_some() && args.histories.is_none() && args.minutes.is_none() && args.hours.is_none();
    let first = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let totals = Mutex::new(Totals::default());
    let (length, kind) = (args.length_millis, args.kind);
    let report_path = args.report.clone();
    // Release builds abort on a failed assertion: say which history it was, and leave a report, before that.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let seed = SEED.get();
        before(panic);
        eprintln!(
            "an assertion failed in the history of seed {seed}. {}",
            replay_line(seed, length, kind)
        );
        let report = Report {
            histories: 1,
            violations: 1,
            first_seed: seed,
            last_seed: seed,
            ..Report::default()
        };
        if let Err(error) = write(&report, &report_path) {
            eprintln!("{error:#}");
        }
        std::process::exit(1);
    }));
    let unwritten = simulate(args, first, replay, &totals);
    let _ = std::panic::take_hook();
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mutants = if replay || args.no_mutants { Vec::new() } else { hunt_all(args)? };
    let alive: Vec<&str> = mutants.iter().filter(|m| m.killed_by.is_none()).map(|m| m.name).collect();
    let alive = alive.join(", ");
    let report = Report {
        cluster_hours: hours(totals.micros),
        events: totals.kinds.iter().map(|kind| kind.events).sum(),
        dense: totals.kinds[0].clone(),
        long_lived: totals.kinds[1].clone(),
        systems: totals.kinds[2].clone(),
        histories: totals.histories,
        violations: totals.violations.len() as u64,
        lost: totals.lost,
        first_seed: first,
        last_seed: totals.last_seed,
        mutants,
    };
    write(&report, &args.report)?;
    println!(
        "{} histories, {} cluster-hours, {} violations, {} acknowledged writes lost; seeds {} to {}",
        report.histories, report.cluster_hours, report.violations, report.lost, report.first_seed, report.last_seed
    );
    println!(
        "dense: {:?}; long-lived: {:?}; systems: {:?}",
        report.dense, report.long_lived, report.systems
    );
    println!("{:?}\n{:?}", totals.activity, totals.counts);
    if let Some(seed) = totals.violations.first() {
        bail!("a history broke a rule. {}", replay_line(*seed, length, kind));
    }
    if unwritten > 0 {
        bail!("{unwritten} histories were not exported");
    }
    if !alive.is_empty() {
        bail!("no check noticed that these rules were taken away: {alive}");
    }
    Ok(())
}

fn hours(micros: u64) -> f64 {
    (micros as f64 / 3.6e9 * 1e3).round() / 1e3
}

fn replay_line(seed: u64, length_millis: u64, kind: Option<Kind>) -> String {
    let kind = kind.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_owned()));
    match kind {
        None if length_millis == LENGTH_MILLIS => format!("Replay: make sim SEED={seed}, or quorate-e2e sim --seed {seed}"),
        None => format!("Replay: quorate-e2e sim --seed {seed} --length-millis {length_millis}"),
        Some(kind) => format!("Replay: quorate-e2e sim --seed {seed} --kind {kind} --length-millis {length_millis}"),
    }
}

/// Gives how many histories could not be exported.
fn simulate(args: &Args, first: u64, replay: bool, totals: &Mutex<Totals>) -> u64 {
    let (histories, deadline) = match (args.histories, args.minutes) {
        (Some(histories), _) => (histories, None),
        (None, Some(minutes)) => (u64::MAX, Some(Instant::now() + Duration::from_secs_f64(minutes * 60.0))),
        (None, None) if args.hours.is_some() => (u64::MAX, None),
        (None, None) if replay => (1, None),
        (None, None) => (1000, None),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args
        .threads
        .unwrap_or(cores)
        .clamp(1, usize::try_from(histories).unwrap_or(usize::MAX));
    println!("simulating from seed {first} on {threads} threads");
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    let unwritten = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                    if number >= histories || late {
                        return;
                    }
                    let seed = first + number;
                    SEED.set(seed);
                    let options = args.options(None, seed);
                    let history = history::run(seed, &options);
                    if let Some(folder) = &args.export
                        && !history.told.is_empty()
                        && let Err(error) = export(folder, seed, &history)
                    {
                        eprintln!("seed {seed} is not exported: {error:#}");
                        unwritten.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.histories += 1;
                    totals.micros += history.micros;
                    let part = match options.kind {
                        Kind::Dense => 0,
                        Kind::LongLived => 1,
                        Kind::System | Kind::LongSystem => 2,
                    };
                    let kind = &mut totals.kinds[part];
                    kind.histories += 1;
                    kind.events += history.events;
                    kind.micros += history.micros;
                    kind.cluster_hours = hours(kind.micros);
                    totals.last_seed = totals.last_seed.max(seed);
                    totals.activity.add(&history.activity);
                    totals.counts.add(&history.counts);
                    if let Some(violation) = history.violation {
                        totals.lost += violation.lost as u64;
                        totals.violations.push(seed);
                        eprintln!("\nseed {seed}: broken: {}\n  {}", violation.check, violation.detail);
                        eprintln!("  {}", replay_line(seed, args.length_millis, args.kind));
                    }
                    let enough = args.hours.is_some_and(|wanted| hours(totals.micros) >= wanted);
                    if totals.violations.len() >= ENOUGH_VIOLATIONS || enough {
                        return;
                    }
                    if replay {
                        println!("trace {:016x}", history.trace);
                    } else if totals.histories.is_multiple_of(100) {
                        progress(&totals, begun);
                    }
                }
            });
        }
    });
    unwritten.into_inner()
}

fn export(folder: &Path, seed: u64, history: &History) -> Result<()> {
    let name = format!("simulation-{seed}");
    histories::write(folder, &name, "simulation", seed, serde_json::json!(0), &history.told).map(drop)
}

fn progress(totals: &Totals, begun: Instant) {
    if std::io::stderr().is_terminal() {
        let seconds = begun.elapsed().as_secs();
        let hours = totals.micros as f64 / 3.6e9;
        eprint!("\r{} histories, {hours:.2} cluster-hours, {seconds} s ", totals.histories);
    }
}

/// Each mutant runs in a process of its own: a release build ends at the first failed assertion.
fn hunt_all(args: &Args) -> Result<Vec<MutantRow>> {
    let program = std::env::current_exe().context("find this program")?;
    let hunt = |(name, _): &(&'static str, mutants::Mutant)| -> Result<MutantRow> {
        let begun = Instant::now();
        let output = Command::new(&program)
            .args(["sim", "--mutant", name, "--mutant-histories", &args.mutant_histories.to_string()])
            .stderr(Stdio::null())
            .output()
            .context("run the program again for a mutant")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let hunted: Hunted = serde_json::from_str(text.trim()).with_context(|| format!("the mutant {name:?} said {text:?}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        match &hunted.killed_by {
            Some(check) => println!("mutant {name:?}: killed by {check:?} at seed {} ({seconds:.1} s)", hunted.seed),
            None => println!("mutant {name:?}: alive after {} histories ({seconds:.1} s)", args.mutant_histories),
        }
        Ok(MutantRow {
            name,
            killed_by: hunted.killed_by,
            seed: hunted.seed,
        })
    };
    mutants::ALL.iter().map(hunt).collect()
}

fn hunt_here(args: &Args, name: &str) -> Result<()> {
    let Some((_, mutant)) = mutants::ALL.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = mutants::ALL.iter().map(|(name, _)| *name).collect();
        bail!("there is no mutant {name:?}; there are: {}", names.join(", "));
    };
    std::panic::set_hook(Box::new(|panic| {
        let (message, seed) = (mutants::assertion(panic.payload()), mutants::seed());
        eprintln!("{panic}");
        say(&Hunted {
            killed_by: Some(message),
            seed,
        });
        std::process::exit(0);
    }));
    let death = mutants::hunt(&args.options(Some(*mutant), 0), args.seed.unwrap_or(0), args.mutant_histories);
    let (killed_by, seed) = match death {
        Some(Death { killed_by, seed }) => (Some(killed_by), seed),
        None => (None, 0),
    };
    say(&Hunted { killed_by, seed });
    Ok(())
}

fn say(hunted: &Hunted) {
    println!("{}", serde_json::to_string(hunted).expect("plain data"));
}

fn write(report: &Report, path: &Path) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    std::fs::write(path, json).with_context(|| format!("write {}", path.display()))
}
