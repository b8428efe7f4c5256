//! The categories of commands as `COMMAND INFO` tells them: the names that Redis has for what a command is about, what it does, and
//! whether its work grows with the data. Nobody is allowed or refused anything by them.

use super::table::{Command, Kind};

/// Names by what commands are about.
const SUBJECTS: [(&str, &str); 11] = [
    (
        "@string",
        "get set setnx setex psetex getset getdel getex mget mset msetnx append strlen getrange substr setrange incr decr \
         incrby decrby incrbyfloat lcs",
    ),
    (
        "@hash",
        "hset hsetnx hmset hincrby hincrbyfloat hdel hget hmget hgetall hkeys hvals hlen hstrlen hexists hrandfield hscan",
    ),
    (
        "@set",
        "sadd srem smove spop sinterstore sunionstore sdiffstore scard sismember smismember smembers srandmember sscan sinter \
         sunion sdiff sintercard sort sort_ro",
    ),
    (
        "@sortedset",
        "zadd zincrby zrem zremrangebyrank zremrangebyscore zremrangebylex zpopmin zpopmax zmpop zrangestore zunionstore \
         zinterstore zdiffstore zunion zinter zdiff zintercard zcard zcount zlexcount zscore zmscore zrank zrevrank \
         zrange zrevrange zrangebyscore zrevrangebyscore zrangebylex zrevrangebylex zrandmember zscan sort sort_ro",
    ),
    (
        "@list",
        "lpush rpush lpushx rpushx linsert lset lmove rpoplpush lpop rpop lmpop lrem ltrim llen lindex lrange lpos sort sort_ro",
    ),
    (
        "@keyspace",
        "dbsize flushall flushdb migrate restore-asking dump restore del unlink exists touch type keys randomkey scan rename \
         renamenx copy expire pexpire expireat pexpireat persist ttl pttl expiretime pexpiretime",
    ),
    (
        "@connection",
        "auth hello quit reset ping echo select readonly readwrite qr.read asking command wait waitaof",
    ),
    ("@transaction", "multi exec discard watch unwatch"),
    (
        "@dangerous",
        "info debug flushall flushdb psync sync replicaof slaveof failover migrate restore-asking shutdown sort sort_ro restore \
         keys",
    ),
    ("@admin", "debug psync sync replicaof slaveof failover shutdown"),
    ("@blocking", "wait waitaof"),
];

/// Names of commands whose work does not grow with the data.
const FAST: &str = "auth hello quit reset ping echo select readonly readwrite qr.read asking time lolwut dbsize get setnx getset getdel \
         getex mget append strlen incr decr incrby decrby incrbyfloat hset hsetnx hmset hincrby hincrbyfloat hdel hget \
         hmget hlen hstrlen hexists sadd srem smove spop scard sismember smismember zadd zincrby zrem zpopmin zpopmax \
         zcard zcount zlexcount zscore zmscore zrank zrevrank lpush rpush lpushx rpushx lpop rpop llen unlink exists \
         touch type renamenx expire pexpire expireat pexpireat persist ttl pttl expiretime pexpiretime multi discard \
         watch unwatch";

/// Names of commands that the table has as readers and Redis does not, and the other way round.
const OTHERWISE: &str = "memory object watch lolwut";

/// The categories of a command.
pub(super) fn categories(command: &Command) -> Vec<&'static str> {
    let is_in = |names: &str| names.split(' ').any(|name| name == command.name);
    let reads = (command.kind == Kind::Read) != is_in(OTHERWISE);
    let does = match command.kind {
        Kind::Write => Some("@write"),
        Kind::Read | Kind::Plain => reads.then_some("@read"),
    };
    let subjects = SUBJECTS.iter().filter(|(_, names)| is_in(names)).map(|(category, _)| *category);
    let pace = if is_in(FAST) { "@fast" } else { "@slow" };
    does.into_iter().chain(subjects).chain([pace]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::COMMANDS;
    use super::*;

    #[test]
    fn every_name_is_one_of_a_command() {
        let named = SUBJECTS.iter().flat_map(|(_, names)| names.split(' '));
        for name in named.chain(FAST.split(' ')).chain(OTHERWISE.split(' ')) {
            assert!(COMMANDS.iter().any(|command| command.name == name), "{name:?}");
        }
    }
}
