//! A store node: the runtime around the replication core.
//!
//! [`storage`] keeps what must survive; [`runtime`] joins it, the sockets and the core on one thread.

pub mod runtime;
pub mod storage;
