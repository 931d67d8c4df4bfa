//! What a supervisor decides, as a pure state machine.
//!
//! Events go in, effects come out; nothing here awaits, spawns or knows an actor. It owns the children's states as the
//! supervisor believes them to be, the restart intensity, and the phase. It deliberately knows no incarnations: the
//! shell drops reports about old ones, so an input is always about the current one. What people ask of single children
//! (`start_child` and its relatives) is in `control`, how many are started and stopped in order in `order`.
//!
//! ```text
//!            Boot              all up
//!   Idle ───────────▶ Starting ───────▶ Running
//!                      ▲    │             │  a child of a group fails (rest_for_one, one_for_all)
//!        group is down │    ▼             ▼
//!                      └── Stopping { then: Start } ◀┘
//!                           │  intensity passed, a first start failed, auto-shutdown, Shutdown
//!                           ▼
//!                          Stopping { then: Exit } ───────▶ Done
//!                                                   all down
//! ```
//!
//! Under `OneForOne` a restart concerns one child and no phase: several can be under way at once. A dynamic supervisor
//! is `OneForOne` without children to begin with; it forgets a child that is down, and stops all at once.

mod control;
mod order;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::exit::Exit;
use crate::intensity::{Intensity, Window};
use crate::spec::{AutoShutdown, Restart, Strategy};

pub(crate) use control::{Refusal, Request, Stage};

/// A child, by its place in start order. A place is never used again.
pub(crate) type Place = usize;

/// A start that did not come about: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Start all children.
    Boot,
    /// A `Start` is done.
    Started(Place),
    /// A `Start` is done, and there is nothing to run.
    Ignored(Place),
    /// A `Start` failed, and nothing of it is left.
    StartFailed(Place, Failure),
    /// The child ended, and nothing of it is left.
    Gone(Place, Exit),
    /// The child was killed and is still there: it must never be started again.
    Stuck(Place, String),
    /// A `Delay` is over.
    Elapsed(Place),
    /// Stop all children and exit.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start it; answered by `Started` or `StartFailed`.
    Start(Place),
    /// Stop it, or call its start off; answered by `Gone`, `StartFailed` or `Stuck`. `hurry`: another child failed.
    Stop {
        /// The child.
        child: Place,
        /// It gets the grace for siblings, not its full shutdown time.
        hurry: bool,
    },
    /// Wait before starting it; answered by `Elapsed`. `attempt` counts from 0.
    Delay {
        /// The child.
        child: Place,
        /// Restarts in a row before this one.
        attempt: u32,
    },
    /// It failed and is to be restarted.
    Restarting {
        /// The child that failed.
        child: Place,
        /// Why.
        reason: String,
        /// Restarts in the window.
        in_window: usize,
    },
    /// A child is no longer one: drop what is known of it. After its `Answer`.
    Forget(Place),
    /// What was asked about this child is done; whoever asked is to be told.
    Answer(Place, Outcome),
    /// All children are up for the first time.
    Ready,
    /// Nothing is left: exit.
    Exit(Verdict),
}

impl Effect {
    /// The child that it is about.
    pub(crate) fn child(&self) -> Option<Place> {
        match *self {
            Effect::Start(child) | Effect::Forget(child) | Effect::Answer(child, _) => Some(child),
            Effect::Stop { child, .. } | Effect::Delay { child, .. } | Effect::Restarting { child, .. } => Some(child),
            Effect::Ready | Effect::Exit(_) => None,
        }
    }
}

/// How a request about a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is up.
    Started,
    /// Its factory had nothing to run.
    Ignored,
    /// It did not start.
    Failed(Failure),
    /// It is down, by `terminate_child`.
    Terminated,
}

/// Why the supervisor exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was told to.
    Shutdown,
    /// A child could not be started the first time.
    StartFailed(Failure),
    /// A significant child ended by itself.
    AutoShutdown,
    /// More restarts than the intensity allows.
    Escalated {
        /// The child that failed once too often.
        child: Place,
        /// Why it failed the last time, and which limit that passed.
        reason: String,
    },
}

/// What the machine is told of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) restart: Restart,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) significant: bool,
}

/// A child as the machine sees it.
#[derive(Debug)]
struct Child {
    terms: Terms,
    slot: Slot,
    /// Someone waits for this start: a failure is theirs to handle.
    asked: Option<Asked>,
    /// Someone waits for its end.
    terminating: bool,
    /// Failed starts since it was last up.
    failed_starts: usize,
    /// Restarts in a row, for the backoff.
    attempt: u32,
    delay: Delay,
}

/// The wait before a restart, which a child serves once for each failure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    /// Nothing to wait for.
    None,
    /// It failed; the wait begins when it would be started.
    Due,
    /// A `Delay` is out. It goes on while the child's group is restarted.
    Running,
}

/// By what request a child is being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// `start_child`: it is no child before it is up.
    Start,
    /// `restart_child`.
    Restart,
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
    /// It ended during the first start, and what comes of that is decided when all are up.
    Ended,
    /// Killed and still there.
    Stuck,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    /// Children are started in order; all before `next` have had their turn.
    Starting {
        next: Place,
    },
    Running,
    /// Children at and above `from` are stopped, the last first; those at and above `hurry_from` in a hurry. At and
    /// above `below` none is left.
    Stopping {
        from: Place,
        hurry_from: Place,
        below: Place,
        then: Then,
    },
    Done,
}

#[derive(Clone, Debug)]
enum Then {
    Start,
    Exit(Verdict),
}

/// Nobody is stopped in a hurry; no child is above it.
const NOBODY: Place = Place::MAX;

/// What a supervisor as a whole goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) auto_shutdown: AutoShutdown,
    /// Children come and go, and are stopped all at once.
    pub(crate) dynamic: bool,
}

/// The supervisor's decisions.
#[derive(Debug)]
pub(crate) struct Machine {
    rules: Rules,
    /// In start order.
    children: BTreeMap<Place, Child>,
    window: Window,
    phase: Phase,
    /// `Ready` has been said: from now on a failed start is a failed *re*start.
    announced: bool,
    /// Children that ended during the first start, in that order.
    ends: VecDeque<(Place, Exit)>,
    /// Significant children that were started. One that is found to be down is taken out, so that who asks whether all are
    /// does not look at it again.
    significant: BTreeSet<Place>,
    /// How many of them were looked at.
    #[cfg(test)]
    looks: usize,
    /// A significant child ended while others of a group were stopped or started.
    significant_end: bool,
    effects: Vec<Effect>,
}

impl Child {
    fn new(terms: Terms) -> Child {
        Child {
            terms,
            slot: Slot::Down,
            asked: None,
            terminating: false,
            failed_starts: 0,
            attempt: 0,
            delay: Delay::None,
        }
    }
}

impl Machine {
    /// The children get the places from 0 on.
    pub(crate) fn new(rules: Rules, children: impl IntoIterator<Item = Terms>) -> Self {
        Machine {
            rules,
            children: children.into_iter().map(Child::new).enumerate().collect(),
            window: Window::new(rules.intensity),
            phase: Phase::Idle,
            announced: false,
            ends: VecDeque::new(),
            significant: BTreeSet::new(),
            #[cfg(test)]
            looks: 0,
            significant_end: false,
            effects: Vec::new(),
        }
    }

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

    /// A child whose stop is under way in an ordered stop.
    pub(crate) fn awaited(&self) -> Option<Place> {
        let stopping = |(&place, child): (&Place, &Child)| (child.slot == Slot::Stopping).then_some(place);
        match self.phase {
            Phase::Stopping { .. } if self.rules.dynamic => self.children.iter().find_map(stopping),
            Phase::Stopping { below, .. } => self.children.range(..below).rev().find_map(stopping),
            _ => None,
        }
    }

    /// On its way out: the verdict is reached.
    pub(crate) fn is_exiting(&self) -> bool {
        matches!(self.phase, Phase::Stopping { then: Then::Exit(_), .. } | Phase::Done)
    }

    /// `Exit` has been said.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    fn child(&mut self, place: Place) -> &mut Child {
        self.children.get_mut(&place).expect("the shell speaks of children only")
    }

    fn boot(&mut self) {
        if matches!(self.phase, Phase::Idle) {
            self.phase = Phase::Starting { next: 0 };
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
        self.answer(i, Outcome::Started);
        self.turn_is_over(i);
    }

    /// OTP's `ignore`: a child that is there and does not run.
    fn ignored(&mut self, i: Place) {
        self.child(i).failed_starts = 0;
        self.child(i).slot = Slot::Down;
        self.answer(i, Outcome::Ignored);
        self.forget_if_due(i);
        self.turn_is_over(i);
        self.stop_next();
    }

    fn start_failed(&mut self, now: Instant, i: Place, failure: Failure) {
        let called_off = self.is_being_stopped(i);
        let announced = self.announced;
        self.child(i).slot = Slot::Down;
        if called_off && self.comes_back(i) {
            return self.stop_next();
        }
        let child = self.child(i);
        if called_off || child.asked.is_some() {
            let outcome = if child.terminating { Outcome::Terminated } else { Outcome::Failed(failure) };
            self.told_down(i, outcome);
            self.turn_is_over(i);
            return self.stop_next();
        }
        if !announced {
            return self.stop_all(NOBODY, Verdict::StartFailed(failure));
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
                self.told_down(i, Outcome::Terminated);
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
    fn forget_ends(&mut self, from: Place) {
        let stopped: Vec<Place> = self.ends.iter().map(|&(i, _)| i).filter(|&i| i >= from).collect();
        self.ends.retain(|&(i, _)| i < from);
        for i in stopped {
            self.child(i).slot = Slot::Down;
            self.forget_if_due(i);
        }
    }

    /// It was told to stop.
    pub(crate) fn is_stopping(&self, i: Place) -> bool {
        self.children.get(&i).is_some_and(|child| child.slot == Slot::Stopping)
    }

    /// Its stop is out, or would have been next: a sibling on its way down is no failure.
    fn is_being_stopped(&mut self, i: Place) -> bool {
        let group = matches!(self.phase, Phase::Stopping { from, .. } if i >= from);
        group || self.child(i).slot == Slot::Stopping
    }

    /// It is down because its group is stopped, and who waits for its start waits until the group is up again.
    fn comes_back(&mut self, i: Place) -> bool {
        let group = matches!(self.phase, Phase::Stopping { from, then: Then::Start, .. } if i >= from);
        let child = self.child(i);
        group && !child.terminating && child.terms.restart != Restart::Temporary
    }

    /// A child has ended for good by itself.
    fn auto_shutdown(&mut self, significant: bool) {
        if !significant || self.rules.auto_shutdown == AutoShutdown::Never {
            return;
        }
        // Of those that are down or starting while others are stopped or started, some come up and some do not. So that is
        // judged when all have had their turn.
        let ordered = !matches!(self.phase, Phase::Running);
        if self.rules.auto_shutdown == AutoShutdown::AnySignificant {
            return self.stop_all(NOBODY, Verdict::AutoShutdown);
        }
        if ordered {
            self.significant_end = true;
            return;
        }
        match self.significant_left() {
            Some(Slot::Starting) => self.significant_end = true,
            Some(_) => {}
            None => self.stop_all(NOBODY, Verdict::AutoShutdown),
        }
    }

    /// A significant child that is not down; one that is starting only where there is no other.
    fn significant_left(&mut self) -> Option<Slot> {
        let (mut left, mut down) = (None, Vec::new());
        for &place in &self.significant {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            match self.children[&place].slot {
                Slot::Down => down.push(place),
                Slot::Starting => left = Some(Slot::Starting),
                slot => {
                    left = Some(slot);
                    break;
                }
            }
        }
        for place in down {
            self.significant.remove(&place);
        }
        left
    }

    fn stuck(&mut self, i: Place, reason: String) {
        self.child(i).slot = Slot::Stuck;
        self.answer(i, Outcome::Failed(Failure { path: String::new(), reason: reason.clone() }));
        match self.phase {
            Phase::Stopping { then: Then::Exit(_), .. } => self.stop_next(),
            Phase::Done => {}
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
            Phase::Done => {}
            // Those already in a hurry stay so; a verdict already reached stands.
            Phase::Stopping { from, then, .. } => {
                *from = 0;
                if matches!(then, Then::Start) {
                    *then = Then::Exit(Verdict::Shutdown);
                }
                self.call_off_starts();
                self.stop_next();
            }
            _ => self.stop_all(NOBODY, Verdict::Shutdown),
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
            Phase::Stopping { from, hurry_from, below, .. } => (from.min(first), hurry_from.min(first), below),
            _ => (first, first, NOBODY),
        };
        self.phase = Phase::Stopping { from, hurry_from, below, then: Then::Start };
        self.stop_next();
    }

    fn escalate(&mut self, i: Place, reason: String) {
        let hurry_from = match self.rules.strategy {
            Strategy::OneForOne => NOBODY,
            Strategy::OneForAll | Strategy::RestForOne => self.group(i),
        };
        self.stop_all(hurry_from, Verdict::Escalated { child: i, reason });
    }

    /// First child of those that share the fate of child `i`.
    fn group(&self, i: Place) -> Place {
        match self.rules.strategy {
            Strategy::OneForAll => 0,
            Strategy::OneForOne | Strategy::RestForOne => i,
        }
    }

    /// What a caller waits for has come about.
    fn answer(&mut self, i: Place, outcome: Outcome) {
        let child = self.child(i);
        let asked = child.asked.take().is_some();
        if std::mem::take(&mut child.terminating) || asked {
            self.effects.push(Effect::Answer(i, outcome));
        }
    }

    /// It is down, as somebody wanted or was told. What `start_child` did not bring up is no child.
    fn told_down(&mut self, i: Place, outcome: Outcome) {
        let child = self.child(i);
        child.failed_starts = 0; // whoever starts it next begins anew
        child.delay = Delay::None;
        let stillborn = child.asked == Some(Asked::Start);
        self.answer(i, outcome);
        if stillborn {
            self.forget(i);
        } else {
            self.forget_if_due(i);
        }
    }

    /// A child that is down, and by its kind is then no child any more.
    fn forget_if_due(&mut self, i: Place) {
        if self.rules.dynamic || self.child(i).terms.restart == Restart::Temporary {
            self.forget(i);
        }
    }

    fn forget(&mut self, i: Place) {
        self.children.remove(&i);
        self.significant.remove(&i);
        self.effects.push(Effect::Forget(i));
    }
}

#[cfg(test)]
mod tests;
