//! A store of several groups of local nodes, and what an operator does for it: tell the map, order moves, drive failovers.

use super::{Identity, LocalCluster, LocalClusterOptions};
use anyhow::{Context, Result, bail};
use quorate_api::slots::{RoutingMap, RoutingMember, RoutingShard};
use quorate_api::wire::{ClientKind, NodeAddresses, Reply, Request};
use quorate_api::{MoveRefusal, MoveSlots, MoveStatus, NodeRole, NodeStatus, SlotSet};
use quorate_client::{dial, read_frame, write_frame};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// A node that does not answer in this time is left out.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Nothing that an operator waits for takes longer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub struct LocalStore {
    groups: Vec<LocalCluster>,
    runtime: Runtime,
    token: Vec<u8>,
    version: u64,
    next_handoff: u64,
}

impl LocalStore {
    /// Starts and bootstraps so many groups like the one described. Shard 0 owns every slot; every node knows the map.
    ///
    /// # Errors
    /// If a node fails, with the end of its log.
    pub fn start(options: &LocalClusterOptions, shards: u32) -> Result<Self> {
        let mut groups = Vec::new();
        for shard in 0..shards {
            let identity = Identity {
                shard,
                ..options.identity.clone()
            };
            let group = LocalCluster::start_blank(LocalClusterOptions {
                identity,
                ..options.clone()
            })?;
            group.bootstrap()?;
            groups.push(group);
        }
        let mut store = Self {
            groups,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            token: options.identity.token.clone().into_bytes(),
            version: 0,
            next_handoff: 1,
        };
        for shard in 0..store.groups.len() {
            store.await_primary(shard)?;
        }
        store.tell_routes()?;
        Ok(store)
    }

    /// A group.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn group(&self, shard: usize) -> &LocalCluster {
        &self.groups[shard]
    }

    /// A group, to do something to it.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn group_mut(&mut self, shard: usize) -> &mut LocalCluster {
        &mut self.groups[shard]
    }

    /// Where clients reach all nodes.
    #[must_use]
    pub fn clients(&self) -> Vec<SocketAddr> {
        let nodes = self.groups.iter().flat_map(LocalCluster::nodes);
        nodes.map(|node| node.client).collect()
    }

    fn tell(&self, address: SocketAddr, request: &Request, answered: bool) -> Result<Option<Reply>> {
        let token = &self.token;
        self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_WITHIN, async {
                let mut node = dial(&address.to_string(), token, ClientKind::Operator).await?;
                write_frame(&mut node.write, request).await?;
                if !answered {
                    // The node has read the first when it answers the second.
                    write_frame(&mut node.write, &Request::SlotSizes).await?;
                }
                let reply = read_frame::<Reply>(&mut node.read, &mut node.buffer).await?;
                Ok(answered.then_some(reply))
            })
            .await?
        })
    }

    fn ask(&self, address: SocketAddr, request: &Request) -> Result<Reply> {
        self.tell(address, request, true)?.context("a reply")
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self, shard: usize, ordinal: usize) -> Result<NodeStatus> {
        let watch = Request::Watch {
            interval_millis: 60_000,
            policy: None,
        };
        match self.ask(self.groups[shard].nodes()[ordinal].replica, &watch)? {
            Reply::Status(status) => Ok(*status),
            other => bail!("a node answered {other:?}"),
        }
    }

    /// The ordinal of the primary, by what the nodes say; of several, the one of the highest epoch.
    #[must_use]
    pub fn primary(&self, shard: usize) -> Option<usize> {
        let ordinals = 0..self.groups[shard].nodes().len();
        let running = ordinals.filter(|ordinal| self.groups[shard].nodes()[*ordinal].process.pid().is_some());
        let statuses = running.filter_map(|ordinal| Some((ordinal, self.status(shard, ordinal).ok()?)));
        let primaries = statuses.filter(|(_, status)| status.role == NodeRole::Primary);
        primaries.max_by_key(|(_, status)| status.promised).map(|(ordinal, _)| ordinal)
    }

    /// Waits for a primary.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn await_primary(&self, shard: usize) -> Result<usize> {
        self.eventually("a primary serves", || Ok(self.primary(shard)))
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// If it does not in time: what was waited for, and what was seen last.
    pub fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = look();
            if let Ok(Some(found)) = seen {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("never: {what} (last: {:?})", seen.err());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What the primary of a shard says of itself.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn primary_status(&self, shard: usize) -> Result<NodeStatus> {
        let ordinal = self.await_primary(shard)?;
        self.status(shard, ordinal)
    }

    /// What a shard owns, as its primary says.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn owned(&self, shard: usize) -> Result<SlotSet> {
        Ok(self
            .primary_status(shard)?
            .slots
            .context("a node of this version tells its slots")?
            .owned)
    }

    /// The state of a move away from a shard; None once nothing is left of it.
    ///
    /// # Errors
    /// If the primary does not answer.
    pub fn export(&self, shard: usize, handoff: u64) -> Result<Option<MoveStatus>> {
        let slots = self
            .primary_status(shard)?
            .slots
            .context("a node of this version tells its slots")?;
        Ok(slots.exports.into_iter().find(|export| export.handoff == handoff))
    }

    /// Tells every node that answers who owns what.
    ///
    /// # Errors
    /// If a shard has no primary.
    pub fn tell_routes(&mut self) -> Result<()> {
        self.version += 1;
        let shards: Result<Vec<_>> = (0..self.groups.len()).map(|shard| self.route(shard)).collect();
        let map = Request::Route(RoutingMap {
            version: self.version,
            shards: shards?,
        });
        for node in self.groups.iter().flat_map(LocalCluster::nodes) {
            if node.process.pid().is_some() {
                // A node that does not answer hears of the next one.
                let _ = self.tell(node.replica, &map, false);
            }
        }
        Ok(())
    }

    fn route(&self, shard: usize) -> Result<RoutingShard> {
        let status = self.primary_status(shard)?;
        let mut members = Vec::new();
        for (ordinal, node) in self.groups[shard].nodes().iter().enumerate() {
            if node.process.pid().is_none() {
                continue;
            }
            let Ok(member) = self.status(shard, ordinal) else { continue };
            members.push(RoutingMember {
                id: member.id,
                addresses: NodeAddresses {
                    replica: node.replica.to_string(),
                    client_host: node.client.ip().to_string(),
                    client_port: node.client.port(),
                },
            });
        }
        Ok(RoutingShard {
            shard: status.id.shard,
            epoch: status.promised.number,
            primary: Some(status.id.incarnation),
            slots: status.slots.unwrap_or_default().owned,
            members,
        })
    }

    /// A number for a move.
    pub fn fresh_handoff(&mut self) -> u64 {
        self.next_handoff += 1;
        self.next_handoff
    }

    /// Orders a move once.
    ///
    /// # Errors
    /// If the primary does not answer.
    pub fn order(&self, from: usize, order: &MoveSlots) -> Result<Result<(), MoveRefusal>> {
        let ordinal = self.await_primary(from)?;
        match self.ask(self.groups[from].nodes()[ordinal].replica, &Request::MoveSlots(order.clone()))? {
            Reply::MoveSlots(outcome) => Ok(outcome),
            other => bail!("a node answered {other:?}"),
        }
    }

    /// Orders a move until it is on record, and gives its number.
    ///
    /// # Errors
    /// If it is refused for good.
    pub fn begin_move(&mut self, from: usize, to: u32, slots: &SlotSet, max_bytes_per_second: u64) -> Result<u64> {
        let handoff = self.fresh_handoff();
        let order = MoveSlots {
            handoff,
            slots: slots.clone(),
            to,
            max_bytes_per_second,
        };
        self.eventually("a move is on record", || match self.order(from, &order)? {
            Ok(()) => Ok(Some(())),
            Err(refusal) => bail!(refusal),
        })?;
        Ok(handoff)
    }

    /// Ends a move.
    ///
    /// # Errors
    /// If the primary does not answer.
    pub fn abort(&self, from: usize, handoff: u64) -> Result<Result<(), MoveRefusal>> {
        let ordinal = self.await_primary(from)?;
        match self.ask(self.groups[from].nodes()[ordinal].replica, &Request::AbortMove { handoff })? {
            Reply::AbortMove(outcome) => Ok(outcome),
            other => bail!("a node answered {other:?}"),
        }
    }

    /// Waits until nothing is left of a move; true if its target owns the slots now.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn await_end(&self, from: usize, handoff: u64, to: usize, slots: &SlotSet) -> Result<bool> {
        self.eventually("a move ends", || Ok(self.export(from, handoff)?.is_none().then_some(())))?;
        let (ours, theirs) = (self.owned(from)?, self.owned(to)?);
        match (slots.difference(&ours).is_empty(), slots.difference(&theirs).is_empty()) {
            (true, false) if theirs.is_disjoint(slots) => Ok(false),
            (false, true) if ours.is_disjoint(slots) => Ok(true),
            _ => bail!("{slots} have not one owner: {ours} and {theirs}"),
        }
    }

    /// Kills the primary of a shard, has the others choose the next, starts the old one again, and tells the map.
    ///
    /// # Errors
    /// If nobody serves before or after.
    pub fn fail_over(&mut self, shard: usize) -> Result<()> {
        let ordinal = self.await_primary(shard)?;
        self.groups[shard].node_mut(ordinal)?.process.kill()?;
        self.groups[shard].failover()?;
        self.await_primary(shard)?;
        self.groups[shard].node_mut(ordinal)?.process.restart()?;
        self.tell_routes()
    }
}
