//! The cluster as tests see it: the script beside this crate does what needs a shell, this file calls it and moves threads
//! into the cluster's networks. It knows nothing of stores.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Namespace that the operator is installed into.
pub const OPERATOR_NAMESPACE: &str = "quorate-system";

/// What this cluster cannot do, and why: no failure, but nothing is shown either.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cannot(String);

/// The exit status of `cluster.sh` that says so.
const CANNOT_STATUS: i32 = 3;

/// How a program ended, and what it said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// Its answer.
    pub stdout: String,
    /// Progress and errors.
    pub stderr: String,
}

/// A cluster that `cluster.sh` runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    script: PathBuf,
    network: PathBuf,
    clients: PathBuf,
    kubeconfig: PathBuf,
    control_plane: String,
}

impl Cluster {
    /// The cluster that is up.
    ///
    /// # Errors
    /// If none is.
    pub fn find() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh");
        let places = run(Command::new(&script).arg("places")).context("no cluster runs: `make cluster` starts one")?;
        let place = |key: &str| {
            let found = places.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found
                .map(str::to_owned)
                .with_context(|| format!("cluster.sh places names no {key}"))
        };
        Ok(Self {
            network: place("network")?.into(),
            clients: place("clients")?.into(),
            kubeconfig: place("kubeconfig")?.into(),
            control_plane: place("control-plane")?,
            script,
        })
    }

    /// Moves the calling thread, and those that it starts, to where the API server is reached.
    ///
    /// # Errors
    /// If the network is gone.
    pub fn enter(&self) -> Result<()> {
        enter_network(&self.network)
    }

    /// The network of the control plane's node: clients run there, so that no fault of a worker is theirs.
    #[must_use]
    pub fn client_network(&self) -> PathBuf {
        self.clients.clone()
    }

    /// The file that tells clients of the API server where it is.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The node that the control plane runs on.
    #[must_use]
    pub fn control_plane(&self) -> &str {
        &self.control_plane
    }

    /// Runs a verb of the script and gives what it prints.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn script(&self, args: &[&str]) -> Result<String> {
        run(Command::new(&self.script).args(args))
    }

    /// Injects or mends a fault.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn fault(&self, args: &[&str]) -> Result<()> {
        self.script(&[&["fault"], args].concat()).map(drop)
    }

    /// `kubectl` with these arguments and this input.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.script);
        command.args(["run", "kubectl"]).args(args);
        run_with(&mut command, input)
    }

    /// `kubectl quorate` with these arguments, of the plugin that was built with this program.
    ///
    /// # Errors
    /// If it cannot be run. How it ended is part of what it says.
    pub fn plugin(&self, args: &[&str]) -> Result<Said> {
        let here = std::env::current_exe()?;
        let folder = here.parent().context("this program has a folder")?.display().to_string();
        let path = format!("PATH={folder}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(&self.script);
        command.args(["run", "env", &path, "kubectl", "quorate"]).args(args);
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// The processes of a pod's containers, resolved before a fault so that its moment is exact.
    ///
    /// # Errors
    /// If none is found.
    pub fn pids(&self, namespace: &str, pod: &str) -> Result<Vec<Pid>> {
        let text = self.script(&["pids", namespace, pod])?;
        let pids: Option<Vec<Pid>> = text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
        match pids {
            Some(pids) if !pids.is_empty() => Ok(pids),
            _ => bail!("no process of {namespace}/{pod} was found: {text:?}"),
        }
    }

    /// The node that a pod runs on.
    ///
    /// # Errors
    /// If the pod is gone.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Result<String> {
        Ok(self.script(&["node-of", namespace, pod])?.trim().to_owned())
    }

    /// Resources, events and logs into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn dump(&self, folder: &Path) -> Result<()> {
        self.script(&["dump", &folder.to_string_lossy()]).map(drop)
    }
}

/// Sends a signal to processes; one that is gone already is no error.
///
/// # Errors
/// If it is not allowed.
pub fn signal(pids: &[Pid], signal: Signal) -> Result<()> {
    for pid in pids {
        match kill_process(*pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).context("signal a process"),
        }
    }
    Ok(())
}

/// Moves the calling thread into a network.
///
/// # Errors
/// If it is gone, or this process is not root.
pub fn enter_network(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open the network {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the network {}: this needs root", path.display()))
}

fn run(command: &mut Command) -> Result<String> {
    run_with(command, "")
}

fn run_with(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not want its input may close it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.code() == Some(CANNOT_STATUS) {
        return Err(Cannot(String::from_utf8_lossy(&output.stderr).trim().to_owned()).into());
    }
    if !output.status.success() {
        bail!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
