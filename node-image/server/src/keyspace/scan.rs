//! SCAN: every key that is there from the first call to the last is returned.
//!
//! A cursor is a place in the order of slots, and in a large slot a part of it by a hash of the key that is the same on
//! every node: a scan goes on after a failover. The number of parts travels in the cursor, so that a slot that grows or
//! shrinks meanwhile is still cut the same way.

use super::Keyspace;
use super::slot::Item;
use quorate_api::slot::SLOTS;
use xxhash_rust::xxh3::xxh3_64;

/// A slot with more keys than this many times the count that was asked for is given in parts.
const PART_FACTOR: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    slot: u16,
    /// The slot is cut in 2^bits parts.
    bits: u8,
    part: u32,
}

impl Cursor {
    fn decode(number: u64) -> Self {
        Self {
            slot: (number & 0x3fff) as u16,
            bits: ((number >> 14) & 0x1f) as u8,
            part: (number >> 19) as u32,
        }
    }

    fn encode(self) -> u64 {
        u64::from(self.slot) | u64::from(self.bits) << 14 | u64::from(self.part) << 19
    }
}

impl Keyspace {
    /// Gives about `count` items that are alive at `now`, and the cursor to go on from; 0 begins and ends.
    pub fn scan(&self, cursor: u64, count: usize, now: u64, mut visit: impl FnMut(&Item)) -> u64 {
        let mut cursor = Cursor::decode(cursor);
        let mut given = 0;
        // Empty slots are cheap to pass, but not free: a call looks at a bounded number of them.
        for _ in 0..SLOTS {
            let length = self.slot_len(cursor.slot);
            if cursor.part == 0 {
                cursor.bits = parts_bits(length, count);
            }
            let (mask, part) = ((1u64 << cursor.bits) - 1, u64::from(cursor.part));
            for item in self.items(cursor.slot, now) {
                if cursor.bits == 0 || xxh3_64(&item.key) & mask == part {
                    visit(item);
                    given += 1;
                }
            }
            cursor = if part < mask {
                Cursor {
                    part: cursor.part + 1,
                    ..cursor
                }
            } else if cursor.slot + 1 < SLOTS {
                Cursor {
                    slot: cursor.slot + 1,
                    bits: 0,
                    part: 0,
                }
            } else {
                return 0;
            };
            if given >= count {
                break;
            }
        }
        cursor.encode()
    }
}

fn parts_bits(length: usize, count: usize) -> u8 {
    let parts = length / (PART_FACTOR * count.max(1));
    u8::try_from(usize::BITS - parts.leading_zeros()).unwrap_or(0).min(24)
}
