//! Random commands against a node and against a real Valkey: the same replies, byte for byte of what they mean.
//!
//! A run prints its seed; `QUORATE_SEED` replays it, `QUORATE_COMMANDS` sets how many commands it has.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "conformance/described.rs"]
mod described;
#[path = "conformance/types.rs"]
mod types;

use common::{PATIENCE, eventually, options};
use quorate_e2e::local::LocalCluster;
use quorate_e2e::local::packages::VALKEY;
use quorate_e2e::local::process::{Process, Spec, free_ports, loopback};
use quorate_e2e::local::resp::write_command;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

/// Times differ by what passes between the two servers.
const TIME_COMMANDS: [&str; 4] = ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"];
const TIME_TOLERANCE_MILLIS: i64 = 3000;

/// A reply as text: types as their first byte, aggregates in brackets.
type Reply = String;

struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn ask(&mut self, args: &[Vec<u8>]) -> Reply {
        let mut bytes = Vec::new();
        write_command(&mut bytes, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
        self.raw(&bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> Reply {
        self.stream.get_mut().write_all(bytes).unwrap();
        self.reply()
    }

    fn words(&mut self, line: &str) -> Reply {
        self.ask(&words(line))
    }

    fn reply(&mut self) -> Reply {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (kind, rest) = text.split_at(1);
        match kind {
            "$" | "=" | "!" if rest != "-1" => {
                let mut body = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut body).unwrap();
                body.truncate(body.len() - 2);
                format!("{kind}{}", body.escape_ascii())
            }
            "*" | "~" | ">" | "%" if rest != "-1" => {
                let count = rest.parse::<usize>().unwrap() * if kind == "%" { 2 } else { 1 };
                let items: Vec<Reply> = (0..count).map(|_| self.reply()).collect();
                format!("{kind}[{}]", items.join(" "))
            }
            _ => text,
        }
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Valkey as a cluster of one, and a store of one replica.
struct Both {
    valkey: SocketAddr,
    ours: SocketAddr,
    _process: Process,
    _cluster: LocalCluster,
    _folder: tempfile::TempDir,
}

fn both() -> Option<Both> {
    let cache = std::env::var_os("QUORATE_CACHE").map_or_else(|| PathBuf::from("/var/cache/quorate"), PathBuf::from);
    let package = match VALKEY.fetch(&cache) {
        Ok(package) => package,
        Err(reason) => {
            eprintln!("SKIPPED the comparison with Valkey: {reason:#}");
            return None;
        }
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [port] = free_ports::<1>().unwrap();
    let arguments = format!("--port {port} --bind 127.0.0.1 --cluster-enabled yes --appendonly no --dir");
    let mut process = Process::start(Spec {
        name: "valkey".into(),
        program: package.program.clone(),
        args: arguments
            .split(' ')
            .map(Into::into)
            .chain([folder.path().into(), "--save".into(), "".into()])
            .collect(),
        env: vec![("LD_LIBRARY_PATH".into(), package.libraries.into())],
        log: folder.path().join("valkey.log"),
    })
    .unwrap();
    let valkey = loopback(port);
    process.await_port(valkey, std::time::Instant::now() + PATIENCE).unwrap();
    let mut connection = Connection::open(valkey);
    assert_eq!(connection.words("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
    eventually("Valkey serves", || Ok(connection.words("SET k v") == "+OK"));
    connection.words("FLUSHALL");
    let mut one = options(&[]);
    (one.replicas, one.write_quorum, one.read_quorum) = (1, 1, 1);
    let cluster = LocalCluster::start(one).unwrap();
    Some(Both {
        valkey,
        ours: cluster.nodes()[0].client,
        _process: process,
        _cluster: cluster,
        _folder: folder,
    })
}

fn pick<'a>(rng: &mut SmallRng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

fn key(rng: &mut SmallRng) -> String {
    // Seldom one of another slot, which is refused beside the others.
    if rng.random_range(0..60) == 0 {
        "elsewhere".into()
    } else {
        format!("{{t}}{}", rng.random_range(0..6))
    }
}

fn value(rng: &mut SmallRng) -> String {
    match rng.random_range(0..8) {
        0..3 => rng.random_range(-20i64..20).to_string(),
        3 => pick(
            rng,
            &[
                "9223372036854775807",
                "-9223372036854775808",
                "9223372036854775808",
                "+1",
                " 1",
                "1 ",
                "-0",
                "00",
                "nan",
                "inf",
                "",
            ],
        )
        .into(),
        4 => format!("{:.3}", f64::from(rng.random_range(-5000i32..5000)) / 1000.0),
        _ => "text".repeat(rng.random_range(0..20)),
    }
}

fn time(rng: &mut SmallRng) -> String {
    // Long ones, so that nothing expires while the two run apart; and all that are refused.
    pick(
        rng,
        &[
            "100000000",
            "100000000",
            "200000000",
            "100000",
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "x",
            "1.5",
            "",
        ],
    )
    .into()
}

fn unix_time(rng: &mut SmallRng, millis: bool) -> String {
    let far = if millis { "4000000000000" } else { "4000000000" };
    pick(rng, &[far, far, "1", "0", "-5", "9223372036854775807", "x"]).into()
}

/// One command of tier 0 or 1, well or badly formed.
fn command(rng: &mut SmallRng) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let name = pick(
        rng,
        &[
            "GET",
            "SET",
            "SET",
            "SET",
            "SETNX",
            "SETEX",
            "PSETEX",
            "GETSET",
            "GETDEL",
            "GETEX",
            "MGET",
            "MSET",
            "MSETNX",
            "APPEND",
            "STRLEN",
            "GETRANGE",
            "SUBSTR",
            "SETRANGE",
            "INCR",
            "DECR",
            "INCRBY",
            "DECRBY",
            "INCRBYFLOAT",
            "DEL",
            "UNLINK",
            "EXISTS",
            "TOUCH",
            "TYPE",
            "RENAME",
            "RENAMENX",
            "COPY",
            "EXPIRE",
            "PEXPIRE",
            "EXPIREAT",
            "PEXPIREAT",
            "PERSIST",
            "TTL",
            "PTTL",
            "EXPIRETIME",
            "PEXPIRETIME",
            "DBSIZE",
            "PING",
            "ECHO",
            "SELECT",
            "MULTI",
            "EXEC",
            "EXEC",
            "DISCARD",
            "WATCH",
            "UNWATCH",
            "OBJECT",
            "CLUSTER",
            "NOSUCH",
            "FLUSHALL",
            "KEYS",
            "SCAN",
            "CLIENT",
            "TIME",
            "COMMAND",
            "READONLY",
            "READWRITE",
            "RESET",
            "WAIT",
            "CONFIG",
        ],
    );
    args.push(if rng.random_range(0..4) == 0 {
        name.to_ascii_lowercase()
    } else {
        name.into()
    });
    match name {
        "GET" | "GETDEL" | "STRLEN" | "INCR" | "DECR" | "TYPE" | "PERSIST" | "TTL" | "PTTL" | "EXPIRETIME" | "PEXPIRETIME" => {
            args.push(key(rng));
        }
        "SET" => {
            args.extend([key(rng), value(rng)]);
            for _ in 0..[0, 0, 1, 1, 2, 3][rng.random_range(0..6usize)] {
                let option = pick(rng, &["NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT", "nx", "BAD"]);
                args.push(option.into());
                match option {
                    "EX" | "PX" => args.push(time(rng)),
                    "EXAT" | "PXAT" => args.push(unix_time(rng, option == "PXAT")),
                    _ => {}
                }
            }
        }
        // With fractions Valkey's long double rounds large numbers; ours are exact.
        "INCRBYFLOAT" => args.extend([key(rng), pick(rng, &["7", "-64", "100", "nan", "inf", "", "x"]).into()]),
        "APPEND" => args.extend([key(rng), pick(rng, &["text", "-", ""]).into()]),
        "SETNX" | "GETSET" | "INCRBY" | "DECRBY" => args.extend([key(rng), value(rng)]),
        "SETEX" | "PSETEX" => args.extend([key(rng), time(rng), value(rng)]),
        "GETEX" => {
            args.push(key(rng));
            let option = pick(rng, &["", "PERSIST", "EX", "PX", "EXAT", "PXAT", "BAD"]);
            if !option.is_empty() {
                args.push(option.into());
            }
            match option {
                "EX" | "PX" => args.push(time(rng)),
                "EXAT" | "PXAT" => args.push(unix_time(rng, option == "PXAT")),
                _ => {}
            }
        }
        "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" | "WATCH" => {
            for _ in 0..rng.random_range(1..4) {
                args.push(key(rng));
            }
        }
        "MSET" | "MSETNX" => {
            for _ in 0..rng.random_range(1..4) {
                args.extend([key(rng), value(rng)]);
            }
        }
        "GETRANGE" | "SUBSTR" => {
            let ends = [rng.random_range(-30i64..30).to_string(), rng.random_range(-30i64..30).to_string()];
            args.push(key(rng));
            args.extend(ends);
        }
        "SETRANGE" => args.extend([key(rng), pick(rng, &["0", "1", "5", "40", "-1", "x"]).into(), value(rng)]),
        "RENAME" | "RENAMENX" => args.extend([key(rng), key(rng)]),
        "COPY" => {
            args.extend([key(rng), key(rng)]);
            for _ in 0..rng.random_range(0..2) {
                args.extend(
                    words(pick(rng, &["REPLACE", "DB 0", "BAD"]))
                        .into_iter()
                        .map(|word| String::from_utf8(word).unwrap()),
                );
            }
        }
        "EXPIRE" | "PEXPIRE" => args.extend([key(rng), time(rng)]),
        "EXPIREAT" | "PEXPIREAT" => args.extend([key(rng), unix_time(rng, name == "PEXPIREAT")]),
        "ECHO" => args.push(value(rng)),
        "SELECT" => args.push(pick(rng, &["0", "0", "x"]).into()),
        "OBJECT" => args.extend([pick(rng, &["BAD"]).into(), key(rng)]),
        "CLUSTER" => args.extend(["KEYSLOT".into(), value(rng)]),
        "KEYS" => args.push(pick(rng, &["*", "{t}[0-3]", "nothing*", "?t?1", "{t}[^1]"]).into()),
        "SCAN" => args.extend(["0".into(), "COUNT".into(), pick(rng, &["1000", "0", "x"]).into()]),
        "CLIENT" => args.extend(
            words(pick(rng, &["GETNAME", "SETNAME name", "SETNAME", "NOSUCH", "REPLY ON"]))
                .into_iter()
                .map(|word| String::from_utf8(word).unwrap()),
        ),
        "COMMAND" => args.extend(
            words(pick(
                rng,
                &["GETKEYS GET a", "GETKEYS MSET a 1 b 2", "GETKEYS PING", "GETKEYS NOSUCH"],
            ))
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap()),
        ),
        "CONFIG" => args.extend(
            words(pick(rng, &["GET appendfsyn?", "GET nothing", "GET", "NOSUCH"]))
                .into_iter()
                .map(|word| String::from_utf8(word).unwrap()),
        ),
        "WAIT" => args.extend(
            words(pick(rng, &["0 0", "x 0", "0 -1", "0 x"]))
                .into_iter()
                .map(|word| String::from_utf8(word).unwrap()),
        ),
        "PING" if rng.random() => args.push(value(rng)),
        _ => {}
    }
    if matches!(name, "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT") {
        for _ in 0..[0, 0, 1, 2][rng.random_range(0..4usize)] {
            args.push(pick(rng, &["NX", "XX", "GT", "LT", "gt", "BAD"]).into());
        }
    }
    // Now and then one argument too many or too few.
    match rng.random_range(0..40) {
        0 => args.push("extra".into()),
        1 => args.truncate(args.len().max(2) - 1),
        _ => {}
    }
    args
}

/// What the two may differ in.
fn normal(name: &str, reply: Reply) -> Reply {
    match name {
        // The order of keys is nobody's business.
        "KEYS" | "SCAN" => {
            let plain = reply.replace(['[', ']'], " ");
            let mut words: Vec<&str> = plain.split(' ').collect();
            words.sort_unstable();
            words.join(" ")
        }
        "TIME" if reply.starts_with("*[") => "a time".into(),
        // One has a disk and replicas, the other has none.
        "CONFIG" if reply.contains("appendfsync") => "appendfsync".into(),
        _ => reply,
    }
}

fn same(name: &str, a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let number = |text: &str| text.strip_prefix(':').and_then(|digits| digits.parse::<i64>().ok());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => TIME_COMMANDS.contains(&name) && a > 0 && b > 0 && (a - b).abs() <= TIME_TOLERANCE_MILLIS,
        _ => false,
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Chance, of the seed that is asked for or printed here.
fn seeded() -> SmallRng {
    let seed = setting("QUORATE_SEED").unwrap_or_else(|| rand::rng().next_u64());
    println!("QUORATE_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

fn ensure_none(differences: &[String]) {
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn random_commands_have_the_replies_of_valkey() {
    let Some(both) = both() else { return };
    let mut rng = seeded();
    let mut differences = Vec::new();
    let mut history: Vec<String> = Vec::new();
    let (mut theirs, mut ours) = (Connection::open(both.valkey), Connection::open(both.ours));
    let (mut queued, mut timed) = (false, false);
    for number in 0..setting("QUORATE_COMMANDS").unwrap_or(20_000) {
        if number % 500 == 0 {
            (theirs, ours) = (Connection::open(both.valkey), Connection::open(both.ours));
            let version = if number % 1000 == 0 { "HELLO 2" } else { "HELLO 3" };
            theirs.words(version);
            ours.words(version);
            (queued, timed) = (false, false);
        }
        let args = command(&mut rng);
        let name = args[0].to_ascii_uppercase();
        // Times inside a transaction would come back inside its reply, where nobody looks for them.
        // And a bad subcommand is found when it runs, not when it is queued.
        let container = matches!(&*name, "CLIENT" | "CLUSTER" | "COMMAND" | "CONFIG" | "OBJECT");
        if queued && (container || TIME_COMMANDS.contains(&&*name) || matches!(&*name, "KEYS" | "SCAN" | "TIME")) {
            continue;
        }
        let bytes: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let (a, b) = (normal(&name, theirs.ask(&bytes)), normal(&name, ours.ask(&bytes)));
        history.push(format!("{args:?} -> {a}"));
        queued = match (&*name, &*a) {
            ("MULTI", "+OK") => true,
            ("EXEC", _) | ("DISCARD", "+OK") | ("RESET", "+RESET") => false,
            _ => queued,
        };
        timed |= queued;
        if !same(&name, &a, &b) {
            let before = history[history.len().saturating_sub(4)..].join("\n    ");
            differences.push(format!("{args:?}\n  Valkey: {a}\n  ours:   {b}\n  before:\n    {before}"));
            if differences.len() >= 20 {
                break;
            }
        }
    }
    assert!(timed, "no transaction was tried");
    ensure_none(&differences);
}

/// Words in order, without the brackets around them.
fn without_order(reply: &str) -> String {
    let plain = reply.replace(['[', ']'], " ");
    let mut words: Vec<&str> = plain.split(' ').collect();
    words.sort_unstable();
    words.join(" ")
}

#[test]
fn random_commands_on_collections_have_the_replies_of_valkey() {
    let Some(both) = both() else { return };
    let mut rng = seeded();
    let mut differences = Vec::new();
    let (mut theirs, mut ours) = (Connection::open(both.valkey), Connection::open(both.ours));
    let (mut failed, mut commands) = (0, 0);
    let mut history: Vec<Vec<String>> = Vec::new();
    for number in 0..setting("QUORATE_COMMANDS").unwrap_or(30_000) {
        if number % 1000 == 0 {
            // Keys that changed their types would be refused more and more.
            theirs.words("FLUSHALL");
            ours.words("FLUSHALL");
            let version = if number % 2000 == 0 { "HELLO 2" } else { "HELLO 3" };
            theirs.words(version);
            ours.words(version);
        }
        let args = types::command(&mut rng);
        let bytes: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let (mut a, mut b) = (types::with_one_zero(&theirs.ask(&bytes)), ours.ask(&bytes));
        if types::has_no_order(&args) {
            (a, b) = (without_order(&a), without_order(&b));
        }
        commands += 1;
        failed += u64::from(a.starts_with('-'));
        if a != b {
            let short = |text: &str| text.chars().take(600).collect::<String>();
            let about_the_same = |before: &&Vec<String>| before.iter().any(|word| word.starts_with("{t}") && args.contains(word));
            let before: Vec<String> = history
                .iter()
                .rev()
                .filter(about_the_same)
                .take(8)
                .map(|args| short(&args.join(" ")))
                .collect();
            differences.push(format!(
                "{}\n  Valkey: {}\n  ours:   {}\n  before, the last first:\n    {}",
                short(&format!("{args:?}")),
                short(&a),
                short(&b),
                before.join("\n    ")
            ));
            if differences.len() >= 20 {
                break;
            }
            // One difference in the state would show again and again.
            theirs.words("FLUSHALL");
            ours.words("FLUSHALL");
        }
        history.push(args);
    }
    println!("{commands} commands, {failed} of them refused");
    assert!(failed < commands / 2 || commands < 100, "most are well formed");
    ensure_none(&differences);
}
