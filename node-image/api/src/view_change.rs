//! The messages of a view change: failover, switchover, hand-over, membership and quorum change are one mechanism.

use crate::configuration::Configuration;
use crate::epoch::{EntryId, Epoch};
use crate::identity::Incarnation;
use serde::{Deserialize, Serialize};

/// What a driver wants the next epoch to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Proposal {
    /// The configuration of the last epoch start in the log of the replica that is chosen.
    Keep,
    /// This configuration from now on.
    Change(Configuration),
}

/// Step 2: promise `epoch` and answer what you know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceRequest {
    /// The epoch to promise.
    pub epoch: Epoch,
    /// What its driver intends; kept with the promise, so that a later driver learns of it.
    pub proposal: Proposal,
}

/// What a replica answers to a fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceAnswer {
    /// Who answers.
    pub incarnation: Incarnation,
    /// The highest epoch this replica has promised, durably. The fence holds only if it equals the one asked for.
    pub promised: Epoch,
    /// Its last log entry.
    pub last: EntryId,
    /// Its commit index.
    pub commit: u64,
    /// True if it knows entries to be unreadable: it may not be chosen, and says so.
    pub damaged: bool,
    /// Epoch starts with their configuration, from the last committed one on, in log order. Empty if blank.
    pub configurations: Vec<(EntryId, Configuration)>,
    /// Proposals of epochs above the last committed epoch start.
    pub proposals: Vec<(Epoch, Proposal)>,
}

/// Step 5: serve as the primary of `epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActivateRequest {
    /// The epoch to serve; this replica must have promised exactly it.
    pub epoch: Epoch,
    /// The entry that the driver chose this replica by.
    pub last: EntryId,
    /// The configuration that the epoch start will carry.
    pub configuration: Configuration,
}

/// The outcome of an activation, sent when the epoch start is committed or the attempt is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActivateAnswer {
    /// Who answers.
    pub incarnation: Incarnation,
    /// The epoch that was asked for.
    pub epoch: Epoch,
    /// The committed epoch start, or why there is none.
    pub outcome: Result<EntryId, ActivateRefusal>,
}

/// Why a replica does not serve an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum ActivateRefusal {
    /// It has promised another epoch.
    #[error("promised epoch {0}")]
    Promised(Epoch),
    /// Its log does not end where the driver believed.
    #[error("its log ends at {0:?}, not where the driver chose it")]
    Moved(EntryId),
    /// It is not a member of the configuration, or its log is damaged.
    #[error("it is not an undamaged member of the configuration")]
    NotEligible,
    /// It was primary of the epoch and is not any more.
    #[error("it was deposed by epoch {0} before its epoch start was committed")]
    Deposed(Epoch),
}
