//! The real [`Driver`]s, numbered, so that a state of the model holds a number instead of a driver.
//!
//! What a driver does is a function of what it is and what it is told: each answer is given to each driver once, and the
//! outcome remembered. The source is that of `quorate-protocol`; it is compiled with the switches that take a rule away,
//! all of them off unless a mutant is checked.

use super::scenarios::Scenario;
use super::state::{Choice, bit};
use quorate_api::{Configuration, EntryId, Epoch, FenceAnswer, Incarnation, Proposal};
use quorate_protocol_mutants::mutation::{self, Mutation};
use quorate_protocol_mutants::{Driver, DriverEffect};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use uuid::Uuid;

/// A node's answer to a fence, as far as a driver looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) node: u8,
    pub(super) promised: u8,
    pub(super) last: (u8, u8),
    pub(super) damaged: bool,
    /// The index of the last epoch start that it knows to be committed: a driver compares the commit index with epoch starts only.
    pub(super) commit: u8,
    /// Index, epoch and configuration of the epoch starts from the last committed one on.
    pub(super) starts: [Option<(u8, u8, u8)>; super::state::EPOCHS],
    pub(super) proposals: u8,
}

/// What a driver became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// Still fencing: its number.
    Fencing(u16),
    Chosen(Choice),
    Ended,
}

#[derive(Default)]
struct Tables {
    drivers: Vec<(Driver, u8)>,
    driver_numbers: HashMap<(Driver, u8), u16>,
    answers: Vec<Answer>,
    answer_numbers: HashMap<Answer, u16>,
    became: HashMap<(u16, u16), Became>,
    settled: HashMap<u16, Became>,
}

/// See the module.
pub(super) struct Drivers {
    tables: RwLock<Tables>,
    mutation: Option<Mutation>,
}

pub(super) fn incarnation(node: u8) -> Incarnation {
    Incarnation(Uuid::from_u128(u128::from(node) + 1))
}

fn node_of(incarnation: Incarnation) -> u8 {
    u8::try_from(incarnation.0.as_u128() - 1).expect("an incarnation of the model")
}

pub(super) fn epoch(number: u8) -> Epoch {
    Epoch {
        number: number.into(),
        token: 0,
    }
}

fn entry_id(number: u8, index: u8) -> EntryId {
    EntryId {
        epoch: epoch(number),
        index: index.into(),
    }
}

impl Drivers {
    pub(super) fn new(mutation: Option<Mutation>) -> Self {
        Self {
            tables: RwLock::default(),
            mutation,
        }
    }

    /// A driver with its first questions asked.
    pub(super) fn begin(&self, mut driver: Driver) -> u16 {
        let effects = self.broken(|| driver.requests());
        match self.keep(driver, 0, &effects) {
            Became::Fencing(number) => number,
            Became::Chosen(_) | Became::Ended => unreachable!("nobody answered yet"),
        }
    }

    /// The nodes that the driver has asked, as a set of bits.
    pub(super) fn asked(&self, driver: u16) -> u8 {
        self.read(|tables| tables.drivers[usize::from(driver)].1)
    }

    pub(super) fn answer_number(&self, answer: Answer) -> u16 {
        if let Some(number) = self.read(|tables| tables.answer_numbers.get(&answer).copied()) {
            return number;
        }
        self.write(|tables| {
            let next = u16::try_from(tables.answers.len()).expect("few different answers");
            let number = *tables.answer_numbers.entry(answer).or_insert(next);
            if number == next {
                tables.answers.push(answer);
            }
            number
        })
    }

    /// An answer reaches a driver.
    pub(super) fn on_answer(&self, scenario: &Scenario, driver: u16, answer: u16) -> Became {
        if let Some(became) = self.read(|tables| tables.became.get(&(driver, answer)).copied()) {
            return became;
        }
        let ((mut real, asked), answered) = self.read(|tables| {
            let (real, asked) = &tables.drivers[usize::from(driver)];
            ((real.clone(), *asked), tables.answers[usize::from(answer)])
        });
        let effects = self.broken(|| real.on_fence_answer(real_answer(scenario, &answered)));
        let became = self.became(scenario, real, asked, &effects);
        self.write(|tables| tables.became.insert((driver, answer), became));
        became
    }

    /// A driver has waited long enough for a better choice than the one to avoid.
    pub(super) fn on_settle(&self, scenario: &Scenario, driver: u16) -> Became {
        if let Some(became) = self.read(|tables| tables.settled.get(&driver).copied()) {
            return became;
        }
        let (mut real, asked) = self.read(|tables| tables.drivers[usize::from(driver)].clone());
        let effects = self.broken(|| real.settle());
        let became = self.became(scenario, real, asked, &effects);
        self.write(|tables| tables.settled.insert(driver, became));
        became
    }

    fn became(&self, scenario: &Scenario, real: Driver, asked: u8, effects: &[DriverEffect]) -> Became {
        for effect in effects {
            match effect {
                DriverEffect::Activate(member, request) => {
                    return Became::Chosen(Choice {
                        node: node_of(member.incarnation),
                        last: (small(request.last.epoch.number), small(request.last.index)),
                        configuration: scenario.number_of(&request.configuration),
                    });
                }
                DriverEffect::Failed(_) => return Became::Ended,
                DriverEffect::Fence(..) | DriverEffect::Done(_) => {}
            }
        }
        self.keep(real, asked, effects)
    }

    fn keep(&self, real: Driver, asked: u8, effects: &[DriverEffect]) -> Became {
        let asked = effects.iter().fold(asked, |asked, effect| match effect {
            DriverEffect::Fence(member, _) => asked | bit(node_of(member.incarnation)),
            _ => asked,
        });
        self.write(|tables| {
            let next = u16::try_from(tables.drivers.len()).expect("few different drivers");
            let number = *tables.driver_numbers.entry((real.clone(), asked)).or_insert(next);
            if number == next {
                tables.drivers.push((real, asked));
            }
            Became::Fencing(number)
        })
    }

    /// The switch is one of the thread, and the checker has several threads.
    fn broken<T>(&self, act: impl FnOnce() -> T) -> T {
        mutation::set(self.mutation);
        let outcome = act();
        mutation::set(None);
        outcome
    }

    fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn small(number: u64) -> u8 {
    u8::try_from(number).expect("numbers of the model are small")
}

fn real_answer(scenario: &Scenario, answer: &Answer) -> FenceAnswer {
    let configuration = |number: u8| -> Configuration { scenario.configurations[usize::from(number)].clone() };
    let proposal = |number: u8| match scenario.proposal(number) {
        Some(target) => Proposal::Change(configuration(target)),
        None => Proposal::Keep,
    };
    FenceAnswer {
        incarnation: incarnation(answer.node),
        promised: epoch(answer.promised),
        last: entry_id(answer.last.0, answer.last.1),
        commit: answer.commit.into(),
        damaged: answer.damaged,
        configurations: answer
            .starts
            .iter()
            .flatten()
            .map(|&(index, number, c)| (entry_id(number, index), configuration(c)))
            .collect(),
        proposals: (1..8)
            .filter(|&number| answer.proposals & bit(number) != 0)
            .map(|number| (epoch(number), proposal(number)))
            .collect(),
    }
}
