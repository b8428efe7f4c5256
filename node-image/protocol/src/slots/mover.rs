//! One move of slots away from a group, as the primary of that group drives it.
//!
//! It knows the group's log through [`MoveState`] and through the word of its caller whether that state is there for good; it
//! knows the target through answers. It gives messages, records for the group's own log, and orders about the copy.
//!
//! Invariants: nothing is asked of the target before `Export` is there for good · `Decide` leaves only when `Freeze` is there for
//! good and the target holds every piece · a mover that finds the slots frozen, because another primary froze them, only asks
//! the target to decide against the move unless it has decided · `Release` is logged only on `Accepted`, `Thaw` of frozen slots only
//! on `Rejected` · `Forget` leaves only when `Release` or `Thaw` is there for good.
//!
//! Memory: pieces that the target has not acknowledged, about [`WINDOW_BYTES`], and writes that came while the copy was under way,
//! at most [`MAX_TAIL_BYTES`]: a move that they outrun is given up.

use super::record::SlotRecord;
use super::table::MoveState;
use crate::mutation::{self, Mutation};
use bytes::Bytes;
use quorate_api::slots::{Attempt, Handoff, HandoffChunk, HandoffOutcome, HandoffStep};
use quorate_api::{Epoch, MovePhase, SlotSet};
use std::collections::VecDeque;

/// Bytes sent and not acknowledged: the target sets the pace.
const WINDOW_BYTES: usize = 2 << 20;
/// Writes that may wait to be sent.
const MAX_TAIL_BYTES: usize = 64 << 20;
/// Bytes of writes that are left to send when the slots are frozen: they travel while clients wait.
const FREEZE_BYTES: usize = 256 << 10;
/// The same in pieces: each entry of the log is one.
const FREEZE_PIECES: usize = 64;
/// A question that was not answered for so long is asked again; so is one that was answered with "later".
const ASK_AGAIN_MILLIS: u64 = 1_000;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MoverInput {
    /// Time passed, or the log went on.
    Tick,
    /// A connection to the target stands.
    Connected,
    /// It does not any more.
    Disconnected,
    /// The target answered.
    Answer(HandoffOutcome),
    /// The next piece of the copy.
    Piece(Bytes),
    /// That was the last piece.
    CopyEnded,
    /// A write to the slots, logged after the copy was taken.
    Tail(Bytes),
    /// The move is to end.
    Abort,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MoverEffect {
    /// Ask the target.
    Send(Handoff),
    /// Append to this group's log.
    Log(SlotRecord),
    /// Take a copy of the slots as they are now and give it piece by piece while [`Mover::wants_piece`]; give every later
    /// write as [`MoverInput::Tail`]. Ends a copy that is under way.
    StartCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing is known of the target.
    Idle,
    /// Pieces travel.
    Copying,
    /// The target has been asked.
    Deciding,
    /// A record that ends the move is logged.
    Ending,
    /// The target is to forget.
    Forgetting,
    /// Nothing is left to do.
    Over,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mover {
    handoff: u64,
    from: u32,
    to: u32,
    slots: SlotSet,
    bytes_per_second: u64,
    attempt: Attempt,
    stage: Stage,
    connected: bool,
    aborting: bool,
    /// `Freeze` was logged by this primary.
    froze: bool,
    /// Every piece of the copy was given.
    copied: bool,
    /// How many that are, so far; later pieces are writes.
    copy_pieces: u64,
    /// Pieces that the target has not acknowledged, from number `acked` on.
    unacked: VecDeque<Bytes>,
    acked: u64,
    /// The next piece to send.
    next: u64,
    /// Writes that are no pieces yet.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    bytes_acked: u64,
    asked_at: u64,
    /// The copy may not send before this time.
    free_at: u64,
    waits_for: Option<String>,
}

impl Mover {
    /// A move that this primary, of `epoch`, finds on record in `state`.
    #[must_use]
    pub fn new(handoff: u64, from: u32, to: u32, slots: SlotSet, bytes_per_second: u64, epoch: Epoch) -> Self {
        Self {
            handoff,
            from,
            to,
            slots,
            bytes_per_second,
            attempt: Attempt { epoch, number: 0 },
            stage: Stage::Idle,
            connected: false,
            aborting: false,
            froze: false,
            copied: false,
            copy_pieces: 0,
            unacked: VecDeque::new(),
            acked: 0,
            next: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            bytes_acked: 0,
            asked_at: 0,
            free_at: 0,
            waits_for: None,
        }
    }

    /// Whether the next piece of the copy should be given.
    #[must_use]
    pub fn wants_piece(&self) -> bool {
        self.stage == Stage::Copying && self.attempt.number > 0 && !self.copied && self.unacked_bytes() < WINDOW_BYTES
    }

    /// Whether writes to the slots should be given.
    #[must_use]
    pub fn wants_tail(&self) -> bool {
        self.stage == Stage::Copying && self.attempt.number > 0 && !self.froze && !self.aborting
    }

    /// The copy that is under way.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The shard that receives.
    #[must_use]
    pub fn to(&self) -> u32 {
        self.to
    }

    /// What moves.
    #[must_use]
    pub fn slots(&self) -> &SlotSet {
        &self.slots
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Bytes that the target holds.
    #[must_use]
    pub fn bytes_acked(&self) -> u64 {
        self.bytes_acked
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        if !self.connected && self.stage != Stage::Over {
            return Some(format!("the primary of shard {} does not answer", self.to));
        }
        self.waits_for.clone()
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> MovePhase {
        match self.stage {
            Stage::Idle | Stage::Copying if !self.froze => MovePhase::Exporting,
            Stage::Idle | Stage::Copying => MovePhase::Frozen,
            Stage::Deciding => MovePhase::Deciding,
            Stage::Ending | Stage::Forgetting | Stage::Over => MovePhase::Releasing,
        }
    }

    /// Takes one input at time `now` (milliseconds of any monotonic clock). `state` is what the group's log says of the move,
    /// None once that is nothing; `for_good` whether that cannot be lost any more; `clock_millis` the time of the group's log.
    pub fn step(
        &mut self,
        input: MoverInput,
        state: Option<MoveState>,
        for_good: bool,
        now: u64,
        clock_millis: u64,
        out: &mut Vec<MoverEffect>,
    ) {
        let mut ask = false;
        match input {
            MoverInput::Tick => ask = now >= self.asked_at + ASK_AGAIN_MILLIS,
            MoverInput::Connected => (self.connected, ask) = (true, true),
            MoverInput::Disconnected => self.connected = false,
            MoverInput::Abort => {
                self.aborting = true;
                ask = true;
            }
            MoverInput::Piece(bytes) => {
                self.unacked.push_back(bytes);
                self.copy_pieces += 1;
            }
            MoverInput::CopyEnded => self.copied = true,
            MoverInput::Tail(bytes) => {
                self.tail_bytes += bytes.len();
                self.tail.push_back(bytes);
                if self.tail_bytes > MAX_TAIL_BYTES && !self.aborting {
                    self.waits_for = Some("writes to the slots outran the copy: giving up".to_owned());
                    self.aborting = true;
                }
            }
            MoverInput::Answer(outcome) => ask = self.on_answer(outcome, state, now, out),
        }
        let before = self.stage;
        if for_good || mutation::active(Mutation::AskBeforeForGood) {
            self.go_on(state, out);
        }
        ask |= self.stage != before;
        // Pieces may travel before the freeze is there for good: if it gets lost, so does this attempt.
        if self.stage == Stage::Copying {
            self.copy(state, now, out);
        }
        if ask && self.connected {
            self.ask(now, clock_millis, out);
        }
    }

    /// What the log allows now.
    fn go_on(&mut self, state: Option<MoveState>, out: &mut Vec<MoverEffect>) {
        let handoff = self.handoff;
        match (state, self.stage) {
            (None, _) => self.stage = Stage::Over,
            (Some(MoveState::Settled), Stage::Ending | Stage::Idle | Stage::Copying | Stage::Deciding) => self.stage = Stage::Forgetting,
            (Some(MoveState::Exporting), Stage::Idle) => self.stage = Stage::Copying,
            // Another primary froze the slots, and nobody knows what the target holds.
            (Some(MoveState::Frozen), Stage::Idle) => {
                if mutation::active(Mutation::ThawUnasked) {
                    self.end(SlotRecord::Thaw { handoff }, out);
                } else if mutation::active(Mutation::SourceDecides) {
                    self.end(SlotRecord::Release { handoff }, out);
                } else {
                    self.aborting = true;
                    self.stage = Stage::Deciding;
                }
            }
            (Some(MoveState::Frozen), Stage::Copying) if self.is_whole() => {
                self.stage = Stage::Deciding;
                if mutation::active(Mutation::ReleaseBeforeAccept) {
                    self.end(SlotRecord::Release { handoff }, out);
                }
            }
            _ => {}
        }
    }

    /// Whether the target holds everything.
    fn is_whole(&self) -> bool {
        self.copied && self.unacked.is_empty() && self.tail.is_empty()
    }

    fn copy(&mut self, state: Option<MoveState>, now: u64, out: &mut Vec<MoverEffect>) {
        if self.attempt.number == 0 {
            self.begin_copy(out);
            return;
        }
        if self.copied {
            self.tail_bytes = 0;
            self.unacked.extend(self.tail.drain(..));
        }
        let little_left = self.copied && self.unacked_bytes() <= FREEZE_BYTES && self.unacked.len() <= FREEZE_PIECES;
        let answered = self.connected && self.next != u64::MAX && self.next >= self.copy_pieces;
        if little_left && answered && !self.froze && !self.aborting && state == Some(MoveState::Exporting) {
            self.froze = true;
            out.push(MoverEffect::Log(SlotRecord::Freeze { handoff: self.handoff }));
        }
        if self.connected && !self.aborting {
            self.send_pieces(now, out);
        }
    }

    fn begin_copy(&mut self, out: &mut Vec<MoverEffect>) {
        self.attempt.number += 1;
        (self.copied, self.copy_pieces) = (false, 0);
        self.unacked.clear();
        self.tail.clear();
        (self.acked, self.next, self.tail_bytes, self.bytes_acked) = (0, u64::MAX, 0, 0);
        out.push(MoverEffect::StartCopy);
    }

    fn unacked_bytes(&self) -> usize {
        self.unacked.iter().map(Bytes::len).sum()
    }

    /// Sends what the window and the rate allow. `next` is beyond everything until the target has said where to begin.
    fn send_pieces(&mut self, now: u64, out: &mut Vec<MoverEffect>) {
        let mut in_flight: usize = self
            .unacked
            .iter()
            .take(usize::try_from(self.next.saturating_sub(self.acked)).unwrap_or(usize::MAX))
            .map(Bytes::len)
            .sum();
        while let Some(bytes) = self
            .next
            .checked_sub(self.acked)
            .and_then(|at| self.unacked.get(usize::try_from(at).ok()?))
        {
            let of_copy = self.next < self.copy_pieces;
            if in_flight >= WINDOW_BYTES || (of_copy && now < self.free_at) {
                break;
            }
            in_flight += bytes.len();
            if of_copy {
                let millis = (bytes.len() as u64 * 1_000).checked_div(self.bytes_per_second).unwrap_or(0);
                self.free_at = self.free_at.max(now) + millis;
            }
            let chunk = HandoffChunk {
                attempt: self.attempt,
                sequence: self.next,
                bytes: bytes.clone(),
            };
            self.next += 1;
            self.asked_at = now;
            let step = HandoffStep::Chunk(chunk);
            out.push(self.message(step));
        }
    }

    fn message(&self, step: HandoffStep) -> MoverEffect {
        MoverEffect::Send(Handoff {
            handoff: self.handoff,
            from: self.from,
            to: self.to,
            slots: self.slots.clone(),
            step,
        })
    }

    fn ask(&mut self, now: u64, clock_millis: u64, out: &mut Vec<MoverEffect>) {
        let step = match self.stage {
            Stage::Copying | Stage::Deciding if self.aborting => HandoffStep::Abandon,
            Stage::Copying if self.attempt.number > 0 => HandoffStep::Begin(self.attempt),
            Stage::Deciding => HandoffStep::Decide {
                attempt: self.attempt,
                chunks: self.acked,
                clock_millis,
            },
            Stage::Forgetting => HandoffStep::Forget,
            Stage::Idle | Stage::Copying | Stage::Ending | Stage::Over => return,
        };
        self.asked_at = now;
        // Where to go on is what the target says now.
        self.next = u64::MAX;
        out.push(self.message(step));
    }

    /// Gives whether to ask at once.
    fn on_answer(&mut self, outcome: HandoffOutcome, state: Option<MoveState>, now: u64, out: &mut Vec<MoverEffect>) -> bool {
        let frozen = state == Some(MoveState::Frozen);
        let handoff = self.handoff;
        match (outcome, self.stage) {
            (HandoffOutcome::Staged { attempt, chunks }, Stage::Copying) if attempt == self.attempt => {
                self.waits_for = None;
                return self.on_staged(chunks, out);
            }
            (HandoffOutcome::Accepted, Stage::Deciding) if frozen => self.end(SlotRecord::Release { handoff }, out),
            (HandoffOutcome::Rejected, Stage::Copying | Stage::Deciding) => self.end(SlotRecord::Thaw { handoff }, out),
            // It never heard of the move and never will: while clients are served here, nobody else was asked to serve them.
            (HandoffOutcome::Stale, Stage::Copying) if self.aborting && state == Some(MoveState::Exporting) && !self.froze => {
                self.end(SlotRecord::Thaw { handoff }, out);
            }
            (HandoffOutcome::Stale, Stage::Copying | Stage::Deciding) => {
                self.waits_for = Some("the target says that the handoff is stale".to_owned());
            }
            (HandoffOutcome::Later(reason), _) => {
                self.waits_for = Some(reason);
                self.asked_at = now;
            }
            (HandoffOutcome::Forgotten, Stage::Forgetting) => {
                self.stage = Stage::Over;
                out.push(MoverEffect::Log(SlotRecord::Settle { handoff }));
            }
            _ => {}
        }
        false
    }

    fn end(&mut self, record: SlotRecord, out: &mut Vec<MoverEffect>) {
        self.stage = Stage::Ending;
        self.unacked.clear();
        self.tail.clear();
        self.waits_for = None;
        out.push(MoverEffect::Log(record));
    }

    /// The target holds so many pieces.
    fn on_staged(&mut self, chunks: u64, out: &mut Vec<MoverEffect>) -> bool {
        if chunks < self.acked || chunks - self.acked > self.unacked.len() as u64 {
            // It lost what it had acknowledged, or has what was never sent: neither is this copy.
            if self.froze {
                self.aborting = true;
            } else {
                self.begin_copy(out);
            }
            return true;
        }
        while self.acked < chunks {
            let piece = self.unacked.pop_front().expect("counted just before");
            self.bytes_acked += piece.len() as u64;
            self.acked += 1;
        }
        // The answer to Begin says where to go on; later ones never go back.
        self.next = if self.next == u64::MAX { chunks } else { self.next.max(chunks) };
        false
    }
}
