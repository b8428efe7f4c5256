//! Disks that are full.

use super::{Measured, RECOVERS, Scenario};
use crate::lab::{Lab, StorePod, epoch_of};
use crate::workload::{Workload, fill, lost};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;

/// Size of the volumes: a few segments of the log, so that they can be filled in seconds.
const VOLUME_MEBIBYTES: &str = "320";
/// A value that makes the log grow quickly, and more of them than fit the volume.
const VALUE_BYTES: usize = 1 << 20;
const VALUES: u64 = 400;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "disk-full",
        about: "a replica's disk is full, and then the primary's: writes are refused or go on, nothing is lost, both recover",
        repetitions: 1,
        bar_millis: None,
        run: disk_full,
    }]
}

fn disk_full(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    lab.cluster.script(&["small-volumes", VOLUME_MEBIBYTES])?;
    let lab = &Lab::at(&lab.namespace, "tight")?;
    lab.remove()?;
    lab.cluster.script(&["small-volumes", VOLUME_MEBIBYTES])?;
    lab.create(&json!({"storage": {"size": "1Gi", "storageClassName": "small"}}))?;
    let before = lab.await_ready(RECOVERS)?;
    let workload = Workload::start(lab.place()?, &format!("{seed:x}"), seed)?;
    workload.await_acknowledged(500, Duration::from_secs(30))?;
    let primary = lab.primary()?;
    let replica = lab
        .pods()?
        .into_iter()
        .find(|pod| *pod != primary)
        .context("a store of three has two replicas")?;

    let full = |pod: &StorePod| lab.cluster.fault(&["fill-volume", &pod.node]);
    let room = |pod: &StorePod| lab.cluster.fault(&["empty-volume", &pod.node]);
    full(&replica)?;
    let filled = fill(&lab.place()?, primary.client(), "large", VALUES / 2, VALUE_BYTES);
    let went_on = workload.await_acknowledged(500, Duration::from_secs(60));
    room(&replica)?;
    let filled = filled?;
    println!(
        "         with a full disk on a replica: {} MiB acknowledged, then {:?}",
        filled.acknowledged, filled.refusal
    );
    went_on.context("with a full disk on a replica")?;
    lab.await_ready(RECOVERS).context("after the replica's disk had room again")?;

    let primary = lab.primary()?;
    full(&primary)?;
    let filled = fill(&lab.place()?, primary.client(), "large", VALUES, VALUE_BYTES);
    let refused = lab.await_status("status tells of the full disk", RECOVERS, |status| {
        status.conditions.iter().any(|condition| condition.message.contains("disk"))
    });
    room(&primary)?;
    let filled = filled?;
    let refusal = filled.refusal.context("a full disk refused nothing")?;
    println!(
        "         with a full disk on the primary: {} MiB acknowledged, then {refusal:?}",
        filled.acknowledged
    );
    ensure!(refusal.contains("disk"), "the refusal does not speak of the disk: {refusal:?}");
    refused?;
    let after = lab.await_ready(RECOVERS).context("after the primary's disk had room again")?;
    workload.await_acknowledged(500, Duration::from_secs(60))?;
    let history = workload.finish()?;
    let measured = Measured {
        acknowledged: history.acknowledged_count(),
        lost: lost(&lab.place()?, &history, Duration::from_secs(30))?,
        violations: history.violations(),
        seed,
        ..Measured::default()
    };
    let epochs = epoch_of(&after) - epoch_of(&before);
    ensure!(epochs <= 3, "{epochs} epochs were begun: full disks make a loop of failovers");
    lab.remove()?;
    Ok(Some(measured))
}
