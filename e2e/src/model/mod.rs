//! An exhaustive model of the view change.
//!
//! `stateright` visits every state that a [`scenarios::Scenario`] can reach and checks the promise in each: an epoch has one
//! primary · what a serving primary committed is in the log of every primary that serves a later epoch · a primary that could
//! answer a linearizable read knows every write acknowledged before · committed entries are the same everywhere. Each scenario
//! must also reach what it is about (every epoch serves, a write of each epoch is acknowledged, another configuration serves),
//! or it would show nothing.
//!
//! **What is real.** The drivers are `quorate_protocol::Driver`, with every rule of fence, learning, leaving out and choice, and
//! the quorum arithmetic is `quorate_api::Quorum`. A state holds a number for each driver (see `drivers.rs`): a driver is a value,
//! and what it does is a function of that value and an answer, so that it is run once for each pair.
//!
//! **What is abstract.** A replica. The real one carries connections, rounds, streams and clocks: thousands of states for one of
//! these, none of which a view change looks at. Its rules are in [`rules`], each with the name of the one in the code. That the two
//! are the same rules is read, not checked.
//!
//! # Steps that are left out, and why nothing is lost
//! - *Messages are sets.* A fence that was sent once can arrive at any later time, an answer too, or never. What a primary can have
//!   sent is its log and the commit indices that it had, so that every prefix of the log of every reign, also of one that is over,
//!   can arrive at any time, in any order, again and again. An acknowledgement is remembered for ever and may be used whenever the
//!   primary is in office. So loss, delay, doubling and reordering need no steps of their own.
//! - *The second copy of an answer* is not given to a driver: it would replace the first by its equal. After a crash it can differ;
//!   it is then one of a run in which the first was lost, and the driver knows less.
//! - *An answer that tells a higher promise* only ends a driver; a driver that does nothing more is among the runs anyway. *Done* and
//!   *Failed* send nothing.
//! - *A promise without a fence* (to a refusal, or to an append before the fence) stops a member from doing things for lower epochs
//!   and tells no driver anything: a run in which it just does not do them is there. The promise to an append is modelled, because it
//!   comes with entries.
//! - *Reads have no steps.* A read of epoch e is wrong if it began after an acknowledgement that the primary's committed prefix lacks
//!   when V_r members have confirmed e. Promises never fall and commit indices of a reign never fall; so at the moment of the first
//!   confirmation all these members had promised at most e, the primary was in office and lacked the write: it is enough to look
//!   for a state with V_r such members.
//! - *A commit tells the client at once*: an answer that is lost would promise less.
//! - *A snapshot* leaves the log that the entries of its prefix would have left.
//! - *What an epoch knows of long ago*: a reign that is over forgets acknowledgements, a member forgets that it began an epoch below
//!   its promise. No step asks for either.
//! - *Commit indices in answers* are those of the last committed epoch start: a driver compares with epoch starts only.
//!
//! Symmetry is not used: a driver prefers the lowest ordinal, so that members are not interchangeable.
//!
//! It does not model time, connections, reads on followers, `Driver::bootstrap` or `Driver::recover`, and a promise is durable once
//! it is told: the simulation checks these.

mod drivers;
pub mod moves;
pub mod report;
pub mod rules;
pub mod scenarios;
pub mod state;

pub use report::{Args, Outcome, check, run};
pub use rules::{Step, ViewChanges};
