//! What a node does when it runs out of something, or its disk fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, eventually, group, scripted, strace};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::resp::Client;
use std::path::{Path, PathBuf};
use std::process::Command;

fn connect(cluster: &LocalCluster) -> Client {
    let primary = cluster.await_primary(PATIENCE).unwrap();
    Client::connect(cluster.nodes()[primary].client, PATIENCE).unwrap()
}

/// A group of one whose node is started by a script.
fn alone(folder: &Path, script: &str, env: &[(&str, &str)]) -> LocalCluster {
    let mut options = scripted(folder, script, env);
    (options.replicas, options.write_quorum, options.read_quorum) = (1, 1, 1);
    LocalCluster::start(options).unwrap()
}

#[test]
fn writes_that_need_memory_are_refused_at_the_limit_and_others_are_not() {
    let cluster = group(&[("QUORATE_MAX_MEMORY", "1000000")]);
    let mut client = connect(&cluster);
    let value = "v".repeat(10_000);
    let mut written = 0;
    let refusal = loop {
        match client.run(&["SET", &format!("key{written}"), &value]) {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(refusal.starts_with("OOM "), "{refusal}");
    assert!((90..=101).contains(&written), "{written} values of 10 kB fit 1 MB");
    assert_eq!(client.run(&["GET", "key0"]).unwrap(), value);
    assert_eq!(client.run(&["DEL", "key0"]).unwrap(), "1");
    assert_eq!(client.run(&["SET", "small", "v"]).unwrap(), "OK");
}

#[test]
fn what_is_too_long_is_refused_and_the_node_goes_on() {
    let cluster = group(&[]);
    let mut client = connect(&cluster);
    client.send(b"*2\r\n$3\r\nGET\r\n$999999999\r\n").unwrap();
    let refusal = client.run(&["PING"]).unwrap_err().to_string();
    assert!(refusal.contains("invalid bulk length"), "{refusal}");
    let mut client = connect(&cluster);
    let large = "v".repeat(16 << 20);
    assert_eq!(client.run(&["SET", "{t}large", &large]).unwrap(), "OK");
    let refusal = client.run(&["APPEND", "{t}large", "v"]).unwrap_err().to_string();
    assert!(refusal.contains("exceeds maximum allowed size"), "{refusal}");
    let refusal = client.run(&[&["MGET"][..], &["{t}large"; 6]].concat()).unwrap_err().to_string();
    assert!(refusal.contains("too large"), "{refusal}");
    assert_eq!(client.run(&["STRLEN", "{t}large"]).unwrap(), large.len().to_string());
}

#[test]
fn a_client_that_does_not_read_holds_little_memory_and_nobody_up() {
    let cluster = group(&[]);
    let primary = cluster.await_primary(PATIENCE).unwrap();
    let mut client = connect(&cluster);
    assert_eq!(client.run(&["SET", "k", &"v".repeat(1 << 20)]).unwrap(), "OK");
    let resident = || {
        let pid = cluster.nodes()[primary].process.pid().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
    };
    let before = resident();
    let mut lazy: Vec<Client> = (0..10).map(|_| connect(&cluster)).collect();
    for client in &mut lazy {
        // 300 MiB of replies each.
        client.send(&b"GET k\r\n".repeat(300)).unwrap();
    }
    for _ in 0..50 {
        client.run(&["INCR", "n"]).unwrap();
    }
    let after = resident();
    assert!(after < before + 150, "{before} MiB before, {after} MiB after");
}

#[test]
fn a_full_disk_refuses_writes_clearly_answers_reads_and_recovers_with_room() {
    let mountable = Command::new("unshare")
        .args(["-m", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !mountable {
        eprintln!("SKIPPED the full disk: this user may not make mount namespaces");
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = r#"exec unshare -m sh -c 'mount -t tmpfs -o size=12m tmpfs "$QUORATE_DATA_DIR" && exec "$0" serve' $node"#;
    let cluster = alone(folder.path(), script, &[("QUORATE_SEGMENT_BYTES", "1048576")]);
    let mut client = connect(&cluster);
    let node = &cluster.nodes()[0];
    let pid = node.process.pid().unwrap();
    let ballast = PathBuf::from(format!("/proc/{}/root", pid.as_raw_nonzero()))
        .join(node.data_dir.strip_prefix("/").unwrap())
        .join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let value = "v".repeat(1000);
    let mut written = 0;
    let refusal = loop {
        match client.run(&["SET", &format!("key{written}"), &value]) {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(refusal.starts_with("MISCONF "), "{refusal}");
    assert_eq!(client.run(&["GET", &format!("key{}", written - 1)]).unwrap(), value);
    assert!(cluster.status(0).unwrap().writes_refused.is_some());
    std::fs::remove_file(ballast).unwrap();
    eventually("writes are taken again", || Ok(client.run(&["SET", "k", "v"]).is_ok()));
    for number in 0..written {
        assert_eq!(client.run(&["STRLEN", &format!("key{number}")]).unwrap(), "1000");
    }
    assert_eq!(cluster.nodes()[0].process.pid(), Some(pid));
}

#[test]
fn a_failed_sync_ends_the_process_before_it_acknowledges_anything() {
    let Some(strace) = strace() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The first start has a disk that fails in the fiftieth sync of a thread, later ones do not.
    let script = format!(
        "if [ -e {marker} ]; then exec $node serve; fi\ntouch {marker}\n\
         exec {strace} -e trace=fdatasync -e inject=fdatasync:error=EIO:when=50+ setpriv --pdeathsig KILL $node serve",
        marker = folder.path().join("started").display(),
    );
    let mut cluster = alone(folder.path(), &script, &[]);
    let mut client = connect(&cluster);
    let mut acknowledged = 0;
    while client.run(&["SET", &format!("key{acknowledged}"), "v"]).is_ok() {
        acknowledged += 1;
        assert!(acknowledged < 10_000, "the disk does not fail");
    }
    assert!(acknowledged > 10, "{acknowledged}");
    assert!(cluster.log_text(0).unwrap().contains("storage failed"));
    cluster.node_mut(0).unwrap().process.restart().unwrap();
    eventually("a failover", || Ok(cluster.failover().is_ok()));
    let mut client = connect(&cluster);
    for number in 0..acknowledged {
        assert_eq!(
            client.run(&["GET", &format!("key{number}")]).unwrap(),
            "v",
            "key{number} of {acknowledged}"
        );
    }
}
