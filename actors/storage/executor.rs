//! The seam to threads.
//!
//! Storage's blocking work is two loops, one for the journal and one for the database. Each is a
//! [`Worker`] that can be driven a step at a time: in production by a thread of its own, in a
//! simulation by whoever holds the clock.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What a step of a worker came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more.
    Worked,
    /// Nothing to do until something arrives or, at the latest, this long has passed.
    Idle(Option<Duration>),
    /// It is over; the worker is to be dropped, where it ran.
    Done,
}

/// A loop of blocking work, a step at a time.
pub trait Worker: Send {
    /// Does what there is to do now; may block on the disk, never on other work.
    fn step(&mut self) -> Step;

    /// Raised when there may be something to do.
    fn signal(&self) -> Arc<Signal>;
}

/// Runs workers.
pub trait Executor: fmt::Debug + Send + Sync + 'static {
    /// Runs a worker until it is done, then drops it in the same place.
    ///
    /// # Errors
    /// No thread could be had.
    fn spawn(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<()>;
}

/// A named thread for each worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

impl Executor for Threads {
    fn spawn(&self, name: &str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let signal = worker.signal();
            loop {
                match worker.step() {
                    Step::Worked => {}
                    Step::Idle(at_most) => signal.wait(at_most),
                    Step::Done => break,
                }
            }
        })?;
        Ok(())
    }
}

/// Wakes whoever drives a worker; a signal given while nobody waits is kept.
#[derive(Debug, Default)]
pub struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
    told: Notify,
}

#[derive(Debug, Default)]
struct SignalState {
    raised: bool,
    /// A thread waits: only then does it take a system call to wake it.
    waited_for: bool,
}

impl Signal {
    pub(crate) fn raise(&self) {
        let mut state = self.state();
        let (first, waited_for) = (!std::mem::replace(&mut state.raised, true), state.waited_for);
        // Who is woken takes the lock first of all.
        drop(state);
        if first {
            self.told.notify_one();
            if waited_for {
                self.changed.notify_one();
            }
        }
    }

    /// As [`Signal::wait`], for a task; it may also return for nothing.
    pub async fn raised(&self) {
        self.told.notified().await;
        self.state().raised = false;
    }

    /// Blocks the thread until the signal is raised, or for so long. One thread waits for a signal, not two.
    pub fn wait(&self, at_most: Option<Duration>) {
        let deadline = at_most.map(|wait| Instant::now() + wait);
        let mut state = self.state();
        while !state.raised {
            state.waited_for = true;
            let Some(deadline) = deadline else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *state = SignalState::default();
    }

    fn state(&self) -> MutexGuard<'_, SignalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
