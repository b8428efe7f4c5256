//! The sans-IO replication core and the view-change driver.
//!
//! [`driver::Driver`] takes a group from one epoch to the next; [`replica::Replica`] is one member's side of it
//! and of replication. Both take inputs and time as arguments and give effects as values: they run unchanged in
//! the node, in the simulation and in the model. No clock, socket, file or random number is read here.

pub mod driver;
pub mod election;
pub mod event;
pub mod hard_state;
pub mod log_view;
pub mod mutation;
pub mod replica;
pub mod slots;

pub use driver::{Driver, DriverEffect, DriverFailure, FenceProgress, ViewChanged};
pub use event::{Effect, Event, Session, Tail};
pub use hard_state::HardState;
pub use log_view::LogView;
pub use replica::{Replica, Settings};
