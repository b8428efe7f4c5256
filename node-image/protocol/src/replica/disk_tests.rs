//! A member whose disk is full: what it answers, and what its primary does about it.

use super::*;
use bytes::Bytes;
use quorate_api::wire::{Append, AppendAck, Mismatch, Reply};
use quorate_api::{ActivateRequest, Consistency, Entry, EntryBody, FenceRequest, Member, Position, Proposal, Quorum};
use std::sync::Arc;
use uuid::Uuid;

const FIRST: Session = Session(1);
const SECOND: Session = Session(2);
const EPOCH: Epoch = Epoch { number: 2, token: 0 };

fn incarnation(n: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(n + 1))
}

fn configuration() -> Configuration {
    let members = (0..3u32).map(|ordinal| Member {
        incarnation: incarnation(ordinal.into()),
        ordinal,
        host: format!("n{ordinal}"),
    });
    Configuration::new(members.collect(), 2, 2).expect("a valid test configuration")
}

fn step(replica: &mut Replica, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    replica.step(event, 0, &mut out);
    out
}

fn blank() -> Replica {
    let log = LogView::new(Position::default(), None, 0);
    Replica::new(incarnation(0), Settings::default(), HardState::default(), log, 0)
}

/// A primary that serves, and that both members follow.
fn primary() -> Replica {
    primary_with(Settings::default())
}

fn primary_with(settings: Settings) -> Replica {
    primary_of(configuration(), settings)
}

fn primary_of(configuration: Configuration, settings: Settings) -> Replica {
    let log = LogView::new(Position::default(), None, 0);
    let mut replica = Replica::new(incarnation(0), settings, HardState::default(), log, 0);
    for (peer, session) in [(incarnation(1), FIRST), (incarnation(2), SECOND)] {
        step(&mut replica, Event::LinkUp { peer, session });
    }
    let fence = FenceRequest {
        epoch: EPOCH,
        proposal: Proposal::Keep,
    };
    let activate = ActivateRequest {
        epoch: EPOCH,
        last: EntryId::default(),
        configuration,
    };
    for request in [Request::Fence(fence), Request::Activate(activate)] {
        let (from, peer) = (Session(9), None);
        step(&mut replica, Event::Request { from, peer, request });
    }
    step(&mut replica, Event::LogDurable { generation: 0, index: 1 });
    for session in [FIRST, SECOND] {
        answer(&mut replica, session, 0, None, DiskRoom::Ample);
        answer(&mut replica, session, 1, None, DiskRoom::Ample);
    }
    assert!(replica.serving());
    replica
}

fn answer(replica: &mut Replica, session: Session, durable: u64, mismatch: Option<Mismatch>, disk: DiskRoom) -> Vec<Effect> {
    let ack = AppendAck {
        epoch: EPOCH,
        durable,
        // Above all rounds so far: an answer to what was sent last.
        round: 1000,
        mismatch,
        disk,
        held: durable,
    };
    step(replica, Event::AppendAck { session, ack })
}

fn entries_to(effects: &[Effect], session: Session) -> usize {
    let sent = effects.iter().map(|effect| match effect {
        Effect::Send(to, append) if *to == session => append.entries.len(),
        _ => 0,
    });
    sent.sum()
}

fn write(replica: &mut Replica, bytes: usize) -> Vec<Effect> {
    replica.propose(Bytes::from(vec![0; bytes]), 0);
    let mut out = Vec::new();
    replica.flush(0, &mut out);
    out
}

/// What the primary of the epoch, the second member, sends.
fn append(prev: Position, round: u64, entries: Vec<Arc<Entry>>) -> Event {
    let append = Append {
        epoch: EPOCH,
        prev,
        commit: 0,
        round,
        entries,
    };
    Event::Request {
        from: FIRST,
        peer: Some(incarnation(1)),
        request: Request::Append(append),
    }
}

fn entry(before: Position) -> Arc<Entry> {
    Arc::new(Entry::next(before, EPOCH, 0, EntryBody::EpochStart(configuration())))
}

/// What an acknowledgement counts for, and what it tells to be held.
fn acknowledged(effects: &[Effect]) -> Option<(u64, u64)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply(FIRST, Reply::AppendAck(ack)) => Some((ack.durable, ack.held)),
        _ => None,
    })
}

#[test]
fn a_loss_of_unknown_extent_is_made_good_by_what_the_primary_has_and_without_new_writes() {
    let hard = HardState {
        promised: EPOCH,
        unreadable: Some(EntryId {
            epoch: EPOCH,
            index: 1_000_000,
        }),
        ..HardState::default()
    };
    let log = LogView::new(Position::default(), None, 0);
    let mut follower = Replica::new(incarnation(0), Settings::default(), hard, log, 0);
    let first = entry(Position::default());
    let second = entry(first.position());
    // A sign says nothing of the log; the probe says where it ends; what follows begins further back.
    let mut answers = Vec::new();
    for (round, prev, entries) in [
        (1, Position::default(), Vec::new()),
        (2, second.position(), Vec::new()),
        (3, Position::default(), vec![Arc::clone(&first)]),
    ] {
        answers.push(acknowledged(&step(&mut follower, append(prev, round, entries))));
    }
    answers.push(acknowledged(&step(&mut follower, Event::LogDurable { generation: 0, index: 1 })));
    // The primary's stream goes on by what is held, although it counts for nothing.
    assert_eq!(answers, [Some((0, 0)), Some((0, 0)), Some((0, 0)), Some((0, 1))]);
    assert!(follower.damaged());
    step(&mut follower, append(first.position(), 4, vec![second]));
    let whole = step(&mut follower, Event::LogDurable { generation: 0, index: 2 });
    assert_eq!(acknowledged(&whole), Some((2, 2)));
    assert!(!follower.damaged());
    let forgotten = HardState {
        unreadable: None,
        promised: EPOCH,
        ..HardState::default()
    };
    assert!(whole.contains(&Effect::PersistHardState(forgotten)), "{whole:?}");
}

#[test]
fn a_stream_to_a_member_that_makes_good_its_loss_goes_on_by_what_that_one_holds() {
    let settings = Settings {
        max_in_flight_bytes: 1,
        max_append_bytes: 1,
        ..Settings::default()
    };
    let mut primary = primary_with(settings);
    let first = write(&mut primary, 10);
    write(&mut primary, 10);
    assert_eq!(entries_to(&first, FIRST), 1);
    let ack = AppendAck {
        epoch: EPOCH,
        durable: 0,
        round: 1000,
        mismatch: None,
        disk: DiskRoom::Ample,
        held: 2,
    };
    let next = step(&mut primary, Event::AppendAck { session: FIRST, ack });
    assert_eq!(entries_to(&next, FIRST), 1);
    assert_eq!(primary.commit(), 1, "what is held counts for nothing");
}

#[test]
fn a_full_follower_takes_nothing_confirms_reads_and_asks_for_nothing_more() {
    let mut follower = blank();
    let (first, second) = (entry(Position::default()), entry(entry(Position::default()).position()));
    step(&mut follower, append(Position::default(), 1, vec![Arc::clone(&first)]));
    step(&mut follower, Event::LogDurable { generation: 0, index: 1 });
    step(&mut follower, Event::Disk(DiskRoom::Full));
    // The next entry, and one that it has no place for: the gap is no reason to ask.
    for (round, prev) in [(2, first.position()), (3, second.position())] {
        let answered = step(&mut follower, append(prev, round, vec![entry(prev)]));
        let ack = AppendAck {
            epoch: EPOCH,
            durable: 1,
            round,
            mismatch: None,
            disk: DiskRoom::Full,
            held: 1,
        };
        assert_eq!(answered, [Effect::Reply(FIRST, Reply::AppendAck(ack))]);
    }
    assert_eq!(follower.last().index, 1);
    step(&mut follower, Event::Disk(DiskRoom::Ample));
    let taken = step(&mut follower, append(first.position(), 4, vec![second]));
    assert!(taken.iter().any(|effect| matches!(effect, Effect::AppendLog { .. })), "{taken:?}");
}

#[test]
fn a_full_member_is_sent_signs_and_no_entries_until_it_has_room() {
    let mut primary = primary();
    assert_eq!(entries_to(&write(&mut primary, 10), FIRST), 1);
    answer(&mut primary, FIRST, 1, None, DiskRoom::Full);
    for _ in 0..10 {
        assert_eq!(entries_to(&write(&mut primary, 100_000), FIRST), 0);
    }
    let mut signs = Vec::new();
    primary.step(Event::Tick, 10_000, &mut signs);
    assert_eq!(entries_to(&signs, FIRST), 0);
    assert!(
        signs.iter().any(|effect| matches!(effect, Effect::Send(FIRST, _))),
        "it is still told of the primary"
    );
    // The others are enough.
    step(&mut primary, Event::LogDurable { generation: 0, index: 12 });
    answer(&mut primary, SECOND, 12, None, DiskRoom::Ample);
    assert_eq!(primary.commit(), 12);
    let probe = answer(&mut primary, FIRST, 1, None, DiskRoom::Ample);
    assert!(probe.iter().any(|effect| matches!(effect, Effect::Send(FIRST, _))), "{probe:?}");
    let behind = Mismatch::Diverges(EntryId { epoch: EPOCH, index: 1 });
    assert_eq!(
        entries_to(&answer(&mut primary, FIRST, 0, Some(behind), DiskRoom::Ample), FIRST),
        11
    );
}

#[test]
fn writes_lack_room_when_full_disks_leave_no_write_quorum() {
    let mut primary = primary();
    assert_eq!(primary.lacks_room(), None);
    answer(&mut primary, FIRST, 1, None, DiskRoom::Tight);
    assert_eq!(primary.lacks_room(), None, "the other member has room");
    answer(&mut primary, SECOND, 1, None, DiskRoom::Full);
    assert_eq!(primary.lacks_room(), Some((1, 2)));
    answer(&mut primary, FIRST, 1, None, DiskRoom::Ample);
    assert_eq!(primary.lacks_room(), None);
    step(&mut primary, Event::LinkDown(FIRST));
    assert_eq!(primary.lacks_room(), Some((1, 2)), "one away and one full leave the primary alone");
    step(&mut primary, Event::LinkDown(SECOND));
    assert_eq!(primary.lacks_room(), None, "nobody says that a disk is full");
}

#[test]
fn full_disks_end_the_writes_of_an_eventual_group_when_enough_of_them_wait_for_a_majority() {
    let settings = Settings {
        max_unsettled_bytes: 1000,
        ..Settings::default()
    };
    let eventual = Quorum {
        replicas: 3,
        write: 1,
        read: 1,
        consistency: Consistency::Eventual,
    };
    let members = configuration().members().to_vec();
    let configuration = Configuration::of(members, eventual).expect("a valid test configuration");
    let mut primary = primary_of(configuration, settings);
    for session in [FIRST, SECOND] {
        answer(&mut primary, session, 1, None, DiskRoom::Full);
    }
    write(&mut primary, 500);
    step(&mut primary, Event::LogDurable { generation: 0, index: 2 });
    assert_eq!((primary.acknowledged(), primary.commit()), (2, 1));
    assert_eq!(primary.lacks_room(), None, "full disks are failures that it was asked to live with");
    write(&mut primary, 500);
    assert_eq!(primary.lacks_room(), Some((1, 2)));
    answer(&mut primary, FIRST, 1, None, DiskRoom::Ample);
    assert_eq!(primary.lacks_room(), None);
    answer(&mut primary, FIRST, 3, None, DiskRoom::Ample);
    answer(&mut primary, FIRST, 3, None, DiskRoom::Full);
    step(&mut primary, Event::LogDurable { generation: 0, index: 3 });
    assert_eq!((primary.commit(), primary.lacks_room()), (3, None), "nothing waits any more");
}
