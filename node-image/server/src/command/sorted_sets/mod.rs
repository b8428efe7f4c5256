//! Sorted sets: members with scores. What reads and changes single members is here; ranges, combinations and what picks members are
//! beside it.

mod algebra;
mod picks;
mod ranges;

pub(super) use algebra::{zdiff, zdiffstore, zinter, zintercard, zinterstore, zunion, zunionstore};
pub(super) use picks::{zmpop, zpopmax, zpopmin, zrandmember, zscan};
pub(super) use ranges::{
    zcount, zlexcount, zrange, zrangebylex, zrangebyscore, zrangestore, zremrangebylex, zremrangebyrank, zremrangebyscore, zrevrange,
    zrevrangebylex, zrevrangebyscore,
};

use super::call::{Call, Done, Refusal, SYNTAX, check_reply, find};
use super::numbers::{parse_score, reply_double};
use crate::keyspace::{SortedSet, Update};
use crate::resp::{Version, Writer};
use bytes::Bytes;

#[derive(Debug, Default)]
struct AddOptions {
    absent: bool,
    present: bool,
    greater: bool,
    less: bool,
    changed: bool,
    increment: bool,
}

/// The options, and where the pairs begin.
fn add_options(call: &Call<'_, '_>) -> Result<(AddOptions, usize), Refusal> {
    let (mut options, mut at) = (AddOptions::default(), 2);
    loop {
        match call.word(at).as_str() {
            "NX" => options.absent = true,
            "XX" => options.present = true,
            "GT" => options.greater = true,
            "LT" => options.less = true,
            "CH" => options.changed = true,
            "INCR" => options.increment = true,
            _ => break,
        }
        at += 1;
    }
    let left = call.args.len() - at;
    if left == 0 || left % 2 == 1 {
        return Err(SYNTAX);
    }
    let AddOptions {
        absent,
        present,
        greater,
        less,
        changed: _,
        increment,
    } = options;
    if absent && present {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if (absent && (greater || less)) || (greater && less) {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if increment && left > 2 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    Ok((options, at))
}

impl AddOptions {
    /// The score that a member gets; None if it stays as it is.
    fn decide(&self, before: Option<f64>, given: f64) -> Result<Option<f64>, Refusal> {
        let Some(before) = before else {
            return Ok((!self.present).then_some(given));
        };
        if self.absent {
            return Ok(None);
        }
        let score = if self.increment { before + given } else { given };
        if score.is_nan() {
            return Err("ERR resulting score is not a number (NaN)".into());
        }
        let allowed = (!self.greater || score > before) && (!self.less || score < before);
        Ok(allowed.then_some(score))
    }
}

pub(super) fn zadd(call: &mut Call<'_, '_>) -> Done {
    let (options, at) = add_options(call)?;
    let pairs = call.args[at..].chunks_exact(2);
    let pairs: Vec<(f64, &[u8])> = pairs
        .map(|pair| Ok((parse_score(&pair[0])?, &pair[1][..])))
        .collect::<Result<_, Refusal>>()?;
    add(call, &options, &pairs)
}

pub(super) fn zincrby(call: &mut Call<'_, '_>) -> Done {
    let options = AddOptions {
        increment: true,
        ..AddOptions::default()
    };
    let args = call.args;
    add(call, &options, &[(parse_score(&args[2])?, &args[3])])
}

fn add(call: &mut Call<'_, '_>, options: &AddOptions, pairs: &[(f64, &[u8])]) -> Done {
    let set = call.collection::<SortedSet>(&call.args[1])?;
    let (mut decided, mut added, mut changed, mut result) = (Vec::new(), 0, 0, None);
    // A member that is given twice meets its first score the second time.
    let mut given: hashbrown::HashMap<&[u8], f64> = hashbrown::HashMap::new();
    let repeats = pairs.len() > 1;
    for &(score, member) in pairs {
        let before = given.get(member).copied().or_else(|| set?.score(member));
        result = options.decide(before, score)?;
        let Some(score) = result else { continue };
        added += i64::from(before.is_none());
        if before != Some(score) {
            changed += i64::from(before.is_some());
            decided.push((score, member));
            if repeats {
                given.insert(member, score);
            }
        }
    }
    if !decided.is_empty() {
        call.update(&call.args[1], &Update::SortedSetAdd(decided))?;
    }
    match (options.increment, result) {
        (true, Some(score)) => reply_double(&mut call.reply, score),
        (true, None) => call.reply.null(),
        (false, _) => call.reply.integer(added + if options.changed { changed } else { 0 }),
    }
    Ok(())
}

pub(super) fn zrem(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    let mut removed = 0;
    if let Some(set) = call.collection::<SortedSet>(&args[1])? {
        let members = args[2..].iter().map(|member| &member[..]);
        let members: Vec<&[u8]> = members.filter(|member| set.score(member).is_some()).collect();
        if !members.is_empty() {
            removed = call.update(&args[1], &Update::SortedSetRemove(members))?;
        }
    }
    call.reply.integer(removed as i64);
    Ok(())
}

pub(super) fn zcard(call: &mut Call<'_, '_>) -> Done {
    let length = call.collection::<SortedSet>(&call.args[1])?.map_or(0, SortedSet::len);
    call.reply.integer(length as i64);
    Ok(())
}

pub(super) fn zscore(call: &mut Call<'_, '_>) -> Done {
    let set = call.collection::<SortedSet>(&call.args[1])?;
    let score = set.and_then(|set| set.score(&call.args[2]));
    score_or_null(&mut call.reply, score);
    Ok(())
}

fn score_or_null(reply: &mut Writer<'_>, score: Option<f64>) {
    match score {
        Some(score) => reply_double(reply, score),
        None => reply.null(),
    }
}

pub(super) fn zmscore(call: &mut Call<'_, '_>) -> Done {
    let set = find::<SortedSet>(call.context, call.slot, &call.args[1])?;
    call.reply.array(call.args.len() - 2);
    for member in &call.args[2..] {
        score_or_null(&mut call.reply, set.and_then(|set| set.score(member)));
    }
    Ok(())
}

pub(super) fn zrank(call: &mut Call<'_, '_>) -> Done {
    rank(call, |rank, _| rank)
}

pub(super) fn zrevrank(call: &mut Call<'_, '_>) -> Done {
    rank(call, |rank, length| length - 1 - rank)
}

fn rank(call: &mut Call<'_, '_>, place: fn(u64, u64) -> u64) -> Done {
    let with_score = match (call.args.len(), call.word(3).as_str()) {
        (3, _) => false,
        (4, "WITHSCORE") => true,
        (4, _) => return Err(SYNTAX),
        _ => return Err(call.wrong_arguments()),
    };
    let set = call.collection::<SortedSet>(&call.args[1])?;
    let found = set.and_then(|set| set.rank(&call.args[2]).map(|(rank, score)| (place(rank, set.len()), score)));
    match found {
        None if with_score => call.reply.null_array(),
        None => call.reply.null(),
        Some((rank, score)) => {
            if with_score {
                call.reply.array(2);
            }
            call.reply.integer(rank as i64);
            if with_score {
                reply_double(&mut call.reply, score);
            }
        }
    }
    Ok(())
}

/// Replies with members, and with their scores if they are wanted: as pairs where the protocol has numbers, else one after the other.
fn reply_members<'k>(
    reply: &mut Writer<'_>,
    begin: usize,
    count: u64,
    with_scores: bool,
    members: impl Iterator<Item = (&'k [u8], f64)>,
) -> Done {
    let pairs = with_scores && reply.version() == Version::Resp3;
    let flat = with_scores && !pairs;
    reply.array(count as usize * if flat { 2 } else { 1 });
    for (member, score) in members {
        if pairs {
            reply.array(2);
        }
        reply.bulk(member);
        if with_scores {
            reply_double(reply, score);
        }
        check_reply(reply, begin)?;
    }
    Ok(())
}

/// Sets and sorted sets whose scores all are one: what combinations take.
fn sorted_or_set<'k>(call: &'k Call<'_, '_>, key: &Bytes) -> Result<Option<algebra::Source<'k>>, Refusal> {
    algebra::Source::of(call.item(key))
}
