//! When keys expire. Times are kept as milliseconds since the Unix epoch.

use super::call::{Call, Done, Refusal};
use crate::keyspace::NEVER;

/// How a command gives or wants a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    UnixSeconds,
    UnixMillis,
}

impl Unit {
    /// Of the options EX, PX, EXAT and PXAT.
    pub(super) fn of_option(word: &str) -> Self {
        match word {
            "EX" => Self::Seconds,
            "PX" => Self::Millis,
            "EXAT" => Self::UnixSeconds,
            _ => Self::UnixMillis,
        }
    }
}

/// The moment that is meant; None if it does not fit. One before the epoch is the epoch.
pub(super) fn deadline(value: i64, unit: Unit, now: u64) -> Option<u64> {
    let now = i64::try_from(now).ok()?;
    let millis = match unit {
        Unit::Seconds => value.checked_mul(1000)?.checked_add(now)?,
        Unit::Millis => value.checked_add(now)?,
        Unit::UnixSeconds => value.checked_mul(1000)?,
        Unit::UnixMillis => value,
    };
    Some(u64::try_from(millis).unwrap_or(0))
}

pub(super) fn expire(call: &mut Call<'_, '_>) -> Done {
    expire_by(call, Unit::Seconds)
}

pub(super) fn pexpire(call: &mut Call<'_, '_>) -> Done {
    expire_by(call, Unit::Millis)
}

pub(super) fn expireat(call: &mut Call<'_, '_>) -> Done {
    expire_by(call, Unit::UnixSeconds)
}

pub(super) fn pexpireat(call: &mut Call<'_, '_>) -> Done {
    expire_by(call, Unit::UnixMillis)
}

#[derive(Debug, Default)]
struct Conditions {
    absent: bool,
    present: bool,
    later: bool,
    earlier: bool,
}

fn conditions(call: &Call<'_, '_>) -> Result<Conditions, Refusal> {
    let mut conditions = Conditions::default();
    for at in 3..call.args.len() {
        match call.word(at).as_str() {
            "NX" => conditions.absent = true,
            "XX" => conditions.present = true,
            "GT" => conditions.later = true,
            "LT" => conditions.earlier = true,
            _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(&call.args[at])).into()),
        }
    }
    let Conditions {
        absent,
        present,
        later,
        earlier,
    } = conditions;
    if absent && (present || later || earlier) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if later && earlier {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    Ok(conditions)
}

fn expire_by(call: &mut Call<'_, '_>, unit: Unit) -> Done {
    let conditions = conditions(call)?;
    let value = call.integer(2)?;
    let invalid = || Refusal::from(format!("ERR invalid expire time in '{}' command", call.command.name));
    let expiry = deadline(value, unit, call.now()).ok_or_else(invalid)?;
    let key = &call.args[1];
    let Some(current) = call.item(key).map(|item| item.expiry) else {
        call.reply.integer(0);
        return Ok(());
    };
    let refused = conditions.absent && current != NEVER
        || conditions.present && current == NEVER
        || conditions.later && expiry <= current
        || conditions.earlier && expiry >= current;
    if refused {
        call.reply.integer(0);
        return Ok(());
    }
    if expiry <= call.now() {
        call.delete(key);
    } else {
        call.set_expiry(key, expiry);
    }
    call.reply.integer(1);
    Ok(())
}

pub(super) fn persist(call: &mut Call<'_, '_>) -> Done {
    let expires = call.item(&call.args[1]).is_some_and(|item| item.expiry != NEVER);
    if expires {
        call.set_expiry(&call.args[1], NEVER);
    }
    call.reply.integer(i64::from(expires));
    Ok(())
}

pub(super) fn ttl(call: &mut Call<'_, '_>) -> Done {
    time_of(call, Unit::Seconds)
}

pub(super) fn pttl(call: &mut Call<'_, '_>) -> Done {
    time_of(call, Unit::Millis)
}

pub(super) fn expiretime(call: &mut Call<'_, '_>) -> Done {
    time_of(call, Unit::UnixSeconds)
}

pub(super) fn pexpiretime(call: &mut Call<'_, '_>) -> Done {
    time_of(call, Unit::UnixMillis)
}

/// -2: no key; -1: it does not expire.
fn time_of(call: &mut Call<'_, '_>, unit: Unit) -> Done {
    let now = call.now();
    let time = match call.item(&call.args[1]).map(|item| item.expiry) {
        None => -2,
        Some(NEVER) => -1,
        Some(expiry) => {
            let left = expiry - now;
            let value = match unit {
                Unit::Seconds => (left + 500) / 1000,
                Unit::Millis => left,
                Unit::UnixSeconds => (expiry + 500) / 1000,
                Unit::UnixMillis => expiry,
            };
            i64::try_from(value).unwrap_or(i64::MAX)
        }
    };
    call.reply.integer(time);
    Ok(())
}
