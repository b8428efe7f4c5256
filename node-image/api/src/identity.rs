//! Who a replica is. A pod that lost its volume is a new replica, never the old one: the incarnation says so.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The Kubernetes UID of the `ReplicatedStore` (any UUID where there is no Kubernetes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

/// Drawn once, when an empty volume is first used, and kept in it from then on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub Uuid);

/// The whole identity of a replica: quorums count incarnations, people read ordinals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaId {
    /// The store that the replica belongs to.
    pub store: StoreId,
    /// The shard: one replication group, one StatefulSet.
    pub shard: u32,
    /// The ordinal of the pod in its StatefulSet.
    pub ordinal: u32,
    /// The life of the volume.
    pub incarnation: Incarnation,
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", &self.0.simple().to_string()[..8])
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
