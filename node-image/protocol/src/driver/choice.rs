//! What the fence still waits for, and whom it chooses: the replica with the greatest (epoch, index) among the answers, once
//! enough members of every configuration known have promised.

use super::{Driver, DriverEffect, DriverFailure, FenceProgress, Phase};
use crate::mutation::{self, Mutation};
use quorate_api::{ActivateRequest, Configuration, EntryId, FenceAnswer, Incarnation, Member, Proposal};

impl Driver {
    pub(super) fn progress_in(&self, configuration: &Configuration) -> FenceProgress {
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

    pub(super) fn try_activate(&mut self, settle: bool) -> Vec<DriverEffect> {
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
