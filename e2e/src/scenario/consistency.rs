//! Consistency choices on a real cluster: reads on replicas through a failover, what an eventual store loses and reports, and
//! pods that leave writes in the page cache.

use super::change::await_sizes;
use super::{Measured, RECOVERS, Scenario, Trial, with_spec};
use crate::cluster::{enter_network, signal};
use crate::lab::{Lab, StorePod};
use crate::local::resp::Client;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A failover takes no longer, also where the operator waits for the members' votes.
const SOON: Duration = Duration::from_secs(60);
/// A command that is not answered in this time is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// Before another attempt to reach somebody: a group without a primary is not hammered.
const PAUSE: Duration = Duration::from_millis(4);
/// Reads on replicas that a trial wants to see.
const ENOUGH_READS: u64 = 2_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "follower-reads",
            "linearizable reads on every replica while the primary is killed",
            follower_reads,
        ),
        Scenario::new(
            "eventual-killed",
            "the primary of an eventual store is killed: what is missing is what was reported",
            eventual_killed,
        ),
        Scenario::new(
            "page-cache-power",
            "pods that leave writes in the page cache; the node of a replica loses power and comes back",
            page_cache_power,
        ),
    ]
}

/// One key that holds a number which only grows: a reader that sees less than what was acknowledged before it asked was shown
/// the past.
struct Ladder {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

const LADDER: &str = "ladder";

impl Ladder {
    fn start(lab: &Lab) -> Result<Self> {
        let place = lab.place()?;
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let top = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        let nodes = place.nodes.clone();
        for reader in std::iter::once(None).chain(nodes.iter().map(|node| Some(*node))) {
            let (network, nodes) = (place.network.clone(), nodes.clone());
            let (stop, top, reads) = (Arc::clone(&stop), Arc::clone(&top), Arc::clone(&reads));
            threads.push(std::thread::spawn(move || {
                if let Some(network) = network {
                    enter_network(&network)?;
                }
                match reader {
                    None => climb(&nodes, &stop, &top),
                    Some(node) => watch(node, &stop, &top, &reads),
                }
            }));
        }
        Ok(Self { stop, reads, threads })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a reader saw the past.
    fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().ok().context("a thread of the ladder ended early")??;
        }
        Ok(self.reads.load(Ordering::SeqCst))
    }
}

/// Writes one number after the other to whoever serves.
fn climb(nodes: &[SocketAddr], stop: &AtomicBool, top: &AtomicU64) -> Result<()> {
    let (mut at, mut client) = (0, None::<Client>);
    // A number whose fate is not known is never written again: it may still take effect.
    let mut number = 0u64;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let text = number.to_string();
        let written = match &mut client {
            Some(client) => client.run(&["SET", LADDER, &text]).map(drop),
            None => Err(anyhow::anyhow!("not connected")),
        };
        if written.is_ok() {
            top.store(number, Ordering::SeqCst);
            continue;
        }
        at += 1;
        std::thread::sleep(PAUSE);
        client = Client::connect(nodes[at % nodes.len()], ANSWER).ok();
    }
    Ok(())
}

/// Reads from one replica.
fn watch(node: SocketAddr, stop: &AtomicBool, top: &AtomicU64, reads: &AtomicU64) -> Result<()> {
    let mut client = None::<Client>;
    while !stop.load(Ordering::SeqCst) {
        let Some(connected) = &mut client else {
            std::thread::sleep(PAUSE);
            client = Client::connect(node, ANSWER).ok();
            if let Some(fresh) = &mut client
                && fresh.run(&["QR.READ", "LINEARIZABLE"]).is_err()
            {
                client = None;
            }
            continue;
        };
        let floor = top.load(Ordering::SeqCst);
        match connected.run(&["GET", LADDER]) {
            Ok(text) => {
                let seen: u64 = text.parse().context("the ladder holds numbers")?;
                if seen < floor {
                    bail!("{node} showed {seen} after {floor} was acknowledged");
                }
                reads.fetch_add(1, Ordering::SeqCst);
            }
            // It found no primary to ask, or was gone for a while.
            Err(_) => client = None,
        }
    }
    Ok(())
}

fn follower_reads(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let ladder = Ladder::start(lab)?;
    lab.until("replicas answer reads", SOON, || {
        Ok((ladder.reads.load(Ordering::SeqCst) >= ENOUGH_READS).then_some(()))
    })?;
    let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    trial.strike(|| signal(&pids, Signal::KILL))?;
    trial.await_failover(SOON, false)?;
    let before = ladder.reads.load(Ordering::SeqCst);
    lab.until("replicas answer reads of the next primary", SOON, || {
        Ok((ladder.reads.load(Ordering::SeqCst) >= before + ENOUGH_READS).then_some(()))
    })?;
    let reads = ladder.finish()?;
    println!("         {reads} linearizable reads on all replicas");
    trial.replace_primary_pod()?;
    trial.end().map(Some)
}

fn eventual_killed(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    with_spec(lab, &json!({"consistency": "Eventual"}), &json!({"consistency": null}), || {
        await_sizes(lab, 3, 1, 1)?;
        let mut trial = Trial::begin(lab, seed)?;
        let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
        trial.strike(|| signal(&pids, Signal::KILL))?;
        trial.await_failover(SOON, false)?;
        let status = lab.await_status("the old primary told what was lost", RECOVERS, |status| {
            let failover = status.last_failover.as_ref();
            failover.is_some_and(|failover| failover.lost.is_some())
        })?;
        let failover = status.last_failover.context("it was told")?;
        let lost = failover.lost.context("it was told")?;
        let lag = failover.lag_entries.context("the lag of an eventual store is told")?;
        let mut measured = trial.end()?;
        println!(
            "         lag {lag} entries at the failover; lost {} writes in {} entries; {} journal keys are missing",
            lost.writes,
            lost.entries,
            measured.lost.len()
        );
        // The workload also writes registers, which are overwritten: every missing key is in the tail, not the other way round.
        let missing = i64::try_from(measured.lost.len())?;
        ensure!(
            missing <= lost.writes,
            "{missing} keys are missing and {} writes were reported lost",
            lost.writes
        );
        ensure!(
            lost.exact && (lost.entries > 0) == lost.file.is_some(),
            "the report is not whole: {lost:?}"
        );
        // What was asked for, and reported: no failure of this scenario.
        measured.lost.clear();
        measured.violations.clear();
        measured.deposed_acks = 0;
        Ok(Some(measured))
    })
}

/// Has every pod restart, one after the other, so that it takes up what the spec says.
fn restart_pods(lab: &Lab) -> Result<()> {
    for pod in lab.pods()? {
        let StorePod { name, uid, .. } = pod;
        lab.delete_pod(&name)?;
        lab.until("the pod is another one", RECOVERS, || {
            let pods = lab.pods()?;
            Ok(pods.iter().any(|pod| pod.name == name && pod.uid != uid).then_some(()))
        })?;
        lab.await_ready(RECOVERS)?;
    }
    Ok(())
}

/// Nodes of this cluster share the kernel of one machine, which goes on: what is lost is processes, and their replicas stay the
/// same. What a machine does that forgets its page cache is tried on processes of their own, in `e2e/tests/consistency.rs`.
fn page_cache_power(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (change, back) = (json!({"replication": {"durability": "PageCache"}}), json!({"replication": null}));
    let measured = with_spec(lab, &change, &back, || {
        restart_pods(lab)?;
        let mut trial = Trial::begin(lab, seed)?;
        let replica = trial.replicas().first().context("a store of three has two replicas")?.clone();
        trial.strike(|| lab.cluster.fault(&["power-off", &replica.node]))?;
        let went_on = trial.go_on(1000);
        lab.cluster.fault(&["power-on", &replica.node])?;
        went_on?;
        trial.end().map(Some)
    })?;
    restart_pods(lab)?;
    Ok(measured)
}
