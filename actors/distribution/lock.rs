//! Locks whose holders cannot leave them half-changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
