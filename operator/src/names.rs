//! Names, labels, ports: what ties the objects of a store together.

use kube::ResourceExt;
use quorate_crds::ReplicatedStore;
use std::collections::BTreeMap;

/// Field manager of everything that the operator applies.
pub const MANAGER: &str = "quorate-operator";
/// Port of the Redis protocol.
pub const CLIENT_PORT: i32 = 6379;
/// Port of the replica protocol.
pub const REPLICA_PORT: i32 = 7400;
/// Port of health and metrics.
pub const HTTP_PORT: i32 = 8080;
/// Container of the store node.
pub const CONTAINER: &str = "node";

/// Standard label: which operator.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Standard label: which store, by name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Which store, by UID.
pub const LABEL_STORE: &str = "quorate.io/store";
/// Which shard.
pub const LABEL_SHARD: &str = "quorate.io/shard";
/// `primary` or `replica`; follows the failover, decides nothing.
pub const LABEL_ROLE: &str = "quorate.io/role";
/// On a shard's StatefulSet: the incarnations that the first epoch was started over. Written before it is.
pub const ANNOTATION_BOOTSTRAP: &str = "quorate.io/bootstrap";
/// Value of the label that names the operator.
pub const VALUE_MANAGED_BY: &str = "quorate";

/// Labels of every object of a store.
#[must_use]
pub fn labels(store: &ReplicatedStore) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "quorate".to_owned()),
        (LABEL_MANAGED_BY, VALUE_MANAGED_BY.to_owned()),
        (LABEL_INSTANCE, store.name_any()),
        (LABEL_STORE, store.uid().unwrap_or_default()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Labels that select a store's pods.
#[must_use]
pub fn selector(store: &ReplicatedStore) -> BTreeMap<String, String> {
    [(LABEL_MANAGED_BY, VALUE_MANAGED_BY.to_owned()), (LABEL_INSTANCE, store.name_any())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// The StatefulSet of a shard.
#[must_use]
pub fn stateful_set(store: &str, shard: u32) -> String {
    format!("{store}-{shard}")
}

/// The headless service, which gives pods their DNS names.
#[must_use]
pub fn headless_service(store: &str) -> String {
    format!("{store}-replicas")
}

/// The service of the primary.
#[must_use]
pub fn primary_service(store: &str) -> String {
    format!("{store}-primary")
}

/// The secret with the token.
#[must_use]
pub fn token_secret(store: &str) -> String {
    format!("{store}-token")
}

/// `host:port` of a pod's replica protocol: its DNS name, never its address.
#[must_use]
pub fn replica_host(store: &str, namespace: &str, shard: u32, ordinal: u32) -> String {
    format!(
        "{store}-{shard}-{ordinal}.{}.{namespace}.svc:{REPLICA_PORT}",
        headless_service(store)
    )
}
