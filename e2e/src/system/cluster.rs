//! The cluster around the pods: the controller of StatefulSets, kubelets, machines and claims.
//!
//! A pod has one machine and one claim for each ordinal. A claim that is deleted takes its volume along once its pod is gone:
//! the pod that comes next is another replica, on another machine.

use super::api::{Answer, Change, NAMESPACE, Refusal, pod_name};
use super::{Happening, Owner, SECOND, wall};
use crate::sim::disk::Disk;
use crate::sim::engine::Engine;
use crate::sim::world::{MILLI, What, World};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Node, NodeCondition, NodeSpec, NodeStatus,
    PersistentVolumeClaim, Pod, PodCondition, PodSpec, PodStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use quorate_operator::{names, objects::pods_of};
use quorate_protocol_mutants::Driver;

/// The cluster calls a machine not ready when it was silent for so long.
const NOT_READY: u64 = 40 * SECOND;
/// A process that was told to stop is killed after this time.
const GRACE: u64 = 30 * SECOND;
/// A hand-over that takes longer is given up.
const HAND_OVER: u64 = 5 * SECOND;

/// The machine that an ordinal's pod and volume are on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    name: String,
    pub(crate) up: bool,
    /// The cluster hears of it.
    ready: bool,
    /// The cluster has it no more.
    pub(crate) gone: bool,
    /// A person has declared it dead.
    out_of_service: bool,
    /// Counts the times that it went down.
    silences: u64,
    generation: u64,
}

impl Machine {
    pub(crate) fn new(ordinal: usize) -> Self {
        Self {
            name: format!("machine-{ordinal}-0"),
            up: true,
            ready: true,
            gone: false,
            out_of_service: false,
            silences: 0,
            generation: 0,
        }
    }

    /// The number of its last silence.
    pub(crate) fn silence(&self) -> u64 {
        self.silences
    }
}

impl World {
    pub(crate) fn wake_controller(&mut self) {
        if !std::mem::replace(&mut self.sys().controller_due, true) {
            let after = 20 * MILLI + self.within(500 * MILLI);
            self.happens(after, Happening::Controller);
        }
    }

    /// Makes the pods that are missing and deletes those that are too many.
    pub(crate) fn controller(&mut self) {
        self.sys().controller_due = false;
        let wanted = self.sys().api.set.as_ref().map_or(0, |set| pods_of(&set.object) as usize);
        for ordinal in 0..self.hosts.len() {
            let pod = self.sys().api.pods.get(&ordinal).cloned();
            match pod {
                None if ordinal < wanted => self.make_pod(ordinal),
                Some(pod) if ordinal >= wanted || self.is_orphan(&pod) => drop(self.delete_pod(ordinal, None, false)),
                _ => {}
            }
        }
    }

    /// Whether a pod is one of a store that was deleted.
    fn is_orphan(&mut self, pod: &Pod) -> bool {
        let owner = self.sys().api.store.as_ref().and_then(|store| store.metadata.uid.clone());
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_STORE)) != owner.as_ref()
    }

    fn make_pod(&mut self, ordinal: usize) {
        // The scheduler finds another machine where no volume is bound to the one that is down or gone.
        if !self.sys().api.claims.contains_key(&ordinal) && !self.sys().machines[ordinal].up {
            let machine = &mut self.sys().machines[ordinal];
            let generation = machine.generation + 1;
            *machine = Machine {
                name: format!("machine-{ordinal}-{generation}"),
                generation,
                silences: machine.silences + 1,
                ..Machine::new(ordinal)
            };
        }
        let now = self.now;
        let system = self.sys();
        let Some(set) = system.api.set.as_ref().map(|set| std::sync::Arc::clone(&set.object)) else {
            return;
        };
        let uid = system.api.fresh_uid();
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.metadata.clone())
            .unwrap_or_default();
        let machine = system.machines[ordinal].name.clone();
        if !system.api.claims.contains_key(&ordinal) {
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(names::claim(&pod_name(ordinal))),
                    uid: Some(system.api.fresh_uid()),
                    ..ObjectMeta::default()
                },
                ..PersistentVolumeClaim::default()
            };
            system.api.claims.insert(ordinal, std::sync::Arc::new(claim));
            system.api.writes += 1;
        }
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(pod_name(ordinal)),
                namespace: Some(NAMESPACE.to_owned()),
                uid: Some(uid),
                labels: template.labels,
                annotations: template.annotations,
                creation_timestamp: Some(Time(wall(now, 0))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some(machine),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: Some("Pending".to_owned()),
                ..PodStatus::default()
            }),
        };
        let change = system.api.add_pod(ordinal, pod);
        self.sys().nodes[ordinal].terminating = false;
        self.announce(&change);
        let after = 100 * MILLI + self.within(2 * SECOND);
        self.happens(after, Happening::Kubelet(ordinal));
    }

    fn deleting(&mut self, ordinal: usize) -> Option<bool> {
        let pod = self.sys().api.pods.get(&ordinal)?;
        Some(pod.metadata.deletion_timestamp.is_some())
    }

    /// Whether a process may run for a pod: there is one, placed on a machine that is up, and not told to stop. In a group
    /// without a cluster, always.
    pub(crate) fn may_run(&mut self, ordinal: usize) -> bool {
        let Some(system) = self.system.as_ref() else { return true };
        let placed = system.api.pods.get(&ordinal).is_some_and(|pod| {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
            address.is_some() && pod.metadata.deletion_timestamp.is_none()
        });
        placed && system.machines[ordinal].up && !system.machines[ordinal].gone
    }

    /// The kubelet brings what runs in line with the pod, and the pod's status in line with what runs.
    pub(crate) fn kubelet(&mut self, ordinal: usize) {
        let Some(deleting) = self.deleting(ordinal) else { return };
        let machine = &self.sys().machines[ordinal];
        if machine.gone && deleting {
            // Pods of a machine that the cluster has no more are collected.
            self.pod_ends(ordinal);
            return;
        }
        if !machine.up || machine.gone {
            return;
        }
        if deleting {
            self.terminate(ordinal);
            return;
        }
        let lives = self.sys().nodes[ordinal].addresses;
        let placed = self.sys().api.pods[&ordinal]
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone());
        if placed.is_none() {
            self.sys().nodes[ordinal].addresses = lives + 1;
        }
        let address = placed.unwrap_or_else(|| format!("10.{}.{ordinal}.{}", (lives / 250) % 250, 1 + lives % 250));
        let runs = self.hosts[ordinal].process.is_some();
        let begun = self.sys().nodes[ordinal].begun;
        let ready = runs && self.now >= begun + SECOND;
        let change = self.sys().api.edit_pod(ordinal, |pod| show(pod, &address, runs, ready));
        if let Some(change) = change {
            self.announce(&change);
        }
        if !runs {
            let after = self.within(300 * MILLI);
            self.schedule(after, What::Start(ordinal));
        } else if !ready {
            self.happens(SECOND + MILLI, Happening::Kubelet(ordinal));
        }
    }

    /// The process is told to stop, and hands over first if it serves.
    fn terminate(&mut self, ordinal: usize) {
        if self.hosts[ordinal].process.is_none() {
            self.pod_ends(ordinal);
            return;
        }
        if std::mem::replace(&mut self.sys().nodes[ordinal].terminating, true) {
            return;
        }
        self.say(|| format!("n{ordinal} is told to stop"));
        self.tell_all_streams(ordinal);
        let life = self.hosts[ordinal].life;
        self.sys().nodes[ordinal].stops_at = self.now + HAND_OVER.min(GRACE);
        if let Some(replica) = self.hosts[ordinal].replica()
            && replica.serving()
            && replica.configuration().is_some_and(|(_, c)| c.members().len() > 1)
        {
            let known = replica.log().configurations().iter().map(|(_, c)| c.clone()).collect();
            let (promised, me) = (replica.promised().number, self.hosts[ordinal].incarnation);
            let epoch = self.fresh_epoch(promised);
            let driver = Engine::Tested(Driver::keep(epoch, known, Some(me)));
            let ends = self.now + HAND_OVER;
            self.run_engine(driver, ordinal, false, ends, Some(Owner::Member(ordinal, life)));
        }
        self.happens(20 * MILLI, Happening::Stop(ordinal, life));
    }

    pub(crate) fn stop_when_handed_over(&mut self, ordinal: usize, life: u64) {
        if self.hosts[ordinal].life != life || self.hosts[ordinal].process.is_none() || !self.sys().nodes[ordinal].terminating {
            return;
        }
        let waits = self.hosts[ordinal].serving() && self.now < self.sys().nodes[ordinal].stops_at;
        if waits || self.hosts[ordinal].frozen && self.now < self.sys().nodes[ordinal].stops_at + GRACE {
            self.happens(100 * MILLI, Happening::Stop(ordinal, life));
            return;
        }
        self.crash(ordinal);
        self.pod_ends(ordinal);
    }

    /// The pod is gone, and its claim if that was to go.
    fn pod_ends(&mut self, ordinal: usize) {
        self.sys().nodes[ordinal].terminating = false;
        let change = self.sys().api.remove_pod(ordinal);
        let claim = self.sys().api.claims.get(&ordinal).cloned();
        if claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
            self.sys().api.claims.remove(&ordinal);
            self.sys().counts.recreated += 1;
            self.lose_disk(ordinal);
        }
        if let Some(change) = change {
            self.announce(&change);
        }
    }

    /// Whoever starts here next is another replica.
    pub(crate) fn lose_disk(&mut self, ordinal: usize) {
        let incarnation = self.draw_incarnation();
        let old = std::mem::replace(&mut self.hosts[ordinal].incarnation, incarnation);
        self.hosts[ordinal].disk = Disk::default();
        self.sys().nodes[ordinal].policy = None;
        self.wiped.insert(old);
        self.ledger.wipes += 1;
        self.say(|| format!("n{ordinal} has another volume: {old:?} is gone, {incarnation:?} is there"));
    }

    pub(crate) fn delete_claim(&mut self, ordinal: usize, uid: &str) -> Result<Answer, Refusal> {
        let now = self.now;
        let pod = self.sys().api.pods.contains_key(&ordinal);
        let api = &mut self.sys().api;
        let Some(claim) = api.claims.get_mut(&ordinal) else {
            return Err(Refusal::NotFound);
        };
        if claim.metadata.uid.as_deref() != Some(uid) {
            return Err(Refusal::Conflict);
        }
        let claim = std::sync::Arc::make_mut(claim);
        claim.metadata.deletion_timestamp = Some(Time(wall(now, 0)));
        api.writes += 1;
        if !pod {
            self.sys().api.claims.remove(&ordinal);
            self.lose_disk(ordinal);
        }
        Ok(Answer::Done)
    }

    /// Deletes a pod, with grace or without; a `uid` makes it that very one.
    pub(crate) fn delete_pod(&mut self, ordinal: usize, uid: Option<&str>, force: bool) -> Result<Answer, Refusal> {
        let now = self.now;
        let Some(pod) = self.sys().api.pods.get(&ordinal) else {
            return Err(Refusal::NotFound);
        };
        if uid.is_some() && pod.metadata.uid.as_deref() != uid {
            return Err(Refusal::Conflict);
        }
        if force {
            self.crash(ordinal);
            self.pod_ends(ordinal);
            return Ok(Answer::Done);
        }
        let change = self.sys().api.edit_pod(ordinal, |pod| {
            pod.metadata.deletion_timestamp.get_or_insert(Time(wall(now, 0)));
        });
        if let Some(change) = change {
            self.announce(&change);
            let after = self.within(500 * MILLI);
            self.happens(after, Happening::Kubelet(ordinal));
        }
        Ok(Answer::Done)
    }

    pub(crate) fn machine_object(&mut self, name: &str) -> Option<Node> {
        let machine = self.sys().machines.iter().find(|machine| machine.name == name && !machine.gone)?;
        let taint = machine.out_of_service.then(|| Taint {
            key: "node.kubernetes.io/out-of-service".to_owned(),
            effect: "NoExecute".to_owned(),
            ..Taint::default()
        });
        Some(Node {
            spec: Some(NodeSpec {
                taints: Some(taint.into_iter().collect()),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".to_owned(),
                    status: if machine.ready { "True" } else { "Unknown" }.to_owned(),
                    ..NodeCondition::default()
                }]),
                ..NodeStatus::default()
            }),
            ..Node::default()
        })
    }

    /// A machine loses its power: for that long, or for ever.
    pub(crate) fn machine_down(&mut self, ordinal: usize, back_after: Option<u64>) {
        if !self.sys().machines[ordinal].up {
            return;
        }
        self.say(|| format!("the machine of n{ordinal} is down: {back_after:?}"));
        let machine = &mut self.sys().machines[ordinal];
        machine.up = false;
        machine.silences += 1;
        let silence = machine.silences;
        self.crash(ordinal);
        self.happens(NOT_READY, Happening::NotReady(ordinal, silence));
        if let Some(after) = back_after {
            self.happens(after, Happening::MachineUp(ordinal, silence));
        }
    }

    pub(crate) fn machine_not_ready(&mut self, ordinal: usize, silence: u64) {
        let machine = &mut self.sys().machines[ordinal];
        if machine.silences != silence || machine.up {
            return;
        }
        machine.ready = false;
        let change = self.sys().api.edit_pod(ordinal, |pod| {
            for condition in pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
                "Unknown".clone_into(&mut condition.status);
            }
        });
        if let Some(change) = change {
            self.announce(&change);
        }
    }

    pub(crate) fn machine_up(&mut self, ordinal: usize, silence: u64) {
        let machine = &mut self.sys().machines[ordinal];
        if machine.silences != silence || machine.up || machine.gone {
            return;
        }
        (machine.up, machine.ready) = (true, true);
        self.say(|| format!("the machine of n{ordinal} is back"));
        let after = self.within(2 * SECOND);
        self.happens(after, Happening::Kubelet(ordinal));
    }

    /// The cluster forgets a machine that is down.
    pub(crate) fn machine_removed(&mut self, ordinal: usize) {
        self.say(|| format!("the machine of n{ordinal} is gone"));
        self.sys().machines[ordinal].gone = true;
    }

    /// The store is deleted: what it owned goes, but for its volumes.
    pub(crate) fn delete_store(&mut self) {
        self.say(|| "the store is deleted".to_owned());
        let api = &mut self.sys().api;
        (api.store, api.set, api.secret) = (None, None, None);
        api.plain.clear();
        self.announce(&Change::StoreGone);
    }

    /// Processes begin and end; the kubelet sees it a little later, and connections break at once.
    pub(crate) fn process_began(&mut self, ordinal: usize) {
        if self.system.is_none() {
            return;
        }
        let now = self.now;
        let node = &mut self.sys().nodes[ordinal];
        (node.begun, node.heard) = (now, now);
        node.rests();
        let after = self.within(300 * MILLI);
        self.happens(after, Happening::Kubelet(ordinal));
    }

    pub(crate) fn process_ended(&mut self, ordinal: usize) {
        if self.system.is_none() {
            return;
        }
        self.reset_streams_of(ordinal);
        let after = self.within(SECOND);
        self.happens(after, Happening::Kubelet(ordinal));
    }
}

/// A pod's status as a kubelet tells it.
fn show(pod: &mut Pod, address: &str, runs: bool, ready: bool) {
    let state = match runs {
        true => ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..ContainerState::default()
        },
        false => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        },
    };
    let status = pod.status.get_or_insert_default();
    // Before its first process, a container is being made.
    let begun = status.container_statuses.is_some() || runs;
    status.phase = Some(if begun { "Running" } else { "Pending" }.to_owned());
    status.pod_ip = Some(address.to_owned());
    status.conditions = Some(vec![PodCondition {
        type_: "Ready".to_owned(),
        status: if ready { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    }]);
    status.container_statuses = begun.then(|| {
        vec![ContainerStatus {
            name: names::CONTAINER.to_owned(),
            ready,
            state: Some(state),
            ..ContainerStatus::default()
        }]
    });
}
