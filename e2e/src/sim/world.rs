//! One simulated group: machines, network, clients and drivers on one clock, all from one seed.
//!
//! Whatever happens is an event in one queue, ordered by time and then by number; every choice is drawn from one generator.
//! The same seed therefore gives the same history, and [`World::trace`] is a hash of it. Times are microseconds.

use super::clients::Client;
use super::drivers::Pilot;
use super::faults::Profile;
use super::host::{Host, Input};
use super::ledger::Ledger;
use super::mutants::Slip;
use super::network::{Link, Message};
use crate::system::{Happening, System};
use quorate_api::{Configuration, Consistency, Incarnation, Member, Quorum};
use quorate_protocol_mutants::Session;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use uuid::Uuid;

/// Microseconds in a millisecond.
pub(crate) const MILLI: u64 = 1_000;

/// Why a history is wrong: which check says so, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The check.
    pub check: &'static str,
    /// What it saw.
    pub detail: String,
    /// Acknowledged writes that are gone.
    pub lost: usize,
}

/// Something that happens.
pub(crate) enum What {
    /// On a machine, in one life of its process: dropped if that process is gone.
    Local(usize, u64, Input),
    /// A sync of a machine's log ends.
    Synced {
        host: usize,
        life: u64,
        generation: u64,
        index: u64,
    },
    /// Something arrives.
    Arrive(Message),
    /// An end of a link hears that it is gone. True: the end that dialled.
    LinkGone(Session, bool),
    /// A machine that was stopped starts again.
    Start(usize),
    /// A frozen machine goes on.
    Thaw(usize),
    /// A full disk has room again.
    Room(usize),
    /// Time passes on a machine, for its core.
    Tick(usize, u64),
    /// A machine looks for links that it lacks.
    Dial(usize, u64),
    /// A driver repeats what was not answered, settles or ends.
    Pilot(usize),
    /// A client goes on, unless it did since: the number says when.
    Client(usize, u64),
    /// The operator looks.
    Operator,
    /// The next fault.
    Fault,
    /// Two-way or one-way silence ends.
    Heal(u64),
    /// In a whole system.
    System(Box<Happening>),
}

struct Scheduled {
    at: u64,
    number: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) rng: SmallRng,
    pub(crate) profile: Profile,
    /// A mistake that the simulated runtime makes.
    pub(crate) slip: Option<Slip>,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// Whether faults happen.
    pub(crate) faults: bool,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: BTreeMap<Session, Link>,
    pub(crate) next_session: u64,
    /// From, to: nothing arrives. The number says which cut made it.
    pub(crate) silent: BTreeMap<(usize, usize), u64>,
    pub(crate) cuts: u64,
    pub(crate) pilots: Vec<Pilot>,
    /// Which driver waits on a session for the answer of which machine.
    pub(crate) asked: BTreeMap<Session, (usize, usize)>,
    pub(crate) clients: Vec<Client>,
    pub(crate) next_operation: u64,
    pub(crate) ledger: Ledger,
    /// Every configuration that was ever proposed.
    pub(crate) configurations: Vec<Configuration>,
    /// Incarnations whose disk is gone.
    pub(crate) wiped: BTreeSet<Incarnation>,
    pub(crate) next_incarnation: u128,
    /// What the operator saw committed last, and when it saw more.
    pub(crate) progress: usize,
    pub(crate) silent_since: u64,
    pub(crate) snapshots: Vec<Arc<super::disk::Snapshot>>,
    pub(crate) violation: Option<Violation>,
    /// A hash of everything that happened.
    pub(crate) trace: u64,
    /// See [`super::history::Options::clients_only`].
    pub(crate) clients_only: bool,
    pub(crate) verbose: bool,
    /// Things that happened.
    pub(crate) events: u64,
    /// The storm of faults ends then; see [`Profile::draw_long`].
    pub(crate) storm_ends: u64,
    /// There are no faults any more.
    pub(crate) healed: bool,
    /// The cluster and the operators around the group, in a whole system.
    pub(crate) system: Option<Box<System>>,
}

impl World {
    /// Nothing in it yet.
    pub(crate) fn bare(seed: u64, rng: SmallRng, profile: Profile, slip: Option<Slip>, clients_only: bool, verbose: bool) -> Self {
        Self {
            rng,
            slip,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            faults: false,
            hosts: Vec::new(),
            links: BTreeMap::new(),
            next_session: 1,
            silent: BTreeMap::new(),
            cuts: 0,
            pilots: Vec::new(),
            asked: BTreeMap::new(),
            clients: Vec::new(),
            next_operation: 1,
            ledger: Ledger::default(),
            configurations: Vec::new(),
            wiped: BTreeSet::new(),
            next_incarnation: 1,
            progress: 0,
            silent_since: 0,
            snapshots: Vec::new(),
            violation: None,
            trace: seed,
            clients_only,
            verbose,
            events: 0,
            storm_ends: 0,
            healed: false,
            system: None,
            profile,
        }
    }

    /// A group that a driver of nobody in particular bootstraps, and its clients.
    pub(crate) fn new(seed: u64, slip: Option<Slip>, long: bool, clients_only: bool, verbose: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let profile = if long {
            Profile::draw_long(&mut rng)
        } else {
            Profile::draw(&mut rng)
        };
        let mut world = Self::bare(seed, rng, profile, slip, clients_only, verbose);
        let (replicas, write, read) = world.profile.group;
        for ordinal in 0..replicas + world.profile.spares {
            let incarnation = world.draw_incarnation();
            world.hosts.push(Host::new(ordinal, incarnation));
        }
        let members = world.hosts[..replicas].iter().map(Host::member).collect();
        let consistency = if world.profile.eventual {
            Consistency::Eventual
        } else {
            Consistency::Strong
        };
        let sizes = Quorum {
            replicas: u32::try_from(replicas).expect("few machines"),
            write,
            read,
            consistency,
        };
        let first = Configuration::of(members, sizes).expect("the profile's quorums are valid");
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        world.bootstrap(first);
        for number in 0..world.profile.clients {
            world.clients.push(Client::new());
            let at = world.within(5 * MILLI);
            world.schedule(at, What::Client(number, 0));
        }
        world.schedule(20 * MILLI, What::Operator);
        world.schedule(50 * MILLI, What::Fault);
        world
    }

    pub(crate) fn draw_incarnation(&mut self) -> Incarnation {
        let incarnation = Incarnation(Uuid::from_u128(self.next_incarnation << 96));
        self.next_incarnation += 1;
        incarnation
    }

    /// A random time below `bound`, at least one.
    pub(crate) fn within(&mut self, bound: u64) -> u64 {
        use rand::RngExt;
        self.rng.random_range(1..=bound.max(1))
    }

    pub(crate) fn schedule(&mut self, after: u64, what: What) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + after,
            number: self.scheduled,
            what,
        }));
    }

    pub(crate) fn violate(&mut self, check: &'static str, detail: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation {
                check,
                detail: detail(),
                lost: 0,
            });
        }
    }

    /// For whoever replays a seed.
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>9.3} {}", self.now as f64 / 1e3, text());
        }
    }

    /// Adds to the hash of the history.
    pub(crate) fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = (self.trace ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        }
    }

    /// Lets everything happen up to a time, or to the first violation, or until `done`.
    pub(crate) fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if self.clients_only {
                self.violation = None;
            }
            if self.violation.is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            if self.queue.peek().is_none_or(|Reverse(next)| next.at > end) {
                return false;
            }
            let Some(Reverse(next)) = self.queue.pop() else { return false };
            self.now = next.at;
            self.events += 1;
            self.happen(next.what);
        }
    }

    fn happen(&mut self, what: What) {
        let (kind, about) = match &what {
            What::Local(host, ..) => (1, *host as u64),
            What::Synced { host, .. } => (2, *host as u64),
            What::Arrive(message) => (3, message.to() as u64),
            What::LinkGone(session, _) => (4, session.0),
            What::Start(host) => (5, *host as u64),
            What::Thaw(host) => (6, *host as u64),
            What::Room(host) => (14, *host as u64),
            What::Tick(host, _) => (7, *host as u64),
            What::Dial(host, _) => (8, *host as u64),
            What::Pilot(number) => (9, *number as u64),
            What::Client(number, _) => (10, *number as u64),
            What::Operator => (11, 0),
            What::Fault => (12, 0),
            What::Heal(cut) => (13, *cut),
            What::System(happening) => (14, happening.kind()),
        };
        self.note(&[self.now, kind, about]);
        match what {
            What::Local(host, life, input) => self.local(host, life, input),
            What::Synced {
                host,
                life,
                generation,
                index,
            } => self.synced(host, life, generation, index),
            What::Arrive(message) => self.arrive(message),
            What::LinkGone(session, dialler) => self.link_gone(session, dialler),
            What::Start(host) => self.start(host),
            What::Thaw(host) => self.thaw(host),
            What::Room(host) => self.hosts[host].full = false,
            What::Tick(host, life) => self.tick(host, life),
            What::Dial(host, life) => self.dial(host, life),
            What::Pilot(number) => self.pilot(number),
            What::Client(number, turn) => self.client(number, turn),
            What::Operator => self.operator(),
            What::Fault if self.system.is_some() => self.system_fault(),
            What::Fault => self.fault(),
            What::System(happening) => self.system_event(*happening),
            What::Heal(cut) => self.silent.retain(|_, made| *made != cut),
        }
    }

    /// The members' name for a machine.
    pub(crate) fn member(&self, host: usize) -> Member {
        self.hosts[host].member()
    }

    pub(crate) fn new_session(&mut self) -> Session {
        let session = Session(self.next_session);
        self.next_session += 1;
        session
    }
}
