//! Runs a view-change driver over the network: one connection for each member that it asks, and a bound on the whole.
//!
//! The operator runs it, a primary that is told to stop, and the tools of the command line. Nothing here is trusted: the
//! members keep every rule themselves.

use crate::connect::ask_member;
use quorate_api::wire::{Reply, Request};
use quorate_api::{Epoch, Incarnation, Member};
use quorate_protocol::{Driver, DriverEffect, DriverFailure, FenceProgress, ViewChanged};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two attempts to reach a member.
const RETRY: Duration = Duration::from_millis(50);
/// A driver waits so long for a better choice than the replica that it avoids.
const SETTLE: Duration = Duration::from_millis(500);

/// Where members are reached, beside their DNS names.
pub type Live = BTreeMap<Incarnation, String>;

/// A view change that came about, and when.
#[derive(Clone, Debug)]
pub struct Driven {
    /// What it led to.
    pub changed: ViewChanged,
    /// The moment when enough members had promised.
    pub fenced: Instant,
    /// The moment when the new primary said that it serves.
    pub served: Instant,
}

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
pub async fn drive(mut driver: Driver, token: &[u8], live: &Live, deadline: Duration) -> Result<Driven, DriveError> {
    let (answers, mut inbox) = unbounded_channel();
    let mut asking = JoinSet::new();
    let deadline = Instant::now() + deadline;
    let mut settle = Instant::now() + SETTLE;
    let mut fenced = Instant::now();
    let mut effects = driver.requests();
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                DriverEffect::Fence(member, request) => {
                    asking.spawn(ask(
                        member,
                        Request::Fence(request),
                        token.to_owned(),
                        live.clone(),
                        answers.clone(),
                    ));
                }
                DriverEffect::Activate(member, request) => {
                    fenced = Instant::now();
                    asking.spawn(ask(
                        member,
                        Request::Activate(request),
                        token.to_owned(),
                        live.clone(),
                        answers.clone(),
                    ));
                }
                DriverEffect::Done(changed) => {
                    return Ok(Driven {
                        changed,
                        fenced,
                        served: Instant::now(),
                    });
                }
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
            match ask_member(address, member.incarnation, &request, &token).await {
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
