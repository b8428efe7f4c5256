//! A group that no operator watches: its members fail over by themselves, and only when they have to.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, group};
use quorate_api::wire::{ClientKind, FailoverPolicy, Reply, Request};
use quorate_client::{dial, read_frame, write_frame};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::writers::Writers;
use std::time::Duration;

const ALONE: FailoverPolicy = FailoverPolicy {
    automatic: true,
    suspect_after_millis: 500,
    operator_away_millis: 300,
};

/// What an operator says, once, before it is gone for ever.
fn tell(cluster: &LocalCluster, policy: FailoverPolicy) {
    let token = std::fs::read(cluster.token_file()).unwrap().trim_ascii().to_vec();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for node in cluster.nodes() {
            let mut link = dial(&node.replica.to_string(), &token, ClientKind::Operator).await.unwrap();
            let word = Request::Watch {
                interval_millis: 1000,
                policy: Some(policy),
            };
            write_frame(&mut link.write, &word).await.unwrap();
            let reply: Reply = read_frame(&mut link.read, &mut link.buffer).await.unwrap();
            assert!(matches!(reply, Reply::Status(_)));
        }
    });
}

fn epoch(cluster: &LocalCluster, ordinal: usize) -> u64 {
    cluster.status(ordinal).unwrap().promised.number
}

#[test]
fn members_replace_a_killed_primary_and_a_frozen_one_without_an_operator() {
    let mut cluster = group(&[]);
    tell(&cluster, ALONE);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    writers.await_more(200, PATIENCE).unwrap();
    let before = cluster.await_primary(PATIENCE).unwrap();
    cluster.node_mut(before).unwrap().process.kill().unwrap();
    assert_ne!(cluster.await_primary(PATIENCE).unwrap(), before);
    writers.await_more(200, PATIENCE).unwrap();
    // It remembers the policy that it was told before it died.
    cluster.node_mut(before).unwrap().process.restart().unwrap();
    writers.await_more(500, PATIENCE).unwrap();

    let frozen = cluster.await_primary(PATIENCE).unwrap();
    cluster.node_mut(frozen).unwrap().process.pause().unwrap();
    eventually("another member serves", || {
        Ok((0..3).filter(|other| *other != frozen).any(|other| {
            cluster
                .status(other)
                .is_ok_and(|status| status.role == quorate_api::NodeRole::Primary)
        }))
    });
    writers.await_more(200, PATIENCE).unwrap();
    cluster.node_mut(frozen).unwrap().process.resume().unwrap();
    writers.await_more(200, PATIENCE).unwrap();
    let written = writers.stop();
    await_synced(&cluster);
    written.check().unwrap();
}

#[test]
fn members_that_were_all_killed_find_a_primary_again() {
    let mut cluster = group(&[]);
    tell(&cluster, ALONE);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    writers.await_more(300, PATIENCE).unwrap();
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.kill().unwrap();
    }
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.restart().unwrap();
    }
    cluster.await_primary(PATIENCE).unwrap();
    writers.await_more(200, PATIENCE).unwrap();
    writers.stop().check().unwrap();
}

#[test]
fn a_member_that_was_away_disturbs_nobody_and_too_few_members_do_nothing() {
    let mut cluster = group(&[]);
    tell(&cluster, ALONE);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let [first, second] = [(primary + 1) % 3, (primary + 2) % 3];
    let before = epoch(&cluster, primary);
    // For both its links and the operator, this member was gone for several times its patience.
    cluster.node_mut(first).unwrap().process.pause().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    cluster.node_mut(first).unwrap().process.resume().unwrap();
    await_synced(&cluster);
    assert_eq!(epoch(&cluster, primary), before, "a healthy primary was deposed");

    // One of three is no fence quorum.
    cluster.node_mut(primary).unwrap().process.kill().unwrap();
    cluster.node_mut(second).unwrap().process.kill().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(epoch(&cluster, first), before, "one member began an epoch by itself");
    cluster.node_mut(second).unwrap().process.restart().unwrap();
    cluster.await_primary(PATIENCE).unwrap();
}

#[test]
fn members_leave_failovers_to_people_where_they_are_told_to() {
    let mut cluster = group(&[]);
    tell(&cluster, FailoverPolicy { automatic: false, ..ALONE });
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let other = (primary + 1) % 3;
    let before = epoch(&cluster, other);
    cluster.node_mut(primary).unwrap().process.kill().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(epoch(&cluster, other), before);
    cluster.failover().unwrap();
}
