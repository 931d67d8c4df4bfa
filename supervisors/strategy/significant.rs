//! Whether significant children that have ended end the supervisor.

use super::state::{Machine, MachinePhase, NOBODY, Slot};
use super::types::{ExitCause, Place};
use crate::spec::AutoShutdown;

impl Machine {
    /// Makes up for what could not be judged when a significant child ended.
    pub(super) fn judge(&mut self) {
        let significant_end = std::mem::take(&mut self.significant_end);
        self.auto_shutdown(significant_end);
    }

    /// A child has ended for good by itself.
    pub(super) fn auto_shutdown(&mut self, significant: bool) {
        if !significant || self.rules.auto_shutdown == AutoShutdown::Never {
            return;
        }
        if self.rules.auto_shutdown == AutoShutdown::AnySignificant {
            return self.stop_all(NOBODY, ExitCause::AutoShutdown);
        }
        // Of those that are still to be started, some come up and some do not: what that comes to is judged when all have had
        // their turn. Where there is none, it is judged at once: what ends after this child may take it along and bring it
        // back, and OTP's supervisor has ended by then.
        match self.significant_left() {
            Left::OneIs => {}
            Left::OneMayBe => self.significant_end = true,
            Left::None => self.stop_all(NOBODY, ExitCause::AutoShutdown),
        }
    }

    /// Whether a significant child is left. Those that are not are taken out.
    fn significant_left(&mut self) -> Left {
        let (mut left, mut ended) = (Left::None, Vec::new());
        for &place in &self.significant {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            match self.is_left(place) {
                Left::None => ended.push(place),
                Left::OneMayBe => left = Left::OneMayBe,
                Left::OneIs => {
                    left = Left::OneIs;
                    break;
                }
            }
        }
        for place in ended {
            self.significant.remove(&place);
        }
        left
    }

    fn is_left(&self, place: Place) -> Left {
        let slot = self.children[&place].slot;
        match self.phase {
            MachinePhase::Stopping { from, .. } if place >= from && !self.comes_back(place) => Left::None,
            MachinePhase::Stopping { from, .. } if place >= from => Left::OneMayBe,
            MachinePhase::Starting { next } if place >= next => Left::OneMayBe,
            _ if slot == Slot::Down => Left::None,
            _ if slot == Slot::Starting => Left::OneMayBe,
            _ => Left::OneIs,
        }
    }
}

/// What is left of the significant children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    None,
    /// One that is being started, or will be.
    OneMayBe,
    OneIs,
}
