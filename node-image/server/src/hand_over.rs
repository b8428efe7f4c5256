//! Hand-over: the primary that is told to stop drives the view change itself, so that a graceful stop costs milliseconds.

use crate::runtime::Shared;
use anyhow::bail;
use quorate_client::{drive, epoch_above};
use quorate_protocol::Driver;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A hand-over that takes longer is left to whoever drives next.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// The hand-over begins when another member holds the whole log and all of it is committed, or after this time.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(2);

/// Gives the primary's part to another member; returns at once on a node that has none.
///
/// Commands wait from here on: the caller ends the hand-over.
///
/// # Errors
/// When nobody can take over: this node is alone, or too few members answer.
pub async fn hand_over(shared: &Rc<Shared>) -> anyhow::Result<()> {
    {
        let mut node = shared.node.borrow_mut();
        if !node.replica().serving() {
            return Ok(());
        }
        if node.replica().configuration().is_some_and(|(_, c)| c.members().len() == 1) {
            bail!("the group has one member: there is nobody to hand over to");
        }
        node.begin_hand_over();
        node.flush();
    }
    let patience = Instant::now() + SUCCESSOR_WAIT;
    // What is under way is answered before: whoever sent it learns that it is done, and not that nobody knows.
    let waits = || {
        let node = shared.node.borrow();
        let replica = node.replica();
        replica.serving() && !(replica.has_successor() && replica.commit() >= replica.last().index)
    };
    while Instant::now() < patience && waits() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (driver, token, live) = {
        let node = shared.node.borrow();
        let replica = node.replica();
        let known = replica.log().configurations().iter().map(|(_, c)| c.clone()).collect();
        let driver = Driver::keep(epoch_above(replica.promised().number), known, Some(node.id().incarnation));
        (driver, node.token(), node.live())
    };
    let done = drive(driver, &token, &live, HAND_OVER_DEADLINE).await?.changed;
    tracing::info!(primary = %done.primary.incarnation, epoch = %done.start.epoch, "handed over");
    Ok(())
}
