//! What the node tells about itself and about its commands.

use super::call::{Call, Done, Refusal, parse_integer};
use super::categories::categories;
use super::table::{COMMANDS, Command, Keys, Kind, by_name};
use super::{Class, Holders, NodeView, Outcome, keys};
use crate::resp::Writer;
use bytes::Bytes;
use std::fmt::Write as _;

/// The version of Redis whose commands clients may expect; some look before they use a feature.
pub(super) const COMPATIBLE_VERSION: &str = "7.2.4";

/// As Redis calls it.
pub(super) fn role(view: &NodeView) -> &'static str {
    if view.serving { "master" } else { "replica" }
}

pub(super) fn info(call: &mut Call<'_, '_>) -> Done {
    let wanted: Vec<String> = call.args[1..]
        .iter()
        .map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase())
        .collect();
    let all = wanted.is_empty()
        || wanted
            .iter()
            .any(|section| matches!(section.as_str(), "all" | "default" | "everything"));
    let mut text = String::new();
    for (name, section) in sections(call) {
        if all || wanted.iter().any(|wanted| *wanted == name.to_ascii_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a string does not fail.
            let _ = write!(text, "# {name}\r\n{section}");
        }
    }
    call.reply.verbatim(&text);
    Ok(())
}

fn sections(call: &Call<'_, '_>) -> Vec<(&'static str, String)> {
    let (view, keyspace) = (call.context.view, &call.context.keyspace);
    let uptime = call.now().saturating_sub(view.started_millis) / 1000;
    let master = match &view.primary {
        Some(primary) if !view.serving => format!(
            "master_host:{}\r\nmaster_port:{}\r\nmaster_link_status:{}\r\n",
            primary.host,
            primary.port,
            if view.primary_heard { "up" } else { "down" }
        ),
        _ => String::new(),
    };
    let connected = view.replicas.iter().filter(|replica| replica.up).count();
    let db = if keyspace.is_empty() {
        String::new()
    } else {
        format!("db0:keys={},expires={},avg_ttl=0\r\n", keyspace.len(), keyspace.expiring())
    };
    vec![
        (
            "Server",
            format!(
                "redis_version:{COMPATIBLE_VERSION}\r\nserver_name:quorate\r\nquorate_version:{}\r\nredis_mode:cluster\r\nos:{}\r\n\
                 arch_bits:64\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n\
                 store:{}\r\nshard:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::process::id(),
                view.me.node_id,
                view.me.port,
                uptime / 86_400,
                view.store,
                view.shard,
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\nblocked_clients:0\r\n", view.clients)),
        (
            "Memory",
            format!(
                "used_memory:{used}\r\nused_memory_dataset:{used}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n",
                view.max_memory,
                used = keyspace.memory_bytes(),
            ),
        ),
        (
            "Persistence",
            "loading:0\r\naof_enabled:1\r\nrdb_changes_since_last_save:0\r\n".to_owned(),
        ),
        (
            "Replication",
            format!(
                "role:{}\r\nconnected_slaves:{connected}\r\n{master}master_repl_offset:{}\r\nepoch:{}\r\nwrite_quorum:{}\r\n",
                if view.serving { "master" } else { "slave" },
                view.commit,
                view.epoch,
                view.write_quorum,
            ),
        ),
        ("Cluster", "cluster_enabled:1\r\n".to_owned()),
        ("Keyspace", db),
    ]
}

pub(super) fn time(call: &mut Call<'_, '_>) -> Done {
    let now = call.now();
    call.reply.array(2);
    call.reply.bulk_number(i64::try_from(now / 1000).unwrap_or(i64::MAX));
    call.reply.bulk_number(i64::try_from(now % 1000 * 1000).unwrap_or(0));
    Ok(())
}

pub(super) fn lolwut(call: &mut Call<'_, '_>) -> Done {
    call.reply.verbatim(&format!("Quorate {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// Settings that clients and suites ask for, as they are.
fn settings(view: &NodeView) -> [(&'static str, String); 8] {
    [
        ("maxmemory", view.max_memory.to_string()),
        ("maxmemory-policy", "noeviction".into()),
        ("appendonly", "yes".into()),
        ("appendfsync", if view.page_cache { "no" } else { "always" }.into()),
        ("save", String::new()),
        ("databases", "1".into()),
        ("cluster-enabled", "yes".into()),
        ("proto-max-bulk-len", (16 << 20).to_string()),
    ]
}

/// How Redis chooses encodings: hints that change no reply. They read as Redis has them, and setting them does nothing.
const HINTS: [(&str, &str); 16] = [
    ("hash-max-listpack-entries", "512"),
    ("hash-max-listpack-value", "64"),
    ("hash-max-ziplist-entries", "512"),
    ("hash-max-ziplist-value", "64"),
    ("list-compress-depth", "0"),
    ("list-max-listpack-size", "-2"),
    ("list-max-ziplist-size", "-2"),
    ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"),
    ("set-max-listpack-value", "64"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
    ("zset-max-ziplist-entries", "128"),
    ("zset-max-ziplist-value", "64"),
    ("hll-sparse-max-bytes", "3000"),
    ("activerehashing", "yes"),
];

/// Whether a setting is a hint, or has this value already.
fn is_so(call: &Call<'_, '_>, pair: &[Bytes]) -> bool {
    let named = |name: &str| pair[0].eq_ignore_ascii_case(name.as_bytes());
    let is_hint = HINTS.iter().any(|(hint, _)| named(hint));
    let mut settings = settings(call.context.view).into_iter();
    is_hint || settings.any(|(name, value)| named(name) && *pair[1] == *value.as_bytes())
}

pub(super) fn config(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        ("GET", 3..) => {
            let mut found = settings(call.context.view).to_vec();
            found.extend(HINTS.map(|(name, value)| (name, value.to_owned())));
            found.retain(|(name, _)| {
                call.args[2..]
                    .iter()
                    .any(|pattern| keys::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
            });
            call.reply.map(found.len());
            for (name, value) in found {
                call.reply.bulk(name.as_bytes());
                call.reply.bulk(value.as_bytes());
            }
            Ok(())
        }
        ("SET", length) if length >= 4 && length % 2 == 0 && call.args[2..].chunks_exact(2).all(|pair| is_so(call, pair)) => {
            call.reply.ok();
            Ok(())
        }
        ("RESETSTAT", 2) => {
            call.reply.ok();
            Ok(())
        }
        ("GET", _) => Err("ERR wrong number of arguments for 'config|get' command".into()),
        ("SET" | "REWRITE", _) => Err("ERR CONFIG is read only: change the ReplicatedStore instead".into()),
        _ => Err(call.unknown_subcommand()),
    }
}

pub(super) fn acl(call: &mut Call<'_, '_>) -> Done {
    match call.word(1).as_str() {
        "WHOAMI" => call.reply.bulk(b"default"),
        _ => return Err("ERR only ACL WHOAMI is supported".into()),
    }
    Ok(())
}

pub(super) fn empty_list(call: &mut Call<'_, '_>) -> Done {
    call.reply.array(0);
    Ok(())
}

pub(super) fn slowlog(call: &mut Call<'_, '_>) -> Done {
    match call.word(1).as_str() {
        "LEN" => call.reply.integer(0),
        "RESET" => call.reply.ok(),
        _ => call.reply.array(0),
    }
    Ok(())
}

pub(super) fn function(call: &mut Call<'_, '_>) -> Done {
    match call.word(1).as_str() {
        // There are none, so that removing all of them is done.
        "FLUSH" => call.reply.ok(),
        "LIST" => call.reply.array(0),
        _ => return Err("ERR functions are not supported".into()),
    }
    Ok(())
}

pub(super) fn refuse_debug(_: &mut Call<'_, '_>) -> Done {
    Err("ERR DEBUG is not supported".into())
}

/// Asks for a reply that says who holds this client's last write, once so many do.
fn await_holders(call: &mut Call<'_, '_>, replicas: i64, local: bool, timeout_at: usize, both: bool) -> Done {
    let timeout = parse_integer(&call.args[timeout_at]).ok_or("ERR timeout is not an integer or out of range")?;
    let timeout_millis = u64::try_from(timeout).map_err(|_| Refusal::Borrowed("ERR timeout is negative"))?;
    if !call.context.view.serving {
        return Err(format!(
            "ERR {} cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.",
            call.command.name.to_ascii_uppercase()
        )
        .into());
    }
    call.class = Some(Outcome {
        class: Class::Read,
        wait_index: call.session.last_write,
        holders: Some(Holders {
            index: call.session.last_write,
            replicas: u64::try_from(replicas).unwrap_or(0),
            local,
            timeout_millis,
            both,
        }),
        ..Outcome::IMMEDIATE
    });
    Ok(())
}

pub(super) fn wait(call: &mut Call<'_, '_>) -> Done {
    let replicas = call.integer(1)?;
    await_holders(call, replicas, false, 2, false)
}

pub(super) fn wait_aof(call: &mut Call<'_, '_>) -> Done {
    let local = match call.integer(1)? {
        0 => false,
        1 => true,
        _ => return Err("ERR value is out of range, must be between 0 and 1".into()),
    };
    let replicas = call.integer(2)?;
    if call.context.view.page_cache {
        return wait_for_disks(call, local, replicas);
    }
    await_holders(call, replicas, local, 3, true)
}

/// With durability `PageCache` nobody knows what is on a disk: WAITAOF for none is true, and for some would never be.
fn wait_for_disks(call: &mut Call<'_, '_>, local: bool, replicas: i64) -> Done {
    if local || replicas > 0 {
        return Err(
            "ERR WAITAOF cannot be used: the durability of this store is PageCache, which syncs no write. WAIT says who holds it".into(),
        );
    }
    call.reply.array(2);
    call.reply.integer(0);
    call.reply.integer(0);
    Ok(())
}

pub(super) fn command(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        (_, 1) => {
            call.reply.array(COMMANDS.len());
            for command in COMMANDS {
                describe(call, command);
            }
        }
        ("COUNT", 2) => call.reply.count(COMMANDS.len()),
        ("LIST", 2) => {
            call.reply.array(COMMANDS.len());
            for command in COMMANDS {
                call.reply.bulk(command.name.as_bytes());
            }
        }
        ("INFO", 2) => {
            call.reply.array(COMMANDS.len());
            for command in COMMANDS {
                describe(call, command);
            }
        }
        ("INFO", _) => {
            call.reply.array(call.args.len() - 2);
            for name in &call.args[2..] {
                match by_name(name) {
                    Some(command) => describe(call, command),
                    None => call.reply.null_array(),
                }
            }
        }
        ("DOCS", _) => docs(call),
        ("GETKEYS", 3..) => {
            let args = &call.args[2..];
            let command = by_name(&args[0]).ok_or("ERR Invalid command specified")?;
            if !command.takes(args.len()) {
                return Err("ERR Invalid number of arguments specified for command".into());
            }
            let positions: Vec<usize> = command
                .keys
                .positions(args)
                .ok_or("ERR The command has no key arguments")?
                .collect();
            if positions.is_empty() {
                return Err("ERR Invalid arguments specified for command".into());
            }
            call.reply.array(positions.len());
            for at in positions {
                call.reply.bulk(&args[at]);
            }
        }
        ("GETKEYS", _) => return Err("ERR wrong number of arguments for 'command|getkeys' command".into()),
        _ => return Err(call.unknown_subcommand()),
    }
    Ok(())
}

fn docs(call: &mut Call<'_, '_>) {
    let wanted: Vec<&'static Command> = if call.args.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        call.args[2..].iter().filter_map(|name| by_name(name)).collect()
    };
    call.reply.map(wanted.len());
    for command in wanted {
        call.reply.bulk(command.name.as_bytes());
        call.reply.map(1);
        call.reply.bulk(b"group");
        call.reply.bulk(if command.kind == Kind::Plain { b"server" } else { b"generic" });
    }
}

/// Name, arity, flags, first key, last key, step, categories, hints, key specifications, subcommands.
fn describe(call: &mut Call<'_, '_>, command: &Command) {
    let keys = command.keys;
    let mut flags: Vec<&str> = match command.kind {
        Kind::Plain => vec!["loading", "stale"],
        Kind::Read => vec!["readonly"],
        Kind::Write if command.grows => vec!["write", "denyoom"],
        Kind::Write => vec!["write"],
    };
    if keys.count > 0 || keys.store {
        flags.push("movablekeys");
    }
    let categories = categories(command);
    let reply = &mut call.reply;
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity as i64);
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    reply.integer(keys.first as i64);
    reply.integer(keys.last as i64);
    reply.integer(keys.step as i64);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(category));
    reply.array(0);
    describe_keys(reply, command.kind, keys);
    reply.array(0);
}

/// Where the keys are: those at fixed places, and those behind their number. The key behind STORE is known to GETKEYS alone.
fn describe_keys(reply: &mut Writer<'_>, kind: Kind, keys: Keys) {
    let Keys {
        first,
        last,
        step,
        count,
        store: _,
    } = keys;
    let access = if kind == Kind::Write { "RW" } else { "RO" };
    reply.array(usize::from(first > 0) + usize::from(count > 0));
    let mut begin = |index: usize, find: &str, numbers: [(&str, i64); 3]| {
        reply.map(3);
        reply.bulk(b"flags");
        reply.set(1);
        reply.simple(access);
        reply.bulk(b"begin_search");
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(b"index");
        reply.bulk(b"spec");
        reply.map(1);
        reply.bulk(b"index");
        reply.integer(index as i64);
        reply.bulk(b"find_keys");
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(find.as_bytes());
        reply.bulk(b"spec");
        reply.map(numbers.len());
        for (name, number) in numbers {
            reply.bulk(name.as_bytes());
            reply.integer(number);
        }
    };
    if first > 0 {
        // As seen from the first.
        let last = if last < 0 { last as i64 } else { last as i64 - first as i64 };
        begin(first, "range", [("lastkey", last), ("keystep", step as i64), ("limit", 0)]);
    }
    if count > 0 {
        begin(count, "keynum", [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)]);
    }
}
