//! MULTI, EXEC, DISCARD, WATCH. A transaction executes whole in one log entry, so it is atomic on every replica.
//!
//! WATCH watches slots: a change to another key of the same slot also makes EXEC give up. That is allowed, as every user
//! of WATCH repeats, and costs no memory per key.

use super::call::{Call, Done};
use super::session::Transaction;
use super::{Class, Outcome, admit, run};
use crate::resp::Writer;

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
    let version = call.context.keyspace.version(call.slot);
    if !call.session.watched.iter().any(|(slot, _)| *slot == call.slot) {
        call.session.watched.push((call.slot, version));
    }
    call.reply.ok();
    Ok(())
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
    if transaction.crosses {
        return Err("CROSSSLOT Keys in request don't hash to the same slot".into());
    }
    if !watched.is_empty() && !call.context.view.serving {
        return Err(call.context.view.elsewhere(watched[0].0).into());
    }
    let unchanged = watched
        .iter()
        .all(|&(slot, version)| call.context.keyspace.version(slot) == version);
    if !unchanged {
        call.reply.null_array();
        call.class = Some(Outcome {
            class: Class::Read,
            wait_index: watched
                .iter()
                .map(|&(slot, _)| call.context.keyspace.last_write(slot))
                .max()
                .unwrap_or(0),
            close: false,
        });
        return Ok(());
    }
    // Nothing may be done unless all may: ownership and memory can have changed since the commands were queued.
    for queued in &transaction.queued {
        admit(queued.command, call.context, call.session, &queued.args)?;
    }
    call.reply.array(transaction.queued.len());
    let (out, mut whole) = (call.reply.buffer(), Outcome::IMMEDIATE);
    for queued in &transaction.queued {
        let outcome = run(queued.command, call.context, call.session, &queued.args, transaction.slot, out).unwrap_or_else(|refusal| {
            Writer::new(out, call.session.version).error(&refusal);
            Outcome::IMMEDIATE
        });
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
