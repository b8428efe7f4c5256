//! Effects for people: how many an entry has, and what they say. Nothing is applied.

use super::effect::Decoded;
use super::{Effect, EffectError, NEVER, Value};
use serde_json::{Value as Json, json};

/// Changes of keys in the effects of an entry.
///
/// # Errors
/// See [`EffectError`].
pub fn count(effects: &[u8]) -> Result<u64, EffectError> {
    Effect::decode_all(effects)?.try_fold(0, |count, effect| effect.map(|_| count + 1))
}

/// The effects of an entry, one JSON value each: what is done to which key, and what the key holds then. Bytes that are no text
/// are shown with replacement characters.
///
/// # Errors
/// See [`EffectError`].
pub fn describe(effects: &[u8]) -> Result<Vec<Json>, EffectError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let expiry = |expiry: u64| if expiry == NEVER { Json::Null } else { json!(expiry) };
    Effect::decode_all(effects)?
        .map(|effect| {
            Ok(match effect? {
                Decoded::Put {
                    key, value, expiry: at, ..
                } => json!({"put": text(key), "value": shown(&value), "expiresAtMillis": expiry(at)}),
                Decoded::Delete { key, .. } => json!({"delete": text(key)}),
                Decoded::SetExpiry { key, expiry: at, .. } => json!({"expire": text(key), "expiresAtMillis": expiry(at)}),
                Decoded::FlushAll => json!({"flushAll": true}),
            })
        })
        .collect()
}

fn shown(value: &Value) -> Json {
    match value {
        Value::String(bytes) => json!(String::from_utf8_lossy(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::{Change, Keyspace};
    use bytes::BytesMut;
    use quorate_api::slot::slot_of;

    #[test]
    fn effects_are_counted_and_told_in_their_order() {
        let (mut keyspace, mut effects) = (Keyspace::new(), BytesMut::new());
        let mut change = Change {
            effects: &mut effects,
            index: 1,
        };
        let slot = slot_of(b"a");
        keyspace.put(slot, b"a", Value::String((*b"one").into()), NEVER, &mut change);
        keyspace.put(slot, b"a", Value::String((*b"two").into()), 77, &mut change);
        keyspace.delete(slot, b"a", &mut change);
        assert_eq!(count(&effects), Ok(3));
        assert_eq!(
            describe(&effects).unwrap(),
            [
                json!({"put": "a", "value": "one", "expiresAtMillis": null}),
                json!({"put": "a", "value": "two", "expiresAtMillis": 77}),
                json!({"delete": "a"}),
            ]
        );
        assert_eq!(count(&[9]), Err(EffectError::Version(9)));
    }
}
