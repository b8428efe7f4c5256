//! Every collection against a simple model, with small and large elements, shared and unshared.

use super::*;
use crate::keyspace::effect::take_byte;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

/// A name out of few, seldom a long one.
fn name(rng: &mut SmallRng, names: u32) -> Vec<u8> {
    let number = rng.random_range(0..names);
    let text = number.to_string().into_bytes();
    match number % 50 {
        0 => text.repeat(500),
        1 => Vec::new(),
        2 => text.repeat(40),
        _ => text,
    }
}

/// It comes back from its bytes, whole and in pieces.
fn check_bytes(collection: &Collection) {
    if collection.is_empty() {
        return;
    }
    let mut bytes = Vec::new();
    put_collection(&mut bytes, collection);
    let mut input = &bytes[..];
    let kind = take_byte(&mut input).unwrap();
    assert!(take_collection(kind, &mut input).unwrap() == *collection);
    assert!(input.is_empty());
    let (mut whole, mut pieces) = (None::<Collection>, 0);
    put_pieces(collection, 2000, |mut piece| {
        pieces += 1;
        let kind = take_byte(&mut piece)?;
        match &mut whole {
            None => whole = Some(take_collection(kind, &mut piece)?),
            Some(whole) => take_into(kind, whole, &mut piece)?,
        }
        assert!(piece.is_empty());
        Ok::<(), crate::keyspace::EffectError>(())
    })
    .unwrap();
    assert!(whole.as_ref() == Some(collection) && pieces >= bytes.len() / 30_000);
}

/// Runs steps on a collection and now and then keeps a copy, which must stay as it was.
fn run<C: Clone, M: Clone>(seed: u64, steps: usize, start: (C, M), step: impl Fn(&mut SmallRng, &mut C, &mut M), check: impl Fn(&C, &M)) {
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut collection, mut model) = start;
    let mut kept = None;
    for number in 0..steps {
        step(&mut rng, &mut collection, &mut model);
        if number % 500 == 499 {
            check(&collection, &model);
            if let Some((collection, model)) = kept.replace((collection.clone(), model.clone())) {
                check(&collection, &model);
            }
        }
    }
}

#[test]
fn a_hash_is_a_map() {
    let check = |hash: &Hash, model: &BTreeMap<Vec<u8>, Vec<u8>>| {
        hash.tree.check();
        let content: BTreeMap<_, _> = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
        assert_eq!(content, *model);
        assert_eq!(hash.len(), model.len() as u64);
        let positions: BTreeSet<_> = (0..hash.len()).map(|at| hash.at(at).unwrap().0.to_vec()).collect();
        assert_eq!(positions.len(), model.len());
        check_bytes(&Collection::Hash(hash.clone()));
    };
    for (seed, names) in [(1, 20), (2, 300), (3, 5000)] {
        let step = |rng: &mut SmallRng, hash: &mut Hash, model: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
            let field = name(rng, names);
            assert_eq!(hash.get(&field), model.get(&field).map(Vec::as_slice));
            // Grows for a while, then shrinks.
            if rng.random_range(0..3) < if model.len() as u32 > names / 2 { 1 } else { 2 } {
                let value = name(rng, names);
                assert_eq!(hash.insert(&field, &value), model.insert(field, value).is_none());
            } else {
                assert_eq!(hash.remove(&field), model.remove(&field).is_some());
            }
        };
        run(seed, 20_000, (Hash::default(), BTreeMap::new()), step, check);
    }
}

#[test]
fn a_set_is_a_set() {
    let check = |set: &Set, model: &BTreeSet<Vec<u8>>| {
        set.tree.check();
        assert_eq!(set.iter().map(<[u8]>::to_vec).collect::<BTreeSet<_>>(), *model);
        check_bytes(&Collection::Set(set.clone()));
    };
    for (seed, names) in [(1, 20), (2, 300), (3, 20_000)] {
        let step = |rng: &mut SmallRng, set: &mut Set, model: &mut BTreeSet<Vec<u8>>| {
            let member = name(rng, names);
            if rng.random_range(0..10) < if model.len() as u32 > names / 2 { 2 } else { 7 } {
                assert_eq!(set.insert(&member), model.insert(member));
            } else {
                assert_eq!(set.remove(&member), model.remove(&member));
            }
        };
        run(seed, 30_000, (Set::default(), BTreeSet::new()), step, check);
    }
}

#[test]
fn a_list_is_a_vector() {
    let check = |list: &List, model: &Vec<Vec<u8>>| {
        list.tree.check();
        assert!(list.iter(0, u64::MAX).eq(model.iter().map(Vec::as_slice)));
        assert!(list.iter_back(u64::MAX, u64::MAX).eq(model.iter().rev().map(Vec::as_slice)));
        let middle = list.len() / 2;
        assert!(
            list.iter(middle, 5)
                .eq(model.iter().skip(middle as usize).take(5).map(Vec::as_slice))
        );
        check_bytes(&Collection::List(list.clone()));
    };
    for (seed, length) in [(1, 10), (2, 300), (3, 3000)] {
        let step = |rng: &mut SmallRng, list: &mut List, model: &mut Vec<Vec<u8>>| {
            let (value, at) = (name(rng, 1000), rng.random_range(0..=model.len()));
            match rng.random_range(0..10) {
                0..2 => {
                    list.push(End::Left, &value);
                    model.insert(0, value);
                }
                2..5 => {
                    list.push(End::Right, &value);
                    model.push(value);
                }
                5 => {
                    list.insert(at as u64, &value);
                    model.insert(at, value);
                }
                6 if at < model.len() => {
                    list.set(at as u64, &value);
                    model[at] = value;
                }
                _ if model.len() > length || rng.random_range(0..4) == 0 => {
                    let count = rng.random_range(0..=(model.len() - at).min(if length < 1000 { 5 } else { 400 }));
                    list.remove(at as u64, count as u64);
                    model.drain(at..at + count);
                }
                _ => {}
            }
            if !model.is_empty() {
                let at = rng.random_range(0..model.len());
                assert_eq!(list.get(at as u64), Some(&model[at][..]));
            }
        };
        run(seed, 20_000, (List::default(), Vec::new()), step, check);
    }
}

#[test]
fn a_sorted_set_is_a_map_and_its_order() {
    type Model = BTreeMap<Vec<u8>, i32>;
    let ordered = |model: &Model| {
        let mut pairs: Vec<(Vec<u8>, f64)> = model
            .iter()
            .map(|(member, score)| (member.clone(), f64::from(*score) / 4.0))
            .collect();
        pairs.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        pairs
    };
    let check = |set: &SortedSet, model: &Model| {
        set.order.check();
        if let Some(scores) = &set.scores {
            scores.check();
            assert_eq!(scores.len(), set.order.len());
        }
        let pairs = ordered(model);
        assert!(set.iter(0, u64::MAX).eq(pairs.iter().map(|(member, score)| (&member[..], *score))));
        assert!(
            set.iter_back(u64::MAX, 7)
                .eq(pairs.iter().rev().take(7).map(|(member, score)| (&member[..], *score)))
        );
        for (rank, (member, score)) in pairs.iter().enumerate().step_by(97) {
            assert_eq!(set.rank(member), Some((rank as u64, *score)));
            assert_eq!(set.at(rank as u64), Some((&member[..], *score)));
            let first = pairs.iter().position(|pair| pair.1 >= *score).unwrap();
            assert_eq!(set.count_before(|other, _| other >= *score), first as u64);
        }
        check_bytes(&Collection::SortedSet(set.clone()));
    };
    for (seed, names) in [(1, 20), (2, 300), (3, 5000)] {
        let step = |rng: &mut SmallRng, set: &mut SortedSet, model: &mut Model| {
            let (member, score) = (name(rng, names), rng.random_range(-50..50) * if rng.random() { 1 } else { 1000 });
            match rng.random_range(0..10) {
                0..6 => {
                    assert_eq!(set.insert(f64::from(score) / 4.0, &member), model.insert(member, score).is_none());
                }
                6 if rng.random_range(0..20) == 0 => {
                    let rank = rng.random_range(0..=model.len());
                    let count = rng.random_range(0..=model.len() - rank);
                    set.remove_ranks(rank as u64, count as u64);
                    for (member, _) in ordered(model).drain(rank..rank + count) {
                        model.remove(&member);
                    }
                }
                _ => assert_eq!(set.remove(&member), model.remove(&member).is_some()),
            }
        };
        run(seed, 20_000, (SortedSet::default(), BTreeMap::new()), step, check);
    }
}

#[test]
fn scores_keep_their_order_as_bytes() {
    let scores = [
        f64::NEG_INFINITY,
        -1e300,
        -2.5,
        -1e-300,
        0.0,
        1e-300,
        1.0,
        1.5,
        1e300,
        f64::INFINITY,
    ];
    for pair in scores.windows(2) {
        assert!(packed::score_bytes(pair[0]) < packed::score_bytes(pair[1]), "{pair:?}");
    }
    for score in scores {
        assert_eq!(packed::score_of(&packed::score_bytes(score)).to_bits(), score.to_bits());
    }
    assert_eq!(packed::score_bytes(-0.0), packed::score_bytes(0.0));
}

#[test]
fn a_scan_gives_what_is_there_throughout_while_others_come_and_go() {
    let mut rng = SmallRng::seed_from_u64(5);
    let (mut set, mut sorted) = (Set::default(), SortedSet::default());
    let stay: BTreeSet<Vec<u8>> = (0..3000u32).map(|number| format!("stays{number}").into_bytes()).collect();
    for member in &stay {
        set.insert(member);
        sorted.insert(1.0, member);
    }
    let (mut cursors, mut seen, mut rounds) = ((0, 0), (BTreeSet::new(), BTreeSet::new()), 0);
    let mut done = (false, false);
    while done != (true, true) {
        if !done.0 {
            cursors.0 = set.scan(cursors.0, 10, |member| {
                seen.0.insert(member.to_vec());
            });
            done.0 = cursors.0 == 0;
        }
        if !done.1 {
            cursors.1 = sorted.scan(cursors.1, 10, |member, _| {
                seen.1.insert(member.to_vec());
            });
            done.1 = cursors.1 == 0;
        }
        for _ in 0..50 {
            let passing = name(&mut rng, 3000);
            if rng.random() {
                set.insert(&passing);
                sorted.insert(2.0, &passing);
            } else {
                set.remove(&passing);
                sorted.remove(&passing);
            }
        }
        rounds += 1;
    }
    assert!(stay.is_subset(&seen.0) && stay.is_subset(&seen.1));
    assert!(rounds > 30, "{rounds} rounds: pieces are of about the size that was asked for");
}

#[test]
fn what_grows_at_its_ends_leaves_full_leaves_behind() {
    let (mut tail, mut head, mut sorted) = (List::default(), List::default(), SortedSet::default());
    for number in 0..20_000u32 {
        tail.push(End::Right, &[b'v'; 20]);
        head.push(End::Left, &[b'v'; 20]);
        sorted.insert(f64::from(number), format!("{number:020}").as_bytes());
    }
    for list in [&tail, &head] {
        list.tree.check();
        let per_element = list.tree.heap_bytes() as f64 / 20_000.0;
        assert!(per_element < 24.5, "{per_element} bytes for elements of 21");
    }
    let per_member = sorted.order.heap_bytes() as f64 / 20_000.0;
    assert!(per_member < 35.0, "{per_member} bytes for elements of 29");
}
