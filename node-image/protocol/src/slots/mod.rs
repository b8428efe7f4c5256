//! Which slots a group owns, and how they go from one group to another.
//!
//! [`SlotTable`] is state of a group's log: [`SlotRecord`]s change it, on every replica alike. It also says what the primary
//! of the group answers as the target of a move. [`Mover`] is the other side: one move away from a group, driven by the
//! primary of the source. Both take inputs and give records and messages as values.
//!
//! The way of a move: `Export` in the source's log · the copy, `Import` and `Stage` in the target's · `Freeze` in the source's,
//! the last writes staged · **`Accept` or `Reject` in the target's log decides** · `Release` or `Thaw` in the source's ·
//! `Forget` in the target's, `Settle` in the source's.
//!
//! Invariants: at most one group serves a slot · the source serves a slot again after a freeze only when the target's log
//! says `Reject` · the target serves it only from `Accept` on, which needs a whole copy that was frozen for good when
//! the target was asked · nothing is given up before `Release`, and that only after `Accept` · whatever leaves a group, leaves it
//! only once the record behind it cannot be lost.
//!
//! What it does not know: keys and values, connections, and which slots should be where.

mod mover;
mod record;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

pub use mover::{Mover, MoverEffect, MoverInput};
pub use record::SlotRecord;
pub use table::{Export, Import, Misfit, MoveState, Reaction, SlotData, SlotTable};
