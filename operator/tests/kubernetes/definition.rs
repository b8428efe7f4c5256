//! The definition of the resource, as the API server and kubectl take it.

use crate::control_plane::{ControlPlane, control_plane};
use crate::machines::PATIENCE;
use crate::process::eventually;
use serde_json::{Value, json};

fn store(namespace: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
    .to_string()
}

fn refusal(plane: &ControlPlane, namespace: &str, spec: &Value) -> String {
    plane
        .try_apply(&store(namespace, "refused", spec))
        .expect_err(&format!("{spec} must be refused"))
}

#[tokio::test]
async fn a_spec_that_cannot_work_is_refused_with_a_message_that_says_why() {
    let plane = control_plane();
    let namespace = plane.namespace("refused").await;
    for (spec, says) in [
        (
            json!({"shards": 501}),
            "spec.shards: Invalid value: 501: spec.shards in body should be less than or equal to 500",
        ),
        (
            json!({"rebalance": {"maxConcurrentMoves": 0}}),
            "spec.rebalance.maxConcurrentMoves in body should be greater than or equal to 1",
        ),
        (
            json!({"rebalance": {"maxBytesPerSecond": "fast"}}),
            "spec.rebalance.maxBytesPerSecond in body should match",
        ),
        (
            json!({"shards": 0}),
            "spec.shards: Invalid value: 0: spec.shards in body should be greater than or equal to 1",
        ),
        (
            json!({"replicasPerShard": 0}),
            "spec.replicasPerShard in body should be greater than or equal to 1",
        ),
        (
            json!({"replicasPerShard": 8}),
            "spec.replicasPerShard in body should be less than or equal to 7",
        ),
        (
            json!({"quorum": {"write": 0, "read": 3}}),
            "spec.quorum.write in body should be greater than or equal to 1",
        ),
        (
            json!({"quorum": {"write": 2, "read": 4}}),
            "quorum.write and quorum.read may not be above replicasPerShard",
        ),
        (
            json!({"quorum": {"write": 2, "read": 1}}),
            "quorum.write + quorum.read must be above replicasPerShard, or a read could miss an acknowledged write",
        ),
        (
            json!({"quorum": {"write": 1, "read": 3}}),
            "2 * quorum.write must be above replicasPerShard, or two halves could both acknowledge writes",
        ),
        (json!({"quorum": {"write": 2}}), "spec.quorum.read: Required value"),
        (
            json!({"failover": {"mode": "Sometimes"}}),
            "supported values: \"Automatic\", \"Manual\"",
        ),
        (json!({"consistency": "Sometimes"}), "supported values: \"Strong\", \"Eventual\""),
        (
            json!({"consistency": "Strong", "quorum": {"write": 1, "read": 1}}),
            "quorum.write + quorum.read must be above replicasPerShard, or a read could miss an acknowledged write",
        ),
        (
            json!({"consistency": "Eventual", "quorum": {"write": 4, "read": 1}}),
            "quorum.write and quorum.read may not be above replicasPerShard",
        ),
        (
            json!({"replication": {"durability": "Sometimes"}}),
            "supported values: \"Fsync\", \"PageCache\"",
        ),
        (json!({"failover": {"heartbeatMillis": 5}}), "should be greater than or equal to 20"),
        (
            json!({"failover": {"heartbeatMillis": 900}}),
            "failover.suspectAfterMillis must be at least twice failover.heartbeatMillis, or every late heartbeat is a suspicion",
        ),
        (json!({"storage": {"size": "much"}}), "spec.storage.size in body should match"),
        (json!({"maxMemory": "much"}), "spec.maxMemory in body should match"),
    ] {
        let error = refusal(plane, &namespace, &spec);
        assert!(error.contains(says), "{spec}: {error}");
    }
    let long = plane.try_apply(&store(&namespace, &"a".repeat(41), &json!({}))).unwrap_err();
    assert!(
        long.contains("the name may have 40 characters at most: pods add a suffix to it"),
        "{long}"
    );
    let unknown = plane.try_apply(&store(&namespace, "unknown", &json!({"replicas": 3}))).unwrap_err();
    assert!(unknown.contains(".spec.replicas: field not declared in schema"), "{unknown}");
}

#[tokio::test]
async fn what_may_not_change_is_refused_when_it_does_and_the_rest_is_taken() {
    let plane = control_plane();
    let namespace = plane.namespace("changed").await;
    let base = json!({"quorum": {"write": 2, "read": 2}, "storage": {"size": "1Gi", "storageClassName": "fast"}});
    plane.apply(&store(&namespace, "orders", &base));
    for (path, value, says) in [
        (
            "/replicasPerShard",
            json!(5),
            "quorum.write + quorum.read must be above replicasPerShard, or a read could miss an acknowledged write",
        ),
        (
            "/quorum",
            json!({"write": 2, "read": 1}),
            "quorum.write + quorum.read must be above replicasPerShard, or a read could miss an acknowledged write",
        ),
        (
            "/storage/storageClassName",
            json!("slow"),
            "storage.storageClassName is immutable: a volume cannot move to another class",
        ),
        (
            "/storage/storageClassName",
            Value::Null,
            "storage.storageClassName is immutable: a volume cannot move to another class",
        ),
        ("/storage/size", json!("2Gi"), "storage.size cannot be changed in this version"),
    ] {
        let mut spec = base.clone();
        let (parent, field) = path.rsplit_once('/').unwrap();
        let fields = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            drop(fields.remove(field));
        } else {
            drop(fields.insert(field.to_owned(), value));
        }
        let error = plane.try_apply(&store(&namespace, "orders", &spec)).expect_err(path);
        assert!(error.contains(says), "{path}: {error}");
    }
    let mut spec = base;
    spec["replicasPerShard"] = json!(5);
    spec["quorum"] = json!({"write": 3, "read": 3});
    spec["failover"] = json!({"mode": "Manual", "minIntervalSeconds": 30, "recreateAfterSeconds": 0, "operatorAwaySeconds": 0});
    spec["maxMemory"] = json!("1.5Gi");
    spec["paused"] = json!(true);
    plane.apply(&store(&namespace, "orders", &spec));
    spec["consistency"] = json!("Eventual");
    spec["quorum"] = json!({"write": 1, "read": 1});
    spec["replication"] = json!({"durability": "PageCache"});
    plane.apply(&store(&namespace, "orders", &spec));
    spec["consistency"] = json!("Strong");
    spec.as_object_mut().unwrap().remove("quorum");
    plane.apply(&store(&namespace, "orders", &spec));
}

#[tokio::test]
async fn defaults_are_filled_by_the_api_server_where_people_can_read_them() {
    let plane = control_plane();
    let namespace = plane.namespace("defaults").await;
    plane.apply(&store(&namespace, "orders", &json!({})));
    let found: Value = serde_json::from_str(&plane.kubectl(&["get", "rstore", "orders", "-n", &namespace, "-o", "json"])).unwrap();
    assert_eq!(
        found["spec"],
        json!({
            "shards": 1,
            "replicasPerShard": 3,
            "failover": {"mode": "Automatic", "heartbeatMillis": 200, "suspectAfterMillis": 1000, "minIntervalSeconds": 0,
                         "recreateAfterSeconds": 300, "operatorAwaySeconds": 10},
            "consistency": "Strong",
            "replication": {"durability": "Fsync"},
            "update": {"mode": "Automatic", "followOperator": false},
            "rebalance": {"mode": "Automatic", "maxConcurrentMoves": 4, "maxBytesPerSecond": "64Mi"},
            "storage": {"size": "1Gi"},
            "paused": false,
        })
    );
}

#[tokio::test]
async fn kubectl_explains_lists_and_scales_it() {
    let plane = control_plane();
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The API server publishes the schema a moment after it serves the resource.
    let explained = eventually("kubectl explains it", PATIENCE, async || {
        plane.try_kubectl(&["explain", "rstore.spec"]).ok()
    })
    .await;
    let explained = flat(explained);
    for line in [
        "Replicas of every shard, the primary included. Default 3. May be changed: new replicas catch up before they count,",
        "Sizes of the write and the read quorum. Default: a majority for both; with consistency Eventual, the primary alone for both. May be changed: a view change puts them in force.",
        "Stops the operator from changing objects of this store. Failovers still happen. Default false.",
    ] {
        assert!(explained.contains(line), "{line}\n{explained}");
    }
    let failover = flat(plane.kubectl(&["explain", "rstore.spec.failover"]));
    assert!(
        failover.contains("Milliseconds without a sign of life after which a node is suspected. A connection that breaks counts at once."),
        "{failover}"
    );
    let top = flat(plane.kubectl(&["explain", "rstore"]));
    assert!(
        top.contains("A replicated key-value store that speaks the Redis protocol."),
        "{top}"
    );

    let namespace = plane.namespace("listed").await;
    plane.apply(&store(&namespace, "orders", &json!({})));
    let listed = plane.kubectl(&["get", "rstore", "-n", &namespace]);
    let columns: Vec<&str> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "NAME",
            "READY",
            "REASON",
            "SHARDS",
            "REPLICAS",
            "SERVING",
            "PRIMARY",
            "EPOCH",
            "REBALANCE",
            "AGE"
        ]
    );
    plane.kubectl(&["get", "all", "-n", &namespace]);
    let scale = format!("/apis/quorate.io/v1alpha1/namespaces/{namespace}/replicatedstores/orders/scale");
    let scale: Value = serde_json::from_str(&plane.kubectl(&["get", "--raw", &scale])).unwrap();
    assert_eq!(scale["spec"]["replicas"], 1, "the subresource points at the shards");
    plane.kubectl(&["scale", "rstore", "orders", "--replicas=3", "-n", &namespace]);
    let shards = plane.kubectl(&["get", "rstore", "orders", "-n", &namespace, "-o", "jsonpath={.spec.shards}"]);
    assert_eq!(shards, "3");
}
