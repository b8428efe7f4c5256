//! A simulated operator's process: it campaigns for the lease by the real rule, watches, reconciles the store's objects as the
//! real one does, call by call, and starts a keeper. When it loses the lease it ends, and begins anew as a candidate.

use super::api::{Answer, Call, Change, NAME, Object, Refusal};
use super::keepers::{Keeper, Task};
use super::{Happening, OPERATORS, SECOND, wall};
use crate::sim::world::{MILLI, World};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use quorate_crds::ReplicatedStore;
use quorate_operator::leader::Candidate;
use quorate_operator::objects::{Layout, Objects, build, default_image, pods_of, revision, revision_of};
use quorate_operator::plan::Outcome;
use quorate_operator::settings::Settings;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Between two looks at the lease.
const CAMPAIGN: u64 = SECOND;
/// Changes of a store within this time are one.
const DEBOUNCE: u64 = 250 * MILLI;
/// Objects are looked at again after this time.
const RESYNC: u64 = 300 * SECOND;
/// After an error.
const RETRY: u64 = 2 * SECOND;

/// What a call is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Lease,
    LeaseWrite,
    List,
    Token,
    TokenMade,
    Set,
    Apply,
    Task(Task),
}

/// A reconciliation under way.
struct Reconciling {
    store: Arc<ReplicatedStore>,
    settings: Settings,
    objects: VecDeque<Object>,
    /// What the StatefulSet is going to be.
    pods: u32,
    revision: String,
}

/// See the module.
pub(crate) struct Operator {
    pub(crate) place: usize,
    /// Counts the lives of its process.
    lives: u64,
    pub(crate) runs: bool,
    candidate: Candidate,
    pub(crate) leads: bool,
    pub(crate) skew_millis: i64,
    /// The watch that stands, by its number.
    pub(crate) watch: Option<u64>,
    pub(crate) watches: u64,
    pub(crate) last_watch: u64,
    pub(crate) store: Option<Arc<ReplicatedStore>>,
    pub(crate) pods: BTreeMap<String, Arc<Pod>>,
    reconciling: Option<Reconciling>,
    /// When to reconcile next.
    due: Option<u64>,
    pub(crate) keeper: Option<Keeper>,
}

impl Operator {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            place: OPERATORS + number,
            candidate: Candidate::new(format!("operator-{number}")),
            lives: 0,
            runs: false,
            leads: false,
            skew_millis: 0,
            watch: None,
            watches: 0,
            last_watch: 0,
            store: None,
            pods: BTreeMap::new(),
            reconciling: None,
            due: None,
            keeper: None,
        }
    }

    /// The life of its process, if it runs.
    pub(crate) fn life(&self) -> Option<u64> {
        self.runs.then_some(self.lives)
    }

    /// Nothing under way, and all that it knows is new.
    pub(crate) fn is_idle(&self) -> bool {
        !self.leads || (self.watch.is_some() && self.reconciling.is_none() && self.keeper.as_ref().is_some_and(Keeper::is_idle))
    }
}

impl World {
    /// Whether this is still the process that a thing was meant for.
    pub(crate) fn lives(&mut self, operator: usize, life: u64) -> bool {
        self.sys().operators[operator].life() == Some(life)
    }

    /// A process begins.
    pub(crate) fn boot(&mut self, operator: usize) {
        let known = &mut self.sys().operators[operator];
        if known.runs {
            return;
        }
        known.lives += 1;
        known.runs = true;
        let life = known.lives;
        self.say(|| format!("operator {operator} begins"));
        let after = self.within(SECOND);
        self.happens(after, Happening::Campaign(operator, life));
    }

    /// A process ends, with everything that it had in memory.
    pub(crate) fn end_operator(&mut self, operator: usize, back_after: u64) {
        if !self.sys().operators[operator].runs {
            return;
        }
        self.say(|| format!("operator {operator} ends"));
        self.sys().counts.operator_deaths += 1;
        let driving = self.sys().operators[operator].keeper.as_ref().and_then(|keeper| keeper.driving);
        if let Some(pilot) = driving {
            self.end_pilot(pilot);
        }
        let fresh = Operator::new(operator);
        let known = &mut self.sys().operators[operator];
        let (lives, watches, skew_millis) = (known.lives, known.watches, known.skew_millis);
        *known = Operator {
            lives,
            watches,
            skew_millis,
            ..fresh
        };
        self.drop_streams(operator, None);
        self.happens(back_after, Happening::Boot(operator));
    }

    /// A step of an operator is done: an API call that was carried out, a word that was sent.
    pub(crate) fn step_taken(&mut self, operator: usize, life: u64) {
        if !self.lives(operator, life) {
            return;
        }
        self.sys().steps += 1;
        let steps = self.sys().steps;
        if self.sys().dies_after == Some(steps) {
            self.say(|| format!("operator {operator} dies after step {steps}"));
            self.end_operator(operator, 500 * MILLI);
        }
    }

    pub(crate) fn campaign(&mut self, operator: usize, life: u64) {
        if self.lives(operator, life) {
            self.call(operator, Purpose::Lease, Call::ReadLease);
        }
    }

    pub(crate) fn call_answered(&mut self, operator: usize, life: u64, purpose: Purpose, answer: Result<Answer, Refusal>) {
        if !self.lives(operator, life) {
            return;
        }
        match purpose {
            Purpose::Lease => self.lease_read(operator, life, answer),
            Purpose::LeaseWrite => self.lease_written(operator, life, answer.is_ok()),
            Purpose::List => {
                if answer.is_err() {
                    let after = 800 * MILLI + self.within(2 * SECOND);
                    self.happens(after, Happening::Relist(operator, life));
                }
            }
            Purpose::Token => self.token_read(operator, answer),
            Purpose::TokenMade => match answer {
                Ok(_) => self.objects_begin(operator),
                Err(Refusal::Conflict) => self.call(operator, Purpose::Token, Call::ReadSecret),
                Err(refusal) => self.reconcile_failed(operator, refusal),
            },
            Purpose::Set => self.set_read(operator, answer),
            Purpose::Apply => match answer {
                Ok(_) => self.apply_next(operator),
                Err(refusal) => self.reconcile_failed(operator, refusal),
            },
            Purpose::Task(task) => self.task_answered(operator, task, answer),
        }
    }

    fn lease_read(&mut self, operator: usize, life: u64, answer: Result<Answer, Refusal>) {
        let (now, instant) = (self.now, self.moment());
        let Ok(Answer::Lease(found)) = answer else {
            self.happens(CAMPAIGN, Happening::Campaign(operator, life));
            return;
        };
        let known = &mut self.sys().operators[operator];
        let moment = wall(now, known.skew_millis);
        let wanted = known.candidate.attempt(found.as_ref().map(|(spec, _)| spec), instant, moment);
        match wanted {
            Some(wanted) => {
                let call = Call::WriteLease(Box::new(wanted), found.map(|(_, version)| version));
                self.call(operator, Purpose::LeaseWrite, call);
            }
            None if known.leads => {
                self.say(|| format!("operator {operator} has lost the lease"));
                let after = SECOND + self.within(SECOND);
                self.end_operator(operator, after);
            }
            None => self.happens(CAMPAIGN, Happening::Campaign(operator, life)),
        }
    }

    fn lease_written(&mut self, operator: usize, life: u64, written: bool) {
        self.happens(CAMPAIGN, Happening::Campaign(operator, life));
        let known = &mut self.sys().operators[operator];
        if written && !std::mem::replace(&mut known.leads, true) {
            self.say(|| format!("operator {operator} leads"));
            self.relist(operator, life);
        }
    }

    pub(crate) fn relist(&mut self, operator: usize, life: u64) {
        if self.lives(operator, life) && self.sys().operators[operator].leads {
            self.call(operator, Purpose::List, Call::List);
        }
    }

    pub(crate) fn watch_tells(&mut self, operator: usize, watch: u64, change: Change) {
        let known = &mut self.sys().operators[operator];
        if !known.runs || known.watch != Some(watch) {
            return;
        }
        match change {
            Change::Synced(store, pods) => {
                known.pods = pods.into_iter().filter_map(|pod| Some((pod.metadata.name.clone()?, pod))).collect();
                self.store_changed(operator, store.as_ref());
                self.follow_pods(operator);
            }
            Change::Store(store) => self.store_changed(operator, Some(&store)),
            Change::StoreGone => self.store_changed(operator, None),
            Change::Pod(pod) => {
                known.pods.insert(pod.metadata.name.clone().unwrap_or_default(), pod);
                self.follow_pods(operator);
            }
            Change::PodGone(name) => {
                known.pods.remove(&name);
                self.follow_pods(operator);
            }
            Change::Object => self.reconcile_after(operator, DEBOUNCE),
        }
    }

    /// A status is no reason to reconcile; a spec is, and annotations are.
    fn store_changed(&mut self, operator: usize, store: Option<&Arc<ReplicatedStore>>) {
        let known = &mut self.sys().operators[operator];
        let reason = |store: &Arc<ReplicatedStore>| {
            let meta = &store.metadata;
            (meta.uid.clone(), meta.generation, meta.annotations.clone())
        };
        let differs = known.store.as_ref().map(reason) != store.map(reason);
        known.store = store.cloned();
        let kept = known.keeper.as_ref().map(|keeper| keeper.desired.settings.uid.clone());
        if kept.is_some() && kept != store.and_then(|store| store.metadata.uid.clone()) {
            self.end_keeper(operator);
        }
        if differs && store.is_some() {
            self.reconcile_after(operator, DEBOUNCE);
        }
    }

    pub(crate) fn reconcile_after(&mut self, operator: usize, after: u64) {
        let now = self.now;
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let known = &mut self.sys().operators[operator];
        if known.due.is_none_or(|due| now + after < due) {
            known.due = Some(now + after);
            self.happens(after, Happening::Reconcile(operator, life));
        }
    }

    pub(crate) fn reconcile_due(&mut self, operator: usize, life: u64) {
        if !self.lives(operator, life) {
            return;
        }
        let now = self.now;
        let known = &mut self.sys().operators[operator];
        if !known.leads || known.reconciling.is_some() || known.due.is_none_or(|due| now < due) {
            return;
        }
        known.due = None;
        let Some(store) = known.store.clone() else { return };
        // The simulation's specs are valid: what is wrong with others is tested beside the code.
        let Ok(settings) = Settings::of(&store) else { return };
        known.reconciling = Some(Reconciling {
            store,
            settings,
            objects: VecDeque::new(),
            pods: 0,
            revision: String::new(),
        });
        self.call(operator, Purpose::Token, Call::ReadSecret);
    }

    fn token_read(&mut self, operator: usize, answer: Result<Answer, Refusal>) {
        let Some(under_way) = &self.sys().operators[operator].reconciling else {
            return;
        };
        let uid = under_way.settings.uid.clone();
        match answer {
            Ok(Answer::Secret(Some(owner))) if owner == uid => self.objects_begin(operator),
            Ok(Answer::Secret(Some(_))) => self.reconcile_failed(operator, Refusal::Conflict),
            Ok(Answer::Secret(None)) => self.call(operator, Purpose::TokenMade, Call::MakeSecret(uid)),
            Ok(_) => {}
            Err(refusal) => self.reconcile_failed(operator, refusal),
        }
    }

    /// Before anything is applied the keeper is told: a failover does not wait for that.
    fn objects_begin(&mut self, operator: usize) {
        let Some(under_way) = &self.sys().operators[operator].reconciling else {
            return;
        };
        let (store, settings) = (Arc::clone(&under_way.store), under_way.settings.clone());
        self.tell_keeper(operator, &store, &settings, None);
        self.call(operator, Purpose::Set, Call::ReadSet);
    }

    fn set_read(&mut self, operator: usize, answer: Result<Answer, Refusal>) {
        let present = match answer {
            Ok(Answer::Set(present)) => present.map(|(set, _)| set),
            Ok(_) => return,
            Err(refusal) => {
                self.reconcile_failed(operator, refusal);
                return;
            }
        };
        let present = present.as_deref();
        let Some(under_way) = &self.sys().operators[operator].reconciling else {
            return;
        };
        let (store, settings) = (Arc::clone(&under_way.store), under_way.settings.clone());
        if settings.paused {
            if let Some(set) = present {
                self.tell_set(operator, pods_of(set), revision_of(set));
            }
            self.reconcile_done(operator);
            return;
        }
        let shape = self.sys().operators[operator].keeper.as_ref().and_then(|keeper| keeper.shape);
        let image = default_image(&store, present, "quorate/node");
        let layout = Layout::following(&settings, image, shape, present);
        let left = present.map(pods_of).unwrap_or_default().min(layout.replicas);
        self.tell_scale(operator, left);
        let objects = in_order(build(&store, &settings, &layout));
        if let Some(under_way) = &mut self.sys().operators[operator].reconciling {
            under_way.objects = objects;
            under_way.pods = layout.replicas;
            under_way.revision = revision(&store, &settings, &layout);
        }
        self.apply_next(operator);
    }

    fn apply_next(&mut self, operator: usize) {
        let Some(under_way) = &mut self.sys().operators[operator].reconciling else {
            return;
        };
        let (pods, revision, owner) = (under_way.pods, under_way.revision.clone(), under_way.settings.uid.clone());
        match under_way.objects.pop_front() {
            Some(object) => self.call(operator, Purpose::Apply, Call::Apply(owner, Box::new(object))),
            None => {
                self.tell_set(operator, pods, Some(revision));
                self.reconcile_done(operator);
            }
        }
    }

    fn reconcile_done(&mut self, operator: usize) {
        self.reconcile_ended(operator, Outcome::Applied, RESYNC);
    }

    fn reconcile_failed(&mut self, operator: usize, refusal: Refusal) {
        self.reconcile_ended(operator, Outcome::Failed(format!("{refusal:?}")), RETRY);
    }

    fn reconcile_ended(&mut self, operator: usize, outcome: Outcome, again: u64) {
        let now = self.now;
        let known = &mut self.sys().operators[operator];
        let Some(Reconciling { store, settings, .. }) = known.reconciling.take() else {
            return;
        };
        // What was asked for meanwhile comes first.
        let meanwhile = known.due.take().map(|due| due.saturating_sub(now));
        let gone = known.store.as_ref().is_none_or(|known| known.metadata.uid != store.metadata.uid);
        if !gone {
            self.tell_keeper(operator, &store, &settings, Some(outcome));
        }
        self.reconcile_after(operator, meanwhile.unwrap_or(again).min(again));
    }
}

fn in_order(objects: Objects) -> VecDeque<Object> {
    fn plain(name: &str, object: &impl Serialize) -> Object {
        Object::Plain {
            name: format!("{name} of {NAME}"),
            content: serde_json::to_string(object).expect("objects are plain data"),
        }
    }
    let Objects {
        headless,
        client,
        primary,
        service_account,
        disruption_budget,
        stateful_sets,
    } = objects;
    let mut all: VecDeque<Object> = [
        plain("service account", &service_account),
        plain("headless service", &headless),
        plain("client service", &client),
        plain("primary service", &primary),
    ]
    .into();
    all.extend(stateful_sets.into_iter().map(|set: StatefulSet| Object::Set(Box::new(set))));
    all.extend(disruption_budget.iter().map(|budget| plain("disruption budget", budget)));
    all
}
