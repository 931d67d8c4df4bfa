//! Budgets of bytes: what is read, encoded or waits to be sent is charged before it exists.
//!
//! Whoever has to wait holds nothing of the same budget, and is served in the order of asking. Whoever holds some may
//! ask for more without waiting; where there is none, it gives back what it has and waits for the most that it can
//! need. So nobody waits for somebody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use converge_actors::watch::Room;
use converge_ledger_core::planted::{self, Bug};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::Call;
use super::crowd::{Crowd, Entered, Rule};
use crate::Ledger;

/// Budgets count in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// Who waits longer than this for room has met a limit.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// A number of bytes that may exist at once. Clones share it.
#[derive(Clone)]
pub(super) struct Budget {
    room: Arc<Semaphore>,
    units: u32,
    waiting: Arc<AtomicUsize>,
    /// Whose clients are waited for.
    crowd: Arc<Crowd>,
    /// The setting that it comes from.
    limit: &'static str,
    ledger: Ledger,
}

impl Budget {
    /// Calls that hold some of it go by this rule where others want it.
    pub(super) fn new(limit: &'static str, bytes_max: usize, rule: Rule, ledger: &Ledger) -> Self {
        let units = if planted::is(Bug::BudgetUnbounded) { u32::MAX } else { units(bytes_max).max(1) };
        let room = Arc::new(Semaphore::new(units as usize));
        Budget { room, units, waiting: Arc::default(), crowd: Crowd::new(rule), limit, ledger: ledger.clone() }
    }

    /// Room for `bytes`, or for all there is; waits in line.
    pub(super) async fn wait(&self, bytes: usize) -> Held {
        let units = units(bytes).min(self.units);
        if let Ok(permit) = self.room.clone().try_acquire_many_owned(units) {
            return self.held(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        let mut acquire = std::pin::pin!(self.room.clone().acquire_many_owned(units));
        loop {
            tokio::select! {
                permit = acquire.as_mut() => return self.held(permit.expect("a budget is never closed")),
                () = tokio::time::sleep(LONG_WAIT) => self.is_short(),
            }
        }
    }

    fn held(&self, permit: OwnedSemaphorePermit) -> Held {
        Held { permit, crowd: self.crowd.clone() }
    }

    /// Room for `bytes`, if there is some now.
    pub(super) fn hold(&self, bytes: usize) -> Option<Held> {
        match self.room.clone().try_acquire_many_owned(units(bytes)) {
            Ok(permit) => Some(self.held(permit)),
            Err(_) => {
                self.is_short();
                None
            }
        }
    }

    /// Somebody waits: whoever holds room and does not use it lets it go.
    pub(super) fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Somebody wants more than there is: who holds some and may go does.
    pub(super) fn is_short(&self) {
        self.ledger.inner.reached.note(self.limit, "calls wait or are shed until the clients of others go on");
        self.crowd.make_room();
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// One that waits for room, counted.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room in a budget, until it is dropped.
pub(super) struct Held {
    permit: OwnedSemaphorePermit,
    crowd: Arc<Crowd>,
}

impl Held {
    /// From now on it is this call's client that has to do something, so that the room is free again.
    pub(super) fn waits_for(&self, call: &Arc<Call>) -> Entered {
        self.crowd.enter(call)
    }

    /// Takes what lacks to room for `bytes` in all; false where there is none. What comes in small parts is rounded
    /// up once, and not with each part.
    pub(super) fn grow_to(&mut self, budget: &Budget, bytes: usize) -> bool {
        let lacking = (units(bytes) as usize).saturating_sub(self.permit.num_permits());
        let lacking = u32::try_from(lacking).unwrap_or(u32::MAX);
        match budget.room.clone().try_acquire_many_owned(lacking) {
            Ok(more) => {
                self.permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }

    /// Keeps room for `bytes`, and gives back the rest.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let keep = units(bytes) as usize;
        if let Some(rest) = self.permit.num_permits().checked_sub(keep).filter(|rest| *rest > 0) {
            drop(self.permit.split(rest));
        }
    }
}

/// A page is charged for the most that it can take, and for as much again while it is encoded.
pub(super) struct PageRoom(pub(super) Budget);

/// The most that one step of a read can take, in memory and encoded: it always has at least one entry.
pub(super) const STEP_BYTES: usize = 2 * crate::config::ENTRY_BYTES_MAX;

impl Room for PageRoom {
    type Held = Held;

    async fn take(&self) -> Held {
        self.0.wait(STEP_BYTES).await
    }
}
