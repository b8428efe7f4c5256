//! What was measured of shards, as `report.json` has it, and as a table.

use super::load::Seen;
use super::moves::{Moved, SLOTS_OF_A_MOVE, Window, micros, moving, quantile};
use super::{ratio, rounded};
use crate::bench::cells::Effort;
use crate::bench::keys::key_name;
use crate::bench::measure::median;
use quorate_api::slot::slot_of;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// How long a write to a moving slot may wait, at the 99th percentile of the moves.
pub const FREEZE_BAR_MILLIS: f64 = 100.0;

/// See the module.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shards {
    /// Processors that all processes and the load share.
    pub cores: usize,
    /// The version of Valkey; null where it was left out.
    pub valkey: Option<String>,
    /// By number of shards.
    pub throughput: Vec<ThroughputRow>,
    /// Ours, then Valkey's.
    pub moves: [MovesRow; 2],
}

/// Writes with so many shards; one figure a round.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThroughputRow {
    /// Groups of three nodes; primaries with two replicas each.
    pub shards: u32,
    /// Writes a second, each on the disks of two of three nodes.
    pub ours: Vec<f64>,
    /// The same of Valkey Cluster, each confirmed by WAITAOF.
    pub theirs: Vec<f64>,
    /// 99th percentile.
    pub ours_p99_micros: Vec<f64>,
    /// 99th percentile.
    pub theirs_p99_micros: Vec<f64>,
    /// Median of the rounds' ratios of ours over theirs. Null without theirs.
    pub ratio: Option<f64>,
    /// Median of the rounds' ratios of ours over ours with one shard.
    pub ours_against_one_shard: Option<f64>,
    /// The same of theirs.
    pub theirs_against_one_shard: Option<f64>,
}

/// What moving slots under load took, and what the load saw of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MovesRow {
    /// Whose.
    pub system: &'static str,
    /// Of each move.
    pub slots_of_a_move: u16,
    /// Names and values of the keys in those slots.
    pub bytes_of_a_move: u64,
    /// Slots a second, of each move: from the order to the word that it is over.
    pub slots_per_second: Vec<f64>,
    /// Bytes of names and values a second, of each move.
    pub megabytes_per_second: Vec<f64>,
    /// The longest time that a write to one of the moving slots took, of each move.
    pub longest_waits_millis: Vec<f64>,
    /// 99th percentile of those, over all moves.
    pub longest_wait_p99_millis: f64,
    /// 99th percentile of all writes just before, of each round.
    pub p99_quiet_micros: Vec<f64>,
    /// The same while slots moved.
    pub p99_moving_micros: Vec<f64>,
    /// Writes a second just before, of each round.
    pub quiet: Vec<f64>,
    /// The same while slots moved.
    pub moving: Vec<f64>,
    /// Median of the rounds' ratios of the percentiles, moving over quiet.
    pub p99_ratio: Option<f64>,
    /// Median of the rounds' ratios of writes a second, moving over quiet.
    pub throughput_ratio: Option<f64>,
}

impl Shards {
    pub(super) fn new(valkey: Option<String>, shards: &[u32]) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            valkey,
            throughput: shards
                .iter()
                .map(|shards| ThroughputRow {
                    shards: *shards,
                    ..Default::default()
                })
                .collect(),
            moves: [MovesRow::new("quorate"), MovesRow::new("valkey")],
        }
    }

    /// Fills in what follows from several rows.
    pub(super) fn compare(&mut self) {
        let Some(one) = self.throughput.first().cloned() else { return };
        for row in &mut self.throughput {
            row.ratio = ratio(&row.ours, &row.theirs);
            row.ours_against_one_shard = ratio(&row.ours, &one.ours);
            row.theirs_against_one_shard = ratio(&row.theirs, &one.theirs);
        }
    }

    /// As Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "Shards, {} cores for all processes and the load{}:\n\n",
            self.cores,
            self.valkey
                .as_ref()
                .map_or_else(String::new, |version| format!(", against Valkey Cluster {version}"))
        );
        out.push_str("| shards | ours 1/s | against 1 shard | p99 µs | Valkey Cluster 1/s | against 1 shard | p99 µs | ratio |\n");
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for row in &self.throughput {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.shards,
                middle(&row.ours),
                times(row.ours_against_one_shard),
                middle(&row.ours_p99_micros),
                middle(&row.theirs),
                times(row.theirs_against_one_shard),
                middle(&row.theirs_p99_micros),
                times(row.ratio)
            );
        }
        out.push_str("\n| slots move | moves | slots/s | MB/s | longest write to a moving slot: median / p99 / most ms | ");
        out.push_str("p99 of all writes before / while µs | ratio | throughput while / before |\n|---|---|---|---|---|---|---|---|\n");
        for row in self.moves.iter().filter(|row| !row.longest_waits_millis.is_empty()) {
            let most = row.longest_waits_millis.iter().copied().fold(0.0, f64::max);
            let _ = writeln!(
                out,
                "| {} | {} × {} slots, {} B | {} | {} | {} / {} / {most} | {} / {} | {} | {} |",
                row.system,
                row.longest_waits_millis.len(),
                row.slots_of_a_move,
                row.bytes_of_a_move,
                middle(&row.slots_per_second),
                middle(&row.megabytes_per_second),
                middle(&row.longest_waits_millis),
                row.longest_wait_p99_millis,
                middle(&row.p99_quiet_micros),
                middle(&row.p99_moving_micros),
                times(row.p99_ratio),
                times(row.throughput_ratio),
            );
        }
        out
    }
}

impl MovesRow {
    fn new(system: &'static str) -> Self {
        Self {
            system,
            slots_of_a_move: SLOTS_OF_A_MOVE,
            bytes_of_a_move: 0,
            slots_per_second: Vec::new(),
            megabytes_per_second: Vec::new(),
            longest_waits_millis: Vec::new(),
            longest_wait_p99_millis: 0.0,
            p99_quiet_micros: Vec::new(),
            p99_moving_micros: Vec::new(),
            quiet: Vec::new(),
            moving: Vec::new(),
            p99_ratio: None,
            throughput_ratio: None,
        }
    }

    /// Adds the moves of a round.
    pub(super) fn add(&mut self, seen: &Seen, quiet: Window, moved: &[Moved], effort: Effort) {
        let slots = moving();
        let keys = (0..effort.keys).map(key_name).filter(|key| slots.contains(slot_of(key.as_bytes())));
        self.bytes_of_a_move = keys.map(|key| (key.len() + effort.value_bytes) as u64).sum();
        let windows: Vec<Window> = moved.iter().map(|moved| Window::of(seen, moved)).collect();
        for window in &windows {
            #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
            let bytes = self.bytes_of_a_move as f64;
            self.slots_per_second.push((f64::from(SLOTS_OF_A_MOVE) / window.seconds()).round());
            self.megabytes_per_second.push(rounded(bytes / 1e6 / window.seconds()));
            self.longest_waits_millis.push(millis(window.longest_wait(seen, &slots)));
        }
        let all = self.longest_waits_millis.iter().map(|millis| Duration::from_secs_f64(millis / 1e3));
        self.longest_wait_p99_millis = millis(quantile(all.collect(), 0.99));
        let (rate, p99) = quiet.rate_and_p99(seen);
        self.quiet.push(rate);
        self.p99_quiet_micros.push(p99);
        let inside: Vec<Duration> = windows
            .iter()
            .flat_map(|window| window.operations(seen))
            .map(|operation| operation.latency)
            .collect();
        let seconds: f64 = windows.iter().map(Window::seconds).sum();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 writes")]
        self.moving.push((inside.len() as f64 / seconds).round());
        self.p99_moving_micros.push(micros(quantile(inside, 0.99)));
        self.p99_ratio = ratio(&self.p99_moving_micros, &self.p99_quiet_micros);
        self.throughput_ratio = ratio(&self.moving, &self.quiet);
    }
}

fn millis(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn middle(values: &[f64]) -> String {
    match median(values) {
        None => "–".into(),
        Some(value) if value >= 10_000.0 => format!("{:.1} k", value / 1000.0),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 1.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}×"))
}
