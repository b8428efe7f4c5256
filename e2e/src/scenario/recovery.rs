//! What is left when the control plane, the operator's memory or the resource itself is gone.

use super::{Measured, RECOVERS, Scenario, Trial, with_spec};
use crate::cluster::signal;
use crate::lab::{Lab, epoch_of};
use crate::workload::{Workload, lost};
use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// Silence of every operator, in seconds, after which members fail over by themselves here.
const OPERATOR_AWAY_SECONDS: u64 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "no-control-plane",
            "the primary is killed while the API server and every operator are gone: its members choose another one",
            no_control_plane,
        ),
        Scenario::new(
            "status-wiped",
            "the store's status is wiped, and then the primary dies",
            status_wiped,
        ),
        Scenario::new(
            "adopted",
            "the store is deleted and made again over the claims that were kept",
            adopted,
        ),
    ]
}

fn no_control_plane(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (change, back) = (
        json!({"failover": {"operatorAwaySeconds": OPERATOR_AWAY_SECONDS}}),
        json!({"failover": {"operatorAwaySeconds": null}}),
    );
    with_spec(lab, &change, &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        let primary = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
        lab.scale_operator(0)?;
        lab.cluster.fault(&["control-plane-down"])?;
        std::thread::sleep(Duration::from_secs(OPERATOR_AWAY_SECONDS));
        let struck = trial.strike(|| signal(&primary, Signal::KILL));
        let went_on = struck.and_then(|()| trial.go_on(1000));
        lab.cluster.fault(&["control-plane-up"])?;
        lab.until("the API server is back", RECOVERS, || Ok(lab.get().ok().map(drop)))?;
        lab.scale_operator(2)?;
        went_on?;
        trial.await_failover(RECOVERS, true)?;
        trial.end().map(Some)
    })
}

fn status_wiped(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let primary = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    // No operator may remember what status said. Members leave the failover to the one that comes.
    lab.scale_operator(0)?;
    lab.wipe_status()?;
    ensure!(epoch_of(&lab.status()?) == 0, "the status is still there");
    let struck = trial.strike(|| signal(&primary, Signal::KILL));
    lab.scale_operator(2)?;
    struck?;
    trial.await_failover(RECOVERS, true)?;
    let mut measured = trial.end()?;
    // How long no operator ran was this scenario's choice.
    measured.outage_millis = None;
    Ok(Some(measured))
}

fn adopted(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let lab = &Lab::at(&lab.namespace, "heir")?;
    lab.remove()?;
    let spec = json!({"storage": {"size": "1Gi"}});
    lab.create(&spec)?;
    let before = lab.await_ready(RECOVERS)?;
    let workload = Workload::start(lab.place()?, &format!("{seed:x}"), seed)?;
    workload.await_acknowledged(2000, Duration::from_secs(30))?;
    lab.delete_keeping_claims()?;
    let history = workload.finish()?;
    lab.create(&spec)?;
    let after = lab.await_ready(RECOVERS)?;
    ensure!(
        epoch_of(&after) > epoch_of(&before),
        "epoch {} after {}: the store was made anew over its data",
        epoch_of(&after),
        epoch_of(&before)
    );
    let lost = lost(&lab.place()?, &history, Duration::from_secs(30))?;
    let workload = Workload::start(lab.place()?, &format!("{seed:x}again"), seed)?;
    workload.await_acknowledged(500, Duration::from_secs(30))?;
    let again = workload.finish()?;
    let violations = [history.violations(), again.violations()].concat();
    lab.remove()?;
    Ok(Some(Measured {
        acknowledged: history.acknowledged_count() + again.acknowledged_count(),
        lost,
        violations,
        seed,
        ..Measured::default()
    }))
}
