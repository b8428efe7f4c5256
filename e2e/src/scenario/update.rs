//! Pods that have to be restarted because the spec asks for something else, under load.

use super::{Measured, RECOVERS, Scenario, Trial, with_spec};
use crate::lab::{Lab, StorePod, holds};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;

/// A few pods, one after the other, each proven for some seconds.
const ROLLS: Duration = Duration::from_secs(240);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "rolling-update",
            "the pods restart one after the other to take up other resources",
            rolling,
        ),
        Scenario::new(
            "broken-image",
            "an image that does not exist stops at its first pod, and is mended by a good one",
            broken_image,
        ),
    ]
}

/// Waits until every pod runs what the spec asks for: before the objects are applied, nobody knows that pods are out of date.
pub(super) fn await_updated(lab: &Lab) -> Result<()> {
    let done = |status: &quorate_crds::ReplicatedStoreStatus| {
        let generation = lab.get().ok().and_then(|store| store.metadata.generation);
        holds(status, "Reconciled") && !holds(status, "Updating") && status.observed_generation == generation
    };
    lab.await_status("all pods run what the spec asks for", ROLLS, done)?;
    lab.await_ready(RECOVERS).map(drop)
}

fn kept<'a>(before: &'a [StorePod], after: &[StorePod]) -> Vec<&'a str> {
    let is_kept = |pod: &&StorePod| after.iter().any(|other| other.uid == pod.uid);
    before.iter().filter(is_kept).map(|pod| pod.name.as_str()).collect()
}

fn rolling(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (change, back) = (json!({"resources": {"requests": {"cpu": "20m"}}}), json!({"resources": null}));
    let outcome = with_spec(lab, &json!({}), &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        let before = lab.pods()?;
        trial.strike(|| lab.change_spec(&change))?;
        lab.await_status("the update begins", RECOVERS, |status| holds(status, "Updating"))?;
        await_updated(lab)?;
        let left = lab.pods()?;
        ensure!(kept(&before, &left).is_empty(), "{:?} were not restarted", kept(&before, &left));
        trial.go_on(1000)?;
        trial.end().map(Some)
    });
    await_updated(lab)?;
    outcome
}

fn broken_image(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let before = lab.pods()?;
    let (broken, back) = (json!({"image": "localhost/quorate/none:0"}), json!({"image": null}));
    let image = lab.get()?.spec.image;
    ensure!(image.is_none(), "the store of the tests has an image of its own: {image:?}");
    with_spec(lab, &json!({}), &back, || {
        trial.strike(|| lab.change_spec(&broken))?;
        lab.until("the first pod cannot start", RECOVERS, || {
            let waiting = lab.cluster.kubectl(&["-n", &lab.namespace, "get", "pods", "-o", WAITING], "")?;
            Ok(waiting.contains("ImagePullBackOff").then_some(()))
        })?;
        trial.go_on(2000)?;
        let left = lab.pods()?;
        ensure!(kept(&before, &left).len() == 2, "only {:?} were left alone", kept(&before, &left));
        Ok(())
    })?;
    await_updated(lab)?;
    let after = lab.pods()?;
    ensure!(kept(&before, &after).len() == 2, "only {:?} were left alone", kept(&before, &after));
    let primary = lab.primary().context("after the update")?;
    ensure!(primary == trial.primary, "the primary moved to {}", primary.name);
    trial.go_on(1000)?;
    trial.end().map(Some)
}

/// Why containers wait.
const WAITING: &str = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
