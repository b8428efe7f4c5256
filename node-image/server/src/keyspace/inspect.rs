//! Effects for people: how many an entry has, and what they say. Nothing is applied.

use super::effect::Decoded;
use super::{Collection, Effect, EffectError, End, NEVER, Update, Value};
use serde_json::{Value as Json, json};

/// Changes of keys in the effects of an entry.
///
/// # Errors
/// See [`EffectError`].
pub fn count(effects: &[u8]) -> Result<u64, EffectError> {
    Effect::decode_all(effects)?.try_fold(0, |count, effect| {
        let changes_a_key = !matches!(effect?, Decoded::Slots { .. });
        Ok(count + u64::from(changes_a_key))
    })
}

/// The effects of an entry, one JSON value each: what is done to which key, and what the key holds then. Bytes that are no text
/// are shown with replacement characters.
///
/// # Errors
/// See [`EffectError`].
pub fn describe(effects: &[u8]) -> Result<Vec<Json>, EffectError> {
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
                Decoded::Update { key, update, .. } => changed(&text(key), &update),
                Decoded::Rename { key, to } => json!({"rename": text(key), "to": text(to)}),
                Decoded::Copy { key, to } => json!({"copy": text(key), "to": text(to)}),
                Decoded::Slots { record, payload } => json!({"slots": text(record), "bytes": payload.len()}),
            })
        })
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn texts<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Json {
    all.into_iter().map(text).collect()
}

fn pairs<'a>(all: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Json {
    let pair = |(field, value): (&[u8], &[u8])| (text(field), Json::from(text(value)));
    Json::Object(all.into_iter().map(pair).collect())
}

fn scores<'a>(all: impl IntoIterator<Item = (&'a [u8], f64)>) -> Json {
    // As text: JSON has no infinities.
    let pair = |(member, score): (&[u8], f64)| json!([text(member), score.to_string()]);
    all.into_iter().map(pair).collect()
}

fn changed(key: &str, update: &Update<'_>) -> Json {
    match update {
        Update::HashSet(fields) => json!({"hashSet": key, "fields": pairs(fields.iter().copied())}),
        Update::HashRemove(fields) => json!({"hashRemove": key, "fields": texts(fields.iter().copied())}),
        Update::SetAdd(members) => json!({"setAdd": key, "members": texts(members.iter().copied())}),
        Update::SetRemove(members) => json!({"setRemove": key, "members": texts(members.iter().copied())}),
        Update::SortedSetAdd(members) => {
            json!({"sortedSetAdd": key, "members": scores(members.iter().map(|(score, member)| (*member, *score)))})
        }
        Update::SortedSetRemove(members) => json!({"sortedSetRemove": key, "members": texts(members.iter().copied())}),
        Update::SortedSetRemoveRanks { rank, count } => json!({"sortedSetRemove": key, "rank": rank, "count": count}),
        Update::ListPush { end, values } => {
            let end = if *end == End::Left { "left" } else { "right" };
            json!({"listPush": key, "end": end, "values": texts(values.iter().copied())})
        }
        Update::ListSet { position, value } => json!({"listSet": key, "position": position, "value": text(value)}),
        Update::ListInsert { position, value } => json!({"listInsert": key, "position": position, "value": text(value)}),
        Update::ListRemove { position, count } => json!({"listRemove": key, "position": position, "count": count}),
        Update::ListRemoveEach(positions) => json!({"listRemove": key, "positions": positions}),
        Update::StringWrite { offset, bytes } => json!({"stringWrite": key, "offset": offset, "value": text(bytes)}),
    }
}

fn shown(value: &Value) -> Json {
    let collection = match value {
        Value::String(bytes) => return json!(text(bytes)),
        Value::Collection(collection) => collection,
    };
    match &**collection {
        Collection::Hash(hash) => pairs(hash.iter()),
        Collection::Set(set) => texts(set.iter()),
        Collection::SortedSet(set) => scores(set.iter(0, u64::MAX)),
        Collection::List(list) => texts(list.iter(0, u64::MAX)),
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
