//! What a key's value is like inside: OBJECT and MEMORY.
//!
//! Encodings are named as Redis with its usual settings would name them, because tools know these names; what a value takes in
//! memory here, MEMORY USAGE says.

use super::call::{Call, Done, parse_integer};
use crate::keyspace::{Collection, Item, Value};

/// Elements up to which Redis keeps a hash or a set, and a sorted set or a set of texts, in one piece.
const SMALL_HASH: u64 = 512;
const SMALL_SET: u64 = 128;
/// The longest element of those.
const SMALL_ELEMENT: usize = 64;
/// Integers up to which a set is one array.
const SMALL_INTEGERS: u64 = 512;
/// Bytes up to which a list is in one piece.
const SMALL_LIST: usize = 8 << 10;

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Collection(collection) => match &**collection {
            Collection::Hash(_) => "hash",
            Collection::Set(_) => "set",
            Collection::SortedSet(_) => "zset",
            Collection::List(_) => "list",
        },
    }
}

fn encoding(value: &Value) -> &'static str {
    let short = |text: &[u8]| text.len() <= SMALL_ELEMENT;
    let collection = match value {
        Value::String(value) => {
            return match value.len() {
                _ if parse_integer(value).is_some() => "int",
                0..=44 => "embstr",
                _ => "raw",
            };
        }
        Value::Collection(collection) => &**collection,
    };
    match collection {
        Collection::Hash(hash) if hash.len() <= SMALL_HASH && hash.iter().all(|(field, value)| short(field) && short(value)) => "listpack",
        Collection::Set(set) if set.len() <= SMALL_INTEGERS && set.iter().all(|member| parse_integer(member).is_some()) => "intset",
        Collection::Set(set) if set.len() <= SMALL_SET && set.iter().all(short) => "listpack",
        Collection::Hash(_) | Collection::Set(_) => "hashtable",
        Collection::SortedSet(set) if set.len() <= SMALL_SET && set.iter(0, u64::MAX).all(|(member, _)| short(member)) => "listpack",
        Collection::SortedSet(_) => "skiplist",
        Collection::List(list) => {
            let most = (SMALL_LIST / 2) as u64;
            let bytes: usize = list.iter(0, most).map(|element| element.len() + 2).sum();
            if list.len() < most && bytes <= SMALL_LIST {
                "listpack"
            } else {
                "quicklist"
            }
        }
    }
}

const HELP: [&str; 11] = [
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    The name that Redis has for how it would keep such a value.",
    "FREQ <key>",
    "    Refused: nothing is evicted here.",
    "IDLETIME <key>",
    "    0: nothing is evicted here, and no use is recorded.",
    "REFCOUNT <key>",
    "    1.",
    "HELP",
    "    This text.",
];

pub(super) fn object(call: &mut Call<'_, '_>) -> Done {
    let word = call.word(1);
    match (word.as_str(), call.args.len()) {
        ("HELP", 2) => {
            call.reply.array(HELP.len());
            HELP.iter().for_each(|line| call.reply.simple(line));
            return Ok(());
        }
        ("ENCODING" | "REFCOUNT" | "IDLETIME" | "FREQ", 3) => {}
        ("HELP" | "ENCODING" | "REFCOUNT" | "IDLETIME" | "FREQ", _) => {
            return Err(format!("ERR wrong number of arguments for 'object|{}' command", word.to_ascii_lowercase()).into());
        }
        _ => return Err(call.unknown_subcommand()),
    }
    let Some(encoding) = call.item(&call.args[2]).map(|item| encoding(&item.value)) else {
        call.reply.null();
        return Ok(());
    };
    match word.as_str() {
        "ENCODING" => call.reply.bulk(encoding.as_bytes()),
        "REFCOUNT" => call.reply.integer(1),
        "IDLETIME" => call.reply.integer(0),
        _ => {
            return Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.".into());
        }
    }
    Ok(())
}

pub(super) fn memory(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        ("USAGE", 3 | 5) => {
            if call.args.len() == 5 && (call.word(3) != "SAMPLES" || call.integer(4)? < 0) {
                return Err(super::call::SYNTAX);
            }
            match call.item(&call.args[2]).map(Item::memory_bytes) {
                Some(bytes) => call.reply.integer(i64::try_from(bytes).unwrap_or(i64::MAX)),
                None => call.reply.null(),
            }
        }
        ("USAGE", 4) => return Err(super::call::SYNTAX),
        ("USAGE", _) => return Err("ERR wrong number of arguments for 'memory|usage' command".into()),
        ("DOCTOR", 2) => {
            call.reply
                .verbatim("The memory limit of the store counts keys, values and their tables. See INFO memory.");
        }
        _ => return Err(call.unknown_subcommand()),
    }
    Ok(())
}
