//! What one load run measured, and the arithmetic over several runs.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Latencies are clamped to a minute: a load run fails long before.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// The result of one load run.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Acknowledged commands per second; a WAIT or WAITAOF is not counted beside the commands it confirms.
    pub per_second: f64,
    /// Of each command, in nanoseconds, from the send of its batch to the read of its reply.
    pub latency: Histogram<u64>,
    /// Share of the time that the generator's thread was on a CPU, from 0 to 1. Near 1 the generator was the limit.
    pub generator_busy: f64,
    /// The same of the serving process's busiest thread, warm-up included, where somebody looked.
    pub server_busy: Option<f64>,
}

impl Measurement {
    /// A latency quantile in microseconds.
    #[must_use]
    pub fn micros(&self, quantile: f64) -> f64 {
        Duration::from_nanos(self.latency.value_at_quantile(quantile)).as_secs_f64() * 1e6
    }
}

/// Counts commands between the end of the warm-up and the end of the run. Belongs to the thread that makes the load.
#[derive(Debug)]
pub struct Recorder {
    measure_from: Instant,
    measure_until: Instant,
    started: Option<Started>,
    operations: u64,
    latency: Histogram<u64>,
}

#[derive(Debug)]
struct Started {
    at: Instant,
    cpu: Duration,
}

impl Recorder {
    /// Measures for `duration` after `warm_up`, both from now on.
    #[must_use]
    pub fn new(warm_up: Duration, duration: Duration) -> Self {
        let measure_from = Instant::now() + warm_up;
        Self {
            measure_from,
            measure_until: measure_from + duration,
            started: None,
            operations: 0,
            latency: Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("constant bounds that the histogram accepts"),
        }
    }

    /// Notes the time; false once the run is over. Called before the replies read at `now` are recorded.
    pub fn advance(&mut self, now: Instant) -> bool {
        if self.started.is_none() && now >= self.measure_from {
            self.started = Some(Started {
                at: now,
                cpu: thread_cpu(),
            });
        }
        now < self.measure_until
    }

    /// Counts `count` commands that took `latency` each, unless the warm-up is still on.
    pub fn record(&mut self, latency: Duration, count: u64) {
        if self.started.is_some() {
            self.operations += count;
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST_NANOS);
            self.latency.saturating_record_n(nanos.max(1), count);
        }
    }

    /// The figures, at the time `now`. None if the run ended before its warm-up did.
    #[must_use]
    pub fn finish(self, now: Instant) -> Option<Measurement> {
        let Started { at, cpu } = self.started?;
        let elapsed = now.duration_since(at).as_secs_f64();
        Some(Measurement {
            per_second: operations_as_float(self.operations) / elapsed,
            latency: self.latency,
            generator_busy: thread_cpu().saturating_sub(cpu).as_secs_f64() / elapsed,
            server_busy: None,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a run counts far fewer than 2^52 commands")]
fn operations_as_float(operations: u64) -> f64 {
    operations as f64
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a CPU clock is never negative")
}

/// The median; the mean of the two middle values if their number is even. None of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn commands_of_the_warm_up_are_not_counted() {
        let mut recorder = Recorder::new(Duration::from_secs(1), Duration::from_secs(2));
        let start = recorder.measure_from;
        assert!(recorder.advance(start.checked_sub(Duration::from_millis(1)).unwrap()));
        recorder.record(Duration::from_millis(1), 500);
        assert!(recorder.advance(start));
        recorder.record(Duration::from_micros(100), 30);
        let end = start + Duration::from_secs(2);
        assert!(!recorder.advance(end));
        let measured = recorder.finish(end).unwrap();
        assert!((measured.per_second - 15.0).abs() < 1e-9);
        assert_eq!(measured.latency.len(), 30);
        assert!((measured.micros(0.5) - 100.0).abs() < 1.0);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_measured_nothing() {
        let recorder = Recorder::new(Duration::from_secs(10), Duration::from_secs(1));
        assert!(recorder.finish(Instant::now()).is_none());
    }
}
