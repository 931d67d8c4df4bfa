//! How long a link waits before it dials again: exponential, bounded, jittered. Pure.

use std::time::Duration;

/// The wait before attempt number `attempt` (0 is the first after a loss).
///
/// Doubles from `first` up to `max`, then is shortened by up to a half according to `chance`
/// (0 to 1), so that peers which lost each other together do not dial together.
pub(super) fn delay(first: Duration, max: Duration, attempt: u32, chance: f64) -> Duration {
    // 2^20 times any sensible first wait is past any sensible maximum.
    let full = first.saturating_mul(1 << attempt.min(20)).min(max);
    full.mul_f64(1.0 - 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_up_to_the_maximum() {
        let waits: Vec<u128> = (0..7).map(|attempt| delay(FIRST, MAX, attempt, 0.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(delay(FIRST, MAX, u32::MAX, 0.0), MAX);
    }

    #[test]
    fn jitter_takes_at_most_a_half() {
        for attempt in 0..8 {
            let full = delay(FIRST, MAX, attempt, 0.0);
            assert_eq!(delay(FIRST, MAX, attempt, 1.0), full / 2);
            assert!(delay(FIRST, MAX, attempt, 7.0) >= full / 2);
        }
    }
}
