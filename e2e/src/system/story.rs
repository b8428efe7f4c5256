//! One history of a whole system: a store is created and bootstrapped, lives through faults and through what people do, is left
//! in peace, and has to converge: the primary serves, all members are in step, the status says so, and nobody writes any more.

use super::api::{Api, Change, NAME, NAMESPACE};
use super::cluster::Machine;
use super::faults::Profile;
use super::nodes::Node;
use super::operators::Operator;
use super::streams::Stream;
use super::{Counts, Happening, OPERATORS, SECOND, System};
use crate::sim::clients::Client;
use crate::sim::faults::{Profile as GroupProfile, pick};
use crate::sim::history::{ENOUGH, Kind};
use crate::sim::host::Host;
use crate::sim::mutants::Slip;
use crate::sim::world::{MILLI, What, World};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quorate_crds::{ReplicatedStore, ReplicatedStoreSpec};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Ordinals that a spec of the simulation can name.
const HOSTS: usize = 5;

impl World {
    /// A system whose store is about to be created.
    pub(crate) fn whole(seed: u64, slip: Option<Slip>, kind: Kind, verbose: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let long = kind == Kind::LongSystem;
        let mut group = GroupProfile::draw_long(&mut rng);
        let profile = Profile::draw(&mut rng, long);
        if !long {
            group.settings.heartbeat_millis = 100;
            group.settings.resend_millis = 500;
            group.tick = 50 * MILLI;
            group.calm = pick(&mut rng, &[500, 2_000, 5_000]) * MILLI;
            group.between_storms = 0;
            group.redial = 100 * MILLI;
            group.think = pick(&mut rng, &[30, 200]) * MILLI;
            group.calm_think = group.think;
        }
        // A learner catches up with its clients at their fastest.
        let settings = &mut group.settings;
        settings.max_append_bytes = settings.max_append_bytes.max(2_000);
        settings.max_in_flight_bytes = settings.max_in_flight_bytes.max(16_000);
        // Configurations are the planner's: one that needs a machine that is lost for good is nobody's fault.
        (group.changes, group.eventual, group.mixes) = (false, false, false);
        group.liveness = profile.liveness;
        group.suspicion = 60 * SECOND;
        let mut world = Self::bare(seed, rng, group, slip, false, verbose);
        world.surround(profile, HOSTS);
        for number in 0..world.profile.clients.min(4) {
            world.clients.push(Client::new());
            let at = world.within(SECOND);
            world.schedule(at, What::Client(number, 0));
        }
        let drifts = world.rng.random_ratio(1, 2);
        for host in 0..HOSTS {
            let drift = if drifts { world.rng.random_range(-20_000..=20_000) } else { 0 };
            world.sys().nodes[host].drift = drift;
        }
        world.schedule(SECOND, What::Fault);
        world
    }

    /// Puts a cluster around the group, with operators that begin to run and a store that is created.
    pub(crate) fn surround(&mut self, profile: Profile, hosts: usize) {
        for ordinal in 0..hosts {
            let incarnation = self.draw_incarnation();
            self.hosts.push(Host::new(ordinal, incarnation));
        }
        let operators = profile.operators;
        let spec = profile.store_spec();
        self.system = Some(Box::new(System {
            profile,
            api: Api::default(),
            machines: (0..hosts).map(Machine::new).collect(),
            nodes: (0..hosts).map(|_| Node::new()).collect(),
            operators: (0..operators).map(Operator::new).collect(),
            streams: BTreeMap::new(),
            next_stream: 1,
            asked_by: BTreeMap::new(),
            base: Instant::now(),
            steps: 0,
            dies_after: None,
            controller_due: false,
            counts: Counts::default(),
        }));
        self.create_store(spec);
        for operator in 0..operators {
            self.happens(1 + operator as u64 * SECOND, Happening::Boot(operator));
        }
        self.happens(SECOND, Happening::Tidy);
    }

    pub(crate) fn create_store(&mut self, spec: ReplicatedStoreSpec) {
        let mut store = ReplicatedStore::new(NAME, spec);
        store.metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some(self.sys().api.fresh_uid()),
            generation: Some(1),
            ..ObjectMeta::default()
        };
        let store = Arc::new(store);
        let api = &mut self.sys().api;
        api.store = Some(Arc::clone(&store));
        api.writes += 1;
        self.announce(&Change::Store(store));
    }

    /// The faults end, and everything has to converge.
    pub(crate) fn settle_system(&mut self) {
        self.heal_system();
        let since = self.ledger.answered;
        let liveness = self.sys().profile.liveness;
        let begun = self.now;
        let serves = |world: &Self| world.ledger.answered >= since + ENOUGH && world.is_as_wanted();
        if !self.run_until(begun + liveness, serves) {
            self.violate_convergence("everything converges when the faults end");
            return;
        }
        self.ledger.closed = true;
        if !self.run_until(self.now + liveness, |world| world.is_whole() && world.is_as_wanted()) {
            self.violate_convergence("all logs agree in the end");
            return;
        }
        self.is_quiet();
        if self.violation.is_none() {
            self.look_at_the_end();
        }
    }

    /// Whoever is done writes nothing more, and changes no view.
    pub(crate) fn is_quiet(&mut self) {
        // What was being written when all was well is written to its end.
        let soon = self.now + 3 * SECOND;
        self.run_until(soon, |_| false);
        let (writes, served) = (self.sys().api.writes, self.ledger.served);
        let end = soon + self.sys().profile.quiet;
        self.run_until(end, |_| false);
        let (later, served_later) = (self.sys().api.writes, self.ledger.served);
        if self.violation.is_none() && (later != writes || served_later != served) {
            let outline = self.outline_of_system();
            self.violate("nobody writes when all is done", || {
                format!("{} writes, {} view changes; {outline}", later - writes, served_later - served)
            });
        }
    }

    /// The status, the pods and the configuration in force are what the spec wants.
    pub(crate) fn is_as_wanted(&self) -> bool {
        let Some(system) = self.system.as_ref() else { return false };
        let Some(store) = &system.api.store else { return false };
        let Some(status) = &store.status else { return false };
        let holds = |type_: &str, wanted: &str| {
            let mut conditions = status.conditions.iter();
            conditions.any(|condition| condition.type_ == type_ && condition.status == wanted)
        };
        let told = status.observed_generation == store.metadata.generation
            && holds("Ready", "True")
            && holds("Available", "True")
            && holds("Reconciled", "True")
            && holds("Changing", "False")
            && holds("FailoverBlocked", "False");
        let replicas = usize::try_from(store.spec.replicas_per_shard).unwrap_or_default();
        let pods = system.api.pods.len() == replicas && system.api.pods.keys().all(|ordinal| *ordinal < replicas);
        let answered = store.metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty);
        told && pods && answered && self.is_configured(store) && system.operators.iter().all(Operator::is_idle)
    }

    fn is_configured(&self, store: &ReplicatedStore) -> bool {
        let mut serving = self
            .hosts
            .iter()
            .filter_map(|host| host.replica())
            .filter(|replica| replica.serving());
        let (Some(primary), None) = (serving.next(), serving.next()) else {
            return false;
        };
        let (Some((_, configuration)), Some(wanted)) = (primary.configuration(), store.spec.quorum) else {
            return false;
        };
        let quorum = configuration.quorum();
        let sizes = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let mut ordinals: Vec<u32> = configuration.members().iter().map(|member| member.ordinal).collect();
        ordinals.sort_unstable();
        let present = configuration.members().iter().all(|member| {
            let host = self.hosts.get(member.ordinal as usize);
            host.is_some_and(|host| host.incarnation == member.incarnation)
        });
        present
            && ordinals.iter().copied().eq(0..quorum.replicas)
            && (sizes(quorum.replicas), sizes(quorum.write), sizes(quorum.read))
                == (store.spec.replicas_per_shard, wanted.write, wanted.read)
    }

    pub(crate) fn violate_convergence(&mut self, check: &'static str) {
        let outline = self.outline_of_system();
        self.violate_liveness(check);
        if let Some(violation) = &mut self.violation
            && violation.check == check
        {
            violation.detail = format!("{outline}; {}", violation.detail);
        }
    }

    /// For whoever has to understand why a system does not converge.
    pub(crate) fn outline_of_system(&self) -> String {
        let Some(system) = self.system.as_ref() else { return String::new() };
        let store = system.api.store.as_ref();
        let status = store.and_then(|store| store.status.as_ref());
        let conditions: Vec<String> = status
            .into_iter()
            .flat_map(|status| &status.conditions)
            .filter(|condition| condition.status == "True" || condition.type_ == "Ready" || condition.type_ == "Available")
            .map(|condition| {
                format!(
                    "{}={} {} ({})",
                    condition.type_, condition.status, condition.reason, condition.message
                )
            })
            .collect();
        let operators: Vec<String> = system
            .operators
            .iter()
            .map(|operator| {
                let place = operator.place - OPERATORS;
                let standing = system.streams.values().filter(|stream| stream.operator == place);
                let hears: Vec<String> = standing.map(Stream::outline).collect();
                format!(
                    "operator {place}: leads {}, watch {:?}, streams {hears:?}",
                    operator.leads, operator.watch
                )
            })
            .collect();
        format!(
            "spec {:?}; observed {:?} of {:?}; {conditions:?}; pods {:?}; {operators:?}",
            store.map(|store| (store.spec.replicas_per_shard, store.spec.quorum, &store.metadata.annotations)),
            status.map(|status| status.observed_generation),
            store.map(|store| store.metadata.generation),
            system.api.pods.keys().collect::<Vec<_>>(),
        )
    }
}
