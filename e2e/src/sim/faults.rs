//! What goes wrong, and how often: each history draws its own mixture, so that some are calm and some see one kind of
//! fault all the time.
//!
//! One bound keeps the promise of the design honest: at most one copy is lost for good at a time. A disk is wiped, or
//! a record of it stops reading, only while no other member is so and every configuration that matters can spare it.

use super::host::Host;
use super::network::OUTSIDE;
use super::world::{MILLI, What, World};
use quorate_api::Configuration;
use quorate_protocol_mutants::Settings;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// See the module. Times are microseconds, the others probabilities.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) group: (usize, u32, u32),
    /// The group is eventual at first; its quorums are drawn then.
    pub(crate) eventual: bool,
    /// Changes of the configuration change the consistency too.
    pub(crate) mixes: bool,
    pub(crate) spares: usize,
    pub(crate) clients: usize,
    /// How many reads go to whichever machine, primary or not.
    pub(crate) anywhere: f64,
    pub(crate) settings: Settings,
    pub(crate) keeps_order: bool,
    pub(crate) latency: u64,
    pub(crate) late: f64,
    pub(crate) lateness: u64,
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
    pub(crate) sync: u64,
    pub(crate) failed_sync: f64,
    pub(crate) crash_between_effects: f64,
    /// A machine stops when a driver has chosen it, before it hears of that.
    pub(crate) crash_chosen: f64,
    pub(crate) restart: u64,
    pub(crate) redial: u64,
    pub(crate) think: u64,
    pub(crate) patience: u64,
    pub(crate) suspicion: u64,
    pub(crate) driver_patience: u64,
    /// Whether drivers propose other configurations.
    pub(crate) changes: bool,
    /// A state is copied when so many entries were applied since the last copy. 0: never.
    pub(crate) trim_entries: u64,
    /// The operator looks this often.
    pub(crate) look: u64,
    /// Pause of clients outside of storms.
    pub(crate) calm_think: u64,
    /// Between two storms of faults; 0 if they never end.
    pub(crate) between_storms: u64,
    /// A storm lasts up to so long.
    pub(crate) storm: u64,
    /// Without faults, a group serves again within this time.
    pub(crate) liveness: u64,
    /// Time passes for a core this often.
    pub(crate) tick: u64,
    /// Between two faults.
    pub(crate) calm: u64,
    /// What lasts, lasts up to so long.
    pub(crate) spell: u64,
    /// How often each fault is drawn, in the order of [`World::fault`].
    pub(crate) weights: [u32; 11],
}

/// Groups: replicas, write quorum, read quorum.
const GROUPS: [(usize, u32, u32); 12] = [
    (3, 2, 2),
    (3, 2, 2),
    (3, 2, 2),
    (3, 3, 1),
    (5, 3, 3),
    (5, 3, 3),
    (4, 3, 3),
    (3, 3, 3),
    (5, 4, 4),
    (3, 2, 3),
    (3, 3, 1),
    (1, 1, 1),
];

pub(crate) fn pick<T: Copy>(rng: &mut SmallRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

impl Profile {
    pub(crate) fn draw(rng: &mut SmallRng) -> Self {
        let keeps_order = rng.random_ratio(1, 2);
        let mut weights = [0; 11];
        for weight in &mut weights {
            *weight = pick(rng, &[0, 1, 1, 3, 8]);
        }
        // Somebody always tries to change the view.
        weights[4] += 1;
        let (eventual, mixes) = pick(
            rng,
            &[
                (false, false),
                (false, false),
                (false, false),
                (false, false),
                (true, false),
                (false, true),
                (true, true),
            ],
        );
        let mut group = pick(rng, &GROUPS);
        if eventual {
            let most = u32::try_from(group.0).expect("few machines");
            (group.1, group.2) = (rng.random_range(1..=most.min(2)), rng.random_range(1..=most));
        }
        let mut profile = Self {
            group,
            eventual,
            mixes,
            spares: rng.random_range(0..=2),
            clients: rng.random_range(2..=8),
            anywhere: pick(rng, &[0.1, 0.4, 0.9]),
            settings: Settings {
                heartbeat_millis: 20,
                resend_millis: 60,
                max_append_bytes: pick(rng, &[100, 400, 1 << 20]),
                max_in_flight_bytes: pick(rng, &[300, 2000, 16 << 20]),
                tail_bytes: pick(rng, &[0, 300, 2000, 16 << 20]),
                max_unsettled_bytes: pick(rng, &[300, 2000, 16 << 20]),
            },
            keeps_order,
            latency: pick(rng, &[200, 1000, 4000]),
            late: pick(rng, &[0.0, 0.01, 0.05]),
            lateness: pick(rng, &[20, 100, 400]) * MILLI,
            lost: pick(rng, &[0.0, 0.01, 0.03, 0.1]),
            doubled: pick(rng, &[0.0, 0.02, 0.1]),
            sync: pick(rng, &[200, 2000, 20_000]),
            failed_sync: pick(rng, &[0.0, 0.0, 0.001, 0.005]),
            crash_between_effects: pick(rng, &[0.0, 0.0, 0.0003, 0.001]),
            crash_chosen: pick(rng, &[0.0, 0.0, 0.05, 0.2]),
            restart: pick(rng, &[10, 60, 300]) * MILLI,
            redial: pick(rng, &[2, 10, 40]) * MILLI,
            think: pick(rng, &[2, 8, 30]) * MILLI,
            patience: pick(rng, &[60, 200, 600]) * MILLI,
            suspicion: pick(rng, &[20, 100, 300]) * MILLI,
            driver_patience: pick(rng, &[20, 100, 400]) * MILLI,
            changes: rng.random_ratio(1, 2),
            trim_entries: pick(rng, &[0, 8, 30, 100]),
            tick: 10 * MILLI,
            calm: pick(rng, &[10, 40, 120]) * MILLI,
            spell: 0,
            look: 30 * MILLI,
            calm_think: 0,
            between_storms: 0,
            storm: 0,
            liveness: 60_000 * MILLI,
            weights,
        };
        profile.spell = 10 * profile.calm;
        profile.calm_think = profile.think;
        profile
    }

    /// Of a group that nothing happens to but what a script says.
    pub(crate) fn calm() -> Self {
        let mut rng = SmallRng::seed_from_u64(0);
        Self {
            settings: Settings {
                heartbeat_millis: 100,
                resend_millis: 1_000,
                ..Settings::default()
            },
            eventual: false,
            mixes: false,
            changes: false,
            clients: 2,
            keeps_order: true,
            latency: 500,
            late: 0.0,
            lost: 0.0,
            doubled: 0.0,
            sync: 500,
            failed_sync: 0.0,
            crash_between_effects: 0.0,
            crash_chosen: 0.0,
            restart: 500 * MILLI,
            redial: 100 * MILLI,
            think: 300 * MILLI,
            calm_think: 300 * MILLI,
            patience: 1_000 * MILLI,
            trim_entries: 30,
            tick: 50 * MILLI,
            calm: 1_000 * MILLI,
            liveness: 600_000 * MILLI,
            ..Self::draw_long(&mut rng)
        }
    }

    /// Of a group that lives for hours: what is periodic is rare, and faults come in storms, minutes apart.
    pub(crate) fn draw_long(rng: &mut SmallRng) -> Self {
        let dense = Self::draw(rng);
        let settings = Settings {
            heartbeat_millis: 500,
            resend_millis: 2_000,
            ..dense.settings
        };
        Self {
            settings,
            restart: pick(rng, &[300, 3_000, 20_000]) * MILLI,
            redial: 250 * MILLI,
            patience: 2_000 * MILLI,
            suspicion: pick(rng, &[20_000, 60_000]) * MILLI,
            tick: 100 * MILLI,
            calm: pick(rng, &[200, 1_000]) * MILLI,
            spell: pick(rng, &[2_000, 20_000]) * MILLI,
            look: 1_000 * MILLI,
            calm_think: 6_000 * MILLI,
            between_storms: pick(rng, &[60_000, 180_000, 600_000]) * MILLI,
            storm: pick(rng, &[2_000, 10_000]) * MILLI,
            liveness: 600_000 * MILLI,
            ..dense
        }
    }
}

impl World {
    /// Says when the next fault comes, and whether one is due now.
    pub(crate) fn fault_is_due(&mut self) -> bool {
        let storms = self.profile.between_storms > 0;
        if storms && !self.healed {
            self.faults = self.now < self.storm_ends;
        }
        let after = match storms && !self.faults {
            true => {
                let after = self.within(2 * self.profile.between_storms);
                self.storm_ends = self.now + after + self.within(self.profile.storm);
                after
            }
            false => self.within(2 * self.profile.calm),
        };
        self.schedule(after, What::Fault);
        self.faults
    }

    /// The index of one of these weights, as often as it is heavy.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut drawn = self.rng.random_range(0..weights.iter().sum::<u32>());
        let mut index = 0;
        while drawn >= weights[index] {
            drawn -= weights[index];
            index += 1;
        }
        index
    }

    /// The next fault, and when the one after it comes.
    pub(crate) fn fault(&mut self) {
        if !self.fault_is_due() {
            return;
        }
        let host = self.rng.random_range(0..self.hosts.len());
        let weights = self.profile.weights;
        match self.weighted(&weights) {
            0 => self.crash(host),
            1 => self.crash_primary(),
            2 => self.reset_one(),
            3 => self.cut(host),
            4 => self.hostile_driver(),
            5 => self.freeze(host),
            6 if self.rng.random_ratio(1, 4) => (0..self.hosts.len()).for_each(|each| self.crash(each)),
            7 => self.rot(host),
            8 => self.wipe(host),
            9 => self.fill(host),
            10 => self.split(),
            _ => self.hostile_driver(),
        }
    }

    pub(crate) fn crash_primary(&mut self) {
        if let Some(primary) = self.hosts.iter().position(Host::serving) {
            self.crash(primary);
        }
    }

    pub(crate) fn reset_one(&mut self) {
        let standing: Vec<_> = self.links.iter().filter(|(_, link)| link.stands).map(|(s, _)| *s).collect();
        if !standing.is_empty() {
            let victim = standing[self.rng.random_range(0..standing.len())];
            self.reset(victim);
        }
    }

    /// Silence between some machines and the others, perhaps the operator too, in one direction or both; clients still
    /// reach everybody.
    pub(crate) fn cut(&mut self, host: usize) {
        let host = match self.hosts.iter().position(Host::serving) {
            Some(primary) if self.rng.random_ratio(1, 2) => primary,
            _ => host,
        };
        self.cuts += 1;
        let cut = self.cuts;
        let mut inside = vec![host];
        if self.hosts.len() > 3 && self.rng.random_ratio(1, 3) {
            inside.push((host + 1) % self.hosts.len());
        }
        let (forth, back) = match self.rng.random_range(0..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let one = self.rng.random_ratio(1, 3).then(|| self.rng.random_range(0..self.hosts.len()));
        let operator = self.rng.random_ratio(1, 2).then_some(OUTSIDE);
        for &member in &inside {
            for other in (0..self.hosts.len()).filter(|other| !inside.contains(other)).chain(operator) {
                if one.is_some_and(|one| one != other) {
                    continue;
                }
                if forth {
                    self.silent.insert((member, other), cut);
                }
                if back {
                    self.silent.insert((other, member), cut);
                }
            }
        }
        self.say(|| format!("cut {cut} around {inside:?}: {forth} {back} {one:?}"));
        if self.rng.random_ratio(1, 2) {
            self.reset_all_of(host);
        }
        let after = self.within(self.profile.spell);
        self.schedule(after, What::Heal(cut));
    }

    /// The primary and some others, less than half of all, hear nobody else, drivers included, and nobody else hears them. The
    /// others elect one of them, and clients, which still reach everybody, have the time to find it: a deposed primary, and
    /// followers that believe in it.
    pub(crate) fn split(&mut self) {
        let Some(primary) = self.hosts.iter().position(Host::serving) else {
            return;
        };
        let hosts = self.hosts.len();
        let mut inside = vec![primary];
        while inside.len() < (hosts - 1) / 2 {
            let other = self.rng.random_range(0..hosts);
            if !inside.contains(&other) {
                inside.push(other);
            }
        }
        self.cuts += 1;
        let cut = self.cuts;
        self.say(|| format!("cut {cut} splits {inside:?} off"));
        for &member in &inside {
            for other in (0..hosts).filter(|other| !inside.contains(other)).chain([OUTSIDE]) {
                self.silent.insert((member, other), cut);
                self.silent.insert((other, member), cut);
            }
        }
        let after = 2 * self.profile.patience + self.within(self.profile.spell);
        self.schedule(after, What::Heal(cut));
    }

    pub(crate) fn freeze(&mut self, host: usize) {
        let host = match self.hosts.iter().position(Host::serving) {
            Some(primary) if self.rng.random_ratio(1, 2) => primary,
            _ => host,
        };
        if self.hosts[host].process.is_some() && !self.hosts[host].frozen {
            self.hosts[host].frozen = true;
            self.say(|| format!("n{host} freezes"));
            let after = self.within(self.profile.spell);
            self.schedule(after, What::Thaw(host));
        }
    }

    /// A disk has no room for a while.
    fn fill(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].full, true) {
            self.ledger.fills += 1;
            self.say(|| format!("n{host}: the disk is full"));
            let after = self.within(self.profile.spell);
            self.schedule(after, What::Room(host));
        }
    }

    /// Whether a copy may be lost for good on this machine. See the module.
    pub(crate) fn may_lose(&self, host: usize) -> bool {
        let incarnation = self.hosts[host].incarnation;
        let in_play = self.in_play();
        let lost = |c: &Configuration| c.members().iter().any(|member| self.wiped.contains(&member.incarnation));
        let damaged = self.hosts.iter().any(|other| other.disk.is_damaged());
        let spares = |c: &Configuration| {
            let quorum = c.quorum();
            !c.contains(incarnation) || (quorum.commit() > 1 && quorum.fence_for_change() < quorum.replicas)
        };
        // Before the first epoch start there is no group: whether other disks may begin one is the operator's to say.
        !damaged && !self.ledger.committed.is_empty() && !in_play.iter().any(lost) && in_play.iter().chain(self.on_their_way()).all(spares)
    }

    /// A machine stops, and a record of its log reads no more.
    pub(crate) fn rot(&mut self, host: usize) {
        if self.hosts[host].process.is_none() || !self.may_lose(host) {
            return;
        }
        self.crash(host);
        let Host { disk, .. } = &mut self.hosts[host];
        if disk.rot(&mut self.rng) {
            self.ledger.damages += 1;
            self.say(|| format!("n{host}: a record reads no more"));
        }
    }

    /// A machine stops and comes back with an empty disk: another replica.
    pub(crate) fn wipe(&mut self, host: usize) {
        if self.hosts[host].process.is_none() || !self.may_lose(host) {
            return;
        }
        self.crash(host);
        let incarnation = self.draw_incarnation();
        let old = std::mem::replace(&mut self.hosts[host].incarnation, incarnation);
        self.hosts[host].disk = super::disk::Disk::default();
        self.wiped.insert(old);
        self.ledger.wipes += 1;
        self.say(|| format!("n{host} loses its disk: {old:?} is gone, {incarnation:?} is there"));
    }

    /// No faults from now on, and those that last end.
    pub(crate) fn heal(&mut self) {
        self.say(|| "all faults end".to_owned());
        self.faults = false;
        self.healed = true;
        self.silent.clear();
        for host in 0..self.hosts.len() {
            self.thaw(host);
            self.hosts[host].full = false;
            self.start(host);
        }
    }
}
