//! Deterministic simulation of whole systems: a replication group as in [`crate::sim`], and around it the cluster that it runs
//! in and the operators that keep it.
//!
//! What decides runs unchanged: the replication cores, the drivers, the operator's planner with everything that is pure around
//! it (`Steward`, `Roster`, `Outbox`, `Settings`, the objects, the rule of the lease) and the members' rule for failing over by
//! themselves. What is simulated: the API server with its watches, the controller of StatefulSets, kubelets, machines and
//! claims, the operator's streams, and the tasks of an operator, each call of which is two events: it arrives and is answered,
//! and both can be late or lost.
//!
//! - `api`: objects, verbs, conflicts, and who hears of changes
//! - `cluster`: pods, machines, claims: the controller and the kubelets
//! - `nodes`: what a node does beside its core: status, hand-over, failover without an operator
//! - `operators`: an operator's process: the lease, watches, reconciliation
//! - `keepers`: its keeper of the store: plans, view changes, what is written
//! - `streams`: the operator's streams to the nodes
//! - `faults`: what goes wrong, and what people do
//! - `story`: one history, and what has to be so at its end
//! - `sweep`: an operator that dies after each single step
//!
//! Places in the network: machines have their ordinal, operators and the API server the numbers below.

pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod faults;
pub(crate) mod keepers;
pub(crate) mod nodes;
pub(crate) mod operators;
pub(crate) mod story;
pub(crate) mod streams;
pub mod sweep;

use crate::sim::world::{MILLI, World};
use api::{Answer, Api, Call, Change, Refusal};
use cluster::Machine;
use k8s_openapi::jiff::Timestamp;
use nodes::Node;
use operators::{Operator, Purpose};
use quorate_api::NodeStatus;
use quorate_api::wire::Request;
use quorate_protocol::{FenceProgress, ViewChanged};
use quorate_protocol_mutants::Session;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use streams::Stream;

/// Microseconds in a second.
pub(crate) const SECOND: u64 = 1_000 * MILLI;
/// Where the API server is.
pub(crate) const API: usize = usize::MAX - 1_000;
/// Where the first operator is.
pub(crate) const OPERATORS: usize = usize::MAX - 900;

/// Who waits for the outcome of a view change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An operator, in one life of its process.
    Operator(usize, u64),
    /// A node that stands in for an operator, in one life of its process.
    Member(usize, u64),
}

/// How a view change ended.
pub(crate) enum Outcome {
    Done {
        changed: ViewChanged,
        fenced: u64,
    },
    /// None for a driver that the operator's planner did not start.
    Failed(Option<quorate_protocol::DriverFailure>),
    Late(Vec<FenceProgress>),
}

/// Something that happens in a whole system, beside what happens in its group.
pub(crate) enum Happening {
    /// A call arrives at the API server: of which operator, in which life, what for.
    Call(usize, u64, Purpose, Call),
    /// Its answer arrives.
    Answer(usize, u64, Purpose, Result<Answer, Refusal>),
    /// A watch tells an operator of a change. The number says which watch.
    Watch(usize, u64, Change),
    /// An operator's watch failed; it begins anew.
    Relist(usize, u64),
    /// The controller of StatefulSets looks.
    Controller,
    /// The kubelet of a pod looks: ordinal.
    Kubelet(usize),
    /// The grace of a pod is over, or its hand-over: ordinal, life.
    Stop(usize, u64),
    /// The cluster notices that a machine is silent: ordinal, number of the silence.
    NotReady(usize, u64),
    /// A machine comes back.
    MachineUp(usize, u64),
    /// The API server comes back.
    ApiUp,
    /// An operator's process begins.
    Boot(usize),
    /// It looks at the lease.
    Campaign(usize, u64),
    /// It reconciles.
    Reconcile(usize, u64),
    /// Its keeper looks.
    Look(usize, u64),
    /// Its keeper publishes.
    Publish(usize, u64),
    /// It looks whether somebody wrote over the status of the store of that UID.
    Status(usize, u64, String),
    /// It dials a pod: ordinal.
    Dial(usize, u64, u32),
    /// Streams, by their number: it is accepted, or not.
    Dialled(u64),
    /// A word arrives at a node.
    Word(u64, Request),
    /// Words of an operator that did not arrive are sent again.
    Resend(u64),
    /// A node tells its status. The second number says which series of reports.
    Beat(u64, u64),
    /// A status arrives at the operator.
    Told(u64, Box<NodeStatus>),
    /// The operator hears that a stream is gone.
    Gone(u64),
    /// The operator looks whether a stream is silent.
    Silence(u64),
    /// A member that is alone asks the others: host, life.
    Attempt(usize, u64),
    /// It judges their answers.
    Judge(usize, u64),
    /// The network forgets links of long ago.
    Tidy,
}

impl Happening {
    /// A number for the hash of the history.
    pub(crate) fn kind(&self) -> u64 {
        match self {
            Self::Call(operator, ..) => 100 + *operator as u64,
            Self::Answer(operator, ..) => 200 + *operator as u64,
            Self::Watch(operator, ..) => 300 + *operator as u64,
            Self::Relist(..) => 1,
            Self::Controller => 2,
            Self::Kubelet(ordinal) => 400 + *ordinal as u64,
            Self::Stop(..) => 3,
            Self::NotReady(..) => 4,
            Self::MachineUp(..) => 5,
            Self::ApiUp => 6,
            Self::Boot(operator) => 500 + *operator as u64,
            Self::Campaign(..) => 7,
            Self::Reconcile(..) => 8,
            Self::Look(..) => 9,
            Self::Publish(..) => 10,
            Self::Status(..) => 21,
            Self::Dial(..) => 11,
            Self::Dialled(..) => 12,
            Self::Word(..) => 13,
            Self::Beat(..) => 14,
            Self::Told(..) => 15,
            Self::Gone(..) => 16,
            Self::Silence(..) => 17,
            Self::Attempt(..) => 18,
            Self::Judge(..) => 19,
            Self::Tidy => 20,
            Self::Resend(..) => 22,
        }
    }
}

/// The cluster and the operators.
pub(crate) struct System {
    pub(crate) profile: faults::Profile,
    pub(crate) api: Api,
    /// By ordinal, as the hosts are.
    pub(crate) machines: Vec<Machine>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) operators: Vec<Operator>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) next_stream: u64,
    /// Which member asked on a session.
    pub(crate) asked_by: BTreeMap<Session, usize>,
    /// Time zero.
    base: Instant,
    /// API calls of operators that were carried out, and words that they sent to nodes.
    pub(crate) steps: u64,
    /// The operator that takes this step dies right after it.
    pub(crate) dies_after: Option<u64>,
    /// Whether the controller is about to look.
    pub(crate) controller_due: bool,
    pub(crate) counts: Counts,
}

/// How much happened, to know that the simulation does enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Plans that were made.
    pub plans: u64,
    /// View changes that operators began.
    pub operator_drives: u64,
    /// View changes that members began by themselves.
    pub member_drives: u64,
    /// Operators that died.
    pub operator_deaths: u64,
    /// Changes of specs.
    pub edits: u64,
    /// Pods that were made anew with an empty volume because their machine was gone.
    pub recreated: u64,
    /// API writes that changed something, but for leases.
    pub writes: u64,
    /// API calls that were refused because of what somebody else wrote.
    pub conflicts: u64,
    /// Stores that were deleted and created again.
    pub adoptions: u64,
}

impl Counts {
    /// Adds up.
    pub fn add(&mut self, other: &Self) {
        let Self {
            plans,
            operator_drives,
            member_drives,
            operator_deaths,
            edits,
            recreated,
            writes,
            conflicts,
            adoptions,
        } = other;
        self.plans += plans;
        self.operator_drives += operator_drives;
        self.member_drives += member_drives;
        self.operator_deaths += operator_deaths;
        self.edits += edits;
        self.recreated += recreated;
        self.writes += writes;
        self.conflicts += conflicts;
        self.adoptions += adoptions;
    }
}

impl System {
    /// A moment as the operator's parts take it.
    pub(crate) fn instant(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    /// Microseconds from the beginning to a moment.
    pub(crate) fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.base).as_micros()).unwrap_or(u64::MAX)
    }
}

/// The wall clock of somebody whose clock is `skew_millis` fast.
pub(crate) fn wall(now: u64, skew_millis: i64) -> Timestamp {
    const BEGIN_MILLIS: i64 = 1_700_000_000_000;
    let millis = BEGIN_MILLIS + i64::try_from(now / MILLI).unwrap_or(i64::MAX / 2) + skew_millis;
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl World {
    /// The system around the group.
    pub(crate) fn sys(&mut self) -> &mut System {
        self.system.as_mut().expect("only whole systems come here")
    }

    /// Now, as the operator's parts take it.
    pub(crate) fn moment(&self) -> Instant {
        let system = self.system.as_ref().expect("only whole systems come here");
        system.instant(self.now)
    }

    pub(crate) fn happens(&mut self, after: u64, happening: Happening) {
        self.schedule(after, crate::sim::world::What::System(Box::new(happening)));
    }

    pub(crate) fn system_event(&mut self, happening: Happening) {
        match happening {
            Happening::Call(operator, life, purpose, call) => self.call_arrives(operator, life, purpose, call),
            Happening::Answer(operator, life, purpose, answer) => self.call_answered(operator, life, purpose, answer),
            Happening::Watch(operator, watch, change) => self.watch_tells(operator, watch, change),
            Happening::Relist(operator, life) => self.relist(operator, life),
            Happening::Controller => self.controller(),
            Happening::Kubelet(ordinal) => self.kubelet(ordinal),
            Happening::Stop(ordinal, life) => self.stop_when_handed_over(ordinal, life),
            Happening::NotReady(ordinal, silence) => self.machine_not_ready(ordinal, silence),
            Happening::MachineUp(ordinal, silence) => self.machine_up(ordinal, silence),
            Happening::ApiUp => self.sys().api.away = false,
            Happening::Boot(operator) => self.boot(operator),
            Happening::Campaign(operator, life) => self.campaign(operator, life),
            Happening::Reconcile(operator, life) => self.reconcile_due(operator, life),
            Happening::Look(operator, life) => self.look(operator, life),
            Happening::Publish(operator, life) => self.publish_due(operator, life),
            Happening::Status(operator, life, uid) => self.look_at_status(operator, life, &uid),
            Happening::Dial(operator, life, ordinal) => self.dial_pod(operator, life, ordinal),
            Happening::Dialled(stream) => self.dialled(stream),
            Happening::Word(stream, request) => self.word_arrives(stream, request),
            Happening::Resend(stream) => self.send_unsent(stream),
            Happening::Beat(stream, series) => self.beat(stream, series),
            Happening::Told(stream, status) => self.told(stream, status),
            Happening::Gone(stream) => self.stream_gone(stream),
            Happening::Silence(stream) => self.silence(stream),
            Happening::Attempt(host, life) => self.attempt(host, life),
            Happening::Judge(host, life) => self.judge(host, life),
            Happening::Tidy => {
                self.forget_old_links();
                self.happens(2 * SECOND, Happening::Tidy);
            }
        }
    }

    /// Time from here to there and a little: a call, an answer, a word.
    pub(crate) fn way(&mut self) -> u64 {
        let usual = 300 + self.within(self.profile.latency);
        match self.faults && {
            use rand::RngExt;
            self.rng.random_bool(self.profile.late)
        } {
            true => usual + self.within(self.profile.lateness),
            false => usual,
        }
    }
}
