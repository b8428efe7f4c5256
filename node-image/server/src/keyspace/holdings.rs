//! Which slots a group owns, beside the keys themselves: the [`SlotTable`] that the log gives, and copies that are staged.
//!
//! A copy is a state of its own until it is adopted: nothing of it is seen by any command before. What leaves with a slot is
//! everything that the slot holds.

use super::effect::{Effect, EffectError, take_byte};
use super::slot::{NEVER, Slot};
use super::{Change, Keyspace};
use bytes::{BufMut, Bytes, BytesMut};
use quorate_api::SlotSet;
use quorate_api::slot::{SLOTS, slot_of};
use quorate_protocol::slots::{SlotData, SlotRecord, SlotTable};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a group may do with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Serve it.
    Owned,
    /// It owns the slot, and clients wait: another group is asked to take it.
    Frozen,
    /// Nothing.
    Elsewhere,
}

/// What is left of slots that were given up. To let go of it takes time.
#[derive(Debug)]
pub struct Garbage(#[allow(dead_code, reason = "it is there to be dropped")] Vec<Arc<Slot>>);

/// A piece of a copy as it travels between groups: one byte that says what follows, then a block of a snapshot, or effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece(Bytes);

const BLOCK: u8 = 1;
const EFFECTS: u8 = 2;

impl Piece {
    /// A block that [`super::Snapshot::blocks`] gave.
    #[must_use]
    pub fn block(block: &[u8]) -> Self {
        Self::new(BLOCK, block)
    }

    /// The effects of an entry on these slots; None if there are none.
    ///
    /// # Errors
    /// See [`EffectError`].
    pub fn effects(effects: &[u8], slots: &SlotSet) -> Result<Option<Self>, EffectError> {
        let mut selected = BytesMut::new();
        Effect::select(effects, |slot| slots.contains(slot), &mut selected)?;
        Ok((!selected.is_empty()).then(|| Self::new(EFFECTS, &selected)))
    }

    fn new(kind: u8, bytes: &[u8]) -> Self {
        let mut piece = BytesMut::with_capacity(1 + bytes.len());
        piece.put_u8(kind);
        piece.put_slice(bytes);
        Self(piece.freeze())
    }

    /// As it travels.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Holdings {
    table: SlotTable,
    /// What the table says, by slot.
    access: Box<[Access]>,
    any_frozen: bool,
    copies: BTreeMap<u64, Keyspace>,
    garbage: Vec<Arc<Slot>>,
}

impl PartialEq for Holdings {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.copies == other.copies
    }
}

impl Holdings {
    fn new(table: SlotTable) -> Self {
        let mut holdings = Self {
            table,
            access: vec![Access::Elsewhere; usize::from(SLOTS)].into(),
            any_frozen: false,
            copies: BTreeMap::new(),
            garbage: Vec::new(),
        };
        holdings.refresh();
        holdings
    }

    fn refresh(&mut self) {
        let frozen = self.table.frozen();
        self.any_frozen = !frozen.is_empty();
        self.access.fill(Access::Elsewhere);
        for (slots, access) in [(self.table.owned(), Access::Owned), (&frozen, Access::Frozen)] {
            for slot in slots.iter() {
                self.access[usize::from(slot)] = access;
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&self.table).expect("a table is plain data")
    }

    pub(super) fn copies(&self) -> Vec<(u64, Vec<Arc<Slot>>)> {
        self.copies.iter().map(|(handoff, copy)| (*handoff, copy.slots.clone())).collect()
    }
}

impl Keyspace {
    /// What the log says about slots; None while it never said anything: shard 0 then owns all, others none.
    #[must_use]
    pub fn slot_table(&self) -> Option<&SlotTable> {
        self.holdings.as_ref().map(|holdings| &holdings.table)
    }

    /// What a group of that shard with this state may do with a slot.
    #[must_use]
    pub fn access(&self, slot: u16, shard: u32) -> Access {
        match &self.holdings {
            Some(holdings) => holdings.access[usize::from(slot)],
            None if shard == 0 => Access::Owned,
            None => Access::Elsewhere,
        }
    }

    /// Whether clients of some slot wait.
    #[must_use]
    pub fn any_frozen(&self) -> bool {
        self.holdings.as_ref().is_some_and(|holdings| holdings.any_frozen)
    }

    /// Bytes of memory that staged copies take.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        let copies = self.holdings.iter().flat_map(|holdings| holdings.copies.values());
        copies.map(Keyspace::memory_bytes).sum()
    }

    /// What was given up since the last call.
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        let garbage = &mut self.holdings.as_mut()?.garbage;
        (!garbage.is_empty()).then(|| Garbage(std::mem::take(garbage)))
    }

    /// Logs something about slots, and does it.
    ///
    /// # Errors
    /// When it does not fit; nothing is then changed or logged.
    pub fn log_slots(&mut self, record: &SlotRecord, payload: &[u8], change: &mut Change<'_>) -> Result<(), EffectError> {
        if matches!(record, SlotRecord::Stage { .. }) {
            check_piece(payload)?;
        }
        let encoded = serde_json::to_vec(record).expect("a record is plain data");
        self.apply_slots(&encoded, payload, change.index)?;
        Effect::Slots { record: &encoded, payload }.encode(change.effects);
        Ok(())
    }

    pub(super) fn apply_slots(&mut self, record: &[u8], payload: &[u8], index: u64) -> Result<(), EffectError> {
        let record: SlotRecord = serde_json::from_slice(record).map_err(|_| EffectError::Malformed)?;
        let fresh = match &self.holdings {
            Some(_) => None,
            None => Some(Holdings::new(SlotTable::before(&record).ok_or(EffectError::Malformed)?)),
        };
        if let Some(fresh) = fresh {
            self.holdings = Some(Box::new(fresh));
        }
        let holdings = self.holdings.as_mut().expect("made just before");
        let data = holdings.table.apply(&record, index)?;
        if !matches!(data, SlotData::Stage(_)) {
            holdings.refresh();
        }
        self.carry_out(data, payload, index)
    }

    fn carry_out(&mut self, data: SlotData, payload: &[u8], index: u64) -> Result<(), EffectError> {
        match data {
            SlotData::Untouched => {}
            SlotData::BeginCopy(handoff) => self.begin_copy(handoff),
            SlotData::DropCopy(handoff) => {
                let holdings = self.holdings.as_mut().expect("the table is there");
                let copy = holdings.copies.remove(&handoff);
                holdings.garbage.extend(copy.into_iter().flat_map(|copy| copy.slots));
            }
            SlotData::Stage(handoff) => {
                let mut payload = payload;
                let kind = take_byte(&mut payload)?;
                let copy = self.copy_mut(handoff)?;
                match kind {
                    BLOCK => copy.read_block(payload).map_err(|error| error.0)?,
                    EFFECTS => copy.apply(payload, index)?,
                    other => return Err(EffectError::Kind(other)),
                }
            }
            SlotData::Adopt(handoff, slots) => self.adopt(handoff, &slots, index),
            SlotData::Drop(slots) => self.drop_slots(&slots, index),
        }
        Ok(())
    }

    fn begin_copy(&mut self, handoff: u64) {
        let mut copy = Self::new();
        // Slots change hands whole, hashes included.
        copy.hasher = self.hasher.clone();
        let holdings = self.holdings.as_mut().expect("the table is there");
        let before = holdings.copies.insert(handoff, copy);
        holdings.garbage.extend(before.into_iter().flat_map(|copy| copy.slots));
    }

    pub(super) fn copy_mut(&mut self, handoff: u64) -> Result<&mut Self, EffectError> {
        let copy = self.holdings.as_mut().and_then(|holdings| holdings.copies.get_mut(&handoff));
        copy.ok_or(EffectError::Malformed)
    }

    /// Reads a table that a snapshot holds; the copies of its imports follow.
    pub(super) fn read_table(&mut self, table: &[u8]) -> Result<(), EffectError> {
        let table: SlotTable = serde_json::from_slice(table).map_err(|_| EffectError::Malformed)?;
        let imports: Vec<u64> = table.imports().keys().copied().collect();
        self.holdings = Some(Box::new(Holdings::new(table)));
        imports.into_iter().for_each(|handoff| self.begin_copy(handoff));
        Ok(())
    }

    /// Makes a copy data of this state. Whoever reads one of its slots, also a key that is not there, has to wait for `index`.
    fn adopt(&mut self, handoff: u64, slots: &SlotSet, index: u64) {
        self.drop_slots(slots, index);
        let holdings = self.holdings.as_mut().expect("the table is there");
        let mut copy = holdings.copies.remove(&handoff).expect("a copy for every import");
        for slot in slots.iter() {
            let taken = std::mem::take(&mut copy.slots[usize::from(slot)]);
            self.keys += taken.len() as u64;
            copy.keys -= taken.len() as u64;
            self.slots[usize::from(slot)] = taken;
            self.slot_mut(slot, index);
        }
        assert_eq!(copy.keys, 0, "a copy holds keys of its slots alone");
        self.bytes += copy.bytes;
        self.due.append(&mut copy.due);
    }

    /// Forgets the data of slots. What a watcher saw of them has changed.
    fn drop_slots(&mut self, slots: &SlotSet, index: u64) {
        self.watches.touch_if(|key| slots.contains(slot_of(key)));
        let mut empty = Slot::default();
        empty.last_write = index;
        let empty = Arc::new(empty);
        for number in slots.iter() {
            let before = std::mem::replace(&mut self.slots[usize::from(number)], Arc::clone(&empty));
            if before.len() == 0 {
                continue;
            }
            self.keys -= before.len() as u64;
            for item in before.iter() {
                self.bytes -= item.memory_bytes();
                if item.expiry != NEVER {
                    let hash = self.hash(&item.key);
                    self.due.remove(&(item.expiry, number, hash));
                }
            }
            if let Some(holdings) = &mut self.holdings {
                holdings.garbage.push(before);
            }
        }
    }
}

/// Whether a piece that another group sent can be applied: what is logged must be.
fn check_piece(mut payload: &[u8]) -> Result<(), EffectError> {
    match take_byte(&mut payload)? {
        BLOCK => Keyspace::new().read_block(payload).map_err(|error| error.0),
        EFFECTS => Effect::decode_all(payload)?.try_for_each(|effect| match effect? {
            super::effect::Decoded::Slots { .. } => Err(EffectError::Malformed),
            _ => Ok(()),
        }),
        other => Err(EffectError::Kind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Value;
    use quorate_api::Epoch;
    use quorate_api::slot::slot_of;
    use quorate_api::slots::Attempt;

    /// A state and the log that made it.
    #[derive(Default)]
    struct Group {
        keyspace: Keyspace,
        log: Vec<BytesMut>,
    }

    impl Group {
        fn change(&mut self, change: impl FnOnce(&mut Keyspace, &mut Change<'_>)) {
            let (mut effects, index) = (BytesMut::new(), self.log.len() as u64 + 1);
            let mut entry = Change {
                effects: &mut effects,
                index,
            };
            change(&mut self.keyspace, &mut entry);
            self.log.push(effects);
        }

        fn put(&mut self, key: &str, value: &str, expiry: u64) {
            let value = Value::String(value.as_bytes().into());
            self.change(|keyspace, change| keyspace.put(slot_of(key.as_bytes()), key.as_bytes(), value, expiry, change));
        }

        fn log(&mut self, record: &SlotRecord, payload: &[u8]) {
            self.change(|keyspace, change| keyspace.log_slots(record, payload, change).unwrap());
        }

        fn get(&self, key: &str) -> Option<(Vec<u8>, u64)> {
            let item = self.keyspace.get(slot_of(key.as_bytes()), key.as_bytes(), 0)?;
            let Value::String(value) = &item.value else { return None };
            Some((value.to_vec(), item.expiry))
        }

        /// A follower that applied the log, and one that loaded a snapshot, have the same state.
        fn assert_followers_agree(&self) {
            let (mut follower, mut loaded) = (Keyspace::new(), Keyspace::new());
            for (index, effects) in (1..).zip(&self.log) {
                follower.apply(effects, index).unwrap();
            }
            self.keyspace.snapshot().blocks(|block| loaded.read_block(block)).unwrap();
            for other in [&follower, &loaded] {
                assert!(self.keyspace == *other);
                assert_eq!(
                    (other.len(), other.memory_bytes(), other.expiring(), other.staged_bytes()),
                    (
                        self.keyspace.len(),
                        self.keyspace.memory_bytes(),
                        self.keyspace.expiring(),
                        self.keyspace.staged_bytes()
                    )
                );
            }
        }
    }

    fn attempt(number: u32) -> Attempt {
        Attempt {
            epoch: Epoch { number: 1, token: 0 },
            number,
        }
    }

    #[test]
    fn a_slot_moves_with_everything_that_it_holds_and_the_replicas_agree_at_every_step() {
        let (mut source, mut target) = (Group::default(), Group::default());
        for number in 0..200 {
            source.put(
                &format!("key{number}"),
                "value",
                if number % 3 == 0 { 1_000 + number } else { NEVER },
            );
        }
        let slots: SlotSet = (0..8_000).collect();
        let moves = |key: &str| slots.contains(slot_of(key.as_bytes()));
        source.log(
            &SlotRecord::Export {
                shard: 0,
                handoff: 7,
                slots: slots.clone(),
                to: 1,
                max_bytes_per_second: 0,
            },
            &[],
        );
        let (mut sequence, mut pieces) = (0, Vec::new());
        source
            .keyspace
            .snapshot_of(&slots)
            .blocks(|block| {
                pieces.push(Piece::block(block));
                Ok::<(), ()>(())
            })
            .unwrap();
        for (key, value) in [("key0", "changed"), ("new", "value")] {
            source.put(key, value, NEVER);
        }
        source.change(|keyspace, change| {
            keyspace.delete(slot_of(b"key1"), b"key1", change);
        });
        let later = &source.log[source.log.len() - 3..];
        pieces.extend(later.iter().filter_map(|effects| Piece::effects(effects, &slots).unwrap()));
        source.log(&SlotRecord::Freeze { handoff: 7 }, &[]);
        assert_eq!(source.keyspace.access(0, 0), Access::Frozen);
        assert_eq!(source.keyspace.access(9_000, 0), Access::Owned);
        source.assert_followers_agree();

        for number in [1, 2] {
            target.log(
                &SlotRecord::Import {
                    shard: 1,
                    handoff: 7,
                    slots: slots.clone(),
                    from: 0,
                    attempt: attempt(number),
                },
                &[],
            );
            sequence = 0;
            for piece in &pieces {
                target.log(&SlotRecord::Stage { handoff: 7, sequence }, &piece.clone().into_bytes());
                sequence += 1;
            }
        }
        assert!(sequence > 0 && target.keyspace.staged_bytes() > 0);
        assert_eq!((target.keyspace.len(), target.keyspace.access(0, 1)), (0, Access::Elsewhere));
        target.assert_followers_agree();
        target.log(&SlotRecord::Accept { handoff: 7 }, &[]);
        target.assert_followers_agree();
        let keys = (0..200).map(|number| format!("key{number}")).chain(["new".to_owned()]);
        let mut moved = 0;
        for key in keys.filter(|key| moves(key)) {
            assert_eq!(target.get(&key), source.get(&key), "{key}");
            moved += usize::from(target.get(&key).is_some());
        }
        assert_eq!(target.keyspace.len() as usize, moved);
        let absent = (0..8_000).find(|slot| target.keyspace.slot_len(*slot) == 0).unwrap();
        assert_eq!(
            target.keyspace.last_write(absent),
            target.log.len() as u64,
            "a key that is not there waits for the move too"
        );

        let moving = (0..200).map(|n| format!("key{n}")).find(|key| moves(key)).unwrap();
        let watch = source.keyspace.watch(moving.as_bytes());
        source.log(&SlotRecord::Release { handoff: 7 }, &[]);
        source.assert_followers_agree();
        assert!(watch.changed(), "a watcher of a slot that went away sees a change");
        assert!(source.keyspace.take_garbage().is_some() && source.keyspace.take_garbage().is_none());
        assert_eq!(source.keyspace.access(0, 0), Access::Elsewhere);
        assert!(source.keyspace.slot_sizes().iter().all(|(slot, ..)| !slots.contains(*slot)));
    }

    #[test]
    fn a_rejected_copy_leaves_nothing_and_a_flush_of_the_source_reaches_it() {
        let (mut source, mut target) = (Group::default(), Group::default());
        let slots = SlotSet::all();
        source.put("a", "1", NEVER);
        let import = SlotRecord::Import {
            shard: 1,
            handoff: 7,
            slots: slots.clone(),
            from: 0,
            attempt: attempt(1),
        };
        target.log(&import, &[]);
        let put = Piece::effects(&source.log[0], &slots).unwrap().unwrap();
        target.log(&SlotRecord::Stage { handoff: 7, sequence: 0 }, &put.into_bytes());
        assert!(target.keyspace.staged_bytes() > 0);
        source.change(|keyspace, change| keyspace.flush_all(change));
        let flush = Piece::effects(&source.log[1], &"5".parse().unwrap()).unwrap().unwrap();
        target.log(&SlotRecord::Stage { handoff: 7, sequence: 1 }, &flush.into_bytes());
        assert_eq!(target.keyspace.staged_bytes(), 0);
        target.assert_followers_agree();
        let reject = SlotRecord::Reject {
            shard: 1,
            handoff: 7,
            slots,
            from: 0,
        };
        target.log(&reject, &[]);
        target.assert_followers_agree();
        assert!(target.keyspace.is_empty() && target.keyspace.slot_table().unwrap().owned().is_empty());
    }
}
