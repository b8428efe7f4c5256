//! One slot: its keys, and when it changed last.

use super::collection::Collection;
use super::effect::{EffectError, put_value, take_value};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::sync::Arc;

/// The expiry of a key that does not expire.
pub const NEVER: u64 = u64::MAX;
/// What the table takes for an item beside its allocations, at its usual fill.
const ITEM_BYTES: u64 = 76;
/// Keys up to so many bytes lie in the table itself: to compare one costs no further miss of the cache.
const INLINE_KEY_BYTES: usize = 24;
/// What a key that expires takes in the order of expiries.
const EXPIRY_BYTES: u64 = 40;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Any bytes.
    String(Box<[u8]>),
    /// Several elements, shared until one who shares it changes it.
    Collection(Arc<Collection>),
}

// The table of a slot holds values: nothing may make strings larger.
const _: () = assert!(size_of::<Value>() == size_of::<Box<[u8]>>());

impl Value {
    /// As snapshots hold it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_value(&mut bytes, self);
        bytes
    }

    /// The inverse of [`Value::to_bytes`].
    ///
    /// # Errors
    /// When the bytes are not a value, or more than one.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, EffectError> {
        let value = take_value(&mut bytes)?;
        if bytes.is_empty() { Ok(value) } else { Err(EffectError::Malformed) }
    }

    /// What it has allocated.
    fn memory_bytes(&self) -> u64 {
        match self {
            Self::String(value) => allocated(value.len()),
            Self::Collection(collection) => collection.memory_bytes(),
        }
    }
}

fn allocated(length: usize) -> u64 {
    (length as u64).next_multiple_of(8)
}

/// A key.
pub type Key = SmallVec<[u8; INLINE_KEY_BYTES]>;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Key,
    /// What it holds.
    pub value: Value,
    /// Milliseconds since the Unix epoch from which it is absent; [`NEVER`].
    pub expiry: u64,
}

impl Item {
    pub(super) fn new(key: &[u8], value: Value, expiry: u64) -> Self {
        Self {
            key: SmallVec::from_slice(key),
            value,
            expiry,
        }
    }

    /// About what it takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let expiry = if self.expiry == NEVER { 0 } else { EXPIRY_BYTES };
        let key = if self.key.spilled() { allocated(self.key.len()) } else { 0 };
        ITEM_BYTES + key + self.value.memory_bytes() + expiry
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    items: HashTable<Item>,
    /// About what the items take in memory.
    bytes: u64,
    /// How many of them expire.
    expiring: usize,
    /// Log index of the last change.
    pub(super) last_write: u64,
}

impl Slot {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// About what the items take in memory: kept as they change, never counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether some item expires.
    pub(super) fn any_expires(&self) -> bool {
        self.expiring > 0
    }

    fn count_in(&mut self, bytes: u64, expiry: u64) {
        self.bytes += bytes;
        self.expiring += usize::from(expiry != NEVER);
    }

    fn count_out(&mut self, bytes: u64, expiry: u64) {
        self.bytes -= bytes;
        self.expiring -= usize::from(expiry != NEVER);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Item> {
        self.items.find(hash, |item| item.key[..] == *key)
    }

    /// Changes an item where it is; None if it is not there.
    pub(super) fn change<T>(&mut self, hash: u64, key: &[u8], change: impl FnOnce(&mut Item) -> T) -> Option<T> {
        let item = self.items.find_mut(hash, |item| item.key[..] == *key)?;
        let before = (item.memory_bytes(), item.expiry);
        let result = change(item);
        let after = (item.memory_bytes(), item.expiry);
        self.count_out(before.0, before.1);
        self.count_in(after.0, after.1);
        Some(result)
    }

    pub(super) fn find_expiring(&self, hash: u64, expiry: u64) -> Option<&Item> {
        self.items.find(hash, |item| item.expiry == expiry)
    }

    /// Gives the item that it replaces.
    pub(super) fn insert(&mut self, hash: u64, item: Item, hasher: impl Fn(&Item) -> u64) -> Option<Item> {
        self.count_in(item.memory_bytes(), item.expiry);
        if let Some(found) = self.items.find_mut(hash, |other| other.key == item.key) {
            let before = std::mem::replace(found, item);
            self.count_out(before.memory_bytes(), before.expiry);
            return Some(before);
        }
        self.items.insert_unique(hash, item, hasher);
        None
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Item> {
        let entry = self.items.find_entry(hash, |item| item.key[..] == *key).ok()?;
        let (item, _) = entry.remove();
        self.count_out(item.memory_bytes(), item.expiry);
        Some(item)
    }

    /// Equal keys, values, expiries and last write; `hasher` is the other's.
    pub(super) fn same(&self, other: &Self, hasher: &impl BuildHasher) -> bool {
        self.last_write == other.last_write
            && self.len() == other.len()
            && self
                .iter()
                .all(|item| other.get(hasher.hash_one(&item.key[..]), &item.key) == Some(item))
    }
}
