//! Disks that are full.

use super::{Measured, RECOVERS, Scenario, Trial};
use crate::lab::{Lab, StorePod, holds};
use crate::workload::{ask, overwrite};
use anyhow::{Context, Result, ensure};
use quorate_crds::ReplicatedStoreStatus;
use serde_json::json;
use std::time::Duration;

/// Size of the volumes: a few segments of the log, so that they can be filled in seconds.
const VOLUME_MEBIBYTES: &str = "320";
/// A value that makes the log grow quickly.
const VALUE_BYTES: usize = 1 << 20;
/// More than what is left in the segments of a full disk, and less than the other disks hold.
const VALUES: u64 = 100;
/// A condition is in the status within this time.
const TOLD: Duration = Duration::from_secs(30);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "disk-full",
        "a replica's disk is full, then the primary's: writes go on, then are refused; reads go on; both recover without a failover",
        disk_full,
    )]
}

fn disk_full(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    lab.cluster.script(&["small-volumes", VOLUME_MEBIBYTES])?;
    let lab = &Lab::at(&lab.namespace, "tight")?;
    lab.remove()?;
    // Those of a store of before are bound to its claims.
    lab.cluster.script(&["small-volumes", VOLUME_MEBIBYTES])?;
    lab.create(&json!({"storage": {"size": "1Gi", "storageClassName": "small"}}))?;
    let mut trial = Trial::begin(lab, seed)?;
    let replica = trial.replicas().into_iter().next().context("a store of three has two replicas")?;

    trial.strike(|| full(lab, &replica))?;
    let went_on = a_full_replica(lab, &trial, &replica);
    room(lab, &replica)?;
    went_on.context("with a full disk on a replica")?;
    lab.await_ready(RECOVERS).context("after the replica's disk had room again")?;

    full(lab, &trial.primary)?;
    let refused = a_full_primary(lab, &trial);
    room(lab, &trial.primary)?;
    refused.context("with a full disk on the primary")?;
    lab.await_ready(RECOVERS).context("after the primary's disk had room again")?;
    trial.go_on(500)?;
    trial.ensure_no_failover()?;
    let mut measured = trial.end()?;
    // For how long the disk stayed full was this scenario's choice.
    measured.outage_millis = None;
    lab.remove()?;
    Ok(Some(measured))
}

/// Writes go on, and the condition names the replica.
fn a_full_replica(lab: &Lab, trial: &Trial<'_>, replica: &StorePod) -> Result<()> {
    let filled = overwrite(&lab.place()?, trial.primary.client(), "large", VALUES, VALUE_BYTES)?;
    ensure!(filled.refusal.is_none(), "a write was refused: {filled:?}");
    trial.go_on(500)?;
    let status = lab.await_status("the full disk is told", TOLD, |status| {
        told(status, "Ready", &replica.name) && holds(status, "Available")
    })?;
    println!("         {}", message(&status, "Ready"));
    trial.ensure_no_failover()
}

/// Writes are refused with the documented error, reads go on, and the condition names the primary.
fn a_full_primary(lab: &Lab, trial: &Trial<'_>) -> Result<()> {
    let (place, primary) = (lab.place()?, trial.primary.client());
    let filled = overwrite(&place, primary, "large", VALUES, VALUE_BYTES)?;
    let refusal = filled.refusal.context("a full disk refused nothing")?;
    println!("         {} MiB acknowledged, then {refusal:?}", filled.acknowledged);
    ensure!(
        refusal.starts_with("MISCONF ") && refusal.contains("full"),
        "refused with {refusal:?}"
    );
    let status = lab.await_status("the refusal is told", TOLD, |status| told(status, "Available", &trial.primary.name))?;
    println!("         {}", message(&status, "Available"));
    let length = ask(&place, primary, &[&["STRLEN", "large"]])?;
    ensure!(length == [VALUE_BYTES.to_string()], "a read answered {length:?}");
    trial.ensure_no_failover()
}

fn full(lab: &Lab, pod: &StorePod) -> Result<()> {
    lab.cluster.fault(&["fill-volume", &pod.node])
}

fn room(lab: &Lab, pod: &StorePod) -> Result<()> {
    lab.cluster.fault(&["empty-volume", &pod.node])
}

/// Whether a condition is False for a full disk of that pod.
fn told(status: &ReplicatedStoreStatus, condition: &str, pod: &str) -> bool {
    let found = status.conditions.iter().find(|c| c.type_ == condition);
    found.is_some_and(|c| c.status == "False" && c.reason == "DiskFull" && c.message.contains(pod))
}

fn message(status: &ReplicatedStoreStatus, condition: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == condition);
    found.map(|c| c.message.clone()).unwrap_or_default()
}
