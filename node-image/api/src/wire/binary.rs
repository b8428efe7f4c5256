//! Bodies of frames that are binary: those of the data path.

use super::{APPEND, APPEND_ACK, Append, AppendAck, HANDOFF, HANDOFF_CHUNK, Mismatch, WireError, frame, json};
use crate::entry::Entry;
use crate::epoch::{EntryId, Epoch, Position};
use crate::slots::{Attempt, Handoff, HandoffChunk, HandoffStep, SlotSet};
use crate::status::DiskRoom;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

pub(super) fn need(body: &Bytes, kind: u8, bytes: usize) -> Result<(), WireError> {
    if body.len() < bytes {
        Err(WireError::Malformed(kind))
    } else {
        Ok(())
    }
}

/// A piece of a copy is binary, and says nothing of the slots: the target knows them.
pub(super) fn encode_handoff(asked: &Handoff, out: &mut BytesMut) {
    let Handoff {
        handoff,
        from,
        to,
        slots: _,
        step,
    } = asked;
    let HandoffStep::Chunk(HandoffChunk { attempt, sequence, bytes }) = step else {
        return json(out, HANDOFF, asked);
    };
    frame(out, HANDOFF_CHUNK, |out| {
        out.put_u64_le(*handoff);
        out.put_u32_le(*from);
        out.put_u32_le(*to);
        put_epoch(out, attempt.epoch);
        out.put_u32_le(attempt.number);
        out.put_u64_le(*sequence);
        out.put_slice(bytes);
    });
}

pub(super) fn decode_handoff_chunk(mut body: Bytes) -> Result<Handoff, WireError> {
    need(&body, HANDOFF_CHUNK, 8 + 4 + 4 + 16 + 4 + 8)?;
    let (handoff, from, to) = (body.get_u64_le(), body.get_u32_le(), body.get_u32_le());
    let attempt = Attempt {
        epoch: get_epoch(&mut body),
        number: body.get_u32_le(),
    };
    let chunk = HandoffChunk {
        attempt,
        sequence: body.get_u64_le(),
        bytes: body,
    };
    Ok(Handoff {
        handoff,
        from,
        to,
        slots: SlotSet::new(),
        step: HandoffStep::Chunk(chunk),
    })
}

pub(super) fn put_epoch(out: &mut BytesMut, epoch: Epoch) {
    out.put_u64_le(epoch.number);
    out.put_u64_le(epoch.token);
}

pub(super) fn get_epoch(body: &mut Bytes) -> Epoch {
    Epoch {
        number: body.get_u64_le(),
        token: body.get_u64_le(),
    }
}

pub(super) fn put_position(out: &mut BytesMut, position: Position) {
    put_epoch(out, position.id.epoch);
    out.put_u64_le(position.id.index);
    out.put_u64_le(position.chain);
}

pub(super) fn get_position(body: &mut Bytes) -> Position {
    let epoch = get_epoch(body);
    Position {
        id: EntryId {
            epoch,
            index: body.get_u64_le(),
        },
        chain: body.get_u64_le(),
    }
}

pub(super) fn encode_append(append: &Append, out: &mut BytesMut) {
    let Append {
        epoch,
        prev,
        commit,
        round,
        entries,
    } = append;
    put_epoch(out, *epoch);
    put_position(out, *prev);
    out.put_u64_le(*commit);
    out.put_u64_le(*round);
    for entry in entries {
        entry.encode(*commit, out);
    }
}

pub(super) fn decode_append(mut body: Bytes) -> Result<Append, WireError> {
    need(&body, APPEND, 16 + 32 + 16)?;
    let epoch = get_epoch(&mut body);
    let prev = get_position(&mut body);
    let (commit, round) = (body.get_u64_le(), body.get_u64_le());
    let mut entries = Vec::new();
    while !body.is_empty() {
        entries.push(Arc::new(Entry::decode(&mut body)?.0));
    }
    Ok(Append {
        epoch,
        prev,
        commit,
        round,
        entries,
    })
}

pub(super) fn encode_ack(ack: &AppendAck, out: &mut BytesMut) {
    let AppendAck {
        epoch,
        durable,
        round,
        mismatch,
        disk,
        held,
    } = ack;
    put_epoch(out, *epoch);
    out.put_u64_le(*durable);
    out.put_u64_le(*round);
    match mismatch {
        None => out.put_u8(0),
        Some(Mismatch::Promised(promised)) => {
            out.put_u8(1);
            put_epoch(out, *promised);
        }
        Some(Mismatch::Diverges(id)) => {
            out.put_u8(2);
            put_epoch(out, id.epoch);
            out.put_u64_le(id.index);
        }
    }
    out.put_u8(match disk {
        DiskRoom::Ample => 0,
        DiskRoom::Tight => 1,
        DiskRoom::Full => 2,
    });
    out.put_u64_le(*held);
}

pub(super) fn decode_ack(mut body: Bytes) -> Result<AppendAck, WireError> {
    need(&body, APPEND_ACK, 16 + 16 + 1)?;
    let epoch = get_epoch(&mut body);
    let (durable, round) = (body.get_u64_le(), body.get_u64_le());
    let mismatch = match body.get_u8() {
        0 => None,
        1 => {
            need(&body, APPEND_ACK, 16)?;
            Some(Mismatch::Promised(get_epoch(&mut body)))
        }
        2 => {
            need(&body, APPEND_ACK, 24)?;
            Some(Mismatch::Diverges(EntryId {
                epoch: get_epoch(&mut body),
                index: body.get_u64_le(),
            }))
        }
        _ => return Err(WireError::Malformed(APPEND_ACK)),
    };
    let disk = match body.first() {
        None | Some(0) => DiskRoom::Ample,
        Some(1) => DiskRoom::Tight,
        Some(2) => DiskRoom::Full,
        Some(_) => return Err(WireError::Malformed(APPEND_ACK)),
    };
    let held = match body.get(1..9).and_then(|held| held.try_into().ok()) {
        None => durable,
        Some(held) => u64::from_le_bytes(held),
    };
    Ok(AppendAck {
        epoch,
        durable,
        round,
        mismatch,
        disk,
        held,
    })
}
