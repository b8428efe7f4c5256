//! The view changes that the operator drives: the first one of a store, and failovers. Each runs in a task of its own.

use crate::detect::Observed;
use crate::names;
use crate::settings::Settings;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use quorate_api::{Configuration, Incarnation, Member};
use quorate_client::{DriveError, Driven, Live, drive, epoch_above};
use quorate_crds::ReplicatedStore;
use quorate_protocol::Driver;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// A drive that takes longer is given up; the next one knows more.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a view change did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ViewChangeError {
    /// The members.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The API server.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The members do not make a configuration.
    #[error("configuration: {0}")]
    Configuration(#[from] quorate_api::ConfigurationError),
    /// The store was bootstrapped before, over other volumes.
    #[error("{0}")]
    DataLost(String),
}

/// What a drive needs to know.
#[derive(Clone, Debug)]
pub struct Known {
    /// The store's token.
    pub token: Arc<Vec<u8>>,
    /// Where members are now.
    pub live: Live,
    /// Highest epoch number seen.
    pub highest: u64,
    /// Every configuration that a member told.
    pub configurations: Vec<Configuration>,
}

impl Known {
    /// From what was observed; `address` gives a pod's address.
    pub fn of(members: &[Observed], token: Arc<Vec<u8>>, address: impl Fn(&str) -> Option<String>) -> Self {
        let statuses = || members.iter().filter_map(|member| Some((member, member.status.as_ref()?)));
        let mut configurations: Vec<Configuration> = Vec::new();
        for (_, status) in statuses() {
            if let Some((_, configuration)) = &status.configuration
                && !configurations.contains(configuration)
            {
                configurations.push(configuration.clone());
            }
        }
        Self {
            token,
            live: statuses()
                .filter_map(|(member, status)| Some((status.id.incarnation, address(&member.pod)?)))
                .collect(),
            highest: statuses().map(|(_, status)| status.promised.number).max().unwrap_or_default(),
            configurations,
        }
    }
}

/// Replaces the primary, keeping the configuration.
///
/// # Errors
/// See [`ViewChangeError`].
pub async fn fail_over(known: Known) -> Result<Driven, ViewChangeError> {
    let driver = Driver::keep(epoch_above(known.highest), known.configurations, None);
    Ok(drive(driver, &known.token, &known.live, DEADLINE).await?)
}

/// Starts the first epoch over blank replicas, unless the store is known to have had one over other volumes.
///
/// The incarnations are written down before: a group that comes back blank and is another one is not bootstrapped again.
///
/// # Errors
/// See [`ViewChangeError`].
pub async fn bootstrap(
    client: Client,
    settings: Settings,
    known: Known,
    blank: Vec<(u32, Incarnation)>,
) -> Result<Driven, ViewChangeError> {
    let (name, namespace) = (&settings.name, &settings.namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let stores: Api<ReplicatedStore> = Api::namespaced(client, namespace);
    let set_name = names::stateful_set(name, 0);
    let set = sets.get(&set_name).await?;
    let incarnations: Vec<String> = blank.iter().map(|(_, incarnation)| incarnation.to_string()).collect();
    let wanted = incarnations.join(",");
    let written = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::ANNOTATION_BOOTSTRAP));
    if written != Some(&wanted) {
        let served = stores
            .get(name)
            .await?
            .status
            .is_some_and(|status| status.shards.iter().any(|shard| shard.epoch > 0));
        if written.is_some() || served {
            return Err(ViewChangeError::DataLost(
                "this store was bootstrapped before, and all its replicas come back empty: bring back its volumes, or delete the store and \
                 its claims and create it anew"
                    .to_owned(),
            ));
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": {names::ANNOTATION_BOOTSTRAP: wanted},
            },
        });
        sets.patch(&set_name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    let members = blank
        .into_iter()
        .map(|(ordinal, incarnation)| Member {
            incarnation,
            ordinal,
            host: names::replica_host(name, namespace, 0, ordinal),
        })
        .collect();
    let configuration = Configuration::new(members, settings.quorum.write, settings.quorum.read)?;
    let driver = Driver::bootstrap(epoch_above(known.highest), configuration);
    Ok(drive(driver, &known.token, &known.live, DEADLINE).await?)
}
