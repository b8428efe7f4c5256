//! The driver against answers in every order.

use super::*;
use uuid::Uuid;

fn incarnation(n: u32) -> Incarnation {
    Incarnation(Uuid::from_u128(u128::from(n) + 1))
}

fn configuration(members: &[u32], write: u32, read: u32) -> Configuration {
    let members = members
        .iter()
        .map(|&n| Member {
            incarnation: incarnation(n),
            ordinal: n,
            host: format!("node-{n}:7400"),
        })
        .collect();
    Configuration::new(members, write, read).expect("a valid test configuration")
}

fn epoch(number: u64) -> Epoch {
    Epoch {
        number,
        token: number * 10,
    }
}

fn entry(epoch_number: u64, index: u64) -> EntryId {
    EntryId {
        epoch: epoch(epoch_number),
        index,
    }
}

fn answer(n: u32, promised: Epoch, last: EntryId, configurations: &[Configuration]) -> FenceAnswer {
    FenceAnswer {
        incarnation: incarnation(n),
        promised,
        last,
        commit: 0,
        damaged: false,
        configurations: configurations.iter().map(|c| (entry(1, 1), c.clone())).collect(),
        proposals: Vec::new(),
    }
}

fn asked(effects: &[DriverEffect]) -> Vec<u32> {
    effects
        .iter()
        .filter_map(|e| if let DriverEffect::Fence(m, _) = e { Some(m.ordinal) } else { None })
        .collect()
}

#[test]
fn a_failover_fences_two_of_three_and_activates_the_greatest_epoch_before_the_greatest_index() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
    assert_eq!(asked(&driver.requests()), [0, 1, 2]);
    assert_eq!(
        driver.on_fence_answer(answer(1, epoch(7), entry(2, 900), std::slice::from_ref(&c))),
        []
    );
    let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 5), std::slice::from_ref(&c)));
    let request = ActivateRequest {
        epoch: epoch(7),
        last: entry(3, 5),
        configuration: c.clone(),
    };
    assert_eq!(effects, [DriverEffect::Activate(c.members()[2].clone(), request)]);
    let done = driver.on_activate_answer(&ActivateAnswer {
        incarnation: incarnation(2),
        epoch: epoch(7),
        outcome: Ok(entry(7, 6)),
    });
    assert_eq!(
        done,
        [DriverEffect::Done(ViewChanged {
            primary: c.members()[2].clone(),
            start: entry(7, 6),
            configuration: c
        })]
    );
}

#[test]
fn a_primary_that_is_left_out_is_neither_fenced_nor_chosen() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None).leaving_out(Some(incarnation(0)));
    assert_eq!(asked(&driver.requests()), [1, 2]);
    assert_eq!(
        driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
        [],
        "one is no fence, whoever is left out"
    );
    assert_eq!(asked(&driver.requests()), [2], "nor is it asked when the questions are repeated");
    let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 7), std::slice::from_ref(&c)));
    assert!(
        matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
        "{effects:?}"
    );
}

#[test]
fn a_higher_promise_supersedes_the_driver_and_tells_the_next_number() {
    let mut driver = Driver::keep(epoch(7), vec![configuration(&[0, 1, 2], 2, 2)], None);
    let effects = driver.on_fence_answer(answer(1, epoch(9), entry(3, 5), &[]));
    assert_eq!(effects, [DriverEffect::Failed(DriverFailure::Superseded { highest: 9 })]);
    assert!(driver.finished());
}

#[test]
fn a_configuration_learned_from_an_answer_is_fenced_too() {
    let (old, new) = (configuration(&[0, 1, 2], 2, 2), configuration(&[2, 3, 4], 2, 2));
    let mut driver = Driver::keep(epoch(7), vec![old.clone()], None);
    let _ = driver.requests();
    let mut learned = answer(2, epoch(7), entry(3, 5), std::slice::from_ref(&old));
    learned.proposals.push((epoch(6), Proposal::Change(new)));
    assert_eq!(asked(&driver.on_fence_answer(learned)), [3, 4]);
    assert_eq!(
        driver.on_fence_answer(answer(1, epoch(7), entry(3, 5), std::slice::from_ref(&old))),
        []
    );
    let effects = driver.on_fence_answer(answer(3, epoch(7), EntryId::default(), &[]));
    assert!(
        matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
        "{effects:?}"
    );
}

#[test]
fn a_configuration_is_left_out_once_a_later_one_is_known_to_be_committed() {
    let (old, new) = (configuration(&[0, 1, 2], 2, 2), configuration(&[0, 3, 4], 2, 2));
    let mut driver = Driver::keep(epoch(7), vec![old.clone()], None);
    let _ = driver.requests();
    // Replica 0 was away while 1 and 2 were replaced: it alone still knows the old configuration, and they are gone.
    let behind = answer(0, epoch(7), entry(1, 5), std::slice::from_ref(&old));
    assert_eq!(driver.on_fence_answer(behind), []);
    let mut current = answer(3, epoch(7), entry(3, 9), &[]);
    current.configurations = vec![(entry(3, 8), new.clone())];
    let not_committed = driver.clone().on_fence_answer(current.clone());
    assert_eq!(asked(&not_committed), [3, 4]);
    assert_eq!(not_committed.len(), 2);
    current.commit = 8;
    let effects = driver.on_fence_answer(current);
    assert_eq!(driver.configurations().collect::<Vec<_>>(), [&new]);
    assert!(
        matches!(effects.last(), Some(DriverEffect::Activate(m, _)) if m.ordinal == 3),
        "{effects:?}"
    );
}

#[test]
fn a_change_waits_for_more_members_than_a_failover() {
    let old = configuration(&[0, 1, 2], 3, 1);
    let target = configuration(&[0, 1, 2], 2, 2);
    assert_eq!(old.quorum().fence(), 3);
    let two = configuration(&[0, 1, 2, 3], 3, 2);
    assert_eq!((two.quorum().fence(), two.quorum().fence_for_change()), (3, 3));
    let five = configuration(&[0, 1, 2, 3, 4], 4, 4);
    assert_eq!((five.quorum().fence(), five.quorum().fence_for_change()), (2, 4));
    let mut driver = Driver::change(epoch(7), vec![five.clone()], target);
    for n in 0..3 {
        assert_eq!(
            driver
                .on_fence_answer(answer(n, epoch(7), entry(1, 5), std::slice::from_ref(&five)))
                .iter()
                .filter(|e| matches!(e, DriverEffect::Activate(..)))
                .count(),
            0
        );
    }
    let effects = driver.on_fence_answer(answer(3, epoch(7), entry(1, 5), std::slice::from_ref(&five)));
    assert!(effects.iter().any(|e| matches!(e, DriverEffect::Activate(..))));
}

#[test]
fn a_bootstrap_needs_every_member_blank() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::bootstrap(epoch(1), c.clone());
    assert_eq!(asked(&driver.requests()), [0, 1, 2]);
    for n in 0..2 {
        assert_eq!(driver.on_fence_answer(answer(n, epoch(1), EntryId::default(), &[])), []);
    }
    let effects = driver.clone().on_fence_answer(answer(2, epoch(1), EntryId::default(), &[]));
    assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0));
    let effects = driver.on_fence_answer(answer(2, epoch(1), entry(0, 4), &[c]));
    assert!(matches!(&effects[..], [DriverEffect::Failed(DriverFailure::NotBlank { .. })]));
}

#[test]
fn only_a_bootstrap_begins_with_blank_replicas() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::change(epoch(7), vec![c.clone()], c);
    let _ = driver.requests();
    for n in 0..3 {
        assert_eq!(driver.on_fence_answer(answer(n, epoch(7), EntryId::default(), &[])), []);
    }
}

#[test]
fn a_damaged_replica_with_the_greatest_log_blocks_the_choice_until_an_equal_one_answers() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
    let _ = driver.requests();
    let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
    damaged.damaged = true;
    assert_eq!(driver.on_fence_answer(damaged), []);
    assert_eq!(
        driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
        []
    );
    let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 9), std::slice::from_ref(&c)));
    assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2));
}

#[test]
fn what_only_a_damaged_replica_had_blocks_nobody_once_it_cannot_have_been_committed() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
    let _ = driver.requests();
    let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
    damaged.damaged = true;
    assert_eq!(driver.on_fence_answer(damaged), []);
    let one = driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c)));
    assert_eq!(one, [], "entry 9 may be on 0 and 2");
    let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 7), std::slice::from_ref(&c)));
    assert!(
        matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1),
        "{effects:?}"
    );
}

#[test]
fn what_a_damaged_replica_had_may_be_of_a_configuration_that_nobody_else_here_knows() {
    // A change fences two of these three. It may have been replica 0, which cannot tell of it any more, and replica 1.
    let c = configuration(&[0, 1, 2], 3, 2);
    assert_eq!((c.quorum().fence(), c.quorum().fence_for_change()), (2, 2));
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None);
    let _ = driver.requests();
    let mut damaged = answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c));
    damaged.damaged = true;
    assert_eq!(driver.on_fence_answer(damaged), []);
    let two = driver.on_fence_answer(answer(2, epoch(7), entry(1, 7), std::slice::from_ref(&c)));
    assert_eq!(two, [], "no write quorum of this configuration has entry 9, but one of a later may");
    let three = driver.on_fence_answer(answer(1, epoch(7), entry(1, 8), std::slice::from_ref(&c)));
    assert!(matches!(&three[..], [DriverEffect::Activate(m, _)] if m.ordinal == 1), "{three:?}");
}

#[test]
fn a_hand_over_avoids_the_old_primary_unless_nobody_else_has_its_log() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], Some(incarnation(0)));
    let _ = driver.requests();
    assert_eq!(
        driver.on_fence_answer(answer(0, epoch(7), entry(3, 9), std::slice::from_ref(&c))),
        []
    );
    assert_eq!(
        driver.on_fence_answer(answer(1, epoch(7), entry(3, 8), std::slice::from_ref(&c))),
        []
    );
    let effects = driver.on_fence_answer(answer(2, epoch(7), entry(3, 9), std::slice::from_ref(&c)));
    assert!(matches!(&effects[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2));
}

#[test]
fn a_switchover_waits_for_the_member_that_was_named_and_takes_it_only_with_the_greatest_log() {
    let c = configuration(&[0, 1, 2], 2, 2);
    let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&c));
    let mut driver = Driver::keep(epoch(7), vec![c.clone()], None).preferring(Some(incarnation(2)));
    assert_eq!(asked(&driver.requests()), [0, 1, 2]);
    assert_eq!(driver.on_fence_answer(answer_of(0, entry(3, 9))), []);
    assert_eq!(
        driver.on_fence_answer(answer_of(1, entry(3, 9))),
        [],
        "the named member may still answer"
    );
    let equal = driver.clone().on_fence_answer(answer_of(2, entry(3, 9)));
    assert!(matches!(&equal[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2), "{equal:?}");
    let behind = driver.clone().on_fence_answer(answer_of(2, entry(3, 8)));
    assert!(
        matches!(&behind[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0),
        "{behind:?}"
    );
    let settled = driver.settle();
    assert!(
        matches!(&settled[..], [DriverEffect::Activate(m, _)] if m.ordinal == 0),
        "{settled:?}"
    );
}

#[test]
fn a_change_that_drops_the_holder_of_the_greatest_log_says_so() {
    let old = configuration(&[0, 1, 2], 2, 2);
    let target = configuration(&[1, 2], 2, 2);
    let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&old));
    let mut driver = Driver::change(epoch(7), vec![old.clone()], target);
    let _ = driver.requests();
    assert_eq!(driver.on_fence_answer(answer_of(0, entry(3, 9))), []);
    assert_eq!(driver.on_fence_answer(answer_of(1, entry(3, 8))), []);
    let equal = driver.clone().on_fence_answer(answer_of(2, entry(3, 9)));
    assert!(matches!(&equal[..], [DriverEffect::Activate(m, _)] if m.ordinal == 2), "{equal:?}");
    let dropped = DriverFailure::Dropped {
        holder: incarnation(0),
        last: entry(3, 9),
    };
    assert_eq!(driver.on_fence_answer(answer_of(2, entry(3, 8))), [DriverEffect::Failed(dropped)]);
    assert!(driver.finished());
}

#[test]
fn a_recovery_takes_the_greatest_survivor_and_waits_for_nobody_else() {
    let old = configuration(&[0, 1, 2, 3, 4], 3, 3);
    let survivors = configuration(&[3, 4], 2, 2);
    let answer_of = |n, last| answer(n, epoch(7), last, std::slice::from_ref(&old));
    let mut driver = Driver::recover(epoch(7), vec![old.clone()], survivors.clone());
    assert_eq!(asked(&driver.requests()), [0, 1, 2, 3, 4]);
    assert_eq!(driver.on_fence_answer(answer_of(3, entry(3, 8))), []);
    assert_eq!(driver.settle(), [], "a survivor is missing");
    assert_eq!(
        driver.on_fence_answer(answer_of(4, entry(3, 9))),
        [],
        "one that was given up may still answer"
    );
    let mut with_more = driver.clone();
    assert_eq!(with_more.on_fence_answer(answer_of(0, entry(3, 10))), []);
    let found = DriverFailure::Dropped {
        holder: incarnation(0),
        last: entry(3, 10),
    };
    assert_eq!(with_more.settle(), [DriverEffect::Failed(found)]);
    let settled = driver.settle();
    let [DriverEffect::Activate(member, request)] = &settled[..] else {
        panic!("{settled:?}");
    };
    assert_eq!((member.ordinal, &request.configuration), (4, &survivors));
}
