//! The keeper of a store: gathers what its nodes say, asks the planner, and carries out. One task for each store, so that a
//! sick store delays no other, and nothing here waits for the API server: what is to be written goes to the publisher, view
//! changes run in tasks of their own.
//!
//! The way of a failover: news of a broken stream or a changed status ([`crate::replicas`]) -> [`plan`] -> [`carry_out`] in
//! a task -> [`conclude`] -> roles, status and events to the publisher.

use crate::context::Context;
use crate::machines::{inspect, recreate, restart};
use crate::names;
use crate::observe::{Asked, Fate};
use crate::plan::{Drive, Goal, Memory, Note, Observation, Plan, Reconciled, Recreate, Shape, ViewChange, conclude, plan};
use crate::publish::{Publication, Publisher};
use crate::records::{adopt, remember};
use crate::replicas::{Replicas, belongs};
use crate::settings::Settings;
use crate::suspicion::Suspicions;
use crate::view_change::{ViewChangeError, carry_out};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use quorate_client::{Driven, epoch_above};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use std::collections::BTreeMap;
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
    /// What a person asks for.
    pub asked: Asked,
}

/// See the module.
pub struct Keeper {
    context: Arc<Context>,
    key: String,
    selector: String,
    desired: watch::Receiver<Desired>,
    replicas: Replicas,
    driving: Option<(Drive, JoinHandle<Result<Driven, ViewChangeError>>)>,
    /// What became of pods that do not answer, by their UID.
    fates: BTreeMap<String, Fate>,
    /// Finds it out, one pod at a time.
    inspecting: Option<(String, JoinHandle<Fate>)>,
    /// For reconciliation.
    shape: watch::Sender<Option<Shape>>,
    memory: Memory,
    suspicions: Suspicions,
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
        if let Some((_, task)) = &self.inspecting {
            task.abort();
        }
    }
}

impl Keeper {
    /// A keeper for a store that the API server knows; reconciliation reads `shape`.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        store: &ReplicatedStore,
        desired: watch::Receiver<Desired>,
        shape: watch::Sender<Option<Shape>>,
    ) -> Self {
        let status = store.status.clone().unwrap_or_default();
        let word = watch::Sender::new(Publication {
            status: status.clone(),
            ..Publication::default()
        });
        let (notes, written) = mpsc::unbounded_channel();
        let publisher = Publisher::new(context.client.clone(), store, context.recorder.clone());
        let publisher = tokio::spawn(publisher.run(word.subscribe(), written)).abort_handle();
        let selector: Vec<String> = names::selector(store).iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (key, replicas) = {
            let Desired { settings, token, .. } = &*desired.borrow();
            (
                settings.key(),
                Replicas::new(Arc::clone(token), settings.heartbeat, settings.policy()),
            )
        };
        Self {
            memory: Memory::new(&status, Instant::now(), Timestamp::now()),
            selector: selector.join(","),
            context,
            key,
            desired,
            replicas,
            driving: None,
            fates: BTreeMap::new(),
            inspecting: None,
            shape,
            suspicions: Suspicions::default(),
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
                (uid, fate) = finished(&mut self.inspecting) => drop(self.fates.insert(uid, fate)),
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
        self.adopt_records(&desired.settings);
        if self.suspicions.is_open()
            && let Some(wrongly) = self.suspicions.judge(&self.replicas.observed())
        {
            self.context.metrics.false_suspicions.inc();
            self.context.metrics.false_suspicion_seconds.observe(wrongly.as_secs_f64());
        }
        let seen = Observation {
            settings: &desired.settings,
            reconciled: &desired.reconciled,
            selector: &self.selector,
            members: &self.replicas.observed(),
            asked: &desired.asked,
            fates: &self.fates,
            driving: self.driving.as_ref().map(|(drive, _)| drive),
            told: &self.status,
            now: Instant::now(),
            wall: Timestamp::now(),
        };
        let Plan {
            start,
            admission,
            shape,
            inspect,
            recreate,
            restart: outdated,
            answered,
            phase: _,
            roles,
            status,
            notes,
            heartbeat,
            look_at,
            memory,
        } = plan(&seen, &self.memory);
        self.memory = memory;
        self.replicas.listen(heartbeat, desired.settings.policy());
        self.replicas.admit(admission);
        self.shape(shape, &desired.settings);
        if let Some(change) = start {
            self.overtake();
            self.start(change, &desired);
        }
        self.tend_machines(inspect.into_iter().next(), recreate, &desired.settings);
        if let Some(outdated) = outdated {
            tokio::spawn(restart(self.context.client.clone(), desired.settings.namespace.clone(), outdated));
        }
        for note in notes {
            self.note(note);
        }
        self.word.send_if_modified(|word| {
            let publication = Publication {
                roles: roles.unwrap_or_else(|| word.roles.clone()),
                status: status.clone(),
                answered,
            };
            let differs = *word != publication;
            *word = publication;
            differs
        });
        self.status = status;
        look_at
    }

    /// Takes over what another operator wrote down, as the watch has it by now.
    fn adopt_records(&mut self, settings: &Settings) {
        let object = ObjectRef::new(&settings.name).within(&settings.namespace);
        let Some(guard) = self.context.stores.get(&object) else { return };
        let store = guard
            .0
            .as_ref()
            .ok()
            .filter(|store| store.metadata.uid.as_ref() == Some(&settings.uid));
        if let Some(stored) = store.and_then(|store| store.status.as_ref())
            && adopt(&mut self.status, stored)
        {
            self.memory.learn(&self.status, Instant::now(), Timestamp::now());
        }
    }

    /// Has the objects follow the shape.
    fn shape(&mut self, shape: Option<Shape>, settings: &Settings) {
        let Some(Shape { replicas, .. }) = shape else { return };
        if self.shape.send_if_modified(|known| std::mem::replace(known, shape) != shape) {
            let object = ObjectRef::new(&settings.name).within(&settings.namespace);
            // Nobody listens once the operator ends.
            let _ = self.context.reconcile.send(object);
        }
        self.replicas.forget_beyond(replicas);
    }

    fn tend_machines(&mut self, suspect: Option<String>, lost: Option<Recreate>, settings: &Settings) {
        if let (Some(pod), None) = (suspect, &self.inspecting) {
            let known = self.replicas.observed().into_iter().find(|member| member.pod == pod);
            self.inspecting = known.map(|member| {
                let task = inspect(self.context.client.clone(), settings.namespace.clone(), pod);
                (member.uid, tokio::spawn(task))
            });
        }
        if let Some(lost) = lost {
            self.fates.remove(&lost.uid);
            tokio::spawn(recreate(self.context.client.clone(), settings.namespace.clone(), lost));
        }
    }

    /// A failover is to begin: what is under way is given up.
    fn overtake(&mut self) {
        if let Some((drive, task)) = self.driving.take() {
            task.abort();
            self.conclude(&drive, &Err(ViewChangeError::Overtaken));
        }
    }

    fn start(&mut self, change: ViewChange, desired: &Desired) {
        tracing::warn!(
            store = self.key,
            reason = change.reason,
            from = change.from,
            "starting a view change"
        );
        if change.goal == Goal::Failover {
            self.suspect(&change, &desired.settings);
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

    /// Counts a suspicion, once for a primary that is lost.
    fn suspect(&mut self, change: &ViewChange, settings: &Settings) {
        let (members, metrics) = (self.replicas.observed(), &self.context.metrics);
        let pod = change.from.as_deref().unwrap_or_default();
        if self.suspicions.suspect(pod, &members, settings.suspect_after, Instant::now()) {
            metrics.suspicions.inc();
            if let Some(silence) = change.silence {
                metrics.detection_seconds.observe(silence.as_secs_f64());
            }
        }
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
        if let Some(loss) = conclusion.data_loss {
            remember(&mut self.status.data_loss, loss);
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

/// Waits for what is under way; for ever if there is nothing.
async fn finished<K, T>(under_way: &mut Option<(K, JoinHandle<T>)>) -> (K, T) {
    let outcome = match under_way {
        Some((_, task)) => task.await,
        None => std::future::pending().await,
    };
    let (what, _) = under_way.take().expect("there was one");
    // A task that panicked is a bug that must not be taken for an answer.
    (what, outcome.expect("these tasks do not panic"))
}
