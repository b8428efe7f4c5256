//! Which shards may begin their first epoch: see [`Birth`]. Pure.

use super::Word;
use crate::names;
use crate::plan::Birth;
use crate::settings::Settings;
use std::collections::BTreeMap;

/// What the other shards have against the first epoch of `shard`. `words` is what the keepers said last.
///
/// Shard 0 is the first: its group owns every slot from its first epoch on, so every replica of every other shard must have
/// been heard and be blank. The others wait until it is a group; theirs own nothing until a move gives them something.
#[must_use]
pub fn birth(settings: &Settings, words: &BTreeMap<u32, Word>, shard: u32) -> Birth {
    if shard > 0 {
        let first = words.get(&0).is_some_and(|word| word.view.has_begun());
        return if first {
            Birth::Free
        } else {
            let first = names::stateful_set(&settings.name, 0);
            Birth::Waits(format!("shard 0 begins before all others: waiting for the pods of {first}"))
        };
    }
    let others = || words.iter().filter(|(index, _)| **index > 0);
    if let Some(replica) = others().flat_map(|(_, word)| &word.view.replicas).find(|replica| replica.is_used()) {
        return Birth::Refused(format!(
            "the replicas of this shard are empty, and {} holds data of this store: bring back the volumes of this shard, or delete the \
             store and all its claims and create it anew",
            replica.pod
        ));
    }
    let missing = (1..settings.shards).chain(others().map(|(index, _)| *index).filter(|index| *index >= settings.shards));
    let unheard: Vec<String> = missing
        .filter(|index| {
            let heard = words.get(index).map_or(0, |word| word.view.heard());
            let pods = words.get(index).map_or(0, |word| word.view.replicas.len());
            heard < pods.max(settings.quorum.replicas as usize)
        })
        .map(|index| index.to_string())
        .collect();
    if unheard.is_empty() {
        return Birth::Free;
    }
    Birth::Waits(format!(
        "the first epoch of shard 0 gives it every slot, so all replicas of the store have to be heard and be blank: waiting for those of \
         shards {}",
        unheard.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Observed;
    use crate::store::View;
    use crate::testing::{LIMIT, blanks, settings, status, unheard, well};
    use quorate_api::Quorum;
    use std::time::Instant;

    const QUORUM: Quorum = Quorum::strong(3, 2, 2);

    fn word(members: &[Observed], now: Instant) -> Word {
        Word {
            view: View::of(members, None, now, LIMIT),
            ..Word::default()
        }
    }

    #[test]
    fn shard_zero_begins_first_and_only_beside_blank_replicas_that_were_all_heard() {
        let now = Instant::now();
        let mut settings = settings(QUORUM);
        settings.shards = 3;
        let blank = word(&blanks(QUORUM, now), now);
        let mut words = BTreeMap::from([(0, blank.clone()), (1, blank.clone())]);
        assert!(matches!(birth(&settings, &words, 0), Birth::Waits(what) if what.ends_with("shards 2")));
        assert!(matches!(birth(&settings, &words, 1), Birth::Waits(_)), "the first is no group yet");
        words.insert(2, blank);
        assert_eq!(birth(&settings, &words, 0), Birth::Free);
        let mut silent = blanks(QUORUM, now);
        unheard(&mut silent[1]);
        words.insert(2, word(&silent, now));
        assert!(
            matches!(birth(&settings, &words, 0), Birth::Waits(_)),
            "one replica may hold anything"
        );
        words.insert(2, word(&well(QUORUM, now), now));
        assert!(matches!(birth(&settings, &words, 0), Birth::Refused(why) if why.contains("orders-0-0 holds data")));
        let mut begins = well(QUORUM, now);
        for member in &mut begins {
            (status(member).commit, status(member).durable) = (0, 0);
        }
        words.insert(0, word(&begins, now));
        assert!(
            matches!(birth(&settings, &words, 1), Birth::Waits(_)),
            "a crash may take the first epoch back"
        );
        words.insert(0, word(&well(QUORUM, now), now));
        assert_eq!(birth(&settings, &words, 1), Birth::Free);
    }

    #[test]
    fn a_shard_beyond_those_that_are_wanted_counts_as_long_as_it_has_pods() {
        let now = Instant::now();
        let settings = settings(QUORUM);
        let mut words = BTreeMap::from([(0, word(&blanks(QUORUM, now), now))]);
        assert_eq!(birth(&settings, &words, 0), Birth::Free);
        let mut silent = blanks(QUORUM, now);
        unheard(&mut silent[2]);
        words.insert(1, word(&silent, now));
        assert!(matches!(birth(&settings, &words, 0), Birth::Waits(_)));
    }
}
