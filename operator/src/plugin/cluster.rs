//! The API server, in the namespace that a command is about.

use super::cli::Connection;
use super::error::PluginError;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use quorate_crds::ReplicatedStore;
use serde_json::json;

/// See the module.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    pub(super) namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig. Nothing is asked of the API server yet.
    pub(super) async fn connect(connection: &Connection) -> Result<Self, PluginError> {
        let failed = |error: kube::config::KubeconfigError| PluginError::Config(format!("the kubeconfig cannot be used: {error}"));
        let kubeconfig = match &connection.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions {
            context: connection.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig.map_err(failed)?, &options)
            .await
            .map_err(failed)?;
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(PluginError::api("use the kubeconfig"))?;
        Ok(Self { client, namespace })
    }

    pub(super) fn stores(&self) -> Api<ReplicatedStore> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// All stores, of this namespace or of all.
    pub(super) async fn list(&self, all_namespaces: bool) -> Result<Vec<ReplicatedStore>, PluginError> {
        let api = if all_namespaces {
            Api::all(self.client.clone())
        } else {
            self.stores()
        };
        let listed = api.list(&ListParams::default()).await;
        Ok(listed.map_err(|error| self.explained("list the stores", error))?.items)
    }

    pub(super) async fn get(&self, name: &str) -> Result<ReplicatedStore, PluginError> {
        let found = self.stores().get_opt(name).await;
        let found = found.map_err(|error| self.explained(&format!("read the store {name}"), error))?;
        found.ok_or_else(|| {
            PluginError::NotFound(format!(
                "there is no store {name} in namespace {}: `kubectl quorate status -A` lists all; -n chooses another namespace",
                self.namespace
            ))
        })
    }

    /// Writes an annotation into the store as it was read: whoever changed it meanwhile is not overruled.
    pub(super) async fn annotate(&self, store: &ReplicatedStore, annotation: &str, value: &str) -> Result<(), PluginError> {
        let name = store.name_any();
        let patch = json!({"metadata": {"resourceVersion": store.resource_version(), "annotations": {annotation: value}}});
        let written = self.stores().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        written
            .map(drop)
            .map_err(|error| self.explained(&format!("annotate the store {name}"), error))
    }

    /// Events about that object.
    pub(super) async fn events(&self, uid: &str) -> Result<Vec<Event>, PluginError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = ListParams::default().fields(&format!("regarding.uid={uid}"));
        let listed = api.list(&about).await;
        Ok(listed.map_err(|error| self.explained("read the events", error))?.items)
    }

    fn explained(&self, what: &str, error: kube::Error) -> PluginError {
        let what = match &error {
            kube::Error::Api(status) if status.code == 404 => {
                format!("{what}: this cluster knows no replicated stores; is the chart quorate-crds installed?")
            }
            kube::Error::Api(status) if status.code == 403 => format!("{what} in namespace {}", self.namespace),
            kube::Error::Api(_) => what.to_owned(),
            _ => format!("{what}: the API server does not answer"),
        };
        PluginError::api(what)(error)
    }
}
