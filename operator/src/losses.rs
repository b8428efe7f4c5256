//! What a failover lost, where acknowledged does not mean committed: an estimate when it happens, from the last word of the
//! primary before, and the exact number when that one comes back and its log is cut. Pure.

use crate::observe::Observed;
use quorate_api::{CutTail, NodeStatus};
use quorate_crds::{LastFailover, LostWrites};

/// Entries that the pod `from` had acknowledged, by its last word, beyond the log that the epoch start at `start` follows.
/// None where nothing that was acknowledged can be lost, or where that pod never spoke.
#[must_use]
pub fn lag(members: &[Observed], from: Option<&str>, start: u64) -> Option<i64> {
    let status = of(members, from?)?;
    let (_, configuration) = status.configuration.as_ref()?;
    let lag = status.acknowledged.saturating_sub(start.saturating_sub(1));
    configuration
        .quorum()
        .failover_loses()
        .then(|| i64::try_from(lag).unwrap_or(i64::MAX))
}

fn of<'a>(members: &'a [Observed], pod: &str) -> Option<&'a NodeStatus> {
    members.iter().find(|member| member.pod == pod)?.status.as_ref()
}

/// The last failover as it is to be told now: with what it lost, once the primary before has said.
#[must_use]
pub fn completed(told: Option<&LastFailover>, members: &[Observed]) -> Option<LastFailover> {
    let mut failover = told?.clone();
    let epoch = u64::try_from(failover.epoch).unwrap_or_default();
    // One that was told stays told, also when the file was taken away. A failover of a strong store loses nothing.
    if failover.lost.is_none() && failover.lag_entries.is_some() && epoch > 0 {
        failover.lost = failover.from.as_deref().and_then(|pod| lost(members, pod, epoch));
    }
    Some(failover)
}

/// What was lost when `epoch` began, once the log of `from`, which was primary before, was compared with that of a later primary.
/// A follower may have held a part of it, and keeps that too: the longest tail is told.
fn lost(members: &[Observed], from: &str, epoch: u64) -> Option<LostWrites> {
    let int = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let of_it = |tail: &&CutTail| tail.last.epoch.number < epoch && epoch <= tail.epoch.number;
    let status = of(members, from)?;
    let compared = status.tails.iter().any(|tail| of_it(&tail)) || status.last.epoch.number >= epoch;
    let tails = members
        .iter()
        .filter_map(|member| Some((&member.pod, member.status.as_ref()?)))
        .flat_map(|(pod, status)| status.tails.iter().filter(of_it).map(move |tail| (pod, tail)));
    let longest = tails.filter(|_| compared).max_by_key(|(_, tail)| (tail.last, tail.entries));
    if let Some((pod, tail)) = longest {
        return Some(LostWrites {
            entries: int(tail.entries),
            writes: int(tail.writes),
            exact: tail.exact,
            pod: pod.clone(),
            file: Some(tail.file.clone()),
        });
    }
    compared.then(|| LostWrites {
        exact: true,
        pod: from.to_owned(),
        ..LostWrites::default()
    })
}

/// What people are told when the exact number is known.
#[must_use]
pub fn in_words(before: Option<&LastFailover>, after: Option<&LastFailover>) -> Option<String> {
    let after = after?;
    let lost = after.lost.as_ref().filter(|lost| lost.entries > 0)?;
    let known = before.is_some_and(|before| before.epoch == after.epoch && before.lost.is_some());
    let LostWrites {
        entries,
        writes,
        exact,
        pod,
        file,
    } = lost;
    let bound = if *exact { "" } else { "at most " };
    (!known).then(|| {
        format!(
            "the failover to epoch {} lost {bound}{writes} acknowledged writes in {entries} log entries, which {pod} had alone: they are \
             kept aside in tails/{} of its volume",
            after.epoch,
            file.as_deref().unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{epoch, status, well};
    use quorate_api::{EntryId, Quorum};
    use std::time::Instant;

    fn entry(number: u64, index: u64) -> EntryId {
        EntryId {
            epoch: epoch(number),
            index,
        }
    }

    fn failover(lag_entries: Option<i64>) -> LastFailover {
        LastFailover {
            from: Some("orders-0-0".to_owned()),
            epoch: 2,
            lag_entries,
            ..LastFailover::default()
        }
    }

    #[test]
    fn the_lag_is_what_the_old_primary_had_acknowledged_by_its_last_word_beyond_the_new_ones_log() {
        let mut members = well(Quorum::eventual(3), Instant::now());
        status(&mut members[0]).acknowledged = 40;
        assert_eq!(lag(&members, Some("orders-0-0"), 31), Some(10));
        assert_eq!(lag(&members, Some("orders-0-0"), 90), Some(0));
        assert_eq!(lag(&members, None, 31), None);
        let mut strong = well(Quorum::majority(3), Instant::now());
        status(&mut strong[0]).acknowledged = 40;
        assert_eq!(lag(&strong, Some("orders-0-0"), 31), None, "nothing can be lost");
    }

    #[test]
    fn what_was_lost_is_told_once_and_exactly_when_the_old_primary_is_back() {
        let mut members = well(Quorum::eventual(3), Instant::now());
        let told = failover(Some(10));
        assert_eq!(completed(Some(&told), &members), Some(told.clone()), "its log was not looked at");
        let mut whole = members.clone();
        status(&mut whole[0]).last = entry(2, 31);
        let nothing = completed(Some(&told), &whole).unwrap();
        assert_eq!(nothing.lost.as_ref().map(|lost| (lost.entries, lost.exact)), Some((0, true)));
        assert_eq!(in_words(Some(&told), Some(&nothing)), None);
        status(&mut members[0]).tails = vec![CutTail {
            first: entry(1, 31),
            last: entry(1, 42),
            epoch: epoch(2),
            entries: 12,
            writes: 30,
            exact: true,
            file: "tail-1-31-42.log".to_owned(),
        }];
        let after = completed(Some(&told), &members);
        let words = in_words(Some(&told), after.as_ref()).unwrap();
        assert!(words.contains("lost 30 acknowledged writes in 12 log entries"), "{words}");
        assert_eq!(in_words(after.as_ref(), after.as_ref()), None, "told once");
        assert_eq!(completed(Some(&failover(None)), &members), Some(failover(None)), "a strong store");
    }
}
