//! One command under execution, and how its arguments are read.

use super::table::Command;
use super::{ClientSession, Context, Outcome};
use crate::keyspace::{Change, Collection, Hash, Item, Keyspace, List, Set, SortedSet, Update, Value};
use crate::resp::Writer;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// The text of an error reply, its code first.
pub(super) type Refusal = Cow<'static, str>;

/// What a handler gives.
pub(super) type Done = Result<(), Refusal>;

pub(super) const SYNTAX: Refusal = Cow::Borrowed("ERR syntax error");
pub(super) const NOT_AN_INTEGER: Refusal = Cow::Borrowed("ERR value is not an integer or out of range");
pub(super) const NOT_A_FLOAT: Refusal = Cow::Borrowed("ERR value is not a valid float");
pub(super) const NO_SUCH_KEY: Refusal = Cow::Borrowed("ERR no such key");
pub(super) const WRONG_TYPE: Refusal = Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value");
pub(super) const OUT_OF_RANGE: Refusal = Cow::Borrowed("ERR value is out of range");
pub(super) const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
/// Longest string that a key holds, and longest element.
pub(super) const MAX_STRING: usize = 16 << 20;
/// Longest reply of a command that gives many values, and of a whole transaction.
const MAX_REPLY: usize = 64 << 20;
/// Effects of one entry: half of what an entry holds, so that a command and what came before it fit in any case.
pub(super) const MAX_EFFECTS: usize = quorate_api::entry::MAX_BODY_LEN / 2;
/// Longest effect that is not counted.
const SMALL_EFFECT: usize = 64;
const TOO_LARGE: Refusal = Cow::Borrowed("ERR the change is too large to be made at once: it is limited to 32 MiB");

/// A type of collection.
pub(super) trait Kept {
    fn of(collection: &Collection) -> Option<&Self>;
}

macro_rules! kept {
    ($($kind:ident)*) => {$(
        impl Kept for $kind {
            fn of(collection: &Collection) -> Option<&Self> {
                match collection {
                    Collection::$kind(kept) => Some(kept),
                    _ => None,
                }
            }
        }
    )*};
}
kept!(Hash Set SortedSet List);

/// The collection of this type that an item holds.
pub(super) fn kept<T: Kept>(item: Option<&Item>) -> Result<Option<&T>, Refusal> {
    match item.map(|item| &item.value) {
        None => Ok(None),
        Some(Value::Collection(collection)) => T::of(collection).map(Some).ok_or(WRONG_TYPE),
        Some(Value::String(_)) => Err(WRONG_TYPE),
    }
}

/// The same, borrowed from the context alone, so that the reply can be written meanwhile.
pub(super) fn find<'k, T: Kept>(context: &'k Context<'_>, slot: u16, key: &[u8]) -> Result<Option<&'k T>, Refusal> {
    kept(context.keyspace.get(slot, key, context.clock_millis))
}

/// See the module.
#[derive(Debug)]
pub(super) struct Call<'a, 'c> {
    pub(super) context: &'a mut Context<'c>,
    pub(super) session: &'a mut ClientSession,
    pub(super) command: &'static Command,
    /// The command's name first.
    pub(super) args: &'a [Bytes],
    /// The slot of its keys; 0 if it has none.
    pub(super) slot: u16,
    pub(super) reply: Writer<'a>,
    /// Where the reply begins in its buffer; in a transaction, where that one's replies begin.
    pub(super) begin: usize,
    /// Set by a handler that knows better than its kind what the reply waits for.
    pub(super) class: Option<Outcome>,
}

impl Call<'_, '_> {
    pub(super) fn now(&self) -> u64 {
        self.context.clock_millis
    }

    /// The item of a key, unless it has expired.
    pub(super) fn item(&self, key: &[u8]) -> Option<&Item> {
        self.context.keyspace.get(self.slot, key, self.context.clock_millis)
    }

    /// The string that a key holds.
    pub(super) fn string(&self, key: &[u8]) -> Result<Option<&[u8]>, Refusal> {
        match self.item(key).map(|item| &item.value) {
            None => Ok(None),
            Some(Value::String(bytes)) => Ok(Some(bytes)),
            Some(Value::Collection(_)) => Err(WRONG_TYPE),
        }
    }

    /// The collection that a key holds.
    pub(super) fn collection<T: Kept>(&self, key: &[u8]) -> Result<Option<&T>, Refusal> {
        kept(self.item(key))
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], expiry: u64) {
        self.put_value(key, Value::String(value.into()), expiry);
    }

    fn put_value(&mut self, key: &[u8], value: Value, expiry: u64) {
        let (keyspace, mut change) = self.change();
        keyspace.0.put(keyspace.1, key, value, expiry, &mut change);
    }

    /// Lets a key hold a whole collection; without elements the key is gone.
    pub(super) fn store(&mut self, key: &[u8], collection: Collection, expiry: u64) -> Done {
        if collection.is_empty() {
            self.delete(key);
            return Ok(());
        }
        self.store_shared(key, Arc::new(collection), expiry)
    }

    /// The same with one that is not empty.
    pub(super) fn store_shared(&mut self, key: &[u8], collection: Arc<Collection>, expiry: u64) -> Done {
        self.check_size(usize::try_from(collection.memory_bytes()).unwrap_or(usize::MAX))?;
        self.put_value(key, Value::Collection(collection), expiry);
        Ok(())
    }

    /// Changes a part of what a key holds; gives how many elements came or went.
    pub(super) fn update(&mut self, key: &[u8], update: &Update<'_>) -> Result<u64, Refusal> {
        self.check_size(update.encoded_len())?;
        let (now, slot) = (self.now(), self.slot);
        if self.item(key).is_none() {
            // One whose time has come, and that is not removed yet, begins anew.
            let (keyspace, mut change) = self.change();
            keyspace.0.remove_expired(slot, key, now, &mut change);
        }
        let (keyspace, mut change) = self.change();
        keyspace.0.update(slot, key, update, &mut change).map_err(|_| WRONG_TYPE)
    }

    /// Gives a key another name; true if it is there.
    pub(super) fn rename(&mut self, key: &[u8], to: &[u8]) -> bool {
        let (keyspace, mut change) = self.change();
        keyspace.0.rename(key, to, &mut change)
    }

    /// Lets another key hold the same; true if the key is there.
    pub(super) fn copy(&mut self, key: &[u8], to: &[u8]) -> bool {
        let (keyspace, mut change) = self.change();
        keyspace.0.copy(key, to, &mut change)
    }

    /// Whether so many bytes of effects fit in the entry.
    pub(super) fn check_size(&self, bytes: usize) -> Done {
        // Small ones fit in any case: a transaction has a bounded number of them.
        if bytes > SMALL_EFFECT && self.context.effects.len().saturating_add(bytes) > MAX_EFFECTS {
            return Err(TOO_LARGE);
        }
        Ok(())
    }

    /// Refuses a reply that grows too long.
    pub(super) fn check_reply(&mut self) -> Done {
        check_reply(&mut self.reply, self.begin)
    }

    /// Removes a key that has not expired; true if there was one.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        if self.item(key).is_none() {
            return false;
        }
        let (keyspace, mut change) = self.change();
        keyspace.0.delete(keyspace.1, key, &mut change)
    }

    pub(super) fn set_expiry(&mut self, key: &[u8], expiry: u64) {
        let (keyspace, mut change) = self.change();
        keyspace.0.set_expiry(keyspace.1, key, expiry, &mut change);
    }

    pub(super) fn flush_all(&mut self) {
        let (keyspace, mut change) = self.change();
        keyspace.0.flush_all(&mut change);
    }

    fn change(&mut self) -> ((&mut Keyspace, u16), Change<'_>) {
        let change = Change {
            effects: self.context.effects,
            index: self.context.pending_index,
        };
        ((self.context.keyspace, self.slot), change)
    }

    /// A word of the command, in capitals.
    pub(super) fn word(&self, at: usize) -> String {
        self.args
            .get(at)
            .map(|arg| String::from_utf8_lossy(arg).to_ascii_uppercase())
            .unwrap_or_default()
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64, Refusal> {
        parse_integer(self.args.get(at).ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER)
    }

    /// An integer whose negative is one too.
    pub(super) fn negatable(&self, at: usize) -> Result<i64, Refusal> {
        let number = self.integer(at)?;
        if number == i64::MIN {
            return Err("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807".into());
        }
        Ok(number)
    }

    /// An integer that is at least `least`; everything else is refused by `refusal`.
    pub(super) fn at_least(&self, at: usize, least: u64, refusal: &'static str) -> Result<u64, Refusal> {
        let number = self
            .args
            .get(at)
            .and_then(|text| parse_integer(text))
            .and_then(|number| u64::try_from(number).ok());
        number.filter(|number| *number >= least).ok_or(Refusal::Borrowed(refusal))
    }

    pub(super) fn wrong_arguments(&self) -> Refusal {
        wrong_arguments(self.command.name)
    }

    /// For a container command: its name and subcommand are known, the subcommand is not.
    pub(super) fn unknown_subcommand(&self) -> Refusal {
        let given = self
            .args
            .get(1)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .unwrap_or_default();
        format!(
            "ERR unknown subcommand '{given}'. Try {} HELP.",
            self.command.name.to_ascii_uppercase()
        )
        .into()
    }
}

/// Refuses a reply that grows too long; see [`Call::begin`].
pub(super) fn check_reply(reply: &mut Writer<'_>, begin: usize) -> Done {
    if reply.buffer().len().saturating_sub(begin) > MAX_REPLY {
        return Err("ERR the reply is too large: ask for less at once".into());
    }
    Ok(())
}

pub(super) fn wrong_arguments(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// A number as Redis reads it: no sign of plus, no leading zeros or spaces.
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let strict = itoa::Buffer::new().format(value).as_bytes() == text;
    strict.then_some(value)
}

/// A finite number, or None.
pub(super) fn parse_float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return None;
    }
    text.parse::<f64>().ok().filter(|value| !value.is_nan())
}
