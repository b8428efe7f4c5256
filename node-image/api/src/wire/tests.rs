//! What is sent arrives.

use super::*;
use crate::identity::StoreId;
use crate::slots::{Attempt, HandoffChunk, HandoffOutcome, HandoffStep, RoutingMember, RoutingShard, SlotSet};
use uuid::Uuid;

fn there_and_back(request: &Request) -> Request {
    let mut buffer = BytesMut::new();
    request.encode(&mut buffer);
    let taken = take(&mut buffer).expect("a frame that was just written").expect("all of it");
    assert!(buffer.is_empty());
    taken
}

#[test]
fn what_the_operator_asks_of_a_node_arrives_as_it_was_sent() {
    let member = Member {
        incarnation: Incarnation(Uuid::from_u128(7)),
        ordinal: 3,
        host: "node-3:7400".into(),
    };
    let policy = FailoverPolicy {
        automatic: false,
        suspect_after_millis: 700,
        operator_away_millis: 0,
    };
    let watch = |policy| Request::Watch {
        interval_millis: 200,
        policy,
    };
    for request in [
        watch(None),
        watch(Some(policy)),
        Request::Admit(Vec::new()),
        Request::Admit(vec![member]),
    ] {
        assert_eq!(there_and_back(&request), request);
    }
}

fn slots() -> SlotSet {
    SlotSet::from_ranges([0..=5460, 16_383..=16_383]).expect("ranges of slots")
}

#[test]
fn what_is_asked_about_slots_arrives_as_it_was_sent() {
    let id = ReplicaId {
        store: StoreId(Uuid::from_u128(1)),
        shard: 2,
        ordinal: 0,
        incarnation: Incarnation(Uuid::from_u128(7)),
    };
    let addresses = NodeAddresses {
        replica: "10.0.0.1:7400".into(),
        client_host: "10.0.0.1".into(),
        client_port: 6379,
    };
    let shard = RoutingShard {
        shard: 2,
        epoch: 9,
        primary: Some(id.incarnation),
        slots: slots(),
        members: vec![RoutingMember { id, addresses }],
    };
    let attempt = Attempt {
        epoch: Epoch { number: 4, token: 5 },
        number: 1,
    };
    let asked = |slots, step| {
        Request::Handoff(Handoff {
            handoff: 12,
            from: 0,
            to: 2,
            slots,
            step,
        })
    };
    let chunk = HandoffChunk {
        attempt,
        sequence: 3,
        bytes: Bytes::from_static(b"anything"),
    };
    for request in [
        Request::Route(RoutingMap {
            version: 3,
            shards: vec![shard],
        }),
        Request::MoveSlots(MoveSlots {
            handoff: 12,
            slots: slots(),
            to: 2,
            max_bytes_per_second: 1 << 20,
        }),
        Request::AbortMove { handoff: 12 },
        Request::SlotSizes,
        asked(slots(), HandoffStep::Begin(attempt)),
        asked(SlotSet::new(), HandoffStep::Chunk(chunk)),
        asked(
            slots(),
            HandoffStep::Decide {
                attempt,
                chunks: 4,
                clock_millis: 1,
            },
        ),
        asked(slots(), HandoffStep::Abandon),
        asked(slots(), HandoffStep::Forget),
    ] {
        assert_eq!(there_and_back(&request), request);
    }
}

#[test]
fn what_is_answered_about_slots_arrives_as_it_was_sent() {
    let attempt = Attempt {
        epoch: Epoch { number: 4, token: 5 },
        number: 1,
    };
    let outcomes = [
        HandoffOutcome::Staged { attempt, chunks: 4 },
        HandoffOutcome::Accepted,
        HandoffOutcome::Rejected,
        HandoffOutcome::Forgotten,
        HandoffOutcome::NotPrimary,
        HandoffOutcome::Stale,
        HandoffOutcome::Later("memory".into()),
    ];
    let refusals = [
        MoveRefusal::NotPrimary,
        MoveRefusal::NotOwner(slots()),
        MoveRefusal::StaleHandoff(7),
        MoveRefusal::Busy,
        MoveRefusal::UnknownTarget,
        MoveRefusal::UnknownMove,
    ];
    let mut replies: Vec<Reply> = outcomes
        .into_iter()
        .map(|outcome| Reply::Handoff(HandoffAnswer { handoff: 12, outcome }))
        .collect();
    replies.extend(refusals.iter().cloned().map(|refusal| Reply::MoveSlots(Err(refusal))));
    replies.extend(refusals.into_iter().map(|refusal| Reply::AbortMove(Err(refusal))));
    replies.extend([
        Reply::MoveSlots(Ok(())),
        Reply::AbortMove(Ok(())),
        Reply::SlotSizes(vec![(7, 1, 100)]),
    ]);
    for reply in replies {
        let mut buffer = BytesMut::new();
        reply.encode(&mut buffer);
        assert_eq!(take::<Reply>(&mut buffer).expect("a frame that was just written"), Some(reply));
    }
}

#[test]
fn an_acknowledgement_tells_of_the_disk_and_one_of_an_older_node_has_room() {
    for disk in [DiskRoom::Ample, DiskRoom::Tight, DiskRoom::Full] {
        let ack = Reply::AppendAck(AppendAck {
            epoch: Epoch { number: 3, token: 4 },
            durable: 5,
            round: 6,
            mismatch: Some(Mismatch::Diverges(EntryId::default())),
            disk,
            held: 9,
        });
        let mut buffer = BytesMut::new();
        ack.encode(&mut buffer);
        assert_eq!(take::<Reply>(&mut buffer.clone()).unwrap().unwrap(), ack);
        // Without what older nodes do not send.
        let shorter = buffer.len() - 1 - 8;
        buffer[..4].copy_from_slice(&u32::try_from(shorter - 4).unwrap().to_le_bytes());
        buffer.truncate(shorter);
        let Reply::AppendAck(read) = take::<Reply>(&mut buffer).unwrap().unwrap() else {
            panic!("another reply")
        };
        assert_eq!((read.disk, read.held), (DiskRoom::Ample, 5));
    }
}

#[test]
fn a_watch_without_a_policy_is_the_number_that_older_nodes_read() {
    let mut buffer = BytesMut::new();
    let watch = Request::Watch {
        interval_millis: 200,
        policy: None,
    };
    watch.encode(&mut buffer);
    assert_eq!(&buffer[4..], b"\x24200");
}
