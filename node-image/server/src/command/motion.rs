//! Commands on slots that are about to change hands.
//!
//! While a slot is frozen, this group still owns it, but another may own it at any moment. So nothing reads or writes it, and
//! the command waits: until the slot is given up (then it is sent there), until it is served here again, or until the client
//! has waited long enough (then it is told to try again, and nothing was done).

use super::reads::Reads;
use super::session::Transaction;
use super::table::{self, Command, Kind};
use super::{ClientSession, Context};
use crate::keyspace::Access;
use bytes::Bytes;
use quorate_api::slot::slot_of;

/// Told when a client has waited long enough.
pub(super) const TRY_AGAIN: &str = "TRYAGAIN The slot is moving to another group. The command changed nothing: send it again";

/// Whether the command has to wait. What is wrong with it otherwise is found later.
pub(super) fn meets_a_frozen_slot(context: &Context<'_>, session: &ClientSession, args: &[Bytes]) -> bool {
    let Some(command) = table::by_name(&args[0]) else { return false };
    match &session.transaction {
        Some(transaction) if command.name == "exec" => transaction_meets_one(context, session, transaction),
        // Queued only.
        Some(_) if !command.ends_queueing => false,
        _ => command_meets_one(context, session, command, args),
    }
}

fn transaction_meets_one(context: &Context<'_>, session: &ClientSession, transaction: &Transaction) -> bool {
    let watched = session.watched.iter().any(|watched| is_frozen(context, watched.slot));
    let mut queued = transaction.queued.iter();
    watched || queued.any(|queued| command_meets_one(context, session, queued.command, &queued.args))
}

fn command_meets_one(context: &Context<'_>, session: &ClientSession, command: &Command, args: &[Bytes]) -> bool {
    // On a replica only reads are executed. Those that may be of any age may be older than a move, the others not.
    let aged = matches!(session.reads, Reads::Stale { max_millis: None });
    let elsewhere = !context.view.serving && (command.kind == Kind::Write || session.reads == Reads::Primary || aged);
    if command.kind == Kind::Plain || elsewhere {
        return false;
    }
    match command.keys.positions(args) {
        Some(mut positions) => positions.any(|at| is_frozen(context, slot_of(&args[at]))),
        // It writes everywhere.
        None => command.kind == Kind::Write,
    }
}

fn is_frozen(context: &Context<'_>, slot: u16) -> bool {
    context.keyspace.access(slot, context.view.shard) == Access::Frozen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{NodeView, Outcome, Routes, Standing, execute};
    use crate::keyspace::{Change, Keyspace};
    use bytes::BytesMut;
    use quorate_api::wire::NodeAddresses;
    use quorate_api::{Incarnation, ReplicaId, RoutingMap, RoutingMember, RoutingShard, SlotSet, StoreId};
    use quorate_protocol::slots::SlotRecord;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use uuid::Uuid;

    /// A primary of shard 0, and one client.
    struct Node {
        keyspace: Keyspace,
        view: NodeView,
        session: ClientSession,
        index: u64,
    }

    fn shard_one(slots: SlotSet) -> RoutingShard {
        let id = ReplicaId {
            store: StoreId(Uuid::nil()),
            shard: 1,
            ordinal: 0,
            incarnation: Incarnation(Uuid::from_u128(9)),
        };
        let addresses = NodeAddresses {
            replica: "b:7400".into(),
            client_host: "b".into(),
            client_port: 6379,
        };
        RoutingShard {
            shard: 1,
            epoch: 3,
            primary: Some(id.incarnation),
            slots,
            members: vec![RoutingMember { id, addresses }],
        }
    }

    impl Node {
        fn new() -> Self {
            let map = RoutingMap {
                version: 1,
                shards: vec![shard_one(SlotSet::new())],
            };
            Self {
                keyspace: Keyspace::new(),
                view: NodeView {
                    serving: true,
                    routes: Routes::new(&map, 0, 0),
                    ..NodeView::default()
                },
                session: ClientSession::new(1, false),
                index: 0,
            }
        }

        fn log(&mut self, record: &SlotRecord) {
            self.index += 1;
            let mut change = Change {
                effects: &mut BytesMut::new(),
                index: self.index,
            };
            self.keyspace.log_slots(record, &[], &mut change).unwrap();
        }

        fn freeze(&mut self, key: &str, handoff: u64) {
            self.log(&SlotRecord::Export {
                shard: 0,
                handoff,
                slots: [slot_of(key.as_bytes())].into_iter().collect(),
                to: 1,
                max_bytes_per_second: 0,
            });
            self.log(&SlotRecord::Freeze { handoff });
        }

        fn run(&mut self, command: &str) -> (Outcome, String) {
            self.index += 1;
            let args: Vec<Bytes> = command.split(' ').map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect();
            let mut out = BytesMut::new();
            let mut context = Context {
                keyspace: &mut self.keyspace,
                effects: &mut BytesMut::new(),
                clock_millis: 0,
                pending_index: self.index,
                view: &self.view,
                password: None,
                random: &mut SmallRng::seed_from_u64(7),
            };
            let outcome = execute(&mut context, &mut self.session, &args, &mut out);
            (outcome, String::from_utf8_lossy(&out).trim_end().to_owned())
        }

        fn says(&mut self, command: &str, reply: &str) {
            let (outcome, said) = self.run(command);
            assert!(!outcome.held && said.starts_with(reply), "{command}: {said}");
        }

        fn holds(&mut self, command: &str) {
            let (outcome, said) = self.run(command);
            assert_eq!((outcome.held, said.as_str()), (true, ""), "{command}");
        }
    }

    #[test]
    fn commands_on_a_frozen_slot_wait_and_others_do_not() {
        let mut node = Node::new();
        node.says("SET a old", "+OK");
        node.freeze("a", 1);
        for command in ["GET a", "SET a new", "MGET {a}1 {a}2", "FLUSHALL"] {
            node.holds(command);
        }
        for (command, reply) in [
            ("SET b 1", "+OK"),
            ("GET b", "$1"),
            ("DBSIZE", ":2"),
            ("PING", "+PONG"),
            ("FROB a", "-ERR"),
        ] {
            node.says(command, reply);
        }
        node.session.lose_patience();
        node.says("SET a new", "-TRYAGAIN");
        node.holds("SET a new");
        node.log(&SlotRecord::Thaw { handoff: 1 });
        node.says("GET a", "$3\r\nold");
    }

    #[test]
    fn a_replica_answers_about_a_frozen_slot_only_what_may_be_of_any_age() {
        let mut node = Node::new();
        node.says("SET a old", "+OK");
        node.freeze("a", 1);
        (node.view.serving, node.view.stale_reads) = (false, true);
        node.session.stand(Standing {
            confirmed: true,
            stale_millis: Some(0),
        });
        node.says("GET a", "-CLUSTERDOWN");
        node.says("QR.READ STALE ANY", "+OK");
        node.says("GET a", "$3\r\nold");
        for reads in ["QR.READ STALE 1000", "QR.READ LINEARIZABLE"] {
            node.says(reads, "+OK");
            node.holds("GET a");
            node.says("GET b", "$-1");
        }
    }

    #[test]
    fn a_transaction_waits_whole_and_is_sent_on_whole() {
        let mut node = Node::new();
        node.says("WATCH a", "+OK");
        node.says("MULTI", "+OK");
        node.freeze("a", 1);
        node.says("SET a 1", "+QUEUED");
        node.says("INCR a", "+QUEUED");
        node.holds("EXEC");
        node.log(&SlotRecord::Thaw { handoff: 1 });
        node.says("EXEC", "*2");
        node.says("MULTI", "+OK");
        node.says("INCR a", "+QUEUED");
        node.freeze("a", 2);
        node.holds("EXEC");
        node.log(&SlotRecord::Release { handoff: 2 });
        node.says("EXEC", &format!("-MOVED {} b:6379", slot_of(b"a")));
        node.says("GET a", &format!("-MOVED {} b:6379", slot_of(b"a")));
    }

    #[test]
    fn a_slot_that_left_is_where_the_log_says_until_a_later_map_says_otherwise() {
        let mut node = Node::new();
        node.freeze("a", 1);
        node.log(&SlotRecord::Release { handoff: 1 });
        let slot = slot_of(b"a");
        node.says("GET a", &format!("-MOVED {slot} b:6379"));
        let mut other = shard_one([slot].into_iter().collect());
        other.shard = 2;
        other.members[0].addresses.client_host = "c".into();
        let map = RoutingMap {
            version: 2,
            shards: vec![shard_one(SlotSet::new()), other],
        };
        node.view.routes = Routes::new(&map, 0, 1);
        node.says("GET a", &format!("-MOVED {slot} b:6379"));
        node.view.routes = Routes::new(&map, 0, node.index);
        node.says("GET a", &format!("-MOVED {slot} c:6379"));
        node.view.routes = Routes::default();
        node.says("GET a", "-CLUSTERDOWN");
    }

    #[test]
    fn a_group_of_another_shard_owns_nothing_at_first() {
        let mut node = Node::new();
        node.view.shard = 1;
        node.says("GET a", "-CLUSTERDOWN");
        node.says("DBSIZE", ":0");
    }
}
