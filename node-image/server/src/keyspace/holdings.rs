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

/// So much smaller than what is there, expiries that come are put in one by one: each takes a search.
const EXTEND_BELOW: usize = 16;
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
        if let SlotRecord::Stage { handoff, .. } = record
            && let Some(copy) = self.holdings.as_ref().and_then(|holdings| holdings.copies.get(handoff))
        {
            check_piece(copy, payload)?;
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

    #[cfg(test)]
    pub(super) fn assert_figures_of_copies(&self) {
        let copies = self.holdings.iter().flat_map(|holdings| holdings.copies.values());
        copies.for_each(Self::assert_figures);
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
        // To append rebuilds the whole.
        if copy.due.len() < self.due.len() / EXTEND_BELOW {
            self.due.extend(copy.due);
        } else {
            self.due.append(&mut copy.due);
        }
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
            self.bytes -= before.bytes();
            // To visit every key takes time in which no client is served.
            if before.any_expires() {
                for item in before.iter().filter(|item| item.expiry != NEVER) {
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

/// Whether a piece that another group sent can be added to its copy: what is logged must be.
fn check_piece(copy: &Keyspace, mut payload: &[u8]) -> Result<(), EffectError> {
    match take_byte(&mut payload)? {
        BLOCK => copy.check_block(payload),
        EFFECTS => Effect::decode_all(payload)?.try_for_each(|effect| match effect? {
            super::effect::Decoded::Slots { .. } => Err(EffectError::Malformed),
            _ => Ok(()),
        }),
        other => Err(EffectError::Kind(other)),
    }
}

#[cfg(test)]
mod tests;
