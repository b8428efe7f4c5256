//! Exported histories, judged by a checker that knows nothing but their description.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use quorate_e2e::histories;
use quorate_e2e::sim::mutants::{self, Mutant};
use quorate_e2e::sim::{Options, history};
use quorate_protocol_mutants::mutation::Mutation;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn check(paths: &[PathBuf]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_history.py");
    let output = Command::new("python3").arg(script).args(paths).output().unwrap();
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// None: that history promises no order.
fn export(folder: &Path, seed: u64, options: &Options) -> Option<PathBuf> {
    let history = history::run(seed, &Options { told: true, ..*options });
    let write = || histories::write(folder, &seed.to_string(), "simulation", seed, json!(0), &history.told).unwrap();
    (!history.told.is_empty()).then(write)
}

#[test]
fn an_outside_checker_agrees_with_ours_on_simulated_histories() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..40)
        .filter_map(|seed| export(folder.path(), seed, &Options::default()))
        .collect();
    assert!(files.len() >= 10, "{} files", files.len());
    assert_eq!(check(&files).status.code(), Some(0));
}

#[test]
fn an_outside_checker_rejects_a_history_in_which_one_read_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = (0..40).find_map(|seed| export(folder.path(), seed, &Options::default())).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The last read of a register sees its first value again, although others were seen since.
    let last = lines
        .iter()
        .rposition(|line| line["op"] == "read" && line["outcome"] == "ok")
        .unwrap();
    assert_ne!(lines[last]["found"], json!(0), "nobody wrote this register");
    lines[last]["found"] = json!(0);
    let broken: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, broken).unwrap();
    let output = check(&[file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("is not linearizable"));
}

#[test]
fn an_outside_checker_convicts_a_replica_that_confirms_reads_too_early() {
    let options = Options {
        mutant: Some(Mutant::Core(Mutation::ConfirmBeforeRead)),
        clients_only: true,
        ..Options::default()
    };
    let death = mutants::hunt(&options, 0, 1_000).expect("stale reads are seen");
    let folder = tempfile::tempdir().unwrap();
    let file = export(folder.path(), death.seed, &options).unwrap();
    assert_eq!(check(&[file]).status.code(), Some(1), "our own check found {death:?}");
}

#[test]
fn a_file_in_another_format_is_refused_and_not_called_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.jsonl");
    for text in [
        "{\"format\": \"something\"}\n",
        "{\"format\": \"quorate-history\", \"version\": 2, \"initial\": 0}\n",
        "{\"format\": \"quorate-history\", \"version\": 1, \"initial\": 0}\n{\"process\": 1}\n",
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(check(std::slice::from_ref(&file)).status.code(), Some(2), "{text}");
    }
}
