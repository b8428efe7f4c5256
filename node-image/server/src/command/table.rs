//! Every command: its name, its arity, where its keys are, what it does to the state, and its handler.

use super::call::{Call, Done, Refusal, parse_integer, wrong_arguments};
use super::{
    cluster, connection, dump, expiry, hashes, info, keys, lists, object, reads, sets, sort, sorted_sets, strings, subsequence, transaction,
};
use bytes::Bytes;
use hashbrown::HashMap;
use std::sync::LazyLock;

/// What a command does to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// Reads it.
    Read,
    /// May change it.
    Write,
}

/// Where a command's keys are among its arguments, the name being 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) first: usize,
    /// From the end if negative: -1 is the last argument.
    pub(super) last: isize,
    pub(super) step: usize,
    /// Which argument says how many more keys follow it; 0 for none.
    pub(super) count: usize,
    /// The last argument behind the word STORE is a key too.
    pub(super) store: bool,
}

impl Keys {
    const NONE: Self = Self {
        first: 0,
        last: 0,
        step: 0,
        count: 0,
        store: false,
    };
    const ONE: Self = Self {
        first: 1,
        last: 1,
        step: 1,
        ..Self::NONE
    };
    const TWO: Self = Self {
        first: 1,
        last: 2,
        step: 1,
        ..Self::NONE
    };
    const ALL: Self = Self {
        first: 1,
        last: -1,
        step: 1,
        ..Self::NONE
    };
    const PAIRS: Self = Self {
        first: 1,
        last: -1,
        step: 2,
        ..Self::NONE
    };
    const SECOND: Self = Self {
        first: 2,
        last: 2,
        step: 1,
        ..Self::NONE
    };

    /// `numkeys key …`
    const COUNTED: Self = Self { count: 1, ..Self::NONE };
    /// `destination numkeys key …`
    const COUNTED_AFTER_ONE: Self = Self { count: 2, ..Self::ONE };
    /// `key … STORE destination`
    const ONE_AND_STORE: Self = Self { store: true, ..Self::ONE };

    /// Positions of the keys; None for a command without keys. None are found where their number cannot be right.
    pub(super) fn positions(self, args: &[Bytes]) -> Option<impl Iterator<Item = usize>> {
        if (self.first == 0 && self.count == 0) || self.first.max(self.count) >= args.len() {
            return None;
        }
        let last = if self.last < 0 {
            args.len().saturating_add_signed(self.last)
        } else {
            self.last.unsigned_abs().min(args.len() - 1)
        };
        let (mut fixed, mut more) = (if self.first == 0 { 0..0 } else { self.first..last + 1 }, 0..0);
        if self.count > 0 {
            let number = parse_integer(&args[self.count]).and_then(|number| usize::try_from(number).ok());
            match number.filter(|number| *number < args.len() - self.count) {
                Some(number) => more = self.count + 1..self.count + 1 + number,
                // The command will say so, whatever its other keys are.
                None => fixed = 0..0,
            }
        } else if self.store
            && let Some(at) = (2..args.len() - 1).rev().find(|at| args[*at].eq_ignore_ascii_case(b"store"))
        {
            more = at + 1..at + 2;
        }
        Some(fixed.step_by(self.step.max(1)).chain(more))
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Number of arguments with the name; at least so many if negative.
    pub(super) arity: isize,
    pub(super) kind: Kind,
    pub(super) keys: Keys,
    /// It may need memory.
    pub(super) grows: bool,
    /// Allowed before authentication.
    pub(super) before_auth: bool,
    /// Runs at once inside MULTI.
    pub(super) ends_queueing: bool,
    /// Refused inside MULTI.
    pub(super) outside_transactions: bool,
    pub(super) run: fn(&mut Call<'_, '_>) -> Done,
}

impl Command {
    /// Whether it may have so many arguments, its name included.
    pub(super) fn takes(&self, arguments: usize) -> bool {
        if self.arity < 0 {
            arguments >= self.arity.unsigned_abs()
        } else {
            arguments == self.arity.unsigned_abs()
        }
    }
}

const fn plain(name: &'static str, arity: isize, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        name,
        arity,
        kind: Kind::Plain,
        keys: Keys::NONE,
        grows: false,
        before_auth: false,
        ends_queueing: false,
        outside_transactions: false,
        run,
    }
}

const fn before_auth(name: &'static str, arity: isize, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        before_auth: true,
        ..plain(name, arity, run)
    }
}

const fn control(name: &'static str, arity: isize, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        ends_queueing: true,
        ..plain(name, arity, run)
    }
}

const fn read(name: &'static str, arity: isize, keys: Keys, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        kind: Kind::Read,
        keys,
        ..plain(name, arity, run)
    }
}

const fn write(name: &'static str, arity: isize, keys: Keys, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        kind: Kind::Write,
        keys,
        ..plain(name, arity, run)
    }
}

const fn growing(name: &'static str, arity: isize, keys: Keys, run: fn(&mut Call<'_, '_>) -> Done) -> Command {
    Command {
        grows: true,
        ..write(name, arity, keys, run)
    }
}

/// All commands.
pub(super) static COMMANDS: &[Command] = &[
    // connection
    before_auth("auth", -2, connection::auth),
    before_auth("hello", -1, connection::hello),
    Command {
        ends_queueing: true,
        ..before_auth("quit", -1, connection::quit)
    },
    Command {
        ends_queueing: true,
        ..before_auth("reset", 1, connection::reset)
    },
    plain("ping", -1, connection::ping),
    plain("echo", 2, connection::echo),
    plain("select", 2, connection::select),
    plain("client", -2, connection::client),
    plain("readonly", 1, reads::readonly),
    plain("readwrite", 1, reads::readwrite),
    plain("qr.read", -2, reads::read),
    plain("asking", 1, connection::asking),
    // server
    plain("command", -1, info::command),
    plain("info", -1, info::info),
    plain("config", -2, info::config),
    plain("time", 1, info::time),
    plain("lolwut", -1, info::lolwut),
    plain("acl", -2, info::acl),
    plain("latency", -2, info::empty_list),
    plain("slowlog", -2, info::slowlog),
    plain("module", -2, info::empty_list),
    plain("function", -2, info::function),
    plain("debug", -2, info::refuse_debug),
    plain("wait", 3, info::wait),
    plain("waitaof", 4, info::wait_aof),
    read("dbsize", 1, Keys::NONE, keys::dbsize),
    read("memory", -2, Keys::SECOND, object::memory),
    read("object", -2, Keys::SECOND, object::object),
    write("flushall", -1, Keys::NONE, keys::flushall),
    write("flushdb", -1, Keys::NONE, keys::flushall),
    // cluster; the operator owns topology
    plain("cluster", -2, cluster::cluster),
    plain("psync", -1, cluster::refuse),
    plain("sync", -1, cluster::refuse),
    plain("replicaof", -1, cluster::refuse),
    plain("slaveof", -1, cluster::refuse),
    plain("failover", -1, cluster::refuse),
    plain("migrate", -1, cluster::refuse),
    plain("restore-asking", -1, cluster::refuse),
    plain("shutdown", -1, cluster::refuse),
    // strings
    read("get", 2, Keys::ONE, strings::get),
    growing("set", -3, Keys::ONE, strings::set),
    growing("setnx", 3, Keys::ONE, strings::setnx),
    growing("setex", 4, Keys::ONE, strings::setex),
    growing("psetex", 4, Keys::ONE, strings::psetex),
    growing("getset", 3, Keys::ONE, strings::getset),
    write("getdel", 2, Keys::ONE, strings::getdel),
    write("getex", -2, Keys::ONE, strings::getex),
    read("mget", -2, Keys::ALL, strings::mget),
    growing("mset", -3, Keys::PAIRS, strings::mset),
    growing("msetnx", -3, Keys::PAIRS, strings::msetnx),
    growing("append", 3, Keys::ONE, strings::append),
    read("strlen", 2, Keys::ONE, strings::strlen),
    read("getrange", 4, Keys::ONE, strings::getrange),
    read("substr", 4, Keys::ONE, strings::getrange),
    growing("setrange", 4, Keys::ONE, strings::setrange),
    growing("incr", 2, Keys::ONE, strings::incr),
    growing("decr", 2, Keys::ONE, strings::decr),
    growing("incrby", 3, Keys::ONE, strings::incrby),
    growing("decrby", 3, Keys::ONE, strings::decrby),
    growing("incrbyfloat", 3, Keys::ONE, strings::incrbyfloat),
    read("lcs", -3, Keys::TWO, subsequence::lcs),
    // hashes
    growing("hset", -4, Keys::ONE, hashes::hset),
    growing("hsetnx", 4, Keys::ONE, hashes::hsetnx),
    growing("hmset", -4, Keys::ONE, hashes::hmset),
    growing("hincrby", 4, Keys::ONE, hashes::hincrby),
    growing("hincrbyfloat", 4, Keys::ONE, hashes::hincrbyfloat),
    write("hdel", -3, Keys::ONE, hashes::hdel),
    read("hget", 3, Keys::ONE, hashes::hget),
    read("hmget", -3, Keys::ONE, hashes::hmget),
    read("hgetall", 2, Keys::ONE, hashes::hgetall),
    read("hkeys", 2, Keys::ONE, hashes::hkeys),
    read("hvals", 2, Keys::ONE, hashes::hvals),
    read("hlen", 2, Keys::ONE, hashes::hlen),
    read("hstrlen", 3, Keys::ONE, hashes::hstrlen),
    read("hexists", 3, Keys::ONE, hashes::hexists),
    read("hrandfield", -2, Keys::ONE, hashes::hrandfield),
    read("hscan", -3, Keys::ONE, hashes::hscan),
    // sets
    growing("sadd", -3, Keys::ONE, sets::sadd),
    write("srem", -3, Keys::ONE, sets::srem),
    write("smove", 4, Keys::TWO, sets::smove),
    write("spop", -2, Keys::ONE, sets::spop),
    growing("sinterstore", -3, Keys::ALL, sets::sinterstore),
    growing("sunionstore", -3, Keys::ALL, sets::sunionstore),
    growing("sdiffstore", -3, Keys::ALL, sets::sdiffstore),
    read("scard", 2, Keys::ONE, sets::scard),
    read("sismember", 3, Keys::ONE, sets::sismember),
    read("smismember", -3, Keys::ONE, sets::smismember),
    read("smembers", 2, Keys::ONE, sets::smembers),
    read("srandmember", -2, Keys::ONE, sets::srandmember),
    read("sscan", -3, Keys::ONE, sets::sscan),
    read("sinter", -2, Keys::ALL, sets::sinter),
    read("sunion", -2, Keys::ALL, sets::sunion),
    read("sdiff", -2, Keys::ALL, sets::sdiff),
    read("sintercard", -3, Keys::COUNTED, sets::sintercard),
    // sorted sets
    growing("zadd", -4, Keys::ONE, sorted_sets::zadd),
    growing("zincrby", 4, Keys::ONE, sorted_sets::zincrby),
    write("zrem", -3, Keys::ONE, sorted_sets::zrem),
    write("zremrangebyrank", 4, Keys::ONE, sorted_sets::zremrangebyrank),
    write("zremrangebyscore", 4, Keys::ONE, sorted_sets::zremrangebyscore),
    write("zremrangebylex", 4, Keys::ONE, sorted_sets::zremrangebylex),
    write("zpopmin", -2, Keys::ONE, sorted_sets::zpopmin),
    write("zpopmax", -2, Keys::ONE, sorted_sets::zpopmax),
    write("zmpop", -4, Keys::COUNTED, sorted_sets::zmpop),
    growing("zrangestore", -5, Keys::TWO, sorted_sets::zrangestore),
    growing("zunionstore", -4, Keys::COUNTED_AFTER_ONE, sorted_sets::zunionstore),
    growing("zinterstore", -4, Keys::COUNTED_AFTER_ONE, sorted_sets::zinterstore),
    growing("zdiffstore", -4, Keys::COUNTED_AFTER_ONE, sorted_sets::zdiffstore),
    read("zunion", -3, Keys::COUNTED, sorted_sets::zunion),
    read("zinter", -3, Keys::COUNTED, sorted_sets::zinter),
    read("zdiff", -3, Keys::COUNTED, sorted_sets::zdiff),
    read("zintercard", -3, Keys::COUNTED, sorted_sets::zintercard),
    read("zcard", 2, Keys::ONE, sorted_sets::zcard),
    read("zcount", 4, Keys::ONE, sorted_sets::zcount),
    read("zlexcount", 4, Keys::ONE, sorted_sets::zlexcount),
    read("zscore", 3, Keys::ONE, sorted_sets::zscore),
    read("zmscore", -3, Keys::ONE, sorted_sets::zmscore),
    read("zrank", -3, Keys::ONE, sorted_sets::zrank),
    read("zrevrank", -3, Keys::ONE, sorted_sets::zrevrank),
    read("zrange", -4, Keys::ONE, sorted_sets::zrange),
    read("zrevrange", -4, Keys::ONE, sorted_sets::zrevrange),
    read("zrangebyscore", -4, Keys::ONE, sorted_sets::zrangebyscore),
    read("zrevrangebyscore", -4, Keys::ONE, sorted_sets::zrevrangebyscore),
    read("zrangebylex", -4, Keys::ONE, sorted_sets::zrangebylex),
    read("zrevrangebylex", -4, Keys::ONE, sorted_sets::zrevrangebylex),
    read("zrandmember", -2, Keys::ONE, sorted_sets::zrandmember),
    read("zscan", -3, Keys::ONE, sorted_sets::zscan),
    // lists
    growing("lpush", -3, Keys::ONE, lists::lpush),
    growing("rpush", -3, Keys::ONE, lists::rpush),
    growing("lpushx", -3, Keys::ONE, lists::lpushx),
    growing("rpushx", -3, Keys::ONE, lists::rpushx),
    growing("linsert", 5, Keys::ONE, lists::linsert),
    growing("lset", 4, Keys::ONE, lists::lset),
    growing("lmove", 5, Keys::TWO, lists::lmove),
    growing("rpoplpush", 3, Keys::TWO, lists::rpoplpush),
    write("lpop", -2, Keys::ONE, lists::lpop),
    write("rpop", -2, Keys::ONE, lists::rpop),
    write("lmpop", -4, Keys::COUNTED, lists::lmpop),
    write("lrem", 4, Keys::ONE, lists::lrem),
    write("ltrim", 4, Keys::ONE, lists::ltrim),
    read("llen", 2, Keys::ONE, lists::llen),
    read("lindex", 3, Keys::ONE, lists::lindex),
    read("lrange", 4, Keys::ONE, lists::lrange),
    read("lpos", -3, Keys::ONE, lists::lpos),
    // keys
    growing("sort", -2, Keys::ONE_AND_STORE, sort::sort),
    read("sort_ro", -2, Keys::ONE, sort::sort),
    read("dump", 2, Keys::ONE, dump::dump),
    growing("restore", -4, Keys::ONE, dump::restore),
    write("del", -2, Keys::ALL, keys::del),
    write("unlink", -2, Keys::ALL, keys::del),
    read("exists", -2, Keys::ALL, keys::exists),
    read("touch", -2, Keys::ALL, keys::exists),
    read("type", 2, Keys::ONE, keys::type_of),
    read("keys", 2, Keys::NONE, keys::keys),
    read("randomkey", 1, Keys::NONE, keys::randomkey),
    read("scan", -2, Keys::NONE, keys::scan),
    write("rename", 3, Keys::TWO, keys::rename),
    write("renamenx", 3, Keys::TWO, keys::renamenx),
    growing("copy", -3, Keys::TWO, keys::copy),
    // expiry
    write("expire", -3, Keys::ONE, expiry::expire),
    write("pexpire", -3, Keys::ONE, expiry::pexpire),
    write("expireat", -3, Keys::ONE, expiry::expireat),
    write("pexpireat", -3, Keys::ONE, expiry::pexpireat),
    write("persist", 2, Keys::ONE, expiry::persist),
    read("ttl", 2, Keys::ONE, expiry::ttl),
    read("pttl", 2, Keys::ONE, expiry::pttl),
    read("expiretime", 2, Keys::ONE, expiry::expiretime),
    read("pexpiretime", 2, Keys::ONE, expiry::pexpiretime),
    // transactions
    Command {
        outside_transactions: true,
        ..plain("multi", 1, transaction::multi)
    },
    control("exec", 1, transaction::exec),
    control("discard", 1, transaction::discard),
    Command {
        outside_transactions: true,
        ..read("watch", -2, Keys::ALL, transaction::watch)
    },
    plain("unwatch", 1, transaction::unwatch),
];

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Command>> =
    LazyLock::new(|| COMMANDS.iter().map(|command| (command.name.as_bytes(), command)).collect());

/// The longest name, and one more.
const NAME_LEN: usize = 16;

/// A command by name, in whatever case.
pub(super) fn by_name(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0u8; NAME_LEN];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

/// The command of these arguments, its arity checked.
pub(super) fn find(args: &[Bytes]) -> Result<&'static Command, Refusal> {
    let Some(command) = by_name(&args[0]) else {
        return Err(unknown(args).into());
    };
    if command.takes(args.len()) {
        Ok(command)
    } else {
        Err(wrong_arguments(command.name))
    }
}

fn unknown(args: &[Bytes]) -> String {
    let shown = |arg: &Bytes| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(&args[0]));
    for arg in &args[1..] {
        if text.len() > 256 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(arg)));
    }
    text
}
