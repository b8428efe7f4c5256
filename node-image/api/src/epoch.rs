//! Epochs order primaries; log positions order entries.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One reign of one primary. Ordered by number, then token. The token is drawn by whoever proposes the
/// epoch, so two proposers never share one. [`Epoch::ZERO`] is before every epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// One above the highest number that the proposer had seen.
    pub number: u64,
    /// 64 random bits of the proposer.
    #[serde(with = "hex")]
    pub token: u64,
}

/// Names one entry for ever: an epoch has one primary, and a primary writes an index once.
/// Ordered by epoch, then index: the order in which a new primary is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The epoch whose primary wrote the entry.
    pub epoch: Epoch,
    /// The log index, from 1. 0 is the position before the first entry.
    pub index: u64,
}

/// The end of a log prefix: its last entry and the hash of the chain up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The last entry of the prefix.
    pub id: EntryId,
    /// The chain hash up to and with that entry; 0 for the empty prefix.
    pub chain: u64,
}

impl Epoch {
    /// Before every epoch that a driver can propose.
    pub const ZERO: Self = Self { number: 0, token: 0 };

    /// The epoch that a driver proposes after the highest number it has seen. `token` is fresh random bits.
    #[must_use]
    pub fn after(highest_number: u64, token: u64) -> Self {
        Self {
            number: highest_number + 1,
            token,
        }
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04x}", self.number, self.token >> 48)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(|e| D::Error::custom(format!("epoch token {text:?}: {e}")))
    }
}
