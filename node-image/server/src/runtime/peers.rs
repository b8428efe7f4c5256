//! The replica protocol: what members and the operator ask of this node, and this node's own links to the members.
//!
//! Every member keeps a link to every other, so that a new primary can send at once. A link goes to the address that
//! the member told last, else to its DNS name; whoever answers there must be that incarnation.

use super::Shared;
use super::connection::{Outbox, accept};
use super::log_thread::Durable;
use crate::hand_over::hand_over;
use anyhow::bail;
use bytes::BytesMut;
use quorate_api::wire::{ClientKind, Reply, Request, Welcome, take};
use quorate_api::{Incarnation, Member};
use quorate_client::connect::{Established, dial, read_frame};
use quorate_protocol::{Event, Session};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{AbortHandle, spawn_local};

/// Between two attempts to reach a member.
const REDIAL: Duration = Duration::from_millis(100);
/// Bounds of the interval that a watcher may ask for, in milliseconds.
const WATCH_MILLIS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// Reports of the log thread.
pub async fn take_durable(shared: Rc<Shared>, mut reports: UnboundedReceiver<Durable>) {
    while let Some((generation, index)) = reports.recv().await {
        let mut node = shared.node.borrow_mut();
        node.step(Event::LogDurable { generation, index });
        node.settle();
    }
}

/// Serves members and operators for ever.
pub async fn serve(shared: Rc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Rc::clone(&shared);
                spawn_local(async move {
                    let (token, id, addresses) = {
                        let node = shared.node.borrow();
                        (node.token(), node.id(), node.addresses())
                    };
                    match accept(stream, &token, id, addresses).await {
                        Ok(established) => serve_connection(shared, established).await,
                        Err(error) => tracing::warn!(error = format!("{error:#}"), "refused a connection to the replica port"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: the next accept would fail at once too.
                tracing::warn!(%error, "cannot accept a replica");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(shared: Rc<Shared>, established: Established<ClientKind>) {
    let Established {
        mut read,
        write,
        mut buffer,
        peer,
    } = established;
    let outbox = Outbox::new(write);
    let pump = {
        let outbox = outbox.clone();
        spawn_local(async move { outbox.pump().await })
    };
    let session = shared.node.borrow_mut().open_session(outbox);
    let member = match peer {
        // A primary of another group, which gives slots to this one.
        ClientKind::Replica { id, .. } if id.shard != shared.node.borrow().id().shard => None,
        ClientKind::Replica { id, addresses } => {
            shared.node.borrow_mut().learn_addresses(id.incarnation, addresses);
            Some(id.incarnation)
        }
        ClientKind::Operator => None,
    };
    let mut watch = None;
    let outcome: anyhow::Result<()> = async {
        loop {
            while let Some(request) = take::<Request>(&mut buffer)? {
                on_request(&shared, session, member, request, &mut watch);
            }
            shared.node.borrow_mut().settle();
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }
    .await;
    if let Err(error) = outcome {
        tracing::debug!(error = format!("{error:#}"), "a replica's connection ended");
    }
    if let Some((_, reporter)) = watch {
        reporter.abort();
    }
    let mut node = shared.node.borrow_mut();
    node.step(Event::SessionClosed(session));
    node.close_session(session);
    node.settle();
    pump.abort();
}

fn on_request(
    shared: &Rc<Shared>,
    session: Session,
    member: Option<Incarnation>,
    request: Request,
    watch: &mut Option<(Duration, AbortHandle)>,
) {
    match request {
        Request::Watch { interval_millis, policy } => {
            if let Some(policy) = policy {
                shared.orders.borrow_mut().hear(policy);
            }
            let interval = Duration::from_millis(interval_millis.clamp(*WATCH_MILLIS.start(), *WATCH_MILLIS.end()));
            // Repeated, it is the operator's sign of life and changes nothing.
            if watch.as_ref().is_some_and(|(before, _)| *before == interval) {
                return;
            }
            let reporter = spawn_local(report(Rc::clone(shared), session, interval)).abort_handle();
            if let Some((_, before)) = watch.replace((interval, reporter)) {
                before.abort();
            }
        }
        Request::Addresses(addresses) => {
            let mut node = shared.node.borrow_mut();
            for (incarnation, addresses) in addresses {
                if incarnation != node.id().incarnation {
                    node.learn_addresses(incarnation, addresses);
                }
            }
        }
        Request::HandOver => {
            let shared = Rc::clone(shared);
            spawn_local(async move {
                let outcome = hand_over(&shared).await.map_err(|error| format!("{error:#}"));
                shared.node.borrow_mut().end_hand_over();
                shared.node.borrow_mut().reply(session, &Reply::HandOver(outcome));
            });
        }
        Request::Route(map) => shared.node.borrow_mut().learn_route(map),
        Request::MoveSlots(order) => shared.node.borrow_mut().order_move(session, &order),
        Request::AbortMove { handoff } => shared.node.borrow_mut().abort_move(session, handoff),
        Request::Handoff(asked) => {
            shared.node.borrow_mut().on_handoff(session, &asked);
            shared.dirty.notify_one();
        }
        Request::SlotSizes => {
            let mut node = shared.node.borrow_mut();
            let sizes = node.keyspace().slot_sizes();
            node.reply(session, &Reply::SlotSizes(sizes));
        }
        request @ (Request::Append(_)
        | Request::SnapshotChunk(_)
        | Request::ReadIndex(_)
        | Request::Fence(_)
        | Request::Activate(_)
        | Request::Admit(_)) => {
            shared.node.borrow_mut().step(Event::Request {
                from: session,
                peer: member,
                request,
            });
        }
    }
}

/// Sends the status every `interval`, and at once when something changed.
async fn report(shared: Rc<Shared>, session: Session, interval: Duration) {
    let mut changes = shared.node.borrow().changes();
    loop {
        {
            let mut node = shared.node.borrow_mut();
            changes.mark_unchanged();
            let status = node.status();
            node.reply(session, &status);
        }
        // The node outlives this task; an interval that ends is the other reason to report.
        let _ = tokio::time::timeout(interval, changes.changed()).await;
    }
}

/// Keeps a link to every other member for ever.
pub async fn keep_links(shared: Rc<Shared>) {
    let mut members = shared.node.borrow().members();
    let me = shared.node.borrow().id().incarnation;
    let mut links: BTreeMap<Incarnation, AbortHandle> = BTreeMap::new();
    loop {
        let wanted: Vec<Member> = members.borrow_and_update().clone();
        links.retain(|incarnation, link| {
            let stays = wanted.iter().any(|member| member.incarnation == *incarnation);
            if !stays {
                link.abort();
            }
            stays
        });
        for member in wanted {
            if member.incarnation != me && !links.contains_key(&member.incarnation) {
                let link = spawn_local(keep_link(Rc::clone(&shared), member.clone())).abort_handle();
                links.insert(member.incarnation, link);
            }
        }
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Ends a dialled session, also when the task that dialled it is aborted.
struct Link {
    shared: Rc<Shared>,
    session: Session,
    pump: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut node = self.shared.node.borrow_mut();
        node.step(Event::LinkDown(self.session));
        node.close_session(self.session);
        node.settle();
        self.pump.abort();
    }
}

async fn keep_link(shared: Rc<Shared>, member: Member) {
    let mut members = shared.node.borrow().members();
    loop {
        members.mark_unchanged();
        let live = shared.node.borrow().live_address(member.incarnation);
        for address in live.into_iter().chain([member.host.clone()]) {
            if let Err(error) = follow_link(&shared, &member, &address).await {
                tracing::debug!(member = %member.incarnation, address, error = format!("{error:#}"), "no link to a member");
            }
        }
        // A new address is a reason not to wait.
        let _ = tokio::time::timeout(REDIAL, members.changed()).await;
    }
}

async fn follow_link(shared: &Rc<Shared>, member: &Member, address: &str) -> anyhow::Result<()> {
    let (token, client) = {
        let node = shared.node.borrow();
        let client = ClientKind::Replica {
            id: node.id(),
            addresses: node.addresses(),
        };
        (node.token(), client)
    };
    let Established {
        mut read,
        write,
        mut buffer,
        peer: Welcome { id, addresses, .. },
    } = dial(address, &token, client).await?;
    if id.incarnation != member.incarnation {
        bail!("{address} is {}, not {}", id.incarnation, member.incarnation);
    }
    let outbox = Outbox::new(write);
    let pump = {
        let outbox = outbox.clone();
        spawn_local(async move { outbox.pump().await }).abort_handle()
    };
    let link = {
        let mut node = shared.node.borrow_mut();
        node.learn_addresses(id.incarnation, addresses);
        let session = node.open_session(outbox);
        node.step(Event::LinkUp {
            peer: id.incarnation,
            session,
        });
        node.settle();
        Link {
            shared: Rc::clone(shared),
            session,
            pump,
        }
    };
    loop {
        let reply = read_frame::<Reply>(&mut read, &mut buffer).await?;
        on_reply(shared, link.session, reply)?;
        drain(shared, link.session, &mut buffer)?;
        shared.node.borrow_mut().settle();
    }
}

fn drain(shared: &Shared, session: Session, buffer: &mut BytesMut) -> anyhow::Result<()> {
    while let Some(reply) = take::<Reply>(buffer)? {
        on_reply(shared, session, reply)?;
    }
    Ok(())
}

fn on_reply(shared: &Shared, session: Session, reply: Reply) -> anyhow::Result<()> {
    match reply {
        Reply::AppendAck(ack) => {
            shared.node.borrow_mut().step(Event::AppendAck { session, ack });
            Ok(())
        }
        Reply::ReadIndex(answer) => {
            shared.node.borrow_mut().step(Event::ReadIndex(answer));
            Ok(())
        }
        Reply::SnapshotAck(ack) => {
            shared.node.borrow_mut().on_snapshot_ack(session, ack);
            Ok(())
        }
        other => bail!("a member sent an answer to a question that was not asked: {other:?}"),
    }
}
