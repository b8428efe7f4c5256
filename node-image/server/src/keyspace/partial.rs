//! Changes that do not carry a whole value: to a part of one, and to the name of one.

use super::{Change, Effect, EffectError, Keyspace, NEVER, Update, Value};
use quorate_api::slot::slot_of;
use std::sync::Arc;

impl Keyspace {
    /// Changes a part of what a key holds; gives how many elements came or went.
    ///
    /// # Errors
    /// When the key holds something else; nothing is changed then.
    pub fn update(&mut self, slot: u16, key: &[u8], update: &Update<'_>, change: &mut Change<'_>) -> Result<u64, EffectError> {
        let changed = self.apply_update(slot, key, update, change.index)?;
        Effect::Update { key, update }.encode(change.effects);
        Ok(changed)
    }

    /// Gives a key another name, in the place of whatever has it; true if the key is there.
    pub fn rename(&mut self, key: &[u8], to: &[u8], change: &mut Change<'_>) -> bool {
        let found = self.apply_rename(key, to, change.index);
        if found {
            Effect::Rename { key, to }.encode(change.effects);
        }
        found
    }

    /// Lets another key hold the same, in the place of whatever it holds; true if the key is there.
    pub fn copy(&mut self, key: &[u8], to: &[u8], change: &mut Change<'_>) -> bool {
        let found = self.apply_copy(key, to, change.index);
        if found {
            Effect::Copy { key, to }.encode(change.effects);
        }
        found
    }

    pub(super) fn apply_update(&mut self, slot: u16, key: &[u8], update: &Update<'_>, index: u64) -> Result<u64, EffectError> {
        let hash = self.hash(key);
        match self.slots[usize::from(slot)].get(hash, key).map(|item| &item.value) {
            Some(Value::String(bytes)) => return self.write_string(slot, key, bytes.len(), update, index),
            Some(Value::Collection(collection)) if update.fits(collection) => {}
            Some(Value::Collection(_)) => return Err(EffectError::Mismatch),
            None => {
                let origin = update.origin().ok_or(EffectError::Mismatch)?;
                self.insert(slot, key, Value::Collection(Arc::new(origin)), NEVER, index);
            }
        }
        self.watches.touch(key);
        let changed = self.change_item(slot, hash, key, index, |item| {
            let Value::Collection(collection) = &mut item.value else {
                return Err(EffectError::Mismatch);
            };
            let collection = Arc::make_mut(collection);
            Ok((update.apply(collection), collection.is_empty()))
        });
        let (changed, is_empty) = changed.expect("looked up or made just before")?;
        if is_empty {
            self.remove(slot, key, index);
        }
        Ok(changed)
    }

    fn write_string(&mut self, slot: u16, key: &[u8], length: usize, update: &Update<'_>, index: u64) -> Result<u64, EffectError> {
        let Update::StringWrite { offset, bytes } = update else {
            return Err(EffectError::Mismatch);
        };
        let offset = usize::try_from(*offset)
            .ok()
            .filter(|offset| *offset <= length)
            .ok_or(EffectError::Mismatch)?;
        let hash = self.hash(key);
        self.watches.touch(key);
        self.change_item(slot, hash, key, index, |item| {
            if let Value::String(value) = &mut item.value {
                let end = offset + bytes.len();
                if end <= length {
                    value[offset..end].copy_from_slice(bytes);
                } else {
                    let mut longer = Vec::with_capacity(end);
                    longer.extend_from_slice(&value[..offset]);
                    longer.extend_from_slice(bytes);
                    *value = longer.into();
                }
            }
        });
        Ok(bytes.len() as u64)
    }

    pub(super) fn apply_rename(&mut self, key: &[u8], to: &[u8], index: u64) -> bool {
        let (slot, hash) = (slot_of(key), self.hash(key));
        if self.slots[usize::from(slot)].get(hash, key).is_none() {
            return false;
        }
        self.watches.touch(key);
        let item = self.slot_mut(slot, index).remove(hash, key).expect("looked up just before");
        self.forget(slot, hash, &item);
        self.keys -= 1;
        self.insert(slot_of(to), to, item.value, item.expiry, index);
        true
    }

    pub(super) fn apply_copy(&mut self, key: &[u8], to: &[u8], index: u64) -> bool {
        let Some(item) = self.slots[usize::from(slot_of(key))].get(self.hash(key), key) else {
            return false;
        };
        let (value, expiry) = (item.value.clone(), item.expiry);
        self.insert(slot_of(to), to, value, expiry, index);
        true
    }
}
