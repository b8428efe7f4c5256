//! A primary's streams to its members: where each one's log stands, and what is on its way to it.
//!
//! A stream is opened by a probe (an append without entries at the end of the log); the answer tells where the logs
//! agree, and entries flow from there, pipelined, from memory, from the log file, or after a snapshot.

use super::{Replica, Role, Settings};
use crate::event::{Effect, Session};
use crate::mutation::{self, Mutation};
use quorate_api::wire::{Append, AppendAck, Mismatch};
use quorate_api::{DiskRoom, Entry, EntryId, Incarnation, Position};
use std::collections::VecDeque;
use std::sync::Arc;

/// One member's stream.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Counts in no quorum.
    pub(super) learner: bool,
    pub(super) session: Option<Session>,
    pub(super) stream: Stream,
    /// The member holds this log durably up to here.
    pub(super) matched: u64,
    /// Highest round it confirmed.
    pub(super) round: u64,
    /// Room on its disk, as it said last.
    pub(super) disk: DiskRoom,
    /// Commit index that it was told.
    pub(super) told: u64,
    pub(super) heard_at: u64,
    pub(super) sent_at: u64,
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) enum Stream {
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
    /// Waits for room on the member's disk, of which its answers tell.
    Full,
    /// There is no connection.
    Down,
}

/// Asks for entries after `after` from the log file.
fn log_reading(session: Session, after: u64, max_bytes: usize, out: &mut Vec<Effect>) -> Stream {
    out.push(Effect::ReadLog { session, after, max_bytes });
    Stream::Reading { next: after + 1 }
}

/// Whether a member that just answered can be sent entries. One that cannot is sent none until it says otherwise; a
/// snapshot that is on its way finds out for itself.
fn has_room(peer: &mut Peer) -> bool {
    if peer.disk != DiskRoom::Full {
        return true;
    }
    if matches!(peer.stream, Stream::Open { .. } | Stream::Probe { .. }) {
        peer.stream = Stream::Full;
    }
    false
}

impl Peer {
    pub(super) fn new(session: Option<Session>, now: u64) -> Self {
        Self {
            learner: false,
            session,
            stream: Stream::Snapshot,
            matched: 0,
            round: 0,
            disk: DiskRoom::Ample,
            told: 0,
            heard_at: now,
            sent_at: now,
        }
    }

    pub(super) fn learner(session: Option<Session>, now: u64) -> Self {
        Self {
            learner: true,
            ..Self::new(session, now)
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
            // What it said of its disk was before.
            peer.disk = DiskRoom::Ample;
        }
    }

    /// Asks a member where its log stands, by an append without entries at the end of this log.
    pub(super) fn probe(&mut self, peer: Incarnation, now: u64, out: &mut Vec<Effect>) {
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

    pub(super) fn send_to_all(&mut self, new_round: bool, now: u64, out: &mut Vec<Effect>) {
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
            heartbeat_millis,
            max_append_bytes,
            max_in_flight_bytes,
            ..
        } = self.settings;
        let Some(state) = primary.peers.get_mut(&peer) else { return };
        let Some(session) = state.session else { return };
        // No reader waits for a learner, and it gets a quarter of what a member may have on its way.
        let (sign, max_in_flight_bytes) = match state.learner {
            true => (
                sign && now.saturating_sub(state.sent_at) >= heartbeat_millis,
                max_in_flight_bytes / 4,
            ),
            false => (sign, max_in_flight_bytes),
        };
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
                    Stream::Probe { .. } | Stream::Reading { .. } | Stream::Snapshot | Stream::Full | Stream::Down => Position::default(),
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
            let counts = primary.peer_mut(session).is_some_and(|peer| !peer.learner);
            if epoch > self.hard.promised && counts {
                self.promise(epoch, None, out);
            }
            return;
        }
        if ack.epoch != primary.epoch || ack.durable.max(ack.held) > last {
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
        peer.disk = ack.disk;
        let waited = matches!(peer.stream, Stream::Full);
        if !has_room(peer) || waited {
            if !matches!(peer.disk, DiskRoom::Full) {
                // This answer tells of the room, and is none to the probe.
                self.probe(incarnation, now, out);
            }
            self.advance_commit(out);
            self.answer_readers(out);
            self.flush(now, out);
            return;
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
                while in_flight.front().is_some_and(|&(through, _)| through <= ack.held) {
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
        self.answer_readers(out);
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
                Stream::Open { .. } | Stream::Reading { .. } | Stream::Snapshot | Stream::Full | Stream::Down => None,
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
        self.tend_learners(now, out);
        self.flush(now, out);
    }
}
