//! A store node: the runtime around the replication core.
//!
//! [`resp`] reads what clients send, [`command`] executes it on the [`keyspace`]; [`storage`] keeps what must survive;
//! [`runtime`] joins them with the sockets and the replication core on one thread; [`start`] brings a node up from its volume ([`mod@restore`], [`mod@durability`]) and down
//! again, with a [`mod@hand_over`]; while no operator is there, members fail over by [`mod@election`]; with the [`tools`] a person runs view changes.

pub mod command;
pub mod config;
pub mod durability;
pub mod election;
pub mod hand_over;
pub mod keyspace;
pub mod resp;
pub mod restore;
pub mod runtime;
pub mod start;
pub mod storage;
pub mod tools;
