//! Reconciliation: spec -> settings -> objects -> applied. It knows no epoch and waits for no node: what the nodes do is
//! the keeper's part, and a keeper is started here for every store.

use crate::context::Context;
use crate::names;
use crate::objects::{Layout, Objects, build, default_image, pods_of, revision, revision_of, store_id_of};
use crate::observe::Asked;
use crate::plan::{Outcome, Reconciled};
use crate::settings::Settings;
use crate::store::{Set, Shapes, StoreKeeper, Wish};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::Action;
use kube::{Api, Client, Resource, ResourceExt};
use quorate_crds::ReplicatedStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Objects are looked at again after this time even if nothing was heard: somebody may have changed one.
const RESYNC: Duration = Duration::from_secs(300);
/// After an error; the API server's own back-pressure comes on top.
const RETRY: Duration = Duration::from_secs(2);

/// Why a store could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused an object.
    #[error("{object}: {source}")]
    Apply {
        /// Kind and name.
        object: String,
        /// Its answer.
        source: kube::Error,
    },
    /// An object of that name belongs to another store: to one that was deleted a moment ago, most likely.
    #[error("{0} belongs to an earlier store of this name: waiting for it to be gone")]
    Taken(String),
}

/// The keeper of a store, as reconciliation sees it.
#[derive(Debug)]
struct Handle {
    wish: watch::Sender<Wish>,
    shapes: watch::Receiver<Shapes>,
}

/// Keepers by the UID of their store.
type Keepers = Mutex<HashMap<String, Handle>>;

/// What reconciliation works with.
pub struct Reconciler {
    context: Arc<Context>,
    keepers: Keepers,
}

impl Reconciler {
    /// Without a store yet.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            keepers: Mutex::default(),
        }
    }

    /// Ends the keepers of stores that are gone.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        let mut keepers = self.keepers.lock().expect("no holder of this lock panics");
        keepers.retain(|uid, _| exists(uid));
        self.count(&keepers);
    }

    /// Starts the keeper of a store, or tells it the spec; `outcome` is None while it is not known yet.
    fn tell_keeper(&self, store: &ReplicatedStore, settings: &Settings, token: &Arc<Vec<u8>>, outcome: Option<Outcome>) {
        let mut keepers = self.keepers.lock().expect("no holder of this lock panics");
        let known = keepers.get(&settings.uid).filter(|keeper| !keeper.wish.is_closed());
        let before = known.map(|keeper| keeper.wish.borrow().clone());
        let sets = before.as_ref().map(|before| before.sets.clone()).unwrap_or_default();
        let wish = Wish {
            reconciled: Reconciled::after(before.map(|before| before.reconciled), settings.generation, outcome),
            settings: settings.clone(),
            sets,
            token: Arc::clone(token),
            asked: Asked::of(store),
        };
        if let Some(keeper) = known {
            keeper.wish.send_replace(wish);
        } else {
            let (wish, receiver) = watch::channel(wish);
            let (sender, shapes) = watch::channel(Shapes::default());
            tokio::spawn(StoreKeeper::new(Arc::clone(&self.context), store, receiver, sender).run());
            keepers.insert(settings.uid.clone(), Handle { wish, shapes });
        }
        self.count(&keepers);
    }

    /// The layouts of the objects that are to be applied now, of every shard that is wanted, or present and not given up. Before
    /// any is applied, the keepers know how many pods are left at least: they must not count on one that is about to go.
    fn lay_out(&self, store: &ReplicatedStore, settings: &Settings, present: &BTreeMap<u32, StatefulSet>) -> Vec<Layout> {
        let keepers = self.keepers.lock().expect("no holder of this lock panics");
        let keeper = keepers.get(&settings.uid);
        let shapes = keeper.map(|keeper| keeper.shapes.borrow().clone()).unwrap_or_default();
        let gone = |index: &u32| *index >= settings.shards && shapes.removed.contains(index);
        let there = present.keys().copied().filter(|index| !gone(index));
        let indices: BTreeSet<u32> = (0..settings.shards).chain(there).collect();
        let first = present.values().next();
        let layouts: Vec<Layout> = indices
            .into_iter()
            .map(|index| {
                // A shard that is new belongs to the same store and runs the same image as the others.
                let set = present.get(&index);
                let image = default_image(store, set.or(first), &self.context.node_image);
                let mut layout = Layout::following(settings, image, shapes.known.get(&index).copied(), set).of_shard(index);
                if let Some(id) = set.or(first).and_then(store_id_of) {
                    layout.store_id = id;
                }
                layout
            })
            .collect();
        if let Some(keeper) = keeper {
            keeper.wish.send_modify(|wish| {
                wish.sets.retain(|index, _| layouts.iter().any(|layout| layout.shard == *index));
                for layout in &layouts {
                    let left = present.get(&layout.shard).map(pods_of).unwrap_or_default().min(layout.replicas);
                    wish.sets.entry(layout.shard).or_default().pods = left;
                }
            });
        }
        layouts
    }

    /// Tells the keepers how many pods a shard has, and what their template asks for.
    fn tell_set(&self, settings: &Settings, shard: u32, set: Set) {
        let keepers = self.keepers.lock().expect("no holder of this lock panics");
        if let Some(keeper) = keepers.get(&settings.uid) {
            keeper.wish.send_modify(|wish| drop(wish.sets.insert(shard, set)));
        }
    }

    /// A spec that this operator cannot run. True if a keeper goes on by the last one that it could, and tells.
    fn tell_invalid(&self, store: &ReplicatedStore, message: &str) -> bool {
        let keepers = self.keepers.lock().expect("no holder of this lock panics");
        let uid = store.uid();
        let known = uid.and_then(|uid| keepers.get(&uid)).filter(|keeper| !keeper.wish.is_closed());
        if let Some(keeper) = known {
            keeper.wish.send_modify(|wish| {
                wish.reconciled.generation = store.metadata.generation.unwrap_or_default();
                wish.reconciled.outcome = Outcome::Invalid(message.to_owned());
            });
        }
        known.is_some()
    }

    fn count(&self, keepers: &HashMap<String, Handle>) {
        self.context.metrics.stores.set(i64::try_from(keepers.len()).unwrap_or(i64::MAX));
    }
}

/// Brings the objects of a store to what its spec wants.
///
/// # Errors
/// When the API server refuses one.
pub async fn reconcile(store: Arc<ReplicatedStore>, reconciler: Arc<Reconciler>) -> Result<Action, ReconcileError> {
    let context = &reconciler.context;
    context.metrics.reconciles.inc();
    if store.metadata.deletion_timestamp.is_some() {
        // Its objects go with it. From here on nothing is created, and nobody fails over what is being stopped.
        reconciler.retain(|uid| Some(uid) != store.metadata.uid.as_deref());
        return Ok(Action::await_change());
    }
    let settings = match Settings::of(&store) {
        Ok(settings) => settings,
        Err(error) => {
            let message = error.to_string();
            if !reconciler.tell_invalid(&store, &message) {
                refuse(&context.client, &store, &message).await?;
            }
            return Ok(Action::await_change());
        }
    };
    let token = Arc::new(token(&context.client, &store, &settings).await?);
    // Before anything is applied: a failover does not wait for that.
    reconciler.tell_keeper(&store, &settings, &token, None);
    let applied = apply_all(&store, &settings, &reconciler).await;
    let outcome = match &applied {
        Ok(()) => Outcome::Applied,
        Err(error) => Outcome::Failed(error.to_string()),
    };
    reconciler.tell_keeper(&store, &settings, &token, Some(outcome));
    applied.map(|()| Action::requeue(RESYNC))
}

async fn apply_all(store: &ReplicatedStore, settings: &Settings, reconciler: &Reconciler) -> Result<(), ReconcileError> {
    let client = &reconciler.context.client;
    let present = present(client, store, settings).await?;
    if settings.paused {
        for (shard, set) in &present {
            let (pods, revision) = (pods_of(set), revision_of(set));
            reconciler.tell_set(settings, *shard, Set { pods, revision });
        }
        return Ok(());
    }
    let layouts = reconciler.lay_out(store, settings, &present);
    let mut outcome = Ok(());
    for layout in &layouts {
        let objects = build(store, settings, layout);
        // What is refused of one shard stops no other; what is the store's comes first and once.
        let applied = match layout.shard {
            0 => apply(client, settings, objects).await,
            _ => apply_shard(client, settings, &objects).await,
        };
        if applied.is_ok() {
            let set = Set {
                pods: layout.replicas,
                revision: Some(revision(store, settings, layout)),
            };
            reconciler.tell_set(settings, layout.shard, set);
        }
        outcome = outcome.and(applied);
    }
    outcome?;
    for (shard, set) in present.iter().rev() {
        if layouts.iter().all(|layout| layout.shard != *shard) {
            remove_shard(client, settings, *shard, set).await?;
        }
    }
    Ok(())
}

/// The StatefulSets of a store, by shard.
async fn present(client: &Client, store: &ReplicatedStore, settings: &Settings) -> Result<BTreeMap<u32, StatefulSet>, ReconcileError> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &settings.namespace);
    let of_store = ListParams::default().labels(&names::selector_text(store));
    let failed = |object: String| move |source| ReconcileError::Apply { object, source };
    let found = sets.list(&of_store).await;
    let found = found.map_err(failed(format!("StatefulSets of {}", settings.name)))?;
    let by_shard = found.items.into_iter().filter_map(|set| {
        let index: u32 = set.name_any().strip_prefix(&settings.name)?.strip_prefix('-')?.parse().ok()?;
        // One that is not wanted may be of an earlier store of this name: it goes by itself.
        let ours = set.owner_references().iter().any(|owner| owner.uid == settings.uid);
        (index < settings.shards || ours).then_some((index, set))
    });
    let mut present: BTreeMap<u32, StatefulSet> = by_shard.collect();
    for shard in 0..settings.shards {
        // One that somebody took the labels from is the one that there is all the same.
        let name = names::stateful_set(&settings.name, shard);
        if !present.contains_key(&shard)
            && let Some(set) = sets.get_opt(&name).await.map_err(failed(format!("StatefulSet {name}")))?
        {
            present.insert(shard, set);
        }
    }
    Ok(present)
}

/// Deletes what a shard is made of that its keepers gave up. Its claims are kept.
async fn remove_shard(client: &Client, settings: &Settings, shard: u32, set: &StatefulSet) -> Result<(), ReconcileError> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &settings.namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &settings.namespace);
    // The one that was looked at, and no other that somebody made meanwhile.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: set.uid(),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    let (set, budget) = (set.name_any(), names::disruption_budget(&settings.name, shard));
    gone(&format!("StatefulSet {set}"), sets.delete(&set, &params).await.map(drop))?;
    let deleted = budgets.delete(&budget, &DeleteParams::default()).await;
    gone(&format!("PodDisruptionBudget {budget}"), deleted.map(drop))
}

/// A deletion that found nothing, or another object of that name, is done.
fn gone(object: &str, deleted: kube::Result<()>) -> Result<(), ReconcileError> {
    match deleted {
        Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => Ok(()),
        deleted => deleted.map_err(|source| ReconcileError::Apply {
            object: object.to_owned(),
            source,
        }),
    }
}

/// What to do after an error.
pub fn after_error(store: &ReplicatedStore, error: &ReconcileError, reconciler: &Reconciler) -> Action {
    tracing::warn!(store = store.name_any(), namespace = store.namespace(), %error, "cannot reconcile");
    reconciler.context.metrics.reconcile_errors.inc();
    Action::requeue(RETRY)
}

/// Tells of a spec that the API server took and this operator cannot run, where no keeper does.
async fn refuse(client: &Client, store: &ReplicatedStore, message: &str) -> Result<(), ReconcileError> {
    let name = store.name_any();
    let known = store.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let told = |type_: &str| {
        known
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == "False")
    };
    let types = [quorate_crds::conditions::READY, quorate_crds::conditions::RECONCILED];
    if types
        .iter()
        .all(|type_| told(type_).is_some_and(|condition| condition.message == message))
    {
        return Ok(());
    }
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let conditions = types.map(|type_| {
        let since = told(type_).map_or_else(|| json!(now), |condition| json!(condition.last_transition_time));
        json!({
            "type": type_,
            "status": "False",
            "reason": quorate_crds::conditions::reasons::INVALID_SPEC,
            "message": message,
            "lastTransitionTime": since,
            "observedGeneration": store.metadata.generation,
        })
    });
    let status = json!({"status": {"observedGeneration": store.metadata.generation, "conditions": conditions}});
    let api: Api<ReplicatedStore> = Api::namespaced(client.clone(), &store.namespace().unwrap_or_default());
    let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await;
    patched.map(drop).map_err(|source| ReconcileError::Apply {
        object: format!("status of {name}"),
        source,
    })
}

/// The store's token: made once, by whoever comes first, and never changed.
async fn token(client: &Client, store: &ReplicatedStore, settings: &Settings) -> Result<Vec<u8>, ReconcileError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let name = names::token_secret(&settings.name);
    let failed = |source| ReconcileError::Apply {
        object: format!("secret {name}"),
        source,
    };
    let secret = match api.get_opt(&name).await.map_err(failed)? {
        Some(secret) if secret.owner_references().iter().all(|owner| owner.uid != settings.uid) => {
            return Err(ReconcileError::Taken(format!("secret {name}")));
        }
        Some(secret) => secret,
        None => {
            let token: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
            let secret: Secret = serde_json::from_value(json!({
                "metadata": {
                    "name": name,
                    "namespace": settings.namespace,
                    "labels": names::labels(store),
                    "ownerReferences": [store.controller_owner_ref(&()).expect("a store from the API server has a name and a UID")],
                },
                "type": "quorate.io/token",
                "stringData": {"token": token},
            }))
            .expect("a secret is plain data");
            match api.create(&PostParams::default(), &secret).await {
                Ok(secret) => secret,
                // Another operator was faster.
                Err(kube::Error::Api(error)) if error.code == 409 => api.get(&name).await.map_err(failed)?,
                Err(error) => return Err(failed(error)),
            }
        }
    };
    Ok(secret
        .data
        .and_then(|mut data| data.remove("token"))
        .map(|bytes| bytes.0)
        .unwrap_or_default())
}

async fn apply(client: &Client, settings: &Settings, objects: Objects) -> Result<(), ReconcileError> {
    apply_one(client, settings, &objects.service_account).await?;
    for service in [&objects.headless, &objects.client, &objects.primary] {
        apply_one(client, settings, service).await?;
    }
    apply_shard(client, settings, &objects).await
}

/// What the shard is made of alone.
async fn apply_shard(client: &Client, settings: &Settings, objects: &Objects) -> Result<(), ReconcileError> {
    for set in &objects.stateful_sets {
        apply_one(client, settings, set).await?;
    }
    if let Some(budget) = &objects.disruption_budget {
        apply_one(client, settings, budget).await?;
    }
    Ok(())
}

async fn apply_one<K>(client: &Client, settings: &Settings, object: &K) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &settings.namespace);
    let name = object.name_any();
    let params = PatchParams::apply(names::MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.map(drop).map_err(|source| ReconcileError::Apply {
        object: format!("{} {name}", K::kind(&())),
        source,
    })
}
