//! The charts: what they render, and what they refuse.

use crate::control_plane::{control_plane, programs, root};
use crate::operator::{documents, of_kind, render};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

fn helm(args: &[&str]) -> (bool, String) {
    let output = Command::new(programs().join("helm"))
        .current_dir(root())
        .args(args)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn pod(documents: &[Value]) -> Value {
    of_kind(documents, "Deployment")[0]["spec"]["template"]["spec"].clone()
}

fn environment(documents: &[Value], name: &str) -> Option<String> {
    let pod = pod(documents);
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let found = variables.iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str().map(str::to_owned)
}

#[test]
fn both_charts_pass_the_linter() {
    for chart in ["charts/quorate", "charts/quorate-crds"] {
        let (clean, text) = helm(&["lint", "--strict", chart]);
        assert!(clean, "{text}");
    }
}

#[test]
fn a_value_that_no_template_reads_is_refused() {
    for unknown in ["replica=3", "image.name=x", "log.level=debug", "nodeImage.pullPolicy=Always"] {
        let error = render("quorate", "ops", &["--set", unknown]).unwrap_err();
        let field = unknown.split(['=', '.']).rev().nth(1).unwrap();
        assert!(
            error.contains(&format!("additional properties '{field}' not allowed")),
            "{unknown}: {error}"
        );
    }
    let error = render("quorate", "ops", &["--set", "replicas=0"]).unwrap_err();
    assert!(error.contains("replicas"), "{error}");
    // Every value that the chart documents is one that the schema knows.
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(root().join("charts/quorate/values.yaml")).unwrap()).unwrap();
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(root().join("charts/quorate/values.schema.json")).unwrap()).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let mut known = names(&schema["properties"]);
    known.remove("global");
    assert_eq!(names(&values), known);
}

#[test]
fn one_replica_has_no_disruption_budget_because_it_could_never_be_drained() {
    let two = render("quorate", "ops", &[]).unwrap();
    assert_eq!(of_kind(&two, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
    let one = render("quorate", "ops", &["--set", "replicas=1"]).unwrap();
    assert!(of_kind(&one, "PodDisruptionBudget").is_empty());
}

#[test]
fn images_and_settings_reach_the_operator() {
    let documents = render(
        "quorate",
        "ops",
        &[
            "--set-string",
            "nodeImage.repository=r/node,nodeImage.tag=7,image.repository=r/op,image.tag=8",
        ],
    )
    .unwrap();
    assert_eq!(environment(&documents, "QUORATE_NODE_IMAGE").as_deref(), Some("r/node:7"));
    assert_eq!(pod(&documents)["containers"][0]["image"], "r/op:8");
    assert_eq!(environment(&documents, "QUORATE_WATCH_NAMESPACE"), None);
    assert_eq!(environment(&documents, "QUORATE_LEASE").as_deref(), Some("quorate-operator"));
    let version = env!("CARGO_PKG_VERSION");
    let documents = render("quorate", "ops", &[]).unwrap();
    assert_eq!(
        environment(&documents, "QUORATE_NODE_IMAGE"),
        Some(format!("quorate/node:{version}"))
    );
}

#[test]
fn to_watch_one_namespace_needs_permissions_there_only_and_the_same_ones() {
    let everywhere = render("quorate", "ops", &[]).unwrap();
    let one = render("quorate", "ops", &["--set", "watchNamespace=shop"]).unwrap();
    assert!(of_kind(&one, "ClusterRole").is_empty() && of_kind(&one, "ClusterRoleBinding").is_empty());
    let roles = of_kind(&one, "Role");
    let namespaces: Vec<_> = roles.iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(namespaces, ["shop", "ops"], "the stores', and that of the lease");
    assert_eq!(of_kind(&everywhere, "ClusterRole")[0]["rules"], roles[0]["rules"]);
    for binding in of_kind(&one, "RoleBinding") {
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "quorate-operator", "namespace": "ops"}])
        );
    }
    assert_eq!(environment(&one, "QUORATE_WATCH_NAMESPACE").as_deref(), Some("shop"));
}

#[test]
fn the_operator_may_do_what_it_does_and_no_more() {
    let documents = render("quorate", "ops", &[]).unwrap();
    let mut granted = BTreeSet::new();
    let rules = of_kind(&documents, "ClusterRole")
        .into_iter()
        .flat_map(|role| role["rules"].as_array().unwrap());
    for rule in rules {
        for resource in rule["resources"].as_array().unwrap() {
            let verbs: Vec<_> = rule["verbs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|verb| verb.as_str().unwrap())
                .collect();
            granted.insert(format!("{} {}", resource.as_str().unwrap(), verbs.join(" ")));
        }
    }
    let expected = [
        "events create patch",
        "nodes get",
        "persistentvolumeclaims get delete",
        "poddisruptionbudgets get list watch create patch delete",
        "pods get list watch patch delete",
        "replicatedstores get list watch patch",
        "replicatedstores/finalizers update",
        "replicatedstores/status get patch",
        "secrets get create",
        "serviceaccounts get create patch",
        "services get list watch create patch",
        "statefulsets get list watch create patch delete",
    ];
    assert_eq!(
        granted.iter().map(String::as_str).collect::<Vec<_>>(),
        expected,
        "every verb more needs a reason here"
    );
}

/// Creates a pod as the templates have it, in a namespace where only restricted pods may run.
async fn admitted(name: &str, mut pod: Value) {
    let plane = control_plane();
    let namespace = plane.namespace("admitted").await;
    let account = pod["serviceAccountName"].as_str().unwrap().to_owned();
    plane.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}).to_string());
    pod["nodeName"] = json!("nowhere");
    plane.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": pod}).to_string());
    // The same pod with one permission more is refused: the namespace does check.
    pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worse", "namespace": namespace}, "spec": pod});
    let error = plane.try_apply(&manifest.to_string()).unwrap_err();
    assert!(error.contains("violates PodSecurity \"restricted:latest\""), "{error}");
}

#[tokio::test]
async fn the_operators_pod_is_a_restricted_one() {
    let pod = pod(&render("quorate", "ops", &[]).unwrap());
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    admitted("operator", pod).await;
}

#[tokio::test]
async fn the_pod_of_a_store_is_a_restricted_one() {
    let template = std::fs::read_to_string(root().join("operator/testdata/pod-template.json")).unwrap();
    let template: Value = serde_json::from_str(&template).unwrap();
    let mut pod = template["spec"].clone();
    pod["volumes"].as_array_mut().unwrap().push(json!({"name": "data", "emptyDir": {}}));
    admitted("store", pod).await;
}

#[test]
fn removing_the_chart_of_the_definitions_keeps_them_and_an_upgrade_replaces_them() {
    let (rendered, text) = helm(&["template", "quorate-crds", "charts/quorate-crds"]);
    assert!(rendered, "{text}");
    let documents = documents(&text);
    let definitions = of_kind(&documents, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 1, "a template, not in crds/: what is there, helm never upgrades");
    let definition = definitions[0];
    assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let committed = std::fs::read_to_string(root().join("crds/quorate.io_replicatedstores.yaml")).unwrap();
    let committed: Value = serde_saphyr::from_str(&committed).unwrap();
    assert_eq!(definition["spec"], committed["spec"]);
}
