//! What `COMMAND` says of each command: the same as Valkey says.

use super::{Connection, both};
use std::collections::BTreeSet;

/// Refused here, whatever follows them; one of our own; and those that have keys with them, where Valkey has them with their subcommands.
const NOT_COMPARED: [&str; 9] = [
    "migrate",
    "restore-asking",
    "psync",
    "sync",
    "replicaof",
    "slaveof",
    "qr.read",
    "memory",
    "object",
];

/// Arity, places of keys, and categories.
#[derive(Debug, PartialEq)]
struct Description {
    arity: String,
    keys: Vec<String>,
    categories: BTreeSet<String>,
}

fn describe(connection: &mut Connection, name: &str) -> Option<Description> {
    let reply = connection.words(&format!("COMMAND INFO {name}"));
    let plain = reply.replace("*[", " ").replace(']', " ");
    // Name, arity, flags, three numbers, categories, and more.
    let mut words = plain.split_whitespace().map(str::to_owned).skip(1);
    let arity = words.next()?;
    let mut behind_flags = words.skip_while(|word| !word.starts_with(':'));
    let keys = behind_flags.by_ref().take(3).collect();
    let categories = behind_flags.take_while(|word| word.starts_with("+@")).collect();
    Some(Description { arity, keys, categories })
}

#[test]
fn every_command_is_described_as_valkey_describes_it() {
    let Some(both) = both() else { return };
    let (mut theirs, mut ours) = (Connection::open(both.valkey), Connection::open(both.ours));
    let list = ours.words("COMMAND LIST");
    let names = list
        .trim_matches(['*', '[', ']'])
        .split(' ')
        .map(|name| name.trim_start_matches('$'));
    let mut differences = Vec::new();
    for name in names.filter(|name| !NOT_COMPARED.contains(name)) {
        let (a, b) = (describe(&mut theirs, name), describe(&mut ours, name));
        if a != b {
            differences.push(format!("{name}\n  Valkey: {a:?}\n  ours:   {b:?}"));
        }
    }
    super::ensure_none(&differences);
}
