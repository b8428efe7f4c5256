//! Groups, what travels between them, and what clients were told.

use super::Order;
use bytes::Bytes;
use quorate_api::slots::{Handoff, HandoffOutcome, HandoffStep};
use quorate_api::{Epoch, SlotSet};
use quorate_protocol_mutants::slots::{Mover, MoverEffect, MoverInput, Reaction, SlotData, SlotRecord, SlotTable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Slots that clients write to.
const SLOTS: u16 = 2;

/// How often something may happen that need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Failovers of any group.
    pub failovers: u8,
    /// Connections that break.
    pub cuts: u8,
    /// Writes of clients.
    pub writes: u8,
    /// Orders to abort.
    pub aborts: u8,
}

/// Which primary of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reigning {
    /// That of the last epoch.
    Current,
    /// The one before, which does not know.
    Deposed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The operator orders a move.
    Order(usize),
    /// All that the group's primary has appended is there for good.
    Commit(usize),
    /// Another primary takes over, with the log up to this index.
    FailOver(usize, usize),
    /// A client writes to a slot, at the primary of a group.
    Write(usize, u16),
    /// The oldest question on the connection of a move arrives.
    Question(usize, Reigning, u64),
    /// So does the oldest answer.
    Answer(usize, Reigning, u64),
    /// The connection of a move breaks, and another stands.
    Cut(usize, Reigning, u64),
    /// A move that was told to come later does.
    AskAgain(usize, Reigning, u64),
    /// A question of a connection that is gone arrives; nobody hears the answer.
    Late(Handoff),
    /// The operator gives a move up.
    Abort(usize, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Start,
    Write(u16, u8),
    Slots(SlotRecord, Bytes),
}

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    table: SlotTable,
    data: BTreeMap<u16, Vec<u8>>,
    copies: BTreeMap<u64, BTreeMap<u16, Vec<u8>>>,
}

/// The connection of a move to its target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Link {
    questions: VecDeque<Handoff>,
    /// With the index of the target's log that has to be there for good first.
    answers: VecDeque<(usize, HandoffOutcome)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reign {
    epoch: u64,
    log: Vec<Entry>,
    state: State,
    movers: BTreeMap<u64, (Mover, Link)>,
    /// As far as it knows.
    committed: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    shard: u32,
    current: Reign,
    deposed: Option<Reign>,
    /// Writes that nobody has been told of, by the index of their entry.
    unacknowledged: Vec<(usize, u16, u8)>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    groups: Vec<Group>,
    ordered: Vec<bool>,
    late: BTreeSet<Late>,
    acknowledged: BTreeMap<u16, Vec<u8>>,
    next_write: u8,
    budget: Budget,
    accepted: bool,
    rejected: bool,
}

/// A question in an order that a set can keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Late(Handoff);

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        format!("{:?}", self.0).cmp(&format!("{:?}", other.0))
    }
}

/// A piece of a copy: for each write the slot and its number.
fn piece(writes: impl Iterator<Item = (u16, u8)>) -> Bytes {
    writes.flat_map(|(slot, write)| [slot as u8, write]).collect()
}

impl State {
    fn new(shard: u32) -> Self {
        Self {
            table: SlotTable::new(shard),
            data: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    fn apply(&mut self, entry: &Entry, index: usize) {
        match entry {
            Entry::Start => {}
            Entry::Write(slot, write) => self.data.entry(*slot).or_default().push(*write),
            Entry::Slots(record, bytes) => {
                let data = self.table.apply(record, index as u64).expect("a primary logs what fits");
                self.carry_out(data, bytes);
            }
        }
    }

    fn carry_out(&mut self, data: SlotData, bytes: &Bytes) {
        match data {
            SlotData::Untouched => {}
            SlotData::BeginCopy(handoff) => {
                self.copies.insert(handoff, BTreeMap::new());
            }
            SlotData::Stage(handoff) => {
                let copy = self.copies.get_mut(&handoff).expect("a copy for every import");
                for pair in bytes.chunks_exact(2) {
                    copy.entry(pair[0].into()).or_default().push(pair[1]);
                }
            }
            SlotData::Adopt(handoff, _) => {
                let copy = self.copies.remove(&handoff).expect("a copy for every import");
                self.data.extend(copy);
            }
            SlotData::DropCopy(handoff) => {
                self.copies.remove(&handoff);
            }
            SlotData::Drop(slots) => self.data.retain(|slot, _| !slots.contains(*slot)),
        }
    }

    fn serves(&self, slot: u16) -> bool {
        self.table.owned().contains(slot) && !self.table.frozen().contains(slot)
    }
}

impl Reign {
    fn new(shard: u32, epoch: u64, log: Vec<Entry>, committed: usize) -> Self {
        let mut state = State::new(shard);
        for (index, entry) in (1..).zip(&log) {
            state.apply(entry, index);
        }
        let mut reign = Self {
            epoch,
            log,
            state,
            movers: BTreeMap::new(),
            committed,
        };
        reign.append(Entry::Start);
        reign
    }

    fn append(&mut self, entry: Entry) {
        self.log.push(entry);
        let index = self.log.len();
        let entry = self.log[index - 1].clone();
        self.state.apply(&entry, index);
    }

    /// Gives a mover something, and does what it wants until it wants nothing more.
    fn step_mover(&mut self, handoff: u64, input: MoverInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let standing = self.state.table.state(handoff);
            let for_good = standing.is_none_or(|(_, changed)| changed as usize <= self.committed);
            let Some((mover, link)) = self.movers.get_mut(&handoff) else {
                return;
            };
            let (mut out, before) = (Vec::new(), mover.attempt());
            mover.step(input, standing.map(|(state, _)| state), for_good, 0, 0, &mut out);
            let (slots, over) = (mover.slots().clone(), mover.is_over());
            for effect in out {
                match effect {
                    MoverEffect::Send(asked) => link.questions.push_back(asked),
                    MoverEffect::Log(record) => {
                        self.log.push(Entry::Slots(record, Bytes::new()));
                        let index = self.log.len();
                        let entry = self.log[index - 1].clone();
                        self.state.apply(&entry, index);
                        // Time passes before that is there for good.
                        inputs.push_back(MoverInput::Tick);
                    }
                    MoverEffect::StartCopy => {
                        let data = self.state.data.iter().filter(|(slot, _)| slots.contains(**slot));
                        let writes = data.flat_map(|(slot, writes)| writes.iter().map(|write| (*slot, *write)));
                        inputs.extend([MoverInput::Piece(piece(writes)), MoverInput::CopyEnded]);
                    }
                }
            }
            debug_assert!(before <= self.movers[&handoff].0.attempt());
            if over {
                self.movers.remove(&handoff);
            }
        }
    }

    /// A mover for every move on record that is there for good, and a look at the log for each.
    fn tend(&mut self, shard: u32) {
        let moves: Vec<(u64, u32)> = self.state.table.moves().collect();
        for (handoff, to) in moves {
            let (slots, _) = self.state.table.subject(handoff).expect("a move on record");
            let slots = slots.clone();
            if !self.movers.contains_key(&handoff) {
                let epoch = Epoch {
                    number: self.epoch,
                    token: 0,
                };
                let mover = Mover::new(handoff, shard, to, slots, 0, epoch);
                self.movers.insert(handoff, (mover, Link::default()));
                self.step_mover(handoff, MoverInput::Connected);
            }
        }
        for handoff in self.movers.keys().copied().collect::<Vec<_>>() {
            self.step_mover(handoff, MoverInput::Tick);
        }
    }
}

impl Group {
    fn new(shard: u32) -> Self {
        let mut current = Reign::new(shard, 1, Vec::new(), 0);
        current.committed = 1;
        Self {
            shard,
            current,
            deposed: None,
            unacknowledged: Vec::new(),
        }
    }

    fn reign(&self, reigning: Reigning) -> Option<&Reign> {
        match reigning {
            Reigning::Current => Some(&self.current),
            Reigning::Deposed => self.deposed.as_ref(),
        }
    }

    fn reign_mut(&mut self, reigning: Reigning) -> &mut Reign {
        match reigning {
            Reigning::Current => &mut self.current,
            Reigning::Deposed => self.deposed.as_mut().expect("a step of a deposed primary that there is"),
        }
    }
}

impl World {
    /// Nothing has moved; shard 0 owns every slot.
    #[must_use]
    pub fn new(groups: usize, orders: usize, budget: Budget) -> Self {
        Self {
            groups: (0..groups).map(|shard| Group::new(shard as u32)).collect(),
            ordered: vec![false; orders],
            late: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            next_write: 0,
            budget,
            accepted: false,
            rejected: false,
        }
    }

    /// Everything that can happen now.
    #[must_use]
    pub fn steps(&self, orders: &[Order]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, (from, order)) in orders.iter().enumerate() {
            let table = &self.groups[*from].current.state.table;
            if !self.ordered[number] && matches!(table.order(order), Ok(Some(_))) {
                steps.push(Step::Order(number));
            }
        }
        for (number, group) in self.groups.iter().enumerate() {
            self.steps_of(number, group, &mut steps);
        }
        steps.extend(self.late.iter().map(|Late(asked)| Step::Late(asked.clone())));
        steps
    }

    fn steps_of(&self, number: usize, group: &Group, steps: &mut Vec<Step>) {
        let (last, committed) = (group.current.log.len(), group.current.committed);
        if committed < last {
            steps.push(Step::Commit(number));
        }
        if self.budget.failovers > 0 {
            steps.extend((committed..=last).map(|kept| Step::FailOver(number, kept)));
        }
        if self.budget.writes > 0 {
            let served = (0..SLOTS).filter(|slot| group.current.state.serves(*slot));
            steps.extend(served.map(|slot| Step::Write(number, slot)));
        }
        for reigning in [Reigning::Current, Reigning::Deposed] {
            let Some(reign) = group.reign(reigning) else { continue };
            for (&handoff, (mover, link)) in &reign.movers {
                let target = &self.groups[mover.to() as usize].current;
                if !link.questions.is_empty() {
                    steps.push(Step::Question(number, reigning, handoff));
                }
                if link.answers.front().is_some_and(|(index, _)| *index <= target.committed) {
                    steps.push(Step::Answer(number, reigning, handoff));
                }
                // It asks again after a while.
                let waits = mover.waits_for().is_some() && link.questions.is_empty() && link.answers.is_empty();
                if waits {
                    steps.push(Step::AskAgain(number, reigning, handoff));
                }
                if self.budget.cuts > 0 && (!link.questions.is_empty() || !link.answers.is_empty()) {
                    steps.push(Step::Cut(number, reigning, handoff));
                }
                if self.budget.aborts > 0 && reign.state.table.exports().contains_key(&handoff) {
                    steps.push(Step::Abort(number, handoff));
                }
            }
        }
    }

    /// Does one of [`World::steps`].
    pub fn take(&mut self, orders: &[Order], step: &Step) {
        match step {
            Step::Order(number) => {
                let (from, order) = &orders[*number];
                self.ordered[*number] = true;
                let reign = &mut self.groups[*from].current;
                if let Ok(Some(record)) = reign.state.table.order(order) {
                    reign.append(Entry::Slots(record, Bytes::new()));
                }
            }
            Step::Commit(number) => self.commit(*number),
            Step::FailOver(number, kept) => self.fail_over(*number, *kept),
            Step::Write(number, slot) => {
                self.budget.writes -= 1;
                self.write(*number, *slot);
            }
            Step::Question(number, reigning, handoff) => {
                let (_, link) = self.groups[*number].reign_mut(*reigning).movers.get_mut(handoff).expect("a move");
                let asked = link.questions.pop_front().expect("a question");
                let answer = self.ask(&asked);
                let (_, link) = self.groups[*number].reign_mut(*reigning).movers.get_mut(handoff).expect("a move");
                link.answers.push_back(answer);
            }
            Step::Answer(number, reigning, handoff) => {
                let reign = self.groups[*number].reign_mut(*reigning);
                let (_, link) = reign.movers.get_mut(handoff).expect("a move");
                let (_, outcome) = link.answers.pop_front().expect("an answer");
                reign.step_mover(*handoff, MoverInput::Answer(outcome));
            }
            Step::Cut(number, reigning, handoff) => {
                self.budget.cuts -= 1;
                self.cut(*number, *reigning, *handoff);
            }
            Step::AskAgain(number, reigning, handoff) => self.cut(*number, *reigning, *handoff),
            Step::Late(asked) => {
                self.late.remove(&Late(asked.clone()));
                self.ask(asked);
            }
            Step::Abort(number, handoff) => {
                self.budget.aborts -= 1;
                self.groups[*number].current.step_mover(*handoff, MoverInput::Abort);
            }
        }
    }

    fn commit(&mut self, number: usize) {
        let group = &mut self.groups[number];
        group.current.committed = group.current.log.len();
        for (_, slot, write) in std::mem::take(&mut group.unacknowledged) {
            self.acknowledged.entry(slot).or_default().push(write);
        }
        for entry in &group.current.log {
            self.accepted |= matches!(entry, Entry::Slots(SlotRecord::Settle { .. }, _)) && group.current.log.iter().any(is_release);
            self.rejected |= matches!(entry, Entry::Slots(SlotRecord::Settle { .. }, _)) && group.current.log.iter().any(is_thaw);
        }
        group.current.tend(group.shard);
    }

    /// The next primary has all that is there for good and as much more as it happens; whatever is under way to the group is lost.
    fn fail_over(&mut self, number: usize, kept: usize) {
        self.budget.failovers = self.budget.failovers.saturating_sub(1);
        let group = &mut self.groups[number];
        let (epoch, committed) = (group.current.epoch + 1, group.current.committed);
        let log = group.current.log[..kept].to_vec();
        group.unacknowledged.clear();
        let next = Reign::new(group.shard, epoch, log, committed);
        group.deposed = Some(std::mem::replace(&mut group.current, next));
        let shard = group.shard;
        for other in 0..self.groups.len() {
            for reigning in [Reigning::Current, Reigning::Deposed] {
                let Some(reign) = self.groups[other].reign(reigning) else {
                    continue;
                };
                let to_it = reign.movers.iter().filter(|(_, (mover, _))| mover.to() == shard);
                for handoff in to_it.map(|(handoff, _)| *handoff).collect::<Vec<_>>() {
                    self.cut(other, reigning, handoff);
                }
            }
        }
    }

    fn cut(&mut self, number: usize, reigning: Reigning, handoff: u64) {
        let reign = self.groups[number].reign_mut(reigning);
        let Some((_, link)) = reign.movers.get_mut(&handoff) else { return };
        let lost = std::mem::take(link);
        reign.step_mover(handoff, MoverInput::Disconnected);
        reign.step_mover(handoff, MoverInput::Connected);
        self.late.extend(lost.questions.into_iter().map(Late));
    }

    fn write(&mut self, number: usize, slot: u16) {
        let write = self.next_write;
        self.next_write += 1;
        let group = &mut self.groups[number];
        let reign = &mut group.current;
        reign.append(Entry::Write(slot, write));
        group.unacknowledged.push((reign.log.len(), slot, write));
        let wanting = reign
            .movers
            .iter()
            .filter(|(_, (mover, _))| mover.wants_tail() && mover.slots().contains(slot));
        for handoff in wanting.map(|(handoff, _)| *handoff).collect::<Vec<_>>() {
            reign.step_mover(handoff, MoverInput::Tail(piece([(slot, write)].into_iter())));
        }
    }

    /// The primary of the target is asked; its answer, and the index that it waits for.
    fn ask(&mut self, asked: &Handoff) -> (usize, HandoffOutcome) {
        let reign = &mut self.groups[asked.to as usize].current;
        loop {
            match reign.state.table.react(asked) {
                Reaction::Answer(outcome) => return (reign.log.len(), outcome),
                Reaction::Log(record) => {
                    let bytes = match &asked.step {
                        HandoffStep::Chunk(chunk) => chunk.bytes.clone(),
                        _ => Bytes::new(),
                    };
                    reign.append(Entry::Slots(record, bytes));
                }
            }
        }
    }

    /// No two groups serve the same slot.
    #[must_use]
    pub fn at_most_one_serves(&self) -> bool {
        (0..SLOTS).all(|slot| self.groups.iter().filter(|group| group.current.state.serves(slot)).count() <= 1)
    }

    /// No slot is lost.
    #[must_use]
    pub fn every_slot_is_owned(&self) -> bool {
        let owned = self.groups.iter().map(|group| group.current.state.table.owned());
        owned.fold(SlotSet::new(), |all, owned| all.union(owned)) == SlotSet::all()
    }

    /// Whoever serves a slot has what was acknowledged, in order, and nothing twice.
    #[must_use]
    pub fn acknowledged_writes_are_there(&self) -> bool {
        let nothing = Vec::new();
        let served = self.groups.iter().flat_map(|group| (0..SLOTS).map(move |slot| (group, slot)));
        served
            .filter(|(group, slot)| group.current.state.serves(*slot))
            .all(|(group, slot)| {
                let held = group.current.state.data.get(&slot).unwrap_or(&nothing);
                let mut rest = held.iter();
                let acknowledged = self.acknowledged.get(&slot).unwrap_or(&nothing);
                let once = held.iter().collect::<BTreeSet<_>>().len() == held.len();
                once && acknowledged.iter().all(|write| rest.any(|held| held == write))
            })
    }

    /// Whether some move came to its end by being accepted, and whether one did by being rejected.
    #[must_use]
    pub fn ended(&self) -> (bool, bool) {
        (self.accepted, self.rejected)
    }

    /// Whether nothing is left of any move, in no log and on no way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.groups.iter().all(|group| {
            let table = &group.current.state.table;
            table.moves().next().is_none() && table.imports().is_empty() && group.current.movers.is_empty()
        })
    }

    /// For whoever has to understand why a move does not end.
    #[must_use]
    pub fn outline(&self) -> String {
        let group = |group: &Group| {
            let Reign {
                epoch,
                log,
                state,
                movers,
                committed,
            } = &group.current;
            let (shard, last, table) = (group.shard, log.len(), &state.table);
            format!("shard {shard} epoch {epoch} log {committed}/{last} {table:?} {movers:?}\n")
        };
        self.groups.iter().map(group).collect()
    }

    /// From now on nothing goes wrong, and nobody writes.
    pub fn calm(&mut self) {
        self.budget = Budget {
            failovers: 0,
            cuts: 0,
            writes: 0,
            aborts: 0,
        };
        for group in &mut self.groups {
            group.deposed = None;
        }
    }
}

fn is_release(entry: &Entry) -> bool {
    matches!(entry, Entry::Slots(SlotRecord::Release { .. }, _))
}

fn is_thaw(entry: &Entry) -> bool {
    matches!(entry, Entry::Slots(SlotRecord::Thaw { .. }, _))
}
