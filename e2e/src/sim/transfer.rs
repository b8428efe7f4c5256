//! Snapshots on a simulated machine: taken of its own state, sent to a peer piece by piece, received and put in force.

use super::disk::{Registers, Snapshot};
use super::host::Input;
use super::mutants::Slip;
use super::network::Message;
use super::world::{MILLI, World};
use bytes::{Buf, Bytes};
use quorate_api::wire::{SnapshotAck, SnapshotChunk};
use quorate_api::{Epoch, NodeRole, Position};
use quorate_protocol_mutants::{Event, Session};
use rand::RngExt;
use std::sync::Arc;

/// Pieces of a snapshot. Each carries its number in the world's list instead of a part of its bytes.
const PIECES: u64 = 4;
/// A piece that is not acknowledged is sent again after this many milliseconds.
const PIECE_RESEND_MILLIS: u64 = 40;

/// A snapshot on its way to a peer.
#[derive(Debug)]
pub(crate) struct Transfer {
    snapshot: usize,
    epoch: Epoch,
    sent: u64,
    at: u64,
}

/// One on its way here.
#[derive(Clone, Debug)]
pub(crate) struct Receiving {
    snapshot: usize,
    epoch: Epoch,
    received: u64,
    installing: bool,
}

/// A copy of the own state: it becomes a snapshot when it is on the disk and everything in it is committed.
#[derive(Debug)]
pub(crate) struct Taking {
    snapshot: Snapshot,
    written: bool,
}

impl World {
    /// Now and then a machine copies its state, to give its log back.
    pub(crate) fn take_snapshot(&mut self, number: usize) {
        let threshold = self.profile.trim_entries;
        let host = &mut self.hosts[number];
        let Some(process) = host.process.as_mut() else { return };
        let covered = host.disk.snapshot.as_ref().map_or(0, |snapshot| snapshot.position.id.index);
        if let Some(taking) = &process.taking {
            // What was cut off in the meantime must not come back as a snapshot.
            let position = taking.snapshot.position;
            if host.disk.position(position.id.index) != Some(position) {
                process.taking = None;
            } else if taking.written && process.replica.commit() >= position.id.index {
                self.snapshot_in_force(number);
            }
            return;
        }
        let applied = process.applied;
        if threshold == 0 || applied < covered + threshold || process.replica.log().last().id.index < applied {
            return;
        }
        let Some(position) = host.disk.position(applied) else { return };
        let configuration = process.replica.log().configurations().iter().rfind(|(id, _)| id.index <= applied);
        let (Some(configuration), Some(entry)) = (configuration.cloned(), host.disk.entry(applied)) else {
            return;
        };
        process.taking = Some(Taking {
            snapshot: Snapshot {
                position,
                configuration,
                timestamp_millis: entry.timestamp_millis,
                registers: process.registers,
            },
            written: false,
        });
        let after = self.within(self.profile.sync * 4);
        self.later(number, after, Input::Taken);
    }

    pub(crate) fn snapshot_taken(&mut self, number: usize) {
        let early = self.slip == Some(Slip::SnapshotUncommitted);
        let host = &mut self.hosts[number];
        let Some(process) = host.process.as_mut() else { return };
        if let Some(taking) = process.taking.as_mut() {
            taking.written = true;
            if early {
                let snapshot = Arc::new(taking.snapshot.clone());
                process.taking = None;
                host.disk.snapshot = Some(snapshot);
            }
        }
    }

    /// The snapshot is durable and committed: the log before it, or a part of that, is given back.
    fn snapshot_in_force(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let Some(process) = host.process.as_mut() else { return };
        let Some(taking) = process.taking.take() else { return };
        let position = taking.snapshot.position;
        host.disk.snapshot = Some(Arc::new(taking.snapshot));
        let base = host.disk.base().id.index;
        let whole = self.rng.random_ratio(1, 2);
        let to = if whole {
            position.id.index
        } else {
            self.rng.random_range(base..=position.id.index)
        };
        let Some(trimmed) = self.hosts[number].disk.position(to) else {
            return;
        };
        self.hosts[number].disk.trim(trimmed);
        self.ledger.trims += 1;
        self.say(|| format!("n{number} has a snapshot of {:?}, log from {to}", position.id));
        self.step(number, Event::LogTrimmed(trimmed));
    }

    /// Carries out [`quorate_protocol_mutants::Effect::SendSnapshot`].
    pub(crate) fn send_snapshot(&mut self, number: usize, session: Session) {
        let host = &mut self.hosts[number];
        let Some(process) = host.process.as_mut() else { return };
        let Some(snapshot) = host.disk.snapshot.clone() else {
            self.violate("a log that was trimmed has a snapshot", || format!("n{number} has none to send"));
            return;
        };
        let epoch = process.replica.promised();
        let transfer = Transfer {
            snapshot: self.snapshots.len(),
            epoch,
            sent: 0,
            at: 0,
        };
        process.transfers.insert(session, transfer);
        self.say(|| format!("n{number} sends a snapshot of {:?} over {session:?}", snapshot.position.id));
        self.snapshots.push(snapshot);
        self.send_piece(number, session);
    }

    fn send_piece(&mut self, number: usize, session: Session) {
        let now = self.now / MILLI;
        let Some(to) = self.dialled_of(session) else { return };
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let Some(transfer) = process.transfers.get_mut(&session) else {
            return;
        };
        transfer.at = now;
        if transfer.sent >= PIECES * 8 {
            // All of it arrived, and the word that it is in force did not.
            transfer.sent = 0;
        }
        let chunk = SnapshotChunk {
            epoch: transfer.epoch,
            position: self.snapshots[transfer.snapshot].position,
            total: PIECES * 8,
            offset: transfer.sent,
            bytes: Bytes::copy_from_slice(&(transfer.snapshot as u64).to_le_bytes()),
        };
        self.send(number, Message::Chunk(session, to, chunk));
    }

    pub(crate) fn resend_chunks(&mut self, number: usize) {
        let now = self.now / MILLI;
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let serving = process.replica.role() == NodeRole::Primary || process.replica.role() == NodeRole::Activating;
        if !serving {
            process.transfers.clear();
        }
        let late: Vec<Session> = process
            .transfers
            .iter()
            .filter(|(_, transfer)| now >= transfer.at + PIECE_RESEND_MILLIS)
            .map(|(session, _)| *session)
            .collect();
        for session in late {
            self.send_piece(number, session);
        }
    }

    pub(crate) fn chunk_acked(&mut self, number: usize, session: Session, ack: &SnapshotAck) {
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let Some(transfer) = process.transfers.get_mut(&session) else {
            return;
        };
        let position = self.snapshots[transfer.snapshot].position;
        if ack.epoch != transfer.epoch || ack.id != position.id {
            return;
        }
        if ack.installed {
            process.transfers.remove(&session);
            self.step(number, Event::SnapshotDelivered(session));
            return;
        }
        // Less than before: it was installed, the word of that was lost, and the member began anew.
        let onward = ack.received > transfer.sent;
        transfer.sent = ack.received;
        if onward && transfer.sent < PIECES * 8 {
            self.send_piece(number, session);
        }
    }

    /// Carries out [`quorate_protocol_mutants::Effect::ReceiveSnapshot`].
    pub(crate) fn receive_chunk(&mut self, number: usize, session: Session, chunk: &SnapshotChunk) {
        let snapshot = usize::try_from(chunk.bytes.clone().get_u64_le()).expect("a small number");
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let anew = Receiving {
            snapshot,
            epoch: chunk.epoch,
            received: 0,
            installing: false,
        };
        let receiving = process.receiving.entry(session).or_insert_with(|| anew.clone());
        // As the node does it: a piece of another snapshot begins that one, and what was received says from where on.
        if (receiving.snapshot, receiving.epoch) != (snapshot, chunk.epoch) {
            *receiving = anew;
        }
        if chunk.offset == receiving.received {
            receiving.received += 8;
        }
        let whole = receiving.received >= PIECES * 8;
        let begins = whole && !std::mem::replace(&mut receiving.installing, whole);
        let ack = SnapshotAck {
            epoch: chunk.epoch,
            id: chunk.position.id,
            received: receiving.received,
            installed: false,
        };
        if let Some(to) = self.dialler_of(session) {
            self.send(number, Message::ChunkAck(session, to, ack));
        }
        if begins {
            let after = match self.rng.random_ratio(1, 4) {
                true => self.within(self.profile.lateness),
                false => self.within(self.profile.sync * 4),
            };
            self.later(number, after, Input::Received(session));
        }
    }

    /// The last piece is durable.
    pub(crate) fn snapshot_received(&mut self, number: usize, session: Session) {
        let Some(process) = self.hosts[number].process.as_mut() else {
            return;
        };
        let Some(receiving) = process.receiving.get(&session) else { return };
        if !receiving.installing {
            return;
        }
        let (snapshot, epoch) = (Arc::clone(&self.snapshots[receiving.snapshot]), receiving.epoch);
        self.hosts[number].offered = Some(Arc::clone(&snapshot));
        self.step(
            number,
            Event::SnapshotReceived {
                position: snapshot.position,
                configuration: snapshot.configuration.clone(),
                timestamp_millis: snapshot.timestamp_millis,
            },
        );
        let host = &mut self.hosts[number];
        host.offered = None;
        let Some(process) = host.process.as_mut() else { return };
        process.receiving.remove(&session);
        let ack = SnapshotAck {
            epoch,
            id: snapshot.position.id,
            received: PIECES * 8,
            installed: true,
        };
        if let Some(to) = self.dialler_of(session) {
            self.send(number, Message::ChunkAck(session, to, ack));
        }
    }

    /// Carries out [`quorate_protocol_mutants::Effect::InstallSnapshot`]: log, state and snapshot change in one step.
    pub(crate) fn install(&mut self, number: usize, position: Position) {
        self.say(|| format!("n{number} installs a snapshot of {:?}", position.id));
        self.ledger.installs += 1;
        let host = &mut self.hosts[number];
        let Some(snapshot) = host.offered.take().filter(|snapshot| snapshot.position == position) else {
            self.violate("what is installed was received", || format!("n{number}: {position:?}"));
            return;
        };
        let registers: Registers = snapshot.registers;
        if host.disk.position(position.id.index) == Some(position) && host.disk.last() > position.id.index {
            let last = host.disk.last();
            self.violate("a snapshot replaces no log that goes on from it", || {
                format!("n{number} gives up {last} for {position:?}")
            });
            return;
        }
        if self.faults && self.rng.random_bool((self.profile.crash_between_effects * 100.0).min(1.0)) {
            self.ledger.half_installs += 1;
            host.disk.publish(snapshot);
            self.crash(number);
            return;
        }
        host.disk.install(snapshot);
        if let Some(process) = host.process.as_mut() {
            process.registers = registers;
            process.applied = position.id.index;
            process.taking = None;
        }
        self.ledger.snapshot_is_history(number, position, &mut self.violation);
    }
}
