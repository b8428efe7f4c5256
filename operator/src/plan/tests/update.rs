//! Pods that are out of date.

use super::*;
use quorate_crds::conditions::UPDATING;

/// A store of three whose pods are all out of date.
fn outdated() -> World {
    let mut world = World::of(well);
    for member in &mut world.members {
        member.revision = Some("old".to_owned());
        member.since = Some(world.now - Duration::from_secs(100));
    }
    world
}

fn restarted(plan: &Plan) -> Option<&str> {
    plan.restart.as_ref().map(|restart| restart.pod.as_str())
}

/// The pod stops, and another one runs over its volume, in step, as of now.
fn comes_back(world: &mut World, ordinal: usize) {
    let member = &mut world.members[ordinal];
    member.uid.push_str("-again");
    member.revision = Some("new".to_owned());
    member.since = Some(world.now);
}

/// Time passes in which everybody is heard.
fn pass(world: &mut World, seconds: u64) {
    world.now += Duration::from_secs(seconds);
    for member in &mut world.members {
        member.heard = Some(world.now);
    }
}

fn waits(plan: &Plan) -> String {
    plan.status.shards[0].update.clone().unwrap().reason
}

#[test]
fn pods_are_restarted_one_at_a_time_when_the_one_before_is_proven_and_the_primary_last() {
    let mut world = outdated();
    let mut order = Vec::new();
    for _ in 0..3 {
        let plan = world.step();
        order.push(restarted(&plan).unwrap().to_owned());
        assert_eq!(plan.notes.iter().filter(|note| note.reason == "Restarting").count(), 1);
        let ordinal = plan.restart.unwrap().pod.rsplit('-').next().unwrap().parse().unwrap();
        let plan = world.step();
        assert_eq!((restarted(&plan), waits(&plan)), (None, format!("orders-0-{ordinal} stops")));
        comes_back(&mut world, ordinal);
        let plan = world.step();
        if order.len() < 3 {
            assert_eq!(
                (restarted(&plan), waits(&plan)),
                (None, format!("orders-0-{ordinal} has not run for 5 s yet"))
            );
            assert!(plan.look_at <= world.now + Duration::from_secs(5) + Duration::from_millis(1));
        }
        pass(&mut world, 5);
    }
    assert_eq!(order, ["orders-0-2", "orders-0-1", "orders-0-0"]);
    let plan = world.step();
    assert_eq!((restarted(&plan), plan.status.shards[0].update.clone()), (None, None));
    assert_eq!(condition(&plan.status, UPDATING).0, "False");
}

#[test]
fn the_condition_counts_and_says_what_it_waits_for() {
    let mut world = outdated();
    world.step();
    comes_back(&mut world, 2);
    let (holds, reason, text) = condition(&world.step().status, UPDATING);
    assert_eq!((holds.as_str(), reason.as_str()), ("True", reasons::RESTARTING));
    assert_eq!(text, "1 of 3 pods run what the spec asks for: orders-0-2 has not run for 5 s yet");
}

#[test]
fn a_replica_that_is_not_well_holds_the_update() {
    let mut world = outdated();
    world.members[1].revision = Some("new".to_owned());
    unheard(&mut world.members[1]);
    let plan = world.step();
    assert_eq!(
        (restarted(&plan), waits(&plan)),
        (None, "orders-0-1 does not run or is not heard".to_owned())
    );
    world.members[1].connected = true;
    world.members[1].health = Health::Doubtful;
    assert_eq!(waits(&world.step()), "orders-0-1 is not ready");
    world.members[1].health = Health::Running;
    status(&mut world.members[1]).damaged = true;
    assert_eq!(waits(&world.step()), "orders-0-1 waits for a repair of its log");
    status(&mut world.members[1]).damaged = false;
    status(&mut world.members[0]).peers[0].connected = false;
    assert_eq!(waits(&world.step()), "orders-0-1 is not in step with the primary");
    status(&mut world.members[0]).peers[0].connected = true;
    assert_eq!(restarted(&world.step()), Some("orders-0-2"));
}

#[test]
fn a_template_that_does_not_run_stops_at_its_first_pod_and_another_one_mends_it() {
    let mut world = outdated();
    assert_eq!(restarted(&world.step()), Some("orders-0-2"));
    comes_back(&mut world, 2);
    world.members[2].health = Health::Gone;
    unheard(&mut world.members[2]);
    for _ in 0..100 {
        pass(&mut world, 10);
        assert_eq!(restarted(&world.step()), None, "the broken one is up to date");
    }
    world.reconciled.revision = Some("good".to_owned());
    assert_eq!(restarted(&world.step()), Some("orders-0-2"), "it has nothing to lose");
}

#[test]
fn a_group_that_does_not_run_at_all_is_mended_too() {
    let mut world = outdated();
    for member in &mut world.members {
        member.health = Health::Gone;
        unheard(member);
    }
    let mut order = Vec::new();
    while let Some(pod) = world.step().restart.map(|restart| restart.pod) {
        let ordinal = pod.rsplit('-').next().unwrap().parse().unwrap();
        comes_back(&mut world, ordinal);
        order.push(pod);
    }
    assert_eq!(order, ["orders-0-0", "orders-0-1", "orders-0-2"]);
}

#[test]
fn nothing_is_restarted_while_a_change_or_a_view_change_is_under_way_or_the_spec_says_so() {
    let mut world = outdated();
    world.settings.quorum.replicas = 5;
    assert_eq!(
        (restarted(&world.step()), waits(&world.step())),
        (None, "something else is under way in this shard".to_owned())
    );
    world.settings.quorum.replicas = 3;
    world.settings.paused = true;
    assert_eq!(
        (restarted(&world.step()), waits(&world.step())),
        (None, "spec.paused is set".to_owned())
    );
    world.settings.paused = false;
    world.settings.restarts = false;
    let plan = world.step();
    assert_eq!(
        (restarted(&plan), condition(&plan.status, UPDATING).1.as_str()),
        (None, reasons::MANUAL_UPDATE)
    );
    world.settings.restarts = true;
    world.primary_dies();
    let plan = world.step();
    assert!(plan.start.is_some());
    assert_eq!(restarted(&plan), None);
}

#[test]
fn pods_of_an_operator_that_wrote_no_revision_are_left_alone() {
    let mut world = outdated();
    for member in &mut world.members {
        member.revision = None;
    }
    let plan = world.step();
    assert_eq!((restarted(&plan), plan.status.shards[0].update.clone()), (None, None));
}
