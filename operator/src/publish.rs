//! Writes what a keeper has to say into the API: the role of every pod, the status, events. Only differences are written,
//! and never in the way of a failover: the keeper leaves its newest word in a channel and goes on.
//!
//! A status is written over the one that was read last and over no other: what another operator has written down meanwhile is
//! read and adopted first ([`crate::records`]).

use crate::names;
use crate::observe::Asked;
use crate::plan::Note;
use crate::records::adopt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus, annotations};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Between two writes of the status: what changes in between is written once. Roles are written at once.
const INTERVAL: Duration = Duration::from_millis(200);
/// After a write that failed.
const BACKOFF: Duration = Duration::from_secs(1);
/// Attempts at a status that others write at the same time; then [`BACKOFF`].
const ATTEMPTS: usize = 4;
/// Events that wait for an API server that is away; the oldest are dropped beyond that.
const MAX_EVENTS: usize = 64;

/// `primary` or `replica` for every pod that has an address, by name, with its UID.
pub type Roles = BTreeMap<String, (String, &'static str)>;

/// A keeper's word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    /// The roles; the labels follow them.
    pub roles: Roles,
    /// The status.
    pub status: ReplicatedStoreStatus,
    /// What a person asked for and was answered: these annotations are removed.
    pub answered: Asked,
}

/// Publishes one store.
pub struct Publisher {
    /// Pods of its namespace.
    pods: Api<Pod>,
    /// Stores of its namespace.
    stores: Api<ReplicatedStore>,
    /// Its name.
    name: String,
    recorder: Recorder,
    reference: ObjectReference,
    /// The store as the API server had it when it answered last: its version, and the status then.
    version: Option<String>,
    stored: ReplicatedStoreStatus,
    /// The keeper's word that was written last.
    told: Publication,
    events: VecDeque<Note>,
}

impl Publisher {
    /// For a store as it was read.
    #[must_use]
    pub fn new(client: Client, store: &ReplicatedStore, recorder: Recorder) -> Self {
        let namespace = store.namespace().unwrap_or_default();
        let stored = store.status.clone().unwrap_or_default();
        Self {
            pods: Api::namespaced(client.clone(), &namespace),
            stores: Api::namespaced(client, &namespace),
            name: store.name_any(),
            recorder,
            reference: store.object_ref(&()),
            version: store.resource_version(),
            told: Publication {
                roles: Roles::new(),
                status: stored.clone(),
                answered: Asked::default(),
            },
            stored,
            events: VecDeque::new(),
        }
    }

    /// Publishes until the keeper is gone.
    pub async fn run(mut self, mut word: watch::Receiver<Publication>, mut notes: mpsc::UnboundedReceiver<Note>) {
        let mut next_status = Instant::now();
        let mut retry: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let publication = word.borrow_and_update().clone();
            if retry.is_none_or(|retry| now >= retry) {
                let mut done = self.label(&publication.roles).await;
                if publication.status != self.told.status && now >= next_status {
                    done &= self.tell(publication.status.clone()).await;
                    next_status = Instant::now() + INTERVAL;
                }
                done &= self.write_events().await;
                done &= self.take_away(&publication.answered).await;
                retry = (!done).then(|| Instant::now() + BACKOFF);
            }
            let waits = (publication.status != self.told.status).then_some(next_status);
            tokio::select! {
                changed = word.changed() => if changed.is_err() { return },
                Some(note) = notes.recv() => {
                    self.events.push_back(note);
                    while self.events.len() > MAX_EVENTS {
                        self.events.pop_front();
                    }
                }
                () = until(retry.or(waits)) => {}
            }
        }
    }

    async fn label(&mut self, roles: &Roles) -> bool {
        self.told.roles.retain(|pod, _| roles.contains_key(pod));
        let different = roles.iter().filter(|(pod, role)| self.told.roles.get(*pod) != Some(*role));
        let pods = &self.pods;
        let writes = different.map(|(pod, (uid, role))| async move {
            // The UID makes the API server refuse the label for another pod of that name.
            let patch = json!({"metadata": {"uid": uid, "labels": {names::LABEL_ROLE: role}}});
            let written = pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
            (pod.clone(), (uid.clone(), *role), written)
        });
        let mut done = true;
        for (pod, role, written) in join_all(writes).await {
            match written {
                Ok(_) => {
                    self.told.roles.insert(pod, role);
                }
                Err(error) => {
                    tracing::debug!(pod, %error, "cannot label a pod");
                    done = false;
                }
            }
        }
        done
    }

    async fn tell(&mut self, word: ReplicatedStoreStatus) -> bool {
        for _ in 0..ATTEMPTS {
            let mut status = word.clone();
            adopt(&mut status, &self.stored);
            let metadata = json!({"uid": self.reference.uid, "resourceVersion": self.version});
            let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
            let written = self.stores.patch_status(&self.name, &PatchParams::default(), &patch).await;
            let answer = match written {
                Ok(store) => {
                    self.notice(&store);
                    self.told.status = word;
                    return true;
                }
                // Somebody else wrote since: what is there now may hold a newer record.
                Err(kube::Error::Api(error)) if error.code == 409 => self.stores.get(&self.name).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(store) => self.notice(&store),
                Err(error) => {
                    tracing::debug!(store = self.name, %error, "cannot write the status");
                    return false;
                }
            }
        }
        tracing::debug!(store = self.name, "others write this status at the same time");
        false
    }

    fn notice(&mut self, store: &ReplicatedStore) {
        // An object of the same name that is another one says nothing.
        if store.uid() == self.reference.uid {
            self.version = store.resource_version();
            self.stored = store.status.clone().unwrap_or_default();
        }
    }

    /// Removes the annotations of requests that are answered, unless somebody asked for something else meanwhile.
    async fn take_away(&mut self, answered: &Asked) -> bool {
        let Asked { promote, accept_data_loss } = self.told.answered.clone();
        let requests = [
            (annotations::PROMOTE, &answered.promote, &promote),
            (annotations::ACCEPT_DATA_LOSS, &answered.accept_data_loss, &accept_data_loss),
        ];
        let due = requests.into_iter().filter(|(_, answered, before)| answered != before);
        let mut done = true;
        for (annotation, value) in due.filter_map(|(annotation, answered, _)| Some((annotation, answered.as_ref()?))) {
            let path = format!("/metadata/annotations/{}", annotation.replace('~', "~0").replace('/', "~1"));
            let patch = json!([{"op": "test", "path": path, "value": value}, {"op": "remove", "path": path}]);
            let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).expect("a patch is plain data"));
            match self.stores.patch(&self.name, &PatchParams::default(), &patch).await {
                Ok(store) => self.notice(&store),
                // It is another value now, or gone.
                Err(kube::Error::Api(error)) if error.code == 422 => {}
                Err(error) => {
                    tracing::debug!(store = self.name, annotation, %error, "cannot remove an annotation");
                    done = false;
                }
            }
        }
        if done {
            self.told.answered = answered.clone();
        }
        done
    }

    async fn write_events(&mut self) -> bool {
        while let Some(Note { warning, reason, text }) = self.events.front() {
            let event = Event {
                type_: if *warning { EventType::Warning } else { EventType::Normal },
                reason: (*reason).to_owned(),
                note: Some(text.clone()),
                action: "Keep".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &self.reference).await {
                tracing::debug!(store = self.name, %error, "cannot write an event");
                return false;
            }
            self.events.pop_front();
        }
        true
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
