//! The streams of one shard's keeper: one to every pod that has an address, and what was heard on it, as [`Roster`] keeps it.

use crate::link::{self, Addresses, PodNews, Target, Words};
use crate::names;
use crate::plan::Admission;
use crate::roster::Roster;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use quorate_api::RoutingMap;
use quorate_api::wire::FailoverPolicy;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// See the module.
#[derive(Debug)]
pub struct Replicas {
    links: BTreeMap<u32, AbortHandle>,
    token: Arc<Vec<u8>>,
    /// How often nodes are to tell their status, and what they go by when nobody listens.
    watch: watch::Sender<(Duration, FailoverPolicy)>,
    /// Where nodes are, for each other.
    addresses: watch::Sender<Addresses>,
    /// The map of the store.
    route: watch::Receiver<Arc<RoutingMap>>,
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
    pub fn new(token: Arc<Vec<u8>>, heartbeat: Duration, policy: FailoverPolicy, route: watch::Receiver<Arc<RoutingMap>>) -> Self {
        let (sender, news) = unbounded_channel();
        Self {
            links: BTreeMap::new(),
            token,
            watch: watch::Sender::new((heartbeat, policy)),
            addresses: watch::Sender::new(Addresses::default()),
            route,
            admission: watch::Sender::new(None),
            sender,
            news,
        }
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

    /// Takes the pods of the store as they are now: holds a stream to every one that has an address, and to no other.
    pub fn follow(&mut self, roster: &mut Roster, pods: impl Iterator<Item = Arc<Pod>>, patience: Duration) {
        for ordinal in roster.follow(pods, Instant::now()) {
            if let Some(link) = self.links.remove(&ordinal) {
                link.abort();
            }
        }
        for (member, address) in roster.reachable() {
            if self.links.contains_key(&member.ordinal) {
                continue;
            }
            let target = Target {
                pod: member.pod.clone(),
                uid: member.uid.clone(),
                address: address.to_owned(),
                token: Arc::clone(&self.token),
                patience,
            };
            let words = Words {
                watch: self.watch.subscribe(),
                addresses: self.addresses.subscribe(),
                route: self.route.clone(),
                admission: self.admission.subscribe(),
            };
            let link = link::keep(target, words, self.sender.clone());
            self.links.insert(member.ordinal, tokio::spawn(link).abort_handle());
        }
    }

    /// Waits for news.
    pub async fn news(&mut self) -> PodNews {
        self.news.recv().await.expect("a sender is held here")
    }

    /// Takes some news, and all that there are beside them.
    pub fn hear(&mut self, roster: &mut Roster, news: PodNews) {
        let mut strange = roster.hear(news, Instant::now());
        while let Ok(news) = self.news.try_recv() {
            strange |= roster.hear(news, Instant::now());
        }
        if strange {
            self.addresses.send_replace(roster.addresses());
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

/// The shard that a pod of the store with that UID belongs to; None for a pod of another store.
#[must_use]
pub fn belongs_to_store(pod: &Pod, namespace: &str, store: &str) -> Option<u32> {
    let labels = pod.labels();
    let ours = pod.namespace().as_deref() == Some(namespace) && labels.get(names::LABEL_STORE).is_some_and(|label| label == store);
    labels.get(names::LABEL_SHARD).filter(|_| ours)?.parse().ok()
}

/// Whether a pod belongs to a shard of the store with that UID.
#[must_use]
pub fn belongs(pod: &Pod, namespace: &str, store: &str, shard: u32) -> bool {
    belongs_to_store(pod, namespace, store) == Some(shard)
}
