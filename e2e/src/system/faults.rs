//! What goes wrong in a whole system, and what people do meanwhile, beside what goes wrong in a group ([`crate::sim::faults`]).
//! Each history draws its own mixture.
//!
//! The bound of the group's faults holds here too: a copy is lost for good only while every configuration that matters can
//! spare it, and while no machine is down, whose volume the operator may be giving up.

use super::api::pod_name;
use super::{API, OPERATORS, SECOND};
use crate::sim::faults::pick;
use crate::sim::world::{What, World};
use quorate_crds::{FailoverMode, Quorum, ReplicatedStore, ReplicatedStoreSpec, annotations};
use rand::RngExt;
use rand::rngs::SmallRng;

/// Specs that people change to: replicas, write quorum, read quorum.
const SPECS: [(i32, i32, i32); 9] = [
    (1, 1, 1),
    (3, 2, 2),
    (3, 2, 2),
    (3, 3, 1),
    (3, 2, 3),
    (5, 3, 3),
    (4, 3, 2),
    (2, 2, 1),
    (5, 4, 2),
];

/// See the module. Times are microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) operators: usize,
    pub(crate) spec: (i32, i32, i32),
    heartbeat_millis: i32,
    suspect_after_millis: i32,
    recreate_after_seconds: i32,
    operator_away_seconds: i32,
    min_interval_seconds: i32,
    /// How often each fault is drawn, in the order of [`World::system_fault`].
    weights: [u32; 20],
    /// What lasts, lasts up to so long.
    spell: u64,
    /// Without faults, everything has converged within this time.
    pub(crate) liveness: u64,
    /// Then nothing is written for so long.
    pub(crate) quiet: u64,
}

impl Profile {
    pub(crate) fn draw(rng: &mut SmallRng, long: bool) -> Self {
        let mut weights = [0; 20];
        for weight in &mut weights {
            *weight = pick(rng, &[0, 1, 1, 3, 6]);
        }
        weights[9] += 1;
        weights[18] += 1;
        Self {
            operators: rng.random_range(1..=2),
            spec: pick(rng, &SPECS),
            heartbeat_millis: if long { 2_000 } else { 200 },
            suspect_after_millis: if long {
                pick(rng, &[5_000, 10_000])
            } else {
                pick(rng, &[500, 1_000])
            },
            recreate_after_seconds: pick(rng, &[20, 60, 0]),
            operator_away_seconds: pick(rng, &[3, 10, 0]),
            min_interval_seconds: pick(rng, &[0, 0, 5]),
            weights,
            spell: pick(rng, &[3, 20]) * SECOND,
            liveness: 1_200 * SECOND,
            quiet: if long { 700 * SECOND } else { 40 * SECOND },
        }
    }

    /// Without any fault of its own.
    pub(crate) fn calm(spec: (i32, i32, i32), operators: usize) -> Self {
        Self {
            operators,
            spec,
            heartbeat_millis: 200,
            suspect_after_millis: 1_000,
            recreate_after_seconds: 20,
            operator_away_seconds: 0,
            min_interval_seconds: 0,
            weights: [0; 20],
            spell: SECOND,
            liveness: 600 * SECOND,
            quiet: 20 * SECOND,
        }
    }

    /// The spec as it is applied first.
    pub(crate) fn store_spec(&self) -> ReplicatedStoreSpec {
        let mut spec: ReplicatedStoreSpec = serde_json::from_value(serde_json::json!({})).expect("every field has a default");
        set_sizes(&mut spec, self.spec);
        spec.failover.heartbeat_millis = self.heartbeat_millis;
        spec.failover.suspect_after_millis = self.suspect_after_millis;
        spec.failover.recreate_after_seconds = self.recreate_after_seconds;
        spec.failover.operator_away_seconds = self.operator_away_seconds;
        spec.failover.min_interval_seconds = self.min_interval_seconds;
        spec
    }
}

pub(crate) fn set_sizes(spec: &mut ReplicatedStoreSpec, (replicas, write, read): (i32, i32, i32)) {
    spec.replicas_per_shard = replicas;
    spec.quorum = Some(Quorum { write, read });
}

impl World {
    /// The next fault, and when the one after it comes.
    pub(crate) fn system_fault(&mut self) {
        if !self.fault_is_due() {
            return;
        }
        let weights = self.sys().profile.weights;
        let fault = self.weighted(&weights);
        let host = self.rng.random_range(0..self.hosts.len());
        let operators = self.sys().operators.len();
        let operator = self.rng.random_range(0..operators);
        let spell = self.sys().profile.spell;
        let back = self.within(spell);
        match fault {
            0 => self.crash(host),
            1 => self.crash_primary(),
            2 => self.reset_one(),
            3 if self.rng.random_ratio(1, 3) => self.split(),
            3 => self.cut(host),
            4 => self.hostile_driver(),
            5 => self.freeze(host),
            6 if self.rng.random_ratio(1, 4) => (0..self.hosts.len()).for_each(|each| self.crash(each)),
            7 => self.rot_one(host),
            8 => self.wipe_one(host),
            9 => self.end_operator(operator, back),
            10 => self.break_watch(operator),
            11 => self.api_away(back),
            12 => self.cut_operator(operator, back),
            13 => self.power(host, back),
            14 => self.lose_machine(host),
            15 => drop(self.delete_pod(host, None, false)),
            16 => self.turn_clock(host, operator),
            17 if self.rng.random_ratio(1, 2) => self.wipe_status(),
            18 => self.edit(),
            19 if self.rng.random_ratio(1, 4) => self.recreate_store(),
            _ => {}
        }
    }

    /// Nor is a volume about to be given up.
    fn no_machine_is_down(&mut self) -> bool {
        let system = self.sys();
        let mut claims = system.api.claims.values();
        system.machines.iter().all(|machine| machine.up) && claims.all(|claim| claim.metadata.deletion_timestamp.is_none())
    }

    fn rot_one(&mut self, host: usize) {
        if self.no_machine_is_down() {
            self.rot(host);
        }
    }

    fn wipe_one(&mut self, host: usize) {
        if self.no_machine_is_down() && self.hosts[host].process.is_some() && self.may_lose(host) {
            self.crash(host);
            self.lose_disk(host);
        }
    }

    fn api_away(&mut self, back: u64) {
        if !self.sys().api.away {
            self.say(|| "the API server is away".to_owned());
            self.sys().api.away = true;
            for operator in 0..self.sys().operators.len() {
                self.break_watch(operator);
            }
            self.happens(back, super::Happening::ApiUp);
        }
    }

    /// An operator is cut off from the API server, or from some nodes, or from both.
    fn cut_operator(&mut self, operator: usize, back: u64) {
        self.cuts += 1;
        let (cut, place) = (self.cuts, OPERATORS + operator);
        let mut others: Vec<usize> = (0..self.hosts.len()).filter(|_| self.rng.random_ratio(1, 2)).collect();
        match self.rng.random_range(0..3) {
            0 => others.push(API),
            1 => others = vec![API],
            _ => {}
        }
        let one_way = self.rng.random_ratio(1, 4);
        self.say(|| format!("operator {operator} does not reach {others:?}"));
        for other in others {
            self.silent.insert((place, other), cut);
            if !one_way {
                self.silent.insert((other, place), cut);
            }
        }
        self.schedule(back, What::Heal(cut));
    }

    /// A machine loses its power for a while, one at a time.
    fn power(&mut self, host: usize, back: u64) {
        if self.no_machine_is_down() && !self.anything_lost() && self.sys().api.pods.contains_key(&host) {
            let long = self.rng.random_ratio(1, 4);
            let back = if long { back + 150 * SECOND } else { back };
            self.machine_down(host, Some(back));
        }
    }

    /// A machine that never comes back, with the volume on it.
    fn lose_machine(&mut self, host: usize) {
        let recreates = self
            .sys()
            .api
            .store
            .as_ref()
            .is_some_and(|store| store.spec.failover.recreate_after_seconds > 0);
        if recreates && self.no_machine_is_down() && self.may_lose(host) && self.sys().api.pods.contains_key(&host) {
            self.machine_down(host, None);
            self.machine_removed(host);
        }
    }

    /// Whether a volume is lost that was not replaced yet.
    fn anything_lost(&self) -> bool {
        let in_play = self.in_play();
        let mut members = in_play.iter().flat_map(|configuration| configuration.members());
        members.any(|member| self.wiped.contains(&member.incarnation)) || self.hosts.iter().any(|host| host.disk.is_damaged())
    }

    /// Clocks of people jump, and those of processes run a little fast or slow.
    fn turn_clock(&mut self, host: usize, operator: usize) {
        let jump = self.rng.random_range(-600_000..=600_000);
        match self.rng.random_ratio(1, 2) {
            true => self.sys().nodes[host].skew_millis = jump,
            false => self.sys().operators[operator].skew_millis = jump,
        }
    }

    pub(crate) fn wipe_status(&mut self) {
        self.say(|| "the status is wiped".to_owned());
        if let Some(change) = self.sys().api.edit_store(|store| store.status = None) {
            self.announce(&change);
        }
    }

    pub(crate) fn edit_spec(&mut self, edit: impl FnOnce(&mut ReplicatedStore)) {
        self.sys().counts.edits += 1;
        if let Some(change) = self.sys().api.edit_store(edit) {
            self.announce(&change);
        }
    }

    /// Somebody changes the spec, or asks for something.
    fn edit(&mut self) {
        let hosts = self.hosts.len();
        match self.rng.random_range(0..8) {
            0..4 => {
                let sizes = pick(&mut self.rng, &SPECS);
                self.say(|| format!("the spec is to be {sizes:?}"));
                self.edit_spec(|store| set_sizes(&mut store.spec, sizes));
            }
            4 | 5 => {
                let pod = pod_name(self.rng.random_range(0..hosts));
                self.say(|| format!("somebody asks for {pod}"));
                self.edit_spec(|store| {
                    let asked = store.metadata.annotations.get_or_insert_default();
                    asked.insert(annotations::PROMOTE.to_owned(), pod);
                });
            }
            6 => {
                let paused = self.rng.random_ratio(1, 2);
                self.edit_spec(|store| store.spec.paused = paused);
            }
            _ => {
                let manual = self.rng.random_ratio(1, 2);
                let mode = if manual { FailoverMode::Manual } else { FailoverMode::Automatic };
                self.edit_spec(|store| store.spec.failover.mode = mode);
            }
        }
    }

    /// The store is deleted and created again over the claims that are left.
    pub(crate) fn recreate_store(&mut self) {
        if self.anything_lost() || !self.no_machine_is_down() {
            return;
        }
        let Some(store) = self.sys().api.store.clone() else { return };
        self.sys().counts.adoptions += 1;
        let spec = store.spec.clone();
        self.delete_store();
        self.create_store(spec);
    }

    /// Faults end, and what lasts.
    pub(crate) fn heal_system(&mut self) {
        self.say(|| "all faults end".to_owned());
        self.faults = false;
        self.healed = true;
        self.silent.clear();
        self.sys().api.away = false;
        for host in 0..self.hosts.len() {
            self.thaw(host);
            let silence = {
                let machine = &self.sys().machines[host];
                machine.silence()
            };
            self.machine_up(host, silence);
            self.sys().nodes[host].drift = 0;
        }
        for operator in 0..self.sys().operators.len() {
            self.boot(operator);
        }
        self.edit_spec(|store| {
            store.spec.paused = false;
            store.spec.failover.mode = FailoverMode::Automatic;
        });
    }
}
