//! Writes what a keeper has to say into the API: the role of every pod, and the status. Only differences are written,
//! and never in the way of a failover: the keeper leaves its newest word in a channel and goes on.

use crate::names;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Between two writes of the status: what changes in between is written once.
const INTERVAL: Duration = Duration::from_millis(200);
/// After a write that failed.
const BACKOFF: Duration = Duration::from_secs(1);

/// A keeper's word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    /// `primary` or `replica` for every pod that exists, by name, with its UID.
    pub roles: BTreeMap<String, (String, &'static str)>,
    /// The status.
    pub status: ReplicatedStoreStatus,
}

/// Publishes for ever.
pub async fn publish(client: Client, namespace: String, name: String, mut word: watch::Receiver<Publication>) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let stores: Api<ReplicatedStore> = Api::namespaced(client, &namespace);
    let mut told = Publication::default();
    while word.changed().await.is_ok() {
        let publication = word.borrow_and_update().clone();
        let mut failed = false;
        for (pod, role) in &publication.roles {
            if told.roles.get(pod) == Some(role) {
                continue;
            }
            // The UID makes the API server refuse the label for another pod of that name.
            let patch = json!({"metadata": {"uid": role.0, "labels": {names::LABEL_ROLE: role.1}}});
            match pods.patch(pod, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    told.roles.insert(pod.clone(), role.clone());
                }
                Err(error) => {
                    tracing::debug!(pod, %error, "cannot label a pod");
                    failed = true;
                }
            }
        }
        told.roles.retain(|pod, _| publication.roles.contains_key(pod));
        if publication.status != told.status {
            let patch = json!({"status": publication.status});
            match stores.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => told.status = publication.status,
                Err(error) => {
                    tracing::debug!(store = name, %error, "cannot write the status");
                    failed = true;
                }
            }
        }
        if failed {
            tokio::time::sleep(BACKOFF).await;
            word.mark_changed();
        } else {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
