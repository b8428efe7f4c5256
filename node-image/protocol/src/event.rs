//! What goes into a replica and what comes out of it.

use crate::hard_state::HardState;
use quorate_api::wire::{Append, AppendAck, ReadIndexAnswer, Reply, Request, SnapshotChunk};
use quorate_api::{Configuration, DiskRoom, Entry, EntryId, Epoch, Incarnation, Position};
use std::sync::Arc;

/// Names one connection, dialled or accepted. The runtime never uses a number twice, so that whatever an old
/// connection still delivers is known as old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// An input.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request on an accepted connection. `peer` is who dialled, if a replica. The core takes
    /// [`Request::Append`], [`Request::SnapshotChunk`], [`Request::ReadIndex`], [`Request::Fence`] and [`Request::Activate`].
    Request {
        /// The connection: replies go there.
        from: Session,
        /// Who dialled.
        peer: Option<Incarnation>,
        /// What it asks.
        request: Request,
    },
    /// An accepted connection is gone.
    SessionClosed(Session),
    /// A connection to a member stands, dialled by this replica.
    LinkUp {
        /// Who answered.
        peer: Incarnation,
        /// The connection.
        session: Session,
    },
    /// A dialled connection is gone.
    LinkDown(Session),
    /// A reply on a dialled connection.
    AppendAck {
        /// The connection.
        session: Session,
        /// The reply.
        ack: AppendAck,
    },
    /// A reply to [`Effect::AskReadIndex`] on a dialled connection.
    ReadIndex(ReadIndexAnswer),
    /// The log is durable up to `index`, as of the generation that [`Effect::AppendLog`] carried.
    LogDurable {
        /// See [`Effect::AppendLog`].
        generation: u64,
        /// Last durable index.
        index: u64,
    },
    /// Answer to [`Effect::ReadLog`].
    LogRead {
        /// From the effect.
        session: Session,
        /// Position before the first entry; None if the log does not reach back so far any more.
        read: Option<(Position, Vec<Arc<Entry>>)>,
    },
    /// The whole snapshot reached the peer and is installed there, or was not needed any more. If neither can be, the
    /// connection has to be closed: until then nothing else is sent to that peer.
    SnapshotDelivered(Session),
    /// A snapshot was received whole, verified and made durable.
    SnapshotReceived {
        /// What it covers.
        position: Position,
        /// The configuration in force there.
        configuration: (EntryId, Configuration),
        /// The clock of the log there.
        timestamp_millis: u64,
    },
    /// A snapshot of this replica's own state is durable, and the log up to here, at most up to the snapshot, was given
    /// back. Only what is committed may be in a snapshot: a primary's state runs ahead of its commit index, so that a copy
    /// of it waits, and is dropped if entries in it are cut off.
    LogTrimmed(Position),
    /// How much more the log's disk takes. Given before a [`Request::Append`] that finds it otherwise than it was told last.
    /// While it is [`DiskRoom::Full`], a follower takes no entries, and gives no [`Effect::AppendLog`].
    Disk(DiskRoom),
    /// Time passed. Expected every few tens of milliseconds.
    Tick,
}

/// Entries of a log that did not become part of the group's.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// In log order, without gaps.
    pub entries: Vec<Arc<Entry>>,
    /// The epoch that went on without them.
    pub epoch: Epoch,
    /// False: a snapshot replaced the log, and some of them may be part of what it covers.
    pub exact: bool,
}

/// An output. The runtime carries effects out in the order given: what stands before a send is done before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this durable before any later effect. A failure ends the process.
    PersistHardState(HardState),
    /// Send on a dialled connection.
    Send(Session, Append),
    /// Send a [`Request::ReadIndex`] of this number on a dialled connection.
    AskReadIndex(Session, u64),
    /// Answer on an accepted connection.
    Reply(Session, Reply),
    /// Append to the log and report [`Event::LogDurable`] with this generation once synced. May complete later;
    /// a failed sync ends the process.
    AppendLog {
        /// Counts truncations: a report from before one says nothing about what was written after.
        generation: u64,
        /// The writer's commit index, stored with the entries as a hint.
        commit: u64,
        /// Continue the log.
        entries: Vec<Arc<Entry>>,
    },
    /// Make a copy of these durable beside the log before any later effect: they are cut off or replaced, and clients may have
    /// been told that they are done ([`quorate_api::Consistency::Eventual`]). They are for people to look at; nothing reads
    /// them back.
    KeepAside(Tail),
    /// Cut the log after this index, durably, before any later effect. Never below the commit index.
    TruncateLog(u64),
    /// Forget the log and start after this position, durably; load the snapshot of that position as the state.
    InstallSnapshot(Position),
    /// Apply these to the state, in order.
    Apply(Vec<Arc<Entry>>),
    /// The state holds entries that were cut off: build it anew from snapshot and log up to this index.
    Rebuild(u64),
    /// Read entries after `after` (about `max_bytes` of them, at least one) and report [`Event::LogRead`].
    ReadLog {
        /// For the report.
        session: Session,
        /// Index before the first entry wanted.
        after: u64,
        /// Bound.
        max_bytes: usize,
    },
    /// Send the newest snapshot over this dialled connection, then report [`Event::SnapshotDelivered`].
    SendSnapshot(Session),
    /// Store a piece of a snapshot, acknowledge it to this connection, report [`Event::SnapshotReceived`] at the end.
    ReceiveSnapshot(Session, SnapshotChunk),
    /// The epoch start is committed: answer clients from now on.
    Serving(Epoch),
    /// Answer no client from now on. Whatever waits for a commit has an unknown outcome.
    SteppedDown(Epoch),
}
