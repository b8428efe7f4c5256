//! Stores of several shards: each is a group of real nodes, and none waits for another.

use crate::client::{Account, Connection, Writer};
use crate::control_plane::{ControlPlane, control_plane};
use crate::machines::{Machines, PATIENCE};
use crate::operator::Release;
use crate::process::{Process, eventually};
use quorate_crds::{RebalanceState, RebalanceStatus};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A store of several shards that serve, with its operator.
struct Shards<'a> {
    plane: &'a ControlPlane,
    namespace: String,
    release: Release<'a>,
    operator: Process,
    shards: Vec<Machines>,
}

impl<'a> Shards<'a> {
    async fn set(plane: &'a ControlPlane, purpose: &str, count: u32, spec: &str) -> Shards<'a> {
        let namespace = plane.namespace(purpose).await;
        let release = Release::install(plane, "quorate", &namespace);
        let operator = release.start("one");
        plane.apply(&format!(
            "{{apiVersion: quorate.io/v1alpha1, kind: ReplicatedStore, metadata: {{name: orders, namespace: {namespace}}}, spec: {spec}}}"
        ));
        let mut store = Self {
            plane,
            namespace,
            release,
            operator,
            shards: Vec::new(),
        };
        // One after the other, the last one first: none has an order to wait for but the first epoch of shard 0.
        for shard in (0..count).rev() {
            store.add(shard).await;
        }
        store.shards.reverse();
        store.shards[0].condition("Ready", "True").await;
        store
    }

    async fn add(&mut self, shard: u32) {
        let machines = Machines::run_shard(self.plane, &self.namespace, "orders", shard).await;
        self.shards.push(machines);
    }

    /// As `kubectl scale`.
    fn scale(&self, shards: u32) {
        let replicas = format!("--replicas={shards}");
        self.plane.kubectl(&["scale", "rstore", "orders", &replicas, "-n", &self.namespace]);
    }

    fn budgets(&self) -> String {
        let names = "jsonpath={.items[*].metadata.name}";
        let of_store = "app.kubernetes.io/instance=orders";
        self.plane
            .kubectl(&["get", "pdb", "-n", &self.namespace, "-l", of_store, "-o", names])
    }

    /// Where clients find every node.
    fn clients(&self) -> Vec<SocketAddr> {
        self.shards.iter().flat_map(Machines::clients).collect()
    }

    /// To every node.
    fn connections(&self) -> Vec<Connection> {
        let clients = self.clients().into_iter();
        clients.map(|client| Connection::open(client, PATIENCE).unwrap()).collect()
    }

    async fn slots(&self) -> Vec<i32> {
        let status = self.shards[0].status().await;
        status.shards.iter().map(|shard| shard.slots).collect()
    }

    /// Awaits what the status says of a rebalance.
    async fn rebalance(&self, wanted: impl Fn(&RebalanceStatus) -> bool) -> RebalanceStatus {
        eventually("the rebalance stands as it is wanted", PATIENCE, async || {
            self.shards[0].status().await.rebalance.filter(&wanted)
        })
        .await
    }

    /// Waits until so many shards own as many slots each, give or take one, and nothing is left to do.
    async fn balanced(&self, count: usize) {
        eventually(&format!("{count} shards own as many slots each"), PATIENCE * 2, async || {
            let slots = self.slots().await;
            let even = slots.iter().max()? - slots.iter().min()? <= 1;
            (slots.len() == count && even && slots.iter().sum::<i32>() == 16_384).then_some(())
        })
        .await;
        self.rebalance(|told| told.state == RebalanceState::Balanced).await;
    }

    async fn epochs(&self) -> Vec<i64> {
        let status = self.shards[0].status().await;
        status.shards.iter().map(|shard| shard.epoch).collect()
    }
}

#[tokio::test]
async fn three_shards_are_three_groups_and_the_failover_of_one_waits_for_no_other() {
    let mut store = Shards::set(control_plane(), "three", 3, "{shards: 3}").await;
    let status = store.shards[0].status().await;
    assert_eq!((status.ready_shards, status.shards.len()), (3, 3));
    assert_eq!(store.budgets(), "orders orders-1 orders-2");

    // Shard 1 has lost two of three and waits; shard 2 loses its primary then.
    for ordinal in [0, 1] {
        store.shards[1].kill(ordinal);
    }
    let (reason, message) = store.shards[0].condition("Available", "False").await;
    assert!(message.starts_with("shard 1: "), "{reason}: {message}");
    let epochs = store.epochs().await;
    let primary = store.shards[2].ordinal(status.shards[2].primary.as_deref().unwrap());
    let killed = Instant::now();
    store.shards[2].kill(primary);
    let next = store.shards[2].primary_beyond(epochs[2]).await;
    let took = killed.elapsed();
    println!(
        "{}: the failover of shard 2 was told after {} ms",
        store.namespace,
        took.as_millis()
    );
    assert_ne!(next, primary);
    assert!(took < Duration::from_secs(3), "{took:?}");
    let after = store.epochs().await;
    assert_eq!((after[0], after[1]), (epochs[0], epochs[1]), "nobody else began an epoch");
    let failover = store.shards[0].status().await.last_failover.unwrap();
    assert_eq!((failover.shard, failover.to), (2, store.shards[2].pod(next)));
    for ordinal in [0, 1] {
        store.shards[1].boot(ordinal).await;
    }
    store.shards[2].boot(primary).await;
    store.shards[0].condition("Ready", "True").await;
    assert_eq!(store.release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn a_person_promotes_a_replica_of_the_shard_that_the_pod_is_of() {
    let store = Shards::set(control_plane(), "each", 2, "{shards: 2}").await;
    let status = store.shards[0].status().await;
    let (before, epochs) = (status.shards[1].primary.clone().unwrap(), store.epochs().await);
    let wanted = (store.shards[1].ordinal(&before) + 1) % 3;
    store.shards[0].ask("quorate.io/promote", &store.shards[1].pod(wanted)).await;
    assert_eq!(store.shards[1].primary_beyond(epochs[1]).await, wanted);
    eventually("the annotation is answered", PATIENCE, async || {
        let store = store.shards[0].stores.get("orders").await.unwrap();
        store.metadata.annotations.unwrap_or_default().is_empty().then_some(())
    })
    .await;
    assert_eq!(store.epochs().await[0], epochs[0]);
}

#[tokio::test]
async fn shard_zero_that_comes_back_empty_beside_a_shard_with_data_is_refused() {
    let mut store = Shards::set(control_plane(), "beside", 2, "{shards: 2, replicasPerShard: 1}").await;
    // As after a deletion that kept the claims of shard 1 alone: nothing but shard 1 tells of the store's past.
    store.operator.kill();
    store.shards[0].kill(0);
    store.shards[0].wipe(0);
    store.plane.kubectl(&[
        "patch",
        "rstore",
        "orders",
        "-n",
        &store.namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status": {"shards": null, "conditions": null}}"#,
    ]);
    let annotated = ["annotate", "statefulset/orders-0", "-n", &store.namespace, "quorate.io/bootstrap-"];
    store.plane.kubectl(&annotated);
    store.shards[0].boot(0).await;
    store.operator = store.release.start("two");
    let message = store.shards[0].because("Available", "False", "DataLost").await;
    assert!(message.contains("orders-1-0 holds data of this store"), "{message}");
    assert_eq!(store.operator.logged("starting a view change"), 0);
}

/// Puts so many values of that size into the store.
fn fill(store: &Shards<'_>, count: usize, size: usize) {
    let value = "v".repeat(size);
    let mut owners = store.connections();
    for number in 0..count {
        let key = format!("filler{number}");
        let taken = owners.iter_mut().any(|owner| owner.ask(&["SET", &key, &value]).unwrap() == "+OK");
        assert!(taken, "nobody takes {key}");
    }
}

/// Numbers that were acknowledged and that no owner has with their value.
fn missing(store: &Shards<'_>, account: &Account) -> Vec<u64> {
    let mut owners = store.connections();
    let numbers = account.acknowledged.iter().map(|(number, _)| *number);
    let lost = numbers.filter(|number| {
        let key = format!("n{number}");
        // Whoever owns the slot answers; the others say MOVED.
        !owners
            .iter_mut()
            .any(|owner| owner.ask(&["GET", &key]).unwrap() == number.to_string())
    });
    lost.collect()
}

/// Ends the writer: whatever was acknowledged to it can be read.
fn everything_is_there(store: &Shards<'_>, writer: Writer) {
    let account = writer.finish();
    println!("{}: {} writes acknowledged", store.namespace, account.acknowledged.len());
    assert_eq!(missing(store, &account), [] as [u64; 0], "acknowledged and not readable");
}

/// Awaits writes that are acknowledged from now on.
async fn goes_on(writer: &Writer) {
    let since = Instant::now();
    eventually("writes are acknowledged", PATIENCE, async || {
        (writer.acknowledged_since(since) > 50).then_some(())
    })
    .await;
}

#[tokio::test]
async fn three_shards_become_five_and_three_again_under_load_and_nothing_is_lost() {
    let mut store = Shards::set(control_plane(), "scale", 3, "{shards: 3, replicasPerShard: 1}").await;
    store.balanced(3).await;
    let writer = Writer::start(store.clients());
    goes_on(&writer).await;
    store.scale(5);
    for shard in [3, 4] {
        store.add(shard).await;
    }
    store.balanced(5).await;
    goes_on(&writer).await;
    store.scale(3);
    for gone in store.shards.split_off(3).into_iter().rev() {
        gone.leave().await;
    }
    store.balanced(3).await;
    goes_on(&writer).await;
    everything_is_there(&store, writer);
    assert_eq!(store.release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn one_shard_of_three_replicas_becomes_three_shards_and_two_although_the_operator_dies_half_way() {
    let spec = "{shards: 1, rebalance: {maxBytesPerSecond: 1Mi}}";
    let mut store = Shards::set(control_plane(), "grow", 1, spec).await;
    fill(&store, 400, 20_000);
    let writer = Writer::start(store.clients());
    goes_on(&writer).await;
    store.scale(3);
    for shard in [1, 2] {
        store.add(shard).await;
    }
    let half_way = store.rebalance(|told| told.moves > 0 && told.bytes_moved > 0).await;
    assert!(half_way.percent < 100 && half_way.bytes_total > 4_000_000, "{half_way:?}");
    store.operator.kill();
    goes_on(&writer).await;
    store.operator = store.release.start("two");
    store.balanced(3).await;
    assert_eq!(store.budgets(), "orders orders-1 orders-2");

    store.scale(2);
    store
        .rebalance(|told| told.state == RebalanceState::Draining && told.moves > 0)
        .await;
    store.operator.kill();
    store.operator = store.release.start("three");
    let gone = store.shards.pop().unwrap();
    gone.leave().await;
    store.balanced(2).await;
    assert_eq!(store.budgets(), "orders orders-1");
    goes_on(&writer).await;
    everything_is_there(&store, writer);
    assert_eq!(store.release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn a_change_of_mind_half_way_ends_with_the_last_word_and_a_shard_that_comes_back_takes_up_its_disk() {
    let spec = "{shards: 1, replicasPerShard: 1, rebalance: {maxBytesPerSecond: 1Mi}}";
    let mut store = Shards::set(control_plane(), "whim", 1, spec).await;
    fill(&store, 400, 20_000);
    let writer = Writer::start(store.clients());
    store.scale(3);
    for shard in [1, 2] {
        store.add(shard).await;
    }
    store.rebalance(|told| told.moves > 0 && told.bytes_moved > 0).await;
    store.scale(1);
    for gone in store.shards.split_off(1).into_iter().rev() {
        gone.leave().await;
    }
    store.balanced(1).await;
    goes_on(&writer).await;
    store.scale(2);
    store.add(1).await;
    store.balanced(2).await;
    goes_on(&writer).await;
    everything_is_there(&store, writer);
}

#[tokio::test]
async fn in_manual_mode_slots_with_data_move_when_a_person_says_so() {
    let spec = "{shards: 1, replicasPerShard: 1, rebalance: {mode: Manual}}";
    let mut store = Shards::set(control_plane(), "manual", 1, spec).await;
    fill(&store, 10, 100);
    store.scale(2);
    store.add(1).await;
    let told = store
        .rebalance(|told| told.state == RebalanceState::Waiting && told.reason.contains("Manual"))
        .await;
    assert!(told.reason.contains("quorate.io/rebalance"), "{}", told.reason);
    let (reason, _) = store.shards[0].condition("Rebalancing", "False").await;
    assert_eq!(reason, "ManualRebalance");
    assert_eq!(store.slots().await, [16_384, 0]);
    store.shards[0].ask("quorate.io/rebalance", "now").await;
    store.balanced(2).await;
    eventually("the annotation is answered", PATIENCE, async || {
        let store = store.shards[0].stores.get("orders").await.unwrap();
        store.metadata.annotations.unwrap_or_default().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_shard_that_the_others_could_not_hold_stays_until_they_can() {
    let spec = "{shards: 2, replicasPerShard: 1, maxMemory: 16Mi}";
    let mut store = Shards::set(control_plane(), "full", 2, spec).await;
    store.balanced(2).await;
    fill(&store, 1000, 16_000);
    store.scale(1);
    let message = store.shards[0].because("RebalanceStalled", "True", "InsufficientCapacity").await;
    assert!(
        message.contains("the shards that remain cannot hold the data") && message.contains("14.4 MiB"),
        "{message}"
    );
    assert_eq!(store.slots().await, [8192, 8192], "nothing moved");
    for owner in &mut store.connections() {
        owner.ask(&["FLUSHALL"]).unwrap();
    }
    store.shards.pop().unwrap().leave().await;
    store.balanced(1).await;
    store.shards[0].condition("RebalanceStalled", "False").await;
}
