//! Deterministic simulation of one replication group.
//!
//! Replication cores and view-change drivers run unchanged in a simulated network, on simulated disks, under faults; clients
//! work on a few registers, and what they saw is checked for linearizability and for lost writes, beside the invariants
//! that are checked at every step. One seed replays one history: `quorate-e2e sim --seed N`.

pub(crate) mod clients;
pub(crate) mod disk;
pub(crate) mod drivers;
pub(crate) mod effects;
pub(crate) mod engine;
pub(crate) mod faults;
pub mod history;
pub(crate) mod host;
pub(crate) mod ledger;
pub mod linearize;
pub mod moves;
pub mod mutants;
pub(crate) mod network;
mod report;
pub(crate) mod told;
pub(crate) mod transfer;
pub(crate) mod world;

pub use history::{Activity, History, Kind, LENGTH_MILLIS, LONG_MILLIS, Options, SYSTEM_MILLIS};
pub use report::{Args, run};
pub use world::Violation;
