//! Leader election between two replicas of one release.

use crate::control_plane::control_plane;
use crate::machines::PATIENCE;
use crate::operator::Release;
use crate::process::{Process, eventually};
use std::time::{Duration, Instant};

async fn leads(process: &Process) {
    eventually("it leads", PATIENCE, async || (process.logged("leading") > 0).then_some(())).await;
}

#[tokio::test]
async fn a_candidate_waits_takes_over_from_a_leader_that_vanished_and_at_once_from_one_that_leaves() {
    let plane = control_plane();
    let namespace = plane.namespace("leading").await;
    let release = Release::install(plane, "quorate", &namespace);
    let mut first = release.start("first");
    leads(&first).await;
    let mut second = release.start("second");
    eventually("the second one waits", PATIENCE, async || {
        (second.logged("waiting to lead") > 0).then_some(())
    })
    .await;

    let vanished = Instant::now();
    first.kill();
    leads(&second).await;
    let took = vanished.elapsed();
    assert!(took > Duration::from_secs(4), "it observes the lease unchanged first: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");

    let third = release.start("third");
    eventually("the third one waits", PATIENCE, async || {
        (third.logged("waiting to lead") > 0).then_some(())
    })
    .await;
    second.stop().await;
    let left = Instant::now();
    leads(&third).await;
    assert!(
        left.elapsed() < Duration::from_secs(4),
        "a lease that was given back is free: {:?}",
        left.elapsed()
    );
    let holder = [
        "get",
        "lease",
        "quorate-operator",
        "-n",
        &namespace,
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    assert_eq!(plane.kubectl(&holder), "third");
    assert_eq!(release.forbidden(), [] as [String; 0]);
}
