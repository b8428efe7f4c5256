//! The systems that we are measured against, three local processes each, set up to keep the same promise: a write is
//! in the log files of two of three nodes, synced, before it is acknowledged.

use crate::local::packages::Unpacked;
use crate::local::process::{Process, Spec, free_ports, loopback};
use crate::local::resp::Client;
use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A peer serves within this time, or it never will.
const READY_WITHIN: Duration = Duration::from_secs(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running peer; dropping it kills its processes and removes its data.
#[derive(Debug)]
pub struct Peer {
    // Before the directory: fields drop in order.
    processes: Vec<Process>,
    _dir: TempDir,
    serving: usize,
    /// The member that serves writes.
    pub address: SocketAddr,
    /// The program's version.
    pub version: String,
}

impl Peer {
    /// The process that serves writes.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.processes[self.serving].pid()
    }

    /// All its processes.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.processes.iter().filter_map(Process::pid)
    }
}

/// Starts a Valkey primary and two replicas: append-only file, synced at every write, no snapshots, and no rewrite
/// of the file during the run (a rewrite only costs Valkey time).
///
/// # Errors
/// If a process fails or the replicas do not follow.
pub fn start_valkey(package: &Unpacked, parent: &Path) -> Result<Peer> {
    let dir = peer_dir(parent, "valkey-")?;
    let ports = free_ports::<3>()?;
    let mut processes = Vec::with_capacity(ports.len());
    for (number, port) in ports.into_iter().enumerate() {
        let name = format!("valkey-{number}");
        let data = dir.path().join(&name);
        fs::create_dir(&data)?;
        let mut args = valkey_arguments(&data, port);
        if number > 0 {
            args.extend(["--replicaof".into(), format!("127.0.0.1 {}", ports[0]).into()]);
        }
        processes.push(start(package, &name, args, dir.path())?);
    }
    let address = loopback(ports[0]);
    // A third copy is asked for once, so that both replicas are known to follow; WAITAOF would take minutes to say so.
    processes[0].await_ready(Instant::now() + READY_WITHIN, || {
        let mut client = Client::connect(address, PROBE_TIMEOUT)?;
        client.run(&["SET", "probe", "1"])?;
        let following = client.run(&["WAIT", "2", "500"])?;
        ensure!(following == "2", "{following} of 2 replicas follow");
        Ok(())
    })?;
    Ok(Peer {
        processes,
        _dir: dir,
        serving: 0,
        address,
        version: package.version.clone(),
    })
}

/// What every Valkey is started with: an append-only file, synced at every write, no snapshots, and no rewrite of the file
/// during the run.
pub fn valkey_arguments(data: &Path, port: u16) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
        "--auto-aof-rewrite-percentage",
        "0",
        "--repl-diskless-sync-delay",
        "0",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.extend(["--dir".into(), data.into(), "--port".into(), port.to_string().into()]);
    arguments
}

/// Starts three etcd members with etcd's defaults and finds their leader.
///
/// # Errors
/// If a process fails or no leader is elected.
pub fn start_etcd(package: &Unpacked, parent: &Path) -> Result<Peer> {
    let dir = peer_dir(parent, "etcd-")?;
    let ports = free_ports::<6>()?;
    let (client_ports, peer_ports) = ports.split_at(3);
    let url = |port: u16| OsString::from(format!("http://127.0.0.1:{port}"));
    let members: Vec<String> = (0..3)
        .map(|number| format!("etcd-{number}=http://127.0.0.1:{}", peer_ports[number]))
        .collect();
    let mut processes = Vec::with_capacity(3);
    for (number, (&client, &peer)) in client_ports.iter().zip(peer_ports).enumerate() {
        let name = format!("etcd-{number}");
        let args: [(&str, OsString); 9] = [
            ("--name", name.clone().into()),
            ("--data-dir", dir.path().join(&name).into()),
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", members.join(",").into()),
            ("--initial-cluster-state", "new".into()),
            ("--log-level", "error".into()),
        ];
        let args = args.into_iter().flat_map(|(flag, value)| [flag.into(), value]).collect();
        processes.push(start(package, &name, args, dir.path())?);
    }
    let serving = processes[0].await_ready(Instant::now() + READY_WITHIN, || {
        client_ports
            .iter()
            .position(|&port| leads(loopback(port)).unwrap_or(false))
            .context("no leader yet")
    })?;
    let address = loopback(client_ports[serving]);
    Ok(Peer {
        processes,
        _dir: dir,
        serving,
        address,
        version: package.version.clone(),
    })
}

fn peer_dir(parent: &Path, prefix: &str) -> Result<TempDir> {
    fs::create_dir_all(parent)?;
    Ok(TempDir::with_prefix_in(prefix, parent)?)
}

/// Starts a process whose log is beside its data.
///
/// # Errors
/// If it cannot be started.
pub fn start(package: &Unpacked, name: &str, args: Vec<OsString>, dir: &Path) -> Result<Process> {
    let env = vec![("LD_LIBRARY_PATH".to_owned(), package.libraries.clone().into())];
    Process::start(Spec {
        name: name.to_owned(),
        program: package.program.clone(),
        args,
        env,
        log: dir.join(format!("{name}.log")),
    })
}

/// Whether this etcd member says in its metrics that it leads.
fn leads(address: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().any(|line| line == "etcd_server_is_leader 1"))
}
