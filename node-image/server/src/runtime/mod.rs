//! The runtime: one thread that joins the core, the sockets and the storage, a second that syncs the primary's log, a
//! third for snapshots, and one that reads the volume again now and then.
//!
//! The way of a write: [`clients`] executes it and waits; the flusher gives what gathered to the core and to the peers
//! ([`node`]); acknowledgements ([`peers`]) and the own sync ([`log_thread`]) raise the commit index; the client is answered.

pub mod clients;
pub mod connection;
mod disk;
pub mod follower_reads;
pub mod http;
pub mod log_thread;
pub mod moves;
pub mod node;
pub mod peers;
pub mod scrub;
pub mod snapshot_thread;
pub mod snapshots;

use crate::election::Orders;
use node::Node;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// The core's clock ticks this often.
const TICK: Duration = Duration::from_millis(20);

/// What the tasks of the node's thread share.
#[derive(Debug)]
pub struct Shared {
    /// The node. Never borrowed across an await.
    pub node: RefCell<Node>,
    /// Something waits for the flusher.
    pub dirty: Rc<Notify>,
    /// What operators said last, and when.
    pub orders: RefCell<Orders>,
    clients: Cell<u64>,
}

impl Shared {
    /// Shares a node.
    #[must_use]
    pub fn new(node: Node, orders: Orders) -> Rc<Self> {
        Rc::new(Self {
            dirty: node.dirty(),
            node: RefCell::new(node),
            orders: RefCell::new(orders),
            clients: Cell::new(0),
        })
    }

    /// A number for a client, given once.
    fn next_client(&self) -> u64 {
        self.clients.set(self.clients.get() + 1);
        self.clients.get()
    }
}

/// Proposes and sends what gathered. It runs after the connections that were ready, so that all of them share one entry.
pub async fn flush(shared: Rc<Shared>) {
    loop {
        shared.dirty.notified().await;
        shared.node.borrow_mut().flush();
    }
}

/// Ticks the core.
pub async fn tick(shared: Rc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        shared.node.borrow_mut().tick();
    }
}
