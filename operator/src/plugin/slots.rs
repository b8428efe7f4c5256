//! `slots`: which shard owns which hash slots, as the shards told last, or where one key belongs.

use super::cli::SlotsArgs;
use super::cluster::Cluster;
use super::error::PluginError;
use super::screen::status_of;
use super::table::table;
use kube::ResourceExt;
use quorate_api::SlotSet;
use quorate_api::slot::{SLOTS, slot_of};
use quorate_crds::ReplicatedStore;

pub(super) async fn run(cluster: &Cluster, args: &SlotsArgs) -> Result<(), PluginError> {
    let store = cluster.get(&args.store).await?;
    match &args.key {
        Some(key) => println!("{}", place(&store, key)?),
        None => print!("{}", render(&store)),
    }
    Ok(())
}

fn render(store: &ReplicatedStore) -> String {
    let status = status_of(store);
    let row = |shard: &quorate_crds::ShardStatus| {
        let share = f64::from(shard.slots) * 100.0 / f64::from(SLOTS);
        [
            shard.index.to_string(),
            shard.primary.clone().unwrap_or_else(|| "none".to_owned()),
            shard.slots.to_string(),
            format!("{share:.1} %"),
            shard.slot_ranges.replace(',', " "),
        ]
    };
    let rows: Vec<[String; 5]> = status.shards.iter().map(row).collect();
    if rows.is_empty() {
        return format!("no operator has told of the shards of {} yet\n", store.name_any());
    }
    table(["SHARD", "PRIMARY", "SLOTS", "SHARE", "RANGES"], &rows)
}

fn place(store: &ReplicatedStore, key: &str) -> Result<String, PluginError> {
    let (status, slot) = (status_of(store), slot_of(key.as_bytes()));
    let owns = |ranges: &str| ranges.parse::<SlotSet>().is_ok_and(|slots| slots.contains(slot));
    let owner = status.shards.iter().find(|shard| owns(&shard.slot_ranges));
    let owner = owner.ok_or_else(|| {
        PluginError::NotFound(format!(
            "slot {slot} of the key {key:?} is owned by no shard that told of it: see `kubectl quorate status {}`",
            store.name_any()
        ))
    })?;
    let primary = owner.primary.as_deref().unwrap_or("none");
    Ok(format!("slot {slot}, shard {}, primary {primary}", owner.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store() -> ReplicatedStore {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore", "metadata": {"name": "orders"}, "spec": {"shards": 2},
            "status": {"shards": [
                {"index": 0, "primary": "orders-0", "slots": 12_288, "slotRanges": "0-8191,12288-16383"},
                {"index": 1, "slots": 4095, "slotRanges": "8192-12181,12183-12287"},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn every_shard_takes_a_line() {
        assert_eq!(
            render(&store()),
            "\
SHARD   PRIMARY    SLOTS   SHARE    RANGES
0       orders-0   12288   75.0 %   0-8191 12288-16383
1       none       4095    25.0 %   8192-12181 12183-12287
"
        );
    }

    #[test]
    fn a_key_is_in_the_shard_that_owns_its_slot() {
        assert_eq!(place(&store(), "bar").unwrap(), "slot 5061, shard 0, primary orders-0");
        assert_eq!(place(&store(), "{bar}:7").unwrap(), "slot 5061, shard 0, primary orders-0");
        let unknown = place(&store(), "foo").unwrap_err().to_string();
        assert!(
            unknown.starts_with("slot 12182 of the key \"foo\" is owned by no shard"),
            "{unknown}"
        );
    }
}
