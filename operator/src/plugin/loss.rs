//! What giving up the replicas that do not answer would lose: the explanation of `recover`, from the status alone.

use super::screen::{condition, status_of};
use quorate_crds::conditions::FAILOVER_BLOCKED;
use quorate_crds::{ReplicaRole, ReplicatedStore, ShardQuorum, ShardStatus};

/// What is known of a shard that is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) epoch: i64,
    quorum: ShardQuorum,
    answer: Vec<String>,
    missing: Vec<String>,
    uncounted: Vec<String>,
    message: String,
}

/// The blocked shard; or why nothing has to be lost, or nothing can be said.
pub(super) fn blocked(store: &ReplicatedStore, index: i32) -> Result<Blocked, String> {
    let status = status_of(store);
    let Some(shard) = status.shards.iter().find(|shard| shard.index == index) else {
        let known: Vec<String> = status.shards.iter().map(|shard| shard.index.to_string()).collect();
        return Err(format!("the store has no shard {index}; it has: {}", known.join(", ")));
    };
    if let Some(primary) = &shard.primary {
        return Err(format!(
            "shard {index} is not blocked: {primary} serves it, and nothing has to be lost"
        ));
    }
    let Some(said) = condition(&status, FAILOVER_BLOCKED).filter(|said| said.status == "True") else {
        return Err(format!(
            "shard {index} has no primary, but no failover is blocked: see what it waits for with `kubectl quorate status`"
        ));
    };
    let Some(quorum) = shard.quorum else {
        return Err(format!(
            "the sizes of shard {index} are not known: no replica of it ever answered this operator"
        ));
    };
    Ok(Blocked {
        epoch: shard.epoch,
        quorum,
        answer: replicas_of(shard, &[ReplicaRole::Primary, ReplicaRole::Replica]),
        missing: replicas_of(shard, &[ReplicaRole::Unreachable]),
        uncounted: replicas_of(shard, &[ReplicaRole::Blank, ReplicaRole::Learner]),
        message: said.message.clone(),
    })
}

fn replicas_of(shard: &ShardStatus, roles: &[ReplicaRole]) -> Vec<String> {
    let each = shard.replicas.iter().filter(|replica| roles.contains(&replica.role));
    each.map(|replica| replica.name.clone()).collect()
}

/// What the numbers mean, for a person who has to decide.
pub(super) fn explain(store: &str, index: i32, blocked: &Blocked) -> String {
    let Blocked {
        epoch,
        quorum,
        answer,
        missing,
        uncounted,
        message,
    } = blocked;
    let given_up = quorum.replicas - i32::try_from(answer.len()).unwrap_or(i32::MAX);
    let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut text = format!(
        "{store}, shard {index}: no primary in epoch {epoch}. {message}\n\n  answer:   {}\n  missing:  {}\n",
        names(answer),
        names(missing)
    );
    if !uncounted.is_empty() {
        text.push_str(&format!(
            "  no members: {} (new ones, or such as came back with another volume or after their machine restarted: they count for \
             nothing in a failover)\n",
            names(uncounted)
        ));
    }
    text.push('\n');
    let needed = quorum.fence - i32::try_from(answer.len()).unwrap_or(i32::MAX);
    text.push_str(&format!(
        "With {needed} more of them nothing is lost, and the failover goes on by itself. Without them, this would be lost:\n"
    ));
    if given_up >= quorum.write {
        text.push_str(&format!(
            "  - writes that were acknowledged: each is on {} of {} replicas, and {given_up} would be given up. Those of the last moments \
             may be on them alone. How many these are, nobody who answers can tell.\n",
            quorum.write, quorum.replicas
        ));
        text.push_str("  - whatever the missing replicas acknowledge meanwhile: if they run and are only cut off, stop them first.\n");
    } else {
        text.push_str(&format!(
            "  - no acknowledged write: each is on {} of {} replicas, and only {given_up} would be given up.\n",
            quorum.write, quorum.replicas
        ));
    }
    if given_up >= quorum.read {
        text.push_str(
            "  - the certainty that reads are up to date: the missing replicas, if they run and are only cut off, may go on answering \
             reads. Stop them first.\n",
        );
    }
    text.push_str(
        "What the missing replicas hold and these do not is never merged back: when they return, they take over the data of these.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store(write: i32, read: i32, fence: i32, roles: [&str; 3], primary: Option<&str>, blocked: &str) -> ReplicatedStore {
        let replicas: Vec<_> = roles
            .iter()
            .enumerate()
            .map(|(ordinal, role)| json!({"name": format!("orders-0-{ordinal}"), "role": role, "synced": false}))
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore", "metadata": {"name": "orders"}, "spec": {},
            "status": {
                "conditions": [{
                    "type": "FailoverBlocked", "status": blocked, "reason": "TooFewReplicas",
                    "message": "1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "shards": [{
                    "index": 0, "epoch": 7, "primary": primary, "replicas": replicas,
                    "quorum": {
                        "replicas": 3, "write": write, "read": read, "fence": fence,
                        "writesTolerate": 3 - write, "readsTolerate": 3 - read, "failoverTolerates": 3 - fence,
                    },
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_majority_that_is_gone_may_take_acknowledged_writes_with_it() {
        let store = store(2, 2, 2, ["Unreachable", "Replica", "Unreachable"], None, "True");
        let blocked = blocked(&store, 0).unwrap();
        assert_eq!(blocked.epoch, 7);
        assert_eq!(
            explain("orders", 0, &blocked),
            "\
orders, shard 0: no primary in epoch 7. 1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back

  answer:   orders-0-1
  missing:  orders-0-0, orders-0-2

With 1 more of them nothing is lost, and the failover goes on by itself. Without them, this would be lost:
  - writes that were acknowledged: each is on 2 of 3 replicas, and 2 would be given up. Those of the last moments may be on them alone. How many these are, nobody who answers can tell.
  - whatever the missing replicas acknowledge meanwhile: if they run and are only cut off, stop them first.
  - the certainty that reads are up to date: the missing replicas, if they run and are only cut off, may go on answering reads. Stop them first.
What the missing replicas hold and these do not is never merged back: when they return, they take over the data of these.
"
        );
    }

    #[test]
    fn where_every_write_is_everywhere_a_missing_replica_takes_none_with_it_but_may_answer_reads() {
        let store = store(3, 1, 3, ["Replica", "Replica", "Unreachable"], None, "True");
        let text = explain("orders", 0, &blocked(&store, 0).unwrap());
        assert!(
            text.contains("  - no acknowledged write: each is on 3 of 3 replicas, and only 1 would be given up.\n"),
            "{text}"
        );
        assert!(text.contains("the certainty that reads are up to date"), "{text}");
        assert!(!text.contains("whatever the missing"), "{text}");
    }

    #[test]
    fn replicas_that_came_back_empty_are_told_apart_from_those_that_may_return() {
        let store = store(2, 2, 2, ["Blank", "Replica", "Unreachable"], None, "True");
        let text = explain("orders", 0, &blocked(&store, 0).unwrap());
        let sides =
            "  answer:   orders-0-1\n  missing:  orders-0-2\n  no members: orders-0-0 (new ones, or such as came back with another volume";
        assert!(text.contains(sides), "{text}");
    }

    #[test]
    fn where_nothing_is_blocked_nothing_has_to_be_lost() {
        let roles = ["Primary", "Replica", "Unreachable"];
        assert_eq!(
            blocked(&store(2, 2, 2, roles, Some("orders-0-0"), "False"), 0),
            Err("shard 0 is not blocked: orders-0-0 serves it, and nothing has to be lost".to_owned())
        );
        assert_eq!(
            blocked(&store(2, 2, 2, roles, None, "False"), 0),
            Err("shard 0 has no primary, but no failover is blocked: see what it waits for with `kubectl quorate status`".to_owned())
        );
        assert_eq!(
            blocked(&store(2, 2, 2, roles, None, "True"), 3),
            Err("the store has no shard 3; it has: 0".to_owned())
        );
    }
}
