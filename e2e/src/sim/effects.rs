//! Carrying out what a core wants done, on a simulated machine.

use super::clients::Outcome;
use super::disk::apply_at;
use super::host::Input;
use super::mutants::Slip;
use super::network::Message;
use super::world::{What, World};
use quorate_api::wire::Reply;
use quorate_api::{Entry, NodeRole};
use quorate_protocol_mutants::{Effect, Event, Session};
use rand::RngExt;
use std::sync::Arc;

impl World {
    pub(crate) fn carry_out(&mut self, number: usize, effects: Vec<Effect>) {
        for effect in effects {
            if self.faults && self.rng.random_bool(self.profile.crash_between_effects) {
                self.crash(number);
                return;
            }
            self.carry_out_one(number, effect);
            let over = self.violation.is_some() && !self.clients_only;
            if over || self.hosts[number].process.is_none() {
                return;
            }
        }
    }

    fn carry_out_one(&mut self, number: usize, effect: Effect) {
        match effect {
            Effect::PersistHardState(hard) => {
                self.ledger
                    .hard_state_written(number, &self.hosts[number], &hard, &mut self.violation);
                self.hosts[number].disk.hard = hard;
            }
            Effect::Send(session, append) => {
                if let Some(to) = self.dialled_of(session) {
                    self.sends_its_own_log(number, &append);
                    self.send(number, Message::Append(session, to, append));
                }
            }
            Effect::AskReadIndex(session, ask) => {
                if let Some(to) = self.dialled_of(session) {
                    self.ledger.index_asked(session, ask);
                    self.send(number, Message::AskIndex(session, to, ask));
                }
            }
            Effect::KeepAside(tail) => {
                self.ledger.tails += 1;
                self.hosts[number].disk.aside.extend(tail.entries);
            }
            Effect::Reply(session, reply) => self.reply(number, session, reply),
            Effect::AppendLog {
                generation,
                commit,
                entries,
            } => self.append_log(number, generation, commit, entries),
            Effect::TruncateLog(index) => {
                self.say(|| format!("n{number} cuts its log after {index}"));
                let host = &mut self.hosts[number];
                host.disk.truncate_after(index);
            }
            Effect::InstallSnapshot(position) => self.install(number, position),
            Effect::Apply(entries) => self.apply(number, &entries),
            Effect::Rebuild(commit) => {
                let host = &mut self.hosts[number];
                let state = host.disk.state_at(commit);
                if let (Some(process), Some(registers)) = (host.process.as_mut(), state) {
                    process.registers = registers;
                    process.applied = commit;
                } else {
                    self.violate("a state can be rebuilt", || format!("n{number} up to {commit}"));
                }
            }
            Effect::ReadLog { session, after, max_bytes } => self.read_log(number, session, after, max_bytes),
            Effect::SendSnapshot(session) => self.send_snapshot(number, session),
            Effect::ReceiveSnapshot(session, chunk) => self.receive_chunk(number, session, &chunk),
            Effect::Serving(epoch) => {
                self.say(|| format!("n{number} serves {epoch}"));
                self.ledger.served += 1;
                self.begins_to_serve(number);
            }
            Effect::SteppedDown(epoch) => {
                self.say(|| format!("n{number} steps down from {epoch}"));
                let Some(process) = self.hosts[number].process.as_mut() else {
                    return;
                };
                let waiting = std::mem::take(&mut process.waiting);
                if self.slip == Some(Slip::AnsweredWhenDeposed) {
                    self.tell(number, waiting);
                    return;
                }
                for waiting in waiting {
                    self.send(number, Message::Outcome(waiting.client, waiting.turn, Outcome::Unknown));
                }
            }
        }
    }

    fn reply(&mut self, number: usize, session: Session, reply: Reply) {
        match reply {
            Reply::AppendAck(ack) => {
                self.ledger.ack_is_durable(number, &self.hosts[number], &ack, &mut self.violation);
                if let Some(to) = self.dialler_of(session) {
                    self.send(number, Message::Ack(session, to, ack));
                }
            }
            reply @ (Reply::Fence(_) | Reply::Activate(_)) => {
                if let Reply::Fence(answer) = &reply {
                    self.ledger
                        .promise_is_durable(number, &self.hosts[number], answer, &mut self.violation);
                }
                if let Some(&(pilot, _)) = self.asked.get(&session) {
                    let vantage = self.pilots[pilot].vantage;
                    if !self.is_silent(number, vantage) {
                        self.send(number, Message::Answer(session, reply));
                    }
                }
            }
            Reply::ReadIndex(answer) => {
                self.index_answered(number, session, answer);
                if let Some(to) = self.dialler_of(session) {
                    self.send(number, Message::Index(session, to, answer));
                }
            }
            // Of the runtime, not of the core.
            Reply::SnapshotAck(_)
            | Reply::Status(_)
            | Reply::HandOver(_)
            | Reply::MoveSlots(_)
            | Reply::AbortMove(_)
            | Reply::SlotSizes(_)
            | Reply::Handoff(_) => {}
        }
    }

    fn append_log(&mut self, number: usize, generation: u64, commit: u64, entries: Vec<Arc<Entry>>) {
        self.ledger.entries_written(number, &entries, &mut self.violation);
        let host = &mut self.hosts[number];
        if let Some(process) = host.process.as_mut()
            && matches!(process.replica.role(), NodeRole::Activating | NodeRole::Primary)
            && let [entry] = &entries[..]
            && entry.id.index == process.applied + 1
        {
            // Its own epoch start: nothing to apply.
            process.applied = entry.id.index;
            let before = host.disk.position(host.disk.last()).map(|position| position.id);
            self.ledger.epoch_begins(number, entry.id.epoch, before, &mut self.violation);
        }
        assert_eq!(generation, host.disk.generation, "core and disk count the same cuts");
        host.disk.append(entries, commit);
        let (life, index) = (host.life, host.disk.last());
        let after = self.within(self.profile.sync);
        self.schedule(
            after,
            What::Synced {
                host: number,
                life,
                generation,
                index,
            },
        );
    }

    fn apply(&mut self, number: usize, entries: &[Arc<Entry>]) {
        let local = (self.slip == Some(Slip::LocalClock)).then(|| self.wall_millis(number));
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        for entry in entries {
            if entry.id.index != process.applied + 1 {
                let applied = process.applied;
                self.violate("entries are applied in order, each once", || {
                    format!("n{number} applies {:?} after {applied}", entry.id)
                });
                return;
            }
            apply_at(&mut process.registers, entry, local.unwrap_or(entry.timestamp_millis));
            process.applied = entry.id.index;
        }
    }

    /// Reads at once and reports later, as a file system may.
    fn read_log(&mut self, number: usize, session: Session, after: u64, max_bytes: usize) {
        let disk = &self.hosts[number].disk;
        let read = disk.position(after).map(|position| {
            let mut entries = Vec::new();
            let mut bytes = 0;
            while bytes < max_bytes
                && let Some(entry) = disk.entry(after + 1 + entries.len() as u64)
            {
                bytes += entry.encoded_len();
                entries.push(Arc::clone(entry));
            }
            (position, entries)
        });
        self.ledger.file_reads += 1;
        let delay = match self.rng.random_ratio(1, 10) {
            true => self.within(self.profile.lateness),
            false => self.within(self.profile.latency),
        };
        self.later(number, delay, Input::Event(Event::LogRead { session, read }));
    }
}
