//! The operator of replicated stores.
//!
//! Observe, validate, plan, apply, status: in two ways, and neither waits for the other.
//!
//! Objects: a watch tells of a change, [`mod@reconcile`] checks the spec ([`settings`], pure), builds what it wants
//! ([`objects`], pure) and applies it.
//!
//! View changes: a [`link`] breaks or a node's status changes ([`replicas`] hears it, the [`roster`] keeps what is known as
//! [`observe`] has it); the [`keeper`] of the shard has its [`steward`] ask [`mod@plan`], which judges ([`detect`]), decides and
//! words the status ([`mod@report`]), all of it pure; the keeper starts the [`view_change`] if there is one, has the primary admit
//! learners, looks after [`machines`] that are gone, and leaves word for its [`store`]. That one merges the words of all shards
//! for the publisher ([`mod@publish`], which writes what the [`outbox`] says is new), and has the objects follow the shapes of the
//! groups.
//!
//! Slots: the [`store`] asks [`mod@rebalance`] (pure) which moves to begin, orders them from the primaries, and tells every node who
//! owns what.
//!
//! The [`plugin`] of kubectl is a program of its own: it reads the resource and asks by annotations.
//!
//! Safety is the members' part: a wrong, slow or doubled operator delays, it loses nothing.

pub mod context;
pub mod detect;
pub mod keeper;
pub mod leader;
pub mod link;
pub mod losses;
pub mod machines;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod observe;
pub mod outbox;
pub mod plan;
pub mod plugin;
pub mod publish;
pub mod rebalance;
pub mod reconcile;
pub mod records;
pub mod replicas;
pub mod report;
pub mod roster;
pub mod run;
pub mod settings;
pub mod steward;
pub mod store;
pub mod suspicion;
pub mod view_change;
pub mod watches;

#[cfg(test)]
mod testing;
