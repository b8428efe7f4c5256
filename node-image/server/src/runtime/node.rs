//! The node: the replication core, the key space and the log, and the effects that tie them together.
//!
//! Everything here runs on one thread. A command executes at once on the latest state; its effects gather in `pending`
//! and become one log entry when the flusher runs, so that whatever was read from all connections in one turn shares
//! one entry and one sync. Replies wait in `waiting` for their commit and their read round.
//!
//! Invariant: `pending` is proposed before the core takes any other input, so the state never holds more than the log.

use super::connection::Outbox;
use super::follower_reads::Asking;
use super::log_thread::{LogThread, or_abort};
use super::moves::Moves;
use super::scrub::Scrub;
use super::snapshots::Snapshots;
use crate::command::{Context, Holders, NoRoom, NodeEndpoint, NodeView, node_id};
use crate::durability;
use crate::keyspace::{self, Change, Keyspace};
use crate::restore::load_snapshot;
use crate::storage::{Log, LogReader, Piece, Rot, StorageError, Superblock, TailDirectory};
use bytes::BytesMut;
use quorate_api::wire::{NodeAddresses, Reply, Request};
use quorate_api::{
    DiskRoom, Entry, EntryBody, EntryId, Epoch, Incarnation, Member, NodeRole, NodeStatus, Position, PrimaryView, ReplicaId,
};
use quorate_protocol::{Effect, Event, HardState, Replica, Session, Tail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot, watch};

/// Bytes of uncommitted entries beyond which clients wait.
const MAX_UNCOMMITTED_BYTES: usize = 64 << 20;

/// Expired keys that a tick removes.
const MAX_EXPIRED_PER_TICK: usize = 1000;
/// Effects beyond which an entry is proposed without waiting for the flusher, so that none gets too long.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// What the superblock holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Who this volume is.
    pub id: ReplicaId,
    /// The core's durable state.
    pub hard: HardState,
    /// The run of the machine that holds what was acknowledged and is not on the disk; see [`crate::durability`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_cache: Option<String>,
    /// Who this volume was before its machine restarted under it: for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Incarnation>,
}

impl Stored {
    /// Of a volume on which everything that is acknowledged is on the disk.
    #[must_use]
    pub fn new(id: ReplicaId, hard: HardState) -> Self {
        Self {
            id,
            hard,
            page_cache: None,
            former: None,
        }
    }
}

/// A primary that sent nothing for so long, five heartbeats, is no place to send clients to.
const SILENT_MILLIS: u64 = 500;
/// Replies that wait longer than this are given up: the client hears that the outcome is not known.
const MAX_WAIT_MILLIS: u64 = 5_000;

/// A batch of replies that waits.
#[derive(Debug)]
struct Waiting {
    commit: u64,
    round: u64,
    since: u64,
    done: oneshot::Sender<bool>,
}

/// A client that waits until members hold a write.
#[derive(Debug)]
struct Holding {
    wanted: Holders,
    /// When it hears how many there are in any case.
    until: Option<u64>,
    done: oneshot::Sender<(u64, bool)>,
}

/// What observers of the node see; a change is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outline {
    role: NodeRole,
    promised: Epoch,
    primary: Option<(Incarnation, bool)>,
    configuration: Option<EntryId>,
    learners: u64,
    links: usize,
    damaged: bool,
    terminating: bool,
    disk: DiskRoom,
    no_room: Option<NoRoom>,
}

/// What a node is made of when it starts.
#[derive(Debug)]
pub struct Parts {
    /// Durable identity and core state.
    pub stored: Stored,
    /// Where the latter is kept.
    pub superblock: Superblock,
    /// The core, restored.
    pub replica: Replica,
    /// The state up to the core's commit index.
    pub keyspace: Keyspace,
    /// The log.
    pub log: Arc<Mutex<Log>>,
    /// What was cut off it and kept aside.
    pub tails: TailDirectory,
    /// Reads it.
    pub reader: LogReader,
    /// Writes it while this node is primary.
    pub log_thread: LogThread,
    /// The store's token.
    pub token: Vec<u8>,
    /// Where this node listens.
    pub addresses: NodeAddresses,
    /// Memory limit in bytes; 0 for none.
    pub max_memory: u64,
    /// The store's name, for people.
    pub store: String,
    /// What clients have to prove; None lets everybody in.
    pub password: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    parts: Parts,
    pub(super) snapshots: Snapshots,
    pub(super) moves: Moves,
    pub(super) scrub: Scrub,
    pending: BytesMut,
    outboxes: BTreeMap<Session, Outbox>,
    touched: Vec<Session>,
    waiting: VecDeque<Waiting>,
    pub(super) asking: VecDeque<Asking>,
    holding: Vec<Holding>,
    next_session: u64,
    live: BTreeMap<Incarnation, NodeAddresses>,
    view: NodeView,
    unsynced: Option<u64>,
    /// See [`super::disk`].
    unwritten: Vec<Arc<Entry>>,
    /// The log thread was given entries and has not been waited for since.
    log_thread_used: bool,
    started: Instant,
    random: SmallRng,
    handing_over: bool,
    outline: Option<Outline>,
    changes: watch::Sender<u64>,
    members: watch::Sender<Vec<Member>>,
    may_go_on: Rc<Notify>,
    /// See [`super::Shared::dirty`].
    dirty: Rc<Notify>,
    /// The clock of a group that gave slots to this one: keys that had expired there stay so.
    clock_floor: u64,
}

impl Node {
    /// A node that nobody is connected to yet; `snapshots` is what it knows about those on its volume, and `scrub` reads it.
    #[must_use]
    pub fn new(parts: Parts, snapshots: Snapshots, moves: Moves, scrub: Scrub) -> Self {
        let mut node = Self {
            snapshots,
            moves,
            scrub,
            view: NodeView::default(),
            pending: BytesMut::new(),
            outboxes: BTreeMap::new(),
            touched: Vec::new(),
            waiting: VecDeque::new(),
            asking: VecDeque::new(),
            holding: Vec::new(),
            next_session: 1,
            live: BTreeMap::new(),
            unsynced: None,
            unwritten: Vec::new(),
            log_thread_used: false,
            started: Instant::now(),
            random: SmallRng::from_rng(&mut rand::rng()),
            handing_over: false,
            outline: None,
            changes: watch::Sender::new(0),
            members: watch::Sender::new(Vec::new()),
            may_go_on: Rc::new(Notify::new()),
            dirty: Rc::new(Notify::new()),
            clock_floor: 0,
            parts,
        };
        node.view.started_millis = node.clock();
        node.live.insert(node.parts.stored.id.incarnation, node.parts.addresses.clone());
        node.observe();
        node
    }

    /// Who this is.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.parts.stored.id
    }

    /// The store's token.
    #[must_use]
    pub fn token(&self) -> Vec<u8> {
        self.parts.token.clone()
    }

    /// Where this node listens.
    #[must_use]
    pub fn addresses(&self) -> NodeAddresses {
        self.parts.addresses.clone()
    }

    /// The core.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.parts.replica
    }

    pub(super) fn replica_mut(&mut self) -> &mut Replica {
        &mut self.parts.replica
    }

    /// Whether clients have to prove who they are.
    #[must_use]
    pub fn needs_password(&self) -> bool {
        self.parts.password.is_some()
    }

    /// What commands see of the node.
    #[must_use]
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// Where a member listens now, if it told.
    #[must_use]
    pub fn live_address(&self, member: Incarnation) -> Option<String> {
        self.live.get(&member).map(|addresses| addresses.replica.clone())
    }

    /// Where every node that told listens now.
    #[must_use]
    pub fn live(&self) -> BTreeMap<Incarnation, String> {
        self.live
            .iter()
            .map(|(incarnation, addresses)| (*incarnation, addresses.replica.clone()))
            .collect()
    }

    /// A member told where it listens.
    pub fn learn_addresses(&mut self, member: Incarnation, addresses: NodeAddresses) {
        if self.live.insert(member, addresses.clone()) != Some(addresses) {
            self.refresh_view();
            self.members.send_modify(|_| ());
        }
    }

    /// Counts the changes that an observer wants to hear of at once.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The members of the configuration; marked as changed also when one of them told a new address.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Vec<Member>> {
        self.members.subscribe()
    }

    /// Wakes whoever found that [`Node::may_execute`] is false.
    #[must_use]
    pub fn may_go_on(&self) -> Rc<Notify> {
        Rc::clone(&self.may_go_on)
    }

    /// For the count of connected clients.
    pub fn view_mut(&mut self) -> &mut NodeView {
        &mut self.view
    }

    /// The state.
    #[must_use]
    pub fn keyspace(&self) -> &Keyspace {
        &self.parts.keyspace
    }

    /// Reads the log.
    #[must_use]
    pub fn log_reader(&self) -> &LogReader {
        &self.parts.reader
    }

    /// Milliseconds of the clock that the core works by.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the Unix epoch, never before the log's own clock.
    #[must_use]
    pub fn clock(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        u64::try_from(wall)
            .unwrap_or(u64::MAX)
            .max(self.parts.replica.log().clock())
            .max(self.clock_floor)
    }

    /// Adds a connection and names it.
    pub fn open_session(&mut self, outbox: Outbox) -> Session {
        let session = Session(self.next_session);
        self.next_session += 1;
        self.outboxes.insert(session, outbox);
        session
    }

    /// Whether a connection stands.
    #[must_use]
    pub fn has_session(&self, session: Session) -> bool {
        self.outboxes.contains_key(&session)
    }

    /// Forgets a connection. The core hears of it by an event.
    pub fn close_session(&mut self, session: Session) {
        self.snapshots.forget(session);
        if let Some(outbox) = self.outboxes.remove(&session) {
            outbox.close();
        }
    }

    /// Whether commands may execute now. Not while too much waits for its commit; not between the choice of this node
    /// and its epoch start; and not in a hand-over before the next primary is known.
    #[must_use]
    pub fn may_execute(&self) -> bool {
        let replica = &self.parts.replica;
        match replica.role() {
            NodeRole::Primary => !self.handing_over && replica.uncommitted_bytes() + self.pending.len() < MAX_UNCOMMITTED_BYTES,
            NodeRole::Activating => false,
            NodeRole::Follower | NodeRole::Learner | NodeRole::Blank => !self.handing_over || self.view.primary_heard,
        }
    }

    /// From now on commands wait until another node serves.
    pub fn begin_hand_over(&mut self) {
        self.handing_over = true;
        self.observe();
    }

    /// The hand-over is over.
    pub fn end_hand_over(&mut self) {
        self.handing_over = false;
        self.observe();
        self.may_go_on.notify_waiters();
    }

    /// Lends what commands need.
    pub fn execute<T>(&mut self, run: impl FnOnce(&mut Context<'_>) -> T) -> T {
        if self.pending.len() > MAX_PENDING_BYTES {
            self.propose_pending();
        }
        self.view.no_room = self.no_room();
        self.view.page_cache = self.parts.stored.page_cache.is_some();
        let (clock_millis, pending_index) = (self.clock(), self.parts.replica.last().index + 1);
        run(&mut Context {
            keyspace: &mut self.parts.keyspace,
            effects: &mut self.pending,
            clock_millis,
            pending_index,
            view: &self.view,
            password: self.parts.password.as_deref(),
            random: &mut self.random,
        })
    }

    /// Waits for `commit`, and if `read` for a confirmation sent after now. True: answer; false: deposed first.
    pub fn wait(&mut self, commit: u64, read: bool) -> oneshot::Receiver<bool> {
        let (done, receiver) = oneshot::channel();
        let round = if read { self.parts.replica.read_barrier() } else { 0 };
        let since = self.now();
        self.waiting.push_back(Waiting {
            commit,
            round,
            since,
            done,
        });
        receiver
    }

    /// Waits until members hold a write durably, or the time is over: how many others do, and whether this node does. An error
    /// when this node was deposed first.
    pub fn await_holders(&mut self, wanted: Holders) -> oneshot::Receiver<(u64, bool)> {
        let (done, receiver) = oneshot::channel();
        let until = (wanted.timeout_millis > 0).then(|| self.now().saturating_add(wanted.timeout_millis));
        self.holding.push(Holding { wanted, until, done });
        self.tell_holders();
        receiver
    }

    fn tell_holders(&mut self) {
        if self.holding.is_empty() {
            return;
        }
        if !self.parts.replica.serving() {
            self.holding.clear();
            return;
        }
        let (now, durable) = (self.now(), self.parts.replica.durable());
        let peers = self.parts.replica.peers(now);
        let holding = std::mem::take(&mut self.holding);
        for Holding { wanted, until, done } in holding {
            let replicas = peers.iter().filter(|peer| !peer.learner && peer.matched >= wanted.index).count() as u64;
            let local = durable >= wanted.index;
            let enough = replicas >= wanted.replicas && (local || !wanted.local);
            if enough || until.is_some_and(|until| until <= now) {
                // The client may be gone; nobody waits then.
                let _ = done.send((replicas, local));
            } else if !done.is_closed() {
                self.holding.push(Holding { wanted, until, done });
            }
        }
    }

    /// Proposes what is pending and sends what is due.
    pub fn flush(&mut self) {
        self.propose_pending();
        let mut effects = Vec::new();
        self.parts.replica.flush(self.now(), &mut effects);
        self.carry_out(effects);
        self.answer();
        self.answer_followers();
        self.kick();
    }

    pub(super) fn propose_pending(&mut self) {
        // A mover that hears of an entry may log something itself, once.
        while !self.pending.is_empty() {
            let clock = self.clock();
            let effects = self.pending.split().freeze();
            self.parts.replica.propose(effects.clone(), clock);
            self.tell_movers(&effects);
        }
    }

    /// Whether something waits to be proposed or sent.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The flusher's bell: it proposes and sends what gathered.
    #[must_use]
    pub fn dirty(&self) -> Rc<Notify> {
        Rc::clone(&self.dirty)
    }

    pub(super) fn wake_flusher(&self) {
        self.dirty.notify_one();
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.handing_over
    }

    /// The state and the effects of the pending entry, to change both alike.
    pub(super) fn state_to_change(&mut self) -> (&mut Keyspace, &mut BytesMut) {
        (&mut self.parts.keyspace, &mut self.pending)
    }

    /// The group's clock is not behind this from now on.
    pub(super) fn raise_clock(&mut self, millis: u64) {
        self.clock_floor = self.clock_floor.max(millis);
    }

    /// Gives the core one input and carries out what follows. Entries that a follower takes are synced by [`Node::settle`].
    pub fn step(&mut self, event: Event) {
        self.propose_pending();
        if let Event::Request {
            request: Request::Append(append),
            ..
        } = &event
        {
            self.look_at_disk(&append.entries);
        }
        let mut effects = Vec::new();
        self.parts.replica.step(event, self.now(), &mut effects);
        self.carry_out(effects);
        self.answer();
        self.answer_followers();
        self.moves.wake_if_waiting();
    }

    /// Syncs what a follower wrote since the last call, and sends what is queued. Confirmations leave before the sync.
    pub fn settle(&mut self) {
        self.kick();
        if let Some(generation) = self.unsynced.take() {
            let index = or_abort(lock(&self.parts.log).sync());
            self.step(Event::LogDurable { generation, index });
            self.kick();
        }
    }

    /// Time passed.
    pub fn tick(&mut self) {
        self.tend_disk();
        self.view.no_room = self.no_room();
        if self.parts.replica.serving() && self.may_execute() && self.view.no_room.is_none() {
            let (clock, index) = (self.clock(), self.parts.replica.last().index + 1);
            let mut change = Change {
                effects: &mut self.pending,
                index,
            };
            self.parts.keyspace.expire_due(clock, MAX_EXPIRED_PER_TICK, &mut change);
        }
        self.tend_snapshots();
        self.step(Event::Tick);
        self.settle();
        let now = self.now();
        while self.waiting.front().is_some_and(|waiting| now - waiting.since > MAX_WAIT_MILLIS) {
            let waiting = self.waiting.pop_front().expect("checked by the condition");
            // The client may be gone; nobody waits then.
            let _ = waiting.done.send(false);
        }
        self.give_up_followers();
    }

    /// The node ends: what it acknowledged outlives the machine from here on. Nothing may be acknowledged after this.
    pub fn close(&mut self) {
        self.drain_log_thread();
        let Parts {
            stored, superblock, log, ..
        } = &mut self.parts;
        or_abort(durability::end(stored, superblock, &mut lock(log)));
    }

    fn kick(&mut self) {
        for session in std::mem::take(&mut self.touched) {
            if let Some(outbox) = self.outboxes.get(&session) {
                outbox.kick();
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::PersistHardState(hard) => {
                    self.parts.stored.hard = hard;
                    or_abort(self.parts.superblock.write(&self.parts.stored));
                }
                Effect::Send(session, append) => self.push(session, &quorate_api::wire::Request::Append(append)),
                Effect::AskReadIndex(session, number) => self.push(session, &Request::ReadIndex(number)),
                Effect::Reply(session, reply) => self.push(session, &reply),
                Effect::AppendLog {
                    generation,
                    commit,
                    entries,
                } => self.append_log(generation, commit, entries),
                Effect::KeepAside(tail) => self.keep_aside(&tail),
                Effect::TruncateLog(index) => {
                    self.drain_log_thread();
                    self.unwritten.retain(|entry| entry.id.index <= index);
                    self.snapshots.cut_after(index);
                    or_abort(lock(&self.parts.log).truncate_after(index));
                }
                Effect::Apply(entries) => self.apply(&entries),
                Effect::Rebuild(commit) => self.rebuild(commit),
                Effect::ReadLog { session, after, max_bytes } => {
                    let read = self.read_log(after, max_bytes);
                    let mut more = Vec::new();
                    self.parts.replica.step(Event::LogRead { session, read }, self.now(), &mut more);
                    queue.extend(more);
                }
                Effect::SendSnapshot(session) => self.snapshots.request(session),
                Effect::ReceiveSnapshot(session, chunk) => self.snapshots.receive(session, chunk),
                Effect::InstallSnapshot(position) => self.install_snapshot(position),
                Effect::Serving(epoch) => tracing::info!(%epoch, "serving as primary"),
                Effect::SteppedDown(epoch) => {
                    tracing::info!(%epoch, "stepped down");
                    self.snapshots.stop_sending();
                    for waiting in self.waiting.drain(..) {
                        // The client may be gone; nobody waits then.
                        let _ = waiting.done.send(false);
                    }
                    self.may_go_on.notify_waiters();
                }
            }
        }
        self.observe();
    }

    /// Entries for a member. None also if they do not read: it gets a snapshot.
    fn read_log(&mut self, after: u64, max_bytes: usize) -> Option<Piece> {
        match self.parts.reader.read(after, max_bytes) {
            Err(error) if error.is_damage() => {
                let mut closed = self.parts.reader.closed_segments().into_iter().map(|segment| segment.through());
                let through = closed
                    .find(|through| *through > after)
                    .unwrap_or_else(|| self.parts.replica.last().index);
                let what = error.to_string();
                self.found_rot(Rot { what, through });
                None
            }
            read => or_abort(read),
        }
    }

    /// Looks at the core after it may have changed, and tells whoever wants to know.
    fn observe(&mut self) {
        let replica = &self.parts.replica;
        self.view.commit = replica.commit();
        self.view.stale_reads = replica.state_is_committed() && replica.role() != NodeRole::Learner;
        let outline = Outline {
            role: replica.role(),
            promised: replica.promised(),
            primary: replica.primary_view(self.now()).map(|view| (view.incarnation, is_heard(&view))),
            configuration: replica.configuration().map(|(id, _)| *id),
            learners: replica.learner_changes(),
            links: replica.link_count(),
            damaged: replica.damaged(),
            terminating: self.handing_over,
            disk: replica.disk(),
            no_room: self.no_room(),
        };
        let before = self.outline.replace(outline);
        if before == Some(outline) {
            return;
        }
        if before.is_none_or(|before| (before.configuration, before.learners) != (outline.configuration, outline.learners)) {
            let mut members = replica.configuration().map(|(_, c)| c.members().to_vec()).unwrap_or_default();
            members.extend(replica.learners());
            self.members.send_replace(members);
        }
        self.refresh_view();
        self.changes.send_modify(|count| *count += 1);
        // Whoever waited in a hand-over can be told of the next primary now.
        if self.may_execute() {
            self.may_go_on.notify_waiters();
        }
    }

    fn push(&mut self, session: Session, frame: &impl quorate_api::wire::Frame) {
        if let Some(outbox) = self.outboxes.get(&session) {
            outbox.push(frame);
            if self.touched.last() != Some(&session) {
                self.touched.push(session);
            }
        }
    }

    fn append_log(&mut self, generation: u64, commit: u64, entries: Vec<Arc<Entry>>) {
        if matches!(self.parts.replica.role(), NodeRole::Primary | NodeRole::Activating) {
            // Peers first: their sync runs while ours does.
            self.kick();
            let mut all = std::mem::take(&mut self.unwritten);
            all.extend(entries);
            self.parts.log_thread.append(generation, commit, all);
            self.log_thread_used = true;
        } else {
            self.drain_log_thread();
            self.unwritten.extend(entries);
            self.write_in_line(generation, commit);
        }
    }

    fn drain_log_thread(&mut self) {
        if std::mem::take(&mut self.log_thread_used) {
            self.unwritten.extend(self.parts.log_thread.drain());
        }
    }

    /// Keeps what is about to be cut off and may have been acknowledged.
    fn keep_aside(&mut self, tail: &Tail) {
        let Tail { entries, epoch, exact } = tail;
        let writes = entries.iter().map(|entry| match &entry.body {
            // Of another version: that there was something is more than nothing.
            EntryBody::Effects(effects) => keyspace::count(effects).unwrap_or(1),
            EntryBody::EpochStart(_) => 0,
        });
        let writes = writes.sum();
        let Parts { log, tails, .. } = &mut self.parts;
        let mut kept = tails.keep(entries, writes, *epoch, *exact).cloned();
        if kept.as_ref().is_err_and(StorageError::is_no_room) {
            // The log's next segment can wait for room, this cannot.
            kept = lock(log).without_ahead(|| tails.keep(entries, writes, *epoch, *exact).cloned());
        }
        let kept = or_abort(kept);
        tracing::warn!(
            file = kept.file,
            entries = kept.entries,
            writes = kept.writes,
            exact = kept.exact,
            %epoch,
            "writes that were acknowledged before they were committed are cut off and kept aside"
        );
    }

    fn write_in_line(&mut self, generation: u64, commit: u64) {
        let written = or_abort(lock(&self.parts.log).append(&self.unwritten, commit));
        self.unwritten.drain(..written);
        if written > 0 {
            self.unsynced = Some(generation);
        }
    }

    /// Whether the core gave entries to this thread that found no room.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Tries anew to write them, as a follower. [`Node::settle`] syncs them.
    pub(super) fn write_unwritten(&mut self) {
        self.write_in_line(self.parts.replica.generation(), self.parts.replica.commit());
    }

    fn apply(&mut self, entries: &[Arc<Entry>]) {
        if self.parts.keyspace.any_frozen() {
            // Readers of a slot that moves look again.
            self.may_go_on.notify_waiters();
        }
        for entry in entries {
            if let EntryBody::Effects(effects) = &entry.body {
                self.parts
                    .keyspace
                    .apply(effects, entry.id.index)
                    .expect("a committed entry was encoded by a primary of this protocol version");
            }
        }
    }

    fn rebuild(&mut self, commit: u64) {
        tracing::info!(commit, "building the state anew without entries that were cut off");
        let mut after = 0;
        let keyspace = match self.snapshots.newest_path() {
            Some(path) => {
                let (head, keyspace) = load_snapshot(path, || ()).unwrap_or_else(|error| {
                    tracing::error!(%error, "the snapshot under this node's state does not read: starting anew, to be repaired by peers");
                    std::process::abort()
                });
                after = head.position.id.index;
                keyspace
            }
            None => Keyspace::new(),
        };
        self.replace_keyspace(keyspace);
        let written = lock(&self.parts.log).last().id.index;
        while after < commit {
            let mut entries = if after < written {
                let read = or_abort(self.parts.reader.read(after, 8 << 20));
                read.expect("the log reaches back to the newest snapshot").1
            } else {
                self.unwritten.iter().filter(|entry| entry.id.index > after).cloned().collect()
            };
            entries.retain(|entry| entry.id.index <= commit);
            let last = entries.last().expect("the log holds every committed entry above the snapshot");
            after = last.id.index;
            self.apply(&entries);
        }
    }

    /// Takes another state; the old one is let go elsewhere, because that takes time.
    pub(super) fn replace_keyspace(&mut self, keyspace: Keyspace) {
        let old = std::mem::replace(&mut self.parts.keyspace, keyspace);
        // Without a thread it is let go here, on the way out of the closure.
        let _ = std::thread::Builder::new().name("let-go".into()).spawn(move || drop(old));
    }

    /// The log goes on after a position that a durable snapshot covers.
    pub(super) fn restart_log_after(&mut self, position: Position) {
        self.drain_log_thread();
        or_abort(lock(&self.parts.log).restart_after(position));
        self.unsynced = None;
        self.unwritten.clear();
    }

    /// Answers whoever waited for what is committed and confirmed by now.
    fn answer(&mut self) {
        self.tell_holders();
        if self.waiting.is_empty() || !self.parts.replica.serving() {
            return;
        }
        let (commit, round) = (self.parts.replica.acknowledged(), self.parts.replica.confirmed_round());
        if self.may_execute() {
            self.may_go_on.notify_waiters();
        }
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.commit <= commit && waiting.round <= round)
        {
            let waiting = self.waiting.pop_front().expect("checked by the condition");
            // The client may be gone; nobody waits then.
            let _ = waiting.done.send(true);
        }
    }

    fn refresh_view(&mut self) {
        let replica = &self.parts.replica;
        let primary = replica.primary_view(self.now());
        let members = replica
            .configuration()
            .map_or(&[][..], |(_, configuration)| configuration.members());
        let endpoint = |incarnation: Incarnation| {
            let live = self.live.get(&incarnation)?;
            Some(NodeEndpoint {
                node_id: node_id(incarnation),
                host: live.client_host.clone(),
                port: live.client_port,
                up: incarnation == self.parts.stored.id.incarnation || replica.linked(incarnation),
            })
        };
        self.view.primary_heard = primary.as_ref().is_some_and(is_heard);
        let primary = primary.map(|view| view.incarnation);
        self.view.me = endpoint(self.parts.stored.id.incarnation).expect("a node knows its own address");
        // Clients that ask for the map while no primary is known are told the last one: they come back to ask again.
        if let Some(known) = primary.and_then(endpoint) {
            self.view.primary = Some(known);
        }
        let shown = self.view.primary.as_ref().map(|primary| primary.node_id.as_str());
        self.view.replicas = members
            .iter()
            .filter_map(|member| endpoint(member.incarnation))
            .filter(|endpoint| Some(endpoint.node_id.as_str()) != shown)
            .collect();
        self.view.write_quorum = replica.configuration().map_or(0, |(_, configuration)| configuration.quorum().write);
        self.view.serving = replica.serving();
        self.view.shard = self.parts.stored.id.shard;
        self.view.epoch = replica.promised().number;
        self.view.max_memory = self.parts.max_memory;
        self.view.store.clone_from(&self.parts.store);
    }

    /// What the operator is told.
    #[must_use]
    pub fn status(&self) -> Reply {
        Reply::Status(Box::new(self.node_status()))
    }

    /// What this node says of itself.
    #[must_use]
    pub fn node_status(&self) -> NodeStatus {
        let replica = &self.parts.replica;
        let now = self.now();
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rot: self.scrub.damage(),
            terminating: self.handing_over,
            keys: self.parts.keyspace.len(),
            memory_bytes: self.parts.keyspace.memory_bytes(),
            writes_refused: self.no_room().map(|no_room| no_room.to_string()),
            tails: self.parts.tails.told().to_vec(),
            page_cache: self.parts.stored.page_cache.is_some(),
            // 0 would say that this node does not tell.
            uptime_millis: now.max(1),
            slots: Some(self.slots_status()),
            disk: self.log_reader().room(&[]).max(replica.disk()),
            ..replica.status(self.id(), now)
        }
    }

    /// Sends a request that the core does not give.
    pub fn request(&mut self, session: Session, request: &Request) {
        self.push(session, request);
        self.kick();
    }

    /// Sends a reply that the core does not give.
    pub fn reply(&mut self, session: Session, reply: &Reply) {
        self.push(session, reply);
        self.kick();
    }
}

/// Whether clients may be sent to this primary: a connection that stands says little of one that hangs.
fn is_heard(primary: &PrimaryView) -> bool {
    primary.connected && primary.heard_millis_ago <= SILENT_MILLIS
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().expect("a thread that fails with the log in hand ends the process")
}
