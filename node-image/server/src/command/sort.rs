//! SORT and SORT_RO: the elements of a list, a set or a sorted set in another order, by themselves or by what other keys hold.
//!
//! A pattern that names other keys has to have a hash tag of the key's slot: then all are on this node.

use super::call::{Call, Done, Refusal, SYNTAX, WRONG_TYPE, parse_float};
use crate::keyspace::{Collection, End, Hash, List, NEVER, Value};
use bytes::Bytes;
use quorate_api::slot::slot_of;
use std::cmp::Ordering;

#[derive(Debug, Default)]
struct Options<'a> {
    by: Option<&'a Bytes>,
    limit: Option<(i64, i64)>,
    get: Vec<&'a Bytes>,
    descending: bool,
    alpha: bool,
    store: Option<&'a Bytes>,
}

fn options<'a>(call: &Call<'a, '_>) -> Result<Options<'a>, Refusal> {
    let (args, mut options, mut at) = (call.args, Options::default(), 2);
    while at < args.len() {
        match (call.word(at).as_str(), args.len() - at) {
            ("ASC", _) => options.descending = false,
            ("DESC", _) => options.descending = true,
            ("ALPHA", _) => options.alpha = true,
            ("LIMIT", 3..) => {
                options.limit = Some((call.integer(at + 1)?, call.integer(at + 2)?));
                at += 2;
            }
            ("BY", 2..) => {
                at += 1;
                options.by = Some(&args[at]);
                check_pattern(call, &args[at], "BY")?;
            }
            ("GET", 2..) => {
                at += 1;
                if *args[at] != *b"#" {
                    check_pattern(call, &args[at], "GET")?;
                }
                options.get.push(&args[at]);
            }
            ("STORE", 2..) if call.command.name == "sort" => {
                at += 1;
                options.store = Some(&args[at]);
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(options)
}

/// Every key that the pattern names is in the slot of this command's key.
fn check_pattern(call: &Call<'_, '_>, pattern: &Bytes, option: &str) -> Done {
    if !pattern.contains(&b'*') {
        return Ok(());
    }
    // The tag ends before the star: what stands for the star cannot change it.
    let open = pattern.iter().position(|byte| *byte == b'{');
    let close = open.and_then(|open| {
        pattern[open..]
            .iter()
            .position(|byte| *byte == b'}')
            .map(|length| (open, open + length))
    });
    let fixed = close.is_some_and(|(open, close)| close > open + 1 && !pattern[..close].contains(&b'*'));
    if fixed && slot_of(pattern) == call.slot {
        return Ok(());
    }
    Err(format!("ERR {option} option of SORT denied in Cluster mode when keys formed by the pattern may be in different slots.").into())
}

/// What an element looks like in the place of a pattern's star: a key's string, or a field of a hash.
fn look_up(call: &Call<'_, '_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    // An arrow with nothing behind it is a part of the key.
    let arrow = pattern[star..].windows(2).position(|pair| pair == b"->").map(|at| star + at);
    let arrow = arrow.filter(|at| at + 2 < pattern.len());
    let (name, field) = match arrow {
        Some(at) => (&pattern[..at], Some(&pattern[at + 2..])),
        None => (pattern, None),
    };
    let key = [&name[..star], element, &name[star + 1..]].concat();
    match field {
        Some(field) => call.collection::<Hash>(&key).ok()??.get(field).map(<[u8]>::to_vec),
        None => call.string(&key).ok()?.map(<[u8]>::to_vec),
    }
}

#[derive(Debug)]
enum Weight {
    Number(f64),
    Text(Option<Vec<u8>>),
}

#[derive(Debug)]
struct Entry {
    element: Vec<u8>,
    weight: Weight,
}

impl Entry {
    fn compare(&self, other: &Self) -> Ordering {
        let order = match (&self.weight, &other.weight) {
            (Weight::Number(a), Weight::Number(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Weight::Text(a), Weight::Text(b)) => a.cmp(b),
            _ => Ordering::Equal,
        };
        order.then_with(|| self.element.cmp(&other.element))
    }
}

/// The elements, in the key's own order where it has one.
fn elements(call: &Call<'_, '_>, backwards: bool) -> Result<(Vec<Vec<u8>>, bool), Refusal> {
    let Some(item) = call.item(&call.args[1]) else {
        return Ok((Vec::new(), true));
    };
    let Value::Collection(collection) = &item.value else {
        return Err(WRONG_TYPE);
    };
    match &**collection {
        Collection::List(list) => Ok((list.iter(0, u64::MAX).map(<[u8]>::to_vec).collect(), true)),
        Collection::Set(set) => Ok((set.iter().map(<[u8]>::to_vec).collect(), false)),
        Collection::SortedSet(set) if backwards => {
            let members = set.iter_back(u64::MAX, u64::MAX);
            Ok((members.map(|(member, _)| member.to_vec()).collect(), true))
        }
        Collection::SortedSet(set) => Ok((set.iter(0, u64::MAX).map(|(member, _)| member.to_vec()).collect(), true)),
        Collection::Hash(_) => Err(WRONG_TYPE),
    }
}

fn weigh(call: &Call<'_, '_>, options: &Options<'_>, element: Vec<u8>) -> Result<Entry, Refusal> {
    let text = match options.by {
        Some(pattern) => look_up(call, pattern, &element),
        None => Some(element.clone()),
    };
    let weight = if options.alpha {
        Weight::Text(text)
    } else {
        let number = text.filter(|text| !text.is_empty()).map_or(Some(0.0), |text| parse_float(&text));
        Weight::Number(number.ok_or("ERR One or more scores can't be converted into double")?)
    };
    Ok(Entry { element, weight })
}

fn sorted(call: &Call<'_, '_>, options: &Options<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
    let unsorted = options.by.is_some_and(|pattern| !pattern.contains(&b'*'));
    let (elements, has_order) = elements(call, unsorted && options.descending)?;
    let mut elements = if unsorted && (has_order || options.store.is_none()) {
        elements
    } else {
        // What is stored has one order everywhere.
        let how = Options {
            by: options.by.filter(|_| !unsorted),
            alpha: options.alpha || unsorted,
            ..Options::default()
        };
        let weighed: Result<Vec<Entry>, Refusal> = elements.into_iter().map(|element| weigh(call, &how, element)).collect();
        let mut entries = weighed?;
        entries.sort_by(|a, b| if options.descending { b.compare(a) } else { a.compare(b) });
        entries.into_iter().map(|entry| entry.element).collect()
    };
    if let Some((skip, most)) = options.limit {
        let skip = usize::try_from(skip).unwrap_or(0).min(elements.len());
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        elements = elements.into_iter().skip(skip).take(most).collect();
    }
    Ok(elements)
}

pub(super) fn sort(call: &mut Call<'_, '_>) -> Done {
    let options = options(call)?;
    let elements = sorted(call, &options)?;
    let results: Vec<Option<Vec<u8>>> = if options.get.is_empty() {
        elements.into_iter().map(Some).collect()
    } else {
        let looked_up = |element: &Vec<u8>| {
            let patterns = options.get.iter();
            patterns.map(|pattern| look_up(call, pattern, element)).collect::<Vec<_>>()
        };
        elements.iter().flat_map(looked_up).collect()
    };
    if let Some(store) = options.store {
        let mut list = List::default();
        results
            .iter()
            .for_each(|result| list.push(End::Right, result.as_deref().unwrap_or_default()));
        let length = list.len();
        call.store(store, Collection::List(list), NEVER)?;
        call.reply.integer(length as i64);
        return Ok(());
    }
    call.reply.array(results.len());
    for result in results {
        call.reply.bulk_or_null(result.as_deref());
        call.check_reply()?;
    }
    Ok(())
}
