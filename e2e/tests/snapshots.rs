//! Snapshots between real processes: the log stays short, recovery and catch-up go through them, and a kill at any
//! moment leaves a volume that comes back.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, group};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::resp::Client;
use quorate_e2e::local::writers::Writers;
use std::time::Duration;

/// A segment holds a few dozen entries, and a snapshot is due after a few segments.
const SMALL: [(&str, &str); 3] = [
    ("QUORATE_SEGMENT_BYTES", "65536"),
    ("QUORATE_SNAPSHOT_LOG_BYTES", "262144"),
    ("QUORATE_LOG_KEEP_BYTES", "65536"),
];

/// Bytes of the log's files on a node's volume.
fn log_bytes(cluster: &LocalCluster, ordinal: usize) -> u64 {
    let files = std::fs::read_dir(cluster.nodes()[ordinal].data_dir.join("log")).unwrap();
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

fn await_metric(cluster: &LocalCluster, ordinal: usize, name: &str, at_least: u64) {
    eventually(&format!("node {ordinal}: {name} of {at_least}"), || {
        Ok(cluster.metric(ordinal, name)? >= at_least)
    });
}

#[test]
fn every_replica_snapshots_and_trims_and_comes_back_from_snapshot_and_log() {
    let mut cluster = group(&SMALL);
    let writers = Writers::start(client_addresses(&cluster), 4, 100, 500);
    for ordinal in 0..3 {
        await_metric(&cluster, ordinal, "log_base_index", 1000);
        let bytes = log_bytes(&cluster, ordinal);
        assert!(bytes < 8 * 262_144, "node {ordinal} keeps {bytes} bytes of log");
    }
    let written = writers.stop();
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.kill().unwrap();
    }
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.restart().unwrap();
    }
    eventually("a failover finds enough members", || Ok(cluster.failover().is_ok()));
    cluster.await_primary(PATIENCE).unwrap();
    written.check().unwrap();
}

#[test]
fn a_replica_that_was_down_too_long_for_the_log_catches_up_by_snapshot() {
    let mut cluster = group(&SMALL);
    let primary = cluster.primary().unwrap();
    let away = (primary + 1) % 3;
    let writers = Writers::start(client_addresses(&cluster), 4, 500, 500);
    writers.await_more(100, PATIENCE).unwrap();
    let reached = cluster.status(away).unwrap().durable;
    cluster.node_mut(away).unwrap().process.kill().unwrap();
    await_metric(&cluster, primary, "log_base_index", reached + 500);
    cluster.node_mut(away).unwrap().process.restart().unwrap();
    await_metric(&cluster, away, "snapshot_index", reached + 500);
    writers.await_more(500, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(&cluster);
    written.check().unwrap();
    // It has the whole state: it serves it alone with one of the others.
    cluster.node_mut(primary).unwrap().process.kill().unwrap();
    let third = (primary + 2) % 3;
    cluster.failover().unwrap();
    let serving = cluster.await_primary(PATIENCE).unwrap();
    written.check().unwrap();
    if serving == third {
        cluster.node_mut(third).unwrap().process.terminate(Duration::from_secs(20)).unwrap();
        assert_eq!(cluster.await_primary(PATIENCE).unwrap(), away);
        cluster.node_mut(third).unwrap().process.restart().unwrap();
        written.check().unwrap();
    }
}

/// Kills a node again and again while snapshots are written, sent and installed around it.
#[test]
fn kills_at_any_moment_leave_volumes_that_come_back() {
    let mut env = SMALL.to_vec();
    // Slow enough that kills hit the middle of a transfer.
    env.push(("QUORATE_SNAPSHOT_BYTES_PER_SECOND", "6000000"));
    let mut cluster = group(&env);
    let writers = Writers::start(client_addresses(&cluster), 4, 1000, 500);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = seed;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    for round in 0..8 {
        let victim = draw(3) as usize;
        let reached = cluster.status(victim).unwrap().durable;
        cluster.node_mut(victim).unwrap().process.kill().unwrap();
        if cluster.primary().is_none() {
            eventually("a failover", || Ok(cluster.failover().is_ok()));
        }
        let primary = cluster.await_primary(PATIENCE).unwrap();
        if round % 4 != 3 {
            // The victim needs a snapshot now; it dies again while it gets one, early or late.
            await_metric(&cluster, primary, "log_base_index", reached + 1);
            let sent = snapshots_sent(&cluster);
            cluster.node_mut(victim).unwrap().process.restart().unwrap();
            eventually("a snapshot is sent", || Ok(snapshots_sent(&cluster) > sent));
        } else {
            cluster.node_mut(victim).unwrap().process.restart().unwrap();
        }
        writers.await_more(draw(1000), PATIENCE).unwrap();
        cluster.node_mut(victim).unwrap().process.restart().unwrap();
        let goal = cluster.status(cluster.await_primary(PATIENCE).unwrap()).unwrap().commit;
        eventually(&format!("round {round}: node {victim} holds what is committed"), || {
            Ok(cluster.status(victim)?.durable >= goal)
        });
    }
    let written = writers.stop();
    await_synced(&cluster);
    written.check().unwrap();
    let logs: String = (0..3).map(|ordinal| cluster.log_text(ordinal).unwrap()).collect();
    let installed = logs.matches("installed the primary's snapshot").count();
    println!("{} snapshots sent, {installed} installed", snapshots_sent(&cluster));
    assert!(installed > 0 && !logs.contains("panicked"), "{logs}");
}

fn snapshots_sent(cluster: &LocalCluster) -> usize {
    let sent = |ordinal| cluster.log_text(ordinal).unwrap().matches("sending a snapshot").count();
    (0..3).map(sent).sum()
}

#[test]
fn a_snapshot_that_does_not_read_is_made_good_by_the_others() {
    let mut cluster = group(&SMALL);
    let writers = Writers::start(client_addresses(&cluster), 4, 100, 500);
    for ordinal in 0..3 {
        await_metric(&cluster, ordinal, "log_base_index", 1000);
    }
    let written = writers.stop();
    await_synced(&cluster);
    let victim = (cluster.primary().unwrap() + 1) % 3;
    cluster.node_mut(victim).unwrap().process.kill().unwrap();
    let folder = cluster.nodes()[victim].data_dir.join("snapshots");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    eventually("it is repaired", || {
        let status = cluster.status(victim)?;
        Ok(!status.damaged && status.keys == 400)
    });
    await_synced(&cluster);
    let mut client = Client::connect(cluster.nodes()[victim].client, PATIENCE).unwrap();
    assert_eq!(client.run(&["READONLY"]).unwrap(), "OK");
    assert_eq!(client.run(&["DBSIZE"]).unwrap(), "400");
    written.check().unwrap();
}
