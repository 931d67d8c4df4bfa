//! The signals that end a process: SIGTERM and SIGINT, Ctrl-C where there are no signals.
//!
//! For binaries. A library or a host that has handlers of its own leaves this alone: it is behind the feature
//! `signals`, and nothing is installed before [`Signals::install`].

use std::io;

use crate::application::{Ended, Running};
use crate::tree::StopError;

/// How an application ended that ran until it was told to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Told {
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
}

impl Signals {
    /// Takes the signals over, for the rest of the process's life.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// Outside of a `tokio` runtime whose IO is enabled.
    #[cfg(unix)]
    pub fn install() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Takes the signals over, for the rest of the process's life.
    ///
    /// # Errors
    /// None on this system.
    #[cfg(not(unix))]
    pub fn install() -> io::Result<Signals> {
        Ok(Signals {})
    }

    /// Waits for the next one. Dropping the future loses none.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

impl Running {
    /// What the `main` of a binary does: waits for the end or for a signal, and stops in order on the first. A second
    /// signal cuts the stop short.
    ///
    /// # Errors
    /// See [`Told`]; a binary exits with a code other than zero.
    pub async fn run_until_told(self, signals: &mut Signals) -> Result<(), Told> {
        tokio::select! {
            ended = self.wait() => return ended.map_err(Told::Ended),
            () = signals.next() => {}
        }
        tracing::info!("stopping");
        tokio::select! {
            stopped = self.stop() => stopped.map_err(Told::Stop),
            () = signals.next() => Err(Told::Twice),
        }
    }
}
