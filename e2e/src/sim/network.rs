//! The simulated network: links that reset, messages that are lost, late, doubled or out of order, and cuts in one or both
//! directions.
//!
//! Half of the histories have links as TCP gives them: in order, without loss until a reset. The core relies on less.

use super::host::Input;
use super::world::{MILLI, What, World};
use quorate_api::wire::{Append, AppendAck, ReadIndexAnswer, Reply, Request, SnapshotAck, SnapshotChunk};
use quorate_protocol_mutants::{Event, Session};
use rand::RngExt;

/// Where drivers of the operator and clients are.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// A connection between two machines.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) dialler: usize,
    dialler_life: u64,
    pub(crate) dialled: usize,
    dialled_life: u64,
    /// Carries messages.
    pub(crate) stands: bool,
    /// Each end believes that it stands.
    dialler_believes: bool,
    dialled_believes: bool,
    /// Nothing overtakes on a link that keeps order: the last arrival in each direction.
    last_forth: u64,
    last_back: u64,
    broken_at: u64,
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// From the end that dialled.
    Append(Session, usize, Append),
    Chunk(Session, usize, SnapshotChunk),
    /// From the end that was dialled.
    Ack(Session, usize, AppendAck),
    ChunkAck(Session, usize, SnapshotAck),
    /// From the end that dialled, a follower, and back.
    AskIndex(Session, usize, u64),
    Index(Session, usize, ReadIndexAnswer),
    /// Of a driver, and back: session, machine.
    Ask(Session, usize, Request),
    Answer(Session, Reply),
    /// Of a client: client, turn, machine, operation; and back.
    Command(usize, u64, usize, super::clients::Command),
    Outcome(usize, u64, super::clients::Outcome),
}

impl Message {
    pub(crate) fn to(&self) -> usize {
        match self {
            Self::Append(_, to, _)
            | Self::Chunk(_, to, _)
            | Self::Ack(_, to, _)
            | Self::ChunkAck(_, to, _)
            | Self::AskIndex(_, to, _)
            | Self::Index(_, to, _)
            | Self::Ask(_, to, _)
            | Self::Command(_, _, to, _) => *to,
            Self::Answer(..) | Self::Outcome(..) => OUTSIDE,
        }
    }
}

impl World {
    fn delay(&mut self) -> u64 {
        let usual = self.within(self.profile.latency);
        if self.faults && self.rng.random_bool(self.profile.late) {
            return usual + self.within(self.profile.lateness);
        }
        usual
    }

    pub(crate) fn is_silent(&self, from: usize, to: usize) -> bool {
        !self.silent.is_empty() && self.silent.contains_key(&(from, to))
    }

    /// Puts a message on its way.
    pub(crate) fn send(&mut self, from: usize, message: Message) {
        let to = message.to();
        // Clients reach everybody; whether a driver hears an answer was looked at from where it runs.
        let client = matches!(message, Message::Command(..) | Message::Outcome(..));
        if !client && !matches!(message, Message::Answer(..)) && self.is_silent(from, to) {
            return;
        }
        self.say(|| {
            format!(
                "{} {message:?}",
                if from == OUTSIDE {
                    "outside".to_owned()
                } else {
                    format!("n{from}")
                }
            )
        });
        let session = match &message {
            Message::Append(session, ..) | Message::Chunk(session, ..) | Message::AskIndex(session, ..) => Some((*session, true)),
            Message::Ack(session, ..) | Message::ChunkAck(session, ..) | Message::Index(session, ..) => Some((*session, false)),
            _ => None,
        };
        let mut delay = self.delay();
        let keeps_order = self.profile.keeps_order;
        if let Some((session, forth)) = session {
            let now = self.now;
            let Some(link) = self.links.get_mut(&session) else { return };
            if !link.stands {
                return;
            }
            if keeps_order {
                let last = if forth { &mut link.last_forth } else { &mut link.last_back };
                *last = (now + delay).max(*last + 1);
                delay = *last - now;
            }
        }
        // Clients send each command once: whether a second one would do harm is a question for the layer above.
        if self.faults && !(keeps_order && session.is_some()) {
            if self.rng.random_bool(self.profile.lost) {
                return;
            }
            if !client && self.rng.random_bool(self.profile.doubled) {
                let later = delay + self.delay();
                self.schedule(later, What::Arrive(message.clone()));
            }
        }
        self.schedule(delay, What::Arrive(message));
    }

    pub(crate) fn arrive(&mut self, message: Message) {
        match message {
            Message::Append(session, to, append) => self.arrive_forth(session, to, Request::Append(append)),
            Message::Chunk(session, to, chunk) => self.arrive_forth(session, to, Request::SnapshotChunk(chunk)),
            Message::Ack(session, to, ack) => {
                let Some(link) = self.links.get(&session) else { return };
                if link.dialler_life == self.hosts[to].life {
                    let old = !link.dialler_believes;
                    self.input(to, Input::Ack { session, ack, old });
                }
            }
            Message::ChunkAck(session, to, ack) => {
                let Some(link) = self.links.get(&session) else { return };
                if link.dialler_life == self.hosts[to].life && link.dialler_believes {
                    self.input(to, Input::ChunkAck(session, ack));
                }
            }
            Message::AskIndex(session, to, number) => self.arrive_forth(session, to, Request::ReadIndex(number)),
            Message::Index(session, to, answer) => {
                let Some(link) = self.links.get(&session) else { return };
                if link.dialler_life == self.hosts[to].life && link.dialler_believes {
                    self.input(to, Input::Event(Event::ReadIndex(answer)));
                }
            }
            Message::Ask(session, to, Request::Watch { .. }) => self.asked_for_status(session, to),
            Message::Ask(session, to, request) => self.input(
                to,
                Input::Event(Event::Request {
                    from: session,
                    peer: None,
                    request,
                }),
            ),
            Message::Answer(session, reply) => self.answered(session, reply),
            Message::Command(client, turn, to, command) => self.input(to, Input::Command(client, turn, command)),
            Message::Outcome(client, turn, outcome) => self.outcome(client, turn, outcome),
        }
    }

    fn arrive_forth(&mut self, session: Session, to: usize, request: Request) {
        let Some(link) = self.links.get(&session) else { return };
        if link.dialled_life != self.hosts[to].life || !link.dialled_believes {
            return;
        }
        let peer = Some(self.hosts[link.dialler].incarnation);
        self.input(
            to,
            Input::Event(Event::Request {
                from: session,
                peer,
                request,
            }),
        );
    }

    /// A machine dials whom it has no link to.
    pub(crate) fn dial(&mut self, host: usize, life: u64) {
        for other in 0..self.hosts.len() {
            // It may end by what the last link brought about.
            if self.hosts[host].life != life || self.hosts[host].process.is_none() {
                return;
            }
            let linked = self
                .links
                .values()
                .any(|l| l.dialler == host && l.dialled == other && l.dialler_believes);
            let up = self.hosts[other].process.is_some() && !self.hosts[other].frozen && !self.hosts[host].frozen;
            let heard = !self.is_silent(host, other) && !self.is_silent(other, host);
            if host == other || linked || !up || !heard || !self.rng.random_ratio(2, 3) {
                continue;
            }
            let session = self.new_session();
            let link = Link {
                dialler: host,
                dialler_life: life,
                dialled: other,
                dialled_life: self.hosts[other].life,
                stands: true,
                dialler_believes: true,
                dialled_believes: true,
                last_forth: self.now,
                last_back: self.now,
                broken_at: 0,
            };
            self.links.insert(session, link);
            let peer = self.hosts[other].incarnation;
            self.input(host, Input::Event(Event::LinkUp { peer, session }));
        }
        let again = self.profile.redial + self.within(self.profile.redial);
        self.schedule(again, What::Dial(host, life));
    }

    /// A link breaks. Each end hears of it when it hears of it.
    pub(crate) fn reset(&mut self, session: Session) {
        let Some(link) = self.links.get_mut(&session) else { return };
        if !std::mem::replace(&mut link.stands, false) {
            return;
        }
        link.broken_at = self.now;
        let (dialler, dialled) = (link.dialler, link.dialled);
        let cut = self.is_silent(dialler, dialled) || self.is_silent(dialled, dialler);
        let bound = if cut { 200 * MILLI } else { 2 * self.profile.latency };
        for end in [true, false] {
            let after = self.within(bound);
            self.schedule(after, What::LinkGone(session, end));
        }
    }

    pub(crate) fn reset_all_of(&mut self, host: usize) {
        let broken: Vec<Session> = self
            .links
            .iter()
            .filter(|(_, link)| link.stands && (link.dialler == host || link.dialled == host))
            .map(|(session, _)| *session)
            .collect();
        for session in broken {
            self.reset(session);
        }
    }

    pub(crate) fn link_gone(&mut self, session: Session, dialler: bool) {
        let Some(link) = self.links.get_mut(&session) else { return };
        let (host, life, event) = if dialler {
            link.dialler_believes = false;
            (link.dialler, link.dialler_life, Event::LinkDown(session))
        } else {
            link.dialled_believes = false;
            (link.dialled, link.dialled_life, Event::SessionClosed(session))
        };
        if self.hosts[host].life == life {
            self.input(host, Input::Event(event));
        }
    }

    /// Links that broke long ago deliver nothing more.
    pub(crate) fn forget_old_links(&mut self) {
        let horizon = self.now.saturating_sub(1_000 * MILLI);
        self.links.retain(|_, link| link.stands || link.broken_at > horizon);
    }

    /// The machine that dialled a link.
    pub(crate) fn dialler_of(&self, session: Session) -> Option<usize> {
        self.links.get(&session).map(|link| link.dialler)
    }

    /// The machine that a link leads to.
    pub(crate) fn dialled_of(&self, session: Session) -> Option<usize> {
        self.links.get(&session).map(|link| link.dialled)
    }
}
