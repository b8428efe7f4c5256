//! Writes what a keeper has to say into the API: the role of every pod, the status, events. Only differences are written
//! ([`Outbox`] knows them), and never in the way of a failover: the keeper leaves its newest word in a channel and goes on.
//!
//! A status is written over the one that was read last and over no other: what another operator has written down meanwhile is
//! read and adopted first ([`crate::records`]).

use crate::names;
use crate::outbox::{LOOK, Outbox, Publication, Write};
use crate::plan::Note;
use crate::records::adopt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use serde_json::json;
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// Attempts at a status that others write at the same time; then the outbox waits.
const ATTEMPTS: usize = 4;

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
    outbox: Outbox,
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
            outbox: Outbox::new(stored.clone(), Instant::now()),
            stored,
        }
    }

    /// Publishes until the keeper is gone.
    pub async fn run(mut self, mut word: watch::Receiver<Publication>, mut notes: mpsc::UnboundedReceiver<Note>) {
        let mut look_at = Instant::now() + LOOK;
        loop {
            if Instant::now() >= look_at {
                look_at = Instant::now() + LOOK;
                self.look().await;
            }
            let publication = word.borrow_and_update().clone();
            let due = self.outbox.due(&publication, Instant::now());
            if !due.is_empty() {
                let failed = self.write_all(due).await;
                self.outbox.round_ends(failed, Instant::now());
            }
            let wakes_at = self.outbox.wakes_at(&publication).map_or(look_at, |at| at.min(look_at));
            tokio::select! {
                changed = word.changed() => if changed.is_err() { return },
                Some(note) = notes.recv() => self.outbox.push(note),
                () = tokio::time::sleep_until(wakes_at.into()) => {}
            }
        }
    }

    /// Reads the store: nobody tells of a change of its status.
    async fn look(&mut self) {
        match self.stores.get_opt(&self.name).await {
            Ok(Some(store)) if store.uid() == self.reference.uid => self.outbox.found(&store),
            Ok(_) => {}
            Err(error) => tracing::debug!(store = self.name, %error, "cannot read the store"),
        }
    }

    /// True if something was not written.
    async fn write_all(&mut self, due: Vec<Write>) -> bool {
        let (labels, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|write| matches!(write, Write::Label { .. }));
        let written = join_all(labels.iter().map(|label| self.label(label))).await;
        let mut failed = false;
        for (label, written) in labels.into_iter().zip(written) {
            failed |= !self.settle(label, written);
        }
        let mut held = false;
        for write in others {
            let event = matches!(write, Write::Event(_));
            if event && held {
                continue;
            }
            let written = self.write(&write).await;
            let done = self.settle(write, written);
            (failed, held) = (failed || !done, held || (event && !done));
        }
        failed
    }

    fn settle(&mut self, write: Write, written: kube::Result<()>) -> bool {
        match written {
            Ok(()) => {
                self.outbox.done(write);
                true
            }
            Err(error) => {
                tracing::debug!(store = self.name, %error, ?write, "cannot write");
                false
            }
        }
    }

    async fn label(&self, write: &Write) -> kube::Result<()> {
        let Write::Label { pod, uid, role } = write else { return Ok(()) };
        // The UID makes the API server refuse the label for another pod of that name.
        let patch = json!({"metadata": {"uid": uid, "labels": {names::LABEL_ROLE: role}}});
        let params = PatchParams::default();
        self.pods.patch_metadata(pod, &params, &Patch::Merge(&patch)).await.map(drop)
    }

    async fn write(&mut self, write: &Write) -> kube::Result<()> {
        match write {
            Write::Label { .. } => self.label(write).await,
            Write::Status(status) => self.tell(status).await,
            Write::Event(Note { warning, reason, text }) => {
                let event = Event {
                    type_: if *warning { EventType::Warning } else { EventType::Normal },
                    reason: (*reason).to_owned(),
                    note: Some(text.clone()),
                    action: "Keep".to_owned(),
                    secondary: None,
                };
                self.recorder.publish(&event, &self.reference).await
            }
            Write::Remove { annotation, value } => {
                let path = format!("/metadata/annotations/{}", annotation.replace('~', "~0").replace('/', "~1"));
                let patch = json!([{"op": "test", "path": path, "value": value}, {"op": "remove", "path": path}]);
                let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).expect("a patch is plain data"));
                match self.stores.patch(&self.name, &PatchParams::default(), &patch).await {
                    Ok(store) => {
                        self.notice(&store);
                        Ok(())
                    }
                    // It is another value now, or gone.
                    Err(kube::Error::Api(error)) if error.code == 422 => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn tell(&mut self, word: &ReplicatedStoreStatus) -> kube::Result<()> {
        for attempt in 1.. {
            let mut status = word.clone();
            adopt(&mut status, &self.stored);
            let metadata = json!({"uid": self.reference.uid, "resourceVersion": self.version});
            let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
            let written = self.stores.patch_status(&self.name, &PatchParams::default(), &patch).await;
            let store = match written {
                Ok(store) => {
                    self.notice(&store);
                    return Ok(());
                }
                // Somebody else wrote since: what is there now may hold a newer record.
                Err(kube::Error::Api(error)) if error.code == 409 && attempt < ATTEMPTS => self.stores.get(&self.name).await?,
                Err(error) => return Err(error),
            };
            self.notice(&store);
        }
        Ok(())
    }

    fn notice(&mut self, store: &ReplicatedStore) {
        // An object of the same name that is another one says nothing.
        if store.uid() == self.reference.uid {
            self.version = store.resource_version();
            self.stored = store.status.clone().unwrap_or_default();
        }
    }
}
