//! A checked workload: clients that write and read while faults happen, and a record of what each of them was told.
//!
//! - *Journal* writers set keys that are written once. Whatever was acknowledged has to be there in the end, and the time
//!   in which a writer got no acknowledgement is the outage that a client sees.
//! - *Register* clients read and write a few shared keys: the history has to be linearizable.
//! - *Probes* write to one node each and follow no redirection: they find a deposed primary that still acknowledges.
//! - An *ordinary* client is redis-rs's cluster client, to see what its users see.
//!
//! All run on a thread of their own, in the network that clients are in.

pub mod bulk;
pub mod client;
mod fill;
pub mod history;
mod verify;

pub use fill::fill;

use crate::cluster::enter_network;
use crate::histories;
use anyhow::{Context, Result};
use client::{Client, Failure, Reply};
use history::{History, Outcome, RegisterOp, Write};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::{LocalSet, spawn_local};

/// Journal writers.
const WRITERS: usize = 3;
/// Shared registers, and clients of each.
const REGISTERS: usize = 3;
const REGISTER_CLIENTS: usize = 3;
/// Between two commands of a journal writer; what an outage is measured to.
const WRITER_PAUSE: Duration = Duration::from_millis(1);
/// Between two commands of the others.
const PAUSE: Duration = Duration::from_millis(4);
/// After a command that failed definitely: a new primary is found at once, and a group without one is not hammered.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// Where clients are, and whom they know.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network that they are in; None for this process's own.
    pub network: Option<PathBuf>,
    /// Nodes of the store.
    pub nodes: Vec<SocketAddr>,
    /// What clients were told is written into a file of this folder; docs/histories.md has the format.
    pub export: Option<PathBuf>,
}

/// A workload under way.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    begun: Instant,
    export: Option<(PathBuf, String, u64)>,
    thread: Option<JoinHandle<Result<History>>>,
}

struct Shared {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    begun: Instant,
    history: RefCell<History>,
}

impl Shared {
    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        micros(self.begun.elapsed())
    }

    fn record(&self, write: Write) {
        if write.outcome == Outcome::Acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.history.borrow_mut().writes.push(write);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Workload {
    /// Starts the clients. `tag` keeps the keys of this run apart from those of others.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(place: Place, tag: &str, seed: u64) -> Result<Self> {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begun = Instant::now();
        let export = place.export.clone().map(|folder| (folder, tag.to_owned(), seed));
        let thread = std::thread::Builder::new().name("workload".into()).spawn({
            let (stop, acknowledged, tag) = (Arc::clone(&stop), Arc::clone(&acknowledged), tag.to_owned());
            move || {
                let history = RefCell::new(History::new(SystemTime::now(), place.nodes.clone()));
                let shared = Shared {
                    stop,
                    acknowledged,
                    begun,
                    history,
                };
                run(&place, shared, &tag, seed)
            }
        })?;
        Ok(Self {
            stop,
            acknowledged,
            begun,
            export,
            thread: Some(thread),
        })
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Microseconds since the workload began.
    #[must_use]
    pub fn now(&self) -> u64 {
        micros(self.begun.elapsed())
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// If they are not within `patience`.
    pub fn await_acknowledged(&self, more: u64, patience: Duration) -> Result<()> {
        let (target, deadline) = (self.acknowledged() + more, Instant::now() + patience);
        while self.acknowledged() < target {
            if Instant::now() > deadline {
                let short = target - self.acknowledged();
                anyhow::bail!("{short} of {more} writes were not acknowledged within {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the clients and gives what they recorded.
    ///
    /// # Errors
    /// If the network could not be entered.
    pub fn finish(mut self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a workload is finished once")?;
        let mut history = thread
            .join()
            .map_err(|panic| anyhow::anyhow!("the workload's thread panicked: {panic:?}"))??;
        if let Some((folder, tag, seed)) = self.export.take() {
            let lines = histories::of_workload(&history);
            let name = format!("end-to-end-{tag}");
            let path = histories::write(&folder, &name, "end-to-end", seed, serde_json::Value::Null, &lines)?;
            history.exported = Some((path, self.begun));
        }
        Ok(history)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads everything back that was acknowledged; gives the keys that are not as they were written.
///
/// # Errors
/// If the store does not answer within `patience`.
pub fn lost(place: &Place, history: &History, patience: Duration) -> Result<Vec<String>> {
    let keys = history.acknowledged_keys();
    let asked = Instant::now();
    let nodes = place.nodes.clone();
    let lost = from_there(place, "verify", async move || verify::lost(&nodes, &keys, patience).await)?;
    if let Some((path, begun)) = &history.exported {
        let at = |moment: Instant| micros(moment.duration_since(*begun));
        let reads = histories::read_back(history, &lost, at(asked), at(Instant::now()));
        histories::append(path, &reads)?;
    }
    Ok(lost)
}

/// Overwrites one key of `node` with up to `count` values of `length` bytes, until one is refused.
///
/// # Errors
/// If the node does not answer.
pub fn overwrite(place: &Place, node: SocketAddr, key: &str, count: u64, length: usize) -> Result<bulk::Filled> {
    let key = key.to_owned();
    from_there(place, "overwrite", async move || bulk::overwrite(node, &key, count, length).await)
}

/// What `node` answers to each of these commands, given one after the other on one connection.
///
/// # Errors
/// If it answers an error, or does not answer.
pub fn ask(place: &Place, node: SocketAddr, commands: &[&[&str]]) -> Result<Vec<String>> {
    let owned = |command: &&[&str]| command.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let commands: Vec<Vec<Vec<u8>>> = commands.iter().map(owned).collect();
    from_there(place, "ask", async move || bulk::ask(node, &commands).await)
}

/// Works where clients are, on a thread of its own: a thread that has entered a network stays there.
fn from_there<T: Send + 'static, F: Future<Output = Result<T>>>(
    place: &Place,
    name: &'static str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let place = place.clone();
    let thread = std::thread::Builder::new().name(name.into());
    let thread = thread.spawn(move || runtime(&place)?.block_on(work()))?;
    thread
        .join()
        .map_err(|panic| anyhow::anyhow!("the thread {name:?} panicked: {panic:?}"))?
}

fn runtime(place: &Place) -> Result<tokio::runtime::Runtime> {
    if let Some(network) = &place.network {
        enter_network(network)?;
    }
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn run(place: &Place, shared: Shared, tag: &str, seed: u64) -> Result<History> {
    let runtime = runtime(place)?;
    let shared = Rc::new(shared);
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            tasks.push(spawn_local(journal(
                Rc::clone(&shared),
                place.nodes.clone(),
                format!("{tag}:j{writer}"),
            )));
        }
        for node in &place.nodes {
            tasks.push(spawn_local(probe(Rc::clone(&shared), *node, format!("{tag}:p{node}"))));
        }
        for number in 0..REGISTERS * REGISTER_CLIENTS {
            let key = format!("{tag}:r{}", number % REGISTERS);
            let rng = SmallRng::seed_from_u64(seed.wrapping_add(number as u64));
            tasks.push(spawn_local(register(
                Rc::clone(&shared),
                place.nodes.clone(),
                key,
                number as u64,
                rng,
            )));
        }
        tasks.push(spawn_local(ordinary(Rc::clone(&shared), place.nodes.clone(), format!("{tag}:o"))));
        for task in tasks {
            task.await.context("a client of the workload panicked")?;
        }
        anyhow::Ok(())
    })?;
    drop(local);
    let shared = Rc::into_inner(shared).context("every client has ended")?;
    Ok(shared.history.into_inner())
}

fn outcome(result: &Result<Reply, Failure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Acknowledged,
        Err(Failure::DefinitelyNot) => Outcome::DefinitelyNot,
        Err(Failure::Unknown) => Outcome::Unknown,
    }
}

/// Sets a key to itself, and records what came of it.
async fn write_once(shared: &Shared, client: &mut Client, name: &str, key: String) -> Outcome {
    client.aim(key.as_bytes());
    let (node, sent) = (client.node(), shared.now());
    let result = client.call(&[b"SET", key.as_bytes(), key.as_bytes()]).await;
    let outcome = outcome(&result);
    shared.record(Write {
        client: name.to_owned(),
        key,
        node: Some(node),
        sent,
        ended: shared.now(),
        outcome,
    });
    outcome
}

/// Writes key after key. One that did not take effect for certain is tried again; one whose outcome is unknown is left.
async fn journal(shared: Rc<Shared>, nodes: Vec<SocketAddr>, name: String) {
    let mut client = Client::new(nodes);
    let mut number = 0u64;
    while shared.running() {
        let key = format!("{name}:{number}");
        let outcome = write_once(&shared, &mut client, &name, key).await;
        if outcome != Outcome::DefinitelyNot {
            number += 1;
        }
        let pause = if outcome == Outcome::Acknowledged {
            WRITER_PAUSE
        } else {
            RETRY_PAUSE
        };
        tokio::time::sleep(pause).await;
    }
}

async fn probe(shared: Rc<Shared>, node: SocketAddr, name: String) {
    let mut client = Client::pinned(node);
    let mut number = 0u64;
    while shared.running() {
        let key = format!("{name}:{number}");
        write_once(&shared, &mut client, &name, key).await;
        number += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn register(shared: Rc<Shared>, nodes: Vec<SocketAddr>, key: String, number: u64, mut rng: SmallRng) {
    let mut client = Client::new(nodes);
    let mut next = 0u64;
    while shared.running() {
        let sent = shared.now();
        let written = rng.random_bool(0.5).then(|| {
            next += 1;
            // Every value is written once, by one client: a read tells whose write it saw.
            (number << 40) | next
        });
        client.aim(key.as_bytes());
        let result = match written {
            Some(value) => client.call(&[b"SET", key.as_bytes(), value.to_string().as_bytes()]).await,
            None => client.call(&[b"GET", key.as_bytes()]).await,
        };
        let outcome = outcome(&result);
        let read = match result {
            Ok(Reply::Value(Some(bytes))) => String::from_utf8_lossy(&bytes).parse().ok(),
            _ => None,
        };
        shared.history.borrow_mut().registers.push(RegisterOp {
            key: key.clone(),
            client: number,
            written,
            read,
            sent,
            ended: shared.now(),
            outcome,
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// redis-rs's cluster client with its own defaults but for its waits: it would wait 1.28 s and more before it tries again.
async fn ordinary(shared: Rc<Shared>, nodes: Vec<SocketAddr>, name: String) {
    let addresses: Vec<String> = nodes.iter().map(|node| format!("redis://{node}")).collect();
    let mut connection = None;
    let mut number = 0u64;
    while shared.running() {
        let key = format!("{name}:{number}");
        let sent = shared.now();
        number += 1;
        if connection.is_none() {
            let client = redis::cluster::ClusterClientBuilder::new(addresses.clone())
                .min_retry_wait(10)
                .max_retry_wait(200)
                .response_timeout(Duration::from_secs(1))
                .connection_timeout(Duration::from_millis(500))
                .build();
            if let Ok(client) = client {
                connection = client.get_async_connection().await.ok();
            }
        }
        let Some(open) = &mut connection else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let result: redis::RedisResult<()> = redis::cmd("SET").arg(&key).arg(&key).query_async(open).await;
        let failed = result.is_err();
        shared.record(Write {
            client: name.clone(),
            key,
            node: None,
            sent,
            ended: shared.now(),
            // What redis-rs makes of an error says nothing of whether the write took effect.
            outcome: if failed { Outcome::Unknown } else { Outcome::Acknowledged },
        });
        if failed {
            connection = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
