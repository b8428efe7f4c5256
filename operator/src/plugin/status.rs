//! `status`: reads the resource, and prints it in one format or another.

use super::cli::{Output, StatusArgs};
use super::cluster::Cluster;
use super::error::PluginError;
use super::screen::{View, list, render, waits_of};
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use quorate_crds::ReplicatedStore;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::time::interval;

/// Ages on a screen that is watched move on.
const TICK: Duration = Duration::from_secs(1);
/// Empties a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn run(cluster: &Cluster, args: &StatusArgs) -> Result<(), PluginError> {
    match &args.store {
        Some(name) if args.watch => watch(cluster, name, args.output).await,
        Some(name) => print(&text(&cluster.get(name).await?, args.output)),
        None => {
            let stores = cluster.list(args.all_namespaces).await?;
            print(&several(&stores, args, &cluster.namespace))
        }
    }
}

fn several(stores: &[ReplicatedStore], args: &StatusArgs, namespace: &str) -> String {
    match (stores, args.output) {
        ([], None | Some(Output::Wide)) if args.all_namespaces => "there are no stores in this cluster\n".to_owned(),
        ([], None | Some(Output::Wide)) => format!("there are no stores in namespace {namespace}; -A looks in all\n"),
        (_, Some(Output::Json)) => pretty(&Value::Array(stores.iter().map(value).collect())),
        ([store], _) if !args.all_namespaces => text(store, args.output),
        (_, None | Some(Output::Wide)) => list(stores, args.all_namespaces),
    }
}

fn text(store: &ReplicatedStore, output: Option<Output>) -> String {
    match output {
        Some(Output::Json) => pretty(&value(store)),
        None | Some(Output::Wide) => render(&View {
            store,
            now: Timestamp::now(),
            wide: output == Some(Output::Wide),
        }),
    }
}

/// For programs.
fn value(store: &ReplicatedStore) -> Value {
    let status = store.status.clone().unwrap_or_default();
    json!({
        "namespace": store.namespace(),
        "name": store.name_any(),
        "generation": store.metadata.generation,
        "waits": waits_of(&status),
        "status": status,
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn print(text: &str) -> Result<(), PluginError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Until the store is deleted.
async fn watch(cluster: &Cluster, name: &str, output: Option<Output>) -> Result<(), PluginError> {
    let mut current = cluster.get(name).await?;
    let uid = current.uid();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(cluster.stores(), only).default_backoff());
    let screen = stdout().is_terminal() && output != Some(Output::Json);
    let mut tick = interval(TICK);
    let mut last: Option<Value> = None;
    loop {
        let shown = value(&current);
        let changed = last.as_ref() != Some(&shown);
        if screen {
            print(&format!("{CLEAR}{}", text(&current, output)))?;
        } else if changed {
            let separator = if last.is_some() && output != Some(Output::Json) {
                "---\n"
            } else {
                ""
            };
            print(&format!("{separator}{}", text(&current, output)))?;
        }
        last = Some(shown);
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(store) | watcher::Event::InitApply(store))) => {
                    if store.uid() != uid {
                        return Err(gone(name));
                    }
                    current = store;
                }
                Some(Ok(watcher::Event::Delete(_))) => return Err(gone(name)),
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Err(error)) => eprintln!("the watch failed and goes on: {error}"),
                None => return Ok(()),
            },
            _ = tick.tick(), if screen => {}
        }
    }
}

fn gone(name: &str) -> PluginError {
    PluginError::NotFound(format!("{name} was deleted"))
}
