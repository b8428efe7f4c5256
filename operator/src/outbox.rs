//! What a keeper's word asks to be written, and when: only differences, a status now and then, nothing for a while after a
//! write that failed. A value; who writes is [`crate::publish`], or a simulation.

use crate::observe::Asked;
use crate::plan::{Note, Roles};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two writes of the status: what changes in between is written once. Roles are written at once.
const INTERVAL: Duration = Duration::from_millis(200);
/// After a write that failed.
const BACKOFF: Duration = Duration::from_secs(1);
/// Events that wait for an API server that is away; the oldest are dropped beyond that.
const MAX_EVENTS: usize = 64;
/// The store is read so often: somebody may have written over its status, or asked for the same thing again so soon that
/// nobody noticed.
pub const LOOK: Duration = Duration::from_secs(300);

/// A keeper's word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    /// The roles; the labels follow them.
    pub roles: Roles,
    /// The status.
    pub status: ReplicatedStoreStatus,
    /// What a person asked for and was answered: these annotations are removed.
    pub answered: Asked,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The role of a pod, unless there is another pod of that name.
    Label {
        /// The pod.
        pod: String,
        /// Its UID.
        uid: String,
        /// `primary` or `replica`.
        role: &'static str,
    },
    /// The status.
    Status(Box<ReplicatedStoreStatus>),
    /// An event.
    Event(Note),
    /// Take away an annotation of the store, unless it has another value now.
    Remove {
        /// The annotation.
        annotation: &'static str,
        /// The value that was answered.
        value: String,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Outbox {
    told: Publication,
    events: VecDeque<Note>,
    next_status: Instant,
    retry: Option<Instant>,
}

impl Outbox {
    /// For a store whose status was `told`.
    #[must_use]
    pub fn new(told: ReplicatedStoreStatus, now: Instant) -> Self {
        Self {
            told: Publication {
                status: told,
                ..Publication::default()
            },
            events: VecDeque::new(),
            next_status: now,
            retry: None,
        }
    }

    /// An event to write.
    pub fn push(&mut self, note: Note) {
        self.events.push_back(note);
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
    }

    /// What is to be written now, in this order. Whoever writes goes on after a failure, but for events: the later ones wait.
    pub fn due(&mut self, word: &Publication, now: Instant) -> Vec<Write> {
        // What is answered no more may be asked for, and answered, again.
        self.forget_answers(&word.answered, |_, answered| answered.is_none());
        if self.retry.is_some_and(|retry| now < retry) {
            return Vec::new();
        }
        self.retry = None;
        self.told.roles.retain(|pod, _| word.roles.contains_key(pod));
        let different = word.roles.iter().filter(|(pod, role)| self.told.roles.get(*pod) != Some(*role));
        let mut writes: Vec<Write> = different
            .map(|(pod, (uid, role))| Write::Label {
                pod: pod.clone(),
                uid: uid.clone(),
                role,
            })
            .collect();
        if word.status != self.told.status && now >= self.next_status {
            writes.push(Write::Status(Box::new(word.status.clone())));
            self.next_status = now + INTERVAL;
        }
        writes.extend(self.events.iter().cloned().map(Write::Event));
        let answers = word.answered.each().into_iter().zip(self.told.answered.each());
        writes.extend(answers.filter_map(|((annotation, answered), (_, before))| {
            let value = answered.clone().filter(|_| answered != before)?;
            Some(Write::Remove { annotation, value })
        }));
        writes
    }

    /// A write is done.
    pub fn done(&mut self, write: Write) {
        match write {
            Write::Label { pod, uid, role } => drop(self.told.roles.insert(pod, (uid, role))),
            Write::Status(status) => self.told.status = *status,
            Write::Event(_) => drop(self.events.pop_front()),
            Write::Remove { annotation, value } => {
                let mut each = self.told.answered.each_mut().into_iter();
                if let Some((_, told)) = each.find(|(name, _)| *name == annotation) {
                    *told = Some(value);
                }
            }
        }
    }

    /// Everything that was due was tried; `failed` if some of it was not written.
    pub fn round_ends(&mut self, failed: bool, now: Instant) {
        self.retry = failed.then(|| now + BACKOFF);
    }

    /// The store was read: what somebody else wrote over its status is written anew, and an annotation that is there again
    /// with the value that was answered is taken away again.
    pub fn found(&mut self, store: &ReplicatedStore) {
        let status = store.status.clone().unwrap_or_default();
        // As it is written: the API keeps times to the second.
        let text = |status: &ReplicatedStoreStatus| serde_json::to_string(status).expect("a status is plain data");
        if text(&status) != text(&self.told.status) {
            self.told.status = status;
        }
        self.forget_answers(&Asked::of(store), |told, asked| told == asked);
    }

    /// Forgets that it took requests away, where what was told and what is there now are so.
    fn forget_answers(&mut self, now: &Asked, forget: impl Fn(&Option<String>, &Option<String>) -> bool) {
        for ((_, told), (_, now)) in self.told.answered.each_mut().into_iter().zip(now.each()) {
            if forget(told, now) {
                *told = None;
            }
        }
    }

    /// When something is due although nothing is said.
    #[must_use]
    pub fn wakes_at(&self, word: &Publication) -> Option<Instant> {
        let waits = (word.status != self.told.status).then_some(self.next_status);
        self.retry.or(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::annotations;
    use serde_json::json;

    /// The store as it is read.
    fn store(status: ReplicatedStoreStatus, annotation: Option<(&str, &str)>) -> ReplicatedStore {
        let mut store = ReplicatedStore::new("s", serde_json::from_value(json!({})).unwrap());
        store.status = Some(status);
        store.metadata.annotations = annotation.map(|(name, value)| [(name.to_owned(), value.to_owned())].into());
        store
    }

    fn ready(shards: i32) -> ReplicatedStoreStatus {
        ReplicatedStoreStatus {
            ready_shards: shards,
            ..ReplicatedStoreStatus::default()
        }
    }

    fn label(pod: &str, role: &'static str) -> Write {
        Write::Label {
            pod: pod.to_owned(),
            uid: "u".to_owned(),
            role,
        }
    }

    fn word(role: &'static str, shards: i32) -> Publication {
        Publication {
            roles: [("s-0-0".to_owned(), ("u".to_owned(), role))].into(),
            status: ready(shards),
            answered: Asked::default(),
        }
    }

    #[test]
    fn differences_alone_are_due_and_a_status_only_now_and_then() {
        let now = Instant::now();
        let mut outbox = Outbox::new(ready(0), now);
        let first = outbox.due(&word("primary", 1), now);
        assert_eq!(first, [label("s-0-0", "primary"), Write::Status(Box::new(ready(1)))]);
        for write in first {
            outbox.done(write);
        }
        outbox.round_ends(false, now);
        assert_eq!(outbox.due(&word("primary", 1), now), []);
        let another = word("replica", 0);
        assert_eq!(outbox.due(&another, now), [label("s-0-0", "replica")], "the status has to wait");
        assert_eq!(outbox.wakes_at(&another), Some(now + INTERVAL));
        let later = outbox.due(&another, now + INTERVAL);
        assert_eq!(later[1], Write::Status(Box::new(ready(0))));
    }

    #[test]
    fn a_status_that_somebody_wiped_is_written_again() {
        let now = Instant::now();
        let mut outbox = Outbox::new(ready(1), now);
        let word = Publication {
            status: ready(1),
            ..Publication::default()
        };
        assert_eq!(outbox.due(&word, now), []);
        outbox.found(&store(ReplicatedStoreStatus::default(), None));
        assert_eq!(outbox.due(&word, now), [Write::Status(Box::new(ready(1)))]);
    }

    #[test]
    fn nothing_is_due_for_a_while_after_a_write_that_failed() {
        let now = Instant::now();
        let mut outbox = Outbox::new(ready(0), now);
        let word = word("primary", 1);
        assert_eq!(outbox.due(&word, now).len(), 2);
        outbox.round_ends(true, now);
        assert_eq!(outbox.due(&word, now + BACKOFF / 2), []);
        assert_eq!(outbox.wakes_at(&word), Some(now + BACKOFF));
        assert_eq!(outbox.due(&word, now + BACKOFF).len(), 2);
    }

    #[test]
    fn what_was_answered_is_taken_away_once_and_may_be_asked_for_again() {
        let now = Instant::now();
        let mut outbox = Outbox::new(ready(0), now);
        let with = |promote: Option<&str>| Publication {
            status: ready(0),
            answered: Asked {
                promote: promote.map(str::to_owned),
                ..Asked::default()
            },
            ..Publication::default()
        };
        let due = outbox.due(&with(Some("s-0-1")), now);
        assert_eq!(due.len(), 1);
        due.into_iter().for_each(|write| outbox.done(write));
        assert_eq!(outbox.due(&with(Some("s-0-1")), now), []);
        assert_eq!(outbox.due(&with(None), now), []);
        assert_eq!(outbox.due(&with(Some("s-0-1")), now).len(), 1);
    }

    #[test]
    fn what_was_asked_for_again_before_anybody_noticed_is_taken_away_too() {
        let now = Instant::now();
        let mut outbox = Outbox::new(ready(0), now);
        let word = Publication {
            status: ready(0),
            answered: Asked {
                promote: Some("s-0-1".to_owned()),
                ..Asked::default()
            },
            ..Publication::default()
        };
        let first = outbox.due(&word, now);
        first.clone().into_iter().for_each(|write| outbox.done(write));
        outbox.found(&store(ready(0), Some((annotations::PROMOTE, "s-0-2"))));
        assert_eq!(outbox.due(&word, now), [], "another pod is another request");
        outbox.found(&store(ready(0), Some((annotations::PROMOTE, "s-0-1"))));
        assert_eq!(outbox.due(&word, now), first);
    }
}
