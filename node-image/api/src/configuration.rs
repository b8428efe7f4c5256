//! Configurations and the arithmetic of quorums: the one place where it is computed what a quorum tolerates.

use crate::identity::Incarnation;
use serde::{Deserialize, Serialize};

/// Quorum sizes of a configuration of `replicas` members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// V: the number of members.
    pub replicas: u32,
    /// V_w: members that must hold an entry durably before it is committed.
    pub write: u32,
    /// V_r: members, the primary included, that must confirm the epoch before a linearizable read is answered.
    pub read: u32,
}

impl Quorum {
    /// A majority for both.
    #[must_use]
    pub fn majority(replicas: u32) -> Self {
        let half = replicas / 2 + 1;
        Self {
            replicas,
            write: half,
            read: half,
        }
    }

    /// V_f = V − min(V_w, V_r) + 1: so many members fenced leave neither a write nor a read quorum to the old primary.
    #[must_use]
    pub fn fence(self) -> u32 {
        self.replicas - self.write.min(self.read) + 1
    }

    /// max(V_f, V − V_f + 1): what a proposal that changes the configuration must fence in the old one,
    /// so that no later driver, which fences only V_f of it, can miss the change.
    #[must_use]
    pub fn fence_for_change(self) -> u32 {
        self.fence().max(self.replicas - self.fence() + 1)
    }

    /// Failed members with which writes are still acknowledged: V − V_w.
    #[must_use]
    pub fn writes_tolerate(self) -> u32 {
        self.replicas - self.write
    }

    /// Failed members with which linearizable reads are still answered: V − V_r.
    #[must_use]
    pub fn reads_tolerate(self) -> u32 {
        self.replicas - self.read
    }

    /// Failed members, the primary among them, with which a failover still succeeds: min(V_w, V_r) − 1.
    #[must_use]
    pub fn failover_tolerates(self) -> u32 {
        self.write.min(self.read) - 1
    }

    /// # Errors
    /// Says which rule of a strong store is broken, with the numbers.
    pub fn validate(self) -> Result<Self, ConfigurationError> {
        let Self { replicas, write, read } = self;
        if write == 0 || read == 0 || write > replicas || read > replicas {
            return Err(ConfigurationError::OutOfRange { replicas, write, read });
        }
        if write + read <= replicas || 2 * write <= replicas {
            return Err(ConfigurationError::NoIntersection { replicas, write, read });
        }
        Ok(self)
    }
}

/// One voting member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Counted in quorums.
    pub incarnation: Incarnation,
    /// The ordinal of its pod.
    pub ordinal: u32,
    /// `name:port` of its replica protocol: a DNS name, never an address. Live addresses travel otherwise.
    pub host: String,
}

/// The members of a group and its quorums, as an epoch-start entry carries them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Sorted by incarnation, without repetition.
    members: Vec<Member>,
    /// V_w.
    write: u32,
    /// V_r.
    read: u32,
}

/// Why a configuration cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A quorum of nobody, or of more than there are.
    #[error("quorum write={write} read={read} does not fit {replicas} replicas: each must be between 1 and {replicas}")]
    OutOfRange {
        /// V.
        replicas: u32,
        /// V_w.
        write: u32,
        /// V_r.
        read: u32,
    },
    /// Two quorums that need not meet.
    #[error(
        "quorum write={write} read={read} of {replicas} replicas can lose writes: write + read must be above {replicas}, and 2 * write too"
    )]
    NoIntersection {
        /// V.
        replicas: u32,
        /// V_w.
        write: u32,
        /// V_r.
        read: u32,
    },
    /// The same incarnation twice.
    #[error("member {0} is listed twice")]
    Duplicate(Incarnation),
}

impl Configuration {
    /// # Errors
    /// When a member is listed twice or the quorums break [`Quorum::validate`].
    pub fn new(mut members: Vec<Member>, write: u32, read: u32) -> Result<Self, ConfigurationError> {
        members.sort();
        for pair in members.windows(2) {
            if pair[0].incarnation == pair[1].incarnation {
                return Err(ConfigurationError::Duplicate(pair[0].incarnation));
            }
        }
        let configuration = Self { members, write, read };
        configuration.quorum().validate()?;
        Ok(configuration)
    }

    /// The members, sorted by incarnation.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Its sizes.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        Quorum {
            replicas: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
            write: self.write,
            read: self.read,
        }
    }

    /// Whether `incarnation` counts in this configuration.
    #[must_use]
    pub fn contains(&self, incarnation: Incarnation) -> bool {
        self.member(incarnation).is_some()
    }

    /// The member of that incarnation.
    #[must_use]
    pub fn member(&self, incarnation: Incarnation) -> Option<&Member> {
        self.members.iter().find(|m| m.incarnation == incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_meets_every_write_and_read_quorum() {
        for replicas in 1..=9 {
            for write in 1..=replicas {
                for read in 1..=replicas {
                    let q = Quorum { replicas, write, read };
                    if q.validate().is_err() {
                        continue;
                    }
                    assert!(q.fence() + write > replicas, "{q:?}");
                    assert!(q.fence() + read > replicas, "{q:?}");
                    assert!(q.fence_for_change() + q.fence() > replicas, "{q:?}");
                    assert!(q.fence() >= 1 && q.fence_for_change() <= replicas, "{q:?}");
                    assert_eq!(q.failover_tolerates(), replicas - q.fence(), "{q:?}");
                }
            }
        }
    }

    #[test]
    fn a_quorum_that_can_lose_writes_is_refused_with_the_numbers() {
        let error = Quorum {
            replicas: 4,
            write: 2,
            read: 3,
        }
        .validate()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "quorum write=2 read=3 of 4 replicas can lose writes: write + read must be above 4, and 2 * write too"
        );
    }
}
