//! Small changes to what a key holds: what the log carries in place of a whole value.
//!
//! An update is decided on the primary and applied by the same code everywhere. One that does not fit what the key holds changes
//! nothing and says so. Encoding: kind u8 (in the effect), key, then the fields below; texts and numbers as in effects.

use super::codec::take_score;
use super::packed::score_bytes;
use super::{Collection, End, Hash, List, Set, SortedSet};
use crate::keyspace::effect::{EffectError, put_bytes, put_number, take_byte, take_bytes, take_number};
use bytes::BufMut;

/// Kinds of effects. Never used for anything else again.
const HASH_SET: u8 = 5;
const HASH_REMOVE: u8 = 6;
const SET_ADD: u8 = 7;
const SET_REMOVE: u8 = 8;
const SORTED_SET_ADD: u8 = 9;
const SORTED_SET_REMOVE: u8 = 10;
const SORTED_SET_REMOVE_RANKS: u8 = 11;
const LIST_PUSH: u8 = 12;
const LIST_SET: u8 = 13;
const LIST_INSERT: u8 = 14;
const LIST_REMOVE: u8 = 15;
const LIST_REMOVE_EACH: u8 = 16;
const STRING_WRITE: u8 = 17;

/// See the module. Those that add make the key if it does not exist; a key goes with its last element.
#[derive(Clone, Debug, PartialEq)]
pub enum Update<'a> {
    /// Gives fields values.
    HashSet(Vec<(&'a [u8], &'a [u8])>),
    /// Removes fields.
    HashRemove(Vec<&'a [u8]>),
    /// Adds members.
    SetAdd(Vec<&'a [u8]>),
    /// Removes members.
    SetRemove(Vec<&'a [u8]>),
    /// Gives members scores.
    SortedSetAdd(Vec<(f64, &'a [u8])>),
    /// Removes members.
    SortedSetRemove(Vec<&'a [u8]>),
    /// Removes the members from a rank on.
    SortedSetRemoveRanks {
        /// The first.
        rank: u64,
        /// How many.
        count: u64,
    },
    /// Adds elements at an end, one after the other.
    ListPush {
        /// Where.
        end: End,
        /// What.
        values: Vec<&'a [u8]>,
    },
    /// Replaces an element.
    ListSet {
        /// Which.
        position: u64,
        /// By what.
        value: &'a [u8],
    },
    /// Adds an element before another, or behind the last.
    ListInsert {
        /// Before which.
        position: u64,
        /// What.
        value: &'a [u8],
    },
    /// Removes the elements from a position on.
    ListRemove {
        /// The first.
        position: u64,
        /// How many.
        count: u64,
    },
    /// Removes elements one by one.
    ListRemoveEach(
        /// Their positions before the change, ascending.
        Vec<u64>,
    ),
    /// Overwrites a part of a string, which grows if it is too short.
    StringWrite {
        /// Where; at most the string's length.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
}

impl<'a> Update<'a> {
    /// About how long it is in an entry, its key aside.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let texts = |texts: &[&[u8]]| texts.iter().map(|text| text.len() + 10).sum();
        match self {
            Self::HashSet(pairs) => pairs.iter().map(|(field, value)| field.len() + value.len() + 20).sum(),
            Self::SortedSetAdd(pairs) => pairs.iter().map(|(_, member)| member.len() + 18).sum(),
            Self::HashRemove(list) | Self::SetAdd(list) | Self::SetRemove(list) | Self::SortedSetRemove(list) => texts(list),
            Self::ListPush { end: _, values } => texts(values),
            Self::ListSet { position: _, value } | Self::ListInsert { position: _, value } => value.len() + 20,
            Self::ListRemove { .. } | Self::SortedSetRemoveRanks { .. } => 20,
            Self::ListRemoveEach(positions) => positions.len() * 10,
            Self::StringWrite { offset: _, bytes } => bytes.len() + 20,
        }
    }

    /// Appends it as an effect on `key`.
    pub(in crate::keyspace) fn encode(&self, key: &[u8], out: &mut impl BufMut) {
        out.put_u8(self.kind());
        put_bytes(out, key);
        match self {
            Self::HashSet(pairs) => {
                put_number(out, pairs.len() as u64);
                for (field, value) in pairs {
                    put_bytes(out, field);
                    put_bytes(out, value);
                }
            }
            Self::SortedSetAdd(pairs) => {
                put_number(out, pairs.len() as u64);
                for (score, member) in pairs {
                    out.put_slice(&score_bytes(*score));
                    put_bytes(out, member);
                }
            }
            Self::HashRemove(texts) | Self::SetAdd(texts) | Self::SetRemove(texts) | Self::SortedSetRemove(texts) => put_texts(out, texts),
            Self::ListPush { end, values } => {
                out.put_u8(u8::from(*end == End::Right));
                put_texts(out, values);
            }
            Self::ListSet { position, value } | Self::ListInsert { position, value } => {
                put_number(out, *position);
                put_bytes(out, value);
            }
            Self::ListRemove { position, count } | Self::SortedSetRemoveRanks { rank: position, count } => {
                put_number(out, *position);
                put_number(out, *count);
            }
            Self::ListRemoveEach(positions) => {
                put_number(out, positions.len() as u64);
                positions.iter().for_each(|position| put_number(out, *position));
            }
            Self::StringWrite { offset, bytes } => {
                put_number(out, *offset);
                put_bytes(out, bytes);
            }
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::HashSet(_) => HASH_SET,
            Self::HashRemove(_) => HASH_REMOVE,
            Self::SetAdd(_) => SET_ADD,
            Self::SetRemove(_) => SET_REMOVE,
            Self::SortedSetAdd(_) => SORTED_SET_ADD,
            Self::SortedSetRemove(_) => SORTED_SET_REMOVE,
            Self::SortedSetRemoveRanks { .. } => SORTED_SET_REMOVE_RANKS,
            Self::ListPush { .. } => LIST_PUSH,
            Self::ListSet { .. } => LIST_SET,
            Self::ListInsert { .. } => LIST_INSERT,
            Self::ListRemove { .. } => LIST_REMOVE,
            Self::ListRemoveEach(_) => LIST_REMOVE_EACH,
            Self::StringWrite { .. } => STRING_WRITE,
        }
    }

    /// Reads one whose kind and key were read.
    pub(in crate::keyspace) fn decode(kind: u8, input: &mut &'a [u8]) -> Result<Self, EffectError> {
        Ok(match kind {
            HASH_SET => Self::HashSet(take_each(input, |input| Ok((take_bytes(input)?, take_bytes(input)?)))?),
            HASH_REMOVE => Self::HashRemove(take_each(input, take_bytes)?),
            SET_ADD => Self::SetAdd(take_each(input, take_bytes)?),
            SET_REMOVE => Self::SetRemove(take_each(input, take_bytes)?),
            SORTED_SET_ADD => Self::SortedSetAdd(take_each(input, |input| Ok((take_score(input)?, take_bytes(input)?)))?),
            SORTED_SET_REMOVE => Self::SortedSetRemove(take_each(input, take_bytes)?),
            SORTED_SET_REMOVE_RANKS => Self::SortedSetRemoveRanks {
                rank: take_number(input)?,
                count: take_number(input)?,
            },
            LIST_PUSH => Self::ListPush {
                end: match take_byte(input)? {
                    0 => End::Left,
                    1 => End::Right,
                    _ => return Err(EffectError::Malformed),
                },
                values: take_each(input, take_bytes)?,
            },
            LIST_SET => Self::ListSet {
                position: take_number(input)?,
                value: take_bytes(input)?,
            },
            LIST_INSERT => Self::ListInsert {
                position: take_number(input)?,
                value: take_bytes(input)?,
            },
            LIST_REMOVE => Self::ListRemove {
                position: take_number(input)?,
                count: take_number(input)?,
            },
            LIST_REMOVE_EACH => Self::ListRemoveEach(take_each(input, take_number)?),
            STRING_WRITE => Self::StringWrite {
                offset: take_number(input)?,
                bytes: take_bytes(input)?,
            },
            other => return Err(EffectError::Kind(other)),
        })
    }

    /// What it makes where there is no key; None for one that only removes or overwrites.
    pub(in crate::keyspace) fn origin(&self) -> Option<Collection> {
        match self {
            Self::HashSet(pairs) if !pairs.is_empty() => Some(Collection::Hash(Hash::default())),
            Self::SetAdd(members) if !members.is_empty() => Some(Collection::Set(Set::default())),
            Self::SortedSetAdd(pairs) if !pairs.is_empty() => Some(Collection::SortedSet(SortedSet::default())),
            Self::ListPush { end: _, values } if !values.is_empty() => Some(Collection::List(List::default())),
            _ => None,
        }
    }

    /// Whether it can be applied to a collection.
    pub(in crate::keyspace) fn fits(&self, collection: &Collection) -> bool {
        let within = |len: u64, position: u64, count: u64| position.checked_add(count).is_some_and(|end| end <= len);
        match (self, collection) {
            (Self::HashSet(_) | Self::HashRemove(_), Collection::Hash(_))
            | (Self::SetAdd(_) | Self::SetRemove(_), Collection::Set(_))
            | (Self::SortedSetAdd(_) | Self::SortedSetRemove(_), Collection::SortedSet(_))
            | (Self::ListPush { .. }, Collection::List(_)) => true,
            (Self::SortedSetRemoveRanks { rank, count }, Collection::SortedSet(set)) => within(set.len(), *rank, *count),
            (Self::ListSet { position, value: _ }, Collection::List(list)) => within(list.len(), *position, 1),
            (Self::ListInsert { position, value: _ }, Collection::List(list)) => *position <= list.len(),
            (Self::ListRemove { position, count }, Collection::List(list)) => within(list.len(), *position, *count),
            (Self::ListRemoveEach(positions), Collection::List(list)) => {
                positions.is_sorted_by(|a, b| a < b) && positions.last().is_none_or(|last| *last < list.len())
            }
            _ => false,
        }
    }

    /// Applies it to a collection that it fits; gives how many elements came or went.
    pub(in crate::keyspace) fn apply(&self, collection: &mut Collection) -> u64 {
        let before = collection.len();
        match (self, &mut *collection) {
            (Self::HashSet(pairs), Collection::Hash(hash)) => {
                for (field, value) in pairs {
                    hash.insert(field, value);
                }
            }
            (Self::HashRemove(fields), Collection::Hash(hash)) => {
                for field in fields {
                    hash.remove(field);
                }
            }
            (Self::SetAdd(members), Collection::Set(set)) => {
                for member in members {
                    set.insert(member);
                }
            }
            (Self::SetRemove(members), Collection::Set(set)) => {
                for member in members {
                    set.remove(member);
                }
            }
            (update, Collection::SortedSet(set)) => update.apply_to_sorted_set(set),
            (update, Collection::List(list)) => update.apply_to_list(list),
            _ => {}
        }
        before.abs_diff(collection.len())
    }

    fn apply_to_sorted_set(&self, set: &mut SortedSet) {
        match self {
            Self::SortedSetAdd(pairs) => {
                for (score, member) in pairs {
                    set.insert(*score, member);
                }
            }
            Self::SortedSetRemove(members) => {
                for member in members {
                    set.remove(member);
                }
            }
            Self::SortedSetRemoveRanks { rank, count } => set.remove_ranks(*rank, *count),
            _ => {}
        }
    }

    fn apply_to_list(&self, list: &mut List) {
        match self {
            Self::ListPush { end, values } => values.iter().for_each(|value| list.push(*end, value)),
            Self::ListSet { position, value } => list.set(*position, value),
            Self::ListInsert { position, value } => list.insert(*position, value),
            Self::ListRemove { position, count } => list.remove(*position, *count),
            Self::ListRemoveEach(positions) => positions.iter().rev().for_each(|position| list.remove(*position, 1)),
            _ => {}
        }
    }
}

fn put_texts(out: &mut impl BufMut, texts: &[&[u8]]) {
    put_number(out, texts.len() as u64);
    texts.iter().for_each(|text| put_bytes(out, text));
}

/// Every item takes a byte at least: a wrong number of them ends with the input.
fn take_each<'a, T>(input: &mut &'a [u8], take: impl Fn(&mut &'a [u8]) -> Result<T, EffectError>) -> Result<Vec<T>, EffectError> {
    let count = take_number(input)?;
    if count > input.len() as u64 {
        return Err(EffectError::Malformed);
    }
    (0..count).map(|_| take(input)).collect()
}
