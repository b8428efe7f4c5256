//! Disks that are full or do not read: told, and no reason to fail over.

use super::*;
use quorate_api::DiskRoom;

fn events(plan: &Plan) -> Vec<&'static str> {
    plan.notes.iter().map(|note| note.reason).collect()
}

#[test]
fn a_replica_with_a_full_disk_is_named_while_writes_go_on() {
    let mut world = World::of(well);
    world.step();
    status(&mut world.members[2]).disk = DiskRoom::Full;
    status(&mut world.members[2]).writes_refused = Some("the disk of this node is full".to_owned());
    let plan = world.step();
    assert_eq!((plan.start.is_none(), events(&plan)), (true, vec!["DiskFull"]));
    let (ready, reason, message) = condition(&plan.status, READY);
    assert_eq!((&*ready, &*reason), ("False", "DiskFull"));
    assert!(message.contains("orders-0-2") && message.contains("more room"), "{message}");
    assert_eq!(condition(&plan.status, AVAILABLE).0, "True");
    status(&mut world.members[2]).disk = DiskRoom::Ample;
    assert_eq!(condition(&world.step().status, READY).0, "True");
}

#[test]
fn a_primary_that_refuses_writes_is_not_available_and_not_replaced() {
    for full in [vec![0], vec![1, 2]] {
        let mut world = World::of(well);
        world.step();
        for &ordinal in &full {
            status(&mut world.members[ordinal]).disk = DiskRoom::Tight;
        }
        status(&mut world.members[0]).writes_refused = Some("the disk is full".to_owned());
        let plan = world.step();
        assert_eq!(plan.start, None);
        assert_eq!(plan.phase, Phase::Serving(incarnation(0), true), "{full:?}");
        assert!(events(&plan).contains(&"WritesRefused"));
        for condition in [AVAILABLE, READY].map(|type_| condition(&plan.status, type_)) {
            assert_eq!((&*condition.0, &*condition.1), ("False", "DiskFull"));
            for ordinal in &full {
                assert!(condition.2.contains(&format!("orders-0-{ordinal}")), "{condition:?}");
            }
        }
        assert_eq!(plan.status.shards[0].primary.as_deref(), Some("orders-0-0"), "reads go on");
    }
}

#[test]
fn a_primary_whose_first_entry_finds_no_room_is_waited_for_and_not_replaced() {
    let mut world = World::of(well);
    world.step();
    status(&mut world.members[0]).role = NodeRole::Activating;
    for ordinal in [1, 2] {
        status(&mut world.members[ordinal]).disk = DiskRoom::Full;
    }
    for _ in 0..10 {
        world.now += ACTIVATION;
        for member in &mut world.members {
            member.heard = Some(world.now);
        }
        let plan = world.step();
        assert_eq!(plan.start, None, "another one would find no more room");
        let (available, reason, message) = condition(&plan.status, AVAILABLE);
        assert_eq!((&*available, &*reason), ("False", "DiskFull"));
        for told in [
            "orders-0-0 was chosen",
            "1 of the 2 members",
            "no room: orders-0-1, orders-0-2",
            "more room",
        ] {
            assert!(message.contains(told), "{message}");
        }
    }
    status(&mut world.members[1]).disk = DiskRoom::Tight;
    let plan = world.step();
    assert!(plan.start.is_some(), "{:?}: room is not what it waits for", plan.phase);
}

#[test]
fn a_damaged_log_is_told_until_it_is_repaired() {
    let mut world = World::of(well);
    world.step();
    status(&mut world.members[1]).damaged = true;
    let plan = world.step();
    assert_eq!(events(&plan), ["Damaged"]);
    let (ready, reason, message) = condition(&plan.status, READY);
    assert_eq!((&*ready, &*reason), ("False", "Damaged"));
    assert!(message.contains("orders-0-1"), "{message}");
    status(&mut world.members[1]).damaged = false;
    status(&mut world.members[2]).rot = Some("entry 7 is damaged".to_owned());
    let (ready, reason, message) = condition(&world.step().status, READY);
    assert_eq!((&*ready, &*reason), ("False", "Damaged"));
    assert!(message.contains("orders-0-2") && message.contains("entry 7"), "{message}");
}
