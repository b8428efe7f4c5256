//! A frozen copy of the state, cut into blocks of a bounded size.
//!
//! A block: one version byte, then parts of slots, each `slot | last write | number of keys | key, expiry and value of each`.
//! A slot that is too large for a block is in several parts, and so is a collection: its key comes again with the elements
//! that follow, and a kind of value that says so.
//!
//! If slots ever moved, two other kinds of blocks come before: what the log has said about slots, and the copies that are
//! staged, each block of one with its handoff before it.

use super::collection;
use super::effect::{decode_expiry, encode_expiry, put_bytes, put_number, put_value, take_byte, take_bytes, take_number, take_value};
use super::holdings::Holdings;
use super::slot::{Item, Slot, Value};
use super::{EffectError, Keyspace};
use quorate_api::SlotSet;
use quorate_api::slot::SLOTS;
use std::sync::Arc;

const VERSION: u8 = 1;
/// First byte of a block that holds the [`quorate_protocol::slots::SlotTable`], in JSON.
const TABLE: u8 = 2;
/// First byte of a block that holds a handoff and a block of its copy.
const COPY: u8 = 3;
/// A block ends when it is this long: it holds that and one more key.
const BLOCK_BYTES: usize = 256 << 10;
/// A collection above this is given in pieces.
const PIECE_BYTES: usize = 128 << 10;
/// Added to the kind of a collection whose key was given before.
const MORE: u8 = 0x80;

/// The state as it was. Cheap to make: slots are shared until they change.
#[derive(Clone, Debug)]
pub struct Snapshot {
    slots: Vec<Arc<Slot>>,
    table: Option<Vec<u8>>,
    copies: Vec<(u64, Vec<Arc<Slot>>)>,
}

/// Why a block of a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block of a snapshot: {0}")]
pub struct SnapshotError(#[from] pub(super) EffectError);

/// The block under way: the parts that are whole, and the keys of the one that is not.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    keys: Vec<u8>,
    count: u64,
}

impl Block {
    fn end_part(&mut self, slot: u16, last_write: u64) {
        if self.bytes.is_empty() {
            self.bytes.push(VERSION);
        }
        put_number(&mut self.bytes, u64::from(slot));
        put_number(&mut self.bytes, last_write);
        put_number(&mut self.bytes, self.count);
        self.bytes.append(&mut self.keys);
        self.count = 0;
    }

    fn is_full(&self) -> bool {
        self.bytes.len() + self.keys.len() >= BLOCK_BYTES
    }
}

impl Snapshot {
    /// Gives the state block by block. A slot is let go when it was given, so that the state need not copy it any more.
    ///
    /// # Errors
    /// What `give` fails with.
    pub fn blocks<E>(self, mut give: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let Self { slots, table, copies } = self;
        if let Some(table) = table {
            give(&[&[TABLE], &table[..]].concat())?;
        }
        for (handoff, slots) in copies {
            let mut head = vec![COPY];
            put_number(&mut head, handoff);
            slot_blocks(slots, &mut |block: &[u8]| give(&[&head[..], block].concat()))?;
        }
        slot_blocks(slots, &mut give)
    }
}

/// The blocks of one state. A slot is let go when it was given.
fn slot_blocks<E>(mut slots: Vec<Arc<Slot>>, give: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut block = Block::default();
    for (number, slot) in (0u16..).zip(&mut slots) {
        let slot = std::mem::take(slot);
        for item in slot.iter() {
            put_item(item, &mut block, |block| {
                if block.is_full() {
                    block.end_part(number, slot.last_write);
                    give(&block.bytes)?;
                    block.bytes.clear();
                }
                Ok(())
            })?;
        }
        if block.count > 0 || slot.last_write > 0 {
            block.end_part(number, slot.last_write);
        }
    }
    if block.bytes.is_empty() { Ok(()) } else { give(&block.bytes) }
}

/// Writes an item; calls `step` after each of its pieces.
fn put_item<E>(item: &Item, block: &mut Block, mut step: impl FnMut(&mut Block) -> Result<(), E>) -> Result<(), E> {
    let head = |block: &mut Block| {
        put_bytes(&mut block.keys, &item.key);
        put_number(&mut block.keys, encode_expiry(item.expiry));
        block.count += 1;
    };
    let Value::Collection(collection) = &item.value else {
        head(block);
        put_value(&mut block.keys, &item.value);
        return step(block);
    };
    let mut is_more = 0;
    collection::put_pieces(collection, PIECE_BYTES, |piece| {
        head(block);
        block.keys.push(piece[0] | is_more);
        block.keys.extend_from_slice(&piece[1..]);
        is_more = MORE;
        step(block)
    })
}

/// What stands before the keys of a slot, or of a part of one.
struct Part {
    slot: u16,
    last_write: u64,
    count: u64,
}

fn take_part(input: &mut &[u8]) -> Result<Part, EffectError> {
    let slot = u16::try_from(take_number(input)?).ok().filter(|slot| *slot < SLOTS);
    Ok(Part {
        slot: slot.ok_or(EffectError::Malformed)?,
        last_write: take_number(input)?,
        count: take_number(input)?,
    })
}

impl Keyspace {
    /// A frozen copy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let holdings = self.holdings.as_deref();
        Snapshot {
            slots: self.slots.clone(),
            table: holdings.map(Holdings::encode),
            copies: holdings.map(Holdings::copies).unwrap_or_default(),
        }
    }

    /// A frozen copy of these slots alone, and nothing about who owns them.
    #[must_use]
    pub fn snapshot_of(&self, wanted: &SlotSet) -> Snapshot {
        let empty = Arc::new(Slot::default());
        let mut slots = vec![empty; usize::from(SLOTS)];
        for slot in wanted.iter().map(usize::from) {
            slots[slot] = Arc::clone(&self.slots[slot]);
        }
        Snapshot {
            slots,
            table: None,
            copies: Vec::new(),
        }
    }

    /// Adds a block that [`Snapshot::blocks`] gave.
    ///
    /// # Errors
    /// When the bytes are not of this version.
    pub fn read_block(&mut self, mut input: &[u8]) -> Result<(), SnapshotError> {
        let input = &mut input;
        match take_byte(input)? {
            VERSION => {}
            TABLE => return Ok(self.read_table(input)?),
            COPY => {
                let handoff = take_number(input)?;
                return self.copy_mut(handoff)?.read_block(input);
            }
            version => return Err(EffectError::Version(version).into()),
        }
        while !input.is_empty() {
            let Part { slot, last_write, count } = take_part(input)?;
            if last_write != 0 {
                self.slot_mut(slot, last_write);
            }
            for _ in 0..count {
                let key = take_bytes(input)?;
                let expiry = decode_expiry(take_number(input)?);
                match input.first() {
                    Some(kind) if kind & MORE != 0 => {
                        let kind = take_byte(input)? ^ MORE;
                        self.extend(slot, key, kind, input)?;
                    }
                    _ => {
                        let value = take_value(input)?;
                        self.insert(slot, key, value, expiry, last_write);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether [`Self::read_block`] takes a block of keys. Changes nothing.
    pub(super) fn check_block(&self, mut input: &[u8]) -> Result<(), EffectError> {
        let input = &mut input;
        match take_byte(input)? {
            VERSION => {}
            version => return Err(EffectError::Version(version)),
        }
        let mut before = None;
        while !input.is_empty() {
            let Part { slot, count, .. } = take_part(input)?;
            for _ in 0..count {
                let key = take_bytes(input)?;
                take_number(input)?;
                let kind = *input.first().ok_or(EffectError::Malformed)?;
                if kind & MORE == 0 {
                    take_value(input)?;
                    before = Some((key, kind));
                    continue;
                }
                let kind = take_byte(input)? ^ MORE;
                collection::take_collection(kind, input)?;
                if before != Some((key, kind)) && self.kind_of(slot, key) != Some(kind) {
                    return Err(EffectError::Mismatch);
                }
            }
        }
        Ok(())
    }

    /// The kind of the collection that a key holds.
    fn kind_of(&self, slot: u16, key: &[u8]) -> Option<u8> {
        match &self.slots[usize::from(slot)].get(self.hash(key), key)?.value {
            Value::Collection(collection) => Some(collection::kind(collection)),
            Value::String(_) => None,
        }
    }

    /// Adds elements to a collection that an earlier block began.
    fn extend(&mut self, slot: u16, key: &[u8], kind: u8, input: &mut &[u8]) -> Result<(), EffectError> {
        let hash = self.hash(key);
        let index = self.last_write(slot);
        let result = self.change_item(slot, hash, key, index, |item| match &mut item.value {
            Value::Collection(collection) => collection::take_into(kind, Arc::make_mut(collection), input),
            Value::String(_) => Err(EffectError::Mismatch),
        });
        result.unwrap_or(Err(EffectError::Mismatch))
    }
}
