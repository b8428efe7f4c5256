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

mod choice;

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
}

#[cfg(test)]
mod tests;
