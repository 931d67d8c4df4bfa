//! What must outlive the entry actor: the counters of attempts and stagings, and which of them are in flight.
//!
//! Lives in the handle, not in the actor. The lowest attempt in flight is this node's low-water mark: every
//! batch carries it, and below it every node forgets outcomes. It may therefore never pass an attempt for which
//! a caller still waits, also across a restart of the actor.
//!
//! A caller waits until its deadline, and not longer: a future that is kept and not polled does not hold the mark for
//! ever. What comes of its attempt afterwards is refused by apply as superseded, and unknown to the caller. And so many
//! attempts may begin since the oldest in flight, and no more: every node keeps their outcomes.
//!
//! Stagings have a mark of their own, for a load takes long, and would hold the outcomes of all appends beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use converge_ledger_core::planted::{self, Bug};
use tokio::time::Instant;

/// Attempts and stagings of this node in this boot.
#[derive(Debug, Default)]
pub(super) struct Origin {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// The first counter of each attempt, with the deadline of its caller.
    in_flight: BTreeMap<u64, Instant>,
    last_staging: u64,
    stagings: BTreeSet<u64>,
    /// Attempts were refused since the last one began.
    held_up: bool,
}

/// What a batch says of its node: nothing below is in flight, nor will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) low_water: u64,
    pub(super) low_staging: u64,
}

impl Inner {
    fn low_water(&mut self, now: Instant) -> u64 {
        while let Some(oldest) = self.in_flight.first_entry().filter(|oldest| *oldest.get() < now) {
            oldest.remove();
        }
        self.in_flight.keys().next().copied().unwrap_or(self.last + 1)
    }
}

impl Origin {
    /// A new attempt of so many commands, in flight until it is dropped or its caller's deadline passes; none when more
    /// than `attempts_max` commands began since the oldest.
    pub(super) fn begin(self: &Arc<Self>, commands: u64, deadline: Instant, attempts_max: u64) -> Option<Attempt> {
        assert!(commands > 0, "an attempt is of something");
        let mut inner = self.lock();
        let oldest = inner.low_water(Instant::now());
        let counter = inner.last + 1;
        if counter + (commands - 1) - oldest >= attempts_max {
            if !std::mem::replace(&mut inner.held_up, true) {
                tracing::warn!(oldest, attempts_max, "as many attempts as may began since the oldest in flight");
            }
            return None;
        }
        inner.held_up = false;
        inner.last += commands;
        inner.in_flight.insert(counter, deadline);
        Some(Attempt { counter, commands, origin: self.clone() })
    }

    /// A new staging; in use until it is dropped.
    pub(super) fn begin_staging(self: &Arc<Self>) -> Staging {
        let mut inner = self.lock();
        inner.last_staging += 1;
        let number = inner.last_staging;
        inner.stagings.insert(number);
        Staging { number, origin: self.clone() }
    }

    /// Nothing below these is in flight, nor will be.
    pub(super) fn marks(&self) -> Marks {
        let mut inner = self.lock();
        let low_staging = inner.stagings.first().copied().unwrap_or(inner.last_staging + 1);
        let low_water = match planted::is(Bug::LowWaterPasses) {
            true => inner.last + 1,
            false => inner.low_water(Instant::now()),
        };
        Marks { low_water, low_staging }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// No attempt may begin until the oldest ends.
    pub(super) fn held_up(&self) -> bool {
        self.lock().held_up
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }
}

/// One attempt, of one command or of a group; its counters stay above the low-water mark while this lives, up to its
/// caller's deadline.
#[derive(Debug)]
pub struct Attempt {
    counter: u64,
    commands: u64,
    origin: Arc<Origin>,
}

impl Attempt {
    /// Its number within this node's boot: that of its first command.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The numbers of its commands.
    #[must_use]
    pub fn counters(&self) -> Range<u64> {
        self.counter..self.counter + self.commands
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.origin.lock().in_flight.remove(&self.counter);
    }
}

/// What one load stages; it is kept on every node while this lives.
#[derive(Debug)]
pub struct Staging {
    number: u64,
    origin: Arc<Origin>,
}

impl Staging {
    /// Its number within this node's boot.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.origin.lock().stagings.remove(&self.number);
    }
}

/// Who may still decide about a request: the caller, who can give up while nothing was handed over, or the
/// actor, who hands it over once. After that the only failure is *unknown*.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

const WAITING: u8 = 0;
const HANDED: u8 = 1;
const ABANDONED: u8 = 2;

impl Claim {
    /// The actor is about to hand the request over. False when the caller gave up before.
    pub(super) fn hand_over(&self) -> bool {
        let swapped = self.0.compare_exchange(WAITING, HANDED, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok() || swapped == Err(HANDED)
    }

    /// The caller gives up. True when nothing was handed over, and now nothing will be.
    pub(super) fn abandon(&self) -> bool {
        let swapped = self.0.compare_exchange(WAITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok() || swapped == Err(ABANDONED)
    }
}

/// Gives up when the caller's future is dropped.
pub(super) struct Abandon<'a>(pub(super) &'a Claim);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u64 = 100;

    fn later() -> Instant {
        Instant::now() + std::time::Duration::from_secs(10)
    }

    #[test]
    fn the_low_water_mark_never_passes_an_attempt_in_flight() {
        let origin = Arc::new(Origin::default());
        let low_water = || origin.marks().low_water;
        assert_eq!(low_water(), 1);
        let begin = || origin.begin(1, later(), MANY).unwrap();
        let (first, second) = (begin(), begin());
        assert_eq!((first.counter(), second.counter(), low_water()), (1, 2, 1));
        drop(second);
        assert_eq!(low_water(), 1, "the first still waits");
        drop(first);
        assert_eq!(low_water(), 3, "both are done, the next will be 3");
    }

    #[test]
    fn a_load_holds_what_it_stages_and_no_outcomes() {
        let origin = Arc::new(Origin::default());
        let (first, second) = (origin.begin_staging(), origin.begin_staging());
        assert_eq!((first.number(), second.number()), (1, 2));
        drop(origin.begin(1, later(), MANY).unwrap());
        assert_eq!(origin.marks(), Marks { low_water: 2, low_staging: 1 });
        drop(first);
        assert_eq!(origin.marks().low_staging, 2);
        drop(second);
        assert_eq!(origin.marks().low_staging, 3);
    }

    #[test]
    fn so_many_attempts_begin_since_the_oldest_and_no_more() {
        let origin = Arc::new(Origin::default());
        let kept = origin.begin(1, later(), MANY).unwrap();
        for _ in 1..MANY {
            drop(origin.begin(1, later(), MANY).unwrap());
        }
        assert!(origin.begin(1, later(), MANY).is_none());
        assert!(origin.held_up());
        drop(kept);
        assert!(origin.begin(1, later(), MANY).is_some());
        assert!(!origin.held_up());
    }

    #[test]
    fn a_group_is_one_attempt_of_many() {
        let origin = Arc::new(Origin::default());
        let begin = |commands| origin.begin(commands, later(), MANY);
        let (group, next) = (begin(60).unwrap(), begin(1).unwrap());
        assert_eq!((group.counters(), next.counters()), (1..61, 61..62));
        assert!(begin(40).is_none(), "they would be 101");
        let last = begin(39).unwrap();
        assert_eq!((last.counters(), origin.in_flight()), (62..101, 3));
        drop(next);
        assert_eq!(origin.marks().low_water, 1, "the group holds the mark with its first");
        drop(group);
        assert_eq!(origin.marks().low_water, 62);
        drop(last);
        assert_eq!(origin.marks().low_water, 101);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_nobody_polls_holds_the_mark_up_to_its_deadline() {
        let origin = Arc::new(Origin::default());
        let kept = origin.begin(1, later(), MANY).unwrap();
        for _ in 1..MANY {
            drop(origin.begin(1, later(), MANY).unwrap());
        }
        assert!(origin.begin(1, later(), MANY).is_none());
        tokio::time::advance(std::time::Duration::from_secs(11)).await;
        assert_eq!(origin.marks().low_water, MANY + 1);
        let next = origin.begin(1, later(), MANY).unwrap();
        drop(kept);
        assert_eq!(origin.marks().low_water, next.counter());
    }

    #[test]
    fn either_the_caller_gives_up_or_the_request_is_handed_over() {
        let claim = Claim::default();
        assert!(claim.abandon());
        assert!(!claim.hand_over());
        let claim = Claim::default();
        assert!(claim.hand_over());
        assert!(claim.hand_over(), "handed over again after a restart");
        assert!(!claim.abandon());
    }
}
