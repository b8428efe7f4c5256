//! Sets: members without order.

use super::call::{Call, Done, NOT_POSITIVE, Refusal, SYNTAX, check_reply, find};
use super::options::{self, ScanOptions, counted_keys, random_length, random_positions};
use crate::keyspace::{Collection, NEVER, Set, Update};
use bytes::Bytes;

pub(super) fn sadd(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let set = call.collection::<Set>(&args[1])?;
    let new = args[2..].iter().map(|member| &member[..]);
    let new: Vec<&[u8]> = new.filter(|member| set.is_none_or(|set| !set.contains(member))).collect();
    let added = if new.is_empty() {
        0
    } else {
        call.update(&args[1], &Update::SetAdd(new))?
    };
    call.reply.integer(added as i64);
    Ok(())
}

pub(super) fn srem(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let mut removed = 0;
    if let Some(set) = call.collection::<Set>(&args[1])? {
        let members: Vec<&[u8]> = args[2..]
            .iter()
            .map(|member| &member[..])
            .filter(|member| set.contains(member))
            .collect();
        if !members.is_empty() {
            removed = call.update(&args[1], &Update::SetRemove(members))?;
        }
    }
    call.reply.integer(removed as i64);
    Ok(())
}

pub(super) fn scard(call: &mut Call<'_, '_>) -> Done {
    let length = call.collection::<Set>(&call.args[1])?.map_or(0, Set::len);
    call.reply.integer(length as i64);
    Ok(())
}

pub(super) fn sismember(call: &mut Call<'_, '_>) -> Done {
    let set = call.collection::<Set>(&call.args[1])?;
    let found = set.is_some_and(|set| set.contains(&call.args[2]));
    call.reply.integer(i64::from(found));
    Ok(())
}

pub(super) fn smismember(call: &mut Call<'_, '_>) -> Done {
    let set = find::<Set>(call.context, call.slot, &call.args[1])?;
    call.reply.array(call.args.len() - 2);
    for member in &call.args[2..] {
        call.reply.integer(i64::from(set.is_some_and(|set| set.contains(member))));
    }
    Ok(())
}

pub(super) fn smembers(call: &mut Call<'_, '_>) -> Done {
    let set = find::<Set>(call.context, call.slot, &call.args[1])?;
    call.reply.set(set.map_or(0, Set::len) as usize);
    for member in set.into_iter().flat_map(Set::iter) {
        call.reply.bulk(member);
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

pub(super) fn smove(call: &mut Call<'_, '_>) -> Done {
    let [_, from, to, member] = call.args else { return Err(SYNTAX) };
    let held = call.collection::<Set>(from)?.map(|set| set.contains(member));
    if held.is_none() {
        call.reply.integer(0);
        return Ok(());
    }
    let there = call.collection::<Set>(to)?.is_some_and(|set| set.contains(member));
    let held = held == Some(true);
    if held && from != to {
        // Both or none.
        call.check_size(2 * (member.len() + 64))?;
        call.update(from, &Update::SetRemove(vec![member]))?;
        if !there {
            call.update(to, &Update::SetAdd(vec![member]))?;
        }
    }
    call.reply.integer(i64::from(held));
    Ok(())
}

pub(super) fn spop(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let count = match args.len() {
        2 => None,
        3 => Some(call.at_least(2, 0, NOT_POSITIVE)?),
        _ => return Err(SYNTAX),
    };
    let length = call.collection::<Set>(&args[1])?.map_or(0, Set::len);
    let positions: Vec<u64> = random_positions(call.context.random, length, count.map_or(1, u64::cast_signed)).collect();
    let set = call.collection::<Set>(&args[1])?;
    let picked: Vec<Vec<u8>> = positions.iter().filter_map(|at| set?.at(*at)).map(<[u8]>::to_vec).collect();
    match count {
        None => call.reply.bulk_or_null(picked.first().map(Vec::as_slice)),
        Some(_) => {
            call.reply.set(picked.len());
            for member in &picked {
                call.reply.bulk(member);
                call.check_reply()?;
            }
        }
    }
    if !picked.is_empty() {
        call.update(&args[1], &Update::SetRemove(picked.iter().map(Vec::as_slice).collect()))?;
    }
    Ok(())
}

pub(super) fn srandmember(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let count = match args.len() {
        2 => None,
        3 => Some(call.negatable(2)?),
        _ => return Err(SYNTAX),
    };
    let length = call.collection::<Set>(&args[1])?.map_or(0, Set::len);
    // Taken out for a moment: the set is read from the context meanwhile.
    let mut random = call.context.random.clone();
    let set = find::<Set>(call.context, call.slot, &args[1])?;
    match count {
        None => {
            let position = random_positions(&mut random, length, -1).next();
            let member = set.zip(position).and_then(|(set, position)| set.at(position));
            call.reply.bulk_or_null(member);
        }
        Some(count) => {
            call.reply.array(random_length(length, count));
            for position in random_positions(&mut random, length, count) {
                let Some(member) = set.and_then(|set| set.at(position)) else {
                    break;
                };
                call.reply.bulk(member);
                check_reply(&mut call.reply, call.begin)?;
            }
        }
    }
    *call.context.random = random;
    Ok(())
}

pub(super) fn sscan(call: &mut Call<'_, '_>) -> Done {
    let cursor = options::cursor(&call.args[2])?;
    let Some(set) = find::<Set>(call.context, call.slot, &call.args[1])? else {
        return options::nothing_scanned(call);
    };
    let (options, mut found) = (ScanOptions::read(call)?, Vec::new());
    let next = set.scan(cursor, options.count, |member| {
        if options.fits(member) {
            found.push(member);
        }
    });
    call.reply.array(2);
    call.reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    call.reply.array(found.len());
    for member in found {
        call.reply.bulk(member);
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

/// What becomes of several sets.
#[derive(Clone, Copy, Debug)]
enum Algebra {
    Intersection,
    Union,
    Difference,
}

impl Algebra {
    /// Gives the members of the result until `give` is false; each once, but for a union.
    fn members<'k>(self, sets: &[Option<&'k Set>], mut give: impl FnMut(&'k [u8]) -> bool) {
        match self {
            Self::Union => {
                sets.iter().flatten().flat_map(|set| set.iter()).all(give);
            }
            Self::Difference => {
                let Some((Some(first), rest)) = sets.split_first() else { return };
                let mut left = first.iter().filter(|member| !rest.iter().flatten().any(|set| set.contains(member)));
                left.all(give);
            }
            Self::Intersection => {
                let Some(mut all) = sets.iter().copied().collect::<Option<Vec<&Set>>>() else {
                    return;
                };
                // Every member is looked for in the larger ones, and the smallest most often ends it.
                all.sort_by_key(|set| set.len());
                let Some((smallest, rest)) = all.split_first() else { return };
                for member in smallest.iter() {
                    if rest.iter().all(|set| set.contains(member)) && !give(member) {
                        return;
                    }
                }
            }
        }
    }
}

fn sets<'k>(call: &'k Call<'_, '_>, keys: &[Bytes]) -> Result<Vec<Option<&'k Set>>, Refusal> {
    keys.iter().map(|key| call.collection::<Set>(key)).collect()
}

fn calculate(call: &Call<'_, '_>, keys: &[Bytes], algebra: Algebra) -> Result<Set, Refusal> {
    let (sets, mut result) = (sets(call, keys)?, Set::default());
    algebra.members(&sets, |member| {
        result.insert(member);
        true
    });
    Ok(result)
}

fn reply_result(call: &mut Call<'_, '_>, algebra: Algebra) -> Done {
    let result = calculate(call, &call.args[1..], algebra)?;
    call.reply.set(result.len() as usize);
    for member in result.iter() {
        call.reply.bulk(member);
        call.check_reply()?;
    }
    Ok(())
}

fn store_result(call: &mut Call<'_, '_>, algebra: Algebra) -> Done {
    let result = calculate(call, &call.args[2..], algebra)?;
    let length = result.len();
    call.store(&call.args[1], Collection::Set(result), NEVER)?;
    call.reply.integer(length as i64);
    Ok(())
}

pub(super) fn sinter(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Intersection)
}

pub(super) fn sunion(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Union)
}

pub(super) fn sdiff(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Difference)
}

pub(super) fn sinterstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Intersection)
}

pub(super) fn sunionstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Union)
}

pub(super) fn sdiffstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Difference)
}

/// The limit of the commands that only count; 0 for none.
pub(super) fn limit_of_cardinality(call: &Call<'_, '_>, mut at: usize) -> Result<u64, Refusal> {
    let mut limit = 0;
    while at < call.args.len() {
        if call.word(at) == "LIMIT" && at + 1 < call.args.len() {
            at += 1;
            limit = call.at_least(at, 0, "ERR LIMIT can't be negative")?;
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    Ok(limit)
}

pub(super) fn sintercard(call: &mut Call<'_, '_>) -> Done {
    let keys = counted_keys(call, 1, "ERR Number of keys can't be greater than number of args".into())?;
    let limit = limit_of_cardinality(call, 2 + keys.len())?;
    let (sets, mut count) = (sets(call, keys)?, 0u64);
    Algebra::Intersection.members(&sets, |_| {
        count += 1;
        count != limit
    });
    call.reply.integer(count as i64);
    Ok(())
}
