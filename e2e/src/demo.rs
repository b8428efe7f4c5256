//! The demonstration: a store, an ordinary client, a killed primary, and what became of the writes.

use crate::cluster::signal;
use crate::lab::{Lab, StorePod};
use crate::scenario::{Measured, RECOVERS, Timeline, Trial};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes before the primary is killed.
const BEFORE: u64 = 5000;

/// Runs it on the cluster that is up, with the operator installed.
///
/// # Errors
/// If something is not as it should be, or a write is lost.
pub fn run() -> Result<()> {
    let lab = Lab::at("default", "example")?;
    let begun = Instant::now();
    step("kubectl apply -f examples/store.yaml");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/store.yaml");
    print!("{}", lab.cluster.kubectl(&["apply", "-f", &example.to_string_lossy()], "")?);
    lab.await_ready(RECOVERS)?;
    println!("example serves, {:.1} s after it was applied", begun.elapsed().as_secs_f64());

    step("a checked workload: ordinary writers, redis-rs's cluster client, shared registers, a probe for every node");
    let seed = rand::random::<u32>().into();
    let mut trial = Trial::begin(&lab, seed)?;
    trial.go_on(BEFORE)?;
    println!("{} writes acknowledged (seed {seed})", trial.acknowledged());

    let primary = trial.primary.clone();
    step(&format!("kill -9 of {} on {}, the primary", primary.name, primary.node));
    let pids = lab.cluster.pids(&lab.namespace, &primary.name)?;
    trial.strike(|| signal(&pids, Signal::KILL))?;
    trial.await_failover(Duration::from_secs(30), false)?;
    let next = lab.primary()?;
    let measured = trial.end()?;
    timeline(&primary, &next, &measured);
    writes(&measured)?;

    for kinds in ["rstore", "pods"] {
        step(&format!("kubectl get {kinds}"));
        print!("{}", lab.cluster.kubectl(&["-n", &lab.namespace, "get", kinds], "")?);
    }
    reach(&lab)
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn timeline(old: &StorePod, next: &StorePod, measured: &Measured) {
    let Timeline {
        detected,
        fenced,
        promoted,
        first_write,
    } = measured.timeline;
    let line = |at: Option<f64>, what: &str| match at {
        Some(at) => println!("{at:>9.1} ms  {what}"),
        None => println!("{:>9}     {what}: nobody wrote down when", "?"),
    };
    line(Some(0.0), &format!("{} is killed", old.name));
    line(detected, "detected: the operator and the other replicas lost it");
    line(fenced, "fenced: enough replicas promised never to follow it again");
    line(promoted, &format!("promoted: {} committed the start of its epoch", next.name));
    line(first_write, "first acknowledged write of the client that waited longest");
}

fn writes(measured: &Measured) -> Result<()> {
    let [before, during, after] = measured.around;
    println!("writes acknowledged: {before} before, {during} during the outage, {after} after it");
    let millis = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.0} ms"));
    println!(
        "longest time without an acknowledgement: {} for a plain client, {} for redis-rs",
        millis(measured.outage_millis),
        millis(measured.ordinary_outage_millis)
    );
    if !measured.lost.is_empty() {
        bail!(
            "{} acknowledged writes are lost: {}",
            measured.lost.len(),
            measured.lost.iter().take(10).cloned().collect::<Vec<_>>().join(" ")
        );
    }
    if !measured.violations.is_empty() || measured.deposed_acks > 0 {
        bail!(
            "registers not linearizable: {:?}; acknowledgements of {} after the fence: {}",
            measured.violations,
            "the deposed primary",
            measured.deposed_acks
        );
    }
    println!(
        "read back: every one of the {} acknowledged writes is there; the shared registers are linearizable",
        measured.acknowledged
    );
    Ok(())
}

fn reach(lab: &Lab) -> Result<()> {
    let address = lab.pods()?.first().context("the store has pods")?.client();
    let script = "e2e/cluster/cluster.sh";
    step("the cluster stays up");
    println!("kubeconfig   {}", lab.cluster.kubeconfig().display());
    println!("kubectl      {script} run kubectl get rstore");
    println!(
        "redis-cli    {script} in-node {} redis-cli -c -h {} -p {}",
        lab.cluster.control_plane(),
        address.ip(),
        address.port()
    );
    println!("stop it      make down");
    Ok(())
}
