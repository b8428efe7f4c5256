//! Names, labels, ports: what ties the objects of a store together.

use kube::ResourceExt;
use quorate_crds::ReplicatedStore;
use std::collections::BTreeMap;
use uuid::Uuid;

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
/// On a shard's StatefulSet: the node's image where the spec names none.
pub const ANNOTATION_DEFAULT_IMAGE: &str = "quorate.io/default-image";
/// On a pod: what the spec asked for when it was made, in one word. A pod that has another one than its template is restarted.
pub const ANNOTATION_REVISION: &str = "quorate.io/revision";
/// Variable of a pod: the identity that its volume has to have.
pub const ENV_STORE_ID: &str = "QUORATE_STORE_ID";
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

/// [`selector`] as text.
#[must_use]
pub fn selector_text(store: &ReplicatedStore) -> String {
    let each = selector(store).into_iter().map(|(key, value)| format!("{key}={value}"));
    each.collect::<Vec<_>>().join(",")
}

/// The StatefulSet of a shard.
#[must_use]
pub fn stateful_set(store: &str, shard: u32) -> String {
    format!("{store}-{shard}")
}

/// Shard and ordinal of a store's pod, by its name.
#[must_use]
pub fn place(store: &str, pod: &str) -> Option<(u32, u32)> {
    let (shard, ordinal) = pod.strip_prefix(store)?.strip_prefix('-')?.split_once('-')?;
    Some((shard.parse().ok()?, ordinal.parse().ok()?))
}

/// The disruption budget of a shard. That of shard 0 has the name that it had when a store had no other.
#[must_use]
pub fn disruption_budget(store: &str, shard: u32) -> String {
    match shard {
        0 => store.to_owned(),
        shard => stateful_set(store, shard),
    }
}

/// The claim of a pod.
#[must_use]
pub fn claim(pod: &str) -> String {
    format!("data-{pod}")
}

/// The identity that volumes of a store of that name belong to. It outlives the object: one that is deleted and created
/// again over the kept claims is the same store, and its volumes are taken for what they are.
#[must_use]
pub fn store_id(namespace: &str, store: &str) -> Uuid {
    let hash = fingerprint(&format!("{namespace}/{store}"));
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

/// FNV-1a of a text: the same in every version of the operator. What is told apart by it is no secret, and there is little.
#[must_use]
pub fn fingerprint(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
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
