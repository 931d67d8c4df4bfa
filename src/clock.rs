//! The only place that asks the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970; 0 when the clock stands before that.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
