//! Restart intensity: how often a supervisor may restart children before it gives up.
//!
//! A sliding window over restart times. Pure: the time is an argument.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

use crate::spec::SpecError;

/// How many restarts within how long a supervisor takes before it gives up: *more than* `restarts` within `period`
/// escalates.
///
/// It also bounds slow failures, which a window never sees: a child whose start fails more than `restarts` times in a
/// row escalates however long each attempt takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are still tolerated within `period`. Zero: the first failure escalates.
    pub restarts: u32,
    /// Length of the sliding window.
    pub period: Duration,
}

impl Intensity {
    /// As in OTP a window must have a length: one of zero would never fill.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        if self.period.is_zero() {
            return Err(SpecError("the period of its intensity is zero, so that it would never give up".to_owned()));
        }
        Ok(())
    }
}

impl Default for Intensity {
    /// OTP's default: one restart in five seconds.
    fn default() -> Self {
        Intensity { restarts: 1, period: Duration::from_secs(5) }
    }
}

/// The restarts of one supervisor that are still inside the window. Holds at most `restarts + 1` instants.
#[derive(Debug)]
pub(crate) struct Window {
    intensity: Intensity,
    restarts: VecDeque<Instant>,
}

impl Window {
    pub(crate) fn new(intensity: Intensity) -> Self {
        Window { intensity, restarts: VecDeque::new() }
    }

    /// Counts a restart at `now`; true while the intensity still allows it.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let period = self.intensity.period;
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|&at| now.duration_since(at) > period) {
            self.restarts.pop_front();
        }
        if self.restarts.len() > self.limit() {
            self.restarts.pop_front();
            return false;
        }
        true
    }

    /// Restarts in the window, as of the last count.
    pub(crate) fn used(&self) -> usize {
        self.restarts.len()
    }

    /// Restarts that are tolerated.
    pub(crate) fn limit(&self) -> usize {
        self.intensity.restarts as usize
    }

    /// Length of the window.
    pub(crate) fn period(&self) -> Duration {
        self.intensity.period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window(restarts: u32, seconds: u32) -> Window {
        Window::new(Intensity { restarts, period: SECOND * seconds })
    }

    #[test]
    fn passes_only_above_the_limit() {
        let now = Instant::now();
        let mut window = window(2, 10);
        assert!(window.allows(now));
        assert!(window.allows(now + SECOND));
        assert!(!window.allows(now + SECOND * 2));
    }

    #[test]
    fn old_restarts_leave_the_window() {
        let now = Instant::now();
        let mut window = window(2, 10);
        assert!(window.allows(now));
        assert!(window.allows(now + SECOND * 9));
        assert!(window.allows(now + SECOND * 11), "the first is out of the window");
        assert!(!window.allows(now + SECOND * 12), "9, 11 and 12 are within ten seconds");
    }

    #[test]
    fn a_restart_exactly_one_period_old_still_counts() {
        let now = Instant::now();
        let mut window = window(1, 10);
        assert!(window.allows(now));
        assert!(!window.allows(now + SECOND * 10));
    }

    #[test]
    fn zero_allows_nothing() {
        assert!(!window(0, 10).allows(Instant::now()));
    }
}
