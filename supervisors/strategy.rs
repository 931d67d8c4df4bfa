//! What a supervisor decides, as a pure state machine.
//!
//! Events go in, effects come out; nothing here awaits, spawns or knows an actor. It owns the children's states as the
//! supervisor believes them to be, the restart intensity, and the phase. It deliberately knows no incarnations: the
//! shell drops reports about old ones, so an event is always about the current one.
//!
//! ```text
//!            Boot              all up
//!   Idle ───────────▶ Starting ───────▶ Running
//!                      ▲    │             │  a child of a group fails (rest_for_one, one_for_all)
//!        group is down │    ▼             ▼
//!                      └── Stopping { then: Start } ◀┘
//!                           │  intensity passed, a first start failed, Shutdown
//!                           ▼
//!                          Stopping { then: Exit } ───────▶ Done
//!                                                   all down
//! ```
//!
//! Under `OneForOne` a restart concerns one child and no phase: several can be under way at once.

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::exit::Exit;
use crate::intensity::{Intensity, Window};
use crate::spec::{Restart, Strategy};

/// A start that did not come about: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// What happened. Children are named by their place in start order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Start all children.
    Boot,
    /// A `Start` is done.
    Started(usize),
    /// A `Start` failed, and nothing of it is left.
    StartFailed(usize, Failure),
    /// The child ended, and nothing of it is left.
    Gone(usize, Exit),
    /// The child was killed and is still there: it must never be started again.
    Stuck(usize, String),
    /// A `Delay` is over.
    Elapsed(usize),
    /// Stop all children and exit.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start it; answered by `Started` or `StartFailed`.
    Start(usize),
    /// Stop it, or call its start off; answered by `Gone`, `StartFailed` or `Stuck`. `hurry`: another child failed.
    Stop {
        /// The child.
        child: usize,
        /// It gets the grace for siblings, not its full shutdown time.
        hurry: bool,
    },
    /// Wait before starting it; answered by `Elapsed`. `attempt` counts from 0.
    Delay {
        /// The child.
        child: usize,
        /// Restarts in a row before this one.
        attempt: u32,
    },
    /// It failed and is to be restarted.
    Restarting {
        /// The child that failed.
        child: usize,
        /// Why.
        reason: String,
        /// Restarts in the window.
        in_window: usize,
    },
    /// A temporary child has ended: drop what is known of it.
    Forget(usize),
    /// All children are up for the first time.
    Ready,
    /// Nothing is left: exit.
    Exit(Verdict),
}

/// Why the supervisor exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was told to.
    Shutdown,
    /// A child could not be started the first time.
    StartFailed(Failure),
    /// More restarts than the intensity allows.
    Escalated {
        /// The child that failed once too often.
        child: usize,
        /// Why it failed the last time, and which limit that passed.
        reason: String,
    },
}

/// A child as the machine sees it.
#[derive(Debug)]
struct Child {
    restart: Restart,
    backoff: Option<Backoff>,
    slot: Slot,
    /// It has been up once under this supervisor: a failed start is from now on a failed *re*start.
    proven: bool,
    /// Failed starts since it was last up.
    failed_starts: usize,
    /// Restarts in a row, for the backoff.
    attempt: u32,
    /// The next start is a restart after a failure of its own, so it is delayed.
    delay_due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Not running.
    Down,
    /// Waiting for its backoff.
    Delayed,
    /// A `Start` is out.
    Starting,
    /// Running since then.
    Up(Instant),
    /// A `Stop` is out.
    Stopping,
    /// A temporary child that ended.
    Forgotten,
    /// Killed and still there.
    Stuck,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    /// Children are started in order; all before `next` have had their turn.
    Starting {
        next: usize,
    },
    Running,
    /// Children at and above `from` are stopped, the last first; those at and above `hurry_from` in a hurry.
    Stopping {
        from: usize,
        hurry_from: usize,
        then: Then,
    },
    Done,
}

#[derive(Clone, Debug)]
enum Then {
    Start,
    Exit(Verdict),
}

/// Nobody is stopped in a hurry.
const NOBODY: usize = usize::MAX;

/// What the machine is told of each child.
pub(crate) type Terms = (Restart, Option<Backoff>);

/// The supervisor's decisions.
#[derive(Debug)]
pub(crate) struct Machine {
    strategy: Strategy,
    children: Vec<Child>,
    window: Window,
    phase: Phase,
    /// `Ready` has been said.
    announced: bool,
    effects: Vec<Effect>,
}

impl Machine {
    pub(crate) fn new(strategy: Strategy, intensity: Intensity, children: impl IntoIterator<Item = Terms>) -> Self {
        let child = |(restart, backoff)| Child {
            restart,
            backoff,
            slot: Slot::Down,
            proven: false,
            failed_starts: 0,
            attempt: 0,
            delay_due: false,
        };
        Machine {
            strategy,
            children: children.into_iter().map(child).collect(),
            window: Window::new(intensity),
            phase: Phase::Idle,
            announced: false,
            effects: Vec::new(),
        }
    }

    /// Takes an event at a time and says what is to be done, in order.
    pub(crate) fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Boot => self.boot(),
            Event::Started(child) => self.started(now, child),
            Event::StartFailed(child, failure) => self.start_failed(now, child, failure),
            Event::Gone(child, exit) => self.gone(now, child, exit),
            Event::Stuck(child, reason) => self.stuck(child, reason),
            Event::Elapsed(child) => self.elapsed(child),
            Event::Shutdown => self.shutdown(),
        }
        std::mem::take(&mut self.effects)
    }

    /// The child whose stop is under way in an ordered stop.
    pub(crate) fn awaited(&self) -> Option<usize> {
        match self.phase {
            Phase::Stopping { .. } => self.children.iter().rposition(|child| child.slot == Slot::Stopping),
            _ => None,
        }
    }

    /// `Exit` has been said.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    fn boot(&mut self) {
        if matches!(self.phase, Phase::Idle) {
            self.phase = Phase::Starting { next: 0 };
            self.start_next();
        }
    }

    fn started(&mut self, now: Instant, i: usize) {
        let child = &mut self.children[i];
        if child.slot != Slot::Starting {
            return; // its stop is already out
        }
        child.slot = Slot::Up(now);
        child.proven = true;
        child.failed_starts = 0;
        if let Phase::Starting { next } = &mut self.phase
            && *next == i
        {
            *next += 1;
            self.start_next();
        }
    }

    fn start_failed(&mut self, now: Instant, i: usize, failure: Failure) {
        let child = &mut self.children[i];
        let called_off = child.slot == Slot::Stopping;
        child.slot = Slot::Down;
        if called_off || matches!(self.phase, Phase::Stopping { from, .. } if i >= from) {
            return self.stop_next();
        }
        if !child.proven {
            return self.stop_all(NOBODY, Verdict::StartFailed(failure));
        }
        child.failed_starts += 1;
        self.failed(now, i, &failure.reason);
    }

    fn gone(&mut self, now: Instant, i: usize, exit: Exit) {
        let child = &mut self.children[i];
        let temporary = child.restart == Restart::Temporary;
        let asked = match child.slot {
            Slot::Stopping => true,
            // It ended before its turn came: a sibling on its way down is no failure.
            Slot::Up(_) | Slot::Starting => {
                matches!(self.phase, Phase::Stopping { from, .. } if i >= from)
            }
            Slot::Down | Slot::Delayed | Slot::Forgotten | Slot::Stuck => return,
        };
        let up_since = match child.slot {
            Slot::Up(at) => Some(at),
            _ => None,
        };
        child.slot = if temporary { Slot::Forgotten } else { Slot::Down };
        if temporary {
            self.effects.push(Effect::Forget(i));
        }
        if asked {
            return self.stop_next();
        }
        let child = &mut self.children[i];
        match child.restart {
            Restart::Temporary => {}
            Restart::Transient if exit.normal => {}
            Restart::Transient | Restart::Permanent => {
                let steady = child.backoff.zip(up_since).is_some_and(|(backoff, at)| now - at >= backoff.max);
                if steady {
                    child.attempt = 0;
                }
                self.failed(now, i, &exit.reason);
            }
        }
    }

    fn stuck(&mut self, i: usize, reason: String) {
        self.children[i].slot = Slot::Stuck;
        match self.phase {
            Phase::Stopping { then: Then::Exit(_), .. } => self.stop_next(),
            Phase::Done => {}
            _ => self.escalate(i, reason),
        }
    }

    fn elapsed(&mut self, i: usize) {
        if self.children[i].slot == Slot::Delayed {
            self.start(i);
        }
    }

    fn shutdown(&mut self) {
        match &mut self.phase {
            Phase::Done => {}
            // Those already in a hurry stay so; a verdict already reached stands.
            Phase::Stopping { from, then, .. } => {
                *from = 0;
                if matches!(then, Then::Start) {
                    *then = Then::Exit(Verdict::Shutdown);
                }
                self.stop_next();
            }
            _ => self.stop_all(NOBODY, Verdict::Shutdown),
        }
    }

    /// A child that must run does not: restart what the strategy says, or give up.
    fn failed(&mut self, now: Instant, i: usize, reason: &str) {
        let in_time = self.window.allows(now);
        let limit = self.window.limit();
        if !in_time {
            let period = self.window.period();
            return self.escalate(i, format!("{reason} (more than {limit} restarts within {period:?})"));
        }
        if self.children[i].failed_starts > limit {
            return self.escalate(i, format!("{reason} (more than {limit} failed starts in a row)"));
        }
        self.children[i].delay_due = self.children[i].backoff.is_some();
        self.effects.push(Effect::Restarting { child: i, reason: reason.to_owned(), in_window: self.window.used() });
        if self.strategy == Strategy::OneForOne {
            return self.start(i);
        }
        let first = self.group(i);
        let (from, hurry_from) = match self.phase {
            Phase::Stopping { from, hurry_from, .. } => (from.min(first), hurry_from.min(first)),
            _ => (first, first),
        };
        self.phase = Phase::Stopping { from, hurry_from, then: Then::Start };
        self.stop_next();
    }

    fn escalate(&mut self, i: usize, reason: String) {
        let hurry_from = match self.strategy {
            Strategy::OneForOne => NOBODY,
            Strategy::OneForAll | Strategy::RestForOne => self.group(i),
        };
        self.stop_all(hurry_from, Verdict::Escalated { child: i, reason });
    }

    /// First child of those that share the fate of child `i`.
    fn group(&self, i: usize) -> usize {
        match self.strategy {
            Strategy::OneForAll => 0,
            Strategy::OneForOne | Strategy::RestForOne => i,
        }
    }

    fn stop_all(&mut self, hurry_from: usize, verdict: Verdict) {
        self.phase = Phase::Stopping { from: 0, hurry_from, then: Then::Exit(verdict) };
        self.stop_next();
    }

    /// Starts the next child of an ordered start; when there is none, all are up.
    fn start_next(&mut self) {
        while let Phase::Starting { next } = self.phase {
            let Some(child) = self.children.get(next) else {
                self.phase = Phase::Running;
                if !self.announced {
                    self.announced = true;
                    self.effects.push(Effect::Ready);
                }
                return;
            };
            if child.slot != Slot::Forgotten {
                return self.start(next);
            }
            self.phase = Phase::Starting { next: next + 1 };
        }
    }

    /// Starts a child, after its backoff if it has one to serve.
    fn start(&mut self, i: usize) {
        let child = &mut self.children[i];
        if std::mem::take(&mut child.delay_due) {
            child.slot = Slot::Delayed;
            self.effects.push(Effect::Delay { child: i, attempt: child.attempt });
            child.attempt = child.attempt.saturating_add(1);
        } else {
            child.slot = Slot::Starting;
            self.effects.push(Effect::Start(i));
        }
    }

    /// Stops the last child that is still there; when there is none, goes on to what comes after.
    fn stop_next(&mut self) {
        let Phase::Stopping { from, hurry_from, .. } = self.phase else {
            return;
        };
        for i in (from..self.children.len()).rev() {
            let child = &mut self.children[i];
            match child.slot {
                Slot::Stopping => return, // one at a time
                Slot::Up(_) | Slot::Starting => {
                    child.slot = Slot::Stopping;
                    return self.effects.push(Effect::Stop { child: i, hurry: i >= hurry_from });
                }
                Slot::Delayed => {
                    child.slot = Slot::Down;
                    child.delay_due = true;
                }
                Slot::Down | Slot::Forgotten | Slot::Stuck => {}
            }
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Stopping { then: Then::Start, .. } => {
                self.phase = Phase::Starting { next: from };
                self.start_next();
            }
            Phase::Stopping { then: Then::Exit(verdict), .. } => self.effects.push(Effect::Exit(verdict)),
            _ => unreachable!("checked above"),
        }
    }
}

#[cfg(test)]
mod tests;
