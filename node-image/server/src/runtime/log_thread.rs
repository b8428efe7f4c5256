//! The second thread: writes and syncs the primary's log while the core goes on.
//!
//! A batch is whatever was queued while the last sync ran. A failed write or sync ends the process: after it, nobody
//! knows what is on the disk, and a retry would only pretend to.

use crate::storage::{Log, StorageError};
use quorate_api::Entry;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::UnboundedSender;

enum Job {
    Append {
        generation: u64,
        commit: u64,
        entries: Vec<Arc<Entry>>,
    },
    Drain(SyncSender<()>),
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

    /// Waits until everything queued is durable.
    pub fn drain(&self) {
        let (done, wait) = sync_channel(1);
        self.jobs.send(Job::Drain(done)).expect("the log thread outlives its queue");
        wait.recv().expect("the log thread answers every drain");
    }
}

fn run(log: &Mutex<Log>, queue: &Receiver<Job>, durable: &UnboundedSender<Durable>) {
    while let Ok(first) = queue.recv() {
        let mut generation = 0;
        let mut drains = Vec::new();
        let index = {
            let mut log = log.lock().expect("a thread that fails with the log in hand ends the process");
            let mut wrote = false;
            for job in std::iter::once(first).chain(queue.try_iter()) {
                match job {
                    Job::Append {
                        generation: newer,
                        commit,
                        entries,
                    } => {
                        or_abort(log.append(&entries, commit));
                        generation = newer;
                        wrote = true;
                    }
                    Job::Drain(done) => drains.push(done),
                }
            }
            if wrote { Some(or_abort(log.sync())) } else { None }
        };
        if let Some(index) = index
            && durable.send((generation, index)).is_err()
        {
            return;
        }
        for done in drains {
            // Whoever asked may be gone; nothing depends on it then.
            let _ = done.send(());
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
