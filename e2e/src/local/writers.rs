//! Writers that remember what was acknowledged to them, for a test to look for afterwards.
//!
//! Each writer owns its keys and overwrites them in turn with growing numbers, following the primary by itself. A write is
//! acknowledged, refused (it did not happen) or unknown (it may have). [`Written::check`] reads every key: what it finds
//! must be the last acknowledged number or a later one of unknown outcome.

use super::process::loopback;
use super::resp::Client;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A node that does not answer in this time is taken for dead; the write is then unknown.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Errors that say that nothing was done.
const REFUSALS: [&str; 5] = ["MOVED", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF"];
/// Between two attempts while no node serves.
const RETRY: Duration = Duration::from_millis(2);

/// What became of one key.
#[derive(Clone, Debug, Default)]
struct Key {
    acknowledged: u64,
    /// Numbers above the acknowledged one that may have been written.
    unknown: Vec<u64>,
}

/// What one writer saw.
#[derive(Debug)]
struct Seen {
    keys: Vec<Key>,
    /// The longest time between two acknowledgements.
    longest_gap: Duration,
}

/// Writers that run. See the module.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Seen>>,
    nodes: Vec<SocketAddr>,
}

/// What they did, once stopped.
#[derive(Debug)]
pub struct Written {
    writers: Vec<Seen>,
    nodes: Vec<SocketAddr>,
}

impl Writers {
    /// Starts `count` writers of `keys` keys each, with values of `value_bytes`.
    #[must_use]
    pub fn start(nodes: Vec<SocketAddr>, count: usize, keys: usize, value_bytes: usize) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count)
            .map(|writer| {
                let (stop, acknowledged, nodes) = (Arc::clone(&stop), Arc::clone(&acknowledged), nodes.clone());
                std::thread::spawn(move || write(writer, keys, value_bytes, &nodes, &stop, &acknowledged))
            })
            .collect();
        Self {
            stop,
            acknowledged,
            threads,
            nodes,
        }
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// If they are not within `patience`.
    pub fn await_more(&self, more: u64, patience: Duration) -> Result<()> {
        let (goal, deadline) = (self.acknowledged() + more, Instant::now() + patience);
        while self.acknowledged() < goal {
            ensure!(
                Instant::now() < deadline,
                "{} of {goal} writes acknowledged after {patience:?}",
                self.acknowledged()
            );
            std::thread::sleep(RETRY);
        }
        Ok(())
    }

    /// Stops them.
    ///
    /// # Panics
    /// If a writer did.
    #[must_use]
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let writers = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a writer does not panic"))
            .collect();
        Written {
            writers,
            nodes: self.nodes,
        }
    }
}

impl Written {
    /// The longest time that a writer went without an acknowledgement.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.writers.iter().map(|seen| seen.longest_gap).max().unwrap_or_default()
    }

    /// Reads every key through whichever node serves.
    ///
    /// # Errors
    /// If an acknowledged write is missing, or a key holds what was never written.
    pub fn check(&self) -> Result<()> {
        let mut client = Following::new(&self.nodes);
        for (writer, seen) in self.writers.iter().enumerate() {
            for (number, key) in seen.keys.iter().enumerate() {
                let name = key_name(writer, number);
                let found = client.read(&name, Instant::now() + Duration::from_secs(20))?;
                let allowed = found == key.acknowledged || key.unknown.contains(&found);
                ensure!(
                    allowed,
                    "{name} holds {found}; acknowledged {}, unknown {:?}",
                    key.acknowledged,
                    key.unknown
                );
            }
        }
        Ok(())
    }
}

fn key_name(writer: usize, number: usize) -> String {
    format!("writer{writer}:{number}")
}

/// A client that goes to whichever node serves.
struct Following<'a> {
    nodes: &'a [SocketAddr],
    /// Where a key is tried that was never served.
    next: usize,
    /// Where keys were served last, or said to be.
    places: BTreeMap<String, usize>,
    clients: BTreeMap<usize, Client>,
}

/// What became of a command.
enum Outcome {
    Done(String),
    Refused,
    Unknown,
}

impl<'a> Following<'a> {
    fn new(nodes: &'a [SocketAddr]) -> Self {
        Self {
            nodes,
            next: 0,
            places: BTreeMap::new(),
            clients: BTreeMap::new(),
        }
    }

    /// Tries a command on a key once. A refusal says for certain that nothing was done.
    fn attempt(&mut self, args: &[&str]) -> Outcome {
        let key = args[1];
        let at = self.places.get(key).copied().unwrap_or(self.next) % self.nodes.len();
        if !self.clients.contains_key(&at)
            && let Ok(client) = Client::connect(self.nodes[at], ANSWER_WITHIN)
        {
            self.clients.insert(at, client);
        }
        let Some(client) = self.clients.get_mut(&at) else {
            self.places.remove(key);
            self.next = at + 1;
            return Outcome::Refused;
        };
        match client.run(args) {
            Ok(text) => {
                self.places.insert(key.to_owned(), at);
                Outcome::Done(text)
            }
            Err(error) => {
                let text = error.to_string();
                let refused = REFUSALS.iter().any(|code| text.starts_with(code));
                let moved = text
                    .strip_prefix("MOVED ")
                    .and_then(|rest| rest.rsplit(':').next()?.parse().ok())
                    .and_then(|port: u16| self.nodes.iter().position(|node| *node == loopback(port)));
                match moved {
                    Some(place) => drop(self.places.insert(key.to_owned(), place)),
                    None => {
                        self.places.remove(key);
                        self.next = at + 1;
                    }
                }
                if refused {
                    return Outcome::Refused;
                }
                // Its answer may still come on this connection.
                self.clients.remove(&at);
                Outcome::Unknown
            }
        }
    }

    fn read(&mut self, key: &str, deadline: Instant) -> Result<u64> {
        loop {
            // GETRANGE gives an empty string, not a null, for a key that is not there.
            if let Outcome::Done(text) = self.attempt(&["GETRANGE", key, "0", "19"]) {
                return if text.is_empty() {
                    Ok(0)
                } else {
                    text.parse().with_context(|| format!("{key} holds {text:?}"))
                };
            }
            if Instant::now() > deadline {
                bail!("no node answers GETRANGE {key}");
            }
            std::thread::sleep(RETRY);
        }
    }
}

fn write(writer: usize, keys: usize, value_bytes: usize, nodes: &[SocketAddr], stop: &AtomicBool, acknowledged: &AtomicU64) -> Seen {
    let mut seen = Seen {
        keys: vec![Key::default(); keys],
        longest_gap: Duration::ZERO,
    };
    let mut client = Following::new(nodes);
    let filler = "v".repeat(value_bytes.saturating_sub(20));
    let (mut number, mut last) = (0u64, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let at = usize::try_from(number).unwrap_or(0) % keys;
        let value = format!("{number:020}{filler}");
        match client.attempt(&["SET", &key_name(writer, at), &value]) {
            Outcome::Done(_) => {
                seen.keys[at] = Key {
                    acknowledged: number,
                    unknown: Vec::new(),
                };
                acknowledged.fetch_add(1, Ordering::Relaxed);
                seen.longest_gap = seen.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            Outcome::Refused => std::thread::sleep(RETRY),
            Outcome::Unknown => seen.keys[at].unknown.push(number),
        }
    }
    seen
}
