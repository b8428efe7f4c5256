//! The same trade in virtual time: the operator's real judgement ([`judge`]) of a group whose messages are delayed and whose
//! nodes stand still now and then, as drawn from given distributions. Days take seconds, the load of this machine plays no
//! part, and one seed gives one result.
//!
//! What is modelled: a primary tells its members every 100 ms that it is there, and they answer; every node tells the operator
//! its status at every heartbeat, more often while the operator doubts. Messages of a connection keep their order. A node that
//! stands still sends nothing and hears nothing; it does both at once when it goes on. What is not: connections that are
//! reset (a death that is seen at once), losses (a retransmission is a delay), and failovers: what is counted is suspicions.

use quorate_api::{
    Configuration, EntryId, Epoch, Incarnation, Member, NodeRole, NodeStatus, PeerStatus, PrimaryView, Quorum, ReplicaId, StoreId,
};
use quorate_operator::detect::{Verdict, judge};
use quorate_operator::observe::{Health, Observed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};
use uuid::Uuid;

const NODES: usize = 3;
/// The primary; it stays the one.
const PRIMARY: usize = 0;
/// The operator, as an end of a connection.
const OPERATOR: usize = NODES;
const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// Between two words of a primary to its members, as nodes have it.
const PEER_HEARTBEAT: u64 = 100 * MILLI;
/// Default of `failover.heartbeatMillis`; half of `suspectAfterMillis` where that is less.
const HEARTBEAT: u64 = 200 * MILLI;
/// While the operator doubts.
const CLOSE: u64 = 25 * MILLI;

/// How messages are delayed, and how nodes stand still.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// In a few words.
    pub name: &'static str,
    /// A delay is log-normal: its median in milliseconds, and the standard deviation of its logarithm.
    pub median_millis: f64,
    /// See `median_millis`.
    pub sigma: f64,
    /// Each node stands still so often, by a Poisson process; 0: never.
    pub stalls_per_hour: f64,
    /// For an exponentially distributed time of this mean.
    pub stall_millis: f64,
}

/// What is compared.
pub const NETWORKS: [Network; 4] = [
    Network {
        name: "quiet: delays 0.5 ms, 99.9 % below 11 ms",
        median_millis: 0.5,
        sigma: 1.0,
        stalls_per_hour: 0.0,
        stall_millis: 0.0,
    },
    Network {
        name: "jitter: delays 5 ms, 99.9 % below 0.5 s",
        median_millis: 5.0,
        sigma: 1.5,
        stalls_per_hour: 0.0,
        stall_millis: 0.0,
    },
    Network {
        name: "short stalls: quiet, and each node stands still 60 times an hour for 150 ms",
        median_millis: 0.5,
        sigma: 1.0,
        stalls_per_hour: 60.0,
        stall_millis: 150.0,
    },
    Network {
        name: "long stalls: quiet, and each node stands still 6 times an hour for 600 ms",
        median_millis: 0.5,
        sigma: 1.0,
        stalls_per_hour: 6.0,
        stall_millis: 600.0,
    },
];

/// What one setting did in one network.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// Its `suspectAfterMillis`.
    pub suspect_after_millis: u64,
    /// Milliseconds from a death without a reset to the suspicion, sorted.
    pub detection_millis: Vec<f64>,
    /// Simulated hours without a death.
    pub hours: f64,
    /// Milliseconds that each suspicion in them lasted.
    pub mistakes_millis: Vec<f64>,
}

impl Cell {
    /// Suspicions a day of a primary that was alive.
    #[must_use]
    pub fn mistakes_per_day(&self) -> f64 {
        self.mistakes_millis.len() as f64 * 24.0 / self.hours
    }
}

/// Runs one cell: `deaths` of a primary at random moments, and `hours` without one.
#[must_use]
pub fn run(network: &Network, suspect_after_millis: u64, seed: u64, deaths: u32, hours: f64) -> Cell {
    let suspect_after = Duration::from_millis(suspect_after_millis);
    let each = (0..u64::from(deaths)).map(|death| {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(death));
        let at = 10 * SECOND + rng.random_range(0..SECOND);
        // Not found: as long as was waited for.
        let end = at + 120 * SECOND;
        let mut world = World::new(network, suspect_after, rng, end, Some(at));
        world.run();
        let found = world.suspicions.iter().map(|(begun, _)| *begun).find(|begun| *begun >= at);
        // One that was suspected already when it died is found in no time.
        let suspected = world.suspicions.iter().any(|(begun, ended)| *begun < at && *ended > at);
        (if suspected { 0 } else { found.unwrap_or(end) - at }) as f64 / MILLI as f64
    });
    let mut detection_millis: Vec<f64> = each.collect();
    detection_millis.sort_by(f64::total_cmp);
    let end = (hours * 3600.0) as u64 * SECOND;
    let mut world = World::new(network, suspect_after, SmallRng::seed_from_u64(seed), end, None);
    world.run();
    Cell {
        suspect_after_millis,
        detection_millis,
        hours,
        mistakes_millis: world
            .suspicions
            .iter()
            .map(|(begun, ended)| (ended - begun) as f64 / MILLI as f64)
            .collect(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A node's turn to tell its status.
    Tell(usize),
    /// The primary's turn to tell its members that it is there.
    Beat,
    /// A word of the primary reaches a member.
    Beaten(usize),
    /// An answer reaches the primary.
    Answered(usize),
    /// A status reaches the operator: of whom, and when each node that matters had been heard by it.
    Told(usize, [u64; NODES]),
    /// The next heartbeat that the operator wants reaches a node.
    Asked(usize, u64),
}

struct World<'a> {
    network: &'a Network,
    rng: SmallRng,
    begin: Instant,
    now: u64,
    end: u64,
    death: Option<u64>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    /// When each node stands still.
    stalls: [Vec<(u64, u64)>; NODES],
    /// The last arrival on each connection: messages keep their order.
    last: [[u64; NODES + 1]; NODES + 1],
    /// When each member heard the primary last.
    beaten: [u64; NODES],
    /// When the primary heard each member last.
    answered: [u64; NODES],
    /// What the operator asks for while it does not doubt.
    heartbeat: u64,
    heartbeats: [u64; NODES],
    wanted: u64,
    members: Vec<Observed>,
    suspect_after: Duration,
    /// Begun, ended.
    suspicions: Vec<(u64, u64)>,
    suspected: Option<u64>,
}

impl<'a> World<'a> {
    fn new(network: &'a Network, suspect_after: Duration, mut rng: SmallRng, end: u64, death: Option<u64>) -> Self {
        let stalls = std::array::from_fn(|_| stalls(network, &mut rng, end));
        // A spec may have no slower one.
        let heartbeat = HEARTBEAT.min(micros(suspect_after) / 2);
        let mut world = Self {
            network,
            rng,
            begin: Instant::now(),
            now: 0,
            end,
            death,
            queue: BinaryHeap::new(),
            scheduled: 0,
            stalls,
            last: [[0; NODES + 1]; NODES + 1],
            beaten: [0; NODES],
            answered: [0; NODES],
            heartbeat,
            heartbeats: [heartbeat; NODES],
            wanted: heartbeat,
            members: members(),
            suspect_after,
            suspicions: Vec::new(),
            suspected: None,
        };
        for node in 0..NODES {
            let first = world.rng.random_range(0..heartbeat);
            world.schedule(first, Event::Tell(node));
        }
        world.schedule(0, Event::Beat);
        world
    }

    fn run(&mut self) {
        // Until everybody was heard once, there is nothing to judge.
        let settled = 2 * SECOND;
        while let Some(Reverse((at, ..))) = self.queue.peek() {
            let at = *at;
            if at > self.end {
                break;
            }
            // What is asked for then may arrive before what comes next now.
            if let Some(moment) = self.next_moment(at).filter(|_| self.now >= settled) {
                self.now = moment;
                self.look(moment);
                continue;
            }
            let Some(Reverse((_, _, event))) = self.queue.pop() else { break };
            self.now = at;
            self.happen(event);
            if at >= settled {
                self.look(at);
            }
            // A death that is suspected stays so.
            if self.suspected.is_some() && self.death.is_some_and(|death| at >= death) {
                break;
            }
        }
        if let Some(begun) = self.suspected.take() {
            self.suspicions.push((begun, self.end));
        }
    }

    /// The next moment before `until` at which time alone may change a verdict: a status becomes old.
    fn next_moment(&self, until: u64) -> Option<u64> {
        let limit = micros(self.suspect_after);
        let heard = self.members.iter().filter_map(|member| member.heard);
        let moments = heard.map(|heard| micros(heard.duration_since(self.begin)) + limit + 1);
        moments.filter(|moment| (self.now + 1..until).contains(moment)).min()
    }

    fn look(&mut self, at: u64) {
        let (members, now): (Vec<&Observed>, _) = (self.members.iter().collect(), self.moment(at));
        let verdict = judge(&members, Quorum::majority(NODES as u32), self.suspect_after, now);
        match (&verdict, self.suspected) {
            (Verdict::Lost { .. }, None) => self.suspected = Some(at),
            (Verdict::Lost { .. }, Some(_)) | (_, None) => {}
            (_, Some(begun)) => {
                self.suspicions.push((begun, at));
                self.suspected = None;
            }
        }
        let in_doubt = matches!(verdict, Verdict::Doubt { .. } | Verdict::Serving { heard: false, .. });
        let wanted = if in_doubt { CLOSE } else { self.heartbeat };
        if self.wanted != wanted {
            self.wanted = wanted;
            for node in 0..NODES {
                self.send(OPERATOR, node, at, Event::Asked(node, wanted));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tell(node) => {
                let Some(now) = self.awake(node, self.now) else { return };
                if now > self.now {
                    return self.schedule(now, Event::Tell(node));
                }
                let heard = if node == PRIMARY {
                    self.answered
                } else {
                    [self.beaten[node]; NODES]
                };
                self.send(node, OPERATOR, now, Event::Told(node, heard.map(|heard| now - heard)));
                self.schedule(now + self.heartbeats[node], Event::Tell(node));
            }
            Event::Beat => {
                let Some(now) = self.awake(PRIMARY, self.now) else { return };
                if now > self.now {
                    return self.schedule(now, Event::Beat);
                }
                for member in 1..NODES {
                    self.send(PRIMARY, member, now, Event::Beaten(member));
                }
                self.schedule(now + PEER_HEARTBEAT, Event::Beat);
            }
            Event::Beaten(member) => {
                self.beaten[member] = self.now;
                self.send(member, PRIMARY, self.now, Event::Answered(member));
            }
            Event::Answered(member) => self.answered[member] = self.now,
            Event::Asked(node, heartbeat) => {
                // A node answers such a word at once.
                if heartbeat < self.heartbeats[node] {
                    let heard = if node == PRIMARY {
                        self.answered
                    } else {
                        [self.beaten[node]; NODES]
                    };
                    self.send(node, OPERATOR, self.now, Event::Told(node, heard.map(|heard| self.now - heard)));
                }
                self.heartbeats[node] = heartbeat;
            }
            Event::Told(node, ago) => {
                let now = self.moment(self.now);
                let member = &mut self.members[node];
                (member.heard, member.connected) = (Some(now), true);
                let Some(status) = &mut member.status else { return };
                for (peer, ago) in status.peers.iter_mut().zip(&ago[1..]) {
                    peer.heard_millis_ago = ago / MILLI;
                }
                if let Some(view) = status.primary.as_mut().filter(|_| node != PRIMARY) {
                    view.heard_millis_ago = ago[PRIMARY] / MILLI;
                }
            }
        }
    }

    /// When a node that would do something at `at` does it. None once it is dead.
    fn awake(&self, node: usize, at: u64) -> Option<u64> {
        let stalls = &self.stalls[node];
        let next = stalls.partition_point(|(_, end)| *end <= at);
        let awake = stalls.get(next).filter(|(begin, _)| *begin <= at).map_or(at, |(_, end)| *end);
        let dead = node == PRIMARY && self.death.is_some_and(|death| awake >= death);
        (!dead).then_some(awake)
    }

    fn send(&mut self, from: usize, to: usize, at: u64, event: Event) {
        let delay = self.network.median_millis * (self.network.sigma * normal(&mut self.rng)).exp();
        let arrives = (at + (delay * MILLI as f64) as u64).max(self.last[from][to] + 1);
        // It waits for a node that stands still.
        let handled = if to == OPERATOR { Some(arrives) } else { self.awake(to, arrives) };
        if let Some(handled) = handled {
            self.last[from][to] = handled;
            self.schedule(handled, event);
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, event)));
    }

    fn moment(&self, at: u64) -> Instant {
        self.begin + Duration::from_micros(at)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// By Box and Muller.
fn normal(rng: &mut SmallRng) -> f64 {
    let (first, second): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
    (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos()
}

fn stalls(network: &Network, rng: &mut SmallRng, end: u64) -> Vec<(u64, u64)> {
    let mut stalls = Vec::new();
    if network.stalls_per_hour == 0.0 {
        return stalls;
    }
    let mut exponential = |mean: f64| (-rng.random_range(f64::MIN_POSITIVE..1.0f64).ln() * mean) as u64;
    let mut at = 0;
    loop {
        at += exponential(3600.0 * SECOND as f64 / network.stalls_per_hour);
        if at > end {
            return stalls;
        }
        let until = at + exponential(network.stall_millis * MILLI as f64);
        stalls.push((at, until));
        at = until;
    }
}

/// A group that is well.
fn members() -> Vec<Observed> {
    let incarnation = |node: usize| Incarnation(Uuid::from_u128(node as u128 + 1));
    let (epoch, quorum) = (Epoch { number: 1, token: 1 }, Quorum::majority(NODES as u32));
    let each = (0..NODES).map(|node| Member {
        incarnation: incarnation(node),
        ordinal: node as u32,
        host: String::new(),
    });
    let configuration = Configuration::new(each.collect(), quorum.write, quorum.read).expect("a majority of three is a quorum");
    let start = EntryId { epoch, index: 1 };
    let peer = |node| PeerStatus {
        incarnation: incarnation(node),
        connected: true,
        matched: 1,
        heard_millis_ago: 0,
        snapshot: false,
        learner: false,
        disk: quorate_api::DiskRoom::Ample,
    };
    let member = |node: usize| {
        let status = serde_json::json!({
            "id": ReplicaId { store: StoreId(Uuid::nil()), shard: 0, ordinal: node as u32, incarnation: incarnation(node) },
            "version": "", "role": if node == PRIMARY { NodeRole::Primary } else { NodeRole::Follower },
            "promised": epoch, "last": start, "durable": 1, "commit": 1, "configuration": (start, &configuration),
            "primary": PrimaryView { incarnation: incarnation(PRIMARY), epoch, heard_millis_ago: 0, connected: true },
            "peers": if node == PRIMARY { (1..NODES).map(peer).collect() } else { Vec::new() },
            "damaged": false, "terminating": false, "keys": 0, "memoryBytes": 0, "writesRefused": null,
        });
        let status: NodeStatus = serde_json::from_value(status).expect("a status is plain data");
        Observed {
            pod: format!("node-{node}"),
            uid: node.to_string(),
            ordinal: node as u32,
            exists: true,
            since: None,
            address: None,
            revision: None,
            health: Health::Running,
            connected: false,
            heard: None,
            status: Some(status),
        }
    };
    (0..NODES).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Network = NETWORKS[0];

    #[test]
    fn a_death_is_found_about_when_the_silence_reaches_the_limit() {
        for limit in [250, 1000, 4000] {
            let cell = run(&QUIET, limit, 1, 40, 0.1);
            let (least, most) = (cell.detection_millis[0], cell.detection_millis[39]);
            // Silence counts from the last word, up to a heartbeat before the death; members tell of it up to two after.
            assert!(least >= limit as f64 - 200.0, "{limit}: {:?}", cell.detection_millis);
            assert!(most <= limit as f64 + 500.0, "{limit}: {:?}", cell.detection_millis);
        }
    }

    #[test]
    fn a_quiet_network_makes_no_mistakes_and_long_stalls_make_fewer_the_longer_one_waits() {
        assert_eq!(run(&QUIET, 500, 1, 0, 2.0).mistakes_millis, [] as [f64; 0]);
        let mistakes = |limit| run(&NETWORKS[3], limit, 1, 0, 12.0).mistakes_millis.len();
        let (short, middle, long) = (mistakes(250), mistakes(1000), mistakes(4000));
        assert!(short > middle && middle > long, "{short} {middle} {long}");
    }

    #[test]
    fn the_same_seed_gives_the_same_result() {
        let cell = || run(&NETWORKS[1], 250, 5, 5, 0.5);
        assert_eq!(cell().detection_millis, cell().detection_millis);
        assert_eq!(cell().mistakes_millis, cell().mistakes_millis);
    }
}
