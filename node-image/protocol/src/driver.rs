//! The view-change driver: failover, switchover, hand-over, bootstrap, membership and quorum change are one machine.
//!
//! A driver takes one epoch through the steps of the design: fence, learn, wait for the fence quorum in every
//! configuration known, choose, activate. It is pure: the caller sends the [`DriverEffect`]s to the members and
//! feeds their answers back, in any order, as often as they come. Nobody trusts a driver: any number may run at once.
//!
//! Invariants: one activation per driver, for one replica, because an epoch has one primary · the choice is the
//! greatest (epoch, index) among the answers of the fence · a configuration is left out only once an answer shows that
//! the epoch start of a later one is committed: whatever came after that, its fence meets.
//!
//! It does not time out, dial, or draw epochs: a caller that waited long enough drops it and starts the next with
//! a higher epoch, from [`Driver::configurations`] and [`Driver::highest_number`].

use crate::mutation::{self, Mutation};
use quorate_api::{
    ActivateAnswer, ActivateRefusal, ActivateRequest, Configuration, EntryId, Epoch, FenceAnswer, FenceRequest, Incarnation, Member,
    Proposal, Quorum,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a driver wants done or has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEffect {
    /// Send the fence to that member, over a new connection if need be.
    Fence(Member, FenceRequest),
    /// Send the activation to that member, and to no other. The fence is complete.
    Activate(Member, ActivateRequest),
    /// The view change is complete: the epoch start is committed, the primary serves.
    Done(ViewChanged),
    /// This driver can go no further; its epoch serves nobody, or nobody yet.
    Failed(DriverFailure),
}

/// The outcome of a view change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChanged {
    /// Who serves.
    pub primary: Member,
    /// The committed epoch start.
    pub start: EntryId,
    /// The configuration in force.
    pub configuration: Configuration,
}

/// Why a driver gave up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverFailure {
    /// Somebody proposed a higher epoch. Look at what the members say now before trying again above it.
    #[error("superseded by epoch number {highest}")]
    Superseded {
        /// The highest number seen.
        highest: u64,
    },
    /// The chosen replica refused.
    #[error("{chosen} refused to serve: {refusal}")]
    Refused {
        /// The replica.
        chosen: Incarnation,
        /// Its reason.
        refusal: ActivateRefusal,
    },
    /// A bootstrap met a replica that holds data: it is a group already.
    #[error("{holder} holds data up to {last:?}: the group was bootstrapped before")]
    NotBlank {
        /// The replica.
        holder: Incarnation,
        /// Its last entry.
        last: EntryId,
    },
    /// The greatest log is on a member that the target drops, and what it has above the others may be committed: switch
    /// over to a member that stays, then change.
    #[error("the greatest log, up to {last:?}, is on {holder}, which the target drops: switch over to a member that stays first")]
    Dropped {
        /// The member.
        holder: Incarnation,
        /// Its last entry.
        last: EntryId,
    },
}

/// What the fence still waits for in one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceProgress {
    /// The sizes of the configuration.
    pub quorum: Quorum,
    /// Members that must have promised.
    pub needed: u32,
    /// Members that have.
    pub fenced: Vec<Incarnation>,
    /// Members that have not.
    pub missing: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Fencing,
    Activating(Member, ActivateRequest),
    Finished,
}

/// One view change under one epoch. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Driver {
    epoch: Epoch,
    proposal: Proposal,
    bootstrap: bool,
    /// A person gave up what the survivors do not have.
    recovery: bool,
    avoid: Option<Incarnation>,
    preferred: Option<Incarnation>,
    left_out: Option<Incarnation>,
    /// With the epoch that each is known from; [`Epoch::ZERO`] if the caller only said it.
    configurations: Vec<(Epoch, Configuration)>,
    /// The latest epoch whose start an answer showed to be committed.
    in_force_since: Epoch,
    asked: BTreeSet<Incarnation>,
    answers: BTreeMap<Incarnation, FenceAnswer>,
    highest: u64,
    phase: Phase,
}

impl Driver {
    /// A view change that keeps the configuration: failover, switchover, hand-over.
    ///
    /// `known` are all configurations that the caller knows of; old ones suffice, the answers tell the rest.
    /// `avoid` is not chosen while another replica has an equal log and can still answer: the primary that hands over.
    #[must_use]
    pub fn keep(epoch: Epoch, known: Vec<Configuration>, avoid: Option<Incarnation>) -> Self {
        Self::new(epoch, Proposal::Keep, known, avoid, false)
    }

    /// A view change to another configuration.
    #[must_use]
    pub fn change(epoch: Epoch, known: Vec<Configuration>, target: Configuration) -> Self {
        Self::new(epoch, Proposal::Change(target), known, None, false)
    }

    /// The first view change of a group: every member of `target` must answer, and be blank.
    #[must_use]
    pub fn bootstrap(epoch: Epoch, target: Configuration) -> Self {
        Self::new(epoch, Proposal::Change(target), Vec::new(), None, true)
    }

    /// The human way out when too few members are left to fence: a change to `survivors`, all of whom must answer, that
    /// waits for no other member. What only the lost members had is given up, committed or not, and if they come back
    /// they may go on without the survivors. Never used without a person's word.
    ///
    /// Members of the `known` configurations are asked all the same: one that answers with more than the survivors have
    /// is not lost, and ends it with [`DriverFailure::Dropped`].
    #[must_use]
    pub fn recover(epoch: Epoch, known: Vec<Configuration>, survivors: Configuration) -> Self {
        let mut driver = Self::new(epoch, Proposal::Change(survivors), known, None, false);
        driver.recovery = true;
        driver
    }

    fn new(epoch: Epoch, proposal: Proposal, known: Vec<Configuration>, avoid: Option<Incarnation>, bootstrap: bool) -> Self {
        let target = match &proposal {
            Proposal::Change(target) => Some((epoch, target.clone())),
            Proposal::Keep => None,
        };
        let mut driver = Self {
            epoch,
            proposal,
            bootstrap,
            recovery: false,
            avoid,
            preferred: None,
            left_out: None,
            configurations: Vec::new(),
            in_force_since: Epoch::ZERO,
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
            highest: epoch.number,
            phase: Phase::Fencing,
        };
        for (epoch, configuration) in known.into_iter().map(|known| (Epoch::ZERO, known)).chain(target) {
            driver.learn(epoch, configuration);
        }
        driver
    }

    /// Does not ask this member: a primary that its members do not reach, but the driver does. Its log may be the longest;
    /// chosen again, it could commit nothing. Any V_f others fence as well as it would.
    #[must_use]
    pub fn leaving_out(mut self, member: Option<Incarnation>) -> Self {
        self.left_out = member;
        self
    }

    /// Chooses this member if its log equals the greatest, and waits for its answer until [`Driver::settle`].
    #[must_use]
    pub fn preferring(mut self, member: Option<Incarnation>) -> Self {
        self.preferred = member;
        self
    }

    /// The epoch of this view change.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The configuration that it changes to, if it changes it.
    #[must_use]
    pub fn target(&self) -> Option<&Configuration> {
        match &self.proposal {
            Proposal::Change(target) => Some(target),
            Proposal::Keep => None,
        }
    }

    /// The highest epoch number seen so far: the next driver takes one above it.
    #[must_use]
    pub fn highest_number(&self) -> u64 {
        self.highest
    }

    /// Every configuration that matters, as far as is known by now.
    pub fn configurations(&self) -> impl Iterator<Item = &Configuration> {
        self.configurations.iter().map(|(_, configuration)| configuration)
    }

    /// The replica that was told to serve. None before the fence is complete.
    #[must_use]
    pub fn chosen(&self) -> Option<&Member> {
        match &self.phase {
            Phase::Activating(member, _) => Some(member),
            Phase::Fencing | Phase::Finished => None,
        }
    }

    /// True once [`DriverEffect::Done`] or [`DriverEffect::Failed`] was given.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// How far the fence is, one item for each configuration known.
    #[must_use]
    pub fn progress(&self) -> Vec<FenceProgress> {
        self.configurations().map(|configuration| self.progress_in(configuration)).collect()
    }

    /// The requests that are not answered yet. Call it to start, and again when a connection came back.
    #[must_use]
    pub fn requests(&mut self) -> Vec<DriverEffect> {
        match &self.phase {
            Phase::Finished => Vec::new(),
            Phase::Activating(member, request) => vec![DriverEffect::Activate(member.clone(), request.clone())],
            Phase::Fencing => {
                self.asked = self.answers.keys().copied().collect();
                self.ask()
            }
        }
    }

    /// An answer to the fence, from any member, at any time.
    #[must_use]
    pub fn on_fence_answer(&mut self, answer: FenceAnswer) -> Vec<DriverEffect> {
        self.highest = self.highest.max(answer.promised.number);
        if self.phase != Phase::Fencing {
            return Vec::new();
        }
        // An entry of this very epoch means that an earlier activation of it is under way: it must not be chosen again.
        if answer.promised != self.epoch || answer.last.epoch >= self.epoch {
            return self.fail(DriverFailure::Superseded { highest: self.highest });
        }
        if self.bootstrap && (answer.last != EntryId::default() || !answer.configurations.is_empty()) {
            return self.fail(DriverFailure::NotBlank {
                holder: answer.incarnation,
                last: answer.last,
            });
        }
        if !mutation::active(Mutation::ConfigurationsNotLearned) {
            self.learn_from(&answer);
        }
        self.answers.insert(answer.incarnation, answer);
        let mut effects = self.ask();
        effects.extend(self.try_activate(false));
        effects
    }

    /// Enough waiting for a better choice than the avoided replica: take it if it is the only one.
    #[must_use]
    pub fn settle(&mut self) -> Vec<DriverEffect> {
        self.try_activate(true)
    }

    /// The answer of the chosen replica.
    #[must_use]
    pub fn on_activate_answer(&mut self, answer: &ActivateAnswer) -> Vec<DriverEffect> {
        let Phase::Activating(member, request) = &self.phase else {
            return Vec::new();
        };
        if answer.epoch != self.epoch || answer.incarnation != member.incarnation {
            return Vec::new();
        }
        match &answer.outcome {
            Ok(start) => {
                let done = ViewChanged {
                    primary: member.clone(),
                    start: *start,
                    configuration: request.configuration.clone(),
                };
                self.phase = Phase::Finished;
                vec![DriverEffect::Done(done)]
            }
            Err(ActivateRefusal::Promised(epoch) | ActivateRefusal::Deposed(epoch)) if *epoch > self.epoch => {
                self.highest = self.highest.max(epoch.number);
                self.fail(DriverFailure::Superseded { highest: self.highest })
            }
            Err(refusal) => {
                let failure = DriverFailure::Refused {
                    chosen: member.incarnation,
                    refusal: refusal.clone(),
                };
                self.fail(failure)
            }
        }
    }

    fn learn_from(&mut self, answer: &FenceAnswer) {
        for (start, configuration) in &answer.configurations {
            self.learn(start.epoch, configuration.clone());
        }
        for (epoch, proposal) in &answer.proposals {
            if let Proposal::Change(configuration) = proposal {
                self.learn(*epoch, configuration.clone());
            }
        }
        self.forget_superseded(answer);
    }

    fn learn(&mut self, epoch: Epoch, configuration: Configuration) {
        match self.configurations.iter_mut().find(|(_, known)| *known == configuration) {
            Some((known_from, _)) => *known_from = epoch.max(*known_from),
            None => self.configurations.push((epoch, configuration)),
        }
    }

    /// What a member forgets when it hears of a committed epoch start, the driver forgets when it is told of one: a
    /// member that is behind, or was dropped, would otherwise have it wait for members that are gone for ever.
    fn forget_superseded(&mut self, answer: &FenceAnswer) {
        let committed = answer
            .configurations
            .iter()
            .rfind(|(start, _)| start.index <= answer.commit || mutation::active(Mutation::SupersededBeforeCommit));
        if let Some((start, _)) = committed {
            self.in_force_since = start.epoch.max(self.in_force_since);
        }
        let since = self.in_force_since;
        self.configurations.retain(|(epoch, _)| *epoch >= since);
    }

    fn fail(&mut self, failure: DriverFailure) -> Vec<DriverEffect> {
        self.phase = Phase::Finished;
        vec![DriverEffect::Failed(failure)]
    }

    /// Fences every member that was not asked yet.
    fn ask(&mut self) -> Vec<DriverEffect> {
        let request = FenceRequest {
            epoch: self.epoch,
            proposal: self.proposal.clone(),
        };
        let mut effects = Vec::new();
        for member in self.configurations.iter().flat_map(|(_, configuration)| configuration.members()) {
            if Some(member.incarnation) != self.left_out && self.asked.insert(member.incarnation) {
                effects.push(DriverEffect::Fence(member.clone(), request.clone()));
            }
        }
        effects
    }

    fn progress_in(&self, configuration: &Configuration) -> FenceProgress {
        let quorum = configuration.quorum();
        let needed = match (&self.proposal, self.bootstrap) {
            (Proposal::Change(target), false) if self.recovery && target != configuration => 0,
            (Proposal::Change(_), false) if self.recovery => quorum.replicas,
            (_, true) => quorum.replicas,
            (Proposal::Keep, false) => quorum.fence(),
            (Proposal::Change(_), false) if mutation::active(Mutation::ChangeFencedByVfAlone) => quorum.fence(),
            (Proposal::Change(_), false) => quorum.fence_for_change(),
        };
        let needed = needed.saturating_sub(u32::from(mutation::active(Mutation::FenceOneShort)));
        let (fenced, missing): (Vec<_>, Vec<_>) = configuration
            .members()
            .iter()
            .cloned()
            .partition(|m| self.answers.contains_key(&m.incarnation));
        FenceProgress {
            quorum,
            needed,
            fenced: fenced.into_iter().map(|m| m.incarnation).collect(),
            missing,
        }
    }

    fn try_activate(&mut self, settle: bool) -> Vec<DriverEffect> {
        if self.phase != Phase::Fencing {
            return Vec::new();
        }
        let progress = self.progress();
        let short = |p: &FenceProgress| match mutation::active(Mutation::StrangerCounted) {
            true => self.answers.len() < p.needed as usize,
            false => p.fenced.len() < p.needed as usize,
        };
        if progress.is_empty() || progress.iter().any(short) {
            return Vec::new();
        }
        let everybody = progress.iter().all(|p| p.missing.is_empty());
        let Some((member, last, configuration)) = self.choose() else {
            return match self.dropped_holder() {
                Some((holder, last)) if everybody || settle => self.fail(DriverFailure::Dropped { holder, last }),
                _ => Vec::new(),
            };
        };
        // One that was left out is never asked.
        let awaits_preferred = self
            .preferred
            .is_some_and(|preferred| Some(preferred) != self.left_out && !self.answers.contains_key(&preferred));
        let may_improve = Some(member.incarnation) == self.avoid || awaits_preferred || self.recovery;
        if may_improve && !everybody && !settle {
            return Vec::new();
        }
        let request = ActivateRequest {
            epoch: self.epoch,
            last,
            configuration,
        };
        self.phase = Phase::Activating(member.clone(), request.clone());
        vec![DriverEffect::Activate(member, request)]
    }

    /// The undamaged member with the greatest log. None while a replica that cannot serve had a greater one and what it
    /// lost may be committed.
    fn choose(&self) -> Option<(Member, EntryId, Configuration)> {
        let intact = || self.answers.values().filter(|a| !a.damaged).map(|a| a.last);
        let greatest = match mutation::active(Mutation::ChooseByIndex) {
            true => intact().max_by_key(|last| last.index)?,
            false => intact().max()?,
        };
        if !self.bootstrap && greatest == EntryId::default() {
            // Only blank replicas answered. A group has its first epoch start at least: what is known here is not the group.
            return None;
        }
        if self.answers.values().any(|a| a.last > greatest) && !self.recovery && !self.is_committed_nowhere_above() {
            return None;
        }
        let mut candidates: Vec<(Member, EntryId, Configuration)> = self
            .answers
            .values()
            .filter(|a| a.last == greatest && !a.damaged)
            .filter_map(|a| {
                let configuration = match &self.proposal {
                    Proposal::Change(target) => target.clone(),
                    Proposal::Keep => a.configurations.last()?.1.clone(),
                };
                let member = configuration.member(a.incarnation)?.clone();
                Some((member, a.last, configuration))
            })
            .collect();
        let order = |member: &Member| {
            let preferred = Some(member.incarnation) == self.preferred;
            (
                !preferred,
                Some(member.incarnation) == self.avoid,
                member.ordinal,
                member.incarnation,
            )
        };
        candidates.sort_by_key(|(member, ..)| order(member));
        candidates.into_iter().next()
    }
}

impl Driver {
    /// The undamaged member with the greatest log, if the target drops it.
    fn dropped_holder(&self) -> Option<(Incarnation, EntryId)> {
        let target = self.target()?;
        let greatest = self.answers.values().max_by_key(|answer| answer.last)?;
        let stays = |a: &&FenceAnswer| a.last == greatest.last && !a.damaged && target.contains(a.incarnation);
        let dropped = greatest.last != EntryId::default() && !greatest.damaged && !self.answers.values().any(|a| stays(&a));
        dropped.then_some((greatest.incarnation, greatest.last))
    }

    /// Whether so many members that lost nothing have answered that what only a damaged one had cannot have reached a
    /// write quorum, and now never will: not in a configuration known here, and not in one that only the damaged one could
    /// have told of, because one of these members would have promised to the driver that changed to it.
    fn is_committed_nowhere_above(&self) -> bool {
        let lacks = |m: &&Member| self.answers.get(&m.incarnation).is_some_and(|a| !a.damaged);
        self.configurations().all(|c| {
            let quorum = c.quorum();
            let lacking = c.members().iter().filter(lacks).count();
            let met = match mutation::active(Mutation::DamagedKnowsConfigurations) {
                true => quorum.commit(),
                false => quorum.commit().min(quorum.fence_for_change()),
            };
            lacking > (quorum.replicas - met) as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn incarnation(n: u32) -> Incarnation {
        Incarnation(Uuid::from_u128(u128::from(n) + 1))
    }

    fn configuration(members: &[u32], write: u32, read: u32) -> Configuration {
        let members = members
            .iter()
            .map(|&n| Member {
                incarnation: incarnation(n),
                ordinal: n,
                host: format!("node-{n}:7400"),
            })
            .collect();
        Configuration::new(members, write, read).expect("a valid test configuration")
    }

    fn epoch(number: u64) -> Epoch {
        Epoch {
            number,
            token: number * 10,
        }
    }

    fn entry(epoch_number: u64, index: u64) -> EntryId {
        EntryId {
            epoch: epoch(epoch_number),
            index,
        }
    }

    fn answer(n: u32, promised: Epoch, last: EntryId, configurations: &[Configuration]) -> FenceAnswer {
        FenceAnswer {
            incarnation: incarnation(n),
            promised,
            last,
            commit: 0,
            damaged: false,
            configurations: configurations.iter().map(|c| (entry(1, 1), c.clone())).collect(),
            proposals: Vec::new(),
        }
    }

    fn asked(effects: &[DriverEffect]) -> Vec<u32> {
        effects
            .iter()
            .filter_map(|e| if let DriverEffect::Fence(m, _) = e { Some(m.ordinal) } else { None })
            .collect()
    }

    #[test]
    fn a_failover_fences_two_of_three_and_activates_the_greatest_epoch_before_the_greatest_index() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
        assert_eq!(asked(&driver.requests()), [0, 1, 2]);
        assert_eq!(
            driver.on_fence_answer(answer(1, epoch(7), entry(2, 900), std::slice::from_ref(&c))),
            []
        );
        let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 5), std::slice::from_ref(&c)));
        let request = ActivateRequest {
            epoch: epoch(7),
            last: entry(3, 5),
            configuration: c.clone(),
        };
        assert_eq!(effects, [DriverEffect::Activate(c.members()[2].clone(), request)]);
        let done = driver.on_activate_answer(&ActivateAnswer {
            incarnation: incarnation(2),
            epoch: epoch(7),
            outcome: Ok(entry(7, 6)),
        });
        assert_eq!(
            done,
            [DriverEffect::Done(ViewChanged {
                primary: c.members()[2].clone(),
                start: entry(7, 6),
                configuration: c
            })]
        );
    }

    #[test]
    fn a_primary_that_is_left_out_is_neither_fenced_nor_chosen() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None).leaving_out(Some(incarnation(0)));
        assert_eq!(asked(&driver.requests()), [1, 2]);
        assert_eq!(
            driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
            [],
            "one is no fence, whoever is left out"
        );
        assert_eq!(asked(&driver.requests()), [2], "nor is it asked when the questions are repeated");
        let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 7), std::slice::from_ref(&c)));
        assert!(
            matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
            "{effects:?}"
        );
    }

    #[test]
    fn a_higher_promise_supersedes_the_driver_and_tells_the_next_number() {
        let mut driver = Driver::keep(epoch(7), vec![configuration(&[0, 1, 2], 2, 2)], None);
        let effects = driver.on_fence_answer(answer(1, epoch(9), entry(3, 5), &[]));
        assert_eq!(effects, [DriverEffect::Failed(DriverFailure::Superseded { highest: 9 })]);
        assert!(driver.finished());
    }

    #[test]
    fn a_configuration_learned_from_an_answer_is_fenced_too() {
        let (old, new) = (configuration(&[0, 1, 2], 2, 2), configuration(&[2, 3, 4], 2, 2));
        let mut driver = Driver::keep(epoch(7), vec![old.clone()], None);
        let _ = driver.requests();
        let mut learned = answer(2, epoch(7), entry(3, 5), std::slice::from_ref(&old));
        learned.proposals.push((epoch(6), Proposal::Change(new)));
        assert_eq!(asked(&driver.on_fence_answer(learned)), [3, 4]);
        assert_eq!(
            driver.on_fence_answer(answer(1, epoch(7), entry(3, 5), std::slice::from_ref(&old))),
            []
        );
        let effects = driver.on_fence_answer(answer(3, epoch(7), EntryId::default(), &[]));
        assert!(
            matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
            "{effects:?}"
        );
    }

    #[test]
    fn a_configuration_is_left_out_once_a_later_one_is_known_to_be_committed() {
        let (old, new) = (configuration(&[0, 1, 2], 2, 2), configuration(&[0, 3, 4], 2, 2));
        let mut driver = Driver::keep(epoch(7), vec![old.clone()], None);
        let _ = driver.requests();
        // Replica 0 was away while 1 and 2 were replaced: it alone still knows the old configuration, and they are gone.
        let behind = answer(0, epoch(7), entry(1, 5), std::slice::from_ref(&old));
        assert_eq!(driver.on_fence_answer(behind), []);
        let mut current = answer(3, epoch(7), entry(3, 9), &[]);
        current.configurations = vec![(entry(3, 8), new.clone())];
        let not_committed = driver.clone().on_fence_answer(current.clone());
        assert_eq!(asked(&not_committed), [3, 4]);
        assert_eq!(not_committed.len(), 2);
        current.commit = 8;
        let effects = driver.on_fence_answer(current);
        assert_eq!(driver.configurations().collect::<Vec<_>>(), [&new]);
        assert!(
            matches!(effects.last(), Some(DriverEffect::Activate(m, _)) if m.ordinal == 3),
            "{effects:?}"
        );
    }

    #[test]
    fn a_change_waits_for_more_members_than_a_failover() {
        let old = configuration(&[0, 1, 2], 3, 1);
        let target = configuration(&[0, 1, 2], 2, 2);
        assert_eq!(old.quorum().fence(), 3);
        let two = configuration(&[0, 1, 2, 3], 3, 2);
        assert_eq!((two.quorum().fence(), two.quorum().fence_for_change()), (3, 3));
        let five = configuration(&[0, 1, 2, 3, 4], 4, 4);
        assert_eq!((five.quorum().fence(), five.quorum().fence_for_change()), (2, 4));
        let mut driver = Driver::change(epoch(7), vec![five.clone()], target);
        for n in 0..3 {
            assert_eq!(
                driver
                    .on_fence_answer(answer(n, epoch(7), entry(1, 5), std::slice::from_ref(&five)))
                    .iter()
                    .filter(|e| matches!(e, DriverEffect::Activate(..)))
                    .count(),
                0
            );
        }
        let effects = driver.on_fence_answer(answer(3, epoch(7), entry(1, 5), std::slice::from_ref(&five)));
        assert!(effects.iter().any(|e| matches!(e, DriverEffect::Activate(..))));
    }

    #[test]
    fn a_bootstrap_needs_every_member_blank() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::bootstrap(epoch(1), c.clone());
        assert_eq!(asked(&driver.requests()), [0, 1, 2]);
        for n in 0..2 {
            assert_eq!(driver.on_fence_answer(answer(n, epoch(1), EntryId::default(), &[])), []);
        }
        let effects = driver.clone().on_fence_answer(answer(2, epoch(1), EntryId::default(), &[]));
        assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0));
        let effects = driver.on_fence_answer(answer(2, epoch(1), entry(0, 4), &[c]));
        assert!(matches!(&effects[..], [DriverEffect::Failed(DriverFailure::NotBlank { .. })]));
    }

    #[test]
    fn only_a_bootstrap_begins_with_blank_replicas() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::change(epoch(7), vec![c.clone()], c);
        let _ = driver.requests();
        for n in 0..3 {
            assert_eq!(driver.on_fence_answer(answer(n, epoch(7), EntryId::default(), &[])), []);
        }
    }

    #[test]
    fn a_damaged_replica_with_the_greatest_log_blocks_the_choice_until_an_equal_one_answers() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
        let _ = driver.requests();
        let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
        damaged.damaged = true;
        assert_eq!(driver.on_fence_answer(damaged), []);
        assert_eq!(
            driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
            []
        );
        let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 9), std::slice::from_ref(&c)));
        assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2));
    }

    #[test]
    fn what_only_a_damaged_replica_had_blocks_nobody_once_it_cannot_have_been_committed() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
        let _ = driver.requests();
        let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
        damaged.damaged = true;
        assert_eq!(driver.on_fence_answer(damaged), []);
        let one = driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c)));
        assert_eq!(one, [], "entry 9 may be on 0 and 2");
        let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 7), std::slice::from_ref(&c)));
        assert!(
            matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
            "{effects:?}"
        );
    }

    #[test]
    fn what_a_damaged_replica_had_may_be_of_a_configuration_that_nobody_else_here_knows() {
        // A change fences two of these three. It may have been replica 0, which cannot tell of it any more, and replica 1.
        let c = configuration(&[0, 1, 2], 3, 2);
        assert_eq!((c.quorum().fence(), c.quorum().fence_for_change()), (2, 2));
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
        let _ = driver.requests();
        let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
        damaged.damaged = true;
        assert_eq!(driver.on_fence_answer(damaged), []);
        let two = driver.on_fence_answer(answer(2, epoch(7), entry(1, 7), std::slice::from_ref(&c)));
        assert_eq!(two, [], "no write quorum of this configuration has entry 9, but one of a later may");
        let three = driver.on_fence_answer(answer(1, epoch(7), entry(1, 8), std::slice::from_ref(&c)));
        assert!(matches!(&three[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1), "{three:?}");
    }

    #[test]
    fn a_hand_over_avoids_the_old_primary_unless_nobody_else_has_its_log() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], Some(incarnation(0)));
        let _ = driver.requests();
        assert_eq!(
            driver.on_fence_answer(answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c))),
            []
        );
        assert_eq!(
            driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
            []
        );
        let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 9), std::slice::from_ref(&c)));
        assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2));
    }

    #[test]
    fn a_switchover_waits_for_the_member_that_was_named_and_takes_it_only_with_the_greatest_log() {
        let c = configuration(&[0, 1, 2], 2, 2);
        let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&c));
        let mut driver = Driver::keep(epoch(7), vec![c.clone()], None).preferring(Some(incarnation(2)));
        assert_eq!(asked(&driver.requests()), [0, 1, 2]);
        assert_eq!(driver.on_fence_answer(answer_of(0, entry(3, 9))), []);
        assert_eq!(
            driver.on_fence_answer(answer_of(1, entry(3, 9))),
            [],
            "the named member may still answer"
        );
        let equal = driver.clone().on_fence_answer(answer_of(2, entry(3, 9)));
        assert!(matches!(&equal[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2), "{equal:?}");
        let behind = driver.clone().on_fence_answer(answer_of(2, entry(3, 8)));
        assert!(
            matches!(&behind[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0),
            "{behind:?}"
        );
        let settled = driver.settle();
        assert!(
            matches!(&settled[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0),
            "{settled:?}"
        );
    }

    #[test]
    fn a_change_that_drops_the_holder_of_the_greatest_log_says_so() {
        let old = configuration(&[0, 1, 2], 2, 2);
        let target = configuration(&[1, 2], 2, 2);
        let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&old));
        let mut driver = Driver::change(epoch(7), vec![old.clone()], target);
        let _ = driver.requests();
        assert_eq!(driver.on_fence_answer(answer_of(0, entry(3, 9))), []);
        assert_eq!(driver.on_fence_answer(answer_of(1, entry(3, 8))), []);
        let equal = driver.clone().on_fence_answer(answer_of(2, entry(3, 9)));
        assert!(matches!(&equal[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2), "{equal:?}");
        let dropped = DriverFailure::Dropped {
            holder: incarnation(0),
            last: entry(3, 9),
        };
        assert_eq!(driver.on_fence_answer(answer_of(2, entry(3, 8))), [DriverEffect::Failed(dropped)]);
        assert!(driver.finished());
    }

    #[test]
    fn a_recovery_takes_the_greatest_survivor_and_waits_for_nobody_else() {
        let old = configuration(&[0, 1, 2, 3, 4], 3, 3);
        let survivors = configuration(&[3, 4], 2, 2);
        let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&old));
        let mut driver = Driver::recover(epoch(7), vec![old.clone()], survivors.clone());
        assert_eq!(asked(&driver.requests()), [0, 1, 2, 3, 4]);
        assert_eq!(driver.on_fence_answer(answer_of(3, entry(3, 8))), []);
        assert_eq!(driver.settle(), [], "a survivor is missing");
        assert_eq!(
            driver.on_fence_answer(answer_of(4, entry(3, 9))),
            [],
            "one that was given up may still answer"
        );
        let mut with_more = driver.clone();
        assert_eq!(with_more.on_fence_answer(answer_of(0, entry(3, 10))), []);
        let found = DriverFailure::Dropped {
            holder: incarnation(0),
            last: entry(3, 10),
        };
        assert_eq!(with_more.settle(), [DriverEffect::Failed(found)]);
        let settled = driver.settle();
        let [DriverEffect::Activate(member, request)] = &settled[..] else {
            panic!("{settled:?}");
        };
        assert_eq!((member.ordinal, &request.configuration), (4, &survivors));
    }
}
