//! DUMP and RESTORE. A dump is a value as snapshots hold it, a version, and a checksum over both; it is not a dump of Redis.

use super::call::{Call, Done, MAX_STRING, Refusal, SYNTAX};
use crate::keyspace::{NEVER, Value};

/// Version of the format: two bytes behind the value, then eight of a checksum.
const VERSION: u16 = 1;
const FOOTER_LEN: usize = 10;
const BAD_PAYLOAD: Refusal = Refusal::Borrowed("ERR DUMP payload version or checksum are wrong");

pub(super) fn dump(call: &mut Call<'_, '_>) -> Done {
    let Some(item) = call.item(&call.args[1]) else {
        call.reply.null();
        return Ok(());
    };
    let too_long = "ERR the value is too large for a dump: it is limited to 16 MiB";
    if item.memory_bytes() > 2 * MAX_STRING as u64 {
        return Err(too_long.into());
    }
    let mut payload = item.value.to_bytes();
    payload.extend_from_slice(&VERSION.to_le_bytes());
    payload.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&payload).to_le_bytes());
    if payload.len() > MAX_STRING {
        return Err(too_long.into());
    }
    call.reply.bulk(&payload);
    Ok(())
}

fn read(payload: &[u8]) -> Result<Value, Refusal> {
    let (value, footer) = payload
        .split_at_checked(payload.len().wrapping_sub(FOOTER_LEN))
        .ok_or(BAD_PAYLOAD)?;
    let (version, checksum) = footer.split_at(2);
    let covered = &payload[..value.len() + 2];
    let whole = version == VERSION.to_le_bytes() && checksum == xxhash_rust::xxh3::xxh3_64(covered).to_le_bytes();
    if !whole {
        return Err(BAD_PAYLOAD);
    }
    Value::from_bytes(value).map_err(|_| Refusal::Borrowed("ERR Bad data format"))
}

pub(super) fn restore(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let (mut replace, mut absolute) = (false, false);
    let mut at = 4;
    while at < args.len() {
        match (call.word(at).as_str(), args.len() - at) {
            ("REPLACE", _) => replace = true,
            ("ABSTTL", _) => absolute = true,
            // Nothing is evicted by age or use here.
            ("IDLETIME", 2..) => {
                at += 1;
                if call.integer(at)? < 0 {
                    return Err("ERR Invalid IDLETIME value, must be >= 0".into());
                }
            }
            ("FREQ", 2..) => {
                at += 1;
                if !(0..=255).contains(&call.integer(at)?) {
                    return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
                }
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    if !replace && call.item(&args[1]).is_some() {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let invalid = || Refusal::Borrowed("ERR Invalid TTL value, must be >= 0");
    let time = u64::try_from(call.integer(2)?).map_err(|_| invalid())?;
    let value = read(&args[3])?;
    let expiry = match (time, absolute) {
        (0, _) => NEVER,
        (time, true) => time,
        (time, false) => call.now().saturating_add(time),
    };
    if expiry <= call.now() {
        call.delete(&args[1]);
    } else {
        match value {
            Value::String(bytes) => call.put(&args[1], &bytes, expiry),
            Value::Collection(collection) => call.store_shared(&args[1], collection, expiry)?,
        }
    }
    call.reply.ok();
    Ok(())
}
