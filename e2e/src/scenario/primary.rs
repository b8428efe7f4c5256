//! What can happen to a primary and to the nodes that replicas run on.

use super::{Measured, RECOVERS, Scenario, Trial};
use crate::cluster::signal;
use crate::lab::{Lab, StorePod, holds};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::time::Duration;

/// A failover that an operator sees at once takes no longer.
const SOON: Duration = Duration::from_secs(30);
/// The same where the leading operator may be gone too.
const LATER: Duration = Duration::from_secs(60);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("primary-killed", "the primary's process is killed with SIGKILL", killed)
            .repeated(10)
            .within(500.0),
        Scenario::new("primary-deleted", "the primary's pod is deleted gracefully: it hands over", deleted)
            .repeated(10)
            .within(200.0),
        Scenario::new("primary-frozen", "the primary's process is stopped and goes on later", frozen)
            .repeated(10)
            .within(3000.0),
        Scenario::new(
            "node-paused",
            "everything on the primary's node stands still and goes on later",
            |lab, seed| node(lab, seed, "pause-node", "unpause-node"),
        ),
        Scenario::new(
            "node-cut",
            "the primary's node is cut off from everything and comes back",
            |lab, seed| node(lab, seed, "cut-node", "mend-node"),
        ),
        Scenario::new("node-power", "the primary's node loses power and comes back", |lab, seed| {
            node(lab, seed, "power-off", "power-on")
        }),
        Scenario::new(
            "primary-isolated",
            "the primary is cut from its peers and the operator while clients still reach it",
            isolated,
        ),
        Scenario::new(
            "operator-link-cut",
            "only the links between operators and primary are cut: no failover",
            link_cut,
        ),
        Scenario::new(
            "two-down",
            "two of three replicas stand still: no promotion, FailoverBlocked; goes on when one returns",
            two_down,
        ),
        Scenario::new("all-killed", "all replicas are killed at once", all_killed),
    ]
}

fn killed(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    trial.strike(|| signal(&pids, Signal::KILL))?;
    trial.await_failover(SOON, false)?;
    trial.replace_primary_pod()?;
    trial.end().map(Some)
}

fn deleted(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let name = trial.primary.name.clone();
    trial.strike(|| lab.delete_pod(&name))?;
    trial.await_failover(SOON, false)?;
    trial.await_replaced()?;
    trial.end().map(Some)
}

fn frozen(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let pids = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    trial.strike(|| signal(&pids, Signal::STOP))?;
    let failover = trial.await_failover(SOON, false);
    signal(&pids, Signal::CONT)?;
    failover?;
    trial.end().map(Some)
}

fn node(lab: &Lab, seed: u64, fault: &str, mend: &str) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let node = trial.primary.node.clone();
    trial.strike(|| lab.cluster.fault(&[fault, &node]))?;
    let failover = trial.await_failover(LATER, false);
    lab.cluster.fault(&[mend, &node])?;
    failover?;
    trial.end().map(Some)
}

fn operator_addresses(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.operator_pods("quorate")?.iter().map(|pod| pod.address.to_string()).collect())
}

/// Cuts, or mends, what goes between a pod and others, on the pod's node.
fn links(lab: &Lab, fault: &str, pod: &StorePod, others: &[String]) -> Result<()> {
    for other in others {
        lab.cluster.fault(&[fault, &pod.node, &pod.address.to_string(), other])?;
    }
    Ok(())
}

fn isolated(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let primary = trial.primary.clone();
    let mut others: Vec<String> = trial.replicas().iter().map(|pod| pod.address.to_string()).collect();
    others.extend(operator_addresses(lab)?);
    trial.strike(|| links(lab, "cut", &primary, &others))?;
    let failover = trial.await_failover(SOON, false);
    // Clients go on asking the old primary: the probes count what it acknowledges.
    let went_on = failover.and_then(|()| trial.go_on(2000));
    links(lab, "mend", &primary, &others)?;
    went_on?;
    trial.end().map(Some)
}

fn link_cut(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let (primary, operators) = (trial.primary.clone(), operator_addresses(lab)?);
    trial.strike(|| links(lab, "cut", &primary, &operators))?;
    let seen = lab.await_status("the operator says that it does not hear the primary", SOON, |status| {
        !holds(status, "Ready")
    });
    // Long enough for every timeout of a failover to pass several times.
    let went_on = seen.and_then(|_| trial.go_on(6000));
    links(lab, "mend", &primary, &operators)?;
    went_on?;
    lab.await_ready(RECOVERS)?;
    trial.ensure_no_failover()?;
    let measured = trial.end()?;
    ensure!(
        measured.outage_millis.is_some_and(|outage| outage < 500.0),
        "writes were interrupted for {:?} ms",
        measured.outage_millis
    );
    Ok(Some(measured))
}

fn two_down(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let replica = trial.replicas().first().context("a store of three has two replicas")?.clone();
    let primary = lab.cluster.pids(&lab.namespace, &trial.primary.name)?;
    let second = lab.cluster.pids(&lab.namespace, &replica.name)?;
    trial.strike(|| {
        signal(&primary, Signal::STOP)?;
        signal(&second, Signal::STOP)
    })?;
    let blocked = lab.await_status("the failover is blocked", SOON, |status| holds(status, "FailoverBlocked"));
    let acknowledged = trial.acknowledged();
    let no_promotion = blocked.and_then(|status| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == "FailoverBlocked");
        let message = condition.map(|condition| condition.message.clone()).unwrap_or_default();
        println!("         FailoverBlocked: {message}");
        ensure!(
            message.contains("1 of 3") && message.contains('2'),
            "the message does not give the numbers: {message:?}"
        );
        std::thread::sleep(Duration::from_secs(3));
        ensure!(trial.acknowledged() == acknowledged, "writes were acknowledged without a quorum");
        trial.ensure_same_epoch()
    });
    signal(&second, Signal::CONT)?;
    let failover = no_promotion.and_then(|()| trial.await_failover(SOON, false));
    signal(&primary, Signal::CONT)?;
    failover?;
    ensure!(
        lab.event_reasons()?.iter().any(|reason| reason == "FailoverBlocked"),
        "there is no event FailoverBlocked"
    );
    let mut measured = trial.end()?;
    // How long it was blocked was this scenario's choice.
    measured.outage_millis = None;
    Ok(Some(measured))
}

fn all_killed(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let mut pids = Vec::new();
    for pod in &trial.pods {
        pids.extend(lab.cluster.pids(&lab.namespace, &pod.name)?);
    }
    trial.strike(|| signal(&pids, Signal::KILL))?;
    trial.await_failover(RECOVERS, true)?;
    trial.end().map(Some)
}
