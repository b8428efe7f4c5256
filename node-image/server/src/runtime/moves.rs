//! Slot moves of a running node: the movers of a primary that gives slots away, and its answers as the target of others.
//!
//! The rules are [`quorate_protocol::slots`]; here is what joins them to the log, to connections and to the key space. Nothing
//! leaves before the log holds what it says for good: committed, and held by a majority of the members, which is more than
//! committed in a store that acknowledges without one.
//!
//! The way of a copy: the slots are shared with a thread that encodes them ([`CopyJob`]); pieces come one by one as the mover wants
//! them; each later entry is looked through for writes to the slots (`Node::tell_movers`).

use super::Shared;
use super::connection::Outbox;
use super::node::Node;
use crate::command::Routes;
use crate::keyspace::{Change, Piece, Snapshot};
use anyhow::bail;
use bytes::Bytes;
use quorate_api::slots::{Attempt, Handoff, HandoffAnswer, HandoffOutcome, HandoffStep};
use quorate_api::wire::{ClientKind, Reply, Request, Welcome};
use quorate_api::{Epoch, MoveRefusal, MoveSlots, MoveStatus, RoutingMap, SlotsStatus};
use quorate_client::connect::{Established, dial, read_frame};
use quorate_protocol::Session;
use quorate_protocol::slots::{Mover, MoverEffect, MoverInput, Reaction, SlotRecord, SlotTable};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, channel};
use tokio::task::{AbortHandle, spawn_local};

/// Movers look at the log at least this often.
const LOOK: Duration = Duration::from_millis(20);
/// Between two attempts to reach the primary of a target.
const REDIAL: Duration = Duration::from_millis(100);
/// A target that says nothing for so long, asked several times, is left for another member.
const SILENCE: Duration = Duration::from_secs(5);
/// Pieces that the encoding thread is ahead.
const PIECES_AHEAD: usize = 2;

/// A copy to be encoded.
#[derive(Debug)]
pub struct CopyJob {
    handoff: u64,
    attempt: Attempt,
    snapshot: Snapshot,
}

/// A reply that waits until the log up to `index` is there for good.
#[derive(Debug)]
struct Owed {
    index: u64,
    session: Session,
    reply: Reply,
}

/// A move that this primary drives.
#[derive(Debug)]
struct Driven {
    mover: Mover,
    session: Option<Session>,
    link: Option<AbortHandle>,
    bytes_total: u64,
    /// When this primary froze the slots.
    frozen_at: Option<u64>,
}

/// What a node knows of moves. See the module.
#[derive(Debug)]
pub struct Moves {
    map: RoutingMap,
    driven: BTreeMap<u64, Driven>,
    owed: VecDeque<Owed>,
    /// The epoch that the movers belong to.
    epoch: Option<Epoch>,
    wake: Rc<Notify>,
    jobs: UnboundedSender<CopyJob>,
    /// The longest time that clients of frozen slots waited since this process began, in milliseconds.
    longest_freeze_millis: u64,
}

impl Moves {
    /// Nothing moves. Whoever holds the other end of `jobs` runs [`run`].
    #[must_use]
    pub fn new(jobs: UnboundedSender<CopyJob>) -> Self {
        Self {
            map: RoutingMap::default(),
            driven: BTreeMap::new(),
            owed: VecDeque::new(),
            epoch: None,
            wake: Rc::new(Notify::new()),
            jobs,
            longest_freeze_millis: 0,
        }
    }

    /// The longest time that clients of frozen slots waited since this process began, in milliseconds.
    #[must_use]
    pub fn longest_freeze_millis(&self) -> u64 {
        self.longest_freeze_millis
    }

    /// Someone waits for the log to go on.
    pub(super) fn wake_if_waiting(&self) {
        if !self.driven.is_empty() || !self.owed.is_empty() {
            self.wake.notify_one();
        }
    }

    fn stop(&mut self) {
        for driven in std::mem::take(&mut self.driven).into_values() {
            if let Some(link) = driven.link {
                link.abort();
            }
        }
        self.epoch = None;
    }
}

impl Node {
    /// The operator told the whole map.
    pub(super) fn learn_route(&mut self, map: RoutingMap) {
        if map.version > self.moves.map.version {
            let last = self.replica().last().index;
            self.view_mut().routes = Routes::new(&map, self.id().shard, last);
            self.moves.map = map;
        }
    }

    /// What the log says about slots, also if that is nothing.
    fn with_table<T>(&self, look: impl FnOnce(&SlotTable) -> T) -> T {
        match self.keyspace().slot_table() {
            Some(table) => look(table),
            None => look(&SlotTable::new(self.id().shard)),
        }
    }

    /// The log up to here is there for good.
    fn for_good_index(&self) -> u64 {
        let replica = self.replica();
        let Some((_, configuration)) = replica.configuration() else {
            return 0;
        };
        let peers = replica.peers(self.now());
        let mut held: Vec<u64> = peers.iter().filter(|peer| !peer.learner).map(|peer| peer.matched).collect();
        held.push(replica.durable());
        held.sort_unstable_by(|a, b| b.cmp(a));
        let by_majority = held.get(configuration.members().len() / 2).copied().unwrap_or(0);
        by_majority.min(replica.commit())
    }

    /// The entries up to here, those included that are not proposed yet.
    fn last_index(&mut self) -> u64 {
        self.propose_pending();
        self.replica().last().index
    }

    /// Logs a record about slots. Only a serving primary does, and only what fits.
    fn log_slots(&mut self, record: &SlotRecord, payload: &[u8]) -> bool {
        let index = self.replica().last().index + 1;
        let outcome = self.change_slots(record, payload, index);
        match &outcome {
            Ok(()) => tracing::debug!(?record, index, "logged"),
            Err(error) => tracing::error!(%error, ?record, "a record about slots was not logged"),
        }
        // Clients may wait for what has just changed.
        self.may_go_on().notify_waiters();
        outcome.is_ok()
    }

    fn change_slots(&mut self, record: &SlotRecord, payload: &[u8], index: u64) -> Result<(), crate::keyspace::EffectError> {
        let (keyspace, effects) = self.state_to_change();
        keyspace.log_slots(record, payload, &mut Change { effects, index })
    }

    fn owe(&mut self, session: Session, reply: Reply) {
        let index = self.last_index();
        self.moves.owed.push_back(Owed { index, session, reply });
        self.moves.wake.notify_one();
    }

    /// An order of the operator.
    pub(super) fn order_move(&mut self, session: Session, order: &MoveSlots) {
        let refusal = match self.try_order(order) {
            Ok(()) => return self.owe(session, Reply::MoveSlots(Ok(()))),
            Err(refusal) => refusal,
        };
        self.reply(session, &Reply::MoveSlots(Err(refusal)));
    }

    fn try_order(&mut self, order: &MoveSlots) -> Result<(), MoveRefusal> {
        if !self.drives_moves() {
            return Err(MoveRefusal::NotPrimary);
        }
        if !self.moves.map.shards.iter().any(|shard| shard.shard == order.to) {
            return Err(MoveRefusal::UnknownTarget);
        }
        if let Some(record) = self.with_table(|table| table.order(order))? {
            tracing::info!(handoff = order.handoff, slots = %order.slots, to = order.to, "slots are to move");
            self.log_slots(&record, &[]);
        }
        Ok(())
    }

    /// The operator wants a move to end.
    pub(super) fn abort_move(&mut self, session: Session, handoff: u64) {
        let outcome = if !self.drives_moves() {
            Err(MoveRefusal::NotPrimary)
        } else if self
            .keyspace()
            .slot_table()
            .is_some_and(|table| table.exports().contains_key(&handoff))
        {
            self.tend_movers();
            self.step_mover(handoff, MoverInput::Abort);
            Ok(())
        } else {
            Err(MoveRefusal::UnknownMove)
        };
        self.reply(session, &Reply::AbortMove(outcome));
    }

    /// Another group's primary asks this one as the target.
    pub(super) fn on_handoff(&mut self, session: Session, asked: &Handoff) {
        let handoff = asked.handoff;
        let outcome = if self.drives_moves() {
            self.react(asked)
        } else {
            HandoffOutcome::NotPrimary
        };
        let reply = Reply::Handoff(HandoffAnswer { handoff, outcome });
        if self.drives_moves() {
            self.owe(session, reply);
        } else {
            self.reply(session, &reply);
        }
    }

    fn react(&mut self, asked: &Handoff) -> HandoffOutcome {
        if let HandoffStep::Decide { clock_millis, .. } = asked.step {
            self.raise_clock(clock_millis);
        }
        loop {
            let record = match self.with_table(|table| table.react(asked)) {
                Reaction::Answer(outcome) => return outcome,
                Reaction::Log(record) => record,
            };
            if let (SlotRecord::Import { .. }, Some(reason)) = (&record, self.lacks_room()) {
                return HandoffOutcome::Later(reason);
            }
            if let (SlotRecord::Stage { .. }, Some(no_room)) = (&record, self.no_room()) {
                // A copy is no write that was under way: it would wait for the disk in memory.
                return HandoffOutcome::Later(format!("at the target, {no_room}"));
            }
            let payload = match &asked.step {
                HandoffStep::Chunk(chunk) => chunk.bytes.clone(),
                _ => Bytes::new(),
            };
            if !matches!(record, SlotRecord::Stage { .. }) {
                tracing::info!(?record, "asked by the primary of another group");
            }
            if !self.log_slots(&record, &payload) {
                return HandoffOutcome::Later("the target does not understand a piece of the copy".to_owned());
            }
            // One entry never holds much more than one piece.
            self.propose_pending();
        }
    }

    fn lacks_room(&self) -> Option<String> {
        let limit = self.view().max_memory;
        let used = self.keyspace().memory_bytes() + self.keyspace().staged_bytes();
        if let Some(no_room) = self.no_room() {
            return Some(format!("at the target, {no_room}"));
        }
        (limit > 0 && used >= limit).then(|| "the target has no memory left".to_owned())
    }

    /// Whether this node sees to moves now. Not while it hands over: the next primary does.
    fn drives_moves(&self) -> bool {
        self.replica().serving() && !self.is_handing_over()
    }

    /// Looks at the log and gives the moves that want a connection.
    fn tend_moves(&mut self) -> Vec<u64> {
        self.let_go_of_slots();
        if !self.replica().serving() {
            self.moves.stop();
            for Owed { session, reply, .. } in std::mem::take(&mut self.moves.owed) {
                let reply = match reply {
                    Reply::Handoff(HandoffAnswer { handoff, .. }) => Reply::Handoff(HandoffAnswer {
                        handoff,
                        outcome: HandoffOutcome::NotPrimary,
                    }),
                    _ => Reply::MoveSlots(Err(MoveRefusal::NotPrimary)),
                };
                self.reply(session, &reply);
            }
            return Vec::new();
        }
        let for_good = self.for_good_index();
        while self.moves.owed.front().is_some_and(|owed| owed.index <= for_good) {
            let Owed { session, reply, .. } = self.moves.owed.pop_front().expect("checked by the condition");
            self.reply(session, &reply);
        }
        if self.drives_moves() {
            self.tend_movers();
        }
        let unlinked = self.moves.driven.iter().filter(|(_, driven)| driven.link.is_none());
        unlinked.map(|(handoff, _)| *handoff).collect()
    }

    fn let_go_of_slots(&mut self) {
        let (keyspace, _) = self.state_to_change();
        if let Some(garbage) = keyspace.take_garbage() {
            // Without a thread it is let go here, on the way out of the closure.
            let _ = std::thread::Builder::new().name("let-go".into()).spawn(move || drop(garbage));
        }
    }

    /// A mover for every move on record, and time for each.
    fn tend_movers(&mut self) {
        let epoch = self.replica().promised();
        if self.moves.epoch != Some(epoch) {
            self.moves.stop();
            self.moves.epoch = Some(epoch);
        }
        let Some(table) = self.keyspace().slot_table() else { return };
        let own = self.id().shard;
        let mut fresh = Vec::new();
        for (handoff, to) in table.moves() {
            if !self.moves.driven.contains_key(&handoff) {
                let slots = table.subject(handoff).map(|(slots, _)| slots.clone()).unwrap_or_default();
                let rate = table.exports().get(&handoff).map_or(0, |export| export.max_bytes_per_second);
                fresh.push((handoff, Mover::new(handoff, own, to, slots, rate, epoch)));
            }
        }
        for (handoff, mover) in fresh {
            let driven = Driven {
                mover,
                session: None,
                link: None,
                bytes_total: 0,
                frozen_at: None,
            };
            self.moves.driven.insert(handoff, driven);
        }
        for handoff in self.moves.driven.keys().copied().collect::<Vec<_>>() {
            self.step_mover(handoff, MoverInput::Tick);
        }
    }

    /// Gives a mover one input and carries out what follows.
    fn step_mover(&mut self, handoff: u64, input: MoverInput) {
        if !self.replica().serving() {
            return;
        }
        // Writes before a freeze are in the tail before the mover hears of anything else.
        self.propose_pending();
        let standing = self.keyspace().slot_table().and_then(|table| table.state(handoff));
        let for_good = standing.is_none_or(|(_, changed)| changed <= self.for_good_index());
        let (now, clock) = (self.now(), self.clock());
        let Some(driven) = self.moves.driven.get_mut(&handoff) else {
            return;
        };
        let mut out = Vec::new();
        let state = standing.map(|(state, _)| state);
        driven.mover.step(input, state, for_good, now, clock, &mut out);
        let session = driven.session;
        if driven.mover.is_over()
            && let Some(Driven { link: Some(link), .. }) = self.moves.driven.remove(&handoff)
        {
            link.abort();
        }
        for effect in out {
            match effect {
                MoverEffect::Send(asked) => {
                    if let Some(session) = session {
                        self.request(session, &Request::Handoff(asked));
                    }
                }
                MoverEffect::Log(record) => {
                    let waited = self.note_freeze(handoff, &record, now);
                    tracing::info!(?record, clients_waited_millis = waited, "a move goes on");
                    self.log_slots(&record, &[]);
                }
                MoverEffect::StartCopy => self.start_copy(handoff),
            }
        }
        self.propose_pending();
        self.wake_flusher();
    }

    /// Gives how long clients waited, if a freeze ends.
    fn note_freeze(&mut self, handoff: u64, record: &SlotRecord, now: u64) -> Option<u64> {
        let driven = self.moves.driven.get_mut(&handoff)?;
        match record {
            SlotRecord::Freeze { .. } => driven.frozen_at = Some(now),
            SlotRecord::Release { .. } | SlotRecord::Thaw { .. } => {
                let waited = now - driven.frozen_at.take()?;
                self.moves.longest_freeze_millis = self.moves.longest_freeze_millis.max(waited);
                return Some(waited);
            }
            _ => {}
        }
        None
    }

    fn start_copy(&mut self, handoff: u64) {
        let Some(driven) = self.moves.driven.get(&handoff) else { return };
        let (attempt, slots) = (driven.mover.attempt(), driven.mover.slots().clone());
        let total = self.keyspace().bytes_of(&slots);
        let snapshot = self.keyspace().snapshot_of(&slots);
        if let Some(driven) = self.moves.driven.get_mut(&handoff) {
            driven.bytes_total = total;
        }
        // The task that encodes lives as long as the node.
        let _ = self.moves.jobs.send(CopyJob {
            handoff,
            attempt,
            snapshot,
        });
    }

    /// The effects of an entry that was proposed just now: movers want what is about their slots.
    pub(super) fn tell_movers(&mut self, effects: &Bytes) {
        for handoff in self.moves.driven.keys().copied().collect::<Vec<_>>() {
            let Some(driven) = self.moves.driven.get(&handoff).filter(|driven| driven.mover.wants_tail()) else {
                continue;
            };
            let piece = Piece::effects(effects, driven.mover.slots()).expect("effects that this node has just encoded");
            if let Some(piece) = piece {
                self.step_mover(handoff, MoverInput::Tail(piece.into_bytes()));
            }
        }
    }

    /// What this node says of its slots.
    pub(super) fn slots_status(&self) -> SlotsStatus {
        self.with_table(|table| self.status_by(table))
    }

    fn status_by(&self, table: &SlotTable) -> SlotsStatus {
        let export = |(handoff, to): (u64, u32)| {
            let (slots, _) = table.subject(handoff)?;
            let driven = self.moves.driven.get(&handoff);
            let state = table.state(handoff).map(|(state, _)| state)?;
            Some(MoveStatus {
                handoff,
                slots: slots.clone(),
                peer: to,
                phase: driven.map_or(state.phase(), |driven| driven.mover.phase()),
                bytes_sent: driven.map_or(0, |driven| driven.mover.bytes_acked()),
                bytes_total: driven.map_or(0, |driven| driven.bytes_total),
                waits_for: driven.and_then(|driven| driven.mover.waits_for()),
            })
        };
        SlotsStatus {
            owned: table.owned().clone(),
            last_handoff: table.last_handoff(),
            bytes: self.keyspace().memory_bytes(),
            route_version: self.moves.map.version,
            exports: table.moves().filter_map(export).collect(),
            imports: table.import_statuses(),
        }
    }

    /// Where the primary of the target may be: the one that the map names, then the others.
    fn targets(&self, handoff: u64) -> Vec<String> {
        let to = self.moves.driven.get(&handoff).map(|driven| driven.mover.to());
        let Some(shard) = self.moves.map.shards.iter().find(|shard| Some(shard.shard) == to) else {
            return Vec::new();
        };
        let mut members: Vec<_> = shard.members.iter().collect();
        members.sort_by_key(|member| Some(member.id.incarnation) != shard.primary);
        members.into_iter().map(|member| member.addresses.replica.clone()).collect()
    }
}

/// Sees to moves for ever.
pub async fn run(shared: Rc<Shared>, mut jobs: UnboundedReceiver<CopyJob>) {
    let wake = Rc::clone(&shared.node.borrow().moves.wake);
    loop {
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            job = jobs.recv() => match job {
                Some(job) => {
                    spawn_local(feed(Rc::clone(&shared), job));
                }
                None => return,
            },
        }
        let mut node = shared.node.borrow_mut();
        for handoff in node.tend_moves() {
            let link = spawn_local(keep_link(Rc::clone(&shared), handoff)).abort_handle();
            if let Some(driven) = node.moves.driven.get_mut(&handoff) {
                driven.link = Some(link);
            }
        }
        if node.has_pending() {
            shared.dirty.notify_one();
        }
    }
}

/// Gives a mover its copy piece by piece.
async fn feed(shared: Rc<Shared>, job: CopyJob) {
    let CopyJob {
        handoff,
        attempt,
        snapshot,
    } = job;
    let (pieces, mut encoded) = channel::<Bytes>(PIECES_AHEAD);
    let encode = move || {
        let give = |block: &[u8]| pieces.blocking_send(Piece::block(block).into_bytes());
        // Nobody listens any more: the copy is not wanted.
        let _ = snapshot.blocks(give);
    };
    tokio::task::spawn_blocking(encode);
    loop {
        let piece = encoded.recv().await;
        loop {
            let wanted = {
                let node = shared.node.borrow();
                match node.moves.driven.get(&handoff) {
                    Some(driven) if driven.mover.attempt() == attempt && node.replica().serving() => driven.mover.wants_piece(),
                    _ => return,
                }
            };
            if wanted {
                break;
            }
            // The target's answers make room.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let last = piece.is_none();
        let input = piece.map_or(MoverInput::CopyEnded, MoverInput::Piece);
        shared.node.borrow_mut().step_mover(handoff, input);
        if last {
            return;
        }
    }
}

/// Keeps a connection to the primary of a move's target until the move is over.
async fn keep_link(shared: Rc<Shared>, handoff: u64) {
    loop {
        let targets = shared.node.borrow().targets(handoff);
        for address in targets {
            if let Err(error) = follow_link(&shared, handoff, &address).await {
                tracing::debug!(
                    handoff,
                    address,
                    error = format!("{error:#}"),
                    "no answer from the target of a move"
                );
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}

/// Ends a session with a target, also when the task that dialled it is aborted.
struct Link {
    shared: Rc<Shared>,
    handoff: u64,
    session: Session,
    pump: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.pump.abort();
        // Aborted by the node itself, which then has forgotten the move.
        let Ok(mut node) = self.shared.node.try_borrow_mut() else { return };
        node.close_session(self.session);
        // Another primary's mover, or a later connection, has nothing to do with this one.
        if let Some(driven) = node.moves.driven.get_mut(&self.handoff)
            && driven.session == Some(self.session)
        {
            driven.session = None;
            node.step_mover(self.handoff, MoverInput::Disconnected);
        }
    }
}

async fn follow_link(shared: &Rc<Shared>, handoff: u64, address: &str) -> anyhow::Result<()> {
    let (token, id, client) = {
        let node = shared.node.borrow();
        let client = ClientKind::Replica {
            id: node.id(),
            addresses: node.addresses(),
        };
        (node.token(), node.id(), client)
    };
    let Established {
        mut read,
        write,
        mut buffer,
        peer: Welcome { id: peer, .. },
    } = dial(address, &token, client).await?;
    let outbox = Outbox::new(write);
    let pump = {
        let outbox = outbox.clone();
        spawn_local(async move { outbox.pump().await }).abort_handle()
    };
    let _link = {
        let mut node = shared.node.borrow_mut();
        let to = node.moves.driven.get(&handoff).map(|driven| driven.mover.to());
        if (Some(peer.shard), peer.store) != (to, id.store) {
            pump.abort();
            bail!("{address} is a node of shard {} of store {}", peer.shard, peer.store);
        }
        let session = node.open_session(outbox);
        if let Some(driven) = node.moves.driven.get_mut(&handoff) {
            driven.session = Some(session);
        }
        node.step_mover(handoff, MoverInput::Connected);
        Link {
            shared: Rc::clone(shared),
            handoff,
            session,
            pump,
        }
    };
    loop {
        let reply = tokio::time::timeout(SILENCE, read_frame::<Reply>(&mut read, &mut buffer)).await??;
        let Reply::Handoff(answer) = reply else {
            bail!("a target sent an answer to a question that was not asked: {reply:?}");
        };
        match answer.outcome {
            HandoffOutcome::NotPrimary => bail!("{address} is not the primary"),
            outcome => shared.node.borrow_mut().step_mover(answer.handoff, MoverInput::Answer(outcome)),
        }
    }
}
