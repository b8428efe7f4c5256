//! One fault under the checked workload: begin, strike, see what becomes of it, mend, and count.

use super::Measured;
use crate::lab::{Lab, StorePod, epoch_of, holds, primary_of};
use crate::workload::history::History;
use crate::workload::{Workload, lost};
use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use quorate_crds::{LastFailover, ReplicatedStoreStatus};
use std::time::{Duration, SystemTime};

/// Acknowledged writes before a fault, and after it.
const WARM_UP: u64 = 500;
/// A store whose pods restart is Ready again within this time.
pub const RECOVERS: Duration = Duration::from_secs(180);
/// Timestamps of the operator are cut to milliseconds.
const CLOCK_STEP_MICROS: u64 = 1000;

/// See the module.
pub struct Trial<'a> {
    /// The store.
    pub lab: &'a Lab,
    /// The primary before the fault.
    pub primary: StorePod,
    /// All pods before the fault.
    pub pods: Vec<StorePod>,
    workload: Workload,
    seed: u64,
    before: ReplicatedStoreStatus,
    struck: u64,
    after: Option<ReplicatedStoreStatus>,
}

/// A failover, in milliseconds after the fault.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The operator found the primary lost.
    pub detected: Option<f64>,
    /// Enough members had promised a later epoch.
    pub fenced: Option<f64>,
    /// The next primary served.
    pub promoted: Option<f64>,
    /// The end of the longest outage that a journal writer saw.
    pub first_write: Option<f64>,
}

impl<'a> Trial<'a> {
    /// Waits until the store is Ready, then loads it.
    ///
    /// # Errors
    /// If it does not get Ready, or acknowledges nothing.
    pub fn begin(lab: &'a Lab, seed: u64) -> Result<Self> {
        let before = lab.await_ready(RECOVERS)?;
        let (primary, pods) = (lab.primary()?, lab.pods()?);
        let workload = Workload::start(lab.place()?, &format!("{seed:x}"), seed)?;
        workload.await_acknowledged(WARM_UP, Duration::from_secs(30))?;
        Ok(Self {
            lab,
            primary,
            pods,
            workload,
            seed,
            before,
            struck: 0,
            after: None,
        })
    }

    /// Pods that are not the primary.
    #[must_use]
    pub fn replicas(&self) -> Vec<StorePod> {
        self.pods.iter().filter(|pod| **pod != self.primary).cloned().collect()
    }

    /// Injects the fault; what follows is counted from now.
    ///
    /// # Errors
    /// Those of the fault.
    pub fn strike(&mut self, fault: impl FnOnce() -> Result<()>) -> Result<()> {
        self.struck = self.workload.now();
        fault().context("inject the fault")
    }

    /// Waits until a primary of a later epoch serves, another one than before unless `same` is allowed.
    ///
    /// # Errors
    /// If none does within `patience`.
    pub fn await_failover(&mut self, patience: Duration, same: bool) -> Result<()> {
        let (epoch, old) = (epoch_of(&self.before), self.primary.name.clone());
        let status = self.lab.await_status("another primary serves", patience, |status| {
            let primary = primary_of(status);
            holds(status, "Available") && epoch_of(status) > epoch && primary.is_some() && (same || primary != Some(&old))
        })?;
        self.after = Some(status);
        self.workload
            .await_acknowledged(WARM_UP, Duration::from_secs(30))
            .context("after the failover")
    }

    /// Replaces the pod whose process was killed: the kubelet waits longer and longer before it starts the container of one
    /// that was killed often.
    ///
    /// # Errors
    /// If no new pod comes.
    pub fn replace_primary_pod(&self) -> Result<()> {
        self.lab.delete_pod(&self.primary.name)?;
        self.await_replaced()
    }

    /// Waits until the primary's pod is another one of the same name.
    ///
    /// # Errors
    /// If it does not come.
    pub fn await_replaced(&self) -> Result<()> {
        self.lab.until("the pod is replaced", RECOVERS, || {
            let pods = self.lab.pods()?;
            let replaced = |pod: &StorePod| pod.name == self.primary.name && pod.uid != self.primary.uid;
            Ok(pods.iter().any(replaced).then_some(()))
        })
    }

    /// Lets the clients go on for a while.
    ///
    /// # Errors
    /// If fewer than `acknowledged` further writes are acknowledged.
    pub fn go_on(&self, acknowledged: u64) -> Result<()> {
        self.workload.await_acknowledged(acknowledged, Duration::from_secs(30))
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.workload.acknowledged()
    }

    /// Checks that the primary and its epoch are those of the beginning.
    ///
    /// # Errors
    /// If they are not.
    pub fn ensure_no_failover(&self) -> Result<()> {
        let status = self.lab.status()?;
        ensure!(
            epoch_of(&status) == epoch_of(&self.before) && primary_of(&status) == Some(&self.primary.name),
            "a failover happened: {} epoch {} -> {:?} epoch {}",
            self.primary.name,
            epoch_of(&self.before),
            primary_of(&status),
            epoch_of(&status)
        );
        Ok(())
    }

    /// Checks that no later epoch was begun.
    ///
    /// # Errors
    /// If one was.
    pub fn ensure_same_epoch(&self) -> Result<()> {
        let status = self.lab.status()?;
        ensure!(epoch_of(&status) == epoch_of(&self.before), "epoch {} was begun", epoch_of(&status));
        Ok(())
    }

    /// Waits until the store is whole again, ends the clients, and counts.
    ///
    /// # Errors
    /// If it does not get whole, or does not answer.
    pub fn end(self) -> Result<Measured> {
        self.lab.await_ready(RECOVERS).context("after the fault")?;
        self.workload.await_acknowledged(100, Duration::from_secs(30))?;
        let after = self.after.clone();
        let (seed, struck, old) = (self.seed, self.struck, self.primary.client());
        let history = self.workload.finish()?;
        let lost = lost(&self.lab.place()?, &history, Duration::from_secs(30))?;
        // A primary that hands over is deposed too, but no operator writes down when: then the status tells of an earlier
        // failover, and not always of the same as before, because each of two operators remembers its own.
        let failover = after.as_ref().and_then(|status| status.last_failover.as_ref());
        let failover = failover.filter(|failover| {
            let detected = moment(&history, &failover.detected_at);
            detected.is_some_and(|at| at + CLOCK_STEP_MICROS >= struck)
        });
        let next = after.as_ref().and_then(primary_of).filter(|name| *name != self.primary.name);
        let next = next
            .and_then(|name| self.pods.iter().find(|pod| pod.name == name))
            .map(StorePod::client);
        let taken_over = next.and_then(|next| history.first_acknowledged_by(next, struck));
        let fenced = failover.and_then(|failover| moment(&history, &failover.fenced_at));
        // Where nobody wrote down when the fence stood, it stood when the next primary acknowledged its first write.
        let deposed_from = fenced.map(|at| at + CLOCK_STEP_MICROS).into_iter().chain(taken_over).min();
        let deposed_acks = deposed_from
            .filter(|_| next.is_some())
            .map_or(0, |from| history.acknowledged_by(old, from, u64::MAX).len());
        let longest = |marker| history.outage(marker, struck, taken_over.unwrap_or(u64::MAX));
        let outage = longest(":j");
        let end = outage.map_or(struck, |(_, end)| end);
        Ok(Measured {
            acknowledged: history.acknowledged_count(),
            around: history.around(struck, end),
            lost,
            violations: history.violations(),
            deposed_acks,
            outage_millis: outage.map(|(length, _)| millis(length)),
            ordinary_outage_millis: longest(":o").map(|(length, _)| millis(length)),
            timeline: timeline(&history, struck, end, failover),
            seed,
        })
    }
}

fn moment(history: &History, text: &str) -> Option<u64> {
    let timestamp: Timestamp = text.parse().ok()?;
    history.at(SystemTime::from(timestamp))
}

fn timeline(history: &History, struck: u64, end: u64, failover: Option<&LastFailover>) -> Timeline {
    let after = |at: u64| (at as f64 - struck as f64) / 1000.0;
    let step = |text: fn(&LastFailover) -> &str| failover.and_then(|failover| moment(history, text(failover))).map(after);
    Timeline {
        detected: step(|failover| &failover.detected_at),
        fenced: step(|failover| &failover.fenced_at),
        promoted: step(|failover| &failover.promoted_at),
        first_write: Some(after(end)),
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}
