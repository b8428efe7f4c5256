//! Tests and measurements of the whole system.
//!
//! [`mod@bench`] measures a group of nodes on one machine against Valkey and etcd in the same, interleaved run.

pub mod bench;
