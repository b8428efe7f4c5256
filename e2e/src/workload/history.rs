//! What clients were told, and what follows from it. Times are microseconds since the workload began.

use crate::sim::linearize::{Did, Operation, Verdict, check};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// The value of a register that nobody wrote: no client writes it.
const NOTHING: u64 = 0;

/// What a client knows of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It took effect.
    Acknowledged,
    /// It did not and never will.
    DefinitelyNot,
    /// It may have, or may yet.
    Unknown,
}

/// A write of a key that is written once, with itself as its value.
#[derive(Clone, Debug, Serialize)]
pub struct Write {
    /// Who wrote.
    pub client: String,
    /// The key and the value.
    pub key: String,
    /// The node that was asked, where the client tells.
    pub node: Option<SocketAddr>,
    /// When it was sent.
    pub sent: u64,
    /// When its outcome was known.
    pub ended: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// A write or read of a shared register. Every value is written at most once.
#[derive(Clone, Debug, Serialize)]
pub struct RegisterOp {
    /// The register.
    pub key: String,
    /// Who.
    pub client: u64,
    /// The value written; None for a read.
    pub written: Option<u64>,
    /// The value that a read saw; None where there was none yet.
    pub read: Option<u64>,
    /// When it was sent.
    pub sent: u64,
    /// When its outcome was known.
    pub ended: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// The wall clock at microsecond 0.
    #[serde(skip)]
    pub begun: SystemTime,
    /// The nodes that clients began with.
    pub nodes: Vec<SocketAddr>,
    /// Writes of journal writers, probes and the ordinary client.
    pub writes: Vec<Write>,
    /// The registers.
    pub registers: Vec<RegisterOp>,
    /// The file that it was written into, and microsecond 0.
    #[serde(skip)]
    pub exported: Option<(PathBuf, Instant)>,
}

impl History {
    /// Nothing yet.
    #[must_use]
    pub fn new(begun: SystemTime, nodes: Vec<SocketAddr>) -> Self {
        Self {
            begun,
            nodes,
            writes: Vec::new(),
            registers: Vec::new(),
            exported: None,
        }
    }

    /// The keys whose write was acknowledged.
    #[must_use]
    pub fn acknowledged_keys(&self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.acknowledged().map(|write| &write.key).collect();
        keys.into_iter().cloned().collect()
    }

    /// Acknowledged writes, and acknowledged writes of registers, in number.
    #[must_use]
    pub fn acknowledged_count(&self) -> u64 {
        let registers = self
            .registers
            .iter()
            .filter(|op| op.written.is_some() && op.outcome == Outcome::Acknowledged)
            .count();
        (self.acknowledged().count() + registers) as u64
    }

    fn acknowledged(&self) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged)
    }

    /// Acknowledged writes that ended before, in and after the given time.
    #[must_use]
    pub fn around(&self, from: u64, to: u64) -> [usize; 3] {
        let mut counts = [0; 3];
        for write in self.acknowledged() {
            counts[usize::from(write.ended >= from) + usize::from(write.ended >= to)] += 1;
        }
        counts
    }

    /// Microseconds from the beginning to a moment of the wall clock; None if it lies before.
    #[must_use]
    pub fn at(&self, wall: SystemTime) -> Option<u64> {
        let elapsed = wall.duration_since(self.begun).ok()?;
        u64::try_from(elapsed.as_micros()).ok()
    }

    /// The longest time without an acknowledgement that a client with `marker` in its name saw, and when it ended: of
    /// those that ended after `from` and began before `until`. A client that got none any more counts until its last
    /// attempt ended.
    #[must_use]
    pub fn outage(&self, marker: &str, from: u64, until: u64) -> Option<(u64, u64)> {
        let mut clients: BTreeMap<&str, (u64, Vec<u64>)> = BTreeMap::new();
        for write in self.writes.iter().filter(|write| write.client.contains(marker)) {
            let (last, acknowledged) = clients.entry(&write.client).or_default();
            *last = (*last).max(write.ended);
            if write.outcome == Outcome::Acknowledged {
                acknowledged.push(write.ended);
            }
        }
        let gaps = clients.into_values().flat_map(|(last, mut acknowledged)| {
            acknowledged.push(last);
            acknowledged.sort_unstable();
            let pairs: Vec<(u64, u64)> = acknowledged.windows(2).map(|pair| (pair[0], pair[1])).collect();
            pairs
        });
        gaps.filter(|(begin, end)| *end > from && *begin <= until)
            .map(|(begin, end)| (end - begin, end))
            .max()
    }

    /// Registers whose history is not linearizable.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut registers: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for op in &self.registers {
            let did = match (op.outcome, op.written) {
                (Outcome::Acknowledged, Some(value)) => Did::Wrote(value),
                (Outcome::Unknown, Some(value)) => Did::MayHaveWritten(value),
                (Outcome::Acknowledged, None) => Did::Saw(op.read.unwrap_or(NOTHING)),
                (Outcome::DefinitelyNot, _) | (Outcome::Unknown, None) => continue,
            };
            registers.entry(&op.key).or_default().push(Operation {
                called: op.sent,
                returned: op.ended,
                did,
            });
        }
        let not = |(key, history): (&str, Vec<Operation>)| match check(NOTHING, &history) {
            Verdict::Linearizable => None,
            Verdict::Not(at) => Some(format!("{key}: {:?} does not fit", history[at])),
            Verdict::Undecided => Some(format!("{key}: undecided")),
        };
        registers.into_iter().filter_map(not).collect()
    }

    /// When `node` first acknowledged something after `from`.
    #[must_use]
    pub fn first_acknowledged_by(&self, node: SocketAddr, from: u64) -> Option<u64> {
        let by_node = self.acknowledged().filter(|write| write.node == Some(node) && write.ended > from);
        by_node.map(|write| write.ended).min()
    }

    /// Writes that `node` acknowledged although they were sent to it between `from` and `to`.
    #[must_use]
    pub fn acknowledged_by(&self, node: SocketAddr, from: u64, to: u64) -> Vec<&Write> {
        self.acknowledged()
            .filter(|write| write.node == Some(node) && write.sent > from && write.sent < to)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(client: &str, sent: u64, ended: u64, outcome: Outcome) -> Write {
        Write {
            client: client.into(),
            key: format!("{client}:{sent}"),
            node: Some(([127, 0, 0, 1], 1).into()),
            sent,
            ended,
            outcome,
        }
    }

    #[test]
    fn the_outage_is_the_longest_time_without_an_acknowledgement_that_one_client_saw() {
        let mut history = History::new(SystemTime::now(), Vec::new());
        history.writes = vec![
            write("a:j0", 0, 500, Outcome::Acknowledged),
            write("a:j0", 900, 1000, Outcome::Acknowledged),
            write("a:j0", 1100, 1300, Outcome::DefinitelyNot),
            write("a:j1", 1400, 1450, Outcome::Acknowledged),
            write("a:j0", 1300, 1600, Outcome::Acknowledged),
            write("a:j1", 1600, 1650, Outcome::Acknowledged),
            write("a:p0", 100, 9000, Outcome::Acknowledged),
        ];
        assert_eq!(history.outage(":j", 1050, u64::MAX), Some((600, 1600)));
        assert_eq!(history.outage(":j", 1600, u64::MAX), Some((200, 1650)));
        assert_eq!(history.outage(":j", 0, 400), None, "nobody was waiting then");
        assert_eq!(history.around(1000, 1600), [1, 2, 3]);
    }

    #[test]
    fn a_read_that_misses_an_acknowledged_write_is_a_violation_and_an_unknown_write_is_none() {
        let op = |written, read, sent, ended, outcome| RegisterOp {
            key: "r".into(),
            client: 1,
            written,
            read,
            sent,
            ended,
            outcome,
        };
        let mut history = History::new(SystemTime::now(), Vec::new());
        history.registers = vec![
            op(Some(1), None, 0, 10, Outcome::Acknowledged),
            op(Some(2), None, 20, 30, Outcome::Unknown),
            op(None, Some(1), 40, 50, Outcome::Acknowledged),
            op(None, Some(2), 60, 70, Outcome::Acknowledged),
        ];
        assert_eq!(history.violations(), Vec::<String>::new());
        history.registers.push(op(None, Some(1), 80, 90, Outcome::Acknowledged));
        assert_eq!(history.violations().len(), 1);
    }

    #[test]
    fn a_client_that_is_never_answered_again_has_an_outage_to_its_last_attempt() {
        let mut history = History::new(SystemTime::now(), Vec::new());
        history.writes = vec![
            write("a:j0", 0, 500, Outcome::Acknowledged),
            write("a:j0", 600, 7000, Outcome::Unknown),
        ];
        assert_eq!(history.outage(":j", 550, 600), Some((6500, 7000)));
    }

    #[test]
    fn an_acknowledgement_counts_against_a_node_by_when_its_request_was_sent() {
        let mut history = History::new(SystemTime::now(), Vec::new());
        history.writes = vec![
            write("a:p0", 90, 120, Outcome::Acknowledged),
            write("a:p0", 110, 130, Outcome::Acknowledged),
            write("a:p0", 115, 140, Outcome::Unknown),
        ];
        let found = history.acknowledged_by(([127, 0, 0, 1], 1).into(), 100, 1000);
        assert_eq!(found.iter().map(|write| write.sent).collect::<Vec<_>>(), [110]);
    }
}
