//! Hashes: fields and their values.

use super::call::{Call, Done, MAX_STRING, Refusal, SYNTAX, check_reply, find, parse_float, parse_integer};
use super::numbers::{decimal_sum, parse_score};
use super::options::{self, ScanOptions, random_count, random_length, random_positions};
use crate::keyspace::{Hash, Update};
use crate::resp::Version;
use bytes::Bytes;

/// A field and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

fn pairs<'a>(call: &Call<'a, '_>) -> Result<Vec<Pair<'a>>, Refusal> {
    let args: &'a [Bytes] = &call.args[2..];
    if args.len() % 2 == 1 {
        return Err(call.wrong_arguments());
    }
    Ok(args.chunks_exact(2).map(|pair| (&pair[0][..], &pair[1][..])).collect())
}

pub(super) fn hset(call: &mut Call<'_, '_>) -> Done {
    let pairs = pairs(call)?;
    let added = call.update(&call.args[1], &Update::HashSet(pairs))?;
    call.reply.integer(added as i64);
    Ok(())
}

pub(super) fn hmset(call: &mut Call<'_, '_>) -> Done {
    let pairs = pairs(call)?;
    call.update(&call.args[1], &Update::HashSet(pairs))?;
    call.reply.ok();
    Ok(())
}

pub(super) fn hsetnx(call: &mut Call<'_, '_>) -> Done {
    let [_, key, field, value] = call.args else { return Err(SYNTAX) };
    let absent = call.collection::<Hash>(key)?.is_none_or(|hash| hash.get(field).is_none());
    if absent {
        call.update(key, &Update::HashSet(vec![(field, value)]))?;
    }
    call.reply.integer(i64::from(absent));
    Ok(())
}

pub(super) fn hget(call: &mut Call<'_, '_>) -> Done {
    let hash = find::<Hash>(call.context, call.slot, &call.args[1])?;
    call.reply.bulk_or_null(hash.and_then(|hash| hash.get(&call.args[2])));
    Ok(())
}

pub(super) fn hmget(call: &mut Call<'_, '_>) -> Done {
    let hash = find::<Hash>(call.context, call.slot, &call.args[1])?;
    call.reply.array(call.args.len() - 2);
    for field in &call.args[2..] {
        call.reply.bulk_or_null(hash.and_then(|hash| hash.get(field)));
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

pub(super) fn hgetall(call: &mut Call<'_, '_>) -> Done {
    let hash = find::<Hash>(call.context, call.slot, &call.args[1])?;
    call.reply.map(hash.map_or(0, Hash::len) as usize);
    for (field, value) in hash.into_iter().flat_map(Hash::iter) {
        call.reply.bulk(field);
        call.reply.bulk(value);
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

pub(super) fn hkeys(call: &mut Call<'_, '_>) -> Done {
    each(call, |(field, _)| field)
}

pub(super) fn hvals(call: &mut Call<'_, '_>) -> Done {
    each(call, |(_, value)| value)
}

fn each(call: &mut Call<'_, '_>, part: for<'k> fn(Pair<'k>) -> &'k [u8]) -> Done {
    let hash = find::<Hash>(call.context, call.slot, &call.args[1])?;
    call.reply.array(hash.map_or(0, Hash::len) as usize);
    for pair in hash.into_iter().flat_map(Hash::iter) {
        call.reply.bulk(part(pair));
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

pub(super) fn hlen(call: &mut Call<'_, '_>) -> Done {
    let length = call.collection::<Hash>(&call.args[1])?.map_or(0, Hash::len);
    call.reply.integer(length as i64);
    Ok(())
}

pub(super) fn hstrlen(call: &mut Call<'_, '_>) -> Done {
    let hash = call.collection::<Hash>(&call.args[1])?;
    let length = hash.and_then(|hash| hash.get(&call.args[2])).map_or(0, <[u8]>::len);
    call.reply.count(length);
    Ok(())
}

pub(super) fn hexists(call: &mut Call<'_, '_>) -> Done {
    let hash = call.collection::<Hash>(&call.args[1])?;
    let found = hash.is_some_and(|hash| hash.get(&call.args[2]).is_some());
    call.reply.integer(i64::from(found));
    Ok(())
}

pub(super) fn hdel(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let mut removed = 0;
    if let Some(hash) = call.collection::<Hash>(&args[1])? {
        let fields: Vec<&[u8]> = args[2..]
            .iter()
            .map(|field| &field[..])
            .filter(|field| hash.get(field).is_some())
            .collect();
        if !fields.is_empty() {
            removed = call.update(&args[1], &Update::HashRemove(fields))?;
        }
    }
    call.reply.integer(removed as i64);
    Ok(())
}

pub(super) fn hincrby(call: &mut Call<'_, '_>) -> Done {
    let (args, increment) = (call.args, call.integer(3)?);
    let value = match call.collection::<Hash>(&args[1])?.and_then(|hash| hash.get(&args[2])) {
        Some(text) => parse_integer(text).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let sum = value.checked_add(increment).ok_or("ERR increment or decrement would overflow")?;
    let text = itoa::Buffer::new().format(sum).to_owned();
    call.update(&args[1], &Update::HashSet(vec![(&args[2], text.as_bytes())]))?;
    call.reply.integer(sum);
    Ok(())
}

pub(super) fn hincrbyfloat(call: &mut Call<'_, '_>) -> Done {
    let (args, increment) = (call.args, parse_score(&call.args[3])?);
    if !increment.is_finite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let text = match call.collection::<Hash>(&args[1])?.and_then(|hash| hash.get(&args[2])) {
        Some(text) => text.to_vec(),
        None => b"0".to_vec(),
    };
    let sum = parse_float(&text).ok_or("ERR hash value is not a float")? + increment;
    if !sum.is_finite() {
        return Err("ERR increment would produce NaN or Infinity".into());
    }
    // What became of it is in the effect, so replicas agree.
    let text = decimal_sum(&text, &args[3]).unwrap_or_else(|| format!("{sum}"));
    call.update(&args[1], &Update::HashSet(vec![(&args[2], text.as_bytes())]))?;
    call.reply.bulk(text.as_bytes());
    Ok(())
}

pub(super) fn hrandfield(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    if args.len() == 2 {
        let length = call.collection::<Hash>(&args[1])?.map_or(0, Hash::len);
        let position = random_positions(call.context.random, length, -1).next();
        let hash = find::<Hash>(call.context, call.slot, &args[1])?;
        let field = hash.zip(position).and_then(|(hash, position)| hash.at(position));
        call.reply.bulk_or_null(field.map(|(field, _)| field));
        return Ok(());
    }
    let (count, values) = random_count(call, "WITHVALUES")?;
    let length = call.collection::<Hash>(&args[1])?.map_or(0, Hash::len);
    let picks = random_length(length, count);
    let pairs = values && call.reply.version() == Version::Resp3;
    call.reply.array(picks * if values && !pairs { 2 } else { 1 });
    // Taken out for a moment: the hash is read from the context meanwhile.
    let mut random = call.context.random.clone();
    let hash = find::<Hash>(call.context, call.slot, &args[1])?;
    for position in random_positions(&mut random, length, count) {
        let Some((field, value)) = hash.and_then(|hash| hash.at(position)) else {
            break;
        };
        if pairs {
            call.reply.array(2);
        }
        call.reply.bulk(field);
        if values {
            call.reply.bulk(value);
        }
        check_reply(&mut call.reply, call.begin)?;
    }
    *call.context.random = random;
    Ok(())
}

pub(super) fn hscan(call: &mut Call<'_, '_>) -> Done {
    let cursor = options::cursor(&call.args[2])?;
    let Some(hash) = find::<Hash>(call.context, call.slot, &call.args[1])? else {
        return options::nothing_scanned(call);
    };
    let (options, mut found) = (ScanOptions::read(call)?, Vec::new());
    let next = hash.scan(cursor, options.count, |field, value| {
        if options.fits(field) {
            found.push(field);
            if options.values {
                found.push(value);
            }
        }
    });
    call.reply.array(2);
    call.reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    call.reply.array(found.len());
    for text in found {
        call.reply.bulk(text);
        check_reply(&mut call.reply, call.begin)?;
    }
    Ok(())
}

// An argument is as long as an element may be: what the parser lets in fits.
const _: () = assert!(crate::resp::Limits::KNOWN.bulk <= MAX_STRING);
