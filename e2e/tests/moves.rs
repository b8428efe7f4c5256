//! Real groups that give slots to each other: under load, while either side fails over, and when a move is given up.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, options};
use quorate_api::{MovePhase, MoveRefusal, MoveSlots, SlotSet};
use quorate_e2e::local::resp::Client;
use quorate_e2e::local::store::LocalStore;
use quorate_e2e::local::writers::Writers;

fn store(shards: u32) -> LocalStore {
    LocalStore::start(&options(&[]), shards).unwrap()
}

fn slots(text: &str) -> SlotSet {
    text.parse().unwrap()
}

/// Values are large enough that a copy at this rate takes a few seconds.
const SLOW: u64 = 300_000;

fn writers(store: &LocalStore) -> Writers {
    let writers = Writers::start(store.clients(), 4, 300, 1000);
    writers.await_more(1500, PATIENCE).unwrap();
    writers
}

#[test]
fn slots_go_to_another_group_and_back_under_load_and_nothing_is_lost() {
    let mut store = store(2);
    let writers = writers(&store);
    let moved = slots("0-8191");
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let handoff = store.begin_move(from, to as u32, &moved, 0).unwrap();
        assert!(store.await_end(from, handoff, to, &moved).unwrap());
        writers.await_more(300, PATIENCE).unwrap();
        store.tell_routes().unwrap();
    }
    let written = writers.stop();
    written.check().unwrap();
    let longest_freeze: Vec<u64> = (0..2)
        .map(|shard| {
            let primary = store.primary(shard).unwrap();
            store.group_mut(shard).metric(primary, "slot_freeze_longest_millis").unwrap()
        })
        .collect();
    println!(
        "longest freeze {longest_freeze:?} ms, longest time without an acknowledgement: {:?}",
        written.longest_gap()
    );
}

#[test]
fn every_node_serves_the_map_and_sends_clients_to_the_owner() {
    let mut store = store(2);
    let moved = slots("0-99,12182");
    let handoff = store.begin_move(0, 1, &moved, 0).unwrap();
    assert!(store.await_end(0, handoff, 1, &moved).unwrap());
    let owner = store.primary(1).unwrap();
    let owner = store.group_mut(1).nodes()[owner].client;
    let former = store.primary(0).unwrap();
    let former = store.group_mut(0).nodes()[former].client;
    // Before any map says so, the source does.
    let mut client = Client::connect(former, PATIENCE).unwrap();
    let refusal = client.run(&["SET", "foo", "v"]).unwrap_err().to_string();
    assert_eq!(refusal, format!("MOVED 12182 {owner}"));
    assert_eq!(Client::connect(owner, PATIENCE).unwrap().run(&["SET", "foo", "v"]).unwrap(), "OK");
    store.tell_routes().unwrap();
    for node in store.clients() {
        let mut client = Client::connect(node, PATIENCE).unwrap();
        let nodes = client.run(&["CLUSTER", "NODES"]).unwrap();
        assert!(
            nodes.contains(" 0-99 12182\n") && nodes.contains(" 100-12181 12183-16383\n"),
            "{nodes}"
        );
        assert!(client.run(&["CLUSTER", "INFO"]).unwrap().contains("cluster_size:2\r\n"));
        if node != owner {
            let refusal = client.run(&["GET", "foo"]).unwrap_err().to_string();
            assert_eq!(refusal, format!("MOVED 12182 {owner}"), "by {node}");
        }
    }
}

#[test]
fn what_cannot_be_ordered_is_refused_with_its_reason() {
    let mut store = store(2);
    let order = |handoff, text: &str, to| MoveSlots {
        handoff,
        slots: slots(text),
        to,
        max_bytes_per_second: 0,
    };
    assert_eq!(store.order(0, &order(5, "0-9", 7)).unwrap(), Err(MoveRefusal::UnknownTarget));
    assert_eq!(
        store.order(1, &order(5, "0-9", 0)).unwrap(),
        Err(MoveRefusal::NotOwner(slots("0-9")))
    );
    assert_eq!(store.order(0, &order(5, "0-9", 1)).unwrap(), Ok(()));
    store.await_end(0, 5, 1, &slots("0-9")).unwrap();
    assert_eq!(store.order(0, &order(5, "0-9", 1)).unwrap(), Err(MoveRefusal::StaleHandoff(5)));
    assert_eq!(store.order(1, &order(4, "0-9", 0)).unwrap(), Err(MoveRefusal::StaleHandoff(5)));
    assert_eq!(store.abort(0, 5).unwrap(), Err(MoveRefusal::UnknownMove));
    let secondary = (0..3).find(|ordinal| Some(*ordinal) != store.primary(0)).unwrap();
    let status = store.status(0, secondary).unwrap();
    assert_eq!(
        store
            .eventually("a follower knows what its group owns", || {
                Ok(store.status(0, secondary)?.slots.filter(|slots| slots.owned.len() == 16_374))
            })
            .unwrap()
            .last_handoff,
        5
    );
    assert!(status.slots.is_some());
    store.fail_over(0).unwrap();
    assert_eq!(store.owned(0).unwrap().len(), 16_374, "what the log says outlives the primary");
}

#[test]
fn a_source_or_target_that_fails_over_while_it_copies_goes_on_by_itself() {
    let mut store = store(2);
    let writers = writers(&store);
    let moved = slots("0-8191");
    let handoff = store.begin_move(0, 1, &moved, SLOW).unwrap();
    for shard in [1, 0] {
        store
            .eventually("the copy is under way", || {
                Ok(store
                    .export(0, handoff)?
                    .filter(|export| export.phase == MovePhase::Exporting && export.bytes_sent > 0))
            })
            .unwrap();
        store.fail_over(shard).unwrap();
    }
    assert!(store.await_end(0, handoff, 1, &moved).unwrap());
    writers.await_more(300, PATIENCE).unwrap();
    writers.stop().check().unwrap();
}

#[test]
fn a_source_that_dies_while_its_target_hangs_leaves_one_owner_and_every_write() {
    let mut store = store(2);
    let writers = writers(&store);
    let moved = slots("0-8191");
    for round in 0..3 {
        let (from, to) = (round % 2, 1 - round % 2);
        let handoff = store.begin_move(from, to as u32, &moved, 2 * SLOW).unwrap();
        store
            .eventually("the copy is under way", || {
                Ok(store.export(from, handoff)?.filter(|export| export.bytes_sent > 0))
            })
            .unwrap();
        let target = store.primary(to).unwrap();
        let source = store.primary(from).unwrap();
        // It hangs in the middle of the copy, or later: whatever it answers from here on, nobody hears.
        store
            .eventually("the copy goes on", || {
                let export = store.export(from, handoff)?;
                Ok(export
                    .is_none_or(|export| export.phase != MovePhase::Exporting || export.bytes_sent > 300_000)
                    .then_some(()))
            })
            .unwrap();
        store.group_mut(to).node_mut(target).unwrap().process.pause().unwrap();
        store.group_mut(from).node_mut(source).unwrap().process.kill().unwrap();
        store.group_mut(to).node_mut(target).unwrap().process.resume().unwrap();
        store.group_mut(from).failover().unwrap();
        store.await_primary(from).unwrap();
        store.group_mut(from).node_mut(source).unwrap().process.restart().unwrap();
        store.tell_routes().unwrap();
        let accepted = store.await_end(from, handoff, to, &moved).unwrap();
        println!("round {round}: {}", if accepted { "accepted" } else { "rejected" });
        writers.await_more(300, PATIENCE).unwrap();
        if !accepted {
            let again = store.begin_move(from, to as u32, &moved, 0).unwrap();
            assert!(store.await_end(from, again, to, &moved).unwrap());
        }
    }
    writers.stop().check().unwrap();
}

#[test]
fn both_primaries_killed_at_any_moment_of_a_move_lose_nothing() {
    let mut store = store(3);
    let writers = writers(&store);
    let moved = slots("0-8191");
    let mut owner = 0;
    for round in 0..6 {
        let to = (owner + 1) % 3;
        let handoff = store.begin_move(owner, to as u32, &moved, 0).unwrap();
        // Each round a little later; the last ones after the move.
        writers.await_more(round * 25, PATIENCE).unwrap();
        store.fail_over(if round % 2 == 0 { owner } else { to }).unwrap();
        if store.await_end(owner, handoff, to, &moved).unwrap() {
            owner = to;
        }
        store.tell_routes().unwrap();
    }
    writers.await_more(300, PATIENCE).unwrap();
    writers.stop().check().unwrap();
}

#[test]
fn a_move_that_is_given_up_half_way_leaves_the_slots_where_they_were() {
    let mut store = store(2);
    let writers = writers(&store);
    let moved = slots("0-8191");
    let handoff = store.begin_move(0, 1, &moved, SLOW).unwrap();
    store
        .eventually("the copy is under way", || {
            Ok(store.export(0, handoff)?.filter(|export| export.bytes_sent > 0))
        })
        .unwrap();
    assert_eq!(store.abort(0, handoff).unwrap(), Ok(()));
    assert!(!store.await_end(0, handoff, 1, &moved).unwrap());
    store
        .eventually("the target has let go of its copy", || {
            Ok(store.primary_status(1)?.slots.filter(|slots| slots.imports.is_empty()))
        })
        .unwrap();
    let again = store.begin_move(0, 1, &moved, 0).unwrap();
    assert!(store.await_end(0, again, 1, &moved).unwrap());
    writers.await_more(300, PATIENCE).unwrap();
    writers.stop().check().unwrap();
}
