//! Changes of a store's size and quorums under load, and members that are gone for good.

use super::{Measured, RECOVERS, Scenario, Trial, with_spec};
use crate::lab::{Lab, StorePod, holds};
use anyhow::{Context, Result, ensure};
use quorate_crds::{ReplicaRole, ReplicatedStoreStatus};
use serde_json::json;
use std::time::Duration;

/// A member that is gone is given up after so many seconds here.
const RECREATE_AFTER_SECONDS: u64 = 15;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "scale-replicas",
            "three replicas become five and three again under load",
            scale_replicas,
        ),
        Scenario::new(
            "scale-whim",
            "three replicas are to become five, and three again before they are",
            scale_whim,
        ),
        Scenario::new("change-quorum", "quorums 2/2 become 3/1 and 2/2 again under load", change_quorum),
        Scenario::new(
            "volume-lost",
            "the volume of a replica, and then that of the primary, is lost",
            volume_lost,
        ),
        Scenario::new(
            "node-gone",
            "a node never comes back, and the volume on it neither: the member is replaced",
            node_gone,
        ),
    ]
}

/// Waits until the configuration in force has these sizes and the store is whole.
pub(super) fn await_sizes(lab: &Lab, replicas: i32, write: i32, read: i32) -> Result<()> {
    let what = format!("{replicas} replicas with quorums {write}/{read} are in force");
    lab.await_status(&what, RECOVERS, |status| {
        let quorum = status.shards.first().and_then(|shard| shard.quorum);
        quorum.is_some_and(|quorum| (quorum.replicas, quorum.write, quorum.read) == (replicas, write, read))
    })?;
    lab.await_ready(RECOVERS).map(drop)
}

fn scale_replicas(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    trial.strike(|| lab.change_spec(&json!({"replicasPerShard": 5})))?;
    let grown = await_sizes(lab, 5, 3, 3).and_then(|()| trial.go_on(1000));
    lab.change_spec(&json!({"replicasPerShard": 3}))?;
    grown?;
    await_sizes(lab, 3, 2, 2)?;
    trial.go_on(1000)?;
    ensure!(lab.pods()?.len() == 3, "pods of removed members are left: {:?}", lab.pods()?);
    trial.end().map(Some)
}

fn scale_whim(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    trial.strike(|| lab.change_spec(&json!({"replicasPerShard": 5})))?;
    // At another moment of the change in every run: before, amid or after it.
    std::thread::sleep(Duration::from_millis(seed % 4000));
    lab.change_spec(&json!({"replicasPerShard": 3}))?;
    await_sizes(lab, 3, 2, 2)?;
    lab.until("the pods of the additional replicas are gone", RECOVERS, || {
        Ok((lab.pods()?.len() == 3).then_some(()))
    })?;
    trial.end().map(Some)
}

fn change_quorum(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    trial.strike(|| lab.change_spec(&json!({"quorum": {"write": 3, "read": 1}})))?;
    let changed = await_sizes(lab, 3, 3, 1).and_then(|()| trial.go_on(1000));
    lab.change_spec(&json!({"quorum": {"write": 2, "read": 2}}))?;
    let back = changed.and_then(|()| await_sizes(lab, 3, 2, 2));
    lab.change_spec(&json!({"quorum": null}))?;
    back?;
    trial.go_on(1000)?;
    trial.end().map(Some)
}

/// Deletes a pod together with its claim.
pub(super) fn lose_volume(lab: &Lab, pod: &StorePod) -> Result<()> {
    let claim = format!("data-{}", pod.name);
    lab.cluster
        .kubectl(&["-n", &lab.namespace, "delete", "pvc", &claim, "--wait=false"], "")?;
    lab.delete_pod(&pod.name)?;
    lab.until("the volume is lost", Duration::from_secs(60), || {
        lab.cluster.script(&["volumes"])?;
        let pods = lab.pods()?;
        Ok(pods
            .iter()
            .any(|other| other.name == pod.name && other.uid != pod.uid)
            .then_some(()))
    })
}

fn identity(status: &ReplicatedStoreStatus, pod: &str) -> Option<String> {
    let replica = status.shards.first()?.replicas.iter().find(|replica| replica.name == pod)?;
    replica.id.clone()
}

/// Waits until another volume stands in for that of `pod`, and its replica is a member.
fn await_replaced_member(lab: &Lab, pod: &str, before: Option<&String>) -> Result<()> {
    lab.await_status("another replica stands in", RECOVERS, |status| {
        let Some(shard) = status.shards.first() else { return false };
        let member = |role| role == ReplicaRole::Replica || role == ReplicaRole::Primary;
        let replaced = identity(status, pod).as_ref() != before
            && shard
                .replicas
                .iter()
                .any(|replica| replica.name == pod && member(replica.role) && replica.synced);
        replaced && shard.quorum.is_some_and(|quorum| quorum.replicas == 3) && holds(status, "Ready")
    })
    .map(drop)
}

fn volume_lost(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let replica = trial.replicas().first().context("a store of three has two replicas")?.clone();
    let before = identity(&lab.status()?, &replica.name);
    trial.strike(|| lose_volume(lab, &replica))?;
    await_replaced_member(lab, &replica.name, before.as_ref())?;
    trial.go_on(1000)?;
    let primary = lab.primary()?;
    let before = identity(&lab.status()?, &primary.name);
    lose_volume(lab, &primary)?;
    await_replaced_member(lab, &primary.name, before.as_ref())?;
    trial.go_on(1000)?;
    trial.end().map(Some)
}

fn node_gone(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (change, back) = (
        json!({"failover": {"recreateAfterSeconds": RECREATE_AFTER_SECONDS}}),
        json!({"failover": {"recreateAfterSeconds": null}}),
    );
    with_spec(lab, &change, &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        let replica = trial.replicas().first().context("a store of three has two replicas")?.clone();
        let before = identity(&lab.status()?, &replica.name);
        trial.strike(|| {
            lab.cluster.fault(&["power-off", &replica.node])?;
            // What an operations team, or its cloud, does with a machine that is gone.
            lab.cluster
                .kubectl(&["delete", "node", &replica.node, "--wait=false"], "")
                .map(drop)
        })?;
        let replaced = await_replaced_member(lab, &replica.name, before.as_ref()).and_then(|()| trial.go_on(1000));
        let moved = lab.pods()?.into_iter().find(|pod| pod.name == replica.name);
        lab.cluster.fault(&["power-on", &replica.node])?;
        replaced?;
        let moved = moved.context("the replica has a pod")?;
        ensure!(moved.node != replica.node, "the replica is still on {}", moved.node);
        lab.until("the node is back", RECOVERS, || {
            let ready = lab.cluster.kubectl(&["get", "node", &replica.node, "-o", READY], "");
            Ok(ready.is_ok_and(|ready| ready.trim() == "True").then_some(()))
        })?;
        trial.end().map(Some)
    })
}

/// The column of a node's readiness.
const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
