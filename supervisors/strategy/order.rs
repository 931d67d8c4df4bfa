//! Children in order: started one after the other, the eldest first, and stopped the other way round; those of a dynamic
//! supervisor all at once.

use super::state::{Delay, Machine, MachinePhase, NOBODY, Slot, Then};
use super::types::{Effect, ExitCause, Place, RequestOutcome, StartFailure};

impl Machine {
    pub(super) fn stop_all(&mut self, hurry_from: Place, verdict: ExitCause) {
        self.phase = MachinePhase::Stopping { from: 0, hurry_from, below: NOBODY, then: Then::Exit(verdict) };
        self.forget_ends(0);
        self.call_off_starts();
        if self.rules.dynamic {
            self.stop_at_once();
        }
        self.stop_next();
    }

    /// Starts the next child of an ordered start; when there is none, all are up.
    pub(super) fn start_next(&mut self) {
        let MachinePhase::Starting { next } = self.phase else {
            return;
        };
        if let Some((&place, _)) = self.children.range(next..).next() {
            self.phase = MachinePhase::Starting { next: place };
            return self.start(place);
        }
        self.phase = MachinePhase::Running;
        if !self.announced {
            self.announced = true;
            self.effects.push(Effect::Ready);
        }
        self.judge();
    }

    /// In an ordered start the next may follow when this child has had its turn.
    pub(super) fn turn_is_over(&mut self, i: Place) {
        if matches!(self.phase, MachinePhase::Starting { next } if next == i) {
            self.phase = MachinePhase::Starting { next: i + 1 };
            self.start_next();
        } else if matches!(self.phase, MachinePhase::Running) {
            self.judge();
        }
    }

    /// Starts a child, after its backoff if it has one to serve.
    pub(super) fn start(&mut self, i: Place) {
        if self.child(i).terms.significant {
            self.significant.insert(i);
        }
        let child = self.child(i);
        match child.delay {
            Delay::None => {
                child.slot = Slot::Starting;
                self.effects.push(Effect::Start(i));
            }
            Delay::Due => {
                (child.slot, child.delay) = (Slot::Delayed, Delay::Running);
                let attempt = child.attempt;
                child.attempt = attempt.saturating_add(1);
                self.effects.push(Effect::Delay { child: i, attempt });
            }
            Delay::Running => child.slot = Slot::Delayed,
        }
    }

    /// Stops the last child that is still there; when there is none, goes on to what comes after.
    pub(super) fn stop_next(&mut self) {
        let MachinePhase::Stopping { from, hurry_from, below, .. } = self.phase else {
            return;
        };
        for (&place, child) in self.children.range_mut(from..below.max(from)).rev() {
            match child.slot {
                Slot::Stopping => return self.have_stopped_above(place), // one at a time
                Slot::Up(_) | Slot::Starting => {
                    child.slot = Slot::Stopping;
                    self.effects.push(Effect::Stop { child: place, hurry: place >= hurry_from });
                    return self.have_stopped_above(place);
                }
                Slot::Delayed => child.slot = Slot::Down,
                Slot::Down | Slot::Ended | Slot::Stuck => {}
            }
        }
        match std::mem::replace(&mut self.phase, MachinePhase::Done) {
            MachinePhase::Stopping { then: Then::Start, .. } => {
                self.phase = MachinePhase::Starting { next: from };
                self.start_next();
            }
            MachinePhase::Stopping { then: Then::Exit(verdict), .. } => {
                self.effects.push(Effect::Exit(verdict));
            }
            _ => unreachable!("checked above"),
        }
    }

    /// Nothing is started any more on the way out. What waits for its backoff no longer does. What is being started on
    /// request is called off, out of its order, and what was to be started with its group is refused: a younger child may be
    /// waiting for the answer, and could not stop.
    pub(super) fn call_off_starts(&mut self) {
        let waiting = self.children.iter().filter(|(_, child)| child.slot == Slot::Delayed);
        let waiting: Vec<Place> = waiting.map(|(&place, _)| place).collect();
        for place in waiting {
            self.child(place).slot = Slot::Down;
            if self.rules.dynamic {
                self.forget(place);
            }
        }
        let asked = self.children.iter().filter(|(_, child)| child.asked.is_some());
        let asked: Vec<Place> = asked.map(|(&place, _)| place).collect();
        for place in asked {
            let child = self.child(place);
            match child.slot {
                Slot::Starting => {
                    child.slot = Slot::Stopping;
                    self.effects.push(Effect::Stop { child: place, hurry: false });
                }
                Slot::Down | Slot::Delayed => {
                    let reason = "its supervisor is on its way out".to_owned();
                    self.told_down(place, RequestOutcome::Failed(StartFailure { path: String::new(), reason }));
                }
                Slot::Up(_) | Slot::Stopping | Slot::Ended | Slot::Stuck => {}
            }
        }
    }

    pub(super) fn have_stopped_above(&mut self, place: Place) {
        if let MachinePhase::Stopping { below, .. } = &mut self.phase {
            *below = place.saturating_add(1);
        }
    }

    /// All children of a dynamic supervisor, in no order.
    pub(super) fn stop_at_once(&mut self) {
        for (&place, child) in &mut self.children {
            if matches!(child.slot, Slot::Up(_) | Slot::Starting) {
                child.slot = Slot::Stopping;
                self.effects.push(Effect::Stop { child: place, hurry: false });
            }
        }
    }
}
