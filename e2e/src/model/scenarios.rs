//! What is modelled: configurations, drivers and faults; and the rules that are taken away to see that it is noticed.

use super::drivers::{epoch, incarnation};
use super::state::EPOCHS;
use quorate_api::{Configuration, Member, Quorum};
use quorate_protocol_mutants::Driver;
use quorate_protocol_mutants::mutation::Mutation;

/// A driver of a scenario. Driver n has epoch n + 2; all run from the beginning, and know the first configuration only.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverPlan {
    /// The number of the configuration that it changes to. None keeps the one that it finds.
    pub target: Option<u8>,
    /// The node that it does not ask.
    pub left_out: Option<u8>,
    /// The node that it chooses only if it must.
    pub avoid: Option<u8>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Nodes, those that are born later included.
    pub nodes: u8,
    /// Number 0 is in force at first, with node 0 as the primary of epoch 1.
    pub configurations: Vec<Configuration>,
    /// All run at once.
    pub drivers: Vec<DriverPlan>,
    /// Epochs whose primary may take one write.
    pub writes: Vec<u8>,
    /// Crashes at most that change anything.
    pub crashes: u8,
    /// Nodes at most that lose some of their durable log, and know it.
    pub damages: u8,
    /// Nodes that lose their disk at most; any of those in `wiped`.
    pub wipes: u8,
    /// A node that may be wiped, and the incarnation that takes its place.
    pub wiped: Vec<(u8, u8)>,
    /// Entries become durable some time after they were written.
    pub unsynced: bool,
    /// A primary streams to every node, members or not.
    pub learners: bool,
}

fn configuration(nodes: &[u8], write: u32, read: u32) -> Configuration {
    let members = nodes
        .iter()
        .map(|&node| Member {
            incarnation: incarnation(node),
            ordinal: node.into(),
            host: String::new(),
        })
        .collect();
    Configuration::new(members, write, read).expect("a valid configuration")
}

/// The same members, acknowledging what the primary alone holds.
fn eventual(nodes: &[u8]) -> Configuration {
    let members = configuration(nodes, u32::try_from(nodes.len()).expect("few nodes"), 1)
        .members()
        .to_vec();
    let quorum = Quorum::eventual(u32::try_from(nodes.len()).expect("few nodes"));
    Configuration::of(members, quorum).expect("a valid configuration")
}

/// What 3/3/3 and 4/4/3 are shrunk to.
fn two() -> Configuration {
    configuration(&[0, 1], 2, 1)
}

const KEEP: DriverPlan = DriverPlan {
    target: None,
    left_out: None,
    avoid: None,
};

const fn change(target: u8) -> DriverPlan {
    DriverPlan {
        target: Some(target),
        ..KEEP
    }
}

impl Scenario {
    fn new(name: &'static str, configurations: Vec<Configuration>, drivers: &[DriverPlan]) -> Self {
        assert!(drivers.len() < EPOCHS);
        let nodes = configurations
            .iter()
            .flat_map(|c| c.members())
            .map(|member| u8::try_from(member.ordinal + 1).expect("few nodes"))
            .max()
            .unwrap_or(0);
        Self {
            name,
            nodes,
            configurations,
            drivers: drivers.to_vec(),
            writes: vec![1],
            crashes: 0,
            damages: 0,
            wipes: 0,
            wiped: Vec::new(),
            unsynced: false,
            learners: false,
        }
    }

    fn writing(mut self, epochs: &[u8]) -> Self {
        self.writes = epochs.to_vec();
        self
    }

    fn crashing(mut self, crashes: u8) -> Self {
        self.crashes = crashes;
        self
    }

    fn damaging(mut self, damages: u8) -> Self {
        self.damages = damages;
        self
    }

    fn wiping(mut self, wipes: u8, wiped: &[(u8, u8)]) -> Self {
        self.wipes = wipes;
        self.wiped = wiped.to_vec();
        self.nodes = wiped.iter().map(|(_, successor)| successor + 1).max().unwrap_or(0).max(self.nodes);
        self
    }

    fn unsynced(mut self) -> Self {
        self.unsynced = true;
        self
    }

    fn learning(mut self) -> Self {
        self.learners = true;
        self
    }

    pub(super) fn number_of(&self, configuration: &Configuration) -> u8 {
        let found = self.configurations.iter().position(|c| c == configuration);
        u8::try_from(found.expect("a configuration of the scenario")).expect("few configurations")
    }

    /// The configuration that the driver of an epoch changes to.
    pub(super) fn proposal(&self, epoch: u8) -> Option<u8> {
        self.drivers.get(usize::from(epoch.checked_sub(2)?))?.target
    }

    pub(super) fn successor(&self, node: u8) -> Option<u8> {
        self.wiped.iter().find(|(wiped, _)| *wiped == node).map(|(_, successor)| *successor)
    }

    pub(super) fn is_successor(&self, node: u8) -> bool {
        self.wiped.iter().any(|(_, successor)| *successor == node)
    }

    pub(super) fn may_be_wiped(&self, node: u8) -> bool {
        self.successor(node).is_some()
    }

    pub(super) fn new_drivers(&self) -> impl Iterator<Item = Driver> {
        (2..).zip(&self.drivers).map(|(number, plan)| {
            let known = vec![self.configurations[0].clone()];
            let driver = match plan.target {
                Some(target) => Driver::change(epoch(number), known, self.configurations[usize::from(target)].clone()),
                None => Driver::keep(epoch(number), known, plan.avoid.map(incarnation)),
            };
            driver.leaving_out(plan.left_out.map(incarnation))
        })
    }
}

/// What the ordinary tests exhaust, in about a minute.
#[must_use]
pub fn quick() -> Vec<Scenario> {
    let three = || configuration(&[0, 1, 2], 2, 2);
    let all_write = || configuration(&[0, 1, 2], 3, 1);
    let replaced = || configuration(&[0, 1, 3], 2, 2);
    let left_out = DriverPlan { left_out: Some(0), ..KEEP };
    let other_left_out = DriverPlan { left_out: Some(1), ..KEEP };
    let hand_over = DriverPlan { avoid: Some(0), ..KEEP };
    vec![
        Scenario::new("3/2/2: three failovers", vec![three()], &[KEEP, KEEP, KEEP]),
        Scenario::new(
            "3/2/2: hand-over, failover, primary left out",
            vec![three()],
            &[hand_over, KEEP, left_out],
        ),
        Scenario::new(
            "3/2/2: three failovers, each leaves one out",
            vec![three()],
            &[left_out, other_left_out, left_out],
        ),
        Scenario::new("3/3/1: two failovers", vec![all_write()], &[KEEP, KEEP]).writing(&[1, 2]),
        Scenario::new(
            "2/2 -> 3/1 -> 2/2, failover",
            vec![three(), all_write()],
            &[change(1), change(0), KEEP],
        )
        .writing(&[1, 2]),
        Scenario::new("3/1 -> 2/2, failover", vec![all_write(), three()], &[change(1), KEEP]).writing(&[1, 2, 3]),
        Scenario::new(
            "member replaced by a blank one, failover",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .writing(&[1]),
        Scenario::new(
            "primary dropped, failover",
            vec![three(), configuration(&[1, 2], 2, 1)],
            &[change(1), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "3/3/3 shrunk to two, failover",
            vec![configuration(&[0, 1, 2], 3, 3), two()],
            &[change(1), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "4/4/3 shrunk to two, failover",
            vec![configuration(&[0, 1, 2, 3], 4, 3), two()],
            &[change(1), KEEP],
        )
        .writing(&[1, 2]),
        Scenario::new(
            "a disk wiped, its member replaced, failover",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .wiping(1, &[(2, 3)])
        .learning(),
        Scenario::new("crash before a sync, 3/2/2: two failovers", vec![three()], &[KEEP, KEEP])
            .crashing(1)
            .unsynced(),
        Scenario::new(
            "crash before a sync, member replaced, failover",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .writing(&[])
        .crashing(1)
        .unsynced(),
        Scenario::new("eventual: two failovers", vec![eventual(&[0, 1, 2])], &[KEEP, KEEP]).writing(&[1, 2, 3]),
        Scenario::new("2/2 -> eventual, failover", vec![three(), eventual(&[0, 1, 2])], &[change(1), KEEP]).writing(&[1, 2, 3]),
        Scenario::new(
            "3/1 -> eventual, failover",
            vec![all_write(), eventual(&[0, 1, 2])],
            &[change(1), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new("eventual -> 2/2, failover", vec![eventual(&[0, 1, 2]), three()], &[change(1), KEEP]).writing(&[1, 2, 3]),
        Scenario::new(
            "eventual -> 3/1, failover",
            vec![eventual(&[0, 1, 2]), all_write()],
            &[change(1), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new("log damaged, 3/2/2: two failovers", vec![three()], &[KEEP, KEEP]).damaging(1),
        Scenario::new(
            "log damaged, 3/3/2 shrunk to two, failover",
            vec![configuration(&[0, 1, 2], 3, 2), configuration(&[0, 3], 2, 2)],
            &[change(1), KEEP],
        )
        .writing(&[2])
        .damaging(2),
    ]
}

/// More of it: what `make model` exhausts beside the quick ones.
#[must_use]
pub fn full() -> Vec<Scenario> {
    let three = || configuration(&[0, 1, 2], 2, 2);
    let all_write = || configuration(&[0, 1, 2], 3, 1);
    let replaced = || configuration(&[0, 1, 3], 2, 2);
    let left_out = DriverPlan { left_out: Some(0), ..KEEP };
    vec![
        Scenario::new("3/2/2: three failovers, each epoch writes", vec![three()], &[KEEP, KEEP, KEEP]).writing(&[1, 2, 3]),
        Scenario::new("3/3/1: three failovers, each epoch writes", vec![all_write()], &[KEEP, KEEP, KEEP]).writing(&[1, 2, 3]),
        Scenario::new(
            "2/2 -> 3/1 -> 2/2, failover, each epoch writes",
            vec![three(), all_write()],
            &[change(1), change(0), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "member replaced by a blank one, failover, each epoch writes",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .writing(&[1, 2, 3])
        .learning(),
        Scenario::new(
            "failover, member replaced, primary left out",
            vec![three(), replaced()],
            &[KEEP, change(1), left_out],
        )
        .writing(&[2]),
        Scenario::new(
            "member replaced, two failovers",
            vec![three(), replaced()],
            &[change(1), KEEP, KEEP],
        )
        .writing(&[2]),
        Scenario::new(
            "two members replaced in turn, failover",
            vec![three(), replaced(), configuration(&[0, 3, 4], 2, 2)],
            &[change(1), change(2), KEEP],
        )
        .writing(&[]),
        Scenario::new(
            "primary dropped, two failovers",
            vec![three(), configuration(&[1, 2], 2, 1)],
            &[change(1), KEEP, KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "3/3/3 shrunk to two and back, failover",
            vec![configuration(&[0, 1, 2], 3, 3), two()],
            &[change(1), change(0), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "4/4/3 shrunk to two, two failovers",
            vec![configuration(&[0, 1, 2, 3], 4, 3), two()],
            &[change(1), KEEP, KEEP],
        )
        .writing(&[1, 2]),
        Scenario::new(
            "two disks wiped, member replaced, failover",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .writing(&[1, 2])
        .wiping(2, &[(2, 3), (1, 4)])
        .learning(),
        Scenario::new("crash before a sync, 3/2/2: three failovers", vec![three()], &[KEEP, KEEP, KEEP])
            .crashing(1)
            .unsynced(),
        Scenario::new(
            "crash before a sync, member replaced, failover, writes",
            vec![three(), replaced()],
            &[change(1), KEEP],
        )
        .writing(&[2])
        .crashing(1)
        .unsynced(),
        Scenario::new(
            "eventual: three failovers, each epoch writes",
            vec![eventual(&[0, 1, 2])],
            &[KEEP, KEEP, KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "2/2 -> eventual -> 3/1, failover",
            vec![three(), eventual(&[0, 1, 2]), all_write()],
            &[change(1), change(2), KEEP],
        )
        .writing(&[1, 2, 3]),
        Scenario::new(
            "crash before a sync, eventual -> 2/2, failover",
            vec![eventual(&[0, 1, 2]), three()],
            &[change(1), KEEP],
        )
        .writing(&[2])
        .crashing(1)
        .unsynced(),
        Scenario::new("log damaged, 3/2/2: three failovers", vec![three()], &[KEEP, KEEP, KEEP]).damaging(1),
        Scenario::new("logs damaged, 3/2/2: two failovers", vec![three()], &[KEEP, KEEP]).damaging(2),
        Scenario::new(
            "log damaged, 3/3/2 member replaced, failover",
            vec![configuration(&[0, 1, 2], 3, 2), configuration(&[0, 1, 3], 3, 2)],
            &[change(1), KEEP],
        )
        .writing(&[1, 2])
        .damaging(1),
    ]
}

/// Every rule that is taken away, with a scenario that shows it.
#[must_use]
pub fn mutants() -> Vec<(&'static str, Mutation, Scenario)> {
    let all: Vec<Scenario> = quick().into_iter().chain(full()).collect();
    let scenario = |name: &str| {
        let found = all.iter().find(|scenario| scenario.name == name);
        found.expect("the name of a scenario").clone()
    };
    let (failovers, replaced) = ("3/2/2: three failovers", "member replaced by a blank one, failover");
    let (crash, damage) = (
        "crash before a sync, 3/2/2: two failovers",
        "log damaged, 3/3/2 shrunk to two, failover",
    );
    let table = [
        ("fence one member short", Mutation::FenceOneShort, failovers),
        (
            "change fenced by V_f alone",
            Mutation::ChangeFencedByVfAlone,
            "3/3/3 shrunk to two, failover",
        ),
        (
            "configurations not learned from answers",
            Mutation::ConfigurationsNotLearned,
            replaced,
        ),
        (
            "configuration left out before a later one is committed",
            Mutation::SupersededBeforeCommit,
            "member replaced, two failovers",
        ),
        ("serving before epoch start", Mutation::ServeBeforeEpochStart, failovers),
        (
            "wiped disk counted",
            Mutation::StrangerCounted,
            "a disk wiped, its member replaced, failover",
        ),
        ("choice by index only", Mutation::ChooseByIndex, failovers),
        (
            "old-epoch entry counted as committed",
            Mutation::CommitOldEpoch,
            "3/2/2: three failovers, each leaves one out",
        ),
        ("one field for promise and entry epoch", Mutation::PromiseIsEntryEpoch, failovers),
        ("epoch begun twice", Mutation::EpochReused, crash),
        ("activation with another log", Mutation::ActivateWithOtherLog, crash),
        ("member acknowledges before its sync", Mutation::AckBeforeSync, crash),
        ("primary counts itself before its sync", Mutation::CountOwnBeforeSync, crash),
        (
            "proposal forgotten before the sync of what settles it",
            Mutation::ForgetBeforeSync,
            "crash before a sync, member replaced, failover",
        ),
        (
            "acknowledged taken for committed",
            Mutation::AcknowledgedIsCommitted,
            "eventual: two failovers",
        ),
        (
            "lost entries not told",
            Mutation::DamageIgnored,
            "log damaged, 3/2/2: two failovers",
        ),
        (
            "lost entries thought to be of a known configuration",
            Mutation::DamagedKnowsConfigurations,
            damage,
        ),
    ];
    table
        .into_iter()
        .map(|(name, mutation, in_scenario)| (name, mutation, scenario(in_scenario)))
        .collect()
}
