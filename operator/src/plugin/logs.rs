//! `logs`: of all pods of a store or a shard, merged.
//!
//! Without --follow: what there is, in the order of time. With it: each line as it comes, of pods that restart or are made
//! later too; a pod that is followed again goes on after the last line that was printed of it.

use super::cli::LogsArgs;
use super::cluster::Cluster;
use super::error::PluginError;
use super::lines::{Line, merge};
use crate::names;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use quorate_crds::ReplicatedStore;
use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{interval, sleep};

/// Pods that are made meanwhile are looked for this often.
const LOOK: Duration = Duration::from_secs(2);
/// Before a log that ended is followed again: its container restarts, or its pod is gone.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(cluster: &Cluster, args: &LogsArgs) -> Result<(), PluginError> {
    let store = cluster.get(&args.store).await?;
    let pods = pods(cluster, &store, args.shard).await?;
    if pods.is_empty() && !args.follow {
        let shard = args.shard.map_or(String::new(), |shard| format!(" in shard {shard}"));
        return Err(PluginError::NotFound(format!("{} has no pods{shard}", args.store)));
    }
    if args.follow {
        return follow(cluster, &store, args).await;
    }
    let reading: FuturesUnordered<_> = pods.iter().map(|pod| read(cluster.pods(), pod.name_any(), args)).collect();
    let logs: Vec<Result<Vec<Line>, PluginError>> = reading.collect().await;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for log in logs {
        match log {
            Ok(lines) => found.push(lines),
            Err(error) => failures.push(error),
        }
    }
    let width = width(&pods);
    let mut out = std::io::stdout().lock();
    for line in merge(found) {
        writeln!(out, "{}", line.print(width, args.timestamps))?;
    }
    out.flush()?;
    // What could be read was printed; that something could not is an error all the same.
    let last = failures.pop();
    for failure in failures {
        eprintln!("error: {failure}");
    }
    last.map_or(Ok(()), Err)
}

fn width(pods: &[Pod]) -> usize {
    pods.iter().map(|pod| pod.name_any().len()).max().unwrap_or_default()
}

/// The pods of a store, or of one shard of it, by name.
pub(super) async fn pods(cluster: &Cluster, store: &ReplicatedStore, shard: Option<u32>) -> Result<Vec<Pod>, PluginError> {
    let mut labels: Vec<String> = names::selector(store).iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.extend(shard.map(|shard| format!("{}={shard}", names::LABEL_SHARD)));
    let listed = cluster.pods().list(&ListParams::default().labels(&labels.join(","))).await;
    let mut pods = listed.map_err(PluginError::api("list the pods"))?.items;
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

fn params(args: &LogsArgs) -> LogParams {
    LogParams {
        container: Some(names::CONTAINER.to_owned()),
        follow: args.follow,
        since_seconds: args.since.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX).max(1)),
        tail_lines: args.tail,
        // What they are merged by.
        timestamps: true,
        ..LogParams::default()
    }
}

async fn read(api: Api<Pod>, pod: String, args: &LogsArgs) -> Result<Vec<Line>, PluginError> {
    let log = api.logs(&pod, &params(args)).await;
    let text = log.map_err(PluginError::api(format!("read the log of {pod}")))?;
    Ok(text.lines().map(|line| Line::parse(&pod, line)).collect())
}

async fn follow(cluster: &Cluster, store: &ReplicatedStore, args: &LogsArgs) -> Result<(), PluginError> {
    let (sender, mut lines) = unbounded_channel();
    let mut known: HashSet<String> = HashSet::new();
    let mut widest = 0;
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            Some(line) = lines.recv() => {
                let line: Line = line;
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", line.print(widest, args.timestamps))?;
                out.flush()?;
            }
            _ = look.tick() => {
                let pods = pods(cluster, store, args.shard).await?;
                widest = widest.max(width(&pods));
                for pod in pods {
                    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
                    if known.insert(uid.clone()) {
                        tokio::spawn(follow_one(cluster.pods(), name, uid, params(args), sender.clone()));
                    }
                }
            }
        }
    }
}

/// Until the pod is gone, or another one of that name.
async fn follow_one(api: Api<Pod>, pod: String, uid: String, mut params: LogParams, lines: UnboundedSender<Line>) {
    let mut last: Option<Timestamp> = None;
    loop {
        // A log is asked for from a second on; what was printed of that second is not printed again.
        let mut printed = last;
        if let Ok(stream) = api.log_stream(&pod, &params).await {
            let mut stream = stream.lines();
            while let Ok(Some(text)) = stream.try_next().await {
                let line = Line::parse(&pod, &text);
                if line.at.is_some() && line.at <= printed {
                    continue;
                }
                printed = None;
                last = last.max(line.at);
                if lines.send(line).is_err() {
                    return;
                }
            }
        }
        match api.get_metadata_opt(&pod).await {
            Ok(Some(found)) if found.uid().as_ref() == Some(&uid) => {}
            Ok(_) => return,
            // The API server is away: it is asked again.
            Err(_) => {}
        }
        if let Some(last) = last {
            (params.since_time, params.since_seconds, params.tail_lines) = (Some(last), None, None);
        }
        sleep(AGAIN).await;
    }
}
