//! A frozen copy of the state, cut into blocks of a bounded size.
//!
//! A block: one version byte, then parts of slots, each `slot | last write | number of keys | key, expiry and value of each`.
//! A slot that is too large for a block is in several parts.

use super::effect::{decode_expiry, encode_expiry, put_bytes, put_number, put_value, take_byte, take_bytes, take_number, take_value};
use super::slot::Slot;
use super::{EffectError, Keyspace};
use quorate_api::slot::SLOTS;
use std::sync::Arc;

const VERSION: u8 = 1;
/// A block ends when it is this long: it holds that and one more key.
const BLOCK_BYTES: usize = 256 << 10;

/// The state as it was. Cheap to make: slots are shared until they change.
#[derive(Clone, Debug)]
pub struct Snapshot {
    slots: Vec<Arc<Slot>>,
}

/// Why a block of a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block of a snapshot: {0}")]
pub struct SnapshotError(#[from] EffectError);

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
    pub fn blocks<E>(mut self, mut give: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut block = Block::default();
        for (number, slot) in (0u16..).zip(&mut self.slots) {
            let slot = std::mem::take(slot);
            for item in slot.iter() {
                put_bytes(&mut block.keys, &item.key);
                put_number(&mut block.keys, encode_expiry(item.expiry));
                put_value(&mut block.keys, &item.value);
                block.count += 1;
                if block.is_full() {
                    block.end_part(number, slot.last_write);
                    give(&block.bytes)?;
                    block.bytes.clear();
                }
            }
            if block.count > 0 || slot.last_write > 0 {
                block.end_part(number, slot.last_write);
            }
        }
        if block.bytes.is_empty() { Ok(()) } else { give(&block.bytes) }
    }
}

impl Keyspace {
    /// A frozen copy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { slots: self.slots.clone() }
    }

    /// Adds a block that [`Snapshot::blocks`] gave.
    ///
    /// # Errors
    /// When the bytes are not of this version.
    pub fn read_block(&mut self, mut input: &[u8]) -> Result<(), SnapshotError> {
        let input = &mut input;
        let version = take_byte(input)?;
        if version != VERSION {
            return Err(EffectError::Version(version).into());
        }
        while !input.is_empty() {
            let slot = u16::try_from(take_number(input)?).ok().filter(|slot| *slot < SLOTS);
            let slot = slot.ok_or(EffectError::Malformed)?;
            let last_write = take_number(input)?;
            let count = take_number(input)?;
            if last_write != 0 {
                self.slot_mut(slot, last_write);
            }
            for _ in 0..count {
                let key = take_bytes(input)?;
                let expiry = decode_expiry(take_number(input)?);
                let value = take_value(input)?;
                self.insert(slot, key, value, expiry, last_write);
            }
        }
        Ok(())
    }
}
