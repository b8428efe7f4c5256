//! Clients: each has one operation under way, on one of a few registers, and notes what it knows of the outcome.

use super::linearize::{Did, Operation};
use super::world::{MILLI, What, World};
use super::{disk::KEYS, network::Message, network::OUTSIDE};
use rand::RngExt;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) key: usize,
    pub(crate) kind: Kind,
    /// A read that whoever it comes to shall answer, the primary or not.
    pub(crate) anywhere: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write(u64),
    /// Sets the second if the register holds the first.
    Swap(u64, u64),
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done; what was seen.
    Ok(u64),
    /// Nothing was done.
    Refused,
    /// It may have been done.
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    target: usize,
    /// Counts operations, so that what belongs to an earlier one is known as late.
    turn: u64,
    busy: Option<(Command, u64)>,
    /// What it saw last in each register.
    seen: [u64; KEYS],
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            target: 0,
            turn: 0,
            busy: None,
            seen: [0; KEYS],
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    /// The number of its operation.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }
}

impl World {
    /// A client begins an operation, or gives up on the one that it has.
    pub(crate) fn client(&mut self, number: usize, turn: u64) {
        if self.clients[number].turn != turn {
            return;
        }
        if self.clients[number].busy.is_some() {
            self.finish(number, Outcome::Unknown);
            return;
        }
        if self.ledger.closed {
            return;
        }
        let key = self.rng.random_range(0..KEYS);
        let value = self.next_operation;
        self.next_operation += 1;
        let kind = match self.rng.random_range(0..10) {
            0..4 => Kind::Read,
            4..8 => Kind::Write(value),
            _ => Kind::Swap(self.clients[number].seen[key], value),
        };
        let anywhere = kind == Kind::Read && self.rng.random_bool(self.profile.anywhere);
        let command = Command { key, kind, anywhere };
        let other = self.rng.random_range(0..self.hosts.len());
        let client = &mut self.clients[number];
        client.turn += 1;
        client.busy = Some((command, self.now));
        let (turn, target) = (client.turn, if anywhere { other } else { client.target });
        self.send(OUTSIDE, Message::Command(number, turn, target, command));
        let patience = self.profile.patience;
        self.schedule(patience, What::Client(number, turn));
    }

    /// A client hears of its operation.
    pub(crate) fn outcome(&mut self, number: usize, turn: u64, outcome: Outcome) {
        if self.clients[number].turn == turn && self.clients[number].busy.is_some() {
            self.finish(number, outcome);
        }
    }

    fn finish(&mut self, number: usize, outcome: Outcome) {
        let hosts = self.hosts.len();
        let client = &mut self.clients[number];
        let Some((command, called)) = client.busy.take() else { return };
        client.turn += 1;
        let (key, turn) = (command.key, client.turn);
        if let Some(told) = &mut self.ledger.told {
            told.note(number, command, called, self.now, outcome);
        }
        let did = match (command.kind, outcome) {
            (_, Outcome::Refused) | (Kind::Read, Outcome::Unknown) => None,
            (Kind::Read, Outcome::Ok(seen)) => Some(Did::Saw(seen)),
            (Kind::Write(value), Outcome::Ok(_)) => Some(Did::Wrote(value)),
            (Kind::Write(value), Outcome::Unknown) => Some(Did::MayHaveWritten(value)),
            (Kind::Swap(expected, new), Outcome::Ok(seen)) if seen == expected => Some(Did::Swapped(expected, new)),
            (Kind::Swap(..), Outcome::Ok(seen)) => Some(Did::Saw(seen)),
            (Kind::Swap(expected, new), Outcome::Unknown) => Some(Did::MayHaveSwapped(expected, new)),
        };
        match did {
            Some(Did::Saw(value) | Did::Wrote(value) | Did::Swapped(_, value)) => client.seen[key] = value,
            _ if command.anywhere => {}
            _ => client.target = self.rng.random_range(0..hosts),
        }
        if let Some(did) = did {
            self.ledger.histories[key].push(Operation {
                called,
                returned: self.now,
                did,
            });
            self.ledger.answered += u64::from(!matches!(did, Did::MayHaveWritten(_) | Did::MayHaveSwapped(..)));
        }
        let refused = u64::from(outcome == Outcome::Refused) * MILLI;
        let pause = refused + self.within(if self.faults { self.profile.think } else { self.profile.calm_think });
        self.schedule(pause, What::Client(number, turn));
    }
}
