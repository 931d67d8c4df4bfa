//! What an actor is doing: written by the wrapper around it, read by whoever looks.
//!
//! Owns the figures of one place in the tree and the gate that suspends it. The writer pays a few relaxed atomics and
//! one clock reading for each message; readers never touch the actor, so they can neither slow nor harm it. What it
//! does not do: keep history, or decide anything. Each figure is right for itself; two of them may be of either side of
//! one message.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// A message that never had to wait is timed once in so many: reading the clock twice would cost more than it tells.
const TIMED_ONE_IN: u64 = 16;

/// A callback of [`ractor::Actor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Callback {
    /// `pre_start`.
    PreStart,
    /// `post_start`.
    PostStart,
    /// `handle`.
    Handle,
    /// `handle_supervisor_evt`.
    HandleEvent,
    /// `post_stop`.
    PostStop,
}

/// What an actor is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In no callback: it waits for a message, or does not run.
    Idle,
    /// In this callback, working or waiting.
    In(Callback),
    /// In no callback, and will begin none until it is resumed.
    Suspended,
}

/// What is counted and timed of one actor, since its current (or last) incarnation began. The supervisors' figures are of their
/// own messages, from their children's minders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vitals {
    /// What it is at.
    pub phase: Phase,
    /// It is told to begin nothing; `phase` still names the callback that it is finishing.
    pub suspended: bool,
    /// Messages that wait for it, for an actor behind a [`Service`](crate::Service); `None` for any other, and while none runs. A message
    /// sent around the service, through an `ActorRef`, is counted neither on its way in nor, if the count is above
    /// zero, told apart on its way out: so this is never more than what waits or is just being sent, and it is exact
    /// again whenever the mailbox has run empty, if nobody sends around the service.
    pub mailbox: Option<u64>,
    /// Messages it has handled to the end, those that failed included.
    pub handled: u64,
    /// How long the last *timed* message took. Timed are all that had to wait for something, and one in sixteen of the
    /// others, the first included.
    pub last_handle: Option<Duration>,
    /// How long it has been in its current callback.
    pub busy_for: Option<Duration>,
}

impl Vitals {
    /// Those of an actor that is gone: its mailbox went with it, and nothing holds it.
    pub(crate) fn at_rest(self) -> Vitals {
        Vitals { phase: Phase::Idle, suspended: false, mailbox: None, busy_for: None, ..self }
    }
}

/// Why an actor was not suspended or resumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// Nobody runs at this path.
    #[error("no actor runs at {0}")]
    NotThere(String),
    /// It has been asked to stop.
    #[error("{0} is stopping")]
    Stopping(String),
}

// States of the gate.
const OPEN: u8 = 0;
const SUSPENDED: u8 = 1;
/// Open for good: the incarnation is being stopped.
const LEAVING: u8 = 2;

/// The figures of one place. One actor writes at a time: a successor begins when nothing is left of the one before.
#[derive(Debug)]
pub(crate) struct Pulse {
    epoch: Instant,
    /// See [`encode`].
    phase: AtomicU8,
    /// Nanoseconds since the epoch, plus one; 0: not busy.
    busy_since: AtomicU64,
    handled: AtomicU64,
    /// Nanoseconds plus one; 0: none timed yet.
    last_handle: AtomicU64,
    mailbox: AtomicU64,
    /// A service counts what goes in.
    counted: AtomicBool,
    gate: AtomicU8,
    opened: Notify,
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse {
            epoch: Instant::now(),
            phase: AtomicU8::new(0),
            busy_since: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            last_handle: AtomicU64::new(0),
            mailbox: AtomicU64::new(0),
            counted: AtomicBool::new(false),
            gate: AtomicU8::new(OPEN),
            opened: Notify::new(),
        }
    }

    /// A new incarnation begins: at zero, and resumed.
    pub(crate) fn reset(&self) {
        self.phase.store(0, Relaxed);
        for figure in [&self.busy_since, &self.handled, &self.last_handle, &self.mailbox] {
            figure.store(0, Relaxed);
        }
        self.counted.store(false, Relaxed);
        self.gate.store(OPEN, SeqCst);
    }

    /// The figures now.
    pub(crate) fn look(&self) -> Vitals {
        let suspended = self.gate.load(SeqCst) == SUSPENDED;
        let phase = match decode(self.phase.load(Relaxed)) {
            Phase::Idle if suspended => Phase::Suspended,
            phase => phase,
        };
        let since = self.busy_since.load(Relaxed).checked_sub(1);
        Vitals {
            phase,
            suspended,
            mailbox: self.counted.load(Relaxed).then(|| self.mailbox.load(Relaxed)),
            handled: self.handled.load(Relaxed),
            last_handle: self.last_handle.load(Relaxed).checked_sub(1).map(Duration::from_nanos),
            busy_for: since.map(|since| Duration::from_nanos(self.now().saturating_sub(since))),
        }
    }

    /// Nanoseconds since the epoch: 584 years of them.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    // --- the mailbox

    /// From now on a service counts what goes in.
    pub(crate) fn count_mailbox(&self) {
        self.counted.store(true, Relaxed);
    }

    /// A message is about to be sent. Before, for the actor may be done with it before the sender goes on.
    pub(crate) fn sending(&self) {
        self.mailbox.fetch_add(1, Relaxed);
    }

    /// A message left the mailbox, or did not get in. At zero it is one that went around the service.
    pub(crate) fn taken(&self) {
        let _ = self.mailbox.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    // --- callbacks

    /// A callback begins; it ends when the guard is dropped, whatever ends it.
    pub(crate) fn enter(&self, callback: Callback) -> Busy<'_> {
        let since = self.now();
        self.busy_since.store(since + 1, Relaxed);
        self.phase.store(encode(callback), Relaxed);
        Busy { pulse: self, callback, since }
    }

    // --- the gate

    /// False when the incarnation is being stopped.
    pub(crate) fn suspend(&self) -> bool {
        !matches!(self.gate.compare_exchange(OPEN, SUSPENDED, SeqCst, SeqCst), Err(LEAVING))
    }

    pub(crate) fn resume(&self) {
        if self.gate.compare_exchange(SUSPENDED, OPEN, SeqCst, SeqCst).is_ok() {
            self.opened.notify_waiters();
        }
    }

    /// The incarnation is to stop: nothing holds it up from here on.
    pub(crate) fn leave(&self) {
        self.gate.store(LEAVING, SeqCst);
        self.opened.notify_waiters();
    }

    /// Waits while suspended.
    pub(crate) async fn awake(&self) {
        while self.gate.load(Relaxed) == SUSPENDED {
            // Made before the second look, so that a resume between the two is not missed.
            let opened = self.opened.notified();
            if self.gate.load(SeqCst) == SUSPENDED {
                opened.await;
            }
        }
    }
}

fn encode(callback: Callback) -> u8 {
    callback as u8 + 1
}

fn decode(phase: u8) -> Phase {
    match phase {
        1 => Phase::In(Callback::PreStart),
        2 => Phase::In(Callback::PostStart),
        3 => Phase::In(Callback::Handle),
        4 => Phase::In(Callback::HandleEvent),
        5 => Phase::In(Callback::PostStop),
        _ => Phase::Idle,
    }
}

/// A callback that is under way.
pub(crate) struct Busy<'a> {
    pulse: &'a Pulse,
    callback: Callback,
    since: u64,
}

impl Busy<'_> {
    /// Runs the callback and counts it, if it is a message.
    pub(crate) async fn run<F: Future>(self, mut future: Pin<&mut F>) -> F::Output {
        let mut waited = false;
        let output = poll_fn(|context| {
            let poll = future.as_mut().poll(context);
            waited |= poll.is_pending();
            poll
        });
        let output = output.await;
        self.handled(waited);
        output
    }

    /// It came to its end, having waited or not.
    pub(crate) fn handled(self, waited: bool) {
        if self.callback != Callback::Handle {
            return;
        }
        let pulse = self.pulse;
        let before = pulse.handled.load(Relaxed);
        pulse.handled.store(before + 1, Relaxed); // nobody else writes
        if waited || before.is_multiple_of(TIMED_ONE_IN) {
            pulse.last_handle.store(pulse.now().saturating_sub(self.since) + 1, Relaxed);
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.pulse.phase.store(0, Relaxed);
        self.pulse.busy_since.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_callback_is_seen_while_it_runs_and_not_after() {
        let pulse = Pulse::new();
        let mut work = pin!(sleep(SECOND * 3));
        let mut running = pin!(pulse.enter(Callback::Handle).run(work.as_mut()));
        assert!(tokio::time::timeout(SECOND, running.as_mut()).await.is_err());
        let seen = pulse.look();
        assert_eq!((seen.phase, seen.handled), (Phase::In(Callback::Handle), 0));
        assert!(seen.busy_for.is_some_and(|busy| busy >= SECOND && busy < SECOND * 2), "{seen:?}");
        running.await;
        let seen = pulse.look();
        assert_eq!((seen.phase, seen.handled, seen.busy_for), (Phase::Idle, 1, None));
        assert!(seen.last_handle.is_some_and(|took| took >= SECOND * 3 && took < SECOND * 4), "{seen:?}");
    }

    #[test]
    fn a_callback_that_is_cut_off_is_not_handled() {
        let pulse = Pulse::new();
        drop(pulse.enter(Callback::Handle));
        let seen = pulse.look();
        assert_eq!((seen.phase, seen.handled, seen.busy_for, seen.last_handle), (Phase::Idle, 0, None, None));
    }

    #[test]
    fn the_mailbox_is_never_below_zero_and_never_above_what_waits() {
        let pulse = Pulse::new();
        assert_eq!(pulse.look().mailbox, None, "nobody counts");
        pulse.count_mailbox();
        pulse.taken(); // around the service
        assert_eq!(pulse.look().mailbox, Some(0));
        pulse.sending();
        pulse.sending();
        pulse.taken();
        assert_eq!(pulse.look().mailbox, Some(1));
        pulse.reset();
        assert_eq!(pulse.look().mailbox, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_holds_until_it_is_opened_and_not_for_one_that_leaves() {
        let pulse = Pulse::new();
        pulse.awake().await;
        assert!(pulse.suspend() && pulse.suspend(), "twice is once");
        assert_eq!(pulse.look().phase, Phase::Suspended);
        assert!(tokio::time::timeout(SECOND, pulse.awake()).await.is_err());
        pulse.resume();
        pulse.resume();
        pulse.awake().await;
        assert!(pulse.suspend());
        pulse.leave();
        pulse.awake().await;
        assert!(!pulse.suspend(), "one that is stopping");
        pulse.reset();
        assert!(pulse.suspend());
    }
}
