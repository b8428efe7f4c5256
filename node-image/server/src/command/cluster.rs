//! CLUSTER: the map of the store as cluster clients read it. Topology is not changed here: the operator owns it.

use super::call::{Call, Done, Refusal};
use super::view::{NodeEndpoint, NodeView};
use quorate_api::slot::{SLOTS, slot_of};

pub(super) fn refuse(call: &mut Call<'_, '_>) -> Done {
    Err(refusal(&call.command.name.to_ascii_uppercase()))
}

fn refusal(command: &str) -> Refusal {
    format!("ERR {command} is refused: the operator owns the topology. Change the ReplicatedStore instead").into()
}

pub(super) fn cluster(call: &mut Call<'_, '_>) -> Done {
    match (call.word(1).as_str(), call.args.len()) {
        ("SLOTS", 2) => slots(call),
        ("SHARDS", 2) => shards(call),
        ("NODES", 2) => {
            let text = nodes(call.context.view);
            call.reply.verbatim(&text);
        }
        ("INFO", 2) => {
            let text = info(call.context.view);
            call.reply.verbatim(&text);
        }
        ("MYID", 2) => call.reply.bulk(call.context.view.me.node_id.as_bytes()),
        ("MYSHARDID", 2) => {
            let id = shard_id(call.context.view);
            call.reply.bulk(id.as_bytes());
        }
        ("KEYSLOT", 3) => call.reply.integer(i64::from(slot_of(&call.args[2]))),
        ("COUNTKEYSINSLOT", 3) => {
            let slot = slot_argument(call)?;
            let count = call.context.keyspace.items(slot, call.now()).count();
            call.reply.count(count);
        }
        ("GETKEYSINSLOT", 4) => {
            let slot = slot_argument(call)?;
            let count = usize::try_from(call.integer(3)?).map_err(|_| "ERR Invalid number of keys")?;
            let now = call.now();
            let keys: Vec<_> = call
                .context
                .keyspace
                .items(slot, now)
                .take(count)
                .map(|item| item.key.clone())
                .collect();
            call.reply.array(keys.len());
            for key in keys {
                call.reply.bulk(&key);
            }
        }
        ("COUNT-FAILURE-REPORTS", 3) => call.reply.integer(0),
        ("LINKS", 2) => call.reply.array(0),
        (
            "MEET" | "SETSLOT" | "FAILOVER" | "FORGET" | "REPLICATE" | "ADDSLOTS" | "ADDSLOTSRANGE" | "DELSLOTS" | "DELSLOTSRANGE"
            | "RESET" | "FLUSHSLOTS" | "BUMPEPOCH" | "SAVECONFIG" | "SET-CONFIG-EPOCH" | "MIGRATE",
            _,
        ) => return Err(refusal(&format!("CLUSTER {}", call.word(1)))),
        ("SLOTS" | "SHARDS" | "NODES" | "INFO" | "MYID" | "KEYSLOT" | "COUNTKEYSINSLOT" | "GETKEYSINSLOT", _) => {
            return Err(format!(
                "ERR wrong number of arguments for 'cluster|{}' command",
                call.word(1).to_ascii_lowercase()
            )
            .into());
        }
        _ => return Err(call.unknown_subcommand()),
    }
    Ok(())
}

fn slot_argument(call: &Call<'_, '_>) -> Result<u16, Refusal> {
    let slot = u16::try_from(call.integer(2)?).ok().filter(|slot| *slot < SLOTS);
    slot.ok_or_else(|| "ERR Invalid slot".into())
}

fn last_slot() -> i64 {
    i64::from(SLOTS - 1)
}

fn slots(call: &mut Call<'_, '_>) {
    let view = call.context.view;
    if view.primary.is_none() {
        call.reply.array(0);
        return;
    }
    call.reply.array(1);
    call.reply.array(2 + view.members().count());
    call.reply.integer(0);
    call.reply.integer(last_slot());
    for (node, _) in view.members() {
        call.reply.array(4);
        call.reply.bulk(node.host.as_bytes());
        call.reply.integer(i64::from(node.port));
        call.reply.bulk(node.node_id.as_bytes());
        call.reply.array(0);
    }
}

fn shards(call: &mut Call<'_, '_>) {
    let view = call.context.view;
    let reply = &mut call.reply;
    reply.array(1);
    reply.map(2);
    reply.bulk(b"slots");
    if view.primary.is_some() {
        reply.array(2);
        reply.integer(0);
        reply.integer(last_slot());
    } else {
        reply.array(0);
    }
    reply.bulk(b"nodes");
    reply.array(view.members().count());
    for (node, primary) in view.members() {
        reply.map(7);
        reply.bulk(b"id");
        reply.bulk(node.node_id.as_bytes());
        reply.bulk(b"port");
        reply.integer(i64::from(node.port));
        for (field, text) in [
            ("ip", node.host.as_str()),
            ("endpoint", &node.host),
            ("role", if primary { "master" } else { "replica" }),
        ] {
            reply.bulk(field.as_bytes());
            reply.bulk(text.as_bytes());
        }
        reply.bulk(b"replication-offset");
        reply.integer(i64::try_from(view.commit).unwrap_or(i64::MAX));
        reply.bulk(b"health");
        reply.bulk(if healthy(view, node) { b"online" } else { b"failed" });
    }
}

fn healthy(view: &NodeView, node: &NodeEndpoint) -> bool {
    node.up || node.node_id == view.me.node_id || (view.primary_heard && view.primary.as_ref() == Some(node))
}

fn nodes(view: &NodeView) -> String {
    let mut text = String::new();
    let primary_id = view.primary.as_ref().map_or("-", |primary| primary.node_id.as_str());
    for (node, primary) in view.members() {
        let myself = if node.node_id == view.me.node_id { "myself," } else { "" };
        let (role, master, owned) = if primary {
            ("master", "-", format!(" 0-{}", SLOTS - 1))
        } else {
            ("slave", primary_id, String::new())
        };
        let (failed, link) = if healthy(view, node) {
            ("", "connected")
        } else {
            (",fail?", "disconnected")
        };
        text.push_str(&format!(
            "{} {}:{port}@{port} {myself}{role}{failed} {master} 0 0 {} {link}{owned}\n",
            node.node_id,
            node.host,
            view.epoch,
            port = node.port,
        ));
    }
    text
}

fn info(view: &NodeView) -> String {
    let (state, assigned) = if view.primary_heard { ("ok", SLOTS) } else { ("fail", 0) };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{assigned}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        SLOTS - assigned,
        view.members().count(),
        epoch = view.epoch,
    )
}

fn shard_id(view: &NodeView) -> String {
    format!("{:040x}", view.shard)
}
