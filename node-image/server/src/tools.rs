//! The command line's own view changes, for nodes that run without Kubernetes: bootstrap, failover, status; and what people
//! need to look at files of a node.

use crate::config::read_token;
use crate::keyspace::describe;
use crate::storage::read_tail;
use anyhow::{Context, bail};
use clap::Args;
use quorate_api::wire::{ClientKind, Reply, Request};
use quorate_api::{Configuration, Consistency, EntryBody, Member, NodeStatus, Quorum};
use quorate_client::{dial, drive, epoch_above, read_frame, write_frame};
use quorate_protocol::{Driver, ViewChanged};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Which nodes, and how to prove that we may.
#[derive(Clone, Debug, Args)]
pub struct GroupArgs {
    /// File with the store's token.
    #[arg(long, env = "QUORATE_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// Seconds after which to give up.
    #[arg(long, default_value_t = 10)]
    pub timeout_seconds: u64,
    /// `host:port` of the replica port of every member.
    #[arg(required = true)]
    pub nodes: Vec<String>,
}

/// Write and read quorum.
#[derive(Clone, Copy, Debug)]
pub struct QuorumArg {
    write: u32,
    read: u32,
}

impl std::str::FromStr for QuorumArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.parse::<u32>().map_err(|_| format!("{text:?} is not write/read, as in 2/2"));
        let (write, read) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is not write/read, as in 2/2"))?;
        Ok(Self {
            write: parse(write)?,
            read: parse(read)?,
        })
    }
}

/// Prints tails that were kept aside: what each is, then its entries, one JSON value a line. Reads files only.
///
/// # Errors
/// When a file does not read or is damaged.
pub fn print_tails(files: &[PathBuf], out: &mut impl std::io::Write) -> anyhow::Result<()> {
    for file in files {
        let (head, entries) = read_tail(file)?;
        writeln!(out, "{}", serde_json::to_string(&head)?)?;
        for entry in entries {
            let said = match &entry.body {
                EntryBody::Effects(effects) => match describe(effects) {
                    Ok(effects) => json!({"effects": effects}),
                    Err(error) => json!({"error": error.to_string()}),
                },
                EntryBody::EpochStart(configuration) => json!({"epochStart": configuration}),
            };
            let line = json!({
                "index": entry.id.index,
                "epoch": entry.id.epoch,
                "timestampMillis": entry.timestamp_millis,
                "says": said,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Asks a node for its status.
///
/// # Errors
/// When it does not answer.
pub async fn status_of(address: &str, token: &[u8]) -> anyhow::Result<NodeStatus> {
    let mut node = dial(address, token, ClientKind::Operator).await?;
    let watch = Request::Watch {
        interval_millis: 60_000,
        policy: None,
    };
    write_frame(&mut node.write, &watch).await?;
    match tokio::time::timeout(Duration::from_secs(2), read_frame(&mut node.read, &mut node.buffer)).await?? {
        Reply::Status(status) => Ok(*status),
        other => bail!("{address} answered {other:?}"),
    }
}

/// Makes a group of blank nodes.
///
/// # Errors
/// When one of them does not answer or holds data.
pub async fn bootstrap(group: &GroupArgs, quorum: Option<QuorumArg>, consistency: Consistency) -> anyhow::Result<ViewChanged> {
    let token = read_token(&group.token_file)?;
    let mut members = Vec::new();
    let mut highest = 0;
    for address in &group.nodes {
        let status = status_of(address, &token).await.with_context(|| format!("ask {address}"))?;
        highest = highest.max(status.promised.number);
        members.push(Member {
            incarnation: status.id.incarnation,
            ordinal: status.id.ordinal,
            host: address.clone(),
        });
    }
    let replicas = u32::try_from(members.len())?;
    let mut sizes = match consistency {
        Consistency::Strong => Quorum::majority(replicas),
        Consistency::Eventual => Quorum::eventual(replicas),
    };
    if let Some(QuorumArg { write, read }) = quorum {
        (sizes.write, sizes.read) = (write, read);
    }
    let driver = Driver::bootstrap(epoch_above(highest), Configuration::of(members, sizes)?);
    Ok(drive(driver, &token, &BTreeMap::new(), Duration::from_secs(group.timeout_seconds))
        .await?
        .changed)
}

/// Has the group choose a primary anew among the nodes that answer.
///
/// # Errors
/// When too few answer.
pub async fn failover(group: &GroupArgs) -> anyhow::Result<ViewChanged> {
    let token = read_token(&group.token_file)?;
    let (mut known, mut live, mut highest) = (Vec::new(), BTreeMap::new(), 0);
    for address in &group.nodes {
        match status_of(address, &token).await {
            Ok(status) => {
                highest = highest.max(status.promised.number);
                known.extend(status.configuration.map(|(_, configuration)| configuration));
                live.insert(status.id.incarnation, address.clone());
            }
            Err(error) => tracing::warn!(address, error = format!("{error:#}"), "no status"),
        }
    }
    if known.is_empty() {
        bail!("no node that answers belongs to a group yet: bootstrap one first");
    }
    let driver = Driver::keep(epoch_above(highest), known, None);
    Ok(drive(driver, &token, &live, Duration::from_secs(group.timeout_seconds))
        .await?
        .changed)
}
