//! A log entry and its bytes: the same on disk and on the wire.
//!
//! Encoded, little endian: `crc32c u32 | length u32 | kind u8 | epoch.number u64 | epoch.token u64 | index u64 |
//! chain u64 | timestamp_millis u64 | commit u64 | body`. `length` counts what follows it; the checksum covers
//! all but itself. `commit` is the writer's commit index at that time: a hint that spares a restarted
//! replica the wait for its primary, never a proof of anything else.

use crate::configuration::Configuration;
use crate::epoch::{EntryId, Epoch, Position};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the body of an encoded entry.
pub const HEADER_LEN: usize = 4 + 4 + 1 + 8 * 6;
/// Longest body: a transaction with large values is one entry.
pub const MAX_BODY_LEN: usize = 64 << 20;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// Hash of the previous entry's chain and of this entry: two logs with the same chain are the same up to here.
    pub chain: u64,
    /// Milliseconds since the Unix epoch on the primary's clock, never below an earlier entry's.
    pub timestamp_millis: u64,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// First entry of an epoch: the configuration in force from here on.
    EpochStart(Configuration),
    /// Effects on the key space, encoded by the store node. The log carries effects, not commands.
    Effects(Bytes),
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// More bytes are needed.
    #[error("entry is cut off")]
    Incomplete,
    /// The checksum does not match, or a length or kind cannot be.
    #[error("entry is corrupt")]
    Corrupt,
}

const KIND_EPOCH_START: u8 = 1;
const KIND_EFFECTS: u8 = 2;

impl Entry {
    /// The entry that follows `previous`, its chain hash computed.
    #[must_use]
    pub fn next(previous: Position, epoch: Epoch, timestamp_millis: u64, body: EntryBody) -> Self {
        let id = EntryId {
            epoch,
            index: previous.id.index + 1,
        };
        let chain = chain_hash(previous.chain, id, timestamp_millis, &body);
        Self {
            id,
            chain,
            timestamp_millis,
            body,
        }
    }

    /// Where the log stands after this entry.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            id: self.id,
            chain: self.chain,
        }
    }

    /// Whether it continues a log that ends at `previous`: next index, epoch not lower, chain hash true.
    #[must_use]
    pub fn follows(&self, previous: Position) -> bool {
        self.id.index == previous.id.index + 1
            && self.id.epoch >= previous.id.epoch
            && self.chain == chain_hash(previous.chain, self.id, self.timestamp_millis, &self.body)
    }

    /// Bytes that [`Entry::encode`] will add.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match &self.body {
                EntryBody::Effects(bytes) => bytes.len(),
                EntryBody::EpochStart(configuration) => configuration_bytes(configuration).len(),
            }
    }

    /// Appends the encoded entry. `commit` is the writer's commit index.
    pub fn encode(&self, commit: u64, out: &mut BytesMut) {
        let owned;
        let (kind, body): (u8, &[u8]) = match &self.body {
            EntryBody::Effects(bytes) => (KIND_EFFECTS, bytes),
            EntryBody::EpochStart(configuration) => {
                owned = configuration_bytes(configuration);
                (KIND_EPOCH_START, &owned)
            }
        };
        out.reserve(HEADER_LEN + body.len());
        let start = out.len();
        out.put_u32_le(0);
        out.put_u32_le((HEADER_LEN - 8 + body.len()) as u32);
        out.put_u8(kind);
        out.put_u64_le(self.id.epoch.number);
        out.put_u64_le(self.id.epoch.token);
        out.put_u64_le(self.id.index);
        out.put_u64_le(self.chain);
        out.put_u64_le(self.timestamp_millis);
        out.put_u64_le(commit);
        out.put_slice(body);
        let checksum = crc32c::crc32c(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Takes one entry and the writer's commit index off the front of `input`; the body shares its memory.
    ///
    /// # Errors
    /// [`EntryError::Incomplete`] when the front is a prefix of an entry (`input` is then unchanged),
    /// [`EntryError::Corrupt`] when it is none.
    pub fn decode(input: &mut Bytes) -> Result<(Self, u64), EntryError> {
        let total = Self::frame_len(input)?;
        if input.len() < total {
            return Err(EntryError::Incomplete);
        }
        let mut record = input.slice(..total);
        let checksum = record.get_u32_le();
        if crc32c::crc32c(&record) != checksum {
            return Err(EntryError::Corrupt);
        }
        record.advance(4);
        let kind = record.get_u8();
        let epoch = Epoch {
            number: record.get_u64_le(),
            token: record.get_u64_le(),
        };
        let index = record.get_u64_le();
        let chain = record.get_u64_le();
        let timestamp_millis = record.get_u64_le();
        let commit = record.get_u64_le();
        let body = match kind {
            KIND_EFFECTS => EntryBody::Effects(record),
            KIND_EPOCH_START => EntryBody::EpochStart(serde_json::from_slice(&record).map_err(|_| EntryError::Corrupt)?),
            _ => return Err(EntryError::Corrupt),
        };
        input.advance(total);
        Ok((
            Self {
                id: EntryId { epoch, index },
                chain,
                timestamp_millis,
                body,
            },
            commit,
        ))
    }

    /// The whole length of the entry at the front of `input`, from its length field alone.
    ///
    /// # Errors
    /// [`EntryError::Incomplete`] with fewer than 8 bytes, [`EntryError::Corrupt`] with an impossible length.
    pub fn frame_len(input: &[u8]) -> Result<usize, EntryError> {
        let Some(field) = input.get(4..8) else {
            return Err(EntryError::Incomplete);
        };
        let length = u32::from_le_bytes([field[0], field[1], field[2], field[3]]) as usize;
        if !(HEADER_LEN - 8..=HEADER_LEN - 8 + MAX_BODY_LEN).contains(&length) {
            return Err(EntryError::Corrupt);
        }
        Ok(8 + length)
    }
}

fn configuration_bytes(configuration: &Configuration) -> Vec<u8> {
    serde_json::to_vec(configuration).expect("a configuration is plain data")
}

fn chain_hash(previous: u64, id: EntryId, timestamp_millis: u64, body: &EntryBody) -> u64 {
    let mut head = [0u8; 41];
    head[0..8].copy_from_slice(&previous.to_le_bytes());
    head[8..16].copy_from_slice(&id.epoch.number.to_le_bytes());
    head[16..24].copy_from_slice(&id.epoch.token.to_le_bytes());
    head[24..32].copy_from_slice(&id.index.to_le_bytes());
    head[32..40].copy_from_slice(&timestamp_millis.to_le_bytes());
    match body {
        EntryBody::EpochStart(configuration) => {
            head[40] = KIND_EPOCH_START;
            xxhash_rust::xxh3::xxh3_64_with_seed(&configuration_bytes(configuration), xxhash_rust::xxh3::xxh3_64(&head))
        }
        EntryBody::Effects(bytes) => {
            head[40] = KIND_EFFECTS;
            xxhash_rust::xxh3::xxh3_64_with_seed(bytes, xxhash_rust::xxh3::xxh3_64(&head))
        }
    }
}
