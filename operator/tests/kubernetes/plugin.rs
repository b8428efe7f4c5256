//! The kubectl plugin against a store that runs: what it shows, what it asks for, and what it ends with.

use crate::control_plane::{ControlPlane, control_plane, programs, scratch};
use crate::failover::Scene;
use crate::machines::PATIENCE;
use crate::process::eventually;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// What a command said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (code, out, err) = (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr));
    Said { code, out, err }
}

fn plugin(plane: &ControlPlane, namespace: &str, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-quorate"));
    command
        .arg("--kubeconfig")
        .arg(plane.kubeconfig(None))
        .args(["-n", namespace])
        .args(args);
    said(command)
}

#[tokio::test]
async fn a_store_is_shown_and_its_primary_moved_to_where_a_person_wants_it() {
    let scene = Scene::set(control_plane(), "shown", "{}").await;
    let run = |args: &[&str]| plugin(scene.plane, &scene.namespace, args);
    let primary = scene.machines.pod(scene.primary);
    let shown = run(&["status", "orders"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for text in [
        &format!("Store:     orders (namespace {})\n", scene.namespace),
        "State:     Ready, for ",
        "Quorums:   write 2, read 2, failover 2 of 3 replicas\n",
        &format!("0       {primary}   1       16384   3/3       serves\n"),
        &format!("0       {primary}   Primary   yes       0\n"),
    ] {
        assert!(shown.out.contains(text), "{text:?} is not in\n{}", shown.out);
    }
    assert_eq!(
        run(&["status"]).out.lines().next(),
        shown.out.lines().next(),
        "the only store of the namespace"
    );
    let json: Value = serde_json::from_str(&run(&["status", "orders", "-o", "json"]).out).unwrap();
    assert_eq!(
        (&json["waits"], &json["status"]["shards"][0]["primary"]),
        (&serde_json::json!([]), &Value::from(primary.clone()))
    );

    let wanted = scene.machines.pod((scene.primary + 1) % 3);
    let promoted = run(&["promote", "orders", &wanted]);
    assert_eq!(
        (promoted.code, promoted.out),
        (0, format!("{wanted} is the primary\n")),
        "{}",
        promoted.err
    );
    assert!(
        promoted.err.contains("shard 0: epoch 1, primary "),
        "progress is told: {}",
        promoted.err
    );
    let again = run(&["promote", "orders", &wanted]);
    eventually("the status tells of it", PATIENCE, async || {
        (scene.machines.pod(scene.machines.ready().await) == wanted).then_some(())
    })
    .await;
    assert_eq!(again.code, 0, "{again:?}");
    let refused = run(&["promote", "orders", "orders-0-9"]);
    assert_eq!(refused.code, 3);
    assert!(
        refused
            .err
            .contains("orders has no replica orders-0-9; there are: orders-0-0, orders-0-1, orders-0-2"),
        "{refused:?}"
    );
    let missing = run(&["status", "carts"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("there is no store carts"), "{missing:?}");
    let unblocked = run(&["recover", "orders", "--shard", "0", "--accept-data-loss"]);
    assert_eq!(unblocked.code, 3);
    assert!(unblocked.err.contains("shard 0 is not blocked"), "{unblocked:?}");
    // There is no kubelet that could be asked: that is said of every pod.
    let logs = run(&["logs", "orders"]);
    assert_eq!(logs.code, 1);
    for ordinal in 0..3 {
        assert!(logs.err.contains(&format!("read the log of orders-0-{ordinal}")), "{logs:?}");
    }
}

#[tokio::test]
async fn a_blocked_store_is_explained_and_goes_on_only_when_a_person_accepts_the_loss() {
    let mut scene = Scene::set(control_plane(), "explained", "{}").await;
    let left = (scene.primary + 1) % 3;
    for ordinal in (0..3).filter(|ordinal| *ordinal != left) {
        scene.machines.kill(ordinal);
    }
    scene.machines.condition("FailoverBlocked", "True").await;
    let pod = scene.machines.pod(left);
    let (namespace, plane) = (scene.namespace.clone(), scene.plane);
    let run = |args: &[&str]| plugin(plane, &namespace, args);
    // A replica is told to be unreachable a moment after its shard is blocked.
    let explained = eventually("the two are missing", PATIENCE, async || {
        let said = run(&["recover", "orders", "--shard", "0"]);
        said.out.contains(&format!("answer:   {pod}\n")).then_some(said)
    })
    .await;
    assert_eq!(explained.code, 3, "{explained:?}");
    assert!(
        explained.out.contains("each is on 2 of 3 replicas, and 2 would be given up"),
        "{}",
        explained.out
    );
    assert!(explained.err.contains("nothing was changed"), "{}", explained.err);
    let shown = run(&["status", "orders"]).out;
    assert!(shown.contains("FailoverBlocked (TooFewReplicas), for "), "{shown}");
    assert!(scene.machines.status().await.data_loss.is_empty());
    let accepted = run(&["recover", "orders", "--shard", "0", "--accept-data-loss"]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert!(
        accepted.out.contains(&format!("the group goes on with {pod} alone")),
        "{accepted:?}"
    );
    scene.machines.condition("Available", "True").await;
    assert!(run(&["status", "orders"]).out.contains("Data loss accepted:\n"));
}

#[tokio::test]
async fn kubectl_finds_the_plugin_and_completes_names_of_stores() {
    let scene = Scene::set(control_plane(), "completed", "{}").await;
    let bin = scratch().join(format!("{}-bin", scene.namespace));
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-quorate"), bin.join("kubectl-quorate")).unwrap();
    // As `make plugin` installs it.
    let script = bin.join("kubectl_complete-quorate");
    std::fs::write(&script, "#!/bin/sh\nexec kubectl-quorate __complete \"$@\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let kubectl = |args: &[&str]| {
        let mut command = Command::new(programs().join("kubectl"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("KUBECONFIG", scene.plane.kubeconfig(None)).args(args);
        said(command)
    };
    let shown = kubectl(&["quorate", "status", "-n", &scene.namespace]);
    assert!(shown.code == 0 && shown.out.starts_with("Store:     orders"), "{shown:?}");
    let completed = |words: &[&str]| kubectl(&[&["__complete", "quorate", "-n", &scene.namespace], words].concat()).out;
    assert_eq!(completed(&["pro"]), "promote\n:4\n");
    assert_eq!(completed(&["promote", "o"]), "orders\n:4\n");
    assert_eq!(completed(&["promote", "orders", ""]), "orders-0-0\norders-0-1\norders-0-2\n:4\n");
    assert_eq!(completed(&["recover", "orders", "--shard", ""]), "0\n:4\n");
}
