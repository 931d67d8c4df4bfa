//! What apply and readers share in memory, and in which order it is locked.
//!
//! The order is: the queue of the incarnation, then the state machine, then the overlay. Only this file locks the last two,
//! and whoever writes to the overlay shows what has to be locked before it: entries come with the queue in hand
//! ([`Memory::append`]), rows with the state machine in hand ([`Applying`]). The database ([`super::database::lent`]) is
//! taken with none of them held by anyone who waits for it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use converge_ledger_core::State;

use super::database::kept::KeptEntries;
use super::database::overlay::{Generation, Overlay};
use super::incarnation::Queue;
use super::types::{AppliedMark, Genesis, HardState, LogEntry};

/// The state machine, and what the database does not have yet.
#[derive(Default)]
pub(crate) struct Memory {
    /// Its lock also orders apply and the taking of rows for a commit.
    state: Mutex<State>,
    overlay: RwLock<Overlay>,
}

impl Memory {
    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state machine; none when an apply panicked halfway, which ends this incarnation.
    pub(crate) fn applying(&self) -> Option<Applying<'_>> {
        let state = self.state.lock().ok()?;
        Some(Applying { state, memory: self })
    }

    /// No apply panicked halfway.
    pub(crate) fn is_sound(&self) -> bool {
        !self.state.is_poisoned()
    }

    /// Puts what was recovered in place of what was there.
    pub(crate) fn install(&self, overlay: Overlay, state: State) {
        *self.overlay_mut() = overlay;
        self.state.clear_poison();
        *self.state.lock().expect("was just cleared of poison") = state;
    }

    /// Makes entries readable, and a newer hard state. Takes nothing when they do not fit, and says why: a bug of the
    /// caller. `_queue` is the one that they go into, so that all callers come in one order.
    pub(crate) fn append(
        &self,
        _queue: &mut Queue,
        entries: &[LogEntry],
        hard_state: Option<HardState>,
    ) -> Result<(), String> {
        let mut overlay = self.overlay_mut();
        if let Some(misfit) = overlay.misfit(entries) {
            return Err(misfit);
        }
        overlay.append(entries);
        if let Some(hard_state) = hard_state {
            overlay.hard_state = hard_state;
        }
        Ok(())
    }

    /// The cluster is born, durably.
    pub(crate) fn set_genesis(&self, genesis: Genesis) {
        if let Some(mut state) = self.applying() {
            genesis.begin(&mut state);
        }
        self.overlay_mut().genesis = Some(genesis);
    }

    /// The end of the log as it was recovered.
    pub(crate) fn keep(&self, kept: KeptEntries) {
        self.overlay_mut().keep(kept);
    }

    /// The database has the rows that a commit took, and these log entries. What left is handed back, to be freed
    /// without the lock.
    pub(crate) fn end_flush(&self, written: &VecDeque<LogEntry>) -> impl Send + use<> {
        self.overlay_mut().end_flush(written)
    }
}

/// The state machine in one's hands.
pub(crate) struct Applying<'a> {
    state: MutexGuard<'a, State>,
    memory: &'a Memory,
}

impl Applying<'_> {
    /// Makes the rows of an applied entry readable, and how far the state machine is. Says how many bytes came, and
    /// whether they are the first.
    pub(crate) fn publish(&mut self, put: impl FnOnce(&mut Generation)) -> (usize, bool) {
        let mark =
            AppliedMark { index: self.state.applied, position: self.state.last_position, digest: self.state.digest };
        let mut overlay = self.memory.overlay_mut();
        let before = overlay.active.bytes;
        put(&mut overlay.active);
        let added = overlay.active.bytes - before;
        overlay.applied = mark;
        (added, before == 0 && added > 0)
    }

    /// The rows that are not on their way to the database yet go there now; they stay readable.
    pub(crate) fn begin_flush(&mut self) -> Arc<Generation> {
        self.memory.overlay_mut().begin_flush()
    }
}

impl Deref for Applying<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Applying<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}
