//! Reconciliation: which objects a store gets, that they are repaired, and that nothing is written without a reason.

use crate::control_plane::{ControlPlane, control_plane, scratch};
use crate::machines::PATIENCE;
use crate::operator::Release;
use crate::process::eventually;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const KINDS: &str = "statefulset,service,serviceaccount,poddisruptionbudget,secret,configmap,pod,endpoints,lease,role";

fn store(namespace: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
    .to_string()
}

/// Kind and name of every object of stores in the namespace, with its resource version.
fn objects(plane: &ControlPlane, namespace: &str) -> BTreeMap<String, String> {
    let found = plane.kubectl(&[
        "get",
        KINDS,
        "-n",
        namespace,
        "-l",
        "app.kubernetes.io/managed-by=quorate",
        "-o",
        "json",
    ]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    let items = found["items"].as_array().unwrap().iter();
    items
        .map(|object| {
            (
                format!("{} {}", object["kind"].as_str().unwrap(), text(object, "name")),
                text(object, "resourceVersion"),
            )
        })
        .collect()
}

fn condition(plane: &ControlPlane, namespace: &str, name: &str, type_: &str) -> Option<Value> {
    let found: Value = serde_json::from_str(&plane.kubectl(&["get", "rstore", name, "-n", namespace, "-o", "json"])).unwrap();
    let conditions = found["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == type_).cloned()
}

async fn reconciled(plane: &ControlPlane, namespace: &str, name: &str) {
    eventually("the store is reconciled", PATIENCE, async || {
        let found = condition(plane, namespace, name, "Reconciled")?;
        (found["status"] == "True").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_gets_exactly_its_objects_and_a_second_pass_writes_nothing() {
    let plane = control_plane();
    let namespace = plane.namespace("objects").await;
    let release = Release::install(plane, "quorate", &namespace);
    let mut operator = release.start("one");
    plane.apply(&store(&namespace, "orders", &json!({})));
    reconciled(plane, &namespace, "orders").await;
    let first = objects(plane, &namespace);
    assert_eq!(
        first.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "PodDisruptionBudget orders",
            "Secret orders-token",
            "Service orders",
            "Service orders-primary",
            "Service orders-replicas",
            "ServiceAccount orders",
            "StatefulSet orders-0",
        ]
    );
    // A message alone changes now: the operator has listened for longer, and heard nobody.
    eventually("the status settles", PATIENCE, async || {
        let ready = condition(plane, &namespace, "orders", "Ready")?;
        (ready["reason"] == "WaitingForReplicas").then_some(())
    })
    .await;
    let version = || {
        plane.kubectl(&[
            "get",
            "rstore",
            "orders",
            "-n",
            &namespace,
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ])
    };
    let before = version();

    // Another operator looks at everything anew.
    operator.stop().await;
    let asked = release.requests().len();
    let operator = release.start("two");
    eventually("it has applied everything", PATIENCE, async || {
        let applied = release.requests()[asked..]
            .iter()
            .filter(|request| request["verb"] == "patch")
            .count();
        (operator.logged("leading") == 1 && applied >= 6).then_some(())
    })
    .await;
    reconciled(plane, &namespace, "orders").await;
    assert_eq!(objects(plane, &namespace), first, "nothing was written");
    assert_eq!(version(), before, "not even the status");

    // And then it is quiet: what it asks in two seconds is its lease.
    let quiet = release.requests().len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = release.requests();
    let others = idle[quiet..]
        .iter()
        .filter(|request| request["objectRef"]["resource"] != "leases" && request["verb"] != "watch");
    assert_eq!(others.count(), 0, "an idle operator asks nothing");
    assert_eq!(release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn an_object_that_somebody_changes_or_deletes_is_repaired() {
    let plane = control_plane();
    let namespace = plane.namespace("repaired").await;
    let release = Release::install(plane, "quorate", &namespace);
    let _operator = release.start("one");
    plane.apply(&store(&namespace, "orders", &json!({})));
    reconciled(plane, &namespace, "orders").await;
    let patch = |object: &str, patch: &str| plane.kubectl(&["patch", object, "-n", &namespace, "--type=merge", "-p", patch]);
    patch("statefulset/orders-0", r#"{"spec": {"updateStrategy": {"type": "RollingUpdate"}}}"#);
    patch(
        "service/orders-primary",
        r#"{"spec": {"selector": {"quorate.io/role": "replica"}}}"#,
    );
    patch("poddisruptionbudget/orders", r#"{"spec": {"maxUnavailable": 3}}"#);
    plane.kubectl(&["delete", "service/orders", "-n", &namespace]);
    plane.kubectl(&[
        "delete",
        "statefulset/orders-0",
        "-n",
        &namespace,
        "--cascade=orphan",
        "--wait=false",
    ]);
    for (object, path, value) in [
        ("poddisruptionbudget/orders", "{.spec.maxUnavailable}", "1"),
        ("service/orders-primary", "{.spec.selector.quorate\\.io/role}", "primary"),
        ("service/orders", "{.spec.ports[0].port}", "6379"),
    ] {
        eventually(object, PATIENCE, async || {
            let found = plane.kubectl(&[
                "get",
                object,
                "-n",
                &namespace,
                "--ignore-not-found",
                "-o",
                &format!("jsonpath={path}"),
            ]);
            (found == value).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_run_is_told_and_stops_no_other() {
    let plane = control_plane();
    let namespace = plane.namespace("sick").await;
    let release = Release::install(plane, "quorate", &namespace);
    plane.apply(&store(&namespace, "even", &json!({"replicasPerShard": 4})));
    plane.apply(&store(&namespace, "single", &json!({"replicasPerShard": 1})));
    // A StatefulSet of that name with another selector: the API server refuses to change it, for this store alone.
    let taken = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "taken-0", "namespace": namespace},
        "spec": {
            "serviceName": "other", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    plane.apply(&taken.to_string());
    plane.apply(&store(&namespace, "taken", &json!({})));
    plane.apply(&store(&namespace, "well", &json!({})));
    let _operator = release.start("one");
    for name in ["even", "single", "well"] {
        reconciled(plane, &namespace, name).await;
    }
    let failed = eventually("the refusal is told", PATIENCE, async || {
        let found = condition(plane, &namespace, "taken", "Reconciled")?;
        (found["reason"] == "ApplyFailed").then_some(found)
    })
    .await;
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.starts_with("StatefulSet taken-0: ") && message.ends_with("; it is tried again by itself"),
        "{message}"
    );
    let warning = condition(plane, &namespace, "even", "Warning").unwrap();
    assert_eq!(
        (&warning["status"], &warning["reason"]),
        (&json!("True"), &json!("EvenReplicas")),
        "a warning, and no refusal"
    );
    assert_eq!(warning["message"], "4 replicas go on with 1 failed, no more than 3 do");
    assert_eq!(
        condition(plane, &namespace, "single", "Warning").unwrap()["reason"],
        "SingleReplica"
    );
    assert_eq!(condition(plane, &namespace, "well", "Warning").unwrap()["status"], "False");
    let budgets = objects(plane, &namespace);
    assert!(
        !budgets.contains_key("PodDisruptionBudget single"),
        "a single replica could never be drained: {budgets:?}"
    );
    let waits = eventually("the wait is told", PATIENCE, async || {
        let ready = condition(plane, &namespace, "well", "Ready")?;
        (ready["reason"] == "WaitingForReplicas").then_some(ready)
    })
    .await;
    assert_eq!(
        waits["message"],
        "0 of 3 replicas answer; the first epoch needs all of them and starts by itself when they do"
    );
    assert_eq!(waits["observedGeneration"], 1);
}

#[tokio::test]
async fn an_object_that_this_version_cannot_read_stops_no_other() {
    // A definition of another version, whose schema takes what this one does not: on an API server of its own.
    let plane = ControlPlane::start(&scratch().join("other-version")).await;
    let namespace = plane.namespace("unreadable").await;
    let any = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }]);
    plane.kubectl(&["patch", "crd", "replicatedstores.quorate.io", "--type=json", "-p", &any.to_string()]);
    let strange = store(&namespace, "strange", &json!({"replicasPerShard": "many"}));
    eventually("the schema is in force", PATIENCE, async || {
        let taken = plane.try_apply(&strange);
        taken.inspect_err(|error| eprintln!("{error}")).ok()
    })
    .await;
    let release = Release::install(&plane, "quorate", &namespace);
    let operator = release.start("one");
    eventually("the strange one is seen", PATIENCE, async || {
        (operator.logged("a store that this version cannot read") > 0).then_some(())
    })
    .await;
    plane.apply(&store(&namespace, "well", &json!({})));
    reconciled(&plane, &namespace, "well").await;
    assert!(objects(&plane, &namespace).contains_key("StatefulSet well-0"));
}
