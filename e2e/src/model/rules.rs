//! What can happen next: the rules of a replica, one atomic step each, and the checker's view of the whole.
//!
//! The names in brackets are those of `quorate_protocol::replica`, whose rule a step is. See [`super`] for the steps that
//! are left out, and why nothing is lost by it.

use super::drivers::{Answer, Became, Drivers};
use super::scenarios::Scenario;
use super::state::{
    Choice, Disk, EPOCHS, Log, NODES, Node, Pilot, Reign, State, Way, Wrong, bit, configuration_of, epoch_of, start_entry, write_entry,
};
use quorate_api::{Configuration, Consistency, Quorum};
use quorate_protocol_mutants::mutation::Mutation;
use stateright::{Model, Property};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A driver's fence reaches a node, whose answer is on its way from then on (`on_fence`).
    Fence {
        /// The driver.
        driver: u8,
        /// The node.
        node: u8,
    },
    /// The answer reaches the driver (`Driver::on_fence_answer`).
    Answer {
        /// The driver.
        driver: u8,
        /// Who answered.
        node: u8,
    },
    /// The driver stops waiting for a better choice (`Driver::settle`).
    Settle {
        /// The driver.
        driver: u8,
    },
    /// The activation reaches the chosen node (`on_activate`).
    Activate {
        /// The driver.
        driver: u8,
    },
    /// An append that the primary of an epoch sent at some time reaches a node (`hear`, `on_append`), which acknowledges it.
    Append {
        /// Whose.
        epoch: u8,
        /// To whom.
        node: u8,
        /// The index of its last entry.
        through: u8,
        /// The commit index that it tells.
        commit: u8,
    },
    /// What a node has written becomes durable (`on_log_durable`).
    Sync {
        /// The node.
        node: u8,
    },
    /// Acknowledgements reach the primary of an epoch, and its commit index rises (`advance_commit`).
    Commit {
        /// Whose.
        epoch: u8,
        /// The new commit index.
        through: u8,
    },
    /// A client's write comes to the primary of an epoch (`propose`).
    Write {
        /// Whose.
        epoch: u8,
    },
    /// A node ends and comes back with what is durable (`Replica::new`).
    Crash {
        /// The node.
        node: u8,
        /// It comes back without the commit index that it had: the index on the disk is a hint, and may be older.
        forgets: bool,
    },
    /// A node ends and comes back with entries that do not read any more (`restore`): it says so.
    Damage {
        /// The node.
        node: u8,
        /// Entries that are left.
        left: u8,
    },
    /// A node's disk is lost. If it has a successor, that one lives in its place from now on.
    Wipe {
        /// The node.
        node: u8,
    },
}

/// A scenario with the drivers that it met. See [`super`].
pub struct ViewChanges {
    scenario: Scenario,
    broken: Option<Mutation>,
    drivers: Drivers,
    /// For each configuration its members as a set of bits.
    members: Vec<u8>,
    quorums: Vec<Quorum>,
}

impl ViewChanges {
    /// The model of a scenario, with a rule taken away or with none.
    #[must_use]
    pub fn new(scenario: Scenario, broken: Option<Mutation>) -> Self {
        let members = |c: &Configuration| {
            let listed = (0..NODES as u8).filter(|&n| c.contains(super::drivers::incarnation(n)));
            listed.fold(0, |set, n| set | bit(n))
        };
        let members = scenario.configurations.iter().map(members).collect();
        let quorums = scenario.configurations.iter().map(Configuration::quorum).collect();
        Self {
            scenario,
            broken,
            drivers: Drivers::new(broken),
            members,
            quorums,
        }
    }

    fn breaks(&self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }

    fn members(&self, configuration: u8) -> u8 {
        self.members[usize::from(configuration)]
    }

    fn nodes(&self) -> std::ops::Range<u8> {
        0..self.scenario.nodes
    }

    fn epochs(&self) -> impl Iterator<Item = u8> + use<> {
        1..=u8::try_from(self.scenario.drivers.len() + 1).expect("few drivers")
    }

    /// Proposals to change the configuration, as a set of epochs: one that keeps it tells a driver nothing.
    fn changes(&self, epoch: u8) -> u8 {
        self.scenario.proposal(epoch).map_or(0, |_| bit(epoch))
    }

    // Steps. Each gives false if it cannot happen.

    fn fence(&self, s: &mut State, driver: u8, number: u8) -> bool {
        let epoch = driver + 2;
        let promised_before = s.nodes[usize::from(number)].promised;
        if !self.promise_to_fence(s, epoch, number) {
            return false;
        }
        let node = &s.nodes[usize::from(number)];
        let Pilot::Fencing { answers, .. } = &mut s.pilots[usize::from(driver)] else {
            return true;
        };
        let way = &mut answers[usize::from(number)];
        if *way != Way::Arrived {
            let mut answer = self.answer_of(number, node);
            if self.breaks(Mutation::PromiseIsEntryEpoch) && answer.last.1 > 0 && promised_before < epoch {
                answer.last.0 = promised_before;
            }
            *way = Way::Travels(self.drivers.answer_number(answer));
        }
        true
    }

    /// What a node answers to a fence.
    fn answer_of(&self, number: u8, node: &Node) -> Answer {
        let damaged = node.unreadable.is_some() && !self.breaks(Mutation::DamageIgnored);
        let committed = node.log.start_at(node.commit).map_or(0, |(index, ..)| index);
        let mut starts = [None; EPOCHS];
        let told = node.log.entries().filter_map(|(index, entry)| {
            let configuration = configuration_of(entry)?;
            (index >= committed).then_some((index, epoch_of(entry), configuration))
        });
        for (place, start) in starts.iter_mut().zip(told) {
            *place = Some(start);
        }
        Answer {
            node: number,
            promised: node.promised,
            last: match damaged {
                true => node.log.last().max(node.unreadable.unwrap_or_default()),
                false => node.log.last(),
            },
            damaged,
            commit: committed,
            starts,
            proposals: node.proposals,
        }
    }

    fn promise_to_fence(&self, s: &mut State, epoch: u8, number: u8) -> bool {
        let node = &mut s.nodes[usize::from(number)];
        if node.disk != Disk::Here || node.promised > epoch {
            return false;
        }
        if epoch > node.promised {
            node.proposals |= self.changes(epoch);
            self.promise(s, epoch, number);
        } else if node.proposals & self.changes(epoch) != self.changes(epoch) {
            node.proposals |= self.changes(epoch);
            self.store(node);
        }
        true
    }

    /// Writes what it must remember beside the log. (`Effect::PersistHardState`)
    fn store(&self, node: &mut Node) {
        if self.scenario.crashes + self.scenario.damages > 0 {
            node.stored_proposals = node.proposals;
        }
    }

    /// Promises, durably, and leaves the office.
    fn promise(&self, s: &mut State, epoch: u8, number: u8) {
        let node = &mut s.nodes[usize::from(number)];
        leave_office(&mut s.reigns, node.promised, number);
        node.promised = epoch;
        node.activated = false;
        node.matched = 0;
        self.store(node);
    }

    fn answer(&self, s: &mut State, driver: u8, node: u8) -> bool {
        let Pilot::Fencing { driver: number, answers } = &mut s.pilots[usize::from(driver)] else {
            return false;
        };
        let Way::Travels(answer) = answers[usize::from(node)] else {
            return false;
        };
        answers[usize::from(node)] = Way::Arrived;
        let answers = *answers;
        let became = self.drivers.on_answer(&self.scenario, *number, answer);
        let asked = self.drivers.asked(*number);
        s.pilots[usize::from(driver)] = pilot(became, answers, asked);
        true
    }

    fn settle(&self, s: &mut State, driver: u8) -> bool {
        let Pilot::Fencing { driver: number, answers } = s.pilots[usize::from(driver)] else {
            return false;
        };
        let became = self.drivers.on_settle(&self.scenario, number);
        s.pilots[usize::from(driver)] = pilot(became, answers, self.drivers.asked(number));
        true
    }

    fn activate(&self, s: &mut State, driver: u8) -> bool {
        let epoch = driver + 2;
        let Pilot::Chosen { choice, .. } = s.pilots[usize::from(driver)] else {
            return false;
        };
        let number = self.who_answers_for(s, choice.node);
        let node = &mut s.nodes[usize::from(number)];
        let member = self.members(choice.configuration) & bit(number) != 0;
        if node.disk != Disk::Here || node.promised != epoch || !member || self.refuses(node, choice) {
            return false;
        }
        node.activated = true;
        self.store(node);
        node.log.push(start_entry(epoch, choice.configuration));
        node.matched = 0;
        if !self.scenario.unsynced {
            node.durable = node.log.len();
        }
        let mut acknowledged = [0; NODES];
        acknowledged[usize::from(number)] = self.own(node);
        let reign = Reign {
            primary: number,
            configuration: choice.configuration,
            start: node.log.len(),
            log: node.log,
            first_commit: node.commit,
            commit: node.commit,
            serving: self.breaks(Mutation::ServeBeforeEpochStart),
            in_office: true,
            acknowledged,
        };
        if s.reigns[usize::from(epoch) - 1].replace(reign).is_some() {
            s.wrong = Some(Wrong::TwoPrimaries);
        }
        true
    }

    fn refuses(&self, node: &Node, choice: Choice) -> bool {
        let begun = node.activated && !self.breaks(Mutation::EpochReused);
        let moved = node.log.last() != choice.last;
        let damaged = node.unreadable.is_some() && !self.breaks(Mutation::DamageIgnored);
        let may_have_moved = self.breaks(Mutation::ActivateWithOtherLog) || self.breaks(Mutation::PromiseIsEntryEpoch);
        begun || moved && !may_have_moved || damaged
    }

    /// How much of its own log a primary counts. (`advance_commit`)
    fn own(&self, node: &Node) -> u8 {
        match self.breaks(Mutation::CountOwnBeforeSync) {
            true => node.log.len(),
            false => node.durable,
        }
    }

    fn append(&self, s: &mut State, epoch: u8, number: u8, through: u8, commit: u8) -> bool {
        let Some(reign) = s.reigns[usize::from(epoch) - 1] else {
            return false;
        };
        if epoch > s.nodes[usize::from(number)].promised {
            self.promise(s, epoch, number);
        }
        let node = &mut s.nodes[usize::from(number)];
        let agreed = node.log.agreement(reign.log).min(through);
        if agreed < through {
            if node.log.len() > agreed {
                if agreed < node.commit {
                    s.wrong = Some(Wrong::Diverged);
                }
                node.log = node.log.prefix(agreed);
                node.durable = node.durable.min(agreed);
            }
            node.log = reign.log.prefix(through);
            if !self.scenario.unsynced {
                node.durable = through;
            }
        }
        node.matched = node.matched.max(through);
        node.commit = node.commit.max(commit.min(node.matched));
        self.forget(node);
        self.acknowledge(s, epoch, number);
        true
    }

    /// Whatever a node has acknowledged may reach its primary, at any time. (`acknowledge`)
    fn acknowledge(&self, s: &mut State, epoch: u8, number: u8) {
        let node = &mut s.nodes[usize::from(number)];
        self.make_good(node);
        let held = match node.unreadable {
            Some(_) if !self.breaks(Mutation::DamageIgnored) => 0,
            _ if self.breaks(Mutation::AckBeforeSync) => node.matched,
            _ => node.durable.min(node.matched),
        };
        if node.durable == node.log.len() {
            node.matched = 0;
        }
        if let Some(reign) = &mut s.reigns[usize::from(epoch) - 1] {
            let least = if self.breaks(Mutation::CommitOldEpoch) { 1 } else { reign.start };
            let known = &mut reign.acknowledged[usize::from(number)];
            if held >= least && reign.in_office {
                *known = held.max(*known);
            }
        }
    }

    /// It holds again what it lost, or what a later primary has in its place. (`make_good`)
    fn make_good(&self, node: &mut Node) {
        let held = node.log.prefix(node.durable.min(node.commit.max(node.matched)));
        if node.unreadable.is_some_and(|lost| held.last() >= lost) {
            node.unreadable = None;
        }
    }

    /// What was proposed up to the last committed epoch start is history. (`commit_through`, `forget_settled`)
    fn forget(&self, node: &mut Node) {
        let settled = match self.breaks(Mutation::ForgetBeforeSync) {
            true => node.commit,
            false => node.commit.min(node.durable),
        };
        if let Some((_, epoch, _)) = node.log.start_at(settled) {
            node.proposals &= !(bit(epoch + 1) - 1);
        }
    }

    fn sync(&self, s: &mut State, number: u8) -> bool {
        let node = &mut s.nodes[usize::from(number)];
        if node.durable == node.log.len() {
            return false;
        }
        node.durable = node.log.len();
        let epoch = node.promised;
        self.forget(node);
        match &mut s.reigns[usize::from(epoch) - 1] {
            Some(reign) if reign.primary == number && reign.in_office => {
                reign.acknowledged[usize::from(number)] = s.nodes[usize::from(number)].durable;
            }
            _ => self.acknowledge(s, epoch, number),
        }
        true
    }

    /// Members of the reign's configuration that hold its log at least up to `index`, as it may know.
    fn holders(&self, reign: &Reign, index: u8) -> u32 {
        let members = self.members(reign.configuration);
        let holds = |n: &u8| members & bit(*n) != 0 && reign.acknowledged[usize::from(*n)] >= index;
        u32::try_from(self.nodes().filter(holds).count()).expect("few nodes")
    }

    fn commit(&self, s: &mut State, epoch: u8, through: u8) -> bool {
        let Some(reign) = &mut s.reigns[usize::from(epoch) - 1] else {
            return false;
        };
        let node = &mut s.nodes[usize::from(reign.primary)];
        reign.commit = through;
        node.commit = through;
        self.forget(node);
        if through >= reign.start {
            reign.serving = true;
            s.acknowledged |= reign.log.prefix(through).writes();
        }
        true
    }

    fn write(&self, s: &mut State, epoch: u8) -> bool {
        let Some(reign) = &mut s.reigns[usize::from(epoch) - 1] else {
            return false;
        };
        let node = &mut s.nodes[usize::from(reign.primary)];
        node.log.push(write_entry(epoch));
        reign.log = node.log;
        if !self.scenario.unsynced {
            node.durable = node.log.len();
        }
        reign.acknowledged[usize::from(reign.primary)] = self.own(node);
        true
    }

    fn crash(&self, s: &mut State, number: u8, forgets: bool) -> bool {
        let node = &mut s.nodes[usize::from(number)];
        node.log = node.log.prefix(node.durable);
        node.proposals = node.stored_proposals;
        node.matched = 0;
        node.commit = node.commit.min(node.durable);
        if forgets {
            node.commit = node.commit.min(1);
        }
        leave_office(&mut s.reigns, node.promised, number);
        s.crashes += 1;
        true
    }

    fn damage(&self, s: &mut State, number: u8, left: u8) -> bool {
        let node = &mut s.nodes[usize::from(number)];
        let lost = node.log.prefix(node.durable).last();
        node.durable = left;
        node.unreadable = node.unreadable.max(Some(lost));
        self.crash(s, number, false);
        s.crashes -= 1;
        s.damages += 1;
        true
    }

    fn wipe(&self, s: &mut State, number: u8) -> bool {
        self.crash(s, number, false);
        s.crashes -= 1;
        s.wipes += 1;
        s.nodes[usize::from(number)] = Node {
            disk: Disk::Wiped,
            ..Node::default()
        };
        if let Some(successor) = self.scenario.successor(number) {
            s.nodes[usize::from(successor)].disk = Disk::Here;
        }
        true
    }

    /// A node is reached by its name: who lives there now may be somebody else.
    fn who_answers_for(&self, s: &State, node: u8) -> u8 {
        match s.nodes[usize::from(node)].disk {
            Disk::Wiped => self.scenario.successor(node).unwrap_or(node),
            Disk::Here | Disk::Unborn => node,
        }
    }

    // Rules that must hold.

    fn judge(&self, s: &State) -> Option<Wrong> {
        let reigns = || s.reigns.iter().flatten();
        for (epoch, reign) in (1u8..).zip(&s.reigns) {
            let Some(reign) = reign else { continue };
            if !reign.serving {
                continue;
            }
            let earlier = s.acknowledged & (bit(epoch) - 1);
            if reign.log.writes() & earlier != earlier {
                return Some(Wrong::WriteLost);
            }
            let quorum = self.quorums[usize::from(reign.configuration)];
            if quorum.consistency == Consistency::Eventual {
                // It answers what it has, and does not claim that this is the last word.
                continue;
            }
            let (members, read) = (self.members(reign.configuration), quorum.read);
            let confirms = |n: &u8| {
                let node = &s.nodes[usize::from(*n)];
                members & bit(*n) != 0 && node.disk == Disk::Here && node.promised <= epoch
            };
            if reign.in_office
                && self.nodes().filter(confirms).count() >= read as usize
                && s.acknowledged & !reign.log.prefix(reign.commit).writes() != 0
            {
                return Some(Wrong::StaleRead);
            }
        }
        // Everybody's committed entries are those of whoever committed most.
        let committed = s
            .nodes
            .iter()
            .map(|n| n.log.prefix(n.commit))
            .chain(reigns().map(|r| r.log.prefix(r.commit)));
        let most: Log = committed.clone().max_by_key(|log| log.len()).unwrap_or_default();
        committed
            .clone()
            .any(|log| log.agreement(most) < log.len())
            .then_some(Wrong::Diverged)
    }

    fn served_change(&self, s: &State) -> bool {
        s.reigns.iter().flatten().any(|reign| reign.serving && reign.configuration != 0)
    }
}

/// Whoever was primary of that epoch is it no more.
fn leave_office(reigns: &mut [Option<Reign>; EPOCHS], epoch: u8, number: u8) {
    if let Some(Some(reign)) = usize::from(epoch).checked_sub(1).map(|epoch| &mut reigns[epoch])
        && reign.primary == number
    {
        reign.in_office = false;
        reign.acknowledged = [0; NODES];
    }
}

fn pilot(became: Became, answers: [Way; NODES], asked: u8) -> Pilot {
    match became {
        Became::Fencing(driver) => Pilot::Fencing { driver, answers },
        Became::Chosen(choice) => Pilot::Chosen { choice, asked },
        Became::Ended => Pilot::Ended,
    }
}

impl Model for ViewChanges {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let first = self.members(0);
        let mut nodes = [Node::default(); NODES];
        let mut log = Log::default();
        log.push(start_entry(1, 0));
        let mut acknowledged = [0; NODES];
        for number in self.nodes() {
            let node = &mut nodes[usize::from(number)];
            if first & bit(number) != 0 {
                *node = Node {
                    disk: Disk::Here,
                    promised: 1,
                    activated: number == 0,
                    log,
                    durable: 1,
                    commit: 1,
                    ..Node::default()
                };
                acknowledged[usize::from(number)] = 1;
            } else if !self.scenario.is_successor(number) {
                node.disk = Disk::Here;
            }
        }
        let reign = Reign {
            primary: 0,
            configuration: 0,
            start: 1,
            log,
            first_commit: 1,
            commit: 1,
            serving: true,
            in_office: true,
            acknowledged,
        };
        let mut pilots = [Pilot::Ended; EPOCHS - 1];
        for (place, driver) in pilots.iter_mut().zip(self.scenario.new_drivers()) {
            *place = Pilot::Fencing {
                driver: self.drivers.begin(driver),
                answers: [Way::None; NODES],
            };
        }
        vec![State {
            nodes,
            reigns: [Some(reign), None, None, None],
            pilots,
            acknowledged: 0,
            crashes: 0,
            wipes: 0,
            damages: 0,
            wrong: None,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        if s.wrong.is_some() {
            return;
        }
        for (driver, pilot) in (0u8..).zip(&s.pilots[..self.scenario.drivers.len()]) {
            match pilot {
                Pilot::Fencing { driver: number, answers } => {
                    let asked = self.drivers.asked(*number);
                    for node in self.nodes().filter(|n| asked & bit(*n) != 0) {
                        let node = self.who_answers_for(s, node);
                        steps.push(Step::Fence { driver, node });
                    }
                    for node in self.nodes() {
                        if matches!(answers[usize::from(node)], Way::Travels(_)) {
                            steps.push(Step::Answer { driver, node });
                        }
                    }
                    if self.scenario.drivers[usize::from(driver)].avoid.is_some() {
                        steps.push(Step::Settle { driver });
                    }
                }
                Pilot::Chosen { asked, .. } => {
                    steps.push(Step::Activate { driver });
                    let late = self.nodes().filter(|n| asked & bit(*n) != 0);
                    steps.extend(late.map(|node| Step::Fence {
                        driver,
                        node: self.who_answers_for(s, node),
                    }));
                }
                Pilot::Ended => {}
            }
        }
        for epoch in self.epochs() {
            let Some(reign) = &s.reigns[usize::from(epoch) - 1] else { continue };
            let receivers = match self.scenario.learners {
                true => u8::MAX,
                false => self.members(reign.configuration),
            };
            for node in self.nodes().filter(|n| receivers & bit(*n) != 0 && *n != reign.primary) {
                let receiver = &s.nodes[usize::from(node)];
                if receiver.disk != Disk::Here || receiver.promised > epoch {
                    continue;
                }
                for through in 1..=reign.log.len() {
                    steps.push(Step::Append {
                        epoch,
                        node,
                        through,
                        commit: reign.commit,
                    });
                    if reign.first_commit < reign.commit {
                        let commit = reign.first_commit;
                        steps.push(Step::Append {
                            epoch,
                            node,
                            through,
                            commit,
                        });
                    }
                }
            }
            if !reign.in_office {
                continue;
            }
            let least = if self.breaks(Mutation::CommitOldEpoch) { 1 } else { reign.start };
            for through in (reign.commit + 1).max(least)..=reign.log.len() {
                let quorum = self.quorums[usize::from(reign.configuration)];
                let needed = match self.breaks(Mutation::AcknowledgedIsCommitted) {
                    true => quorum.write,
                    false => quorum.commit(),
                };
                if self.holders(reign, through) >= needed {
                    steps.push(Step::Commit { epoch, through });
                }
            }
            let wrote = reign.log.writes() & bit(epoch) != 0;
            if reign.serving && !wrote && self.scenario.writes.contains(&epoch) {
                steps.push(Step::Write { epoch });
            }
        }
        for node in self.nodes() {
            let n = &s.nodes[usize::from(node)];
            if n.disk != Disk::Here {
                continue;
            }
            if n.durable < n.log.len() {
                steps.push(Step::Sync { node });
            }
            if s.crashes < self.scenario.crashes {
                steps.push(Step::Crash { node, forgets: false });
                if n.commit > 1 {
                    steps.push(Step::Crash { node, forgets: true });
                }
            }
            if s.damages < self.scenario.damages {
                steps.extend((0..n.durable).map(|left| Step::Damage { node, left }));
            }
            if s.wipes < self.scenario.wipes && self.scenario.may_be_wiped(node) {
                steps.push(Step::Wipe { node });
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = *before;
        let happens = match step {
            Step::Fence { driver, node } => self.fence(&mut s, driver, node),
            Step::Answer { driver, node } => self.answer(&mut s, driver, node),
            Step::Settle { driver } => self.settle(&mut s, driver),
            Step::Activate { driver } => self.activate(&mut s, driver),
            Step::Append {
                epoch,
                node,
                through,
                commit,
            } => self.append(&mut s, epoch, node, through, commit),
            Step::Sync { node } => self.sync(&mut s, node),
            Step::Commit { epoch, through } => self.commit(&mut s, epoch, through),
            Step::Write { epoch } => self.write(&mut s, epoch),
            Step::Crash { node, forgets } => self.crash(&mut s, node, forgets),
            Step::Damage { node, left } => self.damage(&mut s, node, left),
            Step::Wipe { node } => self.wipe(&mut s, node),
        };
        if !happens || s == *before {
            return None;
        }
        if matches!(step, Step::Crash { .. })
            && (State {
                crashes: before.crashes,
                ..s
            }) == *before
        {
            // A crash that changes nothing is not worth counting.
            return None;
        }
        if s.wrong.is_none() {
            s.wrong = self.judge(&s);
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("an epoch has one primary", |_, s: &State| s.wrong != Some(Wrong::TwoPrimaries)),
            Property::always("no acknowledged write is lost", |_, s: &State| s.wrong != Some(Wrong::WriteLost)),
            Property::always("a deposed primary never answers", |_, s: &State| s.wrong != Some(Wrong::StaleRead)),
            Property::always("committed entries are the same everywhere", |_, s: &State| {
                s.wrong != Some(Wrong::Diverged)
            }),
            Property::sometimes("the last epoch serves", |m: &Self, s: &State| {
                s.reigns[m.scenario.drivers.len()].is_some_and(|reign| reign.serving)
            }),
            Property::sometimes("every epoch serves", |m: &Self, s: &State| {
                s.reigns[..=m.scenario.drivers.len()]
                    .iter()
                    .all(|reign| reign.is_some_and(|reign| reign.serving))
            }),
            Property::sometimes("a write of each epoch that writes is acknowledged", |m: &Self, s: &State| {
                m.scenario.writes.iter().all(|epoch| s.acknowledged & bit(*epoch) != 0)
            }),
        ];
        if self.scenario.drivers.iter().any(|driver| driver.target.is_some()) {
            properties.push(Property::sometimes("another configuration serves", Self::served_change));
        }
        if self.scenario.wipes > 0 {
            properties.push(Property::sometimes(
                "another configuration serves after a disk was wiped",
                |m: &Self, s: &State| s.wipes > 0 && m.served_change(s),
            ));
        }
        properties
    }
}
