//! The keeper of a store: gathers what its nodes say, asks the planner, and carries out. One task for each store, so that a
//! sick store delays no other, and nothing here waits for the API server: what is to be written goes to the publisher, view
//! changes run in tasks of their own.
//!
//! The way of a failover: news of a broken stream or a changed status ([`crate::replicas`]) -> [`plan`] -> [`carry_out`] in
//! a task -> [`conclude`] -> roles, status and events to the publisher.

use crate::context::Context;
use crate::names;
use crate::plan::{Drive, Memory, Note, Observation, Plan, Reconciled, ViewChange, conclude, plan};
use crate::publish::{Publication, Publisher};
use crate::replicas::{Replicas, belongs};
use crate::settings::Settings;
use crate::view_change::{ViewChangeError, carry_out};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use quorate_client::{Driven, epoch_above};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// What reconciliation tells the keeper.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The spec, checked.
    pub settings: Settings,
    /// What came of its objects.
    pub reconciled: Reconciled,
    /// The store's token.
    pub token: Arc<Vec<u8>>,
}

/// See the module.
pub struct Keeper {
    context: Arc<Context>,
    key: String,
    selector: String,
    desired: watch::Receiver<Desired>,
    replicas: Replicas,
    driving: Option<(Drive, JoinHandle<Result<Driven, ViewChangeError>>)>,
    memory: Memory,
    status: ReplicatedStoreStatus,
    word: watch::Sender<Publication>,
    notes: mpsc::UnboundedSender<Note>,
    publisher: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.publisher.abort();
        if let Some((_, task)) = &self.driving {
            task.abort();
        }
    }
}

impl Keeper {
    /// A keeper for a store that the API server knows.
    #[must_use]
    pub fn new(context: Arc<Context>, store: &ReplicatedStore, desired: watch::Receiver<Desired>) -> Self {
        let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
        let status = store.status.clone().unwrap_or_default();
        let word = watch::Sender::new(Publication {
            status: status.clone(),
            ..Publication::default()
        });
        let (notes, written) = mpsc::unbounded_channel();
        let publisher = Publisher::new(
            context.client.clone(),
            &namespace,
            name,
            context.recorder.clone(),
            store.object_ref(&()),
            status.clone(),
        );
        let publisher = tokio::spawn(publisher.run(word.subscribe(), written)).abort_handle();
        let selector: Vec<String> = names::selector(store).iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (key, replicas) = {
            let Desired { settings, token, .. } = &*desired.borrow();
            (settings.key(), Replicas::new(Arc::clone(token), settings.heartbeat))
        };
        Self {
            memory: Memory::new(&status, Instant::now(), Timestamp::now()),
            selector: selector.join(","),
            context,
            key,
            desired,
            replicas,
            driving: None,
            status,
            word,
            notes,
            publisher,
        }
    }

    /// Keeps the store until its `desired` channel closes.
    pub async fn run(mut self) {
        let mut pods_changed = self.context.pods_changed.subscribe();
        self.follow_pods();
        loop {
            let look_at = self.act();
            tokio::select! {
                () = self.replicas.hear() => {}
                (drive, outcome) = finished(&mut self.driving) => self.conclude(&drive, &outcome),
                changed = pods_changed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_pods();
                }
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
        }
    }

    fn follow_pods(&mut self) {
        let settings = self.desired.borrow().settings.clone();
        let pods = self.context.pods.state();
        let ours = pods.into_iter().filter(|pod| belongs(pod, &settings.namespace, &settings.uid, 0));
        self.replicas.follow(ours, settings.suspect_after);
    }

    /// Plans and carries out; says when to plan again.
    fn act(&mut self) -> Instant {
        let desired = self.desired.borrow().clone();
        let seen = Observation {
            settings: &desired.settings,
            reconciled: &desired.reconciled,
            selector: &self.selector,
            members: &self.replicas.observed(),
            driving: self.driving.as_ref().map(|(drive, _)| drive),
            told: &self.status,
            now: Instant::now(),
            wall: Timestamp::now(),
        };
        let Plan {
            start,
            phase: _,
            roles,
            status,
            notes,
            heartbeat,
            look_at,
            memory,
        } = plan(&seen, &self.memory);
        self.memory = memory;
        self.replicas.listen(heartbeat);
        if let Some(change) = start {
            self.start(change, &desired);
        }
        for note in notes {
            self.note(note);
        }
        self.word.send_if_modified(|word| {
            let publication = Publication {
                roles: roles.unwrap_or_else(|| word.roles.clone()),
                status: status.clone(),
            };
            let differs = *word != publication;
            *word = publication;
            differs
        });
        self.status = status;
        look_at
    }

    fn start(&mut self, change: ViewChange, desired: &Desired) {
        tracing::warn!(
            store = self.key,
            reason = change.reason,
            from = change.from,
            "starting a view change"
        );
        if change.first.is_none() {
            self.context.metrics.suspicions.inc();
            if let Some(silence) = change.silence {
                self.context.metrics.detection_seconds.observe(silence.as_secs_f64());
            }
        }
        let drive = Drive {
            epoch: epoch_above(change.known.highest),
            begun: Instant::now(),
            detected: Timestamp::now(),
            change: change.clone(),
        };
        let task = carry_out(
            change,
            drive.epoch,
            Arc::clone(&desired.token),
            self.context.client.clone(),
            desired.settings.clone(),
        );
        self.driving = Some((drive, tokio::spawn(task)));
    }

    /// A view change ended.
    fn conclude(&mut self, drive: &Drive, outcome: &Result<Driven, ViewChangeError>) {
        let conclusion = conclude(&self.memory, drive, outcome, &self.replicas.observed(), Instant::now());
        self.memory = conclusion.memory;
        match outcome {
            Ok(driven) => {
                let changed = &driven.changed;
                self.replicas.believe(changed.primary.incarnation, changed.start.epoch);
            }
            Err(error) => {
                tracing::warn!(store = self.key, %error, "the view change did not come about");
                self.context.metrics.failed_view_changes.inc();
            }
        }
        if let Some(failover) = conclusion.failover {
            self.context.metrics.failovers.inc();
            self.context
                .metrics
                .failover_seconds
                .observe(failover.duration_millis as f64 / 1000.0);
            self.status.last_failover = Some(failover);
        }
        for note in conclusion.notes {
            self.note(note);
        }
    }

    fn note(&self, note: Note) {
        tracing::info!(store = self.key, reason = note.reason, "{}", note.text);
        // The publisher lives as long as this keeper.
        let _ = self.notes.send(note);
    }
}

/// Waits for the view change that is under way; for ever if there is none.
async fn finished(driving: &mut Option<(Drive, JoinHandle<Result<Driven, ViewChangeError>>)>) -> (Drive, Result<Driven, ViewChangeError>) {
    let outcome = match driving {
        Some((_, task)) => task.await,
        None => std::future::pending().await,
    };
    let (drive, _) = driving.take().expect("there was one");
    // A task that panicked is a bug that must not be taken for an answer.
    (drive, outcome.expect("a view change does not panic"))
}
