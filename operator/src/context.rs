//! What the parts of the operator share.

use crate::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use quorate_crds::ReplicatedStore;
use tokio::sync::{mpsc, watch};

/// See the module.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Pods of all stores, as the watch tells them.
    pub pods: Store<Pod>,
    /// All stores, as the watch tells them.
    pub stores: Store<DeserializeGuard<ReplicatedStore>>,
    /// Counts changes among the pods.
    pub pods_changed: watch::Sender<u64>,
    /// Stores to reconcile although their spec did not change.
    pub reconcile: mpsc::UnboundedSender<ObjectRef<DeserializeGuard<ReplicatedStore>>>,
    /// Writes events.
    pub recorder: Recorder,
    /// Counts what happens.
    pub metrics: Metrics,
    /// Image of the store node where a spec names none.
    pub node_image: String,
}
