//! The screen of `status`: text from the resource and the time, and from nothing else.

use super::advice::unblocks;
use super::table::table;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use quorate_crds::conditions::{AVAILABLE, CHANGING, FAILOVER_BLOCKED, READY, REBALANCE_STALLED, RECONCILED, WARNING, reasons};
use quorate_crds::{RebalanceState, ReplicaStatus, ReplicatedStore, ReplicatedStoreStatus, ShardQuorum, ShardStatus, annotations};
use serde::Serialize;

/// What is shown, and when.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The store.
    pub store: &'a ReplicatedStore,
    /// The moment, for ages.
    pub now: Timestamp,
    /// Whether to show identities and every condition too.
    pub wide: bool,
}

/// The parts of the screen from top to bottom; one that has nothing to say is left out.
pub const SECTIONS: &[fn(&View<'_>) -> String] = &[
    head,
    shards,
    replicas,
    changes,
    rebalance,
    waits,
    asked,
    last_failover,
    data_loss,
    conditions,
];

/// The whole screen.
#[must_use]
pub fn render(view: &View<'_>) -> String {
    let parts = SECTIONS.iter().map(|section| section(view)).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n")
}

/// One line for each store, under headings.
#[must_use]
pub fn list(stores: &[ReplicatedStore], namespaces: bool) -> String {
    let row = |store: &ReplicatedStore| {
        let status = status_of(store);
        let each = |cell: fn(&ShardStatus) -> String| status.shards.iter().map(cell).collect::<Vec<_>>().join(",");
        let ready = status.shards.iter().filter(|shard| shard.primary.is_some()).count();
        [
            store.namespace().unwrap_or_default(),
            store.name_any(),
            state(&status).0,
            format!("{ready}/{}", store.spec.shards),
            store.spec.replicas_per_shard.to_string(),
            each(|shard| shard.primary.clone().unwrap_or_else(|| "none".to_owned())),
            each(|shard| shard.epoch.to_string()),
        ]
    };
    let rows: Vec<[String; 7]> = stores.iter().map(row).collect();
    let headings = ["NAMESPACE", "STORE", "STATE", "SHARDS", "REPLICAS", "PRIMARY", "EPOCH"];
    if namespaces {
        return table(headings, &rows);
    }
    let rows: Vec<[String; 6]> = rows.into_iter().map(|[_, rest @ ..]| rest).collect();
    let [_, headings @ ..] = headings;
    table(headings, &rows)
}

/// A condition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub type_: String,
    /// Its reason.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// Since when; RFC 3339.
    pub since: Timestamp,
    /// What unblocks it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unblocks: Option<&'static str>,
}

/// Everything that the store waits for or warns of, the gravest first, and each thing once.
#[must_use]
pub fn waits_of(status: &ReplicatedStoreStatus) -> Vec<Wait> {
    let mut waits: Vec<Wait> = Vec::new();
    // A condition's own status that is not as it should be.
    for (type_, bad) in [
        (FAILOVER_BLOCKED, "True"),
        (AVAILABLE, "False"),
        (CHANGING, "True"),
        (REBALANCE_STALLED, "True"),
        (READY, "False"),
        (RECONCILED, "False"),
        (WARNING, "True"),
    ] {
        let Some(condition) = condition(status, type_).filter(|condition| condition.status == bad) else {
            continue;
        };
        let told = waits.iter().any(|wait| wait.message == condition.message) || (type_ == READY && condition.reason == reasons::CHANGING);
        if !told {
            waits.push(Wait {
                type_: type_.to_owned(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                since: condition.last_transition_time.0,
                unblocks: unblocks(&condition.reason),
            });
        }
    }
    waits
}

pub(super) fn status_of(store: &ReplicatedStore) -> ReplicatedStoreStatus {
    store.status.clone().unwrap_or_default()
}

pub(super) fn condition<'a>(status: &'a ReplicatedStoreStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// In a few words, and the condition that says so.
fn state(status: &ReplicatedStoreStatus) -> (String, Option<&Condition>) {
    let of = |type_| condition(status, type_);
    match (of(READY), of(AVAILABLE)) {
        (Some(ready), _) if ready.status == "True" => ("Ready".to_owned(), Some(ready)),
        (Some(ready), Some(available)) if available.status == "True" => (format!("Available, {}", ready.reason), Some(ready)),
        (_, Some(available)) => (format!("NOT AVAILABLE, {}", available.reason), Some(available)),
        (Some(ready), None) => (format!("NOT AVAILABLE, {}", ready.reason), Some(ready)),
        (None, None) => ("Unknown".to_owned(), None),
    }
}

fn head(view: &View<'_>) -> String {
    let (store, status) = (view.store, status_of(view.store));
    let (state, said) = state(&status);
    let since = said.map_or(String::new(), |said| {
        format!(", for {}", age(view.now, said.last_transition_time.0))
    });
    let shards = if store.spec.shards == 1 { "shard" } else { "shards" };
    let mut lines = vec![
        (
            "Store",
            format!("{} (namespace {})", store.name_any(), store.namespace().unwrap_or_default()),
        ),
        ("State", format!("{state}{since}")),
        (
            "Size",
            format!("{} {shards}, {} replicas each", store.spec.shards, store.spec.replicas_per_shard),
        ),
    ];
    let (seen, generation) = (status.observed_generation, store.metadata.generation);
    if seen.is_none() {
        let text = "no operator has spoken of this store: does one run, and does it watch this namespace?";
        lines.push(("Operator", text.to_owned()));
    } else if seen < generation {
        lines.push(("Operator", "has not looked at the last change of the spec yet".to_owned()));
    }
    let text = lines
        .into_iter()
        .map(|(name, value)| format!("{:<11}{value}\n", format!("{name}:")));
    text.chain(quorums(&status)).collect()
}

/// Sizes and what they tolerate: once for all shards that have the same.
fn quorums(status: &ReplicatedStoreStatus) -> Vec<String> {
    let mut groups: Vec<(ShardQuorum, Vec<String>)> = Vec::new();
    for shard in &status.shards {
        let Some(quorum) = shard.quorum else { continue };
        match groups.iter_mut().find(|(known, _)| *known == quorum) {
            Some((_, shards)) => shards.push(shard.index.to_string()),
            None => groups.push((quorum, vec![shard.index.to_string()])),
        }
    }
    let several = groups.len() > 1;
    let text = groups.into_iter().map(|(quorum, shards)| {
        let which = if several { format!("shards {}: ", shards.join(", ")) } else { String::new() };
        format!(
            "Quorums:   {which}write {}, read {}, failover {} of {} replicas\nTolerates: {which}{} failed for writes, {} for reads, {} for a failover\n",
            quorum.write,
            quorum.read,
            quorum.fence,
            quorum.replicas,
            quorum.writes_tolerate,
            quorum.reads_tolerate,
            quorum.failover_tolerates
        )
    });
    text.collect()
}

fn shards(view: &View<'_>) -> String {
    let row = |shard: &ShardStatus| {
        let in_step = shard.replicas.iter().filter(|replica| replica.synced).count();
        let wanted = shard.quorum.map_or(view.store.spec.replicas_per_shard, |quorum| quorum.replicas);
        [
            shard.index.to_string(),
            shard.primary.clone().unwrap_or_else(|| "none".to_owned()),
            shard.epoch.to_string(),
            shard.slots.to_string(),
            format!("{in_step}/{wanted}"),
            doing(shard),
        ]
    };
    let rows: Vec<[String; 6]> = status_of(view.store).shards.iter().map(row).collect();
    table(["SHARD", "PRIMARY", "EPOCH", "SLOTS", "IN STEP", "DOES"], &rows)
}

fn doing(shard: &ShardStatus) -> String {
    match (&shard.primary, &shard.target_primary, &shard.change) {
        (None, ..) => "has no primary".to_owned(),
        (_, Some(target), _) => format!("moves its primary to {target}"),
        (.., Some(change)) => format!("changes: {:?}", change.step),
        (Some(_), None, None) => "serves".to_owned(),
    }
}

fn replicas(view: &View<'_>) -> String {
    let row = |shard: &ShardStatus, replica: &ReplicaStatus| {
        [
            shard.index.to_string(),
            replica.name.clone(),
            format!("{:?}", replica.role),
            if replica.synced { "yes" } else { "no" }.to_owned(),
            match replica.lag {
                None => "unknown".to_owned(),
                Some(0) => "0".to_owned(),
                Some(lag) => format!("{lag} entries"),
            },
            replica.id.clone().unwrap_or_else(|| "unknown".to_owned()),
        ]
    };
    let status = status_of(view.store);
    let each = status
        .shards
        .iter()
        .flat_map(|shard| shard.replicas.iter().map(move |replica| row(shard, replica)));
    let rows: Vec<[String; 6]> = each.collect();
    let headings = ["SHARD", "REPLICA", "ROLE", "IN STEP", "LAG", "INCARNATION"];
    if view.wide {
        return table(headings, &rows);
    }
    let rows: Vec<[String; 5]> = rows.into_iter().map(|[rest @ .., _]| rest).collect();
    let [headings @ .., _] = headings;
    table(headings, &rows)
}

fn changes(view: &View<'_>) -> String {
    let status = status_of(view.store);
    let since = condition(&status, CHANGING).map_or(String::new(), |said| {
        format!(", for {}", age(view.now, said.last_transition_time.0))
    });
    let each = status.shards.iter().filter_map(|shard| Some((shard.index, shard.change.as_ref()?)));
    let lines: Vec<String> = each
        .map(|(shard, change)| {
            format!(
                "  shard {shard}: {} -> {}, {:?}{since}\n    {}\n",
                change.from, change.to, change.step, change.reason
            )
        })
        .collect();
    titled("Change in progress:", &lines)
}

fn rebalance(view: &View<'_>) -> String {
    let status = status_of(view.store);
    let Some(told) = status.rebalance.filter(|told| told.state != RebalanceState::Balanced) else {
        return String::new();
    };
    let rate = match told.bytes_per_second {
        0 => String::new(),
        bytes => format!(", {bytes} bytes/s"),
    };
    let eta = told.eta_seconds.map_or(String::new(), |eta| format!(", about {eta}s left"));
    format!(
        "Rebalance: {:?}, {}, {} moves under way{rate}{eta}\n  {}\n",
        told.state, told.progress, told.moves, told.reason
    )
}

fn waits(view: &View<'_>) -> String {
    let status = status_of(view.store);
    // The change has a part of the screen of its own.
    let changing = status.shards.iter().any(|shard| shard.change.is_some());
    let waits = waits_of(&status).into_iter().filter(|wait| !(changing && wait.type_ == CHANGING));
    let lines: Vec<String> = waits
        .map(|wait| {
            let unblocks = wait
                .unblocks
                .map_or(String::new(), |advice| format!("    unblocked by: {advice}\n"));
            let (type_, reason, since) = (wait.type_, wait.reason, age(view.now, wait.since));
            format!("  {type_} ({reason}), for {since}\n    {}\n{unblocks}", wait.message)
        })
        .collect();
    titled("Waits for:", &lines)
}

fn asked(view: &View<'_>) -> String {
    let asks = [
        (annotations::PROMOTE, "promote"),
        (annotations::ACCEPT_DATA_LOSS, "accept data loss"),
        (annotations::REBALANCE, "rebalance"),
    ];
    let asked = asks.into_iter().filter_map(|(annotation, what)| {
        let value = view.store.annotations().get(annotation)?;
        Some(format!("  {what} {value}: not answered yet\n"))
    });
    titled("Asked for:", &asked.collect::<Vec<_>>())
}

fn last_failover(view: &View<'_>) -> String {
    let status = status_of(view.store);
    let Some(failover) = &status.last_failover else {
        return String::new();
    };
    let moment = |text: &str| text.parse::<Timestamp>().ok();
    let (detected, promoted) = (moment(&failover.detected_at), moment(&failover.promoted_at));
    let ago = promoted.map_or(String::new(), |promoted| format!("{} ago, ", age(view.now, promoted)));
    let fenced = detected.zip(moment(&failover.fenced_at));
    let fenced = fenced.map_or(String::new(), |(detected, fenced)| {
        format!(", fenced after {} ms", fenced.duration_since(detected).as_millis())
    });
    let epoch = if failover.epoch > 0 {
        format!(", epoch {}", failover.epoch)
    } else {
        String::new()
    };
    format!(
        "Last failover: {ago}shard {}, {} -> {}{epoch}\n  detected {}{fenced}, served after {} ms\n  {}\n",
        failover.shard,
        failover.from.as_deref().unwrap_or("nobody"),
        failover.to,
        failover.detected_at,
        failover.duration_millis,
        failover.reason
    )
}

fn data_loss(view: &View<'_>) -> String {
    let status = status_of(view.store);
    let each = status
        .data_loss
        .iter()
        .map(|loss| format!("  {}, shard {}, epoch {}: {}\n", loss.at, loss.shard, loss.epoch, loss.reason));
    titled("Data loss accepted:", &each.collect::<Vec<_>>())
}

fn conditions(view: &View<'_>) -> String {
    if !view.wide {
        return String::new();
    }
    let status = status_of(view.store);
    let each = status.conditions.iter().map(|said| {
        let since = age(view.now, said.last_transition_time.0);
        [
            said.type_.clone(),
            said.status.clone(),
            said.reason.clone(),
            since,
            said.message.clone(),
        ]
    });
    table(["CONDITION", "STATUS", "REASON", "FOR", "MESSAGE"], &each.collect::<Vec<_>>())
}

fn titled(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("{title}\n{}", lines.concat())
}

/// A time that passed, in its two greatest units. None that lies ahead of a clock that is behind.
pub(super) fn age(now: Timestamp, since: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
