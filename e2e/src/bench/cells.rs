//! What is measured: the cells, and how long and how often each runs.

use super::{Args, etcd_load, resp_load};
use std::time::Duration;

/// The same work for every system that can do it.
pub(super) struct Cell {
    pub(super) name: &'static str,
    pub(super) command: resp_load::Command,
    pub(super) clients: usize,
    pub(super) pipeline: usize,
    pub(super) valkey: Option<(resp_load::Command, &'static str)>,
    pub(super) etcd: Option<etcd_load::Command>,
}

const WAITAOF: Option<(resp_load::Command, &str)> = Some((resp_load::Command::SetWaitAof, "Valkey SET + WAITAOF 1 1, appendfsync always"));
/// With one client WAITAOF waits for the replica's next acknowledgement, about a second: not a figure to beat.
const WAIT: Option<(resp_load::Command, &str)> = Some((resp_load::Command::SetWait, "Valkey SET + WAIT 1, appendfsync always"));
const LOCAL_GET: Option<(resp_load::Command, &str)> = Some((resp_load::Command::Get, "Valkey GET, local"));

/// GETs first: what writes leave behind (dirty pages, a busy collector) must not weigh on them.
pub(super) fn cells() -> Vec<Cell> {
    use etcd_load::Command::{Put, Range};
    use resp_load::Command::{Get, Set};
    let cell = |name, command, clients, pipeline, valkey, etcd| Cell {
        name,
        command,
        clients,
        pipeline,
        valkey,
        etcd,
    };
    vec![
        cell("linearizable GET, 50 clients", Get, 50, 1, LOCAL_GET, Some(Range)),
        cell("linearizable GET, 50 clients, pipeline 16", Get, 50, 16, LOCAL_GET, None),
        cell("fsynced replicated SET, 1 client", Set, 1, 1, WAIT, None),
        cell("fsynced replicated SET, 10 clients", Set, 10, 1, WAITAOF, Some(Put)),
        cell("fsynced replicated SET, 50 clients", Set, 50, 1, WAITAOF, Some(Put)),
        cell("fsynced replicated SET, 200 clients", Set, 200, 1, WAITAOF, None),
        cell("fsynced replicated SET, 50 clients, pipeline 16", Set, 50, 16, WAITAOF, None),
    ]
}

/// How long and how much, the same in every cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) rounds: u32,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
}

impl Effort {
    pub(super) fn of(args: &Args) -> Self {
        let Args {
            rounds,
            duration_millis,
            warm_up_millis,
            keys,
            value_bytes,
            quick,
            ..
        } = *args;
        if quick {
            let (warm_up, duration) = (Duration::from_millis(200), Duration::from_millis(600));
            return Self {
                rounds: 1,
                warm_up,
                duration,
                keys: keys.min(10_000),
                value_bytes,
            };
        }
        let (warm_up, duration) = (Duration::from_millis(warm_up_millis), Duration::from_millis(duration_millis));
        Self {
            rounds,
            warm_up,
            duration,
            keys,
            value_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let mut names: Vec<_> = cells().iter().map(|cell| cell.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
