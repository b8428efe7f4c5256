//! What talks to store nodes over the replica protocol: the operator, the tools, and a node that hands over.
//!
//! [`mod@connect`] dials and proves the token; [`mod@drive`] runs a view change. No state, no retries beyond one drive.

pub mod connect;
pub mod drive;

pub use connect::{Established, ask_member, dial, read_frame, write_frame};
pub use drive::{DriveError, Driven, Live, drive, epoch_above};
