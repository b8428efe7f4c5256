//! A store without Kubernetes: `quorate-node` processes on loopback that form one group.
//!
//! For benchmarks and for tests that want real processes, real sockets and a real disk, and nothing else. The nodes'
//! data and logs live in a temporary directory that goes with the [`LocalCluster`]. There is no operator: nobody
//! drives a view change here but [`LocalCluster::bootstrap`], [`LocalCluster::failover`] and, on SIGTERM, the primary.

pub mod build;
pub mod packages;
pub mod process;
pub mod resp;
pub mod store;
pub mod writers;

use anyhow::{Context, Result, bail, ensure};
use process::{Process, Spec, free_ports, loopback};
use quorate_api::NodeStatus;
use quorate_api::wire::{ClientKind, Reply, Request};
use quorate_client::{dial, read_frame, write_frame};
use resp::{Client, Token, write_command};
use rustix::process::Pid;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// A node is up, or the group serves, within this time, or it never will.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A node that says nothing for so long is not the primary.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalClusterOptions {
    /// The program `quorate-node`.
    pub node_binary: PathBuf,
    /// The temporary directory is made in here; it decides which disk the nodes write to.
    pub parent_dir: PathBuf,
    /// V, at most 5.
    pub replicas: usize,
    /// `V_w`.
    pub write_quorum: usize,
    /// `V_r`.
    pub read_quorum: usize,
    /// Further environment variables for every node.
    pub env: Vec<(String, OsString)>,
    /// The store that the group is a shard of.
    pub identity: Identity,
}

/// Which shard of which store a group is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The store.
    pub store: Uuid,
    /// The secret that all its nodes share.
    pub token: String,
    /// The shard.
    pub shard: u32,
}

impl Identity {
    /// Shard 0 of a store of its own.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            store: Uuid::new_v4(),
            token: Uuid::new_v4().to_string(),
            shard: 0,
        }
    }
}

impl LocalClusterOptions {
    /// Three replicas, quorum 2/2.
    #[must_use]
    pub fn three(node_binary: PathBuf, parent_dir: PathBuf) -> Self {
        Self {
            node_binary,
            parent_dir,
            replicas: 3,
            write_quorum: 2,
            read_quorum: 2,
            env: Vec::new(),
            identity: Identity::alone(),
        }
    }
}

/// A node's process and where it listens.
#[derive(Debug)]
pub struct LocalNode {
    /// The process: kill, pause, resume, terminate or restart it.
    pub process: Process,
    /// The Redis protocol.
    pub client: SocketAddr,
    /// The replica protocol.
    pub replica: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
    /// What is durable.
    pub data_dir: PathBuf,
}

/// A group of local nodes; dropping it kills them and removes their data.
#[derive(Debug)]
pub struct LocalCluster {
    // Before the directory: fields drop in order, and a node must not outlive its files.
    nodes: Vec<LocalNode>,
    dir: TempDir,
    options: LocalClusterOptions,
}

impl LocalCluster {
    /// Starts the nodes, bootstraps their group and waits until a primary serves.
    ///
    /// # Errors
    /// If a node or the bootstrap fails, with the end of its log.
    pub fn start(options: LocalClusterOptions) -> Result<Self> {
        let cluster = Self::start_blank(options)?;
        cluster.bootstrap()?;
        cluster.await_primary(READY_WITHIN)?;
        Ok(cluster)
    }

    /// Starts the nodes and waits until each listens. They stay blank.
    ///
    /// # Errors
    /// If a node fails, with the end of its log.
    pub fn start_blank(options: LocalClusterOptions) -> Result<Self> {
        const PORTS_PER_NODE: usize = 3;
        ensure!((1..=5).contains(&options.replicas), "1 to 5 replicas, not {}", options.replicas);
        fs::create_dir_all(&options.parent_dir)?;
        let dir = TempDir::with_prefix_in("quorate-", &options.parent_dir)?;
        fs::write(token_file(dir.path()), &options.identity.token)?;
        let ports = free_ports::<{ 5 * PORTS_PER_NODE }>()?;
        let mut nodes = Vec::with_capacity(options.replicas);
        for (ordinal, ports) in ports.chunks_exact(PORTS_PER_NODE).take(options.replicas).enumerate() {
            nodes.push(start_node(&options, dir.path(), ordinal, [ports[0], ports[1], ports[2]])?);
        }
        let deadline = Instant::now() + READY_WITHIN;
        for node in &mut nodes {
            node.process.await_port(node.replica, deadline)?;
        }
        Ok(Self { nodes, dir, options })
    }

    /// Runs `quorate-node bootstrap` over all nodes.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn bootstrap(&self) -> Result<()> {
        let LocalClusterOptions {
            write_quorum, read_quorum, ..
        } = &self.options;
        self.tool("bootstrap", &["--quorum", &format!("{write_quorum}/{read_quorum}")])
            .map(drop)
    }

    /// The same for a group that acknowledges what its primary alone holds.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn bootstrap_eventual(&self) -> Result<()> {
        self.tool("bootstrap", &["--eventual"]).map(drop)
    }

    /// Runs `quorate-node failover` over all nodes: whoever answers chooses a primary anew.
    ///
    /// # Errors
    /// If too few answer, with what it said.
    pub fn failover(&self) -> Result<()> {
        self.tool("failover", &["--timeout-seconds", "20"]).map(drop)
    }

    /// Has the primary hand over and stay, as before an update of its pod.
    ///
    /// # Errors
    /// If it cannot, with its reason.
    pub fn hand_over(&self) -> Result<()> {
        let ordinal = self.primary().context("no node serves")?;
        let (token, address) = (fs::read(self.token_file())?, self.nodes[ordinal].replica.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut node = dial(&address, &token, ClientKind::Operator).await?;
            write_frame(&mut node.write, &Request::HandOver).await?;
            match read_frame(&mut node.read, &mut node.buffer).await? {
                Reply::HandOver(outcome) => outcome.map_err(anyhow::Error::msg),
                other => bail!("{address} answered {other:?}"),
            }
        })
    }

    /// Runs one of the program's own tools over all nodes and returns what it printed.
    fn tool(&self, name: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.options.node_binary)
            .arg(name)
            .arg("--token-file")
            .arg(token_file(self.dir.path()))
            .args(args)
            .args(self.nodes.iter().map(|node| node.replica.to_string()))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run quorate-node {name}"))?;
        if !output.status.success() {
            bail!(
                "{name} failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self, ordinal: usize) -> Result<NodeStatus> {
        let node = self.nodes.get(ordinal).with_context(|| format!("no node {ordinal}"))?;
        let output = Command::new(&self.options.node_binary)
            .args(["status", "--token-file"])
            .arg(token_file(self.dir.path()))
            .arg(node.replica.to_string())
            .stdin(Stdio::null())
            .output()
            .context("run quorate-node status")?;
        ensure!(
            output.status.success(),
            "node {ordinal} gives no status: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What a node has logged since it was first started.
    ///
    /// # Errors
    /// If its log does not read.
    pub fn log_text(&self, ordinal: usize) -> Result<String> {
        let node = self.nodes.get(ordinal).with_context(|| format!("no node {ordinal}"))?;
        Ok(String::from_utf8_lossy(&fs::read(&node.process.spec().log)?).into_owned())
    }

    /// A number of a node's metrics, by its name without the prefix.
    ///
    /// # Errors
    /// If the node does not answer, or has no such metric.
    pub fn metric(&self, ordinal: usize, name: &str) -> Result<u64> {
        let node = self.nodes.get(ordinal).with_context(|| format!("no node {ordinal}"))?;
        let mut stream = TcpStream::connect_timeout(&node.http, PROBE_TIMEOUT)?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("quorate_node_")?.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("node {ordinal} has no metric {name}"))?;
        value.parse().with_context(|| format!("{name} is {value:?}"))
    }

    /// The nodes, by ordinal.
    #[must_use]
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// The processes that have not ended.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.nodes.iter().filter_map(|node| node.process.pid())
    }

    /// A node, to do something to it.
    ///
    /// # Errors
    /// If there is no such ordinal.
    pub fn node_mut(&mut self, ordinal: usize) -> Result<&mut LocalNode> {
        self.nodes.get_mut(ordinal).with_context(|| format!("no node {ordinal}"))
    }

    /// Where the nodes' data and logs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file with the token that the nodes, and whoever drives them, share.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        token_file(self.dir.path())
    }

    /// The ordinal of the node that answers a linearizable read now. Only a primary does.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        self.nodes.iter().position(|node| serves(node.client).is_ok())
    }

    /// Waits for a primary that serves, and returns its ordinal.
    ///
    /// # Errors
    /// If there is none after `patience`.
    pub fn await_primary(&self, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ordinal) = self.primary() {
                return Ok(ordinal);
            }
            if Instant::now() > deadline {
                let answers: Vec<_> = self.nodes.iter().map(|node| answer(node.client)).collect();
                bail!("no node serves after {patience:?}; they answer {answers:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the primary and has the others choose the next; returns who was killed.
    ///
    /// # Errors
    /// If nobody serves before or after.
    pub fn fail_over(&mut self) -> Result<usize> {
        let ordinal = self.await_primary(READY_WITHIN)?;
        self.node_mut(ordinal)?.process.kill()?;
        self.failover()?;
        self.await_primary(READY_WITHIN)?;
        Ok(ordinal)
    }

    /// The address on which the primary serves clients.
    ///
    /// # Errors
    /// If there is no primary.
    pub fn primary_address(&self) -> Result<SocketAddr> {
        let ordinal = self.primary().context("no node serves")?;
        Ok(self.nodes[ordinal].client)
    }
}

/// GET needs the epoch start committed and a read quorum: a node that answers it is the primary, and it serves.
fn serves(address: SocketAddr) -> Result<()> {
    let mut client = Client::connect(address, PROBE_TIMEOUT)?;
    let mut command = Vec::new();
    write_command(&mut command, &[b"GET", b"quorate:probe"]);
    client.send(&command)?;
    client.receive(|token| match token {
        Token::Bulk(_) => Ok(()),
        Token::Error(text) => bail!("{}", String::from_utf8_lossy(text)),
        other => bail!("unexpected reply {other:?}"),
    })
}

fn answer(address: SocketAddr) -> String {
    serves(address).map_or_else(|error| format!("{error:#}"), |()| "the value".into())
}

fn token_file(dir: &Path) -> PathBuf {
    dir.join("token")
}

fn start_node(options: &LocalClusterOptions, dir: &Path, ordinal: usize, ports: [u16; 3]) -> Result<LocalNode> {
    let [client_port, replica_port, http_port] = ports;
    let name = format!("node-{ordinal}");
    let data_dir = dir.join(&name);
    fs::create_dir(&data_dir)?;
    let Identity { store, shard, .. } = &options.identity;
    let variables: [(&str, OsString); 11] = [
        ("QUORATE_STORE_ID", store.to_string().into()),
        ("QUORATE_STORE_NAME", "local".into()),
        ("QUORATE_SHARD", shard.to_string().into()),
        ("QUORATE_ORDINAL", ordinal.to_string().into()),
        ("QUORATE_POD_IP", "127.0.0.1".into()),
        ("QUORATE_DATA_DIR", data_dir.clone().into()),
        ("QUORATE_TOKEN_FILE", token_file(dir).into()),
        ("QUORATE_CLIENT_PORT", client_port.to_string().into()),
        ("QUORATE_REPLICA_PORT", replica_port.to_string().into()),
        ("QUORATE_HTTP_PORT", http_port.to_string().into()),
        ("NO_COLOR", "1".into()),
    ];
    let mut env: Vec<(String, OsString)> = variables.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    env.extend(options.env.iter().cloned());
    let log = dir.join(format!("{name}.log"));
    let process = Process::start(Spec {
        name,
        program: options.node_binary.clone(),
        args: vec!["serve".into()],
        env,
        log,
    })?;
    Ok(LocalNode {
        process,
        client: loopback(client_port),
        replica: loopback(replica_port),
        http: loopback(http_port),
        data_dir,
    })
}
