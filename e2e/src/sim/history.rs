//! One history from its seed: a group is bootstrapped, lives through faults, is left in peace, and has to be whole again.

use super::disk::KEYS;
use super::host::Process;
use super::linearize::{Did, Operation};
use super::mutants::{Mutant, Slip};
use super::told::Told;
use super::world::{MILLI, Violation, World};
use crate::histories::Line;
use crate::system::Counts;
use quorate_api::{Configuration, Consistency};
use quorate_protocol_mutants::mutation;

/// What a history led to.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The first check that failed.
    pub violation: Option<Violation>,
    /// Simulated time.
    pub micros: u64,
    /// Things that happened in it.
    pub events: u64,
    /// Hash of everything that happened.
    pub trace: u64,
    /// How much happened.
    pub activity: Activity,
    /// What clients were told, if [`Options::told`] asked for it; nothing where no order was promised.
    pub told: Vec<Line>,
    /// How much happened around the group, in a whole system.
    pub counts: Counts,
}

/// Counts that tell whether a simulation does enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// Epochs that came to serve.
    pub epochs: u64,
    /// Operations whose outcome a client knows.
    pub operations: u64,
    /// Times that a log was trimmed.
    pub trims: u64,
    /// Snapshots installed on a peer.
    pub installs: u64,
    /// Of these, stopped between the publication of the snapshot and the restart of the log.
    pub half_installs: u64,
    /// Disks that had no room for a while.
    pub fills: u64,
    /// Pieces of a log read from its file.
    pub file_reads: u64,
    /// View changes that led to another configuration than the first.
    pub changes: u64,
    /// Records that stopped reading.
    pub damages: u64,
    /// Disks lost.
    pub wipes: u64,
    /// Linearizable reads that followers answered.
    pub follower_reads: u64,
    /// Times that what an eventual configuration had acknowledged was cut off and kept aside.
    pub tails: u64,
}

impl Activity {
    /// Adds up.
    pub fn add(&mut self, other: &Self) {
        let Self {
            epochs,
            operations,
            trims,
            installs,
            half_installs,
            fills,
            file_reads,
            changes,
            damages,
            wipes,
            follower_reads,
            tails,
        } = other;
        self.epochs += epochs;
        self.operations += operations;
        self.trims += trims;
        self.installs += installs;
        self.half_installs += half_installs;
        self.fills += fills;
        self.file_reads += file_reads;
        self.changes += changes;
        self.damages += damages;
        self.wipes += wipes;
        self.follower_reads += follower_reads;
        self.tails += tails;
    }
}

/// Operations that have to succeed before a group counts as serving again.
pub(crate) const ENOUGH: u64 = 20;

/// Simulated milliseconds in which a long-lived history sees faults.
pub const LONG_MILLIS: u64 = 2 * 3_600_000;

/// Simulated milliseconds of faults in a history, unless somebody wants it otherwise.
pub const LENGTH_MILLIS: u64 = 4_000;

/// Simulated milliseconds in which a whole system sees faults without a calm moment.
pub const SYSTEM_MILLIS: u64 = 120_000;

/// What lives in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A group without a calm moment.
    #[default]
    Dense,
    /// A group that lives long, with storms of faults minutes apart.
    LongLived,
    /// A whole system, operators and API server included, without a calm moment.
    System,
    /// A whole system that lives long.
    LongSystem,
}

impl Kind {
    /// Simulated milliseconds of faults.
    #[must_use]
    pub fn length_millis(self) -> u64 {
        match self {
            Self::Dense => LENGTH_MILLIS,
            Self::LongLived | Self::LongSystem => LONG_MILLIS,
            Self::System => SYSTEM_MILLIS,
        }
    }

    /// Whether operators and a cluster are part of it.
    #[must_use]
    pub fn is_system(self) -> bool {
        matches!(self, Self::System | Self::LongSystem)
    }
}

/// What a history is made of, beside its seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What lives in it.
    pub kind: Kind,
    /// Simulated milliseconds of faults.
    pub length_millis: u64,
    /// A rule that is taken away.
    pub mutant: Option<Mutant>,
    /// Judge by what clients saw and by the end only, not by the invariants at every step.
    pub clients_only: bool,
    /// Say everything that happens.
    pub verbose: bool,
    /// Keep what clients were told, for checkers of others.
    pub told: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Dense,
            length_millis: LENGTH_MILLIS,
            mutant: None,
            clients_only: false,
            verbose: false,
            told: false,
        }
    }
}

/// Runs the history of a seed.
///
/// # Panics
/// If an assertion of the core fails.
#[must_use]
pub fn run(seed: u64, options: &Options) -> History {
    let (broken, slip) = match &options.mutant {
        Some(Mutant::Core(mutation) | Mutant::System(mutation) | Mutant::Model(mutation)) => (Some(*mutation), None),
        Some(Mutant::Runtime(slip)) => (None, Some(*slip)),
        None => (None, None),
    };
    mutation::set(broken);
    let history = run_with(seed, slip, options);
    mutation::set(None);
    history
}

fn run_with(seed: u64, slip: Option<Slip>, options: &Options) -> History {
    let mut world = match options.kind {
        Kind::Dense | Kind::LongLived => {
            let long = options.kind == Kind::LongLived;
            World::new(seed, slip, long, options.clients_only, options.verbose)
        }
        Kind::System | Kind::LongSystem => World::whole(seed, slip, options.kind, options.verbose),
    };
    world.say(|| format!("{:#?} {:#?}", world.profile, world.system.as_ref().map(|system| &system.profile)));
    world.ledger.told = options.told.then(Told::default);
    world.run_until(150 * MILLI, |_| false);
    world.faults = matches!(options.kind, Kind::Dense | Kind::System);
    world.run_until((150 + options.length_millis) * MILLI, |_| false);
    if world.violation.is_none() {
        match options.kind.is_system() {
            true => world.settle_system(),
            false => world.settle(),
        }
    }
    let told = world.ledger.told.take();
    let counts = world.system.as_ref().map_or_else(Counts::default, |system| Counts {
        writes: system.api.writes,
        ..system.counts
    });
    let ledger = &world.ledger;
    let judged = world.is_strong();
    let unordered = || judged.then(|| ledger.linearizable()).flatten();
    let violation = world.violation.take().or_else(unordered);
    History {
        violation,
        micros: world.now,
        events: world.events,
        trace: world.trace,
        told: told.filter(|_| judged).map_or_else(Vec::new, Told::into_lines),
        counts,
        activity: Activity {
            epochs: ledger.served,
            operations: ledger.answered,
            trims: ledger.trims,
            installs: ledger.installs,
            half_installs: ledger.half_installs,
            fills: ledger.fills,
            file_reads: ledger.file_reads,
            changes: ledger.changes,
            damages: ledger.damages,
            wipes: ledger.wipes,
            follower_reads: ledger.follower_reads,
            tails: ledger.tails,
        },
    }
}

impl World {
    /// Whether what clients see has to be linearizable: what an eventual configuration answers is not, and does not say so.
    pub(crate) fn is_strong(&self) -> bool {
        let eventual = |c: &Configuration| c.quorum().consistency == Consistency::Eventual;
        !self.configurations.iter().any(eventual)
    }

    /// The faults end: the group has to serve again, and all its members to agree.
    fn settle(&mut self) {
        self.heal();
        let (since, healed) = (self.ledger.answered, self.now);
        let serves = |world: &Self| world.ledger.answered >= since + ENOUGH && !world.lacks_a_member();
        if !self.run_until(healed + self.profile.liveness, serves) {
            self.violate_liveness("the group serves again when the faults end");
            return;
        }
        self.ledger.closed = true;
        if !self.run_until(self.now + self.profile.liveness, Self::is_whole) {
            self.violate_liveness("all logs agree in the end");
            return;
        }
        self.look_at_the_end();
    }

    pub(crate) fn violate_liveness(&mut self, check: &'static str) {
        let members: Vec<String> = self.hosts.iter().map(super::host::Host::outline).collect();
        self.violate(check, || members.join("; "));
    }

    pub(crate) fn lacks_a_member(&self) -> bool {
        self.latest()
            .is_none_or(|c| c.members().iter().any(|member| self.wiped.contains(&member.incarnation)))
    }

    /// One primary, and every member has what it has, durably, and has made good what it lost.
    pub(crate) fn is_whole(&self) -> bool {
        if self.clients.iter().any(|client| !client.is_idle()) {
            return false;
        }
        // A command that came after its client gave up may have been executed, and not proposed yet.
        if self.hosts.iter().filter_map(|host| host.process.as_ref()).any(Process::has_pending) {
            return false;
        }
        let mut serving = self.hosts.iter().filter_map(|host| host.replica()).filter(|r| r.serving());
        let (Some(primary), None) = (serving.next(), serving.next()) else {
            return false;
        };
        let Some((_, configuration)) = primary.configuration() else {
            return false;
        };
        configuration.members().iter().all(|member| {
            let host = &self.hosts[member.ordinal as usize];
            let last = primary.log().last();
            host.incarnation == member.incarnation
                && host.replica().is_some_and(|replica| {
                    let whole = replica.log().last() == last && replica.durable() == last.id.index;
                    whole && replica.commit() == last.id.index && !replica.damaged()
                })
        })
    }

    /// Every member holds the same state, and every acknowledged write is in the log.
    pub(crate) fn look_at_the_end(&mut self) {
        let Some(primary) = self.hosts.iter().find(|host| host.serving()) else {
            return;
        };
        let Some((_, configuration)) = primary.replica().and_then(|replica| replica.configuration().cloned()) else {
            return;
        };
        let Some(registers) = primary.process.as_ref().map(|process| process.registers) else {
            return;
        };
        for member in configuration.members() {
            let other = self.hosts[member.ordinal as usize]
                .process
                .as_ref()
                .map(|process| process.registers);
            if other != Some(registers) {
                let ordinal = member.ordinal;
                self.violate("all states agree in the end", || {
                    format!("n{ordinal}: {other:?} instead of {registers:?}")
                });
                return;
            }
        }
        let lost = self.ledger.lost();
        if !lost.is_empty() {
            self.violate("every acknowledged write is in the log", || format!("{lost:?}"));
            if let Some(violation) = &mut self.violation {
                violation.lost = lost.len();
            }
            return;
        }
        // A disk that is lost, or a part of it, may have been the only one that had it.
        if self.ledger.wipes + self.ledger.damages == 0 {
            let forgotten = self.ledger.forgotten(&self.hosts);
            if !forgotten.is_empty() {
                self.violate("what a failover cuts off is kept aside", || format!("{forgotten:?}"));
                return;
            }
        }
        if let Some(told) = &mut self.ledger.told {
            told.end(
                self.clients.len(),
                registers.iter().take(KEYS).map(|(value, _)| *value),
                self.now + 1,
                self.now + 2,
            );
        }
        for (key, (value, _)) in registers.into_iter().take(KEYS).enumerate() {
            self.ledger.histories[key].push(Operation {
                called: self.now + 1,
                returned: self.now + 2,
                did: Did::Saw(value),
            });
        }
    }
}
