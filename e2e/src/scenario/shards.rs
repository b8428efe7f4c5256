//! Shards that are added and removed under load, and what can happen to those who move slots meanwhile.

use super::update::await_updated;
use super::{Measured, RECOVERS, Scenario, Trial, with_spec};
use crate::cluster::{OPERATOR_NAMESPACE, signal};
use crate::lab::Lab;
use crate::workload::fill;
use anyhow::{Context, Result, ensure};
use quorate_crds::{RebalanceState, ReplicatedStoreStatus};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// A rebalance of what the tests put in takes no longer, a fault and a failover included.
const REBALANCES: Duration = Duration::from_secs(240);
/// Data to move: enough for a fault to strike amid it at [`SLOWLY`].
const KEYS: usize = 4000;
/// Bytes of a value.
const VALUE_BYTES: usize = 4096;
/// What all moves may copy in a second while a fault is to strike amid them.
const SLOWLY: &str = "1Mi";
/// How long a link between two primaries is cut amid a move.
const CUT: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("scale-shards", "three shards become five and three again under load", scale),
        Scenario::new(
            "scale-shards-whim",
            "three shards are to become five, then three, then four, each before the last is done",
            whim,
        ),
        Scenario::new(
            "scale-and-update",
            "a second shard is added together with other resources for every pod",
            update,
        ),
        Scenario::new(
            "rebalance-manual",
            "slots wait for a person where spec.rebalance.mode is Manual, and go when asked to",
            manual,
        ),
        Scenario::new(
            "move-source-killed",
            "the primary that gives slots away is killed with SIGKILL in the middle of it",
            |lab, seed| amid_moves(lab, seed, |lab| kill_primary(lab, 0)),
        ),
        Scenario::new(
            "move-target-killed",
            "the primary that takes slots is killed with SIGKILL in the middle of it",
            |lab, seed| amid_moves(lab, seed, |lab| kill_primary(lab, 1)),
        ),
        Scenario::new(
            "move-link-cut",
            "the primaries of a move do not reach each other for a while: replies are lost, and decisions with them",
            |lab, seed| amid_moves(lab, seed, cut_link),
        ),
        Scenario::new(
            "move-operator-killed",
            "the leading operator is killed in the middle of moves",
            |lab, seed| amid_moves(lab, seed, kill_operator),
        ),
    ]
}

/// Whether the store has so many shards that own as many slots each, give or take one, and no move is under way.
fn balanced(status: &ReplicatedStoreStatus, shards: usize) -> bool {
    let slots = || status.shards.iter().map(|shard| shard.slots);
    let rests = status
        .rebalance
        .as_ref()
        .is_none_or(|rebalance| rebalance.state == RebalanceState::Balanced);
    let even = slots().max().unwrap_or_default() - slots().min().unwrap_or_default() <= 1;
    rests && even && status.shards.len() == shards && slots().sum::<i32>() == 16_384
}

fn await_balanced(lab: &Lab, shards: usize) -> Result<()> {
    lab.await_status(&format!("{shards} shards own as many slots each"), REBALANCES, |status| {
        balanced(status, shards)
    })?;
    lab.await_ready(RECOVERS).map(drop)
}

/// On a store of so many shards, which is one of one shard again afterwards.
fn with_shards<T>(lab: &Lab, shards: usize, scenario: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = with_spec(lab, &json!({"shards": shards}), &json!({"shards": 1}), || {
        await_balanced(lab, shards)?;
        scenario()
    });
    let merged = await_balanced(lab, 1);
    let found = outcome?;
    merged.map(|()| found)
}

/// What `kubectl scale` asks for, by the subresource that it uses.
fn kubectl_scale(lab: &Lab, shards: usize) -> Result<()> {
    let (store, replicas) = (format!("rstore/{}", lab.store), format!("--replicas={shards}"));
    lab.cluster
        .kubectl(&["-n", &lab.namespace, "scale", &store, &replicas], "")
        .map(drop)
}

fn scale(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    with_shards(lab, 3, || {
        let mut trial = Trial::begin(lab, seed)?;
        trial.strike(|| kubectl_scale(lab, 5))?;
        await_balanced(lab, 5)?;
        trial.go_on(1000)?;
        kubectl_scale(lab, 3)?;
        await_balanced(lab, 3)?;
        trial.go_on(1000)?;
        lab.until("the pods of the removed shards are gone", RECOVERS, || {
            Ok((lab.pods()?.len() == 9).then_some(()))
        })?;
        trial.end().map(Some)
    })
}

fn whim(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    with_shards(lab, 3, || {
        let mut trial = Trial::begin(lab, seed)?;
        trial.strike(|| lab.change_spec(&json!({"shards": 5})))?;
        for shards in [3, 4] {
            // At another moment of the change in every run: before, amid or after it.
            std::thread::sleep(Duration::from_millis(500 + seed % 6000));
            lab.change_spec(&json!({"shards": shards}))?;
        }
        await_balanced(lab, 4)?;
        trial.go_on(1000)?;
        trial.end().map(Some)
    })
}

fn update(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let back = json!({"shards": 1, "resources": null});
    let outcome = with_spec(lab, &json!({}), &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        let before = lab.pods()?;
        let change = json!({"shards": 2, "resources": {"requests": {"cpu": "20m"}}});
        trial.strike(|| lab.change_spec(&change))?;
        await_balanced(lab, 2)?;
        await_updated(lab)?;
        let after = lab.pods()?;
        let kept = before.iter().find(|pod| after.iter().any(|other| other.uid == pod.uid));
        ensure!(kept.is_none(), "{kept:?} was not restarted");
        trial.go_on(1000)?;
        trial.end().map(Some)
    });
    await_balanced(lab, 1)?;
    await_updated(lab)?;
    outcome
}

fn manual(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let (by_hand, back) = (
        json!({"rebalance": {"mode": "Manual"}}),
        json!({"shards": 1, "rebalance": {"mode": null}}),
    );
    let outcome = with_spec(lab, &by_hand, &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        trial.strike(|| lab.change_spec(&json!({"shards": 2})))?;
        let waits = lab.await_status("the slots wait for a person", REBALANCES, |status| {
            let rebalancing = status.conditions.iter().find(|condition| condition.type_ == "Rebalancing");
            rebalancing.is_some_and(|condition| condition.reason == "ManualRebalance")
        })?;
        trial.go_on(500)?;
        let slots: Vec<i32> = waits.shards.iter().map(|shard| shard.slots).collect();
        ensure!(slots == [16_384, 0], "slots moved although nobody asked for it: {slots:?}");
        let store = format!("rstore/{}", lab.store);
        lab.cluster
            .kubectl(&["-n", &lab.namespace, "annotate", &store, "quorate.io/rebalance=now"], "")?;
        await_balanced(lab, 2)?;
        trial.go_on(500)?;
        trial.end().map(Some)
    });
    await_balanced(lab, 1)?;
    outcome
}

/// Strikes once data is on its way from one shard to a second, and waits until it has arrived.
fn amid_moves(lab: &Lab, seed: u64, fault: impl FnOnce(&Lab) -> Result<()>) -> Result<Option<Measured>> {
    let (slowly, back): (Value, Value) = (
        json!({"rebalance": {"maxBytesPerSecond": SLOWLY}}),
        json!({"shards": 1, "rebalance": {"maxBytesPerSecond": null}}),
    );
    fill(&lab.place()?, &format!("{seed:x}:f"), KEYS, VALUE_BYTES)?;
    let outcome = with_spec(lab, &slowly, &back, || {
        let mut trial = Trial::begin(lab, seed)?;
        lab.change_spec(&json!({"shards": 2}))?;
        let under_way = lab.await_status("data is on its way", REBALANCES, |status| {
            let rebalance = status.rebalance.as_ref();
            rebalance.is_some_and(|rebalance| rebalance.moves > 0 && rebalance.bytes_moved > 0)
        })?;
        let percent = under_way.rebalance.map_or(0, |rebalance| rebalance.percent);
        trial.strike(|| fault(lab))?;
        println!("         struck at {percent} %");
        ensure!(percent < 100, "everything had arrived before the fault");
        await_balanced(lab, 2)?;
        trial.go_on(1000)?;
        trial.end().map(Some)
    });
    await_balanced(lab, 1)?;
    outcome
}

fn kill_primary(lab: &Lab, shard: usize) -> Result<()> {
    let name = lab.primary_of(shard)?.name;
    signal(&lab.cluster.pids(&lab.namespace, &name)?, Signal::KILL)?;
    // The kubelet waits longer and longer before it starts the container of one that was killed often.
    lab.delete_pod(&name)
}

fn cut_link(lab: &Lab) -> Result<()> {
    let (source, target) = (lab.primary_of(0)?, lab.primary_of(1)?);
    let (here, there) = (source.address.to_string(), target.address.to_string());
    lab.cluster.fault(&["cut", &source.node, &here, &there])?;
    std::thread::sleep(CUT);
    lab.cluster.fault(&["mend", &source.node, &here, &there])
}

fn kill_operator(lab: &Lab) -> Result<()> {
    let leader = lab.operator_pods("quorate")?.first().context("an operator leads")?.name.clone();
    let pids = lab.cluster.pids(OPERATOR_NAMESPACE, &leader)?;
    signal(&pids, Signal::KILL)
}
