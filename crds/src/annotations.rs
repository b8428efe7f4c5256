//! Annotations by which a person asks for something to be done once. The operator removes one when it is done or refused; an
//! event says which, and why.

/// `<pod>`: make this pod the primary of its shard.
pub const PROMOTE: &str = "quorate.io/promote";
/// Anything: move the slots to where they are to be, although `rebalance.mode` is Manual.
pub const REBALANCE: &str = "quorate.io/rebalance";
/// `<shard>@<epoch>`: go on without the replicas that do not answer, although acknowledged writes may be lost with them. Only
/// while that shard is blocked, and only in the epoch that the status shows.
pub const ACCEPT_DATA_LOSS: &str = "quorate.io/accept-data-loss";
