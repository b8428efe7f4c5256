//! A server run as a local process: its log file, the faults a test can do to it, and its end.
//!
//! Invariants: a process ends when its [`Process`] is dropped, and, through the parent-death signal, when the
//! thread that started it dies without dropping anything. Only processes started here are ever signalled.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a condition that another process makes true.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Of a log, in an error: enough for a panic message and what led to it.
const LOG_TAIL_BYTES: usize = 2000;

/// What to run; kept, so that the process can be started again with the same arguments.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For people, in errors.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables added to ours.
    pub env: Vec<(String, OsString)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
}

/// A running or ended process.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Option<Child>,
}

impl Process {
    /// Starts the process that `spec` describes.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn start(spec: Spec) -> Result<Self> {
        let mut process = Self { spec, child: None };
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&mut self) -> Result<()> {
        let Spec {
            name,
            program,
            args,
            env,
            log,
        } = &self.spec;
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        // setpriv replaces itself by the program, so the child's id is the program's id.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(args)
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// What was started.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The process id, while the process has not been waited for.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.spec.name))?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.spec.name))
    }

    /// Freezes the process (SIGSTOP).
    ///
    /// # Errors
    /// If it is not running.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on (SIGCONT).
    ///
    /// # Errors
    /// If it is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills the process (SIGKILL, which also ends a frozen one) and waits for its end.
    ///
    /// # Errors
    /// If it cannot be waited for. A process that has already ended is no error.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("kill {}", self.spec.name))?;
            child.wait().with_context(|| format!("wait for {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and waits; kills it after `grace`.
    ///
    /// # Errors
    /// If it is not running, or only a kill ended it.
    pub fn terminate(&mut self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + grace;
        while self.running()? {
            if Instant::now() > deadline {
                self.kill()?;
                bail!("{} had not ended {grace:?} after SIGTERM", self.spec.name);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.child = None;
        Ok(())
    }

    /// Kills the process if it still runs, and starts it again with the same arguments.
    ///
    /// # Errors
    /// As [`Self::kill`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    fn running(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Waits until `condition` gives a value.
    ///
    /// # Errors
    /// If the process ends, or `deadline` passes first: with the end of the log and the condition's last error.
    pub fn await_ready<T>(&mut self, deadline: Instant, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let error = match condition() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let name = &self.spec.name.clone();
            if !self.running()? {
                bail!("{name} ended; its log ends:\n{}", log_tail(&self.spec.log));
            }
            if Instant::now() > deadline {
                bail!(
                    "{name} was not ready in time: {error:#}; its log ends:\n{}",
                    log_tail(&self.spec.log)
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until something accepts connections on `address`.
    ///
    /// # Errors
    /// As [`Self::await_ready`].
    pub fn await_port(&mut self, address: SocketAddr, deadline: Instant) -> Result<()> {
        self.await_ready(deadline, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            Ok(())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell, and the parent-death signal covers what fails here.
        let _ = self.kill();
    }
}

/// The end of a log file, for an error message.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

/// `N` different ports of 127.0.0.1 that were free a moment ago.
///
/// They are drawn below the ephemeral range: an outgoing connection cannot take one before its server starts.
///
/// # Errors
/// If too few are free.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let mut held = Vec::with_capacity(N);
    let start = u16::try_from(uuid::Uuid::new_v4().as_u128() % u128::from(COUNT)).expect("below COUNT");
    for offset in 0..COUNT {
        let port = FIRST + (start + offset) % COUNT;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
            if held.len() == N {
                let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
                return Ok(ports.try_into().expect("N were held"));
            }
        }
    }
    bail!("fewer than {N} free ports between {FIRST} and {}", FIRST + COUNT)
}

/// An address on loopback.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let spec = Spec {
            name: "sleeper".into(),
            program: "sleep".into(),
            args: vec!["60".into()],
            env: vec![],
            log: dir.join("sleeper.log"),
        };
        Process::start(spec).unwrap()
    }

    #[test]
    fn a_process_ends_when_killed_and_runs_again_when_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        let first = process.pid().unwrap();
        process.pause().unwrap();
        process.kill().unwrap();
        assert!(!process.running().unwrap());
        assert!(process.pause().is_err());
        process.restart().unwrap();
        assert!(process.running().unwrap());
        assert_ne!(process.pid().unwrap(), first);
        process.terminate(Duration::from_secs(10)).unwrap();
        assert!(!process.running().unwrap());
    }

    #[test]
    fn a_process_that_ends_before_it_is_ready_is_an_error_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let args = vec!["-c".into(), "echo no such thing >&2; exit 3".into()];
        let mut process = Process::start(Spec {
            name: "brief".into(),
            program: "sh".into(),
            args,
            env: vec![],
            log: dir.path().join("log"),
        })
        .unwrap();
        let error = process
            .await_ready(Instant::now() + Duration::from_secs(10), || -> Result<()> { bail!("never") })
            .unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error:#}");
    }

    #[test]
    fn free_ports_are_different() {
        let mut ports = free_ports::<9>().unwrap();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
