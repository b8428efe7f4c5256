//! Builds the store node and says where the program is.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With assertions, for tests.
    Dev,
    /// As it is shipped.
    Release,
}

/// Builds `quorate-node` and returns its path.
///
/// # Errors
/// If cargo fails.
pub fn node_binary(profile: Profile) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    // The whole workspace: features are then chosen as for its tests, and nothing is built twice.
    command.args([
        "build",
        "--workspace",
        "--bin",
        "quorate-node",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().context("run cargo build")?;
    if !output.status.success() {
        bail!("cargo build of quorate-node failed");
    }
    for artifact in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>() {
        let artifact = artifact?;
        if artifact["target"]["name"] == "quorate-node"
            && let Some(path) = artifact["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("the workspace builds no program quorate-node")
}
