//! Keys whatever they hold, and the key space as a whole.

use super::call::{Call, Done, NO_SUCH_KEY, SYNTAX};
use super::object::type_name;
use super::options;
use quorate_api::slot::SLOTS;
use rand::RngExt;

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

pub(super) fn type_of(call: &mut Call<'_, '_>) -> Done {
    let name = call.item(&call.args[1]).map_or("none", |item| type_name(&item.value));
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
    let start = call.context.random.random_range(0..SLOTS);
    let keyspace = &call.context.keyspace;
    let taken = (0..SLOTS)
        .map(|step| (start + step) % SLOTS)
        .find(|slot| keyspace.items(*slot, now).next().is_some());
    let item = taken.and_then(|slot| {
        let number = call.context.random.random_range(0..keyspace.slot_len(slot));
        // Fewer are alive than there are: the last of those then.
        keyspace.items(slot, now).take(number + 1).last()
    });
    call.reply.bulk_or_null(item.map(|item| &item.key[..]));
    Ok(())
}

pub(super) fn scan(call: &mut Call<'_, '_>) -> Done {
    let cursor = options::cursor(&call.args[1])?;
    let (mut count, mut pattern, mut wanted) = (10, None, None);
    let mut pairs = call.args[2..].chunks_exact(2);
    for (number, option) in pairs.by_ref().enumerate() {
        match call.word(2 + 2 * number).as_str() {
            "COUNT" => count = options::count(&option[1])?,
            "MATCH" => pattern = Some(&option[1]),
            "TYPE" => wanted = Some(option[1].to_ascii_lowercase()),
            _ => return Err(SYNTAX),
        }
    }
    if !pairs.remainder().is_empty() {
        return Err(SYNTAX);
    }
    let mut found = Vec::new();
    let next = call.context.keyspace.scan(cursor, count, call.context.clock_millis, |item| {
        let fits = pattern.is_none_or(|pattern| matches(pattern, &item.key))
            && wanted.as_ref().is_none_or(|wanted| wanted == type_name(&item.value).as_bytes());
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
    let args = call.args;
    call.item(&args[1]).ok_or(NO_SUCH_KEY)?;
    if args[1] != args[2] {
        call.rename(&args[1], &args[2]);
    }
    call.reply.ok();
    Ok(())
}

pub(super) fn renamenx(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    call.item(&args[1]).ok_or(NO_SUCH_KEY)?;
    let free = call.item(&args[2]).is_none();
    if free {
        call.rename(&args[1], &args[2]);
    }
    call.reply.integer(i64::from(free));
    Ok(())
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
    let args = call.args;
    let copied = call.item(&args[1]).is_some() && (replace || call.item(&args[2]).is_none());
    if copied {
        call.copy(&args[1], &args[2]);
    }
    call.reply.integer(i64::from(copied));
    Ok(())
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
