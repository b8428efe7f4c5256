//! What a node says of itself on the operator's heartbeat stream.

use crate::configuration::Configuration;
use crate::epoch::{EntryId, Epoch};
use crate::identity::{Incarnation, ReplicaId};
use crate::slots::SlotsStatus;
use serde::{Deserialize, Serialize};

/// The part that a replica plays now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRole {
    /// An empty volume: in no configuration yet.
    Blank,
    /// Follows a primary, or waits for one.
    Follower,
    /// Holds a log whose last configuration does not list it: it catches up to become a member, or was dropped. It counts
    /// in no quorum and answers no client.
    Learner,
    /// Chosen as primary; its epoch start is not committed yet, and it answers nobody.
    Activating,
    /// Serves its epoch.
    Primary,
}

/// Room on a node's disk for more of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DiskRoom {
    /// The next segment of the log is there already.
    #[default]
    Ample,
    /// There is no room for the next segment; the current one still takes entries.
    Tight,
    /// What came last fits no more: the node takes no entries until there is room.
    Full,
}

/// A snapshot of a node, sent at every heartbeat and at once when the role, epoch or primary changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Who speaks.
    pub id: ReplicaId,
    /// Version of the node's program.
    pub version: String,
    /// What it does now.
    pub role: NodeRole,
    /// Highest epoch promised.
    pub promised: Epoch,
    /// Last log entry.
    pub last: EntryId,
    /// Last entry known durable on this replica.
    pub durable: u64,
    /// Commit index as this replica knows it.
    pub commit: u64,
    /// The configuration of the last epoch start in its log, with that entry's name. None if blank.
    pub configuration: Option<(EntryId, Configuration)>,
    /// Pods from ordinal 0 on that every configuration needs which may be in force or come to be, as far as this replica knows:
    /// those of its log and those that it promised to. 0 if it knows none, and from a node that does not tell.
    #[serde(default)]
    pub pods: u32,
    /// The primary that this replica follows, itself included. None if it knows none.
    pub primary: Option<PrimaryView>,
    /// What a primary knows of its members; empty on others.
    pub peers: Vec<PeerStatus>,
    /// True if entries are unreadable here until a peer repairs them.
    pub damaged: bool,
    /// What the disk lost while this node ran, and what is being repaired from its state in memory.
    #[serde(default)]
    pub rot: Option<String>,
    /// True from SIGTERM on.
    pub terminating: bool,
    /// Keys held.
    pub keys: u64,
    /// Bytes of memory that the data takes, as the memory limit counts them.
    pub memory_bytes: u64,
    /// Why the node refuses writes: its own disk is full, or, on a primary, those of too many members are.
    pub writes_refused: Option<String>,
    /// Every write up to here may be acknowledged: above `commit` where acknowledged does not mean committed
    /// ([`crate::Consistency::Eventual`]). 0 from a node that does not tell.
    #[serde(default)]
    pub acknowledged: u64,
    /// What was cut off this replica's log although clients may have been told that it is done, and is kept aside on its
    /// volume: the newest, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tails: Vec<CutTail>,
    /// Set while what this replica acknowledges is in the page cache only: a machine that restarts loses it, and the replica
    /// comes back as another one.
    #[serde(default)]
    pub page_cache: bool,
    /// Milliseconds that this process has run, by its monotonic clock. 0 from nodes that do not tell.
    #[serde(default)]
    pub uptime_millis: u64,
    /// The slots of its group and their moves. None from a node from before there were moves.
    #[serde(default)]
    pub slots: Option<SlotsStatus>,
    /// Room on its own disk.
    #[serde(default)]
    pub disk: DiskRoom,
}

impl NodeStatus {
    /// Whether it knows an epoch start that a crash does not take from it: one on its disk, or one that is committed.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        let start = self.configuration.as_ref().map(|(start, _)| start.index);
        start.is_some_and(|start| start <= self.durable.max(self.commit))
    }

    /// Of a node with an empty volume that says no more of itself.
    #[must_use]
    pub fn blank(id: ReplicaId) -> Self {
        Self {
            id,
            version: String::new(),
            role: NodeRole::Blank,
            promised: Epoch::ZERO,
            last: EntryId::default(),
            durable: 0,
            commit: 0,
            configuration: None,
            pods: 0,
            primary: None,
            peers: Vec::new(),
            damaged: false,
            rot: None,
            terminating: false,
            keys: 0,
            memory_bytes: 0,
            writes_refused: None,
            acknowledged: 0,
            tails: Vec::new(),
            page_cache: false,
            uptime_millis: 0,
            slots: None,
            disk: DiskRoom::Ample,
        }
    }
}

/// Entries that were cut off a log, and kept aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutTail {
    /// The first entry.
    pub first: EntryId,
    /// The last one.
    pub last: EntryId,
    /// The epoch that went on without them.
    pub epoch: Epoch,
    /// Entries.
    pub entries: u64,
    /// Changes of keys in them.
    pub writes: u64,
    /// False: some of them may not be lost, because a snapshot took the place of the log and does not tell.
    pub exact: bool,
    /// Name of the file, in the folder `tails` of the data directory.
    pub file: String,
}

/// A follower's view of its primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryView {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its epoch.
    pub epoch: Epoch,
    /// Milliseconds since it was last heard. 0 on the primary itself.
    pub heard_millis_ago: u64,
    /// False as soon as its connection is gone: a reset counts at once.
    pub connected: bool,
}

/// A primary's view of a member or learner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Whether a connection stands.
    pub connected: bool,
    /// It holds this primary's log durably up to here.
    pub matched: u64,
    /// Milliseconds since its last answer.
    pub heard_millis_ago: u64,
    /// True while a snapshot is on its way to it.
    pub snapshot: bool,
    /// True if it is no member, only admitted to catch up.
    #[serde(default)]
    pub learner: bool,
    /// Room on its disk, as it said last.
    #[serde(default)]
    pub disk: DiskRoom,
}
