//! A member whose disk is full: what it answers, and what its primary does about it.

use super::*;
use bytes::Bytes;
use quorate_api::wire::{Append, AppendAck, Mismatch, Reply};
use quorate_api::{ActivateRequest, Entry, EntryBody, FenceRequest, Member, Position, Proposal};
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
    let mut replica = blank();
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
        configuration: configuration(),
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

#[test]
fn a_full_follower_takes_nothing_confirms_reads_and_asks_for_nothing_more() {
    let mut follower = blank();
    let append = |prev: Position, round, entries: Vec<Arc<Entry>>| Event::Request {
        from: FIRST,
        peer: Some(incarnation(1)),
        request: Request::Append(Append {
            epoch: EPOCH,
            prev,
            commit: 0,
            round,
            entries,
        }),
    };
    let entry = |before| Arc::new(Entry::next(before, EPOCH, 0, EntryBody::EpochStart(configuration())));
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
