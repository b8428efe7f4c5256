//! Serving an epoch: streams to the members, commit by quorum, rounds that confirm reads.
//!
//! A stream to a member is opened by a probe (an append without entries at the end of the log); the answer tells
//! where the logs agree, and entries flow from there, pipelined, from memory, from the log file, or after a snapshot.

use super::{Replica, Role, Settings};
use crate::event::{Effect, Session};
use crate::mutation::{self, Mutation};
use quorate_api::wire::{Append, AppendAck, Mismatch};
use quorate_api::{Configuration, Entry, EntryBody, EntryId, Epoch, Incarnation, PeerStatus, Position, Quorum};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Read rounds under way at once: one travels while the next is sent; more would only shrink the batches.
const MAX_ROUNDS_IN_FLIGHT: u64 = 2;

/// What a primary knows. See the module.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    pub(super) epoch: Epoch,
    /// Index of the epoch start.
    pub(super) start: u64,
    /// The epoch start is committed.
    pub(super) serving: bool,
    /// Sessions to tell when it is.
    pub(super) waiters: Vec<Session>,
    /// Own entries that no effect carries yet.
    pub(super) unflushed: Vec<Arc<Entry>>,
    quorum: Quorum,
    peers: BTreeMap<Incarnation, Peer>,
    /// The last round sent. Everything sent carries it.
    round: u64,
    /// A read waits for a round above `round`.
    round_wanted: bool,
    /// Bytes of entries above the commit index.
    uncommitted_bytes: usize,
}

#[derive(Clone, Debug)]
struct Peer {
    session: Option<Session>,
    stream: Stream,
    /// The member holds this log durably up to here.
    matched: u64,
    /// Highest round it confirmed.
    round: u64,
    /// Commit index that it was told.
    told: u64,
    heard_at: u64,
    sent_at: u64,
}

#[derive(Clone, Debug)]
enum Stream {
    /// Waits for the answer to a probe of that round that followed `prev`.
    Probe { round: u64, prev: u64, sent_at: u64 },
    /// Entries flow.
    Open {
        next: u64,
        in_flight: VecDeque<(u64, usize)>,
        bytes: usize,
        progress_at: u64,
        since_round: u64,
    },
    /// Waits for entries from the log file.
    Reading { next: u64 },
    /// Waits for a snapshot to arrive.
    Snapshot,
    /// There is no connection.
    Down,
}

impl Primary {
    pub(super) fn new(
        me: Incarnation,
        epoch: Epoch,
        start: u64,
        configuration: &Configuration,
        links: &BTreeMap<Incarnation, Session>,
        now: u64,
    ) -> Self {
        let others = configuration
            .members()
            .iter()
            .map(|member| member.incarnation)
            .filter(|incarnation| *incarnation != me);
        let peers = others
            .map(|incarnation| (incarnation, Peer::new(links.get(&incarnation).copied(), now)))
            .collect();
        Self {
            epoch,
            start,
            serving: false,
            waiters: Vec::new(),
            unflushed: Vec::new(),
            quorum: configuration.quorum(),
            peers,
            round: 0,
            round_wanted: false,
            uncommitted_bytes: 0,
        }
    }

    pub(super) fn waiting(mut self, waiter: Session) -> Self {
        self.waiters.push(waiter);
        self
    }

    pub(super) fn peer_statuses(&self, now: u64) -> Vec<PeerStatus> {
        let status = |(incarnation, peer): (&Incarnation, &Peer)| PeerStatus {
            incarnation: *incarnation,
            connected: peer.session.is_some(),
            matched: peer.matched,
            heard_millis_ago: now.saturating_sub(peer.heard_at),
            snapshot: matches!(peer.stream, Stream::Snapshot),
            learner: false,
        };
        self.peers.iter().map(status).collect()
    }

    /// The highest index that V_w members, this one included, hold durably.
    fn replicated(&self, own: u64) -> u64 {
        nth_greatest(self.peers.values().map(|peer| peer.matched), own, self.quorum.write)
    }

    fn confirmed_round(&self) -> u64 {
        nth_greatest(self.peers.values().map(|peer| peer.round), u64::MAX, self.quorum.read).min(self.round)
    }

    fn peer_mut(&mut self, session: Session) -> Option<&mut Peer> {
        self.peers.values_mut().find(|peer| peer.session == Some(session))
    }

    fn open_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }
}

/// Asks for entries after `after` from the log file.
fn log_reading(session: Session, after: u64, max_bytes: usize, out: &mut Vec<Effect>) -> Stream {
    out.push(Effect::ReadLog { session, after, max_bytes });
    Stream::Reading { next: after + 1 }
}

/// The greatest value that `quorum` members reach, this replica's `own` among them.
fn nth_greatest(others: impl Iterator<Item = u64>, own: u64, quorum: u32) -> u64 {
    let mut values: Vec<u64> = others.chain([own]).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(quorum as usize - 1).copied().unwrap_or(0)
}

impl Peer {
    fn new(session: Option<Session>, now: u64) -> Self {
        Self {
            session,
            stream: Stream::Snapshot,
            matched: 0,
            round: 0,
            told: 0,
            heard_at: now,
            sent_at: now,
        }
    }

    fn open(next: u64, now: u64, since_round: u64) -> Stream {
        Stream::Open {
            next,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress_at: now,
            since_round,
        }
    }
}

impl Replica {
    /// Appends one entry of this epoch and gives its index. `wall_millis` is the wall clock; the entry's timestamp
    /// never runs backwards. Nothing is sent or written before [`Replica::flush`].
    ///
    /// # Panics
    /// Unless [`Replica::serving`].
    pub fn propose(&mut self, effects: bytes::Bytes, wall_millis: u64) -> u64 {
        assert!(self.serving(), "only a serving primary proposes");
        self.append_own(EntryBody::Effects(effects), wall_millis);
        self.log.last().id.index
    }

    /// Names the round that confirms a read which arrived now: it is not sent yet.
    pub fn read_barrier(&mut self) -> u64 {
        match &mut self.role {
            Role::Primary(primary) if primary.quorum.read > 1 => {
                primary.round_wanted = true;
                if mutation::active(Mutation::ConfirmBeforeRead) {
                    return primary.confirmed_round();
                }
                primary.round + 1
            }
            Role::Primary(primary) => primary.round,
            Role::Follower(_) => u64::MAX,
        }
    }

    /// The last round that V_r members have confirmed.
    #[must_use]
    pub fn confirmed_round(&self) -> u64 {
        match &self.role {
            Role::Primary(primary) => primary.confirmed_round(),
            Role::Follower(_) => 0,
        }
    }

    /// Bytes of entries that wait for their commit: what a bounded runtime looks at before it takes more.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.role {
            Role::Primary(primary) => primary.uncommitted_bytes,
            Role::Follower(_) => 0,
        }
    }

    /// True if another member holds the whole log durably: the time to hand over.
    #[must_use]
    pub fn has_successor(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary
                .peers
                .values()
                .any(|peer| peer.session.is_some() && peer.matched == self.log.last().id.index),
            Role::Follower(_) => false,
        }
    }

    /// Gives what is due: entries and rounds to the members first, then the append to the own log.
    pub fn flush(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.round_wanted && primary.round - primary.confirmed_round() < MAX_ROUNDS_IN_FLIGHT {
            primary.round_wanted = false;
            primary.open_round();
            self.send_to_all(true, now, out);
        } else {
            self.send_to_all(false, now, out);
        }
        if let Role::Primary(primary) = &mut self.role
            && !primary.unflushed.is_empty()
        {
            let entries = std::mem::take(&mut primary.unflushed);
            out.push(self.append_effect(entries));
        }
    }

    pub(super) fn append_effect(&self, entries: Vec<Arc<Entry>>) -> Effect {
        Effect::AppendLog {
            generation: self.generation,
            commit: self.commit,
            entries,
        }
    }

    pub(super) fn append_own(&mut self, body: EntryBody, wall_millis: u64) {
        let timestamp = wall_millis.max(self.log.clock());
        let Role::Primary(primary) = &mut self.role else { return };
        let entry = Arc::new(Entry::next(self.log.last(), primary.epoch, timestamp, body));
        primary.uncommitted_bytes += entry.encoded_len();
        primary.unflushed.push(Arc::clone(&entry));
        self.log.push(entry);
        self.applied = self.log.last().id.index;
    }

    /// Opens the streams to every member that is connected.
    pub(super) fn start_streams(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &self.role else { return };
        let peers: Vec<Incarnation> = primary
            .peers
            .iter()
            .filter(|(_, peer)| peer.session.is_some())
            .map(|(id, _)| *id)
            .collect();
        for peer in peers {
            self.probe(peer, now, out);
        }
    }

    pub(super) fn on_link_up(&mut self, peer: Incarnation, session: Session, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(state) = primary.peers.get_mut(&peer) else { return };
        state.session = Some(session);
        self.probe(peer, now, out);
        self.flush(now, out);
    }

    pub(super) fn on_link_down(&mut self, session: Session) {
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(peer) = primary.peer_mut(session)
            && !mutation::active(Mutation::OldConnectionAccepted)
        {
            peer.session = None;
            peer.stream = Stream::Down;
        }
    }

    /// Asks a member where its log stands, by an append without entries at the end of this log.
    fn probe(&mut self, peer: Incarnation, now: u64, out: &mut Vec<Effect>) {
        // Entries that are not flushed yet are not on their way: the probe speaks of the log before them.
        let Role::Primary(primary) = &mut self.role else { return };
        let prev = match primary.unflushed.first() {
            Some(first) => self.log.position_at(first.id.index - 1).unwrap_or_default(),
            None => self.log.last(),
        };
        self.probe_at(peer, prev, now, out);
    }

    fn probe_at(&mut self, peer: Incarnation, prev: Position, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let round = primary.open_round();
        let (epoch, commit) = (primary.epoch, self.commit);
        let Some(state) = primary.peers.get_mut(&peer) else { return };
        let Some(session) = state.session else { return };
        state.stream = Stream::Probe {
            round,
            prev: prev.id.index,
            sent_at: now,
        };
        state.sent_at = now;
        out.push(Effect::Send(
            session,
            Append {
                epoch,
                prev,
                commit,
                round,
                entries: Vec::new(),
            },
        ));
    }

    fn send_to_all(&mut self, new_round: bool, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &self.role else { return };
        let peers: Vec<Incarnation> = primary.peers.keys().copied().collect();
        for peer in peers {
            self.send_to(peer, new_round, now, out);
        }
    }

    /// Sends a member what its stream has room for; at least a sign if `sign` is set.
    fn send_to(&mut self, peer: Incarnation, sign: bool, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let (epoch, round, commit) = (primary.epoch, primary.round, self.commit);
        let Settings {
            max_append_bytes,
            max_in_flight_bytes,
            ..
        } = self.settings;
        let Some(state) = primary.peers.get_mut(&peer) else { return };
        let Some(session) = state.session else { return };
        let mut sent = false;
        if let Stream::Open {
            next,
            in_flight,
            bytes,
            progress_at,
            ..
        } = &mut state.stream
        {
            while *next <= self.log.last().id.index && *bytes < max_in_flight_bytes {
                let prev = self.log.position_at(*next - 1);
                let (Some(prev), Some(entries)) = (prev, self.log.entries(*next - 1, max_append_bytes)) else {
                    break;
                };
                let length = entries.iter().map(|entry| entry.encoded_len()).sum();
                if in_flight.is_empty() {
                    *progress_at = now;
                }
                *next += entries.len() as u64;
                *bytes += length;
                in_flight.push_back((*next - 1, length));
                out.push(Effect::Send(
                    session,
                    Append {
                        epoch,
                        prev,
                        commit,
                        round,
                        entries,
                    },
                ));
                sent = true;
            }
            // One piece from the file at a time: the member sets the pace.
            if in_flight.is_empty() && *next <= self.log.last().id.index {
                let after = *next - 1;
                state.stream = log_reading(session, after, max_append_bytes, out);
            }
        }
        if sent || sign {
            if !sent {
                // Position 0 fits every log: a sign that needs no agreement.
                let prev = match &state.stream {
                    Stream::Open { next, .. } => self.log.position_at(*next - 1).unwrap_or_default(),
                    Stream::Probe { .. } | Stream::Reading { .. } | Stream::Snapshot | Stream::Down => Position::default(),
                };
                out.push(Effect::Send(
                    session,
                    Append {
                        epoch,
                        prev,
                        commit,
                        round,
                        entries: Vec::new(),
                    },
                ));
            }
            state.sent_at = now;
            state.told = commit;
        }
    }

    pub(super) fn on_append_ack(&mut self, session: Session, ack: AppendAck, now: u64, out: &mut Vec<Effect>) {
        let last = self.log.last().id.index;
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(Mismatch::Promised(epoch)) = ack.mismatch {
            if epoch > self.hard.promised && primary.peer_mut(session).is_some() {
                self.promise(epoch, None, out);
            }
            return;
        }
        if ack.epoch != primary.epoch || ack.durable > last {
            return;
        }
        let Some((&incarnation, peer)) = primary.peers.iter_mut().find(|(_, peer)| peer.session == Some(session)) else {
            return;
        };
        peer.heard_at = now;
        peer.round = peer.round.max(ack.round);
        if ack.durable > peer.matched {
            peer.matched = ack.durable;
        }
        let mut agreed = None;
        match (&mut peer.stream, ack.mismatch) {
            (Stream::Probe { round, .. }, Some(Mismatch::Diverges(id))) if ack.round >= *round => agreed = Some(id),
            (Stream::Probe { round, prev, .. }, None) if ack.round >= *round => {
                let since = ack.round;
                peer.stream = Peer::open(*prev + 1, now, since);
            }
            (Stream::Open { since_round, .. }, Some(Mismatch::Diverges(id))) if ack.round > *since_round => agreed = Some(id),
            (
                Stream::Open {
                    in_flight,
                    bytes,
                    progress_at,
                    ..
                },
                None,
            ) => {
                while in_flight.front().is_some_and(|&(through, _)| through <= peer.matched) {
                    let (_, length) = in_flight.pop_front().expect("checked by the condition");
                    *bytes -= length;
                    *progress_at = now;
                }
            }
            _ => {}
        }
        if let Some(bound) = agreed {
            self.resume_from(incarnation, bound, now, out);
        }
        self.advance_commit(out);
        self.flush(now, out);
    }

    /// The member holds `bound`, its log may agree with this one up to there: streams from there, or asks further back.
    fn resume_from(&mut self, peer: Incarnation, bound: EntryId, now: u64, out: &mut Vec<Effect>) {
        let agreement = self.log.agreement(bound);
        if let Some(id) = agreement
            && id != bound
            && let Some(prev) = self.log.position_at(id.index)
        {
            // Not an entry that the member is known to hold: a window of entries from here would most likely be refused
            // one by one.
            self.probe_at(peer, prev, now, out);
            return;
        }
        let Role::Primary(primary) = &mut self.role else { return };
        // What was sent before carries a lower round: its refusals say nothing about the new stream.
        let round = primary.round;
        primary.round += 1;
        let Some(state) = primary.peers.get_mut(&peer) else { return };
        let Some(session) = state.session else { return };
        state.stream = match agreement {
            None => {
                out.push(Effect::SendSnapshot(session));
                Stream::Snapshot
            }
            Some(id) if self.log.position_at(id.index).is_none() => log_reading(session, id.index, self.settings.max_append_bytes, out),
            Some(id) => Peer::open(id.index + 1, now, round),
        };
        self.send_to(peer, true, now, out);
    }

    pub(super) fn on_log_read(&mut self, session: Session, read: Option<(Position, Vec<Arc<Entry>>)>, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let (epoch, round, commit) = (primary.epoch, primary.round, self.commit);
        let Some(state) = primary.peer_mut(session) else { return };
        let Stream::Reading { next } = state.stream else { return };
        let Some((prev, entries)) = read else {
            state.stream = Stream::Snapshot;
            out.push(Effect::SendSnapshot(session));
            return;
        };
        if prev.id.index + 1 != next {
            return;
        }
        // What was read before this replica was deposed and came back may have been cut off since: it is not of this log.
        if let Some(end) = entries.last()
            && self.log.id_at(end.id.index) != Some(end.id)
        {
            state.stream = log_reading(session, prev.id.index, self.settings.max_append_bytes, out);
            return;
        }
        let length = entries.iter().map(|entry| entry.encoded_len()).sum();
        let through = prev.id.index + entries.len() as u64;
        state.stream = Stream::Open {
            next: through + 1,
            in_flight: VecDeque::from([(through, length)]),
            bytes: length,
            progress_at: now,
            // Answers to this very append carry this round, and a refusal among them has to count: it tells where to go on.
            since_round: round.saturating_sub(1),
        };
        state.sent_at = now;
        out.push(Effect::Send(
            session,
            Append {
                epoch,
                prev,
                commit,
                round,
                entries,
            },
        ));
        self.flush(now, out);
    }

    pub(super) fn on_snapshot_delivered(&mut self, session: Session, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &self.role else { return };
        let found = primary
            .peers
            .iter()
            .find(|(_, peer)| peer.session == Some(session))
            .map(|(id, _)| *id);
        if let Some(peer) = found {
            self.probe(peer, now, out);
        }
    }

    pub(super) fn on_log_durable(&mut self, generation: u64, index: u64, out: &mut Vec<Effect>) {
        if generation != self.generation {
            return;
        }
        self.durable = self.durable.max(index.min(self.log.last().id.index));
        self.forget_proposals();
        self.make_good(out);
        self.acknowledge_durable(out);
        self.advance_commit(out);
        self.log.shrink_tail(self.applied.min(self.commit).min(self.durable));
    }

    fn advance_commit(&mut self, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let own = match mutation::active(Mutation::CountOwnBeforeSync) {
            true => self.log.last().id.index,
            false => self.durable,
        };
        let replicated = primary.replicated(own);
        if mutation::active(Mutation::CommitOldEpoch) && replicated < primary.start {
            self.commit_through(replicated, out);
            return;
        }
        // Entries of older epochs are committed by the first of this one, never by being counted.
        if replicated < primary.start || replicated <= self.commit {
            return;
        }
        let settled: usize = match self.log.entries(self.commit.max(primary.start - 1), usize::MAX) {
            Some(entries) => entries
                .iter()
                .take_while(|e| e.id.index <= replicated)
                .map(|e| e.encoded_len())
                .sum(),
            None => 0,
        };
        primary.uncommitted_bytes = primary.uncommitted_bytes.saturating_sub(settled);
        self.commit_through(replicated, out);
        self.begin_serving(out);
    }

    /// The epoch start is committed: clients and the driver may hear of it.
    pub(super) fn begin_serving(&mut self, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if std::mem::replace(&mut primary.serving, true) {
            return;
        }
        let (epoch, index) = (primary.epoch, primary.start);
        out.push(Effect::Serving(epoch));
        for waiter in std::mem::take(&mut primary.waiters) {
            out.push(self.activate_reply(waiter, epoch, Ok(EntryId { epoch, index })));
        }
    }

    pub(super) fn on_tick(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Settings {
            heartbeat_millis,
            resend_millis,
            ..
        } = self.settings;
        let commit = self.commit;
        let Role::Primary(primary) = &mut self.role else { return };
        let (mut lost, mut quiet) = (Vec::new(), Vec::new());
        for (&incarnation, peer) in primary.peers.iter().filter(|(_, peer)| peer.session.is_some()) {
            let stuck_since = match &peer.stream {
                Stream::Probe { sent_at, .. } => Some(*sent_at),
                Stream::Open {
                    in_flight, progress_at, ..
                } if !in_flight.is_empty() => Some(*progress_at),
                Stream::Open { .. } | Stream::Reading { .. } | Stream::Snapshot | Stream::Down => None,
            };
            if stuck_since.is_some_and(|since| now.saturating_sub(since) >= resend_millis) {
                lost.push(incarnation);
            } else if now.saturating_sub(peer.sent_at) >= heartbeat_millis || peer.told < commit && now > peer.sent_at {
                quiet.push(incarnation);
            }
        }
        // A round may have been lost with its message: whoever waits for it needs another.
        if primary.round > primary.confirmed_round() && !quiet.is_empty() {
            primary.open_round();
        }
        for peer in lost {
            self.probe(peer, now, out);
        }
        for peer in quiet {
            self.send_to(peer, true, now, out);
        }
        self.flush(now, out);
    }
}
