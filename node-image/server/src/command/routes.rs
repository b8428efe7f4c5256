//! The other groups of the store as this node was told of them: where to send clients. Never a matter of safety.

use super::view::{NodeEndpoint, NodeView};
use crate::keyspace::{Access, Keyspace};
use quorate_api::{Incarnation, RoutingMap, RoutingShard, SlotSet};
use quorate_protocol::slots::SlotTable;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    shards: Vec<Route>,
    /// Last index of the log when the map came: what left later, the map cannot know.
    learned_at: u64,
}

/// Another group.
#[derive(Clone, Debug)]
struct Route {
    shard: u32,
    epoch: u64,
    slots: SlotSet,
    primary: Option<NodeEndpoint>,
    replicas: Vec<NodeEndpoint>,
}

/// One group in the map that clients are shown.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) shard: u32,
    pub(super) epoch: u64,
    pub(super) slots: SlotSet,
    pub(super) primary: Option<&'a NodeEndpoint>,
    pub(super) replicas: &'a [NodeEndpoint],
}

impl Section<'_> {
    /// The primary first, then the others.
    pub(super) fn members(&self) -> impl Iterator<Item = (&NodeEndpoint, bool)> {
        let replicas = self.replicas.iter().map(|endpoint| (endpoint, false));
        self.primary.into_iter().map(|endpoint| (endpoint, true)).chain(replicas)
    }
}

/// The name of a member in CLUSTER NODES: 40 hexadecimal digits, of which 32 are its incarnation.
#[must_use]
pub fn node_id(incarnation: Incarnation) -> String {
    format!("{:032x}00000000", incarnation.0.as_u128())
}

impl Routes {
    /// What a map says of the groups other than `own`, told when the log ended at `learned_at`.
    #[must_use]
    pub fn new(map: &RoutingMap, own: u32, learned_at: u64) -> Self {
        let others = map.shards.iter().filter(|shard| shard.shard != own);
        Self {
            shards: others.map(Route::new).collect(),
            learned_at,
        }
    }

    fn primary(&self, matches: impl Fn(&Route) -> bool) -> Option<&NodeEndpoint> {
        let route = self.shards.iter().find(|route| matches(route))?;
        // Any member knows better than this node does.
        route.primary.as_ref().or(route.replicas.first())
    }
}

impl Route {
    fn new(shard: &RoutingShard) -> Self {
        let RoutingShard {
            shard,
            epoch,
            primary,
            slots,
            members,
        } = shard;
        let endpoint = |member: &quorate_api::RoutingMember| NodeEndpoint {
            node_id: node_id(member.id.incarnation),
            host: member.addresses.client_host.clone(),
            port: member.addresses.client_port,
            up: true,
        };
        let (leaders, others): (Vec<_>, Vec<_>) = members.iter().partition(|member| Some(member.id.incarnation) == *primary);
        Self {
            shard: *shard,
            epoch: *epoch,
            slots: slots.clone(),
            primary: leaders.first().map(|member| endpoint(member)),
            replicas: others.into_iter().map(endpoint).collect(),
        }
    }
}

/// Whether slots left after the map came.
fn is_outdated(view: &NodeView, table: Option<&SlotTable>) -> bool {
    table.is_some_and(|table| table.released_at() > view.routes.learned_at)
}

/// What to say to a command on a slot that another group owns: where it went, if that was after the map came or the map still
/// says this group; else who owns it by the map.
pub(super) fn elsewhere(view: &NodeView, keyspace: &Keyspace, slot: u16) -> String {
    let table = keyspace.slot_table();
    let mapped = view.routes.primary(|route| route.slots.contains(slot));
    let went = table.and_then(|table| table.went_to(slot));
    let gone = view.routes.primary(|route| Some(route.shard) == went);
    let owner = if is_outdated(view, table) {
        gone.or(mapped)
    } else {
        mapped.or(gone)
    };
    match owner {
        Some(owner) => format!("MOVED {slot} {}:{}", owner.host, owner.port),
        None => "CLUSTERDOWN Hash slot not served: this node knows no owner of it at the moment".to_owned(),
    }
}

/// Every group that this node knows, its own first.
pub(super) fn sections<'a>(view: &'a NodeView, keyspace: &Keyspace) -> Vec<Section<'a>> {
    let table = keyspace.slot_table();
    let owned = match table {
        Some(table) => table.owned().clone(),
        None if keyspace.access(0, view.shard) == Access::Owned => SlotSet::all(),
        None => SlotSet::new(),
    };
    let nothing = SlotSet::new();
    let went = |shard: u32| table.and_then(|table| table.went(shard)).unwrap_or(&nothing);
    let shards = || view.routes.shards.iter();
    let mapped = shards().fold(SlotSet::new(), |all, route| all.union(&route.slots));
    let gone = shards().fold(SlotSet::new(), |all, route| all.union(went(route.shard)));
    let outdated = is_outdated(view, table);
    let mut sections = vec![Section {
        shard: view.shard,
        epoch: view.epoch,
        slots: owned.clone(),
        primary: view.primary.as_ref(),
        replicas: &view.replicas,
    }];
    for route in &view.routes.shards {
        let slots = if outdated {
            route.slots.difference(&gone).union(went(route.shard))
        } else {
            route.slots.union(&went(route.shard).difference(&mapped))
        };
        let slots = slots.difference(&owned);
        sections.push(Section {
            shard: route.shard,
            epoch: route.epoch,
            slots,
            primary: route.primary.as_ref(),
            replicas: &route.replicas,
        });
    }
    sections
}
