//! The second thread: writes and syncs the primary's log while the core goes on.
//!
//! A batch is whatever was queued while the last sync ran. A failed write or sync ends the process: after it, nobody
//! knows what is on the disk, and a retry would only pretend to. A disk without room is no failure: entries wait here for
//! it, as few as were under way, because a primary whose disk is full takes no more.

use crate::storage::{Log, StorageError};
use quorate_api::Entry;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Between two looks for room while entries wait for it.
const RETRY: Duration = Duration::from_millis(200);

enum Job {
    Append {
        generation: u64,
        commit: u64,
        entries: Vec<Arc<Entry>>,
    },
    Drain(SyncSender<Vec<Arc<Entry>>>),
}

/// See the module.
#[derive(Debug)]
pub struct LogThread {
    jobs: Sender<Job>,
}

/// Generation and index of [`quorate_protocol::Event::LogDurable`].
pub type Durable = (u64, u64);

impl LogThread {
    /// Starts the thread; it ends when this value is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(log: Arc<Mutex<Log>>, durable: UnboundedSender<Durable>) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || run(&log, &queue, &durable))?;
        Ok(Self { jobs })
    }

    /// Queues entries.
    pub fn append(&self, generation: u64, commit: u64, entries: Vec<Arc<Entry>>) {
        self.jobs
            .send(Job::Append {
                generation,
                commit,
                entries,
            })
            .expect("the log thread outlives its queue");
    }

    /// Waits until everything queued is durable, but for what there is no room for: that is given back.
    #[must_use]
    pub fn drain(&self) -> Vec<Arc<Entry>> {
        let (done, wait) = sync_channel(1);
        self.jobs.send(Job::Drain(done)).expect("the log thread outlives its queue");
        wait.recv().expect("the log thread answers every drain")
    }
}

/// What is to be written.
#[derive(Default)]
struct Backlog {
    generation: u64,
    commit: u64,
    entries: Vec<Arc<Entry>>,
}

impl Backlog {
    fn add(&mut self, generation: u64, commit: u64, mut entries: Vec<Arc<Entry>>) {
        (self.generation, self.commit) = (generation, commit);
        if self.entries.is_empty() {
            self.entries = entries;
        } else {
            self.entries.append(&mut entries);
        }
    }

    /// Writes what there is room for, and gives the durable index if that was something.
    fn write(&mut self, log: &Mutex<Log>) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let mut log = log.lock().expect("a thread that fails with the log in hand ends the process");
        let written = or_abort(log.append(&self.entries, self.commit));
        self.entries.drain(..written);
        (written > 0).then(|| or_abort(log.sync()))
    }
}

fn run(log: &Mutex<Log>, queue: &Receiver<Job>, durable: &UnboundedSender<Durable>) {
    let mut backlog = Backlog::default();
    loop {
        let first = if backlog.entries.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(RETRY)
        };
        if matches!(first, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        let mut drains = Vec::new();
        for job in first.into_iter().chain(queue.try_iter()) {
            match job {
                Job::Append {
                    generation,
                    commit,
                    entries,
                } => backlog.add(generation, commit, entries),
                Job::Drain(done) => drains.push(done),
            }
        }
        if let Some(index) = backlog.write(log)
            && durable.send((backlog.generation, index)).is_err()
        {
            return;
        }
        for done in drains {
            // Whoever asked may be gone; nothing depends on it then.
            let _ = done.send(std::mem::take(&mut backlog.entries));
        }
    }
}

/// A storage failure that cannot be undone ends the process: the replica starts again from what is on the disk.
pub fn or_abort<T>(result: Result<T, StorageError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            tracing::error!(%error, "storage failed: this process ends, because nothing it says could be relied on");
            std::process::abort()
        }
    }
}
