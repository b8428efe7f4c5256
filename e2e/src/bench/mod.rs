//! The benchmark against peers: Quorate, Valkey and etcd as three local processes each, on one disk, one machine and
//! in one interleaved run; then stores of several shards against a Valkey Cluster ([`shards`]). Method and figures:
//! `e2e/BENCHMARKS.md`.
//!
//! Absolute figures drift with the machine and the hour; what counts is the ratio within a round, in which every
//! system runs the same cell right after the other. A system that is not there is left out with its reason.

mod cells;
pub mod cpu;
pub mod etcd_load;
pub mod keys;
pub mod measure;
pub mod peers;
pub mod report;
pub mod resp_load;
pub mod shards;

use crate::local::build::{Profile, node_binary};
use crate::local::{LocalCluster, LocalClusterOptions, packages};
use anyhow::{Context, Result, ensure};
use cells::{Cell, Effort, cells};
use cpu::CpuSample;
use measure::Measurement;
use peers::Peer;
use report::Comparison;
use rustix::process::Pid;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The arguments of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The store node to measure; without it, one is built in release mode.
    #[arg(long)]
    pub node_binary: Option<PathBuf>,
    /// Where the peers' programs are kept.
    #[arg(long, env = "QUORATE_CACHE", default_value = "/var/cache/quorate")]
    pub cache: PathBuf,
    /// Reports go here, and the servers' data while they run: it must be on a disk, not in memory.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// The systems to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [System::Quorate, System::Valkey, System::Etcd])]
    pub systems: Vec<System>,
    /// What to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Peers, Part::Shards])]
    pub parts: Vec<Part>,
    /// How often every cell is measured.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Measured time of a cell.
    #[arg(long, default_value_t = 2500)]
    pub duration_millis: u64,
    /// Load before that.
    #[arg(long, default_value_t = 500)]
    pub warm_up_millis: u64,
    /// Different keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..1_000_000_000_000))]
    pub keys: u64,
    /// Length of a value.
    #[arg(long, default_value_t = 128)]
    pub value_bytes: usize,
    /// Only cells whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// One short round in less than a minute: shows that everything runs; its figures say little.
    #[arg(long)]
    pub quick: bool,
}

/// A half of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One shard against Valkey and etcd.
    Peers,
    /// Several shards, and slots that move, against Valkey Cluster.
    Shards,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Peers => "peers",
            Self::Shards => "shards",
        })
    }
}

/// A system under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// This project.
    Quorate,
    /// Valkey 8.
    Valkey,
    /// etcd 3.4.
    Etcd,
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quorate => "quorate",
            Self::Valkey => "valkey",
            Self::Etcd => "etcd",
        })
    }
}

/// The systems that run; None where one was not asked for or could not be had.
struct Servers {
    quorate: Option<LocalCluster>,
    valkey: Option<Peer>,
    etcd: Option<Peer>,
}

/// Measures every cell in every round, prints the table and writes `report.json` and `report.md`.
///
/// Makes its load on threads of its own: the caller may be inside an async runtime.
///
/// # Errors
/// If a system that runs fails under load, or nothing can be measured.
pub fn run(args: Args) -> Result<()> {
    std::thread::Builder::new()
        .name("bench".into())
        .spawn(move || run_here(&args))?
        .join()
        .expect("the benchmark does not panic")
}

fn run_here(args: &Args) -> Result<()> {
    let effort = Effort::of(args);
    ensure!(effort.rounds > 0, "at least one round");
    let data = args.out.join("data");
    fs::create_dir_all(&data)?;
    remove_leftovers(&data)?;
    let comparisons = if args.parts.contains(&Part::Peers) {
        measure_peers(args, &data, effort)?
    } else {
        Vec::new()
    };
    let shards = if args.parts.contains(&Part::Shards) && args.systems.contains(&System::Quorate) {
        Some(shards::run(args, our_program(args)?, &data, effort)?)
    } else {
        None
    };
    let tables = [
        (!comparisons.is_empty()).then(|| report::table(&comparisons)),
        shards.as_ref().map(shards::report::Shards::table),
    ];
    let table = tables.into_iter().flatten().collect::<Vec<_>>().join("\n");
    println!("\n{table}");
    let json = args.out.join("report.json");
    report::write_json(&comparisons, shards.as_ref(), &json)?;
    fs::write(args.out.join("report.md"), &table)?;
    println!("written: {}", json.display());
    Ok(())
}

/// Every system runs during the whole of it.
fn measure_peers(args: &Args, data: &Path, effort: Effort) -> Result<Vec<Comparison>> {
    let servers = start(args, data)?;
    fill(&servers, effort)?;
    let comparisons = measure_all(args, &servers, effort)?;
    ensure!(!comparisons.is_empty(), "no cell has something to measure");
    Ok(comparisons)
}

fn our_program(args: &Args) -> Result<PathBuf> {
    args.node_binary.clone().map_or_else(|| node_binary(Profile::Release), Ok)
}

/// What an interrupted run left: its processes died with it, its data did not.
fn remove_leftovers(data: &Path) -> Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if ["quorate-", "valkey-", "etcd-"]
            .iter()
            .any(|prefix| entry.file_name().to_string_lossy().starts_with(prefix))
        {
            fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn start(args: &Args, data: &Path) -> Result<Servers> {
    let wanted = |system| args.systems.contains(&system);
    let quorate = if wanted(System::Quorate) {
        Some(LocalCluster::start(LocalClusterOptions::three(our_program(args)?, data.to_owned())).context("start our nodes")?)
    } else {
        None
    };
    let valkey = wanted(System::Valkey).then(|| {
        packages::VALKEY
            .fetch(&args.cache)
            .and_then(|valkey| peers::start_valkey(&valkey, data))
    });
    let etcd = wanted(System::Etcd).then(|| packages::ETCD.fetch(&args.cache).and_then(|etcd| peers::start_etcd(&etcd, data)));
    Ok(Servers {
        quorate,
        valkey: present(valkey, System::Valkey),
        etcd: present(etcd, System::Etcd),
    })
}

/// A peer that cannot be had (no network, no Debian) leaves its rows out, and says why.
fn present(peer: Option<Result<Peer>>, system: System) -> Option<Peer> {
    match peer? {
        Ok(peer) => {
            eprintln!("{system} {} serves on {}", peer.version, peer.address);
            Some(peer)
        }
        Err(error) => {
            eprintln!("{system} is left out: {error:#}");
            None
        }
    }
}

/// Every system holds every key before the first GET.
fn fill(servers: &Servers, effort: Effort) -> Result<()> {
    /// etcd groups concurrent puts into one sync: fewer clients would only take longer.
    const ETCD_FILL_CLIENTS: usize = 100;
    if let Some(quorate) = &servers.quorate {
        resp_load::fill(quorate.primary_address()?, effort.keys, effort.value_bytes).context("fill quorate")?;
    }
    if let Some(valkey) = &servers.valkey {
        resp_load::fill(valkey.address, effort.keys, effort.value_bytes).context("fill valkey")?;
    }
    if let Some(etcd) = &servers.etcd {
        etcd_load::fill(etcd.address, ETCD_FILL_CLIENTS, effort.keys, effort.value_bytes).context("fill etcd")?;
    }
    Ok(())
}

/// The runs of one cell, a measurement a round.
#[derive(Default)]
struct Runs {
    quorate: Vec<Measurement>,
    valkey: Vec<Measurement>,
    etcd: Vec<Measurement>,
}

fn measure_all(args: &Args, servers: &Servers, effort: Effort) -> Result<Vec<Comparison>> {
    let chosen = cells()
        .into_iter()
        .filter(|cell| args.only.as_ref().is_none_or(|only| cell.name.contains(only)));
    let mut cells: Vec<(Cell, Runs)> = chosen.map(|cell| (cell, Runs::default())).collect();
    for round in 1..=effort.rounds {
        for (cell, runs) in &mut cells {
            eprintln!("round {round} of {}: {}", effort.rounds, cell.name);
            measure(cell, runs, servers, effort).with_context(|| format!("measure {}", cell.name))?;
        }
    }
    Ok(cells.into_iter().flat_map(|(cell, runs)| compare(&cell, runs, servers)).collect())
}

/// Every system once, one right after the other.
fn measure(cell: &Cell, runs: &mut Runs, servers: &Servers, effort: Effort) -> Result<()> {
    if let Some(quorate) = &servers.quorate {
        let primary = &quorate.nodes()[quorate.primary().context("no node serves")?];
        let load = resp(cell, cell.command, primary.client, effort);
        runs.quorate
            .push(watched(servers, primary.process.pid(), || resp_load::run(&load)).context("quorate")?);
    }
    if let (Some(valkey), Some((command, _))) = (&servers.valkey, cell.valkey) {
        let load = resp(cell, command, valkey.address, effort);
        runs.valkey
            .push(watched(servers, valkey.pid(), || resp_load::run(&load)).context("valkey")?);
    }
    if let (Some(etcd), Some(command)) = (&servers.etcd, cell.etcd) {
        let Effort {
            rounds: _,
            warm_up,
            duration,
            keys,
            value_bytes,
        } = effort;
        let load = etcd_load::Load {
            address: etcd.address,
            command,
            clients: cell.clients,
            keys,
            value_bytes,
            warm_up,
            duration,
        };
        runs.etcd
            .push(watched(servers, etcd.pid(), || etcd_load::run(&load)).context("etcd")?);
    }
    Ok(())
}

/// Runs a load, once every server is quiet, while looking at the CPU time of the process that serves it.
fn watched(servers: &Servers, server: Option<Pid>, load: impl FnOnce() -> Result<Measurement>) -> Result<Measurement> {
    settle(servers);
    let before = server.map(CpuSample::of);
    let mut measured = load()?;
    let after = server.map(CpuSample::of);
    measured.server_busy = after.zip(before).and_then(|(after, before)| after.busiest_since(&before));
    Ok(measured)
}

/// Waits, for a bounded time, until what the last load left behind (syncs, collectors, compactions) is done.
fn settle(servers: &Servers) {
    const LOOK_FOR: Duration = Duration::from_millis(100);
    const LOOKS: usize = 20;
    /// What three idle etcd members burn for heartbeats stays below this, all processes together.
    const QUIET: f64 = 0.1;
    let pids: Vec<Pid> = [
        servers.quorate.iter().flat_map(LocalCluster::pids).collect::<Vec<_>>(),
        servers.valkey.iter().chain(&servers.etcd).flat_map(Peer::pids).collect(),
    ]
    .concat();
    for _ in 0..LOOKS {
        let before: Vec<CpuSample> = pids.iter().map(|&pid| CpuSample::of(pid)).collect();
        std::thread::sleep(LOOK_FOR);
        let busy = pids
            .iter()
            .zip(&before)
            .filter_map(|(&pid, before)| CpuSample::of(pid).busiest_since(before));
        if busy.sum::<f64>() < QUIET {
            return;
        }
    }
}

fn resp(cell: &Cell, command: resp_load::Command, address: SocketAddr, effort: Effort) -> resp_load::Load {
    let Effort {
        rounds: _,
        warm_up,
        duration,
        keys,
        value_bytes,
    } = effort;
    resp_load::Load {
        address,
        command,
        clients: cell.clients,
        pipeline: cell.pipeline,
        keys,
        value_bytes,
        warm_up,
        duration,
    }
}

/// A row for each peer that was measured.
fn compare(cell: &Cell, runs: Runs, servers: &Servers) -> Vec<Comparison> {
    let row = |ours: &[Measurement], peer: String, theirs: Vec<Measurement>| Comparison {
        name: cell.name.to_owned(),
        ours: ours.to_vec(),
        peer,
        theirs,
    };
    let mut rows = Vec::new();
    if let (Some(valkey), Some((_, what))) = (&servers.valkey, cell.valkey) {
        rows.push(row(&runs.quorate, format!("{what} ({})", valkey.version), runs.valkey));
    }
    if let (Some(etcd), Some(command)) = (&servers.etcd, cell.etcd) {
        let what = match command {
            etcd_load::Command::Put => "etcd put",
            etcd_load::Command::Range => "etcd range, linearizable",
        };
        rows.push(row(&runs.quorate, format!("{what} ({})", etcd.version), runs.etcd));
    }
    if rows.is_empty() && !runs.quorate.is_empty() {
        rows.push(row(&runs.quorate, "none".into(), Vec::new()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_without_peers_is_still_a_row() {
        let mut recorder = measure::Recorder::new(Duration::ZERO, Duration::ZERO);
        let now = std::time::Instant::now();
        recorder.advance(now);
        let measured = recorder.finish(now + Duration::from_secs(1)).unwrap();
        let servers = Servers {
            quorate: None,
            valkey: None,
            etcd: None,
        };
        let runs = Runs {
            quorate: vec![measured],
            ..Runs::default()
        };
        let rows = compare(&cells()[0], runs, &servers);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].peer.as_str(), rows[0].row().ratio), ("none", None));
    }
}
