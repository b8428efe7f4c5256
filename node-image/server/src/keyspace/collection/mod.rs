//! What a key holds that is more than one text: hashes, sets, sorted sets and lists.
//!
//! All are trees of packed leaves ([`tree`]): a small one is a single allocation, a large one is changed at the price of a
//! kilobyte, also while a snapshot keeps it as it was. Nothing here knows a command, a key or a time.

mod codec;
mod hash;
mod list;
pub(super) mod packed;
mod set;
mod sorted_set;
pub(super) mod tree;
mod update;

pub use hash::Hash;
pub use list::{End, List};
pub use set::Set;
pub use sorted_set::SortedSet;
pub use update::Update;

pub(super) use codec::{kind, put_collection, put_pieces, take_collection, take_into};

use packed::Layout;
use std::sync::Arc;
use tree::Tree;

/// See the module.
#[derive(Clone, Debug)]
pub enum Collection {
    /// Fields with values.
    Hash(Hash),
    /// Members.
    Set(Set),
    /// Members with scores.
    SortedSet(SortedSet),
    /// Elements in order.
    List(List),
}

impl Collection {
    /// Number of elements; a key with an empty collection does not exist.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Hash(hash) => hash.len(),
            Self::Set(set) => set.len(),
            Self::SortedSet(set) => set.len(),
            Self::List(list) => list.len(),
        }
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes in memory behind the item of its key.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let heap = match self {
            Self::Hash(hash) => hash.tree.heap_bytes(),
            Self::Set(set) => set.tree.heap_bytes(),
            Self::SortedSet(set) => set.heap_bytes(),
            Self::List(list) => list.tree.heap_bytes(),
        };
        // Two counts of references are before it.
        (size_of::<Arc<Self>>() * 2 + size_of::<Self>()) as u64 + heap
    }
}

impl PartialEq for Collection {
    /// The same elements; in the same order where there is one.
    fn eq(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match (self, other) {
            (Self::Hash(a), Self::Hash(b)) => a.iter().all(|(field, value)| b.get(field) == Some(value)),
            (Self::Set(a), Self::Set(b)) => a.iter().all(|member| b.contains(member)),
            (Self::SortedSet(a), Self::SortedSet(b)) => a.iter(0, u64::MAX).eq(b.iter(0, u64::MAX)),
            (Self::List(a), Self::List(b)) => a.iter(0, u64::MAX).eq(b.iter(0, u64::MAX)),
            _ => false,
        }
    }
}

impl Eq for Collection {}

/// Gives whole leaves from the one that holds `cursor` on, until about `count` elements were given, and the next cursor.
/// An element that is there from the first call to the last is given: its place does not change, and every place is passed.
fn scan<'a, L: Layout<Low = u64>>(tree: &'a Tree<L>, mut cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8])) -> u64 {
    let mut given = 0;
    loop {
        let ((leaf, _), next) = tree.leaf_by(|low| *low <= cursor);
        for element in leaf.elements::<L>() {
            if L::low(element) >= cursor {
                visit(element);
                given += 1;
            }
        }
        match next {
            Some(next) if given < count => cursor = *next,
            next => return next.copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests;
