//! Ranges of sorted sets: by rank, by score and by name.

use super::super::call::{Call, Done, Refusal, SYNTAX, find, parse_float};
use super::super::lists;
use super::reply_members;
use crate::keyspace::{Collection, NEVER, SortedSet, Update};

const BAD_SCORE: Refusal = Refusal::Borrowed("ERR min or max is not a float");
const BAD_NAME: Refusal = Refusal::Borrowed("ERR min or max not valid string range item");

/// An end of a range of names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Name<'a> {
    /// Before all.
    First,
    /// Behind all.
    Last,
    Included(&'a [u8]),
    Excluded(&'a [u8]),
}

/// An end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score {
    value: f64,
    excluded: bool,
}

/// A range; what it is from comes first in the set's order.
#[derive(Clone, Copy, Debug)]
enum Range<'a> {
    Ranks(i64, i64),
    Scores(Score, Score),
    Names(Name<'a>, Name<'a>),
}

fn score(text: &[u8]) -> Result<Score, Refusal> {
    let (excluded, number) = match text.split_first() {
        Some((b'(', number)) => (true, number),
        _ => (false, text),
    };
    // No digits at all are a zero here, though not where a score is stored.
    let value = if number.is_empty() {
        0.0
    } else {
        parse_float(number).ok_or(BAD_SCORE)?
    };
    Ok(Score { value, excluded })
}

fn name(text: &[u8]) -> Result<Name<'_>, Refusal> {
    match text.split_first() {
        Some((b'-', [])) => Ok(Name::First),
        Some((b'+', [])) => Ok(Name::Last),
        Some((b'[', name)) => Ok(Name::Included(name)),
        Some((b'(', name)) => Ok(Name::Excluded(name)),
        _ => Err(BAD_NAME),
    }
}

impl<'a> Range<'a> {
    fn scores(from: &[u8], to: &[u8]) -> Result<Self, Refusal> {
        Ok(Self::Scores(score(from)?, score(to)?))
    }

    fn names(from: &'a [u8], to: &'a [u8]) -> Result<Self, Refusal> {
        Ok(Self::Names(name(from)?, name(to)?))
    }

    /// The first rank in it and how many.
    fn ranks(&self, set: &SortedSet, reverse: bool) -> (u64, u64) {
        let (first, end) = match *self {
            Self::Ranks(start, end) => {
                let (first, count) = lists::range(start, end, set.len());
                return if reverse {
                    (set.len() - first - count, count)
                } else {
                    (first, count)
                };
            }
            Self::Scores(from, to) => (
                set.count_before(|score, _| score > from.value || (score == from.value && !from.excluded)),
                set.count_before(|score, _| score > to.value || (score == to.value && to.excluded)),
            ),
            Self::Names(from, to) => (
                set.count_before(|_, name| match from {
                    Name::First => true,
                    Name::Last => false,
                    Name::Included(from) => name >= from,
                    Name::Excluded(from) => name > from,
                }),
                set.count_before(|_, name| match to {
                    Name::First => true,
                    Name::Last => false,
                    Name::Included(to) => name > to,
                    Name::Excluded(to) => name >= to,
                }),
            ),
        };
        (first, end.saturating_sub(first))
    }
}

/// What is asked for: a range, which way, and which part of it.
#[derive(Clone, Copy, Debug)]
struct Query<'a> {
    range: Range<'a>,
    reverse: bool,
    with_scores: bool,
    /// How many are left out, and how many are given then; negative for all.
    limit: Option<(i64, i64)>,
}

impl Query<'_> {
    /// The first rank and how many, the limit applied. In a reverse query the first is the last that is given.
    fn ranks(&self, set: &SortedSet) -> (u64, u64) {
        let (first, count) = self.range.ranks(set, self.reverse);
        // Of ranks there is no part but all, whatever is left out before it.
        let Some((skip, most)) = self.limit.filter(|_| !matches!(self.range, Range::Ranks(..))) else {
            return (first, count);
        };
        let Ok(skip) = u64::try_from(skip) else { return (first, 0) };
        let left = count.saturating_sub(skip);
        let taken = u64::try_from(most).map_or(left, |most| most.min(left));
        if self.reverse {
            (first + left - taken, taken)
        } else {
            (first + count - left, taken)
        }
    }

    fn reply(&self, call: &mut Call<'_, '_>, key: usize) -> Done {
        let set = find::<SortedSet>(call.context, call.slot, &call.args[key])?;
        let (first, count) = set.map_or((0, 0), |set| self.ranks(set));
        let Some(set) = set else {
            call.reply.array(0);
            return Ok(());
        };
        if self.reverse {
            reply_members(
                &mut call.reply,
                call.begin,
                count,
                self.with_scores,
                set.iter_back(first + count, count),
            )
        } else {
            reply_members(&mut call.reply, call.begin, count, self.with_scores, set.iter(first, count))
        }
    }
}

/// How the two ends of a query are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// Reads a query whose two ends are at `at`. `by`: what the command's name says; None if options say it.
fn query<'a>(call: &Call<'a, '_>, at: usize, by: Option<(By, bool)>, store: bool) -> Result<Query<'a>, Refusal> {
    let args = call.args;
    let (mut with_scores, mut limit) = (false, None);
    let (mut kind, mut reverse) = by.unwrap_or((By::Rank, false));
    let mut option = at + 2;
    while option < args.len() {
        match call.word(option).as_str() {
            "WITHSCORES" if !store => with_scores = true,
            "LIMIT" if args.len() - option > 2 => {
                limit = Some((call.integer(option + 1)?, call.integer(option + 2)?));
                option += 2;
            }
            "REV" if by.is_none() => reverse = true,
            "BYLEX" if by.is_none() => kind = By::Name,
            "BYSCORE" if by.is_none() => kind = By::Score,
            _ => return Err(SYNTAX),
        }
        option += 1;
    }
    if limit.is_some_and(|(_, most)| most != -1) && kind == By::Rank {
        return Err("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX".into());
    }
    if with_scores && kind == By::Name {
        return Err("ERR syntax error, WITHSCORES not supported in combination with BYLEX".into());
    }
    let (from, to) = if reverse && kind != By::Rank { (at + 1, at) } else { (at, at + 1) };
    let range = match kind {
        By::Rank => Range::Ranks(call.integer(from)?, call.integer(to)?),
        By::Score => Range::scores(&args[from], &args[to])?,
        By::Name => Range::names(&args[from], &args[to])?,
    };
    Ok(Query {
        range,
        reverse,
        with_scores,
        limit,
    })
}

pub(crate) fn zrange(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, None, false)?.reply(call, 1)
}

pub(crate) fn zrevrange(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, Some((By::Rank, true)), false)?.reply(call, 1)
}

pub(crate) fn zrangebyscore(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, Some((By::Score, false)), false)?.reply(call, 1)
}

pub(crate) fn zrevrangebyscore(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, Some((By::Score, true)), false)?.reply(call, 1)
}

pub(crate) fn zrangebylex(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, Some((By::Name, false)), false)?.reply(call, 1)
}

pub(crate) fn zrevrangebylex(call: &mut Call<'_, '_>) -> Done {
    query(call, 2, Some((By::Name, true)), false)?.reply(call, 1)
}

pub(crate) fn zrangestore(call: &mut Call<'_, '_>) -> Done {
    let query = query(call, 3, None, true)?;
    let mut result = SortedSet::default();
    if let Some(set) = call.collection::<SortedSet>(&call.args[2])? {
        let (first, count) = query.ranks(set);
        for (member, score) in set.iter(first, count) {
            result.insert(score, member);
        }
    }
    let length = result.len();
    call.store(&call.args[1], Collection::SortedSet(result), NEVER)?;
    call.reply.integer(length as i64);
    Ok(())
}

fn count(call: &mut Call<'_, '_>, range: Range<'_>) -> Done {
    let set = call.collection::<SortedSet>(&call.args[1])?;
    let count = set.map_or(0, |set| range.ranks(set, false).1);
    call.reply.integer(count as i64);
    Ok(())
}

pub(crate) fn zcount(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    count(call, Range::scores(&args[2], &args[3])?)
}

pub(crate) fn zlexcount(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    count(call, Range::names(&args[2], &args[3])?)
}

fn remove(call: &mut Call<'_, '_>, range: Range<'_>) -> Done {
    let args = call.args;
    let set = call.collection::<SortedSet>(&args[1])?;
    let (rank, count) = set.map_or((0, 0), |set| range.ranks(set, false));
    if count > 0 {
        call.update(&args[1], &Update::SortedSetRemoveRanks { rank, count })?;
    }
    call.reply.integer(count as i64);
    Ok(())
}

pub(crate) fn zremrangebyrank(call: &mut Call<'_, '_>) -> Done {
    let range = Range::Ranks(call.integer(2)?, call.integer(3)?);
    remove(call, range)
}

pub(crate) fn zremrangebyscore(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    remove(call, Range::scores(&args[2], &args[3])?)
}

pub(crate) fn zremrangebylex(call: &mut Call<'_, '_>) -> Done {
    let args = call.args;
    remove(call, Range::names(&args[2], &args[3])?)
}
