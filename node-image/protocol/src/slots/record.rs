//! What a group's log says about slots.

use quorate_api::SlotSet;
use quorate_api::slots::Attempt;
use serde::{Deserialize, Serialize};

/// One change to the [`super::SlotTable`] of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "record")]
pub enum SlotRecord {
    /// This group gives the slots away.
    Export {
        /// This group. The first record of a log says whose slots it is about.
        shard: u32,
        /// Names the move.
        handoff: u64,
        /// What moves.
        slots: SlotSet,
        /// Who receives it.
        to: u32,
        /// Bound of the copy; 0 for none.
        max_bytes_per_second: u64,
    },
    /// Clients of the slots wait from here on.
    Freeze {
        /// The move.
        handoff: u64,
    },
    /// The target owns the slots: their data goes.
    Release {
        /// The move.
        handoff: u64,
    },
    /// The target never will: clients go on.
    Thaw {
        /// The move.
        handoff: u64,
    },
    /// The target has forgotten its decision: nothing is left of the move.
    Settle {
        /// The move.
        handoff: u64,
    },
    /// This group takes a copy of slots; a second time, it begins anew.
    Import {
        /// This group.
        shard: u32,
        /// Names the move.
        handoff: u64,
        /// What moves.
        slots: SlotSet,
        /// Who gives it away.
        from: u32,
        /// The copy.
        attempt: Attempt,
    },
    /// A piece of the copy; its bytes stand beside the record.
    Stage {
        /// The move.
        handoff: u64,
        /// Which piece, from 0.
        sequence: u64,
    },
    /// This group owns the slots from here on.
    Accept {
        /// The move.
        handoff: u64,
    },
    /// This group never will own the slots by this move.
    Reject {
        /// This group.
        shard: u32,
        /// The move.
        handoff: u64,
        /// What would have moved.
        slots: SlotSet,
        /// Who would have given it away.
        from: u32,
    },
    /// The source has acted on the decision.
    Forget {
        /// The move.
        handoff: u64,
    },
}
