//! What unblocks each wait: the last column of the table of conditions in docs/status.md, for the screen.

use quorate_crds::conditions::reasons;

/// What unblocks a condition of that reason. None where there is nothing to wait for, or a newer operator knows more.
pub(super) fn unblocks(reason: &str) -> Option<&'static str> {
    let advice = match reason {
        reasons::WAITING_FOR_REPLICAS => "pods that run: see `kubectl get pods` and `kubectl describe pod`",
        reasons::BOOTSTRAPPING => "nothing to do: it is tried until it succeeds",
        reasons::DATA_LOST => "bring back the volumes; or delete the store and its claims and create it anew, empty",
        reasons::DISK_FULL => "more room on the volumes that the message names; then it goes on by itself",
        reasons::DAMAGED => "nothing to do: their peers repair them; see docs/disks.md if it stays",
        reasons::FAILING_OVER => "nothing to do: it is tried until it succeeds",
        reasons::VIEW_CHANGING => "nothing to do: the operator takes over when it gets stuck",
        reasons::PRIMARY_SUSPECTED => "more replicas that answer the operator: see `kubectl get pods`",
        reasons::NO_WRITE_QUORUM => "the missing replicas: see `kubectl get pods`",
        reasons::TOO_FEW_REPLICAS => {
            "bring back the missing replicas; only if they are gone for good: `kubectl quorate recover`, which says first what would be lost"
        }
        reasons::MANUAL => "set spec.failover.mode to Automatic",
        reasons::MINIMUM_INTERVAL => "time: spec.failover.minIntervalSeconds since the last failover",
        reasons::REPLICAS_BEHIND => "they catch up by themselves once their pods run: see `kubectl get pods`",
        reasons::APPLYING => "nothing to do",
        reasons::APPLY_FAILED => "what the message says; it is tried again by itself",
        reasons::INVALID_SPEC => "correct the field that the message names; the last good spec is in force",
        reasons::PAUSED => "set spec.paused to false",
        reasons::CHANGING => "nothing to do: see the change in progress",
        reasons::WAITING => "what the message names",
        reasons::SCALING_UP => "pods that run: see `kubectl get pods`",
        reasons::CATCHING_UP | reasons::MOVING_PRIMARY | reasons::COMMITTING => "nothing to do",
        reasons::SCALING_DOWN => "nothing to do; a member that did not hear of the change yet has to run",
        reasons::RESTARTING => "nothing to do, unless the message names a replica that is not well",
        reasons::MANUAL_UPDATE => "delete the pods that are out of date, replicas first; or set spec.update.mode to Automatic",
        reasons::MOVING_SLOTS | reasons::DRAINING => "nothing to do",
        reasons::REMOVING_SHARDS => "the replicas that the message names: see `kubectl get pods`",
        reasons::SLOTS_UNKNOWN => "a primary of every shard that answers the operator; and as many shards as the volumes are of",
        reasons::SHARD_NOT_SERVING => "the failover of the shard that the message names",
        reasons::MOVE_REFUSED | reasons::MOVE_WAITS => "what the message names; it is tried again by itself",
        reasons::INSUFFICIENT_CAPACITY => "a larger spec.maxMemory, a larger spec.shards, or less data",
        reasons::MANUAL_REBALANCE => "the annotation quorate.io/rebalance, with any value; or set spec.rebalance.mode to Automatic",
        reasons::EVEN_REPLICAS => "one replica more or less",
        reasons::SINGLE_REPLICA => "spec.replicasPerShard: 3",
        _ => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_that_the_documentation_lists_has_an_advice() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status.md");
        let text = std::fs::read_to_string(path).unwrap();
        let conditions = text.split("## Conditions").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = conditions.lines().filter(|line| line.starts_with("| `"));
        let waits: Vec<&str> = rows
            .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
            // What is as it should be has nothing in the last column, and a reason of another condition is in its row.
            .filter(|cells| !cells[5].is_empty() && cells[3].starts_with('`'))
            .map(|cells| cells[3].trim_matches('`'))
            .collect();
        assert!(waits.len() >= 20, "{waits:?}");
        let missing: Vec<&&str> = waits.iter().filter(|reason| unblocks(reason).is_none()).collect();
        assert_eq!(missing, [] as [&&str; 0]);
    }
}
