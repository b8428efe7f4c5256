//! Tests: what an eventual configuration acknowledges, what it commits, what is kept aside; and questions of followers.

use super::*;
use bytes::Bytes;
use quorate_api::wire::{Append, AppendAck, ReadIndexAnswer, Reply};
use quorate_api::{ActivateRequest, Entry, EntryBody, FenceRequest, Member, Position, Proposal, Quorum};
use std::sync::Arc;
use uuid::Uuid;

/// To member 1, to member 2, of a driver.
const ONE: Session = Session(1);
const TWO: Session = Session(2);
const DRIVER: Session = Session(9);

fn incarnation(n: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(n + 1))
}

fn configuration(quorum: Quorum) -> Configuration {
    let members = (0..quorum.replicas).map(|ordinal| Member {
        incarnation: incarnation(ordinal.into()),
        ordinal,
        host: format!("n{ordinal}"),
    });
    Configuration::of(members.collect(), quorum).expect("a valid test configuration")
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, token: 0 }
}

fn step(replica: &mut Replica, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    replica.step(event, 0, &mut out);
    out
}

fn request(from: Session, peer: Option<Incarnation>, request: Request) -> Event {
    Event::Request { from, peer, request }
}

/// Replica 0, primary of epoch 1 with links to both others.
fn primary(quorum: Quorum) -> Replica {
    let log = LogView::new(Position::default(), None, 0);
    let mut replica = Replica::new(incarnation(0), Settings::default(), HardState::default(), log, 0);
    for (peer, session) in [(1, ONE), (2, TWO)] {
        let peer = incarnation(peer);
        step(&mut replica, Event::LinkUp { peer, session });
    }
    let fence = FenceRequest {
        epoch: epoch(1),
        proposal: Proposal::Change(configuration(quorum)),
    };
    let activate = ActivateRequest {
        epoch: epoch(1),
        last: replica.last(),
        configuration: configuration(quorum),
    };
    step(&mut replica, request(DRIVER, None, Request::Fence(fence)));
    step(&mut replica, request(DRIVER, None, Request::Activate(activate)));
    replica
}

fn durable(replica: &mut Replica, index: u64) {
    let generation = replica.generation;
    step(replica, Event::LogDurable { generation, index });
}

fn acknowledges(replica: &mut Replica, session: Session, durable: u64, round: u64) -> Vec<Effect> {
    let ack = AppendAck {
        epoch: epoch(1),
        durable,
        round,
        mismatch: None,
        disk: DiskRoom::Ample,
        held: durable,
    };
    step(replica, Event::AppendAck { session, ack })
}

fn write(replica: &mut Replica) -> u64 {
    let index = replica.propose(Bytes::from_static(b"x"), 0);
    replica.flush(0, &mut Vec::new());
    index
}

#[test]
fn a_write_is_acknowledged_on_the_primarys_own_disk_and_committed_by_a_majority() {
    let mut replica = primary(Quorum::eventual(3));
    durable(&mut replica, 1);
    assert!(!replica.serving(), "its epoch start needs a majority: one epoch wins");
    acknowledges(&mut replica, ONE, 1, 1);
    assert!(replica.serving());
    let index = write(&mut replica);
    assert_eq!((replica.acknowledged(), replica.commit()), (1, 1), "nobody holds it durably");
    durable(&mut replica, index);
    assert_eq!((replica.acknowledged(), replica.commit()), (index, 1));
    acknowledges(&mut replica, TWO, index, 1);
    assert_eq!((replica.acknowledged(), replica.commit()), (index, index));
}

#[test]
fn what_was_acknowledged_and_is_cut_off_is_kept_aside_before_it_is_cut_and_only_where_it_can_have_been() {
    for (quorum, kept) in [(Quorum::eventual(3), true), (Quorum::majority(3), false)] {
        let mut replica = primary(quorum);
        durable(&mut replica, 1);
        acknowledges(&mut replica, ONE, 1, 1);
        let (first, last) = (write(&mut replica), write(&mut replica));
        durable(&mut replica, last);
        let before = replica.log().position_at(1).expect("it is in memory");
        let start = EntryBody::EpochStart(configuration(quorum));
        let append = Append {
            epoch: epoch(2),
            prev: before,
            commit: 1,
            round: 1,
            entries: vec![Arc::new(Entry::next(before, epoch(2), 0, start))],
        };
        let effects = step(&mut replica, request(Session(7), Some(incarnation(1)), Request::Append(append)));
        let cut = effects
            .iter()
            .position(|effect| *effect == Effect::TruncateLog(1))
            .expect("it is cut");
        let tail = effects[..cut].iter().find_map(|effect| match effect {
            Effect::KeepAside(tail) => Some(tail),
            _ => None,
        });
        assert_eq!(tail.is_some(), kept, "{effects:?}");
        if let Some(tail) = tail {
            let indices: Vec<u64> = tail.entries.iter().map(|entry| entry.id.index).collect();
            assert_eq!((indices, tail.epoch, tail.exact), (vec![first, last], epoch(2), true));
        }
    }
}

fn answers(effects: &[Effect]) -> Vec<(Session, ReadIndexAnswer)> {
    let answer = |effect: &Effect| match effect {
        Effect::Reply(to, Reply::ReadIndex(answer)) => Some((*to, *answer)),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

#[test]
fn a_primary_answers_a_follower_once_members_confirm_it_after_the_question() {
    let mut replica = primary(Quorum::majority(3));
    durable(&mut replica, 1);
    let ask = |number| request(Session(7), Some(incarnation(2)), Request::ReadIndex(number));
    let refused = answers(&step(&mut replica, ask(3)));
    assert_eq!(
        refused,
        [(Session(7), ReadIndexAnswer { number: 3, index: None })],
        "it does not serve yet"
    );
    acknowledges(&mut replica, ONE, 1, 1);
    let sent_before = match &replica.role {
        Role::Primary(primary) => primary.round,
        Role::Follower(_) => panic!("it serves"),
    };
    assert_eq!(answers(&step(&mut replica, ask(4))), [], "nobody confirmed since");
    assert_eq!(
        answers(&acknowledges(&mut replica, ONE, 1, sent_before)),
        [],
        "what was sent before says nothing"
    );
    let answered = answers(&acknowledges(&mut replica, ONE, 1, sent_before + 1));
    let index = Some(1);
    assert_eq!(answered, [(Session(7), ReadIndexAnswer { number: 4, index })]);
}

#[test]
fn a_follower_lets_readers_go_on_when_its_state_holds_what_the_primary_named() {
    let log = LogView::new(Position::default(), None, 0);
    let mut replica = Replica::new(incarnation(0), Settings::default(), HardState::default(), log, 0);
    let asked = |effects: &[Effect]| -> Vec<u64> {
        let number = |effect: &Effect| match effect {
            Effect::AskReadIndex(TWO, number) => Some(*number),
            _ => None,
        };
        effects.iter().filter_map(number).collect()
    };
    let ticket = replica.ask_barrier();
    assert_eq!(asked(&step(&mut replica, Event::Tick)), [] as [u64; 0], "it hears no primary");
    let peer = incarnation(2);
    step(&mut replica, Event::LinkUp { peer, session: TWO });
    let start = Arc::new(Entry::next(
        Position::default(),
        epoch(1),
        0,
        EntryBody::EpochStart(configuration(Quorum::majority(3))),
    ));
    let append = |commit, entries| {
        let append = Append {
            epoch: epoch(1),
            prev: Position::default(),
            commit,
            round: 1,
            entries,
        };
        request(Session(7), Some(incarnation(2)), Request::Append(append))
    };
    assert_eq!(
        asked(&step(&mut replica, append(0, vec![start]))),
        [ticket],
        "as soon as it hears one"
    );
    let index = Some(1);
    step(&mut replica, Event::ReadIndex(ReadIndexAnswer { number: ticket, index }));
    assert!(replica.confirmed_ask() < ticket, "the entry is not committed here yet");
    let held = Arc::clone(&replica.log().entries(0, usize::MAX).expect("in memory")[0]);
    step(&mut replica, append(1, vec![held]));
    assert_eq!(replica.confirmed_ask(), ticket);
    assert!(replica.ask_barrier() > ticket, "a later reader needs a later question");
}
