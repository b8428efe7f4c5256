//! Redis clients, as their projects ship them, against a group that fails over under them.
//!
//! What is missing is downloaded; a client that cannot be had is skipped, and says so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{PATIENCE, group};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::packages::{REDIS_TOOLS, Unpacked, VALKEY};
use redis::cluster::ClusterClient;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// The release of redis-py that is tested.
const REDIS_PY: &str = "6.4.0";

fn cache() -> PathBuf {
    std::env::var_os("QUORATE_CACHE").map_or_else(|| PathBuf::from("/var/cache/quorate"), PathBuf::from)
}

/// Says that a test did not run. People look for this word in the output of a run.
fn skip(what: &str, reason: &anyhow::Error) {
    eprintln!("SKIPPED {what}: {reason:#}");
}

fn redis_tools() -> Option<Unpacked> {
    REDIS_TOOLS
        .fetch(&cache())
        .map_err(|reason| skip("redis-cli and redis-benchmark", &reason))
        .ok()
}

fn tool(tools: &Unpacked, name: &str) -> Command {
    let mut command = Command::new(tools.program.with_file_name(name));
    command.env("LD_LIBRARY_PATH", &tools.libraries);
    command
}

fn port(cluster: &LocalCluster, ordinal: usize) -> String {
    cluster.nodes()[ordinal].client.port().to_string()
}

/// A program that is told lines and answers lines.
struct Dialogue {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dialogue {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        loop {
            let mut answer = String::new();
            let length = self.output.read_line(&mut answer).unwrap();
            // redis-cli tells of a redirection in a line of its own.
            if length == 0 || !answer.starts_with("-> Redirected") {
                return answer.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // It ends with its input in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn redis_cli_in_cluster_mode_follows_a_failover() {
    let Some(tools) = redis_tools() else { return };
    let mut cluster = group(&[]);
    let follower = (cluster.primary().unwrap() + 1) % 3;
    let mut session = Dialogue::start(tool(&tools, "redis-cli").args(["-c", "-p", &port(&cluster, follower)]));
    assert_eq!(session.ask("SET k 1"), "OK");
    assert_eq!(session.ask("GET k"), "1");
    cluster.hand_over().unwrap();
    // The connection goes to the old primary, which says where the new one is.
    assert_eq!(session.ask("SET k 2"), "OK");
    assert_eq!(session.ask("INCRBY k 40"), "42");
    drop(session);
    let killed = cluster.fail_over().unwrap();
    for ordinal in (0..3).filter(|ordinal| *ordinal != killed) {
        let output = tool(&tools, "redis-cli")
            .args(["-c", "-p", &port(&cluster, ordinal), "GET", "k"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42");
    }
}

#[test]
fn redis_cli_finds_nothing_wrong_with_the_cluster() {
    let Some(tools) = redis_tools() else { return };
    let cluster = group(&[]);
    let node = format!("127.0.0.1:{}", port(&cluster, 0));
    let output = tool(&tools, "redis-cli").args(["--cluster", "check", &node]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for expected in ["[OK] All nodes agree about slots configuration.", "[OK] All 16384 slots covered."] {
        assert!(text.contains(expected), "{text}");
    }
}

/// redis-benchmark of Redis 7 refuses every cluster of one shard, Redis' own too. Valkey's takes it; it gives up when a
/// node that was a replica at its start becomes the primary under it.
#[test]
fn the_benchmark_programs_of_valkey_and_redis_find_the_primary_before_and_after_a_hand_over() {
    let cluster = group(&[]);
    let follower = port(&cluster, (cluster.primary().unwrap() + 1) % 3);
    let arguments = ["-t", "set,get", "-n", "5000", "-c", "20", "-r", "1000", "--csv"];
    for round in 0..2 {
        if let Some(tools) = redis_tools() {
            let run = |port: &str, more: &[&str]| {
                let mut benchmark = tool(&tools, "redis-benchmark");
                benchmark.args(["-p", port]).args(arguments).args(more).output().unwrap()
            };
            let output = run(&port(&cluster, cluster.primary().unwrap()), &[]);
            assert!(String::from_utf8_lossy(&output.stdout).contains("\"GET\","), "{output:?}");
            let refused = run(&follower, &["--cluster"]);
            assert!(
                String::from_utf8_lossy(&refused.stderr).contains("Invalid cluster: 1 node(s)."),
                "{refused:?}"
            );
        }
        match VALKEY.fetch(&cache()) {
            Ok(valkey) => {
                let mut benchmark = tool(&valkey, "valkey-benchmark");
                let output = benchmark
                    .args(["--cluster", "-p", &follower, "-P", "4"])
                    .args(arguments)
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success() && text.contains("\"SET\",") && text.contains("\"GET\","),
                    "{output:?}"
                );
            }
            Err(reason) => skip("valkey-benchmark", &reason),
        }
        if round == 0 {
            cluster.hand_over().unwrap();
        }
    }
}

/// Installs redis-py in the cache and returns the folder.
fn redis_py() -> anyhow::Result<PathBuf> {
    let folder = cache().join(format!("redis-py-{REDIS_PY}"));
    if !folder.exists() {
        std::fs::create_dir_all(cache())?;
        let fresh = tempfile::TempDir::with_prefix_in("download-", cache())?;
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(fresh.path())
            .arg(format!("redis=={REDIS_PY}"))
            .output()?;
        anyhow::ensure!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr));
        // Another test may have been faster.
        let _ = std::fs::rename(fresh.keep(), &folder);
    }
    Ok(folder)
}

fn python(folder: &Path, port: &str) -> Dialogue {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redis_py.py");
    Dialogue::start(Command::new("python3").arg(script).arg(port).env("PYTHONPATH", folder))
}

#[test]
fn redis_py_follows_a_failover_by_itself() {
    let folder = match redis_py() {
        Ok(folder) => folder,
        Err(reason) => return skip("redis-py", &reason),
    };
    let mut cluster = group(&[]);
    let mut script = python(&folder, &port(&cluster, 0));
    assert_eq!(script.ask("write 200"), "200");
    cluster.hand_over().unwrap();
    assert_eq!(script.ask("write 200"), "400");
    let killed = cluster.fail_over().unwrap();
    assert_eq!(script.ask("write 200"), "600");
    cluster.node_mut(killed).unwrap().process.restart().unwrap();
    assert_eq!(script.ask("check"), "600 of 600");
}

fn redis_rs(cluster: &LocalCluster) -> ClusterClient {
    ClusterClient::new((0..3).map(|ordinal| format!("redis://127.0.0.1:{}/", port(cluster, ordinal)))).unwrap()
}

#[tokio::test]
async fn redis_rs_follows_a_failover_by_itself() {
    let mut cluster = group(&[]);
    let mut connection = redis_rs(&cluster).get_async_connection().await.unwrap();
    for goal in [200u32, 400, 600] {
        for number in goal - 200..goal {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let mut set = redis::cmd("SET");
                match set.arg(format!("key{number}")).arg(number).exec_async(&mut connection).await {
                    Ok(()) => break,
                    Err(error) => assert!(Instant::now() < deadline, "{number} of {goal}: {error}"),
                }
            }
        }
        // Not on this thread: a test waits for processes, and tokio's threads are not for that.
        cluster = tokio::task::spawn_blocking(move || {
            match goal {
                200 => cluster.hand_over().unwrap(),
                400 => drop(cluster.fail_over().unwrap()),
                _ => {}
            }
            cluster
        })
        .await
        .unwrap();
    }
    for number in 0..600u32 {
        let value: u32 = redis::cmd("GET")
            .arg(format!("key{number}"))
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(value, number);
    }
}

/// Only a hand-over: when a node is gone, the blocking client dials it again and again and asks no other, whatever cluster
/// it talks to.
#[test]
fn the_blocking_client_of_redis_rs_follows_a_hand_over() {
    let cluster = group(&[]);
    let mut connection = redis_rs(&cluster).get_connection().unwrap();
    for number in 0..400u32 {
        redis::cmd("SET")
            .arg(format!("key{number}"))
            .arg(number)
            .exec(&mut connection)
            .unwrap();
        if number == 200 {
            cluster.hand_over().unwrap();
        }
    }
    for number in 0..400u32 {
        let value: u32 = redis::cmd("GET").arg(format!("key{number}")).query(&mut connection).unwrap();
        assert_eq!(value, number);
    }
}
