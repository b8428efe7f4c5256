//! The command line's own view changes, for nodes that run without Kubernetes: bootstrap, failover, status.

use crate::config::read_token;
use anyhow::{Context, bail};
use clap::Args;
use quorate_api::wire::{ClientKind, Reply, Request};
use quorate_api::{Configuration, Member, NodeStatus, Quorum};
use quorate_client::{dial, drive, epoch_above, read_frame, write_frame};
use quorate_protocol::{Driver, ViewChanged};
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
pub async fn bootstrap(group: &GroupArgs, quorum: Option<QuorumArg>) -> anyhow::Result<ViewChanged> {
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
    let majority = Quorum::majority(u32::try_from(members.len())?);
    let QuorumArg { write, read } = quorum.unwrap_or(QuorumArg {
        write: majority.write,
        read: majority.read,
    });
    let driver = Driver::bootstrap(epoch_above(highest), Configuration::new(members, write, read)?);
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
