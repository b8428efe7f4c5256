//! Effects: what the log carries. Commands are decided on the primary; an effect says what became of them, so that
//! every replica that applies the same log has the same state.
//!
//! Encoding: one version byte, then effects: kind u8, then its fields; lengths and numbers as LEB128.

use super::collection::{self, Update};
use super::slot::{NEVER, Value};
use bytes::{BufMut, BytesMut};
use quorate_api::slot::slot_of;
use std::sync::Arc;

/// Version of the encoding.
const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const SET_EXPIRY: u8 = 3;
const FLUSH_ALL: u8 = 4;
// 5 to 17 are updates.
const RENAME: u8 = 18;
const COPY: u8 = 19;
/// Kind of a value; the others are collections.
pub(super) const STRING: u8 = 0;
const SLOTS: u8 = 64;

/// A change to the state.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// The key has this value and expiry from now on.
    Put {
        /// The key.
        key: &'a [u8],
        /// What it holds.
        value: &'a Value,
        /// When it expires, or [`NEVER`].
        expiry: u64,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// The key expires then.
    SetExpiry {
        /// The key.
        key: &'a [u8],
        /// When, or [`NEVER`].
        expiry: u64,
    },
    /// Every key is gone.
    FlushAll,
    /// A part of what the key holds changes.
    Update {
        /// The key.
        key: &'a [u8],
        /// The change.
        update: &'a Update<'a>,
    },
    /// The key has another name, whatever had that name before.
    Rename {
        /// The key.
        key: &'a [u8],
        /// Its new name.
        to: &'a [u8],
    },
    /// Another key holds the same and expires at the same time.
    Copy {
        /// The key.
        key: &'a [u8],
        /// The other.
        to: &'a [u8],
    },
    /// Something about slots themselves: see `keyspace::holdings`.
    Slots {
        /// A [`quorate_protocol::slots::SlotRecord`] in JSON.
        record: &'a [u8],
        /// What stands beside it.
        payload: &'a [u8],
    },
}

/// An effect as it is read back.
#[derive(Debug)]
pub(super) enum Decoded<'a> {
    Put {
        slot: u16,
        key: &'a [u8],
        value: Value,
        expiry: u64,
    },
    Delete {
        slot: u16,
        key: &'a [u8],
    },
    SetExpiry {
        slot: u16,
        key: &'a [u8],
        expiry: u64,
    },
    FlushAll,
    Update {
        slot: u16,
        key: &'a [u8],
        update: Update<'a>,
    },
    Rename {
        key: &'a [u8],
        to: &'a [u8],
    },
    Copy {
        key: &'a [u8],
        to: &'a [u8],
    },
    Slots {
        record: &'a [u8],
        payload: &'a [u8],
    },
}

impl Decoded<'_> {
    /// The slot that it changes; None if it is about more than one.
    fn slot(&self) -> Option<u16> {
        match self {
            Self::Put { slot, .. } | Self::Delete { slot, .. } | Self::SetExpiry { slot, .. } | Self::Update { slot, .. } => Some(*slot),
            // Both keys are of one slot.
            Self::Rename { key, .. } | Self::Copy { key, .. } => Some(slot_of(key)),
            Self::FlushAll | Self::Slots { .. } => None,
        }
    }
}

/// Why effects cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// Written by another version.
    #[error("effects of version {0}: this node knows version {VERSION}. Run a newer version of the node")]
    Version(u8),
    /// Of a kind that this version does not know.
    #[error("effect of kind {0}: this node does not know it. Run a newer version of the node")]
    Kind(u8),
    /// Cut off.
    #[error("malformed effect")]
    Malformed,
    /// For a key that is not there or holds something else.
    #[error("an effect does not fit what its key holds")]
    Mismatch,
    /// About slots, and not what this log can say.
    #[error(transparent)]
    Slots(#[from] quorate_protocol::slots::Misfit),
}

impl<'a> Effect<'a> {
    /// Appends it to the effects of an entry.
    pub fn encode(&self, out: &mut BytesMut) {
        if out.is_empty() {
            out.put_u8(VERSION);
        }
        match self {
            Self::Put { key, value, expiry } => {
                out.put_u8(PUT);
                put_bytes(out, key);
                put_number(out, encode_expiry(*expiry));
                put_value(out, value);
            }
            Self::Delete { key } => {
                out.put_u8(DELETE);
                put_bytes(out, key);
            }
            Self::SetExpiry { key, expiry } => {
                out.put_u8(SET_EXPIRY);
                put_bytes(out, key);
                put_number(out, encode_expiry(*expiry));
            }
            Self::FlushAll => out.put_u8(FLUSH_ALL),
            Self::Update { key, update } => update.encode(key, out),
            Self::Rename { key, to } => {
                out.put_u8(RENAME);
                put_bytes(out, key);
                put_bytes(out, to);
            }
            Self::Copy { key, to } => {
                out.put_u8(COPY);
                put_bytes(out, key);
                put_bytes(out, to);
            }
            Self::Slots { record, payload } => {
                out.put_u8(SLOTS);
                put_bytes(out, record);
                put_bytes(out, payload);
            }
        }
    }

    /// Adds to `out` those effects of an entry that change slots which are `wanted`.
    ///
    /// # Errors
    /// See [`EffectError`].
    pub fn select(mut input: &'a [u8], wanted: impl Fn(u16) -> bool, out: &mut BytesMut) -> Result<(), EffectError> {
        if take_byte(&mut input)? != VERSION {
            return Err(EffectError::Malformed);
        }
        while !input.is_empty() {
            let before = input;
            let decoded = decode(&mut input)?;
            let takes = match &decoded {
                Decoded::Slots { .. } => false,
                decoded => decoded.slot().is_none_or(&wanted),
            };
            if takes {
                if out.is_empty() {
                    out.put_u8(VERSION);
                }
                out.put_slice(&before[..before.len() - input.len()]);
            }
        }
        Ok(())
    }

    /// Reads the effects of an entry, in order.
    pub(super) fn decode_all(mut input: &'a [u8]) -> Result<impl Iterator<Item = Result<Decoded<'a>, EffectError>>, EffectError> {
        let version = take_byte(&mut input)?;
        if version != VERSION {
            return Err(EffectError::Version(version));
        }
        Ok(std::iter::from_fn(move || {
            if input.is_empty() {
                return None;
            }
            let decoded = decode(&mut input);
            if decoded.is_err() {
                input = &[];
            }
            Some(decoded)
        }))
    }
}

fn decode<'a>(input: &mut &'a [u8]) -> Result<Decoded<'a>, EffectError> {
    let kind = take_byte(input)?;
    if kind == FLUSH_ALL {
        return Ok(Decoded::FlushAll);
    }
    if kind == SLOTS {
        let record = take_bytes(input)?;
        let payload = take_bytes(input)?;
        return Ok(Decoded::Slots { record, payload });
    }
    let key = take_bytes(input)?;
    let slot = slot_of(key);
    Ok(match kind {
        PUT => {
            let expiry = decode_expiry(take_number(input)?);
            let value = take_value(input)?;
            Decoded::Put { slot, key, value, expiry }
        }
        DELETE => Decoded::Delete { slot, key },
        SET_EXPIRY => Decoded::SetExpiry {
            slot,
            key,
            expiry: decode_expiry(take_number(input)?),
        },
        RENAME => Decoded::Rename {
            key,
            to: take_bytes(input)?,
        },
        COPY => Decoded::Copy {
            key,
            to: take_bytes(input)?,
        },
        other => Decoded::Update {
            slot,
            key,
            update: Update::decode(other, input)?,
        },
    })
}

/// Zero says that the key does not expire, so that most take one byte.
pub(super) fn encode_expiry(expiry: u64) -> u64 {
    if expiry == NEVER { 0 } else { expiry.max(1) }
}

pub(super) fn decode_expiry(number: u64) -> u64 {
    if number == 0 { NEVER } else { number }
}

pub(super) fn put_value(out: &mut impl BufMut, value: &Value) {
    match value {
        Value::String(bytes) => {
            out.put_u8(STRING);
            put_bytes(out, bytes);
        }
        Value::Collection(collection) => collection::put_collection(out, collection),
    }
}

pub(super) fn take_value(input: &mut &[u8]) -> Result<Value, EffectError> {
    match take_byte(input)? {
        STRING => Ok(Value::String(take_bytes(input)?.into())),
        kind => Ok(Value::Collection(Arc::new(collection::take_collection(kind, input)?))),
    }
}

pub(super) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(super) fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], EffectError> {
    let length = usize::try_from(take_number(input)?).map_err(|_| EffectError::Malformed)?;
    let (bytes, rest) = input.split_at_checked(length).ok_or(EffectError::Malformed)?;
    *input = rest;
    Ok(bytes)
}

pub(super) fn put_number(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

pub(super) fn take_number(input: &mut &[u8]) -> Result<u64, EffectError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(EffectError::Malformed)
}

pub(super) fn take_byte(input: &mut &[u8]) -> Result<u8, EffectError> {
    let (&byte, rest) = input.split_first().ok_or(EffectError::Malformed)?;
    *input = rest;
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Keyspace;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_replica_fail_otherwise_than_by_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Keyspace::new().apply(&bytes, 1);
            let mut with_version = vec![VERSION];
            with_version.extend(bytes);
            let _ = Keyspace::new().apply(&with_version, 1);
        }

        #[test]
        fn numbers_come_back(number in any::<u64>()) {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            prop_assert_eq!(take_number(&mut &out[..]), Ok(number));
        }
    }
}
