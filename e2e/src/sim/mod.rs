//! Deterministic simulation of one replication group.
//!
//! Replication cores and view-change drivers run unchanged in a simulated network, on simulated disks, under faults; clients
//! work on a few registers, and what they saw is checked for linearizability and for lost writes, beside the invariants
//! that are checked at every step. One seed replays one history: `quorate-e2e sim --seed N`.

mod clients;
mod disk;
mod drivers;
mod effects;
mod faults;
pub mod history;
mod host;
mod ledger;
pub mod linearize;
pub mod mutants;
mod network;
mod report;
mod transfer;
mod world;

pub use history::{Activity, History, LENGTH_MILLIS, Options};
pub use report::{Args, run};
pub use world::Violation;
