//! MULTI, EXEC, DISCARD, WATCH. A transaction executes whole in one log entry, so it is atomic on every replica.
//!
//! WATCH watches keys: the key space tells which of them changed. A key that is there when it is watched has changed also
//! when its time came.

use super::call::{Call, Done};
use super::routes::elsewhere;
use super::session::{Queued, Transaction, Watched};
use super::{Class, Outcome, admit, run};
use crate::keyspace::Access;
use crate::resp::Writer;
use bytes::Bytes;

/// Keys that a client watches at most.
const MAX_WATCHED: usize = 10_000;

pub(super) fn multi(call: &mut Call<'_, '_>) -> Done {
    call.session.transaction = Some(Transaction::default());
    call.reply.ok();
    Ok(())
}

pub(super) fn discard(call: &mut Call<'_, '_>) -> Done {
    if call.session.transaction.take().is_none() {
        return Err("ERR DISCARD without MULTI".into());
    }
    call.session.watched.clear();
    call.reply.ok();
    Ok(())
}

pub(super) fn watch(call: &mut Call<'_, '_>) -> Done {
    for key in &call.args[1..] {
        if call.session.watched.iter().any(|watched| watched.key == *key) {
            continue;
        }
        if call.session.watched.len() >= MAX_WATCHED {
            return Err("ERR too many keys are watched".into());
        }
        let alive = call.item(key).is_some();
        call.session.watched.push(Watched {
            // Copied: a slice would keep the whole input of the connection alive.
            key: Bytes::copy_from_slice(key),
            slot: call.slot,
            alive,
            watch: call.context.keyspace.watch(key),
        });
    }
    call.reply.ok();
    Ok(())
}

/// Whether a watched key is still as it was.
fn is_unchanged(call: &Call<'_, '_>, watched: &Watched) -> bool {
    let Watched { key, slot, alive, watch } = watched;
    !watch.changed() && (!alive || call.context.keyspace.get(*slot, key, call.now()).is_some())
}

pub(super) fn unwatch(call: &mut Call<'_, '_>) -> Done {
    call.session.watched.clear();
    call.reply.ok();
    Ok(())
}

pub(super) fn exec(call: &mut Call<'_, '_>) -> Done {
    let Some(transaction) = call.session.transaction.take() else {
        return Err("ERR EXEC without MULTI".into());
    };
    let watched = std::mem::take(&mut call.session.watched);
    if transaction.aborted {
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    if !watched.is_empty() && !call.context.view.serving {
        return Err(call.context.view.elsewhere(watched[0].slot).into());
    }
    if let Some(watched) = watched
        .iter()
        .find(|watched| call.context.keyspace.access(watched.slot, call.context.view.shard) == Access::Elsewhere)
    {
        return Err(elsewhere(call.context.view, call.context.keyspace, watched.slot).into());
    }
    if !watched.iter().all(|watched| is_unchanged(call, watched)) {
        call.reply.null_array();
        call.class = Some(Outcome {
            class: Class::Read,
            wait_index: watched
                .iter()
                .map(|watched| call.context.keyspace.last_write(watched.slot))
                .max()
                .unwrap_or(0),
            ..Outcome::IMMEDIATE
        });
        return Ok(());
    }
    if transaction.crosses {
        return Err("CROSSSLOT Keys in request don't hash to the same slot".into());
    }
    // Nothing may be done unless all may: ownership and memory can have changed since the commands were queued.
    for queued in &transaction.queued {
        admit(queued.command, call.context, call.session, &queued.args)?;
    }
    call.reply.array(transaction.queued.len());
    let begin = call.begin;
    let (out, mut whole) = (call.reply.buffer(), Outcome::IMMEDIATE);
    for queued in &transaction.queued {
        let Queued { command, args } = queued;
        let result = run(command, call.context, call.session, args, transaction.slot, out, begin);
        let outcome = result.unwrap_or_else(|refusal| {
            Writer::new(out, call.session.version).error(&refusal);
            Outcome::IMMEDIATE
        });
        if let Some(holders) = outcome.holders {
            // A transaction does not wait. What its commit says: so many of the others hold it, and this node if all do.
            let (quorum, members) = (call.context.view.write_quorum as usize, call.context.view.replicas.len() + 1);
            holders.reply(quorum.saturating_sub(1) as u64, quorum >= members, out);
        }
        whole.wait_index = whole.wait_index.max(outcome.wait_index);
        whole.class = match (whole.class, outcome.class) {
            (Class::Write, _) | (_, Class::Write) => Class::Write,
            (Class::Read, _) | (_, Class::Read) => Class::Read,
            _ => Class::Immediate,
        };
    }
    call.class = Some(whole);
    Ok(())
}
