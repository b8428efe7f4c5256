//! Who waits to hear that a key changes. Costs nothing for keys that nobody watches.

use super::slot::Key;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Forgotten ones are looked for when there are so many, and at each doubling.
const SWEEP_AT: usize = 64;

/// Says whether a key changed since it was made. Also true once the whole state was replaced.
#[derive(Clone, Debug)]
pub struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Whether the key changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// All watches on one state. When it is dropped, nobody can tell any more what changed: every watch then says that its key did.
#[derive(Debug, Default)]
pub(super) struct Watches {
    keys: HashMap<Key, Weak<AtomicBool>>,
    sweep_at: usize,
}

impl Watches {
    pub(super) fn watch(&mut self, key: &[u8]) -> Watch {
        if self.keys.len() >= self.sweep_at.max(SWEEP_AT) {
            self.keys.retain(|_, watch| watch.strong_count() > 0);
            self.sweep_at = 2 * self.keys.len();
        }
        if let Some(watch) = self.keys.get(key).and_then(Weak::upgrade) {
            return Watch(watch);
        }
        let watch = Arc::new(AtomicBool::new(false));
        self.keys.insert(Key::from_slice(key), Arc::downgrade(&watch));
        Watch(watch)
    }

    /// The key changes.
    pub(super) fn touch(&mut self, key: &[u8]) {
        if !self.keys.is_empty()
            && let Some(watch) = self.keys.remove(key)
        {
            tell(&watch);
        }
    }

    /// Keys change for which `changes` holds.
    pub(super) fn touch_if(&mut self, changes: impl Fn(&[u8]) -> bool) {
        self.keys.retain(|key, watch| {
            let gone = changes(key);
            if gone {
                tell(watch);
            }
            !gone
        });
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.keys.values().for_each(tell);
    }
}

fn tell(watch: &Weak<AtomicBool>) {
    if let Some(watch) = watch.upgrade() {
        watch.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_tells_of_its_key_alone_and_of_the_end_of_the_state() {
        let mut watches = Watches::default();
        let (a, b, c) = (watches.watch(b"a"), watches.watch(b"b"), watches.watch(b"c"));
        watches.touch(b"a");
        watches.touch_if(|key| key == b"c");
        assert_eq!((a.changed(), b.changed(), c.changed()), (true, false, true));
        assert!(!watches.watch(b"a").changed(), "what changed before is not told");
        drop(watches);
        assert!(b.changed());
    }

    #[test]
    fn watches_that_nobody_holds_are_forgotten() {
        let mut watches = Watches::default();
        for number in 0..1000u32 {
            watches.watch(&number.to_be_bytes());
        }
        assert!(watches.keys.len() <= 2 * SWEEP_AT, "{}", watches.keys.len());
    }
}
