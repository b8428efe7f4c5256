//! What a connection has said about itself: protocol version, name, transaction, watched keys.

use super::call::Refusal;
use super::reads::{Reads, Standing};
use super::table::Command;
use crate::keyspace::Watch;
use crate::resp::{Limits, Version};
use bytes::{Bytes, BytesMut};

/// Commands that a transaction may hold.
const MAX_QUEUED: usize = 100_000;
/// Bytes of arguments that a transaction may hold.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// A command that waits for EXEC.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) command: &'static Command,
    pub(super) args: Vec<Bytes>,
}

/// Commands between MULTI and EXEC.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    pub(super) queued: Vec<Queued>,
    pub(super) bytes: usize,
    pub(super) slot: Option<u16>,
    /// Its commands have keys of several slots: EXEC says so.
    pub(super) crosses: bool,
    pub(super) aborted: bool,
}

/// A key between WATCH and EXEC.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) key: Bytes,
    pub(super) slot: u16,
    /// It was there when it was watched.
    pub(super) alive: bool,
    pub(super) watch: Watch,
}

/// Which replies a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    On,
    Off,
    /// Neither to this command nor to the next.
    SkipNext,
    /// Not to this command.
    Skip,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ClientSession {
    /// Given once by this node.
    pub id: u64,
    pub(super) version: Version,
    pub(super) authenticated: bool,
    pub(super) name: Bytes,
    pub(super) reads: Reads,
    /// What this node knew of its state when the present batch began.
    pub(super) standing: Standing,
    pub(super) closing: bool,
    pub(super) replies: Replies,
    pub(super) transaction: Option<Transaction>,
    pub(super) watched: Vec<Watched>,
    /// Log index of this client's last write.
    pub(super) last_write: u64,
    needs_password: bool,
    impatient: bool,
}

impl ClientSession {
    /// A client that has said nothing yet.
    #[must_use]
    pub fn new(id: u64, needs_password: bool) -> Self {
        Self {
            id,
            version: Version::default(),
            authenticated: !needs_password,
            name: Bytes::new(),
            reads: Reads::Primary,
            standing: Standing::default(),
            closing: false,
            replies: Replies::On,
            transaction: None,
            watched: Vec::new(),
            last_write: 0,
            needs_password,
            impatient: false,
        }
    }

    /// The client has waited long enough for a slot that moves: its next command does not wait.
    pub fn lose_patience(&mut self) {
        self.impatient = true;
    }

    pub(super) fn take_impatience(&mut self) -> bool {
        std::mem::take(&mut self.impatient)
    }

    /// Whether it has proved what clients of this store have to prove.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.authenticated
    }

    /// Which reads it wants this node to answer where it is not the primary.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// A batch begins: what this node knows of its state.
    pub fn stand(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// What it may send.
    #[must_use]
    pub fn limits(&self) -> Limits {
        if self.authenticated { Limits::KNOWN } else { Limits::STRANGER }
    }

    /// As it was when it connected.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.id, self.needs_password);
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// An error while commands are queued: EXEC will refuse.
    pub(super) fn abort_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.aborted = true;
        }
    }

    /// Nothing is queued or watched any more.
    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.watched.clear();
    }

    /// Keeps a command for EXEC.
    pub(super) fn queue(
        &mut self,
        command: &'static Command,
        args: &[Bytes],
        slot: Option<u16>,
        out: &mut BytesMut,
    ) -> Result<(), Refusal> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        let bytes: usize = args.iter().map(Bytes::len).sum();
        if transaction.queued.len() >= MAX_QUEUED || transaction.bytes + bytes > MAX_QUEUED_BYTES {
            transaction.aborted = true;
            return Err("ERR the transaction is too large".into());
        }
        transaction.crosses |= slot.is_some() && transaction.slot.is_some() && slot != transaction.slot;
        transaction.slot = transaction.slot.or(slot);
        transaction.bytes += bytes;
        // Copied: a slice would keep the whole input of the connection alive.
        let args = args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
        transaction.queued.push(Queued { command, args });
        out.extend_from_slice(b"+QUEUED\r\n");
        Ok(())
    }

    /// Whether the reply just written is not wanted.
    pub(super) fn take_silence(&mut self) -> bool {
        match self.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                self.replies = Replies::Skip;
                true
            }
            Replies::Skip => {
                self.replies = Replies::On;
                true
            }
        }
    }
}
