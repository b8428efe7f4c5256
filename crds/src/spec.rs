//! What a user asks for.
#![allow(unreachable_pub, reason = "the schema derive makes a public twin of each type inside a function")]

use crate::status::ReplicatedStoreStatus;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replicated key-value store that speaks the Redis protocol. An acknowledged write is on the disks of a write quorum
/// and survives every failover.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "ReplicatedStore",
    namespaced,
    shortname = "rstore",
    category = "all",
    status = "ReplicatedStoreStatus",
    doc = "A replicated key-value store that speaks the Redis protocol. An acknowledged write is on the disks of a write quorum and survives every failover.",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.readyShards",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicasPerShard"),
    printcolumn(name = "Serving", type_ = "integer", json_path = ".status.readyShards"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.shards[*].primary"),
    printcolumn(name = "Epoch", type_ = "string", json_path = ".status.shards[*].epoch"),
    printcolumn(name = "Rebalance", type_ = "string", json_path = ".status.rebalance.progress"),
    printcolumn(name = "Failover-ms", type_ = "integer", json_path = ".status.lastFailover.durationMillis", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name may have 40 characters at most: pods add a suffix to it")
)]
#[x_kube(
    validation = Rule::new("!has(self.quorum) || (self.quorum.write <= self.replicasPerShard && self.quorum.read <= self.replicasPerShard)")
        .message("quorum.write and quorum.read may not be above replicasPerShard"),
    validation = Rule::new("self.consistency == 'Eventual' || !has(self.quorum) || self.quorum.write + self.quorum.read > self.replicasPerShard")
        .message("quorum.write + quorum.read must be above replicasPerShard, or a read could miss an acknowledged write"),
    validation = Rule::new("self.consistency == 'Eventual' || !has(self.quorum) || 2 * self.quorum.write > self.replicasPerShard")
        .message("2 * quorum.write must be above replicasPerShard, or two halves could both acknowledge writes"),
    validation = Rule::new("2 * self.failover.heartbeatMillis <= self.failover.suspectAfterMillis")
        .message("failover.suspectAfterMillis must be at least twice failover.heartbeatMillis, or every late heartbeat is a suspicion")
)]
pub struct ReplicatedStoreSpec {
    /// Number of shards: groups of replicas that share the hash slots. Default 1. May be changed: slots move so that every shard
    /// owns as many; a shard that is not wanted any more is removed once it owns nothing, and its volumes are kept.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 500))]
    pub shards: i32,
    /// Replicas of every shard, the primary included. Default 3. May be changed: new replicas catch up before they count,
    /// and pods that are no members any more go last; quorum has to fit at every moment, so change both at once if it is set.
    /// An even number tolerates no more failures than one less.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 7))]
    pub replicas_per_shard: i32,
    /// Sizes of the write and the read quorum. Default: a majority for both; with consistency Eventual, the primary alone for
    /// both. May be changed: a view change puts them in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Strong: no failover loses an acknowledged write, and reads are linearizable; quorum.write + quorum.read and
    /// 2 * quorum.write must be above replicasPerShard. Eventual: any quorum; a write is acknowledged when quorum.write
    /// replicas hold it, and a failover loses what a majority did not hold yet. What is lost is reported and kept aside.
    /// Default Strong. May be changed: a view change puts it in force.
    #[serde(default)]
    pub consistency: Consistency,
    /// How replicas keep what they acknowledge.
    #[serde(default)]
    pub replication: Replication,
    /// When and how a primary is replaced.
    #[serde(default)]
    pub failover: Failover,
    /// How pods take up a change of image, memory, resources or placement.
    #[serde(default)]
    pub update: Update,
    /// When and how fast slots move between shards.
    #[serde(default)]
    pub rebalance: Rebalance,
    /// The volume of every replica.
    #[serde(default)]
    pub storage: Storage,
    /// Memory for data, as a Kubernetes quantity (`512Mi`). Beyond it, writes that need memory are refused with an OOM
    /// error. Default: no limit. May be changed: the pods restart, one of a shard at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub max_memory: Option<String>,
    /// Image of the store node. Default: the one that the operator was released with that created the store; see update.
    /// A change restarts the pods, one of a shard at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// CPU and memory of a pod, as in a pod's spec. Default: none. A change restarts the pods, one of a shard at
    /// a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have to run a replica. Default: none. A change restarts the pods, one of a shard at a time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that replicas tolerate, as in a pod's spec. Default: none. A change restarts the pods, one of a shard at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Stops the operator from changing objects of this store. Failovers still happen. Default false.
    #[serde(default)]
    pub paused: bool,
}

fn one() -> i32 {
    1
}

fn three() -> i32 {
    3
}

/// Sizes of quorums, in replicas. With V replicas, writes survive V − write failures, reads V − read, and a failover
/// succeeds with min(write, read) − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// Replicas that must have a write on their disk before it is acknowledged.
    #[schemars(range(min = 1))]
    pub write: i32,
    /// Replicas, the primary included, that must confirm the primary before a read is answered.
    #[schemars(range(min = 1))]
    pub read: i32,
}

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consistency {
    /// No failover loses what was acknowledged.
    #[default]
    Strong,
    /// A failover loses what was acknowledged and a majority did not hold yet.
    Eventual,
}

/// When a write counts as held by a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// When it is on the disk.
    #[default]
    Fsync,
    /// When the machine's page cache has it.
    PageCache,
}

/// How replicas keep what they acknowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Replication {
    /// Fsync: on the disk before it is acknowledged. PageCache: in the page cache of quorum.write machines; faster, and a
    /// replica whose machine restarts without a clean stop begins anew as a learner, so that writes are lost when so many
    /// machines lose power at once that too few others hold them. Default Fsync. May be changed; a pod takes it up when it
    /// restarts.
    pub durability: Durability,
}

/// Who starts a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverMode {
    /// The operator.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

/// When and how a primary is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// Automatic: the operator starts failovers. Manual: it says that one is needed and leaves it to a person. Default
    /// Automatic. May be changed.
    pub mode: FailoverMode,
    /// Milliseconds between two heartbeats of a node to the operator. At most half of suspectAfterMillis. Default 200.
    /// May be changed.
    #[schemars(range(min = 20, max = 60000))]
    pub heartbeat_millis: i32,
    /// Milliseconds without a sign of life after which a node is suspected. A connection that breaks counts at once.
    /// Smaller is faster and makes mistakes more often; a mistake costs a short outage, never data. Default 1000. May be changed.
    #[schemars(range(min = 250, max = 600000))]
    pub suspect_after_millis: i32,
    /// Seconds between two failovers of a shard. Default 0. May be changed.
    #[schemars(range(min = 0, max = 3600))]
    pub min_interval_seconds: i32,
    /// Seconds after which a replica whose volume or machine is gone is replaced: its pod and its claim are deleted, so that
    /// they are made anew elsewhere. 0: never. A replica that comes back with another, empty volume is replaced at once.
    /// Default 300. May be changed.
    #[schemars(range(min = 0, max = 604800))]
    pub recreate_after_seconds: i32,
    /// Seconds without a word of any operator after which the replicas fail over by themselves. 0: never. Default 10. May be
    /// changed.
    #[schemars(range(min = 0, max = 3600))]
    pub operator_away_seconds: i32,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            mode: FailoverMode::Automatic,
            heartbeat_millis: 200,
            suspect_after_millis: 1000,
            min_interval_seconds: 0,
            recreate_after_seconds: 300,
            operator_away_seconds: 10,
        }
    }
}

/// Who restarts pods that do not run what the spec asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateMode {
    /// The operator.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

/// How pods take up a change of image, memory, resources or placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Update {
    /// Automatic: the operator restarts the pods, one of a shard at a time, while all others are in step, the primary last
    /// and after a hand-over. Manual: pods take the change up when a person deletes them. Default Automatic. May be changed.
    pub mode: UpdateMode,
    /// Whether a store without spec.image takes the node image of the operator's release whenever the operator is replaced
    /// by another one. false: it keeps the image that it has, and a new operator restarts nothing. Default false. May be
    /// changed.
    pub follow_operator: bool,
}

/// Who begins to move slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebalanceMode {
    /// The operator, as soon as slots are not where they are to be.
    #[default]
    Automatic,
    /// A person, by the annotation `quorate.io/rebalance`.
    Manual,
}

/// When and how fast slots move between shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rebalance {
    /// Automatic: slots move when the number of shards changes. Manual: the operator says that they are to move and waits for
    /// the annotation `quorate.io/rebalance`; a store without data is spread all the same. Default Automatic. May be changed.
    pub mode: RebalanceMode,
    /// Moves of slots that are under way at a time, in the whole store. Default 4. May be changed.
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent_moves: i32,
    /// Bytes that all moves of the store copy in a second, as a Kubernetes quantity (`16Mi`). 0: no limit. Slower is gentler to
    /// clients. Default 64Mi. May be changed; moves that are under way keep their rate.
    #[schemars(regex(pattern = "^(0|[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?)$"))]
    pub max_bytes_per_second: String,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            mode: RebalanceMode::Automatic,
            max_concurrent_moves: 4,
            max_bytes_per_second: "64Mi".to_owned(),
        }
    }
}

fn one_gibibyte() -> String {
    "1Gi".to_owned()
}

/// The volume of every replica. Volumes are kept when the store is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.size == oldSelf.size").message("storage.size cannot be changed in this version"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storage.storageClassName is immutable: a volume cannot move to another class")
)]
pub struct Storage {
    /// Size, as a Kubernetes quantity. Default 1Gi. Cannot be changed in this version.
    #[serde(default = "one_gibibyte")]
    #[schemars(regex(pattern = "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub size: String,
    /// Storage class. Default: the cluster's default class. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: one_gibibyte(),
            storage_class_name: None,
        }
    }
}
