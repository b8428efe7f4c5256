//! Sorted sets: members by score, then by name.
//!
//! The order is one tree. A set that is too large for one leaf has a second tree beside it that finds a member's score; in a
//! small one the leaf is searched.

use super::packed::{Keyed, Ranks, SCORE_LEN, Scores, encode_scored, place_of, score_bytes, score_of, text};
use super::tree::{Place, Tree};
use std::cmp::Ordering;

/// What separates two leaves: the score and the text of the lowest element of the second.
type Lowest = Box<[u8]>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SortedSet {
    pub(super) order: Tree<Ranks>,
    pub(super) scores: Option<Box<Tree<Scores>>>,
}

fn pair(element: &[u8]) -> (&[u8], f64) {
    (text(&element[SCORE_LEN..]), score_of(element))
}

/// How a member with a score compares to a separator or an element, each given as its score and its member.
fn compare(score: &[u8], member: &[u8], other: (&[u8], &[u8])) -> Ordering {
    score.cmp(other.0).then_with(|| member.cmp(other.1))
}

impl SortedSet {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.order.len()
    }

    /// Whether it has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn heap_bytes(&self) -> u64 {
        let index = |tree: &Tree<Scores>| size_of::<Tree<Scores>>() as u64 + tree.heap_bytes();
        self.order.heap_bytes() + self.scores.as_deref().map_or(0, index)
    }

    /// The score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        let element = match &self.scores {
            Some(scores) => scores.find(member)?,
            None => {
                let leaf = self.order.only_leaf()?;
                &leaf.bytes()[leaf.find::<Ranks>(|element| text(&element[SCORE_LEN..]) == member)?]
            }
        };
        Some(score_of(element))
    }

    /// Gives a member a score; true if it is new.
    pub fn insert(&mut self, score: f64, member: &[u8]) -> bool {
        let before = self.score(member);
        if let Some(before) = before {
            if score_bytes(before) == score_bytes(score) {
                return false;
            }
            self.take_from_order(before, member);
        }
        let (key, element) = (score_bytes(score), encode_scored(score, member));
        let reaches = |low: &Lowest| compare(&low[..SCORE_LEN], &low[SCORE_LEN..], (&key, member)) != Ordering::Greater;
        self.order.edit(&Place::By(&reaches), |leaf, _| {
            let after =
                leaf.find::<Ranks>(|other| compare(&other[..SCORE_LEN], text(&other[SCORE_LEN..]), (&key, member)) == Ordering::Greater);
            let at = after.map_or(leaf.bytes().len(), |range| range.start);
            leaf.splice(at..at, &element, 1);
        });
        if let Some(scores) = &mut self.scores {
            scores.put(member, &element);
        } else if self.order.only_leaf().is_none() {
            let mut scores = Box::<Tree<Scores>>::default();
            for element in self.order.iter(0, u64::MAX) {
                scores.put(Scores::key(element), element);
            }
            self.scores = Some(scores);
        }
        before.is_none()
    }

    /// Removes a member; true if it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.score(member) else { return false };
        self.take_from_order(score, member);
        if self.order.only_leaf().is_some() {
            self.scores = None;
        } else if let Some(scores) = &mut self.scores {
            scores.take(member);
        }
        true
    }

    fn take_from_order(&mut self, score: f64, member: &[u8]) {
        let key = score_bytes(score);
        let reaches = |low: &Lowest| compare(&low[..SCORE_LEN], &low[SCORE_LEN..], (&key, member)) != Ordering::Greater;
        self.order.edit(&Place::By(&reaches), |leaf, _| {
            if let Some(range) = leaf.find::<Ranks>(|other| other[..SCORE_LEN] == key && text(&other[SCORE_LEN..]) == member) {
                leaf.splice(range, &[], -1);
            }
        });
    }

    /// Removes `count` members from a rank on; both within the length.
    pub fn remove_ranks(&mut self, rank: u64, count: u64) {
        let members: Vec<Vec<u8>> = self.iter(rank, count).map(|(member, _)| member.to_vec()).collect();
        for member in members {
            self.remove(&member);
        }
    }

    /// How many members are before the first for which `reached` holds; it holds for all behind one for which it does.
    pub fn count_before(&self, reached: impl Fn(f64, &[u8]) -> bool) -> u64 {
        let reaches = |low: &Lowest| !reached(score_of(low), &low[SCORE_LEN..]);
        let ((leaf, before), _) = self.order.leaf_by(reaches);
        let here = leaf.elements::<Ranks>().take_while(|element| {
            let (member, score) = pair(element);
            !reached(score, member)
        });
        before + here.count() as u64
    }

    /// The rank of a member, and its score.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<(u64, f64)> {
        let score = self.score(member)?;
        let key = score_bytes(score);
        let rank = self.count_before(|other, name| compare(&score_bytes(other), name, (&key, member)) != Ordering::Less);
        Some((rank, score))
    }

    /// The member at a rank, and its score.
    #[must_use]
    pub fn at(&self, rank: u64) -> Option<(&[u8], f64)> {
        self.order.get(rank).map(pair)
    }

    /// At most `count` members from a rank on, with their scores.
    pub fn iter(&self, rank: u64, count: u64) -> impl Iterator<Item = (&[u8], f64)> {
        self.order.iter(rank, count).map(pair)
    }

    /// At most `count` members before a rank, backwards.
    pub fn iter_back(&self, rank: u64, count: u64) -> impl Iterator<Item = (&[u8], f64)> {
        self.order.iter_back(rank, count).map(pair)
    }

    /// Gives about `count` members from a cursor on, and the next cursor; 0 begins and ends.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], f64)) -> u64 {
        if let Some(scores) = &self.scores {
            return super::scan(scores, cursor, count, |element| {
                let (member, score) = pair(element);
                visit(member, score);
            });
        }
        for (member, score) in self.iter(0, u64::MAX) {
            if place_of(member) >= cursor {
                visit(member, score);
            }
        }
        0
    }
}
