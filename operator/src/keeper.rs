//! The keeper of a shard: gathers what its nodes say, lets its [`Steward`] ask the planner, and carries out. One task for each
//! shard, so that a sick one delays no other, and nothing here waits for the API server: what is to be written goes to the
//! publisher of the store ([`crate::store`]), view changes run in tasks of their own.
//!
//! The way of a failover: news of a broken stream or a changed status ([`crate::replicas`]) -> [`crate::plan`] -> [`carry_out`]
//! in a task -> [`crate::plan::conclude`] -> roles, status and events to the publisher.

use crate::context::Context;
use crate::machines::{inspect, recreate, restart};
use crate::observe::{Asked, Fate};
use crate::plan::{Goal, Note, Others, Phase, Reconciled, Recreate, ViewChange};
use crate::replicas::{Replicas, belongs};
use crate::settings::Settings;
use crate::steward::{Errands, Steward, Wanted};
use crate::store::{View, Word, is_of_the_whole, of_shard};
use crate::suspicion::Suspicions;
use crate::view_change::{ViewChangeError, carry_out};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use quorate_api::RoutingMap;
use quorate_client::{Driven, epoch_above};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// What a keeper goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The spec, checked.
    pub settings: Settings,
    /// What came of the objects of the shard.
    pub reconciled: Reconciled,
    /// The store's token.
    pub token: Arc<Vec<u8>>,
    /// What a person asks of the shard.
    pub asked: Asked,
}

impl Desired {
    /// What the steward has to know of it.
    #[must_use]
    pub fn wanted(&self) -> Wanted<'_> {
        let Self {
            settings,
            reconciled,
            asked,
            token: _,
        } = self;
        Wanted {
            settings,
            reconciled,
            asked,
        }
    }
}

/// What ties a keeper to its store.
pub struct Ties {
    /// What it goes by.
    pub desired: watch::Receiver<Desired>,
    /// What the other shards leave to this one.
    pub others: watch::Receiver<Others>,
    /// The map that its nodes are told.
    pub route: watch::Receiver<Arc<RoutingMap>>,
    /// Where it leaves its word.
    pub word: watch::Sender<Word>,
    /// Told when the word differs.
    pub heard: Arc<Notify>,
    /// Events.
    pub notes: mpsc::UnboundedSender<Note>,
}

/// See the module.
pub struct Keeper {
    context: Arc<Context>,
    /// Of the store, for logs.
    key: String,
    /// Index of the shard.
    shard: u32,
    desired: watch::Receiver<Desired>,
    others: watch::Receiver<Others>,
    replicas: Replicas,
    steward: Steward,
    driving: Option<JoinHandle<Result<Driven, ViewChangeError>>>,
    /// Finds out what became of a pod, by its UID.
    inspecting: Option<JoinHandle<(String, Fate)>>,
    suspicions: Suspicions,
    word: watch::Sender<Word>,
    heard: Arc<Notify>,
    notes: mpsc::UnboundedSender<Note>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.driving {
            task.abort();
        }
        if let Some(task) = &self.inspecting {
            task.abort();
        }
    }
}

impl Keeper {
    /// Of that shard, whose state of mind is `steward`.
    #[must_use]
    pub fn new(context: Arc<Context>, shard: u32, steward: Steward, ties: Ties) -> Self {
        let Ties {
            desired,
            others,
            route,
            word,
            heard,
            notes,
        } = ties;
        let (key, replicas) = {
            let Desired { settings, token, .. } = &*desired.borrow();
            (
                settings.key(),
                Replicas::new(Arc::clone(token), settings.heartbeat, settings.policy(), route),
            )
        };
        Self {
            context,
            key,
            shard,
            desired,
            others,
            replicas,
            steward,
            driving: None,
            inspecting: None,
            suspicions: Suspicions::default(),
            word,
            heard,
            notes,
        }
    }

    /// Keeps the shard until its channels close.
    pub async fn run(mut self) {
        let mut pods_changed = self.context.pods_changed.subscribe();
        self.follow_pods();
        loop {
            let look_at = self.act();
            tokio::select! {
                news = self.replicas.news() => self.replicas.hear(&mut self.steward.roster, news),
                outcome = finished(&mut self.driving) => self.conclude(&outcome),
                (uid, fate) = finished(&mut self.inspecting) => self.steward.found(uid, fate),
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
                changed = self.others.changed() => {
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
        let ours = pods
            .into_iter()
            .filter(|pod| belongs(pod, &settings.namespace, &settings.uid, self.shard));
        self.replicas.follow(&mut self.steward.roster, ours, settings.suspect_after);
    }

    /// Plans and carries out; says when to plan again.
    fn act(&mut self) -> Instant {
        let desired = self.desired.borrow_and_update().clone();
        self.steward.others.clone_from(&self.others.borrow_and_update());
        self.adopt_records(&desired.settings);
        if self.suspicions.is_open()
            && let Some(wrongly) = self.suspicions.judge(&self.steward.roster.observed())
        {
            self.context.metrics.false_suspicions.inc();
            self.context.metrics.false_suspicion_seconds.observe(wrongly.as_secs_f64());
        }
        let (wanted, settings) = (desired.wanted(), &desired.settings);
        let Errands {
            heartbeat,
            admission,
            shape: _,
            overtake,
            start,
            inspect,
            recreate,
            restart: outdated,
            notes,
            publish: _,
            look_at,
        } = self.steward.act(wanted, Instant::now(), Timestamp::now());
        self.replicas.listen(heartbeat, settings.policy());
        self.replicas.admit(admission);
        if overtake && let Some(task) = self.driving.take() {
            task.abort();
            self.conclude(&Err(ViewChangeError::Overtaken));
        }
        if let Some(change) = start {
            self.start(change, &desired);
        }
        self.tend_machines(inspect, recreate, settings);
        if let Some(outdated) = outdated {
            tokio::spawn(restart(self.context.client.clone(), settings.namespace.clone(), outdated));
        }
        for note in notes {
            self.note(note);
        }
        self.speak(settings);
        look_at
    }

    /// Leaves word for the store. The moment at which nodes were heard alone is no news.
    fn speak(&self, settings: &Settings) {
        let (members, now) = (self.steward.roster.observed(), Instant::now());
        let serving = match self.steward.phase() {
            Phase::Serving(primary, heard) => Some((*primary, *heard)),
            _ => None,
        };
        let view = View::of(&members, serving, now, settings.suspect_after);
        let news = self.word.send_if_modified(|word| {
            let next = Word {
                spoken: *self.steward.phase() != Phase::Starting,
                publication: self.steward.word().clone(),
                shape: self.steward.shape(),
                view,
            };
            let differs = !word.is_as(&next);
            *word = next;
            differs
        });
        if news {
            self.heard.notify_one();
        }
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
        if let Some(stored) = store.and_then(|store| store.status.as_ref()) {
            self.steward.adopt(&of_shard(stored, self.shard), Instant::now(), Timestamp::now());
        }
    }

    fn tend_machines(&mut self, suspect: Option<(String, String)>, lost: Option<Recreate>, settings: &Settings) {
        let (client, namespace) = (&self.context.client, &settings.namespace);
        if let Some((pod, uid)) = suspect {
            let task = inspect(client.clone(), namespace.clone(), pod);
            self.inspecting = Some(tokio::spawn(async move { (uid, task.await) }));
        }
        if let Some(lost) = lost {
            tokio::spawn(recreate(client.clone(), namespace.clone(), lost));
        }
    }

    fn start(&mut self, change: ViewChange, desired: &Desired) {
        tracing::warn!(
            store = self.key,
            shard = self.shard,
            reason = change.reason,
            from = change.from,
            "starting a view change"
        );
        if change.goal == Goal::Failover {
            self.suspect(&change, &desired.settings);
        }
        let epoch = epoch_above(change.known.highest);
        self.steward.begin(change.clone(), epoch, Instant::now(), Timestamp::now());
        let task = carry_out(
            self.shard,
            change,
            epoch,
            Arc::clone(&desired.token),
            self.context.client.clone(),
            desired.settings.clone(),
        );
        self.driving = Some(tokio::spawn(task));
    }

    /// Counts a suspicion, once for a primary that is lost.
    fn suspect(&mut self, change: &ViewChange, settings: &Settings) {
        let (members, metrics) = (self.steward.roster.observed(), &self.context.metrics);
        let pod = change.from.as_deref().unwrap_or_default();
        if self.suspicions.suspect(pod, &members, settings.suspect_after, Instant::now()) {
            metrics.suspicions.inc();
            if let Some(silence) = change.silence {
                metrics.detection_seconds.observe(silence.as_secs_f64());
            }
        }
    }

    /// A view change ended.
    fn conclude(&mut self, outcome: &Result<Driven, ViewChangeError>) {
        if let Err(error) = outcome {
            tracing::warn!(store = self.key, shard = self.shard, %error, "the view change did not come about");
            self.context.metrics.failed_view_changes.inc();
        }
        let (failover, notes) = self.steward.conclude(outcome, Instant::now());
        if let Some(failover) = failover {
            self.context.metrics.failovers.inc();
            self.context
                .metrics
                .failover_seconds
                .observe(failover.duration_millis as f64 / 1000.0);
        }
        for note in notes {
            self.note(note);
        }
    }

    fn note(&self, mut note: Note) {
        let alone = self.shard == 0 && self.desired.borrow().settings.shards == 1;
        if is_of_the_whole(note.reason) {
            // Every shard finds it; one tells.
            if self.shard > 0 {
                return;
            }
        } else if !alone {
            note.text = format!("shard {}: {}", self.shard, note.text);
        }
        tracing::info!(store = self.key, shard = self.shard, reason = note.reason, "{}", note.text);
        // The publisher lives as long as this keeper.
        let _ = self.notes.send(note);
    }
}

/// Waits for what is under way; for ever if there is nothing.
async fn finished<T>(under_way: &mut Option<JoinHandle<T>>) -> T {
    let outcome = match under_way {
        Some(task) => task.await,
        None => std::future::pending().await,
    };
    *under_way = None;
    // A task that panicked is a bug that must not be taken for an answer.
    outcome.expect("these tasks do not panic")
}
