//! Lists: elements in the order that they were given.

use super::packed::{Sequence, encode_text, text};
use super::tree::{Place, Tree};

/// Which end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct List {
    pub(super) tree: Tree<Sequence>,
}

impl List {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tree.len()
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a position.
    #[must_use]
    pub fn get(&self, position: u64) -> Option<&[u8]> {
        self.tree.get(position).map(text)
    }

    /// Adds an element before the one at a position that is at most the length.
    pub fn insert(&mut self, position: u64, value: &[u8]) {
        let element = encode_text(value);
        self.tree.edit(&Place::Before(position), |leaf, at| {
            let at = leaf.offset::<Sequence>(at);
            leaf.splice(at..at, &element, 1);
        });
    }

    /// Adds an element at an end.
    pub fn push(&mut self, end: End, value: &[u8]) {
        self.insert(if end == End::Left { 0 } else { self.len() }, value);
    }

    /// Replaces the element at a position below the length.
    pub fn set(&mut self, position: u64, value: &[u8]) {
        let element = encode_text(value);
        self.tree.edit(&Place::At(position), |leaf, at| {
            let (from, to) = (leaf.offset::<Sequence>(at), leaf.offset::<Sequence>(at + 1));
            leaf.splice(from..to, &element, 0);
        });
    }

    /// Removes `count` elements from a position on; both within the length.
    pub fn remove(&mut self, position: u64, count: u64) {
        self.tree.remove(position, count);
    }

    /// At most `count` elements from a position on.
    pub fn iter(&self, position: u64, count: u64) -> impl Iterator<Item = &[u8]> {
        self.tree.iter(position, count).map(text)
    }

    /// At most `count` elements before a position, backwards.
    pub fn iter_back(&self, position: u64, count: u64) -> impl Iterator<Item = &[u8]> {
        self.tree.iter_back(position, count).map(text)
    }
}
