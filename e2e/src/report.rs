//! What the end-to-end scenarios found: on the terminal, and in `target/e2e/report.json` for scripts.

use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they ran.
    pub scenarios: Vec<ScenarioReport>,
}

/// What became of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Not.
    Failed,
    /// This cluster cannot do it.
    Skipped,
}

/// One scenario.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioReport {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Verdict,
    /// Why it failed or was skipped; empty if it passed.
    pub reason: String,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged writes that were not there in the end.
    pub lost: u64,
    /// Registers whose history is not linearizable.
    pub violations: u64,
    /// Acknowledgements by a deposed primary of requests sent after the fence.
    pub deposed_acks: u64,
    /// The longest time without an acknowledgement that a client saw, one for each repetition, in milliseconds.
    pub outage_millis: Vec<f64>,
    /// What the random choices of the workload came from.
    pub seed: u64,
}

impl Report {
    /// Writes `target/e2e/report.json` and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let path = folder().join("report.json");
        std::fs::create_dir_all(folder())?;
        std::fs::write(&path, serde_json::to_string_pretty(self)?).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Where reports and dumps go.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e")
}
