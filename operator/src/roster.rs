//! What is known of the replicas of one shard, from their pods and from what was heard on streams to them: a value that
//! changes only by what it is told. Who holds the streams is [`crate::replicas`], or a simulation.
//!
//! A pod that is gone stays known until its successor speaks: what it promised stays promised.

use crate::link::{Addresses, News, PodNews};
use crate::names;
use crate::observe::{Health, Observed};
use k8s_openapi::api::core::v1::Pod;
use quorate_api::wire::NodeAddresses;
use quorate_api::{Epoch, Incarnation, NodeRole, PrimaryView};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: BTreeMap<u32, Observed>,
}

impl Roster {
    /// What is known of each, by ordinal.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.members.values().cloned().collect()
    }

    /// What is known of one.
    #[must_use]
    pub fn get(&self, ordinal: u32) -> Option<&Observed> {
        self.members.get(&ordinal)
    }

    /// Replicas that a stream is to be held to, with the address of each.
    pub fn reachable(&self) -> impl Iterator<Item = (&Observed, &str)> {
        self.members
            .values()
            .filter_map(|member| Some((member, member.address.as_deref()?)))
    }

    /// Forgets replicas whose pod is gone and that are to have none any more.
    pub fn forget_beyond(&mut self, pods: u32) {
        self.members.retain(|ordinal, member| *ordinal < pods || member.exists);
    }

    /// Takes the pods of the store as they are now. Gives the ordinals whose stream leads nowhere any more: it is to be ended,
    /// and another one begun if the replica is [`Roster::reachable`].
    pub fn follow(&mut self, pods: impl Iterator<Item = Arc<Pod>>, now: Instant) -> Vec<u32> {
        let mut present: BTreeMap<u32, Observed> = pods.filter_map(|pod| Observed::new(&pod)).map(|pod| (pod.ordinal, pod)).collect();
        let mut ended = Vec::new();
        for (ordinal, member) in &mut self.members {
            let Some(pod) = present.remove(ordinal) else {
                if member.health != Health::Gone || member.address.is_some() {
                    tracing::info!(pod = member.pod, "the pod is gone");
                }
                (member.health, member.address, member.connected) = (Health::Gone, None, false);
                member.exists = false;
                ended.push(*ordinal);
                continue;
            };
            (member.health, member.exists) = (pod.health, true);
            if (&member.uid, &member.address) == (&pod.uid, &pod.address) {
                continue;
            }
            ended.push(*ordinal);
            let since = if member.uid == pod.uid { member.since } else { Some(now) };
            // The volume is most likely the same one: until the new pod says otherwise, so is the rest.
            *member = Observed {
                status: member.status.take(),
                since,
                ..pod
            };
        }
        for (ordinal, pod) in present {
            self.members.insert(ordinal, Observed { since: Some(now), ..pod });
        }
        ended
    }

    /// Takes what was heard. True if the replicas are to be told where the others are: one spoke that did not before.
    pub fn hear(&mut self, (pod, uid, news): PodNews, now: Instant) -> bool {
        let found = self.members.values_mut().find(|member| member.pod == pod && member.uid == uid);
        let Some(member) = found else { return false };
        match news {
            News::Status(status) => {
                let unknown = member.incarnation() != Some(status.id.incarnation) || member.heard.is_none();
                member.connected = true;
                member.heard = Some(now);
                member.status = Some(*status);
                unknown
            }
            News::Down(reason) => {
                if member.connected {
                    tracing::info!(pod, reason, "lost the stream to a node");
                }
                member.connected = false;
                false
            }
        }
    }

    /// Where the replicas are, for each other.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let known = self
            .members
            .values()
            .filter_map(|member| Some((member.incarnation()?, addresses_at(member.address.clone()?)?)));
        Arc::new(known.collect())
    }

    /// Takes what a new primary will say of itself in a moment as said: until then nobody else must be taken for it, and it
    /// not for lost.
    pub fn believe(&mut self, primary: Incarnation, epoch: Epoch) {
        let statuses = self.members.values_mut().filter_map(|member| member.status.as_mut());
        for status in statuses.filter(|status| status.id.incarnation == primary && status.promised <= epoch) {
            status.promised = epoch;
            status.role = NodeRole::Primary;
            status.primary = Some(PrimaryView {
                incarnation: primary,
                epoch,
                heard_millis_ago: 0,
                connected: true,
            });
        }
    }
}

/// Where a node is whose replica protocol is at `address:port`.
#[must_use]
pub fn addresses_at(replica: String) -> Option<NodeAddresses> {
    let host = replica.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned();
    Some(NodeAddresses {
        replica,
        client_host: host,
        client_port: names::CLIENT_PORT as u16,
    })
}
