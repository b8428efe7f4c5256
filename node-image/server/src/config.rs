//! What a node is told when it starts: flags, each with an environment variable of its own.

use crate::durability::Durability;
use crate::runtime::scrub::ScrubSettings;
use crate::runtime::snapshots::SnapshotSettings;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use quorate_api::StoreId;
use quorate_api::wire::NodeAddresses;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One object a line.
    Json,
}

/// Settings of a store node.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// UUID of the store. A volume that belongs to another store is refused.
    #[arg(long, env = "QUORATE_STORE_ID")]
    pub store_id: Uuid,
    /// Name of the store, for people.
    #[arg(long, env = "QUORATE_STORE_NAME", default_value = "store")]
    pub store_name: String,
    /// Shard that this node belongs to.
    #[arg(long, env = "QUORATE_SHARD", default_value_t = 0)]
    pub shard: u32,
    /// Ordinal of this node in its shard; by default the number at the end of the pod's name.
    #[arg(long, env = "QUORATE_ORDINAL")]
    pub ordinal: Option<u32>,
    /// Name of the pod.
    #[arg(long, env = "QUORATE_POD_NAME")]
    pub pod_name: Option<String>,
    /// Address that this node is reached at right now.
    #[arg(long, env = "QUORATE_POD_IP", default_value = "127.0.0.1")]
    pub pod_ip: String,
    /// Host that clients are told; by default the address.
    #[arg(long, env = "QUORATE_CLIENT_HOST")]
    pub client_host: Option<String>,
    /// Address to listen on.
    #[arg(long, env = "QUORATE_BIND", default_value = "0.0.0.0")]
    pub bind: String,
    /// Directory of this node's data.
    #[arg(long, env = "QUORATE_DATA_DIR", default_value = "/data")]
    pub data_dir: PathBuf,
    /// File with the token that members and the operator prove to know.
    #[arg(long, env = "QUORATE_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// File with the password of clients; without it everybody is let in.
    #[arg(long, env = "QUORATE_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// Port of the Redis protocol.
    #[arg(long, env = "QUORATE_CLIENT_PORT", default_value_t = 6379)]
    pub client_port: u16,
    /// Port of the replica protocol.
    #[arg(long, env = "QUORATE_REPLICA_PORT", default_value_t = 7400)]
    pub replica_port: u16,
    /// Port of health and metrics.
    #[arg(long, env = "QUORATE_HTTP_PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Bytes of data beyond which writes that need memory are refused; 0 for no limit.
    #[arg(long, env = "QUORATE_MAX_MEMORY", default_value_t = 0)]
    pub max_memory: u64,
    /// When a write counts as held by this node.
    #[arg(long, env = "QUORATE_DURABILITY", value_enum, default_value = "fsync")]
    pub durability: Durability,
    /// File that names the present run of the machine's kernel.
    #[arg(long, env = "QUORATE_BOOT_ID_FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// Bytes of a log segment.
    #[arg(long, env = "QUORATE_SEGMENT_BYTES", default_value_t = 32 << 20)]
    pub segment_bytes: u64,
    /// Bytes of log above the last snapshot at which the next one is taken.
    #[arg(long, env = "QUORATE_SNAPSHOT_LOG_BYTES", default_value_t = 128 << 20)]
    pub snapshot_log_bytes: u64,
    /// Bytes of log kept before the last snapshot, so that a member that was away for a moment needs no snapshot.
    #[arg(long, env = "QUORATE_LOG_KEEP_BYTES", default_value_t = 32 << 20)]
    pub log_keep_bytes: u64,
    /// Seconds between two passes of the scrub, which reads the volume again and repairs what does not read; 0 for none.
    #[arg(long, env = "QUORATE_SCRUB_INTERVAL_SECONDS", default_value_t = 24 * 3600)]
    pub scrub_interval_seconds: u64,
    /// Bytes a second that the scrub reads; 0 for no limit.
    #[arg(long, env = "QUORATE_SCRUB_BYTES_PER_SECOND", default_value_t = 16 << 20)]
    pub scrub_bytes_per_second: u64,
    /// Bytes a second at which snapshots are written, and sent to a member; 0 for no limit.
    #[arg(long, env = "QUORATE_SNAPSHOT_BYTES_PER_SECOND", default_value_t = 100 << 20)]
    pub snapshot_bytes_per_second: u64,
}

impl NodeArgs {
    /// The store that this node belongs to.
    #[must_use]
    pub fn store(&self) -> StoreId {
        StoreId(self.store_id)
    }

    /// How much log is kept, and how fast snapshots are made.
    #[must_use]
    pub fn snapshots(&self) -> SnapshotSettings {
        SnapshotSettings {
            log_bytes: self.snapshot_log_bytes,
            keep_bytes: self.log_keep_bytes,
            bytes_per_second: self.snapshot_bytes_per_second,
        }
    }

    /// How often the volume is read again, and how fast.
    #[must_use]
    pub fn scrub(&self) -> ScrubSettings {
        ScrubSettings {
            interval: Duration::from_secs(self.scrub_interval_seconds),
            bytes_per_second: self.scrub_bytes_per_second,
        }
    }

    /// # Errors
    /// When neither the ordinal nor a pod name that ends in one is given.
    pub fn ordinal(&self) -> anyhow::Result<u32> {
        if let Some(ordinal) = self.ordinal {
            return Ok(ordinal);
        }
        let Some(name) = &self.pod_name else {
            bail!("set QUORATE_ORDINAL or QUORATE_POD_NAME: the node has to know which of its shard it is");
        };
        let digits = name.rsplit('-').next().unwrap_or_default();
        digits
            .parse()
            .with_context(|| format!("the pod name {name:?} does not end in an ordinal: set QUORATE_ORDINAL"))
    }

    /// Where the node listens, as others are told.
    #[must_use]
    pub fn addresses(&self) -> NodeAddresses {
        NodeAddresses {
            replica: join(&self.pod_ip, self.replica_port),
            client_host: self.client_host.clone().unwrap_or_else(|| self.pod_ip.clone()),
            client_port: self.client_port,
        }
    }

    /// The store's token.
    ///
    /// # Errors
    /// When the file is not there or empty.
    pub fn token(&self) -> anyhow::Result<Vec<u8>> {
        read_token(&self.token_file)
    }

    /// The password of clients.
    ///
    /// # Errors
    /// When a file is named that does not read.
    pub fn password(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).with_context(|| format!("read the password from {}", path.display()))?;
        Ok(Some(text.trim_end_matches('\n').to_owned()))
    }
}

/// Reads a token; a line end after it does not count.
///
/// # Errors
/// When the file is not there or empty.
pub fn read_token(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let mut token = std::fs::read(path).with_context(|| format!("read the store's token from {}", path.display()))?;
    while token.last() == Some(&b'\n') {
        token.pop();
    }
    if token.is_empty() {
        bail!("the token file {} is empty", path.display());
    }
    Ok(token)
}

/// `host:port`, an IPv6 address in brackets.
#[must_use]
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
