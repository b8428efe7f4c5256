//! The simulated keeper of the store: the real [`Steward`] and [`Outbox`], and in place of the keeper's tasks calls to the API
//! server and drivers in the simulated network.

use super::api::{Answer, Call, Refusal};
use super::operators::Purpose;
use super::{Happening, Outcome, Owner, wall};
use crate::sim::engine::Engine;
use crate::sim::world::{MILLI, World};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use quorate_api::wire::{FailoverPolicy, Request};
use quorate_api::{Configuration, Epoch};
use quorate_client::{DriveError, Driven};
use quorate_crds::ReplicatedStore;
use quorate_operator::keeper::Desired;
use quorate_operator::link::PodNews;
use quorate_operator::machines::{Place, place, state};
use quorate_operator::names;
use quorate_operator::observe::{Asked, Fate, Machine};
use quorate_operator::outbox::{self, Outbox, Write};
use quorate_operator::plan::{Admission, Goal, Note, Outcome as Reconciliation, Reconciled, Recreate, Restart, Shape, ViewChange};
use quorate_operator::records::adopt;
use quorate_operator::replicas::belongs;
use quorate_operator::settings::Settings;
use quorate_operator::steward::{Errands, Steward};
use quorate_operator::view_change::{self, ViewChangeError, bootstrap_mark, to_write_down};
use rand::RngExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Attempts at a status that others write at the same time.
const ATTEMPTS: u32 = 4;

/// What a keeper's call is for.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Before a bootstrap, with the number of the view change: reads the StatefulSet, reads the store, writes the mark.
    MarkSet(u64, Box<Configuration>),
    MarkStore(u64, Box<Configuration>, u64, Option<String>),
    MarkWrite(u64),
    /// What became of a pod: name, UID, and what was read so far.
    FatePod(String, String),
    FateClaim(String, Arc<Pod>),
    FateMachine(String, Option<String>),
    /// A pod is made anew.
    RecreateClaim(Box<Recreate>),
    RecreatePod,
    /// A write of the outbox.
    Write(Box<Write>),
    /// A write of the status, with the number of the attempt; and the read after a conflict.
    Tell(Box<Write>, u32),
    TellAgain(Box<Write>, u32),
    /// Whether somebody wrote over the status.
    Status,
}

/// Writes of one round.
struct Round {
    rest: VecDeque<Write>,
    failed: bool,
    /// An event was not written: the later ones wait.
    held: bool,
}

/// See the module.
pub(crate) struct Keeper {
    pub(crate) steward: Steward,
    pub(crate) desired: Desired,
    /// What the objects have to follow.
    pub(crate) shape: Option<Shape>,
    outbox: Outbox,
    /// The store as the API server had it when it answered last.
    stored: Option<Arc<ReplicatedStore>>,
    round: Option<Round>,
    publish_at: Option<u64>,
    look_at: Option<u64>,
    watch: (Duration, FailoverPolicy),
    pub(crate) admission: Option<Admission>,
    /// The driver of the view change under way.
    pub(crate) driving: Option<usize>,
    /// Counts view changes, so that what belongs to an earlier one is known as late.
    changes: u64,
    change: Option<(ViewChange, Epoch)>,
    began: u64,
}

impl Keeper {
    pub(crate) fn heartbeat(&self) -> Duration {
        self.watch.0
    }

    pub(crate) fn watch_word(&self) -> Request {
        Request::Watch {
            interval_millis: u64::try_from(self.watch.0.as_millis()).unwrap_or(u64::MAX),
            policy: Some(self.watch.1),
        }
    }

    /// Nothing is under way and nothing is left to write.
    pub(crate) fn is_idle(&self) -> bool {
        self.round.is_none() && self.change.is_none()
    }
}

impl World {
    fn keeper(&mut self, operator: usize) -> Option<&mut Keeper> {
        self.sys().operators[operator].keeper.as_mut()
    }

    /// Reconciliation tells the keeper what is wanted, and starts it if there is none.
    pub(crate) fn tell_keeper(&mut self, operator: usize, store: &ReplicatedStore, settings: &Settings, outcome: Option<Reconciliation>) {
        let before = self.keeper(operator).map(|keeper| keeper.desired.reconciled.clone());
        let desired = Desired {
            reconciled: Reconciled::after(before, settings.generation, outcome),
            settings: settings.clone(),
            token: Arc::new(Vec::new()),
            asked: Asked::of(store),
        };
        if let Some(keeper) = self.keeper(operator) {
            keeper.desired = desired;
            self.act(operator);
            return;
        }
        let (now, instant) = (self.now, self.moment());
        let status = store.status.clone().unwrap_or_default();
        let moment = wall(now, self.sys().operators[operator].skew_millis);
        let keeper = Keeper {
            steward: Steward::new(status.clone(), names::selector_text(store), instant, moment),
            watch: (settings.heartbeat, settings.policy()),
            desired,
            shape: None,
            outbox: Outbox::new(status, instant),
            stored: Some(Arc::new(store.clone())),
            round: None,
            publish_at: None,
            look_at: None,
            admission: None,
            driving: None,
            changes: 0,
            change: None,
            began: now,
        };
        self.sys().operators[operator].keeper = Some(keeper);
        self.look_at_status_later(operator);
        self.follow_pods(operator);
    }

    fn look_at_status_later(&mut self, operator: usize) {
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let after = u64::try_from(outbox::LOOK.as_micros()).unwrap_or(u64::MAX);
        let uid = self.keeper(operator).map(|keeper| keeper.desired.settings.uid.clone());
        self.happens(after, Happening::Status(operator, life, uid.unwrap_or_default()));
    }

    pub(crate) fn look_at_status(&mut self, operator: usize, life: u64, uid: &str) {
        let kept = |world: &mut Self| world.keeper(operator).is_some_and(|keeper| keeper.desired.settings.uid == uid);
        if self.lives(operator, life) && kept(self) {
            self.task(operator, Task::Status, Call::ReadStore);
            self.look_at_status_later(operator);
        }
    }

    pub(crate) fn tell_scale(&mut self, operator: usize, pods: u32) {
        if let Some(keeper) = self.keeper(operator) {
            keeper.desired.reconciled.scale = Some(pods);
            self.act(operator);
        }
    }

    pub(crate) fn tell_set(&mut self, operator: usize, pods: u32, revision: Option<String>) {
        if let Some(keeper) = self.keeper(operator) {
            keeper.desired.reconciled.scale = Some(pods);
            keeper.desired.reconciled.revision = revision;
            self.act(operator);
        }
    }

    /// The store of the keeper is gone.
    pub(crate) fn end_keeper(&mut self, operator: usize) {
        let Some(keeper) = self.sys().operators[operator].keeper.take() else {
            return;
        };
        if let Some(pilot) = keeper.driving {
            self.end_pilot(pilot);
        }
        self.drop_streams(operator, None);
    }

    /// The pods are others than before.
    pub(crate) fn follow_pods(&mut self, operator: usize) {
        let instant = self.moment();
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let known = &mut self.sys().operators[operator];
        let Some(keeper) = known.keeper.as_mut() else { return };
        let Settings { namespace, uid, .. } = &keeper.desired.settings;
        let ours: Vec<Arc<Pod>> = known.pods.values().filter(|pod| belongs(pod, namespace, uid, 0)).cloned().collect();
        let ended = keeper.steward.roster.follow(ours.into_iter(), instant);
        let reachable: Vec<u32> = keeper.steward.roster.reachable().map(|(member, _)| member.ordinal).collect();
        for ordinal in ended {
            self.drop_streams(operator, Some(ordinal));
        }
        for ordinal in reachable {
            self.dial_pod(operator, life, ordinal);
        }
        self.act(operator);
    }

    /// A stream tells something.
    pub(crate) fn news(&mut self, operator: usize, life: u64, news: PodNews) {
        if !self.lives(operator, life) {
            return;
        }
        let instant = self.moment();
        let Some(keeper) = self.keeper(operator) else { return };
        let down = matches!(news.2, quorate_operator::link::News::Down(_));
        let known = keeper
            .steward
            .roster
            .reachable()
            .any(|(member, _)| member.pod == news.0 && !member.connected);
        let strange = keeper.steward.roster.hear(news, instant);
        if strange {
            for stream in self.standing(operator, life) {
                self.send_word(stream, Request::Addresses(Vec::new()));
            }
        }
        // That a node is still not reached is no news.
        if !(down && known) {
            self.act(operator);
        }
    }

    pub(crate) fn look(&mut self, operator: usize, life: u64) {
        if !self.lives(operator, life) {
            return;
        }
        let now = self.now;
        let Some(keeper) = self.keeper(operator) else { return };
        if keeper.look_at.is_some_and(|at| now >= at) {
            keeper.look_at = None;
            self.act(operator);
        }
    }

    /// Plans and carries out, as the keeper does.
    pub(crate) fn act(&mut self, operator: usize) {
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let (now, instant) = (self.now, self.moment());
        let known = &mut self.sys().operators[operator];
        let moment = wall(now, known.skew_millis);
        let Some(keeper) = known.keeper.as_mut() else { return };
        // What another operator wrote down, as the watch has it.
        let kept = |store: &&Arc<ReplicatedStore>| store.metadata.uid.as_deref() == Some(&keeper.desired.settings.uid);
        let stored = known.store.as_ref().filter(kept).and_then(|store| store.status.as_ref());
        if let Some(stored) = stored {
            keeper.steward.adopt(stored, instant, moment);
        }
        let (wanted, settings) = (keeper.desired.wanted(), &keeper.desired.settings);
        let Errands {
            heartbeat,
            admission,
            shape,
            overtake,
            start,
            inspect,
            recreate,
            restart,
            notes,
            publish,
            look_at,
        } = keeper.steward.act(wanted, instant, moment);
        let watch = (heartbeat, settings.policy());
        let listens = std::mem::replace(&mut keeper.watch, watch) != watch;
        let admits = admission.is_some() && keeper.admission != admission;
        if admits {
            keeper.admission.clone_from(&admission);
        }
        keeper.shape = shape.or(keeper.shape);
        let writes = publish || !notes.is_empty();
        for note in notes {
            keeper.outbox.push(note);
        }
        self.sys().counts.plans += 1;
        if listens || admits {
            self.tell_streams(operator, life, listens, admits);
        }
        if !self.lives(operator, life) {
            return;
        }
        if shape.is_some() {
            self.reconcile_after(operator, 250 * MILLI);
        }
        if overtake {
            self.overtake(operator);
        }
        if let Some(change) = start {
            self.begin_view_change(operator, change);
        }
        if let Some((pod, uid)) = inspect {
            self.task(operator, Task::FatePod(pod.clone(), uid), Call::ReadPod(pod));
        }
        if let Some(lost) = recreate {
            self.begin_recreate(operator, lost);
        }
        if let Some(Restart { pod, uid }) = restart {
            self.task(operator, Task::RecreatePod, Call::DeletePod(pod, uid, false));
        }
        if writes {
            self.publish(operator);
        }
        let look_at = self.sys().micros(look_at).saturating_add(1);
        let Some(keeper) = self.keeper(operator) else { return };
        if keeper.look_at.is_none_or(|at| look_at < at || at < now) {
            keeper.look_at = Some(look_at);
            self.happens(look_at.saturating_sub(now), Happening::Look(operator, life));
        }
    }

    fn tell_streams(&mut self, operator: usize, life: u64, listens: bool, admits: bool) {
        for stream in self.standing(operator, life) {
            let Some(keeper) = self.keeper(operator) else { return };
            let (watch, admission) = (keeper.watch_word(), keeper.admission.clone());
            if listens {
                self.send_word(stream, watch);
            }
            if admits {
                self.send_admission(stream, admission.as_ref());
            }
        }
    }

    fn task(&mut self, operator: usize, task: Task, call: Call) {
        self.call(operator, Purpose::Task(task), call);
    }

    fn overtake(&mut self, operator: usize) {
        if let Some(pilot) = self.keeper(operator).and_then(|keeper| keeper.driving) {
            self.end_pilot(pilot);
        }
        self.conclude(operator, &Err(ViewChangeError::Overtaken));
    }

    fn begin_view_change(&mut self, operator: usize, change: ViewChange) {
        let (now, instant) = (self.now, self.moment());
        let epoch = Epoch::after(change.known.highest, self.rng.random());
        self.say(|| format!("operator {operator} begins {epoch}: {:?}, {}", change.goal, change.reason));
        self.sys().counts.operator_drives += 1;
        let known = &mut self.sys().operators[operator];
        let moment = wall(now, known.skew_millis);
        let Some(keeper) = known.keeper.as_mut() else { return };
        keeper.steward.begin(change.clone(), epoch, instant, moment);
        keeper.changes += 1;
        keeper.began = now;
        let number = keeper.changes;
        let bootstrap = match &change.goal {
            Goal::Bootstrap(target) => Some(Box::new(target.clone())),
            _ => None,
        };
        keeper.change = Some((change, epoch));
        match bootstrap {
            Some(target) => self.task(operator, Task::MarkSet(number, target), Call::ReadSet),
            None => self.drive(operator),
        }
    }

    fn drive(&mut self, operator: usize) {
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let place = self.sys().operators[operator].place;
        let Some((change, epoch)) = self.keeper(operator).and_then(|keeper| keeper.change.clone()) else {
            return;
        };
        let engine = Engine::Planned(view_change::driver(change, epoch));
        let deadline = u64::try_from(view_change::DEADLINE.as_micros()).unwrap_or(u64::MAX);
        let ends = self.now + deadline;
        let pilot = self.run_engine(engine, place, true, ends, Some(Owner::Operator(operator, life)));
        if let Some(keeper) = self.keeper(operator)
            && keeper.change.is_some()
        {
            keeper.driving = Some(pilot);
        }
    }

    /// A driver ended.
    pub(crate) fn drive_ended(&mut self, owner: Option<Owner>, outcome: Outcome) {
        match owner {
            None => {}
            Some(Owner::Member(host, life)) => {
                let done = matches!(outcome, Outcome::Done { .. });
                self.member_drive_ended(host, life, done);
            }
            Some(Owner::Operator(operator, life)) => {
                if !self.lives(operator, life) {
                    return;
                }
                let system = self.system.as_ref().expect("operators live in whole systems");
                let moment = |micros| tokio::time::Instant::from_std(system.instant(micros));
                let outcome = match outcome {
                    Outcome::Done { changed, fenced } => Ok(Driven {
                        changed,
                        fenced: moment(fenced),
                        served: moment(self.now),
                    }),
                    Outcome::Failed(failure) => {
                        let failure = failure.expect("the operator's drivers are the planner's");
                        Err(ViewChangeError::Drive(DriveError::Failed(failure)))
                    }
                    Outcome::Late(progress) => Err(ViewChangeError::Drive(DriveError::Late(progress))),
                };
                self.conclude(operator, &outcome);
            }
        }
    }

    fn conclude(&mut self, operator: usize, outcome: &Result<Driven, ViewChangeError>) {
        let instant = self.moment();
        let Some(keeper) = self.keeper(operator) else { return };
        (keeper.driving, keeper.change) = (None, None);
        let (_, notes) = keeper.steward.conclude(outcome, instant);
        for note in notes {
            self.note_of(operator, note);
        }
        // The plan that follows gives up what was under way itself.
        if !matches!(outcome, Err(ViewChangeError::Overtaken)) {
            self.act(operator);
        }
    }

    fn note_of(&mut self, operator: usize, note: Note) {
        self.say(|| format!("operator {operator}: {}: {}", note.reason, note.text));
        if let Some(keeper) = self.keeper(operator) {
            keeper.outbox.push(note);
        }
        self.publish(operator);
    }

    fn begin_recreate(&mut self, operator: usize, lost: Recreate) {
        self.say(|| format!("operator {operator} recreates {lost:?}"));
        match lost.claim.clone() {
            Some(claim) => {
                let call = Call::DeleteClaim(lost.pod.clone(), claim);
                self.task(operator, Task::RecreateClaim(Box::new(lost)), call);
            }
            None => self.recreate_pod(operator, lost),
        }
    }

    fn recreate_pod(&mut self, operator: usize, lost: Recreate) {
        let Recreate { pod, uid, force, .. } = lost;
        self.task(operator, Task::RecreatePod, Call::DeletePod(pod, uid, force));
    }

    /// A call of the keeper is answered.
    pub(crate) fn task_answered(&mut self, operator: usize, task: Task, answer: Result<Answer, Refusal>) {
        match task {
            Task::Status => {
                if let Ok(Answer::Store(Some(store))) = answer
                    && let Some(keeper) = self.keeper(operator).filter(|keeper| keeper.round.is_none())
                {
                    keeper.outbox.found(&store);
                    self.publish(operator);
                }
            }
            Task::Write(write) => self.written(operator, *write, answer.map(drop)),
            Task::Tell(write, attempt) => self.status_told(operator, write, attempt, answer),
            Task::TellAgain(write, attempt) => self.status_read(operator, write, attempt, answer),
            Task::RecreateClaim(lost) => self.recreate_pod(operator, *lost),
            Task::RecreatePod => {}
            Task::FatePod(pod, uid) => match answer {
                Ok(Answer::Pod(Some(found))) => {
                    let call = Call::ReadClaim(pod);
                    self.task(operator, Task::FateClaim(uid, found), call);
                }
                _ => self.found(operator, uid, Machine::Standing, None),
            },
            Task::FateClaim(uid, pod) => self.claim_read(operator, uid, &pod, answer),
            Task::FateMachine(uid, claim) => {
                let machine = match answer {
                    Ok(Answer::Machine(found)) => found.map_or(Machine::Gone, |node| state(&node)),
                    _ => Machine::Standing,
                };
                self.found(operator, uid, machine, claim);
            }
            Task::MarkSet(number, target) => match answer {
                Ok(Answer::Set(Some((set, version)))) if self.is_under_way(operator, number) => {
                    let annotations = set.metadata.annotations.as_ref();
                    let written = annotations.and_then(|all| all.get(names::ANNOTATION_BOOTSTRAP)).cloned();
                    self.task(operator, Task::MarkStore(number, target, version, written), Call::ReadStore);
                }
                _ => self.mark_failed(operator, number),
            },
            Task::MarkStore(number, target, version, written) => self.mark(operator, number, &target, version, written.as_deref(), answer),
            Task::MarkWrite(number) => match answer {
                Ok(_) if self.is_under_way(operator, number) => self.drive(operator),
                _ => self.mark_failed(operator, number),
            },
        }
    }

    fn is_under_way(&mut self, operator: usize, number: u64) -> bool {
        self.keeper(operator)
            .is_some_and(|keeper| keeper.changes == number && keeper.change.is_some() && keeper.driving.is_none())
    }

    fn mark(
        &mut self,
        operator: usize,
        number: u64,
        target: &Configuration,
        version: u64,
        written: Option<&str>,
        answer: Result<Answer, Refusal>,
    ) {
        let store = match answer {
            Ok(Answer::Store(Some(store))) if self.is_under_way(operator, number) => store,
            _ => {
                self.mark_failed(operator, number);
                return;
            }
        };
        let mark = bootstrap_mark(target);
        match to_write_down(written, store.status.as_ref(), &mark) {
            Ok(None) => self.drive(operator),
            Ok(Some(marks)) => self.task(operator, Task::MarkWrite(number), Call::Mark(version, marks)),
            Err(error) => self.conclude(operator, &Err(error)),
        }
    }

    fn mark_failed(&mut self, operator: usize, number: u64) {
        if self.is_under_way(operator, number) {
            let error = ViewChangeError::Api(kube::Error::Service("no answer, or another version".into()));
            self.conclude(operator, &Err(error));
        }
    }

    fn claim_read(&mut self, operator: usize, uid: String, pod: &Pod, answer: Result<Answer, Refusal>) {
        let Ok(Answer::Claim(claim)) = answer else {
            self.found(operator, uid, Machine::Standing, None);
            return;
        };
        let claim: Option<&PersistentVolumeClaim> = claim.as_deref();
        let claim_uid = claim.and_then(|claim| claim.metadata.uid.clone());
        match place(pod, claim) {
            Place::Lost => self.found(operator, uid, Machine::Gone, claim_uid),
            Place::Nowhere => self.found(operator, uid, Machine::Standing, claim_uid),
            Place::On(machine) => self.task(operator, Task::FateMachine(uid, claim_uid), Call::ReadMachine(machine)),
        }
    }

    fn found(&mut self, operator: usize, uid: String, machine: Machine, claim: Option<String>) {
        let at = self.moment();
        if let Some(keeper) = self.keeper(operator) {
            keeper.steward.found(uid, Fate { machine, claim, at });
            self.act(operator);
        }
    }

    /// Something may be to write.
    fn publish(&mut self, operator: usize) {
        let (now, instant) = (self.now, self.moment());
        let Some(life) = self.sys().operators[operator].life() else {
            return;
        };
        let Some(keeper) = self.keeper(operator) else { return };
        if keeper.round.is_some() {
            return;
        }
        let word = keeper.steward.word().clone();
        let due = keeper.outbox.due(&word, instant);
        if !due.is_empty() {
            keeper.round = Some(Round {
                rest: due.into(),
                failed: false,
                held: false,
            });
            self.write_next(operator);
            return;
        }
        let wakes_at = keeper.outbox.wakes_at(&word);
        let Some(wakes_at) = wakes_at.map(|at| self.sys().micros(at) + 1) else {
            return;
        };
        let Some(keeper) = self.keeper(operator) else { return };
        if keeper.publish_at.is_none_or(|at| at <= now || wakes_at < at) {
            keeper.publish_at = Some(wakes_at);
            self.happens(wakes_at.saturating_sub(now).max(1), Happening::Publish(operator, life));
        }
    }

    pub(crate) fn publish_due(&mut self, operator: usize, life: u64) {
        if self.lives(operator, life) {
            if let Some(keeper) = self.keeper(operator) {
                keeper.publish_at = None;
            }
            self.publish(operator);
        }
    }

    fn write_next(&mut self, operator: usize) {
        let instant = self.moment();
        let Some(keeper) = self.keeper(operator) else { return };
        let Some(round) = keeper.round.as_mut() else { return };
        let held = round.held;
        if held {
            round.rest.retain(|write| !matches!(write, Write::Event(_)));
        }
        match round.rest.pop_front() {
            Some(write @ Write::Status(_)) => self.tell_status(operator, Box::new(write), 1),
            Some(write) => {
                let write = Box::new(write);
                self.task(operator, Task::Write(write.clone()), Call::Write(write));
            }
            None => {
                let failed = round.failed;
                keeper.round = None;
                keeper.outbox.round_ends(failed, instant);
                self.publish(operator);
            }
        }
    }

    /// Writes the status over the one that was read last, with what that remembers.
    fn tell_status(&mut self, operator: usize, write: Box<Write>, attempt: u32) {
        let Some(keeper) = self.keeper(operator) else { return };
        let Write::Status(word) = &*write else { return };
        let mut status = word.clone();
        let stored = keeper.stored.as_ref();
        adopt(&mut status, &stored.and_then(|store| store.status.clone()).unwrap_or_default());
        let version = stored.and_then(|store| store.metadata.resource_version.clone());
        let uid = keeper.desired.settings.uid.clone();
        self.task(operator, Task::Tell(write, attempt), Call::WriteStatus(uid, version, status));
    }

    fn status_told(&mut self, operator: usize, write: Box<Write>, attempt: u32, answer: Result<Answer, Refusal>) {
        match answer {
            Ok(Answer::Store(store)) => {
                if let Some(keeper) = self.keeper(operator) {
                    keeper.stored = store;
                }
                self.written(operator, *write, Ok(()));
            }
            Err(Refusal::Conflict) if attempt < ATTEMPTS => self.task(operator, Task::TellAgain(write, attempt), Call::ReadStore),
            Ok(_) => self.written(operator, *write, Err(Refusal::Conflict)),
            Err(refusal) => self.written(operator, *write, Err(refusal)),
        }
    }

    fn status_read(&mut self, operator: usize, write: Box<Write>, attempt: u32, answer: Result<Answer, Refusal>) {
        let Ok(Answer::Store(store)) = answer else {
            self.written(operator, *write, Err(Refusal::Away));
            return;
        };
        let Some(keeper) = self.keeper(operator) else { return };
        // An object of the same name that is another one says nothing.
        let uid = &keeper.desired.settings.uid;
        if let Some(store) = store.filter(|store| store.metadata.uid.as_ref() == Some(uid)) {
            keeper.stored = Some(store);
        }
        self.tell_status(operator, write, attempt + 1);
    }

    fn written(&mut self, operator: usize, write: Write, answer: Result<(), Refusal>) {
        let Some(keeper) = self.keeper(operator) else { return };
        let Some(round) = keeper.round.as_mut() else { return };
        match answer {
            Ok(()) => keeper.outbox.done(write),
            Err(_) => {
                round.failed = true;
                round.held |= matches!(write, Write::Event(_));
            }
        }
        self.write_next(operator);
    }
}
