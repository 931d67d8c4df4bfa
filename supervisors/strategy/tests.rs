//! The machine alone: golden scripts for what it decides, and a random world for what it must never do.

mod golden;
mod world;

use tokio::time::{Duration, Instant};

use super::state::{Asked, MachinePhase};
use super::*;
use crate::backoff::Backoff;
use crate::exit::Exit;
use crate::intensity::Intensity;
use crate::spec::{AutoShutdown, Restart, Strategy};

const LAX: Intensity = Intensity { restarts: 1_000_000, period: Duration::from_secs(1) };
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(100) };

fn rules(strategy: Strategy, intensity: Intensity) -> Rules {
    Rules { strategy, intensity, auto_shutdown: AutoShutdown::Never, dynamic: false }
}

fn term(restart: Restart, backoff: Option<Backoff>) -> Terms {
    Terms { restart, backoff, significant: false }
}

fn crash() -> Exit {
    Exit::abnormal("killed")
}

fn no_start() -> StartFailure {
    StartFailure { path: "root/x".into(), reason: "no".into() }
}

impl Machine {
    fn now(&mut self, input: Input) -> Vec<Effect> {
        self.step(Instant::now(), input)
    }
}

/// Whether the last has ended is asked at each end. Those that were found down are not looked at again.
#[test]
fn many_that_end_one_after_another_are_not_looked_through_each_time() {
    const CHILDREN: usize = 2_000;
    let rules = Rules { auto_shutdown: AutoShutdown::AllSignificant, ..rules(Strategy::OneForOne, LAX) };
    let terms = Terms { significant: true, ..term(Restart::Transient, None) };
    let mut machine = Machine::new(rules, vec![terms; CHILDREN]);
    machine.now(Input::Boot);
    (0..CHILDREN).for_each(|child| drop(machine.now(Input::Started(child))));
    for child in 0..CHILDREN - 1 {
        assert_eq!(machine.now(Input::Gone(child, Exit::from_reason(None))), []);
    }
    let last = machine.now(Input::Gone(CHILDREN - 1, Exit::from_reason(None)));
    assert_eq!(last, [Effect::Exit(ExitCause::AutoShutdown)]);
    assert!(machine.looks <= 2 * CHILDREN, "{} looks", machine.looks);
}
