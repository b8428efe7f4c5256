//! Commands on slots that are about to change hands.
//!
//! While a slot is frozen, this group still owns it, but another may own it at any moment. So nothing reads or writes it, and
//! the command waits: until the slot is given up (then it is sent there), until it is served here again, or until the client
//! has waited long enough (then it is told to try again, and nothing was done).

use super::session::Transaction;
use super::table::{self, Command, Kind};
use super::{ClientSession, Context};
use crate::keyspace::Access;
use bytes::Bytes;
use quorate_api::slot::slot_of;

/// Told when a client has waited long enough.
pub(super) const TRY_AGAIN: &str = "TRYAGAIN The slot is moving to another group. The command changed nothing: send it again";

/// Whether the command has to wait. What is wrong with it otherwise is found later.
pub(super) fn meets_a_frozen_slot(context: &Context<'_>, session: &ClientSession, args: &[Bytes]) -> bool {
    let Some(command) = table::by_name(&args[0]) else { return false };
    match &session.transaction {
        Some(transaction) if command.name == "exec" => transaction_meets_one(context, session, transaction),
        // Queued only.
        Some(_) if !command.ends_queueing => false,
        _ => command_meets_one(context, session, command, args),
    }
}

fn transaction_meets_one(context: &Context<'_>, session: &ClientSession, transaction: &Transaction) -> bool {
    let watched = session.watched.iter().any(|watched| is_frozen(context, watched.slot));
    let mut queued = transaction.queued.iter();
    watched || queued.any(|queued| command_meets_one(context, session, queued.command, &queued.args))
}

fn command_meets_one(context: &Context<'_>, session: &ClientSession, command: &Command, args: &[Bytes]) -> bool {
    let stale = command.kind == Kind::Read && session.readonly && context.view.stale_reads;
    if command.kind == Kind::Plain || stale || !context.view.serving {
        return false;
    }
    match command.keys.positions(args) {
        Some(mut positions) => positions.any(|at| is_frozen(context, slot_of(&args[at]))),
        // It writes everywhere.
        None => command.kind == Kind::Write,
    }
}

fn is_frozen(context: &Context<'_>, slot: u16) -> bool {
    context.keyspace.access(slot, context.view.shard) == Access::Frozen
}
