use super::*;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T12:00:00Z";

fn store(spec: &Value, status: &Value) -> ReplicatedStore {
    serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "ReplicatedStore",
        "metadata": {"name": "orders", "namespace": "shop", "generation": 3}, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn screen(store: &ReplicatedStore, wide: bool) -> String {
    render(&View {
        store,
        now: NOW.parse().unwrap(),
        wide,
    })
}

fn said(type_: &str, status: &str, reason: &str, message: &str, since: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

fn quorum(replicas: i32, write: i32, read: i32) -> Value {
    let fence = replicas - write.min(read) + 1;
    json!({
        "replicas": replicas, "write": write, "read": read, "fence": fence,
        "writesTolerate": replicas - write, "readsTolerate": replicas - read, "failoverTolerates": replicas - fence,
    })
}

fn replica(name: &str, role: &str, synced: bool, lag: Option<i64>) -> Value {
    json!({"name": name, "id": format!("id-of-{name}"), "role": role, "synced": synced, "lag": lag})
}

fn well() -> ReplicatedStore {
    let status = json!({
        "observedGeneration": 3, "readyShards": 1,
        "conditions": [
            said("Ready", "True", "Serving", "all replicas are in step", "2026-01-01T11:56:50Z"),
            said("Available", "True", "Serving", "the primary acknowledges writes", "2025-12-30T08:00:00Z"),
            said("Reconciled", "True", "Applied", "all objects are as the spec wants them", "2025-12-30T08:00:00Z"),
            said("FailoverBlocked", "False", "None", "", "2025-12-30T08:00:00Z"),
            said("Changing", "False", "None", "members and quorum are as the spec wants them", "2025-12-30T08:00:00Z"),
            said("Warning", "False", "None", "", "2025-12-30T08:00:00Z"),
        ],
        "shards": [{
            "index": 0, "epoch": 7, "primary": "orders-0-1", "quorum": quorum(3, 2, 2), "slots": 16384,
            "replicas": [
                replica("orders-0-0", "Replica", true, Some(0)),
                replica("orders-0-1", "Primary", true, Some(0)),
                replica("orders-0-2", "Replica", true, Some(20_000)),
            ],
        }],
        "lastFailover": {
            "shard": 0, "epoch": 7, "from": "orders-0-0", "to": "orders-0-1",
            "reason": "neither the operator nor 2 members hear the primary and its pod has ended",
            "detectedAt": "2026-01-01T11:56:49.900Z", "fencedAt": "2026-01-01T11:56:49.921Z",
            "promotedAt": "2026-01-01T11:56:49.961Z", "durationMillis": 61,
        },
    });
    store(&json!({}), &status)
}

#[test]
fn a_store_that_is_well_takes_a_few_lines() {
    assert_eq!(
        screen(&well(), false),
        "\
Store:     orders (namespace shop)
State:     Ready, for 3m10s
Size:      1 shard, 3 replicas each
Quorums:   write 2, read 2, failover 2 of 3 replicas
Tolerates: 1 failed for writes, 1 for reads, 1 for a failover

SHARD   PRIMARY      EPOCH   SLOTS   IN STEP   DOES
0       orders-0-1   7       16384   3/3       serves

SHARD   REPLICA      ROLE      IN STEP   LAG
0       orders-0-0   Replica   yes       0
0       orders-0-1   Primary   yes       0
0       orders-0-2   Replica   yes       20000 entries

Last failover: 3m10s ago, shard 0, orders-0-0 -> orders-0-1, epoch 7
  detected 2026-01-01T11:56:49.900Z, fenced after 21 ms, served after 61 ms
  neither the operator nor 2 members hear the primary and its pod has ended
"
    );
}

#[test]
fn wide_adds_identities_and_every_condition() {
    let text = screen(&well(), true);
    assert!(
        text.contains("0       orders-0-1   Primary   yes       0               id-of-orders-0-1\n"),
        "{text}"
    );
    let conditions = text.split("\n\n").last().unwrap();
    assert_eq!(
        conditions,
        "\
CONDITION         STATUS   REASON    FOR     MESSAGE
Ready             True     Serving   3m10s   all replicas are in step
Available         True     Serving   2d4h    the primary acknowledges writes
Reconciled        True     Applied   2d4h    all objects are as the spec wants them
FailoverBlocked   False    None      2d4h
Changing          False    None      2d4h    members and quorum are as the spec wants them
Warning           False    None      2d4h
"
    );
}

#[test]
fn a_store_of_several_shards_that_changes_waits_and_lost_data_says_each_of_it_once() {
    let blocked = "1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back";
    let status = json!({
        "observedGeneration": 2, "readyShards": 1,
        "conditions": [
            said("Ready", "False", "TooFewReplicas", blocked, "2026-01-01T11:58:00Z"),
            said("Available", "False", "TooFewReplicas", blocked, "2026-01-01T11:58:00Z"),
            said("Reconciled", "False", "ApplyFailed", "Service orders: forbidden", "2026-01-01T11:59:55Z"),
            said("FailoverBlocked", "True", "TooFewReplicas", blocked, "2026-01-01T11:58:00Z"),
            said("Changing", "True", "CatchingUp", "0,1,2 2/2 -> 0,1,2,3 3/3: orders-0-3 is behind", "2026-01-01T11:59:00Z"),
            said("Warning", "True", "EvenReplicas", "4 replicas go on with 1 failed, no more than 3 do", "2026-01-01T11:59:00Z"),
        ],
        "shards": [
            {
                "index": 0, "epoch": 7, "primary": "orders-0-0", "targetPrimary": "orders-0-2", "quorum": quorum(3, 2, 2), "slots": 8192,
                "change": {"from": "0,1,2 2/2", "to": "0,1,2,3 3/3", "step": "CatchingUp", "reason": "orders-0-3 is behind"},
                "replicas": [
                    replica("orders-0-0", "Primary", true, Some(0)),
                    replica("orders-0-2", "Replica", true, Some(0)),
                    replica("orders-0-3", "Learner", false, None),
                ],
            },
            {
                "index": 1, "epoch": 12, "quorum": quorum(3, 3, 1), "slots": 8192,
                "replicas": [
                    replica("orders-1-0", "Unreachable", false, None),
                    replica("orders-1-1", "Replica", false, None),
                ],
            },
        ],
        "dataLoss": [{"shard": 1, "at": "2025-12-01T00:00:00.000Z", "epoch": 5, "reason": "the group went on with orders-1-1 alone"}],
    });
    let mut store = store(&json!({"shards": 1, "replicasPerShard": 4}), &status);
    store.spec.shards = 2;
    store
        .annotations_mut()
        .insert("quorate.io/promote".to_owned(), "orders-0-2".to_owned());
    assert_eq!(
        screen(&store, false),
        "\
Store:     orders (namespace shop)
State:     NOT AVAILABLE, TooFewReplicas, for 2m0s
Size:      2 shards, 4 replicas each
Operator:  has not looked at the last change of the spec yet
Quorums:   shards 0: write 2, read 2, failover 2 of 3 replicas
Tolerates: shards 0: 1 failed for writes, 1 for reads, 1 for a failover
Quorums:   shards 1: write 3, read 1, failover 3 of 3 replicas
Tolerates: shards 1: 0 failed for writes, 2 for reads, 0 for a failover

SHARD   PRIMARY      EPOCH   SLOTS   IN STEP   DOES
0       orders-0-0   7       8192    2/3       moves its primary to orders-0-2
1       none         12      8192    0/3       has no primary

SHARD   REPLICA      ROLE          IN STEP   LAG
0       orders-0-0   Primary       yes       0
0       orders-0-2   Replica       yes       0
0       orders-0-3   Learner       no        unknown
1       orders-1-0   Unreachable   no        unknown
1       orders-1-1   Replica       no        unknown

Change in progress:
  shard 0: 0,1,2 2/2 -> 0,1,2,3 3/3, CatchingUp, for 1m0s
    orders-0-3 is behind

Waits for:
  FailoverBlocked (TooFewReplicas), for 2m0s
    1 of 3 replicas answer and a failover needs 2: it goes on by itself when 1 more come back
    unblocked by: bring back the missing replicas; only if they are gone for good: `kubectl quorate recover`, which says first what would be lost
  Reconciled (ApplyFailed), for 5s
    Service orders: forbidden
    unblocked by: what the message says; it is tried again by itself
  Warning (EvenReplicas), for 1m0s
    4 replicas go on with 1 failed, no more than 3 do
    unblocked by: one replica more or less

Asked for:
  promote orders-0-2: not answered yet

Data loss accepted:
  2025-12-01T00:00:00.000Z, shard 1, epoch 5: the group went on with orders-1-1 alone
"
    );
}

#[test]
fn slots_that_move_have_a_part_of_the_screen_and_what_stalls_them_is_waited_for() {
    let stalled = "shard 1 takes no copy while its disk is full";
    let status = json!({
        "observedGeneration": 3,
        "conditions": [
            said("Ready", "True", "Serving", "", "2026-01-01T11:58:00Z"),
            said("Rebalancing", "True", "MovingSlots", "slots move", "2026-01-01T11:58:00Z"),
            said("RebalanceStalled", "True", "MoveWaits", stalled, "2026-01-01T11:59:00Z"),
        ],
        "rebalance": {
            "state": "Moving", "progress": "42% (2/8 slots)", "moves": 4, "bytesPerSecond": 2048, "etaSeconds": 9,
            "reason": "slots move so that 2 shards own as many each",
        },
    });
    let text = screen(&store(&json!({"shards": 1}), &status), false);
    let parts: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(
        parts[1],
        "\
Rebalance: Moving, 42% (2/8 slots), 4 moves under way, 2048 bytes/s, about 9s left
  slots move so that 2 shards own as many each"
    );
    assert!(
        parts[2].starts_with(&format!("Waits for:\n  RebalanceStalled (MoveWaits), for 1m0s\n    {stalled}\n")),
        "{text}"
    );
}

#[test]
fn a_store_that_no_operator_has_seen_says_so() {
    let store = store(&json!({}), &json!(null));
    assert_eq!(
        screen(&store, false),
        "\
Store:     orders (namespace shop)
State:     Unknown
Size:      1 shard, 3 replicas each
Operator:  no operator has spoken of this store: does one run, and does it watch this namespace?
"
    );
}

#[test]
fn several_stores_take_a_line_each() {
    let mut other = store(&json!({}), &json!(null));
    other.metadata.name = Some("carts".to_owned());
    let stores = [other, well()];
    assert_eq!(
        list(&stores, true),
        "\
NAMESPACE   STORE    STATE     SHARDS   REPLICAS   PRIMARY      EPOCH
shop        carts    Unknown   0/1      3
shop        orders   Ready     1/1      3          orders-0-1   7
"
    );
    assert!(list(&stores, false).starts_with("STORE    STATE"));
}

#[test]
fn an_age_is_told_in_its_two_greatest_units() {
    let now: Timestamp = NOW.parse().unwrap();
    let age = |text: &str| age(now, text.parse().unwrap());
    assert_eq!(age("2026-01-01T11:59:18Z"), "42s");
    assert_eq!(age("2026-01-01T09:58:00Z"), "2h2m");
    assert_eq!(age("2025-12-29T09:00:00Z"), "3d3h");
    assert_eq!(age("2026-01-01T12:00:05Z"), "0s", "a clock that is behind");
}
