//! Histories as JSON lines, for checkers that others wrote: docs/histories.md describes the format and is all that one needs.

use crate::workload::history::{History, Outcome};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::Hash;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Of the format. A reader refuses a greater one.
const VERSION: u32 = 1;

/// The first line of a file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    format: &'static str,
    version: u32,
    source: &'a str,
    seed: u64,
    /// What every register holds before anybody writes.
    initial: Value,
    clock: &'static str,
}

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Op {
    /// Reads `found`.
    Read,
    /// Writes `value`.
    Write,
    /// Writes `value` if the register holds `expected`.
    Cas,
}

/// What its client knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Knows {
    /// It took effect, between call and return.
    Ok,
    /// It did not, and never will.
    Fail,
    /// It may have, or may yet, at any time after the call.
    Unknown,
}

/// One operation; a line of the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Who: one operation at a time, and none after one of unknown outcome.
    pub process: u64,
    /// What.
    pub op: Op,
    /// On which register.
    pub key: String,
    /// What a write or a compare-and-set writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What a compare-and-set has to find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Value>,
    /// What a read found, or a compare-and-set that did not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Value>,
    /// Microseconds; when it was sent.
    pub call: u64,
    /// When its outcome was known; null where it is not.
    #[serde(rename = "return")]
    pub returned: Option<u64>,
    /// The outcome.
    pub outcome: Knows,
}

/// Gives out processes: a client whose operation had an unknown outcome goes on as another one.
#[derive(Debug, Default)]
pub struct Processes<K> {
    current: HashMap<K, u64>,
    next: u64,
}

impl<K: Hash + Eq> Processes<K> {
    /// The process of a client's next operation, which ends as `outcome` says.
    pub fn of(&mut self, client: K, outcome: Knows) -> u64 {
        let next = &mut self.next;
        let fresh = || {
            *next += 1;
            *next - 1
        };
        if outcome == Knows::Unknown {
            self.current.remove(&client).unwrap_or_else(fresh)
        } else {
            *self.current.entry(client).or_insert_with(fresh)
        }
    }
}

/// Writes a history into a file of `folder`, and gives its path.
///
/// # Errors
/// Those of the file system.
pub fn write(folder: &Path, name: &str, source: &str, seed: u64, initial: Value, lines: &[Line]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{name}.jsonl"));
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("create {}", path.display()))?);
    let header = Header {
        format: "quorate-history",
        version: VERSION,
        source,
        seed,
        initial,
        clock: "microseconds",
    };
    serde_json::to_writer(&mut file, &header)?;
    file.write_all(b"\n")?;
    put(&mut file, lines)?;
    Ok(path)
}

/// Adds operations to a file that was written.
///
/// # Errors
/// Those of the file system.
pub fn append(path: &Path, lines: &[Line]) -> Result<()> {
    let file = OpenOptions::new().append(true).open(path);
    put(
        &mut BufWriter::new(file.with_context(|| format!("open {}", path.display()))?),
        lines,
    )
}

fn put(file: &mut impl Write, lines: &[Line]) -> Result<()> {
    for line in lines {
        serde_json::to_writer(&mut *file, line)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// What the clients of a workload did. Nobody reads a key of a journal before the end: [`read_back`] is that.
#[must_use]
pub fn of_workload(history: &History) -> Vec<Line> {
    let knows = |outcome| match outcome {
        Outcome::Acknowledged => Knows::Ok,
        Outcome::DefinitelyNot => Knows::Fail,
        Outcome::Unknown => Knows::Unknown,
    };
    let mut processes = Processes::default();
    let journal = history.writes.iter().map(|write| {
        let outcome = knows(write.outcome);
        (
            write.client.clone(),
            write.key.clone(),
            Op::Write,
            Some(json!(write.key)),
            None,
            write.sent,
            write.ended,
            outcome,
        )
    });
    let registers = history.registers.iter().map(|op| {
        let outcome = knows(op.outcome);
        let found = (op.written.is_none() && outcome == Knows::Ok).then(|| json!(op.read));
        let what = if op.written.is_some() { Op::Write } else { Op::Read };
        let client = format!("{}:{}", op.key, op.client);
        (
            client,
            op.key.clone(),
            what,
            op.written.map(|value| json!(value)),
            found,
            op.sent,
            op.ended,
            outcome,
        )
    });
    let line = |(client, key, op, value, found, call, ended, outcome): (String, String, Op, _, _, u64, u64, Knows)| Line {
        process: processes.of(client, outcome),
        op,
        key,
        value,
        expected: None,
        found,
        call,
        returned: (outcome != Knows::Unknown).then_some(ended),
        outcome,
    };
    journal.chain(registers).map(line).collect()
}

/// The reads at the end of every journal key that was acknowledged, begun at `call`; `lost` are not as they were written.
#[must_use]
pub fn read_back(history: &History, lost: &[String], call: u64, returned: u64) -> Vec<Line> {
    // Above every number that was given out.
    let process = (history.writes.len() + history.registers.len()) as u64;
    let line = |(number, key): (u64, String)| Line {
        process: process + number,
        op: Op::Read,
        found: Some(if lost.contains(&key) { Value::Null } else { json!(key) }),
        key,
        value: None,
        expected: None,
        call,
        returned: Some(returned),
        outcome: Knows::Ok,
    };
    (0u64..).zip(history.acknowledged_keys()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::history::{RegisterOp, Write as Written};
    use std::time::SystemTime;

    #[test]
    fn a_history_is_a_header_and_a_line_for_each_operation() {
        let mut history = History::new(SystemTime::now(), Vec::new());
        let write = |key: &str, sent, ended, outcome| Written {
            client: "7:j0".to_owned(),
            key: key.to_owned(),
            node: None,
            sent,
            ended,
            outcome,
        };
        history.writes = vec![
            write("7:j0:0", 1, 5, Outcome::Acknowledged),
            write("7:j0:1", 6, 90, Outcome::Unknown),
            write("7:j0:2", 91, 95, Outcome::DefinitelyNot),
        ];
        let register = |written, read, sent, ended| RegisterOp {
            key: "7:r0".to_owned(),
            client: 4,
            written,
            read,
            sent,
            ended,
            outcome: Outcome::Acknowledged,
        };
        history.registers = vec![
            register(None, None, 1, 2),
            register(Some(3), None, 3, 4),
            register(None, Some(3), 5, 6),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = write_to(&folder, &history);
        append(&path, &read_back(&history, &[], 100, 110)).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            text,
            r#"{"format":"quorate-history","version":1,"source":"end-to-end","seed":7,"initial":null,"clock":"microseconds"}
{"process":0,"op":"write","key":"7:j0:0","value":"7:j0:0","call":1,"return":5,"outcome":"ok"}
{"process":0,"op":"write","key":"7:j0:1","value":"7:j0:1","call":6,"return":null,"outcome":"unknown"}
{"process":1,"op":"write","key":"7:j0:2","value":"7:j0:2","call":91,"return":95,"outcome":"fail"}
{"process":2,"op":"read","key":"7:r0","found":null,"call":1,"return":2,"outcome":"ok"}
{"process":2,"op":"write","key":"7:r0","value":3,"call":3,"return":4,"outcome":"ok"}
{"process":2,"op":"read","key":"7:r0","found":3,"call":5,"return":6,"outcome":"ok"}
{"process":6,"op":"read","key":"7:j0:0","found":"7:j0:0","call":100,"return":110,"outcome":"ok"}
"#
        );
    }

    fn write_to(folder: &tempfile::TempDir, history: &History) -> PathBuf {
        write(folder.path(), "7", "end-to-end", 7, Value::Null, &of_workload(history)).unwrap()
    }
}
