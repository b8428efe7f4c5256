//! The replicas of one store as its keeper sees them: a stream to every pod that has an address, and what was heard on it.
//! A pod that is gone stays known until its successor speaks: what it promised stays promised.

use crate::link::{self, Addresses, News, PodNews, Target, Words};
use crate::names;
use crate::observe::{Health, Observed};
use crate::plan::Admission;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use quorate_api::wire::{FailoverPolicy, NodeAddresses};
use quorate_api::{Epoch, Incarnation, NodeRole, PrimaryView};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// See the module.
#[derive(Debug)]
pub struct Replicas {
    members: BTreeMap<u32, Observed>,
    links: BTreeMap<u32, AbortHandle>,
    token: Arc<Vec<u8>>,
    /// How often nodes are to tell their status, and what they go by when nobody listens.
    watch: watch::Sender<(Duration, FailoverPolicy)>,
    /// Where nodes are, for each other.
    addresses: watch::Sender<Addresses>,
    /// Whom the primary has to admit.
    admission: watch::Sender<Option<Admission>>,
    sender: UnboundedSender<PodNews>,
    news: UnboundedReceiver<PodNews>,
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for link in self.links.values() {
            link.abort();
        }
    }
}

impl Replicas {
    /// None yet.
    #[must_use]
    pub fn new(token: Arc<Vec<u8>>, heartbeat: Duration, policy: FailoverPolicy) -> Self {
        let (sender, news) = unbounded_channel();
        Self {
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            token,
            watch: watch::Sender::new((heartbeat, policy)),
            addresses: watch::Sender::new(Addresses::default()),
            admission: watch::Sender::new(None),
            sender,
            news,
        }
    }

    /// What is known of each, by ordinal.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.members.values().cloned().collect()
    }

    /// Asks the nodes for another heartbeat, and tells them what they go by when nobody listens.
    pub fn listen(&self, heartbeat: Duration, policy: FailoverPolicy) {
        set(&self.watch, (heartbeat, policy));
    }

    /// Tells the primary whom to admit. None: nobody is primary for sure; what was told last stays.
    pub fn admit(&self, admission: Option<Admission>) {
        if admission.is_some() {
            set(&self.admission, admission);
        }
    }

    /// Forgets replicas whose pod is gone and that are to have none any more.
    pub fn forget_beyond(&mut self, pods: u32) {
        self.members.retain(|ordinal, member| *ordinal < pods || member.exists);
    }

    /// Takes the pods of the store as they are now: holds a stream to every one that has an address, and to no other.
    pub fn follow(&mut self, pods: impl Iterator<Item = Arc<Pod>>, patience: Duration) {
        let mut present: BTreeMap<u32, Observed> = pods.filter_map(|pod| Observed::new(&pod)).map(|pod| (pod.ordinal, pod)).collect();
        for (ordinal, member) in &mut self.members {
            let Some(pod) = present.remove(ordinal) else {
                if member.health != Health::Gone || member.address.is_some() {
                    tracing::info!(pod = member.pod, "the pod is gone");
                }
                (member.health, member.address, member.connected) = (Health::Gone, None, false);
                member.exists = false;
                abort(&mut self.links, *ordinal);
                continue;
            };
            (member.health, member.exists) = (pod.health, true);
            if (&member.uid, &member.address) == (&pod.uid, &pod.address) {
                continue;
            }
            abort(&mut self.links, *ordinal);
            let since = if member.uid == pod.uid {
                member.since
            } else {
                Some(Instant::now())
            };
            // The volume is most likely the same one: until the new pod says otherwise, so is the rest.
            *member = Observed {
                status: member.status.take(),
                since,
                ..pod
            };
        }
        for (ordinal, pod) in present {
            let since = Some(Instant::now());
            self.members.insert(ordinal, Observed { since, ..pod });
        }
        for (ordinal, member) in &self.members {
            let Some(address) = member.address.clone().filter(|_| !self.links.contains_key(ordinal)) else {
                continue;
            };
            let target = Target {
                pod: member.pod.clone(),
                uid: member.uid.clone(),
                address,
                token: Arc::clone(&self.token),
                patience,
            };
            let words = Words {
                watch: self.watch.subscribe(),
                addresses: self.addresses.subscribe(),
                admission: self.admission.subscribe(),
            };
            let link = link::keep(target, words, self.sender.clone());
            self.links.insert(*ordinal, tokio::spawn(link).abort_handle());
        }
    }

    /// Waits for news and takes all that there are.
    pub async fn hear(&mut self) {
        let news = self.news.recv().await.expect("a sender is held here");
        self.take(news);
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
    }

    fn take(&mut self, (pod, uid, news): PodNews) {
        let found = self.members.values_mut().find(|member| member.pod == pod && member.uid == uid);
        let Some(member) = found else { return };
        match news {
            News::Status(status) => {
                let unknown = member.incarnation() != Some(status.id.incarnation) || member.heard.is_none();
                member.connected = true;
                member.heard = Some(Instant::now());
                member.status = Some(*status);
                if unknown {
                    self.tell_addresses();
                }
            }
            News::Down(reason) => {
                if member.connected {
                    tracing::info!(pod, reason, "lost the stream to a node");
                }
                member.connected = false;
            }
        }
    }

    fn tell_addresses(&self) {
        let known = self.members.values().filter_map(|member| {
            let (incarnation, replica) = (member.incarnation()?, member.address.clone()?);
            let host = replica.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned();
            let addresses = NodeAddresses {
                replica,
                client_host: host,
                client_port: names::CLIENT_PORT as u16,
            };
            Some((incarnation, addresses))
        });
        self.addresses.send_replace(Arc::new(known.collect()));
    }

    /// Takes what a new primary will say of itself in a moment as said: until then nobody else must be taken for it, and it
    /// not for lost.
    pub fn believe(&mut self, primary: Incarnation, epoch: Epoch) {
        let statuses = self.members.values_mut().filter_map(|member| member.status.as_mut());
        for status in statuses.filter(|status| status.id.incarnation == primary && status.promised <= epoch) {
            status.promised = epoch;
            status.role = NodeRole::Primary;
            status.primary = Some(PrimaryView {
                incarnation: primary,
                epoch,
                heard_millis_ago: 0,
                connected: true,
            });
        }
    }
}

fn set<T: PartialEq>(word: &watch::Sender<T>, value: T) {
    word.send_if_modified(|current| {
        let differs = *current != value;
        *current = value;
        differs
    });
}

fn abort(links: &mut BTreeMap<u32, AbortHandle>, ordinal: u32) {
    if let Some(link) = links.remove(&ordinal) {
        link.abort();
    }
}

/// Whether a pod belongs to a shard of the store with that UID.
#[must_use]
pub fn belongs(pod: &Pod, namespace: &str, store: &str, shard: u32) -> bool {
    let labels = pod.labels();
    pod.namespace().as_deref() == Some(namespace)
        && labels.get(names::LABEL_STORE).is_some_and(|label| label == store)
        && labels.get(names::LABEL_SHARD).is_some_and(|label| *label == shard.to_string())
}
