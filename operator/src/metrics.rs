//! What the operator counts, and the endpoints for it and for health.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Counters. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Failovers that led to a new primary.
    pub failovers: Counter,
    /// Primaries found lost that the operator did not hear; see [`crate::suspicion`].
    pub suspicions: Counter,
    /// Those of them that were alive.
    pub false_suspicions: Counter,
    /// How long each of these was suspected.
    pub false_suspicion_seconds: Histogram,
    /// How long a primary had been silent when it was found lost.
    pub detection_seconds: Histogram,
    /// View changes that did not come about.
    pub failed_view_changes: Counter,
    /// From the suspicion to the new primary.
    pub failover_seconds: Histogram,
    /// Reconciliations.
    pub reconciles: Counter,
    /// Reconciliations that failed.
    pub reconcile_errors: Counter,
    /// 1 while this replica of the operator leads.
    pub leading: Gauge,
    /// Stores that are kept.
    pub stores: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quorate_operator");
        let (failovers, suspicions, failed_view_changes) = (Counter::default(), Counter::default(), Counter::default());
        let failover_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let detection_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let (reconciles, reconcile_errors) = (Counter::default(), Counter::default());
        let (leading, stores) = (Gauge::default(), Gauge::default());
        registry.register("failovers", "Failovers that led to a new primary", failovers.clone());
        registry.register("suspicions", "Primaries that were silent and found lost", suspicions.clone());
        let (false_suspicions, false_suspicion_seconds) = (Counter::default(), Histogram::new(exponential_buckets(0.001, 2.0, 20)));
        registry.register("false_suspicions", "Suspected primaries that were alive", false_suspicions.clone());
        registry.register(
            "false_suspicion_seconds",
            "From a suspicion until the suspected primary, alive, was heard again",
            false_suspicion_seconds.clone(),
        );
        registry.register(
            "detection_seconds",
            "How long a primary had been silent when it was found lost",
            detection_seconds.clone(),
        );
        registry.register(
            "failed_view_changes",
            "View changes that did not come about",
            failed_view_changes.clone(),
        );
        registry.register("failover_seconds", "From suspicion to a new primary", failover_seconds.clone());
        registry.register("reconciles", "Reconciliations", reconciles.clone());
        registry.register("reconcile_errors", "Reconciliations that failed", reconcile_errors.clone());
        registry.register("leading", "1 while this replica of the operator leads", leading.clone());
        registry.register("stores", "Stores that are kept", stores.clone());
        Self {
            registry: Arc::new(registry),
            failovers,
            suspicions,
            false_suspicions,
            false_suspicion_seconds,
            detection_seconds,
            failed_view_changes,
            failover_seconds,
            reconciles,
            reconcile_errors,
            leading,
            stores,
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` for ever.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(metrics: Metrics, address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(text))
        .with_state(metrics);
    axum::serve(listener, router).await
}

async fn text(State(metrics): State<Metrics>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &metrics.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
