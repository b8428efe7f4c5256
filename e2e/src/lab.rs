//! A store on the cluster, as a test sees it: what the API server says of it, and how to wait for what it should become.

use crate::cluster::Cluster;
use crate::workload::Place;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Namespace of the stores that are tested.
const NAMESPACE: &str = "quorate-e2e";
/// Port of the Redis protocol.
const CLIENT_PORT: u16 = 6379;
/// Between two looks at the API server.
const LOOK: Duration = Duration::from_millis(50);

/// A pod of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its address.
    pub address: IpAddr,
    /// The node that it runs on.
    pub node: String,
}

impl StorePod {
    /// None while it has no address.
    fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            name: pod.name_any(),
            uid: pod.uid()?,
            address: pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?,
            node: pod.spec.as_ref()?.node_name.clone()?,
        })
    }

    /// Where its clients connect.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        (self.address, CLIENT_PORT).into()
    }
}

/// See the module.
pub struct Lab {
    /// The cluster.
    pub cluster: Cluster,
    /// Namespace of the store.
    pub namespace: String,
    /// Name of the store.
    pub store: String,
    /// Histories are written here, if anywhere.
    pub export: Option<PathBuf>,
    runtime: Runtime,
    client: Client,
}

impl Lab {
    /// Looks at the store `name` in the namespace of the tests, which is made if it is not there.
    ///
    /// # Errors
    /// If no cluster is up.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Self::at(NAMESPACE, name)?;
        lab.make_namespace()?;
        Ok(lab)
    }

    /// Looks at a store. Moves this thread into the cluster's network.
    ///
    /// # Errors
    /// If no cluster is up.
    pub fn at(namespace: &str, name: &str) -> Result<Self> {
        let cluster = Cluster::find()?;
        cluster.enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            cluster,
            namespace: namespace.to_owned(),
            store: name.to_owned(),
            export: None,
            runtime,
            client,
        })
    }

    fn make_namespace(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.namespace.clone());
        // The pods of a store pass the strictest of the standards.
        let enforced = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
        namespace.metadata.labels = Some([enforced].into());
        match self.runtime.block_on(api.create(&PostParams::default(), &namespace)) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn stores(&self) -> Api<ReplicatedStore> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the store with this spec.
    ///
    /// # Errors
    /// What the API server says to it.
    pub fn create(&self, spec: &serde_json::Value) -> Result<()> {
        let store: ReplicatedStore = serde_json::from_value(serde_json::json!({
            "apiVersion": "quorate.io/v1alpha1",
            "kind": "ReplicatedStore",
            "metadata": {"name": self.store, "namespace": self.namespace},
            "spec": spec,
        }))?;
        self.runtime.block_on(self.stores().create(&PostParams::default(), &store))?;
        Ok(())
    }

    /// Changes the store's spec by a merge patch.
    ///
    /// # Errors
    /// What the API server says to it.
    pub fn change_spec(&self, spec: &serde_json::Value) -> Result<()> {
        let patch = Patch::Merge(serde_json::json!({"spec": spec}));
        self.runtime
            .block_on(self.stores().patch(&self.store, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Takes away everything that the operator wrote into the store's status.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn wipe_status(&self) -> Result<()> {
        let mut store = self.get()?;
        store.status = None;
        self.runtime
            .block_on(self.stores().replace_status(&self.store, &PostParams::default(), &store))?;
        Ok(())
    }

    /// Deletes the store, keeps its claims, and waits until its pods are gone.
    ///
    /// # Errors
    /// If they stay.
    pub fn delete_keeping_claims(&self) -> Result<()> {
        self.runtime.block_on(self.stores().delete(&self.store, &DeleteParams::default()))?;
        self.await_no_pods()
    }

    fn await_no_pods(&self) -> Result<()> {
        self.until("the pods of the deleted store are gone", Duration::from_secs(90), || {
            Ok(self.pods_unready()?.is_empty().then_some(()))
        })
    }

    /// Deletes the store with its claims, if it is there, and waits until its pods are gone.
    ///
    /// # Errors
    /// If they stay.
    pub fn remove(&self) -> Result<()> {
        match self.runtime.block_on(self.stores().delete(&self.store, &DeleteParams::default())) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        self.await_no_pods()?;
        let selector = format!("app.kubernetes.io/instance={}", self.store);
        self.cluster
            .kubectl(&["-n", &self.namespace, "delete", "pvc", "-l", &selector, "--wait=true"], "")?;
        self.cluster.script(&["volumes"])?;
        Ok(())
    }

    /// The store, as the API server has it.
    ///
    /// # Errors
    /// If it is not there.
    pub fn get(&self) -> Result<ReplicatedStore> {
        Ok(self.runtime.block_on(self.stores().get(&self.store))?)
    }

    /// Its status.
    ///
    /// # Errors
    /// If it is not there.
    pub fn status(&self) -> Result<ReplicatedStoreStatus> {
        Ok(self.get()?.status.unwrap_or_default())
    }

    /// Waits until the store's status is as wanted.
    ///
    /// # Errors
    /// If it is not within `patience`: with the status as it is then.
    pub fn await_status(
        &self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&ReplicatedStoreStatus) -> bool,
    ) -> Result<ReplicatedStoreStatus> {
        let outcome = self.until(what, patience, || {
            // An API server that is away for a moment is part of some scenarios.
            Ok(self.status().ok().filter(&wanted))
        });
        outcome.with_context(|| match self.status() {
            Ok(status) => format!("the status is {}", serde_json::to_string(&status).unwrap_or_default()),
            Err(error) => format!("there is no status: {error:#}"),
        })
    }

    /// Waits until the store says that it is Ready, and the kubelet that its pods are.
    ///
    /// # Errors
    /// If it does not within `patience`.
    pub fn await_ready(&self, patience: Duration) -> Result<ReplicatedStoreStatus> {
        self.until("all pods are ready", patience, || {
            let spec = self.get()?.spec;
            let wanted = spec.shards * spec.replicas_per_shard;
            let ready = self.pods_unready()?.iter().filter(|pod| is_ready(pod)).count();
            Ok(i32::try_from(ready).is_ok_and(|ready| ready == wanted).then_some(()))
        })?;
        self.await_status("the store is Ready", patience, |status| holds(status, "Ready"))
    }

    /// Its pods that have an address, by name.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn pods(&self) -> Result<Vec<StorePod>> {
        let pods = self.pods_unready()?;
        let mut found: Vec<StorePod> = pods.iter().filter_map(StorePod::of).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn pods_unready(&self) -> Result<Vec<Pod>> {
        let of_store = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.store));
        Ok(self.runtime.block_on(self.pod_api().list(&of_store))?.items)
    }

    /// The pod of the primary of the first shard, as status names it.
    ///
    /// # Errors
    /// If there is none.
    pub fn primary(&self) -> Result<StorePod> {
        self.primary_of(0)
    }

    /// The pod of the primary of a shard, as status names it.
    ///
    /// # Errors
    /// If there is none.
    pub fn primary_of(&self, shard: usize) -> Result<StorePod> {
        let status = self.status()?;
        let name = status.shards.get(shard).and_then(|shard| shard.primary.clone());
        let name = name.with_context(|| format!("status names no primary of shard {shard}"))?;
        let pod = self.pods()?.into_iter().find(|pod| pod.name == name);
        pod.with_context(|| format!("the primary's pod {name} has no address"))
    }

    /// Where clients of the store are.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn place(&self) -> Result<Place> {
        Ok(Place {
            network: Some(self.cluster.client_network()),
            nodes: self.pods()?.iter().map(StorePod::client).collect(),
            export: self.export.clone(),
        })
    }

    /// Deletes a pod, without waiting for its end.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn delete_pod(&self, pod: &str) -> Result<()> {
        self.runtime.block_on(self.pod_api().delete(pod, &DeleteParams::default()))?;
        Ok(())
    }

    /// The reasons of the store's events.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn event_reasons(&self) -> Result<Vec<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = self.runtime.block_on(api.list(&ListParams::default()))?;
        let of_store = |event: &&Event| {
            event.involved_object.kind.as_deref() == Some("ReplicatedStore") && event.involved_object.name.as_deref() == Some(&self.store)
        };
        Ok(events
            .items
            .iter()
            .filter(of_store)
            .filter_map(|event| event.reason.clone())
            .collect())
    }

    /// The pods of the operator, the leader first.
    ///
    /// # Errors
    /// If there is no leader within 20 s.
    pub fn operator_pods(&self, release: &str) -> Result<Vec<StorePod>> {
        use k8s_openapi::api::coordination::v1::Lease;
        let namespace = crate::cluster::OPERATOR_NAMESPACE;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        self.until("an operator leads", Duration::from_secs(20), || {
            let of_release = ListParams::default().labels(&format!("app.kubernetes.io/instance={release}"));
            let listed = self.runtime.block_on(pods.list(&of_release))?;
            let lease = self.runtime.block_on(leases.get_opt(&format!("{release}-operator")))?;
            let leader = lease.and_then(|lease| lease.spec?.holder_identity);
            let mut found: Vec<StorePod> = listed
                .items
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .filter_map(StorePod::of)
                .collect();
            found.sort_by_key(|pod| Some(&pod.name) != leader.as_ref());
            Ok(found
                .first()
                .is_some_and(|first| Some(&first.name) == leader.as_ref())
                .then_some(found))
        })
    }

    /// Scales the operator and waits until it is so.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn scale_operator(&self, replicas: usize) -> Result<()> {
        let namespace = crate::cluster::OPERATOR_NAMESPACE;
        let count = format!("--replicas={replicas}");
        self.cluster
            .kubectl(&["-n", namespace, "scale", "deployment/quorate-operator", &count], "")?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        self.until("the operator is scaled", Duration::from_secs(60), || {
            let listed = self
                .runtime
                .block_on(pods.list(&ListParams::default().labels("app.kubernetes.io/instance=quorate")))?;
            let ready = listed.items.iter().filter(|pod| is_ready(pod)).count();
            Ok((listed.items.len() == replicas && ready == replicas).then_some(()))
        })
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// If it does not within `patience`, or fails.
    pub fn until<T>(&self, what: &str, patience: Duration, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("waited {patience:?} until {what}, in vain");
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Whether a condition is True.
#[must_use]
pub fn holds(status: &ReplicatedStoreStatus, condition: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == condition && c.status == "True")
}

/// The pod of the primary of the first shard.
#[must_use]
pub fn primary_of(status: &ReplicatedStoreStatus) -> Option<&str> {
    status.shards.first()?.primary.as_deref()
}

/// The epoch of the first shard.
#[must_use]
pub fn epoch_of(status: &ReplicatedStoreStatus) -> i64 {
    status.shards.first().map_or(0, |shard| shard.epoch)
}
