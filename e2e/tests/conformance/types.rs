//! Random commands on hashes, sets, sorted sets and lists, and on keys whatever they hold; well or badly formed.

use rand::RngExt;
use rand::rngs::SmallRng;

fn pick<'a>(rng: &mut SmallRng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

/// Mostly a key of the wanted type. `y` are sorted sets whose scores are all the same, and `w` weights: for both, what another
/// type would lead to is undefined.
fn key(rng: &mut SmallRng, kind: &str) -> String {
    let kind = if !matches!(kind, "y" | "w") && rng.random_range(0..25) == 0 {
        pick(rng, &["h", "s", "z", "l", "text", "none"])
    } else {
        kind
    };
    format!("{{t}}{kind}{}", rng.random_range(0..3))
}

/// Small collections stay small; `0` of each type has many elements, some of them long.
fn element(rng: &mut SmallRng, key: &str) -> String {
    if !key.ends_with('0') {
        return pick(rng, &["a", "b", "c", "1", "2", "-7", "", "text", "1.5"]).into();
    }
    let number = rng.random_range(0..600);
    match number % 40 {
        0 => format!("{number}").repeat(60),
        1 => format!("{number}").repeat(400),
        _ => number.to_string(),
    }
}

fn score(rng: &mut SmallRng) -> String {
    match rng.random_range(0..12) {
        // Not one that takes 17 digits: with those ZSCAN of Valkey writes it, other commands with as few as it needs.
        0 => pick(rng, &["inf", "-inf", "nan", "x", "", "1e3", "+inf", "1e22"]).into(),
        1..4 => format!("{:.1}", f64::from(rng.random_range(-50i32..50)) / 2.0),
        _ => rng.random_range(-5i64..15).to_string(),
    }
}

fn score_end(rng: &mut SmallRng) -> String {
    let open = if rng.random_range(0..4) == 0 { "(" } else { "" };
    format!("{open}{}", score(rng))
}

fn name_end(rng: &mut SmallRng, key: &str) -> String {
    match rng.random_range(0..6) {
        0 => pick(rng, &["-", "+", "x", "", "(", "["]).into(),
        1..3 => format!("({}", element(rng, key)),
        _ => format!("[{}", element(rng, key)),
    }
}

fn index(rng: &mut SmallRng) -> String {
    match rng.random_range(0..12) {
        0 => pick(rng, &["x", "", "1.5", "9223372036854775807", "-9223372036854775808"]).into(),
        1 => rng.random_range(-700i64..700).to_string(),
        _ => rng.random_range(-8i64..8).to_string(),
    }
}

fn count(rng: &mut SmallRng) -> String {
    pick(rng, &["0", "1", "2", "5", "100", "-1", "x", "", "9223372036854775807"]).into()
}

fn keys_with_number(rng: &mut SmallRng, kinds: &[&str]) -> Vec<String> {
    let number = rng.random_range(1..4);
    let keys: Vec<String> = (0..number)
        .map(|_| {
            let kind = pick(rng, kinds);
            key(rng, kind)
        })
        .collect();
    let said = match rng.random_range(0..20) {
        0 => pick(rng, &["0", "-1", "x", "9"]).into(),
        _ => number.to_string(),
    };
    [vec![said], keys].concat()
}

fn hash(rng: &mut SmallRng, name: &str) -> Vec<String> {
    let key = key(rng, "h");
    let mut args = vec![key.clone()];
    match name {
        "HSET" | "HMSET" => {
            for _ in 0..rng.random_range(1..5) {
                args.extend([element(rng, &key), element(rng, &key)]);
            }
        }
        "HSETNX" => args.extend([element(rng, &key), element(rng, &key)]),
        "HGET" | "HEXISTS" | "HSTRLEN" => args.push(element(rng, &key)),
        "HDEL" | "HMGET" => {
            for _ in 0..rng.random_range(1..5) {
                args.push(element(rng, &key));
            }
        }
        "HINCRBY" => args.extend([element(rng, &key), index(rng)]),
        "HINCRBYFLOAT" => args.extend([
            pick(rng, &["a", "b", "1"]).into(),
            pick(rng, &["0.5", "-2", "x", "nan", "inf", "3"]).into(),
        ]),
        "HRANDFIELD" => {
            args.push(pick(rng, &["1000", "0", "x"]).into());
            if rng.random() {
                args.push(pick(rng, &["WITHVALUES", "BAD"]).into());
            }
        }
        "HSCAN" => {
            args.push(pick(rng, &["0", "x"]).into());
            args.extend(["COUNT".into(), pick(rng, &["2000", "0", "x"]).into()]);
            if rng.random() {
                args.extend(["MATCH".into(), pick(rng, &["*1*", "a", "[0-4]*"]).into()]);
            }
            if rng.random_range(0..3) == 0 {
                args.push("NOVALUES".into());
            }
        }
        _ => {}
    }
    args
}

fn set(rng: &mut SmallRng, name: &str) -> Vec<String> {
    let key_of = |rng: &mut SmallRng| key(rng, "s");
    let key = key(rng, "s");
    let mut args = vec![key.clone()];
    match name {
        "SADD" | "SREM" | "SMISMEMBER" => {
            for _ in 0..rng.random_range(1..5) {
                args.push(element(rng, &key));
            }
        }
        "SISMEMBER" => args.push(element(rng, &key)),
        "SMOVE" => {
            args.push(key_of(rng));
            args.push(element(rng, &key));
        }
        "SINTER" | "SUNION" | "SDIFF" | "SINTERSTORE" | "SUNIONSTORE" | "SDIFFSTORE" => {
            for _ in 0..rng.random_range(0..3) {
                args.push(key_of(rng));
            }
        }
        "SINTERCARD" => {
            args = keys_with_number(rng, &["s"]);
            if rng.random() {
                args.extend([pick(rng, &["LIMIT", "BAD"]).into(), count(rng)]);
            }
        }
        "SPOP" => args.push(pick(rng, &["1000", "0", "-1", "x"]).into()),
        "SRANDMEMBER" => args.push(pick(rng, &["1000", "0", "x"]).into()),
        "SSCAN" => args.extend(["0".into(), "COUNT".into(), "2000".into()]),
        _ => {}
    }
    args
}

fn sorted_set(rng: &mut SmallRng, name: &str) -> Vec<String> {
    // Names are only asked for where they alone say the order.
    let by_name = match name {
        "ZLEXCOUNT" | "ZREMRANGEBYLEX" | "ZRANGEBYLEX" | "ZREVRANGEBYLEX" => true,
        "ZADD" | "ZRANGE" | "ZRANGESTORE" => rng.random_range(0..4) == 0,
        _ => false,
    };
    let key = key(rng, if by_name { "y" } else { "z" });
    let mut args = vec![key.clone()];
    match name {
        "ZADD" if by_name => {
            for _ in 0..rng.random_range(1..9) {
                args.extend(["0".into(), element(rng, &key)]);
            }
        }
        "ZADD" => {
            for _ in 0..[0, 0, 1, 2][rng.random_range(0..4usize)] {
                args.push(pick(rng, &["NX", "XX", "GT", "LT", "CH", "INCR", "nx"]).into());
            }
            for _ in 0..[1, 1, 2, 4][rng.random_range(0..4usize)] {
                args.extend([score(rng), element(rng, &key)]);
            }
        }
        "ZINCRBY" => args.extend([score(rng), element(rng, &key)]),
        "ZREM" | "ZMSCORE" => {
            for _ in 0..rng.random_range(1..4) {
                args.push(element(rng, &key));
            }
        }
        "ZSCORE" => args.push(element(rng, &key)),
        "ZRANK" | "ZREVRANK" => {
            args.push(element(rng, &key));
            if rng.random_range(0..3) == 0 {
                args.push(pick(rng, &["WITHSCORE", "BAD"]).into());
            }
        }
        "ZCOUNT" | "ZREMRANGEBYSCORE" => args.extend([score_end(rng), score_end(rng)]),
        "ZLEXCOUNT" | "ZREMRANGEBYLEX" => args.extend([name_end(rng, &key), name_end(rng, &key)]),
        "ZREMRANGEBYRANK" => args.extend([index(rng), index(rng)]),
        "ZRANGE" | "ZRANGESTORE" | "ZREVRANGE" => range(rng, name, &key, by_name, &mut args),
        "ZRANGEBYSCORE" | "ZREVRANGEBYSCORE" => {
            args.extend([score_end(rng), score_end(rng)]);
            options_of_range(rng, &["WITHSCORES", "LIMIT"], &mut args);
        }
        "ZRANGEBYLEX" | "ZREVRANGEBYLEX" => {
            args.extend([name_end(rng, &key), name_end(rng, &key)]);
            options_of_range(rng, &["LIMIT"], &mut args);
        }
        "ZPOPMIN" | "ZPOPMAX" if rng.random() => args.push(count(rng)),
        "ZMPOP" => {
            args = keys_with_number(rng, &["z"]);
            args.push(pick(rng, &["MIN", "MAX", "BAD"]).into());
            if rng.random() {
                args.extend(["COUNT".into(), count(rng)]);
            }
        }
        "ZRANDMEMBER" => {
            args.push(pick(rng, &["1000", "0", "x"]).into());
            if rng.random() {
                args.push(pick(rng, &["WITHSCORES", "BAD"]).into());
            }
        }
        "ZSCAN" => args.extend(["0".into(), "COUNT".into(), "2000".into()]),
        "ZUNION" | "ZINTER" | "ZDIFF" | "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" => combination(rng, name, &mut args),
        "ZINTERCARD" => {
            args = keys_with_number(rng, &["z", "s"]);
            if rng.random() {
                args.extend(["LIMIT".into(), count(rng)]);
            }
        }
        _ => {}
    }
    args
}

fn range(rng: &mut SmallRng, name: &str, key: &str, by_name: bool, args: &mut Vec<String>) {
    if name == "ZRANGESTORE" {
        args.insert(0, format!("{{t}}z{}", rng.random_range(1..3)));
    }
    match rng.random_range(0..2) {
        _ if by_name => args.extend([name_end(rng, key), name_end(rng, key), "BYLEX".into()]),
        0 if name != "ZREVRANGE" => args.extend([score_end(rng), score_end(rng), "BYSCORE".into()]),
        _ => args.extend([index(rng), index(rng)]),
    }
    options_of_range(rng, &["WITHSCORES", "LIMIT", "REV"], args);
}

fn options_of_range(rng: &mut SmallRng, options: &[&str], args: &mut Vec<String>) {
    for option in options {
        if rng.random_range(0..3) == 0 {
            args.push((*option).into());
            if *option == "LIMIT" {
                // A negative offset means another thing in a small set than in a large one.
                args.extend([pick(rng, &["0", "0", "1", "2", "5", "700", "x"]).into(), index(rng)]);
            }
        }
    }
}

fn combination(rng: &mut SmallRng, name: &str, args: &mut Vec<String>) {
    let keys = keys_with_number(rng, &["z", "z", "s"]);
    let number = keys.len() - 1;
    if name.ends_with("STORE") {
        args.truncate(1);
    } else {
        args.clear();
    }
    args.extend(keys);
    if rng.random_range(0..3) == 0 {
        args.push("WEIGHTS".into());
        for _ in 0..number {
            args.push(pick(rng, &["1", "2", "-0.5", "0", "inf", "x"]).into());
        }
    }
    if rng.random_range(0..3) == 0 {
        args.extend(["AGGREGATE".into(), pick(rng, &["SUM", "MIN", "MAX", "BAD"]).into()]);
    }
    if rng.random_range(0..3) == 0 {
        args.push("WITHSCORES".into());
    }
}

fn list(rng: &mut SmallRng, name: &str) -> Vec<String> {
    let other = key(rng, "l");
    let key = key(rng, "l");
    let mut args = vec![key.clone()];
    match name {
        "LPUSH" | "RPUSH" | "LPUSHX" | "RPUSHX" => {
            for _ in 0..rng.random_range(1..5) {
                args.push(element(rng, &key));
            }
        }
        "LPOP" | "RPOP" if rng.random_range(0..3) == 0 => args.push(pick(rng, &["0", "1", "3", "-1", "x"]).into()),
        "LRANGE" => args.extend([index(rng), index(rng)]),
        // Seldom to less than a third.
        "LTRIM" => args.extend([
            pick(rng, &["0", "1", "-200", "5"]).into(),
            pick(rng, &["-1", "-2", "200", "-1", "0"]).into(),
        ]),
        "LINDEX" => args.push(index(rng)),
        // Not the largest and the smallest: Valkey cuts an index to 32 bits.
        "LSET" => args.extend([pick(rng, &["0", "1", "-1", "5", "-200", "x", ""]).into(), element(rng, &key)]),
        "LINSERT" => args.extend([
            pick(rng, &["BEFORE", "AFTER", "BAD"]).into(),
            element(rng, &key),
            element(rng, &key),
        ]),
        "LREM" => args.extend([pick(rng, &["0", "1", "-1", "2", "-2", "x"]).into(), element(rng, &key)]),
        "LPOS" => {
            args.push(element(rng, &key));
            for option in ["RANK", "COUNT", "MAXLEN"] {
                if rng.random_range(0..3) == 0 {
                    args.extend([option.into(), pick(rng, &["0", "1", "-1", "2", "-2", "x", "50"]).into()]);
                }
            }
        }
        "LMOVE" => args.extend([
            other,
            pick(rng, &["LEFT", "RIGHT", "BAD"]).into(),
            pick(rng, &["LEFT", "RIGHT"]).into(),
        ]),
        "RPOPLPUSH" => args.push(other),
        "LMPOP" => {
            args = keys_with_number(rng, &["l"]);
            args.push(pick(rng, &["LEFT", "RIGHT", "BAD"]).into());
            if rng.random() {
                args.extend(["COUNT".into(), pick(rng, &["1", "2", "0", "x"]).into()]);
            }
        }
        _ => {}
    }
    args
}

fn any(rng: &mut SmallRng, name: &str) -> Vec<String> {
    let kinds: &[&str] = match name {
        "SET" | "DEL" => &["h", "s", "z", "l", "text", "w", "y"],
        _ => &["h", "s", "z", "l", "text"],
    };
    let kind = pick(rng, kinds);
    let (key, other) = (key(rng, kind), key(rng, kind));
    let mut args = vec![key];
    match name {
        "RENAME" | "RENAMENX" => args.push(other),
        "COPY" => {
            args.push(other);
            if rng.random() {
                args.push("REPLACE".into());
            }
        }
        "SET" if kind == "w" => args.push(pick(rng, &["3", "1.5", "-2", "", "1e3", "3", "0"]).into()),
        "SET" | "SETNX" | "APPEND" => args.push(pick(rng, &["text", "12", ""]).into()),
        "SETRANGE" => args.extend([pick(rng, &["0", "3", "9"]).into(), "xy".into()]),
        "LCS" => {
            args = vec![format!("{{t}}text{}", rng.random_range(0..3)), other];
            args.extend(
                pick(rng, &["LEN", "IDX", "IDX WITHMATCHLEN", "IDX MINMATCHLEN 2", "LEN IDX", "BAD"])
                    .split(' ')
                    .map(Into::into),
            );
        }
        "SORT" | "SORT_RO" => {
            // Which are the first of a set without order is nobody's business.
            let part = pick(rng, &["LIMIT 1 5", "BY nosort"]);
            let options = &["DESC", "ASC", part, "GET {t}text*", "BAD"];
            // By themselves as texts, as many are no numbers; by others as numbers: of equal texts any may be the first.
            args.extend(pick(rng, &["ALPHA", "ALPHA", "BY {t}w*"]).split(' ').map(Into::into));
            for _ in 0..rng.random_range(0..3) {
                args.extend(pick(rng, options).split(' ').map(Into::into));
            }
            if name == "SORT" && rng.random_range(0..4) == 0 {
                args.extend(["STORE".into(), "{t}l1".into()]);
            }
        }
        "EXPIRE" => args.push(pick(rng, &["100000", "-1"]).into()),
        "OBJECT" => args = vec!["BAD".into(), other],
        _ => {}
    }
    args
}

/// A command.
pub(crate) fn command(rng: &mut SmallRng) -> Vec<String> {
    let (name, rest) = match rng.random_range(0..10) {
        0..2 => {
            let name = pick(
                rng,
                &[
                    "HSET",
                    "HSET",
                    "HSET",
                    "HMSET",
                    "HSETNX",
                    "HGET",
                    "HMGET",
                    "HGETALL",
                    "HKEYS",
                    "HVALS",
                    "HLEN",
                    "HSTRLEN",
                    "HEXISTS",
                    "HDEL",
                    "HINCRBY",
                    "HINCRBYFLOAT",
                    "HRANDFIELD",
                    "HSCAN",
                ],
            );
            (name, hash(rng, name))
        }
        2..4 => {
            let name = pick(
                rng,
                &[
                    "SADD",
                    "SADD",
                    "SADD",
                    "SREM",
                    "SMISMEMBER",
                    "SISMEMBER",
                    "SCARD",
                    "SMEMBERS",
                    "SMOVE",
                    "SINTER",
                    "SUNION",
                    "SDIFF",
                    "SINTERSTORE",
                    "SUNIONSTORE",
                    "SDIFFSTORE",
                    "SINTERCARD",
                    "SPOP",
                    "SRANDMEMBER",
                    "SSCAN",
                ],
            );
            (name, set(rng, name))
        }
        4..7 => {
            let name = pick(
                rng,
                &[
                    "ZADD",
                    "ZADD",
                    "ZADD",
                    "ZADD",
                    "ZADD",
                    "ZINCRBY",
                    "ZREM",
                    "ZMSCORE",
                    "ZSCORE",
                    "ZCARD",
                    "ZRANK",
                    "ZREVRANK",
                    "ZCOUNT",
                    "ZREMRANGEBYSCORE",
                    "ZLEXCOUNT",
                    "ZREMRANGEBYLEX",
                    "ZREMRANGEBYRANK",
                    "ZRANGE",
                    "ZRANGE",
                    "ZRANGESTORE",
                    "ZREVRANGE",
                    "ZRANGEBYSCORE",
                    "ZREVRANGEBYSCORE",
                    "ZRANGEBYLEX",
                    "ZREVRANGEBYLEX",
                    "ZPOPMIN",
                    "ZPOPMAX",
                    "ZMPOP",
                    "ZRANDMEMBER",
                    "ZSCAN",
                    "ZUNION",
                    "ZINTER",
                    "ZDIFF",
                    "ZUNIONSTORE",
                    "ZINTERSTORE",
                    "ZDIFFSTORE",
                    "ZINTERCARD",
                ],
            );
            (name, sorted_set(rng, name))
        }
        7..9 => {
            let name = pick(
                rng,
                &[
                    "LPUSH",
                    "RPUSH",
                    "LPUSH",
                    "RPUSH",
                    "LPUSHX",
                    "RPUSHX",
                    "LPOP",
                    "RPOP",
                    "LLEN",
                    "LRANGE",
                    "LTRIM",
                    "LINDEX",
                    "LSET",
                    "LINSERT",
                    "LREM",
                    "LPOS",
                    "LMOVE",
                    "RPOPLPUSH",
                    "LMPOP",
                ],
            );
            (name, list(rng, name))
        }
        _ => {
            let name = pick(
                rng,
                &[
                    "TYPE", "DEL", "EXISTS", "RENAME", "RENAMENX", "COPY", "SET", "SETNX", "APPEND", "SETRANGE", "GET", "STRLEN", "INCR",
                    "LCS", "SORT", "SORT_RO", "EXPIRE", "PERSIST", "OBJECT",
                ],
            );
            (name, any(rng, name))
        }
    };
    let mut args = vec![name.to_owned()];
    args.extend(rest);
    // Now and then one argument too many or too few. Without a count, the elements by chance are others on each side.
    let by_chance = matches!(name, "SPOP" | "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER");
    match rng.random_range(0..60) {
        0 => args.push("extra".into()),
        1 if !by_chance => args.truncate(args.len().max(2) - 1),
        _ => {}
    }
    args
}

/// A reply in which there is one zero, as here; Valkey has a negative one too.
pub(crate) fn with_one_zero(reply: &str) -> String {
    let one = |word: &str| {
        let (end, brackets) = word.split_at(word.trim_end_matches(']').len());
        match end.trim_start_matches(['*', '[']) {
            zero @ ("$-0" | ",-0") => format!("{}{}0{brackets}", &end[..end.len() - zero.len()], &zero[..1]),
            _ => word.to_owned(),
        }
    };
    reply.split(' ').map(one).collect::<Vec<_>>().join(" ")
}

/// Whether the order of a reply's elements is nobody's business.
pub(crate) fn has_no_order(args: &[String]) -> bool {
    let name = args[0].as_str();
    let by_nothing = matches!(name, "SORT" | "SORT_RO") && args.iter().any(|arg| arg == "nosort");
    by_nothing
        || matches!(
            name,
            "HGETALL"
                | "HKEYS"
                | "HVALS"
                | "HRANDFIELD"
                | "HSCAN"
                | "SMEMBERS"
                | "SINTER"
                | "SUNION"
                | "SDIFF"
                | "SPOP"
                | "SRANDMEMBER"
                | "SSCAN"
                | "ZSCAN"
                | "ZRANDMEMBER"
        )
}
