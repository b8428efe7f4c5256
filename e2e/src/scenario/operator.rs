//! What can happen to operators while they are needed.

use super::{Measured, Scenario, Trial, with_spec};
use crate::cluster::{OPERATOR_NAMESPACE, signal};
use crate::lab::Lab;
use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// A second operator, as an installation of its own with its own lease.
const SECOND: &str = "quorate-second";
/// A new leader has to wait until the old one's lease is over.
const TAKEOVER: Duration = Duration::from_secs(60);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "operator-down",
            "no operator runs while the primary dies; the failover comes when one is back",
            down,
        ),
        Scenario::new(
            "operator-killed",
            "the leading operator is killed in the middle of a failover",
            killed,
        )
        .repeated(4),
        Scenario::new("two-operators", "two operators lead at once while the primary dies", two).repeated(3),
    ]
}

/// Removes a second operator that an interrupted run left behind.
///
/// # Errors
/// If it stays.
pub(super) fn sweep(lab: &Lab) -> Result<()> {
    lab.cluster.script(&["uninstall", SECOND]).map(drop)
}

fn down(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (change, back) = (
        json!({"failover": {"operatorAwaySeconds": 0}}),
        json!({"failover": {"operatorAwaySeconds": null}}),
    );
    with_spec(lab, &change, &back, || down_alone(lab, seed))
}

/// Members leave failovers to operators.
fn down_alone(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    lab.scale_operator(0)?;
    trial.strike(|| signal(&pids, Signal::KILL))?;
    std::thread::sleep(Duration::from_secs(3));
    let unled = trial.ensure_same_epoch();
    lab.scale_operator(2)?;
    unled?;
    trial.await_failover(TAKEOVER, true)?;
    let mut measured = trial.end()?;
    // How long no operator ran was this scenario's choice.
    measured.outage_millis = None;
    Ok(Some(measured))
}

fn killed(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let primary = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    let leader = lab.operator_pods("quorate")?.first().context("an operator leads")?.name.clone();
    let operator = lab.cluster.pids(OPERATOR_NAMESPACE, &leader)?;
    // A failover takes some tens of milliseconds: each repetition kills at another moment of it.
    let pause = Duration::from_millis(2 + 9 * (seed % 4));
    trial.strike(|| {
        signal(&primary, Signal::KILL)?;
        std::thread::sleep(pause);
        signal(&operator, Signal::KILL)
    })?;
    println!("         the operator was killed {pause:?} after the primary");
    trial.await_failover(TAKEOVER, true)?;
    trial.replace_primary_pod()?;
    lab.scale_operator(2)?;
    trial.end().map(Some)
}

fn two(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    lab.cluster.script(&["install", SECOND])?;
    let outcome = lab.operator_pods(SECOND).and_then(|_| {
        let mut trial = Trial::begin(lab, seed)?;
        let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
        trial.strike(|| signal(&pids, Signal::KILL))?;
        trial.await_failover(TAKEOVER, true)?;
        trial.replace_primary_pod()?;
        trial.end().map(Some)
    });
    sweep(lab)?;
    outcome
}
