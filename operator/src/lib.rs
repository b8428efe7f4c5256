//! The operator of replicated stores.
//!
//! Two ways through the folders. A reconciliation: [`mod@reconcile`] checks the spec ([`settings`]), builds the objects
//! ([`objects`]) and applies them. A failover: a [`link`] breaks or a node's status changes, the [`keeper`] of the store
//! judges ([`detect`]) and drives a [`view_change`], and leaves word for the publisher ([`mod@publish`], [`mod@report`]).
//! Neither waits for the other. Safety is the members' part: a wrong, slow or doubled operator delays, it loses nothing.

pub mod context;
pub mod detect;
pub mod keeper;
pub mod leader;
pub mod link;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod publish;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod settings;
pub mod view_change;
