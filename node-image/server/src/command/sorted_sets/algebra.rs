//! Unions, intersections and differences of sorted sets, of plain sets too.

use super::super::call::{Call, Done, Refusal, SYNTAX, WRONG_TYPE, parse_float};
use super::super::options::numbered_keys;
use super::super::sets::limit_of_cardinality;
use super::{reply_members, sorted_or_set};
use crate::keyspace::{Collection, Item, NEVER, Set, SortedSet, Value};
use bytes::Bytes;

/// What is combined.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'k> {
    Sorted(&'k SortedSet),
    /// Every member has score 1.
    Plain(&'k Set),
}

impl<'k> Source<'k> {
    pub(super) fn of(item: Option<&'k Item>) -> Result<Option<Self>, Refusal> {
        match item.map(|item| &item.value) {
            None => Ok(None),
            Some(Value::Collection(collection)) => match &**collection {
                Collection::SortedSet(set) => Ok(Some(Self::Sorted(set))),
                Collection::Set(set) => Ok(Some(Self::Plain(set))),
                Collection::Hash(_) | Collection::List(_) => Err(WRONG_TYPE),
            },
            Some(Value::String(_)) => Err(WRONG_TYPE),
        }
    }

    fn len(self) -> u64 {
        match self {
            Self::Sorted(set) => set.len(),
            Self::Plain(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Sorted(set) => set.score(member),
            Self::Plain(set) => set.contains(member).then_some(1.0),
        }
    }

    fn iter(self) -> Box<dyn Iterator<Item = (&'k [u8], f64)> + 'k> {
        match self {
            Self::Sorted(set) => Box::new(set.iter(0, u64::MAX)),
            Self::Plain(set) => Box::new(set.iter().map(|member| (member, 1.0))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algebra {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy, Debug)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn join(self, a: f64, b: f64) -> f64 {
        match self {
            // Infinities of both signs cancel each other out.
            Self::Sum => Some(a + b).filter(|sum| !sum.is_nan()).unwrap_or(0.0),
            // What is no number is never less nor more.
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

fn weighted(score: f64, weight: f64) -> f64 {
    Some(score * weight).filter(|product| !product.is_nan()).unwrap_or(0.0)
}

#[derive(Debug)]
struct Options {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
}

/// The options behind `keys` keys, from the argument `at` on.
fn options(call: &Call<'_, '_>, mut at: usize, keys: usize, algebra: Algebra, store: bool) -> Result<Options, Refusal> {
    let mut options = Options {
        weights: vec![1.0; keys],
        aggregate: Aggregate::Sum,
        with_scores: false,
    };
    let joins = algebra != Algebra::Difference;
    while at < call.args.len() {
        let left = call.args.len() - at;
        match call.word(at).as_str() {
            "WEIGHTS" if joins && left > keys => {
                for (weight, text) in options.weights.iter_mut().zip(&call.args[at + 1..]) {
                    *weight = parse_float(text).ok_or("ERR weight value is not a float")?;
                }
                at += keys;
            }
            "AGGREGATE" if joins && left > 1 => {
                at += 1;
                options.aggregate = match call.word(at).as_str() {
                    "SUM" => Aggregate::Sum,
                    "MIN" => Aggregate::Min,
                    "MAX" => Aggregate::Max,
                    _ => return Err(SYNTAX),
                };
            }
            "WITHSCORES" if !store => options.with_scores = true,
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(options)
}

/// The sources that are there with their weights, the smallest first: sums of infinities and of fractions depend on the order.
fn smallest_first<'k>(sources: &[Option<Source<'k>>], options: &Options) -> Vec<(Source<'k>, f64)> {
    let there = sources.iter().zip(&options.weights);
    let mut all: Vec<(Source<'k>, f64)> = there.filter_map(|(source, weight)| Some(((*source)?, *weight))).collect();
    all.sort_by_key(|(source, _)| source.len());
    all
}

/// Gives the members of an intersection with their scores, until `give` is false.
fn intersect<'k>(sources: &[Option<Source<'k>>], options: &Options, mut give: impl FnMut(&'k [u8], f64) -> bool) {
    if sources.iter().any(Option::is_none) {
        return;
    }
    let all = smallest_first(sources, options);
    let Some(((smallest, weight), rest)) = all.split_first() else {
        return;
    };
    for (member, score) in smallest.iter() {
        let mut joined = Some(weighted(score, *weight));
        for (source, weight) in rest {
            let score = source.score(member).map(|score| score * *weight);
            joined = joined.zip(score).map(|(a, b)| options.aggregate.join(a, b));
        }
        if let Some(score) = joined
            && !give(member, score)
        {
            return;
        }
    }
}

fn sources<'k>(call: &'k Call<'_, '_>, keys: &[Bytes]) -> Result<Vec<Option<Source<'k>>>, Refusal> {
    keys.iter().map(|key| sorted_or_set(call, key)).collect()
}

fn calculate(sources: &[Option<Source<'_>>], options: &Options, algebra: Algebra) -> SortedSet {
    let mut result = SortedSet::default();
    match algebra {
        Algebra::Intersection => intersect(sources, options, |member, score| {
            result.insert(score, member);
            true
        }),
        Algebra::Union => {
            for (source, weight) in smallest_first(sources, options) {
                for (member, score) in source.iter() {
                    let score = weighted(score, weight);
                    let joined = result.score(member).map_or(score, |before| options.aggregate.join(before, score));
                    result.insert(joined, member);
                }
            }
        }
        Algebra::Difference => {
            let Some((Some(first), rest)) = sources.split_first() else {
                return result;
            };
            for (member, score) in first.iter() {
                if !rest.iter().flatten().any(|source| source.score(member).is_some()) {
                    result.insert(score, member);
                }
            }
        }
    }
    result
}

fn reply_result(call: &mut Call<'_, '_>, algebra: Algebra) -> Done {
    let keys = numbered_keys(call, 1, call.command.name)?;
    let sources = sources(call, keys)?;
    let options = options(call, 2 + keys.len(), keys.len(), algebra, false)?;
    let result = calculate(&sources, &options, algebra);
    reply_members(
        &mut call.reply,
        call.begin,
        result.len(),
        options.with_scores,
        result.iter(0, u64::MAX),
    )
}

fn store_result(call: &mut Call<'_, '_>, algebra: Algebra) -> Done {
    let keys = numbered_keys(call, 2, call.command.name)?;
    let sources = sources(call, keys)?;
    let options = options(call, 3 + keys.len(), keys.len(), algebra, true)?;
    let result = calculate(&sources, &options, algebra);
    let length = result.len();
    call.store(&call.args[1], Collection::SortedSet(result), NEVER)?;
    call.reply.integer(length as i64);
    Ok(())
}

pub(crate) fn zunion(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Union)
}

pub(crate) fn zinter(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Intersection)
}

pub(crate) fn zdiff(call: &mut Call<'_, '_>) -> Done {
    reply_result(call, Algebra::Difference)
}

pub(crate) fn zunionstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Union)
}

pub(crate) fn zinterstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Intersection)
}

pub(crate) fn zdiffstore(call: &mut Call<'_, '_>) -> Done {
    store_result(call, Algebra::Difference)
}

pub(crate) fn zintercard(call: &mut Call<'_, '_>) -> Done {
    let keys = numbered_keys(call, 1, call.command.name)?;
    let sources = sources(call, keys)?;
    let limit = limit_of_cardinality(call, 2 + keys.len())?;
    let options = Options {
        weights: vec![1.0; keys.len()],
        aggregate: Aggregate::Sum,
        with_scores: false,
    };
    let mut count = 0u64;
    intersect(&sources, &options, |_, _| {
        count += 1;
        count != limit
    });
    call.reply.integer(count as i64);
    Ok(())
}
