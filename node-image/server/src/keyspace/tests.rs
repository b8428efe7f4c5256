//! The state as a whole: what follows from the log, snapshots, expiry, scans.

use super::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fn text(value: &[u8]) -> Value {
    Value::String(value.into())
}

/// Some change to a collection; most do not fit what the key holds, and change nothing then.
fn change_collection(rng: &mut SmallRng, keyspace: &mut Keyspace, key: &[u8], change: &mut Change<'_>) {
    let texts: Vec<String> = (0..rng.random_range(1..60))
        .map(|_| rng.random_range(0..1000).to_string())
        .collect();
    let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let position = rng.random_range(0..20);
    let update = match rng.random_range(0..16) {
        0..2 => Update::HashSet(texts.iter().map(|text| (*text, *text)).collect()),
        2 => Update::HashRemove(texts),
        3..5 => Update::SetAdd(texts),
        5 => Update::SetRemove(texts),
        6..8 => Update::SortedSetAdd(texts.iter().map(|text| (f64::from(text[0]), *text)).collect()),
        8 => Update::SortedSetRemove(texts),
        9 => Update::SortedSetRemoveRanks { rank: position, count: 9 },
        10 => Update::ListPush {
            end: End::Left,
            values: texts,
        },
        11 => Update::ListPush {
            end: End::Right,
            values: texts,
        },
        12 => Update::ListSet { position, value: texts[0] },
        13 => Update::ListInsert { position, value: texts[0] },
        14 => Update::ListRemove { position, count: 9 },
        15 if rng.random() => Update::ListRemoveEach(vec![position, position + 3]),
        _ => Update::StringWrite {
            offset: position,
            bytes: texts[0],
        },
    };
    let before = change.effects.len();
    if keyspace.update(slot_of(key), key, &update, change).is_err() {
        assert_eq!(change.effects.len(), before);
    }
}

/// Some changes, of keys of any kind. The time is the index of the change.
pub(super) fn change_at_random(rng: &mut SmallRng, keyspace: &mut Keyspace, change: &mut Change<'_>) {
    let index = change.index;
    for _ in 0..rng.random_range(1..5) {
        let key = format!("key{}", rng.random_range(0..40)).into_bytes();
        let (slot, expiry) = (slot_of(&key), [NEVER, rng.random_range(1..300)][rng.random_range(0..2usize)]);
        match rng.random_range(0..40) {
            20..36 => change_collection(rng, keyspace, &key, change),
            36 => {
                keyspace.rename(&key, b"key7", change);
            }
            37 => {
                keyspace.copy(&key, b"key8", change);
            }
            0..10 => {
                let value = vec![b'v'; rng.random_range(0..50)];
                keyspace.put(slot, &key, text(&value), expiry, change);
            }
            10..14 => {
                keyspace.delete(slot, &key, change);
            }
            14..17 => {
                keyspace.set_expiry(slot, &key, expiry, change);
            }
            17..20 => {
                keyspace.expire_due(index, 3, change);
            }
            38 if index.is_multiple_of(20) => keyspace.flush_all(change),
            _ => {}
        }
    }
}

impl Keyspace {
    /// What is kept of the slots, their sum and what expires are what a count gives.
    pub(super) fn assert_figures(&self) {
        let (mut bytes, mut keys, mut due) = (0, 0, BTreeSet::new());
        for (number, slot) in (0..).zip(&self.slots) {
            let counted: u64 = slot.iter().map(Item::memory_bytes).sum();
            let expiring = slot.iter().filter(|item| item.expiry != NEVER);
            due.extend(expiring.map(|item| (item.expiry, number, self.hash(&item.key))));
            assert_eq!(slot.bytes(), counted, "slot {number}");
            assert_eq!(slot.any_expires(), slot.iter().any(|item| item.expiry != NEVER), "slot {number}");
            bytes += counted;
            keys += slot.len() as u64;
        }
        assert_eq!((self.bytes, self.keys, &self.due), (bytes, keys, &due));
        self.assert_figures_of_copies();
    }
}

#[test]
fn effects_applied_elsewhere_and_a_snapshot_give_the_same_state() {
    for seed in 0..50 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut primary, mut follower) = (Keyspace::new(), Keyspace::new());
        for index in 1..200 {
            let mut effects = BytesMut::new();
            let mut change = Change {
                effects: &mut effects,
                index,
            };
            change_at_random(&mut rng, &mut primary, &mut change);
            if !effects.is_empty() {
                follower.apply(&effects, index).unwrap();
            }
        }
        assert!(primary == follower, "seed {seed}");
        primary.assert_figures();
        follower.assert_figures();
        // What is copied because a snapshot shares it has another capacity.
        assert!(primary.memory_bytes().abs_diff(follower.memory_bytes()) < 20_000, "seed {seed}");
        let mut copy = Keyspace::new();
        let snapshot = primary.snapshot();
        snapshot.blocks(|block| copy.read_block(block)).unwrap();
        assert!(primary == copy, "seed {seed}");
        copy.assert_figures();
        assert_eq!(primary.len(), copy.len(), "seed {seed}");
        primary.expire_due(
            1000,
            usize::MAX,
            &mut Change {
                effects: &mut BytesMut::new(),
                index: 1000,
            },
        );
        assert_eq!(primary.expiring(), 0);
        assert!(copy.len() >= primary.len(), "a snapshot does not change with its origin");
    }
}

#[test]
fn a_large_slot_is_cut_into_blocks_of_a_bounded_size() {
    let (mut keyspace, mut effects) = (Keyspace::new(), BytesMut::new());
    for number in 0..3000u64 {
        let key = format!("{{t}}{number}").into_bytes();
        let mut change = Change {
            effects: &mut effects,
            index: number + 1,
        };
        keyspace.put(slot_of(&key), &key, text(&[b'v'; 1000]), NEVER, &mut change);
    }
    let (mut copy, mut longest, mut blocks) = (Keyspace::new(), 0, 0);
    let give = |block: &[u8]| {
        longest = longest.max(block.len());
        blocks += 1;
        copy.read_block(block)
    };
    keyspace.snapshot().blocks(give).unwrap();
    assert!(keyspace == copy);
    assert!(
        blocks > 10 && longest < (256 << 10) + 2000,
        "{blocks} blocks of at most {longest} bytes"
    );
}

#[test]
fn a_key_is_absent_from_its_expiry_on_and_goes_by_an_effect() {
    let (mut keyspace, mut effects) = (Keyspace::new(), BytesMut::new());
    let slot = slot_of(b"a");
    let mut change = Change {
        effects: &mut effects,
        index: 1,
    };
    keyspace.put(slot, b"a", text(b"1"), 100, &mut change);
    assert!(keyspace.get(slot, b"a", 99).is_some());
    assert!(keyspace.get(slot, b"a", 100).is_none());
    assert_eq!(keyspace.expire_due(99, 10, &mut change), 0);
    assert_eq!(
        (keyspace.expire_due(100, 10, &mut change), keyspace.len(), keyspace.memory_bytes()),
        (1, 0, 0)
    );
}

#[test]
fn a_scan_returns_every_key_that_was_there_throughout() {
    let (mut keyspace, mut effects) = (Keyspace::new(), BytesMut::new());
    let mut change = Change {
        effects: &mut effects,
        index: 1,
    };
    let keys: Vec<Vec<u8>> = (0..5000)
        .map(|n| if n % 2 == 0 { format!("{{t}}{n}") } else { n.to_string() }.into_bytes())
        .collect();
    for key in &keys {
        keyspace.put(slot_of(key), key, text(b""), NEVER, &mut change);
    }
    let (mut cursor, mut seen, mut round) = (0, std::collections::BTreeSet::new(), 0);
    loop {
        cursor = keyspace.scan(cursor, 10, 0, |item| {
            seen.insert(item.key.to_vec());
        });
        // Others come and go meanwhile.
        let passing = format!("{{t}}passing{round}").into_bytes();
        keyspace.put(slot_of(&passing), &passing, text(b""), NEVER, &mut change);
        round += 1;
        if cursor == 0 {
            break;
        }
    }
    assert!(keys.iter().all(|key| seen.contains(key)));
    assert!(round > 300, "{round} rounds: pieces are of the size that was asked for");
}
