//! Failover without the control plane: members that hear neither their primary nor any operator drive a view change
//! themselves, the same that the operator would, with the same rules at every member.
//!
//! Invariants: a member drives only on a policy that an operator told it once, and only *keeps* the configuration · it asks
//! the others first, and does nothing while one of them serves, or while fewer than a fence quorum, itself included, have
//! lost the primary: one whose own links are cut disturbs nobody · one that the others know to be no member drives nothing.
//!
//! The rule itself is [`quorate_protocol::election`]. Nothing here is needed for safety, and it replaces no member and changes
//! no configuration: that is the operator's work.

use crate::runtime::Shared;
use anyhow::{Context, anyhow};
use quorate_api::wire::{FailoverPolicy, Reply, Request};
use quorate_api::{Configuration, EntryId, Epoch, Incarnation, Member, NodeStatus};
use quorate_client::{Live, ask_member, drive, epoch_above};
use quorate_protocol::Driver;
use quorate_protocol::election::{Poll, is_alone, poll, rank};
use rand::RngExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at the primary.
const LOOK: Duration = Duration::from_millis(50);
/// Members wait for each other so long, in the order of their ordinals, before they drive: they rarely duel.
const STAGGER: Duration = Duration::from_millis(150);
/// A member that does not tell its status in this time says nothing.
const ANSWER: Duration = Duration::from_millis(500);
/// A view change that takes longer is given up.
const DEADLINE: Duration = Duration::from_secs(5);
/// After an attempt that came to nothing; doubled each time up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(250);
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Between two questions to a primary that was suspected: whether it was alive.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After so many it is left open.
const QUESTIONS: u32 = 600;
/// Beside the superblock: the policy that was told last. Nothing in it is a matter of safety.
const FILE: &str = "failover-policy.json";

/// What operators said, and when.
#[derive(Debug)]
pub struct Orders {
    policy: Option<FailoverPolicy>,
    heard: Instant,
    file: PathBuf,
    /// The primary and the epoch that this member suspected last.
    suspected: Option<(Incarnation, Epoch)>,
    /// Primaries that this member suspected and drove a failover of.
    pub suspicions: u64,
    /// Those of them that were alive.
    pub false_suspicions: u64,
}

impl Orders {
    /// Those of before a restart, which counts as a word of the operator: it is given its time.
    #[must_use]
    pub fn load(data: &Path) -> Self {
        let file = data.join(FILE);
        let policy = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            policy,
            heard: Instant::now(),
            file,
            suspected: None,
            suspicions: 0,
            false_suspicions: 0,
        }
    }

    /// Counts a suspicion, once for each primary and epoch. True if it is a new one.
    fn suspect(&mut self, primary: Incarnation, epoch: Epoch) -> bool {
        let new = self.suspected.replace((primary, epoch)) != Some((primary, epoch));
        self.suspicions += u64::from(new);
        new
    }

    /// An operator is there and has this policy.
    pub fn hear(&mut self, policy: FailoverPolicy) {
        self.heard = Instant::now();
        if self.policy.replace(policy) == Some(policy) {
            return;
        }
        let written = serde_json::to_vec(&policy)
            .map_err(std::io::Error::from)
            .and_then(|bytes| std::fs::write(&self.file, bytes));
        if let Err(error) = written {
            // A full disk, most likely. The policy holds until the next restart.
            tracing::warn!(%error, "cannot remember the failover policy");
        }
    }

    /// The policy, if no operator was heard for as long as it says.
    fn left_alone(&self) -> Option<FailoverPolicy> {
        let away = |policy: &FailoverPolicy| self.heard.elapsed() >= Duration::from_millis(policy.operator_away_millis);
        self.policy
            .filter(|policy| policy.automatic && policy.operator_away_millis > 0)
            .filter(away)
    }
}

/// Watches the primary for ever, and stands in for an operator that is away.
pub async fn run(shared: Rc<Shared>) {
    let mut backoff = MIN_BACKOFF;
    loop {
        sleep(LOOK).await;
        let Some((policy, me)) = alone(&shared) else {
            backoff = MIN_BACKOFF;
            continue;
        };
        let Some((_, configuration)) = &me.configuration else { continue };
        let jitter = rand::rng().random_range(0.0..0.5);
        sleep(STAGGER.mul_f64(f64::from(rank(configuration, me.id.incarnation)) + jitter)).await;
        match attempt(&shared, policy).await {
            Ok(true) => backoff = MIN_BACKOFF,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the members' own failover did not come about");
                sleep(backoff.mul_f64(1.0 + jitter)).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

/// This replica's status, if it hears neither operator nor primary.
fn alone(shared: &Rc<Shared>) -> Option<(FailoverPolicy, NodeStatus)> {
    let policy = shared.orders.borrow().left_alone()?;
    let status = shared.node.borrow().node_status();
    is_alone(&status, policy.suspect_after_millis).then_some((policy, status))
}

/// Asks the others and drives; false if there was no reason to.
async fn attempt(shared: &Rc<Shared>, policy: FailoverPolicy) -> anyhow::Result<bool> {
    let Some((_, before)) = alone(shared) else { return Ok(false) };
    let Some((_, configuration)) = before.configuration.clone() else {
        return Ok(false);
    };
    let (token, live) = {
        let node = shared.node.borrow();
        (node.token(), node.live())
    };
    let others = ask_others(&configuration, before.id.incarnation, &token, &live).await;
    let Some((_, me)) = alone(shared) else { return Ok(false) };
    if me.promised != before.promised {
        // Somebody else drives.
        return Ok(false);
    }
    let Poll::Lost(highest) = poll(&me, &others, policy.suspect_after_millis) else {
        return Ok(false);
    };
    let known: Vec<Configuration> = std::iter::once(&me)
        .chain(&others)
        .filter_map(|status| status.configuration.as_ref())
        .map(|(_, configuration): &(EntryId, Configuration)| configuration.clone())
        .collect();
    suspect(shared, &me);
    let driver = Driver::keep(epoch_above(highest), known, None);
    tracing::warn!(epoch = %driver.epoch(), "no operator and no primary is heard: failing over");
    let done = drive(driver, &token, &live, DEADLINE).await?.changed;
    tracing::info!(primary = %done.primary.incarnation, epoch = %done.start.epoch, "failed over without an operator");
    Ok(true)
}

/// Counts the suspicion, and finds out later whether it was right: the same rule as the operator's, in docs/detection.md.
fn suspect(shared: &Rc<Shared>, me: &NodeStatus) {
    let (Some(view), Some((_, configuration))) = (&me.primary, &me.configuration) else {
        return;
    };
    let Some(member) = configuration.member(view.incarnation).cloned() else {
        return;
    };
    if shared.orders.borrow_mut().suspect(view.incarnation, view.epoch) {
        let silence = Duration::from_millis(view.heard_millis_ago);
        tokio::task::spawn_local(was_it_alive(Rc::clone(shared), member, Instant::now(), silence));
    }
}

/// Asks a suspected primary until it answers.
async fn was_it_alive(shared: Rc<Shared>, member: Member, at: Instant, silence: Duration) {
    for _ in 0..QUESTIONS {
        sleep(ASK_AGAIN).await;
        let (token, live) = {
            let node = shared.node.borrow();
            (node.token(), node.live())
        };
        let addresses = live
            .get(&member.incarnation)
            .cloned()
            .into_iter()
            .chain([member.host.clone()])
            .collect();
        if let Ok(Ok(status)) = timeout(ANSWER, ask(member.clone(), addresses, token.to_vec())).await {
            shared.orders.borrow_mut().false_suspicions += u64::from(was_alive(&status, at.elapsed() + silence));
            return;
        }
    }
}

/// Whether the process that speaks now was heard already so long ago, and nobody told it to stop.
fn was_alive(status: &NodeStatus, ago: Duration) -> bool {
    Duration::from_millis(status.uptime_millis) >= ago && !status.terminating
}

async fn ask_others(configuration: &Configuration, me: Incarnation, token: &[u8], live: &Live) -> Vec<NodeStatus> {
    let mut asking = JoinSet::new();
    for member in configuration.members().iter().filter(|member| member.incarnation != me) {
        let addresses: Vec<String> = live
            .get(&member.incarnation)
            .cloned()
            .into_iter()
            .chain([member.host.clone()])
            .collect();
        asking.spawn_local(timeout(ANSWER, ask(member.clone(), addresses, token.to_vec())));
    }
    let mut statuses = Vec::new();
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(Ok(status))) => statuses.push(status),
            Ok(Ok(Err(error))) => tracing::debug!(error = format!("{error:#}"), "a member says nothing"),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    statuses
}

async fn ask(member: Member, addresses: Vec<String>, token: Vec<u8>) -> anyhow::Result<NodeStatus> {
    // Without a policy: this is no operator's word.
    let question = Request::Watch {
        interval_millis: u64::try_from(ANSWER.as_millis()).unwrap_or(u64::MAX),
        policy: None,
    };
    let mut last = None;
    for address in addresses {
        match ask_member(&address, member.incarnation, &question, &token).await {
            Ok(Reply::Status(status)) => return Ok(*status),
            Ok(other) => last = Some(anyhow!("{address} answered {other:?}")),
            Err(error) => last = Some(error.context(address)),
        }
    }
    Err(last.context("the member has no address")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{NodeRole, ReplicaId, StoreId};
    use uuid::Uuid;

    fn incarnation(n: u32) -> Incarnation {
        Incarnation(Uuid::from_u128(u128::from(n) + 1))
    }

    #[test]
    fn a_suspicion_counts_once_for_a_primary_and_an_epoch_and_was_wrong_if_that_process_still_runs() {
        let epoch = |number| Epoch { number, token: 0 };
        let mut orders = Orders::load(Path::new("/nowhere"));
        let suspected = [(0, 3), (0, 3), (0, 4), (1, 5)].map(|(n, number)| orders.suspect(incarnation(n), epoch(number)));
        assert_eq!((suspected, orders.suspicions), ([true, false, true, true], 3));
        let id = ReplicaId {
            store: StoreId(Uuid::nil()),
            shard: 0,
            ordinal: 0,
            incarnation: incarnation(0),
        };
        let status = |uptime_millis, terminating| NodeStatus {
            role: NodeRole::Follower,
            promised: epoch(3),
            terminating,
            uptime_millis,
            ..NodeStatus::blank(id)
        };
        let ago = Duration::from_secs(5);
        assert!(was_alive(&status(5000, false), ago));
        assert!(!was_alive(&status(4999, false), ago), "another process");
        assert!(!was_alive(&status(5000, true), ago), "it was told to stop");
        assert!(!was_alive(&status(0, false), ago), "it does not tell");
    }
}
