//! Conditions and their reasons: everything that a store can wait for, in one place.

/// The store is bootstrapped, every shard has a primary that serves, and every replica is in sync.
pub const READY: &str = "Ready";
/// Every shard has a primary that acknowledges writes.
pub const AVAILABLE: &str = "Available";
/// The spec was accepted and its objects are applied.
pub const RECONCILED: &str = "Reconciled";
/// A shard lost its primary and cannot have another one; the message has the numbers.
pub const FAILOVER_BLOCKED: &str = "FailoverBlocked";
/// The spec works, but not as well as it looks; the message says why.
pub const WARNING: &str = "Warning";

/// Members or quorum are being changed; the message says what it waits for.
pub const CHANGING: &str = "Changing";

/// Pods are out of date and are being restarted; the message says what that waits for.
pub const UPDATING: &str = "Updating";
/// Slots are to move, or shards to be removed; the message says what is being done or waited for.
pub const REBALANCING: &str = "Rebalancing";
/// A rebalance has not got on for a while; the message says why and what unblocks it.
pub const REBALANCE_STALLED: &str = "RebalanceStalled";

/// Reasons of the conditions.
pub mod reasons {
    /// All is well.
    pub const SERVING: &str = "Serving";
    /// Pods are not running or not reachable yet.
    pub const WAITING_FOR_REPLICAS: &str = "WaitingForReplicas";
    /// All replicas are there; the first epoch is being started.
    pub const BOOTSTRAPPING: &str = "Bootstrapping";
    /// Replicas of a bootstrapped store came back empty: refused, so that emptiness is not taken for the data.
    pub const DATA_LOST: &str = "DataLost";
    /// The primary is lost; another one is being promoted.
    pub const FAILING_OVER: &str = "FailingOver";
    /// Too few replicas answer for a failover.
    pub const TOO_FEW_REPLICAS: &str = "TooFewReplicas";
    /// Disks have no room for the log. On Available: too many, so that writes are refused; reads go on.
    pub const DISK_FULL: &str = "DiskFull";
    /// Entries of a replica's log do not read; its peers repair them.
    pub const DAMAGED: &str = "Damaged";
    /// The primary serves; some replica is missing or behind.
    pub const REPLICAS_BEHIND: &str = "ReplicasBehind";
    /// The primary is there and reaches too few replicas to acknowledge writes.
    pub const NO_WRITE_QUORUM: &str = "NoWriteQuorum";
    /// The operator does not hear the primary, and too few replicas confirm that it is lost.
    pub const PRIMARY_SUSPECTED: &str = "PrimarySuspected";
    /// A hand-over or somebody else's failover is under way.
    pub const VIEW_CHANGING: &str = "ViewChanging";
    /// No primary, and the last failover was less than `failover.minIntervalSeconds` ago.
    pub const MINIMUM_INTERVAL: &str = "MinimumInterval";
    /// No primary, and `failover.mode` is Manual.
    pub const MANUAL: &str = "ManualFailover";
    /// Objects are applied.
    pub const APPLIED: &str = "Applied";
    /// Objects are being applied for the first time.
    pub const APPLYING: &str = "Applying";
    /// This operator cannot run that spec; the last one that it could is in force.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// `spec.paused` is set.
    pub const PAUSED: &str = "Paused";
    /// The API server refused an object; the message is its answer.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// An even number of replicas tolerates no more failures than one less.
    pub const EVEN_REPLICAS: &str = "EvenReplicas";
    /// Acknowledged writes can be lost, because the spec says so.
    pub const MAY_LOSE_WRITES: &str = "MayLoseWrites";
    /// One replica has no redundancy.
    pub const SINGLE_REPLICA: &str = "SingleReplica";
    /// The shard serves, and its members or its quorum are being changed.
    pub const CHANGING: &str = "Changing";
    /// A change waits for something that the message names.
    pub const WAITING: &str = "Waiting";
    /// Pods of new replicas are being made.
    pub const SCALING_UP: &str = "ScalingUp";
    /// New replicas take over the data.
    pub const CATCHING_UP: &str = "CatchingUp";
    /// The primary, which is to be removed, hands over.
    pub const MOVING_PRIMARY: &str = "MovingPrimary";
    /// The view change to the new configuration.
    pub const COMMITTING: &str = "Committing";
    /// Pods that are no members any more are deleted; their claims are kept.
    pub const SCALING_DOWN: &str = "ScalingDown";
    /// Pods that are out of date are restarted, one at a time.
    pub const RESTARTING: &str = "Restarting";
    /// Pods are out of date, and `update.mode` leaves it to a person to restart them.
    pub const MANUAL_UPDATE: &str = "ManualUpdate";
    /// Every shard owns its share of the slots, and no shard is too many.
    pub const BALANCED: &str = "Balanced";
    /// Slots move between shards that stay.
    pub const MOVING_SLOTS: &str = "MovingSlots";
    /// Shards that are not wanted any more give their slots away.
    pub const DRAINING: &str = "Draining";
    /// Shards that own nothing are being removed, or it is not known of every replica that it owns nothing.
    pub const REMOVING_SHARDS: &str = "RemovingShards";
    /// Slots are to move, and `rebalance.mode` is Manual.
    pub const MANUAL_REBALANCE: &str = "ManualRebalance";
    /// The remaining shards cannot hold the data of those that are to go.
    pub const INSUFFICIENT_CAPACITY: &str = "InsufficientCapacity";
    /// A shard that slots are to move from or to has no primary that serves.
    pub const SHARD_NOT_SERVING: &str = "ShardNotServing";
    /// A shard refused to move slots; the message has why.
    pub const MOVE_REFUSED: &str = "MoveRefused";
    /// A move that is under way does not get on; the message has why.
    pub const MOVE_WAITS: &str = "MoveWaits";
    /// It is not known who owns every slot.
    pub const SLOTS_UNKNOWN: &str = "SlotsUnknown";
    /// Nothing to say.
    pub const NONE: &str = "None";
}
