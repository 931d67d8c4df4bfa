//! Requests about single children: OTP's `start_child`, `terminate_child`, `restart_child`, `delete_child`.
//!
//! Each is taken at once, refused at once, or has to wait its turn: while children are started or stopped in order, and
//! while this child's own start or stop is under way. Only the end of a child that is starting is taken at any time, so
//! that a start that hangs can be called off.

use super::state::{Asked, Child, Delay, Machine, MachinePhase, Slot, Then};
use super::types::{Effect, Place, Refusal, Request, RequestOutcome, Stage};

impl Machine {
    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        match self.phase {
            MachinePhase::Idle | MachinePhase::Starting { .. } => Stage::Starting,
            // All are up, and what comes of those that ended meanwhile is not decided yet.
            MachinePhase::Running if !self.ends.is_empty() => Stage::Starting,
            MachinePhase::Running => Stage::Running,
            MachinePhase::Stopping { then: Then::Start, .. } => Stage::Stopping,
            MachinePhase::Stopping { then: Then::Exit(_), .. } | MachinePhase::Done => Stage::Exiting,
        }
    }

    /// Whose turn it is to be started in order.
    pub(crate) fn turn(&self) -> Option<Place> {
        match self.phase {
            MachinePhase::Starting { next } => Some(next),
            _ => None,
        }
    }

    /// Takes a request, or says why not. Never both: a refusal changes nothing.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Vec<Effect>, Refusal> {
        if self.is_exiting() {
            return Err(Refusal::Exiting);
        }
        let calm = matches!(self.phase, MachinePhase::Running);
        match request {
            Request::Terminate(i) if calm || self.is_coming_up(i) => self.terminate(i)?,
            Request::Restart(i) | Request::Delete(i) if self.is_retried(i) => return Err(Refusal::Restarting),
            _ if !calm => return Err(Refusal::Later),
            Request::Start(place, terms) => {
                let child = Child { asked: Some(Asked::Start), ..Child::new(terms) };
                let taken = self.children.insert(place, child);
                assert!(taken.is_none(), "place {place} is used again");
                self.start(place);
            }
            Request::Restart(i) => self.restart(i)?,
            Request::Terminate(i) => self.terminate(i)?,
            Request::Delete(i) => self.delete(i)?,
        }
        Ok(std::mem::take(&mut self.effects))
    }

    /// Why a child with the id of this one cannot be started.
    pub(crate) fn already(&self, i: Place) -> Refusal {
        match self.children[&i].slot {
            _ if self.is_exiting() => Refusal::Exiting,
            _ if self.is_retried(i) => Refusal::Restarting,
            _ if !matches!(self.phase, MachinePhase::Running) => Refusal::Later,
            Slot::Up(_) | Slot::Stuck => Refusal::Running,
            Slot::Delayed => Refusal::Restarting,
            Slot::Down => Refusal::Present,
            Slot::Starting | Slot::Stopping | Slot::Ended => Refusal::Later,
        }
    }

    /// Its restart has failed and is tried again. That may go on for long without a quiet moment, so it is told at once,
    /// as OTP tells it.
    fn is_retried(&self, i: Place) -> bool {
        let child = &self.children[&i];
        child.failed_starts > 0 && child.asked.is_none() && !child.terminating
    }

    fn is_coming_up(&self, i: Place) -> bool {
        let coming = matches!(self.children[&i].slot, Slot::Starting | Slot::Delayed);
        coming && !matches!(self.phase, MachinePhase::Stopping { .. })
    }

    fn restart(&mut self, i: Place) -> Result<(), Refusal> {
        match self.already(i) {
            Refusal::Present => {
                let child = self.child(i);
                child.asked = Some(Asked::Restart);
                child.delay = Delay::None;
                self.start(i);
                Ok(())
            }
            refusal => Err(refusal),
        }
    }

    fn terminate(&mut self, i: Place) -> Result<(), Refusal> {
        let child = self.child(i);
        match child.slot {
            Slot::Up(_) | Slot::Starting => {
                child.slot = Slot::Stopping;
                child.terminating = true;
                self.effects.push(Effect::Stop { child: i, hurry: false });
            }
            Slot::Stopping | Slot::Ended => return Err(Refusal::Later),
            Slot::Stuck => return Err(Refusal::Running),
            Slot::Down | Slot::Delayed => {
                child.slot = Slot::Down;
                child.terminating = true;
                self.told_down(i, RequestOutcome::Terminated);
                self.turn_is_over(i);
            }
        }
        Ok(())
    }

    fn delete(&mut self, i: Place) -> Result<(), Refusal> {
        match self.already(i) {
            Refusal::Present => {
                self.forget(i);
                Ok(())
            }
            refusal => Err(refusal),
        }
    }
}
