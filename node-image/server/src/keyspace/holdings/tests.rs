//! Slots that move between two states in memory.

use super::*;
use crate::keyspace::tests::change_at_random;
use crate::keyspace::{Update, Value};
use quorate_api::Epoch;
use quorate_api::slot::slot_of;
use quorate_api::slots::Attempt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A state and the log that made it.
#[derive(Default)]
struct Group {
    keyspace: Keyspace,
    log: Vec<BytesMut>,
}

impl Group {
    fn change(&mut self, change: impl FnOnce(&mut Keyspace, &mut Change<'_>)) {
        let (mut effects, index) = (BytesMut::new(), self.log.len() as u64 + 1);
        let mut entry = Change {
            effects: &mut effects,
            index,
        };
        change(&mut self.keyspace, &mut entry);
        self.log.push(effects);
    }

    fn put(&mut self, key: &str, value: &str, expiry: u64) {
        let value = Value::String(value.as_bytes().into());
        self.change(|keyspace, change| keyspace.put(slot_of(key.as_bytes()), key.as_bytes(), value, expiry, change));
    }

    /// Some entries. Time is the index of the log.
    fn write_at_random(&mut self, rng: &mut SmallRng) {
        for _ in 0..rng.random_range(1..60) {
            self.change(|keyspace, change| change_at_random(rng, keyspace, change));
            if self.log.last().is_some_and(BytesMut::is_empty) {
                self.log.pop();
            }
        }
    }

    fn log(&mut self, record: &SlotRecord, payload: &[u8]) {
        self.change(|keyspace, change| keyspace.log_slots(record, payload, change).unwrap());
    }

    fn get(&self, key: &str) -> Option<(Vec<u8>, u64)> {
        let item = self.keyspace.get(slot_of(key.as_bytes()), key.as_bytes(), 0)?;
        let Value::String(value) = &item.value else { return None };
        Some((value.to_vec(), item.expiry))
    }

    /// A follower that applied the log, and one that loaded a snapshot, have the same state.
    fn assert_followers_agree(&self) {
        let (mut follower, mut loaded) = (Keyspace::new(), Keyspace::new());
        for (index, effects) in (1..).zip(&self.log) {
            follower.apply(effects, index).unwrap();
        }
        self.keyspace.snapshot().blocks(|block| loaded.read_block(block)).unwrap();
        self.keyspace.assert_figures();
        for other in [&follower, &loaded] {
            other.assert_figures();
            assert!(self.keyspace == *other);
            assert_eq!((other.len(), other.expiring()), (self.keyspace.len(), self.keyspace.expiring()));
            // Collections that hold the same, built otherwise, have another capacity.
            let alike = |ours: u64, theirs: u64| ours.abs_diff(theirs) <= ours / 20 + 20_000;
            assert!(alike(self.keyspace.memory_bytes(), other.memory_bytes()));
            assert!(alike(self.keyspace.staged_bytes(), other.staged_bytes()));
        }
    }
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        epoch: Epoch { number: 1, token: 0 },
        number,
    }
}

#[test]
fn a_slot_moves_with_everything_that_it_holds_and_the_replicas_agree_at_every_step() {
    let (mut source, mut target) = (Group::default(), Group::default());
    for number in 0..200 {
        source.put(
            &format!("key{number}"),
            "value",
            if number % 3 == 0 { 1_000 + number } else { NEVER },
        );
    }
    let slots: SlotSet = (0..8_000).collect();
    let moves = |key: &str| slots.contains(slot_of(key.as_bytes()));
    source.log(
        &SlotRecord::Export {
            shard: 0,
            handoff: 7,
            slots: slots.clone(),
            to: 1,
            max_bytes_per_second: 0,
        },
        &[],
    );
    let (mut sequence, mut pieces) = (0, Vec::new());
    source
        .keyspace
        .snapshot_of(&slots)
        .blocks(|block| {
            pieces.push(Piece::block(block));
            Ok::<(), ()>(())
        })
        .unwrap();
    for (key, value) in [("key0", "changed"), ("new", "value")] {
        source.put(key, value, NEVER);
    }
    source.change(|keyspace, change| {
        keyspace.delete(slot_of(b"key1"), b"key1", change);
    });
    let later = &source.log[source.log.len() - 3..];
    pieces.extend(later.iter().filter_map(|effects| Piece::effects(effects, &slots).unwrap()));
    source.log(&SlotRecord::Freeze { handoff: 7 }, &[]);
    assert_eq!(source.keyspace.access(0, 0), Access::Frozen);
    assert_eq!(source.keyspace.access(9_000, 0), Access::Owned);
    source.assert_followers_agree();

    for number in [1, 2] {
        target.log(
            &SlotRecord::Import {
                shard: 1,
                handoff: 7,
                slots: slots.clone(),
                from: 0,
                attempt: attempt(number),
            },
            &[],
        );
        sequence = 0;
        for piece in &pieces {
            target.log(&SlotRecord::Stage { handoff: 7, sequence }, &piece.clone().into_bytes());
            sequence += 1;
        }
    }
    assert!(sequence > 0 && target.keyspace.staged_bytes() > 0);
    assert_eq!((target.keyspace.len(), target.keyspace.access(0, 1)), (0, Access::Elsewhere));
    target.assert_followers_agree();
    target.log(&SlotRecord::Accept { handoff: 7 }, &[]);
    target.assert_followers_agree();
    let keys = (0..200).map(|number| format!("key{number}")).chain(["new".to_owned()]);
    let mut moved = 0;
    for key in keys.filter(|key| moves(key)) {
        assert_eq!(target.get(&key), source.get(&key), "{key}");
        moved += usize::from(target.get(&key).is_some());
    }
    assert_eq!(target.keyspace.len() as usize, moved);
    let absent = (0..8_000).find(|slot| target.keyspace.slot_len(*slot) == 0).unwrap();
    assert_eq!(
        target.keyspace.last_write(absent),
        target.log.len() as u64,
        "a key that is not there waits for the move too"
    );

    let moving = (0..200).map(|n| format!("key{n}")).find(|key| moves(key)).unwrap();
    let watch = source.keyspace.watch(moving.as_bytes());
    source.log(&SlotRecord::Release { handoff: 7 }, &[]);
    source.assert_followers_agree();
    assert!(watch.changed(), "a watcher of a slot that went away sees a change");
    assert!(source.keyspace.take_garbage().is_some() && source.keyspace.take_garbage().is_none());
    assert_eq!(source.keyspace.access(0, 0), Access::Elsewhere);
    assert!(source.keyspace.slot_sizes().iter().all(|(slot, ..)| !slots.contains(*slot)));
}

#[test]
fn a_collection_that_is_larger_than_a_piece_moves_and_a_piece_that_does_not_fit_is_refused() {
    let (mut source, mut target) = (Group::default(), Group::default());
    let field = |number: u32| format!("field{number:08}");
    for from in (0..40_000u32).step_by(1_000) {
        let fields: Vec<String> = (from..from + 1_000).map(field).collect();
        let update = Update::HashSet(fields.iter().map(|field| (field.as_bytes(), field.as_bytes())).collect());
        source.change(|keyspace, change| {
            keyspace.update(slot_of(b"large"), b"large", &update, change).unwrap();
        });
    }
    let slots: SlotSet = [slot_of(b"large")].into_iter().collect();
    let import = SlotRecord::Import {
        shard: 1,
        handoff: 7,
        slots: slots.clone(),
        from: 0,
        attempt: attempt(1),
    };
    target.log(&import, &[]);
    let mut pieces = Vec::new();
    let blocks = source.keyspace.snapshot_of(&slots).blocks(|block| {
        pieces.push(Piece::block(block).into_bytes());
        Ok::<(), ()>(())
    });
    assert!(blocks.is_ok() && pieces.len() > 2, "{} pieces", pieces.len());
    let mut effects = BytesMut::new();
    let mut change = Change {
        effects: &mut effects,
        index: target.log.len() as u64 + 1,
    };
    let stage = SlotRecord::Stage { handoff: 7, sequence: 0 };
    let refused = target.keyspace.log_slots(&stage, &pieces[1], &mut change);
    assert_eq!(refused, Err(EffectError::Mismatch), "its beginning is missing");
    assert!(effects.is_empty());
    for (sequence, piece) in (0..).zip(&pieces) {
        target.log(&SlotRecord::Stage { handoff: 7, sequence }, piece);
    }
    target.log(&SlotRecord::Accept { handoff: 7 }, &[]);
    target.assert_followers_agree();
    let value = |group: &Group| group.keyspace.get(slot_of(b"large"), b"large", 0).unwrap().value.clone();
    assert!(value(&source) == value(&target));
}

#[test]
fn what_is_kept_of_slots_is_what_would_be_counted_after_any_commands_and_moves() {
    for seed in 0..30 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut groups = [Group::default(), Group::default()];
        let mut owner = 0;
        for handoff in 1..6 {
            groups[owner].write_at_random(&mut rng);
            let to = 1 - owner;
            let slots = SlotSet::all();
            let (from, shard) = (owner as u32, to as u32);
            let export = SlotRecord::Export {
                shard: from,
                handoff,
                slots: slots.clone(),
                to: shard,
                max_bytes_per_second: 0,
            };
            groups[owner].log(&export, &[]);
            let mut pieces = Vec::new();
            let snapshot = groups[owner].keyspace.snapshot_of(&slots);
            let began = groups[owner].log.len();
            groups[owner].write_at_random(&mut rng);
            let given = snapshot.blocks(|block| {
                pieces.push(Piece::block(block));
                Ok::<(), ()>(())
            });
            assert!(given.is_ok());
            let later = &groups[owner].log[began..];
            pieces.extend(later.iter().filter_map(|effects| Piece::effects(effects, &slots).unwrap()));
            groups[owner].log(&SlotRecord::Freeze { handoff }, &[]);
            let import = SlotRecord::Import {
                shard,
                handoff,
                slots: slots.clone(),
                from,
                attempt: attempt(1),
            };
            groups[to].log(&import, &[]);
            for (sequence, piece) in (0..).zip(pieces) {
                groups[to].log(&SlotRecord::Stage { handoff, sequence }, &piece.into_bytes());
            }
            groups[to].assert_followers_agree();
            if rng.random() {
                groups[to].log(&SlotRecord::Accept { handoff }, &[]);
                groups[owner].log(&SlotRecord::Release { handoff }, &[]);
                assert!(groups[owner].keyspace.is_empty(), "seed {seed}");
                owner = to;
            } else {
                let reject = SlotRecord::Reject {
                    shard,
                    handoff,
                    slots,
                    from,
                };
                groups[to].log(&reject, &[]);
                groups[owner].log(&SlotRecord::Thaw { handoff }, &[]);
            }
            groups[to].log(&SlotRecord::Forget { handoff }, &[]);
            groups[1 - to].log(&SlotRecord::Settle { handoff }, &[]);
            for group in &groups {
                group.assert_followers_agree();
            }
        }
    }
}

#[test]
fn a_rejected_copy_leaves_nothing_and_a_flush_of_the_source_reaches_it() {
    let (mut source, mut target) = (Group::default(), Group::default());
    let slots = SlotSet::all();
    source.put("a", "1", NEVER);
    let import = SlotRecord::Import {
        shard: 1,
        handoff: 7,
        slots: slots.clone(),
        from: 0,
        attempt: attempt(1),
    };
    target.log(&import, &[]);
    let put = Piece::effects(&source.log[0], &slots).unwrap().unwrap();
    target.log(&SlotRecord::Stage { handoff: 7, sequence: 0 }, &put.into_bytes());
    assert!(target.keyspace.staged_bytes() > 0);
    source.change(|keyspace, change| keyspace.flush_all(change));
    let flush = Piece::effects(&source.log[1], &"5".parse().unwrap()).unwrap().unwrap();
    target.log(&SlotRecord::Stage { handoff: 7, sequence: 1 }, &flush.into_bytes());
    assert_eq!(target.keyspace.staged_bytes(), 0);
    target.assert_followers_agree();
    let reject = SlotRecord::Reject {
        shard: 1,
        handoff: 7,
        slots,
        from: 0,
    };
    target.log(&reject, &[]);
    target.assert_followers_agree();
    assert!(target.keyspace.is_empty() && target.keyspace.slot_table().unwrap().owned().is_empty());
}
