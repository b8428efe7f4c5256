//! Two groups with logs that lose nothing, and a mover between them.

use super::*;
use bytes::Bytes;
use quorate_api::slots::{Attempt, Handoff, HandoffOutcome, HandoffStep};
use quorate_api::{Epoch, MoveRefusal, MoveSlots, SlotSet};
use std::collections::VecDeque;

fn slots(first: u16, last: u16) -> SlotSet {
    SlotSet::from_ranges([first..=last]).unwrap()
}

fn order(handoff: u64, slots: SlotSet, to: u32) -> MoveSlots {
    MoveSlots {
        handoff,
        slots,
        to,
        max_bytes_per_second: 0,
    }
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, token: 0 }
}

/// A source, a target, and what travels between them.
struct Pair {
    source: SlotTable,
    target: SlotTable,
    mover: Mover,
    index: u64,
    now: u64,
    epoch: u64,
    /// Pieces of the copy that are left to give.
    copy: VecDeque<Bytes>,
    staged: Vec<Bytes>,
    asked: Vec<Handoff>,
}

const MOVE: u64 = 7;

impl Pair {
    fn new() -> Self {
        let mut source = SlotTable::new(0);
        let export = source.order(&order(MOVE, slots(0, 99), 1)).unwrap().unwrap();
        source.apply(&export, 1).unwrap();
        Self {
            source,
            target: SlotTable::new(1),
            mover: Mover::new(MOVE, 0, 1, slots(0, 99), 0, epoch(1)),
            index: 1,
            now: 0,
            epoch: 1,
            copy: VecDeque::new(),
            staged: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn input(&mut self, input: MoverInput) {
        let state = self.source.state(MOVE).map(|(state, _)| state);
        let mut out = Vec::new();
        self.mover.step(input, state, true, self.now, 0, &mut out);
        for effect in out {
            match effect {
                MoverEffect::Send(handoff) => self.asked.push(handoff),
                MoverEffect::Log(record) => {
                    self.index += 1;
                    self.source.apply(&record, self.index).unwrap();
                }
                MoverEffect::StartCopy => self.copy = (0..3u8).map(|n| Bytes::from(vec![n; 10])).collect(),
            }
        }
    }

    /// One thing happens; false when nothing is left.
    fn turn(&mut self) -> bool {
        if self.mover.is_over() {
            return false;
        }
        if !self.asked.is_empty() {
            let asked = self.asked.remove(0);
            let outcome = self.ask(&asked);
            self.input(MoverInput::Answer(outcome));
        } else if self.mover.wants_piece() {
            let input = self.copy.pop_front().map_or(MoverInput::CopyEnded, MoverInput::Piece);
            self.input(input);
        } else {
            self.now += 10;
            self.input(MoverInput::Tick);
        }
        true
    }

    fn ask(&mut self, asked: &Handoff) -> HandoffOutcome {
        loop {
            match self.target.react(asked) {
                Reaction::Answer(outcome) => return outcome,
                Reaction::Log(record) => {
                    self.index += 1;
                    match (self.target.apply(&record, self.index).unwrap(), &asked.step) {
                        (SlotData::BeginCopy(_), _) => self.staged.clear(),
                        (SlotData::Stage(_), HandoffStep::Chunk(chunk)) => self.staged.push(chunk.bytes.clone()),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Another primary of the source takes over; what travelled is lost.
    fn fail_over(&mut self) {
        self.epoch += 1;
        self.asked.clear();
        self.mover = Mover::new(MOVE, 0, 1, slots(0, 99), 0, epoch(self.epoch));
        self.input(MoverInput::Connected);
    }

    fn serves(&self, table: &SlotTable) -> bool {
        table.owned().contains(50) && !table.frozen().contains(50)
    }

    fn assert_one_owner(&self) {
        assert!(!(self.serves(&self.source) && self.serves(&self.target)), "both serve");
    }

    /// Until nothing is left of the move on either side.
    fn finish(&mut self) {
        for _ in 0..2_000 {
            self.assert_one_owner();
            if !self.turn() {
                self.input(MoverInput::Tick);
                assert_eq!((self.source.moves().count(), self.target.imports().len()), (0, 0));
                assert_ne!(self.source.owned().contains(50), self.target.owned().contains(50));
                return;
            }
        }
        panic!("the move does not end: {:?}", self.mover);
    }
}

#[test]
fn a_move_takes_the_copy_and_later_writes_and_leaves_nothing_behind() {
    let mut pair = Pair::new();
    pair.input(MoverInput::Connected);
    while !pair.mover.wants_tail() {
        pair.turn();
    }
    pair.input(MoverInput::Tail(Bytes::from_static(b"later")));
    pair.finish();
    assert!(pair.target.owned().contains(50));
    assert_eq!(pair.source.went_to(50), Some(1));
    let mut expected: Vec<Bytes> = (0..3u8).map(|n| Bytes::from(vec![n; 10])).collect();
    expected.push(Bytes::from_static(b"later"));
    assert_eq!(pair.staged, expected);
    assert_eq!(
        pair.target.react(&handoff(HandoffStep::Forget)),
        Reaction::Answer(HandoffOutcome::Forgotten)
    );
}

fn handoff(step: HandoffStep) -> Handoff {
    Handoff {
        handoff: MOVE,
        from: 0,
        to: 1,
        slots: slots(0, 99),
        step,
    }
}

/// Does something after every number of turns that a move takes.
fn at_every_turn(mut interrupt: impl FnMut(&mut Pair)) -> (u32, u32) {
    let (mut accepted, mut rejected) = (0, 0);
    for turns in 0.. {
        let mut pair = Pair::new();
        pair.input(MoverInput::Connected);
        let whole = (0..turns).all(|_| pair.turn());
        interrupt(&mut pair);
        pair.finish();
        if pair.target.owned().contains(50) {
            accepted += 1;
        } else {
            rejected += 1;
        }
        if !whole {
            break;
        }
    }
    (accepted, rejected)
}

#[test]
fn a_failover_of_the_source_at_any_moment_leaves_one_owner() {
    let (accepted, rejected) = at_every_turn(Pair::fail_over);
    assert!(accepted > 5 && rejected > 0, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn an_abort_at_any_moment_leaves_one_owner() {
    let (accepted, rejected) = at_every_turn(|pair| pair.input(MoverInput::Abort));
    assert!(accepted > 0 && rejected > 5, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn a_lost_connection_at_any_moment_is_no_reason_to_give_up() {
    let (_, rejected) = at_every_turn(|pair| {
        pair.asked.clear();
        pair.input(MoverInput::Disconnected);
        pair.input(MoverInput::Tick);
        assert!(pair.asked.is_empty());
        pair.input(MoverInput::Connected);
    });
    assert_eq!(rejected, 0);
}

#[test]
fn a_move_without_data_moves_too() {
    let mut pair = Pair::new();
    pair.input(MoverInput::Connected);
    while !pair.mover.wants_piece() {
        pair.turn();
    }
    pair.copy.clear();
    pair.finish();
    assert!(pair.target.owned().contains(50) && pair.staged.is_empty());
}

#[test]
fn the_rate_bounds_the_copy_and_not_the_writes_after_it() {
    let mut pair = Pair::new();
    // Ten bytes take half a second.
    pair.mover = Mover::new(MOVE, 0, 1, slots(0, 99), 20, epoch(1));
    pair.input(MoverInput::Connected);
    while pair.staged.len() < 3 {
        pair.turn();
    }
    assert!((1_000..1_100).contains(&pair.now), "{} ms for 30 bytes", pair.now);
}

#[test]
fn an_order_is_refused_with_its_reason() {
    let mut table = SlotTable::new(0);
    assert_eq!(table.order(&order(1, SlotSet::new(), 1)), Err(MoveRefusal::UnknownTarget));
    assert_eq!(table.order(&order(1, slots(0, 9), 0)), Err(MoveRefusal::UnknownTarget));
    let export = table.order(&order(5, slots(0, 9), 1)).unwrap().unwrap();
    table.apply(&export, 1).unwrap();
    assert_eq!(table.order(&order(5, slots(0, 9), 1)), Ok(None));
    assert_eq!(table.order(&order(5, slots(10, 19), 1)), Err(MoveRefusal::StaleHandoff(5)));
    assert_eq!(table.order(&order(4, slots(9, 19), 1)), Err(MoveRefusal::StaleHandoff(5)));
    assert_eq!(table.order(&order(6, slots(9, 19), 1)), Err(MoveRefusal::Busy));
    assert!(table.order(&order(4, slots(10, 19), 1)).unwrap().is_some());
    for record in [SlotRecord::Freeze { handoff: 5 }, SlotRecord::Release { handoff: 5 }] {
        table.apply(&record, 2).unwrap();
    }
    assert_eq!(table.order(&order(5, slots(0, 9), 1)), Err(MoveRefusal::StaleHandoff(5)));
    assert_eq!(table.order(&order(9, slots(5, 19), 1)), Err(MoveRefusal::NotOwner(slots(5, 9))));
}

#[test]
fn a_target_takes_nothing_late_nothing_twice_and_nothing_that_it_owns() {
    let mut table = SlotTable::new(1);
    let attempt = |number, count| Attempt {
        epoch: epoch(number),
        number: count,
    };
    let ask = |table: &mut SlotTable, step| {
        let asked = handoff(step);
        loop {
            match table.react(&asked) {
                Reaction::Answer(outcome) => return outcome,
                Reaction::Log(record) => table.apply(&record, 1).unwrap(),
            };
        }
    };
    let staged = |attempt, chunks| HandoffOutcome::Staged { attempt, chunks };
    assert_eq!(ask(&mut table, HandoffStep::Begin(attempt(2, 1))), staged(attempt(2, 1), 0));
    assert_eq!(ask(&mut table, HandoffStep::Begin(attempt(1, 9))), HandoffOutcome::Stale);
    assert_eq!(ask(&mut table, HandoffStep::Begin(attempt(2, 2))), staged(attempt(2, 2), 0));
    let decide = |number, count, chunks| HandoffStep::Decide {
        attempt: attempt(number, count),
        chunks,
        clock_millis: 0,
    };
    let mut incomplete = table.clone();
    assert_eq!(ask(&mut incomplete, decide(2, 2, 1)), HandoffOutcome::Rejected);
    assert_eq!(ask(&mut incomplete, decide(2, 2, 0)), HandoffOutcome::Rejected);
    let mut of_another_attempt = table.clone();
    assert_eq!(ask(&mut of_another_attempt, decide(2, 1, 0)), HandoffOutcome::Rejected);
    assert_eq!(ask(&mut table, decide(2, 2, 0)), HandoffOutcome::Accepted);
    assert_eq!(ask(&mut table, HandoffStep::Abandon), HandoffOutcome::Accepted);
    assert_eq!(ask(&mut table, HandoffStep::Begin(attempt(3, 1))), HandoffOutcome::Accepted);
    assert_eq!(ask(&mut table, HandoffStep::Forget), HandoffOutcome::Forgotten);
    for step in [HandoffStep::Begin(attempt(3, 1)), HandoffStep::Abandon, decide(2, 2, 0)] {
        assert_eq!(ask(&mut table, step), HandoffOutcome::Stale);
    }
    let mut other = handoff(HandoffStep::Begin(attempt(3, 1)));
    other.handoff = 8;
    let later = table.react(&other);
    assert!(
        matches!(later, Reaction::Answer(HandoffOutcome::Later(_))),
        "the target owns the slots: {later:?}"
    );
    other.slots = slots(100, 199);
    other.to = 2;
    assert_eq!(
        table.react(&other),
        Reaction::Answer(HandoffOutcome::Stale),
        "another shard is meant"
    );
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut table = SlotTable::new(0);
    let before = table.clone();
    for record in [
        SlotRecord::Freeze { handoff: 1 },
        SlotRecord::Release { handoff: 1 },
        SlotRecord::Thaw { handoff: 1 },
        SlotRecord::Settle { handoff: 1 },
        SlotRecord::Stage { handoff: 1, sequence: 0 },
        SlotRecord::Accept { handoff: 1 },
        SlotRecord::Forget { handoff: 1 },
    ] {
        assert_eq!(table.apply(&record, 1), Err(Misfit(record)));
        assert_eq!(table, before);
    }
}
