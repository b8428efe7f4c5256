//! Learners: replicas that a primary streams its log to and counts in nothing.
//!
//! They are those that the operator admits, to become members once they hold the log, and the members that the
//! configuration in force dropped, until they hold the epoch start that says so. No stream to a learner begins before that
//! epoch start is committed: what a learner holds above the members' logs can then always be told to be uncommitted. A
//! learner that has promised a higher epoch deposes nobody: it waits for an epoch above it.

use super::streams::Peer;
use super::{Replica, Role};
use crate::event::Effect;
use quorate_api::{Configuration, Incarnation, Member};

impl Replica {
    /// The members that `next` drops, as far as this log knows.
    pub(super) fn dropped_by(&self, next: &Configuration) -> Vec<Member> {
        let mut dropped: Vec<Member> = Vec::new();
        for member in self.log.configurations().iter().flat_map(|(_, c)| c.members()) {
            let known = dropped.iter().any(|m| m.incarnation == member.incarnation);
            if !known && !next.contains(member.incarnation) {
                dropped.push(member.clone());
            }
        }
        dropped
    }

    /// Takes the operator's list in place of the one before.
    pub(super) fn on_admit(&mut self, learners: Vec<Member>, now: u64, out: &mut Vec<Effect>) {
        let me = self.me;
        let Some((_, configuration)) = self.configuration().cloned() else {
            return;
        };
        let Role::Primary(primary) = &mut self.role else { return };
        primary.admitted = learners;
        primary
            .admitted
            .retain(|m| m.incarnation != me && !configuration.contains(m.incarnation));
        self.stream_to_learners(now, out);
    }

    /// Opens and ends streams as the lists of learners say.
    pub(super) fn stream_to_learners(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if !primary.serving {
            return;
        }
        let wanted: Vec<Incarnation> = primary.learners().map(|member| member.incarnation).collect();
        primary
            .peers
            .retain(|incarnation, peer| !peer.learner || wanted.contains(incarnation));
        let mut fresh = Vec::new();
        for incarnation in wanted {
            primary.peers.entry(incarnation).or_insert_with(|| {
                fresh.push(incarnation);
                Peer::learner(self.links.get(&incarnation).copied(), now)
            });
        }
        self.learner_changes += 1;
        for peer in fresh {
            self.probe(peer, now, out);
        }
    }

    /// Begins the streams that waited for the epoch start, and ends those that served their purpose.
    pub(super) fn tend_learners(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &self.role else { return };
        if primary.serving && primary.learners().any(|member| !primary.peers.contains_key(&member.incarnation)) {
            self.stream_to_learners(now, out);
        }
        self.dismiss_dropped(now, out);
    }

    /// Lets go of dropped members that know it.
    fn dismiss_dropped(&mut self, now: u64, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let (start, peers) = (primary.start, &primary.peers);
        let before = primary.dropped.len();
        primary.dropped.retain(|member| {
            peers
                .get(&member.incarnation)
                .is_none_or(|peer| peer.matched < start || peer.told < start)
        });
        if primary.dropped.len() != before {
            self.stream_to_learners(now, out);
        }
    }

    /// Whom this primary streams to beside its members.
    #[must_use]
    pub fn learners(&self) -> Vec<Member> {
        match &self.role {
            Role::Primary(primary) if primary.serving => primary.learners().cloned().collect(),
            Role::Primary(_) | Role::Follower(_) => Vec::new(),
        }
    }

    /// Rises whenever [`Replica::learners`] may have changed.
    #[must_use]
    pub fn learner_changes(&self) -> u64 {
        self.learner_changes
    }
}
