//! What a person asks of a store in annotations goes to the shard that it is about, and to shard 0 if it is about none: that
//! one says so. Pure.

use super::Word;
use crate::names;
use crate::observe::Asked;
use std::collections::BTreeMap;

/// The part that is for `shard`, of a store that has so many.
#[must_use]
pub fn of_shard(asked: &Asked, store: &str, shards: u32, shard: u32) -> Asked {
    let Asked {
        promote,
        accept_data_loss,
        rebalance: _,
    } = asked;
    let there = |index: Option<u32>| index.filter(|index| *index < shards).unwrap_or_default() == shard;
    let promote = promote
        .as_ref()
        .filter(|pod| there(names::place(store, pod).map(|(shard, _)| shard)));
    let named = |asked: &str| asked.split_once('@')?.0.parse().ok();
    Asked {
        promote: promote.cloned(),
        accept_data_loss: accept_data_loss.as_ref().filter(|asked| there(named(asked))).cloned(),
        rebalance: None,
    }
}

/// What was answered, by whichever shard; `rebalanced` is what the store as a whole answered.
#[must_use]
pub(super) fn answered(words: &BTreeMap<u32, Word>, rebalanced: Option<String>) -> Asked {
    let each = || words.values().map(|word| &word.publication.answered);
    Asked {
        promote: each().find_map(|answered| answered.promote.clone()),
        accept_data_loss: each().find_map(|answered| answered.accept_data_loss.clone()),
        rebalance: rebalanced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_exactly_one_shard_that_answers_it() {
        for (promote, loss, expected) in [
            ("my-orders-2-1", "1@7", (2, 1)),
            ("my-orders-3-0", "3@7", (0, 0)),
            ("orders-2-0", "nonsense", (0, 0)),
            ("my-orders-1", "-1@2", (0, 0)),
        ] {
            let asked = Asked {
                promote: Some(promote.to_owned()),
                accept_data_loss: Some(loss.to_owned()),
                rebalance: None,
            };
            let parts: Vec<Asked> = (0..3).map(|shard| of_shard(&asked, "my-orders", 3, shard)).collect();
            let with = |has: fn(&Asked) -> bool| {
                parts
                    .iter()
                    .enumerate()
                    .filter(|(_, part)| has(part))
                    .map(|(shard, _)| shard)
                    .collect::<Vec<_>>()
            };
            assert_eq!(with(|part| part.promote.is_some()), [expected.0], "{promote}");
            assert_eq!(with(|part| part.accept_data_loss.is_some()), [expected.1], "{loss}");
        }
    }
}
