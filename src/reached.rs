//! Limits that were reached: counted, logged at most every few seconds, and shown as alarms for a while after.
//!
//! One of it per node. Whoever sheds, cuts or makes wait because of a limit says so here; `status` reads it, and
//! metrics can. Does not decide what happens at a limit.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// A limit that was reached within this time is an alarm.
const FRESH: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LimitsReached(Mutex<BTreeMap<&'static str, Count>>);

#[derive(Debug)]
struct Count {
    total: u64,
    last: Instant,
    /// When it was logged, and how often it had been reached then.
    logged: (Instant, u64),
    advice: &'static str,
}

impl LimitsReached {
    /// This limit was reached; `advice` says what that does to clients and what can be done.
    pub(crate) fn note(&self, limit: &'static str, advice: &'static str) {
        let now = Instant::now();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = !counts.contains_key(limit);
        let count = counts.entry(limit).or_insert(Count { total: 0, last: now, logged: (now, 0), advice });
        count.total += 1;
        count.last = now;
        let due = fresh || now.duration_since(count.logged.0) >= LOG_EVERY;
        let times = count.total - count.logged.1;
        if due {
            count.logged = (now, count.total);
        }
        drop(counts);
        if due {
            tracing::warn!(limit, times, "limit reached: {advice}");
        }
    }

    /// What an operator should look at.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .filter_map(|(limit, count)| alarm(limit, count.total, count.last.elapsed(), count.advice))
            .collect()
    }

    /// How often each limit was reached since the node started.
    #[cfg_attr(not(test), allow(dead_code, reason = "for metrics"))]
    pub(crate) fn totals(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(limit, count)| (*limit, count.total)).collect()
    }
}

/// The alarm of a limit, for a while after it was last reached.
pub(crate) fn alarm(limit: &str, times: u64, ago: Duration, advice: &str) -> Option<String> {
    let seconds = ago.as_secs();
    (ago < FRESH).then(|| format!("limit reached: {limit}, {times} times, last {seconds} s ago: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_an_alarm_for_a_minute_and_counted_for_ever() {
        let reached = LimitsReached::default();
        assert!(reached.alarms().is_empty());
        reached.note("grpc.requests", "raise it");
        reached.note("grpc.requests", "raise it");
        assert_eq!(reached.alarms(), ["limit reached: grpc.requests, 2 times, last 0 s ago: raise it"]);
        tokio::time::sleep(FRESH).await;
        assert!(reached.alarms().is_empty());
        assert_eq!(reached.totals(), [("grpc.requests", 2)]);
    }
}
