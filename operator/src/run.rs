//! Runs the operator: leads, watches, reconciles, and ends gracefully.

use crate::context::Context;
use crate::leader::Election;
use crate::metrics::{self, Metrics};
use crate::names;
use crate::reconcile::{Reconciler, after_error, reconcile};
use crate::watches::changes;
use anyhow::bail;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use quorate_crds::ReplicatedStore;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Changes of a store within this time are one. It bounds what happens when something else, such as an operator of another
/// version, undoes every change: each would answer the other at once, for ever.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// Stores reconciled at the same time.
const CONCURRENCY: u16 = 16;
/// Stores that are gone are looked for this often.
const SWEEP: Duration = Duration::from_secs(2);

/// Settings of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct OperatorArgs {
    /// Watch this namespace only. Default: all.
    #[arg(long, env = "QUORATE_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Name of this replica of the operator.
    #[arg(long, env = "POD_NAME", default_value = "quorate-operator")]
    pub identity: String,
    /// Name of the lease.
    #[arg(long, env = "QUORATE_LEASE", default_value = "quorate-operator")]
    pub lease: String,
    /// Image of the store node where a spec names none.
    #[arg(long, env = "QUORATE_NODE_IMAGE", default_value = concat!("quorate/node:", env!("CARGO_PKG_VERSION")))]
    pub node_image: String,
    /// Address of health and metrics.
    #[arg(long, env = "QUORATE_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: String,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the API server cannot be reached at the start, or leadership is lost: the process starts again as a candidate.
pub async fn run(args: OperatorArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = Client::try_default().await?;
    let metrics = Metrics::default();
    let http = tokio::spawn({
        let (metrics, address) = (metrics.clone(), args.http_address.clone());
        async move { metrics::serve(metrics, &address).await }
    });
    let mut election = Election::new(client.clone(), &args.namespace, &args.lease, args.identity.clone());
    tracing::info!(identity = args.identity, lease = args.lease, "waiting to lead");
    tokio::select! {
        () = election.win() => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        ended = http => bail!("the health endpoint ended: {ended:?}"),
    }
    metrics.leading.set(1);
    tracing::info!("leading");
    let outcome = tokio::select! {
        () = election.hold() => Err(anyhow::anyhow!("leadership is lost")),
        ended = lead(&args, client, metrics.clone()) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    metrics.leading.set(0);
    election.release().await;
    outcome
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What the leader does, for ever.
async fn lead(args: &OperatorArgs, client: Client, metrics: Metrics) -> anyhow::Result<()> {
    let namespace = args.watch_namespace.as_deref();
    let managed = watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::VALUE_MANAGED_BY));
    let (pods, pods_writer) = reflector::store();
    let (stores, stores_writer) = reflector::store();
    let (reconcile_again, again) = tokio::sync::mpsc::unbounded_channel();
    let context = Arc::new(Context {
        recorder: Recorder::new(
            client.clone(),
            Reporter {
                controller: names::MANAGER.to_owned(),
                instance: Some(args.identity.clone()),
            },
        ),
        client: client.clone(),
        pods,
        stores: stores.clone(),
        pods_changed: watch::Sender::new(0),
        reconcile: reconcile_again,
        metrics,
        node_image: args.node_image.clone(),
    });
    let follow_pods = {
        let context = Arc::clone(&context);
        let pods: Api<Pod> = api(&client, namespace);
        let events = watcher(pods, managed.clone()).default_backoff().reflect(pods_writer);
        async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                if let Err(error) = event {
                    tracing::warn!(%error, "the watch of pods failed; it goes on");
                }
                context.pods_changed.send_modify(|count| *count += 1);
            }
        }
    };
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&context)));
    // One object that this version cannot read must not stop the watch of the others.
    let store_api: Api<DeserializeGuard<ReplicatedStore>> = api(&client, namespace);
    // A status is no reason to reconcile: the keepers write it. Annotations are: people ask for things in them.
    let specs = watcher(store_api, watcher::Config::default())
        .default_backoff()
        .reflect(stores_writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), PredicateConfig::default());
    let again = futures::stream::unfold(again, |mut again| async move { Some((again.recv().await?, again)) });
    let controller = Controller::for_stream(specs, stores.clone())
        .reconcile_on(again)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns_stream(changes(api::<PartialObjectMeta<StatefulSet>>(&client, namespace), managed.clone()))
        .owns_stream(changes(api::<PartialObjectMeta<Service>>(&client, namespace), managed.clone()))
        .owns_stream(changes(api::<PartialObjectMeta<PodDisruptionBudget>>(&client, namespace), managed));
    let sweep = {
        let reconciler = Arc::clone(&reconciler);
        async move {
            let mut interval = tokio::time::interval(SWEEP);
            loop {
                interval.tick().await;
                let present: HashSet<String> = stores.state().iter().filter_map(|store| store.uid()).collect();
                reconciler.retain(|uid| present.contains(uid));
            }
        }
    };
    let reconciling = controller
        .run(
            |guard: Arc<DeserializeGuard<ReplicatedStore>>, reconciler| async move {
                match &guard.0 {
                    Ok(store) => reconcile(Arc::new(store.clone()), reconciler).await,
                    Err(error) => {
                        tracing::warn!(store = guard.name_any(), %error, "a store that this version cannot read");
                        Ok(kube::runtime::controller::Action::await_change())
                    }
                }
            },
            |guard, error, reconciler| match &guard.0 {
                Ok(store) => after_error(store, error, &reconciler),
                Err(_) => kube::runtime::controller::Action::await_change(),
            },
            reconciler,
        )
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                tracing::debug!(%error, "reconciliation");
            }
        });
    tokio::select! {
        () = follow_pods => bail!("the watch of pods ended"),
        () = reconciling => bail!("the controller ended"),
        () = sweep => bail!("the sweep ended"),
    }
}
