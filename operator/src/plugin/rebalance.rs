//! `rebalance`: asks for the slots to be moved to where they are to be, and follows it to its end.

use super::cli::RebalanceArgs;
use super::cluster::Cluster;
use super::error::PluginError;
use super::screen::{condition, status_of};
use kube::ResourceExt;
use quorate_crds::conditions::{REBALANCE_STALLED, REBALANCING};
use quorate_crds::{RebalanceState, ReplicatedStore, annotations};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// The value of the annotation says nothing.
const ASKED: &str = "asked";

pub(super) async fn run(cluster: &Cluster, args: &RebalanceArgs) -> Result<(), PluginError> {
    let store = cluster.get(&args.store).await?;
    if is_balanced(&store) {
        println!("{}", outcome(&store));
        return Ok(());
    }
    if !store.annotations().contains_key(annotations::REBALANCE) {
        cluster.annotate(&store, annotations::REBALANCE, ASKED).await?;
    }
    let deadline = Instant::now() + args.timeout;
    let mut told = String::new();
    loop {
        let now = cluster.get(&args.store).await?;
        if now.uid() != store.uid() {
            return Err(PluginError::NotFound(format!("{} was deleted meanwhile", args.store)));
        }
        let line = progress(&now);
        if line != told {
            eprintln!("{line}");
            told = line;
        }
        // The operator takes the annotation away when everything is where it is to be.
        if is_balanced(&now) && !now.annotations().contains_key(annotations::REBALANCE) {
            println!("{}", outcome(&now));
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(PluginError::NotYet(format!(
                "not done within {} s. The operator goes on with it, unless `kubectl annotate rstore {} {}-` takes it back before its \
                 moves are ordered; `kubectl quorate status {}` shows it",
                args.timeout.as_secs(),
                args.store,
                annotations::REBALANCE,
                args.store
            )));
        }
        sleep(LOOK).await;
    }
}

/// Whether the status is about this spec and nothing is to move or to be removed.
fn is_balanced(store: &ReplicatedStore) -> bool {
    let status = status_of(store);
    let counts = i32::try_from(status.shards.len()).is_ok_and(|shards| shards == store.spec.shards);
    let rests = status.rebalance.as_ref().is_none_or(|told| told.state == RebalanceState::Balanced);
    counts && rests && status.observed_generation >= store.metadata.generation
}

fn outcome(store: &ReplicatedStore) -> String {
    let status = status_of(store);
    let last = status.rebalance.filter(|told| told.slots_moved > 0);
    let last = last.map_or(String::new(), |told| {
        format!(
            "; the last rebalance moved {} slots and {} bytes",
            told.slots_moved, told.bytes_moved
        )
    });
    format!("every slot of {} is where it is to be{last}", store.name_any())
}

/// What the rebalance does now, in a line.
fn progress(store: &ReplicatedStore) -> String {
    let status = status_of(store);
    let Some(told) = &status.rebalance else {
        return "the operator has not told of a rebalance yet".to_owned();
    };
    let stalled = condition(&status, REBALANCE_STALLED).filter(|said| said.status == "True");
    let waits = condition(&status, REBALANCING).filter(|_| told.state == RebalanceState::Waiting);
    match (stalled, waits) {
        (Some(said), _) => format!("stalled ({}): {}", said.reason, said.message),
        (None, Some(said)) => format!("waits ({}): {}", said.reason, said.message),
        (None, None) => {
            let eta = told.eta_seconds.map_or(String::new(), |eta| format!(", about {eta}s left"));
            format!("{:?}: {}{eta}", told.state, told.progress)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn store(status: &Value) -> ReplicatedStore {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore", "metadata": {"name": "orders", "generation": 2},
            "spec": {"shards": 2}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn only_a_status_about_this_spec_says_that_everything_is_where_it_is_to_be() {
        let shards = json!([{"index": 0, "slots": 8192}, {"index": 1, "slots": 8192}]);
        let balanced = json!({"state": "Balanced", "slotsMoved": 8192, "bytesMoved": 9000});
        let status = |generation: i64| json!({"observedGeneration": generation, "shards": shards, "rebalance": balanced});
        assert!(is_balanced(&store(&status(2))));
        assert!(!is_balanced(&store(&status(1))), "of an earlier spec");
        assert!(!is_balanced(&store(
            &json!({"observedGeneration": 2, "shards": [shards[0]], "rebalance": balanced})
        )));
        assert_eq!(
            outcome(&store(&status(2))),
            "every slot of orders is where it is to be; the last rebalance moved 8192 slots and 9000 bytes"
        );
    }

    #[test]
    fn a_line_says_how_far_it_is_or_what_it_waits_for() {
        let said = |type_: &str, reason: &str, message: &str| json!({"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T11:58:00Z"});
        let moving = json!({"state": "Moving", "progress": "42% (10/24 slots)", "etaSeconds": 7});
        assert_eq!(
            progress(&store(&json!({"rebalance": moving}))),
            "Moving: 42% (10/24 slots), about 7s left"
        );
        let stalled = json!({"rebalance": moving, "conditions": [said("RebalanceStalled", "MoveWaits", "shard 1 is full")]});
        assert_eq!(progress(&store(&stalled)), "stalled (MoveWaits): shard 1 is full");
        let waits = json!({"rebalance": {"state": "Waiting"}, "conditions": [said("Rebalancing", "ManualRebalance", "ask")]});
        assert_eq!(progress(&store(&waits)), "waits (ManualRebalance): ask");
    }
}
