//! Following: entries in, acknowledgements out.

use super::{Replica, Role};
use crate::event::{Effect, Session, Tail};
use crate::log_view::LogView;
use crate::mutation::{self, Mutation};
use quorate_api::wire::{Append, AppendAck, Mismatch, Reply, SnapshotChunk};
use quorate_api::{Configuration, DiskRoom, Entry, EntryId, Epoch, Incarnation, Position};
use std::sync::Arc;

/// What a follower knows in the epoch that it has promised.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    /// The primary of the promised epoch, once heard.
    pub(super) heard: Option<Heard>,
    /// The log equals the primary's up to here. 0 until the primary of this epoch has shown it.
    matched: u64,
    /// The primary of this epoch has said, since this replica started, where its log ended.
    told_end: bool,
    /// Highest read round seen in this epoch.
    round: u64,
    /// Entries were written that the primary has no acknowledgement for.
    owes_ack: bool,
}

/// The last sign of the primary.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) primary: Incarnation,
    pub(super) session: Session,
    pub(super) at: u64,
    pub(super) connected: bool,
}

impl Follower {
    pub(super) fn matched(&self) -> u64 {
        self.matched
    }
}

impl Replica {
    /// Whether a message of `epoch` from its primary may be taken; promises the epoch if it is new here.
    fn hear(&mut self, from: Session, peer: Option<Incarnation>, epoch: Epoch, now: u64, out: &mut Vec<Effect>) -> bool {
        let Some(primary) = peer else { return false };
        if epoch < self.hard.promised {
            return false;
        }
        if epoch > self.hard.promised {
            self.promise(epoch, None, out);
        }
        match &mut self.role {
            // Its own epoch from somebody else: nobody else serves it, so this is noise.
            Role::Primary(_) => false,
            Role::Follower(follower) => {
                follower.heard = Some(Heard {
                    primary,
                    session: from,
                    at: now,
                    connected: true,
                });
                true
            }
        }
    }

    pub(super) fn on_append(&mut self, from: Session, peer: Option<Incarnation>, append: Append, now: u64, out: &mut Vec<Effect>) {
        let epoch = append.epoch;
        if !self.hear(from, peer, epoch, now, out) {
            let mismatch = Some(Mismatch::Promised(self.hard.promised));
            out.push(Effect::Reply(
                from,
                Reply::AppendAck(AppendAck {
                    epoch,
                    durable: 0,
                    round: 0,
                    mismatch,
                    disk: self.disk,
                    held: 0,
                }),
            ));
            return;
        }
        self.bound_loss(&append);
        let Append {
            epoch: _,
            prev,
            commit,
            round,
            entries,
        } = append;
        let news = self.follower().is_some_and(|follower| round > follower.round);
        if let Some(follower) = self.follower_mut() {
            follower.round = follower.round.max(round);
        }
        // On a full disk an append is a sign of life: nothing of it is taken, and no answer asks for more.
        let full = self.disk == DiskRoom::Full;
        let entries = if full { Vec::new() } else { entries };
        if let Some(mismatch) = self.mismatch(prev) {
            match full {
                true => self.acknowledge(from, out),
                false => self.refuse(from, round, mismatch, out),
            }
            return;
        }
        let through = prev.id.index + entries.len() as u64;
        let fresh = self.take_entries(prev, entries, out);
        let wrote = !fresh.is_empty();
        if wrote {
            for entry in &fresh {
                self.log.push(Arc::clone(entry));
            }
            // The confirmation does not wait for the sync: it says only that the promise is unbroken.
            if news {
                self.acknowledge(from, out);
            }
            out.push(Effect::AppendLog {
                generation: self.generation,
                commit: commit.min(through),
                entries: fresh,
            });
        }
        let last = self.log.last().id.index;
        let follower = self.follower_mut().expect("hear() leaves a follower");
        follower.matched = follower.matched.max(through.min(last));
        let matched = follower.matched;
        if wrote {
            follower.owes_ack = true;
        } else {
            self.make_good(out);
            self.acknowledge(from, out);
        }
        self.commit_through(commit.min(matched), out);
    }

    /// Whatever this replica acknowledged in an epoch, its primary holds, and never cuts while it serves. A primary opens a
    /// connection by a probe at the end of its log, and goes back only for an answer: so the first append that names a
    /// position speaks of all that was acknowledged before this replica started, and what was lost of this epoch ends there.
    /// Without this, a loss whose extent is not known would be made good only by as many entries as it can have been.
    fn bound_loss(&mut self, append: &Append) {
        let Some(follower) = self.follower_mut() else { return };
        let names_position = append.prev.id.index > 0;
        if !names_position || std::mem::replace(&mut follower.told_end, true) {
            return;
        }
        let end = append.prev.id.index + append.entries.len() as u64;
        if let Some(lost) = &mut self.hard.unreadable
            && lost.epoch == append.epoch
        {
            lost.index = lost.index.min(end);
        }
    }

    /// Why entries after `prev` cannot be taken; None if they can.
    fn mismatch(&self, prev: Position) -> Option<Mismatch> {
        if prev.id.index <= self.commit {
            return None;
        }
        let last = self.log.last();
        let fits = if prev.id == last.id {
            prev.chain == last.chain
        } else {
            self.log.id_at(prev.id.index) == Some(prev.id)
        };
        if fits {
            return None;
        }
        let bound = EntryId {
            epoch: prev.id.epoch,
            index: prev.id.index - 1,
        };
        match self.log.agreement(bound) {
            Some(id) => Some(Mismatch::Diverges(id)),
            None => Some(Mismatch::Diverges(self.log.base().id)),
        }
    }

    /// Drops what the log holds already, cuts what differs, and gives what is to be appended.
    fn take_entries(&mut self, prev: Position, entries: Vec<Arc<Entry>>, out: &mut Vec<Effect>) -> Vec<Arc<Entry>> {
        let mut before = prev;
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.peek() {
            let held = entry.id.index <= self.log.base().id.index || self.log.id_at(entry.id.index) == Some(entry.id);
            if !held {
                break;
            }
            before = entry.position();
            entries.next();
        }
        if entries.peek().is_none() {
            return Vec::new();
        }
        if before.id.index < self.log.last().id.index {
            self.cut_after(before, out);
        }
        let mut fresh = Vec::new();
        for entry in entries {
            // A frame whose chain does not hold is not the primary's log: take what came before it.
            if !entry.follows(before) {
                break;
            }
            before = entry.position();
            fresh.push(entry);
        }
        fresh
    }

    fn cut_after(&mut self, position: Position, out: &mut Vec<Effect>) {
        let index = position.id.index;
        assert!(
            index >= self.commit,
            "committed entries are never cut: asked to cut after {index}, committed {}",
            self.commit
        );
        self.keep_aside(index, true, out);
        self.log.truncate_after(position);
        self.generation += 1;
        self.durable = self.durable.min(index);
        out.push(Effect::TruncateLog(index));
        if self.applied > index {
            self.applied = self.commit;
            out.push(Effect::Rebuild(self.commit));
        }
    }

    /// Entries after `index` go, and clients may have been told that they are done.
    fn keep_aside(&self, index: u64, exact: bool, out: &mut Vec<Effect>) {
        let entries = self.log.acknowledged_tail(index);
        if !entries.is_empty() && !mutation::active(Mutation::TailForgotten) {
            let epoch = self.hard.promised;
            out.push(Effect::KeepAside(Tail { entries, epoch, exact }));
        }
    }

    pub(super) fn acknowledge_durable(&mut self, out: &mut Vec<Effect>) {
        let Some(follower) = self.follower_mut() else { return };
        if !std::mem::take(&mut follower.owes_ack) {
            return;
        }
        if let Some(heard) = &follower.heard
            && heard.connected
        {
            let session = heard.session;
            self.acknowledge(session, out);
        }
    }

    fn acknowledge(&self, to: Session, out: &mut Vec<Effect>) {
        let Some(follower) = self.follower() else { return };
        out.push(self.append_ack(to, follower, follower.round, None));
    }

    /// A refusal carries the round of what it refuses: the primary tells by it which of its streams is meant.
    fn refuse(&self, to: Session, round: u64, mismatch: Mismatch, out: &mut Vec<Effect>) {
        let Some(follower) = self.follower() else { return };
        out.push(self.append_ack(to, follower, round, Some(mismatch)));
    }

    fn append_ack(&self, to: Session, follower: &Follower, round: u64, mismatch: Option<Mismatch>) -> Effect {
        let held = match mutation::active(Mutation::AckBeforeSync) {
            true => follower.matched,
            false => self.durable.min(follower.matched),
        };
        let durable = if self.damaged() { 0 } else { held };
        let ack = AppendAck {
            epoch: self.hard.promised,
            durable,
            round,
            mismatch,
            disk: self.disk,
            held,
        };
        Effect::Reply(to, Reply::AppendAck(ack))
    }

    pub(super) fn on_snapshot_chunk(
        &mut self,
        from: Session,
        peer: Option<Incarnation>,
        chunk: SnapshotChunk,
        now: u64,
        out: &mut Vec<Effect>,
    ) {
        if self.hear(from, peer, chunk.epoch, now, out) {
            out.push(Effect::ReceiveSnapshot(from, chunk));
        }
    }

    pub(super) fn on_snapshot_received(
        &mut self,
        position: Position,
        configuration: (EntryId, Configuration),
        timestamp_millis: u64,
        out: &mut Vec<Effect>,
    ) {
        // Entries held beyond the snapshot may have been acknowledged: a snapshot of a prefix of this log replaces nothing.
        let held = position.id.index <= self.commit || self.log.id_at(position.id.index) == Some(position.id);
        let held = held && !mutation::active(Mutation::SnapshotReplacesLongerLog);
        if matches!(self.role, Role::Primary(_)) || held {
            return;
        }
        self.keep_aside(self.commit, false, out);
        self.log = LogView::new(position, Some(configuration), timestamp_millis.max(self.log.clock()));
        self.generation += 1;
        self.durable = position.id.index;
        self.applied = position.id.index;
        if let Some(follower) = self.follower_mut() {
            follower.matched = 0;
            follower.owes_ack = false;
        }
        out.push(Effect::InstallSnapshot(position));
        self.commit_through(position.id.index, out);
    }

    pub(super) fn on_session_closed(&mut self, session: Session) {
        if let Some(follower) = self.follower_mut()
            && let Some(heard) = &mut follower.heard
            && heard.session == session
        {
            heard.connected = false;
        }
        if let Role::Primary(primary) = &mut self.role {
            primary.waiters.retain(|waiter| *waiter != session);
        }
    }

    pub(super) fn follower(&self) -> Option<&Follower> {
        match &self.role {
            Role::Follower(follower) => Some(follower),
            Role::Primary(_) => None,
        }
    }

    pub(super) fn follower_mut(&mut self) -> Option<&mut Follower> {
        match &mut self.role {
            Role::Follower(follower) => Some(follower),
            Role::Primary(_) => None,
        }
    }
}
