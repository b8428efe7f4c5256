//! Stores that are created, refused and deleted.

use super::{Measured, RECOVERS, Scenario};
use crate::lab::Lab;
use crate::workload::{Workload, lost};
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "create-delete",
            "a store is created, loaded and deleted; its objects go, its volumes stay",
            create_delete,
        ),
        Scenario::new("bad-specs", "what cannot work is refused with a message that says why", bad_specs),
    ]
}

fn create_delete(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let lab = &Lab::at(&lab.namespace, "brief")?;
    lab.remove()?;
    lab.create(&json!({"storage": {"size": "1Gi"}}))?;
    lab.await_ready(RECOVERS)?;
    let workload = Workload::start(lab.place()?, &format!("{seed:x}"), seed)?;
    workload.await_acknowledged(1000, Duration::from_secs(30))?;
    let history = workload.finish()?;
    let measured = Measured {
        acknowledged: history.acknowledged_count(),
        lost: lost(&lab.place()?, &history, Duration::from_secs(10))?,
        violations: history.violations(),
        seed,
        ..Measured::default()
    };
    let of_store = format!("app.kubernetes.io/instance={}", lab.store);
    let names = |kinds: &str| {
        lab.cluster
            .kubectl(&["-n", &lab.namespace, "get", kinds, "-l", &of_store, "-o", "name"], "")
    };
    let objects = "statefulset,service,poddisruptionbudget,serviceaccount,secret";
    ensure!(names(objects)?.lines().count() >= 6, "objects are missing: {}", names(objects)?);
    lab.cluster
        .kubectl(&["-n", &lab.namespace, "delete", "rstore", &lab.store, "--wait=true"], "")?;
    lab.until("the objects of the store are gone", Duration::from_secs(90), || {
        Ok(names(&format!("{objects},pod"))?.trim().is_empty().then_some(()))
    })?;
    let claims = names("persistentvolumeclaim")?;
    ensure!(claims.lines().count() == 3, "the volumes were not kept: {claims:?}");
    lab.remove()?;
    Ok(Some(measured))
}

/// A spec and what the refusal has to say.
fn refused() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"replicasPerShard": 0}), "spec.replicasPerShard"),
        (json!({"quorum": {"write": 1, "read": 1}}), "quorum"),
        (json!({"quorum": {"write": 4, "read": 2}}), "quorum"),
        (json!({"replicasPerShard": 4, "quorum": {"write": 2, "read": 3}}), "quorum"),
        (json!({"shards": 0}), "spec.shards"),
        (json!({"failover": {"suspectAfterMillis": 1}}), "spec.failover.suspectAfterMillis"),
        (json!({"storage": {"size": "much"}}), "spec.storage.size"),
        (json!({"replicas": 3}), "unknown field"),
    ]
}

fn bad_specs(lab: &Lab, _seed: u64) -> Result<Option<Measured>> {
    for (spec, expected) in refused() {
        let store = json!({
            "apiVersion": "quorate.io/v1alpha1",
            "kind": "ReplicatedStore",
            "metadata": {"name": "bad", "namespace": lab.namespace},
            "spec": spec,
        });
        match lab.cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], &store.to_string()) {
            Ok(_) => {
                lab.cluster.kubectl(&["-n", &lab.namespace, "delete", "rstore", "bad"], "")?;
                bail!("{spec} was accepted");
            }
            Err(error) => {
                let message = format!("{error:#}");
                ensure!(
                    message.contains(expected),
                    "the refusal of {spec} does not speak of {expected:?}: {message}"
                );
                println!("         {spec}: {}", message.lines().last().unwrap_or_default().trim());
            }
        }
    }
    Ok(None)
}
