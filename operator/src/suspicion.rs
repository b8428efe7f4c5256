//! Whether a suspicion was right: the other half of what a failure detector is judged by, beside how fast it is.
//!
//! A suspicion is *a primary found lost*: one for each primary and epoch, however often its failover is tried. It is *false*
//! if the process that was the primary is heard again and lived through the moment of the suspicion, and nobody had told it to
//! stop. What made it silent does not matter: a process that stood still, a machine without time, a network that was cut.
//! A process that ended and was started again is another one: that suspicion was right. A primary that the operator heard and
//! that was cut off from its members, or served no more, was no matter of suspicion and is not counted at all.
//!
//! Two monotonic clocks are compared, never two machines' wall clocks: the node's own ("I have run for so long") and this
//! operator's. Pure.

use crate::observe::Observed;
use quorate_api::{Incarnation, NodeStatus};
use std::time::{Duration, Instant};

/// A primary that was found lost, and what was known of it then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspicion {
    primary: Incarnation,
    at: Instant,
    /// When it was heard last, and how long it had run then.
    heard: Instant,
    uptime: Duration,
}

/// The suspicions of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicions {
    /// The primary and the epoch that were suspected last.
    last: Option<(Incarnation, u64)>,
    /// Of which it is not known yet whether it was right.
    open: Option<Suspicion>,
}

impl Suspicions {
    /// A failover of the primary in that pod begins. True if that is a suspicion that was not counted before.
    pub fn suspect(&mut self, pod: &str, members: &[Observed], suspect_after: Duration, now: Instant) -> bool {
        let Some(member) = members.iter().find(|member| member.pod == pod) else {
            return false;
        };
        let (Some(status), Some(heard)) = (&member.status, member.heard) else {
            return false;
        };
        let epoch = status.primary.as_ref().map_or(0, |view| view.epoch.number);
        // What it says itself is no suspicion.
        if member.fresh(now, suspect_after).is_some() || self.last == Some((status.id.incarnation, epoch)) {
            return false;
        }
        self.last = Some((status.id.incarnation, epoch));
        self.open = Some(Suspicion {
            primary: status.id.incarnation,
            at: now,
            heard,
            uptime: uptime(status),
        });
        true
    }

    /// Whether there is one of which it is not known yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Looks whether the suspected one was alive. If so: for how long it was suspected wrongly. Says so once.
    pub fn judge(&mut self, members: &[Observed]) -> Option<Duration> {
        let suspicion = self.open.as_ref()?;
        let member = members.iter().find(|member| member.incarnation() == Some(suspicion.primary))?;
        let (status, heard) = (member.status.as_ref()?, member.heard?);
        // Older nodes do not tell how long they have run.
        if heard <= suspicion.at || status.uptime_millis == 0 {
            return None;
        }
        let began = heard.checked_sub(uptime(status));
        let same = began.is_some_and(|began| began <= suspicion.heard);
        // A word that was under way for long, of one that has died since, says nothing yet.
        if same && uptime(status).saturating_sub(suspicion.uptime) < suspicion.at - suspicion.heard {
            return None;
        }
        let wrongly = heard - suspicion.at;
        self.open = None;
        (same && !status.terminating).then_some(wrongly)
    }
}

fn uptime(status: &NodeStatus) -> Duration {
    Duration::from_millis(status.uptime_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LIMIT, epoch, status, unheard, well};
    use quorate_api::Quorum;

    const RUN: u64 = 60_000;

    /// A primary that has run for a minute and was heard a second and a bit ago, and the moment.
    fn silent() -> (Vec<Observed>, Instant) {
        let begin = Instant::now() + Duration::from_secs(100);
        let mut group = well(Quorum::majority(3), begin);
        status(&mut group[0]).uptime_millis = RUN;
        (group, begin + Duration::from_millis(1100))
    }

    fn suspected() -> (Suspicions, Vec<Observed>, Instant) {
        let (group, now) = silent();
        let mut suspicions = Suspicions::default();
        assert!(suspicions.suspect("orders-0-0", &group, LIMIT, now));
        (suspicions, group, now)
    }

    /// It is heard `after` the suspicion and says that it has run so long.
    fn heard(group: &mut [Observed], now: Instant, after: u64, uptime_millis: u64) {
        group[0].heard = Some(now + Duration::from_millis(after));
        status(&mut group[0]).uptime_millis = uptime_millis;
    }

    #[test]
    fn a_primary_that_stood_still_and_goes_on_was_suspected_wrongly() {
        let (mut suspicions, mut group, now) = suspected();
        assert_eq!(suspicions.judge(&group), None, "it is still silent");
        heard(&mut group, now, 900, RUN + 2000);
        assert_eq!(suspicions.judge(&group), Some(Duration::from_millis(900)));
        assert_eq!(suspicions.judge(&group), None, "and that is counted once");
    }

    #[test]
    fn a_primary_that_died_and_was_started_again_was_suspected_rightly() {
        let (mut suspicions, mut group, now) = suspected();
        heard(&mut group, now, 900, 300);
        assert_eq!(suspicions.judge(&group), None);
        let (mut suspicions, mut group, now) = suspected();
        heard(&mut group, now, 3_600_000, 3_599_000);
        assert_eq!(suspicions.judge(&group), None, "however long the new process has run since");
    }

    #[test]
    fn a_word_that_was_under_way_for_long_shows_nothing_until_the_next_one() {
        let (mut suspicions, mut group, now) = suspected();
        heard(&mut group, now, 10, RUN + 200);
        assert_eq!(suspicions.judge(&group), None, "it said that before it was suspected");
        heard(&mut group, now, 400, RUN + 1500);
        assert_eq!(suspicions.judge(&group), Some(Duration::from_millis(400)));
    }

    #[test]
    fn a_primary_that_was_told_to_stop_was_no_mistake() {
        let (mut suspicions, mut group, now) = suspected();
        heard(&mut group, now, 900, RUN + 2000);
        status(&mut group[0]).terminating = true;
        assert_eq!(suspicions.judge(&group), None);
    }

    #[test]
    fn a_failover_that_is_tried_again_is_one_suspicion_and_one_of_a_later_epoch_another() {
        let (mut suspicions, mut group, now) = suspected();
        assert!(!suspicions.suspect("orders-0-0", &group, LIMIT, now + Duration::from_millis(100)));
        status(&mut group[0]).primary.as_mut().unwrap().epoch = epoch(2);
        assert!(suspicions.suspect("orders-0-0", &group, LIMIT, now + Duration::from_millis(100)));
    }

    #[test]
    fn what_a_primary_says_itself_is_no_suspicion() {
        let (mut group, now) = silent();
        group[0].heard = Some(now);
        assert!(!Suspicions::default().suspect("orders-0-0", &group, LIMIT, now));
        unheard(&mut group[0]);
        assert!(
            Suspicions::default().suspect("orders-0-0", &group, LIMIT, now),
            "its connection was reset"
        );
    }

    #[test]
    fn nothing_is_said_of_a_node_that_does_not_tell_how_long_it_has_run() {
        let (mut suspicions, mut group, now) = suspected();
        heard(&mut group, now, 900, 0);
        assert_eq!(suspicions.judge(&group), None);
    }
}
