//! What the key space says that it takes in memory, against what it asked the allocator for.

#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::BytesMut;
use quorate_api::slot::slot_of;
use quorate_server::keyspace::{Change, End, Keyspace, NEVER, Update, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts what is allocated and not given back.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

#[allow(
    unsafe_code,
    reason = "an allocator can be counted in no other way; it hands every call on as it is"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn name(number: u32) -> Vec<u8> {
    format!("member:{number:06}").into_bytes()
}

/// Applies `update` for every number to `keys` keys in turn, removes a third again where `remove` says how, and compares.
fn compare(
    what: &str,
    keys: u32,
    add: impl for<'a> Fn(&'a [u8], u32) -> Update<'a>,
    remove: impl for<'a> Fn(&'a [u8]) -> Option<Update<'a>>,
) {
    const ELEMENTS: u32 = 100_000;
    let mut effects = BytesMut::with_capacity(1 << 20);
    let names: Vec<Vec<u8>> = (0..keys).map(|number| format!("{{t}}key{number}").into_bytes()).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut keyspace = Keyspace::new();
    let empty = ALLOCATED.load(Ordering::Relaxed);
    let mut elements = 0.0;
    for number in 0..ELEMENTS {
        effects.clear();
        let (key, member) = (
            &names[(number % keys) as usize],
            name(number.wrapping_mul(2_654_435_761) % 1_000_000),
        );
        let mut change = Change {
            effects: &mut effects,
            index: 1,
        };
        elements += keyspace.update(slot_of(key), key, &add(&member, number), &mut change).unwrap() as f64;
        if number % 3 == 0
            && let Some(update) = remove(&member)
        {
            elements -= keyspace.update(slot_of(key), key, &update, &mut change).unwrap() as f64;
        }
    }
    let (said, taken) = (keyspace.memory_bytes() as f64, (ALLOCATED.load(Ordering::Relaxed) - empty) as f64);
    println!(
        "{what}, {keys} keys: {:.1} bytes per element, {:.1} said",
        taken / elements,
        said / elements
    );
    assert!(
        (said / taken - 1.0).abs() < 0.1,
        "{what}, {keys} keys: {said} bytes said, {taken} taken"
    );
    drop(keyspace);
    let left = ALLOCATED.load(Ordering::Relaxed) - before;
    assert!(left.abs() < 1000, "{left} bytes are left of {what}");
}

fn push(member: &[u8], number: u32) -> Update<'_> {
    Update::ListPush {
        end: if number.is_multiple_of(2) { End::Left } else { End::Right },
        values: vec![member],
    }
}

#[test]
fn the_key_space_knows_what_it_takes() {
    for keys in [1, 5000] {
        compare(
            "hash",
            keys,
            |member, _| Update::HashSet(vec![(member, b"a value of 20 bytes")]),
            |member| Some(Update::HashRemove(vec![member])),
        );
        compare(
            "set",
            keys,
            |member, _| Update::SetAdd(vec![member]),
            |member| Some(Update::SetRemove(vec![member])),
        );
        compare(
            "sorted set",
            keys,
            |member, number| Update::SortedSetAdd(vec![(f64::from(number), member)]),
            |member| Some(Update::SortedSetRemove(vec![member])),
        );
        compare("list", keys, push, |_| None);
    }
    let mut effects = BytesMut::new();
    let mut keyspace = Keyspace::new();
    let before = ALLOCATED.load(Ordering::Relaxed);
    for number in 0..20_000u32 {
        effects.clear();
        let key = [b"{t}", &name(number)[..]].concat();
        let mut change = Change {
            effects: &mut effects,
            index: 1,
        };
        keyspace.put(slot_of(&key), &key, Value::String(vec![b'v'; 100].into()), NEVER, &mut change);
    }
    let (said, taken) = (keyspace.memory_bytes() as f64, (ALLOCATED.load(Ordering::Relaxed) - before) as f64);
    assert!((said / taken - 1.0).abs() < 0.35, "strings: {said} bytes said, {taken} taken");
}
