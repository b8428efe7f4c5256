//! Strings: the value of a key as bytes, or as a number.

use super::call::{Call, Done, MAX_STRING, NOT_A_FLOAT, NOT_AN_INTEGER, Refusal, SYNTAX, WRONG_TYPE, parse_float, parse_integer};
use super::expiry::{Unit, deadline};
use super::numbers::decimal_sum;
use crate::keyspace::{NEVER, Update, Value};
use bytes::Bytes;

const TOO_LONG: Refusal = Refusal::Borrowed("ERR string exceeds maximum allowed size (16 MiB)");

pub(super) fn get(call: &mut Call<'_, '_>) -> Done {
    // Not through `string`: the reply and the value are borrowed at the same time on the hottest way there is.
    let item = call.context.keyspace.get(call.slot, &call.args[1], call.context.clock_millis);
    match item.map(|item| &item.value) {
        Some(Value::String(bytes)) => call.reply.bulk(bytes),
        Some(Value::Collection(_)) => return Err(WRONG_TYPE),
        None => call.reply.null(),
    }
    Ok(())
}

/// Replies with the old value of a key that is about to change.
fn reply_old(call: &mut Call<'_, '_>, key: &[u8]) -> Done {
    let old = call.string(key)?.map(Bytes::copy_from_slice);
    call.reply.bulk_or_null(old.as_deref());
    Ok(())
}

#[derive(Debug, Default)]
struct SetOptions {
    only_if: Option<OnlyIf>,
    get: bool,
    keep_ttl: bool,
    expiry: Option<u64>,
}

#[derive(Debug)]
enum OnlyIf {
    Absent,
    Present,
    Equal(Bytes),
}

fn set_options(call: &Call<'_, '_>) -> Result<SetOptions, Refusal> {
    let (mut options, mut time) = (SetOptions::default(), None);
    let mut at = 3;
    while at < call.args.len() {
        let word = call.word(at);
        match word.as_str() {
            "NX" if matches!(options.only_if, None | Some(OnlyIf::Absent)) => options.only_if = Some(OnlyIf::Absent),
            "XX" if matches!(options.only_if, None | Some(OnlyIf::Present)) => options.only_if = Some(OnlyIf::Present),
            "IFEQ" if options.only_if.is_none() => {
                at += 1;
                options.only_if = Some(OnlyIf::Equal(call.args.get(at).ok_or(SYNTAX)?.clone()));
            }
            "GET" => options.get = true,
            "KEEPTTL" if time.is_none() => options.keep_ttl = true,
            "EX" | "PX" | "EXAT" | "PXAT" => {
                at += 1;
                let unit = Unit::of_option(&word);
                // The same option twice is allowed: the last one counts.
                if at >= call.args.len() || options.keep_ttl || time.is_some_and(|(before, _)| before != unit) {
                    return Err(SYNTAX);
                }
                time = Some((unit, at));
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    // Only now: options that do not fit together are told before a time that cannot be.
    if let Some((unit, at)) = time {
        options.expiry = Some(positive_deadline(call, call.integer(at)?, unit)?);
    }
    Ok(options)
}

/// For commands that refuse a time of zero or less.
fn positive_deadline(call: &Call<'_, '_>, value: i64, unit: Unit) -> Result<u64, Refusal> {
    let invalid = || Refusal::from(format!("ERR invalid expire time in '{}' command", call.command.name));
    if value <= 0 {
        return Err(invalid());
    }
    deadline(value, unit, call.now()).ok_or_else(invalid)
}

pub(super) fn set(call: &mut Call<'_, '_>) -> Done {
    if call.args.len() == 3 {
        check_length(call.args[2].len())?;
        call.put(&call.args[1], &call.args[2], NEVER);
        call.reply.ok();
        return Ok(());
    }
    let options = set_options(call)?;
    let (key, value) = (&call.args[1], &call.args[2]);
    check_length(value.len())?;
    let current = call.item(key).map(|item| item.expiry);
    let holds = match &options.only_if {
        None => true,
        Some(OnlyIf::Absent) => current.is_none(),
        Some(OnlyIf::Present) => current.is_some(),
        Some(OnlyIf::Equal(expected)) => call.string(key)? == Some(expected),
    };
    if options.get {
        reply_old(call, key)?;
    } else if holds {
        call.reply.ok();
    } else {
        call.reply.null();
    }
    if holds {
        let kept = if options.keep_ttl { current } else { None };
        let expiry = options.expiry.or(kept).unwrap_or(NEVER);
        if expiry > call.now() {
            call.put(key, value, expiry);
        } else {
            call.delete(key);
        }
    }
    Ok(())
}

fn check_length(length: usize) -> Done {
    if length > MAX_STRING { Err(TOO_LONG) } else { Ok(()) }
}

pub(super) fn setnx(call: &mut Call<'_, '_>) -> Done {
    let absent = call.item(&call.args[1]).is_none();
    if absent {
        call.put(&call.args[1], &call.args[2], NEVER);
    }
    call.reply.integer(i64::from(absent));
    Ok(())
}

pub(super) fn setex(call: &mut Call<'_, '_>) -> Done {
    set_with_time(call, Unit::Seconds)
}

pub(super) fn psetex(call: &mut Call<'_, '_>) -> Done {
    set_with_time(call, Unit::Millis)
}

fn set_with_time(call: &mut Call<'_, '_>, unit: Unit) -> Done {
    let expiry = positive_deadline(call, call.integer(2)?, unit)?;
    call.put(&call.args[1], &call.args[3], expiry);
    call.reply.ok();
    Ok(())
}

pub(super) fn getset(call: &mut Call<'_, '_>) -> Done {
    reply_old(call, &call.args[1])?;
    call.put(&call.args[1], &call.args[2], NEVER);
    Ok(())
}

pub(super) fn getdel(call: &mut Call<'_, '_>) -> Done {
    reply_old(call, &call.args[1])?;
    call.delete(&call.args[1]);
    Ok(())
}

pub(super) fn getex(call: &mut Call<'_, '_>) -> Done {
    let word = call.word(2);
    let timed = match (word.as_str(), call.args.len()) {
        ("", 2) | ("PERSIST", 3) => false,
        ("EX" | "PX" | "EXAT" | "PXAT", 4) => true,
        _ => return Err(SYNTAX),
    };
    let Some(current) = call.item(&call.args[1]).map(|item| item.expiry) else {
        call.reply.null();
        return Ok(());
    };
    let expiry = match word.as_str() {
        "" => current,
        _ if timed => positive_deadline(call, call.integer(3)?, Unit::of_option(&word))?,
        _ => NEVER,
    };
    reply_old(call, &call.args[1])?;
    if expiry <= call.now() {
        call.delete(&call.args[1]);
    } else if expiry != current {
        call.set_expiry(&call.args[1], expiry);
    }
    Ok(())
}

pub(super) fn mget(call: &mut Call<'_, '_>) -> Done {
    call.reply.array(call.args.len() - 1);
    for key in &call.args[1..] {
        let item = call.context.keyspace.get(call.slot, key, call.context.clock_millis);
        match item.map(|item| &item.value) {
            Some(Value::String(bytes)) => call.reply.bulk(bytes),
            Some(Value::Collection(_)) | None => call.reply.null(),
        }
        call.check_reply()?;
    }
    Ok(())
}

fn pairs<'a>(call: &Call<'a, '_>) -> Result<std::slice::ChunksExact<'a, Bytes>, Refusal> {
    let args = &call.args[1..];
    if args.len() % 2 == 1 {
        return Err(call.wrong_arguments());
    }
    Ok(args.chunks_exact(2))
}

pub(super) fn mset(call: &mut Call<'_, '_>) -> Done {
    for pair in pairs(call)? {
        call.put(&pair[0], &pair[1], NEVER);
    }
    call.reply.ok();
    Ok(())
}

pub(super) fn msetnx(call: &mut Call<'_, '_>) -> Done {
    let mut keys = pairs(call)?;
    let absent = keys.all(|pair| call.item(&pair[0]).is_none());
    if absent {
        for pair in pairs(call)? {
            call.put(&pair[0], &pair[1], NEVER);
        }
    }
    call.reply.integer(i64::from(absent));
    Ok(())
}

/// Writes a piece over a string, which grows with zeros up to it; gives the new length.
fn write_piece(call: &mut Call<'_, '_>, key: &[u8], offset: Option<usize>, piece: &[u8]) -> Result<usize, Refusal> {
    let length = call.string(key)?.map(<[u8]>::len);
    let (before, offset) = (length.unwrap_or(0), offset.unwrap_or(length.unwrap_or(0)));
    let end = offset.saturating_add(piece.len());
    check_length(end)?;
    // From where the string ends on, if that is before the piece.
    let from = offset.min(before);
    let mut bytes = vec![0; offset - from];
    bytes.extend_from_slice(piece);
    match length {
        Some(_) => {
            let offset = from as u64;
            call.update(key, &Update::StringWrite { offset, bytes: &bytes })?;
        }
        None => call.put(key, &bytes, NEVER),
    }
    Ok(before.max(end))
}

pub(super) fn append(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let length = write_piece(call, &args[1], None, &args[2])?;
    call.reply.count(length);
    Ok(())
}

pub(super) fn strlen(call: &mut Call<'_, '_>) -> Done {
    let length = call.string(&call.args[1])?.map_or(0, <[u8]>::len);
    call.reply.count(length);
    Ok(())
}

pub(super) fn getrange(call: &mut Call<'_, '_>) -> Done {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let piece = call
        .string(&call.args[1])?
        .map(|value| Bytes::copy_from_slice(range(value, start, end)));
    call.reply.bulk(&piece.unwrap_or_default());
    Ok(())
}

/// Both ends belong to it; negative ones count from the end.
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let (start, end) = (place(start), place(end).min(length - 1));
    if start > end || length == 0 {
        return &[];
    }
    &value[start as usize..=end as usize]
}

pub(super) fn setrange(call: &mut Call<'_, '_>) -> Done {
    let offset = usize::try_from(call.integer(2)?).map_err(|_| Refusal::Borrowed("ERR offset is out of range"))?;
    let args = call.args;
    let length = if args[3].is_empty() {
        call.string(&args[1])?.map_or(0, <[u8]>::len)
    } else {
        write_piece(call, &args[1], Some(offset), &args[3])?
    };
    call.reply.count(length);
    Ok(())
}

pub(super) fn incr(call: &mut Call<'_, '_>) -> Done {
    add(call, 1)
}

pub(super) fn decr(call: &mut Call<'_, '_>) -> Done {
    add(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_, '_>) -> Done {
    add(call, call.integer(2)?)
}

pub(super) fn decrby(call: &mut Call<'_, '_>) -> Done {
    let decrement = call.integer(2)?;
    add(call, decrement.checked_neg().ok_or("ERR decrement would overflow")?)
}

fn add(call: &mut Call<'_, '_>, increment: i64) -> Done {
    let value = match call.string(&call.args[1])? {
        Some(text) => parse_integer(text).ok_or(NOT_AN_INTEGER)?,
        None => 0,
    };
    let expiry = call.item(&call.args[1]).map_or(NEVER, |item| item.expiry);
    let sum = value.checked_add(increment).ok_or("ERR increment or decrement would overflow")?;
    call.put(&call.args[1], itoa::Buffer::new().format(sum).as_bytes(), expiry);
    call.reply.integer(sum);
    Ok(())
}

pub(super) fn incrbyfloat(call: &mut Call<'_, '_>) -> Done {
    let increment = parse_float(&call.args[2]).ok_or(NOT_A_FLOAT)?;
    let text = call.string(&call.args[1])?.unwrap_or(b"0").to_vec();
    let expiry = call.item(&call.args[1]).map_or(NEVER, |item| item.expiry);
    let sum = parse_float(&text).ok_or(NOT_A_FLOAT)? + increment;
    if !sum.is_finite() {
        return Err("ERR increment would produce NaN or Infinity".into());
    }
    // What became of it is in the effect, so replicas agree.
    let text = decimal_sum(&text, &call.args[2]).unwrap_or_else(|| format!("{sum}"));
    call.put(&call.args[1], text.as_bytes(), expiry);
    call.reply.bulk(text.as_bytes());
    Ok(())
}
