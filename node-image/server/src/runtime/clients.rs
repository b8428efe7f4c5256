//! Redis clients: one task for each connection, one batch at a time.
//!
//! A batch is every whole command that has arrived. It executes at once on the latest state, then waits until what it
//! wrote and saw is committed and its read round is confirmed, then is answered in one write. If this node is deposed
//! before, nothing that depended on the state is answered: those replies are replaced by errors that say what is known.
//!
//! A batch that only reads costs no entry, and one round to the peers serves all that wait for one.
//!
//! Memory: a connection holds at most one command of the parser's limit, and about a megabyte of replies; it
//! is not read while it does not take them.

use super::Shared;
use super::follower_reads::stand;
use crate::command::{Class, ClientSession, Holders, Reads, execute, failed_reply};
use crate::resp::{Limits, Parser, ProtocolError, Version, Writer};
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot::error::RecvError;

/// A batch ends when its replies reach this size.
const MAX_REPLY_BYTES: usize = 1 << 20;
/// A batch ends when so much waits to be proposed: an entry holds that and one more command.
const MAX_PENDING_BYTES: usize = 1 << 20;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// Connections beyond this are refused.
const MAX_CLIENTS: u64 = 10_000;
/// A client that does not take its replies in this time is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A command waits so long for a slot that moves to another group; then it is told to try again.
const MAX_HOLD: Duration = Duration::from_secs(1);

/// Commands wait so long for a primary that is about to serve.
const MAX_TURN_WAIT: Duration = Duration::from_secs(2);

/// A reply of a batch that depended on the state.
#[derive(Clone, Copy, Debug)]
struct Mark {
    start: usize,
    end: usize,
    class: Class,
}

/// Commands that are parsed before the first of them executes, so that what they look for is fetched together.
const LOOK_AHEAD: usize = 16;

/// Whole commands that wait to be executed, in order.
#[derive(Debug, Default)]
struct Ahead {
    commands: [Vec<Bytes>; LOOK_AHEAD],
    /// How many are there, and how many of them were executed.
    len: usize,
    done: usize,
}

impl Ahead {
    /// Parses up to `most` commands, when all are executed. An error of the parser is given when those before it are
    /// executed: it stays at the front of the input.
    fn fill(&mut self, parser: &mut Parser, input: &mut BytesMut, limits: Limits, most: usize) -> Result<(), ProtocolError> {
        // Nothing of what was executed is kept alive while the client is silent.
        self.commands[..self.len].iter_mut().for_each(Vec::clear);
        (self.len, self.done) = (0, 0);
        for args in self.commands.iter_mut().take(most) {
            match parser.next(input, limits, args) {
                Ok(true) => self.len += 1,
                Ok(false) => break,
                Err(error) if self.len == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The command that was taken last was not executed.
    fn put_back(&mut self) {
        self.done -= 1;
    }

    fn next(&mut self) -> Option<&[Bytes]> {
        let args = self.commands[..self.len].get(self.done)?;
        self.done += 1;
        Some(args)
    }
}

/// One batch: its replies, and what they wait for.
#[derive(Debug, Default)]
struct Batch {
    out: BytesMut,
    marks: Vec<Mark>,
    commit: u64,
    read: bool,
    close: bool,
    /// The reply of its last command says who holds a write, and waits for that.
    holders: Option<Holders>,
    /// The next command waits for a slot that moves.
    held: bool,
}

impl Batch {
    fn begin(&mut self) {
        let Self {
            out,
            marks,
            commit,
            read,
            close,
            holders,
            held,
        } = self;
        out.clear();
        marks.clear();
        (*commit, *read, *close, *holders, *held) = (0, false, false, None, false);
    }

    /// Replaces what may not be said any more.
    fn depose(&mut self) {
        self.holders = None;
        let mut out = BytesMut::with_capacity(self.out.len());
        let mut at = 0;
        for mark in &self.marks {
            out.extend_from_slice(&self.out[at..mark.start]);
            failed_reply(mark.class, &mut out);
            at = mark.end;
        }
        out.extend_from_slice(&self.out[at..]);
        self.out = out;
    }
}

/// Serves clients for ever.
pub async fn serve(shared: Rc<Shared>, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: the next accept would fail at once too.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let clients = {
            let mut node = shared.node.borrow_mut();
            node.view_mut().clients += 1;
            node.view_mut().clients
        };
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            if clients > MAX_CLIENTS {
                refuse(stream).await;
            } else if let Err(error) = serve_client(&shared, stream).await {
                tracing::debug!(%error, "a client's connection ended");
            }
            shared.node.borrow_mut().view_mut().clients -= 1;
        });
    }
}

async fn refuse(mut stream: TcpStream) {
    // The client may be gone already; it is not served either way.
    let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
}

async fn serve_client(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    let mut session = ClientSession::new(shared.next_client(), shared.node.borrow().needs_password());
    let mut parser = Parser::new();
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut batch = Batch::default();
    let mut ahead = Ahead::default();
    let mut held_since = None;
    loop {
        wait_for_turn(shared).await;
        // Whatever waits to be executed arrived before the primary is asked.
        let waits = !input.is_empty() || ahead.done < ahead.len;
        if waits && session.reads() != Reads::Primary {
            session.stand(stand(shared, &session).await);
        }
        let more = run(shared, &mut session, &mut parser, &mut input, &mut ahead, &mut batch);
        if (batch.commit > 0 || batch.read) && !wait_for_commit(shared, &batch).await {
            batch.depose();
        }
        if let Some(holders) = batch.holders.take() {
            let Some(held) = wait_for_holders(shared, holders, &mut read).await? else {
                return Ok(());
            };
            match held {
                Ok((replicas, local)) => holders.reply(replicas, local, &mut batch.out),
                Err(_) => failed_reply(Class::Read, &mut batch.out),
            }
        }
        if !batch.out.is_empty() {
            tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&batch.out)).await??;
        }
        if batch.close {
            return Ok(());
        }
        if batch.held {
            let since = *held_since.get_or_insert_with(tokio::time::Instant::now);
            if !wait_for_slot(shared, since).await {
                session.lose_patience();
            }
            continue;
        }
        held_since = None;
        if more {
            continue;
        }
        input.reserve(READ_BYTES / 4);
        if read.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Waits while commands may not execute. Where only a primary is missing, [`MAX_TURN_WAIT`] is enough: the command then
/// says so itself.
async fn wait_for_turn(shared: &Shared) {
    let may_go_on = {
        let node = shared.node.borrow();
        if node.may_execute() {
            return;
        }
        node.may_go_on()
    };
    let deadline = tokio::time::Instant::now() + MAX_TURN_WAIT;
    loop {
        let woken = may_go_on.notified();
        {
            let node = shared.node.borrow();
            let late = tokio::time::Instant::now() >= deadline;
            if node.may_execute() || (late && !node.replica().serving()) {
                return;
            }
        }
        // Either way the condition is looked at again.
        let _ = tokio::time::timeout(MAX_TURN_WAIT, woken).await;
    }
}

/// Waits while slots are frozen, at most [`MAX_HOLD`] since the command was held first; false if that is over. Whoever is woken
/// looks again.
async fn wait_for_slot(shared: &Shared, since: tokio::time::Instant) -> bool {
    let may_go_on = {
        let node = shared.node.borrow();
        if !node.keyspace().any_frozen() {
            return true;
        }
        node.may_go_on()
    };
    tokio::time::timeout_at(since + MAX_HOLD, may_go_on.notified()).await.is_ok()
}

async fn wait_for_commit(shared: &Shared, batch: &Batch) -> bool {
    let answer = shared.node.borrow_mut().wait(batch.commit, batch.read);
    shared.dirty.notify_one();
    answer.await.unwrap_or(false)
}

/// None: the client is gone.
async fn wait_for_holders(
    shared: &Shared,
    holders: Holders,
    read: &mut OwnedReadHalf,
) -> std::io::Result<Option<Result<(u64, bool), RecvError>>> {
    let mut answer = shared.node.borrow_mut().await_holders(holders);
    let mut byte = [0];
    tokio::select! {
        biased;
        held = &mut answer => Ok(Some(held)),
        peeked = read.peek(&mut byte) => match peeked? {
            0 => Ok(None),
            // It has sent more: whether it goes is not seen before that is read.
            _ => Ok(Some(answer.await)),
        },
    }
}

/// Executes what has arrived; true if there may be more in `input`.
fn run(
    shared: &Shared,
    session: &mut ClientSession,
    parser: &mut Parser,
    input: &mut BytesMut,
    ahead: &mut Ahead,
    batch: &mut Batch,
) -> bool {
    batch.begin();
    shared.node.borrow_mut().execute(|context| {
        while batch.out.len() < MAX_REPLY_BYTES && context.effects.len() < MAX_PENDING_BYTES && !batch.close {
            if ahead.done == ahead.len {
                // What a stranger may send changes with the command before it.
                let most = if session.is_known() { LOOK_AHEAD } else { 1 };
                if let Err(error) = ahead.fill(parser, input, session.limits(), most) {
                    Writer::new(&mut batch.out, Version::Resp2).error(&format!("ERR {error}"));
                    batch.close = true;
                    return false;
                }
                // One alone has no other to overlap with.
                if ahead.len > 1 {
                    let keys = ahead.commands[..ahead.len].iter().filter_map(|args| args.get(1));
                    context.keyspace.fetch(keys);
                }
            }
            let Some(args) = ahead.next() else { return false };
            let (start, reads) = (batch.out.len(), session.reads());
            let outcome = execute(context, session, args, &mut batch.out);
            if outcome.held {
                ahead.put_back();
                batch.held = true;
                return true;
            }
            batch.close |= outcome.close;
            batch.commit = batch.commit.max(outcome.wait_index);
            batch.holders = outcome.holders;
            if outcome.class != Class::Immediate {
                batch.read |= outcome.class == Class::Read;
                batch.marks.push(Mark {
                    start,
                    end: batch.out.len(),
                    class: outcome.class,
                });
            }
            if batch.holders.is_some() {
                return true;
            }
            if session.reads() != reads {
                // What follows may have to wait before it executes.
                break;
            }
        }
        !batch.close
    })
}
