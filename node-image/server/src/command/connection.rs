//! What a client says about itself and its connection.

use super::call::{Call, Done, Refusal, SYNTAX};
use super::session::Replies;
use crate::resp::Version;
use bytes::Bytes;
use quorate_api::auth::equal;

const WRONG_PASSWORD: Refusal = Refusal::Borrowed("WRONGPASS invalid username-password pair or user is disabled.");

pub(super) fn ping(call: &mut Call<'_, '_>) -> Done {
    match call.args {
        [_] => call.reply.simple("PONG"),
        [_, text] => call.reply.bulk(text),
        _ => return Err(call.wrong_arguments()),
    }
    Ok(())
}

pub(super) fn echo(call: &mut Call<'_, '_>) -> Done {
    call.reply.bulk(&call.args[1]);
    Ok(())
}

pub(super) fn quit(call: &mut Call<'_, '_>) -> Done {
    call.session.closing = true;
    call.reply.ok();
    Ok(())
}

pub(super) fn reset(call: &mut Call<'_, '_>) -> Done {
    call.session.reset();
    call.reply.simple("RESET");
    Ok(())
}

pub(super) fn select(call: &mut Call<'_, '_>) -> Done {
    match call.integer(1)? {
        0 => call.reply.ok(),
        _ => return Err("ERR SELECT is not allowed in cluster mode".into()),
    }
    Ok(())
}

/// Checks a password, and the only user name there is.
fn authenticate(call: &mut Call<'_, '_>, user: &[u8], password: &[u8]) -> Done {
    let known = match call.context.password {
        Some(expected) => user == b"default" && equal(password, expected.as_bytes()),
        None => user == b"default",
    };
    if !known {
        return Err(WRONG_PASSWORD);
    }
    call.session.authenticated = true;
    Ok(())
}

pub(super) fn auth(call: &mut Call<'_, '_>) -> Done {
    match call.args {
        [_, password] => {
            if call.context.password.is_none() {
                return Err(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
                        .into(),
                );
            }
            authenticate(call, b"default", password)?;
        }
        [_, user, password] => authenticate(call, user, password)?,
        _ => return Err(SYNTAX),
    }
    call.reply.ok();
    Ok(())
}

pub(super) fn hello(call: &mut Call<'_, '_>) -> Done {
    let mut version = call.session.version;
    if let Some(text) = call.args.get(1) {
        version = match &text[..] {
            b"2" => Version::Resp2,
            b"3" => Version::Resp3,
            other if other.iter().all(u8::is_ascii_digit) => return Err("NOPROTO unsupported protocol version".into()),
            _ => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let mut name = None;
    let mut at = 2;
    while at < call.args.len() {
        match (call.word(at).as_str(), call.args.len() - at) {
            ("AUTH", 3..) => {
                authenticate(call, &call.args[at + 1], &call.args[at + 2])?;
                at += 3;
            }
            ("SETNAME", 2..) => {
                name = Some(checked_name(&call.args[at + 1])?);
                at += 2;
            }
            _ => return Err(format!("ERR Syntax error in HELLO option '{}'", call.word(at).to_ascii_lowercase()).into()),
        }
    }
    if !call.session.authenticated {
        return Err(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be \
             used to authenticate the client and select the RESP protocol version at the same time"
                .into(),
        );
    }
    if let Some(name) = name {
        call.session.name = name;
    }
    call.session.version = version;
    let mut reply = crate::resp::Writer::new(call.reply.buffer(), version);
    reply.map(7);
    for (field, text) in [("server", "redis"), ("version", super::info::COMPATIBLE_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if version == Version::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(call.session.id).unwrap_or(i64::MAX));
    for (field, text) in [("mode", "cluster"), ("role", super::info::role(call.context.view))] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn checked_name(name: &Bytes) -> Result<Bytes, Refusal> {
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    Ok(Bytes::copy_from_slice(name))
}

fn describe(call: &Call<'_, '_>) -> String {
    let session = &call.session;
    let protocol = if session.version == Version::Resp3 { 3 } else { 2 };
    let name = String::from_utf8_lossy(&session.name);
    let command = call.command.name;
    let queued = session
        .transaction
        .as_ref()
        .map_or(-1, |transaction| transaction.queued.len() as i64);
    format!(
        "id={} name={name} db=0 sub=0 psub=0 multi={queued} watch={} resp={protocol} user=default cmd={command}",
        session.id,
        session.watched.len()
    )
}

pub(super) fn client(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        ("ID", 2) => call.reply.integer(i64::try_from(call.session.id).unwrap_or(i64::MAX)),
        ("GETNAME", 2) if call.session.name.is_empty() => call.reply.null(),
        ("GETNAME", 2) => call.reply.bulk(&call.session.name),
        ("SETNAME", 3) => {
            call.session.name = checked_name(&call.args[2])?;
            call.reply.ok();
        }
        ("SETINFO", 4) => match call.word(2).as_str() {
            "LIB-NAME" | "LIB-VER" => call.reply.ok(),
            other => return Err(format!("ERR Unrecognized option '{other}'").into()),
        },
        ("INFO", 2) => call.reply.verbatim(&describe(call)),
        ("LIST", _) => call.reply.verbatim(&format!("{}\n", describe(call))),
        ("REPLY", 3) => match call.word(2).as_str() {
            "ON" => {
                call.session.replies = Replies::On;
                call.reply.ok();
            }
            "OFF" => call.session.replies = Replies::Off,
            "SKIP" => call.session.replies = Replies::SkipNext,
            _ => return Err(SYNTAX),
        },
        ("NO-EVICT" | "NO-TOUCH", 3) => match call.word(2).as_str() {
            "ON" | "OFF" => call.reply.ok(),
            _ => return Err(SYNTAX),
        },
        ("TRACKING" | "CACHING" | "PAUSE" | "UNPAUSE" | "KILL", _) => {
            return Err(format!("ERR CLIENT {} is not supported", call.word(1)).into());
        }
        ("ID" | "GETNAME" | "SETNAME" | "SETINFO" | "INFO" | "REPLY" | "NO-EVICT" | "NO-TOUCH", _) => {
            return Err(format!(
                "ERR wrong number of arguments for 'client|{}' command",
                call.word(1).to_ascii_lowercase()
            )
            .into());
        }
        _ => return Err(call.unknown_subcommand()),
    }
    Ok(())
}

pub(super) fn asking(call: &mut Call<'_, '_>) -> Done {
    // No slot is ever half here: a move decides at one moment who owns it.
    call.reply.ok();
    Ok(())
}
