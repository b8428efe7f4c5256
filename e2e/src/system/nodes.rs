//! What a node does beside its core: it tells its status, remembers what operators said, and stands in for one that is away,
//! by the rule in [`quorate_protocol::election`].

use super::{Happening, OPERATORS, Owner, SECOND};
use crate::sim::engine::Engine;
use crate::sim::network::Message;
use crate::sim::world::{MILLI, World};
use quorate_api::wire::{FailoverPolicy, Reply, Request};
use quorate_api::{Configuration, Epoch, Incarnation, NodeRole, NodeStatus, ReplicaId, StoreId};
use quorate_protocol::election::{Poll, is_alone, poll, rank};
use quorate_protocol_mutants::{Driver, Session};
use rand::RngExt;
use uuid::Uuid;

/// Members wait for each other so long, in the order of their ordinals.
const STAGGER: u64 = 150 * MILLI;
/// A member that does not tell its status in this time says nothing.
const ANSWER: u64 = 500 * MILLI;
/// A view change that takes longer is given up.
const DEADLINE: u64 = 5 * SECOND;
/// After an attempt that came to nothing; doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: u64 = 250 * MILLI;
/// See [`MIN_BACKOFF`].
const MAX_BACKOFF: u64 = 5 * SECOND;

/// A member that asks the others.
struct Asking {
    promised: Epoch,
    answers: Vec<NodeStatus>,
    sessions: Vec<Session>,
}

/// What is told at once: role, promise, and the primary with whether it is connected.
type Known = (NodeRole, Epoch, Option<(Incarnation, bool)>);

/// See the module.
pub(crate) struct Node {
    /// On the disk: what operators said last.
    pub(crate) policy: Option<FailoverPolicy>,
    /// When an operator was heard last; a start counts.
    pub(crate) heard: u64,
    /// When the process began.
    pub(crate) begun: u64,
    pub(crate) terminating: bool,
    /// A process that was told to stop waits for its hand-over at most until then.
    pub(crate) stops_at: u64,
    /// Counts the addresses that its pods had.
    pub(crate) addresses: u64,
    /// What was told last of what is told at once.
    known: Option<Known>,
    /// Its attempt at a failover: none, due, or one that asks.
    due: bool,
    asking: Option<Asking>,
    /// It drives a view change.
    drives: bool,
    retry_at: u64,
    backoff: u64,
    /// Its monotonic clock runs by so much faster, in millionths.
    pub(crate) drift: i64,
    /// Its wall clock is so many milliseconds ahead.
    pub(crate) skew_millis: i64,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            policy: None,
            heard: 0,
            begun: 0,
            terminating: false,
            stops_at: 0,
            addresses: 0,
            known: None,
            due: false,
            asking: None,
            drives: false,
            retry_at: 0,
            backoff: MIN_BACKOFF,
            drift: 0,
            skew_millis: 0,
        }
    }

    /// A process that begins has nothing under way.
    pub(crate) fn rests(&mut self) {
        (self.due, self.asking, self.drives, self.known) = (false, None, false, None);
        (self.retry_at, self.backoff, self.terminating) = (0, MIN_BACKOFF, false);
    }
}

impl World {
    /// Milliseconds of a machine's monotonic clock.
    pub(crate) fn millis(&self, host: usize) -> u64 {
        let drift = self.system.as_ref().map_or(0, |system| system.nodes[host].drift);
        let micros = i128::from(self.now) * i128::from(1_000_000 + drift) / 1_000_000;
        u64::try_from(micros).unwrap_or(0) / MILLI
    }

    /// Milliseconds of its wall clock.
    pub(crate) fn wall_millis(&self, host: usize) -> u64 {
        match self.system.as_ref() {
            Some(system) => u64::try_from(super::wall(self.now, system.nodes[host].skew_millis).as_millisecond()).unwrap_or(0),
            None => self.now / MILLI,
        }
    }

    /// What a node says of itself. None while it does not run.
    pub(crate) fn node_status(&self, host: usize) -> Option<NodeStatus> {
        let now = self.millis(host);
        let node = &self.system.as_ref()?.nodes[host];
        let replica = self.hosts[host].replica()?;
        let id = ReplicaId {
            store: StoreId(Uuid::nil()),
            shard: 0,
            ordinal: u32::try_from(host).unwrap_or_default(),
            incarnation: self.hosts[host].incarnation,
        };
        Some(NodeStatus {
            terminating: node.terminating,
            uptime_millis: (self.now - node.begun) / MILLI,
            ..replica.status(id, now)
        })
    }

    /// After every step of a core: a change of role, epoch or primary is told at once.
    pub(crate) fn tell_what_changed(&mut self, host: usize) {
        if self.system.is_none() {
            return;
        }
        let now = self.millis(host);
        let Some(replica) = self.hosts[host].replica() else { return };
        let view = replica.primary_view(now).map(|view| (view.incarnation, view.connected));
        let known = Some((replica.role(), replica.promised(), view));
        if self.sys().nodes[host].known != known {
            self.sys().nodes[host].known = known;
            self.tell_all_streams(host);
        }
    }

    /// Somebody asks a node for its status, once.
    pub(crate) fn asked_for_status(&mut self, session: Session, host: usize) {
        if self.hosts[host].frozen {
            return;
        }
        if let Some(status) = self.node_status(host) {
            self.send(host, Message::Answer(session, Reply::Status(Box::new(status))));
        }
    }

    /// At every tick of a node: whether it is left alone.
    pub(crate) fn look_after_itself(&mut self, host: usize) {
        let now = self.now;
        let Some(system) = self.system.as_ref() else { return };
        let node = &system.nodes[host];
        let Some(policy) = node.policy else { return };
        let away = policy.operator_away_millis * MILLI;
        if !policy.automatic
            || away == 0
            || node.due
            || node.asking.is_some()
            || node.drives
            || now < node.retry_at
            || now < node.heard + away
        {
            return;
        }
        if self.hears_an_operator(host) {
            self.sys().nodes[host].heard = now;
            return;
        }
        let Some(status) = self.node_status(host) else { return };
        if !is_alone(&status, policy.suspect_after_millis) {
            return;
        }
        let Some((_, configuration)) = &status.configuration else { return };
        let place = rank(configuration, status.id.incarnation);
        let jitter = self.within(STAGGER / 2);
        let life = self.hosts[host].life;
        self.sys().nodes[host].due = true;
        self.happens(u64::from(place) * STAGGER + jitter, Happening::Attempt(host, life));
    }

    /// An operator says every second that it is there, on a stream that stands.
    fn hears_an_operator(&self, host: usize) -> bool {
        let Some(system) = self.system.as_ref() else { return false };
        system.streams.values().any(|stream| {
            let operator = &system.operators[stream.operator];
            stream.leads_to(host, self.hosts[host].life)
                && operator.life() == Some(stream.life)
                && !self.is_silent(OPERATORS + stream.operator, host)
        })
    }

    fn alone(&mut self, host: usize, life: u64) -> Option<(FailoverPolicy, NodeStatus)> {
        if self.hosts[host].life != life || self.hosts[host].frozen {
            return None;
        }
        let node = &self.sys().nodes[host];
        let (policy, heard) = (node.policy?, node.heard);
        let status = self.node_status(host)?;
        let away = self.now >= heard + policy.operator_away_millis * MILLI && !self.hears_an_operator(host);
        (away && is_alone(&status, policy.suspect_after_millis)).then_some((policy, status))
    }

    /// It asks the others.
    pub(crate) fn attempt(&mut self, host: usize, life: u64) {
        if self.hosts[host].life != life {
            return;
        }
        self.sys().nodes[host].due = false;
        let Some((_, status)) = self.alone(host, life) else { return };
        let Some((_, configuration)) = status.configuration else { return };
        let mut sessions = Vec::new();
        for member in configuration
            .members()
            .iter()
            .filter(|member| member.incarnation != status.id.incarnation)
        {
            let other = member.ordinal as usize;
            if self.hosts.get(other).is_none_or(|host| host.incarnation != member.incarnation) {
                continue;
            }
            let session = self.new_session();
            sessions.push(session);
            let question = Request::Watch {
                interval_millis: 500,
                policy: None,
            };
            self.sys().asked_by.insert(session, host);
            self.send(host, Message::Ask(session, other, question));
        }
        self.sys().nodes[host].asking = Some(Asking {
            promised: status.promised,
            answers: Vec::new(),
            sessions,
        });
        self.happens(ANSWER, Happening::Judge(host, life));
    }

    /// An answer to a member that asks. False if it is for somebody else.
    pub(crate) fn status_answered(&mut self, session: Session, status: &NodeStatus) -> bool {
        let Some(system) = self.system.as_mut() else { return false };
        let Some(host) = system.asked_by.remove(&session) else {
            return false;
        };
        if let Some(asking) = &mut system.nodes[host].asking
            && asking.sessions.contains(&session)
        {
            asking.answers.push(status.clone());
        }
        true
    }

    /// It judges what the others say, and drives if enough have lost the primary.
    pub(crate) fn judge(&mut self, host: usize, life: u64) {
        if self.hosts[host].life != life {
            return;
        }
        let Some(asking) = self.sys().nodes[host].asking.take() else {
            return;
        };
        for session in &asking.sessions {
            self.sys().asked_by.remove(session);
        }
        let Some((policy, me)) = self.alone(host, life) else { return };
        if me.promised != asking.promised {
            return;
        }
        let Poll::Lost(highest) = poll(&me, &asking.answers, policy.suspect_after_millis) else {
            return;
        };
        let known: Vec<Configuration> = std::iter::once(&me)
            .chain(&asking.answers)
            .filter_map(|status| Some(status.configuration.as_ref()?.1.clone()))
            .collect();
        let epoch = self.fresh_epoch(highest);
        self.say(|| format!("n{host} hears no operator and no primary, and drives"));
        self.sys().counts.member_drives += 1;
        self.sys().nodes[host].drives = true;
        let ends = self.now + DEADLINE;
        self.run_engine(
            Engine::Tested(Driver::keep(epoch, known, None)),
            host,
            false,
            ends,
            Some(Owner::Member(host, life)),
        );
    }

    pub(crate) fn member_drive_ended(&mut self, host: usize, life: u64, done: bool) {
        if self.hosts[host].life != life {
            return;
        }
        let now = self.now;
        let jitter = self.rng.random_range(0..MIN_BACKOFF);
        let node = &mut self.sys().nodes[host];
        node.drives = false;
        if done {
            node.backoff = MIN_BACKOFF;
        } else {
            node.retry_at = now + node.backoff + jitter;
            node.backoff = (2 * node.backoff).min(MAX_BACKOFF);
        }
    }
}
