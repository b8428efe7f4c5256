//! Shards: throughput against their number, and what moving slots costs, against a Valkey Cluster of as many primaries.
//!
//! Every round starts both systems anew with one, two and three shards, three processes each, and measures them one right after
//! the other. With two shards, slots then move to the other shard and back under the same load: what writers wait for is
//! compared with what they waited for just before, in the same run.

pub mod load;
mod moves;
pub mod report;
pub mod valkey;

use super::Args;
use super::cells::Effort;
use super::measure::median;
use crate::local::LocalClusterOptions;
use crate::local::packages::{self, Unpacked};
use crate::local::store::LocalStore;
use anyhow::{Context, Result};
use load::{Load, Seen};
use quorate_api::SlotSet;
use quorate_api::slot::SLOTS;
use report::{MovesRow, Shards, ThroughputRow};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use valkey::ValkeyCluster;

/// Writes under way.
const CLIENTS: usize = 50;
/// The numbers of shards that are measured.
const SHARDS: [u32; 3] = [1, 2, 3];
/// With so many, slots move.
const MOVES_WITH: u32 = 2;

/// A system with its load.
pub(super) enum System {
    Ours(LocalStore),
    Theirs(ValkeyCluster),
}

impl System {
    fn load(&self, effort: Effort) -> Result<Load> {
        let (seed, confirm) = match self {
            Self::Ours(store) => (primary_of(store, 0)?, false),
            Self::Theirs(cluster) => (cluster.seed(), true),
        };
        Ok(Load {
            seed,
            confirm,
            clients: CLIENTS,
            keys: effort.keys,
            value_bytes: effort.value_bytes,
        })
    }
}

fn primary_of(store: &LocalStore, shard: usize) -> Result<SocketAddr> {
    let ordinal = store.await_primary(shard)?;
    Ok(store.group(shard).nodes()[ordinal].client)
}

/// Measures both systems in every round.
pub(super) fn run(args: &Args, node_binary: PathBuf, data: &Path, effort: Effort) -> Result<Shards> {
    let valkey = args
        .systems
        .contains(&super::System::Valkey)
        .then(|| packages::VALKEY.fetch(&args.cache));
    let valkey = valkey.and_then(|found| found.inspect_err(|error| eprintln!("Valkey Cluster is left out: {error:#}")).ok());
    let options = LocalClusterOptions::three(node_binary, data.to_owned());
    let mut shards = Shards::new(valkey.as_ref().map(|package| package.version.clone()), &SHARDS);
    for round in 1..=effort.rounds {
        for (row, count) in shards.throughput.iter_mut().zip(SHARDS) {
            eprintln!("round {round} of {}: {count} shards", effort.rounds);
            let systems = start(&options, valkey.as_ref(), data, count)?;
            measure_throughput(&systems, effort, row).with_context(|| format!("{count} shards"))?;
            if count == MOVES_WITH {
                measure_moves(systems, effort, &mut shards.moves)?;
            }
        }
    }
    shards.compare();
    Ok(shards)
}

/// Both systems with so many shards, slots split evenly, every key set.
fn start(options: &LocalClusterOptions, valkey: Option<&Unpacked>, data: &Path, shards: u32) -> Result<Vec<System>> {
    let options = LocalClusterOptions {
        identity: crate::local::Identity::alone(),
        ..options.clone()
    };
    let mut store = LocalStore::start(&options, shards).context("start our nodes")?;
    for shard in 1..shards {
        let slots: SlotSet = (share(shard, shards)..share(shard + 1, shards)).collect();
        let to = usize::try_from(shard)?;
        let handoff = store.begin_move(0, shard, &slots, 0)?;
        anyhow::ensure!(store.await_end(0, handoff, to, &slots)?, "an empty slot moves");
    }
    store.tell_routes()?;
    let mut systems = vec![System::Ours(store)];
    if let Some(package) = valkey {
        let cluster = ValkeyCluster::start(package, data, usize::try_from(shards)?).context("start Valkey Cluster")?;
        systems.push(System::Theirs(cluster));
    }
    Ok(systems)
}

fn share(shard: u32, shards: u32) -> u16 {
    u16::try_from(u32::from(SLOTS) * shard / shards).expect("at most the number of slots")
}

fn measure_throughput(systems: &[System], effort: Effort, row: &mut ThroughputRow) -> Result<()> {
    for system in systems {
        let load = system.load(effort)?;
        load::fill(&load)?;
    }
    for system in systems {
        let (rate, p99) = throughput(&system.load(effort)?, effort)?;
        let (rates, latencies) = match system {
            System::Ours(_) => (&mut row.ours, &mut row.ours_p99_micros),
            System::Theirs(_) => (&mut row.theirs, &mut row.theirs_p99_micros),
        };
        rates.push(rate);
        latencies.push(p99);
    }
    Ok(())
}

/// Writes per second after the warm-up, and the 99th percentile of their latencies in microseconds.
fn throughput(load: &Load, effort: Effort) -> Result<(f64, f64)> {
    let (seen, ()) = under_load(load, || {
        std::thread::sleep(effort.warm_up + effort.duration);
        Ok(())
    })?;
    let window = moves::Window {
        from: effort.warm_up,
        until: effort.warm_up + effort.duration,
    };
    let (rate, p99) = window.rate_and_p99(&seen);
    Ok((rate, p99))
}

/// Does something while a load runs.
fn under_load<T>(load: &Load, act: impl FnOnce() -> Result<T>) -> Result<(Seen, T)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load::run(load, &stop));
        let outcome = act();
        stop.store(true, Ordering::Relaxed);
        let seen = running.join().expect("a load does not panic")?;
        Ok((seen, outcome?))
    })
}

fn measure_moves(systems: Vec<System>, effort: Effort, rows: &mut [MovesRow; 2]) -> Result<()> {
    for mut system in systems {
        let row = &mut rows[usize::from(matches!(system, System::Theirs(_)))];
        let load = system.load(effort)?;
        let lead = effort.warm_up + effort.duration;
        let (seen, moved) = under_load(&load, || {
            std::thread::sleep(lead);
            moves::there_and_back(&mut system)
        })?;
        let quiet = moves::Window {
            from: effort.warm_up,
            until: lead,
        };
        row.add(&seen, quiet, &moved, effort);
        eprintln!(
            "  {}: {} moves, longest waits {:?} ms",
            row.system,
            moved.len(),
            row.longest_waits_millis
        );
    }
    Ok(())
}

/// Rounded for a report.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The median of the ratios within rounds.
fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
    median(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>()).map(rounded)
}

/// The time since a load began.
fn since(seen: &Seen, at: std::time::Instant) -> Duration {
    at.saturating_duration_since(seen.began)
}
