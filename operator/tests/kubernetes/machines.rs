//! What a cluster adds to an API server, for the pods of one shard of a store: the controller that makes pods of a StatefulSet, and the
//! kubelet that runs them and tells. A store node is a process here, with the environment that its pod has, on an address of
//! the loopback network that is its own.

use crate::control_plane::{ControlPlane, root, scratch};
use crate::process::{Process, eventually};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use quorate_crds::ReplicatedStore;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough for a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program of a store node, built as the tests are.
fn node_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(root())
            .args(["build", "--quiet", "--workspace", "--bin", "quorate-node"])
            .status()
            .unwrap();
        assert!(built.success(), "quorate-node does not build");
        PathBuf::from(env!("CARGO_BIN_EXE_quorate-operator")).with_file_name("quorate-node")
    };
    PROGRAM.get_or_init(build).clone()
}

#[derive(Debug)]
struct Machine {
    pod: String,
    address: String,
    data: PathBuf,
    process: Option<Process>,
}

/// Runs the pods of one shard.
#[derive(Debug)]
pub(crate) struct Machines {
    pods: Api<Pod>,
    pub(crate) stores: Api<ReplicatedStore>,
    pub(crate) store: String,
    shard: u32,
    sets: Api<StatefulSet>,
    folder: PathBuf,
    net: String,
    template: Value,
    token: PathBuf,
    machines: Vec<Machine>,
}

impl Machines {
    /// Waits until the operator has made the objects of a store of one shard, and runs its pods.
    pub(crate) async fn run(plane: &ControlPlane, namespace: &str, store: &str) -> Self {
        Self::run_shard(plane, namespace, store, 0).await
    }

    /// Waits until the operator has made the objects of a shard, and runs its pods.
    pub(crate) async fn run_shard(plane: &ControlPlane, namespace: &str, store: &str, shard: u32) -> Self {
        let client = plane.client().await;
        let mut machines = Self::prepare(&client, namespace, store, shard).await;
        for ordinal in 0..machines.machines.len() {
            machines.create(ordinal).await;
            machines.boot(ordinal).await;
        }
        machines
    }

    async fn prepare(client: &Client, namespace: &str, store: &str, shard: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let set_name = format!("{store}-{shard}");
        let set = eventually("the StatefulSet is there", PATIENCE, async || {
            sets.get_opt(&set_name).await.unwrap()
        })
        .await;
        let secret = secrets.get(&format!("{store}-token")).await.unwrap();
        let folder = scratch().join(format!("{namespace}-{store}-{shard}"));
        std::fs::create_dir_all(&folder).unwrap();
        let token = folder.join("token");
        std::fs::write(&token, &secret.data.unwrap()["token"].0).unwrap();
        let spec = set.spec.unwrap();
        let (net, count) = (20 + std::process::id() % 200, COUNT.fetch_add(1, Ordering::Relaxed));
        let mut machines = Self {
            pods: Api::namespaced(client.clone(), namespace),
            stores: Api::namespaced(client.clone(), namespace),
            store: store.to_owned(),
            shard,
            sets,
            folder,
            net: format!("127.{net}.{count}"),
            template: serde_json::to_value(&spec.template).unwrap(),
            token,
            machines: Vec::new(),
        };
        machines.provide(usize::try_from(spec.replicas.unwrap()).unwrap());
        machines
    }

    /// Machines for so many pods; those that were there keep their disks.
    fn provide(&mut self, pods: usize) {
        for ordinal in self.machines.len()..pods {
            self.machines.push(Machine {
                pod: format!("{}-{}-{ordinal}", self.store, self.shard),
                address: format!("{}.{}", self.net, ordinal + 1),
                data: self.folder.join(format!("data-{ordinal}")),
                process: None,
            });
        }
    }

    /// Awaits that the StatefulSet has so many pods, and then does as its controller: makes those that are missing, and deletes
    /// those that are too many.
    pub(crate) async fn follow(&mut self, pods: usize) {
        let name = format!("{}-{}", self.store, self.shard);
        eventually(&format!("the StatefulSet has {pods} pods"), PATIENCE, async || {
            let set = self.sets.get(&name).await.unwrap();
            (set.spec.unwrap().replicas == i32::try_from(pods).ok()).then_some(())
        })
        .await;
        self.provide(pods);
        for ordinal in 0..self.machines.len() {
            let runs = self.machines[ordinal].process.is_some();
            if ordinal < pods && !runs {
                self.create(ordinal).await;
                self.boot(ordinal).await;
            } else if ordinal >= pods && runs {
                self.delete(ordinal).await;
                self.machines[ordinal].process = None;
            }
        }
    }

    /// Changes the spec.
    pub(crate) async fn respec(&self, spec: &Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.stores.patch(&self.store, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Asks for something in an annotation.
    pub(crate) async fn ask(&self, annotation: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {annotation: value}}}));
        self.stores.patch(&self.store, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Awaits that this configuration is in force, with nothing left to do.
    pub(crate) async fn in_force(&self, replicas: i32, write: i32, read: i32) -> usize {
        eventually(&format!("{replicas}/{write}/{read} is in force"), PATIENCE, async || {
            let status = self.status().await;
            let shard = self.own(&status)?;
            let quorum = shard.quorum?;
            ((quorum.replicas, quorum.write, quorum.read) == (replicas, write, read) && shard.change.is_none()).then_some(())
        })
        .await;
        self.ready().await
    }

    /// Where clients find the node of an ordinal, now or once there is one.
    pub(crate) fn client_of(&self, ordinal: usize) -> SocketAddr {
        format!("{}.{}:6379", self.net, ordinal + 1).parse().unwrap()
    }

    /// Where clients find the nodes.
    pub(crate) fn clients(&self) -> Vec<SocketAddr> {
        let each = self
            .machines
            .iter()
            .map(|machine| format!("{}:6379", machine.address).parse().unwrap());
        each.collect()
    }

    pub(crate) fn pod(&self, ordinal: usize) -> String {
        self.machines[ordinal].pod.clone()
    }

    pub(crate) fn ordinal(&self, pod: &str) -> usize {
        self.machines.iter().position(|machine| machine.pod == pod).unwrap()
    }

    fn process(&mut self, ordinal: usize) -> &mut Process {
        self.machines[ordinal].process.as_mut().unwrap()
    }

    /// As the controller does.
    pub(crate) async fn create(&self, ordinal: usize) {
        let mut pod = self.template.clone();
        pod["metadata"]["name"] = json!(self.machines[ordinal].pod);
        // A pod that is on no machine has no grace when it is deleted.
        pod["spec"]["nodeName"] = json!(format!("machine-{ordinal}"));
        // The volume is a folder here; the controller would add the claim.
        let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
        volumes.push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}));
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Runs the container of a pod that exists, and tells, as a kubelet does.
    pub(crate) async fn boot(&mut self, ordinal: usize) {
        let Machine { pod, address, data, .. } = &self.machines[ordinal];
        let container = &self.template["spec"]["containers"][0];
        let mut command = Command::new(node_program());
        command
            .arg("serve")
            .env("QUORATE_BIND", address)
            .env("QUORATE_SEGMENT_BYTES", "1048576")
            .env("RUST_LOG", "info,quorate=debug");
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            match (name, field) {
                (_, Some("metadata.name")) => command.env(name, pod),
                (_, Some("status.podIP")) => command.env(name, address),
                (_, Some(other)) => panic!("the test knows no field {other}"),
                ("QUORATE_DATA_DIR", None) => command.env(name, data),
                ("QUORATE_TOKEN_FILE", None) => command.env(name, &self.token),
                (_, None) => command.env(name, variable["value"].as_str().unwrap()),
            };
        }
        let log = data.with_extension("log");
        self.machines[ordinal].process = Some(Process::start(&command, &log));
        self.tell(ordinal, true).await;
    }

    /// The kubelet's word on a pod.
    pub(crate) async fn tell(&self, ordinal: usize, running: bool) {
        let Machine { pod, address, .. } = &self.machines[ordinal];
        let state = if running {
            json!({"running": {}})
        } else {
            json!({"terminated": {"exitCode": 137}})
        };
        let ready = if running { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{
                "name": "node", "image": "i", "imageID": "i", "ready": running, "restartCount": 0, "state": state,
            }],
        }});
        self.pods
            .patch_status(pod, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    pub(crate) fn kill(&mut self, ordinal: usize) {
        self.process(ordinal).kill();
    }

    pub(crate) fn freeze(&mut self, ordinal: usize) {
        self.process(ordinal).freeze();
    }

    pub(crate) fn thaw(&mut self, ordinal: usize) {
        self.process(ordinal).thaw();
    }

    /// A pod is deleted: the API server marks it, the kubelet stops its container and then removes it.
    pub(crate) async fn delete(&mut self, ordinal: usize) {
        let pod = self.pod(ordinal);
        let grace = |seconds| DeleteParams {
            grace_period_seconds: Some(seconds),
            ..DeleteParams::default()
        };
        self.pods.delete(&pod, &grace(30)).await.unwrap();
        self.process(ordinal).stop().await;
        self.pods.delete(&pod, &grace(0)).await.unwrap();
    }

    /// Awaits that the StatefulSet of the shard is deleted, and then does as its controller: the pods go, the disks stay.
    pub(crate) async fn leave(mut self) {
        let name = format!("{}-{}", self.store, self.shard);
        eventually(&format!("StatefulSet {name} is deleted"), PATIENCE * 2, async || {
            self.sets.get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
        for ordinal in 0..self.machines.len() {
            self.delete(ordinal).await;
        }
    }

    /// Loses what a replica had on its disk.
    pub(crate) fn wipe(&self, ordinal: usize) {
        std::fs::remove_dir_all(&self.machines[ordinal].data).unwrap();
    }

    /// What the status says of this shard.
    pub(crate) fn own<'a>(&self, status: &'a quorate_crds::ReplicatedStoreStatus) -> Option<&'a quorate_crds::ShardStatus> {
        status.shards.iter().find(|shard| u32::try_from(shard.index) == Ok(self.shard))
    }

    pub(crate) async fn status(&self) -> quorate_crds::ReplicatedStoreStatus {
        self.stores.get(&self.store).await.unwrap().status.unwrap_or_default()
    }

    /// Awaits that a condition has that status, and gives its reason and message.
    pub(crate) async fn condition(&self, type_: &str, status: &str) -> (String, String) {
        eventually(&format!("{type_} is {status}"), PATIENCE, async || {
            let conditions = self.status().await.conditions;
            let found = conditions
                .into_iter()
                .find(|condition| condition.type_ == type_ && condition.status == status)?;
            Some((found.reason, found.message))
        })
        .await
    }

    /// Awaits that a condition has this status for that reason, and gives its message. Other reasons may come first: an operator
    /// that has just started waits for replicas before it judges them.
    pub(crate) async fn because(&self, type_: &str, status: &str, reason: &str) -> String {
        eventually(&format!("{type_} is {status} because of {reason}"), PATIENCE, async || {
            let conditions = self.status().await.conditions;
            let wanted = (type_, status, reason);
            let found = conditions
                .into_iter()
                .find(|said| (said.type_.as_str(), said.status.as_str(), said.reason.as_str()) == wanted)?;
            Some(found.message)
        })
        .await
    }

    /// Awaits that all replicas serve or follow, and gives the primary.
    pub(crate) async fn ready(&self) -> usize {
        self.condition("Ready", "True").await;
        let status = self.status().await;
        self.ordinal(self.own(&status).unwrap().primary.as_deref().unwrap())
    }

    /// Awaits that a failover beyond `epoch` is told, and gives the new primary.
    pub(crate) async fn primary_beyond(&self, epoch: i64) -> usize {
        let pod = eventually("another primary is told", PATIENCE, async || {
            let status = self.status().await;
            let shard = self.own(&status)?;
            shard.primary.clone().filter(|_| shard.epoch > epoch)
        })
        .await;
        self.ordinal(&pod)
    }
}
