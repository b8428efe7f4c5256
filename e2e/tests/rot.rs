//! Disks that lose what they hold, or fail to hold it, under real processes: it is found, no process goes on with it, and
//! nothing that was acknowledged is missing afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, group, scripted, strace};
use quorate_api::EntryId;
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::writers::{Writers, Written};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Small segments, and no snapshot but those that something asks for.
const SEGMENTS: [(&str, &str); 2] = [("QUORATE_SEGMENT_BYTES", "65536"), ("QUORATE_SCRUB_INTERVAL_SECONDS", "1")];

fn files(cluster: &LocalCluster, ordinal: usize, folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cluster.nodes()[ordinal].data_dir.join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// Turns a bit in the middle of a file.
fn flip(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.sync_all().unwrap();
}

/// Enough writes for a log of several segments at every node.
fn load(cluster: &LocalCluster) -> Written {
    let writers = Writers::start(client_addresses(cluster), 4, 50, 500);
    writers.await_more(2000, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(cluster);
    written
}

fn restart_all(cluster: &mut LocalCluster) {
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.kill().unwrap();
    }
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.restart().unwrap();
    }
    eventually("a failover finds enough members", || Ok(cluster.failover().is_ok()));
}

/// What a start says that finds damage.
const DAMAGED: &str = "log entries that were durable do not read";

/// Waits until a node has again, durably, what it had, and counts for it.
fn await_repaired(cluster: &LocalCluster, victim: usize, last: EntryId) {
    eventually("peers repaired it", || {
        let status = cluster.status(victim)?;
        anyhow::ensure!(!status.damaged && status.durable >= last.index, "{status:?}");
        Ok(true)
    });
    await_synced(cluster);
}

#[test]
fn what_rots_while_nodes_run_is_found_by_the_scrub_and_repaired_from_memory() {
    let mut cluster = group(&SEGMENTS);
    let written = load(&cluster);
    let pids: Vec<_> = cluster.pids().collect();
    let repaired = |cluster: &LocalCluster, times: u64| {
        for ordinal in 0..3 {
            eventually(&format!("node {ordinal} has repaired {times}"), || {
                Ok(cluster.metric(ordinal, "rot_repaired")? == times && cluster.status(ordinal)?.rot.is_none())
            });
            assert_eq!(cluster.metric(ordinal, "rot_found").unwrap(), times);
        }
    };
    // The same entries on all three: only memory holds them now.
    let rotten: Vec<PathBuf> = (0..3).map(|ordinal| files(&cluster, ordinal, "log", "log")[1].clone()).collect();
    rotten.iter().for_each(|path| flip(path));
    repaired(&cluster, 1);
    eventually("the damaged segments are given back", || {
        Ok(!rotten.iter().any(|path| path.exists()))
    });
    for ordinal in 0..3 {
        flip(&files(&cluster, ordinal, "snapshots", "snapshot")[0]);
    }
    repaired(&cluster, 2);
    assert_eq!(cluster.pids().collect::<Vec<_>>(), pids, "no process ended");
    restart_all(&mut cluster);
    written.check().unwrap();
}

#[test]
fn what_is_found_damaged_at_a_start_is_repaired_by_peers() {
    let mut cluster = group(&SEGMENTS);
    let written = load(&cluster);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let (victim, last) = ((primary + 1) % 3, cluster.status(primary).unwrap().last);
    // The head of one segment, the middle of another, and the head of the last one, so that nothing tells how far the log went;
    // nothing of the log before them is covered by a snapshot, and nobody writes meanwhile.
    for (place, head) in [(Some(1), true), (Some(2), false), (None, true)] {
        cluster.node_mut(victim).unwrap().process.kill().unwrap();
        let segments = files(&cluster, victim, "log", "log");
        assert!(segments.len() > 3, "{segments:?}");
        let segment = segments[place.unwrap_or(segments.len() - 1)].clone();
        let before = cluster.log_text(victim).unwrap().matches(DAMAGED).count();
        if head {
            let file = std::fs::File::options().write(true).open(&segment).unwrap();
            file.write_all_at(b"??", 20).unwrap();
        } else {
            flip(&segment);
        }
        cluster.node_mut(victim).unwrap().process.restart().unwrap();
        eventually("the damage was seen", || {
            Ok(cluster.log_text(victim)?.matches(DAMAGED).count() > before)
        });
        await_repaired(&cluster, victim, last);
    }
    written.check().unwrap();
}

#[test]
fn a_disk_that_gives_an_error_for_what_it_held_is_damage_and_no_loop_of_crashes() {
    let Some(strace) = strace() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = format!(
        "[ -e {folder}/bad-$QUORATE_ORDINAL ] || exec $node serve\n\
         exec {strace} -P $(ls $QUORATE_DATA_DIR/log/*.log | sed -n 2p) -e trace=pread64 -e inject=pread64:error=EIO setpriv --pdeathsig KILL $node serve",
        folder = folder.path().display(),
    );
    let mut cluster = LocalCluster::start(scripted(folder.path(), &script, &SEGMENTS)).unwrap();
    let written = load(&cluster);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let (victim, last) = ((primary + 1) % 3, cluster.status(primary).unwrap().last);
    std::fs::write(folder.path().join(format!("bad-{victim}")), "").unwrap();
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    await_repaired(&cluster, victim, last);
    assert!(
        cluster
            .log_text(victim)
            .unwrap()
            .contains("the disk does not give a part of the log")
    );
    written.check().unwrap();
}

#[test]
fn a_failed_sync_of_a_follower_ends_its_process_and_the_others_go_on() {
    let Some(strace) = strace() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = format!(
        "[ -e {folder}/bad-$QUORATE_ORDINAL ] || exec $node serve\n\
         exec {strace} -e trace=fdatasync -e inject=fdatasync:error=EIO:when=50+ setpriv --pdeathsig KILL $node serve",
        folder = folder.path().display(),
    );
    let mut cluster = LocalCluster::start(scripted(folder.path(), &script, &[])).unwrap();
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let victim = (primary + 1) % 3;
    let marker = folder.path().join(format!("bad-{victim}"));
    std::fs::write(&marker, "").unwrap();
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 500);
    eventually("the process ended", || Ok(cluster.log_text(victim)?.contains("storage failed")));
    writers.await_more(500, PATIENCE).unwrap();
    assert_eq!(cluster.await_primary(PATIENCE).unwrap(), primary);
    std::fs::remove_file(marker).unwrap();
    cluster.node_mut(victim).unwrap().process.restart().unwrap();
    writers.await_more(100, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(&cluster);
    restart_all(&mut cluster);
    written.check().unwrap();
}
