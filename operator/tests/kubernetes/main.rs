//! Tests of the operator against a real API server: etcd and kube-apiserver run as processes on loopback, and so do the
//! operator and the store nodes. What is missing for a cluster, the tests stand in for: the controller that makes pods and
//! the kubelet that runs them ([`machines`]). Everything ends with the test's process.
//!
//! The programs of Kubernetes are those of the cluster harness (`e2e/cluster/cluster.sh bin`): the first run builds them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by a panic; clippy.toml covers test functions only"
)]

mod charts;
mod client;
mod control_plane;
mod definition;
mod failover;
mod leading;
mod machines;
mod membership;
mod objects;
mod operator;
mod plugin;
mod process;
mod shards;
