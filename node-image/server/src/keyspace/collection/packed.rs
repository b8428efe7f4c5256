//! Elements packed one behind the other in one allocation, and how they are laid out.
//!
//! What an element looks like in memory is what it looks like in effects, snapshots and dumps: a leaf is written as it
//! lies there. A text is its length as LEB128, then its bytes; a score is eight bytes whose order as bytes is that of the numbers.

use crate::keyspace::effect::{put_number, take_bytes};
use std::fmt::Debug;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// How the elements of a tree are laid out and ordered.
pub(in crate::keyspace) trait Layout: Debug + Clone + 'static {
    /// What tells the subtrees apart.
    type Low: Clone + Debug + PartialOrd + PartialEq;
    /// Elements of a leaf lie in the tree's order; else a leaf keeps the order of insertion, and only leaves are ordered.
    const SORTED: bool;
    /// Length of the element that `bytes` begins with.
    fn element_len(bytes: &[u8]) -> usize;
    /// Where an element belongs.
    fn low(element: &[u8]) -> Self::Low;
    /// What a `Low` has allocated.
    fn low_bytes(_: &Self::Low) -> usize {
        0
    }
}

/// Elements that are found by a text of theirs, and ordered by its hash.
pub(in crate::keyspace) trait Keyed: Layout<Low = u64> {
    /// That text.
    fn key(element: &[u8]) -> &[u8];
}

/// Members of a set, ordered by hash.
#[derive(Clone, Debug)]
pub(in crate::keyspace) enum Members {}
/// Fields of a hash and their values, ordered by hash.
#[derive(Clone, Debug)]
pub(in crate::keyspace) enum Fields {}
/// Scores of members, ordered by hash.
#[derive(Clone, Debug)]
pub(in crate::keyspace) enum Scores {}
/// Members by score, then by name.
#[derive(Clone, Debug)]
pub(in crate::keyspace) enum Ranks {}
/// Elements in the order that they were given.
#[derive(Clone, Debug)]
pub(in crate::keyspace) enum Sequence {}

impl Layout for Members {
    type Low = u64;
    const SORTED: bool = false;
    fn element_len(bytes: &[u8]) -> usize {
        text_len(bytes)
    }
    fn low(element: &[u8]) -> u64 {
        place_of(Self::key(element))
    }
}

impl Keyed for Members {
    fn key(element: &[u8]) -> &[u8] {
        text(element)
    }
}

impl Layout for Fields {
    type Low = u64;
    const SORTED: bool = false;
    fn element_len(bytes: &[u8]) -> usize {
        let field = text_len(bytes);
        field + text_len(&bytes[field..])
    }
    fn low(element: &[u8]) -> u64 {
        place_of(Self::key(element))
    }
}

impl Keyed for Fields {
    fn key(element: &[u8]) -> &[u8] {
        text(element)
    }
}

impl Layout for Scores {
    type Low = u64;
    const SORTED: bool = false;
    fn element_len(bytes: &[u8]) -> usize {
        SCORE_LEN + text_len(&bytes[SCORE_LEN..])
    }
    fn low(element: &[u8]) -> u64 {
        place_of(Self::key(element))
    }
}

impl Keyed for Scores {
    fn key(element: &[u8]) -> &[u8] {
        text(&element[SCORE_LEN..])
    }
}

impl Layout for Ranks {
    /// The whole element.
    type Low = Box<[u8]>;
    const SORTED: bool = true;
    fn element_len(bytes: &[u8]) -> usize {
        SCORE_LEN + text_len(&bytes[SCORE_LEN..])
    }
    fn low(element: &[u8]) -> Box<[u8]> {
        let mut low = element[..SCORE_LEN].to_vec();
        low.extend_from_slice(text(&element[SCORE_LEN..]));
        low.into()
    }
    fn low_bytes(low: &Box<[u8]>) -> usize {
        low.len()
    }
}

impl Layout for Sequence {
    type Low = ();
    const SORTED: bool = true;
    fn element_len(bytes: &[u8]) -> usize {
        text_len(bytes)
    }
    fn low(_: &[u8]) {}
}

/// Bytes of a score.
pub(in crate::keyspace) const SCORE_LEN: usize = 8;

/// A member's place in the order of hashes: the same on every node, and small enough for every client's numbers.
pub(in crate::keyspace) fn place_of(member: &[u8]) -> u64 {
    xxh3_64(member) >> 16
}

/// Bytes whose order is that of the numbers; there is one zero.
pub(in crate::keyspace) fn score_bytes(score: f64) -> [u8; SCORE_LEN] {
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    ordered.to_be_bytes()
}

/// The inverse of [`score_bytes`].
pub(in crate::keyspace) fn score_of(bytes: &[u8]) -> f64 {
    let ordered = u64::from_be_bytes(bytes[..SCORE_LEN].try_into().expect("a score has eight bytes"));
    f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered })
}

/// The text that `bytes` begins with.
pub(in crate::keyspace) fn text(mut bytes: &[u8]) -> &[u8] {
    if let Some((&length, rest)) = bytes.split_first()
        && length < 0x80
    {
        return &rest[..usize::from(length)];
    }
    take_bytes(&mut bytes).expect("elements are whole in their leaf")
}

/// Its length with its header.
pub(in crate::keyspace) fn text_len(bytes: &[u8]) -> usize {
    let text = text(bytes);
    text.as_ptr().addr() - bytes.as_ptr().addr() + text.len()
}

/// What a leaf grows to before it is cut, unless one element is longer.
pub(super) const LEAF_BYTES: usize = 1024;
/// Above this, capacity follows length.
const SPACIOUS_BYTES: usize = 4096;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(in crate::keyspace) struct Packed {
    bytes: Vec<u8>,
    count: u32,
}

impl Packed {
    pub(in crate::keyspace) fn len(&self) -> usize {
        self.count as usize
    }

    pub(in crate::keyspace) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn overflows(&self) -> bool {
        self.bytes.len() > LEAF_BYTES && self.count > 1
    }

    pub(in crate::keyspace) fn elements<L: Layout>(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (element, after) = rest.split_at(L::element_len(rest));
            rest = after;
            Some(element)
        })
    }

    /// Where the first element begins and ends of which `fits` holds.
    pub(in crate::keyspace) fn find<L: Layout>(&self, fits: impl Fn(&[u8]) -> bool) -> Option<Range<usize>> {
        let mut at = 0;
        while at < self.bytes.len() {
            let end = at + L::element_len(&self.bytes[at..]);
            if fits(&self.bytes[at..end]) {
                return Some(at..end);
            }
            at = end;
        }
        None
    }

    /// Where the `number`th element begins; the end for the one behind the last.
    pub(in crate::keyspace) fn offset<L: Layout>(&self, number: usize) -> usize {
        if number == self.len() {
            return self.bytes.len();
        }
        self.elements::<L>().take(number).map(<[u8]>::len).sum()
    }

    /// Puts an element, given as its pieces, in place of `range`; `more` is how many elements there are more.
    pub(in crate::keyspace) fn splice(&mut self, range: Range<usize>, element: &[u8], more: i32) {
        let length = self.bytes.len() - range.len() + element.len();
        if length > self.bytes.capacity() {
            let room = if length > SPACIOUS_BYTES { length } else { length + length / 8 };
            self.bytes.reserve_exact(room.next_multiple_of(16) - self.bytes.len());
        }
        let tail = range.start + element.len();
        if tail <= range.end {
            self.bytes[range.start..tail].copy_from_slice(element);
            self.bytes.drain(tail..range.end);
        } else {
            let (old, grown) = (self.bytes.len(), tail - range.end);
            self.bytes.resize(length, 0);
            self.bytes.copy_within(range.end..old, range.end + grown);
            self.bytes[range.start..tail].copy_from_slice(element);
        }
        self.count = self
            .count
            .checked_add_signed(more)
            .expect("no more elements are taken than there are");
        if length < self.bytes.capacity() / 2 {
            self.bytes.shrink_to((length + length / 8).next_multiple_of(16));
        }
    }

    /// Removes `count` elements from the `first`th on.
    pub(super) fn remove<L: Layout>(&mut self, first: usize, count: usize) {
        let from = self.offset::<L>(first);
        let to = if first + count == self.len() {
            self.bytes.len()
        } else {
            from + (self.elements::<L>().skip(first).take(count).map(<[u8]>::len).sum::<usize>())
        };
        let less = i32::try_from(count).expect("a leaf has fewer elements than its bytes");
        self.splice(from..to, &[], -less);
    }

    /// Adds the elements of one that belongs behind it.
    pub(super) fn append(&mut self, other: &Self) {
        let end = self.bytes.len();
        let more = i32::try_from(other.count).expect("a leaf has fewer elements than its bytes");
        self.splice(end..end, &other.bytes, more);
    }

    /// Cuts it in two, the second with what its elements are at or above; None if it cannot be cut.
    /// `edges`: it is the first leaf, the last leaf. Where a sequence grows at an end, leaves behind are left full.
    pub(super) fn split<L: Layout>(&mut self, edges: (bool, bool)) -> Option<(L::Low, Self)> {
        if L::SORTED {
            self.split_in_order::<L>(edges)
        } else {
            self.split_by_place::<L>()
        }
    }

    fn split_in_order<L: Layout>(&mut self, (first, last): (bool, bool)) -> Option<(L::Low, Self)> {
        let total = self.bytes.len();
        let (mut at, mut number) = (0, 0);
        for element in self.elements::<L>() {
            let next = at + element.len();
            let enough = if last {
                next > LEAF_BYTES
            } else if first {
                total - at <= LEAF_BYTES
            } else {
                at >= total / 2
            };
            if number > 0 && (enough || number + 1 == self.len()) {
                break;
            }
            (at, number) = (next, number + 1);
        }
        if number == 0 || number == self.len() {
            return None;
        }
        let tail = self.bytes[at..].to_vec();
        let right = Self {
            bytes: tail,
            count: self.count - number as u32,
        };
        let low = L::low(&right.bytes[..L::element_len(&right.bytes)]);
        self.remove::<L>(number, right.len());
        Some((low, right))
    }

    fn split_by_place<L: Layout>(&mut self) -> Option<(L::Low, Self)> {
        let mut places: Vec<(L::Low, usize)> = self.elements::<L>().map(|element| (L::low(element), element.len())).collect();
        places.sort_by(|a, b| a.0.partial_cmp(&b.0).expect("places are numbers"));
        let (total, mut below) = (self.bytes.len(), 0);
        let mut pivot = None;
        for pair in places.windows(2) {
            below += pair[0].1;
            if pair[0].0 != pair[1].0 {
                pivot = Some(pair[1].0.clone());
                if below >= total / 2 {
                    break;
                }
            }
        }
        let pivot = pivot?;
        let (mut left, mut right) = (Self::default(), Self::default());
        for element in self.elements::<L>() {
            let side = if L::low(element) < pivot { &mut left } else { &mut right };
            side.bytes.extend_from_slice(element);
            side.count += 1;
        }
        left.bytes.shrink_to_fit();
        right.bytes.shrink_to_fit();
        *self = left;
        Some((pivot, right))
    }
}

/// An element of one text.
pub(in crate::keyspace) fn encode_text(text: &[u8]) -> Element {
    let mut element = Element::new();
    put_text(&mut element, text);
    element
}

/// An element of a field and its value.
pub(in crate::keyspace) fn encode_pair(field: &[u8], value: &[u8]) -> Element {
    let mut element = encode_text(field);
    put_text(&mut element, value);
    element
}

/// An element of a score and a member.
pub(in crate::keyspace) fn encode_scored(score: f64, member: &[u8]) -> Element {
    let mut element = Element::new();
    element.extend_from_slice(&score_bytes(score));
    put_text(&mut element, member);
    element
}

/// An element on its way into a leaf.
pub(in crate::keyspace) type Element = smallvec::SmallVec<[u8; 120]>;

/// Longest length before a text.
const MAX_HEADER: usize = 10;

fn put_text(element: &mut Element, text: &[u8]) {
    let mut header = [0u8; MAX_HEADER];
    let mut rest = &mut header[..];
    put_number(&mut rest, text.len() as u64);
    let used = MAX_HEADER - rest.len();
    element.extend_from_slice(&header[..used]);
    element.extend_from_slice(text);
}
