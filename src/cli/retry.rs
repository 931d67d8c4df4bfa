//! How long a command goes on trying: one rule for every loop of the command line that tries again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two attempts, growing.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The time for which somebody tries, counted from when they last got on: what went well before has used up none of it.
pub struct Patience {
    time: Duration,
    since: Instant,
    pause: Duration,
}

impl Patience {
    pub fn new(time: Duration) -> Self {
        Patience { time, since: Instant::now(), pause: PAUSE_FIRST }
    }

    /// They got on: all of the time is there again.
    pub fn renew(&mut self) {
        *self = Patience::new(self.time);
    }

    pub fn left(&self) -> Duration {
        self.time.saturating_sub(self.since.elapsed())
    }

    /// Waits before another attempt, as long as the node asked for, or else a little longer each time. False where
    /// the time would be over then.
    #[must_use]
    pub async fn pause(&mut self, asked: Option<Duration>) -> bool {
        let wait = asked.unwrap_or(self.pause);
        if wait >= self.left() {
            return false;
        }
        sleep(wait).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_counts_from_when_it_was_last_renewed() {
        let mut patience = Patience::new(Duration::from_secs(10));
        for _ in 0..5 {
            assert!(patience.pause(Some(Duration::from_secs(6))).await);
            assert!(!patience.pause(Some(Duration::from_secs(6))).await, "two of them are longer than its time");
            patience.renew();
        }
        let began = Instant::now();
        while patience.pause(None).await {}
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(10) && waited > Duration::from_secs(9), "{waited:?}");
    }
}
