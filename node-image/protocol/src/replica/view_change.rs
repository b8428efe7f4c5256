//! A replica's side of a view change: promise, answer, serve.

use super::follower::Follower;
use super::primary::Primary;
use super::{Replica, Role};
use crate::event::{Effect, Session};
use crate::mutation::{self, Mutation};
use quorate_api::wire::Reply;
use quorate_api::{ActivateAnswer, ActivateRefusal, ActivateRequest, EntryBody, EntryId, Epoch, FenceAnswer, FenceRequest, Proposal};

impl Replica {
    /// Promises `epoch`, durably before anything that follows in `out`, and leaves whatever this replica was.
    pub(super) fn promise(&mut self, epoch: Epoch, proposal: Option<Proposal>, out: &mut Vec<Effect>) {
        assert!(epoch > self.hard.promised, "a promise never falls");
        if let Role::Primary(primary) = std::mem::replace(&mut self.role, Role::Follower(Follower::default())) {
            // Entries that were proposed and not yet given to the log are part of it already.
            if !primary.unflushed.is_empty() {
                out.push(self.append_effect(primary.unflushed));
            }
            self.learner_changes += 1;
            out.push(Effect::SteppedDown(primary.epoch));
            for waiter in primary.waiters {
                out.push(self.activate_reply(waiter, primary.epoch, Err(ActivateRefusal::Deposed(epoch))));
            }
        }
        self.ask_again();
        self.hard.promised = epoch;
        self.hard.proposals.extend(proposal.map(|proposal| (epoch, proposal)));
        if !mutation::active(Mutation::PromiseNotSynced) {
            out.push(Effect::PersistHardState(self.hard.clone()));
        }
    }

    pub(super) fn on_fence(&mut self, from: Session, request: &FenceRequest, out: &mut Vec<Effect>) {
        let promised_before = self.hard.promised;
        if request.epoch > self.hard.promised {
            self.promise(request.epoch, Some(request.proposal.clone()), out);
        } else if request.epoch == self.hard.promised && !self.hard.proposals.iter().any(|(epoch, _)| *epoch == request.epoch) {
            // Promised to its primary before its driver's fence arrived: the proposal is kept all the same.
            self.hard.proposals.push((request.epoch, request.proposal.clone()));
            out.push(Effect::PersistHardState(self.hard.clone()));
        }
        // What was lost here may have been acknowledged: a choice that is less than that is no choice.
        let mut last = self.log.last().id.max(self.hard.unreadable.unwrap_or_default());
        if mutation::active(Mutation::DamageIgnored) {
            last = self.log.last().id;
        }
        if mutation::active(Mutation::PromiseIsEntryEpoch) && last.index > 0 && promised_before < request.epoch {
            last.epoch = promised_before;
        }
        let answer = FenceAnswer {
            incarnation: self.me,
            promised: self.hard.promised,
            last,
            commit: self.commit,
            damaged: self.damaged(),
            configurations: self.log.configurations().to_vec(),
            proposals: self.hard.proposals.clone(),
        };
        out.push(Effect::Reply(from, Reply::Fence(answer)));
    }

    pub(super) fn on_activate(&mut self, from: Session, request: ActivateRequest, now: u64, out: &mut Vec<Effect>) {
        if let Role::Primary(primary) = &mut self.role
            && primary.epoch == request.epoch
        {
            if primary.serving {
                let start = EntryId {
                    epoch: primary.epoch,
                    index: primary.start,
                };
                out.push(self.activate_reply(from, request.epoch, Ok(start)));
            } else if !primary.waiters.contains(&from) {
                primary.waiters.push(from);
            }
            return;
        }
        if let Some(refusal) = self.refusal(&request) {
            out.push(self.activate_reply(from, request.epoch, Err(refusal)));
            return;
        }
        self.hard.activated = request.epoch;
        out.push(Effect::PersistHardState(self.hard.clone()));
        // A primary executes on its latest appended state.
        self.apply_through(self.log.last().id.index, out);
        let start = self.log.last().id.index + 1;
        let dropped = self.dropped_by(&request.configuration);
        let mut primary = Primary::new(self.me, request.epoch, start, &request.configuration, &self.links, now);
        primary.dropped = dropped;
        self.role = Role::Primary(Box::new(primary.waiting(from)));
        self.append_own(EntryBody::EpochStart(request.configuration), 0);
        if mutation::active(Mutation::ServeBeforeEpochStart) {
            self.begin_serving(out);
        }
        self.start_streams(now, out);
        self.flush(now, out);
    }

    fn refusal(&self, request: &ActivateRequest) -> Option<ActivateRefusal> {
        let last = self.log.last().id;
        if self.hard.promised != request.epoch {
            Some(ActivateRefusal::Promised(self.hard.promised))
        } else if (self.hard.activated >= request.epoch && !mutation::active(Mutation::EpochReused))
            || (last != request.last
                && !mutation::active(Mutation::ActivateWithOtherLog)
                && !mutation::active(Mutation::PromiseIsEntryEpoch))
        {
            // Begun once already, before a restart, or changed since the driver looked.
            Some(ActivateRefusal::Moved(last))
        } else if self.damaged() || !request.configuration.contains(self.me) {
            Some(ActivateRefusal::NotEligible)
        } else {
            None
        }
    }

    pub(super) fn activate_reply(&self, to: Session, epoch: Epoch, outcome: Result<EntryId, ActivateRefusal>) -> Effect {
        Effect::Reply(
            to,
            Reply::Activate(ActivateAnswer {
                incarnation: self.me,
                epoch,
                outcome,
            }),
        )
    }
}
