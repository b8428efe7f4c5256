//! Leader election over a Lease, by client-go's rule: a candidate takes a lease only after it has itself observed it
//! unchanged for its whole duration, so clocks need not agree.
//!
//! The lease keeps two operators from working against each other. It is not a fence: the members are. So a leader that
//! cannot reach the API server goes on: nobody can take its lease there, and its failovers need neither.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// A lease that is not renewed for so long may be taken.
const DURATION: Duration = Duration::from_secs(6);
/// A renewal that takes longer is tried anew.
const RENEW_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// The rule alone: no client, no clock.
#[derive(Clone, Debug)]
pub struct Candidate {
    identity: String,
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// Who has not looked yet.
    #[must_use]
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// What to write over the lease that was read just now, if this candidate may take it or holds it; `None` if it is
    /// another's. `found` is `None` where there is no lease.
    pub fn attempt(&mut self, found: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Option<LeaseSpec> {
        let wall = MicroTime(wall);
        let Some(spec) = found else {
            return Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(DURATION.as_secs() as i32),
                acquire_time: Some(wall.clone()),
                renew_time: Some(wall),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            });
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| now.duration_since(*since));
        let length = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        let free = spec.holder_identity.as_deref().is_none_or(str::is_empty) || unchanged >= length;
        if !ours && !free {
            return None;
        }
        Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if ours { spec.acquire_time.clone() } else { Some(wall.clone()) },
            renew_time: Some(wall),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..spec.clone()
        })
    }
}

/// Whose the lease is after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Us,
    Other,
    /// It was written by somebody while we looked: the next look tells.
    Contested,
}

/// A candidate, or the leader.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
}

impl Election {
    /// For the lease `name`, as `identity`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            candidate: Candidate::new(identity),
        }
    }

    /// Returns once this candidate leads.
    pub async fn win(&mut self) {
        loop {
            match self.try_take().await {
                Ok(Holder::Us) => return,
                Ok(Holder::Other | Holder::Contested) => {}
                Err(error) => tracing::warn!(%error, "cannot reach the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews; returns when another candidate leads.
    pub async fn hold(&mut self) {
        loop {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(RENEW_TIMEOUT, self.try_take()).await {
                Ok(Ok(Holder::Us | Holder::Contested)) => {}
                Ok(Ok(Holder::Other)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("renewing the lease takes too long"),
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait.
    pub async fn release(&mut self) {
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.candidate.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
                tracing::warn!(%error, "cannot release the lease");
            }
        }
    }

    /// Takes or renews the lease if that is allowed.
    async fn try_take(&mut self) -> kube::Result<Holder> {
        let found = self.api.get_opt(&self.name).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let Some(wanted) = self.candidate.attempt(spec.as_ref(), Instant::now(), Timestamp::now()) else {
            return Ok(Holder::Other);
        };
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(wanted),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        lease.spec = Some(wanted);
        // The resource version in the object makes this a compare-and-swap.
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }
}

fn won(outcome: kube::Result<Lease>) -> kube::Result<Holder> {
    match outcome {
        Ok(_) => Ok(Holder::Us),
        Err(kube::Error::Api(error)) if error.code == 409 => Ok(Holder::Contested),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_after_it_was_seen_unchanged_for_its_whole_duration_whatever_its_clock_says() {
        let (begin, wall) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let (mut holder, mut other) = (Candidate::new("a".to_owned()), Candidate::new("b".to_owned()));
        let first = holder.attempt(None, begin, wall).unwrap();
        assert_eq!(first.holder_identity.as_deref(), Some("a"));
        assert_eq!(other.attempt(Some(&first), begin, Timestamp::MAX), None, "seen just now");
        let renewed = holder.attempt(Some(&first), begin + RETRY, wall + RETRY).unwrap();
        assert_eq!(renewed.lease_transitions, Some(0));
        let late = begin + DURATION;
        assert_eq!(other.attempt(Some(&renewed), late, wall), None, "it changed meanwhile");
        assert_eq!(other.attempt(Some(&renewed), late + DURATION - RETRY, wall), None);
        let taken = other.attempt(Some(&renewed), late + DURATION, wall).unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
        assert_eq!(holder.attempt(Some(&taken), late + DURATION, wall), None);
        let released = LeaseSpec {
            holder_identity: None,
            ..taken
        };
        assert!(holder.attempt(Some(&released), late + DURATION, wall).is_some(), "given back");
    }
}
