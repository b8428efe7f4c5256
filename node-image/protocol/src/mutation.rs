//! Rules of this crate that a test can take away, to see which check notices.
//!
//! In this crate the only question, `active`, is constantly false, and nothing can make it true. The switch exists only
//! under `cfg(mutants)`, which the crate `quorate-protocol-mutants` sets when it compiles this source a second time, for
//! the simulation.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// An entry of an older epoch is committed by counting its copies.
    CommitOldEpoch,
    /// The fence is complete one member too early.
    FenceOneShort,
    /// A change of configuration waits for `V_f` alone.
    ChangeFencedByVfAlone,
    /// The driver does not look at the configurations in the answers.
    ConfigurationsNotLearned,
    /// A promise is told and not written.
    PromiseNotSynced,
    /// The epoch promised is told as the epoch of the last entry.
    PromiseIsEntryEpoch,
    /// The longest log is chosen, whatever its epoch.
    ChooseByIndex,
    /// The primary serves before its epoch start is committed.
    ServeBeforeEpochStart,
    /// A read is confirmed by a round that was sent before it arrived.
    ConfirmBeforeRead,
    /// A member acknowledges what it has not synced.
    AckBeforeSync,
    /// The primary counts its own entries before they are synced.
    CountOwnBeforeSync,
    /// Whoever answers the fence counts, listed or not: a wiped disk too.
    StrangerCounted,
    /// An epoch is begun again after a restart.
    EpochReused,
    /// What a closed connection still delivers is taken.
    OldConnectionAccepted,
    /// A replica that lost entries says nothing of it.
    DamageIgnored,
    /// A replica activates although its log is not the one that was chosen.
    ActivateWithOtherLog,
    /// A snapshot of a prefix replaces a longer log.
    SnapshotReplacesLongerLog,
    /// A member forgets proposals by an epoch start that a crash may still take from its log.
    ForgetBeforeSync,
    /// What a damaged member lost is thought to be of a configuration that the driver knows.
    DamagedKnowsConfigurations,
    /// A configuration is left out as soon as a later one has an epoch start, committed or not.
    SupersededBeforeCommit,
    /// What suffices to acknowledge a write of an eventual configuration is taken for committed.
    AcknowledgedIsCommitted,
    /// What an eventual configuration acknowledged is cut off without a copy being kept.
    TailForgotten,
    /// A primary tells a follower its commit index without knowing that it is still the primary.
    ReadIndexUnconfirmed,
    /// A follower takes an answer as one to a question that it has not sent yet.
    ReadIndexOfBefore,
    /// The source of a move serves its frozen slots again without the word of the target.
    ThawUnasked,
    /// A new primary of the source takes frozen slots for moved, whatever the log of the target says.
    SourceDecides,
    /// The source gives up the slots before the target has accepted them.
    ReleaseBeforeAccept,
    /// A group takes a handoff that is not above the last one of the slots.
    HandoffReused,
    /// The source asks the target before its own record cannot be lost any more.
    AskBeforeForGood,
    /// A learner counts in the quorums of its primary as a member does.
    LearnerCounted,
}

#[cfg(not(mutants))]
pub(crate) const fn active(_: Mutation) -> bool {
    false
}

#[cfg(mutants)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule, or none, on this thread.
#[cfg(mutants)]
pub fn set(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}

/// Whether the rule is broken.
#[cfg(mutants)]
pub(crate) fn active(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}
