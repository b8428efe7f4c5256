//! The crash sweep of the operator: each scenario is run once to count every API call of the operator that is carried out and
//! every word that it sends to a node, and then once for each of them, with the operator dying right after it. It comes back
//! with nothing in memory, and everything has to end as it did without the crash, with no acknowledged write lost.

use super::SECOND;
use super::faults::{Profile, set_sizes};
use crate::sim::clients::Client;
use crate::sim::faults::Profile as GroupProfile;
use crate::sim::host::Host;
use crate::sim::world::{Violation, What, World};
use anyhow::{Result, bail};
use quorate_crds::annotations;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Everything has to converge within this time.
const LIVENESS: u64 = 600 * SECOND;
/// A person whom the operator refused asks again after this time.
const PATIENCE: u64 = 30 * SECOND;
/// Seed of every run: it decides delays, and nothing else.
const SEED: u64 = 7;

/// Has a simulated operator die after each single step of what it does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only scenarios with this in their name.
    #[arg(long)]
    scenario: Option<String>,
    /// Only every so many-th step.
    #[arg(long, default_value_t = 1)]
    stride: u64,
    /// Replay the run with a crash after this step, 0 for none, and say everything that happens.
    #[arg(long)]
    step: Option<u64>,
}

/// Runs it.
///
/// # Errors
/// When a run does not end as the one without a crash.
pub fn run(args: &Args) -> Result<()> {
    let mut failed = Vec::new();
    let wanted = |scenario: &Scenario| args.scenario.as_ref().is_none_or(|part| scenario.name.contains(part.as_str()));
    let scenarios: Vec<Scenario> = scenarios().into_iter().filter(wanted).collect();
    if let Some(step) = args.step {
        for scenario in &scenarios {
            println!("{}: {:?}", scenario.name, replay(scenario, Some(step).filter(|step| *step > 0)));
        }
        return Ok(());
    }
    for (scenario, swept) in scenarios.iter().zip(sweep_all(&scenarios, args.stride)) {
        println!("{}", swept.line(scenario.name));
        failed.extend(swept.failures.iter().map(|(step, violation)| {
            println!("  after step {step}: {}: {}", violation.check, violation.detail);
            scenario.name
        }));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("not as without a crash: {}", failed.join("; ")),
    }
}

/// Sweeps all of them, on all cores, and gives what came of each in their order.
fn sweep_all(scenarios: &[Scenario], stride: u64) -> Vec<Swept> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(number) else { return };
                    let swept = sweep(scenario, stride);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, swept);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

impl Swept {
    /// One line of the table.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        let hours = self.micros as f64 / 3.6e9;
        format!("{name:<62} {:>5} steps {:>5} runs {hours:>7.1} hours", self.steps, self.runs)
    }
}

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// The process of the primary is killed.
    KillPrimary,
    /// The machine of the primary loses its power for a while.
    PowerOffPrimary,
    /// The machine of the primary never comes back, nor its volume.
    LosePrimaryMachine,
    /// A follower comes back with an empty volume.
    LoseFollowerVolume,
    /// The machines of all but one member never come back, while nobody writes.
    LoseAllButOne,
    /// A person accepts that writes may be lost.
    AcceptLoss,
    /// A person asks for another primary.
    Promote,
    /// The spec is changed to these sizes.
    Sizes((i32, i32, i32)),
    Paused(bool),
    WipeStatus,
    /// The store is deleted, and created again over its claims.
    CreateAgain,
}

/// What is waited for after a deed.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Everything is as the spec wants it.
    Converged,
    /// Microseconds.
    Passed(u64),
    /// Another epoch serves than before.
    ServesAnew,
    /// The status says that a failover is blocked.
    Blocked,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In a sentence.
    pub name: &'static str,
    spec: (i32, i32, i32),
    operators: usize,
    deeds: &'static [(Deed, Until)],
}

/// What came of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Steps of the run without a crash, from where the scenario begins.
    pub steps: u64,
    /// Runs that were made.
    pub runs: u64,
    /// Simulated microseconds of all.
    pub micros: u64,
    /// The step after which the operator died, and what was wrong then. Step 0: without a crash.
    pub failures: Vec<(u64, Violation)>,
}

/// All scenarios.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    use Deed::{
        AcceptLoss, CreateAgain, KillPrimary, LoseAllButOne, LoseFollowerVolume, LosePrimaryMachine, Paused, PowerOffPrimary, Promote,
        Sizes, WipeStatus,
    };
    use Until::{Blocked, Converged, Passed, ServesAnew};
    const THREE: (i32, i32, i32) = (3, 2, 2);
    let one = |name, spec, deeds| Scenario {
        name,
        spec,
        operators: 1,
        deeds,
    };
    vec![
        one("a store is bootstrapped", THREE, &[]),
        one("the primary is killed", THREE, &[(KillPrimary, ServesAnew)]),
        one("the machine of the primary is away", THREE, &[(PowerOffPrimary, ServesAnew)]),
        Scenario {
            operators: 2,
            ..one(
                "the primary is killed, and another operator stands by",
                THREE,
                &[(KillPrimary, ServesAnew)],
            )
        },
        one("a switchover is asked for", THREE, &[(Promote, ServesAnew)]),
        one(
            "replicas 1, 3, 5, 3",
            (1, 1, 1),
            &[(Sizes(THREE), Converged), (Sizes((5, 3, 3)), Converged), (Sizes(THREE), Converged)],
        ),
        one(
            "quorum 2/2, 3/1, 2/2",
            THREE,
            &[(Sizes((3, 3, 1)), Converged), (Sizes(THREE), Converged)],
        ),
        one(
            "the spec is changed again half-way",
            THREE,
            &[(Sizes((5, 3, 3)), Passed(4 * SECOND)), (Sizes((3, 3, 1)), Converged)],
        ),
        one("a follower loses its volume", THREE, &[(LoseFollowerVolume, Converged)]),
        one("the machine of the primary is lost", THREE, &[(LosePrimaryMachine, Converged)]),
        one(
            "all but one are lost, and a person accepts it",
            THREE,
            &[(LoseAllButOne, Blocked), (AcceptLoss, ServesAnew)],
        ),
        one(
            "a failover and a change while paused",
            THREE,
            &[
                (Paused(true), Passed(2 * SECOND)),
                (KillPrimary, ServesAnew),
                (Sizes((5, 3, 3)), Passed(4 * SECOND)),
                (Paused(false), Converged),
            ],
        ),
        one("the status is wiped", THREE, &[(WipeStatus, Converged)]),
        one(
            "the store is deleted and created again over its claims",
            THREE,
            &[(CreateAgain, ServesAnew)],
        ),
    ]
}

/// Runs a scenario once without a crash, and once for every `stride`-th step with one after it.
#[must_use]
pub fn sweep(scenario: &Scenario, stride: u64) -> Swept {
    let clean = Run::new(scenario, None).play();
    let mut swept = Swept {
        steps: clean.until - clean.from,
        runs: 1,
        micros: clean.micros,
        failures: clean.violation.into_iter().map(|violation| (0, violation)).collect(),
    };
    let mut step = clean.from + 1;
    while step <= clean.until && swept.failures.is_empty() {
        let run = Run::new(scenario, Some(step)).play();
        swept.runs += 1;
        swept.micros += run.micros;
        swept.failures.extend(run.violation.map(|violation| (step, violation)));
        if run.end != clean.end && swept.failures.is_empty() {
            let violation = Violation {
                check: "the end is the same as without a crash",
                detail: format!("{:?} instead of {:?}", run.end, clean.end),
                lost: 0,
            };
            swept.failures.push((step, violation));
        }
        step += stride;
    }
    swept
}

/// Runs one scenario with a crash after that step, and says everything that happens.
#[must_use]
pub fn replay(scenario: &Scenario, step: Option<u64>) -> Option<Violation> {
    let mut run = Run::new(scenario, step);
    run.world.verbose = true;
    run.play().violation
}

/// Replicas, write quorum, read quorum in force; pods; conditions.
type End = (u32, u32, u32, Vec<usize>, Vec<(String, String)>);

/// What a run led to.
struct Played {
    /// Steps before the scenario began, and at its end.
    from: u64,
    until: u64,
    micros: u64,
    violation: Option<Violation>,
    end: Option<End>,
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, dies_after: Option<u64>) -> Self {
        let rng = SmallRng::seed_from_u64(SEED);
        let mut world = World::bare(SEED, rng, GroupProfile::calm(), None, false, false);
        let profile = Profile::calm(scenario.spec, scenario.operators);
        world.surround(profile, 5);
        world.sys().dies_after = dies_after;
        for number in 0..2 {
            world.clients.push(Client::new());
            world.schedule(SECOND, What::Client(number, 0));
        }
        Self { scenario, world }
    }

    fn play(mut self) -> Played {
        let begins = match self.scenario.deeds.is_empty() {
            true => 0,
            false => {
                self.converge("everything converges before the scenario begins");
                self.world.sys().steps
            }
        };
        for (deed, until) in self.scenario.deeds {
            if self.world.violation.is_some() {
                break;
            }
            let served = self.world.ledger.served;
            self.commit(*deed);
            self.wait(*deed, *until, served);
        }
        if self.world.violation.is_none() {
            self.converge("everything converges in the end");
        }
        let steps = self.world.sys().steps;
        if self.world.violation.is_none() {
            self.world.settle_system();
        }
        let world = &mut self.world;
        let violation = world.violation.take().or_else(|| world.ledger.linearizable());
        Played {
            from: begins,
            until: steps,
            micros: world.now,
            end: world.end(),
            violation,
        }
    }

    fn converge(&mut self, what: &'static str) {
        let world = &mut self.world;
        if !world.run_until(world.now + LIVENESS, World::is_as_wanted) && world.violation.is_none() {
            world.violate_convergence(what);
        }
    }

    fn wait(&mut self, deed: Deed, until: Until, served: u64) {
        let world = &mut self.world;
        let end = world.now + LIVENESS;
        let reached = match until {
            Until::Passed(micros) => {
                world.run_until(world.now + micros, |_| false);
                true
            }
            Until::Converged => {
                // What was just changed has to be noticed first.
                world.run_until(end, World::is_as_wanted)
            }
            Until::ServesAnew => {
                let mut soon = world.now;
                loop {
                    soon = end.min(soon + PATIENCE);
                    let serves = world.run_until(soon, |world| world.ledger.served > served);
                    if serves || soon == end || world.violation.is_some() {
                        break serves;
                    }
                    if deed == Deed::AcceptLoss && world.is_answered() && world.condition("FailoverBlocked") {
                        world.accept_loss();
                    }
                }
            }
            Until::Blocked => world.run_until(end, |world| world.condition("FailoverBlocked")),
        };
        if !reached && world.violation.is_none() {
            world.violate_convergence("what a deed is to lead to comes about");
        }
    }

    fn commit(&mut self, deed: Deed) {
        let world = &mut self.world;
        world.say(|| format!("{deed:?}"));
        let primary = world.hosts.iter().position(Host::serving).unwrap_or_default();
        match deed {
            Deed::KillPrimary => world.crash(primary),
            Deed::PowerOffPrimary => world.machine_down(primary, Some(60 * SECOND)),
            Deed::LosePrimaryMachine => {
                world.machine_down(primary, None);
                world.machine_removed(primary);
            }
            Deed::LoseFollowerVolume => {
                let follower = (primary + 1) % 3;
                world.crash(follower);
                world.lose_disk(follower);
            }
            Deed::LoseAllButOne => {
                world.ledger.closed = true;
                world.run_until(world.now + 60 * SECOND, World::is_whole);
                for host in (0..3).filter(|host| *host != (primary + 1) % 3) {
                    world.machine_down(host, None);
                    world.machine_removed(host);
                }
            }
            Deed::AcceptLoss => {
                world.ledger.closed = false;
                for number in 0..world.clients.len() {
                    let turn = world.clients[number].turn();
                    world.schedule(SECOND, What::Client(number, turn));
                }
                world.accept_loss();
            }
            Deed::Promote => {
                let pod = super::api::pod_name((primary + 1) % 3);
                world.edit_spec(|store| {
                    let asking = store.metadata.annotations.get_or_insert_default();
                    asking.insert(annotations::PROMOTE.to_owned(), pod);
                });
            }
            Deed::Sizes(sizes) => world.edit_spec(|store| set_sizes(&mut store.spec, sizes)),
            Deed::Paused(paused) => world.edit_spec(|store| store.spec.paused = paused),
            Deed::WipeStatus => world.wipe_status(),
            Deed::CreateAgain => world.recreate_store(),
        }
    }
}

impl World {
    /// Whether the status says so.
    fn condition(&self, type_: &str) -> bool {
        let store = self.system.as_ref().and_then(|system| system.api.store.as_ref());
        let status = store.and_then(|store| store.status.as_ref());
        status.is_some_and(|status| {
            let mut conditions = status.conditions.iter();
            conditions.any(|condition| condition.type_ == type_ && condition.status == "True")
        })
    }

    /// Whether nobody waits for an answer.
    fn is_answered(&self) -> bool {
        let store = self.system.as_ref().and_then(|system| system.api.store.as_ref());
        let asked = store.and_then(|store| store.metadata.annotations.as_ref());
        asked.is_none_or(BTreeMap::is_empty)
    }

    /// A person accepts a loss, in the epoch that the status shows.
    fn accept_loss(&mut self) {
        let store = self.sys().api.store.clone();
        let epoch = store.and_then(|store| Some(store.status.as_ref()?.shards.first()?.epoch));
        let asked = format!("0@{}", epoch.unwrap_or_default());
        self.say(|| format!("a person accepts that writes are lost: {asked}"));
        self.edit_spec(|store| {
            let asking = store.metadata.annotations.get_or_insert_default();
            asking.insert(annotations::ACCEPT_DATA_LOSS.to_owned(), asked);
        });
    }

    fn end(&self) -> Option<End> {
        let system = self.system.as_ref()?;
        let status = system.api.store.as_ref()?.status.as_ref()?;
        let primary = self.hosts.iter().filter_map(Host::replica).find(|replica| replica.serving())?;
        let quorum = primary.configuration()?.1.quorum();
        let conditions = status.conditions.iter();
        Some((
            quorum.replicas,
            quorum.write,
            quorum.read,
            system.api.pods.keys().copied().collect(),
            conditions
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect(),
        ))
    }
}
