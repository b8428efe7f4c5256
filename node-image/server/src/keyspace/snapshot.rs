//! A frozen copy of the state, slot by slot.

use super::effect::{decode_expiry, encode_expiry, put_bytes, put_number, put_value, take_bytes, take_number, take_value};
use super::slot::Slot;
use super::{EffectError, Keyspace};
use std::sync::Arc;

/// The state as it was. Cheap to make: slots are shared until they change.
#[derive(Clone, Debug)]
pub struct Snapshot {
    slots: Vec<Arc<Slot>>,
}

/// Why a slot of a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} of a snapshot: {source}")]
pub struct SnapshotError {
    slot: u16,
    source: EffectError,
}

impl Snapshot {
    /// Appends a slot: its last write, its number of keys, and for each its key, expiry and value.
    pub fn write_slot(&self, slot: u16, out: &mut Vec<u8>) {
        let slot = &self.slots[usize::from(slot)];
        put_number(out, slot.last_write);
        put_number(out, slot.len() as u64);
        for item in slot.iter() {
            put_bytes(out, &item.key);
            put_number(out, encode_expiry(item.expiry));
            put_value(out, &item.value);
        }
    }
}

impl Keyspace {
    /// A frozen copy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { slots: self.slots.clone() }
    }

    /// Adds what [`Snapshot::write_slot`] wrote to an empty slot.
    ///
    /// # Errors
    /// When the bytes are not of this version.
    pub fn read_slot(&mut self, slot: u16, input: &[u8]) -> Result<(), SnapshotError> {
        self.try_read_slot(slot, input).map_err(|source| SnapshotError { slot, source })
    }

    fn try_read_slot(&mut self, slot: u16, mut input: &[u8]) -> Result<(), EffectError> {
        let input = &mut input;
        let last_write = take_number(input)?;
        let length = take_number(input)?;
        if last_write != 0 {
            self.slot_mut(slot, last_write);
        }
        for _ in 0..length {
            let key = take_bytes(input)?;
            let expiry = decode_expiry(take_number(input)?);
            let value = take_value(input)?;
            self.insert(slot, key, value, expiry, last_write);
        }
        if input.is_empty() { Ok(()) } else { Err(EffectError::Malformed) }
    }
}
