//! What the model remembers: small, copied whole, compared by value.
//!
//! Epochs are numbered from 1: epoch 1 is the one that serves at first, epoch 2 + n is that of driver n. Nodes are
//! numbered as the members of the scenario; a node is an incarnation, not a pod.

/// Nodes at most.
pub(super) const NODES: usize = 6;
/// Epochs at most.
pub(super) const EPOCHS: usize = 4;

/// A log of at most eight entries. An entry is its epoch and, if it is an epoch start, its configuration.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Log {
    bytes: u64,
    len: u8,
}

/// An entry of a [`Log`]: `epoch << 4`, and the number of the configuration + 1 for an epoch start, 0 for a write.
pub(super) type Entry = u8;

pub(super) fn start_entry(epoch: u8, configuration: u8) -> Entry {
    epoch << 4 | (configuration + 1)
}

pub(super) fn write_entry(epoch: u8) -> Entry {
    epoch << 4
}

pub(super) fn epoch_of(entry: Entry) -> u8 {
    entry >> 4
}

pub(super) fn configuration_of(entry: Entry) -> Option<u8> {
    (entry & 15).checked_sub(1)
}

impl Log {
    pub(super) fn len(self) -> u8 {
        self.len
    }

    /// The entry at an index from 1.
    pub(super) fn at(self, index: u8) -> Entry {
        (self.bytes >> (8 * (index - 1))) as u8
    }

    pub(super) fn push(&mut self, entry: Entry) {
        assert!(self.len < 8, "the scenario is too long for a model log");
        self.bytes |= u64::from(entry) << (8 * self.len);
        self.len += 1;
    }

    pub(super) fn prefix(self, len: u8) -> Self {
        if len >= self.len {
            return self;
        }
        Self {
            bytes: self.bytes & ((1 << (8 * len)) - 1),
            len,
        }
    }

    /// Entries that both logs hold, counted from the first.
    pub(super) fn agreement(self, other: Self) -> u8 {
        let differ = (self.bytes ^ other.bytes).trailing_zeros() / 8;
        self.len.min(other.len).min(u8::try_from(differ).unwrap_or(8))
    }

    /// Epoch and index of the last entry.
    pub(super) fn last(self) -> (u8, u8) {
        match self.len {
            0 => (0, 0),
            len => (epoch_of(self.at(len)), len),
        }
    }

    pub(super) fn entries(self) -> impl Iterator<Item = (u8, Entry)> {
        (1..=self.len).map(move |index| (index, self.at(index)))
    }

    /// The last epoch start at or below an index: its index, epoch and configuration.
    pub(super) fn start_at(self, index: u8) -> Option<(u8, u8, u8)> {
        (1..=index.min(self.len)).rev().find_map(|index| {
            let entry = self.at(index);
            configuration_of(entry).map(|configuration| (index, epoch_of(entry), configuration))
        })
    }

    /// The epochs whose writes it holds, as a set of bits.
    pub(super) fn writes(self) -> u8 {
        self.entries()
            .filter(|(_, entry)| configuration_of(*entry).is_none())
            .fold(0, |set, (_, entry)| set | bit(epoch_of(entry)))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = |(_, entry)| match configuration_of(entry) {
            Some(configuration) => format!("{}:start C{configuration}", epoch_of(entry)),
            None => format!("{}:write", epoch_of(entry)),
        };
        f.debug_list().entries(self.entries().map(entry)).finish()
    }
}

pub(super) fn bit(number: u8) -> u8 {
    1 << number
}

/// Whether a disk is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Disk {
    /// This incarnation does not exist yet: it comes when another one's disk is wiped.
    #[default]
    Unborn,
    Here,
    Wiped,
}

/// A replica: `quorate_protocol::Replica` without what it says more than once. See [`super::rules`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) disk: Disk,
    pub(super) promised: u8,
    /// It began the epoch that it has promised. Of an earlier epoch it need not be known: that one it refuses anyway.
    pub(super) activated: bool,
    /// Epochs whose proposal to change the configuration it knows. What a proposal is, the scenario says.
    pub(super) proposals: u8,
    /// The same as they are on its disk.
    pub(super) stored_proposals: u8,
    pub(super) log: Log,
    pub(super) durable: u8,
    pub(super) commit: u8,
    /// Epoch and index of the last entry that it lost to a damaged disk, until that is made good.
    pub(super) unreadable: Option<(u8, u8)>,
    /// As a follower: its log is that of its primary up to here. Kept only while something is not durable.
    pub(super) matched: u8,
}

/// What the primary of an epoch did, and by that all messages that it may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reign {
    pub(super) primary: u8,
    pub(super) configuration: u8,
    /// Index of the epoch start.
    pub(super) start: u8,
    /// Its log while it was primary.
    pub(super) log: Log,
    /// The commit index that it began with.
    pub(super) first_commit: u8,
    pub(super) commit: u8,
    pub(super) serving: bool,
    /// It knows nothing of a later epoch and did not crash.
    pub(super) in_office: bool,
    /// For each node the highest index that it ever acknowledged in this epoch. Nothing once it is out of office.
    pub(super) acknowledged: [u8; NODES],
}

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pilot {
    /// The real driver of that number in [`super::drivers::Drivers`], and for each node the answer on its way to it.
    Fencing { driver: u16, answers: [Way; NODES] },
    /// It sends this activation, for ever, and its fences to those that it had asked may be late.
    Chosen { choice: Choice, asked: u8 },
    /// It gave up.
    Ended,
}

/// What became of a node's answer to a fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Way {
    #[default]
    None,
    /// It may arrive, now or much later, or never.
    Travels(u16),
    Arrived,
}

/// `quorate_api::ActivateRequest`, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    pub(super) node: u8,
    pub(super) last: (u8, u8),
    pub(super) configuration: u8,
}

/// A rule of the promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// Two replicas, or one twice, began the same epoch.
    TwoPrimaries,
    /// A committed write is not in the log of a primary that serves a later epoch.
    WriteLost,
    /// A primary could have answered a linearizable read without a write that was acknowledged before.
    StaleRead,
    /// Two logs differ in what both know to be committed, or a committed entry was cut off.
    Diverged,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) nodes: [Node; NODES],
    pub(super) reigns: [Option<Reign>; EPOCHS],
    pub(super) pilots: [Pilot; EPOCHS - 1],
    /// The epochs that have a write which a serving primary committed: somebody was told, or read it.
    pub(super) acknowledged: u8,
    pub(super) crashes: u8,
    pub(super) wipes: u8,
    pub(super) damages: u8,
    /// What is wrong with it: the end of a counter-example.
    pub wrong: Option<Wrong>,
}
