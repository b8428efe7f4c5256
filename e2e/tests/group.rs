//! A group of real processes: it serves, hands over, fails over, and takes back who was away.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, await_synced, client_addresses, eventually, group};
use quorate_e2e::local::resp::Client;
use quorate_e2e::local::writers::Writers;
use std::time::Duration;

#[test]
fn a_terminated_primary_hands_over_and_no_acknowledged_write_is_lost() {
    let mut cluster = group(&[]);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    writers.await_more(200, PATIENCE).unwrap();
    for _ in 0..3 {
        let before = cluster.await_primary(PATIENCE).unwrap();
        let node = cluster.node_mut(before).unwrap();
        node.process.terminate(Duration::from_secs(20)).unwrap();
        let after = cluster.await_primary(PATIENCE).unwrap();
        assert_ne!(before, after);
        writers.await_more(200, PATIENCE).unwrap();
        cluster.node_mut(before).unwrap().process.restart().unwrap();
        await_synced_while_writing(&cluster, before);
    }
    let written = writers.stop();
    written.check().unwrap();
    println!("longest time without an acknowledgement: {:?}", written.longest_gap());
}

#[test]
fn a_killed_primary_is_replaced_and_catches_up_when_it_is_back() {
    let mut cluster = group(&[]);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    for _ in 0..3 {
        writers.await_more(200, PATIENCE).unwrap();
        let before = cluster.await_primary(PATIENCE).unwrap();
        cluster.node_mut(before).unwrap().process.kill().unwrap();
        assert!(cluster.primary().is_none(), "nobody drives a failover here but us");
        cluster.failover().unwrap();
        assert_ne!(cluster.await_primary(PATIENCE).unwrap(), before);
        writers.await_more(200, PATIENCE).unwrap();
        cluster.node_mut(before).unwrap().process.restart().unwrap();
        await_synced_while_writing(&cluster, before);
    }
    let written = writers.stop();
    await_synced(&cluster);
    written.check().unwrap();
}

#[test]
fn all_processes_killed_at_once_come_back_with_every_acknowledged_write() {
    let mut cluster = group(&[]);
    let writers = Writers::start(client_addresses(&cluster), 4, 50, 100);
    writers.await_more(500, PATIENCE).unwrap();
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.kill().unwrap();
    }
    let written = writers.stop();
    for ordinal in 0..3 {
        cluster.node_mut(ordinal).unwrap().process.restart().unwrap();
    }
    eventually("a failover finds enough members", || Ok(cluster.failover().is_ok()));
    cluster.await_primary(PATIENCE).unwrap();
    written.check().unwrap();
}

#[test]
fn a_frozen_primary_that_wakes_up_does_not_answer_for_the_past() {
    let mut cluster = group(&[]);
    let before = cluster.primary().unwrap();
    let address = cluster.nodes()[before].client;
    let mut client = Client::connect(address, PATIENCE).unwrap();
    assert_eq!(client.run(&["SET", "k", "old"]).unwrap(), "OK");
    cluster.node_mut(before).unwrap().process.pause().unwrap();
    // Both wait in the frozen node's socket.
    client.send(b"GET k\r\nSET k older\r\n").unwrap();
    cluster.failover().unwrap();
    let after = cluster.await_primary(PATIENCE).unwrap();
    let mut successor = Client::connect(cluster.nodes()[after].client, PATIENCE).unwrap();
    assert_eq!(successor.run(&["SET", "k", "new"]).unwrap(), "OK");
    cluster.node_mut(before).unwrap().process.resume().unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        client
            .receive(|token| {
                answers.push(format!("{token:?}"));
                Ok(())
            })
            .unwrap();
    }
    assert!(answers.iter().all(|answer| answer.starts_with("Error")), "{answers:?}");
    assert_eq!(successor.run(&["GET", "k"]).unwrap(), "new");
    await_synced(&cluster);
}

/// The log grows meanwhile: what counts is that the node is in the stream.
fn await_synced_while_writing(cluster: &quorate_e2e::local::LocalCluster, ordinal: usize) {
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let goal = cluster.status(primary).unwrap().commit;
    eventually("the node that was away holds what was committed when it came back", || {
        Ok(cluster.status(ordinal)?.durable >= goal)
    });
}

#[test]
fn a_client_of_a_terminated_primary_is_told_where_to_go_and_not_cut_off() {
    let mut cluster = group(&[]);
    let before = cluster.primary().unwrap();
    let mut client = Client::connect(cluster.nodes()[before].client, PATIENCE).unwrap();
    client.run(&["SET", "k", "v"]).unwrap();
    let terminating = std::thread::scope(|scope| {
        let node = cluster.node_mut(before).unwrap();
        let terminating = scope.spawn(|| node.process.terminate(Duration::from_secs(20)));
        let refusal = loop {
            if let Err(error) = client.run(&["SET", "k", "v"]) {
                break error.to_string();
            }
        };
        assert!(refusal.starts_with("MOVED "), "{refusal}");
        terminating.join().unwrap()
    });
    terminating.unwrap();
}

#[test]
fn wait_counts_the_members_that_hold_a_write_and_waits_for_as_many_as_asked() {
    let cluster = group(&[]);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let paused = (primary + 1) % 3;
    let mut client = Client::connect(cluster.nodes()[primary].client, PATIENCE).unwrap();
    let integer = |client: &mut Client, command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        client.run(&words).unwrap().trim_start_matches(':').parse::<u64>().unwrap()
    };
    client.run(&["SET", "a", "1"]).unwrap();
    assert_eq!(integer(&mut client, "WAIT 2 0"), 2, "both others, however long it takes");
    cluster.nodes()[paused].process.pause().unwrap();
    client.run(&["SET", "a", "2"]).unwrap();
    assert_eq!(
        integer(&mut client, "WAIT 1 0"),
        1,
        "the quorum was there before the write was answered"
    );
    let begin = std::time::Instant::now();
    assert_eq!(integer(&mut client, "WAIT 2 300"), 1, "one of the two sleeps");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    cluster.nodes()[paused].process.resume().unwrap();
    assert_eq!(integer(&mut client, "WAIT 2 0"), 2, "it has caught up");
}
