//! Changes of members and quorum, machines that are gone, and what people ask for.

use super::*;
use crate::observe::Machine;
use crate::testing::{blank, configuration};
use quorate_api::{EntryId, NodeRole, PeerStatus};
use quorate_client::Driven;
use quorate_crds::ChangeStep;
use quorate_crds::conditions::{CHANGING, WARNING};
use quorate_protocol::ViewChanged;

const FIVE: Quorum = Quorum::strong(5, 3, 3);

/// A learner of the primary, with so much of its log.
fn learner(ordinal: u32, matched: u64) -> PeerStatus {
    PeerStatus {
        incarnation: incarnation(ordinal),
        connected: true,
        matched,
        heard_millis_ago: 0,
        snapshot: false,
        learner: true,
        disk: quorate_api::DiskRoom::Ample,
    }
}

/// A store of three that is to have five, whose primary holds 5000 entries.
fn growing() -> World {
    let mut world = World::of(well);
    world.settings.quorum = FIVE;
    let primary = status(&mut world.members[0]);
    primary.last.index = 5000;
    for peer in &mut primary.peers {
        peer.matched = 5000;
    }
    world
}

fn step_of(plan: &Plan) -> (ChangeStep, String) {
    let change = plan.status.shards[0].change.clone().unwrap();
    (change.step, change.reason)
}

fn put_in_force(world: &mut World, target: &Configuration) {
    let start = EntryId {
        epoch: epoch(2),
        index: 5001,
    };
    for member in &mut world.members {
        let listed = target.contains(member.incarnation().unwrap());
        let status = status(member);
        if listed {
            status.configuration = Some((start, target.clone()));
            (status.promised, status.last) = (epoch(2), start);
            (status.commit, status.durable) = (start.index, start.index);
            status.primary = Some(PrimaryView {
                incarnation: incarnation(0),
                epoch: epoch(2),
                heard_millis_ago: 0,
                connected: true,
            });
            if status.role == NodeRole::Blank {
                status.role = NodeRole::Follower;
            }
        }
    }
    let others = target.members().iter().filter(|member| member.ordinal > 0);
    status(&mut world.members[0]).peers = others
        .map(|member| PeerStatus {
            learner: false,
            ..learner(member.ordinal, 5001)
        })
        .collect();
}

#[test]
fn a_store_grows_pods_first_then_learners_then_one_change() {
    let mut world = growing();
    let plan = world.step();
    assert_eq!(plan.shape.unwrap().replicas, 5);
    assert_eq!(
        plan.shape.unwrap().max_unavailable,
        Some(1),
        "the configuration in force tolerates no more"
    );
    assert_eq!((plan.start, step_of(&world.plan()).0), (None, ChangeStep::ScalingUp));
    assert_eq!(plan.notes[0].reason, "ChangeBegun");
    let now = world.now;
    world.members.extend((3..5).map(|ordinal| blank(ordinal, now)));
    let plan = world.step();
    let admitted: Vec<u32> = plan.admission.unwrap().learners.iter().map(|member| member.ordinal).collect();
    assert_eq!(admitted, [3, 4]);
    assert_eq!((plan.start, step_of(&world.plan()).0), (None, ChangeStep::CatchingUp));
    status(&mut world.members[0]).peers.extend([learner(3, 4900), learner(4, 10)]);
    assert_eq!(
        step_of(&world.step()),
        (ChangeStep::CatchingUp, "orders-0-4 is 4000 entries behind".to_owned())
    );
    status(&mut world.members[0]).peers[3].matched = 4999;
    assert_eq!(
        step_of(&world.step()).0,
        ChangeStep::ScalingUp,
        "the StatefulSet is not known to have them"
    );
    world.reconciled.scale = Some(5);
    let Goal::Change(target) = world.step().start.unwrap().goal else {
        panic!("no change")
    };
    assert_eq!((target.quorum(), target.members().len()), (FIVE, 5));
    put_in_force(&mut world, &target);
    let plan = world.step();
    assert_eq!((plan.start, plan.status.shards[0].change.as_ref()), (None, None));
    assert_eq!(plan.notes.iter().map(|note| note.reason).collect::<Vec<_>>(), ["ChangeDone"]);
    assert_eq!(condition(&world.told, CHANGING).2, "members and quorum are as the spec wants them");
}

#[test]
fn a_learner_that_promised_a_higher_epoch_is_fetched_by_another_epoch_of_the_same_primary() {
    let mut world = growing();
    let now = world.now;
    world.members.extend((3..5).map(|ordinal| blank(ordinal, now)));
    status(&mut world.members[3]).promised = epoch(7);
    status(&mut world.members[0]).peers.extend([learner(3, 0), learner(4, 10)]);
    let plan = world.step();
    assert_eq!(plan.start, None, "the view change may be under way");
    world.now += GRACE + Duration::from_millis(1);
    let plan = world.step();
    let change = plan.start.unwrap();
    assert_eq!((&change.goal, change.avoid), (&Goal::Switchover(incarnation(0)), None));
    assert_eq!(change.known.highest, 7);
    let (step, reason) = step_of(&world.plan());
    assert_eq!(step, ChangeStep::CatchingUp);
    assert!(reason.starts_with("orders-0-3 promised a higher epoch"), "{reason}");
    let short = world.members.clone();
    for member in &mut world.members[1..3] {
        unheard(member);
    }
    assert_eq!(world.step().start, None, "the primary would find too few to go on with");
    world.members = short;
    assert!(world.step().start.is_some());
    for member in &mut world.members[..3] {
        status(member).promised = epoch(8);
    }
    world.step();
    world.now += GRACE + Duration::from_millis(1);
    assert_eq!(world.step().start, None, "once is enough");
}

#[test]
fn pods_go_only_when_every_member_knows_that_they_are_none() {
    let mut world = World::of(|_, now| well(FIVE, now));
    world.reconciled.scale = Some(5);
    let plan = world.step();
    let Goal::Change(target) = plan.start.unwrap().goal else {
        panic!("no change")
    };
    assert_eq!(plan.shape.unwrap().replicas, 5);
    put_in_force(&mut world, &target);
    let behind = status(&mut world.members[2])
        .configuration
        .replace((EntryId { epoch: epoch(1), index: 1 }, configuration(FIVE)));
    let plan = world.step();
    assert_eq!(plan.shape.unwrap().replicas, 5);
    let (step, reason) = step_of(&plan);
    assert_eq!(step, ChangeStep::ScalingDown);
    assert!(reason.contains("orders-0-2 did not hear of it yet"), "{reason}");
    status(&mut world.members[2]).configuration = behind;
    status(&mut world.members[1]).pods = 5;
    assert_eq!(world.step().shape.unwrap().replicas, 5, "another one promised to a group of five");
    status(&mut world.members[1]).pods = 3;
    let plan = world.step();
    assert_eq!(plan.shape.unwrap().replicas, 3);
    let dropped: Vec<u32> = plan.admission.unwrap().learners.iter().map(|member| member.ordinal).collect();
    assert_eq!(dropped, [3, 4], "they are told that they are no members any more");
    // A change of mind half-way: they are still there, and take their place again.
    world.settings.quorum = FIVE;
    assert_eq!(world.step().shape.unwrap().replicas, 5);
    status(&mut world.members[0]).peers.extend([learner(3, 5001), learner(4, 5001)]);
    world.reconciled.scale = Some(3);
    assert_eq!(world.step().start, None, "the StatefulSet may be shrinking yet");
    world.reconciled.scale = Some(5);
    assert!(matches!(world.step().start.unwrap().goal, Goal::Change(_)));
}

#[test]
fn a_primary_that_is_to_go_hands_over_to_a_replica_that_stays() {
    let mut world = World::of(|_, now| well(FIVE, now));
    world.reconciled.scale = Some(5);
    for member in &mut world.members {
        status(member).primary.as_mut().unwrap().incarnation = incarnation(4);
        status(member).role = NodeRole::Follower;
    }
    status(&mut world.members[0]).peers.clear();
    let primary = status(&mut world.members[4]);
    primary.role = NodeRole::Primary;
    primary.peers = (0..4).map(|ordinal| learner(ordinal, 1)).collect();
    let plan = world.step();
    assert!(matches!(plan.start.unwrap().goal, Goal::Switchover(to) if to.0.as_u128() <= 3));
    assert_eq!(step_of(&world.plan()).0, ChangeStep::MovingPrimary);
    assert!(plan.status.shards[0].target_primary.is_some());
}

#[test]
fn a_change_of_quorum_alone_is_one_change_with_the_same_members() {
    let mut world = World::of(well);
    world.settings.quorum = Quorum::strong(3, 3, 1);
    let Goal::Change(target) = world.step().start.unwrap().goal else {
        panic!("no change")
    };
    assert_eq!(target.quorum(), world.settings.quorum);
    assert_eq!(target.members(), configuration(QUORUM).members());
    // One replica less, and the write quorum of the future could not be met.
    unheard(&mut world.members[2]);
    assert_eq!(world.step().start, None);
    let (step, reason) = step_of(&world.plan());
    assert_eq!(step, ChangeStep::Waiting);
    assert_eq!(reason, "2 of 3 future members are in step with the primary, and 3 are needed");
}

#[test]
fn a_replica_whose_volume_is_another_one_takes_the_place_of_the_old_one_once_it_holds_the_log() {
    let mut world = World::of(well);
    let new = status(&mut world.members[2]);
    new.id.incarnation = incarnation(102);
    (new.role, new.configuration, new.primary) = (NodeRole::Blank, None, None);
    let plan = world.step();
    assert_eq!(
        (plan.start, plan.admission.unwrap().learners[0].incarnation),
        (None, incarnation(102))
    );
    status(&mut world.members[0]).peers.push(learner(102, 1));
    let Goal::Change(target) = world.step().start.unwrap().goal else {
        panic!("no change")
    };
    assert!(target.contains(incarnation(102)) && !target.contains(incarnation(2)) && target.quorum() == QUORUM);
    // Growth that cannot go on yet does not hold that up.
    world.settings.quorum = FIVE;
    let Goal::Change(target) = world.step().start.unwrap().goal else {
        panic!("no change")
    };
    assert_eq!(target.quorum(), QUORUM);
}

#[test]
fn a_failover_goes_before_a_change_and_overtakes_one_that_is_under_way() {
    let mut world = World::of(|_, now| well(FIVE, now));
    world.reconciled.scale = Some(5);
    let change = world.step().start.unwrap();
    assert!(matches!(change.goal, Goal::Change(_)));
    let drive = world.begin(change);
    for member in &mut world.members {
        let status = status(member);
        (status.promised, status.primary, status.role) = (drive.epoch, None, NodeRole::Follower);
    }
    assert_eq!(world.step().start, None, "the members are fenced, as they should be");
    unheard(&mut world.members[0]);
    assert_eq!(world.step().start.unwrap().goal, Goal::Failover, "the primary died");
    world.members[0].connected = true;
    assert_eq!(world.step().start, None);
    world.now += PATIENCE + Duration::from_millis(1);
    for member in &mut world.members {
        member.heard = Some(world.now);
    }
    assert_eq!(world.step().start.unwrap().goal, Goal::Failover, "it takes too long");
}

#[test]
fn a_machine_that_is_gone_is_given_up_after_its_time_while_the_others_can_afford_it() {
    let mut world = World::of(well);
    world.settings.recreate_after = Some(Duration::from_secs(300));
    unheard(&mut world.members[2]);
    world.now += Duration::from_secs(299);
    for member in &mut world.members[..2] {
        member.heard = Some(world.now);
    }
    assert_eq!(world.step().inspect, [] as [String; 0]);
    world.now += Duration::from_secs(2);
    for member in &mut world.members[..2] {
        member.heard = Some(world.now);
    }
    assert_eq!(world.step().inspect, ["orders-0-2"]);
    let mut fate = |machine| {
        let fate = Fate {
            machine,
            claim: Some("claim".to_owned()),
            at: world.now,
        };
        world.fates.insert("uid-2".to_owned(), fate);
        let plan = plan(&world.seen(world.now), &world.memory);
        (plan.recreate.map(|what| what.force), plan.notes.len())
    };
    assert_eq!(fate(Machine::Standing), (None, 0), "whatever it suffers from, its volume is there");
    assert_eq!(fate(Machine::NotReady), (Some(false), 1));
    assert_eq!(fate(Machine::OutOfService), (Some(true), 1));
    assert_eq!(fate(Machine::Gone), (Some(true), 1));
    let seen = world.plan();
    unheard(&mut world.members[1]);
    let short = world.plan();
    assert_eq!(short.recreate, None, "the others could not afford it");
    let waits = condition(&short.status, READY).2;
    assert!(
        waits.contains("orders-0-2 is to be replaced, once 2 other members are in step"),
        "{waits}"
    );
    world.members[1].connected = true;
    world.memory = seen.memory;
    assert_eq!(world.step().recreate, None, "once, not at every look");
}

#[test]
fn a_promotion_is_done_or_refused_and_answered_once() {
    let mut world = World::of(well);
    world.asked.promote = Some("orders-0-2".to_owned());
    let plan = world.step();
    assert_eq!(plan.start.unwrap().goal, Goal::Switchover(incarnation(2)));
    assert_eq!(plan.status.shards[0].target_primary.as_deref(), Some("orders-0-2"));
    assert_eq!(plan.answered, Asked::default());
    for (asked, reason) in [("orders-0-0", "Promoted"), ("orders-0-7", "PromotionRefused")] {
        world.asked.promote = Some(asked.to_owned());
        let plan = world.step();
        assert_eq!((plan.start, plan.notes[0].reason), (None, reason));
        assert_eq!(plan.answered, world.asked);
        assert_eq!(world.step().notes, [], "told once");
        world.asked.promote = None;
        assert_eq!(world.step().answered, Asked::default());
    }
}

#[test]
fn an_operator_that_has_not_listened_yet_refuses_no_promotion() {
    let mut world = World::of(well);
    world.asked.promote = Some("orders-0-2".to_owned());
    world.memory = Memory::new(&world.told, world.now, Timestamp::UNIX_EPOCH);
    // Followers are heard, and the primary is not yet.
    world.members[0].status = None;
    world.members[0].heard = None;
    let plan = world.step();
    assert_eq!((plan.start, plan.answered), (None, Asked::default()));
    assert!(plan.notes.iter().all(|note| note.reason != "PromotionRefused"), "{:?}", plan.notes);
    world.now += LIMIT + Duration::from_millis(1);
    for member in &mut world.members[1..] {
        member.heard = Some(world.now);
    }
    let plan = world.step();
    assert_eq!(plan.answered, world.asked, "it had its time: {:?}", plan.phase);
}

#[test]
fn a_loss_is_accepted_only_where_the_shard_is_blocked_and_in_the_epoch_that_is_named() {
    let mut world = World::of(well);
    world.step();
    let ask = |world: &mut World, value: &str| {
        world.asked.accept_data_loss = Some(value.to_owned());
        let plan = world.step();
        world.asked.accept_data_loss = None;
        world.step();
        (plan.start.map(|change| change.goal), plan.notes.first().map(|note| note.reason))
    };
    assert_eq!(ask(&mut world, "0@1"), (None, Some("DataLossRefused")), "it is not blocked");
    world.primary_dies();
    unheard(&mut world.members[2]);
    world.step();
    assert_eq!(ask(&mut world, "0@2"), (None, Some("DataLossRefused")), "another epoch");
    assert_eq!(ask(&mut world, "1@1"), (None, Some("DataLossRefused")), "another shard");
    assert_eq!(ask(&mut world, "yes"), (None, Some("DataLossRefused")));
    let (Some(Goal::Recover(survivors)), None) = ask(&mut world, "0@1") else {
        panic!("not accepted")
    };
    assert_eq!((survivors.members().len(), survivors.contains(incarnation(1))), (1, true));
}

#[test]
fn an_accepted_loss_is_asked_for_until_it_has_come_about() {
    let mut world = World::of(well);
    world.step();
    world.primary_dies();
    unheard(&mut world.members[2]);
    world.step();
    world.asked.accept_data_loss = Some("0@1".to_owned());
    let plan = world.step();
    assert_eq!(
        plan.answered,
        Asked::default(),
        "an operator that dies now leaves it to the next one"
    );
    let drive = world.begin(plan.start.unwrap());
    let late = Err(ViewChangeError::Drive(DriveError::Late(Vec::new())));
    let failed = conclude(&world.memory, 0, &drive, &late, &world.members, world.now).memory;
    let Goal::Recover(survivors) = drive.change.goal.clone() else {
        panic!("not accepted")
    };
    let moment = tokio::time::Instant::from_std(world.now);
    let driven = Ok(Driven {
        changed: ViewChanged {
            primary: survivors.members()[0].clone(),
            start: EntryId {
                epoch: drive.epoch,
                index: 9,
            },
            configuration: survivors,
        },
        fenced: moment,
        served: moment,
    });
    let came_about = conclude(&world.memory, 0, &drive, &driven, &world.members, world.now).memory;
    (world.driving, world.memory) = (None, came_about);
    let plan = world.step();
    assert_eq!((plan.start, plan.answered), (None, world.asked.clone()));
    world.memory = failed;
    let plan = world.step();
    assert_eq!((plan.start, plan.answered), (None, Asked::default()), "a little later");
    world.now = plan.look_at;
    world.members[1].heard = Some(world.now);
    assert!(matches!(world.step().start.unwrap().goal, Goal::Recover(_)));
}

#[test]
fn replicas_whose_machines_all_restarted_under_them_count_no_more_and_a_person_can_go_on_with_what_they_hold() {
    let mut world = World::of(well);
    world.step();
    for ordinal in 0..3 {
        let status = status(&mut world.members[ordinal as usize]);
        status.id.incarnation = incarnation(10 + ordinal);
        (status.role, status.primary) = (NodeRole::Learner, None);
        status.peers.clear();
    }
    world.step();
    let plan = world.step();
    let blocked = plan
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == FAILOVER_BLOCKED)
        .unwrap();
    assert_eq!(blocked.status, "True", "{blocked:?}");
    assert!(
        blocked.message.starts_with("0 of 3 replicas answer and a failover needs 2"),
        "{blocked:?}"
    );
    assert_eq!(plan.start, None);
    world.asked.accept_data_loss = Some("0@1".to_owned());
    let Some(Goal::Recover(survivors)) = world.step().start.map(|change| change.goal) else {
        panic!("not accepted")
    };
    let ordinals: Vec<u32> = survivors.members().iter().map(|member| member.ordinal).collect();
    assert_eq!((ordinals, survivors.contains(incarnation(10))), (vec![0, 1, 2], true));
}

#[test]
fn consistency_is_changed_as_a_quorum_is() {
    let mut world = World::of(well);
    world.settings.quorum = Quorum::eventual(3);
    let plan = world.step();
    let Goal::Change(target) = plan.start.unwrap().goal else {
        panic!("no change")
    };
    assert_eq!(target.quorum(), Quorum::eventual(3));
    let change = plan.status.shards[0].change.clone().unwrap();
    assert_eq!(
        (change.from.as_str(), change.to.as_str()),
        ("replicas 0, 1, 2; write 2, read 2", "replicas 0, 1, 2; write 1, read 1, eventual")
    );
    let warning = plan.status.conditions.iter().find(|condition| condition.type_ == WARNING).unwrap();
    assert_eq!(
        (warning.status.as_str(), warning.reason.as_str()),
        ("True", reasons::MAY_LOSE_WRITES)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_pod_is_taken_away_whose_ordinal_a_member_knows_to_be_one(world in worlds(), scale in 1u32..8, wanted in quorums()) {
        let mut world = world;
        world.settings.quorum = wanted;
        world.reconciled.scale = Some(scale);
        if let Some(Shape { replicas, .. }) = world.plan().shape {
            prop_assert!(replicas >= wanted.replicas);
            let (members, _) = group(&world.members, wanted);
            let known = members.iter().filter_map(|member| member.status.as_ref()?.configuration.as_ref());
            for (_, known) in known {
                prop_assert!(known.members().iter().all(|member| member.ordinal < replicas));
            }
            if let Some(Drive { change: ViewChange { goal: Goal::Change(target), .. }, .. }) = &world.driving {
                prop_assert!(target.members().iter().all(|member| member.ordinal < replicas));
            }
        }
    }

    #[test]
    fn a_change_begins_only_with_a_primary_that_leads_and_never_beside_another_view_change(world in worlds(), scale in 1u32..8, wanted in quorums()) {
        let mut world = world;
        world.settings.quorum = wanted;
        world.reconciled.scale = Some(scale);
        let plan = world.plan();
        let driving = world.driving.is_some();
        if let Some(ViewChange { goal: Goal::Change(target), .. }) = plan.start {
            // One that lacks members of its quorum leads still: to replace them may be the only way out.
            prop_assert!(!driving && matches!(plan.phase, Phase::Serving(_, true) | Phase::NoQuorum(_)) && !world.settings.paused);
            prop_assert!(target.members().iter().all(|member| member.ordinal < scale), "all its pods are there");
            prop_assert!(target.members().iter().all(|member| world.members.iter().any(|seen| seen.incarnation() == Some(member.incarnation))
                || configuration(wanted).members().iter().any(|known| known.incarnation == member.incarnation)));
        }
    }

    #[test]
    fn a_failover_is_never_held_up_by_a_change(world in worlds(), wanted in quorums()) {
        let mut world = world;
        // Changes wait; whatever is planned without one is planned with one.
        world.driving = None;
        let without = world.plan().start.filter(|change| change.goal == Goal::Failover);
        world.settings.quorum = wanted;
        let with = world.plan().start.filter(|change| change.goal == Goal::Failover);
        prop_assert_eq!(with, without);
    }
}

/// The volume of a replica is another one than that of the member of its ordinal, and holds the primary's log.
fn comes_back_empty(world: &mut World, ordinal: u32) {
    let now = world.now;
    let mut new = blank(ordinal, now);
    let incarnation = incarnation(ordinal + 10);
    status(&mut new).id.incarnation = incarnation;
    world.members[ordinal as usize] = new;
    let primary = status(&mut world.members[if ordinal == 0 { 1 } else { 0 }]);
    primary
        .peers
        .retain(|peer| peer.incarnation != crate::testing::incarnation(ordinal));
    primary.peers.push(PeerStatus {
        incarnation,
        ..learner(ordinal, 1)
    });
}

#[test]
fn a_member_that_is_lost_is_replaced_although_reads_need_every_member() {
    let every = Quorum::strong(3, 2, 3);
    let mut world = World::of(|_, now| well(every, now));
    world.settings.quorum = every;
    comes_back_empty(&mut world, 2);
    let plan = world.plan();
    assert!(matches!(plan.phase, Phase::NoQuorum(_)), "{:?}", plan.phase);
    let admitted: Vec<u32> = plan.admission.unwrap().learners.iter().map(|member| member.ordinal).collect();
    assert_eq!(admitted, [2]);
    let Goal::Change(target) = plan.start.unwrap().goal else {
        panic!("no change")
    };
    assert!(target.contains(incarnation(12)) && !target.contains(incarnation(2)), "{target:?}");
}

#[test]
fn a_replica_with_a_new_volume_becomes_a_member_before_the_primary_that_is_to_go_hands_over_to_it() {
    let mut world = World::of(well);
    // Replica 1 is the primary, replica 0 came back empty, and only replica 0 is to stay.
    for member in &mut world.members {
        let status = status(member);
        status.primary.as_mut().unwrap().incarnation = incarnation(1);
        let peers = std::mem::take(&mut status.peers);
        status.role = if status.id.ordinal == 1 {
            NodeRole::Primary
        } else {
            NodeRole::Follower
        };
        if status.id.ordinal == 1 {
            status.peers = peers;
        }
    }
    status(&mut world.members[1]).peers = [0, 2]
        .map(|ordinal| PeerStatus {
            learner: false,
            ..learner(ordinal, 1)
        })
        .into();
    comes_back_empty(&mut world, 0);
    world.settings.quorum = Quorum::strong(1, 1, 1);
    let Goal::Change(target) = world.plan().start.unwrap().goal else {
        panic!("no change")
    };
    let ordinals: Vec<u32> = target.members().iter().map(|member| member.ordinal).collect();
    assert!(target.contains(incarnation(10)) && target.contains(incarnation(1)), "{ordinals:?}");
}

#[test]
fn a_first_view_change_that_did_not_come_about_is_tried_again_and_is_no_lost_data() {
    let mut world = World::of(blanks);
    for member in &mut world.members[1..] {
        status(member).promised = epoch(1);
    }
    let first = world.step();
    assert_eq!(first.status.shards[0].epoch, 0);
    let second = world.step();
    assert!(matches!(second.start.unwrap().goal, Goal::Bootstrap(_)), "{:?}", second.phase);
}

#[test]
fn pods_that_are_members_no_more_stay_until_every_member_knows_durably_that_the_change_is_committed() {
    let mut world = World::of(well);
    world.settings.quorum = Quorum::strong(1, 1, 1);
    let target = configuration(world.settings.quorum);
    put_in_force(&mut world, &target);
    status(&mut world.members[0]).commit = 1;
    assert_eq!(world.plan().shape.unwrap().replicas, 3, "a restart would ask the members before");
    status(&mut world.members[0]).commit = 5001;
    assert_eq!(world.plan().shape.unwrap().replicas, 1);
}
