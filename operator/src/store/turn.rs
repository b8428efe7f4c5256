//! Which shard may restart a pod for an update: one at a time, the lowest first, and only while all others are well. So no more
//! than one shard of a store has a replica less for it. Pure.

use super::Word;
use quorate_crds::conditions::READY;
use std::collections::BTreeMap;

/// Why no pod of `shard` that runs may be restarted now; None if nothing speaks against it. `words` is what the keepers said last.
#[must_use]
pub fn turn(words: &BTreeMap<u32, Word>, shard: u32) -> Option<String> {
    let others = || words.iter().filter(|(index, _)| **index != shard);
    if let Some((first, _)) = others().find(|(index, word)| **index < shard && is_updated(word)) {
        return Some(format!("shard {first} is updated first"));
    }
    let (unwell, _) = others().find(|(_, word)| !is_well(word))?;
    Some(format!("shard {unwell} is not ready"))
}

fn is_updated(word: &Word) -> bool {
    word.publication.status.shards.iter().any(|shard| shard.update.is_some())
}

fn is_well(word: &Word) -> bool {
    let mut conditions = word.publication.status.conditions.iter();
    let ready = conditions.any(|condition| condition.type_ == READY && condition.status == "True");
    word.spoken && ready && word.view.replicas.iter().all(|replica| replica.heard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Publication;
    use crate::report::condition;
    use crate::store::View;
    use crate::testing::{LIMIT, unheard, well};
    use k8s_openapi::jiff::Timestamp;
    use quorate_api::Quorum;
    use quorate_crds::{ReplicatedStoreStatus, ShardStatus, ShardUpdate};
    use std::time::Instant;

    fn word(ready: bool, updates: bool, silent: bool) -> Word {
        let now = Instant::now();
        let mut members = well(Quorum::strong(3, 2, 2), now);
        if silent {
            unheard(&mut members[2]);
        }
        let none = ReplicatedStoreStatus::default();
        let said = condition(&none, READY, (ready, "Some", String::new()), Timestamp::UNIX_EPOCH, 1);
        let update = updates.then(ShardUpdate::default);
        Word {
            spoken: true,
            publication: Publication {
                status: ReplicatedStoreStatus {
                    conditions: vec![said],
                    shards: vec![ShardStatus {
                        update,
                        ..ShardStatus::default()
                    }],
                    ..none
                },
                ..Publication::default()
            },
            view: View::of(&members, None, now, LIMIT),
            ..Word::default()
        }
    }

    fn turns(words: impl IntoIterator<Item = Word>) -> Vec<bool> {
        let words: BTreeMap<u32, Word> = (0..).zip(words).collect();
        words.keys().map(|shard| turn(&words, *shard).is_none()).collect()
    }

    #[test]
    fn one_shard_after_the_other_restarts_pods_while_all_others_are_well() {
        let (well, updates) = (|| word(true, false, false), || word(true, true, false));
        assert_eq!(turns([updates()]), [true], "a store of one shard asks nobody");
        assert_eq!(turns([updates(), updates(), updates()]), [true, false, false]);
        assert_eq!(turns([well(), updates(), updates()])[1..], [true, false]);
        let restarts = word(false, true, true);
        assert_eq!(turns([restarts, updates()]), [true, false], "one that is not ready goes on itself");
        assert!(!turns([updates(), word(false, false, false)])[0]);
        assert!(!turns([updates(), word(true, false, true)])[0], "a replica is not heard");
    }
}
