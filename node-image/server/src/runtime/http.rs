//! Health and metrics over HTTP. The handlers ask the node's thread and wait for its answer, so that a node that hangs
//! fails its probes.

use super::Shared;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_api::{DiskRoom, NodeRole, NodeStatus};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A node that does not answer its own probe in this time hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot for the handlers.
#[derive(Debug)]
struct Snapshot {
    status: NodeStatus,
    clients: u64,
    now_behind: u64,
    log_base: u64,
    snapshot: u64,
    suspicions: [u64; 2],
    longest_freeze_millis: u64,
    scrub: [u64; 4],
}

type Asking = mpsc::Sender<oneshot::Sender<Snapshot>>;

/// Serves `/livez`, `/readyz` and `/metrics` for ever.
///
/// # Errors
/// When the listener fails.
pub async fn serve(shared: Rc<Shared>, listener: TcpListener) -> std::io::Result<()> {
    let (asking, mut asked) = mpsc::channel::<oneshot::Sender<Snapshot>>(16);
    tokio::task::spawn_local(async move {
        while let Some(answer) = asked.recv().await {
            let node = shared.node.borrow();
            let status = node.node_status();
            let snapshot = Snapshot {
                now_behind: status.last.index.saturating_sub(status.commit),
                clients: node.view().clients,
                log_base: node.replica().log().base().id.index,
                scrub: [node.scrub.passes, node.scrub.bytes, node.scrub.found, node.scrub.repaired],
                snapshot: node.snapshots.newest().map_or(0, |position| position.id.index),
                suspicions: {
                    let orders = shared.orders.borrow();
                    [orders.suspicions, orders.false_suspicions]
                },
                longest_freeze_millis: node.moves.longest_freeze_millis(),
                status,
            };
            // The prober may have hung up.
            let _ = answer.send(snapshot);
        }
    });
    let router = Router::new()
        .route("/livez", get(health))
        .route("/readyz", get(health))
        .route("/metrics", get(metrics))
        .with_state(asking);
    axum::serve(listener, router).await
}

async fn ask(asking: &Asking) -> Result<Snapshot, StatusCode> {
    let (answer, receive) = oneshot::channel();
    asking.send(answer).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    match tokio::time::timeout(PATIENCE, receive).await {
        Ok(Ok(snapshot)) => Ok(snapshot),
        Ok(Err(_)) | Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn health(State(asking): State<Asking>) -> Result<String, StatusCode> {
    let snapshot = ask(&asking).await?;
    Ok(format!("{:?}\n", snapshot.status.role))
}

async fn metrics(State(asking): State<Asking>) -> Result<String, StatusCode> {
    let Snapshot {
        status,
        clients,
        now_behind,
        log_base,
        snapshot,
        suspicions,
        longest_freeze_millis,
        scrub: [passes, scrubbed, found, repaired],
    } = ask(&asking).await?;
    let mut registry = Registry::with_prefix("quorate_node");
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let slots = status.slots.as_ref();
    let gauges = [
        ("epoch", "Highest epoch number promised", status.promised.number),
        ("log_last_index", "Index of the last log entry", status.last.index),
        ("log_durable_index", "Index up to which the log is durable", status.durable),
        ("log_commit_index", "Commit index as this replica knows it", status.commit),
        ("log_base_index", "Index before the first log entry kept", log_base),
        ("snapshot_index", "Index that the newest snapshot covers", snapshot),
        ("log_uncommitted_entries", "Entries that wait for their commit", now_behind),
        (
            "serving",
            "1 while this node serves as primary",
            u64::from(status.role == NodeRole::Primary),
        ),
        (
            "disk_full",
            "1 while the disk has no room for the next segment of the log",
            u64::from(status.disk != DiskRoom::Ample),
        ),
        (
            "writes_refused",
            "1 while writes are refused for want of room, here or at too many members",
            u64::from(status.writes_refused.is_some()),
        ),
        ("damaged", "1 while log entries are unreadable here", u64::from(status.damaged)),
        (
            "log_acknowledged_index",
            "Index up to which writes may be acknowledged: above the commit index where a failover can lose them",
            status.acknowledged,
        ),
        (
            "tails_kept",
            "Tails that were cut off the log and are kept aside, the newest 16",
            status.tails.len() as u64,
        ),
        (
            "tail_writes_kept",
            "Acknowledged writes in those tails: what failovers lost",
            status.tails.iter().map(|tail| tail.writes).sum(),
        ),
        (
            "page_cache",
            "1 while what this node acknowledges is in the page cache only",
            u64::from(status.page_cache),
        ),
        ("scrub_passes", "Times that the volume was read again", passes),
        ("scrub_bytes", "Bytes that were read again", scrubbed),
        ("rot_found", "Damaged files found while the node ran", found),
        ("rot_repaired", "Of these, repaired", repaired),
        ("keys", "Keys held", status.keys),
        ("memory_bytes", "Bytes that the data takes", status.memory_bytes),
        ("clients", "Connected clients", clients),
        (
            "slots_owned",
            "Hash slots that the group owns",
            slots.map_or(0, |slots| slots.owned.len() as u64),
        ),
        (
            "slot_moves_out",
            "Moves of slots away from the group",
            slots.map_or(0, |slots| slots.exports.len() as u64),
        ),
        (
            "slot_moves_in",
            "Moves of slots to the group",
            slots.map_or(0, |slots| slots.imports.len() as u64),
        ),
        (
            "slot_freeze_longest_millis",
            "The longest time that clients of moving slots waited here since the process began",
            longest_freeze_millis,
        ),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(number(value));
        registry.register(name, help, gauge);
    }
    let counters = [
        (
            "suspicions",
            "Primaries that this member suspected while no operator was there",
            suspicions[0],
        ),
        ("false_suspicions", "Those of them that were alive", suspicions[1]),
    ];
    for (name, help, value) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let lag = Family::<Vec<(String, String)>, Gauge>::default();
    for peer in &status.peers {
        let behind = status.last.index.saturating_sub(peer.matched);
        lag.get_or_create(&vec![("incarnation".to_owned(), peer.incarnation.to_string())])
            .set(number(behind));
    }
    registry.register("peer_lag_entries", "Entries that a member does not hold durably yet", lag);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
