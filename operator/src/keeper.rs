//! The keeper of a store: hears its nodes, judges, and drives view changes. One task for each store, so that a sick store
//! delays no other, and nothing here waits for the API server: what is to be written goes to the publisher, view changes
//! run in tasks of their own.
//!
//! The way of a failover: news of a broken stream or a changed status -> [`judge`] -> [`fail_over`] in a task -> its
//! outcome -> roles and status to the publisher.

use crate::context::Context;
use crate::detect::{Observed, Verdict, judge};
use crate::link::{self, Addresses, News, PodNews, Target};
use crate::names;
use crate::publish::{Publication, publish};
use crate::report::{Facts, Phase, primary_pod, report};
use crate::settings::Settings;
use crate::view_change::{Known, ViewChangeError, bootstrap, fail_over};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use quorate_api::wire::NodeAddresses;
use quorate_api::{Incarnation, NodeRole};
use quorate_client::Driven;
use quorate_crds::{LastFailover, ReplicatedStore, ReplicatedStoreStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// Silence is looked for this often.
const LOOK: Duration = Duration::from_millis(50);
/// After a view change that did not come about; doubled each time up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// What reconciliation tells the keeper.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The spec, checked.
    pub settings: Settings,
    /// Whether the objects could be applied.
    pub applied: Result<(), String>,
    /// The store's token.
    pub token: Arc<Vec<u8>>,
}

#[derive(Debug)]
struct Replica {
    uid: String,
    address: String,
    observed: Observed,
    link: AbortHandle,
}

#[derive(Debug)]
struct Driving {
    task: JoinHandle<Result<Driven, ViewChangeError>>,
    reason: String,
    from: Option<String>,
    begun: Instant,
    detected: Timestamp,
    first: bool,
}

/// See the module.
pub struct Keeper {
    context: Arc<Context>,
    store: Arc<ReplicatedStore>,
    pods: Store<Pod>,
    desired: watch::Receiver<Desired>,
    replicas: BTreeMap<u32, Replica>,
    news: UnboundedReceiver<PodNews>,
    sender: UnboundedSender<PodNews>,
    addresses: watch::Sender<Addresses>,
    word: watch::Sender<Publication>,
    publisher: AbortHandle,
    driving: Option<Driving>,
    retry_at: Instant,
    backoff: Duration,
    last_failover: Option<(Instant, LastFailover)>,
    blocked: Option<String>,
    data_lost: Option<String>,
    status: ReplicatedStoreStatus,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.publisher.abort();
        for replica in self.replicas.values() {
            replica.link.abort();
        }
    }
}

impl Keeper {
    /// A keeper for a store that the API server knows.
    #[must_use]
    pub fn new(context: Arc<Context>, store: Arc<ReplicatedStore>, desired: watch::Receiver<Desired>) -> Self {
        let (sender, news) = unbounded_channel();
        let word = watch::Sender::new(Publication::default());
        let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
        let publisher = tokio::spawn(publish(context.client.clone(), namespace, name, word.subscribe())).abort_handle();
        Self {
            pods: context.pods.clone(),
            status: store.status.clone().unwrap_or_default(),
            context,
            store,
            desired,
            replicas: BTreeMap::new(),
            news,
            sender,
            addresses: watch::Sender::new(Addresses::default()),
            word,
            publisher,
            driving: None,
            retry_at: Instant::now(),
            backoff: MIN_BACKOFF,
            last_failover: None,
            blocked: None,
            data_lost: None,
        }
    }

    /// Keeps the store until its `desired` channel closes.
    pub async fn run(mut self) {
        let mut pods_changed = self.context.pods_changed.subscribe();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.follow_pods();
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => {
                    self.hear(news);
                    while let Ok(news) = self.news.try_recv() {
                        self.hear(news);
                    }
                }
                outcome = finished(&mut self.driving) => self.conclude(outcome),
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
                _ = look.tick() => {}
            }
            self.act();
        }
    }

    /// Holds a stream to every pod that has an address, and to no other.
    fn follow_pods(&mut self) {
        let desired = self.desired.borrow().clone();
        let settings = &desired.settings;
        let mut present = BTreeMap::new();
        for pod in self.pods.state() {
            let labels = pod.labels();
            let ours = pod.namespace().as_deref() == Some(&settings.namespace)
                && labels.get(names::LABEL_STORE) == Some(&settings.uid)
                && labels.get(names::LABEL_SHARD).is_some_and(|shard| shard == "0");
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let ordinal = pod.name_any().rsplit('-').next().and_then(|digits| digits.parse::<u32>().ok());
            if let (true, Some(address), Some(ordinal), Some(uid)) = (ours, address, ordinal, pod.uid()) {
                present.insert(ordinal, (pod.name_any(), uid, join(&address)));
            }
        }
        self.replicas.retain(|ordinal, replica| {
            let stays = present
                .get(ordinal)
                .is_some_and(|(_, uid, address)| *uid == replica.uid && *address == replica.address);
            if !stays {
                replica.link.abort();
            }
            stays
        });
        for (ordinal, (pod, uid, address)) in present {
            if self.replicas.contains_key(&ordinal) {
                continue;
            }
            let target = Target {
                pod: pod.clone(),
                uid: uid.clone(),
                address: address.clone(),
                token: Arc::clone(&desired.token),
                heartbeat: settings.heartbeat,
                patience: settings.suspect_after.max(settings.heartbeat * 3),
            };
            let link = tokio::spawn(link::keep(target, self.addresses.subscribe(), self.sender.clone())).abort_handle();
            let observed = Observed {
                pod,
                connected: false,
                heard: None,
                status: None,
            };
            self.replicas.insert(
                ordinal,
                Replica {
                    uid,
                    address,
                    observed,
                    link,
                },
            );
        }
    }

    fn hear(&mut self, (pod, uid, news): PodNews) {
        let found = self
            .replicas
            .values_mut()
            .find(|replica| replica.observed.pod == pod && replica.uid == uid);
        let Some(replica) = found else { return };
        match news {
            News::Status(status) => {
                let unknown = replica.observed.status.as_ref().is_none_or(|before| before.id != status.id);
                replica.observed.connected = true;
                replica.observed.heard = Some(Instant::now());
                replica.observed.status = Some(*status);
                if unknown {
                    self.tell_addresses();
                }
            }
            News::Down(reason) => {
                if replica.observed.connected {
                    tracing::info!(pod, reason, "lost the stream to a node");
                }
                replica.observed.connected = false;
            }
        }
    }

    fn tell_addresses(&self) {
        let known = self.replicas.values().filter_map(|replica| {
            let incarnation = replica.observed.status.as_ref()?.id.incarnation;
            let host = replica.address.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned();
            let addresses = NodeAddresses {
                replica: replica.address.clone(),
                client_host: host,
                client_port: names::CLIENT_PORT as u16,
            };
            Some((incarnation, addresses))
        });
        self.addresses.send_replace(Arc::new(known.collect()));
    }

    fn observed(&self) -> Vec<Observed> {
        self.replicas.values().map(|replica| replica.observed.clone()).collect()
    }

    fn known(&self, members: &[Observed], token: &Arc<Vec<u8>>) -> Known {
        Known::of(members, Arc::clone(token), |pod| {
            let replica = self.replicas.values().find(|replica| replica.observed.pod == pod)?;
            Some(replica.address.clone())
        })
    }

    /// Judges, starts what is needed, and leaves word for the publisher.
    fn act(&mut self) {
        let now = Instant::now();
        let Desired { settings, token, applied } = self.desired.borrow().clone();
        let members = self.observed();
        let phase = self.phase(&settings, &members, now);
        let may_drive = self.driving.is_none() && now >= self.retry_at;
        match &phase {
            Phase::Bootstrapping if may_drive => {
                let blank = blank(&self.replicas);
                let known = self.known(&members, &token);
                let task = tokio::spawn(bootstrap(self.context.client.clone(), settings.clone(), known, blank));
                self.drive(task, "bootstrap".to_owned(), None, true);
            }
            Phase::Running(Verdict::Lost { reason, .. }) if may_drive && settings.automatic && self.interval_over(&settings, now) => {
                tracing::warn!(store = settings.key(), reason, "failing over");
                self.context.metrics.suspicions.inc();
                let task = tokio::spawn(fail_over(self.known(&members, &token)));
                self.drive(task, reason.clone(), primary_pod(&members), false);
            }
            _ => {}
        }
        self.leave_word(&settings, &applied, &members, &phase, now);
    }

    fn interval_over(&self, settings: &Settings, now: Instant) -> bool {
        self.last_failover
            .as_ref()
            .is_none_or(|(at, _)| now.duration_since(*at) >= settings.min_interval)
    }

    fn phase(&mut self, settings: &Settings, members: &[Observed], now: Instant) -> Phase {
        if let Some(driving) = &self.driving {
            return if driving.first {
                Phase::Bootstrapping
            } else {
                Phase::FailingOver(driving.reason.clone())
            };
        }
        let statuses = || members.iter().filter_map(|member| member.status.as_ref());
        if statuses().all(|status| status.role == NodeRole::Blank) && !statuses().any(|status| status.primary.is_some()) {
            if let Some(message) = &self.data_lost {
                return Phase::DataLost(message.clone());
            }
            let all = statuses().count() == settings.quorum.replicas as usize && members.iter().all(|member| member.connected);
            return if all { Phase::Bootstrapping } else { Phase::Gathering };
        }
        let quorum = statuses()
            .filter_map(|status| status.configuration.as_ref())
            .max_by_key(|(start, _)| *start)
            .map_or(settings.quorum, |(_, configuration)| configuration.quorum());
        let verdict = judge(members, quorum, settings.suspect_after, now);
        let reachable = members
            .iter()
            .filter(|member| member.fresh(now, settings.suspect_after).is_some())
            .count();
        let needed = quorum.fence() as usize;
        match verdict {
            Verdict::Serving { .. } => {
                self.blocked = None;
                Phase::Running(verdict)
            }
            _ if reachable < needed => {
                let text = format!(
                    "{reachable} of {} replicas answer and a failover needs {needed}: it goes on by itself when one more comes back",
                    quorum.replicas
                );
                if self.blocked.replace(text.clone()).is_none() {
                    self.event(EventType::Warning, "FailoverBlocked", &text);
                }
                Phase::Blocked(text)
            }
            verdict => Phase::Running(verdict),
        }
    }

    fn drive(&mut self, task: JoinHandle<Result<Driven, ViewChangeError>>, reason: String, from: Option<String>, first: bool) {
        self.driving = Some(Driving {
            task,
            reason,
            from,
            begun: Instant::now(),
            detected: Timestamp::now(),
            first,
        });
    }

    /// A view change ended.
    fn conclude(&mut self, (driving, outcome): (Driving, Result<Driven, ViewChangeError>)) {
        match outcome {
            Ok(driven) => self.succeed(&driving, &driven),
            Err(error) => {
                tracing::warn!(store = self.store.name_any(), %error, "the view change did not come about");
                self.context.metrics.failed_view_changes.inc();
                if let ViewChangeError::DataLost(message) = &error {
                    self.event(EventType::Warning, "DataLost", message);
                    self.data_lost = Some(message.clone());
                }
                self.retry_at = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    fn succeed(&mut self, driving: &Driving, driven: &Driven) {
        self.backoff = MIN_BACKOFF;
        let primary = driven.changed.primary.incarnation;
        let to = self.pod_of(primary).unwrap_or_else(|| driven.changed.primary.host.clone());
        let epoch = driven.changed.start.epoch;
        let begun = tokio::time::Instant::from_std(driving.begun);
        let after = |moment: tokio::time::Instant| moment.saturating_duration_since(begun);
        let (fenced, served) = (after(driven.fenced), after(driven.served));
        // What the new primary will say in a moment: until then nobody else must be taken for it, or for lost.
        for replica in self.replicas.values_mut() {
            if let Some(status) = &mut replica.observed.status
                && status.id.incarnation == primary
                && status.promised < epoch
            {
                status.promised = epoch;
                status.role = NodeRole::Primary;
                status.primary = Some(quorate_api::PrimaryView {
                    incarnation: primary,
                    epoch,
                    heard_millis_ago: 0,
                    connected: true,
                });
            }
        }
        if driving.first {
            self.event(EventType::Normal, "Bootstrapped", &format!("{to} serves epoch {}", epoch.number));
            return;
        }
        let note = format!(
            "{} -> {to}, epoch {}: fenced after {} ms, serving after {} ms. Reason: {}",
            driving.from.as_deref().unwrap_or("nobody"),
            epoch.number,
            fenced.as_millis(),
            served.as_millis(),
            driving.reason,
        );
        tracing::info!(store = self.store.name_any(), note, "failed over");
        self.event(EventType::Normal, "FailedOver", &note);
        self.context.metrics.failovers.inc();
        self.context.metrics.failover_seconds.observe(served.as_secs_f64());
        let moment = |offset: Duration| format!("{:.3}", driving.detected.saturating_add(offset).unwrap_or(driving.detected));
        self.last_failover = Some((
            Instant::now(),
            LastFailover {
                shard: 0,
                from: driving.from.clone(),
                to,
                reason: driving.reason.clone(),
                detected_at: moment(Duration::ZERO),
                fenced_at: moment(fenced),
                promoted_at: moment(served),
                duration_millis: i64::try_from(served.as_millis()).unwrap_or(i64::MAX),
            },
        ));
    }

    fn pod_of(&self, incarnation: Incarnation) -> Option<String> {
        let found = self.replicas.values().find(|replica| {
            replica
                .observed
                .status
                .as_ref()
                .is_some_and(|status| status.id.incarnation == incarnation)
        });
        found.map(|replica| replica.observed.pod.clone())
    }

    fn leave_word(&mut self, settings: &Settings, applied: &Result<(), String>, members: &[Observed], phase: &Phase, now: Instant) {
        let selector = names::selector(&self.store);
        let facts = Facts {
            settings,
            applied,
            members,
            phase,
            last_failover: self.last_failover.as_ref().map(|(_, failover)| failover),
            selector: selector
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(","),
        };
        self.status = report(&facts, &self.status, now, Timestamp::now());
        let serving = match phase {
            Phase::Running(Verdict::Serving { primary }) => Some(*primary),
            _ => None,
        };
        let roles = self.replicas.values().filter_map(|replica| {
            let incarnation = replica.observed.status.as_ref()?.id.incarnation;
            let role = if Some(incarnation) == serving { "primary" } else { "replica" };
            Some((replica.observed.pod.clone(), (replica.uid.clone(), role)))
        });
        // While nobody serves, the labels stay as they are: clients find nobody either way.
        let roles = if serving.is_some() {
            roles.collect()
        } else {
            self.word.borrow().roles.clone()
        };
        let publication = Publication {
            roles,
            status: self.status.clone(),
        };
        self.word.send_if_modified(|word| {
            let differs = *word != publication;
            if differs {
                *word = publication;
            }
            differs
        });
    }

    fn event(&self, type_: EventType, reason: &str, note: &str) {
        let (recorder, reference) = (self.context.recorder.clone(), self.store.object_ref(&()));
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "Keep".to_owned(),
            secondary: None,
        };
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::debug!(%error, "cannot write an event");
            }
        });
    }
}

/// Ordinals and incarnations of all replicas, by ordinal.
fn blank(replicas: &BTreeMap<u32, Replica>) -> Vec<(u32, Incarnation)> {
    replicas
        .iter()
        .filter_map(|(ordinal, replica)| Some((*ordinal, replica.observed.status.as_ref()?.id.incarnation)))
        .collect()
}

/// Waits for the view change that is under way; for ever if there is none.
async fn finished(driving: &mut Option<Driving>) -> (Driving, Result<Driven, ViewChangeError>) {
    let outcome = match driving {
        Some(driving) => (&mut driving.task).await,
        None => std::future::pending().await,
    };
    let driving = driving.take().expect("there was one");
    // A task that panicked is a bug that must not be taken for an answer.
    (driving, outcome.expect("a view change does not panic"))
}

fn join(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:{}", names::REPLICA_PORT)
    } else {
        format!("{address}:{}", names::REPLICA_PORT)
    }
}
