//! What the operator tells. A record for people and a hint against duelling drivers: nothing here is needed for safety.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator tells of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicatedStoreStatus {
    /// The generation of the spec that the rest was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Label selector of the store's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Shards whose primary serves.
    pub ready_shards: i32,
    /// What is so, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Every shard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["index"]))]
    pub shards: Vec<ShardStatus>,
    /// How slots move between shards. Absent for a store that never had more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceStatus>,
    /// The last time that a primary was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<LastFailover>,
    /// Every time that a person accepted the loss of acknowledged writes, oldest first; the last 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_loss: Vec<DataLoss>,
}

/// One shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardStatus {
    /// Number of the shard.
    pub index: i32,
    /// Number of the epoch in force.
    pub epoch: i64,
    /// Pod of the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Pod that is to be the primary next: asked for by a person, or by a change that removes the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_primary: Option<String>,
    /// The change of members or quorum that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ShardChange>,
    /// Pods that do not run yet what the spec asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<ShardUpdate>,
    /// Sizes of the configuration in force, and what they tolerate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<ShardQuorum>,
    /// Hash slots that it owns.
    pub slots: i32,
    /// Which they are, as ranges: `0-5460,7000`.
    pub slot_ranges: String,
    /// Its replicas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaStatus>,
}

/// Pods that do not run yet what the spec asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardUpdate {
    /// Pods of the shard.
    pub pods: i32,
    /// Of these, pods that run what the spec asks for.
    pub updated: i32,
    /// What is being done, or what that waits for.
    pub reason: String,
}

/// A change of members or quorum that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardChange {
    /// The configuration in force: ordinals of its members, and its quorums.
    pub from: String,
    /// The configuration that is wanted.
    pub to: String,
    /// What is being done.
    pub step: ChangeStep,
    /// What it waits for.
    pub reason: String,
}

/// Steps of a change, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChangeStep {
    /// Waits for what has to be so before anything begins.
    #[default]
    Waiting,
    /// Pods of new replicas are being made.
    ScalingUp,
    /// New replicas take over the data; they count in no quorum yet.
    CatchingUp,
    /// The primary, which is to be removed, hands over to a replica that stays.
    MovingPrimary,
    /// The view change to the new configuration.
    Committing,
    /// Members learn of it; then pods that are no members any more are deleted, and their claims kept.
    ScalingDown,
}

/// Sizes of quorums and the failures that they tolerate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardQuorum {
    /// Members.
    pub replicas: i32,
    /// Members that hold a write before it is acknowledged.
    pub write: i32,
    /// Members that confirm the primary before a read is answered.
    pub read: i32,
    /// Members that must answer for a failover.
    pub fence: i32,
    /// Members that hold a write before no failover can lose it. More than write: acknowledged writes can be lost.
    #[serde(default)]
    pub commit: i32,
    /// Failed members with which writes are acknowledged.
    pub writes_tolerate: i32,
    /// Failed members with which reads are answered.
    pub reads_tolerate: i32,
    /// Failed members with which a failover succeeds.
    pub failover_tolerates: i32,
}

/// The part that a replica plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReplicaRole {
    /// Serves.
    Primary,
    /// Follows.
    Replica,
    /// Takes over the data, or was dropped: counts in no quorum.
    Learner,
    /// Holds nothing yet.
    Blank,
    /// Not reached by the operator.
    Unreachable,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its pod.
    pub name: String,
    /// Its incarnation: the life of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it does.
    pub role: ReplicaRole,
    /// Whether it holds, durably, what the primary has committed, or is a moment away from it.
    pub synced: bool,
    /// Log entries by which it is behind its primary. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// A failover with the moments of its steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LastFailover {
    /// Shard.
    pub shard: i32,
    /// Pod of the primary before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Pod of the primary since.
    pub to: String,
    /// Why.
    pub reason: String,
    /// When the primary was found lost; RFC 3339 with milliseconds.
    pub detected_at: String,
    /// When enough members had promised not to follow it any more.
    pub fenced_at: String,
    /// When its successor served.
    pub promoted_at: String,
    /// Milliseconds from the first to the last.
    pub duration_millis: i64,
    /// Number of the epoch that began with it.
    pub epoch: i64,
    /// With consistency Eventual: log entries that the primary before had acknowledged, by its last word, beyond the log that
    /// its successor began with: what the failover lost, as far as was known then. The last word is a heartbeat old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<i64>,
    /// With consistency Eventual: what was cut off the log of the primary before when it came back. Absent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostWrites>,
}

/// Acknowledged writes that a failover lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LostWrites {
    /// Log entries; one holds the writes of a moment.
    pub entries: i64,
    /// Changes of keys in them.
    pub writes: i64,
    /// False: at most so many, because a snapshot took the place of the log and does not tell.
    pub exact: bool,
    /// Pod that had them.
    pub pod: String,
    /// The file that keeps them, in the folder `tails` of its volume. Absent if nothing was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// What a rebalance does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebalanceState {
    /// Every slot is where it is to be.
    #[default]
    Balanced,
    /// Slots move between shards that stay.
    Moving,
    /// Shards that are to go give their slots to the others.
    Draining,
    /// Shards that own nothing are removed.
    Removing,
    /// Something has to be so first: the reason names it.
    Waiting,
}

/// A rebalance: the one that is under way, or the last one. Everything is written, even if it is nothing: the status is patched, and
/// what is left out of a patch stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RebalanceStatus {
    /// What it does.
    pub state: RebalanceState,
    /// Slots that were moved.
    pub slots_moved: i64,
    /// Slots that were or are to be moved.
    pub slots_total: i64,
    /// Bytes of them that were moved.
    pub bytes_moved: i64,
    /// Bytes of them in all, as far as they are known.
    pub bytes_total: i64,
    /// Part that is done, in percent; by bytes where there are any.
    pub percent: i32,
    /// Moves that are under way.
    pub moves: i32,
    /// Bytes that are moved in a second, about.
    pub bytes_per_second: i64,
    /// Seconds until it is done, at this rate. Absent where that is not known.
    pub eta_seconds: Option<i64>,
    /// What is being done or waited for.
    pub reason: String,
    /// The figures in short, while it is under way.
    pub progress: String,
}

/// A person's acceptance of the loss of acknowledged writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataLoss {
    /// Shard.
    pub shard: i32,
    /// When; RFC 3339 with milliseconds.
    pub at: String,
    /// Number of the epoch that began with it.
    pub epoch: i64,
    /// Which replicas went on, and which ones were given up.
    pub reason: String,
}
