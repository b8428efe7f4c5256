//! Asks the operator for something by an annotation, and follows what becomes of it: the operator removes the annotation and
//! writes an event that says what it did.

use super::cluster::Cluster;
use super::error::PluginError;
use super::screen::status_of;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use quorate_crds::ReplicatedStore;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks. A person waits, and the answer takes about a second.
const LOOK: Duration = Duration::from_millis(250);
/// The event follows the removal of the annotation, or comes shortly before it.
const EVENT: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// The annotation and its value.
    pub(super) annotation: &'static str,
    pub(super) value: &'a str,
    /// Reasons of the events that answer it.
    pub(super) granted: &'static str,
    pub(super) refused: &'static str,
    /// The shard that it is about.
    pub(super) shard: i32,
    pub(super) timeout: Duration,
}

/// An event of one of the two reasons, as often as it was seen: its name and count.
type Seen = HashMap<String, i32>;

/// Asks, tells on the standard error what happens meanwhile, and gives the operator's answer.
pub(super) async fn ask(cluster: &Cluster, store: &ReplicatedStore, request: &Request<'_>) -> Result<String, PluginError> {
    let (name, uid) = (store.name_any(), store.uid().unwrap_or_default());
    if let Some(other) = store.annotations().get(request.annotation).filter(|value| *value != request.value) {
        return Err(PluginError::Refused(format!(
            "somebody asked for {other} before, and the operator has not answered yet: wait for it, or take that back with \
             `kubectl annotate rstore {name} {}-`",
            request.annotation
        )));
    }
    let before: Seen = cluster
        .events(&uid)
        .await?
        .iter()
        .map(|event| (event.name_any(), count(event)))
        .collect();
    cluster.annotate(store, request.annotation, request.value).await?;
    let deadline = Instant::now() + request.timeout;
    let mut taken_away: Option<Instant> = None;
    let mut told = String::new();
    loop {
        let now = cluster.get(&name).await?;
        if now.uid() != store.uid() {
            return Err(PluginError::NotFound(format!("{name} was deleted meanwhile")));
        }
        let line = progress(&now, request.shard);
        if line != told {
            eprintln!("{line}");
            told = line;
        }
        let events = cluster.events(&uid).await?;
        let news = |event: &&Event| count(event) > before.get(&event.name_any()).copied().unwrap_or(0);
        let answer = |reason: &str| {
            let found = events.iter().filter(news).find(|event| event.reason.as_deref() == Some(reason));
            found.map(|event| event.note.clone().unwrap_or_default())
        };
        if let Some(text) = answer(request.granted) {
            return Ok(text);
        }
        if let Some(text) = answer(request.refused) {
            return Err(PluginError::Refused(text));
        }
        if !now.annotations().contains_key(request.annotation) {
            let since = *taken_away.get_or_insert_with(Instant::now);
            if since.elapsed() > EVENT {
                return Err(PluginError::NotYet(format!(
                    "the operator has answered, and its event is not to be found: see `kubectl describe rstore {name}`"
                )));
            }
        }
        if Instant::now() > deadline {
            return Err(PluginError::NotYet(format!(
                "not done within {} s. The operator goes on with it; `kubectl quorate status {name}` shows it, and \
                 `kubectl annotate rstore {name} {}-` takes it back. Does an operator run?",
                request.timeout.as_secs(),
                request.annotation
            )));
        }
        sleep(LOOK).await;
    }
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().map_or(1, |series| series.count)
}

/// What the shard does now, in a line.
fn progress(store: &ReplicatedStore, index: i32) -> String {
    let status = status_of(store);
    let Some(shard) = status.shards.iter().find(|shard| shard.index == index) else {
        return format!("shard {index}: unknown");
    };
    let primary = shard.primary.as_deref().unwrap_or("none");
    let target = shard.target_primary.as_ref().map_or(String::new(), |target| {
        let replica = shard.replicas.iter().find(|replica| replica.name == *target);
        let step = match replica {
            Some(replica) if replica.synced => "in step",
            Some(_) => "not in step with the primary yet",
            None => "unknown",
        };
        format!(", to be {target} ({step})")
    });
    format!("shard {index}: epoch {}, primary {primary}{target}", shard.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_where_the_primary_is_and_where_it_is_to_go() {
        let store: ReplicatedStore = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore", "metadata": {"name": "orders"}, "spec": {},
            "status": {"shards": [{
                "index": 0, "epoch": 4, "primary": "orders-0-0", "targetPrimary": "orders-0-2",
                "replicas": [{"name": "orders-0-2", "role": "Replica", "synced": false}],
            }]},
        }))
        .unwrap();
        assert_eq!(
            progress(&store, 0),
            "shard 0: epoch 4, primary orders-0-0, to be orders-0-2 (not in step with the primary yet)"
        );
        assert_eq!(progress(&store, 1), "shard 1: unknown");
    }
}
