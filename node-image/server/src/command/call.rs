//! One command under execution, and how its arguments are read.

use super::table::Command;
use super::{ClientSession, Context, Outcome};
use crate::keyspace::{Change, Item, Value};
use crate::resp::Writer;
use bytes::Bytes;
use std::borrow::Cow;

/// The text of an error reply, its code first.
pub(super) type Refusal = Cow<'static, str>;

/// What a handler gives.
pub(super) type Done = Result<(), Refusal>;

pub(super) const SYNTAX: Refusal = Cow::Borrowed("ERR syntax error");
pub(super) const NOT_AN_INTEGER: Refusal = Cow::Borrowed("ERR value is not an integer or out of range");
pub(super) const NOT_A_FLOAT: Refusal = Cow::Borrowed("ERR value is not a valid float");
pub(super) const NO_SUCH_KEY: Refusal = Cow::Borrowed("ERR no such key");
/// Longest string that a key holds.
pub(super) const MAX_STRING: usize = 16 << 20;

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
    pub(super) fn string(&self, key: &[u8]) -> Option<&[u8]> {
        self.item(key).map(|item| {
            let Value::String(bytes) = &item.value;
            &bytes[..]
        })
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], expiry: u64) {
        let value = Value::String(value.into());
        let (keyspace, mut change) = self.change();
        keyspace.0.put(keyspace.1, key, value, expiry, &mut change);
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

    fn change(&mut self) -> ((&mut crate::keyspace::Keyspace, u16), Change<'_>) {
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
