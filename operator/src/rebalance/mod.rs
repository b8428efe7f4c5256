//! Rebalancing: from what the shards say that they own to moves of slots. Pure; [`crate::store`] carries out.
//!
//! [`assignment`] says what every shard is to own, [`mod@plan`] which moves to begin now and which shards may be removed, [`memory`]
//! what was ordered and became of it, [`progress`] how it is told. Nothing here is a matter of safety: a group moves only what it
//! owns, and no order of an operator, however old, makes a second owner. Nothing is kept but a record for people: an operator that
//! starts anew goes on from what the nodes say.
//!
//! What holds, and is tested over generated stores: no slot is in two moves at a time · no shard is removed that may own a slot ·
//! from every state the assignment is reached, with the fewest slots moved · a store that is balanced asks nothing and tells
//! nothing new.

pub mod assignment;
pub mod memory;
pub mod plan;
pub mod progress;

pub use memory::Memory;
pub use plan::{Ask, Plan, Scene, plan};

#[cfg(test)]
mod tests;
