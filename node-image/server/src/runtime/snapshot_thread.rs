//! The third thread: everything about snapshots that takes long. It writes the node's own, gives back the log before it,
//! and stores and loads what a primary sends, one job at a time.
//!
//! Memory: blocks of a few hundred kilobytes, and a loaded state until the node has taken it. A failure to write or to
//! receive is told and leaves everything as it was; a failure to publish ends the process, as for the log.

use super::log_thread::or_abort;
use crate::keyspace::{Keyspace, Snapshot};
use crate::restore::load_snapshot;
use crate::storage::{LogReader, Pass, SnapshotDirectory, SnapshotHead, SnapshotWriter, StorageError};
use quorate_api::wire::{SnapshotAck, SnapshotChunk};
use quorate_api::{Epoch, Position};
use quorate_protocol::Session;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Received and not synced.
const SYNC_EVERY: u64 = 8 << 20;
/// While a received snapshot loads, its sender hears so often that it is not lost.
const PROGRESS: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug)]
pub enum Job {
    /// Write a snapshot, unless it is cancelled meanwhile.
    Write {
        /// The state.
        snapshot: Snapshot,
        /// What it is the state of.
        head: SnapshotHead,
        /// Set when nobody wants it any more.
        cancelled: Arc<AtomicBool>,
    },
    /// Make the one that was written the newest snapshot, and remove older ones.
    Publish(Position),
    /// Give back the log before this position.
    Trim(Position),
    /// Store a piece of a primary's snapshot.
    Receive(Session, SnapshotChunk),
}

/// What became of it.
#[derive(Debug)]
pub enum Report {
    /// Whole and synced, not published.
    Written(Position),
    /// Cancelled, or the system refused.
    NotWritten(Position),
    /// It is the newest snapshot.
    Published(Position),
    /// The log begins after this position.
    Trimmed(Position),
    /// The volume was read again; by the scrub.
    Scrubbed(Pass),
    /// A piece was stored.
    Ack(Session, SnapshotAck),
    /// The last piece was stored and the whole verified: it waits in an unfinished file of this name.
    Received {
        /// Where the acknowledgement goes once it is installed.
        session: Session,
        /// The acknowledgement.
        ack: SnapshotAck,
        /// What the snapshot says of itself.
        head: SnapshotHead,
        /// Its state.
        keyspace: Box<Keyspace>,
        /// The file.
        partial: PathBuf,
    },
}

/// See the module.
#[derive(Debug)]
pub struct SnapshotThread {
    jobs: Sender<Job>,
}

impl SnapshotThread {
    /// Starts the thread; it ends when this value is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        directory: SnapshotDirectory,
        log: LogReader,
        bytes_per_second: u64,
        reports: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let mut worker = Worker {
            directory,
            log,
            bytes_per_second,
            reports,
            incoming: None,
        };
        std::thread::Builder::new()
            .name("snapshots".into())
            .spawn(move || worker.run(&queue))?;
        Ok(Self { jobs })
    }

    /// Queues a job.
    pub fn queue(&self, job: Job) {
        self.jobs.send(job).expect("the snapshot thread outlives its queue");
    }
}

/// A snapshot that arrives.
#[derive(Debug)]
struct Incoming {
    epoch: Epoch,
    position: Position,
    total: u64,
    have: u64,
    synced: u64,
    file: File,
    path: PathBuf,
}

#[derive(Debug)]
struct Worker {
    directory: SnapshotDirectory,
    log: LogReader,
    bytes_per_second: u64,
    reports: UnboundedSender<Report>,
    incoming: Option<Incoming>,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Write { snapshot, head, cancelled } => {
                    let position = head.position;
                    let written = self.write(snapshot, &head, &cancelled);
                    self.report(if written {
                        Report::Written(position)
                    } else {
                        Report::NotWritten(position)
                    });
                }
                Job::Publish(position) => {
                    or_abort(self.directory.publish(&self.directory.partial("own"), position.id.index));
                    if let Err(error) = self.directory.remove_before(position.id.index) {
                        tracing::warn!(%error, "an old snapshot stays");
                    }
                    self.report(Report::Published(position));
                }
                Job::Trim(base) => match self.log.trim(base) {
                    Ok(()) => self.report(Report::Trimmed(base)),
                    Err(error) => tracing::warn!(%error, "the log is longer than it has to be"),
                },
                Job::Receive(session, chunk) => self.receive(session, &chunk),
            }
        }
    }

    fn report(&self, report: Report) {
        // The node is gone when nobody listens.
        let _ = self.reports.send(report);
    }

    fn write(&self, snapshot: Snapshot, head: &SnapshotHead, cancelled: &AtomicBool) -> bool {
        let (path, started) = (self.directory.partial("own"), Instant::now());
        let write = || -> Result<bool, StorageError> {
            let mut writer = SnapshotWriter::create(path.clone(), head)?;
            let mut failure = None;
            let whole = snapshot.blocks(|block| {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(());
                }
                let written = writer.block(block).map_err(|error| failure = Some(error))?;
                pace(started, written, self.bytes_per_second);
                Ok(())
            });
            match failure {
                Some(error) => Err(error),
                None if whole.is_err() => Ok(false),
                None => writer.finish().map(|()| true),
            }
        };
        let written = write().unwrap_or_else(|error| {
            tracing::error!(%error, "no snapshot was written: the log grows on");
            false
        });
        if written {
            tracing::info!(
                index = head.position.id.index,
                keys = head.keys,
                millis = started.elapsed().as_millis(),
                "snapshot written"
            );
        } else {
            // It may not be there; the next one overwrites it otherwise.
            let _ = std::fs::remove_file(&path);
        }
        written
    }

    fn receive(&mut self, session: Session, chunk: &SnapshotChunk) {
        if let Err(error) = self.try_receive(session, chunk) {
            tracing::error!(error = format!("{error:#}"), "a snapshot cannot be received");
            if let Some(incoming) = self.incoming.take() {
                // What is left goes at the next start.
                let _ = std::fs::remove_file(&incoming.path);
            }
        }
    }

    fn try_receive(&mut self, session: Session, chunk: &SnapshotChunk) -> anyhow::Result<()> {
        let SnapshotChunk {
            epoch,
            position,
            total,
            offset,
            ref bytes,
        } = *chunk;
        let goes_on = |incoming: &Incoming| (incoming.epoch, incoming.position, incoming.total) == (epoch, position, total);
        let mut incoming = match self.incoming.take().filter(goes_on) {
            Some(incoming) => incoming,
            None => {
                let path = self.directory.partial("received");
                let file = File::options().create(true).truncate(true).write(true).open(&path)?;
                Incoming {
                    epoch,
                    position,
                    total,
                    have: 0,
                    synced: 0,
                    file,
                    path,
                }
            }
        };
        if offset == incoming.have && offset + bytes.len() as u64 <= total {
            incoming.file.write_all_at(bytes, offset)?;
            incoming.have += bytes.len() as u64;
        }
        let whole = incoming.have == total;
        if whole || incoming.have - incoming.synced >= SYNC_EVERY {
            incoming.file.sync_data()?;
            incoming.synced = incoming.have;
        }
        let mut ack = SnapshotAck {
            epoch,
            id: position.id,
            received: incoming.have,
            installed: false,
        };
        if !whole {
            self.incoming = Some(incoming);
            self.report(Report::Ack(session, ack));
            return Ok(());
        }
        // Under a name of its own: the next one to arrive must not overwrite what the node is about to install.
        let partial = self.directory.partial(&format!("{:020}", position.id.index));
        std::fs::rename(&incoming.path, &partial)?;
        let mut told = Instant::now();
        let (head, keyspace) = load_snapshot(partial.clone(), || {
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.report(Report::Ack(session, ack.clone()));
            }
        })?;
        anyhow::ensure!(
            head.position == position,
            "the snapshot is of {:?}, not of {position:?}",
            head.position
        );
        ack.installed = true;
        self.report(Report::Received {
            session,
            ack,
            head,
            keyspace: Box::new(keyspace),
            partial,
        });
        Ok(())
    }
}

/// Sleeps while more than `bytes_per_second` were written since `started`; 0 sets no limit.
fn pace(started: Instant, written: u64, bytes_per_second: u64) {
    if let Some(nanos) = (u128::from(written) * 1_000_000_000).checked_div(u128::from(bytes_per_second)) {
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}
