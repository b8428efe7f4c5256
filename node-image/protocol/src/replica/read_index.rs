//! Reads on a follower: the primary is asked which index a reader has to see, and answers once V_r members have confirmed,
//! after the question arrived, that it is still the primary. The follower's state may be read once it holds that index.
//!
//! Follower and primary number nothing in common: a question has a number of the follower, and whoever answers it serves
//! an epoch at a time after it was asked. So a question that was lost, or whose primary is gone, is asked anew under a higher
//! number, and readers that waited for the lower one are served by the higher.
//!
//! Questions gather: at most [`MAX_ASKS`] are on their way, and one serves every reader that came before it was sent.

use super::{Replica, Role};
use crate::event::{Effect, Session};
use crate::mutation::{self, Mutation};
use quorate_api::wire::{ReadIndexAnswer, Reply};
use std::collections::VecDeque;

/// Questions under way at once: one travels while the next gathers.
const MAX_ASKS: usize = 2;
/// Questions that a primary keeps: some for each of its followers, the repeated ones included. The oldest go first; whoever
/// asked them asks again.
const MAX_READERS: usize = 256;

/// What a follower has asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    /// The last number given.
    asked: u64,
    /// A reader waits for a question that is not sent yet.
    wanted: bool,
    /// Numbers without an answer, and when each was sent.
    open: VecDeque<(u64, u64)>,
    /// Answers whose index the state does not hold yet: number, when it was sent, index.
    answered: VecDeque<(u64, u64, u64)>,
    /// The state holds the answer to this question, and when that one was sent.
    confirmed: Option<(u64, u64)>,
}

/// A follower's question at its primary.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    from: Session,
    number: u64,
    index: u64,
    round: u64,
}

impl Replica {
    /// Names the question to the primary that a read which arrived now on this follower has to wait for.
    pub fn ask_barrier(&mut self) -> u64 {
        self.asks.wanted = true;
        match mutation::active(Mutation::ReadIndexOfBefore) {
            true => self.asks.confirmed.map_or(1, |(number, _)| number),
            false => self.asks.asked + 1,
        }
    }

    /// The last question whose answer the state holds: a read that waited for it may be executed now, if
    /// [`Replica::state_is_committed`].
    #[must_use]
    pub fn confirmed_ask(&self) -> u64 {
        self.asks.confirmed.map_or(0, |(number, _)| number)
    }

    /// The state holds every write that was acknowledged up to this time of the clock given to [`Replica::step`]. None if that is
    /// not known.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<u64> {
        self.asks.confirmed.map(|(_, sent_at)| sent_at)
    }

    /// Sends a question if a reader waits for one.
    pub(super) fn ask(&mut self, now: u64, out: &mut Vec<Effect>) {
        self.settle_asks();
        if !self.asks.wanted || self.asks.open.len() >= MAX_ASKS {
            return;
        }
        let Role::Follower(follower) = &self.role else { return };
        let Some(primary) = follower.heard.as_ref().filter(|heard| heard.connected).map(|heard| heard.primary) else {
            return;
        };
        let Some(session) = self.links.get(&primary) else { return };
        self.asks.wanted = false;
        self.asks.asked += 1;
        self.asks.open.push_back((self.asks.asked, now));
        out.push(Effect::AskReadIndex(*session, self.asks.asked));
    }

    /// Whatever is on its way may be lost with its primary.
    pub(super) fn ask_again(&mut self) {
        self.asks.wanted |= !self.asks.open.is_empty();
        self.asks.open.clear();
    }

    /// Questions that nobody answers are taken for lost.
    pub(super) fn repeat_asks(&mut self, now: u64) {
        let late = |&(_, sent_at): &(u64, u64)| now.saturating_sub(sent_at) >= self.settings.resend_millis;
        if self.asks.open.iter().any(late) {
            self.ask_again();
        }
    }

    pub(super) fn on_read_index_answer(&mut self, answer: ReadIndexAnswer) {
        let ReadIndexAnswer { number, index } = answer;
        let asks = &mut self.asks;
        let Some(place) = asks.open.iter().position(|(open, _)| *open == number) else {
            return;
        };
        let Some((_, sent_at)) = asks.open.remove(place) else { return };
        match index {
            Some(index) => asks.answered.push_back((number, sent_at, index)),
            // Not the primary, or not any more: somebody will be.
            None => asks.wanted = true,
        }
    }

    /// Looks which answers the state holds by now. What a state holds beyond the commit index counts for nothing.
    fn settle_asks(&mut self) {
        let held = self.applied.min(self.commit);
        let asks = &mut self.asks;
        while let Some((number, sent_at, _)) = asks.answered.pop_front_if(|(_, _, index)| *index <= held) {
            asks.confirmed = asks.confirmed.max(Some((number, sent_at)));
        }
    }

    pub(super) fn on_read_index(&mut self, from: Session, number: u64, now: u64, out: &mut Vec<Effect>) {
        if !self.serving() {
            let answer = ReadIndexAnswer { number, index: None };
            out.push(Effect::Reply(from, Reply::ReadIndex(answer)));
            return;
        }
        // Every write that was acknowledged before this moment is at or below it.
        let index = self.acknowledged();
        let round = match mutation::active(Mutation::ReadIndexUnconfirmed) {
            true => 0,
            false => self.read_barrier(),
        };
        if let Role::Primary(primary) = &mut self.role {
            if primary.readers.len() >= MAX_READERS {
                primary.readers.pop_front();
            }
            primary.readers.push_back(Reader {
                from,
                number,
                index,
                round,
            });
        }
        self.answer_readers(out);
        self.flush(now, out);
    }

    /// Answers followers whose round is confirmed.
    pub(super) fn answer_readers(&mut self, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.readers.is_empty() {
            return;
        }
        let confirmed = primary.confirmed_round();
        while let Some(reader) = primary.readers.pop_front_if(|reader| reader.round <= confirmed) {
            let answer = ReadIndexAnswer {
                number: reader.number,
                index: Some(reader.index),
            };
            out.push(Effect::Reply(reader.from, Reply::ReadIndex(answer)));
        }
    }
}
