//! View-change drivers: an operator that means well and knows little, and others that are stale, doubled, concurrent,
//! given up half-way, or know only configurations of long ago.

use super::engine::{Engine, Wish};
use super::host::Host;
use super::mutants::Slip;
use super::network::{Message, OUTSIDE};
use super::world::{MILLI, What, World};
use crate::system::{Outcome, Owner};
use quorate_api::wire::{Reply, Request};
use quorate_api::{Configuration, Consistency, Epoch, Incarnation, Member, Proposal, Quorum};
use quorate_protocol_mutants::{Driver, Event, Session};
use rand::RngExt;

/// A driver and who runs it.
pub(crate) struct Pilot {
    driver: Engine,
    /// The machine that it runs on, [`OUTSIDE`], or another place.
    pub(crate) vantage: usize,
    /// Nobody runs it any more. What it sent is still on its way.
    pub(crate) gone: bool,
    ends: u64,
    operators: bool,
    target: Option<Configuration>,
    /// Who waits for its outcome in a whole system.
    owner: Option<Owner>,
    /// It takes what it has from then on.
    settles: u64,
    /// When its fence was complete.
    fenced: u64,
}

/// A driver repeats unanswered requests after this time.
const REPEAT: u64 = 30 * MILLI;
/// A driver of a whole system waits so long for a better choice than the replica that it avoids.
const SETTLE: u64 = 500 * MILLI;

impl World {
    pub(crate) fn bootstrap(&mut self, first: Configuration) {
        self.configurations.push(first.clone());
        let epoch = Epoch::after(0, self.rng.random());
        self.run_driver(Driver::bootstrap(epoch, first), OUTSIDE, true);
    }

    pub(crate) fn run_driver(&mut self, driver: Driver, vantage: usize, operators: bool) -> usize {
        let patience = if operators { 300 * MILLI } else { self.profile.driver_patience };
        let ends = self.now + self.within(patience);
        self.run_engine(Engine::Tested(driver), vantage, operators, ends, None)
    }

    /// Runs a driver until `ends`; tells `owner` of the outcome.
    pub(crate) fn run_engine(&mut self, mut driver: Engine, vantage: usize, operators: bool, ends: u64, owner: Option<Owner>) -> usize {
        let target = driver.target().cloned();
        let effects = driver.requests();
        self.say(|| format!("driver {} of {} begins", self.pilots.len(), driver.epoch()));
        self.pilots.push(Pilot {
            driver,
            vantage,
            gone: false,
            ends,
            operators,
            target,
            owner,
            settles: if owner.is_some() { self.now + SETTLE } else { 0 },
            fenced: self.now,
        });
        let number = self.pilots.len() - 1;
        self.fly(number, effects);
        self.schedule(REPEAT, What::Pilot(number));
        number
    }

    fn fly(&mut self, number: usize, effects: Vec<Wish>) {
        for effect in effects {
            match effect {
                Wish::Fence(member, request) => {
                    if let Proposal::Change(configuration) = &request.proposal
                        && !self.configurations.contains(configuration)
                    {
                        self.configurations.push(configuration.clone());
                    }
                    self.ask(number, &member, Request::Fence(request));
                }
                Wish::Activate(member, request) => {
                    self.pilots[number].fenced = self.now;
                    self.say(|| format!("driver {number} activates {:?}", (member.ordinal, &request)));
                    let host = member.ordinal as usize;
                    self.ledger.chosen.insert(request.epoch, request.last);
                    if self.faults && self.rng.random_ratio(1, 3) {
                        // A late double, perhaps after a crash of the one that it activated.
                        let session = self.new_session();
                        let after = self.within(self.profile.lateness * 2);
                        let late = Message::Ask(session, host, Request::Activate(request.clone()));
                        self.schedule(after, What::Arrive(late));
                    }
                    self.ask(number, &member, Request::Activate(request));
                    // What it said of its log is not durable yet, perhaps.
                    if self.faults && self.rng.random_bool(self.profile.crash_chosen) {
                        self.crash(host);
                    }
                }
                Wish::Done(changed) => {
                    self.ledger.changes += u64::from(!self.configurations.first().is_some_and(|first| *first == changed.configuration));
                    self.say(|| format!("driver {number}: {} serves from {:?}", changed.primary.ordinal, changed.start));
                    let (fenced, owner) = (self.pilots[number].fenced, self.pilots[number].owner);
                    self.drive_ended(owner, Outcome::Done { changed, fenced });
                }
                Wish::Failed(text, failure) => {
                    self.say(|| format!("driver {number}: {text}"));
                    let owner = self.pilots[number].owner;
                    self.drive_ended(owner, Outcome::Failed(failure));
                }
            }
        }
    }

    /// A machine is reached by its name: who lives there now may be somebody else. In a whole system, callers ask who answers
    /// before they say what they want.
    fn ask(&mut self, number: usize, member: &Member, request: Request) {
        let host = member.ordinal as usize;
        if self.system.is_some() && self.hosts.get(host).is_none_or(|host| host.incarnation != member.incarnation) {
            return;
        }
        if self.pilots[number].gone {
            return;
        }
        let session = self.new_session();
        self.asked.insert(session, (number, host));
        let vantage = self.pilots[number].vantage;
        self.send(vantage, Message::Ask(session, host, request));
        if let Some(Owner::Operator(operator, life)) = self.pilots[number].owner {
            self.step_taken(operator, life);
            if !self.lives(operator, life) {
                self.end_pilot(number);
            }
        }
    }

    pub(crate) fn answered(&mut self, session: Session, reply: Reply) {
        if let Reply::Status(status) = &reply
            && self.status_answered(session, status)
        {
            return;
        }
        let Some(&(number, _)) = self.asked.get(&session) else { return };
        let pilot = &mut self.pilots[number];
        if pilot.gone {
            return;
        }
        let effects = pilot.driver.take(reply);
        self.fly(number, effects);
    }

    pub(crate) fn pilot(&mut self, number: usize) {
        let pilot = &mut self.pilots[number];
        if pilot.gone {
            return;
        }
        let lost = self.hosts.get(pilot.vantage).is_some_and(|host| host.process.is_none());
        let finished = pilot.driver.finished();
        if finished || self.now >= pilot.ends || lost {
            let (progress, owner) = (pilot.driver.progress(), pilot.owner);
            self.say(|| format!("driver {number} ends: {progress:?}"));
            self.end_pilot(number);
            if !finished {
                self.drive_ended(owner, Outcome::Late(progress));
            }
            return;
        }
        let settled = if self.now >= pilot.settles {
            pilot.driver.settle()
        } else {
            Vec::new()
        };
        let again = if settled.is_empty() { pilot.driver.requests() } else { settled };
        self.fly(number, again);
        self.schedule(REPEAT, What::Pilot(number));
    }

    pub(crate) fn end_pilot(&mut self, number: usize) {
        if std::mem::replace(&mut self.pilots[number].gone, true) {
            return;
        }
        self.pilots[number].ends = self.now;
        let sessions: Vec<(Session, usize)> = self
            .asked
            .iter()
            .filter(|(_, (pilot, _))| *pilot == number)
            .map(|(session, (_, host))| (*session, *host))
            .collect();
        for (session, host) in sessions {
            self.asked.remove(&session);
            let (after, life) = (self.within(self.profile.latency), self.hosts[host].life);
            self.schedule(
                after,
                What::Local(host, life, super::host::Input::Event(Event::SessionClosed(session))),
            );
        }
    }

    /// Every configuration that matters to a member, or would after a restart.
    pub(crate) fn in_play(&self) -> Vec<Configuration> {
        let mut all: Vec<Configuration> = Vec::new();
        for host in &self.hosts {
            let proposals = host.disk.hard.proposals.iter().filter_map(|(_, proposal)| match proposal {
                Proposal::Change(configuration) => Some(configuration),
                Proposal::Keep => None,
            });
            let entered = host.disk.configurations();
            for configuration in entered.iter().chain(proposals) {
                if !all.contains(configuration) {
                    all.push(configuration.clone());
                }
            }
        }
        all
    }

    /// Configurations that a driver may still bring into play with a message on its way.
    pub(crate) fn on_their_way(&self) -> impl Iterator<Item = &Configuration> {
        let horizon = self.now.saturating_sub(2 * self.profile.lateness + 100 * MILLI);
        let lately = self.pilots.iter().filter(move |pilot| !pilot.gone || pilot.ends > horizon);
        lately.filter_map(|pilot| pilot.target.as_ref())
    }

    /// The configuration of the greatest committed epoch start that a running member shows.
    pub(crate) fn in_force(&self) -> Option<Configuration> {
        let committed = |host: &Host| {
            let replica = host.replica()?;
            let start = replica.log().configurations().iter().rfind(|(id, _)| id.index <= replica.commit());
            start.cloned()
        };
        self.hosts
            .iter()
            .filter_map(committed)
            .max_by_key(|(id, _)| *id)
            .map(|(_, configuration)| configuration)
    }

    /// The configuration of the greatest epoch start that a running member shows, committed or not.
    pub(crate) fn latest(&self) -> Option<Configuration> {
        let shown = self.hosts.iter().filter_map(|host| host.replica()?.configuration().cloned());
        shown.max_by_key(|(id, _)| *id).map(|(_, configuration)| configuration)
    }

    pub(crate) fn fresh_epoch(&mut self, number: u64) -> Epoch {
        match self.slip {
            Some(Slip::TokenShared) => Epoch::after(number, 0),
            _ => Epoch::after(number, self.rng.random()),
        }
    }

    /// The operator sees what the members say of themselves, fails over when nobody serves, and replaces lost disks.
    pub(crate) fn operator(&mut self) {
        self.schedule(self.profile.look, What::Operator);
        self.forget_old_links();
        let busy = self.pilots.iter().any(|pilot| pilot.operators && !pilot.gone);
        let progress = self.ledger.committed.len();
        if progress != std::mem::replace(&mut self.progress, progress) {
            self.silent_since = self.now;
        }
        let patience = 60 * MILLI + self.within(self.profile.suspicion);
        if busy || (self.faults && self.rng.random_ratio(1, 4)) {
            return;
        }
        let highest = self.highest_promise();
        let repairs = self.lacks_a_member() && self.rng.random_ratio(1, 2);
        if self.now > self.silent_since + patience && !repairs {
            let mut known = self.in_play();
            if self.hosts.iter().all(|host| host.disk.configurations().is_empty()) {
                // No epoch start anywhere, whatever was proposed: the first view change is tried again.
                let epoch = self.fresh_epoch(highest);
                let first = self.configurations[0].clone();
                self.run_driver(Driver::bootstrap(epoch, first), OUTSIDE, true);
                return;
            }
            if let Some(force) = self.in_force() {
                known.retain(|c| c == &force || self.rng.random_ratio(1, 2));
            }
            let epoch = self.fresh_epoch(highest);
            self.run_driver(Driver::keep(epoch, known, None), OUTSIDE, true);
        } else if let Some(latest) = self.latest() {
            self.replace_wiped(&latest, highest);
        }
    }

    fn replace_wiped(&mut self, latest: &Configuration, highest: u64) {
        if !latest.members().iter().any(|member| self.wiped.contains(&member.incarnation)) {
            return;
        }
        let members = latest
            .members()
            .iter()
            .map(|member| match self.wiped.contains(&member.incarnation) {
                true => self.member(member.ordinal as usize),
                false => member.clone(),
            })
            .collect();
        if let Ok(target) = Configuration::of(members, latest.quorum()) {
            let epoch = self.fresh_epoch(highest);
            self.run_driver(Driver::change(epoch, vec![latest.clone()], target), OUTSIDE, true);
        }
    }

    pub(crate) fn highest_promise(&self) -> u64 {
        self.hosts.iter().map(|host| host.disk.hard.promised.number).max().unwrap_or(0)
    }

    /// Somebody runs a driver that nobody asked for.
    pub(crate) fn hostile_driver(&mut self) {
        if self.configurations.is_empty() {
            return;
        }
        let highest = self.highest_promise();
        let number = match self.rng.random_range(0..6) {
            0 => highest.saturating_sub(self.within(2)),
            1 => highest + self.within(3),
            _ => highest,
        };
        let epoch = self.fresh_epoch(number);
        let known = self.partial_knowledge();
        let vantage = match self.rng.random_ratio(1, 2) {
            true => OUTSIDE,
            false => self.rng.random_range(0..self.hosts.len()),
        };
        let driver = match self.profile.changes && self.rng.random_ratio(1, 2) {
            true => match self.random_target() {
                Some(target) => Driver::change(epoch, known, target),
                None => return,
            },
            false => {
                let avoid: Option<Incarnation> = self
                    .rng
                    .random_ratio(1, 2)
                    .then(|| self.hosts[self.rng.random_range(0..self.hosts.len())].incarnation);
                Driver::keep(epoch, known, avoid)
            }
        };
        self.run_driver(driver, vantage, false);
    }

    /// What a driver may know: all that matters, some of what ever was, or the first configuration only.
    fn partial_knowledge(&mut self) -> Vec<Configuration> {
        match self.rng.random_range(0..3) {
            0 => vec![self.configurations[0].clone()],
            1 => {
                let any = self.rng.random_range(0..self.configurations.len());
                vec![self.configurations[any].clone()]
            }
            _ => match self.in_force() {
                Some(force) => vec![force],
                None => vec![self.configurations[0].clone()],
            },
        }
    }

    /// The configuration in force with a member more, less or replaced, or with other quorums.
    fn random_target(&mut self) -> Option<Configuration> {
        let force = self.in_force()?;
        let Quorum {
            write,
            read,
            consistency: before,
            ..
        } = force.quorum();
        let consistency = match (before, self.profile.mixes && self.rng.random_ratio(1, 2)) {
            (Consistency::Strong, true) => Consistency::Eventual,
            (Consistency::Eventual, true) => Consistency::Strong,
            (before, false) => before,
        };
        let mut hosts: Vec<usize> = force.members().iter().map(|member| member.ordinal as usize).collect();
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| !hosts.contains(host)).collect();
        let other = (!others.is_empty()).then(|| others[self.rng.random_range(0..others.len())]);
        let place = self.rng.random_range(0..hosts.len());
        match (self.rng.random_range(0..4), other) {
            (0, Some(other)) => hosts.push(other),
            (1, _) if hosts.len() > 1 => drop(hosts.remove(place)),
            (2, Some(other)) => hosts[place] = other,
            _ => {}
        }
        let members: Vec<_> = hosts.iter().map(|&host| self.member(host)).collect();
        let replicas = u32::try_from(members.len()).ok()?;
        let sized = |write, read| Quorum {
            replicas,
            write,
            read,
            consistency,
        };
        let majority = Quorum::majority(replicas);
        let mut sizes = vec![sized(write, read), sized(majority.write, majority.read)];
        for _ in 0..3 {
            let (write, read) = (self.rng.random_range(1..=replicas), self.rng.random_range(1..=replicas));
            sizes.insert(1, sized(write, read));
        }
        let skip = self.rng.random_range(0..2);
        let quorum = sizes.into_iter().skip(skip).find(|quorum| quorum.validate().is_ok())?;
        Configuration::of(members, quorum).ok()
    }
}
