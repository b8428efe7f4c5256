//! What became of the machine of a pod that does not answer, and making a pod anew elsewhere. Asks and tells the API server;
//! when to do either is the plan's part.

use crate::names;
use crate::observe::{Fate, Machine};
use crate::plan::{Recreate, Restart};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use std::time::Instant;

/// The scheduler's word for which machine a volume was made.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// A person's word that a machine is shut down and nothing on it runs.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Finds out. What cannot be found out is taken for well: nothing is deleted for want of a permission.
pub async fn inspect(client: Client, namespace: String, pod: String) -> Fate {
    let found = look(&client, &namespace, &pod).await;
    let (machine, claim) = found.unwrap_or_else(|error| {
        tracing::warn!(namespace, pod, %error, "cannot find out what became of the machine of a pod");
        (Machine::Standing, None)
    });
    Fate {
        machine,
        claim,
        at: Instant::now(),
    }
}

async fn look(client: &Client, namespace: &str, name: &str) -> kube::Result<(Machine, Option<String>)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await? else {
        return Ok((Machine::Standing, None));
    };
    let claim = claims.get_opt(&names::claim(name)).await?;
    let uid = claim.as_ref().and_then(ResourceExt::uid);
    let machine = match place(&pod, claim.as_ref()) {
        Place::Lost => Machine::Gone,
        Place::Nowhere => Machine::Standing,
        Place::On(machine) => {
            let nodes: Api<Node> = Api::all(client.clone());
            nodes.get_opt(&machine).await?.map_or(Machine::Gone, |node| state(&node))
        }
    };
    Ok((machine, uid))
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its volume is lost.
    Lost,
    /// On no machine yet.
    Nowhere,
    /// On that machine, or bound to it by its volume.
    On(String),
}

/// Reads it from the pod and its claim.
#[must_use]
pub fn place(pod: &Pod, claim: Option<&PersistentVolumeClaim>) -> Place {
    let phase = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
    if phase == Some("Lost") {
        return Place::Lost;
    }
    let runs_on = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let bound_to = claim.and_then(|claim| claim.annotations().get(SELECTED_NODE).cloned());
    runs_on.or(bound_to).map_or(Place::Nowhere, Place::On)
}

/// How a machine is that the cluster has.
#[must_use]
pub fn state(node: &Node) -> Machine {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE) {
        return Machine::OutOfService;
    }
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if ready { Machine::Standing } else { Machine::NotReady }
}

/// Deletes a pod and its claim. Whatever is not what the plan saw any more is left alone.
pub async fn recreate(client: Client, namespace: String, what: Recreate) {
    let Recreate { pod, uid, claim, force } = what;
    if let Some(claim) = claim {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = claims.delete(&names::claim(&pod), &only(claim)).await {
            tracing::warn!(namespace, pod, %error, "cannot delete the claim of a pod");
        }
    }
    let mut params = only(uid);
    params.grace_period_seconds = force.then_some(0);
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    if let Err(error) = pods.delete(&pod, &params).await {
        tracing::warn!(namespace, pod, %error, "cannot delete a pod");
    }
}

/// Deletes a pod and keeps its claim: it is made anew over the same volume. One that is another pod by now is left alone.
pub async fn restart(client: Client, namespace: String, what: Restart) {
    let Restart { pod, uid } = what;
    let (claim, force) = (None, false);
    recreate(client, namespace, Recreate { pod, uid, claim, force }).await;
}

fn only(uid: String) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_machine_is_well_only_if_it_is_ready_and_nobody_has_declared_it_dead() {
        let node = |ready: &str, taints: serde_json::Value| {
            let node = json!({"spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            state(&serde_json::from_value(node).unwrap())
        };
        let out = json!([{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]);
        assert_eq!(node("True", json!([])), Machine::Standing);
        assert_eq!(node("Unknown", json!([])), Machine::NotReady);
        assert_eq!(node("False", json!([])), Machine::NotReady);
        assert_eq!(node("Unknown", out.clone()), Machine::OutOfService);
        assert_eq!(node("True", out), Machine::OutOfService, "the person knows better");
    }
}
