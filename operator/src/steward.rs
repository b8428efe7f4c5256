//! The keeper's mind: everything that a keeper knows of a shard and decides, without its streams, tasks and client. It asks
//! the planner with what is known, and keeps what follows; [`crate::keeper`] carries out, or a simulation does.
//!
//! It keeps no clock and draws nothing: moments and epochs are given.

use crate::observe::{Asked, Fate};
use crate::outbox::Publication;
use crate::plan::{
    Admission, Drive, Memory, Note, Observation, Others, Phase, Plan, Reconciled, Recreate, Restart, Shape, ViewChange, conclude, plan,
};
use crate::records::{adopt, remember};
use crate::roster::Roster;
use crate::settings::Settings;
use crate::view_change::ViewChangeError;
use k8s_openapi::jiff::Timestamp;
use quorate_api::Epoch;
use quorate_client::Driven;
use quorate_crds::{LastFailover, ReplicatedStoreStatus};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Debug)]
pub struct Steward {
    /// The replicas.
    pub roster: Roster,
    /// What the other shards leave to this one.
    pub others: Others,
    /// Index of the shard.
    shard: u32,
    selector: String,
    driving: Option<Drive>,
    /// What became of pods that do not answer, by their UID.
    fates: BTreeMap<String, Fate>,
    /// The UID of the pod whose fate is being found out.
    inspecting: Option<String>,
    shape: Option<Shape>,
    phase: Phase,
    memory: Memory,
    status: ReplicatedStoreStatus,
    /// What is to be published.
    word: Publication,
}

/// What is to be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Errands {
    /// The heartbeat to ask of the nodes.
    pub heartbeat: Duration,
    /// Whom to admit as learners; None while no primary is heard.
    pub admission: Option<Admission>,
    /// The shape of the objects, if it is another one than before: they have to follow it.
    pub shape: Option<Shape>,
    /// A view change under way is to be given up for the one to start: its outcome is [`ViewChangeError::Overtaken`].
    pub overtake: bool,
    /// The view change to start, with [`Steward::begin`].
    pub start: Option<ViewChange>,
    /// The pod whose fate to find out, and its UID; to be told with [`Steward::found`].
    pub inspect: Option<(String, String)>,
    /// The pod to make anew.
    pub recreate: Option<Recreate>,
    /// The pod to restart.
    pub restart: Option<Restart>,
    /// The events to write.
    pub notes: Vec<Note>,
    /// Whether [`Steward::word`] is another one than before.
    pub publish: bool,
    /// When to act again if nothing is heard before.
    pub look_at: Instant,
}

/// What is known beside the replicas.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The spec, checked.
    pub settings: &'a Settings,
    /// What came of its objects.
    pub reconciled: &'a Reconciled,
    /// What a person asks for.
    pub asked: &'a Asked,
}

impl Steward {
    /// Of an operator that begins to keep shard 0 of a store of that status, as that of a store which has no other; `selector`
    /// selects the pods of the store.
    #[must_use]
    pub fn new(status: ReplicatedStoreStatus, selector: String, now: Instant, wall: Timestamp) -> Self {
        Self {
            roster: Roster::default(),
            others: Others::default(),
            shard: 0,
            selector,
            driving: None,
            fates: BTreeMap::new(),
            inspecting: None,
            shape: None,
            phase: Phase::Starting,
            memory: Memory::new(&status, now, wall),
            word: Publication {
                status: status.clone(),
                ..Publication::default()
            },
            status,
        }
    }

    /// Of another shard.
    #[must_use]
    pub fn of_shard(mut self, shard: u32) -> Self {
        self.shard = shard;
        self
    }

    /// The shape that the objects are to have; None while too little is known.
    #[must_use]
    pub fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// What the shard did when this one acted last.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What is to be published.
    #[must_use]
    pub fn word(&self) -> &Publication {
        &self.word
    }

    /// Plans; says what to carry out.
    #[must_use]
    pub fn act(&mut self, wanted: Wanted<'_>, now: Instant, wall: Timestamp) -> Errands {
        let seen = Observation {
            shard: self.shard,
            others: &self.others,
            settings: wanted.settings,
            reconciled: wanted.reconciled,
            selector: &self.selector,
            members: &self.roster.observed(),
            asked: wanted.asked,
            fates: &self.fates,
            driving: self.driving.as_ref(),
            told: &self.status,
            now,
            wall,
        };
        let Plan {
            start,
            admission,
            shape,
            inspect,
            recreate,
            restart,
            answered,
            phase,
            roles,
            status,
            notes,
            heartbeat,
            look_at,
            memory,
        } = plan(&seen, &self.memory);
        (self.memory, self.phase) = (memory, phase);
        let reshaped = shape.filter(|shape| self.shape != Some(*shape));
        self.shape = shape.or(self.shape);
        if let Some(Shape { replicas, .. }) = shape {
            self.roster.forget_beyond(replicas);
        }
        if let Some(lost) = &recreate {
            self.fates.remove(&lost.uid);
        }
        let word = Publication {
            roles: roles.unwrap_or_else(|| self.word.roles.clone()),
            status: status.clone(),
            answered,
        };
        self.status = status;
        let publish = self.word != word;
        self.word = word;
        Errands {
            heartbeat,
            admission,
            shape: reshaped,
            overtake: start.is_some() && self.driving.is_some(),
            start,
            inspect: self.inspect(inspect.into_iter().next()),
            recreate,
            restart,
            notes,
            publish,
            look_at,
        }
    }

    fn inspect(&mut self, pod: Option<String>) -> Option<(String, String)> {
        let pod = pod.filter(|_| self.inspecting.is_none())?;
        let known = self.roster.observed().into_iter().find(|member| member.pod == pod)?;
        self.inspecting = Some(known.uid.clone());
        Some((pod, known.uid))
    }

    /// Takes over what another operator wrote down.
    pub fn adopt(&mut self, stored: &ReplicatedStoreStatus, now: Instant, wall: Timestamp) {
        if adopt(&mut self.status, stored) {
            self.memory.learn(&self.status, now, wall);
        }
    }

    /// What became of a pod was found out.
    pub fn found(&mut self, uid: String, fate: Fate) {
        self.inspecting = None;
        self.fates.insert(uid, fate);
    }

    /// A view change begins.
    pub fn begin(&mut self, change: ViewChange, epoch: Epoch, now: Instant, wall: Timestamp) {
        self.driving = Some(Drive {
            epoch,
            begun: now,
            detected: wall,
            change,
        });
    }

    /// The view change under way ended, if there is one: the failover that came about, if it was one, and the events to write.
    pub fn conclude(&mut self, outcome: &Result<Driven, ViewChangeError>, now: Instant) -> (Option<LastFailover>, Vec<Note>) {
        let Some(drive) = self.driving.take() else {
            return (None, Vec::new());
        };
        let conclusion = conclude(&self.memory, self.shard, &drive, outcome, &self.roster.observed(), now);
        self.memory = conclusion.memory;
        if let Ok(driven) = outcome {
            let changed = &driven.changed;
            self.roster.believe(changed.primary.incarnation, changed.start.epoch);
        }
        if let Some(failover) = &conclusion.failover {
            self.status.last_failover = Some(failover.clone());
        }
        if let Some(loss) = conclusion.data_loss {
            remember(&mut self.status.data_loss, loss);
        }
        (conclusion.failover, conclusion.notes)
    }
}
