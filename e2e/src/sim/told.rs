//! What clients were told, kept as it was for checkers of others. The ledger keeps what our own check needs.

use super::clients::{Command, Kind, Outcome};
use crate::histories::{Knows, Line, Op, Processes};
use serde_json::json;

/// Every operation that ended, in the order in which they did.
#[derive(Debug, Default)]
pub(crate) struct Told {
    processes: Processes<usize>,
    lines: Vec<Line>,
}

impl Told {
    pub(crate) fn note(&mut self, client: usize, command: Command, called: u64, now: u64, outcome: Outcome) {
        // Wherever it may be answered, what it saw is held against the same order.
        let Command { key, kind, anywhere: _ } = command;
        // A refused read, or one that nobody answered, says nothing.
        let (op, value, expected, found, knows) = match (kind, outcome) {
            (Kind::Read, Outcome::Ok(seen)) => (Op::Read, None, None, Some(seen), Knows::Ok),
            (Kind::Read, Outcome::Refused) => (Op::Read, None, None, None, Knows::Fail),
            (Kind::Read, Outcome::Unknown) => (Op::Read, None, None, None, Knows::Unknown),
            (Kind::Write(new), Outcome::Ok(_)) => (Op::Write, Some(new), None, None, Knows::Ok),
            (Kind::Write(new), Outcome::Refused) => (Op::Write, Some(new), None, None, Knows::Fail),
            (Kind::Write(new), Outcome::Unknown) => (Op::Write, Some(new), None, None, Knows::Unknown),
            (Kind::Swap(expected, new), Outcome::Ok(seen)) if seen == expected => (Op::Cas, Some(new), Some(expected), None, Knows::Ok),
            // It did not apply, and is a read of what it found.
            (Kind::Swap(expected, new), Outcome::Ok(seen)) => (Op::Cas, Some(new), Some(expected), Some(seen), Knows::Fail),
            (Kind::Swap(expected, new), Outcome::Refused) => (Op::Cas, Some(new), Some(expected), None, Knows::Fail),
            (Kind::Swap(expected, new), Outcome::Unknown) => (Op::Cas, Some(new), Some(expected), None, Knows::Unknown),
        };
        let value_of = |value: Option<u64>| value.map(|value| json!(value));
        self.lines.push(Line {
            process: self.processes.of(client, knows),
            op,
            key: format!("r{key}"),
            value: value_of(value),
            expected: value_of(expected),
            found: value_of(found),
            call: called,
            returned: (knows != Knows::Unknown).then_some(now),
            outcome: knows,
        });
    }

    /// With what the registers hold when all is over, as reads of clients of their own.
    pub(crate) fn end(&mut self, clients: usize, registers: impl Iterator<Item = u64>, called: u64, returned: u64) {
        for (key, value) in registers.enumerate() {
            let process = self.processes.of(clients + key, Knows::Ok);
            self.lines.push(Line {
                process,
                op: Op::Read,
                key: format!("r{key}"),
                value: None,
                expected: None,
                found: Some(json!(value)),
                call: called,
                returned: Some(returned),
                outcome: Knows::Ok,
            });
        }
    }

    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.lines
    }
}
