//! CLUSTER: the map of the store as cluster clients read it. Topology is not changed here: the operator owns it.

use super::call::{Call, Done, Refusal};
use super::routes::{Section, sections};
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
            let text = nodes(call.context.view, &sections(call.context.view, call.context.keyspace));
            call.reply.verbatim(&text);
        }
        ("INFO", 2) => {
            let text = info(call.context.view, &sections(call.context.view, call.context.keyspace));
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

fn slots(call: &mut Call<'_, '_>) {
    let sections = sections(call.context.view, call.context.keyspace);
    let shown = || sections.iter().filter(|section| section.primary.is_some());
    call.reply.array(shown().map(|section| section.slots.ranges().count()).sum());
    for section in shown() {
        for range in section.slots.ranges() {
            call.reply.array(2 + section.members().count());
            call.reply.integer(i64::from(*range.start()));
            call.reply.integer(i64::from(*range.end()));
            for (node, _) in section.members() {
                call.reply.array(4);
                call.reply.bulk(node.host.as_bytes());
                call.reply.integer(i64::from(node.port));
                call.reply.bulk(node.node_id.as_bytes());
                call.reply.array(0);
            }
        }
    }
}

fn shards(call: &mut Call<'_, '_>) {
    let view = call.context.view;
    let sections = sections(view, call.context.keyspace);
    call.reply.array(sections.len());
    for section in &sections {
        shard(call, view, section);
    }
}

fn shard(call: &mut Call<'_, '_>, view: &NodeView, section: &Section<'_>) {
    let reply = &mut call.reply;
    reply.map(2);
    reply.bulk(b"slots");
    let ranges = section.slots.ranges().filter(|_| section.primary.is_some());
    reply.array(2 * ranges.clone().count());
    for range in ranges {
        reply.integer(i64::from(*range.start()));
        reply.integer(i64::from(*range.end()));
    }
    reply.bulk(b"nodes");
    reply.array(section.members().count());
    for (node, primary) in section.members() {
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
        let commit = if section.shard == view.shard { view.commit } else { 0 };
        reply.integer(i64::try_from(commit).unwrap_or(i64::MAX));
        reply.bulk(b"health");
        reply.bulk(if healthy(view, node) { b"online" } else { b"failed" });
    }
}

fn healthy(view: &NodeView, node: &NodeEndpoint) -> bool {
    node.up || node.node_id == view.me.node_id || (view.primary_heard && view.primary.as_ref() == Some(node))
}

fn nodes(view: &NodeView, sections: &[Section<'_>]) -> String {
    let mut text = String::new();
    for section in sections {
        let primary_id = section.primary.map_or("-", |primary| primary.node_id.as_str());
        let ranges: String = section
            .slots
            .ranges()
            .map(|range| match (range.start(), range.end()) {
                (first, last) if first == last => format!(" {first}"),
                (first, last) => format!(" {first}-{last}"),
            })
            .collect();
        for (node, primary) in section.members() {
            let myself = if node.node_id == view.me.node_id { "myself," } else { "" };
            let (role, master, owned) = if primary {
                ("master", "-", ranges.as_str())
            } else {
                ("slave", primary_id, "")
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
                section.epoch,
                port = node.port,
            ));
        }
    }
    text
}

fn info(view: &NodeView, sections: &[Section<'_>]) -> String {
    let assigned: usize = sections.iter().map(|section| section.slots.len()).sum();
    let own = sections.iter().find(|section| section.shard == view.shard);
    let failed = if view.primary_heard {
        0
    } else {
        own.map_or(0, |own| own.slots.len())
    };
    let whole = assigned == usize::from(SLOTS) && failed == 0 && view.primary_heard;
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{ok}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{failed}\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{current}\r\ncluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        state = if whole { "ok" } else { "fail" },
        ok = assigned - failed,
        known = sections.iter().map(|section| section.members().count()).sum::<usize>(),
        size = sections.iter().filter(|section| !section.slots.is_empty()).count(),
        current = sections.iter().map(|section| section.epoch).max().unwrap_or(0),
        epoch = view.epoch,
    )
}

fn shard_id(view: &NodeView) -> String {
    format!("{:040x}", view.shard)
}
