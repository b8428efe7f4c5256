//! Commands: looked up, checked, executed on the key space, and their replies printed.
//!
//! The way of a command: [`execute`] finds it in the command table, checks arity, authentication, slot and owner, queues it
//! inside MULTI, or runs its handler. A handler reads and changes the key space and writes its reply; what it changed
//! is in the effects of the pending log entry. The [`Outcome`] says what has to be true before the reply may leave:
//! nothing, a confirmed read, or a committed write. Waiting for that is the caller's part.
//!
//! Nothing here does I/O or reads a clock.

mod call;
mod categories;
mod cluster;
mod connection;
mod dump;
mod expiry;
mod hashes;
mod info;
mod keys;
mod lists;
mod motion;
mod numbers;
mod object;
mod options;
mod reads;
mod routes;
mod session;
mod sets;
mod sort;
mod sorted_sets;
mod strings;
mod subsequence;
mod table;
mod transaction;
mod view;

pub use reads::{Reads, Standing};
pub use routes::{Routes, node_id};
pub use session::ClientSession;
pub use view::{NoRoom, NodeEndpoint, NodeView};

use crate::keyspace::{Access, Keyspace};
use crate::resp::Writer;
use bytes::{Bytes, BytesMut};
use call::{Call, Refusal};
use quorate_api::slot::slot_of;
use rand::rngs::SmallRng;
use table::{Command, Kind};

/// What commands work on.
#[derive(Debug)]
pub struct Context<'a> {
    /// The state, the pending changes included.
    pub keyspace: &'a mut Keyspace,
    /// Effects of the pending log entry.
    pub effects: &'a mut BytesMut,
    /// Now, in milliseconds since the Unix epoch.
    pub clock_millis: u64,
    /// The index that the pending entry will have.
    pub pending_index: u64,
    /// The node as commands see it.
    pub view: &'a NodeView,
    /// What clients have to prove.
    pub password: Option<&'a str>,
    /// Where chance comes from. What it led to is in the effects, so that replicas agree.
    pub random: &'a mut SmallRng,
}

/// What has to be true before a reply may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: it says nothing of the state, or the client asked for stale data.
    Immediate,
    /// This node was still the primary after the command arrived, and what it saw is committed.
    Read,
    /// What it wrote is committed.
    Write,
}

/// Of WAIT and WAITAOF: how many members have to hold a write durably. Whoever waits writes the reply, by [`Holders::reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The write's log index.
    pub index: u64,
    /// How many other members.
    pub replicas: u64,
    /// Whether this node too.
    pub local: bool,
    /// How long to wait in milliseconds; 0 for any time.
    pub timeout_millis: u64,
    /// The reply names both.
    both: bool,
}

impl Holders {
    /// Appends the reply: how many hold it, wanted or not.
    pub fn reply(&self, replicas: u64, local: bool, out: &mut BytesMut) {
        let mut reply = Writer::new(out, crate::resp::Version::Resp2);
        if self.both {
            reply.array(2);
            reply.integer(i64::from(local));
        }
        reply.integer(i64::try_from(replicas).unwrap_or(i64::MAX));
    }
}

/// See [`execute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the reply waits for.
    pub class: Class,
    /// Log index that must be committed first; 0 for none.
    pub wait_index: u64,
    /// The connection ends after this reply.
    pub close: bool,
    /// There is no reply yet: it says who holds a write, once enough do.
    pub holders: Option<Holders>,
    /// Nothing was done and nothing was said: the command has to wait until a slot is out of motion.
    pub held: bool,
}

impl Outcome {
    const IMMEDIATE: Self = Self {
        class: Class::Immediate,
        wait_index: 0,
        close: false,
        holders: None,
        held: false,
    };
}

/// Executes one command and appends its reply to `out`.
pub fn execute(context: &mut Context<'_>, session: &mut ClientSession, args: &[Bytes], out: &mut BytesMut) -> Outcome {
    let begin = out.len();
    if context.keyspace.any_frozen() && motion::meets_a_frozen_slot(context, session, args) {
        if !session.take_impatience() {
            return Outcome {
                held: true,
                ..Outcome::IMMEDIATE
            };
        }
        Writer::new(out, session.version).error(motion::TRY_AGAIN);
        return Outcome::IMMEDIATE;
    }
    let result = match table::find(args) {
        Ok(command) => dispatch(command, context, session, args, out),
        // A malformed EXEC ends the transaction: the client believes that it did.
        Err(refusal) if args[0].eq_ignore_ascii_case(b"exec") => {
            session.end_transaction();
            let reason = refusal.strip_prefix("ERR ").unwrap_or(&refusal);
            Err(format!("EXECABORT Transaction discarded because of: {reason}").into())
        }
        Err(refusal) => {
            session.abort_transaction();
            Err(refusal)
        }
    };
    let mut outcome = result.unwrap_or_else(|refusal| {
        out.truncate(begin);
        Writer::new(out, session.version).error(&refusal);
        Outcome::IMMEDIATE
    });
    outcome.close |= session.closing;
    if session.take_silence() {
        out.truncate(begin);
    }
    outcome
}

/// The reply in place of one that may not be given any more, because this node was deposed, or the commit took too long.
///
/// `CLUSTERDOWN`: the command did not change anything; it may be sent again. `UNKNOWN`: it may have taken effect or may
/// still; whoever needs to know has to read.
pub fn failed_reply(class: Class, out: &mut BytesMut) {
    out.extend_from_slice(match class {
        Class::Immediate | Class::Read => {
            b"-CLUSTERDOWN This node cannot confirm that it is the primary. The command changed nothing: send it again\r\n"
        }
        Class::Write => {
            b"-UNKNOWN The write was not confirmed in time. It may have taken effect or may still: read before you repeat it\r\n"
        }
    });
}

fn dispatch(
    command: &'static Command,
    context: &mut Context<'_>,
    session: &mut ClientSession,
    args: &[Bytes],
    out: &mut BytesMut,
) -> Result<Outcome, Refusal> {
    if context.password.is_some() && !session.authenticated && !command.before_auth {
        return Err("NOAUTH Authentication required.".into());
    }
    if session.in_transaction() && command.outside_transactions {
        session.abort_transaction();
        return Err("ERR Command not allowed inside a transaction".into());
    }
    let admitted = admit(command, context, session, args);
    if session.in_transaction() && !command.ends_queueing {
        return match admitted {
            Ok(slot) => session.queue(command, args, slot, out).map(|()| Outcome::IMMEDIATE),
            Err(refusal) => {
                session.abort_transaction();
                Err(refusal)
            }
        };
    }
    let slot = admitted?;
    let begin = out.len();
    run(command, context, session, args, slot, out, begin)
}

/// The slot of the command's keys, if this node may execute it now.
fn admit(command: &Command, context: &Context<'_>, session: &ClientSession, args: &[Bytes]) -> Result<Option<u16>, Refusal> {
    let slot = match command.keys.positions(args) {
        Some(mut positions) => {
            let slot = positions.next().map(|at| slot_of(&args[at]));
            if positions.any(|at| Some(slot_of(&args[at])) != slot) {
                return Err("CROSSSLOT Keys in request don't hash to the same slot".into());
            }
            slot
        }
        None => None,
    };
    if command.kind == Kind::Plain {
        return Ok(slot);
    }
    let view = context.view;
    if let Some(slot) = slot
        && context.keyspace.access(slot, view.shard) == Access::Elsewhere
    {
        return Err(routes::elsewhere(view, context.keyspace, slot).into());
    }
    if !view.serving {
        let here = command.kind == Kind::Read && session.reads != Reads::Primary && view.stale_reads;
        if !here {
            return Err(view.elsewhere(slot.unwrap_or(0)).into());
        }
        session.reads.refusal(session.standing)?;
    }
    if command.kind == Kind::Write
        && let Some(no_room) = view.no_room
    {
        return Err(format!("MISCONF Writes are refused until there is room: {no_room}. The command changed nothing").into());
    }
    if command.grows && view.max_memory > 0 && context.keyspace.memory_bytes() >= view.max_memory {
        return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
    }
    Ok(slot)
}

fn run(
    command: &'static Command,
    context: &mut Context<'_>,
    session: &mut ClientSession,
    args: &[Bytes],
    slot: Option<u16>,
    out: &mut BytesMut,
    replies_begin: usize,
) -> Result<Outcome, Refusal> {
    let before = context.effects.len();
    let (serving, version) = (context.view.serving, session.version);
    let begin = out.len();
    let mut call = Call {
        context,
        session,
        command,
        args,
        slot: slot.unwrap_or(0),
        reply: Writer::new(out, version),
        begin: replies_begin,
        class: None,
    };
    let result = (command.run)(&mut call);
    let class = call.class;
    if let Err(refusal) = result {
        // A refusal may depend on the state as much as a reply does: it waits like one.
        out.truncate(begin);
        Writer::new(out, version).error(&refusal);
    } else if let Some(outcome) = class {
        return Ok(outcome);
    }
    Ok(match command.kind {
        Kind::Plain => Outcome::IMMEDIATE,
        Kind::Read | Kind::Write if !serving => Outcome::IMMEDIATE,
        Kind::Write if context.effects.len() > before => {
            session.last_write = context.pending_index;
            Outcome {
                class: Class::Write,
                wait_index: context.pending_index,
                ..Outcome::IMMEDIATE
            }
        }
        Kind::Read | Kind::Write => Outcome {
            class: Class::Read,
            wait_index: seen(context, slot),
            ..Outcome::IMMEDIATE
        },
    })
}

/// The log index of the last change that a reader of `slot`, or of everything, has seen.
fn seen(context: &Context<'_>, slot: Option<u16>) -> u64 {
    match slot {
        Some(slot) => context.keyspace.last_write(slot),
        None if context.effects.is_empty() => context.pending_index - 1,
        None => context.pending_index,
    }
}
