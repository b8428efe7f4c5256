//! A simulated machine and the node's runtime on it: the part of `quorate-server` around the core, without its sockets.
//!
//! It keeps the runtime's side of the contract: effects are carried out in order, what is pending is proposed before the
//! core takes any other input, replies wait for their commit and round, and a process may end between any two effects.

use super::clients::{Command, Kind, Outcome};
use super::disk::{Disk, EXPIRES, Recovered, Registers, Snapshot, encode, expire};
use super::mutants::Slip;
use super::network::Message;
use super::transfer::{Receiving, Taking, Transfer};
use super::world::{MILLI, What, World};
use quorate_api::wire::{AppendAck, Request, SnapshotAck};
use quorate_api::{Consistency, DiskRoom, Epoch, Incarnation, Member, NodeRole};
use quorate_protocol_mutants::{Event, Replica, Session};
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What happens to a process, beside what the network brings.
#[derive(Clone)]
pub(crate) enum Input {
    /// For the core.
    Event(Event),
    /// For the core, if the connection is not an old one; and if it is, too: the core has to know.
    Ack { session: Session, ack: AppendAck, old: bool },
    /// For the sender of a snapshot.
    ChunkAck(Session, SnapshotAck),
    /// Of a client.
    Command(usize, u64, Command),
    /// The flusher runs.
    Flush,
    /// A snapshot of the own state is on the disk.
    Taken,
    /// A snapshot from a peer is on the disk, not yet in force.
    Received(Session),
}

/// An answer that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) client: usize,
    pub(crate) turn: u64,
    seen: u64,
    command: Command,
    commit: u64,
    round: u64,
    /// The epoch that served it, and whether a fence of a later one was complete when it came.
    epoch: Epoch,
    fenced: bool,
}

/// A read on a follower that waits for its primary.
#[derive(Debug)]
struct Asking {
    client: usize,
    turn: u64,
    key: usize,
    ask: u64,
}

/// What runs on a machine.
pub(crate) struct Process {
    pub(crate) replica: Replica,
    pub(crate) registers: Registers,
    /// The registers hold every entry up to here.
    pub(crate) applied: u64,
    pending: Vec<(usize, u64)>,
    flush_due: bool,
    pub(crate) waiting: Vec<Waiting>,
    asking: Vec<Asking>,
    pub(crate) transfers: BTreeMap<Session, Transfer>,
    pub(crate) receiving: BTreeMap<Session, Receiving>,
    pub(crate) taking: Option<Taking>,
    /// The ledger has checked commits up to here.
    pub(crate) checked: u64,
}

/// See the module.
pub(crate) struct Host {
    pub(crate) ordinal: usize,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// Counts starts.
    pub(crate) life: u64,
    pub(crate) frozen: bool,
    /// There is no room for more of the log.
    pub(crate) full: bool,
    /// A snapshot that was received and that the core may put in force now.
    pub(crate) offered: Option<Arc<Snapshot>>,
    backlog: Vec<Input>,
}

impl Host {
    pub(crate) fn new(ordinal: usize, incarnation: Incarnation) -> Self {
        Self {
            ordinal,
            incarnation,
            disk: Disk::default(),
            process: None,
            life: 0,
            frozen: false,
            full: false,
            offered: None,
            backlog: Vec::new(),
        }
    }

    pub(crate) fn member(&self) -> Member {
        Member {
            incarnation: self.incarnation,
            ordinal: u32::try_from(self.ordinal).expect("few machines"),
            host: format!("n{}", self.ordinal),
        }
    }

    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.process.as_ref().map(|process| &process.replica)
    }

    /// For whoever has to understand why a group does not come back.
    pub(crate) fn outline(&self) -> String {
        let Some(replica) = self.replica() else {
            return format!("n{} is down", self.ordinal);
        };
        format!(
            "n{} {:?} promised {} log {:?} durable {} commit {} damaged {} configuration {:?} peers {:?} follows {:?}",
            self.ordinal,
            replica.role(),
            replica.promised(),
            replica.last(),
            replica.durable(),
            replica.commit(),
            replica.damaged(),
            replica
                .configuration()
                .map(|(id, c)| (id, c.quorum(), c.members().iter().map(|m| m.ordinal).collect::<Vec<_>>())),
            replica.peers(0),
            replica.primary_view(0)
        )
    }

    pub(crate) fn serving(&self) -> bool {
        self.replica().is_some_and(Replica::serving)
    }
}

impl World {
    /// A process begins, from what the disk holds.
    pub(crate) fn start(&mut self, number: usize) {
        if self.hosts[number].process.is_some() || !self.may_run(number) {
            return;
        }
        let report = self.slip != Some(Slip::DamageCutOff);
        let host = &mut self.hosts[number];
        let Recovered {
            log,
            commit,
            registers,
            damaged,
        } = host.disk.recover(report);
        host.life += 1;
        let life = host.life;
        let replica = Replica::new(host.incarnation, self.profile.settings, host.disk.hard.clone(), log, commit);
        host.process = Some(Process {
            replica,
            registers,
            applied: commit,
            pending: Vec::new(),
            flush_due: false,
            waiting: Vec::new(),
            asking: Vec::new(),
            transfers: BTreeMap::new(),
            receiving: BTreeMap::new(),
            taking: None,
            checked: host.disk.base().id.index,
        });
        let (last, hard) = (host.disk.last(), host.disk.hard.clone());
        self.say(|| format!("n{number} starts: log {last}, commit {commit}, damaged {damaged}, {hard:?}"));
        self.ledger.promise_is_kept(number, &self.hosts[number], &mut self.violation);
        let (tick, dial) = (self.within(10 * MILLI), self.within(5 * MILLI));
        self.schedule(tick, What::Tick(number, life));
        self.schedule(dial, What::Dial(number, life));
        self.check(number);
        self.process_began(number);
    }

    /// A process ends, and with it what was not synced, perhaps.
    pub(crate) fn crash(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let Some(process) = host.process.take() else { return };
        host.disk.crash(&mut self.rng);
        host.frozen = false;
        host.backlog.clear();
        let last = host.disk.last();
        self.say(|| format!("n{number} crashes (log {last})"));
        for waiting in process.waiting {
            self.send(number, Message::Outcome(waiting.client, waiting.turn, Outcome::Unknown));
        }
        self.reset_all_of(number);
        self.process_ended(number);
        let after = self.within(self.profile.restart);
        self.schedule(after, What::Start(number));
    }

    pub(crate) fn thaw(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        if std::mem::take(&mut host.frozen) {
            for input in std::mem::take(&mut host.backlog) {
                self.input(number, input);
            }
        }
    }

    pub(crate) fn local(&mut self, number: usize, life: u64, input: Input) {
        if self.hosts[number].life == life {
            self.input(number, input);
        }
    }

    pub(crate) fn later(&mut self, number: usize, after: u64, input: Input) {
        self.schedule(after, What::Local(number, self.hosts[number].life, input));
    }

    pub(crate) fn tick(&mut self, number: usize, life: u64) {
        if self.hosts[number].life != life || self.hosts[number].process.is_none() {
            return;
        }
        if !self.hosts[number].frozen {
            self.input(number, Input::Event(Event::Tick));
            self.resend_chunks(number);
            self.take_snapshot(number);
            self.look_after_itself(number);
        }
        self.schedule(self.profile.tick, What::Tick(number, life));
    }

    /// A sync ends. The disk knows at once, the process when it runs.
    pub(crate) fn synced(&mut self, number: usize, life: u64, generation: u64, index: u64) {
        let host = &mut self.hosts[number];
        if host.life != life || host.process.is_none() {
            return;
        }
        if self.faults && self.rng.random_bool(self.profile.failed_sync) {
            host.disk.fail_sync(&mut self.rng);
            if self.slip != Some(Slip::SyncRetried) {
                self.crash(number);
                return;
            }
        }
        let host = &mut self.hosts[number];
        host.disk.sync(generation, index);
        self.input(number, Input::Event(Event::LogDurable { generation, index }));
    }

    /// Gives a process an input, now or when it is thawed.
    pub(crate) fn input(&mut self, number: usize, input: Input) {
        let host = &mut self.hosts[number];
        if host.process.is_none() {
            return;
        }
        if host.frozen {
            host.backlog.push(input);
            return;
        }
        match input {
            Input::Event(event) => self.step(number, event),
            Input::Ack { session, ack, old } => self.ack(number, session, ack, old),
            Input::ChunkAck(session, ack) => self.chunk_acked(number, session, &ack),
            Input::Command(client, turn, command) => self.command(number, client, turn, command),
            Input::Flush => self.flush(number),
            Input::Taken => self.snapshot_taken(number),
            Input::Received(session) => self.snapshot_received(number, session),
        }
    }

    fn ack(&mut self, number: usize, session: Session, ack: AppendAck, old: bool) {
        let outline = |replica: &Replica, now| {
            let peers: Vec<u64> = replica.peers(now).iter().map(|peer| peer.matched).collect();
            let rounds = replica.confirmed_round();
            (replica.promised(), replica.commit(), replica.role(), rounds, peers)
        };
        let now = self.millis(number);
        let before = old.then(|| self.hosts[number].replica().map(|r| outline(r, now))).flatten();
        self.step(number, Event::AppendAck { session, ack });
        if let Some(before) = before
            && let Some(replica) = self.hosts[number].replica()
            && outline(replica, now) != before
        {
            self.violate("nothing of an old connection is taken", || {
                format!("n{number} took {ack:?} of {session:?}, which is closed")
            });
        }
    }

    /// Gives the core one input and carries out what follows.
    pub(crate) fn step(&mut self, number: usize, event: Event) {
        let (now, wall) = (self.millis(number), self.wall_millis(number));
        let full = self.hosts[number].full;
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        process.propose_pending(wall);
        let promised = process.replica.promised();
        let mut effects = Vec::new();
        let disk = if full { DiskRoom::Full } else { DiskRoom::Ample };
        if process.replica.disk() != disk
            && matches!(
                &event,
                Event::Request {
                    request: Request::Append(_),
                    ..
                }
            )
        {
            process.replica.step(Event::Disk(disk), now, &mut effects);
        }
        process.replica.step(event, now, &mut effects);
        let after = process.replica.promised();
        if after < promised {
            self.violate("a promise never falls", || format!("n{number}: {promised} to {after}"));
        }
        self.carry_out(number, effects);
        self.check(number);
        self.answer(number);
        self.tell_what_changed(number);
    }

    fn flush(&mut self, number: usize) {
        let (now, wall) = (self.millis(number), self.wall_millis(number));
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        process.flush_due = false;
        process.propose_pending(wall);
        let mut effects = Vec::new();
        process.replica.flush(now, &mut effects);
        self.carry_out(number, effects);
        self.check(number);
        self.answer(number);
    }

    /// Executes a command on the latest state.
    fn command(&mut self, number: usize, client: usize, turn: u64, command: Command) {
        let (fenced, full) = (self.is_fenced(number), self.hosts[number].full);
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        if !process.replica.serving() && command.anywhere && process.replica.role() == NodeRole::Follower {
            self.read_on_follower(number, client, turn, command.key);
            return;
        }
        let no_room = command.kind != Kind::Read && (full || process.replica.lacks_room().is_some());
        if !process.replica.serving() || no_room {
            self.send(number, Message::Outcome(client, turn, Outcome::Refused));
            return;
        }
        let next = process.replica.last().index + 1;
        let (seen, written) = process.registers[command.key];
        let new = match command.kind {
            Kind::Read => None,
            Kind::Write(value) => Some(value),
            Kind::Swap(expected, value) => (seen == expected).then_some(value),
        };
        let (commit, round) = match new {
            Some(value) => {
                process.registers[command.key] = (value, next);
                process.pending.push((command.key, value));
                (next, 0)
            }
            None => (written, process.replica.read_barrier()),
        };
        process.waiting.push(Waiting {
            client,
            turn,
            seen,
            command,
            commit,
            round,
            epoch: process.replica.promised(),
            fenced,
        });
        if !std::mem::replace(&mut process.flush_due, true) {
            let after = self.within(self.profile.latency);
            self.later(number, after, Input::Flush);
        }
    }

    /// A client reads where it is, and wants to see what every other client was told before.
    fn read_on_follower(&mut self, number: usize, client: usize, turn: u64, key: usize) {
        let unasked = self.slip == Some(Slip::FollowerUnasked);
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let ask = if unasked { 0 } else { process.replica.ask_barrier() };
        process.asking.push(Asking { client, turn, key, ask });
        if !std::mem::replace(&mut process.flush_due, true) {
            let after = self.within(self.profile.latency);
            self.later(number, after, Input::Flush);
        }
    }

    /// Answers readers on a follower whose question to the primary was answered, from the state as it is now.
    fn answer_on_follower(&mut self, number: usize) {
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        if process.asking.is_empty() || process.replica.serving() || !process.replica.state_is_committed() {
            return;
        }
        let confirmed = process.replica.confirmed_ask();
        let (ready, asking): (Vec<_>, Vec<_>) = std::mem::take(&mut process.asking).into_iter().partition(|a| a.ask <= confirmed);
        process.asking = asking;
        let registers = process.registers;
        for Asking { client, turn, key, .. } in ready {
            self.ledger.follower_reads += 1;
            self.send(number, Message::Outcome(client, turn, Outcome::Ok(registers[key].0)));
        }
    }

    /// Answers what may be acknowledged and is confirmed.
    fn answer(&mut self, number: usize) {
        self.answer_on_follower(number);
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        if process.waiting.is_empty() || !process.replica.serving() {
            return;
        }
        let (commit, round) = (process.replica.acknowledged(), process.replica.confirmed_round());
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut process.waiting)
            .into_iter()
            .partition(|waiting| waiting.commit <= commit && waiting.round <= round);
        process.waiting = waiting;
        self.tell(number, ready);
    }

    /// Tells clients that what they asked for is done.
    pub(crate) fn tell(&mut self, number: usize, ready: Vec<Waiting>) {
        let settled = |commit: u64| {
            let replica = self.hosts[number].replica();
            let strong = |replica: &Replica| {
                let (_, configuration) = replica.configuration()?;
                Some(configuration.quorum().consistency == Consistency::Strong || commit <= replica.commit())
            };
            replica.and_then(strong).unwrap_or(true)
        };
        let settled: Vec<bool> = ready.iter().map(|waiting| settled(waiting.commit)).collect();
        for (waiting, settled) in ready.into_iter().zip(settled) {
            let Waiting {
                client,
                turn,
                seen,
                command,
                commit,
                epoch,
                fenced,
                ..
            } = waiting;
            if fenced {
                self.violate("nothing that comes after a fence is answered by the deposed", || {
                    format!("n{number} answered {command:?} of epoch {epoch}")
                });
            }
            if let Kind::Write(value) | Kind::Swap(_, value) = command.kind
                && !matches!(command.kind, Kind::Swap(expected, _) if expected != seen)
            {
                let write = (commit, command.key, value);
                match settled {
                    true => self.ledger.acknowledge(write),
                    false => self.ledger.unsettled.push(write),
                }
            }
            self.send(number, Message::Outcome(client, turn, Outcome::Ok(seen)));
        }
    }
}

impl Process {
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn propose_pending(&mut self, wall_millis: u64) {
        if !self.pending.is_empty() && self.replica.serving() {
            let effects = encode(&std::mem::take(&mut self.pending));
            self.applied = self.replica.propose(effects, wall_millis);
            // What is executed before its entry is applied goes by the time of that entry, too.
            self.registers[EXPIRES] = expire(self.registers[EXPIRES], self.replica.log().clock());
        }
    }
}
