//! Collections as bytes, in effects, snapshots and dumps: the kind, the number of elements, and the elements as they lie in
//! their leaves.

use super::packed::{SCORE_LEN, score_of};
use super::{Collection, Hash, List, Set, SortedSet};
use crate::keyspace::effect::{EffectError, put_number, take_bytes, take_number};
use bytes::BufMut;

/// Kinds of values; 0 is a string.
const HASH: u8 = 1;
const SET: u8 = 2;
const SORTED_SET: u8 = 3;
const LIST: u8 = 4;

pub(in crate::keyspace) fn kind(collection: &Collection) -> u8 {
    match collection {
        Collection::Hash(_) => HASH,
        Collection::Set(_) => SET,
        Collection::SortedSet(_) => SORTED_SET,
        Collection::List(_) => LIST,
    }
}

/// Elements as they lie in memory.
fn elements(collection: &Collection) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match collection {
        Collection::Hash(hash) => Box::new(hash.tree.iter(0, u64::MAX)),
        Collection::Set(set) => Box::new(set.tree.iter(0, u64::MAX)),
        Collection::SortedSet(set) => Box::new(set.order.iter(0, u64::MAX)),
        Collection::List(list) => Box::new(list.tree.iter(0, u64::MAX)),
    }
}

/// Appends a collection.
pub(in crate::keyspace) fn put_collection(out: &mut impl BufMut, collection: &Collection) {
    out.put_u8(kind(collection));
    put_number(out, collection.len());
    elements(collection).for_each(|element| out.put_slice(element));
}

/// Gives a collection in pieces, each of about `limit` bytes at most, or of one element: the first as [`put_collection`] writes it, and
/// those that [`take_into`] adds to it.
pub(in crate::keyspace) fn put_pieces<E>(
    collection: &Collection,
    limit: usize,
    mut give: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut piece, mut bytes, mut count) = (Vec::new(), Vec::new(), 0u64);
    let mut end = |bytes: &mut Vec<u8>, count: u64| {
        piece.clear();
        piece.push(kind(collection));
        put_number(&mut piece, count);
        piece.append(bytes);
        give(&piece)
    };
    for element in elements(collection) {
        if count > 0 && bytes.len() + element.len() > limit {
            end(&mut bytes, count)?;
            count = 0;
        }
        bytes.extend_from_slice(element);
        count += 1;
    }
    end(&mut bytes, count)
}

/// Reads a collection whose kind was read.
pub(in crate::keyspace) fn take_collection(kind: u8, input: &mut &[u8]) -> Result<Collection, EffectError> {
    let mut collection = match kind {
        HASH => Collection::Hash(Hash::default()),
        SET => Collection::Set(Set::default()),
        SORTED_SET => Collection::SortedSet(SortedSet::default()),
        LIST => Collection::List(List::default()),
        other => return Err(EffectError::Kind(other)),
    };
    take_into(kind, &mut collection, input)?;
    if collection.is_empty() {
        Err(EffectError::Malformed)
    } else {
        Ok(collection)
    }
}

/// Reads elements and adds them.
pub(in crate::keyspace) fn take_into(expected: u8, collection: &mut Collection, input: &mut &[u8]) -> Result<(), EffectError> {
    if kind(collection) != expected {
        return Err(EffectError::Mismatch);
    }
    for _ in 0..take_number(input)? {
        match collection {
            Collection::Hash(hash) => {
                let field = take_bytes(input)?;
                hash.insert(field, take_bytes(input)?);
            }
            Collection::Set(set) => {
                set.insert(take_bytes(input)?);
            }
            Collection::SortedSet(set) => {
                let score = take_score(input)?;
                set.insert(score, take_bytes(input)?);
            }
            Collection::List(list) => list.push(super::End::Right, take_bytes(input)?),
        }
    }
    Ok(())
}

pub(super) fn take_score(input: &mut &[u8]) -> Result<f64, EffectError> {
    let (score, rest) = input.split_at_checked(SCORE_LEN).ok_or(EffectError::Malformed)?;
    *input = rest;
    let score = score_of(score);
    if score.is_nan() { Err(EffectError::Malformed) } else { Ok(score) }
}
