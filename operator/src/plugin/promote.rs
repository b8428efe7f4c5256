//! `promote`: asks for a switchover to a pod, and waits for it.

use super::cli::PromoteArgs;
use super::cluster::Cluster;
use super::error::PluginError;
use super::request::{Request, ask};
use super::screen::status_of;
use kube::ResourceExt;
use quorate_crds::{ReplicatedStore, annotations};

pub(super) async fn run(cluster: &Cluster, args: &PromoteArgs) -> Result<(), PluginError> {
    let store = cluster.get(&args.store).await?;
    let (shard, primary) = shard_of(&store, &args.pod).map_err(PluginError::Refused)?;
    if primary.as_deref() == Some(args.pod.as_str()) {
        println!("{} is the primary of shard {shard} already", args.pod);
        return Ok(());
    }
    let request = Request {
        annotation: annotations::PROMOTE,
        value: &args.pod,
        granted: "Promoted",
        refused: "PromotionRefused",
        shard,
        timeout: args.timeout,
    };
    println!("{}", ask(cluster, &store, &request).await?);
    Ok(())
}

/// The shard of a pod, and its primary.
fn shard_of(store: &ReplicatedStore, pod: &str) -> Result<(i32, Option<String>), String> {
    let status = status_of(store);
    let found = status
        .shards
        .iter()
        .find(|shard| shard.replicas.iter().any(|replica| replica.name == pod));
    if let Some(shard) = found {
        return Ok((shard.index, shard.primary.clone()));
    }
    let all: Vec<&str> = status
        .shards
        .iter()
        .flat_map(|shard| shard.replicas.iter().map(|replica| replica.name.as_str()))
        .collect();
    let known = if all.is_empty() {
        "no operator has told of any".to_owned()
    } else {
        format!("there are: {}", all.join(", "))
    };
    Err(format!("{} has no replica {pod}; {known}", store.name_any()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_found_in_its_shard_and_one_that_is_not_there_is_answered_with_those_that_are() {
        let shard = |index: i32| {
            let pods: Vec<_> = (0..2)
                .map(|ordinal| json!({"name": format!("orders-{index}-{ordinal}"), "role": "Replica", "synced": true}))
                .collect();
            json!({"index": index, "primary": format!("orders-{index}-0"), "replicas": pods})
        };
        let store: ReplicatedStore = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore", "metadata": {"name": "orders"}, "spec": {},
            "status": {"shards": [shard(0), shard(1)]},
        }))
        .unwrap();
        assert_eq!(shard_of(&store, "orders-1-1"), Ok((1, Some("orders-1-0".to_owned()))));
        assert_eq!(
            shard_of(&store, "orders-2-0"),
            Err("orders has no replica orders-2-0; there are: orders-0-0, orders-0-1, orders-1-0, orders-1-1".to_owned())
        );
    }
}
