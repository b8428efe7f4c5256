//! The simulated API server: the objects of one store, verbs on them with their conflicts, and the changes that watches tell.
//!
//! It takes one call at a time, so that what it holds is linearizable, as etcd is; what an operator knows of it is not.

use super::operators::Purpose;
use super::{API, Happening, SECOND};
use crate::sim::world::{MILLI, World};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use quorate_operator::names;
use quorate_operator::outbox::Write;
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The store's name and namespace.
pub(crate) const NAME: &str = "orders";
pub(crate) const NAMESPACE: &str = "shop";
/// A call that is not answered is given up after this time.
const TIMEOUT: u64 = 2 * SECOND;

/// What an operator asks of the API server.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    ReadLease,
    /// Over the lease of that version; None where there was none.
    WriteLease(Box<LeaseSpec>, Option<u64>),
    /// The store and the pods, and changes from there on.
    List,
    ReadSecret,
    MakeSecret(String),
    ReadSet,
    /// For the store of that UID.
    Apply(String, Box<Object>),
    ReadStore,
    /// Over the StatefulSet of that version.
    Mark(u64, String),
    Write(Box<Write>),
    /// The status of the store of that UID, over that version of it.
    WriteStatus(String, Option<String>, Box<ReplicatedStoreStatus>),
    ReadPod(String),
    ReadClaim(String),
    ReadMachine(String),
    /// Name of the pod, UID of the claim.
    DeleteClaim(String, String),
    /// Name and UID of the pod; without grace.
    DeletePod(String, String, bool),
}

/// An object to be applied.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// Nothing in the simulation depends on what is in it.
    Plain {
        name: String,
        content: String,
    },
    Set(Box<StatefulSet>),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Lease(Option<(LeaseSpec, u64)>),
    /// The UID of its owner.
    Secret(Option<String>),
    Set(Option<(Arc<StatefulSet>, u64)>),
    Store(Option<Arc<ReplicatedStore>>),
    Pod(Option<Arc<Pod>>),
    Claim(Option<Arc<PersistentVolumeClaim>>),
    Machine(Option<Arc<Node>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    Conflict,
    /// No answer: it may have been done.
    Away,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// All that there is.
    Synced(Option<Arc<ReplicatedStore>>, Vec<Arc<Pod>>),
    Store(Arc<ReplicatedStore>),
    StoreGone,
    Pod(Arc<Pod>),
    PodGone(String),
    /// Another object of the store, but for its status.
    Object,
}

/// The StatefulSet and what was applied last.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) object: Arc<StatefulSet>,
    applied: StatefulSet,
    version: u64,
}

#[derive(Default)]
pub(crate) struct Api {
    pub(crate) away: bool,
    pub(crate) store: Option<Arc<ReplicatedStore>>,
    pub(crate) set: Option<Set>,
    pub(crate) plain: BTreeMap<String, String>,
    pub(crate) secret: Option<String>,
    pub(crate) lease: Option<(LeaseSpec, u64)>,
    /// By ordinal.
    pub(crate) pods: BTreeMap<usize, Arc<Pod>>,
    pub(crate) claims: BTreeMap<usize, Arc<PersistentVolumeClaim>>,
    version: u64,
    uids: u64,
    /// Changes of anything but the lease.
    pub(crate) writes: u64,
}

/// The ordinal in the name of a pod.
pub(crate) fn ordinal_of(pod: &str) -> usize {
    pod.rsplit('-')
        .next()
        .and_then(|ordinal| ordinal.parse().ok())
        .unwrap_or(usize::MAX)
}

pub(crate) fn pod_name(ordinal: usize) -> String {
    format!("{}-{ordinal}", names::stateful_set(NAME, 0))
}

impl Api {
    pub(crate) fn fresh_uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn is_owner(&self, uid: &str) -> bool {
        self.store.as_ref().is_some_and(|store| store.metadata.uid.as_deref() == Some(uid))
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Changes the store; None if there is none.
    pub(crate) fn edit_store(&mut self, edit: impl FnOnce(&mut ReplicatedStore)) -> Option<Change> {
        let before = self.store.clone()?;
        let mut store = ReplicatedStore::clone(&before);
        edit(&mut store);
        if store == *before {
            return None;
        }
        if store.spec != before.spec {
            store.metadata.generation = store.metadata.generation.map(|generation| generation + 1);
        }
        store.metadata.resource_version = Some(self.next_version().to_string());
        self.writes += 1;
        let store = Arc::new(store);
        self.store = Some(Arc::clone(&store));
        Some(Change::Store(store))
    }

    /// Changes a pod; None if nothing changes.
    pub(crate) fn edit_pod(&mut self, ordinal: usize, edit: impl FnOnce(&mut Pod)) -> Option<Change> {
        let before = self.pods.get(&ordinal)?;
        let mut pod = Pod::clone(before);
        edit(&mut pod);
        if pod == **before {
            return None;
        }
        self.writes += 1;
        let pod = Arc::new(pod);
        self.pods.insert(ordinal, Arc::clone(&pod));
        Some(Change::Pod(pod))
    }

    pub(crate) fn add_pod(&mut self, ordinal: usize, pod: Pod) -> Change {
        let pod = Arc::new(pod);
        self.writes += 1;
        self.pods.insert(ordinal, Arc::clone(&pod));
        Change::Pod(pod)
    }

    pub(crate) fn remove_pod(&mut self, ordinal: usize) -> Option<Change> {
        let pod = self.pods.remove(&ordinal)?;
        self.writes += 1;
        Some(Change::PodGone(pod.metadata.name.clone().unwrap_or_default()))
    }

    fn apply(&mut self, object: Object) -> Option<Change> {
        match object {
            Object::Plain { name, content } => {
                if self.plain.get(&name) == Some(&content) {
                    return None;
                }
                self.plain.insert(name, content);
            }
            Object::Set(wanted) => {
                let wanted = *wanted;
                if self.set.as_ref().is_some_and(|set| set.applied == wanted) {
                    return None;
                }
                let version = self.next_version();
                let mut object = wanted.clone();
                // Server-side apply leaves alone what others own.
                object.metadata.annotations = self.set.as_ref().and_then(|set| set.object.metadata.annotations.clone());
                object.metadata.resource_version = Some(version.to_string());
                self.set = Some(Set {
                    object: Arc::new(object),
                    applied: wanted,
                    version,
                });
            }
        }
        self.writes += 1;
        Some(Change::Object)
    }

    fn mark(&mut self, version: u64, mark: String) -> Result<Change, Refusal> {
        let next = self.next_version();
        let set = self.set.as_mut().ok_or(Refusal::NotFound)?;
        if set.version != version {
            return Err(Refusal::Conflict);
        }
        let object = Arc::make_mut(&mut set.object);
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ANNOTATION_BOOTSTRAP.to_owned(), mark);
        object.metadata.resource_version = Some(next.to_string());
        set.version = next;
        self.writes += 1;
        Ok(Change::Object)
    }

    fn write_status(&mut self, uid: &str, version: Option<&String>, status: ReplicatedStoreStatus) -> Result<Option<Change>, Refusal> {
        let store = self.store.as_ref().ok_or(Refusal::NotFound)?;
        if store.metadata.uid.as_deref() != Some(uid) || store.metadata.resource_version.as_ref() != version {
            return Err(Refusal::Conflict);
        }
        Ok(self.edit_store(|store| store.status = Some(status)))
    }

    fn write(&mut self, write: Write) -> Result<Option<Change>, Refusal> {
        match write {
            Write::Label { pod, uid, role } => {
                let ordinal = ordinal_of(&pod);
                let known = self.pods.get(&ordinal).ok_or(Refusal::NotFound)?;
                if known.metadata.uid.as_ref() != Some(&uid) {
                    return Err(Refusal::Conflict);
                }
                Ok(self.edit_pod(ordinal, |pod| {
                    let labels = pod.metadata.labels.get_or_insert_default();
                    labels.insert(names::LABEL_ROLE.to_owned(), role.to_owned());
                }))
            }
            // A status is written over a version of the store, with another call.
            Write::Status(_) => Err(Refusal::Conflict),
            Write::Event(_) => {
                self.writes += 1;
                Ok(None)
            }
            Write::Remove { annotation, value } => {
                let store = self.store.as_ref().ok_or(Refusal::NotFound)?;
                let known = store.metadata.annotations.as_ref().and_then(|known| known.get(annotation));
                match known == Some(&value) {
                    true => Ok(self.edit_store(|store| {
                        store.metadata.annotations.get_or_insert_default().remove(annotation);
                    })),
                    // Another value, or gone: the operator takes that for done.
                    false => Ok(None),
                }
            }
        }
    }
}

impl World {
    /// An operator calls.
    pub(crate) fn call(&mut self, operator: usize, purpose: Purpose, call: Call) {
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let place = self.sys().operators[operator].place;
        let lost = self.is_silent(place, API) || (self.faults && self.rng.random_bool(self.profile.lost));
        let after = self.way();
        if lost {
            self.happens(TIMEOUT, Happening::Answer(operator, life, purpose, Err(Refusal::Away)));
        } else {
            self.happens(after, Happening::Call(operator, life, purpose, call));
        }
    }

    /// A call arrives, is carried out and answered, whether or not its caller still lives.
    pub(crate) fn call_arrives(&mut self, operator: usize, life: u64, purpose: Purpose, call: Call) {
        let place = self.sys().operators[operator].place;
        if self.sys().api.away {
            let after = self.way();
            self.happens(after, Happening::Answer(operator, life, purpose, Err(Refusal::Away)));
            return;
        }
        self.say(|| format!("operator {operator} calls {call:?}"));
        // Renewing the lease says nothing of a store.
        let counts = !matches!(call, Call::ReadLease | Call::WriteLease(..));
        let (answer, changes) = self.carry_out_call(operator, life, call);
        for change in changes {
            self.announce(&change);
        }
        if answer.as_ref().is_err_and(|refusal| *refusal == Refusal::Conflict) {
            self.sys().counts.conflicts += 1;
        }
        let lost = self.is_silent(API, place) || (self.faults && self.rng.random_bool(self.profile.lost));
        let after = self.way();
        match lost {
            true => self.happens(TIMEOUT, Happening::Answer(operator, life, purpose, Err(Refusal::Away))),
            false => self.happens(after, Happening::Answer(operator, life, purpose, answer)),
        }
        if counts {
            self.step_taken(operator, life);
        }
    }

    fn carry_out_call(&mut self, operator: usize, life: u64, call: Call) -> (Result<Answer, Refusal>, Vec<Change>) {
        let api = &mut self.sys().api;
        let plain = |answer| (Ok(answer), Vec::new());
        match call {
            Call::ReadLease => plain(Answer::Lease(api.lease.clone())),
            Call::WriteLease(spec, version) => {
                if api.lease.as_ref().map(|(_, known)| *known) != version {
                    return (Err(Refusal::Conflict), Vec::new());
                }
                let version = api.next_version();
                api.lease = Some((*spec, version));
                plain(Answer::Done)
            }
            Call::List => {
                self.open_watch(operator, life);
                plain(Answer::Done)
            }
            Call::ReadSecret => plain(Answer::Secret(api.secret.clone())),
            // What an operator makes for a store that is gone is collected at once.
            Call::MakeSecret(owner) if !api.is_owner(&owner) => plain(Answer::Done),
            Call::MakeSecret(owner) => match api.secret {
                Some(_) => (Err(Refusal::Conflict), Vec::new()),
                None => {
                    api.writes += 1;
                    api.secret = Some(owner);
                    plain(Answer::Done)
                }
            },
            Call::ReadSet => plain(Answer::Set(api.set.as_ref().map(|set| (Arc::clone(&set.object), set.version)))),
            Call::Apply(owner, _) if !api.is_owner(&owner) => plain(Answer::Done),
            Call::Apply(_, object) => (Ok(Answer::Done), api.apply(*object).into_iter().collect()),
            Call::ReadStore => plain(Answer::Store(api.store.clone())),
            Call::Mark(version, mark) => match api.mark(version, mark) {
                Ok(change) => (Ok(Answer::Done), vec![change]),
                Err(refusal) => (Err(refusal), Vec::new()),
            },
            Call::Write(write) => match api.write(*write) {
                Ok(change) => (Ok(Answer::Done), change.into_iter().collect()),
                Err(refusal) => (Err(refusal), Vec::new()),
            },
            Call::WriteStatus(uid, version, status) => match api.write_status(&uid, version.as_ref(), *status) {
                Ok(change) => (Ok(Answer::Store(api.store.clone())), change.into_iter().collect()),
                Err(refusal) => (Err(refusal), Vec::new()),
            },
            Call::ReadPod(name) => plain(Answer::Pod(api.pods.get(&ordinal_of(&name)).cloned())),
            Call::ReadClaim(pod) => plain(Answer::Claim(api.claims.get(&ordinal_of(&pod)).cloned())),
            Call::ReadMachine(name) => plain(Answer::Machine(self.machine_object(&name).map(Arc::new))),
            Call::DeleteClaim(pod, uid) => (self.delete_claim(ordinal_of(&pod), &uid), Vec::new()),
            Call::DeletePod(pod, uid, force) => (self.delete_pod(ordinal_of(&pod), Some(&uid), force), Vec::new()),
        }
    }

    /// Tells every watch that stands, and the controllers.
    pub(crate) fn announce(&mut self, change: &Change) {
        if matches!(change, Change::Object | Change::Pod(_) | Change::PodGone(_) | Change::StoreGone) {
            self.wake_controller();
        }
        for operator in 0..self.sys().operators.len() {
            self.tell_watch(operator, change.clone());
        }
    }

    fn tell_watch(&mut self, operator: usize, change: Change) {
        let (place, watch) = {
            let known = &self.sys().operators[operator];
            (known.place, known.watch)
        };
        let Some(watch) = watch else { return };
        if self.is_silent(API, place) {
            // The stream breaks; the operator hears of it when it hears of it.
            self.break_watch(operator);
            return;
        }
        let after = self.way();
        let now = self.now;
        let known = &mut self.sys().operators[operator];
        let at = (now + after).max(known.last_watch + 1);
        known.last_watch = at;
        self.happens(at - now, Happening::Watch(operator, watch, change));
    }

    /// An operator's watches end: what happens from now on is not told.
    pub(crate) fn break_watch(&mut self, operator: usize) {
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        if self.sys().operators[operator].watch.take().is_some() {
            self.say(|| format!("the watches of operator {operator} break"));
            let after = 800 * MILLI + self.within(2 * SECOND);
            self.happens(after, Happening::Relist(operator, life));
        }
    }

    fn open_watch(&mut self, operator: usize, life: u64) {
        if self.sys().operators[operator].life() != Some(life) {
            return;
        }
        let after = self.way();
        let now = self.now;
        let system = self.sys();
        let all = Change::Synced(system.api.store.clone(), system.api.pods.values().cloned().collect());
        let known = &mut system.operators[operator];
        known.watches += 1;
        known.watch = Some(known.watches);
        known.last_watch = now + after;
        let watch = known.watches;
        self.happens(after, Happening::Watch(operator, watch, all));
    }
}
