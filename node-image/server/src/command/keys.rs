//! Keys whatever they hold, and the key space as a whole.

use super::call::{Call, Done, NO_SUCH_KEY, NOT_AN_INTEGER, SYNTAX, parse_integer};
use crate::keyspace::{Item, Value};
use quorate_api::slot::SLOTS;

/// Keys that KEYS and a SCAN's one answer give at most: what is asked for beyond is refused, not cut.
const MAX_KEYS: usize = 1_000_000;

pub(super) fn del(call: &mut Call<'_, '_>) -> Done {
    let mut deleted = 0;
    for key in &call.args[1..] {
        deleted += usize::from(call.delete(key));
    }
    call.reply.count(deleted);
    Ok(())
}

pub(super) fn exists(call: &mut Call<'_, '_>) -> Done {
    let found = call.args[1..].iter().filter(|key| call.item(key).is_some()).count();
    call.reply.count(found);
    Ok(())
}

fn type_name(item: &Item) -> &'static str {
    match item.value {
        Value::String(_) => "string",
    }
}

pub(super) fn type_of(call: &mut Call<'_, '_>) -> Done {
    let name = call.item(&call.args[1]).map_or("none", type_name);
    call.reply.simple(name);
    Ok(())
}

pub(super) fn dbsize(call: &mut Call<'_, '_>) -> Done {
    let keys = i64::try_from(call.context.keyspace.len()).unwrap_or(i64::MAX);
    call.reply.integer(keys);
    Ok(())
}

pub(super) fn flushall(call: &mut Call<'_, '_>) -> Done {
    match (call.args.len(), call.word(1).as_str()) {
        (1, _) | (2, "SYNC" | "ASYNC") => {}
        _ => return Err(SYNTAX),
    }
    call.flush_all();
    call.reply.ok();
    Ok(())
}

pub(super) fn keys(call: &mut Call<'_, '_>) -> Done {
    let (now, pattern) = (call.now(), &call.args[1]);
    let keyspace = &call.context.keyspace;
    let mut found: Vec<&[u8]> = Vec::new();
    for slot in 0..SLOTS {
        found.extend(
            keyspace
                .items(slot, now)
                .map(|item| &item.key[..])
                .filter(|key| matches(pattern, key)),
        );
        if found.len() > MAX_KEYS {
            return Err("ERR more than a million keys match: use SCAN".into());
        }
    }
    call.reply.array(found.len());
    for key in found {
        call.reply.bulk(key);
    }
    Ok(())
}

pub(super) fn randomkey(call: &mut Call<'_, '_>) -> Done {
    let now = call.now();
    // Any start will do: the clock's digits move enough.
    let start = (now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16 % SLOTS;
    let keyspace = &call.context.keyspace;
    let item = (0..SLOTS).find_map(|step| keyspace.items((start + step) % SLOTS, now).next());
    call.reply.bulk_or_null(item.map(|item| &item.key[..]));
    Ok(())
}

pub(super) fn scan(call: &mut Call<'_, '_>) -> Done {
    let cursor = std::str::from_utf8(&call.args[1])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("ERR invalid cursor")?;
    let (mut count, mut pattern, mut wanted) = (10, None, None);
    let mut options = call.args[2..].chunks_exact(2);
    for (number, option) in options.by_ref().enumerate() {
        match call.word(2 + 2 * number).as_str() {
            "COUNT" => {
                let value = parse_integer(&option[1]).ok_or(NOT_AN_INTEGER)?;
                count = usize::try_from(value).ok().filter(|count| *count > 0).ok_or(SYNTAX)?.min(MAX_KEYS);
            }
            "MATCH" => pattern = Some(&option[1]),
            "TYPE" => wanted = Some(option[1].to_ascii_lowercase()),
            _ => return Err(SYNTAX),
        }
    }
    if !options.remainder().is_empty() {
        return Err(SYNTAX);
    }
    let mut found = Vec::new();
    let next = call.context.keyspace.scan(cursor, count, call.context.clock_millis, |item| {
        let fits = pattern.is_none_or(|pattern| matches(pattern, &item.key))
            && wanted.as_ref().is_none_or(|wanted| wanted == type_name(item).as_bytes());
        if fits {
            found.push(item.key.clone());
        }
    });
    call.reply.array(2);
    call.reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    call.reply.array(found.len());
    for key in found {
        call.reply.bulk(&key);
    }
    Ok(())
}

pub(super) fn rename(call: &mut Call<'_, '_>) -> Done {
    let item = call.item(&call.args[1]).cloned().ok_or(NO_SUCH_KEY)?;
    move_item(call, &item);
    call.reply.ok();
    Ok(())
}

pub(super) fn renamenx(call: &mut Call<'_, '_>) -> Done {
    let item = call.item(&call.args[1]).cloned().ok_or(NO_SUCH_KEY)?;
    let free = call.item(&call.args[2]).is_none();
    if free {
        move_item(call, &item);
    }
    call.reply.integer(i64::from(free));
    Ok(())
}

fn move_item(call: &mut Call<'_, '_>, item: &Item) {
    if call.args[1] != call.args[2] {
        call.delete(&call.args[1]);
        let Value::String(value) = &item.value;
        call.put(&call.args[2], value, item.expiry);
    }
}

pub(super) fn copy(call: &mut Call<'_, '_>) -> Done {
    let mut replace = false;
    let mut at = 3;
    while at < call.args.len() {
        match call.word(at).as_str() {
            "REPLACE" => replace = true,
            "DB" => {
                at += 1;
                if call.integer(at)? != 0 {
                    return Err("ERR DB index is out of range".into());
                }
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    if call.args[1] == call.args[2] {
        return Err("ERR source and destination objects are the same".into());
    }
    let item = call.item(&call.args[1]).cloned();
    let copied = item.filter(|_| replace || call.item(&call.args[2]).is_none());
    if let Some(item) = &copied {
        let Value::String(value) = &item.value;
        call.put(&call.args[2], value, item.expiry);
    }
    call.reply.integer(i64::from(copied.is_some()));
    Ok(())
}

pub(super) fn object(call: &mut Call<'_, '_>) -> Done {
    let word = call.word(1);
    if word == "HELP" {
        call.reply.array(1);
        call.reply.bulk(b"OBJECT (ENCODING|FREQ|IDLETIME|REFCOUNT) <key>");
        return Ok(());
    }
    if !matches!(word.as_str(), "ENCODING" | "REFCOUNT" | "IDLETIME" | "FREQ") {
        return Err(call.unknown_subcommand());
    }
    let [_, _, key] = call.args else {
        return Err(format!("ERR wrong number of arguments for 'object|{}' command", word.to_ascii_lowercase()).into());
    };
    let Some(item) = call.item(key) else {
        call.reply.null();
        return Ok(());
    };
    let Value::String(value) = &item.value;
    let encoding: &[u8] = match value.len() {
        _ if parse_integer(value).is_some() => b"int",
        0..=44 => b"embstr",
        _ => b"raw",
    };
    match word.as_str() {
        "ENCODING" => call.reply.bulk(encoding),
        "REFCOUNT" => call.reply.integer(1),
        _ => call.reply.integer(0),
    }
    Ok(())
}

pub(super) fn memory(call: &mut Call<'_, '_>) -> Done {
    match call.word(1).as_str() {
        "USAGE" => {
            let key = call.args.get(2).ok_or_else(|| call.wrong_arguments())?;
            match call.item(key).map(Item::memory_bytes) {
                Some(bytes) => call.reply.integer(i64::try_from(bytes).unwrap_or(i64::MAX)),
                None => call.reply.null(),
            }
            Ok(())
        }
        "DOCTOR" => {
            call.reply
                .verbatim("The memory limit of the store counts keys, values and their tables. See INFO memory.");
            Ok(())
        }
        _ => Err(call.unknown_subcommand()),
    }
}

/// Whether a key fits a glob pattern: `*`, `?`, `[a-c]`, `[^a]`, and `\` before a character that is meant as it is.
pub(super) fn matches(pattern: &[u8], key: &[u8]) -> bool {
    // Where to go on after the last star, if what follows it does not fit.
    let (mut p, mut k) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, k));
                p += 1;
                continue;
            }
            None if k == key.len() => return true,
            None => None,
            Some(_) => key.get(k).and_then(|&byte| one(&pattern[p..], byte)),
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                k += 1;
            }
            (None, Some((after, from))) if from < key.len() => {
                retry = Some((after, from + 1));
                p = after;
                k = from + 1;
            }
            (None, _) => return false,
        }
    }
}

/// The length of the pattern's first element, if it fits `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => class(pattern, byte),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut fits = false;
    loop {
        match pattern.get(at) {
            None => break,
            Some(b']') => {
                at += 1;
                break;
            }
            Some(b'\\') if at + 1 < pattern.len() => {
                fits |= pattern[at + 1] == byte;
                at += 2;
            }
            Some(&from) if pattern.get(at + 1) == Some(&b'-') && at + 2 < pattern.len() => {
                let to = pattern[at + 2];
                fits |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            Some(&literal) => {
                fits |= literal == byte;
                at += 1;
            }
        }
    }
    (fits != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_are_those_of_redis() {
        for (pattern, key, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h*llo", "heeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), key.as_bytes()), expected, "{pattern} {key}");
        }
    }
}
