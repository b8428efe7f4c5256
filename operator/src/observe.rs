//! What the operator knows of a store's replicas: their pods, as the watch tells them, and what the nodes say on their
//! streams. Values only; who gathers them is [`crate::replicas`].

use crate::names;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use quorate_api::{Configuration, EntryId, Incarnation, NodeStatus, Quorum};
use quorate_crds::{ReplicatedStore, annotations};
use std::time::{Duration, Instant};

/// What Kubernetes says of a pod. Slow, and one input of three: a stream that is fresh knows better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing speaks against it.
    Running,
    /// Not ready: its probe fails, or its machine was not heard of for a while.
    Doubtful,
    /// It was told to stop and has its grace; a primary hands over meanwhile.
    Leaving,
    /// Its process ended, or there is no such pod any more.
    Gone,
}

impl Health {
    /// Reads a pod's status.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            return Self::Gone;
        }
        let node = status.container_statuses.unwrap_or_default();
        let stopped = node
            .iter()
            .filter(|container| container.name == names::CONTAINER)
            .filter_map(|container| container.state.as_ref())
            .any(|state| state.terminated.is_some() || state.waiting.is_some());
        if stopped {
            return Self::Gone;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Self::Leaving;
        }
        let conditions = status.conditions.unwrap_or_default();
        let unready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status != "True");
        if unready { Self::Doubtful } else { Self::Running }
    }
}

/// What a person asks for in annotations of the store; see [`quorate_crds::annotations`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A pod to be made primary.
    pub promote: Option<String>,
    /// The shard and the epoch in which to go on although writes may be lost.
    pub accept_data_loss: Option<String>,
    /// To move slots although the mode is Manual; a matter of the whole store.
    pub rebalance: Option<String>,
}

impl Asked {
    /// Reads the annotations.
    #[must_use]
    pub fn of(store: &ReplicatedStore) -> Self {
        let mut asked = Self::default();
        for (annotation, value) in asked.each_mut() {
            *value = store.annotations().get(annotation).cloned();
        }
        asked
    }

    /// Each annotation with its value, in the order in which they are taken away.
    #[must_use]
    pub fn each(&self) -> [(&'static str, &Option<String>); 3] {
        [
            (annotations::PROMOTE, &self.promote),
            (annotations::ACCEPT_DATA_LOSS, &self.accept_data_loss),
            (annotations::REBALANCE, &self.rebalance),
        ]
    }

    /// The same, to be changed.
    pub fn each_mut(&mut self) -> [(&'static str, &mut Option<String>); 3] {
        [
            (annotations::PROMOTE, &mut self.promote),
            (annotations::ACCEPT_DATA_LOSS, &mut self.accept_data_loss),
            (annotations::REBALANCE, &mut self.rebalance),
        ]
    }
}

/// What became of the machine of a pod that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// It is well, or that cannot be found out.
    Standing,
    /// The cluster does not hear of it.
    NotReady,
    /// A person has declared it dead.
    OutOfService,
    /// The cluster has it no more, or the volume that was bound to it.
    Gone,
}

/// What was found out of a pod that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Its machine.
    pub machine: Machine,
    /// UID of its claim, if there is one.
    pub claim: Option<String>,
    /// When.
    pub at: Instant,
}

/// What the operator knows of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Its pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// Ordinal of the pod.
    pub ordinal: u32,
    /// Whether the API server has such a pod.
    pub exists: bool,
    /// What the spec asked for when it was made, in one word; None on a pod of an operator that did not write it.
    pub revision: Option<String>,
    /// Since when this operator knows the pod.
    pub since: Option<Instant>,
    /// `address:port` of its replica protocol, while the pod has an address.
    pub address: Option<String>,
    /// What Kubernetes says of it.
    pub health: Health,
    /// Whether the operator's stream to it stands.
    pub connected: bool,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// What it said then. Kept when the pod goes: what was promised stays promised.
    pub status: Option<NodeStatus>,
}

impl Observed {
    /// A replica that was not heard yet. `None` for a pod whose name ends in no ordinal.
    #[must_use]
    pub fn new(pod: &Pod) -> Option<Self> {
        let name = pod.name_any();
        let ordinal = name.rsplit('-').next()?.parse().ok()?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        Some(Self {
            ordinal,
            exists: true,
            revision: pod.annotations().get(names::ANNOTATION_REVISION).cloned(),
            since: None,
            address: address.map(|address| join(address, names::REPLICA_PORT)),
            uid: pod.uid()?,
            pod: name,
            health: Health::of(pod),
            connected: false,
            heard: None,
            status: None,
        })
    }

    /// What it says, if that is news.
    #[must_use]
    pub fn fresh(&self, now: Instant, limit: Duration) -> Option<&NodeStatus> {
        let heard = self.heard?;
        (self.connected && now.duration_since(heard) <= limit).then_some(self.status.as_ref()?)
    }

    /// The life of its volume, once it told.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.status.as_ref().map(|status| status.id.incarnation)
    }
}

/// The configuration in force as far as anybody told, with the name of its epoch start.
#[must_use]
pub fn configuration(members: &[Observed]) -> Option<&(EntryId, Configuration)> {
    members
        .iter()
        .filter_map(|member| member.status.as_ref()?.configuration.as_ref())
        .max_by_key(|(start, _)| *start)
}

/// Who counts in the configuration in force, and its sizes. Without one, everybody does, by the sizes of the spec.
#[must_use]
pub fn group(members: &[Observed], spec: Quorum) -> (Vec<&Observed>, Quorum) {
    match configuration(members) {
        None => (members.iter().collect(), spec),
        Some((_, configuration)) => (
            members
                .iter()
                .filter(|member| member.incarnation().is_some_and(|incarnation| configuration.contains(incarnation)))
                .collect(),
            configuration.quorum(),
        ),
    }
}

/// `address:port`, an IPv6 address in brackets.
fn join(address: &str, port: i32) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn health(status: &serde_json::Value, deleted: bool) -> Health {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "s-0-1", "uid": "u"}, "status": status})).unwrap();
        pod.metadata.deletion_timestamp = deleted.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        Health::of(&pod)
    }

    #[test]
    fn every_way_in_which_kubernetes_says_that_a_pod_is_not_well_is_told_apart() {
        let node = |state: &str| json!({"phase": "Running", "containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": {state: {"exitCode": 137}}}]});
        let ready = |status: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status}]});
        assert_eq!(health(&json!({"phase": "Failed"}), false), Health::Gone);
        assert_eq!(health(&node("terminated"), false), Health::Gone, "killed");
        assert_eq!(health(&node("waiting"), false), Health::Gone, "crash loop");
        assert_eq!(health(&node("running"), false), Health::Running);
        assert_eq!(health(&ready("True"), true), Health::Leaving);
        assert_eq!(health(&ready("Unknown"), false), Health::Doubtful, "its machine is lost");
        assert_eq!(health(&ready("False"), false), Health::Doubtful);
        assert_eq!(health(&ready("True"), false), Health::Running);
    }

    #[test]
    fn an_address_of_version_six_is_put_in_brackets() {
        assert_eq!(join("fd00::1", 7400), "[fd00::1]:7400");
        assert_eq!(join("10.0.0.1", 7400), "10.0.0.1:7400");
    }
}
