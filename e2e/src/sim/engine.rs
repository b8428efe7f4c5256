//! A driver, whichever crate it comes from: the one that the tests take rules from, or the one that the operator's planner
//! starts, unchanged.

use quorate_api::wire::Reply;
use quorate_api::{ActivateRequest, Configuration, Epoch, FenceRequest, Member};
use quorate_protocol as planned;
use quorate_protocol_mutants as tested;

/// See the module.
pub(crate) enum Engine {
    /// Rules can be taken from it.
    Tested(tested::Driver),
    /// The operator's own.
    Planned(planned::Driver),
}

/// What a driver wants done or has found.
pub(crate) enum Wish {
    Fence(Member, FenceRequest),
    Activate(Member, ActivateRequest),
    Done(planned::ViewChanged),
    /// In words, and as the operator's planner takes it.
    Failed(String, Option<planned::DriverFailure>),
}

fn of_tested(effects: Vec<tested::DriverEffect>) -> Vec<Wish> {
    let each = effects.into_iter().map(|effect| match effect {
        tested::DriverEffect::Fence(member, request) => Wish::Fence(member, request),
        tested::DriverEffect::Activate(member, request) => Wish::Activate(member, request),
        tested::DriverEffect::Done(tested::ViewChanged {
            primary,
            start,
            configuration,
        }) => Wish::Done(planned::ViewChanged {
            primary,
            start,
            configuration,
        }),
        tested::DriverEffect::Failed(failure) => Wish::Failed(failure.to_string(), None),
    });
    each.collect()
}

fn of_planned(effects: Vec<planned::DriverEffect>) -> Vec<Wish> {
    let each = effects.into_iter().map(|effect| match effect {
        planned::DriverEffect::Fence(member, request) => Wish::Fence(member, request),
        planned::DriverEffect::Activate(member, request) => Wish::Activate(member, request),
        planned::DriverEffect::Done(changed) => Wish::Done(changed),
        planned::DriverEffect::Failed(failure) => Wish::Failed(failure.to_string(), Some(failure)),
    });
    each.collect()
}

impl Engine {
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Tested(driver) => driver.epoch(),
            Self::Planned(driver) => driver.epoch(),
        }
    }

    pub(crate) fn target(&self) -> Option<&Configuration> {
        match self {
            Self::Tested(driver) => driver.target(),
            Self::Planned(driver) => driver.target(),
        }
    }

    pub(crate) fn finished(&self) -> bool {
        match self {
            Self::Tested(driver) => driver.finished(),
            Self::Planned(driver) => driver.finished(),
        }
    }

    /// What it still waits for.
    pub(crate) fn progress(&self) -> Vec<planned::FenceProgress> {
        match self {
            Self::Tested(_) => Vec::new(),
            Self::Planned(driver) => driver.progress(),
        }
    }

    pub(crate) fn requests(&mut self) -> Vec<Wish> {
        match self {
            Self::Tested(driver) => of_tested(driver.requests()),
            Self::Planned(driver) => of_planned(driver.requests()),
        }
    }

    pub(crate) fn settle(&mut self) -> Vec<Wish> {
        match self {
            Self::Tested(driver) => of_tested(driver.settle()),
            Self::Planned(driver) => of_planned(driver.settle()),
        }
    }

    pub(crate) fn take(&mut self, reply: Reply) -> Vec<Wish> {
        match (self, reply) {
            (Self::Tested(driver), Reply::Fence(answer)) => of_tested(driver.on_fence_answer(answer)),
            (Self::Tested(driver), Reply::Activate(answer)) => of_tested(driver.on_activate_answer(&answer)),
            (Self::Planned(driver), Reply::Fence(answer)) => of_planned(driver.on_fence_answer(answer)),
            (Self::Planned(driver), Reply::Activate(answer)) => of_planned(driver.on_activate_answer(&answer)),
            _ => Vec::new(),
        }
    }
}
