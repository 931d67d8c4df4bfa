//! What each input comes to.

use tokio::time::Instant;

use super::state::{Delay, Machine, MachinePhase, NOBODY, Slot, Then};
use super::types::{Effect, ExitCause, Input, Place, RequestOutcome, StartFailure, Terms};
use crate::exit::Exit;
use crate::spec::{Restart, Strategy};

impl Machine {
    /// Takes an input at a time and says what is to be done, in order.
    pub(crate) fn step(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        match input {
            Input::Boot => self.boot(),
            Input::Started(child) => self.started(now, child),
            Input::Ignored(child) => self.ignored(child),
            Input::StartFailed(child, failure) => self.start_failed(now, child, failure),
            Input::Gone(child, exit) => self.gone(now, child, exit),
            Input::Stuck(child, reason) => self.stuck(child, reason),
            Input::Elapsed(child) => self.elapsed(child),
            Input::Shutdown => self.shutdown(),
        }
        self.heed_ends(now);
        std::mem::take(&mut self.effects)
    }

    fn boot(&mut self) {
        if matches!(self.phase, MachinePhase::Idle) {
            self.phase = MachinePhase::Starting { next: 0 };
            self.start_next();
        }
    }

    fn started(&mut self, now: Instant, i: Place) {
        let child = self.child(i);
        if child.slot != Slot::Starting {
            return; // its stop is already out
        }
        child.slot = Slot::Up(now);
        child.failed_starts = 0;
        self.answer(i, RequestOutcome::Started);
        self.turn_is_over(i);
    }

    /// OTP's `ignore`: a child that is there and does not run.
    fn ignored(&mut self, i: Place) {
        self.child(i).failed_starts = 0;
        self.child(i).slot = Slot::Down;
        self.answer(i, RequestOutcome::Ignored);
        self.forget_if_due(i);
        self.turn_is_over(i);
        self.stop_next();
    }

    fn start_failed(&mut self, now: Instant, i: Place, failure: StartFailure) {
        let called_off = self.is_being_stopped(i);
        let announced = self.announced;
        self.child(i).slot = Slot::Down;
        if called_off && self.comes_back(i) {
            return self.stop_next();
        }
        let child = self.child(i);
        if called_off || child.asked.is_some() {
            let outcome = if child.terminating { RequestOutcome::Terminated } else { RequestOutcome::Failed(failure) };
            self.told_down(i, outcome);
            self.turn_is_over(i);
            return self.stop_next();
        }
        if !announced {
            return self.stop_all(NOBODY, ExitCause::StartFailed(failure));
        }
        child.failed_starts += 1;
        self.failed(now, i, &failure.reason);
    }

    fn gone(&mut self, now: Instant, i: Place, exit: Exit) {
        let stopped = self.is_being_stopped(i);
        let first_start = !self.announced;
        let child = self.child(i);
        let up_since = match child.slot {
            Slot::Up(at) => Some(at),
            Slot::Starting | Slot::Stopping | Slot::Ended => None,
            Slot::Down | Slot::Delayed | Slot::Stuck => return,
        };
        if first_start && !stopped {
            child.slot = Slot::Ended;
            self.ends.push_back((i, exit));
            return self.turn_is_over(i);
        }
        child.slot = Slot::Down;
        if stopped {
            if !self.comes_back(i) {
                self.told_down(i, RequestOutcome::Terminated);
            }
            self.turn_is_over(i);
            return self.stop_next();
        }
        let Terms { restart, backoff, significant } = child.terms;
        let for_good = restart == Restart::Temporary || (restart == Restart::Transient && exit.normal);
        if for_good {
            self.forget_if_due(i);
            return self.auto_shutdown(significant);
        }
        let steady = backoff.zip(up_since).is_some_and(|(backoff, at)| now - at >= backoff.max);
        if steady {
            child.attempt = 0;
        }
        self.failed(now, i, &exit.reason);
    }

    /// What ended during the first start is heeded when all are up, as by OTP's supervisor, which reads of exits only then:
    /// a start that came about is never taken back for it.
    fn heed_ends(&mut self, now: Instant) {
        while self.announced
            && let Some((i, exit)) = self.ends.pop_front()
        {
            self.gone(now, i, exit);
        }
    }

    /// Children from this place on are stopped, and some have ended already: why is not asked any more.
    pub(super) fn forget_ends(&mut self, from: Place) {
        let stopped: Vec<Place> = self.ends.iter().map(|&(i, _)| i).filter(|&i| i >= from).collect();
        self.ends.retain(|&(i, _)| i < from);
        for i in stopped {
            self.child(i).slot = Slot::Down;
            self.forget_if_due(i);
        }
    }

    fn stuck(&mut self, i: Place, reason: String) {
        self.child(i).slot = Slot::Stuck;
        self.answer(i, RequestOutcome::Failed(StartFailure { path: String::new(), reason: reason.clone() }));
        match self.phase {
            MachinePhase::Stopping { then: Then::Exit(_), .. } => self.stop_next(),
            MachinePhase::Done => {}
            _ => self.escalate(i, reason),
        }
    }

    fn elapsed(&mut self, i: Place) {
        let child = self.child(i);
        child.delay = Delay::None;
        if child.slot == Slot::Delayed {
            self.start(i);
        }
    }

    fn shutdown(&mut self) {
        match &mut self.phase {
            MachinePhase::Done => {}
            // Those already in a hurry stay so; a verdict already reached stands.
            MachinePhase::Stopping { from, then, .. } => {
                *from = 0;
                if matches!(then, Then::Start) {
                    *then = Then::Exit(ExitCause::Shutdown);
                }
                self.call_off_starts();
                self.stop_next();
            }
            _ => self.stop_all(NOBODY, ExitCause::Shutdown),
        }
    }

    /// A child that must run does not: restart what the strategy says, or give up.
    fn failed(&mut self, now: Instant, i: Place, reason: &str) {
        let in_time = self.window.allows(now);
        let limit = self.window.limit();
        if !in_time {
            let period = self.window.period();
            return self.escalate(i, format!("{reason} (more than {limit} restarts within {period:?})"));
        }
        let child = self.child(i);
        if child.failed_starts > limit {
            return self.escalate(i, format!("{reason} (more than {limit} failed starts in a row)"));
        }
        child.delay = if child.terms.backoff.is_some() { Delay::Due } else { Delay::None };
        self.effects.push(Effect::Restarting { child: i, reason: reason.to_owned(), in_window: self.window.used() });
        if self.rules.strategy == Strategy::OneForOne {
            return self.start(i);
        }
        let first = self.group(i);
        self.forget_ends(first);
        let (from, hurry_from, below) = match self.phase {
            MachinePhase::Stopping { from, hurry_from, below, .. } => (from.min(first), hurry_from.min(first), below),
            _ => (first, first, NOBODY),
        };
        self.phase = MachinePhase::Stopping { from, hurry_from, below, then: Then::Start };
        // Those that had ended come back with the others.
        let group = self.children.range(from..).filter(|(_, child)| child.terms.significant);
        self.significant.extend(group.map(|(&place, _)| place));
        self.stop_next();
    }

    fn escalate(&mut self, i: Place, reason: String) {
        let hurry_from = match self.rules.strategy {
            Strategy::OneForOne => NOBODY,
            Strategy::OneForAll | Strategy::RestForOne => self.group(i),
        };
        self.stop_all(hurry_from, ExitCause::Escalated { child: i, reason });
    }
}
