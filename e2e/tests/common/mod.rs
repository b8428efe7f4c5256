//! What the tests with real processes share.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; every test file uses a part of them")]

use quorate_e2e::local::build::{Profile, node_binary};
use quorate_e2e::local::packages::Package;
use quorate_e2e::local::{LocalCluster, LocalClusterOptions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program, built once.
pub(crate) fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| node_binary(Profile::Dev).unwrap()).clone()
}

/// Three nodes, with these variables in their environment, on the disk that cargo uses.
pub(crate) fn options(env: &[(&str, &str)]) -> LocalClusterOptions {
    let mut options = LocalClusterOptions::three(program(), PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    options.env = env.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    options
}

/// Options for nodes that a script starts: `$node` is the program, and whatever is no `serve` goes there directly.
pub(crate) fn scripted(folder: &Path, script: &str, env: &[(&str, &str)]) -> LocalClusterOptions {
    let wrapper = folder.join("quorate-node");
    let text = format!(
        "#!/bin/sh\nset -e\nnode={}\n[ \"$1\" = serve ] || exec $node \"$@\"\n{script}\n",
        program().display()
    );
    std::fs::write(&wrapper, text).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = options(env);
    options.node_binary = wrapper;
    options
}

const STRACE: Package = Package {
    name: "strace",
    debs: &["strace", "libunwind8", "liblzma5"],
    program: "usr/bin/strace",
};

/// How a script starts a program under a tracer that lets system calls fail; None, said aloud, where there is none.
pub(crate) fn strace() -> Option<String> {
    let cache = std::env::var_os("QUORATE_CACHE").map_or_else(|| PathBuf::from("/var/cache/quorate"), PathBuf::from);
    match STRACE.fetch(&cache) {
        Ok(strace) => Some(format!(
            "env LD_LIBRARY_PATH={} {} -f -qq -o /dev/null",
            strace.libraries.display(),
            strace.program.display()
        )),
        Err(reason) => {
            eprintln!("SKIPPED: no strace: {reason:#}");
            None
        }
    }
}

/// A group that serves.
pub(crate) fn group(env: &[(&str, &str)]) -> LocalCluster {
    LocalCluster::start(options(env)).unwrap()
}

/// Where clients reach its nodes.
pub(crate) fn client_addresses(cluster: &LocalCluster) -> Vec<SocketAddr> {
    cluster.nodes().iter().map(|node| node.client).collect()
}

/// Waits for a condition, and says what it waited for if it never came.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = condition();
        if matches!(outcome, Ok(true)) {
            return;
        }
        assert!(Instant::now() < deadline, "never: {what} (last: {outcome:?})");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until every node holds durably what the primary has committed.
pub(crate) fn await_synced(cluster: &LocalCluster) {
    eventually("all replicas hold the whole log", || {
        let statuses = (0..cluster.nodes().len())
            .map(|ordinal| cluster.status(ordinal))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let last = statuses.iter().map(|status| status.last).max();
        Ok(statuses
            .iter()
            .all(|status| Some(status.last) == last && status.durable == status.last.index))
    });
}
