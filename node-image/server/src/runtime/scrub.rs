//! The background scrub: a thread that reads the volume again now and then, and what the node does about what it finds.
//!
//! Repair needs no peer while this node runs: its state in memory holds every committed entry, so a snapshot of it is
//! written anew, and the log before it is given back, the damaged part with it. Nothing is cut off: until the snapshot is
//! durable, everything stays where it is, and a stop meanwhile finds the damage at the next start, where peers repair it.

use super::node::Node;
use super::snapshot_thread::Report;
use crate::storage::{LogReader, Pass, Rot, SnapshotDirectory, scrub};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How often and how fast.
#[derive(Clone, Copy, Debug)]
pub struct ScrubSettings {
    /// Between two passes; zero for none but those that a failure asks for.
    pub interval: Duration,
    /// Bytes a second; 0 for no limit.
    pub bytes_per_second: u64,
}

/// Without an interval, a pass waits for somebody who asks for it.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the scrub found so far, and how to ask for a pass.
#[derive(Debug)]
pub struct Scrub {
    asks: Sender<()>,
    /// Passes so far.
    pub passes: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged files found.
    pub found: u64,
    /// Of these, repaired.
    pub repaired: u64,
    /// Under repair.
    rot: Vec<Rot>,
}

impl Scrub {
    /// Starts the thread; it ends when this value is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        settings: ScrubSettings,
        log: LogReader,
        directory: SnapshotDirectory,
        reports: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let ScrubSettings {
            interval,
            bytes_per_second,
        } = settings;
        let (asks, asked) = channel();
        let wait = if interval.is_zero() { NEVER } else { interval };
        let run = move || {
            // The start has just read everything.
            while !matches!(asked.recv_timeout(wait), Err(RecvTimeoutError::Disconnected)) {
                let newest = directory.indexes().ok().and_then(|indexes| indexes.first().copied());
                let snapshot = newest.map(|index| (directory.path(index), index));
                if reports.send(Report::Scrubbed(scrub(&log, snapshot, bytes_per_second))).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("scrub".into()).spawn(run)?;
        Ok(Self {
            asks,
            passes: 0,
            bytes: 0,
            found: 0,
            repaired: 0,
            rot: Vec::new(),
        })
    }

    /// Asks for a pass now.
    pub fn ask(&self) {
        // The thread lives as long as this value.
        let _ = self.asks.send(());
    }

    /// The index that a snapshot has to cover for the repair; None if nothing is damaged.
    #[must_use]
    pub fn repairs_through(&self) -> Option<u64> {
        self.rot.iter().map(|rot| rot.through).max()
    }

    /// What is damaged, for people.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let what: Vec<&str> = self.rot.iter().map(|rot| rot.what.as_str()).collect();
        (!what.is_empty()).then(|| what.join("; "))
    }
}

impl Node {
    /// A pass is over.
    pub(super) fn on_scrubbed(&mut self, pass: Pass) {
        let Pass { bytes, rot } = pass;
        self.scrub.passes += 1;
        self.scrub.bytes += bytes;
        for rot in rot {
            self.found_rot(rot);
        }
        self.tend_snapshots();
    }

    pub(super) fn found_rot(&mut self, rot: Rot) {
        if self.scrub.rot.iter().any(|known| known.what == rot.what) {
            return;
        }
        tracing::error!(
            what = rot.what,
            through = rot.through,
            "the disk lost what it held: writing a snapshot of the state in memory in its place"
        );
        self.scrub.found += 1;
        self.scrub.rot.push(rot);
    }

    /// A snapshot up to `covered` is durable, and the log before it is being given back: gives whether that repairs anything.
    pub(super) fn repaired_through(&mut self, covered: u64) -> bool {
        let before = self.scrub.rot.len();
        self.scrub.rot.retain(|rot| rot.through > covered);
        let repaired = before - self.scrub.rot.len();
        self.scrub.repaired += repaired as u64;
        if repaired > 0 {
            tracing::info!(repaired, covered, "a new snapshot stands in the place of what was damaged");
        }
        repaired > 0
    }
}
