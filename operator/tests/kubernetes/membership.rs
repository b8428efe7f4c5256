//! Members and quorums that change, volumes that are lost, and what people ask for: on real nodes, under a client that writes
//! without pause. Nothing that was acknowledged is lost.

use crate::client::{Account, Writer, lost};
use crate::control_plane::control_plane;
use crate::failover::Scene;
use crate::machines::PATIENCE;
use crate::process::eventually;
use serde_json::json;
use std::time::Instant;

/// Awaits writes that are acknowledged from now on.
async fn goes_on(writer: &Writer) {
    let since = Instant::now();
    eventually("writes are acknowledged", PATIENCE, async || {
        (writer.acknowledged_since(since) > 50).then_some(())
    })
    .await;
}

fn nothing_lost(scene: &Scene<'_>, primary: usize, account: &Account, since: Instant) {
    println!(
        "{}: {} writes acknowledged, longest pause {} ms",
        scene.namespace,
        account.acknowledged.len(),
        account.outage(since).as_millis()
    );
    assert_eq!(
        lost(account, scene.machines.clients()[primary]),
        [] as [u64; 0],
        "acknowledged and not readable"
    );
    assert_eq!(scene.release.forbidden(), [] as [String; 0]);
}

#[tokio::test]
async fn a_store_grows_to_five_replicas_and_shrinks_to_three_under_load() {
    let mut scene = Scene::set(control_plane(), "scaled", "{}").await;
    let writer = Writer::start((0..5).map(|ordinal| scene.machines.client_of(ordinal)).collect());
    let begun = Instant::now();
    goes_on(&writer).await;
    scene.machines.respec(&json!({"replicasPerShard": 5})).await;
    scene.machines.follow(5).await;
    scene.machines.in_force(5, 3, 3).await;
    goes_on(&writer).await;
    scene.machines.respec(&json!({"replicasPerShard": 3})).await;
    scene.machines.follow(3).await;
    let primary = scene.machines.in_force(3, 2, 2).await;
    goes_on(&writer).await;
    nothing_lost(&scene, primary, &writer.finish(), begun);
    assert_eq!(scene.machines.status().await.shards[0].replicas.len(), 3);
    let events = scene.events().await;
    for event in ["ChangeBegun", "ConfigurationChanged", "ChangeDone"] {
        assert!(events.contains(&event.to_owned()), "{event}: {events:?}");
    }
}

#[tokio::test]
async fn quorums_change_while_clients_write() {
    let scene = Scene::set(control_plane(), "quorums", "{quorum: {write: 2, read: 2}}").await;
    let writer = Writer::start(scene.machines.clients());
    let begun = Instant::now();
    goes_on(&writer).await;
    scene.machines.respec(&json!({"quorum": {"write": 3, "read": 1}})).await;
    scene.machines.in_force(3, 3, 1).await;
    goes_on(&writer).await;
    scene.machines.respec(&json!({"quorum": {"write": 2, "read": 2}})).await;
    let primary = scene.machines.in_force(3, 2, 2).await;
    goes_on(&writer).await;
    nothing_lost(&scene, primary, &writer.finish(), begun);
}

#[tokio::test]
async fn a_replica_that_lost_its_volume_comes_back_as_another_member() {
    let mut scene = Scene::set(control_plane(), "volume", "{}").await;
    let writer = Writer::start(scene.machines.clients());
    let begun = Instant::now();
    goes_on(&writer).await;
    let harmed = (scene.primary + 1) % 3;
    let id = |status: quorate_crds::ReplicatedStoreStatus| status.shards[0].replicas[harmed].id.clone();
    let before = id(scene.machines.status().await);
    scene.machines.kill(harmed);
    scene.machines.wipe(harmed);
    scene.machines.boot(harmed).await;
    eventually("the change is told", PATIENCE, async || {
        scene.events().await.contains(&"ChangeDone".to_owned()).then_some(())
    })
    .await;
    let primary = scene.machines.in_force(3, 2, 2).await;
    assert_ne!(id(scene.machines.status().await), before);
    goes_on(&writer).await;
    nothing_lost(&scene, primary, &writer.finish(), begun);
}

#[tokio::test]
async fn a_person_makes_a_replica_the_primary_under_load() {
    let scene = Scene::set(control_plane(), "promoted", "{}").await;
    let writer = Writer::start(scene.machines.clients());
    let begun = Instant::now();
    goes_on(&writer).await;
    let wanted = (scene.primary + 2) % 3;
    scene.machines.ask("quorate.io/promote", &scene.machines.pod(wanted)).await;
    eventually("the annotation is answered", PATIENCE, async || {
        let store = scene.machines.stores.get("orders").await.unwrap();
        store.metadata.annotations.unwrap_or_default().is_empty().then_some(())
    })
    .await;
    eventually("it is the primary", PATIENCE, async || {
        (scene.machines.ready().await == wanted).then_some(())
    })
    .await;
    goes_on(&writer).await;
    nothing_lost(&scene, wanted, &writer.finish(), begun);
    assert!(scene.events().await.contains(&"Promoted".to_owned()));
}

#[tokio::test]
async fn a_person_accepts_a_loss_and_the_last_replica_goes_on() {
    let mut scene = Scene::set(control_plane(), "accepted", "{}").await;
    let left = (scene.primary + 1) % 3;
    let gone: Vec<usize> = (0..3).filter(|ordinal| *ordinal != left).collect();
    for ordinal in &gone {
        scene.machines.kill(*ordinal);
        scene.machines.wipe(*ordinal);
    }
    scene.machines.condition("FailoverBlocked", "True").await;
    let epoch = scene.epoch().await;
    scene.machines.ask("quorate.io/accept-data-loss", &format!("0@{epoch}")).await;
    assert_eq!(scene.machines.primary_beyond(epoch).await, left);
    let status = scene.machines.status().await;
    assert_eq!(status.data_loss.len(), 1);
    for ordinal in gone {
        scene.machines.boot(ordinal).await;
    }
    scene.machines.in_force(3, 2, 2).await;
    scene.event("DataLossAccepted").await;
}

#[tokio::test]
async fn a_status_that_is_wiped_is_written_anew_and_nothing_is_promoted() {
    let mut scene = Scene::set(control_plane(), "wiped", "{}").await;
    let epoch = scene.epoch().await;
    scene.operator.kill();
    scene.plane.kubectl(&[
        "patch",
        "rstore",
        "orders",
        "-n",
        &scene.namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status": {"shards": null, "conditions": null, "lastFailover": null}}"#,
    ]);
    scene.operator = scene.release.start("two");
    assert_eq!(scene.machines.ready().await, scene.primary);
    assert_eq!(scene.epoch().await, epoch);
    assert_eq!(scene.operator.logged("starting a view change"), 0);
}
