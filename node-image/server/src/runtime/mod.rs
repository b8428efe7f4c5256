//! The parts that do I/O for the core: connections of the replica protocol, and the thread that writes the primary's log.

pub mod connection;
pub mod log_thread;
