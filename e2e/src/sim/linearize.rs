//! Decides whether what clients saw of one register could have happened one operation after another.
//!
//! The search is Wing and Gong's, with Lowe's memory of states already tried: operations are put in order one by one;
//! each takes effect between its call and its return, and one whose outcome is unknown at any time after its call, or
//! never. Values are unique, so an unknown write that nobody saw is left out: that it never happened is always possible.
//!
//! Source: G. Lowe, "Testing for linearizability", Concurrency and Computation 29(4), 2017.

use std::collections::{BTreeSet, HashSet};

/// What an operation did, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Saw a value: a read, or a compare-and-set that did not apply.
    Saw(u64),
    /// Wrote a value.
    Wrote(u64),
    /// Found the first value and set the second.
    Swapped(u64, u64),
    /// Perhaps wrote a value, at some time.
    MayHaveWritten(u64),
    /// Perhaps found the first value and set the second.
    MayHaveSwapped(u64, u64),
}

/// One operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was called.
    pub called: u64,
    /// When its client knew the outcome. Of no meaning for those that may have happened.
    pub returned: u64,
    /// What it did.
    pub did: Did,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. The operation, by its place in the history, that could not be reached.
    Not(usize),
    /// The search was given up.
    Undecided,
}

/// States that are tried before the search is given up. Histories without a fault need about one for each operation.
const MAX_STATES: usize = 2_000_000;

impl Operation {
    fn required(&self) -> bool {
        !matches!(self.did, Did::MayHaveWritten(_) | Did::MayHaveSwapped(..))
    }

    /// The value after it, if it may take effect on `value`.
    fn apply(&self, value: u64) -> Option<u64> {
        match self.did {
            Did::Saw(seen) => (seen == value).then_some(value),
            Did::Wrote(new) | Did::MayHaveWritten(new) => Some(new),
            Did::Swapped(expected, new) | Did::MayHaveSwapped(expected, new) => (expected == value).then_some(new),
        }
    }
}

/// Leaves out what may have happened and was not seen by anybody.
fn relevant(history: &[Operation]) -> Vec<(usize, Operation)> {
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    for operation in history {
        if let Did::Saw(value) | Did::Swapped(value, _) = operation.did {
            seen.insert(value);
        }
    }
    loop {
        let before = seen.len();
        for operation in history {
            if let Did::MayHaveSwapped(expected, new) = operation.did
                && seen.contains(&new)
            {
                seen.insert(expected);
            }
        }
        if seen.len() == before {
            break;
        }
    }
    let kept = |operation: &Operation| match operation.did {
        Did::MayHaveWritten(new) | Did::MayHaveSwapped(_, new) => seen.contains(&new),
        Did::Saw(_) | Did::Wrote(_) | Did::Swapped(..) => true,
    };
    history
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, operation)| kept(operation))
        .collect()
}

/// Searches an order for the operations on one register that holds `initial` at first.
#[must_use]
pub fn check(initial: u64, history: &[Operation]) -> Verdict {
    let mut operations = relevant(history);
    operations.sort_by_key(|(_, operation)| operation.called);
    Search::new(&operations).run(initial)
}

/// The operations not ordered yet, in order of their calls, as a linked list: taking one out and putting it back is cheap.
struct Search<'a> {
    operations: &'a [(usize, Operation)],
    next: Vec<usize>,
    previous: Vec<usize>,
    ordered: Vec<u64>,
    required_left: usize,
    /// The operation that the deepest attempt got stuck at.
    deepest: (usize, usize),
}

impl<'a> Search<'a> {
    fn new(operations: &'a [(usize, Operation)]) -> Self {
        let end = operations.len();
        Self {
            operations,
            // The place `end` is both the head and the tail.
            next: (1..=end).chain([0]).collect(),
            previous: [end].into_iter().chain(0..end).collect(),
            ordered: vec![0; end.div_ceil(64)],
            required_left: operations.iter().filter(|(_, operation)| operation.required()).count(),
            deepest: (usize::MAX, 0),
        }
    }

    fn take(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = after;
        self.previous[after] = before;
        self.ordered[place / 64] |= 1 << (place % 64);
        self.required_left -= usize::from(self.operations[place].1.required());
    }

    fn put_back(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = place;
        self.previous[after] = place;
        self.ordered[place / 64] &= !(1 << (place % 64));
        self.required_left += usize::from(self.operations[place].1.required());
    }

    fn run(mut self, initial: u64) -> Verdict {
        let end = self.operations.len();
        let mut tried: HashSet<(usize, Vec<u64>, u64)> = HashSet::new();
        // Place, value before it, and the greatest place that was taken before it.
        let mut taken: Vec<(usize, u64, usize)> = Vec::new();
        let mut greatest = 0;
        let mut value = initial;
        let mut place = if end == 0 { end } else { self.next[end] };
        // The earliest return among the operations passed over: what was called after it cannot come first.
        let mut bound = u64::MAX;
        while self.required_left > 0 {
            let candidate = (place < end).then(|| self.operations[place].1).filter(|o| o.called <= bound);
            if let Some(operation) = candidate {
                if let Some(after) = operation.apply(value) {
                    self.take(place);
                    if tried.insert(self.state(greatest.max(place), after)) {
                        if tried.len() > MAX_STATES {
                            return Verdict::Undecided;
                        }
                        taken.push((place, value, greatest));
                        greatest = greatest.max(place);
                        (value, place, bound) = (after, self.next[end], u64::MAX);
                        continue;
                    }
                    self.put_back(place);
                }
                if operation.required() {
                    bound = bound.min(operation.returned);
                }
                place = self.next[place];
                continue;
            }
            if self.required_left < self.deepest.0 {
                self.deepest = (self.required_left, self.first_required());
            }
            let Some((last, before, greatest_before)) = taken.pop() else {
                return Verdict::Not(self.deepest.1);
            };
            self.put_back(last);
            (value, greatest) = (before, greatest_before);
            place = self.next[last];
            bound = self.earliest_return_before(last);
        }
        Verdict::Linearizable
    }

    /// Which operations are ordered, as short as can be said: all before the first word are, none behind the last.
    fn state(&self, greatest: usize, value: u64) -> (usize, Vec<u64>, u64) {
        let first = self.next[self.operations.len()].min(greatest) / 64;
        (first, self.ordered[first..=greatest / 64].to_vec(), value)
    }

    fn first_required(&self) -> usize {
        let end = self.operations.len();
        let mut place = self.next[end];
        let mut first: Option<usize> = None;
        while place < end {
            let operation = &self.operations[place].1;
            if operation.required() && first.is_none_or(|f| operation.returned < self.operations[f].1.returned) {
                first = Some(place);
            }
            place = self.next[place];
        }
        first.map_or(0, |place| self.operations[place].0)
    }

    /// The bound as the walk from the head had it when it came past `last`.
    fn earliest_return_before(&self, last: usize) -> u64 {
        let end = self.operations.len();
        let mut place = self.next[end];
        let mut bound = u64::MAX;
        loop {
            let operation = &self.operations[place].1;
            if operation.required() {
                bound = bound.min(operation.returned);
            }
            if place == last {
                return bound;
            }
            place = self.next[place];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called: u64, returned: u64, did: Did) -> Operation {
        Operation { called, returned, did }
    }

    #[test]
    fn operations_one_after_another_are_linearizable_only_in_their_order() {
        use Did::{Saw, Swapped, Wrote};
        let good = [
            operation(1, 2, Wrote(5)),
            operation(3, 4, Saw(5)),
            operation(5, 6, Swapped(5, 7)),
            operation(7, 8, Saw(7)),
        ];
        assert_eq!(check(0, &good), Verdict::Linearizable);
        let stale = [operation(1, 2, Wrote(5)), operation(3, 4, Wrote(6)), operation(5, 6, Saw(5))];
        assert_eq!(check(0, &stale), Verdict::Not(2));
    }

    #[test]
    fn concurrent_operations_take_any_order_but_only_one() {
        use Did::{Saw, Wrote};
        let both = [operation(1, 10, Wrote(5)), operation(1, 10, Wrote(6)), operation(11, 12, Saw(5))];
        assert_eq!(check(0, &both), Verdict::Linearizable);
        let mut flip = both.to_vec();
        flip.push(operation(13, 14, Saw(6)));
        assert!(matches!(check(0, &flip), Verdict::Not(_)));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_or_never_but_once() {
        use Did::{MayHaveWritten, Saw, Wrote};
        let late = [
            operation(1, 0, MayHaveWritten(5)),
            operation(2, 3, Wrote(6)),
            operation(4, 5, Saw(6)),
            operation(6, 7, Saw(5)),
        ];
        assert_eq!(check(0, &late), Verdict::Linearizable);
        assert_eq!(check(0, &late[..3]), Verdict::Linearizable);
        let mut twice = late.to_vec();
        twice.push(operation(8, 9, Saw(6)));
        assert!(matches!(check(0, &twice), Verdict::Not(_)));
        let early = [operation(1, 2, Saw(5)), operation(3, 0, MayHaveWritten(5))];
        assert!(matches!(check(0, &early), Verdict::Not(_)));
    }

    #[test]
    fn an_unknown_swap_counts_if_its_value_was_seen_and_needs_the_one_it_expected() {
        use Did::{MayHaveSwapped, MayHaveWritten, Saw};
        let chain = [
            operation(1, 0, MayHaveWritten(5)),
            operation(2, 0, MayHaveSwapped(5, 6)),
            operation(3, 4, Saw(6)),
        ];
        assert_eq!(check(0, &chain), Verdict::Linearizable);
        assert!(matches!(check(0, &chain[1..]), Verdict::Not(_)));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_seen_through() {
        assert_eq!(check(0, &[operation(1, 2, Did::Saw(9))]), Verdict::Not(0));
    }

    #[test]
    fn a_long_history_takes_about_one_state_for_each_operation() {
        // Eight clients that overlap all the time, 20,000 operations: a search that is not linear would be given up.
        let history: Vec<Operation> = (0..20_000u64)
            .map(|n| {
                let did = if n % 2 == 0 { Did::Wrote(n + 1) } else { Did::Saw(n) };
                operation(n * 10, n * 10 + 75, did)
            })
            .collect();
        assert_eq!(check(0, &history), Verdict::Linearizable);
    }
}
