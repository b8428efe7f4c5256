//! The operator's stream to one node: it hears the node's status at every heartbeat and at once on a change, and tells
//! the node where the others are. A stream that breaks is reported at once and dialled again.

use crate::plan::Admission;
use anyhow::{Context, bail};
use quorate_api::wire::{ClientKind, FailoverPolicy, NodeAddresses, Reply, Request};
use quorate_api::{Incarnation, NodeStatus, RoutingMap};
use quorate_client::{Established, dial, read_frame, write_frame};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// Between two attempts to reach a node.
const REDIAL: Duration = Duration::from_millis(100);

/// An operator says so often that it is there: members that hear none fail over by themselves.
const PRESENCE: Duration = Duration::from_secs(1);

/// Where the nodes of a store are.
pub type Addresses = Arc<Vec<(Incarnation, NodeAddresses)>>;

/// What every node of a store is told on its stream.
#[derive(Clone, Debug)]
pub struct Words {
    /// How often to tell its status, and what members fail over by when no operator listens any more.
    pub watch: watch::Receiver<(Duration, FailoverPolicy)>,
    /// Where the others are.
    pub addresses: watch::Receiver<Addresses>,
    /// The map of the store; one without a version is none. Only nodes that know of slots are told.
    pub route: watch::Receiver<Arc<RoutingMap>>,
    /// The learners, which only the primary is told.
    pub admission: watch::Receiver<Option<Admission>>,
}

/// What a stream has to tell.
#[derive(Debug)]
pub enum News {
    /// The node's status.
    Status(Box<NodeStatus>),
    /// The stream broke, or there is none.
    Down(String),
}

/// Which node, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod: news of an earlier pod of that name is known as old.
    pub uid: String,
    /// `address:port` of its replica protocol.
    pub address: String,
    /// The store's token.
    pub token: Arc<Vec<u8>>,
    /// Silence after which the stream is given up and dialled again, beyond a heartbeat.
    pub patience: Duration,
}

/// News with the name and the UID of the pod that it is about.
pub type PodNews = (String, String, News);

/// Keeps the stream for ever.
pub async fn keep(target: Target, mut words: Words, news: UnboundedSender<PodNews>) {
    loop {
        let ended = follow(&target, &mut words, &news).await;
        let reason = ended.err().map_or_else(String::new, |error| format!("{error:#}"));
        if news.send((target.pod.clone(), target.uid.clone(), News::Down(reason))).is_err() {
            return;
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn follow(target: &Target, words: &mut Words, news: &UnboundedSender<PodNews>) -> anyhow::Result<()> {
    let Established {
        mut read,
        mut write,
        mut buffer,
        peer,
    } = dial(&target.address, &target.token, ClientKind::Operator).await?;
    let Words {
        watch,
        addresses,
        route,
        admission,
    } = words;
    watch.mark_changed();
    addresses.mark_changed();
    admission.mark_changed();
    // A node that was never told of a learner has none to forget, and one of an older version knows no such word.
    let mut admitted = false;
    // A node of an older version knows no such word, and says nothing of slots.
    let mut knows_slots = false;
    let mut heard = tokio::time::Instant::now();
    let mut presence = tokio::time::interval(PRESENCE);
    presence.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let silence = target.patience + watch.borrow().0;
        // A frame may arrive in pieces: what was read so far stays in the buffer when another branch wins.
        tokio::select! {
            reply = tokio::time::timeout_at(heard + silence, read_frame(&mut read, &mut buffer)) => {
                let reply = reply.context("silent")??;
                heard = tokio::time::Instant::now();
                match reply {
                    Reply::Status(status) => {
                        if !knows_slots && status.slots.is_some() {
                            knows_slots = true;
                            route.mark_changed();
                        }
                        news.send((target.pod.clone(), target.uid.clone(), News::Status(status)))?;
                    }
                    other => bail!("unexpected {other:?}"),
                }
            }
            changed = watch.changed() => {
                changed?;
                // The node answers with its status at once, and then after every interval.
                let word = word(*watch.borrow_and_update());
                write_frame(&mut write, &word).await?;
            }
            _ = presence.tick() => {
                let word = word(*watch.borrow());
                write_frame(&mut write, &word).await?;
            }
            changed = addresses.changed() => {
                changed?;
                let known = addresses.borrow_and_update().clone();
                write_frame(&mut write, &Request::Addresses(known.to_vec())).await?;
            }
            changed = route.changed(), if knows_slots => {
                changed?;
                let map = Arc::clone(&route.borrow_and_update());
                if map.version > 0 {
                    write_frame(&mut write, &Request::Route(RoutingMap::clone(&map))).await?;
                }
            }
            changed = admission.changed() => {
                changed?;
                let word = admission.borrow_and_update().clone();
                let ours = word.filter(|word| word.primary == peer.id.incarnation);
                if let Some(Admission { learners, .. }) = ours.filter(|word| admitted || !word.learners.is_empty()) {
                    admitted = true;
                    write_frame(&mut write, &Request::Admit(learners)).await?;
                }
            }
        }
    }
}

fn word((interval, policy): (Duration, FailoverPolicy)) -> Request {
    Request::Watch {
        interval_millis: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        policy: Some(policy),
    }
}
