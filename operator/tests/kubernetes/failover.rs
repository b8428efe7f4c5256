//! Whole stores: the operator, an API server, and three real nodes under a client that writes without pause.

use crate::client::{Writer, lost};
use crate::control_plane::{ControlPlane, control_plane, scratch};
use crate::machines::{Machines, PATIENCE};
use crate::operator::Release;
use crate::process::{Process, eventually};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use std::time::{Duration, Instant};

fn store(namespace: &str, spec: &str) -> String {
    format!("{{apiVersion: quorate.io/v1alpha1, kind: ReplicatedStore, metadata: {{name: orders, namespace: {namespace}}}, spec: {spec}}}")
}

/// A store that serves, with its operator.
pub(crate) struct Scene<'a> {
    pub(crate) plane: &'a ControlPlane,
    pub(crate) namespace: String,
    pub(crate) release: Release<'a>,
    pub(crate) operator: Process,
    pub(crate) machines: Machines,
    pub(crate) primary: usize,
}

impl<'a> Scene<'a> {
    pub(crate) async fn set(plane: &'a ControlPlane, purpose: &str, spec: &str) -> Scene<'a> {
        let namespace = plane.namespace(purpose).await;
        let release = Release::install(plane, "quorate", &namespace);
        let operator = release.start("one");
        plane.apply(&store(&namespace, spec));
        let machines = Machines::run(plane, &namespace, "orders").await;
        let primary = machines.ready().await;
        Self {
            plane,
            namespace,
            release,
            operator,
            machines,
            primary,
        }
    }

    pub(crate) async fn epoch(&self) -> i64 {
        self.machines.status().await.shards[0].epoch
    }

    pub(crate) async fn events(&self) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.plane.client().await, &self.namespace);
        let events = api.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().filter_map(|event| event.reason).collect()
    }

    /// Waits until an event of that reason is written.
    pub(crate) async fn event(&self, reason: &str) {
        eventually("the event is written", PATIENCE, async || {
            self.events().await.iter().any(|written| written == reason).then_some(())
        })
        .await;
    }

    /// Does something to the primary under load; gives the outage and the new primary. Nothing is lost.
    async fn under_load(&mut self, harm: impl AsyncFnOnce(&mut Machines, usize)) -> (Duration, usize) {
        let (old, epoch) = (self.primary, self.epoch().await);
        let writer = Writer::start(self.machines.clients());
        let begun = Instant::now();
        eventually("writes are acknowledged", PATIENCE, async || {
            (writer.acknowledged_since(begun) > 50).then_some(())
        })
        .await;
        let harmed = Instant::now();
        harm(&mut self.machines, old).await;
        let primary = self.machines.primary_beyond(epoch).await;
        let told = Instant::now();
        eventually("writes are acknowledged again", PATIENCE, async || {
            (writer.acknowledged_since(told) > 50).then_some(())
        })
        .await;
        let account = writer.finish();
        let outage = account.outage(harmed);
        assert_eq!(
            lost(&account, self.machines.clients()[primary]),
            [] as [u64; 0],
            "acknowledged and not readable"
        );
        println!(
            "{}: outage {} ms, {} writes acknowledged",
            self.namespace,
            outage.as_millis(),
            account.acknowledged.len()
        );
        self.primary = primary;
        (outage, primary)
    }
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_nothing_is_lost() {
    let mut scene = Scene::set(control_plane(), "killed", "{}").await;
    let old = scene.primary;
    let (outage, primary) = scene.under_load(async |machines, primary| machines.kill(primary)).await;
    assert_ne!(primary, old);
    assert!(outage < Duration::from_millis(1500), "the outage took {outage:?}");
    let failover = scene.machines.status().await.last_failover.unwrap();
    assert_eq!(
        (failover.from, failover.to),
        (Some(scene.machines.pod(old)), scene.machines.pod(primary))
    );
    eventually("the events are written", PATIENCE, async || {
        let events = scene.events().await;
        (events.contains(&"Bootstrapped".to_owned()) && events.contains(&"FailedOver".to_owned())).then_some(())
    })
    .await;
    let (reason, message) = scene.machines.condition("Ready", "False").await;
    assert_eq!(reason, "ReplicasBehind");
    assert!(message.contains(&format!("not {}", scene.machines.pod(old))), "{message}");
    scene.machines.boot(old).await;
    assert_eq!(scene.machines.ready().await, primary, "the old primary follows");
    assert_eq!(scene.release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_about_when_its_silence_reaches_the_limit() {
    let mut scene = Scene::set(control_plane(), "frozen", "{}").await;
    let old = scene.primary;
    let (outage, primary) = scene.under_load(async |machines, primary| machines.freeze(primary)).await;
    assert_ne!(primary, old);
    assert!(outage < Duration::from_millis(2500), "the outage took {outage:?}");
    scene.machines.thaw(old);
    assert_eq!(scene.machines.ready().await, primary, "the old primary follows");
    assert_eq!(scene.epoch().await, 2, "and nobody failed over to it again");
}

#[tokio::test]
async fn a_primary_that_is_deleted_hands_over_without_a_duel() {
    let mut scene = Scene::set(control_plane(), "deleted", "{}").await;
    let old = scene.primary;
    let (outage, primary) = scene.under_load(async |machines, primary| machines.delete(primary).await).await;
    assert_ne!(primary, old);
    assert!(outage < Duration::from_millis(500), "the outage took {outage:?}");
    assert_eq!(scene.epoch().await, 2, "one view change");
    assert_eq!(
        scene.operator.logged("starting a view change"),
        1,
        "the first epoch; the operator left the hand-over alone"
    );
    assert!(
        !scene.events().await.contains(&"FailedOver".to_owned()),
        "the primary did it by itself"
    );
    // Its successor of the same name gets another UID and address, and the same volume.
    scene.machines.create(old).await;
    scene.machines.boot(old).await;
    assert_eq!(scene.machines.ready().await, primary);
}

#[tokio::test]
async fn two_replicas_down_block_a_failover_and_it_goes_on_by_itself_when_one_returns() {
    let mut scene = Scene::set(control_plane(), "blocked", "{}").await;
    let (old, epoch) = (scene.primary, scene.epoch().await);
    let other = (old + 1) % 3;
    scene.machines.kill(other);
    scene.machines.kill(old);
    let (reason, message) = scene.machines.condition("FailoverBlocked", "True").await;
    assert_eq!(reason, "TooFewReplicas");
    assert_eq!(
        message,
        "1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back"
    );
    assert_eq!(scene.epoch().await, epoch, "nobody was promoted");
    scene.event("FailoverBlocked").await;
    scene.machines.boot(other).await;
    scene.machines.condition("Available", "True").await;
    scene.machines.condition("FailoverBlocked", "False").await;
    scene.machines.boot(old).await;
    scene.machines.ready().await;
}

#[tokio::test]
async fn a_store_of_which_every_process_is_killed_comes_back_with_all_its_data() {
    let mut scene = Scene::set(control_plane(), "all", "{}").await;
    let begun = Instant::now();
    let writer = Writer::start(scene.machines.clients());
    eventually("writes are acknowledged", PATIENCE, async || {
        (writer.acknowledged_since(begun) > 100).then_some(())
    })
    .await;
    for ordinal in 0..3 {
        scene.machines.kill(ordinal);
    }
    let account = writer.finish();
    scene.machines.condition("Available", "False").await;
    for ordinal in 0..3 {
        scene.machines.boot(ordinal).await;
    }
    let primary = scene.machines.ready().await;
    assert_eq!(lost(&account, scene.machines.clients()[primary]), [] as [u64; 0]);
}

#[tokio::test]
async fn a_store_whose_volumes_come_back_empty_is_refused() {
    let mut scene = Scene::set(control_plane(), "emptied", "{}").await;
    for ordinal in 0..3 {
        scene.machines.kill(ordinal);
        scene.machines.wipe(ordinal);
    }
    // The status is only a record: without it, the annotation of the StatefulSet still tells.
    drop(scene.operator);
    scene.plane.kubectl(&[
        "patch",
        "rstore",
        "orders",
        "-n",
        &scene.namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status": {"shards": null, "conditions": null}}"#,
    ]);
    scene.operator = scene.release.start("two");
    for ordinal in 0..3 {
        scene.machines.boot(ordinal).await;
    }
    let message = scene.machines.because("Available", "False", "DataLost").await;
    assert!(message.contains("come back empty"), "{message}");
    scene.event("DataLost").await;
}

#[tokio::test]
async fn an_operator_killed_in_the_middle_of_failovers_leaves_nothing_that_the_next_one_cannot_finish() {
    let mut scene = Scene::set(control_plane(), "crashing", "{}").await;
    let writer = Writer::start(scene.machines.clients());
    for round in 0..3u64 {
        let old = scene.primary;
        let epoch = scene.epoch().await;
        scene.machines.kill(old);
        // The log tells that a view change is under way; the operator dies a little later each time.
        let before = usize::from(round == 0);
        let begun = async || (scene.operator.logged("starting a view change") > before).then_some(());
        eventually("a view change is started", PATIENCE, begun).await;
        tokio::time::sleep(Duration::from_millis(round)).await;
        scene.operator.kill();
        scene.operator = scene.release.start(&format!("next-{round}"));
        scene.primary = scene.machines.primary_beyond(epoch).await;
        scene.machines.boot(old).await;
        scene.primary = scene.machines.ready().await;
        // One that has driven nothing yet, for the next round.
        scene.operator.kill();
        scene.operator = scene.release.start(&format!("after-{round}"));
        eventually("it leads", PATIENCE, async || (scene.operator.logged("leading") > 0).then_some(())).await;
    }
    let account = writer.finish();
    assert_eq!(lost(&account, scene.machines.clients()[scene.primary]), [] as [u64; 0]);
}

#[tokio::test]
async fn two_operators_at_once_lose_nothing_and_agree_on_the_primary() {
    let mut scene = Scene::set(control_plane(), "doubled", "{}").await;
    // A release of its own has a lease of its own: both lead.
    let second = Release::install(scene.plane, "second", &scene.namespace);
    let other = second.start("other");
    eventually("the second one leads", PATIENCE, async || {
        (other.logged("leading") > 0).then_some(())
    })
    .await;
    for _ in 0..3 {
        let old = scene.primary;
        let (outage, primary) = scene.under_load(async |machines, primary| machines.kill(primary)).await;
        assert_ne!(primary, old);
        assert!(outage < Duration::from_secs(3), "the outage took {outage:?}");
        scene.machines.boot(old).await;
        scene.primary = scene.machines.ready().await;
    }
    assert_eq!(second.forbidden(), [] as [String; 0]);
    // Each has a memory of its own, and the one that was not the faster one knows an older failover.
    let (last, epoch) = (scene.machines.pod(scene.primary), scene.epoch().await);
    scene.operator.kill();
    scene.machines.kill((scene.primary + 1) % 3);
    scene.machines.condition("Ready", "False").await;
    scene.machines.boot((scene.primary + 1) % 3).await;
    scene.machines.ready().await;
    let failover = scene.machines.status().await.last_failover.unwrap();
    assert_eq!(
        (failover.to, failover.epoch),
        (last, epoch),
        "the operator that stays tells the newest one"
    );
}

#[tokio::test]
async fn a_failover_needs_no_api_server() {
    let plane = ControlPlane::start(&scratch().join("outage")).await;
    let mut scene = Scene::set(&plane, "outage", "{}").await;
    let begun = Instant::now();
    let writer = Writer::start(scene.machines.clients());
    eventually("writes are acknowledged", PATIENCE, async || {
        (writer.acknowledged_since(begun) > 50).then_some(())
    })
    .await;
    plane.freeze();
    // Longer than a lease lasts.
    let harmed = Instant::now();
    eventually("the leader cannot renew", PATIENCE, async || {
        (scene.operator.logged("renewing the lease takes too long") >= 3).then_some(())
    })
    .await;
    scene.machines.kill(scene.primary);
    let killed = Instant::now();
    eventually("writes are acknowledged again", PATIENCE, async || {
        (writer.acknowledged_since(killed) > 50).then_some(())
    })
    .await;
    let account = writer.finish();
    assert!(account.outage(killed) < Duration::from_millis(1500), "{:?}", account.outage(killed));
    assert!(killed - harmed > Duration::from_secs(6));
    plane.thaw();
    let primary = scene.machines.primary_beyond(1).await;
    assert_eq!(lost(&account, scene.machines.clients()[primary]), [] as [u64; 0]);
    eventually("the event of the failover is written in the end", PATIENCE, async || {
        scene.events().await.contains(&"FailedOver".to_owned()).then_some(())
    })
    .await;
    assert!(!scene.operator.ended(), "it is still the same operator");
}
