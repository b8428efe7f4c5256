//! Lists: elements in order. Nothing here waits for an element to come.

use super::call::{Call, Done, NO_SUCH_KEY, NOT_POSITIVE, Refusal, SYNTAX, check_reply, find};
use super::options::{counted_keys, pop_count};
use crate::keyspace::{End, List, Update};
use bytes::Bytes;

const INDEX_OUT_OF_RANGE: Refusal = Refusal::Borrowed("ERR index out of range");

fn push(call: &mut Call<'_, '_>, end: End, only_if_there: bool) -> Done {
    let args = call.args;
    let list = call.collection::<List>(&args[1])?;
    let before = list.map_or(0, List::len);
    if list.is_none() && only_if_there {
        call.reply.integer(0);
        return Ok(());
    }
    let values = args[2..].iter().map(|value| &value[..]).collect();
    let added = call.update(&args[1], &Update::ListPush { end, values })?;
    call.reply.integer((before + added) as i64);
    Ok(())
}

pub(super) fn lpush(call: &mut Call<'_, '_>) -> Done {
    push(call, End::Left, false)
}

pub(super) fn rpush(call: &mut Call<'_, '_>) -> Done {
    push(call, End::Right, false)
}

pub(super) fn lpushx(call: &mut Call<'_, '_>) -> Done {
    push(call, End::Left, true)
}

pub(super) fn rpushx(call: &mut Call<'_, '_>) -> Done {
    push(call, End::Right, true)
}

/// Replies with `count` elements from an end on, the nearest first, and removes them.
fn take(call: &mut Call<'_, '_>, key: &Bytes, end: End, count: u64) -> Done {
    let Some(list) = find::<List>(call.context, call.slot, key)? else {
        return Ok(());
    };
    let length = list.len();
    let count = count.min(length);
    call.reply.array(count as usize);
    let elements: Box<dyn Iterator<Item = &[u8]>> = match end {
        End::Left => Box::new(list.iter(0, count)),
        End::Right => Box::new(list.iter_back(length, count)),
    };
    for element in elements {
        call.reply.bulk(element);
        check_reply(&mut call.reply, call.begin)?;
    }
    remove_at(call, key, end, length, count)
}

fn remove_at(call: &mut Call<'_, '_>, key: &[u8], end: End, length: u64, count: u64) -> Done {
    let position = if end == End::Left { 0 } else { length - count };
    if count > 0 {
        call.update(key, &Update::ListRemove { position, count })?;
    }
    Ok(())
}

fn pop(call: &mut Call<'_, '_>, end: End) -> Done {
    let args = call.args;
    let count = match args.len() {
        2 => None,
        3 => Some(call.at_least(2, 0, NOT_POSITIVE)?),
        _ => return Err(call.wrong_arguments()),
    };
    let Some(list) = find::<List>(call.context, call.slot, &args[1])? else {
        match count {
            None => call.reply.null(),
            Some(_) => call.reply.null_array(),
        }
        return Ok(());
    };
    let length = list.len();
    match count {
        Some(count) => take(call, &args[1], end, count),
        None => {
            call.reply.bulk_or_null(list.get(if end == End::Left { 0 } else { length - 1 }));
            remove_at(call, &args[1], end, length, 1)
        }
    }
}

pub(super) fn lpop(call: &mut Call<'_, '_>) -> Done {
    pop(call, End::Left)
}

pub(super) fn rpop(call: &mut Call<'_, '_>) -> Done {
    pop(call, End::Right)
}

pub(super) fn llen(call: &mut Call<'_, '_>) -> Done {
    let length = call.collection::<List>(&call.args[1])?.map_or(0, List::len);
    call.reply.integer(length as i64);
    Ok(())
}

/// The positions from `start` to `end`, both included and from the end if negative: the first, and how many.
pub(super) fn range(start: i64, end: i64, length: u64) -> (u64, u64) {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = (place(start).max(0), place(end).min(length - 1));
    if start > end || start >= length {
        return (0, 0);
    }
    (start.unsigned_abs(), (end - start + 1).unsigned_abs())
}

pub(super) fn lrange(call: &mut Call<'_, '_>) -> Done {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let list = find::<List>(call.context, call.slot, &call.args[1])?;
    let (first, count) = range(start, end, list.map_or(0, List::len));
    call.reply.array(count as usize);
    for element in list.into_iter().flat_map(|list| list.iter(first, count)) {
        call.reply.bulk(element);
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

fn position(index: i64, length: u64) -> Option<u64> {
    let at = if index < 0 { index.checked_add_unsigned(length)? } else { index };
    u64::try_from(at).ok().filter(|at| *at < length)
}

pub(super) fn lindex(call: &mut Call<'_, '_>) -> Done {
    let Some(list) = find::<List>(call.context, call.slot, &call.args[1])? else {
        call.reply.null();
        return Ok(());
    };
    let position = position(call.integer(2)?, list.len());
    call.reply.bulk_or_null(position.and_then(|position| list.get(position)));
    Ok(())
}

pub(super) fn lset(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let length = call.collection::<List>(&args[1])?.ok_or(NO_SUCH_KEY)?.len();
    let position = position(call.integer(2)?, length).ok_or(INDEX_OUT_OF_RANGE)?;
    call.update(&args[1], &Update::ListSet { position, value: &args[3] })?;
    call.reply.ok();
    Ok(())
}

pub(super) fn linsert(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let after = match call.word(2).as_str() {
        "BEFORE" => 0,
        "AFTER" => 1,
        _ => return Err(SYNTAX),
    };
    let Some(list) = call.collection::<List>(&args[1])? else {
        call.reply.integer(0);
        return Ok(());
    };
    let length = list.len();
    let Some(at) = list.iter(0, u64::MAX).position(|element| *element == args[3]) else {
        call.reply.integer(-1);
        return Ok(());
    };
    let position = at as u64 + after;
    call.update(&args[1], &Update::ListInsert { position, value: &args[4] })?;
    call.reply.integer(length as i64 + 1);
    Ok(())
}

pub(super) fn lrem(call: &mut Call<'_, '_>) -> Done {
    let (args, count) = (call.args, call.negatable(2)?);
    let mut positions = Vec::new();
    if let Some(list) = call.collection::<List>(&args[1])? {
        let most = if count == 0 {
            usize::MAX
        } else {
            usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX)
        };
        let wanted = |(at, element): (u64, &[u8])| (*element == args[3]).then_some(at);
        if count < 0 {
            let length = list.len();
            positions.extend((0..length).rev().zip(list.iter_back(length, length)).filter_map(wanted).take(most));
            positions.reverse();
        } else {
            positions.extend((0..).zip(list.iter(0, u64::MAX)).filter_map(wanted).take(most));
        }
    }
    let removed = positions.len();
    if removed > 0 {
        call.update(&args[1], &Update::ListRemoveEach(positions))?;
    }
    call.reply.count(removed);
    Ok(())
}

pub(super) fn ltrim(call: &mut Call<'_, '_>) -> Done {
    let (args, start, end) = (call.args, call.integer(2)?, call.integer(3)?);
    if let Some(list) = call.collection::<List>(&args[1])? {
        let length = list.len();
        let (first, count) = range(start, end, length);
        if count == 0 {
            call.delete(&args[1]);
        } else {
            // The tail first: positions before it stay.
            remove_at(call, &args[1], End::Right, length, length - first - count)?;
            remove_at(call, &args[1], End::Left, first + count, first)?;
        }
    }
    call.reply.ok();
    Ok(())
}

#[derive(Debug)]
struct Search {
    rank: i64,
    /// How many positions; 0 for all, None for one that is not in an array.
    count: Option<u64>,
    /// Comparisons at most; 0 for any number.
    comparisons: u64,
}

fn search(call: &Call<'_, '_>) -> Result<Search, Refusal> {
    let mut search = Search {
        rank: 1,
        count: None,
        comparisons: 0,
    };
    for at in (3..call.args.len()).step_by(2) {
        if at + 1 == call.args.len() {
            return Err(SYNTAX);
        }
        match call.word(at).as_str() {
            "RANK" => {
                search.rank = call.negatable(at + 1)?;
                if search.rank == 0 {
                    return Err("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list".into());
                }
            }
            "COUNT" => search.count = Some(call.at_least(at + 1, 0, "ERR COUNT can't be negative")?),
            "MAXLEN" => search.comparisons = call.at_least(at + 1, 0, "ERR MAXLEN can't be negative")?,
            _ => return Err(SYNTAX),
        }
    }
    Ok(search)
}

pub(super) fn lpos(call: &mut Call<'_, '_>) -> Done {
    let (args, search) = (call.args, search(call)?);
    let mut found = Vec::new();
    if let Some(list) = call.collection::<List>(&args[1])? {
        let length = list.len();
        let compared = if search.comparisons == 0 {
            length
        } else {
            search.comparisons.min(length)
        };
        let elements: Box<dyn Iterator<Item = (u64, &[u8])>> = if search.rank > 0 {
            Box::new((0..).zip(list.iter(0, compared)))
        } else {
            Box::new((0..length).rev().zip(list.iter_back(length, compared)))
        };
        let most = search.count.map_or(1, |count| if count == 0 { u64::MAX } else { count });
        let skipped = usize::try_from(search.rank.unsigned_abs() - 1).unwrap_or(usize::MAX);
        let matching = elements.filter(|(_, element)| *element == args[2]).skip(skipped);
        found.extend(matching.map(|(at, _)| at).take(usize::try_from(most).unwrap_or(usize::MAX)));
    }
    match search.count {
        None => match found.first() {
            Some(at) => call.reply.integer(*at as i64),
            None => call.reply.null(),
        },
        Some(_) => {
            call.reply.array(found.len());
            for at in found {
                call.reply.integer(at as i64);
            }
        }
    }
    Ok(())
}

fn end(call: &Call<'_, '_>, at: usize) -> Result<End, Refusal> {
    match call.word(at).as_str() {
        "LEFT" => Ok(End::Left),
        "RIGHT" => Ok(End::Right),
        _ => Err(SYNTAX),
    }
}

fn move_element(call: &mut Call<'_, '_>, from: End, to: End) -> Done {
    let args = call.args;
    let Some(list) = call.collection::<List>(&args[1])? else {
        call.reply.null();
        return Ok(());
    };
    let length = list.len();
    let element = list
        .get(if from == End::Left { 0 } else { length - 1 })
        .map(<[u8]>::to_vec)
        .unwrap_or_default();
    call.collection::<List>(&args[2])?;
    if args[1] == args[2] && (from == to || length == 1) {
        // It comes back to where it was.
        call.reply.bulk(&element);
        return Ok(());
    }
    let values = vec![&element[..]];
    call.update(&args[2], &Update::ListPush { end: to, values })?;
    // In the same list, a push at its head moves the tail on.
    let grown = length + u64::from(args[1] == args[2]);
    remove_at(call, &args[1], from, grown, 1)?;
    call.reply.bulk(&element);
    Ok(())
}

pub(super) fn lmove(call: &mut Call<'_, '_>) -> Done {
    let (from, to) = (end(call, 3)?, end(call, 4)?);
    move_element(call, from, to)
}

pub(super) fn rpoplpush(call: &mut Call<'_, '_>) -> Done {
    move_element(call, End::Right, End::Left)
}

pub(super) fn lmpop(call: &mut Call<'_, '_>) -> Done {
    let keys = counted_keys(call, 1, SYNTAX)?;
    let at = 2 + keys.len();
    let end = end(call, at)?;
    let count = pop_count(call, at + 1)?;
    for key in keys {
        if call.collection::<List>(key)?.is_some() {
            call.reply.array(2);
            call.reply.bulk(key);
            return take(call, key, end, count);
        }
    }
    call.reply.null_array();
    Ok(())
}
