//! The words that store nodes, the operator and the test tools share: identities, epochs, configurations,
//! log entries, and the frames of the replica protocol.
//!
//! Inputs and outputs are values and bytes. Nothing here reads a clock, a socket or a file.
//!
//! The replica protocol has clients and servers. A node serves it on one port. Its clients are the other
//! members (a primary sends [`wire::Request::Append`]), every view-change driver ([`wire::Request::Fence`],
//! [`wire::Request::Activate`]) and the operator's heartbeat stream ([`wire::Request::Watch`]).

pub mod auth;
pub mod configuration;
pub mod entry;
pub mod epoch;
pub mod identity;
pub mod slot;
pub mod slots;
pub mod status;
pub mod view_change;
pub mod wire;

pub use configuration::{Configuration, ConfigurationError, Consistency, Member, Quorum};
pub use entry::{Entry, EntryBody};
pub use epoch::{EntryId, Epoch, Position};
pub use identity::{Incarnation, ReplicaId, StoreId};
pub use slots::{MovePhase, MoveRefusal, MoveSlots, MoveStatus, RoutingMap, RoutingMember, RoutingShard, SlotSet, SlotsStatus};
pub use status::{CutTail, DiskRoom, NodeRole, NodeStatus, PeerStatus, PrimaryView};
pub use view_change::{ActivateAnswer, ActivateRefusal, ActivateRequest, FenceAnswer, FenceRequest, Proposal};
