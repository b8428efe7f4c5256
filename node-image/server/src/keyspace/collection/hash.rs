//! Hashes: fields with a value each.

use super::packed::{Fields, encode_pair, text, text_len};
use super::tree::Tree;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    pub(super) tree: Tree<Fields>,
}

fn pair(element: &[u8]) -> (&[u8], &[u8]) {
    (text(element), text(&element[text_len(element)..]))
}

impl Hash {
    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tree.len()
    }

    /// Whether it has no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.tree.find(field).map(|element| pair(element).1)
    }

    /// Gives a field a value; true if it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.tree.put(field, &encode_pair(field, value))
    }

    /// Removes a field; true if it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        self.tree.take(field)
    }

    /// All fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.tree.iter(0, u64::MAX).map(pair)
    }

    /// The field at a position in an order that stays until the hash changes.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<(&[u8], &[u8])> {
        self.tree.get(position).map(pair)
    }

    /// Gives about `count` fields from a cursor on, and the next cursor; 0 begins and ends.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        super::scan(&self.tree, cursor, count, |element| {
            let (field, value) = pair(element);
            visit(field, value);
        })
    }
}
