//! Time that a process's threads spend on a CPU: shows whether the server or the load generator was the limit.

use rustix::process::Pid;
use std::collections::HashMap;
use std::fs;
use std::time::Instant;

/// A process's threads at an instant.
#[derive(Debug)]
pub struct CpuSample {
    at: Instant,
    /// Nanoseconds on a CPU by thread id.
    threads: HashMap<String, u64>,
}

impl CpuSample {
    /// Reads `/proc/<pid>/task/*/schedstat`; a thread that ends meanwhile is left out.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        let at = Instant::now();
        let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))
            .into_iter()
            .flatten()
            .flatten();
        let threads = tasks.filter_map(|task| {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let on_cpu = schedstat.split_whitespace().next()?.parse().ok()?;
            Some((task.file_name().to_string_lossy().into_owned(), on_cpu))
        });
        Self {
            at,
            threads: threads.collect(),
        }
    }

    /// Share of the time since `earlier` that the busiest thread was on a CPU. None without a common thread.
    #[must_use]
    pub fn busiest_since(&self, earlier: &Self) -> Option<f64> {
        let elapsed = self.at.duration_since(earlier.at).as_secs_f64();
        let spent = |(thread, now): (&String, &u64)| Some(now.saturating_sub(*earlier.threads.get(thread)?));
        let busiest = self.threads.iter().filter_map(spent).max()?;
        Some(std::time::Duration::from_nanos(busiest).as_secs_f64() / elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spinning_thread_is_busy() {
        let pid = rustix::process::getpid();
        let before = CpuSample::of(pid);
        let start = Instant::now();
        while start.elapsed().as_millis() < 50 {
            std::hint::spin_loop();
        }
        let busy = CpuSample::of(pid).busiest_since(&before).unwrap();
        assert!(busy > 0.0 && busy <= 1.1, "{busy}");
    }

    #[test]
    fn two_processes_have_no_thread_in_common() {
        let none = CpuSample {
            at: Instant::now(),
            threads: HashMap::new(),
        };
        assert_eq!(CpuSample::of(rustix::process::getpid()).busiest_since(&none), None);
    }
}
