//! The fence: whether anything may be written, why not, and when that may be over.
//!
//! Only a full disk is ever left by itself. Each try is a restart, and more than the supervisor forgives would end the
//! node: so the pauses before it grow.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Cause;

/// A full disk is left this long after it was met, then twice as long after it was met again.
const LEAVE_PAUSE_MIN: Duration = Duration::from_secs(5);
const LEAVE_PAUSE_MAX: Duration = Duration::from_secs(20);

/// Why nothing is written; nothing else in storage can change that.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    inner: RwLock<Inner>,
    /// Wakes those who wait for a cause.
    caused: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    cause: Option<Cause>,
    /// When a full disk may be left, and after what pause.
    leave: Option<(Instant, Duration)>,
}

impl Fence {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing may be written; none when all may.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.read().cause.clone()
    }

    /// Waits until nothing may be written any more, and says why.
    pub(crate) async fn caused(&self) -> Cause {
        loop {
            // First in line, then the look: a cause in between is not missed.
            let caused = self.caused.notified();
            if let Some(cause) = self.cause() {
                return cause;
            }
            caused.await;
        }
    }

    /// Nothing is written from here on. The first cause stays, unless this one is graver; says whether this one holds
    /// now.
    pub(crate) fn set(&self, cause: &Cause) -> bool {
        let mut inner = self.write();
        let replace = inner.cause.as_ref().is_none_or(|old| old.gravity() < cause.gravity());
        if replace {
            if matches!(cause, Cause::DiskFull { .. }) {
                inner.found_full(Instant::now());
            }
            inner.cause = Some(cause.clone());
            self.caused.notify_waiters();
        }
        replace
    }

    /// A full disk alone is the cause, and the pause after it is over.
    pub(crate) fn is_over_with_room(&self) -> bool {
        let inner = self.read();
        matches!(inner.cause, Some(Cause::DiskFull { .. }))
            && inner.leave.is_none_or(|(until, _)| until <= Instant::now())
    }

    /// No thread of an earlier incarnation is left, and nothing is open: a full disk may be left.
    pub(crate) fn leave_full(&self) {
        self.write().cause.take_if(|cause| matches!(cause, Cause::DiskFull { .. }));
    }
}

impl Inner {
    fn found_full(&mut self, now: Instant) {
        let pause = match self.leave {
            Some((until, pause)) if now < until + LEAVE_PAUSE_MAX => (2 * pause).min(LEAVE_PAUSE_MAX),
            _ => LEAVE_PAUSE_MIN,
        };
        self.leave = Some((now + pause, pause));
    }
}
