//! What follows from the outcome of a view change.

use super::failover::DATA_LOST;
use super::{Drive, Goal, MAX_BACKOFF, MAX_CHANGE_BACKOFF, MIN_BACKOFF, MIN_CHANGE_BACKOFF, Memory, Note, ViewChange};
use crate::observe::Observed;
use crate::report::told_index;
use crate::view_change::ViewChangeError;
use quorate_api::Incarnation;
use quorate_client::{DriveError, Driven};
use quorate_crds::{DataLoss, LastFailover};
use quorate_protocol::DriverFailure;
use std::time::{Duration, Instant};

/// What follows from the outcome of a view change.
#[derive(Clone, Debug, PartialEq)]
pub struct Conclusion {
    /// For the next plan.
    pub memory: Memory,
    /// The events to write.
    pub notes: Vec<Note>,
    /// What the status shall tell, if it was a failover that came about.
    pub failover: Option<LastFailover>,
    /// What the status shall tell, if a person's acceptance of data loss was made use of.
    pub data_loss: Option<DataLoss>,
}

/// Concludes the view change `drive` of a shard.
#[must_use]
pub fn conclude(
    memory: &Memory,
    shard: u32,
    drive: &Drive,
    outcome: &Result<Driven, ViewChangeError>,
    members: &[Observed],
    now: Instant,
) -> Conclusion {
    let mut memory = memory.clone();
    memory.own = Some(drive.epoch);
    match outcome {
        Ok(driven) => succeeded(memory, shard, drive, driven, members, now),
        Err(error) => {
            failed(&mut memory, drive, error, now);
            Conclusion {
                memory,
                notes: Vec::new(),
                failover: None,
                data_loss: None,
            }
        }
    }
}

fn failed(memory: &mut Memory, drive: &Drive, error: &ViewChangeError, now: Instant) {
    match drive.change.goal {
        Goal::Bootstrap(_) | Goal::Failover | Goal::Recover(_) => {
            memory.retry_at = now + memory.backoff;
            memory.backoff = (memory.backoff * 2).min(MAX_BACKOFF);
            memory.failure = Some(error.to_string());
        }
        Goal::Switchover(_) | Goal::Change(_) => {
            memory.change_retry_at = now + memory.change_backoff;
            memory.change_backoff = (memory.change_backoff * 2).min(MAX_CHANGE_BACKOFF);
            memory.change_failure = Some(error.to_string());
        }
    }
    match error {
        ViewChangeError::DataLost => memory.data_lost = Some(DATA_LOST.to_owned()),
        ViewChangeError::Drive(DriveError::Failed(DriverFailure::Superseded { highest })) => {
            memory.highest = memory.highest.max(*highest);
        }
        ViewChangeError::Drive(_) | ViewChangeError::Api(_) | ViewChangeError::Overtaken => {}
    }
}

fn succeeded(mut memory: Memory, shard: u32, drive: &Drive, driven: &Driven, members: &[Observed], now: Instant) -> Conclusion {
    let primary = &driven.changed.primary;
    let found = members.iter().find(|member| member.incarnation() == Some(primary.incarnation));
    let to = found.map_or_else(|| primary.host.clone(), |member| member.pod.clone());
    let number = driven.changed.start.epoch.number;
    (memory.backoff, memory.retry_at, memory.failure) = (MIN_BACKOFF, now, None);
    let ViewChange { goal, from, reason, .. } = &drive.change;
    match goal {
        Goal::Bootstrap(_) | Goal::Failover | Goal::Recover(_) => {}
        // The primary is another one than it should be: that is tried again, a little later each time.
        Goal::Switchover(wanted) if *wanted != primary.incarnation => {
            memory.change_retry_at = now + memory.change_backoff;
            memory.change_backoff = (memory.change_backoff * 2).min(MAX_CHANGE_BACKOFF);
            memory.change_failure = Some(format!("{to} held more of the log and serves now"));
        }
        Goal::Switchover(_) | Goal::Change(_) => {
            (memory.change_backoff, memory.change_retry_at, memory.change_failure) = (MIN_CHANGE_BACKOFF, now, None);
        }
    }
    let after = |moment: tokio::time::Instant| moment.into_std().saturating_duration_since(drive.begun);
    let (fenced, served) = (after(driven.fenced), after(driven.served));
    let moment = |offset: Duration| format!("{:.3}", drive.detected.saturating_add(offset).unwrap_or(drive.detected));
    let took = format!(
        "epoch {number}: fenced after {} ms, serving after {} ms. Reason: {reason}",
        fenced.as_millis(),
        served.as_millis()
    );
    let from_to = format!("{} -> {to}", from.as_deref().unwrap_or("nobody"));
    let note = |warning, reason, text| Note { warning, reason, text };
    let (mut failover, mut data_loss) = (None, None);
    let note = match goal {
        Goal::Bootstrap(_) => note(false, "Bootstrapped", format!("{to} serves epoch {number}, the first one")),
        Goal::Switchover(_) => note(false, "SwitchedOver", format!("{from_to}, {took}")),
        Goal::Change(target) => {
            let quorum = target.quorum();
            let (replicas, write, read) = (quorum.replicas, quorum.write, quorum.read);
            let text = format!("{replicas} members, write {write}, read {read} are in force; primary {from_to}, {took}");
            note(false, "ConfigurationChanged", text)
        }
        Goal::Recover(survivors) => {
            memory.answered.accept_data_loss = memory.accepting.take();
            let each = survivors.members().iter().map(|survivor| name(members, survivor.incarnation));
            let pods = each.collect::<Vec<_>>().join(", ");
            let text = format!("a person accepted the loss of acknowledged writes: the group goes on with {pods} alone; {reason}");
            data_loss = Some(DataLoss {
                shard: told_index(shard),
                at: moment(served),
                epoch: i64::try_from(number).unwrap_or(i64::MAX),
                reason: text.clone(),
            });
            note(true, "DataLossAccepted", format!("{text}; {to} serves epoch {number}"))
        }
        Goal::Failover => {
            memory.last_failover = Some(now);
            failover = Some(LastFailover {
                shard: told_index(shard),
                from: from.clone(),
                to,
                reason: reason.clone(),
                detected_at: moment(Duration::ZERO),
                fenced_at: moment(fenced),
                promoted_at: moment(served),
                duration_millis: i64::try_from(served.as_millis()).unwrap_or(i64::MAX),
                epoch: i64::try_from(number).unwrap_or(i64::MAX),
                lag_entries: crate::losses::lag(members, from.as_deref(), driven.changed.start.index),
                lost: None,
            });
            note(false, "FailedOver", format!("{from_to}, {took}"))
        }
    };
    Conclusion {
        memory,
        notes: vec![note],
        failover,
        data_loss,
    }
}

fn name(members: &[Observed], incarnation: Incarnation) -> String {
    let found = members.iter().find(|member| member.incarnation() == Some(incarnation));
    found.map_or_else(|| incarnation.to_string(), |member| member.pod.clone())
}
