//! The rules of the design, each taken away in turn: a check that nothing can trip is none.
//!
//! Most are switches in the core (see `quorate_protocol::mutation`); the rest are mistakes of the runtime around it, which
//! the simulation plays.

use super::history::{self, Kind, Options};
use crate::model::{check, scenarios};
use quorate_protocol_mutants::mutation::Mutation;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A mistake of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slip {
    /// What waits for a commit is answered when the primary steps down.
    AnsweredWhenDeposed,
    /// A failed sync is tried again.
    SyncRetried,
    /// A log that does not read is cut at the first record that does not, and nothing is said.
    DamageCutOff,
    /// Drivers do not draw the token of their epochs.
    TokenShared,
    /// A snapshot of what is not committed yet is put in force.
    SnapshotUncommitted,
    /// A follower answers reads from what it has, and asks nobody.
    FollowerUnasked,
    /// What expires is judged by the clock of whoever applies an entry, not by the entry's.
    LocalClock,
}

/// What is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// From the core.
    Core(Mutation),
    /// From the runtime.
    Runtime(Slip),
    /// From the core, in whole systems: what it takes does not happen in a group alone.
    System(Mutation),
    /// From the core, in the model of the view change: it takes a crash or a fault at one certain moment, which no history of
    /// a bounded number is sure to have.
    Model(Mutation),
}

/// All, with their names.
pub const ALL: [(&str, Mutant); 32] = {
    use Mutant::{Core, Model, Runtime, System};
    [
        ("old-epoch entry counted as committed", Core(Mutation::CommitOldEpoch)),
        ("fence one member short", Core(Mutation::FenceOneShort)),
        ("change fenced by V_f alone", Core(Mutation::ChangeFencedByVfAlone)),
        ("configurations not learned from answers", Core(Mutation::ConfigurationsNotLearned)),
        ("promise not synced", Core(Mutation::PromiseNotSynced)),
        ("one field for promise and entry epoch", Core(Mutation::PromiseIsEntryEpoch)),
        ("choice by index only", Core(Mutation::ChooseByIndex)),
        ("serving before epoch start", Core(Mutation::ServeBeforeEpochStart)),
        ("confirmation sent before the read arrived", Core(Mutation::ConfirmBeforeRead)),
        ("member acknowledges before its sync", Core(Mutation::AckBeforeSync)),
        ("primary counts itself before its sync", Core(Mutation::CountOwnBeforeSync)),
        ("wiped disk counted", Core(Mutation::StrangerCounted)),
        ("epoch begun twice", Core(Mutation::EpochReused)),
        ("message of an old connection accepted", Core(Mutation::OldConnectionAccepted)),
        ("lost entries not told", Core(Mutation::DamageIgnored)),
        ("activation with another log", Core(Mutation::ActivateWithOtherLog)),
        (
            "snapshot of a prefix replaces a longer log",
            Core(Mutation::SnapshotReplacesLongerLog),
        ),
        ("reply sent after stepping down", Runtime(Slip::AnsweredWhenDeposed)),
        ("retry after a failed sync", Runtime(Slip::SyncRetried)),
        ("truncation at the first bad checksum", Runtime(Slip::DamageCutOff)),
        ("epoch token not drawn", Runtime(Slip::TokenShared)),
        ("snapshot of uncommitted state", Runtime(Slip::SnapshotUncommitted)),
        ("acknowledged taken for committed", Core(Mutation::AcknowledgedIsCommitted)),
        ("acknowledged tail cut off and forgotten", Core(Mutation::TailForgotten)),
        ("read index of an unconfirmed primary", Core(Mutation::ReadIndexUnconfirmed)),
        ("read index asked before the read arrived", Core(Mutation::ReadIndexOfBefore)),
        ("follower reads without asking", Runtime(Slip::FollowerUnasked)),
        ("expiry by local clock", Runtime(Slip::LocalClock)),
        ("learner counted", System(Mutation::LearnerCounted)),
        (
            "proposal forgotten before the sync of what settles it",
            Model(Mutation::ForgetBeforeSync),
        ),
        (
            "lost entries thought to be of a known configuration",
            Model(Mutation::DamagedKnowsConfigurations),
        ),
        (
            "configuration left out before a later one is committed",
            Model(Mutation::SupersededBeforeCommit),
        ),
    ]
};

/// How a mutant died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The check that noticed.
    pub killed_by: String,
    /// In the history of this seed.
    pub seed: u64,
}

/// What lives in the histories that a mutant is hunted in.
#[must_use]
pub fn kind(mutant: Mutant) -> Kind {
    match mutant {
        Mutant::System(_) => Kind::System,
        Mutant::Core(_) | Mutant::Runtime(_) | Mutant::Model(_) => Kind::Dense,
    }
}

/// Visits the states of the model's scenario that shows why a rule is needed.
fn model(mutation: Mutation) -> Option<Death> {
    let (_, _, scenario) = scenarios::mutants().into_iter().find(|(_, known, _)| *known == mutation)?;
    let outcome = check(scenario, Some(mutation), 1);
    let killed_by = outcome.violation.map(|(property, _)| format!("model: {property}"))?;
    Some(Death { killed_by, seed: 0 })
}

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The seed that this thread is at.
pub(crate) fn seed() -> u64 {
    SEED.get()
}

/// Runs histories with a mutant until a check notices. None: the mutant lives.
#[must_use]
pub fn hunt(options: &Options, first_seed: u64, histories: u64) -> Option<Death> {
    if let Some(Mutant::Model(mutation)) = options.mutant {
        return model(mutation);
    }
    (first_seed..first_seed + histories).find_map(|seed| {
        SEED.set(seed);
        let run = || history::run(seed, options).violation;
        let killed_by = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(None) => return None,
            Ok(Some(violation)) => violation.check.to_owned(),
            Err(panic) => assertion(panic.as_ref()),
        };
        Some(Death { killed_by, seed })
    })
}

/// What a failed assertion said, short enough to name it.
pub(crate) fn assertion(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("an assertion");
    let first = text.split([':', '\n']).next().unwrap_or(text);
    format!("assertion: {first}")
}
