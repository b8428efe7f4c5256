//! What a status remembers and nodes cannot tell anew: the last failover, and every loss that a person accepted. Several
//! operators may write it, each with a memory of its own, so what is stored and newer is adopted before anything is written:
//! a record is replaced by a newer one only, and a loss never vanishes. Pure.

use k8s_openapi::jiff::Timestamp;
use quorate_crds::{DataLoss, LastFailover, ReplicatedStoreStatus};

/// Acceptances of data loss that the status keeps.
pub const MAX_DATA_LOSSES: usize = 16;

/// Adopts what `stored` remembers and `own` does not, or has older. True if the last failover is another one now.
pub fn adopt(own: &mut ReplicatedStoreStatus, stored: &ReplicatedStoreStatus) -> bool {
    for loss in &stored.data_loss {
        remember(&mut own.data_loss, loss.clone());
    }
    let newer = stored
        .last_failover
        .as_ref()
        .filter(|theirs| own.last_failover.as_ref().is_none_or(|ours| is_newer(theirs, ours)));
    if let Some(newer) = newer {
        own.last_failover = Some(newer.clone());
    } else if let (Some(ours), Some(theirs)) = (&mut own.last_failover, &stored.last_failover)
        && (ours.shard, ours.epoch, &ours.promoted_at) == (theirs.shard, theirs.epoch, &theirs.promoted_at)
        && ours.lost.is_none()
    {
        // What it lost was found out after it was written down.
        ours.lost.clone_from(&theirs.lost);
    }
    newer.is_some()
}

/// Keeps a loss in its place by time; the oldest go beyond [`MAX_DATA_LOSSES`]. One of the same epoch is the same one.
pub fn remember(losses: &mut Vec<DataLoss>, loss: DataLoss) {
    if losses.iter().any(|known| (known.shard, known.epoch) == (loss.shard, loss.epoch)) {
        return;
    }
    losses.push(loss);
    losses.sort_by_key(|loss| (moment(&loss.at), loss.shard, loss.epoch));
    let beyond = losses.len().saturating_sub(MAX_DATA_LOSSES);
    losses.drain(..beyond);
}

/// Within a shard the epoch decides, whatever the clocks of two operators say; else the clock has to.
fn is_newer(theirs: &LastFailover, ours: &LastFailover) -> bool {
    let same_shard = theirs.shard == ours.shard && theirs.epoch > 0 && ours.epoch > 0;
    let order = |failover: &LastFailover| (if same_shard { failover.epoch } else { 0 }, moment(&failover.promoted_at));
    order(theirs) > order(ours)
}

/// None, which is before any moment, for what is no timestamp.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(shard: i32, epoch: i64, promoted_at: &str) -> LastFailover {
        LastFailover {
            shard,
            epoch,
            promoted_at: promoted_at.to_owned(),
            ..LastFailover::default()
        }
    }

    fn of(last_failover: LastFailover) -> ReplicatedStoreStatus {
        ReplicatedStoreStatus {
            last_failover: Some(last_failover),
            ..ReplicatedStoreStatus::default()
        }
    }

    fn loss(shard: i32, epoch: i64, at: &str) -> DataLoss {
        DataLoss {
            shard,
            epoch,
            at: at.to_owned(),
            reason: "r".to_owned(),
        }
    }

    const EARLY: &str = "2026-01-01T00:00:00.000Z";
    const LATE: &str = "2026-01-01T00:00:00.001Z";

    #[test]
    fn a_failover_that_another_operator_wrote_is_adopted_if_it_is_newer_and_only_then() {
        let mut own = ReplicatedStoreStatus::default();
        assert!(adopt(&mut own, &of(failover(0, 2, EARLY))), "the first one that is known");
        assert!(adopt(&mut own, &of(failover(0, 3, LATE))));
        assert!(!adopt(&mut own, &of(failover(0, 3, LATE))), "the same one again");
        assert!(!adopt(&mut own, &of(failover(0, 2, EARLY))), "an older one");
        assert!(!adopt(&mut own, &ReplicatedStoreStatus::default()), "a status that was wiped");
        assert_eq!(own.last_failover, Some(failover(0, 3, LATE)));
    }

    #[test]
    fn the_epoch_decides_within_a_shard_whatever_the_clocks_say() {
        let mut own = of(failover(0, 3, EARLY));
        assert!(!adopt(&mut own, &of(failover(0, 2, LATE))));
        assert!(
            adopt(&mut own, &of(failover(1, 2, LATE))),
            "epochs of two shards say nothing of each other"
        );
        assert!(adopt(&mut own, &of(failover(1, 3, EARLY))));
        let mut own = of(failover(0, 0, EARLY));
        assert!(
            adopt(&mut own, &of(failover(0, 0, LATE))),
            "records of before epochs were written down"
        );
    }

    #[test]
    fn losses_of_two_operators_are_kept_together_in_their_order_and_each_once() {
        let mut own = ReplicatedStoreStatus {
            data_loss: vec![loss(0, 5, LATE)],
            ..ReplicatedStoreStatus::default()
        };
        let stored = ReplicatedStoreStatus {
            data_loss: vec![loss(0, 3, EARLY), loss(0, 5, LATE), loss(1, 5, LATE)],
            ..ReplicatedStoreStatus::default()
        };
        assert!(!adopt(&mut own, &stored));
        assert_eq!(own.data_loss, [loss(0, 3, EARLY), loss(0, 5, LATE), loss(1, 5, LATE)]);
        assert!(!adopt(&mut own, &ReplicatedStoreStatus::default()), "a status that was wiped");
        assert_eq!(own.data_loss.len(), 3);
    }

    #[test]
    fn the_oldest_losses_go_first() {
        let mut losses = Vec::new();
        for epoch in (1..=20).rev() {
            remember(&mut losses, loss(0, epoch, &format!("2026-01-01T00:00:{epoch:02}Z")));
        }
        let epochs: Vec<i64> = losses.iter().map(|loss| loss.epoch).collect();
        assert_eq!(epochs, (5..=20).collect::<Vec<i64>>());
    }
}
