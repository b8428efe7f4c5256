//! Groups of replicas under random faults: messages delayed, lost, duplicated and reordered, links reset, crashes that lose
//! what was not synced, and several drivers at once. One seed replays a run: `QUORATE_SEED=7 cargo test -p quorate-protocol
//! --test random_group`.
//!
//! Checked at every step: one primary per epoch · whatever is committed anywhere is the same everywhere · an
//! acknowledged write is in every later primary's log · a confirmed read misses no write acknowledged before it began ·
//! promises never fall, over crashes too. At the end, without faults: the group serves again and all logs agree.

use bytes::Bytes;
use quorate_api::wire::{Append, AppendAck, Reply, Request};
use quorate_api::{Configuration, Entry, Epoch, Incarnation, Member, Position};
use quorate_protocol::{Driver, DriverEffect, Effect, Event, HardState, LogView, Replica, Session, Settings};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A log as a disk: entries with the writer's commit hint; the first `synced` survive a crash for certain.
#[derive(Default)]
struct Disk {
    hard: HardState,
    log: Vec<(Arc<Entry>, u64)>,
    synced: usize,
    generation: u64,
}

struct Node {
    disk: Disk,
    replica: Option<Replica>,
    /// Reads under way: round, index it must cover, writes acknowledged when it began.
    reads: Vec<(u64, u64, u64)>,
}

enum Message {
    Append(usize, Session, Append),
    Reply(usize, Session, Reply),
    Fence(usize, Driver2, Request),
    Sync(usize, u64, u64),
}

/// The session numbers of drivers lie above those of links.
type Driver2 = usize;
const DRIVER_SESSIONS: u64 = 1 << 40;

struct World {
    rng: SmallRng,
    seed: u64,
    now: u64,
    faults: bool,
    nodes: Vec<Node>,
    configuration: Configuration,
    wires: Vec<(u64, Message)>,
    /// Dialler and dialled of each link.
    links: BTreeMap<Session, (usize, usize)>,
    next_session: u64,
    drivers: Vec<Driver>,
    activated: BTreeMap<Epoch, usize>,
    committed: BTreeMap<u64, u64>,
    acknowledged: u64,
    highest: u64,
    served: usize,
    confirmed: usize,
}

fn incarnation(node: usize) -> Incarnation {
    Incarnation(Uuid::from_u128(node as u128 + 1))
}

impl World {
    fn new(seed: u64, replicas: usize, write: u32, read: u32) -> Self {
        let members = (0..replicas)
            .map(|n| Member {
                incarnation: incarnation(n),
                ordinal: n as u32,
                host: format!("n{n}"),
            })
            .collect();
        let configuration = Configuration::new(members, write, read).expect("a valid quorum");
        let nodes = (0..replicas)
            .map(|_| Node {
                disk: Disk::default(),
                replica: None,
                reads: Vec::new(),
            })
            .collect();
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            seed,
            now: 0,
            faults: false,
            nodes,
            configuration,
            wires: Vec::new(),
            links: BTreeMap::new(),
            next_session: 1,
            drivers: Vec::new(),
            activated: BTreeMap::new(),
            committed: BTreeMap::new(),
            acknowledged: 0,
            highest: 0,
            served: 0,
            confirmed: 0,
        };
        for node in 0..replicas {
            world.start(node);
        }
        let bootstrap = Driver::bootstrap(Epoch { number: 1, token: seed }, world.configuration.clone());
        world.highest = 1;
        world.drive(bootstrap);
        world
    }

    /// A replica comes back from its disk.
    fn start(&mut self, node: usize) {
        let disk = &mut self.nodes[node].disk;
        let mut log = LogView::new(Position::default(), None, 0);
        let mut commit = 0;
        for (entry, hint) in &disk.log {
            log.push(Arc::clone(entry));
            commit = commit.max(*hint).min(entry.id.index);
        }
        disk.synced = disk.log.len();
        disk.generation = 0;
        log.forget_configurations(commit);
        let settings = Settings {
            heartbeat_millis: 20,
            resend_millis: 60,
            ..Settings::default()
        };
        self.nodes[node].replica = Some(Replica::new(incarnation(node), settings, disk.hard.clone(), log, commit));
    }

    fn crash(&mut self, node: usize) {
        let unsynced = self.nodes[node].disk.log.len() - self.nodes[node].disk.synced;
        let kept = self.nodes[node].disk.synced + self.rng.random_range(0..=unsynced);
        self.nodes[node].disk.log.truncate(kept);
        self.nodes[node].replica = None;
        self.nodes[node].reads.clear();
        self.wires
            .retain(|(_, message)| !matches!(message, Message::Sync(n, ..) if *n == node));
        let dead: Vec<Session> = self
            .links
            .iter()
            .filter(|(_, (a, b))| *a == node || *b == node)
            .map(|(s, _)| *s)
            .collect();
        for session in dead {
            self.reset(session);
        }
    }

    fn reset(&mut self, session: Session) {
        if let Some((dialler, dialled)) = self.links.remove(&session) {
            self.step(dialler, Event::LinkDown(session));
            self.step(dialled, Event::SessionClosed(session));
        }
    }

    fn dial(&mut self) {
        for dialler in 0..self.nodes.len() {
            for dialled in 0..self.nodes.len() {
                let stands = self.links.values().any(|link| *link == (dialler, dialled));
                let up = self.nodes[dialler].replica.is_some() && self.nodes[dialled].replica.is_some();
                if dialler != dialled && up && !stands && self.rng.random_ratio(1, 4) {
                    let session = Session(self.next_session);
                    self.next_session += 1;
                    self.links.insert(session, (dialler, dialled));
                    self.step(
                        dialler,
                        Event::LinkUp {
                            peer: incarnation(dialled),
                            session,
                        },
                    );
                }
            }
        }
    }

    fn post(&mut self, message: Message) {
        if self.faults && self.rng.random_ratio(1, 40) && !matches!(message, Message::Sync(..)) {
            return;
        }
        let delay = if self.faults && self.rng.random_ratio(1, 20) {
            self.rng.random_range(0..80)
        } else {
            self.rng.random_range(0..3)
        };
        self.wires.push((self.now + delay, message));
    }

    fn step(&mut self, node: usize, event: Event) {
        let Some(mut replica) = self.nodes[node].replica.take() else {
            return;
        };
        let promised = replica.promised();
        let mut effects = Vec::new();
        replica.step(event, self.now, &mut effects);
        assert!(replica.promised() >= promised, "seed {}: a promise fell", self.seed);
        self.nodes[node].replica = Some(replica);
        self.carry_out(node, effects);
        self.check(node);
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::PersistHardState(hard) => {
                    let before = &self.nodes[node].disk.hard;
                    assert!(
                        hard.promised >= before.promised && hard.activated >= before.activated,
                        "seed {}",
                        self.seed
                    );
                    if hard.activated > before.activated {
                        let earlier = self.activated.insert(hard.activated, node);
                        assert_eq!(earlier, None, "seed {}: two primaries of epoch {}", self.seed, hard.activated);
                    }
                    self.nodes[node].disk.hard = hard;
                }
                Effect::Send(session, append) => {
                    if let Some(&(_, to)) = self.links.get(&session) {
                        if self.faults && self.rng.random_ratio(1, 40) {
                            self.post(Message::Append(to, session, append.clone()));
                        }
                        self.post(Message::Append(to, session, append));
                    }
                }
                Effect::Reply(session, reply) => {
                    let to = if session.0 >= DRIVER_SESSIONS {
                        (session.0 - DRIVER_SESSIONS) as usize
                    } else {
                        self.links.get(&session).map_or(0, |l| l.0)
                    };
                    self.post(Message::Reply(to, session, reply));
                }
                Effect::AppendLog {
                    generation,
                    commit,
                    entries,
                } => {
                    let disk = &mut self.nodes[node].disk;
                    assert_eq!(generation, disk.generation, "seed {}", self.seed);
                    for entry in entries {
                        assert_eq!(entry.id.index, disk.log.len() as u64 + 1, "seed {}", self.seed);
                        disk.log.push((entry, commit));
                    }
                    let index = disk.log.len() as u64;
                    self.post(Message::Sync(node, generation, index));
                }
                Effect::TruncateLog(index) => {
                    let disk = &mut self.nodes[node].disk;
                    disk.log.truncate(index as usize);
                    disk.synced = disk.synced.min(index as usize);
                    disk.generation += 1;
                }
                Effect::ReadLog { session, after, .. } => {
                    let log = &self.nodes[node].disk.log;
                    let prev = (after as usize)
                        .checked_sub(1)
                        .map_or_else(Position::default, |i| log[i].0.position());
                    let entries = log[after as usize..].iter().take(5).map(|(entry, _)| Arc::clone(entry)).collect();
                    self.step(
                        node,
                        Event::LogRead {
                            session,
                            read: Some((prev, entries)),
                        },
                    );
                }
                Effect::SteppedDown(_) => self.nodes[node].reads.clear(),
                Effect::Serving(_) => self.served += 1,
                Effect::Apply(_) | Effect::Rebuild(_) => {}
                Effect::SendSnapshot(_) | Effect::ReceiveSnapshot(..) | Effect::InstallSnapshot(_) => {
                    unreachable!("nothing is trimmed here")
                }
            }
        }
    }

    /// The invariants, after whatever `node` did.
    fn check(&mut self, node: usize) {
        let seed = self.seed;
        let Some(replica) = &self.nodes[node].replica else { return };
        for (entry, _) in self.nodes[node].disk.log.iter().take(replica.commit() as usize) {
            let known = *self.committed.entry(entry.id.index).or_insert(entry.chain);
            assert_eq!(known, entry.chain, "seed {seed}: two histories at {}", entry.id.index);
        }
        if replica.serving() {
            assert!(
                replica.last().index >= self.acknowledged,
                "seed {seed}: a primary without an acknowledged write"
            );
            // A reply leaves at once when its entry is committed.
            self.acknowledged = self.acknowledged.max(replica.commit());
        }
        let (round, commit) = (replica.confirmed_round(), replica.commit());
        let (last, acknowledged) = (replica.last().index, self.acknowledged);
        self.nodes[node].reads.retain(|&(barrier, saw, before)| {
            let answered = barrier <= round && saw <= commit;
            if answered {
                assert!(
                    saw >= before,
                    "seed {seed}: a read that began at {before} was answered from {saw} (log {last}, now {acknowledged})"
                );
                self.confirmed += 1;
            }
            !answered
        });
    }

    fn drive(&mut self, mut driver: Driver) {
        let requests = driver.requests();
        self.drivers.push(driver);
        let number = self.drivers.len() - 1;
        self.carry_driver(number, requests);
    }

    fn carry_driver(&mut self, number: usize, effects: Vec<DriverEffect>) {
        for effect in effects {
            match effect {
                DriverEffect::Fence(member, request) => self.post(Message::Fence(member.ordinal as usize, number, Request::Fence(request))),
                DriverEffect::Activate(member, request) => {
                    let message = || Message::Fence(member.ordinal as usize, number, Request::Activate(request.clone()));
                    self.post(message());
                    // A late duplicate: perhaps after a crash of the one that it activated.
                    self.wires.push((self.now + self.rng.random_range(0..200), message()));
                }
                DriverEffect::Done(_) | DriverEffect::Failed(_) => {}
            }
        }
        self.highest = self.highest.max(self.drivers[number].highest_number());
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Append(to, session, append) => {
                if let Some(&(from, _)) = self.links.get(&session) {
                    self.step(
                        to,
                        Event::Request {
                            from: session,
                            peer: Some(incarnation(from)),
                            request: Request::Append(append),
                        },
                    );
                }
            }
            Message::Reply(to, session, Reply::AppendAck(ack)) => self.deliver_ack(to, session, ack),
            Message::Reply(number, _, Reply::Fence(answer)) => {
                let effects = self.drivers[number].on_fence_answer(answer);
                self.carry_driver(number, effects);
            }
            Message::Reply(number, _, Reply::Activate(answer)) => {
                let effects = self.drivers[number].on_activate_answer(&answer);
                self.carry_driver(number, effects);
            }
            Message::Reply(..) => {}
            Message::Fence(to, number, request) => {
                self.step(
                    to,
                    Event::Request {
                        from: Session(DRIVER_SESSIONS + number as u64),
                        peer: None,
                        request,
                    },
                );
            }
            Message::Sync(node, generation, index) => {
                let disk = &mut self.nodes[node].disk;
                if generation == disk.generation {
                    disk.synced = disk.synced.max(index as usize);
                    self.step(node, Event::LogDurable { generation, index });
                }
            }
        }
    }

    fn deliver_ack(&mut self, to: usize, session: Session, ack: AppendAck) {
        if self.links.contains_key(&session) {
            self.step(to, Event::AppendAck { session, ack });
        }
    }

    fn client(&mut self, node: usize) {
        let begun = self.acknowledged;
        let (write, read) = (self.rng.random::<bool>(), self.rng.random::<bool>());
        let Some(mut replica) = self.nodes[node].replica.take() else {
            return;
        };
        let mut effects = Vec::new();
        if replica.serving() {
            if write {
                replica.propose(Bytes::from_static(b"w"), self.now);
            }
            if read {
                let saw = replica.last().index;
                self.nodes[node].reads.push((replica.read_barrier(), saw, begun));
            }
            replica.flush(self.now, &mut effects);
        }
        self.nodes[node].replica = Some(replica);
        self.carry_out(node, effects);
        self.check(node);
    }

    fn serving(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.replica.as_ref().is_some_and(Replica::serving))
            .count()
    }

    fn turn(&mut self) {
        self.now += 1;
        let now = self.now;
        let mut due: Vec<Message> = Vec::new();
        let mut later = Vec::new();
        for (at, message) in std::mem::take(&mut self.wires) {
            if at <= now { due.push(message) } else { later.push((at, message)) }
        }
        self.wires = later;
        for message in due {
            self.deliver(message);
        }
        for node in 0..self.nodes.len() {
            self.client(node);
            if now.is_multiple_of(10) {
                self.step(node, Event::Tick);
            }
            if self.nodes[node].replica.is_none() && self.rng.random_ratio(1, 30) {
                self.start(node);
            }
        }
        self.dial();
        if self.faults {
            let node = self.rng.random_range(0..self.nodes.len());
            match self.rng.random_range(0..400) {
                0..3 => self.crash(node),
                3..6 => {
                    let victim = self.links.keys().nth(self.rng.random_range(0..self.links.len().max(1))).copied();
                    if let Some(session) = victim {
                        self.reset(session);
                    }
                }
                6..10 => self.fail_over(),
                _ => {}
            }
        } else if now.is_multiple_of(150) && self.serving() == 0 {
            self.fail_over();
        }
    }

    fn fail_over(&mut self) {
        self.highest += self.rng.random_range(0..2);
        let epoch = Epoch {
            number: self.highest + 1,
            token: self.rng.random(),
        };
        let driver = Driver::keep(epoch, vec![self.configuration.clone()], None);
        self.drive(driver);
    }
}

fn run(seed: u64) -> (usize, u64, usize) {
    let (replicas, write, read) = [(3, 2, 2), (3, 2, 2), (3, 3, 1), (5, 3, 3), (4, 3, 3), (1, 1, 1)][seed as usize % 6];
    let mut world = World::new(seed, replicas, write, read);
    for _ in 0..100 {
        world.turn();
    }
    world.faults = true;
    for _ in 0..2500 {
        world.turn();
    }
    world.faults = false;
    for turn in 0.. {
        world.turn();
        if world.serving() == 1 && turn > 200 {
            break;
        }
        assert!(turn < 20_000, "seed {seed}: the group does not serve again");
    }
    assert!(
        world
            .nodes
            .iter()
            .any(|node| matches!(&node.replica, Some(r) if r.serving() && r.commit() >= world.acknowledged))
    );
    (world.served, world.acknowledged, world.confirmed)
}

#[test]
fn nothing_acknowledged_is_lost_under_random_faults() {
    if let Ok(seed) = std::env::var("QUORATE_SEED") {
        run(seed.parse().expect("QUORATE_SEED is a number"));
        return;
    }
    let (mut served, mut acknowledged, mut confirmed) = (0, 0, 0);
    for seed in 0..100 {
        let (epochs, writes, reads) = run(seed);
        served += epochs;
        acknowledged += writes;
        confirmed += reads;
    }
    println!("100 groups: {served} epochs served, {acknowledged} writes acknowledged, {confirmed} reads confirmed");
    assert!(
        served > 200 && acknowledged > 30_000 && confirmed > 3_000,
        "{served} {acknowledged} {confirmed}: the test does too little"
    );
}
