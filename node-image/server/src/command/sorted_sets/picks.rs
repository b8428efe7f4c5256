//! What takes members of sorted sets from an end, by chance, or one after the other.

use super::super::call::{Call, Done, NOT_POSITIVE, SYNTAX, check_reply, find};
use super::super::numbers::{format_double, reply_double};
use super::super::options::{self, ScanOptions, counted_keys, pop_count, random_count, random_length, random_positions};
use super::reply_members;
use crate::keyspace::{SortedSet, Update};
use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Min,
    Max,
}

/// Members with their scores.
type Members<'k> = Box<dyn Iterator<Item = (&'k [u8], f64)> + 'k>;

/// At most `count` members from an end on, and the rank of the first of them in the set's order.
fn members(set: &SortedSet, which: Which, count: u64) -> (Members<'_>, u64) {
    match which {
        Which::Min => (Box::new(set.iter(0, count)), 0),
        Which::Max => (Box::new(set.iter_back(set.len(), count)), set.len() - count),
    }
}

fn pop(call: &mut Call<'_, '_>, which: Which) -> Done {
    let args = call.args;
    let count = match args.len() {
        2 => None,
        3 => Some(call.at_least(2, 0, NOT_POSITIVE)?),
        _ => return Err(SYNTAX),
    };
    let Some(set) = find::<SortedSet>(call.context, call.slot, &args[1])? else {
        call.reply.array(0);
        return Ok(());
    };
    let taken = count.unwrap_or(1).min(set.len());
    let (members, rank) = members(set, which, taken);
    match count {
        Some(_) => reply_members(&mut call.reply, call.begin, taken, true, members)?,
        None => {
            call.reply.array(2);
            for (member, score) in members {
                call.reply.bulk(member);
                reply_double(&mut call.reply, score);
            }
        }
    }
    remove(call, &args[1], rank, taken)
}

fn remove(call: &mut Call<'_, '_>, key: &Bytes, rank: u64, count: u64) -> Done {
    if count > 0 {
        call.update(key, &Update::SortedSetRemoveRanks { rank, count })?;
    }
    Ok(())
}

pub(crate) fn zpopmin(call: &mut Call<'_, '_>) -> Done {
    pop(call, Which::Min)
}

pub(crate) fn zpopmax(call: &mut Call<'_, '_>) -> Done {
    pop(call, Which::Max)
}

pub(crate) fn zmpop(call: &mut Call<'_, '_>) -> Done {
    let keys = counted_keys(call, 1, SYNTAX)?;
    let at = 2 + keys.len();
    let which = match call.word(at).as_str() {
        "MIN" => Which::Min,
        "MAX" => Which::Max,
        _ => return Err(SYNTAX),
    };
    let count = pop_count(call, at + 1)?;
    for key in keys {
        let Some(set) = find::<SortedSet>(call.context, call.slot, key)? else {
            continue;
        };
        let taken = count.min(set.len());
        let (members, rank) = members(set, which, taken);
        call.reply.array(2);
        call.reply.bulk(key);
        call.reply.array(taken as usize);
        for (member, score) in members {
            call.reply.array(2);
            call.reply.bulk(member);
            reply_double(&mut call.reply, score);
            check_reply(&mut call.reply, call.begin)?;
        }
        return remove(call, key, rank, taken);
    }
    call.reply.null_array();
    Ok(())
}

pub(crate) fn zrandmember(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let wanted = if args.len() == 2 {
        None
    } else {
        Some(random_count(call, "WITHSCORES")?)
    };
    let length = call.collection::<SortedSet>(&args[1])?.map_or(0, SortedSet::len);
    // Taken out for a moment: the set is read from the context meanwhile.
    let mut random = call.context.random.clone();
    let set = find::<SortedSet>(call.context, call.slot, &args[1])?;
    match wanted {
        None => {
            let position = random_positions(&mut random, length, -1).next();
            let member = set.zip(position).and_then(|(set, position)| set.at(position));
            call.reply.bulk_or_null(member.map(|(member, _)| member));
        }
        Some((count, with_scores)) => {
            let picks = random_length(length, count);
            let positions = random_positions(&mut random, length, count);
            let members = positions.map_while(|position| set?.at(position));
            reply_members(&mut call.reply, call.begin, picks as u64, with_scores, members)?;
        }
    }
    *call.context.random = random;
    Ok(())
}

pub(crate) fn zscan(call: &mut Call<'_, '_>) -> Done {
    let cursor = options::cursor(&call.args[2])?;
    let Some(set) = find::<SortedSet>(call.context, call.slot, &call.args[1])? else {
        return options::nothing_scanned(call);
    };
    let (options, mut found) = (ScanOptions::read(call)?, Vec::new());
    let next = set.scan(cursor, options.count, |member, score| {
        if options.fits(member) {
            found.push((member, score));
        }
    });
    call.reply.array(2);
    call.reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    call.reply.array(found.len() * if options.values { 2 } else { 1 });
    for (member, score) in found {
        call.reply.bulk(member);
        if options.values {
            call.reply.bulk(format_double(score).as_bytes());
        }
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}
