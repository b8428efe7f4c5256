//! Configurations and the arithmetic of quorums: the one place where it is computed what a quorum tolerates.

use crate::identity::Incarnation;
use serde::{Deserialize, Serialize};

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Consistency {
    /// A write is acknowledged when it is committed: no failover loses it, and reads are linearizable.
    #[default]
    Strong,
    /// A write is acknowledged when V_w members hold it, which may be the primary alone; it is committed when a majority
    /// does. A failover loses what was acknowledged and not committed yet, and keeps it aside where it was cut off.
    Eventual,
}

impl Consistency {
    /// What nodes from before there was a choice go by, and what is not written out.
    fn is_strong(&self) -> bool {
        *self == Self::Strong
    }
}

/// Quorum sizes of a configuration of `replicas` members.
///
/// Whatever the consistency, the log itself is kept by quorums that intersect: an entry is committed when
/// [`Quorum::commit`] members hold it, and a view change meets [`Quorum::fence`] of them. Consistency only says whether a
/// client is answered before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// V: the number of members.
    pub replicas: u32,
    /// V_w: members that must hold an entry durably before it is acknowledged.
    pub write: u32,
    /// V_r: members, the primary included, that must confirm the epoch before a read is answered.
    pub read: u32,
    /// Whether acknowledged means committed.
    #[serde(default)]
    pub consistency: Consistency,
}

impl Quorum {
    /// These sizes, where acknowledged means committed.
    #[must_use]
    pub const fn strong(replicas: u32, write: u32, read: u32) -> Self {
        Self {
            replicas,
            write,
            read,
            consistency: Consistency::Strong,
        }
    }

    /// A majority for both.
    #[must_use]
    pub fn majority(replicas: u32) -> Self {
        let half = replicas / 2 + 1;
        Self::strong(replicas, half, half)
    }

    /// The primary alone for both, which only [`Consistency::Eventual`] allows.
    #[must_use]
    pub fn eventual(replicas: u32) -> Self {
        Self {
            replicas,
            write: 1,
            read: 1,
            consistency: Consistency::Eventual,
        }
    }

    /// Members that must hold an entry durably before it is committed, which no view change can undo: V_w, and with
    /// [`Consistency::Eventual`] a majority at least.
    #[must_use]
    pub fn commit(self) -> u32 {
        match self.consistency {
            Consistency::Strong => self.write,
            Consistency::Eventual => self.write.max(self.replicas / 2 + 1),
        }
    }

    /// V_f = V − min(V_w, V_r) + 1: so many members fenced leave neither a write nor a read quorum to the old primary. With
    /// [`Consistency::Eventual`] a majority: it leaves the old primary nothing to commit with, and one epoch wins.
    #[must_use]
    pub fn fence(self) -> u32 {
        match self.consistency {
            Consistency::Strong => self.replicas - self.write.min(self.read) + 1,
            Consistency::Eventual => self.replicas / 2 + 1,
        }
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

    /// Failed members, the primary among them, with which a failover still succeeds: V − V_f, which is min(V_w, V_r) − 1
    /// where acknowledged means committed.
    #[must_use]
    pub fn failover_tolerates(self) -> u32 {
        self.replicas - self.fence()
    }

    /// Whether a failover can lose what was acknowledged: some of it is not committed yet.
    #[must_use]
    pub fn failover_loses(self) -> bool {
        self.write < self.commit()
    }

    /// Whether a primary that was replaced may still answer reads because it does not know: V_r members need not meet the
    /// fence.
    #[must_use]
    pub fn deposed_may_answer(self) -> bool {
        self.read + self.fence() <= self.replicas
    }

    /// # Errors
    /// Says which rule of a strong store is broken, with the numbers.
    pub fn validate(self) -> Result<Self, ConfigurationError> {
        let Self {
            replicas,
            write,
            read,
            consistency,
        } = self;
        if write == 0 || read == 0 || write > replicas || read > replicas {
            return Err(ConfigurationError::OutOfRange { replicas, write, read });
        }
        if consistency == Consistency::Strong && (write + read <= replicas || 2 * write <= replicas) {
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
    /// Absent in what nodes from before there was a choice wrote: the bytes of an entry are part of its chain hash.
    #[serde(default, skip_serializing_if = "Consistency::is_strong")]
    consistency: Consistency,
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
    /// One with [`Consistency::Strong`].
    ///
    /// # Errors
    /// When a member is listed twice or the quorums break [`Quorum::validate`].
    pub fn new(members: Vec<Member>, write: u32, read: u32) -> Result<Self, ConfigurationError> {
        let replicas = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Self::of(members, Quorum::strong(replicas, write, read))
    }

    /// Of these members, by the sizes of `quorum`, whose number of replicas is not looked at.
    ///
    /// # Errors
    /// See [`Configuration::new`].
    pub fn of(mut members: Vec<Member>, quorum: Quorum) -> Result<Self, ConfigurationError> {
        let Quorum {
            replicas: _,
            write,
            read,
            consistency,
        } = quorum;
        members.sort();
        for pair in members.windows(2) {
            if pair[0].incarnation == pair[1].incarnation {
                return Err(ConfigurationError::Duplicate(pair[0].incarnation));
            }
        }
        let configuration = Self {
            members,
            write,
            read,
            consistency,
        };
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
            consistency: self.consistency,
        }
    }

    /// So many pods, from ordinal 0 on, a StatefulSet needs for every member to have one.
    #[must_use]
    pub fn pods(&self) -> u32 {
        let needed = self.members.iter().map(|member| member.ordinal + 1);
        needed.max().unwrap_or_default()
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

    /// Every quorum of up to nine replicas that is allowed.
    fn all() -> impl Iterator<Item = Quorum> {
        let sizes = (1..=9u32).flat_map(|v| (1..=v).flat_map(move |w| (1..=v).map(move |r| (v, w, r))));
        let both = sizes.flat_map(|(replicas, write, read)| {
            [Consistency::Strong, Consistency::Eventual].map(|consistency| Quorum {
                replicas,
                write,
                read,
                consistency,
            })
        });
        both.filter(|quorum| quorum.validate().is_ok())
    }

    #[test]
    fn a_fence_meets_every_commit_quorum_and_with_strong_consistency_every_read_quorum() {
        for q in all() {
            let v = q.replicas;
            assert!(q.fence() + q.commit() > v, "{q:?}");
            assert!(q.fence_for_change() + q.fence() > v, "{q:?}");
            assert!(q.fence() >= 1 && q.fence_for_change() <= v && q.commit() <= v, "{q:?}");
            assert_eq!(q.failover_tolerates(), v - q.fence(), "{q:?}");
            if q.consistency == Consistency::Strong {
                assert!(q.fence() + q.read > v && !q.deposed_may_answer(), "{q:?}");
                assert_eq!(q.failover_tolerates(), q.write.min(q.read) - 1, "{q:?}");
                assert!(!q.failover_loses() && q.commit() == q.write, "{q:?}");
            }
        }
    }

    /// A change of consistency has the same members before and after. Whoever drives it, or drives later with the old
    /// configuration alone, meets what was committed under either.
    #[test]
    fn the_fences_of_both_sides_of_a_change_of_consistency_meet_what_the_other_side_committed() {
        for old in all() {
            for new in all().filter(|new| new.replicas == old.replicas && new.consistency != old.consistency) {
                let v = old.replicas;
                assert!(old.fence_for_change() + old.commit() > v, "the change sees all of {old:?}");
                assert!(old.fence_for_change() + old.fence() > v, "nobody misses the change from {old:?}");
                assert!(new.fence_for_change() + new.commit() > v, "and it goes back: {new:?}");
            }
        }
    }

    #[test]
    fn a_quorum_that_can_lose_writes_is_refused_with_the_numbers_unless_somebody_wants_it() {
        let quorum = |consistency| Quorum {
            replicas: 4,
            write: 2,
            read: 3,
            consistency,
        };
        assert_eq!(
            quorum(Consistency::Strong).validate().unwrap_err().to_string(),
            "quorum write=2 read=3 of 4 replicas can lose writes: write + read must be above 4, and 2 * write too"
        );
        let eventual = quorum(Consistency::Eventual).validate().unwrap();
        assert_eq!((eventual.commit(), eventual.fence(), eventual.failover_loses()), (3, 3, true));
    }

    #[test]
    fn a_strong_configuration_has_the_bytes_that_it_had_before_there_was_a_choice() {
        let member = Member {
            incarnation: Incarnation(uuid::Uuid::nil()),
            ordinal: 0,
            host: "a".into(),
        };
        let old = r#"{"members":[{"incarnation":"00000000-0000-0000-0000-000000000000","ordinal":0,"host":"a"}],"write":1,"read":1}"#;
        let strong = Configuration::new(vec![member.clone()], 1, 1).unwrap();
        assert_eq!(serde_json::to_string(&strong).unwrap(), old);
        assert_eq!(serde_json::from_str::<Configuration>(old).unwrap(), strong);
        let eventual = Configuration::of(vec![member], Quorum::eventual(1)).unwrap();
        let text = serde_json::to_string(&eventual).unwrap();
        assert!(text.ends_with(r#""read":1,"consistency":"Eventual"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Configuration>(&text).unwrap(), eventual);
    }
}
