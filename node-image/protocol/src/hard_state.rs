//! What a replica must remember beside its log. Small, written synchronously before anything that relies on it.

use quorate_api::{EntryId, Epoch, Proposal};
use serde::{Deserialize, Serialize};

/// Promise, activation and proposals. The promise and the epoch of log entries are separate facts: a replica
/// promises an epoch long before, or without ever, holding an entry of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HardState {
    /// Nothing of a lower epoch is accepted. Never falls.
    pub promised: Epoch,
    /// The last epoch that this replica began to serve. An epoch is begun once, whatever is delivered twice.
    pub activated: Epoch,
    /// Proposals promised to, of epochs above the last committed epoch start, lowest epoch first.
    pub proposals: Vec<(Epoch, Proposal)>,
    /// Set when entries up to here were found unreadable. Until this replica holds a primary's log durably up to here, or
    /// into a later epoch, it may be the only one to have acknowledged what it lost, and must not be chosen.
    pub unreadable: Option<EntryId>,
    /// Every entry up to this epoch start is committed, and was durable here when that was learned. A log tells its commit
    /// index only with the entries that come after: a group where none comes would ask members for ever that were removed
    /// and stopped since.
    #[serde(default)]
    pub settled: u64,
}
