//! Whether significant children that have ended end the supervisor.

use super::state::{Machine, MachinePhase, NOBODY, Slot};
use super::types::ExitCause;
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
        // Of those that are down or starting while others are stopped or started, some come up and some do not. So that is
        // judged when all have had their turn.
        let ordered = !matches!(self.phase, MachinePhase::Running);
        if self.rules.auto_shutdown == AutoShutdown::AnySignificant {
            return self.stop_all(NOBODY, ExitCause::AutoShutdown);
        }
        if ordered {
            self.significant_end = true;
            return;
        }
        match self.significant_left() {
            Some(Slot::Starting) => self.significant_end = true,
            Some(_) => {}
            None => self.stop_all(NOBODY, ExitCause::AutoShutdown),
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
}
