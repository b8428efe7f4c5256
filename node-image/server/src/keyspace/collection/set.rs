//! Sets: members without order.

use super::packed::{Members, encode_text, place_of, text};
use super::tree::{Place, Tree};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Set {
    pub(super) tree: Tree<Members>,
}

impl Set {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tree.len()
    }

    /// Whether it has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has this member.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.tree.find(member).is_some()
    }

    /// Adds a member; true if it is new.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if self.contains(member) {
            return false;
        }
        let (place, element) = (place_of(member), encode_text(member));
        self.tree.edit(&Place::By(&|low| *low <= place), |leaf, _| {
            let end = leaf.bytes().len();
            leaf.splice(end..end, &element, 1);
        });
        true
    }

    /// Removes a member; true if it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.tree.take(member)
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.tree.iter(0, u64::MAX).map(text)
    }

    /// The member at a position in an order that stays until the set changes.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<&[u8]> {
        self.tree.get(position).map(text)
    }

    /// Gives about `count` members from a cursor on, and the next cursor; 0 begins and ends.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8])) -> u64 {
        super::scan(&self.tree, cursor, count, |element| visit(text(element)))
    }
}
