//! Frames of the replica protocol.
//!
//! A frame is `length u32 | kind u8 | body`, little endian; `length` counts kind and body. What the data path
//! sends is binary, the rest JSON, so that fields can be added while an update rolls.
//!
//! A connection starts with [`Challenge`] (server), [`Hello`] (client), [`Welcome`] (server). After that the
//! client sends [`Request`]s and the server [`Reply`]s; a reply belongs to the connection of its request and is
//! never accepted on another.

mod binary;

use crate::configuration::Member;
use crate::entry::{Entry, EntryError};
use crate::epoch::{EntryId, Epoch, Position};
use crate::identity::{Incarnation, ReplicaId};
use crate::slots::{Handoff, HandoffAnswer, MoveRefusal, MoveSlots, RoutingMap, SlotSize};
use crate::status::{DiskRoom, NodeStatus};
use crate::view_change::{ActivateAnswer, ActivateRequest, FenceAnswer, FenceRequest};
use binary::{
    decode_ack, decode_append, decode_handoff_chunk, encode_ack, encode_append, encode_handoff, get_epoch, get_position, need, put_epoch,
    put_position,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// Version of the protocol that this code speaks; a server answers clients of this version and the one before.
pub const VERSION: u32 = 1;
/// Longest frame: one entry of the longest body fits.
pub const MAX_FRAME_LEN: usize = crate::entry::MAX_BODY_LEN + (1 << 20);
/// Bytes of a snapshot that one frame carries.
pub const SNAPSHOT_CHUNK_LEN: usize = 256 << 10;

/// First frame of a connection, from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// Highest version that the server speaks.
    pub version: u32,
    /// Fresh random text.
    pub nonce: String,
}

/// Second frame, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Version that the connection will speak.
    pub version: u32,
    /// Fresh random text.
    pub nonce: String,
    /// [`crate::auth::prove`] of [`crate::auth::Side::Client`].
    pub proof: String,
    /// Who dials.
    pub client: ClientKind,
}

/// Who dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientKind {
    /// Another replica of the store; it tells where it listens now.
    Replica {
        /// Its identity.
        id: ReplicaId,
        /// Where it listens.
        addresses: NodeAddresses,
    },
    /// The operator or a tool.
    Operator,
}

/// Where a node listens right now. Never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddresses {
    /// `ip:port` (or `name:port`) of the replica protocol.
    pub replica: String,
    /// Host or IP that clients are told.
    pub client_host: String,
    /// Port of the Redis protocol.
    pub client_port: u16,
}

/// Third frame, from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// [`crate::auth::prove`] of [`crate::auth::Side::Server`].
    pub proof: String,
    /// Who answered: the client checks that it is whom it meant to reach.
    pub id: ReplicaId,
    /// Where it listens.
    pub addresses: NodeAddresses,
}

/// Primary to member: entries that follow `prev`. Without entries it is a heartbeat and a question for confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The position that the first entry follows.
    pub prev: Position,
    /// The primary's commit index.
    pub commit: u64,
    /// Read round: the answer to this message confirms every read that arrived before the round was opened.
    pub round: u64,
    /// In order, without gaps.
    pub entries: Vec<Arc<Entry>>,
}

/// Member to primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendAck {
    /// The epoch of the append.
    pub epoch: Epoch,
    /// The member's log equals the primary's, durably, up to here.
    pub durable: u64,
    /// The highest round that the member has seen in this epoch, its promise unbroken; in a refusal, the round of what
    /// it refuses.
    pub round: u64,
    /// Set if the append did not fit.
    pub mismatch: Option<Mismatch>,
    /// Room on the member's disk. While it is [`DiskRoom::Full`] no entries are taken, whatever the answer says else; a
    /// member from before there was a word for it is taken to have room.
    pub disk: DiskRoom,
    /// What the primary's stream goes by: as `durable`, but told also by a member that does not count yet because it has to
    /// make good what it lost. A member from before there was a word for it holds what it counts for.
    pub held: u64,
}

/// Why an append did not fit, and where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The member has promised this higher epoch: the sender is deposed.
    Promised(Epoch),
    /// The member's last entry at or before the append's `prev`: the logs may agree up to here.
    Diverges(EntryId),
}

/// Answer to [`Request::ReadIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexAnswer {
    /// The number of the question.
    pub number: u64,
    /// Every write that was acknowledged before the question arrived is at or below this index, and this node was the
    /// primary after it arrived. None: it does not serve.
    pub index: Option<u64>,
}

/// A piece of a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// What the snapshot covers: every entry up to here.
    pub position: Position,
    /// Whole size of the file in bytes.
    pub total: u64,
    /// Where these bytes belong.
    pub offset: u64,
    /// At most [`SNAPSHOT_CHUNK_LEN`] bytes.
    pub bytes: Bytes,
}

/// Answer to a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotAck {
    /// The epoch of the chunk.
    pub epoch: Epoch,
    /// The snapshot's last entry.
    pub id: EntryId,
    /// Bytes held so far: the next chunk starts here.
    pub received: u64,
    /// True once the whole snapshot is installed, durably and atomically.
    pub installed: bool,
}

/// What members go by when they fail over by themselves. Nothing in it is a matter of safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailoverPolicy {
    /// False: a person decides, members never fail over by themselves.
    pub automatic: bool,
    /// Milliseconds: a primary that was silent for so long is taken for dead.
    pub suspect_after_millis: u64,
    /// Milliseconds: silence of every operator after which members fail over by themselves; 0 for never.
    pub operator_away_millis: u64,
}

impl Default for FailoverPolicy {
    fn default() -> Self {
        Self {
            automatic: true,
            suspect_after_millis: 1_000,
            operator_away_millis: 10_000,
        }
    }
}

/// [`Request::Watch`] on the wire: before there was a policy, it was a bare number.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum WatchBody {
    Plain(u64),
    #[serde(rename_all = "camelCase")]
    WithPolicy {
        interval_millis: u64,
        policy: FailoverPolicy,
    },
}

/// Client to server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Replication.
    Append(Append),
    /// Replication to a member whose log cannot be continued.
    SnapshotChunk(SnapshotChunk),
    /// From a follower to its primary: which index does a read have to see that arrived before this was sent? The number
    /// comes back in the answer.
    ReadIndex(u64),
    /// View change, step 2.
    Fence(FenceRequest),
    /// View change, step 5.
    Activate(ActivateRequest),
    /// Send [`Reply::Status`] every so often and at once on a change; repeated, it is the client's heartbeat.
    Watch {
        /// Between two reports, in milliseconds.
        interval_millis: u64,
        /// What the node goes by when nobody watches it any more; None leaves what it was told before. A node
        /// from before there was a policy ends the connection at one.
        policy: Option<FailoverPolicy>,
    },
    /// The learners of this primary: it streams its log to them beside its members, and counts them in no quorum. The list
    /// replaces the one before, and is forgotten when the primary steps down. No reply.
    Admit(Vec<Member>),
    /// Live addresses that the operator knows.
    Addresses(Vec<(Incarnation, NodeAddresses)>),
    /// Run a hand-over now, as on SIGTERM, but stay.
    HandOver,
    /// The whole store as the operator knows it. No reply. A node from before there was a map ends the connection at one.
    Route(RoutingMap),
    /// Begin a move of slots away from the shard of this primary.
    MoveSlots(MoveSlots),
    /// End a move: its target is asked to decide against it.
    AbortMove {
        /// Which move.
        handoff: u64,
    },
    /// Tell how large every slot is that the shard owns and that is not empty.
    SlotSizes,
    /// A primary that gives slots away to the primary that takes them.
    Handoff(Handoff),
}

/// Server to client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Append`].
    AppendAck(AppendAck),
    /// To [`Request::SnapshotChunk`].
    SnapshotAck(SnapshotAck),
    /// To [`Request::ReadIndex`].
    ReadIndex(ReadIndexAnswer),
    /// To [`Request::Fence`].
    Fence(FenceAnswer),
    /// To [`Request::Activate`].
    Activate(ActivateAnswer),
    /// To [`Request::Watch`].
    Status(Box<NodeStatus>),
    /// To [`Request::HandOver`]: done, or why not.
    HandOver(Result<(), String>),
    /// To [`Request::MoveSlots`], once the move is on record for good.
    MoveSlots(Result<(), MoveRefusal>),
    /// To [`Request::AbortMove`]: the target is being asked.
    AbortMove(Result<(), MoveRefusal>),
    /// To [`Request::SlotSizes`].
    SlotSizes(Vec<SlotSize>),
    /// To [`Request::Handoff`].
    Handoff(HandoffAnswer),
}

/// Why a frame cannot be used. The connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_FRAME_LEN`].
    #[error("frame of {0} bytes is above the limit of {MAX_FRAME_LEN}")]
    TooLong(usize),
    /// A kind that this side does not expect.
    #[error("unexpected frame kind {0}")]
    Kind(u8),
    /// Bytes that are not what the kind says.
    #[error("malformed frame of kind {0}")]
    Malformed(u8),
    /// JSON that is not what the kind says.
    #[error("malformed frame: {0}")]
    Json(#[from] serde_json::Error),
    /// An entry that is damaged.
    #[error("entry in frame: {0}")]
    Entry(#[from] EntryError),
}

const CHALLENGE: u8 = 1;
const HELLO: u8 = 2;
const WELCOME: u8 = 3;
const APPEND: u8 = 16;
const APPEND_ACK: u8 = 17;
const SNAPSHOT_CHUNK: u8 = 18;
const SNAPSHOT_ACK: u8 = 19;
const READ_INDEX: u8 = 20;
const READ_INDEX_ANSWER: u8 = 21;
const FENCE: u8 = 32;
const FENCE_ANSWER: u8 = 33;
const ACTIVATE: u8 = 34;
const ACTIVATE_ANSWER: u8 = 35;
const WATCH: u8 = 36;
const STATUS: u8 = 37;
const ADDRESSES: u8 = 38;
const HAND_OVER: u8 = 39;
const HAND_OVER_ANSWER: u8 = 40;
const ADMIT: u8 = 41;
const ROUTE: u8 = 48;
const MOVE_SLOTS: u8 = 49;
const MOVE_SLOTS_ANSWER: u8 = 50;
const ABORT_MOVE: u8 = 51;
const ABORT_MOVE_ANSWER: u8 = 52;
const SLOT_SIZES: u8 = 53;
const SLOT_SIZES_ANSWER: u8 = 54;
const HANDOFF: u8 = 55;
const HANDOFF_CHUNK: u8 = 56;
const HANDOFF_ANSWER: u8 = 57;

/// Something that travels as one frame.
pub trait Frame: Sized {
    /// Appends the frame.
    fn encode(&self, out: &mut BytesMut);
    /// Reads the body of a frame of that kind.
    ///
    /// # Errors
    /// See [`WireError`].
    fn decode(kind: u8, body: Bytes) -> Result<Self, WireError>;
}

/// Takes one whole frame off the front of `buffer`; None if it has not arrived yet.
///
/// # Errors
/// See [`WireError`].
pub fn take<F: Frame>(buffer: &mut BytesMut) -> Result<Option<F>, WireError> {
    let Some(head) = buffer.get(..4) else { return Ok(None) };
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length == 0 || length > MAX_FRAME_LEN {
        return Err(WireError::TooLong(length));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut frame = buffer.split_to(length).freeze();
    let kind = frame.get_u8();
    F::decode(kind, frame).map(Some)
}

impl Frame for Request {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Append(append) => frame(out, APPEND, |out| encode_append(append, out)),
            Self::SnapshotChunk(chunk) => frame(out, SNAPSHOT_CHUNK, |out| {
                let SnapshotChunk {
                    epoch,
                    position,
                    total,
                    offset,
                    bytes,
                } = chunk;
                put_epoch(out, *epoch);
                put_position(out, *position);
                out.put_u64_le(*total);
                out.put_u64_le(*offset);
                out.put_slice(bytes);
            }),
            Self::ReadIndex(number) => frame(out, READ_INDEX, |out| out.put_u64_le(*number)),
            Self::Fence(request) => json(out, FENCE, request),
            Self::Activate(request) => json(out, ACTIVATE, request),
            Self::Watch {
                interval_millis,
                policy: None,
            } => json(out, WATCH, &WatchBody::Plain(*interval_millis)),
            Self::Watch {
                interval_millis,
                policy: Some(policy),
            } => {
                let body = WatchBody::WithPolicy {
                    interval_millis: *interval_millis,
                    policy: *policy,
                };
                json(out, WATCH, &body);
            }
            Self::Admit(learners) => json(out, ADMIT, learners),
            Self::Addresses(addresses) => json(out, ADDRESSES, addresses),
            Self::HandOver => json(out, HAND_OVER, &()),
            Self::Route(map) => json(out, ROUTE, map),
            Self::MoveSlots(request) => json(out, MOVE_SLOTS, request),
            Self::AbortMove { handoff } => json(out, ABORT_MOVE, handoff),
            Self::SlotSizes => json(out, SLOT_SIZES, &()),
            Self::Handoff(handoff) => encode_handoff(handoff, out),
        }
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, WireError> {
        Ok(match kind {
            APPEND => Self::Append(decode_append(body)?),
            SNAPSHOT_CHUNK => {
                need(&body, kind, 16 + 32 + 16)?;
                let epoch = get_epoch(&mut body);
                let position = get_position(&mut body);
                let (total, offset) = (body.get_u64_le(), body.get_u64_le());
                Self::SnapshotChunk(SnapshotChunk {
                    epoch,
                    position,
                    total,
                    offset,
                    bytes: body,
                })
            }
            READ_INDEX => {
                need(&body, kind, 8)?;
                Self::ReadIndex(body.get_u64_le())
            }
            FENCE => Self::Fence(from_json(&body)?),
            ACTIVATE => Self::Activate(from_json(&body)?),
            WATCH => match from_json(&body)? {
                WatchBody::Plain(interval_millis) => Self::Watch {
                    interval_millis,
                    policy: None,
                },
                WatchBody::WithPolicy { interval_millis, policy } => Self::Watch {
                    interval_millis,
                    policy: Some(policy),
                },
            },
            ADMIT => Self::Admit(from_json(&body)?),
            ADDRESSES => Self::Addresses(from_json(&body)?),
            HAND_OVER => Self::HandOver,
            ROUTE => Self::Route(from_json(&body)?),
            MOVE_SLOTS => Self::MoveSlots(from_json(&body)?),
            ABORT_MOVE => Self::AbortMove {
                handoff: from_json(&body)?,
            },
            SLOT_SIZES => Self::SlotSizes,
            HANDOFF => Self::Handoff(from_json(&body)?),
            HANDOFF_CHUNK => Self::Handoff(decode_handoff_chunk(body)?),
            other => return Err(WireError::Kind(other)),
        })
    }
}

impl Frame for Reply {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::AppendAck(ack) => frame(out, APPEND_ACK, |out| encode_ack(ack, out)),
            Self::SnapshotAck(ack) => json(out, SNAPSHOT_ACK, ack),
            Self::ReadIndex(answer) => frame(out, READ_INDEX_ANSWER, |out| {
                out.put_u64_le(answer.number);
                out.put_u8(u8::from(answer.index.is_some()));
                out.put_u64_le(answer.index.unwrap_or_default());
            }),
            Self::Fence(answer) => json(out, FENCE_ANSWER, answer),
            Self::Activate(answer) => json(out, ACTIVATE_ANSWER, answer),
            Self::Status(status) => json(out, STATUS, status),
            Self::HandOver(outcome) => json(out, HAND_OVER_ANSWER, outcome),
            Self::MoveSlots(outcome) => json(out, MOVE_SLOTS_ANSWER, outcome),
            Self::AbortMove(outcome) => json(out, ABORT_MOVE_ANSWER, outcome),
            Self::SlotSizes(sizes) => json(out, SLOT_SIZES_ANSWER, sizes),
            Self::Handoff(answer) => json(out, HANDOFF_ANSWER, answer),
        }
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, WireError> {
        Ok(match kind {
            APPEND_ACK => Self::AppendAck(decode_ack(body)?),
            SNAPSHOT_ACK => Self::SnapshotAck(from_json(&body)?),
            READ_INDEX_ANSWER => {
                need(&body, kind, 17)?;
                let (number, known, index) = (body.get_u64_le(), body.get_u8(), body.get_u64_le());
                Self::ReadIndex(ReadIndexAnswer {
                    number,
                    index: (known != 0).then_some(index),
                })
            }
            FENCE_ANSWER => Self::Fence(from_json(&body)?),
            ACTIVATE_ANSWER => Self::Activate(from_json(&body)?),
            STATUS => Self::Status(from_json(&body)?),
            HAND_OVER_ANSWER => Self::HandOver(from_json(&body)?),
            MOVE_SLOTS_ANSWER => Self::MoveSlots(from_json(&body)?),
            ABORT_MOVE_ANSWER => Self::AbortMove(from_json(&body)?),
            SLOT_SIZES_ANSWER => Self::SlotSizes(from_json(&body)?),
            HANDOFF_ANSWER => Self::Handoff(from_json(&body)?),
            other => return Err(WireError::Kind(other)),
        })
    }
}

macro_rules! json_frame {
    ($type:ty, $kind:expr) => {
        impl Frame for $type {
            fn encode(&self, out: &mut BytesMut) {
                json(out, $kind, self);
            }

            fn decode(kind: u8, body: Bytes) -> Result<Self, WireError> {
                if kind != $kind {
                    return Err(WireError::Kind(kind));
                }
                from_json(&body)
            }
        }
    };
}
json_frame!(Challenge, CHALLENGE);
json_frame!(Hello, HELLO);
json_frame!(Welcome, WELCOME);

fn frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind);
    body(out);
    let length = u32::try_from(out.len() - start - 4).expect("frames are bounded");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn json<T: Serialize + ?Sized>(out: &mut BytesMut, kind: u8, value: &T) {
    frame(out, kind, |out| {
        serde_json::to_writer(out.writer(), value).expect("wire types are plain data and memory does not fail");
    });
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests;
