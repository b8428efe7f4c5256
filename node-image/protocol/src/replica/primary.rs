//! Serving an epoch: own entries, commit by quorum, rounds that confirm reads. What travels to the members is the matter of
//! [`super::streams`].

use super::read_index::Reader;
use super::streams::{Peer, Stream};
use super::{Replica, Role};
use crate::event::{Effect, Session};
use crate::mutation::{self, Mutation};
use quorate_api::{Configuration, DiskRoom, Entry, EntryBody, EntryId, Epoch, Incarnation, Member, PeerStatus, Quorum};
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
    /// Members and learners.
    pub(super) peers: BTreeMap<Incarnation, Peer>,
    /// Learners that the operator named.
    pub(super) admitted: Vec<Member>,
    /// Members of before that do not know yet that they were dropped.
    pub(super) dropped: Vec<Member>,
    /// The last round sent. Everything sent carries it.
    pub(super) round: u64,
    /// A read waits for a round above `round`.
    round_wanted: bool,
    /// Bytes of entries above the commit index.
    uncommitted_bytes: usize,
    /// Followers that wait to hear that this is still the primary.
    pub(super) readers: VecDeque<Reader>,
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
            admitted: Vec::new(),
            dropped: Vec::new(),
            round: 0,
            round_wanted: false,
            uncommitted_bytes: 0,
            readers: VecDeque::new(),
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
            learner: peer.learner,
            disk: peer.disk,
        };
        self.peers.iter().map(status).collect()
    }

    /// The highest index that a commit quorum, this one included, holds durably.
    fn replicated(&self, own: u64) -> u64 {
        let quorum = match mutation::active(Mutation::AcknowledgedIsCommitted) {
            true => self.quorum.write,
            false => self.quorum.commit(),
        };
        nth_greatest(self.members().map(|peer| peer.matched), own, quorum)
    }

    pub(super) fn confirmed_round(&self) -> u64 {
        nth_greatest(self.members().map(|peer| peer.round), u64::MAX, self.quorum.read).min(self.round)
    }

    /// Those that count.
    fn members(&self) -> impl Iterator<Item = &Peer> {
        self.peers
            .values()
            .filter(|peer| !peer.learner || mutation::active(Mutation::LearnerCounted))
    }

    /// Those that do not, each once.
    pub(super) fn learners(&self) -> impl Iterator<Item = &Member> {
        let again = |member: &&Member| self.admitted.iter().any(|m| m.incarnation == member.incarnation);
        self.admitted.iter().chain(self.dropped.iter().filter(move |member| !again(member)))
    }

    pub(super) fn peer_mut(&mut self, session: Session) -> Option<&mut Peer> {
        self.peers.values_mut().find(|peer| peer.session == Some(session))
    }

    pub(super) fn open_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }
}

/// The greatest value that `quorum` members reach, this replica's `own` among them.
fn nth_greatest(others: impl Iterator<Item = u64>, own: u64, quorum: u32) -> u64 {
    let mut values: Vec<u64> = others.chain([own]).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(quorum as usize - 1).copied().unwrap_or(0)
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

    /// Every entry up to this index may be acknowledged to clients: what is committed, and with
    /// [`quorate_api::Consistency::Eventual`] what V_w members hold durably, once this primary serves.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        match &self.role {
            Role::Primary(primary) if primary.serving && primary.quorum.write < primary.quorum.commit() => {
                let held = nth_greatest(primary.members().map(|peer| peer.matched), self.durable, primary.quorum.write);
                held.max(self.commit)
            }
            Role::Primary(_) | Role::Follower(_) => self.commit,
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

    /// Members whose disks have room, this one counted without a look at its own, and how many a write needs: set if full
    /// disks make the former less than the latter. Other members that are away count as those without room then.
    ///
    /// A write needs the write quorum. Where that is less than commits it, full disks count as any other failure: it is
    /// acknowledged, until as much as [`crate::Settings::max_unsettled_bytes`] waits for a member with room.
    #[must_use]
    pub fn lacks_room(&self) -> Option<(usize, usize)> {
        let Role::Primary(primary) = &self.role else { return None };
        let needed = match primary.uncommitted_bytes < self.settings.max_unsettled_bytes {
            true => primary.quorum.write,
            false => primary.quorum.commit(),
        };
        let needed = needed as usize;
        let has_room = |peer: &&Peer| peer.session.is_some() && peer.disk == DiskRoom::Ample;
        let with_room = 1 + primary.members().filter(has_room).count();
        let some_full = primary.members().any(|peer| peer.disk != DiskRoom::Ample);
        (some_full && with_room < needed).then_some((with_room, needed))
    }

    /// True if another member holds the whole log durably: the time to hand over.
    #[must_use]
    pub fn has_successor(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary
                .members()
                .any(|peer| peer.session.is_some() && peer.matched == self.log.last().id.index),
            Role::Follower(_) => false,
        }
    }

    /// Gives what is due: entries and rounds to the members first, then the append to the own log.
    pub fn flush(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else {
            self.ask(now, out);
            return;
        };
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

    pub(super) fn on_log_durable(&mut self, generation: u64, index: u64, out: &mut Vec<Effect>) {
        if generation != self.generation {
            return;
        }
        self.durable = self.durable.max(index.min(self.log.last().id.index));
        self.forget_proposals(out);
        self.make_good(out);
        self.acknowledge_durable(out);
        self.advance_commit(out);
        self.log.shrink_tail(self.applied.min(self.commit).min(self.durable));
    }

    pub(super) fn advance_commit(&mut self, out: &mut Vec<Effect>) {
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
        self.learner_changes += 1;
    }
}
