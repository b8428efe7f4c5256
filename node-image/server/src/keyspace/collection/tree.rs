//! A tree of packed leaves that counts: by place or by position, any element in O(log n), at one to four bytes above what the
//! elements themselves take.
//!
//! Nodes are shared and copied when they change, so that a snapshot costs nothing when it is made and a change afterwards
//! copies one leaf of a kilobyte and the few nodes above it, however large the collection is. The crates that were weighed
//! have either ranks (indexset, order-statistics trees) or sharing (imbl, rpds), and each element an allocation of its own.
//!
//! Invariants: no leaf is empty but a root; a leaf is longer than [`LEAF_BYTES`] only if it cannot be cut; what is below the
//! `low` of a child is in an earlier one; `len` and `bytes` are exact.

use super::packed::{Keyed, LEAF_BYTES, Layout, Packed, place_of};
use std::sync::Arc;

/// Children that a node has at most.
const FANOUT: usize = 64;
/// A node of its own takes this beside what it holds: itself, and two counts of references.
const NODE_BYTES: usize = 2 * size_of::<usize>();

#[derive(Clone, Debug)]
enum Node<L: Layout> {
    Leaf(Packed),
    Inner(Vec<Child<L>>),
}

#[derive(Clone, Debug)]
struct Child<L: Layout> {
    low: L::Low,
    count: u64,
    node: Arc<Node<L>>,
}

/// Where a change takes place.
pub(in crate::keyspace) enum Place<'a, L: Layout> {
    /// Where everything lies that the separators do not forbid: the closure says whether a `low` is at or before it.
    By(&'a dyn Fn(&L::Low) -> bool),
    /// The element at this position.
    At(u64),
    /// Before the element at this position, or behind the last.
    Before(u64),
}

/// See the module.
#[derive(Debug)]
pub(in crate::keyspace) struct Tree<L: Layout> {
    root: Node<L>,
    len: u64,
    bytes: i64,
}

/// A leaf, and how many elements are before its first.
type Found<'a> = (&'a Packed, u64);

impl<L: Keyed> Tree<L> {
    /// The element of a key.
    pub(in crate::keyspace) fn find(&self, key: &[u8]) -> Option<&[u8]> {
        let place = place_of(key);
        let ((leaf, _), _) = self.leaf_by(|low| *low <= place);
        Some(&leaf.bytes()[leaf.find::<L>(|element| L::key(element) == key)?])
    }

    /// Puts an element in the place of the one of its key; true if there was none.
    pub(in crate::keyspace) fn put(&mut self, key: &[u8], element: &[u8]) -> bool {
        let place = place_of(key);
        let mut is_new = false;
        self.edit(&Place::By(&|low| *low <= place), |leaf, _| {
            let found = leaf.find::<L>(|element| L::key(element) == key);
            is_new = found.is_none();
            let end = leaf.bytes().len();
            leaf.splice(found.unwrap_or(end..end), element, i32::from(is_new));
        });
        is_new
    }

    /// Removes the element of a key; true if it was there.
    pub(in crate::keyspace) fn take(&mut self, key: &[u8]) -> bool {
        let place = place_of(key);
        let mut removed = false;
        self.edit(&Place::By(&|low| *low <= place), |leaf, _| {
            if let Some(range) = leaf.find::<L>(|element| L::key(element) == key) {
                leaf.splice(range, &[], -1);
                removed = true;
            }
        });
        removed
    }
}

impl<L: Layout> Default for Tree<L> {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Packed::default()),
            len: 0,
            bytes: 0,
        }
    }
}

impl<L: Layout> Clone for Tree<L> {
    /// Shares all but the root, whose copy has no room to spare.
    fn clone(&self) -> Self {
        let root = self.root.clone();
        let bytes = self.bytes - self.root.bytes() + root.bytes();
        let len = self.len;
        Self { root, len, bytes }
    }
}

impl<L: Layout> Node<L> {
    fn len(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.len() as u64,
            Self::Inner(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    /// What it has allocated, without what is below it.
    fn bytes(&self) -> i64 {
        let bytes = match self {
            Self::Leaf(leaf) => leaf.capacity(),
            Self::Inner(children) => {
                let lows: usize = children.iter().map(|child| L::low_bytes(&child.low)).sum();
                children.capacity() * size_of::<Child<L>>() + lows
            }
        };
        bytes as i64
    }

    /// The same, and what it takes itself as a child.
    fn shared_bytes(&self) -> i64 {
        self.bytes() + (NODE_BYTES + size_of::<Self>()) as i64
    }

    fn is_small(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.bytes().len() < LEAF_BYTES / 4,
            Self::Inner(children) => children.len() < FANOUT / 4,
        }
    }

    /// Takes in its right neighbour, if both are small enough for one; true if so.
    fn absorb(&mut self, right: &Self, low: &L::Low) -> bool {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) if left.bytes().len() + right.bytes().len() <= LEAF_BYTES / 4 * 3 => {
                left.append(right);
                true
            }
            (Self::Inner(left), Self::Inner(right)) if left.len() + right.len() <= FANOUT / 4 * 3 => {
                let middle = left.len();
                left.reserve_exact(right.len());
                left.extend_from_slice(right);
                left[middle].low = low.clone();
                true
            }
            _ => false,
        }
    }

    /// Changes the leaf at `place` and gives the nodes that were cut off and belong behind this one.
    fn edit(
        &mut self,
        place: &Place<'_, L>,
        edges: (bool, bool),
        edit: &mut dyn FnMut(&mut Packed, usize),
        bytes: &mut i64,
    ) -> Vec<Child<L>> {
        match self {
            Self::Leaf(leaf) => {
                let offset = match place {
                    Place::By(_) => 0,
                    Place::At(position) | Place::Before(position) => *position as usize,
                };
                edit(leaf, offset);
                let mut cut = Vec::new();
                split_leaf(leaf, edges, &mut cut);
                *bytes += cut.iter().map(|child| child.node.shared_bytes()).sum::<i64>();
                cut
            }
            Self::Inner(children) => {
                let (at, place) = choose(children, place);
                let edges = (edges.0 && at == 0, edges.1 && at + 1 == children.len());
                *bytes -= children[at].node.bytes();
                let node = Arc::make_mut(&mut children[at].node);
                let cut = node.edit(&place, edges, edit, bytes);
                *bytes += node.bytes();
                children[at].count = node.len();
                if !cut.is_empty() {
                    children.reserve_exact(cut.len());
                    children.splice(at + 1..at + 1, cut);
                } else if children[at].count == 0 {
                    *bytes -= children.remove(at).node.shared_bytes();
                } else if children[at].node.is_small() {
                    merge(children, at, bytes);
                }
                let mut cut = Vec::new();
                while children.len() > FANOUT {
                    let keep = if edges.1 { FANOUT } else { children.len() / 2 };
                    let rest = children.split_off(keep);
                    let child = Child::new(rest[0].low.clone(), Self::Inner(rest));
                    *bytes += child.node.shared_bytes();
                    cut.push(child);
                    children.shrink_to_fit();
                }
                cut
            }
        }
    }
}

impl<L: Layout> Child<L> {
    fn new(low: L::Low, node: Node<L>) -> Self {
        Self {
            low,
            count: node.len(),
            node: Arc::new(node),
        }
    }
}

fn split_leaf<L: Layout>(leaf: &mut Packed, edges: (bool, bool), out: &mut Vec<Child<L>>) {
    if !leaf.overflows() {
        return;
    }
    if let Some((low, mut right)) = leaf.split::<L>(edges) {
        // With a long element among them, either half may still be too long.
        split_leaf(leaf, (edges.0, false), out);
        let mut behind = Vec::new();
        split_leaf(&mut right, (false, edges.1), &mut behind);
        out.push(Child::new(low, Node::Leaf(right)));
        out.append(&mut behind);
    }
}

/// The child in which `place` is, and the place as that child counts.
fn choose<'a, L: Layout>(children: &[Child<L>], place: &Place<'a, L>) -> (usize, Place<'a, L>) {
    let last = children.len() - 1;
    match *place {
        Place::By(reaches) => (children[1..].partition_point(|child| reaches(&child.low)), Place::By(reaches)),
        Place::At(position) => {
            let (at, rest) = by_position(children, position, |rest, count| rest < count);
            (at.min(last), Place::At(rest))
        }
        Place::Before(position) => {
            let (at, rest) = by_position(children, position, |rest, count| rest <= count);
            (at.min(last), Place::Before(rest))
        }
    }
}

fn by_position<L: Layout>(children: &[Child<L>], mut position: u64, within: impl Fn(u64, u64) -> bool) -> (usize, u64) {
    for (at, child) in children.iter().enumerate() {
        if within(position, child.count) {
            return (at, position);
        }
        position -= child.count;
    }
    (children.len(), position)
}

/// Joins a small child with a neighbour that has room.
fn merge<L: Layout>(children: &mut Vec<Child<L>>, at: usize, bytes: &mut i64) {
    for left in [at, at.wrapping_sub(1)] {
        let Some([a, b]) = children
            .get_mut(left..left.wrapping_add(2))
            .and_then(|pair| <&mut [_; 2]>::try_from(pair).ok())
        else {
            continue;
        };
        let before = a.node.bytes() + b.node.shared_bytes();
        if Arc::make_mut(&mut a.node).absorb(&b.node, &b.low) {
            *bytes += a.node.bytes() - before;
            a.count += b.count;
            children.remove(left + 1);
            return;
        }
        // Copied in vain: it counts as it is now.
        *bytes += a.node.bytes() + b.node.shared_bytes() - before;
    }
}

impl<L: Layout> Tree<L> {
    pub(in crate::keyspace) fn len(&self) -> u64 {
        self.len
    }

    /// What it has allocated.
    pub(in crate::keyspace) fn heap_bytes(&self) -> u64 {
        u64::try_from(self.bytes).expect("what is allocated is at least nothing")
    }

    /// Its one leaf, if it is so small.
    pub(in crate::keyspace) fn only_leaf(&self) -> Option<&Packed> {
        match &self.root {
            Node::Leaf(leaf) => Some(leaf),
            Node::Inner(_) => None,
        }
    }

    /// Changes a leaf; the closure gets it with the number in it of the element at the place.
    pub(in crate::keyspace) fn edit(&mut self, place: &Place<'_, L>, mut edit: impl FnMut(&mut Packed, usize)) {
        let mut bytes = self.bytes - self.root.bytes();
        let cut = self.root.edit(place, (true, true), &mut edit, &mut bytes);
        if !cut.is_empty() {
            let root = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            bytes += root.shared_bytes();
            let mut children = Vec::with_capacity(cut.len() + 1);
            children.push(Child::new(cut[0].low.clone(), root));
            children.extend(cut);
            self.root = Node::Inner(children);
        }
        while let Node::Inner(children) = &mut self.root
            && children.len() < 2
        {
            self.root = match children.pop() {
                Some(child) => {
                    bytes -= child.node.shared_bytes();
                    Arc::unwrap_or_clone(child.node)
                }
                None => Node::Leaf(Packed::default()),
            };
        }
        self.bytes = bytes + self.root.bytes();
        self.len = self.root.len();
    }

    /// The leaf that holds everything which the separators do not forbid, and the next leaf's `low`.
    pub(in crate::keyspace) fn leaf_by(&self, reaches: impl Fn(&L::Low) -> bool) -> (Found<'_>, Option<&L::Low>) {
        let (mut node, mut before, mut next) = (&self.root, 0, None);
        loop {
            match node {
                Node::Leaf(leaf) => return ((leaf, before), next),
                Node::Inner(children) => {
                    let at = children[1..].partition_point(|child| reaches(&child.low));
                    before += children[..at].iter().map(|child| child.count).sum::<u64>();
                    next = children.get(at + 1).map(|child| &child.low).or(next);
                    node = &children[at].node;
                }
            }
        }
    }

    /// The leaf that holds the element at a position.
    fn leaf_at(&self, position: u64) -> Found<'_> {
        let (mut node, mut rest) = (&self.root, position);
        loop {
            match node {
                Node::Leaf(leaf) => return (leaf, position - rest),
                Node::Inner(children) => {
                    let (at, within) = by_position(children, rest, |rest, count| rest < count);
                    (node, rest) = (&children[at].node, within);
                }
            }
        }
    }

    /// The element at a position below the length.
    pub(in crate::keyspace) fn get(&self, position: u64) -> Option<&[u8]> {
        self.iter(position, 1).next()
    }

    /// Removes `count` elements from a position on; both within the length.
    pub(in crate::keyspace) fn remove(&mut self, position: u64, count: u64) {
        let mut left = count;
        while left > 0 {
            self.edit(&Place::At(position), |leaf, at| {
                let here = left.min((leaf.len() - at) as u64);
                leaf.remove::<L>(at, here as usize);
                left -= here;
            });
        }
    }

    /// At most `count` elements from a position on, forwards.
    pub(in crate::keyspace) fn iter(&self, position: u64, count: u64) -> Iter<'_, L> {
        Iter {
            tree: self,
            position,
            left: count.min(self.len.saturating_sub(position)),
            rest: &[],
        }
    }

    /// At most `count` elements before a position, backwards.
    pub(in crate::keyspace) fn iter_back(&self, position: u64, count: u64) -> IterBack<'_, L> {
        let position = position.min(self.len);
        IterBack {
            tree: self,
            position,
            left: count.min(position),
            elements: Vec::new(),
        }
    }
}

/// See [`Tree::iter`].
#[derive(Debug)]
pub(in crate::keyspace) struct Iter<'a, L: Layout> {
    tree: &'a Tree<L>,
    position: u64,
    left: u64,
    /// What is left of the leaf.
    rest: &'a [u8],
}

impl<'a, L: Layout> Iterator for Iter<'a, L> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        if self.rest.is_empty() {
            let (leaf, before) = self.tree.leaf_at(self.position);
            self.rest = &leaf.bytes()[leaf.offset::<L>((self.position - before) as usize)..];
        }
        let (element, rest) = self.rest.split_at(L::element_len(self.rest));
        self.rest = rest;
        self.position += 1;
        Some(element)
    }
}

/// See [`Tree::iter_back`].
#[derive(Debug)]
pub(in crate::keyspace) struct IterBack<'a, L: Layout> {
    tree: &'a Tree<L>,
    position: u64,
    left: u64,
    /// What is left of the leaf, in order.
    elements: Vec<&'a [u8]>,
}

impl<'a, L: Layout> Iterator for IterBack<'a, L> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        if self.elements.is_empty() {
            let (leaf, before) = self.tree.leaf_at(self.position - 1);
            let here = (self.position - before) as usize;
            self.elements.extend(leaf.elements::<L>().take(here));
        }
        self.position -= 1;
        self.elements.pop()
    }
}

#[cfg(test)]
impl<L: Layout> Tree<L> {
    /// Checks the invariants of the module.
    pub(super) fn check(&self) {
        fn walk<L: Layout>(node: &Node<L>, is_root: bool) -> (u64, i64) {
            match node {
                Node::Leaf(leaf) => {
                    assert!(is_root || leaf.len() > 0);
                    assert_eq!(leaf.elements::<L>().count(), leaf.len());
                    (leaf.len() as u64, node.bytes())
                }
                Node::Inner(children) => {
                    assert!((1..=FANOUT).contains(&children.len()));
                    let (mut len, mut bytes) = (0, node.bytes());
                    for (at, child) in children.iter().enumerate() {
                        let (count, below) = walk(&child.node, false);
                        assert_eq!(count, child.count);
                        len += count;
                        bytes += below + (NODE_BYTES + size_of::<Node<L>>()) as i64;
                        if at > 0 {
                            let (mut first, mut last) = (children[at - 1].low.clone(), child.low.clone());
                            if at == 1 {
                                first = last.clone();
                            }
                            assert!(first <= last);
                            each(&child.node, &mut |element| assert!(L::low(element) >= child.low));
                            last = child.low.clone();
                            each(&children[at - 1].node, &mut |element| {
                                assert!(size_of::<L::Low>() == 0 || L::low(element) < last);
                            });
                        }
                    }
                    (len, bytes)
                }
            }
        }
        fn each<L: Layout>(node: &Node<L>, visit: &mut dyn FnMut(&[u8])) {
            match node {
                Node::Leaf(leaf) => leaf.elements::<L>().for_each(visit),
                Node::Inner(children) => children.iter().for_each(|child| each(&child.node, visit)),
            }
        }
        assert_eq!(walk(&self.root, true), (self.len, self.bytes));
    }
}
