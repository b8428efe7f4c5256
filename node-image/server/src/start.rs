//! Starts a node: identity, recovery from disk, sockets, tasks; and its graceful end.

use crate::config::{NodeArgs, join};
use crate::durability;
use crate::election::{self, Orders};
use crate::hand_over::hand_over;
use crate::restore::{Restored, restore};
use crate::runtime::log_thread::{Durable, LogThread};
use crate::runtime::moves::{self, CopyJob, Moves};
use crate::runtime::node::{Node, Parts, Stored};
use crate::runtime::scrub::Scrub;
use crate::runtime::snapshot_thread::{Report, SnapshotThread};
use crate::runtime::snapshots::{self, Snapshots};
use crate::runtime::{Shared, clients, flush, http, peers, tick};
use crate::storage::{DirectoryLock, LogOptions, SnapshotDirectory, Superblock, TailDirectory};
use anyhow::{Context, bail};
use quorate_api::{Incarnation, ReplicaId};
use quorate_protocol::{HardState, Replica, Session, Settings};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// After a hand-over, clients are told where the new primary is for so long.
const LINGER: Duration = Duration::from_millis(500);

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start: the message says what to do.
pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::fs::create_dir_all(&args.data_dir).with_context(|| format!("create {}", args.data_dir.display()))?;
    let _lock = DirectoryLock::acquire(&args.data_dir)?;
    let client_listener = listen(&args.bind, args.client_port).await?;
    let replica_listener = listen(&args.bind, args.replica_port).await?;
    let http_listener = listen(&args.bind, args.http_port).await?;
    let (durable, durable_reports) = unbounded_channel();
    let (reports, snapshot_reports) = unbounded_channel();
    let (requests, snapshot_requests) = unbounded_channel();
    let (copies, copy_jobs) = unbounded_channel();
    let node = recover(&args, durable, reports, requests, copies)?;
    tracing::info!(
        id = %node.id().incarnation,
        role = ?node.replica().role(),
        last = node.replica().last().index,
        commit = node.replica().commit(),
        client_port = args.client_port,
        "node started"
    );
    let shared = Shared::new(node, Orders::load(&args.data_dir));
    spawn_local(peers::take_durable(Rc::clone(&shared), durable_reports));
    spawn_local(snapshots::take_reports(Rc::clone(&shared), snapshot_reports));
    spawn_local(snapshots::serve(Rc::clone(&shared), snapshot_requests));
    spawn_local(moves::run(Rc::clone(&shared), copy_jobs));
    spawn_local(flush(Rc::clone(&shared)));
    spawn_local(tick(Rc::clone(&shared)));
    spawn_local(peers::keep_links(Rc::clone(&shared)));
    spawn_local(election::run(Rc::clone(&shared)));
    spawn_local(peers::serve(Rc::clone(&shared), replica_listener));
    spawn_local(clients::serve(Rc::clone(&shared), client_listener));
    let health = spawn_local(http::serve(Rc::clone(&shared), http_listener));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = health => bail!("the health endpoint ended: {ended:?}"),
    }
    let primary = shared.node.borrow().replica().serving();
    tracing::info!(primary, "told to stop");
    if primary {
        match hand_over(&shared).await {
            Ok(()) => tokio::time::sleep(LINGER).await,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "stopping without a hand-over"),
        }
    }
    // Nothing else runs from here to the end of the process: nothing more is acknowledged.
    shared.node.borrow_mut().close();
    Ok(())
}

async fn listen(bind: &str, port: u16) -> anyhow::Result<TcpListener> {
    let address = join(bind, port);
    TcpListener::bind(&address).await.with_context(|| format!("listen on {address}"))
}

/// Brings the node back from its volume, or gives an empty volume an identity.
fn recover(
    args: &NodeArgs,
    durable: UnboundedSender<Durable>,
    reports: UnboundedSender<Report>,
    requests: UnboundedSender<Session>,
    copies: UnboundedSender<CopyJob>,
) -> anyhow::Result<Node> {
    let (store, shard, ordinal) = (args.store(), args.shard, args.ordinal()?);
    let options = LogOptions {
        segment_bytes: args.segment_bytes,
    };
    let directory = args.data_dir.join("log");
    let (mut superblock, mut stored) = match Superblock::open::<Stored>(&args.data_dir)? {
        Some(found) => found,
        None => {
            let holds_log = std::fs::read_dir(&directory).is_ok_and(|mut files| files.next().is_some());
            if holds_log {
                bail!(
                    "{} holds a log but no superblock: part of the volume is lost. Move it aside to start this replica empty; \
                     it then rejoins as a new member",
                    args.data_dir.display()
                );
            }
            let id = ReplicaId {
                store,
                shard,
                ordinal,
                incarnation: Incarnation(uuid::Uuid::new_v4()),
            };
            let stored = Stored::new(id, HardState::default());
            (Superblock::create(&args.data_dir, &stored)?, stored)
        }
    };
    let id = stored.id;
    if (id.store, id.shard, id.ordinal) != (store, shard, ordinal) {
        bail!(
            "{} belongs to store {} shard {} replica {}, and this node is store {store} shard {shard} replica {ordinal}: \
             give it the right volume",
            args.data_dir.display(),
            id.store,
            id.shard,
            id.ordinal
        );
    }
    durability::take_up(&mut stored, &mut superblock, &args.boot_id_file)?;
    let id = stored.id;
    let tails = TailDirectory::open(args.data_dir.join("tails"))?;
    let (settled, promised) = (stored.hard.settled, stored.hard.promised);
    let snapshots = SnapshotDirectory::open(args.data_dir.join("snapshots"))?;
    let Restored {
        mut log,
        view,
        keyspace,
        commit,
        snapshot,
    } = restore(&directory, options, &snapshots, settled, promised, |lost| {
        stored.hard.unreadable = stored.hard.unreadable.max(Some(lost));
        superblock.write(&stored).map_err(Into::into)
    })?;
    durability::begin(args.durability, &mut stored, &mut superblock, &mut log, &args.boot_id_file)?;
    let replica = Replica::new(id.incarnation, Settings::default(), stored.hard.clone(), view, commit);
    let reader = log.reader();
    let log = Arc::new(Mutex::new(log));
    let log_thread = LogThread::start(Arc::clone(&log), durable)?;
    let settings = args.snapshots();
    let scrub = Scrub::start(args.scrub(), reader.clone(), snapshots.clone(), reports.clone())?;
    let snapshot_thread = SnapshotThread::start(snapshots.clone(), reader.clone(), settings.bytes_per_second, reports)?;
    let snapshots = Snapshots::new(settings, snapshots, snapshot_thread, snapshot, requests);
    let parts = Parts {
        stored,
        superblock,
        replica,
        keyspace,
        log,
        tails,
        reader,
        log_thread,
        token: args.token()?,
        addresses: args.addresses(),
        max_memory: args.max_memory,
        store: args.store_name.clone(),
        password: args.password()?,
    };
    Ok(Node::new(parts, snapshots, Moves::new(copies), scrub))
}
