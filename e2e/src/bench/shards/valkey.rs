//! A Valkey Cluster of local processes: primaries with two replicas each, set up to keep the same promise as a store.
//!
//! `valkey-cli --cluster create` wants three primaries at least; with fewer the same steps are taken one by one. Slots move by
//! `valkey-cli --cluster reshard`, Valkey's own tool.

use crate::bench::peers::{start, valkey_arguments};
use crate::local::packages::Unpacked;
use crate::local::process::{Process, free_ports, loopback};
use crate::local::resp::Client;
use anyhow::{Context, Result, ensure};
use quorate_api::slot::SLOTS;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The cluster is one within this time, or never.
const READY_WITHIN: Duration = Duration::from_secs(60);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const REPLICAS: usize = 2;
/// At most three primaries, each with its replicas.
const MOST_NODES: usize = 3 * (1 + REPLICAS);

/// For clients, and for the other nodes.
type Ports = [u16; 2];

/// See the module. Dropping it kills its processes and removes its data.
#[derive(Debug)]
pub struct ValkeyCluster {
    // Before the directory: fields drop in order.
    processes: Vec<Process>,
    _dir: TempDir,
    package: Unpacked,
    primaries: Vec<(SocketAddr, String)>,
}

impl ValkeyCluster {
    /// Starts so many primaries, at most three, with two replicas each; slots are split evenly. Append-only files, synced at every
    /// write, no snapshots and no rewrites.
    ///
    /// # Errors
    /// If a process fails or they form no cluster.
    pub fn start(package: &Unpacked, parent: &Path, primaries: usize) -> Result<Self> {
        ensure!(
            (1..=MOST_NODES / (1 + REPLICAS)).contains(&primaries),
            "1 to 3 primaries, not {primaries}"
        );
        fs::create_dir_all(parent)?;
        let dir = TempDir::with_prefix_in("valkey-", parent)?;
        let ports = free_ports::<{ 2 * MOST_NODES }>()?;
        let ports: Vec<Ports> = ports
            .chunks_exact(2)
            .take(primaries * (1 + REPLICAS))
            .map(|ports| [ports[0], ports[1]])
            .collect();
        let mut processes = Vec::new();
        for (number, ports) in ports.iter().enumerate() {
            processes.push(start_node(package, dir.path(), number, *ports)?);
        }
        let addresses: Vec<SocketAddr> = ports.iter().map(|[port, _]| loopback(*port)).collect();
        let deadline = Instant::now() + READY_WITHIN;
        for (process, address) in processes.iter_mut().zip(&addresses) {
            process.await_port(*address, deadline)?;
        }
        let mut cluster = Self {
            processes,
            _dir: dir,
            package: package.clone(),
            primaries: Vec::new(),
        };
        cluster.join(&ports, &addresses, primaries)?;
        Ok(cluster)
    }

    /// A node to ask first.
    #[must_use]
    pub fn seed(&self) -> SocketAddr {
        self.primaries[0].0
    }

    /// Moves the first `count` slots of one primary to another, and waits until the tool says that it has.
    ///
    /// # Errors
    /// If the tool fails, with what it printed.
    pub fn reshard(&self, from: usize, to: usize, count: usize) -> Result<()> {
        let count = count.to_string();
        let (address, from) = &self.primaries[from];
        let (_, to) = &self.primaries[to];
        let output = Command::new(self.package.program.with_file_name("valkey-cli"))
            .env("LD_LIBRARY_PATH", &self.package.libraries)
            .args(["--cluster", "reshard", &address.to_string(), "--cluster-from", from])
            .args(["--cluster-to", to, "--cluster-slots", &count, "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .context("run valkey-cli")?;
        ensure!(
            output.status.success(),
            "valkey-cli --cluster reshard failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Makes one cluster of the nodes, the first `primaries` of them primaries.
    fn join(&mut self, ports: &[Ports], addresses: &[SocketAddr], primaries: usize) -> Result<()> {
        let first = addresses.first().context("a cluster has nodes")?;
        let mut ids = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let mut node = Client::connect(*address, PROBE_TIMEOUT)?;
            node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
            ids.push(node.run(&["CLUSTER", "MYID"])?);
        }
        let mut node = Client::connect(*first, PROBE_TIMEOUT)?;
        for [port, bus] in ports.iter().skip(1) {
            node.run(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()])?;
        }
        for (number, address) in addresses.iter().take(primaries).enumerate() {
            let bound = |number: usize| number * usize::from(SLOTS) / primaries;
            let (start, end) = (bound(number).to_string(), (bound(number + 1) - 1).to_string());
            Client::connect(*address, PROBE_TIMEOUT)?.run(&["CLUSTER", "ADDSLOTSRANGE", &start, &end])?;
            self.primaries.push((*address, ids[number].clone()));
        }
        let deadline = Instant::now() + READY_WITHIN;
        for (number, address) in addresses.iter().enumerate().skip(primaries) {
            let primary = &ids[number % primaries];
            // Until gossip has told the node of its primary.
            self.processes[number].await_ready(deadline, || {
                Client::connect(*address, PROBE_TIMEOUT)?.run(&["CLUSTER", "REPLICATE", primary])
            })?;
        }
        for (number, address) in addresses.iter().enumerate() {
            self.processes[number].await_ready(deadline, || {
                let mut node = Client::connect(*address, PROBE_TIMEOUT)?;
                let info = node.run(&["CLUSTER", "INFO"])?;
                let size = format!("cluster_size:{primaries}\r\n");
                let whole = info.contains("cluster_state:ok") && info.contains(&size);
                let replication = node.run(&["INFO", "replication"])?;
                let linked = if number < primaries {
                    replication.matches("state=online").count() == REPLICAS
                } else {
                    replication.contains("master_link_status:up")
                };
                ensure!(whole && linked, "not joined yet: {info}{replication}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn start_node(package: &Unpacked, dir: &Path, number: usize, [port, bus]: Ports) -> Result<Process> {
    let name = format!("valkey-{number}");
    let data = dir.join(&name);
    fs::create_dir(&data)?;
    let mut args = valkey_arguments(&data, port);
    args.extend(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"].map(OsString::from));
    args.extend(["--cluster-port".into(), bus.to_string().into()]);
    start(package, &name, args, dir)
}
