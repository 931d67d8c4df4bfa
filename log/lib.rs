//! `tracing`'s events, of which no subscriber's panic escapes.
//!
//! A subscriber is the host's, and may panic: `tracing_subscriber`'s own does when neither its output nor stderr can be
//! written. An actor that says something must not die of it. Our crates depend on this one under the name `tracing`, so
//! none of their events can go around it. A caught panic is counted, and the event is lost for that subscriber.
//!
//! Spans are not in here, because nothing of ours opens one. `ractor` does, for each actor: a subscriber that panics
//! when a span is entered still takes actors down, and supervision is what is left.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

#[doc(hidden)]
pub use tracing as inner;

static LOST: AtomicU64 = AtomicU64::new(0);

/// Events of this process that were lost because a subscriber panicked.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Tells an event; what it panics with goes no further.
#[doc(hidden)]
pub fn tell(event: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(event)) {
        LOST.fetch_add(1, Ordering::Relaxed);
        // What a panic carries may panic when it is dropped; what that one carries is left alone.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }
}

/// As `tracing::trace!`.
#[macro_export]
macro_rules! trace {
    ($($event:tt)+) => { $crate::tell(|| $crate::inner::trace!($($event)+)) };
}

/// As `tracing::debug!`.
#[macro_export]
macro_rules! debug {
    ($($event:tt)+) => { $crate::tell(|| $crate::inner::debug!($($event)+)) };
}

/// As `tracing::info!`.
#[macro_export]
macro_rules! info {
    ($($event:tt)+) => { $crate::tell(|| $crate::inner::info!($($event)+)) };
}

/// As `tracing::warn!`.
#[macro_export]
macro_rules! warn {
    ($($event:tt)+) => { $crate::tell(|| $crate::inner::warn!($($event)+)) };
}

/// As `tracing::error!`.
#[macro_export]
macro_rules! error {
    ($($event:tt)+) => { $crate::tell(|| $crate::inner::error!($($event)+)) };
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    /// The count is the process's: one test at a time.
    static COUNTED: Mutex<()> = Mutex::new(());

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any("dropped");
        }
    }

    #[test]
    fn no_panic_escapes() {
        let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
        let before = crate::lost();
        crate::tell(|| panic!("a subscriber's"));
        crate::tell(|| std::panic::panic_any(Bomb));
        crate::tell(|| {});
        assert_eq!(crate::lost() - before, 2);
    }

    /// An event in a destructor that runs while its thread panics would otherwise abort the process.
    #[test]
    fn it_may_be_told_while_a_panic_is_under_way() {
        struct Teller;
        impl Drop for Teller {
            fn drop(&mut self) {
                crate::tell(|| panic!("a subscriber's"));
            }
        }
        let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
        let panicked = std::panic::catch_unwind(|| {
            let _teller = Teller;
            panic!("an actor's");
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"an actor's"));
    }
}
