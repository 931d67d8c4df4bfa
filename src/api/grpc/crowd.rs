//! The calls that hold something of which there is only so much: places, or room in a budget.
//!
//! Where others want it, those go that keep it only because they wait for their clients, the longest first. So what a
//! client does not go on with, or reads as slowly as it can, keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::Call;
use super::connection::{EVICTED_PART, now_ms};

/// A crowd is looked through once in so many milliseconds at most.
const LOOK_MS: u64 = 100;
/// A call that has waited for its client for less than so many milliseconds does not end in favour of another.
const STILL_MS: u64 = 1000;
/// Longer than so many milliseconds no answer holds room that others want, however it is read.
pub(super) const READ_MS: u64 = 10_000;

/// Which calls may go.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Whose clients did nothing for a while.
    Still,
    /// Whose answers have been there to be read for long: piece by piece, each in time, one can be read for as long as
    /// its deadline lets it.
    Read,
}

impl Rule {
    /// For how long the call has kept others waiting, where that is long enough.
    fn overdue_ms(self, call: &Call) -> Option<u64> {
        match self {
            Rule::Still => call.waits_ms().filter(|waits| *waits >= STILL_MS),
            Rule::Read => call.is_read_ms().filter(|is_read| *is_read >= READ_MS),
        }
    }
}

/// See the module.
pub(super) struct Crowd {
    rule: Rule,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    next: u64,
    calls: BTreeMap<u64, Arc<Call>>,
    looked_ms: u64,
}

impl Crowd {
    pub(super) fn new(rule: Rule) -> Arc<Crowd> {
        Arc::new(Crowd { rule, listed: Mutex::default() })
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.listed().calls.len()
    }

    /// This call's connection has as many here as that.
    pub(super) fn has_beside(&self, call: &Call, count: usize) -> bool {
        let listed = self.listed();
        listed.calls.len() >= count && listed.calls.values().filter(|other| other.is_beside(call)).count() >= count
    }

    pub(super) fn enter(self: &Arc<Self>, call: &Arc<Call>) -> Entered {
        let mut listed = self.listed();
        listed.next += 1;
        let id = listed.next;
        listed.calls.insert(id, call.clone());
        drop(listed);
        Entered { crowd: self.clone(), id }
    }

    /// Others want what these calls hold: some of those that may go do.
    pub(super) fn make_room(&self) {
        let mut listed = self.listed();
        let now = now_ms();
        if now < listed.looked_ms + LOOK_MS {
            return;
        }
        listed.looked_ms = now;
        let overdue = |call: &Arc<Call>| Some((self.rule.overdue_ms(call)?, call.clone()));
        let mut overdue: Vec<_> = listed.calls.values().filter_map(overdue).collect();
        let count = (listed.calls.len() / EVICTED_PART).max(1);
        drop(listed);
        overdue.sort_by_key(|(overdue, _)| std::cmp::Reverse(*overdue));
        overdue.into_iter().take(count).for_each(|(_, call)| call.crowd_out());
    }
}

/// A call in a crowd, until it is dropped.
pub(super) struct Entered {
    crowd: Arc<Crowd>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let call = self.crowd.listed().calls.remove(&self.id);
        // After the lock: it may be the last of it.
        drop(call);
    }
}
