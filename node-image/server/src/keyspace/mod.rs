//! The state of a group: keys in 16,384 slots, changed by effects.
//!
//! A change on the primary and the same effect applied on a follower leave the same state: [`Keyspace::eq`] says so.
//! Nothing here reads a clock: a key whose time has come is absent to readers that say what time it is, and goes when an
//! effect removes it. A slot is the unit of snapshots: [`Keyspace::snapshot`] shares all of them and copies what changes.
//!
//! It knows no command, no client and no file.

mod collection;
mod effect;
mod holdings;
mod inspect;
mod partial;
mod scan;
mod slot;
mod snapshot;
mod watch;

pub use collection::{Collection, End, Hash, List, Set, SortedSet, Update};
pub use effect::{Effect, EffectError};
pub use holdings::{Access, Garbage, Piece};
pub use inspect::{count, describe};
pub use slot::{Item, Key, NEVER, Value};
pub use snapshot::{Snapshot, SnapshotError};
pub use watch::Watch;

use bytes::{Bytes, BytesMut};
use holdings::Holdings;
use quorate_api::slot::{SLOTS, slot_of};
use slot::Slot;
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use watch::Watches;

/// See [`Keyspace::fetch`].
const FETCHED_AT_ONCE: usize = 16;

type Hasher = hashbrown::DefaultHashBuilder;

/// Where a change is written down: the effects of one log entry.
#[derive(Debug)]
pub struct Change<'a> {
    /// The effects so far.
    pub effects: &'a mut BytesMut,
    /// The index that the entry will have.
    pub index: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Keyspace {
    slots: Vec<Arc<Slot>>,
    hasher: Hasher,
    /// Keys that expire: when, slot, hash.
    due: BTreeSet<(u64, u16, u64)>,
    keys: u64,
    bytes: u64,
    watches: Watches,
    /// None while no slot ever moved.
    holdings: Option<Box<Holdings>>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Keyspace {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
            && self.holdings == other.holdings
            && self.slots.iter().zip(&other.slots).all(|(a, b)| a.same(b, &other.hasher))
    }
}

impl Keyspace {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let empty = Arc::new(Slot::default());
        Self {
            slots: vec![empty; usize::from(SLOTS)],
            hasher: Hasher::default(),
            due: BTreeSet::new(),
            keys: 0,
            bytes: 0,
            watches: Watches::default(),
            holdings: None,
        }
    }

    /// Number of keys, those included whose time has come but that are not removed yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.keys
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Number of keys that expire.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.due.len()
    }

    /// About what the keys take in memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of keys in a slot.
    #[must_use]
    pub fn slot_len(&self, slot: u16) -> usize {
        self.slots[usize::from(slot)].len()
    }

    /// Slot, number of keys and about what they take in memory, of every slot that is not empty.
    #[must_use]
    pub fn slot_sizes(&self) -> Vec<(u16, u64, u64)> {
        let filled = (0u16..).zip(&self.slots).filter(|(_, slot)| slot.len() > 0);
        filled.map(|(number, slot)| (number, slot.len() as u64, slot.bytes())).collect()
    }

    /// About what these slots take in memory, in bytes.
    #[must_use]
    pub fn bytes_of(&self, slots: &quorate_api::SlotSet) -> u64 {
        slots.iter().map(|slot| self.slots[usize::from(slot)].bytes()).sum()
    }

    /// The log index of the last change to a slot: what a read of it has to wait for.
    #[must_use]
    pub fn last_write(&self, slot: u16) -> u64 {
        self.slots[usize::from(slot)].last_write
    }

    /// Tells whether a key changes from now on.
    pub fn watch(&mut self, key: &[u8]) -> Watch {
        self.watches.watch(key)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The key's item, unless its time has come by `now` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn get(&self, slot: u16, key: &[u8], now: u64) -> Option<&Item> {
        let item = self.slots[usize::from(slot)].get(self.hash(key), key)?;
        (item.expiry > now).then_some(item)
    }

    /// Brings what these keys hold into the cache of the processor, the misses of one overlapping with those of the others,
    /// where commands executed one by one would wait for each. Changes nothing; at most sixteen keys.
    pub fn fetch<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) {
        let mut wanted: [(&[u8], u16, u64); FETCHED_AT_ONCE] = [(&[], 0, 0); FETCHED_AT_ONCE];
        let (mut count, mut sum) = (0, 0);
        for (place, key) in wanted.iter_mut().zip(keys) {
            let slot = slot_of(key);
            *place = (key, slot, self.hash(key));
            sum += self.slots[usize::from(slot)].len();
            count += 1;
        }
        for (key, slot, hash) in &wanted[..count] {
            if let Some(item) = self.slots[usize::from(*slot)].get(*hash, key) {
                sum += match &item.value {
                    Value::String(value) => {
                        usize::from(value.first().copied().unwrap_or(0)) + usize::from(value.last().copied().unwrap_or(0))
                    }
                    Value::Collection(collection) => collection.len() as usize & 1,
                };
            }
        }
        std::hint::black_box(sum);
    }

    /// Items of a slot that are alive at `now`.
    pub fn items(&self, slot: u16, now: u64) -> impl Iterator<Item = &Item> {
        self.slots[usize::from(slot)].iter().filter(move |item| item.expiry > now)
    }

    /// Sets a key, its value and its expiry ([`NEVER`] for none).
    pub fn put(&mut self, slot: u16, key: &[u8], value: Value, expiry: u64, change: &mut Change<'_>) {
        Effect::Put {
            key,
            value: &value,
            expiry,
        }
        .encode(change.effects);
        self.insert(slot, key, value, expiry, change.index);
    }

    /// Removes a key; true if it was there.
    pub fn delete(&mut self, slot: u16, key: &[u8], change: &mut Change<'_>) -> bool {
        let found = self.remove(slot, key, change.index);
        if found {
            Effect::Delete { key }.encode(change.effects);
        }
        found
    }

    /// Removes a key whose time has come by `now`.
    pub fn remove_expired(&mut self, slot: u16, key: &[u8], now: u64, change: &mut Change<'_>) {
        let item = self.slots[usize::from(slot)].get(self.hash(key), key);
        if item.is_some_and(|item| item.expiry <= now) {
            self.delete(slot, key, change);
        }
    }

    /// Sets when a key expires; true if it is there.
    pub fn set_expiry(&mut self, slot: u16, key: &[u8], expiry: u64, change: &mut Change<'_>) -> bool {
        let found = self.change_expiry(slot, key, expiry, change.index);
        if found {
            Effect::SetExpiry { key, expiry }.encode(change.effects);
        }
        found
    }

    /// Removes every key.
    pub fn flush_all(&mut self, change: &mut Change<'_>) {
        Effect::FlushAll.encode(change.effects);
        self.clear(change.index);
    }

    /// Removes at most `budget` keys whose time has come; gives how many.
    pub fn expire_due(&mut self, now: u64, budget: usize, change: &mut Change<'_>) -> usize {
        let mut removed = 0;
        while removed < budget {
            let Some(&(expiry, slot, hash)) = self.due.first() else { break };
            if expiry > now {
                break;
            }
            let key = self.slots[usize::from(slot)]
                .find_expiring(hash, expiry)
                .map(|item| item.key.clone())
                .expect("every due key is in its slot");
            self.delete(slot, &key, change);
            removed += 1;
        }
        removed
    }

    /// Applies the effects of the entry at `index`.
    ///
    /// # Errors
    /// When they were not written by a version that this one knows.
    pub fn apply(&mut self, effects: &[u8], index: u64) -> Result<(), EffectError> {
        for effect in Effect::decode_all(effects)? {
            match effect? {
                effect::Decoded::Put { slot, key, value, expiry } => self.insert(slot, key, value, expiry, index),
                effect::Decoded::Delete { slot, key } => {
                    self.remove(slot, key, index);
                }
                effect::Decoded::SetExpiry { slot, key, expiry } => {
                    self.change_expiry(slot, key, expiry, index);
                }
                effect::Decoded::FlushAll => self.clear(index),
                effect::Decoded::Update { slot, key, update } => {
                    self.apply_update(slot, key, &update, index)?;
                }
                effect::Decoded::Rename { key, to } => {
                    self.apply_rename(key, to, index);
                }
                effect::Decoded::Copy { key, to } => {
                    self.apply_copy(key, to, index);
                }
                effect::Decoded::Slots { record, payload } => self.apply_slots(record, payload, index)?,
            }
        }
        Ok(())
    }

    /// The slot, to change it at `index`.
    fn slot_mut(&mut self, slot: u16, index: u64) -> &mut Slot {
        let slot = Arc::make_mut(&mut self.slots[usize::from(slot)]);
        slot.last_write = index;
        slot
    }

    /// Changes an item where it is, at `index`; None if it is not there.
    fn change_item<T>(&mut self, slot: u16, hash: u64, key: &[u8], index: u64, change: impl FnOnce(&mut Item) -> T) -> Option<T> {
        let slot = self.slot_mut(slot, index);
        let before = slot.bytes();
        let result = slot.change(hash, key, change);
        let after = slot.bytes();
        self.bytes = self.bytes - before + after;
        result
    }

    fn insert(&mut self, slot: u16, key: &[u8], value: Value, expiry: u64, index: u64) {
        self.watches.touch(key);
        let hash = self.hash(key);
        let hasher = self.hasher.clone();
        let item = Item::new(key, value, expiry);
        self.bytes += item.memory_bytes();
        let before = self.slot_mut(slot, index).insert(hash, item, |item| hasher.hash_one(&item.key[..]));
        match before {
            Some(before) => self.forget(slot, hash, &before),
            None => self.keys += 1,
        }
        if expiry != NEVER {
            self.due.insert((expiry, slot, hash));
        }
    }

    fn remove(&mut self, slot: u16, key: &[u8], index: u64) -> bool {
        let hash = self.hash(key);
        if self.slots[usize::from(slot)].get(hash, key).is_none() {
            return false;
        }
        self.watches.touch(key);
        let before = self.slot_mut(slot, index).remove(hash, key).expect("looked up just before");
        self.forget(slot, hash, &before);
        self.keys -= 1;
        true
    }

    fn change_expiry(&mut self, slot: u16, key: &[u8], expiry: u64, index: u64) -> bool {
        let hash = self.hash(key);
        let Some(before) = self.slots[usize::from(slot)].get(hash, key).map(|item| item.expiry) else {
            return false;
        };
        self.watches.touch(key);
        self.change_item(slot, hash, key, index, |item| item.expiry = expiry);
        if before != NEVER {
            self.due.remove(&(before, slot, hash));
        }
        if expiry != NEVER {
            self.due.insert((expiry, slot, hash));
        }
        true
    }

    /// Takes a removed item out of the accounts.
    fn forget(&mut self, slot: u16, hash: u64, item: &Item) {
        self.bytes -= item.memory_bytes();
        if item.expiry != NEVER {
            self.due.remove(&(item.expiry, slot, hash));
        }
    }

    fn clear(&mut self, index: u64) {
        let Self {
            slots, hasher, watches, ..
        } = self;
        watches.touch_if(|key| slots[usize::from(slot_of(key))].get(hasher.hash_one(key), key).is_some());
        let mut empty = Slot::default();
        empty.last_write = index;
        let empty = Arc::new(empty);
        self.slots.fill(empty);
        self.due.clear();
        (self.keys, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
