//! One member of a replication group: follower or primary.
//!
//! The way of a write: [`Replica::propose`] appends, [`Replica::flush`] gives the sends to all members and the append
//! to the own log, acknowledgements and [`Event::LogDurable`] come back through [`Replica::step`], and
//! [`Replica::commit`] rises. The way of a read: [`Replica::read_barrier`] names a round, `flush` sends it, and the read
//! may be answered once [`Replica::confirmed_round`] has reached it and `commit` covers what the read saw. The way of a read
//! on a follower: [`Replica::ask_barrier`] names a question to the primary, `flush` sends it, and the read may be executed
//! once [`Replica::confirmed_ask`] has reached it.
//!
//! Invariants, asserted where they are cheap: the promise never falls and is durable before it is told · one
//! activation per epoch, durable before its first entry leaves · entries are committed only through an entry of the
//! primary's own epoch · the log is never cut at or below the commit index · a primary that restarts is a follower.
//!
//! It does not execute commands, know clients, or decide who should be primary.

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod eventual;
mod follower;
mod learners;
mod primary;
mod read_index;
mod streams;
mod view_change;

use crate::event::{Effect, Event, Session};
use crate::hard_state::HardState;
use crate::log_view::LogView;
use crate::mutation::{self, Mutation};
use follower::Follower;
use primary::Primary;
use quorate_api::wire::Request;
use quorate_api::{
    Configuration, DiskRoom, EntryId, Epoch, Incarnation, NodeRole, NodeStatus, PeerStatus, PrimaryView, Proposal, ReplicaId,
};
use read_index::Asks;
use std::collections::BTreeMap;

/// Times and bounds that the core works by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Milliseconds: a primary sends to every member at least this often.
    pub heartbeat_millis: u64,
    /// Milliseconds: what was not acknowledged for so long is taken as lost on the way.
    pub resend_millis: u64,
    /// Bytes of entries in one append: large enough to fill a sync, small enough to share the link.
    pub max_append_bytes: usize,
    /// Bytes sent to a member and not acknowledged, beyond which its stream waits.
    pub max_in_flight_bytes: usize,
    /// Bytes of settled entries kept in memory, so that a member that is a little behind needs no file.
    pub tail_bytes: usize,
    /// Bytes of entries that are not committed, beyond which a primary whose members have full disks takes no more, also where
    /// it could acknowledge them.
    pub max_unsettled_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_millis: 100,
            resend_millis: 1000,
            max_append_bytes: 1 << 20,
            max_in_flight_bytes: 16 << 20,
            tail_bytes: 16 << 20,
            max_unsettled_bytes: 32 << 20,
        }
    }
}

#[derive(Clone, Debug)]
enum Role {
    Follower(Follower),
    Primary(Box<Primary>),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Replica {
    me: Incarnation,
    settings: Settings,
    hard: HardState,
    log: LogView,
    /// The log is durable up to here.
    durable: u64,
    /// Number of truncations so far.
    generation: u64,
    commit: u64,
    /// The state holds every entry up to here; on a primary that is all of them.
    applied: u64,
    /// Dialled connections that stand.
    links: BTreeMap<Incarnation, Session>,
    role: Role,
    disk: DiskRoom,
    /// See [`Replica::learner_changes`].
    learner_changes: u64,
    /// What this replica, as a follower, asks its primary for its readers.
    asks: Asks,
}

impl Replica {
    /// A replica as it comes back from its disk: `log` is durable whole, the state holds entries up to `commit`,
    /// and memory holds those above.
    #[must_use]
    pub fn new(me: Incarnation, settings: Settings, hard: HardState, mut log: LogView, commit: u64) -> Self {
        let durable = log.last().id.index;
        assert!(
            (log.base().id.index..=durable).contains(&commit),
            "the commit index of a restarted replica lies in its log"
        );
        log.keep_tail(settings.tail_bytes);
        let role = Role::Follower(Follower::default());
        Self {
            me,
            settings,
            hard,
            log,
            durable,
            generation: 0,
            commit,
            applied: commit,
            links: BTreeMap::new(),
            role,
            disk: DiskRoom::Ample,
            learner_changes: 0,
            asks: Asks::default(),
        }
    }

    /// Takes one input at a time `now` (milliseconds of any monotonic clock) and adds what is to be done.
    pub fn step(&mut self, event: Event, now: u64, out: &mut Vec<Effect>) {
        match event {
            Event::Request { from, peer, request } => match request {
                Request::Append(append) => self.on_append(from, peer, append, now, out),
                Request::SnapshotChunk(chunk) => self.on_snapshot_chunk(from, peer, chunk, now, out),
                Request::ReadIndex(number) => self.on_read_index(from, number, now, out),
                Request::Fence(request) => self.on_fence(from, &request, out),
                Request::Activate(request) => self.on_activate(from, request, now, out),
                Request::Admit(learners) => self.on_admit(learners, now, out),
                // The runtime's matter.
                Request::Watch { .. }
                | Request::Addresses(_)
                | Request::HandOver
                | Request::Route(_)
                | Request::MoveSlots(_)
                | Request::AbortMove { .. }
                | Request::SlotSizes
                | Request::Handoff(_) => {}
            },
            Event::SessionClosed(session) => self.on_session_closed(session),
            Event::LinkUp { peer, session } => {
                self.links.insert(peer, session);
                self.on_link_up(peer, session, now, out);
            }
            Event::LinkDown(session) => {
                self.links.retain(|_, standing| *standing != session);
                self.ask_again();
                self.on_link_down(session);
            }
            Event::AppendAck { session, ack } => self.on_append_ack(session, ack, now, out),
            Event::ReadIndex(answer) => self.on_read_index_answer(answer),
            Event::LogDurable { generation, index } => self.on_log_durable(generation, index, out),
            Event::LogRead { session, read } => self.on_log_read(session, read, now, out),
            Event::SnapshotDelivered(session) => self.on_snapshot_delivered(session, now, out),
            Event::SnapshotReceived {
                position,
                configuration,
                timestamp_millis,
            } => self.on_snapshot_received(position, configuration, timestamp_millis, out),
            Event::LogTrimmed(base) => {
                assert!(base.id.index <= self.commit, "only committed entries are trimmed");
                self.log.trim(base);
            }
            Event::Disk(disk) => self.disk = disk,
            Event::Tick => {
                self.repeat_asks(now);
                self.on_tick(now, out);
            }
        }
        self.ask(now, out);
    }

    /// This replica.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.me
    }

    /// Highest epoch promised.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.hard.promised
    }

    /// Last entry of the log.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.log.last().id
    }

    /// The log is durable here up to this index.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Every entry up to this index is committed, as far as this replica knows.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// See [`Effect::AppendLog`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Room on the own disk, as the runtime told last.
    #[must_use]
    pub fn disk(&self) -> DiskRoom {
        self.disk
    }

    /// The log in memory.
    #[must_use]
    pub fn log(&self) -> &LogView {
        &self.log
    }

    /// The configuration of the last epoch start in the log, with that entry's name. None on a blank replica.
    #[must_use]
    pub fn configuration(&self) -> Option<&(EntryId, Configuration)> {
        self.log.configurations().last()
    }

    /// True while the state holds nothing that may still be cut off: a replica may show it to those who asked for stale data.
    #[must_use]
    pub fn state_is_committed(&self) -> bool {
        self.applied <= self.commit
    }

    /// The part that it plays.
    #[must_use]
    pub fn role(&self) -> NodeRole {
        match &self.role {
            Role::Primary(primary) if primary.serving => NodeRole::Primary,
            Role::Primary(_) => NodeRole::Activating,
            // One that lost its log is not blank: it may hold the only word of what was acknowledged.
            Role::Follower(_) if self.log.last().id.index == 0 && !self.damaged() => NodeRole::Blank,
            Role::Follower(_) if self.configuration().is_some_and(|(_, c)| !c.contains(self.me)) => NodeRole::Learner,
            Role::Follower(_) => NodeRole::Follower,
        }
    }

    /// True while clients may be answered by this replica as the primary.
    #[must_use]
    pub fn serving(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.serving)
    }

    /// True if entries were found unreadable and not yet made good.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.hard.unreadable.is_some() && !mutation::active(Mutation::DamageIgnored)
    }

    /// Whether a connection to that member stands, dialled by this replica.
    #[must_use]
    pub fn linked(&self, member: Incarnation) -> bool {
        self.links.contains_key(&member)
    }

    /// Number of members that a connection stands to.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// The primary that this replica follows, itself included.
    #[must_use]
    pub fn primary_view(&self, now: u64) -> Option<PrimaryView> {
        let epoch = self.hard.promised;
        match &self.role {
            Role::Primary(_) => Some(PrimaryView {
                incarnation: self.me,
                epoch,
                heard_millis_ago: 0,
                connected: true,
            }),
            Role::Follower(follower) => follower.heard.as_ref().map(|heard| PrimaryView {
                incarnation: heard.primary,
                epoch,
                heard_millis_ago: now.saturating_sub(heard.at),
                connected: heard.connected,
            }),
        }
    }

    /// What the core knows of a node's status, the rest as of a blank one; `id` names this replica.
    #[must_use]
    pub fn status(&self, id: ReplicaId, now: u64) -> NodeStatus {
        NodeStatus {
            role: self.role(),
            promised: self.promised(),
            last: self.last(),
            durable: self.durable(),
            commit: self.commit(),
            configuration: self.configuration().cloned(),
            pods: self.pods(),
            primary: self.primary_view(now),
            peers: self.peers(now),
            damaged: self.damaged(),
            acknowledged: self.acknowledged(),
            disk: self.disk(),
            ..NodeStatus::blank(id)
        }
    }

    /// See [`NodeStatus::pods`]. A proposal below a committed epoch start counts no more, also before it is forgotten: that may
    /// take until the next write.
    fn pods(&self) -> u32 {
        let settled = self.log.governing(self.commit.min(self.durable)).map(|(start, _)| start.epoch);
        let open = self.hard.proposals.iter().filter(|(epoch, _)| Some(*epoch) > settled);
        let logged = self.log.configurations().iter().map(|(_, configuration)| configuration);
        let proposed = open.filter_map(|(_, proposal)| match proposal {
            Proposal::Keep => None,
            Proposal::Change(configuration) => Some(configuration),
        });
        logged.chain(proposed).map(Configuration::pods).max().unwrap_or_default()
    }

    /// What a primary knows of the other members; empty on others.
    #[must_use]
    pub fn peers(&self, now: u64) -> Vec<PeerStatus> {
        match &self.role {
            Role::Primary(primary) => primary.peer_statuses(now),
            Role::Follower(_) => Vec::new(),
        }
    }

    /// Raises the commit index to `commit` and gives what followers apply.
    fn commit_through(&mut self, commit: u64, out: &mut Vec<Effect>) {
        if commit <= self.commit {
            return;
        }
        self.commit = commit;
        self.log.forget_configurations(commit);
        self.forget_proposals(out);
        self.apply_through(commit, out);
        self.make_good(out);
        self.log.shrink_tail(self.applied.min(self.commit).min(self.durable));
    }

    /// Forgets proposals up to the last committed epoch start, once that start is durable here: until then a crash can take
    /// it from this log, and with it the only word of its configuration that a later driver gets from this member. That it is
    /// committed is remembered from then on.
    fn forget_proposals(&mut self, out: &mut Vec<Effect>) {
        let settled = match mutation::active(Mutation::ForgetBeforeSync) {
            true => self.commit,
            false => self.commit.min(self.durable),
        };
        if let Some(&(start, _)) = self.log.governing(settled) {
            self.hard.proposals.retain(|(epoch, _)| *epoch > start.epoch);
            if start.index > self.hard.settled {
                self.hard.settled = start.index;
                out.push(Effect::PersistHardState(self.hard.clone()));
            }
        }
    }

    /// Ends the damage once this replica holds, durably, what is at least what it lost: the same entries again, or those
    /// that the primary of a later epoch has in their place.
    fn make_good(&mut self, out: &mut Vec<Effect>) {
        let Some(lost) = self.hard.unreadable else { return };
        let matched = self.follower().map_or(0, Follower::matched);
        let held = self.durable.min(self.commit.max(matched));
        if self.log.id_at(held).is_some_and(|id| id >= lost) {
            self.hard.unreadable = None;
            out.push(Effect::PersistHardState(self.hard.clone()));
        }
    }

    /// Gives the entries up to `index` that the state does not hold yet.
    fn apply_through(&mut self, index: u64, out: &mut Vec<Effect>) {
        if index <= self.applied {
            return;
        }
        let mut entries = self
            .log
            .entries(self.applied, usize::MAX)
            .expect("entries that are not applied are in memory");
        entries.truncate(usize::try_from(index - self.applied).expect("fits memory"));
        self.applied = index;
        out.push(Effect::Apply(entries));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_api::wire::{Append, AppendAck, Mismatch};
    use quorate_api::{ActivateRequest, Entry, EntryBody, FenceRequest, Member, Position};
    use std::sync::Arc;
    use uuid::Uuid;

    const LINK: Session = Session(1);
    const DRIVER: Session = Session(9);

    fn incarnation(n: u128) -> Incarnation {
        Incarnation(Uuid::from_u128(n + 1))
    }

    fn configuration() -> Configuration {
        let members = (0..3u32)
            .map(|ordinal| Member {
                incarnation: incarnation(ordinal.into()),
                ordinal,
                host: format!("n{ordinal}"),
            })
            .collect();
        Configuration::new(members, 2, 2).expect("a valid test configuration")
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 0 }
    }

    fn after(previous: Position, number: u64, body: EntryBody) -> Arc<Entry> {
        Arc::new(Entry::next(previous, epoch(number), 0, body))
    }

    fn step(replica: &mut Replica, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        replica.step(event, 0, &mut out);
        out
    }

    fn become_primary(replica: &mut Replica, number: u64) -> Vec<Effect> {
        let fence = FenceRequest {
            epoch: epoch(number),
            proposal: Proposal::Keep,
        };
        let activate = ActivateRequest {
            epoch: epoch(number),
            last: replica.last(),
            configuration: configuration(),
        };
        let mut effects = Vec::new();
        for request in [Request::Fence(fence), Request::Activate(activate)] {
            let (from, peer) = (DRIVER, None);
            effects.extend(step(replica, Event::Request { from, peer, request }));
        }
        effects
    }

    /// A member answers that its log may agree with this one up to `index`.
    fn lags(replica: &mut Replica, number: u64, index: u64, round: u64) -> Vec<Effect> {
        let mismatch = Some(Mismatch::Diverges(replica.log().id_at(index).expect("an index of the log")));
        let ack = AppendAck {
            epoch: epoch(number),
            durable: 0,
            round,
            mismatch,
            disk: DiskRoom::Ample,
            held: 0,
        };
        step(replica, Event::AppendAck { session: LINK, ack })
    }

    #[test]
    fn entries_read_from_the_file_before_the_log_was_cut_are_not_sent_as_entries_of_the_new_one() {
        // Nothing settled stays in memory, and the log holds entries of epoch 1 up to 4.
        let settings = Settings {
            tail_bytes: 0,
            ..Settings::default()
        };
        let mut log = LogView::new(Position::default(), None, 0);
        log.push(after(log.last(), 1, EntryBody::EpochStart(configuration())));
        for _ in 0..3 {
            log.push(after(log.last(), 1, EntryBody::Effects(Bytes::from_static(b"old"))));
        }
        let old = log.entries(1, usize::MAX).expect("all are in memory");
        let second = log.position_at(1).expect("all are in memory");
        log.keep_tail(0);
        log.shrink_tail(1);
        let mut replica = Replica::new(incarnation(0), settings, HardState::default(), log, 1);
        step(
            &mut replica,
            Event::LinkUp {
                peer: incarnation(1),
                session: LINK,
            },
        );
        become_primary(&mut replica, 2);
        let reads = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::ReadLog { after: 0, .. })).count();
        assert_eq!(reads(&lags(&mut replica, 2, 0, 1)), 1);

        // Another primary cuts what was read, and this replica comes back with a stream at the same place.
        let other = after(second, 3, EntryBody::Effects(Bytes::from_static(b"new")));
        let append = Append {
            epoch: epoch(3),
            prev: second,
            commit: 1,
            round: 1,
            entries: vec![other],
        };
        let cut = step(
            &mut replica,
            Event::Request {
                from: Session(2),
                peer: Some(incarnation(2)),
                request: Request::Append(append),
            },
        );
        assert!(cut.contains(&Effect::TruncateLog(1)), "{cut:?}");
        become_primary(&mut replica, 4);
        assert_eq!(reads(&lags(&mut replica, 4, 0, 1)), 1);
        let late = step(
            &mut replica,
            Event::LogRead {
                session: LINK,
                read: Some((
                    Position::default(),
                    std::iter::once(after(Position::default(), 1, EntryBody::EpochStart(configuration())))
                        .chain(old)
                        .collect(),
                )),
            },
        );
        assert_eq!(reads(&late), 1, "it reads again: {late:?}");
        assert!(!late.iter().any(|effect| matches!(effect, Effect::Send(..))), "{late:?}");
    }

    #[test]
    fn a_proposal_is_remembered_until_the_epoch_start_that_settles_it_is_durable_here() {
        let mut log = LogView::new(Position::default(), None, 0);
        log.push(after(log.last(), 1, EntryBody::EpochStart(configuration())));
        let mut replica = Replica::new(incarnation(0), Settings::default(), HardState::default(), log, 1);
        let other = (incarnation(1), LINK);
        step(
            &mut replica,
            Event::LinkUp {
                peer: other.0,
                session: other.1,
            },
        );
        step(
            &mut replica,
            Event::LinkUp {
                peer: incarnation(2),
                session: Session(2),
            },
        );
        let mut members = configuration().members().to_vec();
        members.push(Member {
            incarnation: incarnation(3),
            ordinal: 3,
            host: "n3".into(),
        });
        let target = Configuration::new(members, 3, 2).expect("a valid test configuration");
        let proposal = Proposal::Change(target);
        let fence = |number, proposal: &Proposal| {
            let request = FenceRequest {
                epoch: epoch(number),
                proposal: proposal.clone(),
            };
            Event::Request {
                from: DRIVER,
                peer: None,
                request: Request::Fence(request),
            }
        };
        step(&mut replica, fence(2, &proposal));
        let request = ActivateRequest {
            epoch: epoch(2),
            last: replica.last(),
            configuration: configuration(),
        };
        step(
            &mut replica,
            Event::Request {
                from: DRIVER,
                peer: None,
                request: Request::Activate(request),
            },
        );
        // The two others hold the epoch start; the own sync is slow.
        for session in [LINK, Session(2)] {
            let ack = AppendAck {
                epoch: epoch(2),
                durable: 2,
                round: 0,
                mismatch: None,
                disk: DiskRoom::Ample,
                held: 2,
            };
            step(&mut replica, Event::AppendAck { session, ack });
        }
        assert!(replica.serving());
        let stored = |effects: &[Effect]| {
            let hard = effects.iter().find_map(|e| {
                if let Effect::PersistHardState(hard) = e {
                    Some(hard.clone())
                } else {
                    None
                }
            });
            hard.expect("a promise is made durable").proposals
        };
        let slow = stored(&step(&mut replica.clone(), fence(3, &Proposal::Keep)));
        assert_eq!(slow, [(epoch(2), proposal.clone()), (epoch(3), Proposal::Keep)]);
        assert_eq!(replica.pods(), 4, "the proposal has a fourth");
        step(&mut replica, Event::LogDurable { generation: 0, index: 2 });
        assert_eq!(replica.pods(), 3);
        // A crash between the sync of the log and that of the promises.
        replica.hard.proposals.insert(0, (epoch(2), proposal));
        assert_eq!(replica.pods(), 3, "it is settled whether it was forgotten or not");
        replica.hard.proposals.remove(0);
        assert_eq!(stored(&step(&mut replica, fence(3, &Proposal::Keep))), [(epoch(3), Proposal::Keep)]);
    }

    #[test]
    fn a_learner_gets_the_log_counts_in_nothing_and_deposes_nobody() {
        const LEARNER: Session = Session(5);
        let log = LogView::new(Position::default(), None, 0);
        let mut primary = Replica::new(incarnation(0), Settings::default(), HardState::default(), log, 0);
        let link = |primary: &mut Replica, peer, session| step(primary, Event::LinkUp { peer, session });
        link(&mut primary, incarnation(1), LINK);
        become_primary(&mut primary, 2);
        let member = Member {
            incarnation: incarnation(7),
            ordinal: 3,
            host: "n3".into(),
        };
        let admit = |primary: &mut Replica, learners: &[Member]| {
            let request = Request::Admit(learners.to_vec());
            step(
                primary,
                Event::Request {
                    from: DRIVER,
                    peer: None,
                    request,
                },
            )
        };
        let ack = |primary: &mut Replica, session, durable, round| {
            primary.step(
                Event::LogDurable {
                    generation: 0,
                    index: durable,
                },
                0,
                &mut Vec::new(),
            );
            let ack = AppendAck {
                epoch: epoch(2),
                durable,
                round,
                mismatch: None,
                disk: DiskRoom::Ample,
                held: durable,
            };
            step(primary, Event::AppendAck { session, ack })
        };
        admit(&mut primary, std::slice::from_ref(&member));
        assert_eq!(primary.learners(), [], "not before the epoch start is committed");
        ack(&mut primary, LINK, 1, 1);
        assert!(primary.serving());
        step(&mut primary, Event::Tick);
        assert_eq!(primary.learners(), std::slice::from_ref(&member));
        let sent = link(&mut primary, incarnation(7), LEARNER);
        assert!(sent.iter().any(|e| matches!(e, Effect::Send(LEARNER, _))), "{sent:?}");

        let index = primary.propose(Bytes::from_static(b"x"), 0);
        let barrier = primary.read_barrier();
        primary.flush(0, &mut Vec::new());
        ack(&mut primary, LEARNER, index, 1000);
        let peers = primary.peers(0);
        assert!(peers.iter().any(|p| p.learner && p.matched == index), "{peers:?}");
        assert_eq!(primary.commit(), 1, "a learner is no write quorum");
        assert!(primary.confirmed_round() < barrier, "nor does it confirm a read");
        assert!(!primary.has_successor());
        let refusal = AppendAck {
            epoch: epoch(2),
            durable: 0,
            round: 1000,
            mismatch: Some(Mismatch::Promised(epoch(9))),
            disk: DiskRoom::Ample,
            held: 0,
        };
        step(
            &mut primary,
            Event::AppendAck {
                session: LEARNER,
                ack: refusal,
            },
        );
        assert!(primary.serving(), "a learner's promise deposes nobody");
        admit(&mut primary, &[]);
        assert!(primary.peers(0).iter().all(|p| !p.learner));
    }
}
