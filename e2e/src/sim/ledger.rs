//! What must hold, written down from outside: the one history, the epochs and their primaries, promises, and what clients
//! were told. Each check looks at every step where it could break.

use super::disk::{KEYS, decode};
use super::host::Host;
use super::linearize::{Operation, Verdict, check};
use super::told::Told;
use super::world::{Violation, World};
use quorate_api::wire::{Append, AppendAck, ReadIndexAnswer};
use quorate_api::{Entry, EntryId, Epoch, FenceAnswer, Incarnation, NodeRole, Position};
use quorate_protocol_mutants::{HardState, Session};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// See the module.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The committed log, as whoever committed first had it; from index 1.
    pub(crate) committed: Vec<Arc<Entry>>,
    epochs: BTreeMap<Epoch, Incarnation>,
    begun: BTreeSet<Epoch>,
    /// The log that each driver chose.
    pub(crate) chosen: BTreeMap<Epoch, EntryId>,
    names: HashMap<EntryId, u64>,
    /// The highest promise that each replica has written or told.
    promises: BTreeMap<Incarnation, Epoch>,
    /// Index, register and value of every write that a client was told to be done.
    pub(crate) acknowledged: Vec<(u64, usize, u64)>,
    /// The highest index of them.
    acknowledged_through: u64,
    /// What that was when a follower asked for a read index: by its link and the number of its question.
    asked: BTreeMap<(Session, u64), u64>,
    /// The same of an eventual configuration, told before they were committed.
    pub(crate) unsettled: Vec<(u64, usize, u64)>,
    pub(crate) histories: [Vec<Operation>; KEYS],
    /// The same for checkers of others, if somebody wants it.
    pub(crate) told: Option<Told>,
    /// No operation begins any more.
    pub(crate) closed: bool,
    // How much happened, to know that the simulation does enough.
    pub(crate) served: u64,
    pub(crate) answered: u64,
    pub(crate) trims: u64,
    pub(crate) installs: u64,
    pub(crate) half_installs: u64,
    pub(crate) fills: u64,
    pub(crate) file_reads: u64,
    pub(crate) changes: u64,
    pub(crate) damages: u64,
    pub(crate) wipes: u64,
    pub(crate) follower_reads: u64,
    pub(crate) tails: u64,
}

type Found = Option<Violation>;

fn violate(found: &mut Found, check: &'static str, detail: String) {
    found.get_or_insert(Violation { check, detail, lost: 0 });
}

impl Ledger {
    /// A process may not come back with less than it promised.
    pub(crate) fn promise_is_kept(&self, number: usize, host: &Host, found: &mut Found) {
        let told = self.promises.get(&host.incarnation).copied().unwrap_or_default();
        if host.disk.hard.promised < told {
            let promised = host.disk.hard.promised;
            violate(
                found,
                "a promise never falls",
                format!("n{number} had promised {told} and starts with {promised}"),
            );
        }
    }

    pub(crate) fn hard_state_written(&mut self, number: usize, host: &Host, hard: &HardState, found: &mut Found) {
        let before = &host.disk.hard;
        if hard.promised < before.promised || hard.activated < before.activated {
            violate(found, "a promise never falls", format!("n{number}: {before:?} to {hard:?}"));
        }
        if hard.activated > before.activated
            && let Some(other) = self.epochs.insert(hard.activated, host.incarnation)
        {
            let epoch = hard.activated;
            violate(
                found,
                "an epoch has one primary",
                format!("n{number} begins {epoch}, and {other} did before"),
            );
        }
        let promise = self.promises.entry(host.incarnation).or_default();
        *promise = hard.promised.max(*promise);
    }

    pub(crate) fn epoch_begins(&mut self, number: usize, epoch: Epoch, last: Option<EntryId>, found: &mut Found) {
        if !self.begun.insert(epoch) {
            violate(found, "an epoch begins once", format!("n{number} begins {epoch} again"));
        }
        let chosen = self.chosen.get(&epoch).copied();
        if last != chosen {
            violate(
                found,
                "an epoch begins after the log that was chosen",
                format!("n{number} begins {epoch} after {last:?}, chosen was {chosen:?}"),
            );
        }
    }

    pub(crate) fn promise_is_durable(&mut self, number: usize, host: &Host, answer: &FenceAnswer, found: &mut Found) {
        let written = host.disk.hard.promised;
        if answer.promised > written {
            let told = answer.promised;
            violate(
                found,
                "a promise is durable before it is told",
                format!("n{number} told {told}, its disk says {written}"),
            );
        }
    }

    pub(crate) fn ack_is_durable(&mut self, number: usize, host: &Host, ack: &AppendAck, found: &mut Found) {
        if ack.durable > host.disk.synced() {
            let synced = host.disk.synced();
            violate(
                found,
                "an acknowledgement comes after the sync",
                format!("n{number} acknowledged {}, durable up to {synced}", ack.durable),
            );
        }
    }

    pub(crate) fn entries_written(&mut self, number: usize, entries: &[Arc<Entry>], found: &mut Found) {
        for entry in entries {
            let chain = *self.names.entry(entry.id).or_insert(entry.chain);
            if chain != entry.chain {
                violate(
                    found,
                    "a name means one entry",
                    format!("n{number} writes another entry {:?}", entry.id),
                );
            }
        }
    }

    /// The position of the committed log at an index. None if nobody committed so far.
    fn committed_at(&self, index: u64) -> Option<Position> {
        match index.checked_sub(1) {
            None => Some(Position::default()),
            Some(offset) => Some(self.committed.get(usize::try_from(offset).ok()?)?.position()),
        }
    }

    pub(crate) fn snapshot_is_history(&self, number: usize, position: Position, found: &mut Found) {
        if self.committed_at(position.id.index) != Some(position) {
            violate(
                found,
                "one history",
                format!("n{number} installs a snapshot of {position:?}, which is not committed"),
            );
        }
    }

    /// A client is told that a write is done.
    pub(crate) fn acknowledge(&mut self, write: (u64, usize, u64)) {
        self.acknowledged_through = self.acknowledged_through.max(write.0);
        self.acknowledged.push(write);
    }

    /// A follower asks for a read index.
    pub(crate) fn index_asked(&mut self, session: Session, number: u64) {
        self.asked.insert((session, number), self.acknowledged_through);
    }

    /// Acknowledged writes that are not in the log that `host` has.
    fn lost_in(&self, host: &Host) -> Vec<(u64, usize, u64)> {
        let base = host.disk.base().id.index;
        let holds = |&&(index, key, value): &&(u64, usize, u64)| {
            index <= base || host.disk.entry(index).is_some_and(|entry| decode(entry).contains(&(key, value)))
        };
        self.acknowledged.iter().filter(|write| !holds(write)).copied().collect()
    }

    /// Acknowledged writes that the committed log does not hold.
    pub(crate) fn lost(&self) -> Vec<(u64, usize, u64)> {
        let entry = |index: u64| self.committed.get(usize::try_from(index - 1).ok()?);
        let holds = |&&(index, key, value): &&(u64, usize, u64)| entry(index).is_some_and(|e| decode(e).contains(&(key, value)));
        self.acknowledged.iter().filter(|write| !holds(write)).copied().collect()
    }

    /// What an eventual configuration acknowledged and nobody has any more: not in the committed log, not in the log of a
    /// machine, and not kept aside where it was cut off.
    pub(crate) fn forgotten(&self, hosts: &[Host]) -> Vec<(u64, usize, u64)> {
        let holds = |entry: &Arc<Entry>, key, value| decode(entry).contains(&(key, value));
        let found = |&&(index, key, value): &&(u64, usize, u64)| {
            let committed = usize::try_from(index - 1).ok().and_then(|at| self.committed.get(at));
            let elsewhere = hosts
                .iter()
                .flat_map(|host| host.disk.entry(index).into_iter().chain(&host.disk.aside));
            committed.into_iter().chain(elsewhere).any(|entry| holds(entry, key, value))
        };
        self.unsettled.iter().filter(|write| !found(write)).copied().collect()
    }

    /// Searches an order for the operations on each register.
    pub(crate) fn linearizable(&self) -> Option<Violation> {
        for (key, history) in self.histories.iter().enumerate() {
            let (check, detail) = match check(0, history) {
                Verdict::Linearizable => continue,
                Verdict::Not(place) => (
                    "linearizability",
                    format!("register {key}: no order has a place for {:?}", history[place]),
                ),
                Verdict::Undecided => (
                    "linearizability (undecided)",
                    format!("register {key}: {} operations", history.len()),
                ),
            };
            return Some(Violation { check, detail, lost: 0 });
        }
        None
    }
}

impl World {
    /// The invariants, after whatever a machine did.
    pub(crate) fn check(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let Some(process) = host.process.as_mut() else { return };
        let (replica, commit) = (&process.replica, process.replica.commit());
        let numbers = [commit, replica.last().index, replica.promised().number, replica.durable()];
        let serving = replica.serving();
        let applied = process.applied;
        // What a primary proposed last may still wait to be given to the log.
        let own = matches!(replica.role(), NodeRole::Primary | NodeRole::Activating);
        let written = replica.last().index == host.disk.last() || (own && replica.last().index > host.disk.last());
        if !written || applied < commit {
            let (last, disk) = (replica.log().last().id.index, host.disk.last());
            self.violate("log, disk and state go together", || {
                format!("n{number}: log {last}, disk {disk}, applied {applied}, commit {commit}")
            });
            return;
        }
        for index in process.checked + 1..=commit {
            let Some(entry) = host.disk.entry(index) else { continue };
            let known = self.ledger.committed.len() as u64;
            if index == known + 1 {
                self.ledger.committed.push(Arc::clone(entry));
            } else if self.ledger.committed_at(index) != Some(entry.position()) {
                let (id, known) = (entry.id, self.ledger.committed_at(index));
                self.violate("one history", || format!("n{number} has {id:?} committed, and others {known:?}"));
                return;
            }
        }
        let advanced = commit > process.checked;
        process.checked = process.checked.max(commit);
        self.note(&numbers);
        if advanced && own {
            self.commit_is_of_this_epoch(number, commit);
        }
        if advanced && serving {
            self.commit_has_a_quorum(number, commit);
        }
    }

    /// What a primary sends is in its log.
    pub(crate) fn sends_its_own_log(&mut self, number: usize, append: &Append) {
        let Some(replica) = self.hosts[number].replica() else { return };
        let strange = |entry: &&Arc<Entry>| {
            let held = replica.log().id_at(entry.id.index);
            held.is_some_and(|id| id != entry.id)
        };
        if let Some(id) = append.entries.iter().find(strange).map(|entry| entry.id) {
            self.violate("a primary sends its own log", || format!("n{number} sent {id:?}"));
        }
    }

    /// Whoever asked for a read index may answer with what was acknowledged before that, and with nothing older.
    pub(crate) fn index_answered(&mut self, number: usize, session: Session, answer: ReadIndexAnswer) {
        let asked = self.ledger.asked.remove(&(session, answer.number));
        let (Some(acknowledged), Some(index)) = (asked, answer.index) else {
            return;
        };
        if index < acknowledged && self.is_strong() {
            self.violate("a read index covers what was acknowledged before", || {
                format!("n{number} says {index}, and {acknowledged} was acknowledged")
            });
        }
    }

    /// A primary commits through an entry of its own epoch only.
    fn commit_is_of_this_epoch(&mut self, number: usize, commit: u64) {
        let host = &self.hosts[number];
        let (Some(entry), Some(replica)) = (host.disk.entry(commit), host.replica()) else {
            return;
        };
        let (id, epoch) = (entry.id, replica.promised());
        if id.epoch != epoch {
            self.violate("a primary commits through its own epoch", || {
                format!("n{number} of epoch {epoch} has {id:?} committed")
            });
        }
    }

    /// What a primary calls committed is durable on a commit quorum. Disks that lose what they had are another matter.
    fn commit_has_a_quorum(&mut self, number: usize, commit: u64) {
        if self.ledger.damages + self.ledger.wipes > 0 {
            return;
        }
        let host = &self.hosts[number];
        let (Some(entry), Some(replica)) = (host.disk.entry(commit), host.replica()) else {
            return;
        };
        let Some((_, configuration)) = replica.configuration() else {
            return;
        };
        let id = entry.id;
        let holders = |host: &&Host| configuration.contains(host.incarnation) && host.disk.holds_durably(id);
        let (held, needed) = (self.hosts.iter().filter(holders).count(), configuration.quorum().commit());
        if held < needed as usize {
            self.violate("what is committed is durable on a commit quorum", || {
                format!("n{number} has {id:?} committed, {held} of {needed} hold it")
            });
        }
    }

    /// A new primary has everything that was ever committed, and its epoch start is.
    pub(crate) fn begins_to_serve(&mut self, number: usize) {
        let host = &self.hosts[number];
        let Some(replica) = host.replica() else { return };
        // A primary that was already replaced may hear late that its epoch start was committed: what counts is what was
        // committed before its epoch.
        let epoch = replica.promised();
        let known = self.ledger.committed.partition_point(|entry| entry.id.epoch < epoch) as u64;
        let base = host.disk.base().id.index;
        let agrees = known <= base || host.disk.position(known) == self.ledger.committed_at(known);
        if !agrees {
            let lost = self.ledger.lost_in(host);
            let last = replica.last();
            self.violate("a primary has everything that was acknowledged", || {
                format!(
                    "n{number} serves {epoch} with a log up to {last:?}; committed were {known} entries, acknowledged and lost {lost:?}"
                )
            });
            if let Some(violation) = &mut self.violation {
                violation.lost = lost.len();
            }
            return;
        }
        let start = replica.configuration().map(|(id, _)| *id);
        let committed = start.is_some_and(|id| id.epoch == replica.promised() && id.index <= replica.commit());
        if !committed {
            let commit = replica.commit();
            self.violate("nothing is served before the epoch start is committed", || {
                format!("n{number} serves {start:?} with commit {commit}")
            });
        }
    }

    /// Whether so many members have promised a later epoch that this primary has neither quorum any more. One that needs none
    /// answers until it hears of it.
    pub(crate) fn is_fenced(&self, number: usize) -> bool {
        let Some(replica) = self.hosts[number].replica() else {
            return false;
        };
        let Some((id, configuration)) = replica.configuration() else {
            return false;
        };
        if configuration.quorum().deposed_may_answer() || configuration.quorum().failover_loses() {
            return false;
        }
        let later = |host: &&Host| configuration.contains(host.incarnation) && host.disk.hard.promised > id.epoch;
        let fenced = self.hosts.iter().filter(later).count();
        fenced >= configuration.quorum().fence() as usize
    }
}
