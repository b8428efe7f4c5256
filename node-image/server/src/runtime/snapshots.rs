//! Snapshots of a running node: when one is taken, published, sent and installed, and how much log is kept behind it.
//!
//! A primary's state holds entries that are not committed yet. Its snapshot is exactly the state at the last appended
//! index, is written beside the traffic, and is published only once that index is committed; entries that are cut off
//! take it with them. A snapshot on the volume therefore never holds what may still be undone.

use super::Shared;
use super::log_thread::or_abort;
use super::node::Node;
use super::snapshot_thread::{Job, Report, SnapshotThread};
use crate::keyspace::Keyspace;
use crate::storage::{SnapshotDirectory, SnapshotHead};
use anyhow::Context;
use quorate_api::wire::{Reply, Request, SNAPSHOT_CHUNK_LEN, SnapshotAck, SnapshotChunk};
use quorate_api::{Epoch, NodeRole, Position};
use quorate_protocol::{Event, Session};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// After a snapshot could not be written, most likely for want of space.
const RETRY_MILLIS: u64 = 10_000;
/// Bytes of a snapshot sent and not acknowledged: the receiver sets the pace.
const WINDOW_BYTES: u64 = 4 * SNAPSHOT_CHUNK_LEN as u64;
/// A receiver that acknowledges nothing for so long is taken as gone. While it loads a snapshot it acknowledges every second.
const STALLED: Duration = Duration::from_secs(30);
/// The log may grow to this many times its usual bound for the sake of a member that still reads from it.
const MAX_LOG_FACTOR: u64 = 2;

/// How much, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// A snapshot is taken when so many bytes of log stand above the last one, or half of what the state takes, if that
    /// is more: a snapshot costs as much as the state.
    pub log_bytes: u64,
    /// Bytes of log kept before a snapshot, for members that are a little behind.
    pub keep_bytes: u64,
    /// Bytes a second at which snapshots are written and sent; 0 for no limit.
    pub bytes_per_second: u64,
}

/// The snapshot under way.
#[derive(Debug)]
enum Own {
    None,
    Writing {
        position: Position,
        cancelled: Arc<AtomicBool>,
    },
    /// Waits for its commit.
    Written(Position),
    Publishing,
}

/// A snapshot that arrived and is not installed yet.
#[derive(Debug)]
struct Arrived {
    position: Position,
    keyspace: Box<Keyspace>,
    partial: PathBuf,
}

/// What a node knows about snapshots. See the module.
#[derive(Debug)]
pub struct Snapshots {
    settings: SnapshotSettings,
    directory: SnapshotDirectory,
    thread: SnapshotThread,
    own: Own,
    /// A member needs one, and there is none.
    wanted: bool,
    not_before: u64,
    newest: watch::Sender<Option<Position>>,
    arrived: Option<Arrived>,
    requests: UnboundedSender<Session>,
    sending: BTreeMap<Session, Sending>,
}

/// A transfer to a member.
#[derive(Debug)]
struct Sending {
    index: u64,
    acks: UnboundedSender<SnapshotAck>,
}

impl Snapshots {
    /// Nothing is under way; `newest` is on the volume. Whoever holds the other end of `requests` sends.
    #[must_use]
    pub fn new(
        settings: SnapshotSettings,
        directory: SnapshotDirectory,
        thread: SnapshotThread,
        newest: Option<Position>,
        requests: UnboundedSender<Session>,
    ) -> Self {
        Self {
            settings,
            directory,
            thread,
            own: Own::None,
            wanted: false,
            not_before: 0,
            newest: watch::Sender::new(newest),
            arrived: None,
            requests,
            sending: BTreeMap::new(),
        }
    }

    /// The newest snapshot on the volume.
    #[must_use]
    pub fn newest(&self) -> Option<Position> {
        *self.newest.borrow()
    }

    /// Where it is.
    #[must_use]
    pub fn newest_path(&self) -> Option<PathBuf> {
        self.newest().map(|position| self.directory.path(position.id.index))
    }

    /// Ends the transfer to a connection that is gone.
    pub fn forget(&mut self, session: Session) {
        self.sending.remove(&session);
    }

    /// A transfer has ended. Another one to the same member may have begun meanwhile: that one stays.
    fn end_transfer(&mut self, session: Session) {
        if self.sending.get(&session).is_some_and(|sending| sending.acks.is_closed()) {
            self.sending.remove(&session);
        }
    }

    /// Only a primary sends.
    pub fn stop_sending(&mut self) {
        self.sending.clear();
    }

    /// A member needs a snapshot.
    pub fn request(&mut self, session: Session) {
        self.wanted |= self.newest().is_none();
        // The task that sends lives as long as the node.
        let _ = self.requests.send(session);
    }

    /// The log is cut after `index`: a snapshot that holds more is none.
    pub fn cut_after(&mut self, index: u64) {
        let undone = match &self.own {
            Own::Writing { position, .. } | Own::Written(position) => position.id.index > index,
            // Committed, so never cut.
            Own::None | Own::Publishing => false,
        };
        if undone {
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        if let Own::Writing { cancelled, .. } = &self.own {
            cancelled.store(true, Ordering::Relaxed);
        }
        if matches!(self.own, Own::Writing { .. } | Own::Written(_)) {
            self.own = Own::None;
        }
    }

    /// A piece of a primary's snapshot: its state will replace this one, so that an own snapshot is not worth its time.
    pub fn receive(&mut self, session: Session, chunk: SnapshotChunk) {
        self.cancel();
        self.thread.queue(Job::Receive(session, chunk));
    }
}

impl Node {
    /// Looks whether a snapshot is due or can be published. Called at every tick.
    pub(super) fn tend_snapshots(&mut self) {
        let commit = self.replica().commit();
        if let Own::Written(position) = self.snapshots.own
            && position.id.index <= commit
        {
            self.snapshots.own = Own::Publishing;
            self.snapshots.thread.queue(Job::Publish(position));
        }
        if matches!(self.snapshots.own, Own::None) && self.snapshot_is_due() {
            self.take_snapshot();
        }
    }

    fn snapshot_is_due(&self) -> bool {
        let Snapshots {
            settings,
            wanted,
            not_before,
            ..
        } = &self.snapshots;
        let covered = self.snapshots.newest().map_or(0, |position| position.id.index);
        let enough = settings.log_bytes.max(self.keyspace().memory_bytes() / 2);
        let repairs = self
            .scrub
            .repairs_through()
            .is_some_and(|through| through <= self.replica().commit());
        self.now() >= *not_before && (*wanted || repairs || self.log_reader().bytes_after(covered) > enough)
    }

    /// Freezes the state and has it written.
    fn take_snapshot(&mut self) {
        self.propose_pending();
        let replica = self.replica();
        let position = match replica.role() {
            NodeRole::Primary => Some(replica.log().last()),
            NodeRole::Follower | NodeRole::Learner if replica.state_is_committed() && !replica.damaged() => {
                replica.log().position_at(replica.commit())
            }
            NodeRole::Follower | NodeRole::Learner | NodeRole::Activating | NodeRole::Blank => None,
        };
        let Some(position) = position else { return };
        let covered = self.snapshots.newest().map_or(0, |newest| newest.id.index);
        let configurations = replica.log().configurations();
        let in_force = configurations.iter().rev().find(|(id, _)| id.index <= position.id.index);
        // One that takes the place of a damaged one may cover no more than that.
        let repairs = self.scrub.repairs_through().is_some_and(|through| through <= position.id.index);
        let worth = position.id.index > covered || repairs && position.id.index == covered;
        let Some(configuration) = in_force.cloned().filter(|_| worth) else {
            return;
        };
        let head = SnapshotHead {
            position,
            configuration,
            timestamp_millis: replica.log().clock(),
            keys: self.keyspace().len(),
        };
        let cancelled = Arc::new(AtomicBool::new(false));
        self.snapshots.thread.queue(Job::Write {
            snapshot: self.keyspace().snapshot(),
            head,
            cancelled: Arc::clone(&cancelled),
        });
        self.snapshots.own = Own::Writing { position, cancelled };
    }

    /// The snapshot thread did something.
    pub(super) fn on_snapshot_report(&mut self, report: Report) {
        match report {
            Report::Written(position) => {
                if matches!(self.snapshots.own, Own::Writing { position: own, .. } if own == position) {
                    self.snapshots.own = Own::Written(position);
                    self.tend_snapshots();
                }
            }
            Report::NotWritten(position) => {
                if matches!(self.snapshots.own, Own::Writing { position: own, .. } if own == position) {
                    self.snapshots.own = Own::None;
                    self.snapshots.not_before = self.now() + RETRY_MILLIS;
                }
            }
            Report::Published(position) => {
                self.snapshots.own = Own::None;
                self.snapshots.wanted = false;
                // One that was installed meanwhile covers more.
                self.snapshots.newest.send_if_modified(|newest| {
                    let newer = newest.is_none_or(|newest| newest.id.index < position.id.index);
                    if newer {
                        *newest = Some(position);
                    }
                    newer
                });
                self.trim_log(position.id.index);
            }
            Report::Scrubbed(pass) => self.on_scrubbed(pass),
            Report::Trimmed(base) => self.step(Event::LogTrimmed(base)),
            Report::Ack(session, ack) => self.reply(session, &Reply::SnapshotAck(ack)),
            Report::Received {
                session,
                ack,
                head,
                keyspace,
                partial,
            } => {
                let SnapshotHead {
                    position,
                    configuration,
                    timestamp_millis,
                    keys: _,
                } = head;
                self.snapshots.arrived = Some(Arrived {
                    position,
                    keyspace,
                    partial,
                });
                self.step(Event::SnapshotReceived {
                    position,
                    configuration,
                    timestamp_millis,
                });
                if let Some(Arrived { partial, .. }) = self.snapshots.arrived.take() {
                    // The log had caught up meanwhile. What is left of the file goes at the next start.
                    let _ = std::fs::remove_file(partial);
                }
                self.reply(session, &Reply::SnapshotAck(ack));
            }
        }
        self.settle();
    }

    /// Gives back the log that the snapshot at `covered` stands for, but for what members may still want.
    fn trim_log(&mut self, covered: u64) {
        let SnapshotSettings { log_bytes, keep_bytes, .. } = self.snapshots.settings;
        let bound = MAX_LOG_FACTOR * (log_bytes.max(self.keyspace().memory_bytes() / 2) + keep_bytes);
        let base = self.replica().log().base().id.index;
        // A log that was damaged before here is of no use to members either.
        let (bound, keep_bytes) = match self.repaired_through(covered) {
            true => (0, 0),
            false => (bound, keep_bytes),
        };
        let peers = self.replica().peers(self.now());
        let reading = peers
            .iter()
            .filter(|peer| peer.connected && !peer.snapshot)
            .map(|peer| peer.matched);
        let receiving = self.snapshots.sending.values().map(|sending| sending.index);
        let wanted = reading.chain(receiving).min().unwrap_or(covered);
        let reader = self.log_reader();
        let target = if reader.bytes_after(base) > bound {
            covered
        } else {
            covered.min(wanted)
        };
        if let Some(boundary) = reader.boundary(target, keep_bytes)
            && boundary.id.index > base
        {
            self.snapshots.thread.queue(Job::Trim(boundary));
        }
    }

    /// Makes the snapshot that arrived this node's state. One rename decides: a stop before it leaves the old log and
    /// state, a stop after it finds a snapshot that the log has to start behind.
    pub(super) fn install_snapshot(&mut self, position: Position) {
        let Arrived {
            position: arrived,
            keyspace,
            partial,
        } = self
            .snapshots
            .arrived
            .take()
            .expect("the core installs what it was told of, at once");
        assert_eq!(arrived, position, "the snapshot that the core was told of");
        self.snapshots.cancel();
        or_abort(self.snapshots.directory.publish(&partial, position.id.index));
        self.restart_log_after(position);
        if let Err(error) = self.snapshots.directory.remove_before(position.id.index) {
            tracing::warn!(%error, "an old snapshot stays");
        }
        let keys = keyspace.len();
        self.replace_keyspace(*keyspace);
        self.snapshots.newest.send_replace(Some(position));
        tracing::info!(index = position.id.index, keys, "installed the primary's snapshot");
    }

    /// An acknowledgement for a piece that was sent.
    pub(super) fn on_snapshot_ack(&mut self, session: Session, ack: SnapshotAck) {
        if let Some(sending) = self.snapshots.sending.get(&session) {
            // The transfer may just have ended.
            let _ = sending.acks.send(ack);
        }
    }
}

/// Takes the reports of the snapshot thread.
pub async fn take_reports(shared: Rc<Shared>, mut reports: UnboundedReceiver<Report>) {
    while let Some(report) = reports.recv().await {
        shared.node.borrow_mut().on_snapshot_report(report);
    }
}

/// Sends snapshots to the members that need one.
pub async fn serve(shared: Rc<Shared>, mut requests: UnboundedReceiver<Session>) {
    while let Some(session) = requests.recv().await {
        let shared = Rc::clone(&shared);
        spawn_local(async move {
            let outcome = send(&shared, session).await;
            let mut node = shared.node.borrow_mut();
            node.snapshots.end_transfer(session);
            match outcome {
                Ok(Delivery::Installed) => node.step(Event::SnapshotDelivered(session)),
                Ok(Delivery::Abandoned) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "a snapshot did not arrive: connecting anew");
                    // It may be that it does not read.
                    node.scrub.ask();
                    node.close_session(session);
                }
            }
            node.settle();
        });
    }
}

enum Delivery {
    Installed,
    /// The connection is gone, or this node is no primary any more.
    Abandoned,
}

/// A snapshot as it is sent: the open file stays readable when a newer one takes its place.
struct Outgoing {
    file: Arc<File>,
    epoch: Epoch,
    position: Position,
    total: u64,
}

async fn send(shared: &Rc<Shared>, session: Session) -> anyhow::Result<Delivery> {
    let mut newest = shared.node.borrow().snapshots.newest.subscribe();
    // Bounded by the connection: the member asks again when it has another.
    let position = newest.wait_for(Option::is_some).await?.context("waited for one")?;
    let (acks, mut acknowledged) = unbounded_channel();
    let (outgoing, bytes_per_second) = {
        let mut node = shared.node.borrow_mut();
        if !node.has_session(session) || !matches!(node.replica().role(), NodeRole::Primary | NodeRole::Activating) {
            return Ok(Delivery::Abandoned);
        }
        let path = node.snapshots.directory.path(position.id.index);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let index = position.id.index;
        node.snapshots.sending.insert(session, Sending { index, acks });
        let outgoing = Outgoing {
            epoch: node.replica().promised(),
            position,
            total: file.metadata()?.len(),
            file: Arc::new(file),
        };
        (outgoing, node.snapshots.settings.bytes_per_second)
    };
    tracing::info!(index = position.id.index, bytes = outgoing.total, "sending a snapshot to a member");
    // The first piece asks how much the member has.
    let (mut sent, mut held) = (outgoing.send_piece(shared, session, 0).await?, None);
    let (started, mut begun_at) = (Instant::now(), 0);
    loop {
        let Ok(ack) = tokio::time::timeout(STALLED, acknowledged.recv()).await else {
            anyhow::bail!("nothing was acknowledged for {STALLED:?}");
        };
        let Some(ack) = ack else { return Ok(Delivery::Abandoned) };
        if ack.id != position.id || ack.epoch != outgoing.epoch {
            continue;
        }
        if ack.installed {
            return Ok(Delivery::Installed);
        }
        if held.is_none() {
            (sent, begun_at) = (ack.received, ack.received);
        }
        held = Some(ack.received);
        while sent < outgoing.total && sent < ack.received + WINDOW_BYTES {
            sent += outgoing.send_piece(shared, session, sent).await?;
            if let Some(nanos) = (u128::from(sent - begun_at) * 1_000_000_000).checked_div(u128::from(bytes_per_second)) {
                tokio::time::sleep_until(started + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).await;
            }
        }
    }
}

impl Outgoing {
    /// Sends the piece at `offset` and gives its length. It is read on another thread: it may have to come from the disk.
    async fn send_piece(&self, shared: &Shared, session: Session, offset: u64) -> anyhow::Result<u64> {
        let file = Arc::clone(&self.file);
        let length = (self.total - offset).min(SNAPSHOT_CHUNK_LEN as u64);
        let read = move || -> std::io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(length).expect("a piece fits memory")];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        let bytes = tokio::task::spawn_blocking(read).await?.context("read a snapshot")?;
        let chunk = SnapshotChunk {
            epoch: self.epoch,
            position: self.position,
            total: self.total,
            offset,
            bytes: bytes.into(),
        };
        shared.node.borrow_mut().request(session, &Request::SnapshotChunk(chunk));
        Ok(length)
    }
}
