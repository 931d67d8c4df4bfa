//! The signals that end a process: SIGTERM, SIGINT and SIGHUP, Ctrl-C where there are no signals.
//!
//! For binaries. A library or a host that has handlers of its own leaves this alone: it is behind the feature
//! `signals`, and nothing is installed before [`Signals::install`].

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::application::{Ended, Running};
use crate::tree::StopError;

/// Signals within this time of one another are one. `timeout` and service managers signal a process and its group,
/// and a terminal that goes away sends more than one; a person who has enough of waiting takes longer.
const TOGETHER: Duration = Duration::from_secs(1);

/// How an application ended that ran until it was told to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It ended before anyone told it to.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// It was told to stop, and did not in time.
    #[error("the stop was cut short: {0}")]
    Stop(#[from] StopError),
    /// It was told a second time while it stopped, and was left as it is: the process should exit now.
    #[error("told twice to stop: gone at once")]
    Twice,
}

/// Waits for the signals that end a process.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    /// None where it was ignored before.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    /// When the last one came that counted.
    counted: Option<Instant>,
}

impl Signals {
    /// Takes the signals over, for the rest of the process's life. SIGHUP is left alone where it is ignored, as
    /// `nohup` does it.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// Outside of a `tokio` runtime whose IO is enabled.
    #[cfg(unix)]
    pub fn install() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
            counted: None,
        })
    }

    /// Takes the signals over, for the rest of the process's life.
    ///
    /// # Errors
    /// None on this system.
    #[cfg(not(unix))]
    pub fn install() -> io::Result<Signals> {
        Ok(Signals { counted: None })
    }

    /// Waits for the next one; those that come within a second of it are the same one. Dropping the future loses none.
    pub async fn next(&mut self) {
        loop {
            self.any().await;
            let now = Instant::now();
            if self.counted.is_none_or(|before| now.duration_since(before) >= TOGETHER) {
                self.counted = Some(now);
                return;
            }
        }
    }

    #[cfg(unix)]
    async fn any(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }

    #[cfg(not(unix))]
    async fn any(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Whether whoever started this process had it ignore SIGHUP. Where the system does not say so in `/proc`, the signal
/// is left as it is: a process under `nohup` must not end with its terminal.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    // Bit n - 1 is signal n, and SIGHUP is the first.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|ignored| ignored & 1 == 1)
}

impl Running {
    /// What the `main` of a binary does: waits for the end or for a signal, and stops in order on the first. A second
    /// signal, a second later or more, cuts the stop short.
    ///
    /// # Errors
    /// See [`RunError`]; a binary exits with a code other than zero.
    pub async fn run_until_signal(self, signals: &mut Signals) -> Result<(), RunError> {
        tokio::select! {
            ended = self.wait() => return ended.map_err(RunError::Ended),
            () = signals.next() => {}
        }
        tracing::info!("stopping");
        tokio::select! {
            stopped = self.stop() => stopped.map_err(RunError::Stop),
            () = signals.next() => Err(RunError::Twice),
        }
    }
}
