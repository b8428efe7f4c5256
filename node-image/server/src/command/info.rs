//! What the node tells about itself and about its commands.

use super::call::{Call, Done, Refusal, parse_integer};
use super::table::{COMMANDS, Command, Keys, Kind, by_name};
use super::{Class, NodeView, Outcome, keys};
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
        ("appendfsync", "always".into()),
        ("save", String::new()),
        ("databases", "1".into()),
        ("cluster-enabled", "yes".into()),
        ("proto-max-bulk-len", (16 << 20).to_string()),
    ]
}

pub(super) fn config(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        ("GET", 3..) => {
            let mut found = settings(call.context.view).to_vec();
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

/// Waits until this client's last write is committed, and gives how many replicas are then known to hold it.
fn wait_for_writes(call: &mut Call<'_, '_>) -> Result<usize, Refusal> {
    if !call.context.view.serving {
        return Err("ERR WAIT cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.".into());
    }
    call.class = Some(Outcome {
        class: Class::Read,
        wait_index: call.session.last_write,
        close: false,
    });
    Ok(call.context.view.write_quorum.saturating_sub(1) as usize)
}

fn timeout_argument(call: &Call<'_, '_>, at: usize) -> Done {
    let timeout = parse_integer(&call.args[at]).ok_or("ERR timeout is not an integer or out of range")?;
    if timeout < 0 {
        Err("ERR timeout is negative".into())
    } else {
        Ok(())
    }
}

pub(super) fn wait(call: &mut Call<'_, '_>) -> Done {
    call.integer(1)?;
    timeout_argument(call, 2)?;
    let replicas = wait_for_writes(call)?;
    call.reply.count(replicas);
    Ok(())
}

pub(super) fn wait_aof(call: &mut Call<'_, '_>) -> Done {
    if !matches!(call.integer(1)?, 0 | 1) {
        return Err("ERR value is out of range, must be between 0 and 1".into());
    }
    call.integer(2)?;
    timeout_argument(call, 3)?;
    let replicas = wait_for_writes(call)?;
    call.reply.array(2);
    call.reply.integer(1);
    call.reply.count(replicas);
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

/// Name, arity, flags, first key, last key, step, and what later versions added.
fn describe(call: &mut Call<'_, '_>, command: &Command) {
    let Keys { first, last, step } = command.keys;
    let flags: &[&str] = match command.kind {
        Kind::Plain => &["loading", "stale"],
        Kind::Read => &["readonly"],
        Kind::Write if command.grows => &["write", "denyoom"],
        Kind::Write => &["write"],
    };
    call.reply.array(10);
    call.reply.bulk(command.name.as_bytes());
    call.reply.integer(command.arity as i64);
    call.reply.set(flags.len());
    for flag in flags {
        call.reply.simple(flag);
    }
    call.reply.integer(first as i64);
    call.reply.integer(last as i64);
    call.reply.integer(step as i64);
    for _ in 0..4 {
        call.reply.array(0);
    }
}
