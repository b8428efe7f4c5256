//! Reads on a node that is not the primary: what a batch of commands waits for before it executes.
//!
//! The core asks the primary which index a reader has to see ([`quorate_protocol::replica::Replica::ask_barrier`]); a batch
//! that needs the answer waits for it here, and then executes at once. What it may show is in a [`Standing`], which the
//! commands check against what their connection asked for.

use super::Shared;
use super::node::Node;
use crate::command::{ClientSession, Reads, Standing};
use tokio::sync::oneshot;

/// A batch waits so long for the primary. Longer than a failover, shorter than what waits for a commit.
const MAX_WAIT_MILLIS: u64 = 3_000;

/// A batch that waits for the primary's answer.
#[derive(Debug)]
pub(super) struct Asking {
    ask: u64,
    since: u64,
    done: oneshot::Sender<bool>,
}

impl Node {
    /// Waits for an answer of the primary to a question that is sent after now. False: there was none in time.
    fn ask(&mut self) -> oneshot::Receiver<bool> {
        let (done, receiver) = oneshot::channel();
        let (ask, since) = (self.replica_mut().ask_barrier(), self.now());
        self.asking.push_back(Asking { ask, since, done });
        receiver
    }

    /// Milliseconds for which writes may have been acknowledged that this node's state lacks. None if that is not known.
    fn staleness(&self) -> Option<u64> {
        Some(self.now().saturating_sub(self.replica().fresh_as_of()?))
    }

    /// Lets batches go on whose question was answered. One that became primary meanwhile goes on as such.
    pub(super) fn answer_followers(&mut self) {
        if self.asking.is_empty() {
            return;
        }
        let (confirmed, serving) = (self.replica().confirmed_ask(), self.replica().serving());
        while let Some(asking) = self.asking.pop_front_if(|asking| serving || asking.ask <= confirmed) {
            // The client may be gone; nobody waits then.
            let _ = asking.done.send(true);
        }
    }

    /// Gives up what waited too long.
    pub(super) fn give_up_followers(&mut self) {
        let now = self.now();
        while let Some(asking) = self.asking.pop_front_if(|asking| now - asking.since > MAX_WAIT_MILLIS) {
            // The client may be gone; nobody waits then.
            let _ = asking.done.send(false);
        }
    }
}

/// What commands of this connection may show, once that is known: asks the primary where the connection wants more than this
/// node can say of itself.
pub(super) async fn stand(shared: &Shared, session: &ClientSession) -> Standing {
    let answer = {
        let mut node = shared.node.borrow_mut();
        let enough = match session.reads() {
            Reads::Primary => true,
            Reads::Stale { max_millis } => max_millis.is_none_or(|max| node.staleness().is_some_and(|stale| stale <= max)),
            Reads::Linearizable => false,
        };
        if node.replica().serving() || enough {
            let stale_millis = node.staleness();
            return Standing {
                confirmed: false,
                stale_millis,
            };
        }
        node.ask()
    };
    shared.dirty.notify_one();
    let confirmed = answer.await.unwrap_or(false);
    let stale_millis = shared.node.borrow().staleness();
    Standing { confirmed, stale_millis }
}
