//! Tests and measurements of the whole system.
//!
//! [`mod@scenario`] runs faults against a store on a real [`cluster`], seen through a [`lab`], under a checked
//! [`workload`], and writes a [`mod@report`]. [`mod@bench`] measures a group of nodes on one machine against Valkey and
//! etcd in the same, interleaved run; [`mod@local`] starts such a group. [`mod@sim`] simulates one group, deterministically,
//! and checks every history; [`mod@histories`] writes them down for checkers of others.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod detection;
pub mod histories;
pub mod lab;
pub mod local;
pub mod model;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod system;
pub mod workload;
