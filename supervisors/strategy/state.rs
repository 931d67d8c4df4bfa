//! What the machine believes of its children and of itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use super::types::{Effect, ExitCause, Place, RequestOutcome, Rules, Terms};
use crate::exit::Exit;
use crate::intensity::Window;
use crate::spec::{Restart, Strategy};

/// A child as the machine sees it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) terms: Terms,
    pub(super) slot: Slot,
    /// Someone waits for this start: a failure is theirs to handle.
    pub(super) asked: Option<Asked>,
    /// Someone waits for its end.
    pub(super) terminating: bool,
    /// Failed starts since it was last up.
    pub(super) failed_starts: usize,
    /// Restarts in a row, for the backoff.
    pub(super) attempt: u32,
    pub(super) delay: Delay,
}

/// The wait before a restart, which a child serves once for each failure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delay {
    /// Nothing to wait for.
    None,
    /// It failed; the wait begins when it would be started.
    Due,
    /// A `Delay` is out. It goes on while the child's group is restarted.
    Running,
}

/// By what request a child is being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `start_child`: it is no child before it is up.
    Start,
    /// `restart_child`.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
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
pub(super) enum MachinePhase {
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
pub(super) enum Then {
    Start,
    Exit(ExitCause),
}

/// Nobody is stopped in a hurry; no child is above it.
pub(super) const NOBODY: Place = Place::MAX;

/// The supervisor's decisions.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) rules: Rules,
    /// In start order.
    pub(super) children: BTreeMap<Place, Child>,
    pub(super) window: Window,
    pub(super) phase: MachinePhase,
    /// `Ready` has been said: from now on a failed start is a failed *re*start.
    pub(super) announced: bool,
    /// Children that ended during the first start, in that order.
    pub(super) ends: VecDeque<(Place, Exit)>,
    /// Significant children that were started. One that is found to be down is taken out, so that who asks whether all are
    /// does not look at it again.
    pub(super) significant: BTreeSet<Place>,
    /// How many of them were looked at.
    #[cfg(test)]
    pub(super) looks: usize,
    /// A significant child ended while others of a group were stopped or started.
    pub(super) significant_end: bool,
    pub(super) effects: Vec<Effect>,
}

impl Child {
    pub(super) fn new(terms: Terms) -> Child {
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
            phase: MachinePhase::Idle,
            announced: false,
            ends: VecDeque::new(),
            significant: BTreeSet::new(),
            #[cfg(test)]
            looks: 0,
            significant_end: false,
            effects: Vec::new(),
        }
    }

    /// A child whose stop is under way in an ordered stop.
    pub(crate) fn awaited(&self) -> Option<Place> {
        let stopping = |(&place, child): (&Place, &Child)| (child.slot == Slot::Stopping).then_some(place);
        match self.phase {
            MachinePhase::Stopping { .. } if self.rules.dynamic => self.children.iter().find_map(stopping),
            MachinePhase::Stopping { below, .. } => self.children.range(..below).rev().find_map(stopping),
            _ => None,
        }
    }

    /// On its way out: the verdict is reached.
    pub(crate) fn is_exiting(&self) -> bool {
        matches!(self.phase, MachinePhase::Stopping { then: Then::Exit(_), .. } | MachinePhase::Done)
    }

    /// `Exit` has been said.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, MachinePhase::Done)
    }

    /// It was told to stop.
    pub(crate) fn is_stopping(&self, i: Place) -> bool {
        self.children.get(&i).is_some_and(|child| child.slot == Slot::Stopping)
    }

    pub(super) fn child(&mut self, place: Place) -> &mut Child {
        self.children.get_mut(&place).expect("the shell speaks of children only")
    }

    /// Its stop is out, or would have been next: a sibling on its way down is no failure.
    pub(super) fn is_being_stopped(&mut self, i: Place) -> bool {
        let group = matches!(self.phase, MachinePhase::Stopping { from, .. } if i >= from);
        group || self.child(i).slot == Slot::Stopping
    }

    /// It is down because its group is stopped, and who waits for its start waits until the group is up again.
    pub(super) fn comes_back(&self, i: Place) -> bool {
        let group = matches!(self.phase, MachinePhase::Stopping { from, then: Then::Start, .. } if i >= from);
        let child = &self.children[&i];
        group && !child.terminating && child.terms.restart != Restart::Temporary
    }

    /// First child of those that share the fate of child `i`.
    pub(super) fn group(&self, i: Place) -> Place {
        match self.rules.strategy {
            Strategy::OneForAll => 0,
            Strategy::OneForOne | Strategy::RestForOne => i,
        }
    }

    /// What a caller waits for has come about.
    pub(super) fn answer(&mut self, i: Place, outcome: RequestOutcome) {
        let child = self.child(i);
        let asked = child.asked.take().is_some();
        if std::mem::take(&mut child.terminating) || asked {
            self.effects.push(Effect::Answer(i, outcome));
        }
    }

    /// It is down, as somebody wanted or was told. What `start_child` did not bring up is no child.
    pub(super) fn told_down(&mut self, i: Place, outcome: RequestOutcome) {
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
    pub(super) fn forget_if_due(&mut self, i: Place) {
        if self.rules.dynamic || self.child(i).terms.restart == Restart::Temporary {
            self.forget(i);
        }
    }

    pub(super) fn forget(&mut self, i: Place) {
        self.children.remove(&i);
        self.significant.remove(&i);
        self.effects.push(Effect::Forget(i));
    }
}
