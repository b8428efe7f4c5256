//! What the store as a whole has to know of a shard.

use crate::observe::{Observed, configuration};
use quorate_api::{Incarnation, NodeRole, NodeStatus, ReplicaId, SlotsStatus};
use std::time::{Duration, Instant};

/// One shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Who serves, as far as anybody says.
    pub primary: Option<Incarnation>,
    /// `address:port` of its replica protocol, if the operator itself hears it.
    pub reached_at: Option<String>,
    /// Number of the epoch in force.
    pub epoch: u64,
    /// Members of the configuration in force; 0 if there is none.
    pub members: usize,
    /// What the primary says of its slots; without one that is heard, the replica that knows most. None from nodes that know
    /// of no slots.
    pub slots: Option<SlotsStatus>,
    /// When that was heard.
    pub slots_heard: Option<Instant>,
    /// Its replicas by ordinal, those without a pod included as long as they are not forgotten.
    pub replicas: Vec<ReplicaView>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaView {
    /// Its pod.
    pub pod: String,
    /// Who it is, once it told.
    pub id: Option<ReplicaId>,
    /// `address:port` of its replica protocol, while the pod has an address.
    pub address: Option<String>,
    /// Whether the operator hears it.
    pub heard: bool,
    /// Whether it was in no group yet, when it was heard last.
    pub blank: bool,
    /// Whether it knows an epoch start that a crash does not take from it.
    pub begun: bool,
    /// Whether it said that its group owns no slot and takes part in no move.
    pub idle: bool,
    /// The highest handoff that it knows.
    pub last_handoff: u64,
    /// Version of the routing map that it holds; 0 for none.
    pub route_version: u64,
}

impl ReplicaView {
    fn of(member: &Observed, now: Instant, limit: Duration) -> Self {
        let status: Option<&NodeStatus> = member.status.as_ref();
        let slots = status.and_then(|status| status.slots.as_ref());
        Self {
            pod: member.pod.clone(),
            id: status.map(|status| status.id),
            address: member.address.clone(),
            heard: member.fresh(now, limit).is_some(),
            blank: status.is_none_or(|status| status.role == NodeRole::Blank),
            begun: status.is_some_and(NodeStatus::has_begun),
            idle: slots.is_some_and(|slots| slots.owned.is_empty() && slots.exports.is_empty() && slots.imports.is_empty()),
            last_handoff: slots.map_or(0, |slots| slots.last_handoff),
            route_version: slots.map_or(0, |slots| slots.route_version),
        }
    }

    /// Whether it was ever in a group, as far as anybody told.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.id.is_some() && !self.blank
    }
}

impl View {
    /// Of these replicas; `serving` is the primary that serves, and whether the operator hears it.
    #[must_use]
    pub fn of(members: &[Observed], serving: Option<(Incarnation, bool)>, now: Instant, limit: Duration) -> Self {
        let statuses = || members.iter().filter_map(|member| member.status.as_ref());
        let heard = serving.filter(|(_, heard)| *heard).map(|(primary, _)| primary);
        let primary = members.iter().find(|member| heard.is_some() && member.incarnation() == heard);
        let knows_most = statuses().max_by_key(|status| (status.role != NodeRole::Blank, status.last));
        let says = primary.and_then(|member| member.status.as_ref()).or(knows_most);
        let teller = members
            .iter()
            .find(|member| says.is_some() && member.status.as_ref().map(|status| status.id) == says.map(|status| status.id));
        Self {
            primary: serving.map(|(primary, _)| primary),
            reached_at: primary.and_then(|member| member.address.clone()),
            epoch: statuses().map(|status| status.promised.number).max().unwrap_or_default(),
            members: configuration(members).map_or(0, |(_, current)| current.members().len()),
            slots: says.and_then(|status| status.slots.clone()),
            slots_heard: teller.and_then(|member| member.heard),
            replicas: members.iter().map(|member| ReplicaView::of(member, now, limit)).collect(),
        }
    }

    /// Why it is not known of every replica that the group owns nothing and takes part in no move; None if it is. `pods` is
    /// how many the shard has.
    #[must_use]
    pub fn holds(&self, pods: usize) -> Option<String> {
        let silent = self.replicas.iter().find(|replica| !replica.heard);
        if let Some(replica) = silent {
            return Some(format!("{} is not heard, and every replica has to be", replica.pod));
        }
        let expected = self.members.max(pods).max(1);
        if self.replicas.len() < expected {
            return Some(format!(
                "{} of {expected} replicas are heard, and every one has to be",
                self.replicas.len()
            ));
        }
        let busy = self.replicas.iter().find(|replica| !replica.idle);
        busy.map(|replica| format!("{} does not know yet that its shard owns nothing", replica.pod))
    }

    /// The highest handoff that any replica knows.
    #[must_use]
    pub fn last_handoff(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.last_handoff).max().unwrap_or_default()
    }

    /// Whether a replica told that there is a group.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.replicas.iter().any(ReplicaView::is_used)
    }

    /// Whether a replica told that there is a group, and no crash can take that back.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.replicas.iter().any(|replica| replica.begun)
    }

    /// Replicas that the operator hears.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.heard).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LIMIT, status, unheard, well};
    use quorate_api::{Quorum, SlotSet};

    const QUORUM: Quorum = Quorum::strong(3, 2, 2);

    fn view(members: &[Observed], now: Instant) -> View {
        View::of(members, members[0].incarnation().map(|primary| (primary, true)), now, LIMIT)
    }

    #[test]
    fn a_shard_owns_nothing_for_sure_only_when_every_replica_was_heard_and_says_so() {
        let now = Instant::now();
        let mut members = well(QUORUM, now);
        let says = |view: &View| view.holds(3).unwrap_or_default();
        assert_eq!(
            says(&view(&members, now)),
            "orders-0-0 does not know yet that its shard owns nothing",
            "it knows of no slots"
        );
        for member in &mut members {
            status(member).slots = Some(SlotsStatus::default());
        }
        assert_eq!(view(&members, now).holds(3), None);
        status(&mut members[2]).slots.as_mut().unwrap().owned = SlotSet::from_ranges([7..=7]).unwrap();
        assert_eq!(
            says(&view(&members, now)),
            "orders-0-2 does not know yet that its shard owns nothing"
        );
        status(&mut members[2]).slots = Some(SlotsStatus::default());
        unheard(&mut members[1]);
        assert_eq!(says(&view(&members, now)), "orders-0-1 is not heard, and every replica has to be");
        members.remove(1);
        assert_eq!(
            says(&view(&members, now)),
            "2 of 3 replicas are heard, and every one has to be",
            "a member has no pod"
        );
    }

    #[test]
    fn the_primary_that_is_heard_speaks_for_the_slots_and_else_the_replica_that_knows_most() {
        let now = Instant::now();
        let mut members = well(QUORUM, now);
        for (ordinal, member) in (0u16..).zip(&mut members) {
            let owned = SlotSet::from_ranges([ordinal..=ordinal]).unwrap();
            status(member).slots = Some(SlotsStatus {
                owned,
                last_handoff: u64::from(ordinal),
                ..SlotsStatus::default()
            });
        }
        status(&mut members[1]).last.index = 9;
        let owner = |view: View| view.slots.unwrap().owned.iter().next();
        assert_eq!(owner(view(&members, now)), Some(0));
        assert_eq!(view(&members, now).last_handoff(), 2);
        let headless = View::of(&members, None, now, LIMIT);
        assert_eq!((headless.reached_at.clone(), owner(headless)), (None, Some(1)));
    }
}
