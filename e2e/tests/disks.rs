//! Disks that fill up or rot under real processes: what is refused, what goes on, and that it comes back by itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, scripted};
use quorate_api::DiskRoom;
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::resp::Client;
use quorate_e2e::local::writers::Writers;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

/// Segments of a mebibyte; snapshots keep the log far smaller than the disk.
const SMALL: [(&str, &str); 3] = [
    ("QUORATE_SEGMENT_BYTES", "1048576"),
    ("QUORATE_SNAPSHOT_LOG_BYTES", "3000000"),
    ("QUORATE_LOG_KEEP_BYTES", "1000000"),
];

/// Every node on a disk of its own, in memory; a later start finds the one that [`keep`] kept.
const MOUNTED: &str = r#"[ -e "$QUORATE_DATA_DIR/../kept-$QUORATE_ORDINAL" ] && exec nsenter --mount="$(cat "$QUORATE_DATA_DIR/../kept-$QUORATE_ORDINAL")" $node serve
exec unshare -m sh -c 'mount -t tmpfs -o size=24m tmpfs "$QUORATE_DATA_DIR" && exec "$0" serve' $node"#;

/// Three nodes on small disks; None where this user may not mount any.
fn small_disks() -> Option<(tempfile::TempDir, LocalCluster)> {
    let mountable = Command::new("unshare").args(["-m", "true"]).status();
    if !mountable.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this user may not make mount namespaces");
        return None;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = LocalCluster::start(scripted(folder.path(), MOUNTED, &SMALL)).unwrap();
    Some((folder, cluster))
}

/// Keeps the nodes' disks beyond the ends of their processes, as long as what this gives.
fn keep(cluster: &LocalCluster) -> Vec<File> {
    let spaces = cluster.nodes().iter().enumerate().map(|(ordinal, node)| {
        let pid = node.process.pid().unwrap().as_raw_nonzero();
        let space = File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), space.as_raw_fd());
        std::fs::write(node.data_dir.with_file_name(format!("kept-{ordinal}")), path).unwrap();
        space
    });
    spaces.collect()
}

/// A file in a node's directory, as the node sees it.
fn inside(cluster: &LocalCluster, ordinal: usize, name: &str) -> PathBuf {
    let node = &cluster.nodes()[ordinal];
    let root = format!("/proc/{}/root", node.process.pid().unwrap().as_raw_nonzero());
    PathBuf::from(root).join(node.data_dir.strip_prefix("/").unwrap()).join(name)
}

/// Leaves no more than `spare` bytes on a node's disk.
fn fill(cluster: &LocalCluster, ordinal: usize, spare: usize) {
    let mut ballast = File::create(inside(cluster, ordinal, "ballast")).unwrap();
    while ballast.write_all(&[1; 65536]).is_ok() {}
    let length = ballast.metadata().unwrap().len();
    ballast.set_len(length.saturating_sub(spare as u64)).unwrap();
}

fn make_room(cluster: &LocalCluster, ordinal: usize) {
    std::fs::remove_file(inside(cluster, ordinal, "ballast")).unwrap();
}

fn await_disk(cluster: &LocalCluster, ordinal: usize, room: DiskRoom) {
    eventually(&format!("the disk of node {ordinal} is {room:?}"), || {
        Ok(cluster.status(ordinal)?.disk == room)
    });
}

/// Nobody restarted and nobody else was chosen.
fn unmoved(cluster: &LocalCluster) -> impl Fn(&LocalCluster) {
    let look = |cluster: &LocalCluster| {
        let pids: Vec<_> = cluster.pids().collect();
        (pids, cluster.await_primary(PATIENCE).unwrap(), cluster.status(0).unwrap().promised)
    };
    let before = look(cluster);
    move |cluster| {
        let now = look(cluster);
        assert_eq!(now, before);
        for ordinal in 0..3 {
            assert!(!cluster.log_text(ordinal).unwrap().contains("storage failed"), "node {ordinal}");
        }
    }
}

/// Writes go on, every replica has them all, and nothing else has happened.
fn ends_well(cluster: &LocalCluster, writers: Writers, unmoved: impl Fn(&LocalCluster)) {
    writers.await_more(500, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(cluster);
    written.check().unwrap();
    unmoved(cluster);
}

#[test]
fn a_follower_with_a_full_disk_keeps_its_process_holds_nobody_up_and_catches_up_with_room() {
    let Some((_folder, cluster)) = small_disks() else { return };
    let unmoved = unmoved(&cluster);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let follower = (primary + 1) % 3;
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 4000);
    writers.await_more(500, PATIENCE).unwrap();
    fill(&cluster, follower, 0);
    await_disk(&cluster, follower, DiskRoom::Full);
    let stuck = cluster.status(follower).unwrap();
    assert!(stuck.writes_refused.unwrap().contains("disk of this node is full"));
    assert_eq!(cluster.metric(follower, "disk_full").unwrap(), 1);
    // Several times the disk of the follower, acknowledged by the two others.
    writers.await_more(8000, PATIENCE).unwrap();
    let leader = cluster.status(primary).unwrap();
    assert_eq!(leader.writes_refused, None);
    let me = leader.peers.iter().find(|peer| peer.incarnation == stuck.id.incarnation).unwrap();
    assert!(me.connected && me.heard_millis_ago < 1000 && me.disk == DiskRoom::Full, "{me:?}");
    assert_eq!(cluster.status(follower).unwrap().last, stuck.last, "it takes nothing");
    make_room(&cluster, follower);
    await_disk(&cluster, follower, DiskRoom::Ample);
    ends_well(&cluster, writers, unmoved);
}

#[test]
fn full_disks_of_too_many_followers_refuse_writes_clearly_and_reads_go_on() {
    let Some((_folder, cluster)) = small_disks() else { return };
    let unmoved = unmoved(&cluster);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let followers = [(primary + 1) % 3, (primary + 2) % 3];
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 4000);
    writers.await_more(500, PATIENCE).unwrap();
    for follower in followers {
        fill(&cluster, follower, 0);
    }
    eventually("writes are refused", || Ok(cluster.status(primary)?.writes_refused.is_some()));
    let mut client = Client::connect(cluster.nodes()[primary].client, PATIENCE).unwrap();
    eventually("the error says why", || {
        // A snapshot may have given back some room for a moment.
        let Err(refusal) = client.run(&["SET", "k", "v"]) else {
            return Ok(false);
        };
        let refusal = refusal.to_string();
        Ok(refusal.starts_with("MISCONF ") && refusal.contains("1 of the 2 members that a write needs have room"))
    });
    for _ in 0..100 {
        client.run(&["GET", "writer0:1"]).unwrap();
    }
    make_room(&cluster, followers[0]);
    eventually("writes go on", || Ok(client.run(&["SET", "k", "v"]).is_ok()));
    make_room(&cluster, followers[1]);
    ends_well(&cluster, writers, unmoved);
}

#[test]
fn an_entry_that_finds_no_room_at_its_primary_is_held_by_the_others_and_written_with_room() {
    let Some((_folder, cluster)) = small_disks() else { return };
    let pids: Vec<_> = cluster.pids().collect();
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let mut client = Client::connect(cluster.nodes()[primary].client, PATIENCE).unwrap();
    client.run(&["SET", "small", "v"]).unwrap();
    // Room for segments, not for one that takes this value.
    fill(&cluster, primary, 2 << 20);
    let large = "v".repeat(4 << 20);
    assert_eq!(client.run(&["SET", "large", &large]).unwrap(), "OK", "two others hold it");
    await_disk(&cluster, primary, DiskRoom::Tight);
    let refusal = client.run(&["SET", "small", "w"]).unwrap_err().to_string();
    assert!(refusal.starts_with("MISCONF "), "{refusal}");
    // Another one serves, and this one is a follower that still owes its log an entry.
    let status = cluster.status(primary).unwrap();
    assert!(status.durable < status.last.index, "{status:?}");
    cluster.failover().unwrap();
    let next = cluster.await_primary(PATIENCE).unwrap();
    let mut client = Client::connect(cluster.nodes()[next].client, PATIENCE).unwrap();
    assert_eq!(client.run(&["STRLEN", "large"]).unwrap(), large.len().to_string());
    if next != primary {
        assert_eq!(client.run(&["SET", "small", "w"]).unwrap(), "OK");
    }
    make_room(&cluster, primary);
    await_disk(&cluster, primary, DiskRoom::Ample);
    await_synced(&cluster);
    assert_eq!(cluster.pids().collect::<Vec<_>>(), pids);
}

#[test]
fn nodes_that_start_on_full_disks_choose_a_primary_answer_reads_and_take_writes_again_with_room() {
    let Some((_folder, mut cluster)) = small_disks() else { return };
    let _disks = keep(&cluster);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 4000);
    writers.await_more(500, PATIENCE).unwrap();
    for ordinal in 0..3 {
        fill(&cluster, ordinal, 0);
    }
    let refused = |cluster: &LocalCluster| {
        eventually("writes are refused", || {
            let primary = cluster.await_primary(PATIENCE)?;
            let mut client = Client::connect(cluster.nodes()[primary].client, PATIENCE)?;
            client.run(&["GET", "writer0:1"])?;
            Ok(client
                .run(&["SET", "k", "v"])
                .is_err_and(|refusal| refusal.to_string().starts_with("MISCONF ")))
        });
    };
    refused(&cluster);
    let written = writers.stop();
    for _ in 0..3 {
        for ordinal in 0..3 {
            cluster.node_mut(ordinal).unwrap().process.kill().unwrap();
        }
        for ordinal in 0..3 {
            cluster.node_mut(ordinal).unwrap().process.restart().unwrap();
        }
        eventually("a failover finds enough members", || Ok(cluster.failover().is_ok()));
        refused(&cluster);
    }
    let epoch = cluster.status(0).unwrap().promised;
    written.check().unwrap();
    for ordinal in 0..3 {
        assert!(!cluster.log_text(ordinal).unwrap().contains("storage failed"), "node {ordinal}");
        make_room(&cluster, ordinal);
    }
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 4000);
    writers.await_more(500, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(&cluster);
    written.check().unwrap();
    assert_eq!(cluster.status(0).unwrap().promised, epoch, "nobody else was chosen");
}
