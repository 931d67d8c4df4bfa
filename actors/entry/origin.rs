//! What must outlive the entry actor: the counter of attempts, and which of them are in flight.
//!
//! Lives in the handle, not in the actor. The lowest attempt in flight is this node's low-water mark: every
//! batch carries it, and below it every node forgets outcomes. It may therefore never pass an attempt for which
//! a caller still waits, also across a restart of the actor.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use converge_ledger_core::planted::{self, Bug};

/// Attempts of this node in this boot.
#[derive(Debug, Default)]
pub(super) struct Origin {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    in_flight: BTreeSet<u64>,
}

impl Origin {
    /// A new attempt; in flight until it is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Attempt {
        let mut inner = self.lock();
        inner.last += 1;
        let counter = inner.last;
        inner.in_flight.insert(counter);
        Attempt { counter, origin: self.clone() }
    }

    /// Nothing below this is in flight, nor will be.
    pub(super) fn low_water(&self) -> u64 {
        let inner = self.lock();
        if planted::is(Bug::LowWaterPasses) {
            return inner.last + 1;
        }
        inner.in_flight.first().copied().unwrap_or(inner.last + 1)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }
}

/// One attempt; its counter stays above the low-water mark while this lives.
#[derive(Debug)]
pub struct Attempt {
    counter: u64,
    origin: Arc<Origin>,
}

impl Attempt {
    /// Its number within this node's boot.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.origin.lock().in_flight.remove(&self.counter);
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

    #[test]
    fn the_low_water_mark_never_passes_an_attempt_in_flight() {
        let origin = Arc::new(Origin::default());
        assert_eq!(origin.low_water(), 1);
        let (first, second) = (origin.begin(), origin.begin());
        assert_eq!((first.counter(), second.counter(), origin.low_water()), (1, 2, 1));
        drop(second);
        assert_eq!(origin.low_water(), 1, "the first still waits");
        drop(first);
        assert_eq!(origin.low_water(), 3, "both are done, the next will be 3");
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
