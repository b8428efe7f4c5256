//! A spec, checked. Later code cannot see the raw one.

use kube::ResourceExt;
use quorate_api::wire::FailoverPolicy;
use quorate_api::{Consistency, Quorum};
use quorate_crds::{Durability, FailoverMode, RebalanceMode, ReplicatedStore, UpdateMode};
use std::time::Duration;

/// What the rest of the operator works by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Namespace and name.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// The store's identity.
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Shards that are wanted.
    pub shards: u32,
    /// V, V_w, V_r, and what an acknowledgement is worth.
    pub quorum: Quorum,
    /// When a write counts as held by a node.
    pub durability: Durability,
    /// Memory limit in bytes; 0 for none.
    pub max_memory: u64,
    /// Whether the operator starts failovers.
    pub automatic: bool,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a node is suspected.
    pub suspect_after: Duration,
    /// Between two failovers.
    pub min_interval: Duration,
    /// A member whose volume or machine is gone for so long is replaced; None: never.
    pub recreate_after: Option<Duration>,
    /// Silence of every operator after which members fail over by themselves; None: never.
    pub operator_away: Option<Duration>,
    /// Whether the operator restarts pods that do not run what the spec asks for.
    pub restarts: bool,
    /// How slots move.
    pub rebalance: Rebalance,
    /// The operator leaves the objects alone.
    pub paused: bool,
}

/// How slots move between shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// Whether the operator begins by itself.
    pub automatic: bool,
    /// Moves under way at a time.
    pub max_concurrent_moves: u32,
    /// Bytes that they copy in a second together; 0 for no limit.
    pub max_bytes_per_second: u64,
}

/// What is wrong with a spec although the API server took it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Quorums that do not fit.
    #[error("spec.quorum: {0}")]
    Quorum(#[from] quorate_api::ConfigurationError),
    /// A number that does not fit.
    #[error("spec.{0} is out of range")]
    Range(&'static str),
    /// No Kubernetes quantity.
    #[error("spec.{0} {1:?} is not a quantity: write it as 512Mi or 2Gi")]
    Quantity(&'static str, String),
}

impl Settings {
    /// # Errors
    /// See [`SpecError`]: the message goes to the user.
    pub fn of(store: &ReplicatedStore) -> Result<Self, SpecError> {
        let spec = &store.spec;
        let shards = u32::try_from(spec.shards).ok().filter(|shards| *shards > 0);
        let replicas = u32::try_from(spec.replicas_per_shard).map_err(|_| SpecError::Range("replicasPerShard"))?;
        let consistency = match spec.consistency {
            quorate_crds::Consistency::Strong => Consistency::Strong,
            quorate_crds::Consistency::Eventual => Consistency::Eventual,
        };
        let quorum = match spec.quorum {
            None if consistency == Consistency::Eventual => Quorum::eventual(replicas),
            None => Quorum::majority(replicas),
            Some(quorum) => Quorum {
                replicas,
                write: u32::try_from(quorum.write).map_err(|_| SpecError::Range("quorum.write"))?,
                read: u32::try_from(quorum.read).map_err(|_| SpecError::Range("quorum.read"))?,
                consistency,
            },
        };
        let millis = |value: i32, field| u64::try_from(value).map(Duration::from_millis).map_err(|_| SpecError::Range(field));
        let seconds = |value: i32, field| u64::try_from(value).map(Duration::from_secs).map_err(|_| SpecError::Range(field));
        let set = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let failover = &spec.failover;
        Ok(Self {
            namespace: store.namespace().unwrap_or_default(),
            name: store.name_any(),
            uid: store.uid().unwrap_or_default(),
            generation: store.metadata.generation.unwrap_or_default(),
            shards: shards.ok_or(SpecError::Range("shards"))?,
            quorum: quorum.validate()?,
            durability: spec.replication.durability,
            max_memory: spec.max_memory.as_deref().map_or(Ok(0), |text| bytes("maxMemory", text))?,
            automatic: failover.mode == FailoverMode::Automatic,
            heartbeat: millis(failover.heartbeat_millis, "failover.heartbeatMillis")?,
            suspect_after: millis(failover.suspect_after_millis, "failover.suspectAfterMillis")?,
            min_interval: seconds(failover.min_interval_seconds, "failover.minIntervalSeconds")?,
            recreate_after: set(seconds(failover.recreate_after_seconds, "failover.recreateAfterSeconds")?),
            operator_away: set(seconds(failover.operator_away_seconds, "failover.operatorAwaySeconds")?),
            restarts: spec.update.mode == UpdateMode::Automatic,
            rebalance: rebalance(&spec.rebalance)?,
            paused: spec.paused,
        })
    }

    /// What members go by when no operator listens any more.
    #[must_use]
    pub fn policy(&self) -> FailoverPolicy {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        FailoverPolicy {
            automatic: self.automatic,
            suspect_after_millis: millis(self.suspect_after),
            operator_away_millis: self.operator_away.map_or(0, millis),
        }
    }

    /// `namespace/name`, for logs.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn rebalance(spec: &quorate_crds::Rebalance) -> Result<Rebalance, SpecError> {
    let moves = u32::try_from(spec.max_concurrent_moves).ok().filter(|moves| *moves > 0);
    let limit = spec.max_bytes_per_second.as_str();
    Ok(Rebalance {
        automatic: spec.mode == RebalanceMode::Automatic,
        max_concurrent_moves: moves.ok_or(SpecError::Range("rebalance.maxConcurrentMoves"))?,
        max_bytes_per_second: if limit == "0" {
            0
        } else {
            bytes("rebalance.maxBytesPerSecond", limit)?
        },
    })
}

/// Bytes of a quantity.
fn bytes(field: &'static str, text: &str) -> Result<u64, SpecError> {
    const UNITS: [(&str, u64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let wrong = || SpecError::Quantity(field, text.to_owned());
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, *unit)))
        .unwrap_or((text, 1));
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    if !number.is_finite() || number <= 0.0 {
        return Err(wrong());
    }
    Ok((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::ReplicatedStoreSpec;

    fn store(spec: serde_json::Value) -> ReplicatedStore {
        let spec: ReplicatedStoreSpec = serde_json::from_value(spec).unwrap();
        ReplicatedStore::new("s", spec)
    }

    #[test]
    fn an_empty_spec_is_three_replicas_with_majorities() {
        let settings = Settings::of(&store(serde_json::json!({}))).unwrap();
        assert_eq!(settings.quorum, Quorum::strong(3, 2, 2));
        assert_eq!(settings.suspect_after, Duration::from_secs(1));
    }

    #[test]
    fn an_eventual_store_acknowledges_what_the_primary_has_unless_its_quorum_says_otherwise() {
        let quorum = |spec| Settings::of(&store(spec)).unwrap().quorum;
        assert_eq!(quorum(serde_json::json!({"consistency": "Eventual"})), Quorum::eventual(3));
        let sized = quorum(serde_json::json!({"consistency": "Eventual", "quorum": {"write": 2, "read": 1}}));
        assert_eq!((sized.write, sized.read, sized.commit(), sized.fence()), (2, 1, 2, 2));
        let settings = Settings::of(&store(serde_json::json!({"replication": {"durability": "PageCache"}}))).unwrap();
        assert_eq!((settings.durability, settings.quorum), (Durability::PageCache, Quorum::majority(3)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_field_and_the_numbers() {
        let error = |spec| Settings::of(&store(spec)).unwrap_err().to_string();
        assert_eq!(error(serde_json::json!({"shards": 0})), "spec.shards is out of range");
        assert!(error(serde_json::json!({"quorum": {"write": 1, "read": 2}})).contains("write=1 read=2"));
        assert!(error(serde_json::json!({"maxMemory": "much"})).contains("\"much\" is not a quantity"));
        assert_eq!(bytes("maxMemory", "1.5Ki"), Ok(1536));
    }
}
