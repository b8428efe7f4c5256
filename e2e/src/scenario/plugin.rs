//! What people do with `kubectl quorate`, as kubectl runs it.

use super::change::lose_volume;
use super::{Measured, RECOVERS, Scenario, Trial};
use crate::cluster::Said;
use crate::lab::{Lab, holds, primary_of};
use crate::workload::{Workload, ask, lost};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// Exit code of the plugin for what was refused.
const REFUSED: i32 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "plugin",
            "kubectl quorate shows a store, moves its primary under load, and refuses what would lose data for nothing",
            plugin,
        ),
        Scenario::new(
            "recover",
            "the volumes of two of three replicas are lost: the store is blocked, and goes on when a person accepts it",
            recover,
        ),
    ]
}

/// `kubectl quorate` in the store's namespace.
fn quorate(lab: &Lab, args: &[&str]) -> Result<Said> {
    lab.cluster.plugin(&[&["-n", &lab.namespace], args].concat())
}

fn done(lab: &Lab, args: &[&str]) -> Result<String> {
    let said = quorate(lab, args)?;
    ensure!(said.code == Some(0), "kubectl quorate {args:?}: {said:?}");
    Ok(said.stdout)
}

/// Prints the answer of a command, indented.
fn show(text: &str) {
    text.lines().for_each(|line| println!("         {line}"));
}

fn plugin(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let mut trial = Trial::begin(lab, seed)?;
    let store = lab.store.as_str();

    let screen = done(lab, &["status", store])?;
    show(&screen);
    for pod in &trial.pods {
        ensure!(screen.contains(&pod.name), "the screen does not name {}", pod.name);
    }
    ensure!(screen.contains("Tolerates: 1 failed for writes, 1 for reads, 1 for a failover"));
    let json: Value = serde_json::from_str(&done(lab, &["status", store, "-o", "json"])?)?;
    let told = json.pointer("/status/shards/0/primary").and_then(Value::as_str);
    ensure!(told == Some(&trial.primary.name), "{told:?} is the primary by -o json");
    let owner = done(lab, &["slots", store, "--key", "user:42"])?;
    ensure!(owner.contains(&trial.primary.name), "slots --key: {owner}");

    let next = trial.replicas().first().context("a store of three has two replicas")?.name.clone();
    trial.strike(|| {
        let answer = done(lab, &["promote", store, &next])?;
        show(&answer);
        Ok(())
    })?;
    trial.await_failover(RECOVERS, false)?;
    let status = lab.status()?;
    ensure!(primary_of(&status) == Some(&next), "{:?} is primary", primary_of(&status));

    let refused = quorate(lab, &["promote", store, "nobody-0-0"])?;
    ensure!(refused.code == Some(REFUSED), "a pod that is none was promoted: {refused:?}");
    show(&refused.stderr);
    let refused = quorate(lab, &["recover", store, "--shard", "0", "--accept-data-loss"])?;
    ensure!(refused.code == Some(REFUSED), "a shard that serves was recovered: {refused:?}");
    show(&refused.stderr);
    let unknown = quorate(lab, &["status", "no-such-store"])?;
    ensure!(unknown.code == Some(1), "{unknown:?}");

    let logs = done(lab, &["logs", store, "--tail", "5"])?;
    for pod in &trial.pods {
        ensure!(logs.contains(&pod.name), "logs has no line of {}: {logs}", pod.name);
    }
    let words = lab.cluster.plugin(&["__complete", "-n", &lab.namespace, "status", ""])?;
    ensure!(
        words.stdout.lines().any(|word| word.starts_with(store)),
        "completion knows no store: {words:?}"
    );
    lab.await_ready(RECOVERS)?;
    trial.end().map(Some)
}

fn recover(lab: &Lab, seed: u64) -> Result<Option<Measured>> {
    let lab = &Lab::at(&lab.namespace, "wreck")?;
    lab.remove()?;
    lab.create(&json!({"storage": {"size": "1Gi"}}))?;
    lab.await_ready(RECOVERS)?;
    let place = lab.place()?;
    let workload = Workload::start(lab.place()?, &format!("{seed:x}"), seed)?;
    workload.await_acknowledged(1000, Duration::from_secs(30))?;
    let history = workload.finish()?;

    let primary = lab.primary()?;
    let replicas: Vec<_> = lab.pods()?.into_iter().filter(|pod| *pod != primary).collect();
    let [_, other] = replicas.as_slice() else {
        anyhow::bail!("a store of three has two replicas, not {replicas:?}")
    };
    // The log keeps order: who holds this write holds all that was ever acknowledged.
    let held = ask(&place, primary.client(), &[&["SET", "last", "1"], &["WAIT", "2", "10000"]])?;
    ensure!(held == ["OK", "2"], "the replicas do not hold the last write: {held:?}");
    // An operator would replace the first before the second is lost.
    lab.scale_operator(0)?;
    let wrecked = [&primary, other].into_iter().try_for_each(|pod| lose_volume(lab, pod));
    lab.scale_operator(2)?;
    wrecked?;
    lab.await_status("the failover is blocked", RECOVERS, |status| holds(status, "FailoverBlocked"))?;
    show(&done(lab, &["status", &lab.store])?);
    let asked = quorate(lab, &["recover", &lab.store, "--shard", "0"])?;
    show(&asked.stdout);
    ensure!(asked.code == Some(REFUSED), "recover without the flag: {asked:?}");
    let told = done(lab, &["recover", &lab.store, "--shard", "0", "--accept-data-loss"])?;
    show(&told);
    let status = lab.await_ready(RECOVERS)?;
    ensure!(!status.data_loss.is_empty(), "the status keeps no record of the loss");
    ensure!(holds(&status, "Available"), "the store does not serve");
    let lost = lost(&lab.place()?, &history, Duration::from_secs(30))?;
    let measured = Measured {
        acknowledged: history.acknowledged_count(),
        lost,
        violations: history.violations(),
        seed,
        ..Measured::default()
    };
    lab.remove()?;
    Ok(Some(measured))
}
