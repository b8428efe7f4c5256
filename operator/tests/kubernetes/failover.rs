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
struct Scene<'a> {
    plane: &'a ControlPlane,
    namespace: String,
    release: Release<'a>,
    operator: Process,
    machines: Machines,
    primary: usize,
}

impl<'a> Scene<'a> {
    async fn set(plane: &'a ControlPlane, purpose: &str, spec: &str) -> Scene<'a> {
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

    async fn epoch(&self) -> i64 {
        self.machines.status().await.shards[0].epoch
    }

    async fn events(&self) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.plane.client().await, &self.namespace);
        let events = api.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().filter_map(|event| event.reason).collect()
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
