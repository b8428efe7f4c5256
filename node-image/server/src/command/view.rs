//! The node and its group as commands see them.

use super::routes::Routes;
use std::fmt;

/// A member as clients are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// 40 hexadecimal digits.
    pub node_id: String,
    /// Host or address.
    pub host: String,
    /// Port of the Redis protocol.
    pub port: u16,
    /// Whether this node has a connection to it.
    pub up: bool,
}

/// Whose disks are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// This node's.
    Own,
    /// Those of too many members.
    Members {
        /// Members with room, this one included.
        have: usize,
        /// Members that a write needs.
        needed: usize,
    },
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the disk of this node is full"),
            Self::Members { have, needed } => write!(
                f,
                "the disks of other members are full: {have} of the {needed} members that a write needs have room"
            ),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// This node is the primary and its epoch start is committed.
    pub serving: bool,
    /// This node.
    pub me: NodeEndpoint,
    /// The last primary known.
    pub primary: Option<NodeEndpoint>,
    /// Whether that primary is heard now.
    pub primary_heard: bool,
    /// The other members of the group.
    pub replicas: Vec<NodeEndpoint>,
    /// V_w of the group; 0 if it is not known.
    pub write_quorum: u32,
    /// The shard of the group.
    pub shard: u32,
    /// Highest epoch number promised.
    pub epoch: u64,
    /// Commit index.
    pub commit: u64,
    /// Every change in the state is committed: it may be shown to who asks for stale data.
    pub stale_reads: bool,
    /// This node acknowledges what its machine's page cache holds: nothing is known to be on its disk.
    pub page_cache: bool,
    /// Bytes of data beyond which writes that need memory are refused; 0 for none.
    pub max_memory: u64,
    /// Set while writes are refused because there is no room for more of the log.
    pub no_room: Option<NoRoom>,
    /// The store's name.
    pub store: String,
    /// Connected clients.
    pub clients: u64,
    /// The other groups.
    pub routes: Routes,
    /// When the process started, in milliseconds since the Unix epoch.
    pub started_millis: u64,
}

impl NodeView {
    /// Where to go with a command on a slot of this group that this node may not execute.
    #[must_use]
    pub fn elsewhere(&self, slot: u16) -> String {
        match &self.primary {
            Some(primary) if self.primary_heard && primary.node_id != self.me.node_id => {
                format!("MOVED {slot} {}:{}", primary.host, primary.port)
            }
            _ => "CLUSTERDOWN The group of this slot has no primary at the moment: send the command again".to_owned(),
        }
    }

    /// The primary first, then the others.
    pub fn members(&self) -> impl Iterator<Item = (&NodeEndpoint, bool)> {
        let replicas = self.replicas.iter().map(|endpoint| (endpoint, false));
        self.primary.iter().map(|endpoint| (endpoint, true)).chain(replicas)
    }
}
