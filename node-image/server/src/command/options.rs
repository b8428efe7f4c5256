//! What several commands take: cursors, patterns and counts, numbers of keys, and picks by chance.

use super::call::{Call, Done, NOT_AN_INTEGER, OUT_OF_RANGE, Refusal, SYNTAX, parse_integer};
use super::keys;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Elements that a scan's one answer gives at most, about.
const MAX_COUNT: usize = 1_000_000;

/// Of the commands that scan the elements of a key, behind its cursor: `[MATCH pattern] [COUNT count] [NOVALUES | NOSCORES]`.
#[derive(Debug)]
pub(super) struct ScanOptions<'a> {
    pub(super) count: usize,
    pattern: Option<&'a Bytes>,
    pub(super) values: bool,
}

impl<'a> ScanOptions<'a> {
    /// Of a key that is there: where nothing is scanned, nobody looks at them.
    pub(super) fn read(call: &Call<'a, '_>) -> Result<Self, Refusal> {
        let mut options = Self {
            count: 10,
            pattern: None,
            values: true,
        };
        let mut at = 3;
        while at < call.args.len() {
            let value = call.args.get(at + 1);
            match (call.word(at).as_str(), value) {
                ("COUNT", Some(value)) => {
                    options.count = count(value)?;
                    at += 1;
                }
                ("MATCH", Some(pattern)) => {
                    options.pattern = Some(pattern);
                    at += 1;
                }
                ("NOVALUES", _) if call.command.name == "hscan" => options.values = false,
                ("NOSCORES", _) if call.command.name == "zscan" => options.values = false,
                ("NOVALUES", _) => return Err("ERR NOVALUES option can only be used in HSCAN".into()),
                ("NOSCORES", _) => return Err("ERR NOSCORES option can only be used in ZSCAN".into()),
                _ => return Err(SYNTAX),
            }
            at += 1;
        }
        Ok(options)
    }

    pub(super) fn fits(&self, element: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| keys::matches(pattern, element))
    }
}

/// A place to go on from.
pub(super) fn cursor(text: &[u8]) -> Result<u64, Refusal> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or(Refusal::Borrowed("ERR invalid cursor"))
}

/// The answer of a scan of a key that is not there.
pub(super) fn nothing_scanned(call: &mut Call<'_, '_>) -> Done {
    call.reply.array(2);
    call.reply.bulk(b"0");
    call.reply.array(0);
    Ok(())
}

/// How many elements one answer should give.
pub(super) fn count(text: &[u8]) -> Result<usize, Refusal> {
    let count = parse_integer(text).ok_or(NOT_AN_INTEGER)?;
    Ok(usize::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?.min(MAX_COUNT))
}

/// The keys that follow their number, which is the argument `at`.
pub(super) fn numbered_keys<'a>(call: &Call<'a, '_>, at: usize, name: &str) -> Result<&'a [Bytes], Refusal> {
    let number = call.integer(at)?;
    if number < 1 {
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    let end = usize::try_from(number).ok().and_then(|number| number.checked_add(at + 1));
    end.and_then(|end| call.args.get(at + 1..end)).ok_or(SYNTAX)
}

/// The same for the commands that word their refusals otherwise; `beyond`: of more keys than there are arguments.
pub(super) fn counted_keys<'a>(call: &Call<'a, '_>, at: usize, beyond: Refusal) -> Result<&'a [Bytes], Refusal> {
    let number = call.at_least(at, 1, "ERR numkeys should be greater than 0")?;
    let end = usize::try_from(number).ok().and_then(|number| number.checked_add(at + 1));
    end.and_then(|end| call.args.get(at + 1..end)).ok_or(beyond)
}

/// `[COUNT count]` of the commands that pop from one of several keys, from the argument `at` on; 1 if it is not given.
pub(super) fn pop_count(call: &Call<'_, '_>, mut at: usize) -> Result<u64, Refusal> {
    let mut count = None;
    while at < call.args.len() {
        if call.word(at) != "COUNT" || count.is_some() || at + 1 == call.args.len() {
            return Err(SYNTAX);
        }
        count = Some(call.at_least(at + 1, 1, "ERR count should be greater than 0")?);
        at += 2;
    }
    Ok(count.unwrap_or(1))
}

/// `count [word]`, from argument 2 on: so many different elements by chance, or (if negative) so many with repetitions; and
/// whether the word is there.
pub(super) fn random_count(call: &Call<'_, '_>, word: &str) -> Result<(i64, bool), Refusal> {
    let count = call.negatable(2)?;
    match call.args.len() {
        3 => Ok((count, false)),
        4 if call.word(3) == word => {
            // Each is two elements of the reply.
            if count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
                return Err(OUT_OF_RANGE);
            }
            Ok((count, true))
        }
        _ => Err(SYNTAX),
    }
}

/// How many elements [`random_positions`] gives.
pub(super) fn random_length(length: u64, count: i64) -> usize {
    let number = if count < 0 && length > 0 {
        count.unsigned_abs()
    } else {
        length.min(count.unsigned_abs())
    };
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Positions below `length` by chance, as [`random_count`] asks for.
pub(super) fn random_positions(random: &mut SmallRng, length: u64, count: i64) -> Box<dyn Iterator<Item = u64> + '_> {
    if length == 0 {
        return Box::new(std::iter::empty());
    }
    if count < 0 {
        return Box::new((0..count.unsigned_abs()).map(move |_| random.random_range(0..length)));
    }
    if count.unsigned_abs() >= length {
        return Box::new(0..length);
    }
    let (length, count) = (
        usize::try_from(length).unwrap_or(usize::MAX),
        usize::try_from(count).unwrap_or(usize::MAX),
    );
    let picked = rand::seq::index::sample(random, length, count);
    Box::new(picked.into_iter().map(|position| position as u64))
}
