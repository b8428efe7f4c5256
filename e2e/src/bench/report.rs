//! The benchmark's rows: `report.json`, and a table in Markdown, which also reads well on a terminal.

use super::measure::{Measurement, median};
use super::shards::report::Shards;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// One comparison, as `report.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Of the figures.
    pub unit: &'static str,
    /// Our figure in each round.
    pub ours: Vec<f64>,
    /// The other system, and what it was asked for.
    pub peer: String,
    /// Its figure in each round.
    pub theirs: Vec<f64>,
    /// Median of ours over theirs within each round; above 1 ours is faster. Null if one of them was not measured.
    pub ratio: Option<f64>,
}

/// A row with what the table says besides.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was measured.
    pub name: String,
    /// One measurement a round.
    pub ours: Vec<Measurement>,
    /// The other system.
    pub peer: String,
    /// One measurement a round.
    pub theirs: Vec<Measurement>,
}

#[derive(Serialize)]
struct Report<'a> {
    rows: &'a [Row],
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<&'a Shards>,
}

impl Comparison {
    /// The figures without latencies.
    #[must_use]
    pub fn row(&self) -> Row {
        let rates = |runs: &[Measurement]| -> Vec<f64> { runs.iter().map(|run| run.per_second.round()).collect() };
        let (ours, theirs) = (rates(&self.ours), rates(&self.theirs));
        // A round in which a peer did nothing says nothing about how much faster ours is.
        let rounds = ours.iter().zip(&theirs).filter(|(_, theirs)| **theirs > 0.0);
        let ratios: Vec<f64> = rounds.map(|(ours, theirs)| ours / theirs).collect();
        let ratio = median(&ratios).map(|ratio| (ratio * 1000.0).round() / 1000.0);
        Row {
            name: self.name.clone(),
            unit: "operations/s",
            ours,
            peer: self.peer.clone(),
            theirs,
            ratio,
        }
    }
}

/// Writes `{"rows": […], "shards": {…}}`, the second only if shards were measured.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(comparisons: &[Comparison], shards: Option<&Shards>, path: &Path) -> Result<()> {
    let rows: Vec<Row> = comparisons.iter().map(Comparison::row).collect();
    let mut json = serde_json::to_string_pretty(&Report { rows: &rows, shards })?;
    json.push('\n');
    fs::write(path, json).with_context(|| format!("write {}", path.display()))
}

/// The table, aligned.
#[must_use]
pub fn table(comparisons: &[Comparison]) -> String {
    let head = [
        "operation",
        "ours: 1/s (min–max)",
        "p50 / p99 µs",
        "generator / server busy",
        "peer",
        "theirs: 1/s (min–max)",
        "p50 / p99 µs",
        "generator / server busy",
        "ratio",
    ];
    let mut lines = vec![head.map(String::from)];
    for comparison in comparisons {
        let Comparison { name, ours, peer, theirs } = comparison;
        let ratio = comparison.row().ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}×"));
        let (name, peer) = (name.clone(), peer.clone());
        lines.push([
            name,
            rates(ours),
            latencies(ours),
            busy(ours),
            peer,
            rates(theirs),
            latencies(theirs),
            busy(theirs),
            ratio,
        ]);
    }
    align(&lines)
}

fn rates(runs: &[Measurement]) -> String {
    let rates: Vec<f64> = runs.iter().map(|run| run.per_second).collect();
    let Some(middle) = median(&rates) else { return "–".into() };
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    format!("{} ({}–{})", count(middle), count(least), count(most))
}

fn count(rate: f64) -> String {
    if rate >= 10_000.0 {
        format!("{:.1} k", rate / 1000.0)
    } else {
        format!("{rate:.0}")
    }
}

fn latencies(runs: &[Measurement]) -> String {
    let quantile = |quantile| median(&runs.iter().map(|run| run.micros(quantile)).collect::<Vec<_>>());
    match (quantile(0.5), quantile(0.99)) {
        (Some(p50), Some(p99)) => format!("{p50:.0} / {p99:.0}"),
        _ => "–".into(),
    }
}

/// The highest share of a CPU in any round: near 100 % on the left only, the generator was the limit.
fn busy(runs: &[Measurement]) -> String {
    let most = |shares: Vec<f64>| {
        shares
            .into_iter()
            .reduce(f64::max)
            .map_or_else(|| "–".into(), |share| format!("{:.0} %", share * 100.0))
    };
    let generator = most(runs.iter().map(|run| run.generator_busy).collect());
    let server = most(runs.iter().filter_map(|run| run.server_busy).collect());
    format!("{generator} / {server}")
}

fn align<const N: usize>(lines: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: [String; N] = std::array::from_fn(|column| format!("{:<width$}", line[column], width = widths[column]));
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
        if number == 0 {
            out.push_str(&format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    fn measurement(per_second: f64) -> Measurement {
        let mut latency = Histogram::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        latency.record_n(100_000, 10).unwrap();
        Measurement {
            per_second,
            latency,
            generator_busy: 0.4,
            server_busy: Some(0.9),
        }
    }

    fn comparison(ours: &[f64], theirs: &[f64]) -> Comparison {
        let runs = |rates: &[f64]| rates.iter().copied().map(measurement).collect();
        Comparison {
            name: "SET".into(),
            ours: runs(ours),
            peer: "Valkey".into(),
            theirs: runs(theirs),
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios() {
        let row = comparison(&[200.0, 300.0, 90.4], &[100.0, 100.0, 100.0]).row();
        let expected = Row {
            name: "SET".into(),
            unit: "operations/s",
            ours: vec![200.0, 300.0, 90.0],
            peer: "Valkey".into(),
            theirs: vec![100.0; 3],
            ratio: Some(2.0),
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn the_report_has_the_documented_shape() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        write_json(&[comparison(&[], &[10.0])], None, &path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({"rows": [
            {"name": "SET", "unit": "operations/s", "ours": [], "peer": "Valkey", "theirs": [10.0], "ratio": null}
        ]});
        assert_eq!(read, expected);
    }

    #[test]
    fn the_table_is_aligned_markdown() {
        let table = table(&[comparison(&[20_000.0], &[10_000.0]), comparison(&[], &[9000.0])]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].contains("20.0 k (20.0 k–20.0 k)") && lines[2].contains("2.00×") && lines[2].contains("40 % / 90 %"));
        assert!(lines[3].contains("9000 (9000–9000)") && lines[3].contains("– / –"));
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
