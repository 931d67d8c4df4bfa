//! Delay before a restart: exponential, jittered. Pure: chance is an argument.

use tokio::time::Duration;

/// How long to wait before a child is started again.
///
/// An addition to OTP, whose supervisors restart at once. The n-th restart in a row waits `first * 2^n`, at most `max`,
/// and a random part of up to half of that is taken off, so that children that died together do not return together.
/// A child that stayed up for at least `max` begins at `first` again. Only failures of its own count, and a wait goes on while
/// the child's group is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay before the first restart.
    pub first: Duration,
    /// Bound of the delay.
    pub max: Duration,
}

impl Backoff {
    /// Delay before restart number `attempt` (0 is the first in a row); `chance` is in 0..1.
    pub(crate) fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.max);
        full.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }

    /// The least time in which a child that dies at once is restarted `restarts` times.
    pub(crate) fn quickest(&self, restarts: u32) -> Duration {
        // From here on the delay does not grow.
        const GROWING: u32 = 32;
        let early = (0..restarts.min(GROWING)).map(|attempt| self.delay(attempt, 1.0));
        let early = early.fold(Duration::ZERO, Duration::saturating_add);
        early.saturating_add(self.delay(GROWING, 1.0).saturating_mul(restarts.saturating_sub(GROWING)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };

    #[test]
    fn doubles_up_to_the_bound() {
        let millis: Vec<u128> = (0..7).map(|n| BACKOFF.delay(n, 0.0).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 0.0), BACKOFF.max);
    }

    #[test]
    fn jitter_takes_off_at_most_half() {
        assert_eq!(BACKOFF.delay(0, 1.0), Duration::from_millis(50));
        assert_eq!(BACKOFF.delay(1, 0.5), Duration::from_millis(150));
    }
}
