//! Runs a view-change driver over the network: one connection for each member that it asks, and a bound on the whole.
//!
//! The primary that is told to stop drives one itself ([`hand_over`]), so that a graceful stop costs milliseconds; the
//! tools of the command line drive the others. Nothing here is trusted: the members keep every rule themselves.

use crate::runtime::Shared;
use crate::runtime::connection::{Established, dial, read_frame, write_frame};
use anyhow::bail;
use quorate_api::wire::{ClientKind, Reply, Request};
use quorate_api::{Epoch, Incarnation, Member};
use quorate_protocol::{Driver, DriverEffect, DriverFailure, FenceProgress, ViewChanged};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two attempts to reach a member.
const RETRY: Duration = Duration::from_millis(50);
/// A hand-over that takes longer is left to whoever drives next.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// The hand-over begins when another member holds the whole log, or after this time.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(2);
/// A driver waits so long for a better choice than the replica that it avoids.
const SETTLE: Duration = Duration::from_millis(500);

/// Where members are reached, beside their DNS names.
pub type Live = BTreeMap<Incarnation, String>;

/// Why a view change did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The driver gave up.
    #[error(transparent)]
    Failed(#[from] DriverFailure),
    /// Too few members answered in time.
    #[error("too few members answered in time: {}", describe(.0))]
    Late(Vec<FenceProgress>),
}

fn describe(progress: &[FenceProgress]) -> String {
    let each: Vec<String> = progress
        .iter()
        .map(|p| {
            let missing: Vec<&str> = p.missing.iter().map(|member| member.host.as_str()).collect();
            format!(
                "{} of {} fenced, {} needed, no answer from {}",
                p.fenced.len(),
                p.quorum.replicas,
                p.needed,
                missing.join(" ")
            )
        })
        .collect();
    each.join("; ")
}

/// A fresh epoch above `number`.
#[must_use]
pub fn epoch_above(number: u64) -> Epoch {
    Epoch {
        number: number + 1,
        token: rand::random(),
    }
}

/// Runs `driver` to its end, at most until `deadline`.
///
/// # Errors
/// See [`DriveError`].
pub async fn drive(mut driver: Driver, token: &[u8], live: &Live, deadline: Duration) -> Result<ViewChanged, DriveError> {
    let (answers, mut inbox) = unbounded_channel();
    let mut asking = JoinSet::new();
    let deadline = Instant::now() + deadline;
    let mut settle = Instant::now() + SETTLE;
    let mut effects = driver.requests();
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                DriverEffect::Fence(member, request) => {
                    asking.spawn_local(ask(
                        member,
                        Request::Fence(request),
                        token.to_owned(),
                        live.clone(),
                        answers.clone(),
                    ));
                }
                DriverEffect::Activate(member, request) => {
                    asking.spawn_local(ask(
                        member,
                        Request::Activate(request),
                        token.to_owned(),
                        live.clone(),
                        answers.clone(),
                    ));
                }
                DriverEffect::Done(done) => return Ok(done),
                DriverEffect::Failed(failure) => return Err(failure.into()),
            }
        }
        tokio::select! {
            answer = inbox.recv() => effects = match answer.expect("this function holds a sender") {
                Reply::Fence(answer) => driver.on_fence_answer(answer),
                Reply::Activate(answer) => driver.on_activate_answer(&answer),
                _ => Vec::new(),
            },
            () = tokio::time::sleep_until(settle) => {
                effects = driver.settle();
                settle = Instant::now() + SETTLE;
            }
            () = tokio::time::sleep_until(deadline) => return Err(DriveError::Late(driver.progress())),
        }
    }
}

/// Asks one member until it answers.
async fn ask(member: Member, request: Request, token: Vec<u8>, live: Live, answers: UnboundedSender<Reply>) {
    loop {
        for address in live.get(&member.incarnation).into_iter().chain([&member.host]) {
            match ask_at(address, &member, &request, &token).await {
                Ok(reply) => {
                    // Nobody listens once the driver is through.
                    let _ = answers.send(reply);
                    return;
                }
                Err(error) => tracing::debug!(address, error = format!("{error:#}"), "no answer from a member"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn ask_at(address: &str, member: &Member, request: &Request, token: &[u8]) -> anyhow::Result<Reply> {
    let Established {
        mut read,
        mut write,
        mut buffer,
        peer,
    } = dial(address, token, ClientKind::Operator).await?;
    if peer.id.incarnation != member.incarnation {
        bail!("{address} is {}, not {}", peer.id.incarnation, member.incarnation);
    }
    write_frame(&mut write, request).await?;
    read_frame(&mut read, &mut buffer).await
}

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
    while Instant::now() < patience && shared.node.borrow().replica().serving() && !shared.node.borrow().replica().has_successor() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (driver, token, live) = {
        let node = shared.node.borrow();
        let replica = node.replica();
        let known = replica.log().configurations().iter().map(|(_, c)| c.clone()).collect();
        let driver = Driver::keep(epoch_above(replica.promised().number), known, Some(node.id().incarnation));
        (driver, node.token(), node.live())
    };
    let done = drive(driver, &token, &live, HAND_OVER_DEADLINE).await?;
    tracing::info!(primary = %done.primary.incarnation, epoch = %done.start.epoch, "handed over");
    Ok(())
}
