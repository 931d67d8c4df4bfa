//! The machine alone: scripts for what it decides, and a random world for what it must never do.

mod requests;
mod significant;
mod world;

use tokio::time::{Duration, Instant};

use super::state::{Asked, Phase};
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

fn machine(strategy: Strategy, restarts: u32, children: &[Restart]) -> Machine {
    let intensity = Intensity { restarts, period: Duration::from_secs(5) };
    Machine::new(rules(strategy, intensity), children.iter().map(|&restart| term(restart, None)))
}

/// Boots a machine of permanent children.
fn running(strategy: Strategy, restarts: u32, count: usize) -> Machine {
    let mut machine = machine(strategy, restarts, &vec![Restart::Permanent; count]);
    let now = Instant::now();
    assert_eq!(machine.step(now, Input::Boot), [Effect::Start(0)]);
    for i in 0..count {
        let next = if i + 1 < count { Effect::Start(i + 1) } else { Effect::Ready };
        assert_eq!(machine.step(now, Input::Started(i)), [next]);
    }
    machine
}

/// All are up: the rest is about what comes after.
fn booted(rules: Rules, terms: &[Terms]) -> Machine {
    let mut machine = Machine::new(rules, terms.iter().copied());
    machine.now(Input::Boot);
    (0..terms.len()).for_each(|i| drop(machine.now(Input::Started(i))));
    assert!(matches!(machine.phase, Phase::Running), "{machine:?}");
    machine
}

fn normal() -> Exit {
    Exit::from_reason(None)
}

fn crash() -> Exit {
    Exit::abnormal("killed")
}

fn no_start() -> Failure {
    Failure { path: "root/x".into(), reason: "no".into() }
}

fn stop(child: usize, hurry: bool) -> Effect {
    Effect::Stop { child, hurry }
}

fn restarting(child: usize, in_window: usize) -> Effect {
    Effect::Restarting { child, reason: "killed".into(), in_window }
}

impl Machine {
    fn now(&mut self, input: Input) -> Vec<Effect> {
        self.step(Instant::now(), input)
    }
}

#[test]
fn a_failed_first_start_unwinds_in_reverse_order() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 3]);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    m.now(Input::Started(1));
    assert_eq!(m.now(Input::StartFailed(2, no_start())), [stop(1, false)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [stop(0, false)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Exit(Verdict::StartFailed(no_start()))]);
}

#[test]
fn one_for_one_restarts_the_child_alone() {
    let mut m = running(Strategy::OneForOne, 3, 3);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), Effect::Start(1)]);
    assert_eq!(m.now(Input::Gone(2, crash())), [restarting(2, 2), Effect::Start(2)]);
    assert_eq!(m.now(Input::Started(2)), []);
    assert_eq!(m.now(Input::Started(1)), []);
}

#[test]
fn rest_for_one_restarts_the_juniors_in_order() {
    let mut m = running(Strategy::RestForOne, 3, 4);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), stop(3, true)]);
    assert_eq!(m.now(Input::Gone(3, crash())), [stop(2, true)]);
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(2)]);
    assert_eq!(m.now(Input::Started(2)), [Effect::Start(3)]);
    assert_eq!(m.now(Input::Started(3)), []);
}

#[test]
fn an_elder_that_fails_meanwhile_widens_the_group() {
    let mut m = running(Strategy::RestForOne, 3, 4);
    assert_eq!(m.now(Input::Gone(2, crash())), [restarting(2, 1), stop(3, true)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 2)], "3 is still being stopped");
    assert_eq!(m.now(Input::Gone(3, crash())), [stop(1, true)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Start(0)]);
}

#[test]
fn an_elder_that_fails_during_the_restart_begins_it_again() {
    let mut m = running(Strategy::RestForOne, 3, 3);
    m.now(Input::Gone(0, crash()));
    m.now(Input::Gone(2, crash()));
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Start(0)]);
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 2), stop(1, true)], "its start is called off");
    assert_eq!(m.now(Input::StartFailed(1, no_start())), [Effect::Start(0)], "and that is no failure");
}

#[test]
fn one_for_all_tries_again_from_the_first() {
    let mut m = running(Strategy::OneForAll, 3, 3);
    assert_eq!(m.now(Input::Gone(2, crash())), [restarting(2, 1), stop(1, true)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [stop(0, true)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Start(0)]);
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(1)]);
    let again = Effect::Restarting { child: 1, reason: "no".into(), in_window: 2 };
    assert_eq!(m.now(Input::StartFailed(1, no_start())), [again, stop(0, true)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Start(0)]);
}

#[test]
fn a_sibling_that_dies_before_its_turn_is_no_failure() {
    let mut m = running(Strategy::OneForAll, 1, 3);
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 1), stop(2, true)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [], "a second restart would pass the intensity");
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Start(0)]);
}

#[test]
fn past_the_intensity_it_stops_all_and_exits() {
    let mut m = running(Strategy::RestForOne, 0, 3);
    let effects = m.now(Input::Gone(1, crash()));
    assert_eq!(effects, [stop(2, true)], "juniors of the failed child go in a hurry");
    assert_eq!(m.now(Input::Gone(2, crash())), [stop(0, false)], "elders do not");
    let effects = m.now(Input::Gone(0, crash()));
    assert!(matches!(&effects[..], [Effect::Exit(Verdict::Escalated { child: 1, .. })]), "{effects:?}");
    assert!(m.is_done());
}

#[test]
fn slow_failed_starts_escalate_though_the_window_never_fills() {
    let mut m = running(Strategy::OneForOne, 2, 1);
    let mut now = Instant::now();
    m.step(now, Input::Gone(0, crash()));
    for _ in 0..2 {
        now += Duration::from_secs(60);
        let effects = m.step(now, Input::StartFailed(0, no_start()));
        assert!(matches!(effects[..], [Effect::Restarting { in_window: 1, .. }, Effect::Start(0)]), "{effects:?}");
    }
    now += Duration::from_secs(60);
    let effects = m.step(now, Input::StartFailed(0, no_start()));
    assert!(matches!(effects[..], [Effect::Exit(Verdict::Escalated { child: 0, .. })]), "{effects:?}");
}

#[test]
fn a_start_that_succeeds_clears_the_failed_ones() {
    let mut m = running(Strategy::OneForOne, 2, 1);
    let mut now = Instant::now();
    for _ in 0..10 {
        m.step(now, Input::Gone(0, crash()));
        for _ in 0..2 {
            now += Duration::from_secs(60);
            assert_eq!(m.step(now, Input::StartFailed(0, no_start())).len(), 2);
        }
        now += Duration::from_secs(60);
        assert_eq!(m.step(now, Input::Started(0)), []);
    }
}

#[test]
fn transient_and_temporary_children() {
    let mut m = machine(Strategy::OneForAll, 3, &[Restart::Transient, Restart::Temporary, Restart::Permanent]);
    m.now(Input::Boot);
    (0..3).for_each(|i| drop(m.now(Input::Started(i))));
    assert_eq!(m.now(Input::Gone(0, normal())), [], "a transient child may end normally");
    assert_eq!(m.now(Input::Gone(2, crash())), [restarting(2, 1), stop(1, true)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Forget(1), Effect::Start(0)], "the group restart revives it");
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(2)], "and leaves the temporary one out");
}

/// As for OTP, which reads of ends only when all were started: the start came about, whatever comes of it.
#[test]
fn who_ends_during_the_first_start_is_restarted_when_all_are_up() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 3]);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    assert_eq!(m.now(Input::Gone(0, crash())), []);
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(2)]);
    assert_eq!(m.now(Input::Gone(1, crash())), []);
    let effects = m.now(Input::Started(2));
    assert_eq!(effects, [Effect::Ready, restarting(0, 1), Effect::Start(0), restarting(1, 2), Effect::Start(1)]);
}

#[test]
fn past_the_intensity_during_the_first_start_it_gives_up_when_all_are_up() {
    for strategy in [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll] {
        let mut m = machine(strategy, 0, &[Restart::Permanent, Restart::Temporary, Restart::Permanent]);
        m.now(Input::Boot);
        m.now(Input::Started(0));
        assert_eq!(m.now(Input::Gone(0, crash())), []);
        m.now(Input::Started(1));
        assert_eq!(m.now(Input::Gone(1, crash())), []);
        let hurry = strategy != Strategy::OneForOne;
        assert_eq!(m.now(Input::Started(2)), [Effect::Ready, Effect::Forget(1), stop(2, hurry)], "{strategy:?}");
        let effects = m.now(Input::Gone(2, crash()));
        assert!(matches!(effects[..], [Effect::Exit(Verdict::Escalated { child: 0, .. })]), "{effects:?}");
    }
}

#[test]
fn those_of_a_group_that_ended_during_the_first_start_count_once() {
    let mut m = machine(Strategy::RestForOne, 3, &[Restart::Permanent, Restart::Permanent, Restart::Temporary]);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    m.now(Input::Started(1));
    assert_eq!(m.now(Input::Gone(0, crash())), []);
    assert_eq!(m.now(Input::Gone(1, crash())), []);
    assert_eq!(m.now(Input::Started(2)), [Effect::Ready, restarting(0, 1), stop(2, true)]);
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Forget(2), Effect::Start(0)]);
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Started(1)), []);
}

#[test]
fn a_first_start_that_fails_is_a_failed_start_whoever_has_ended_before() {
    let mut m = machine(Strategy::OneForAll, 3, &[Restart::Permanent; 3]);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    m.now(Input::Started(1));
    m.now(Input::Gone(0, crash()));
    assert_eq!(m.now(Input::StartFailed(2, no_start())), [stop(1, false)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Exit(Verdict::StartFailed(no_start()))]);
}

#[test]
fn on_the_way_out_a_backoff_that_ends_starts_nothing() {
    let terms = [term(Restart::Permanent, Some(BACKOFF)), term(Restart::Permanent, None)];
    let mut m = booted(rules(Strategy::OneForOne, LAX), &terms);
    m.now(Input::Gone(0, crash()));
    assert_eq!(m.now(Input::Shutdown), [stop(1, false)]);
    assert_eq!(m.now(Input::Elapsed(0)), []);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Exit(Verdict::Shutdown)]);
}

#[test]
fn a_restart_of_its_group_neither_raises_a_backoff_nor_begins_it_again() {
    let terms = [term(Restart::Permanent, None), term(Restart::Permanent, Some(BACKOFF))];
    let mut m = booted(rules(Strategy::RestForOne, LAX), &terms);
    assert_eq!(m.now(Input::Gone(1, crash()))[1], Effect::Delay { child: 1, attempt: 0 });
    for _ in 0..3 {
        assert_eq!(m.now(Input::Gone(0, crash()))[1..], [Effect::Start(0)]);
        assert_eq!(m.now(Input::Started(0)), [], "1 still waits");
    }
    assert_eq!(m.now(Input::Elapsed(1)), [Effect::Start(1)]);
    m.now(Input::Started(1));
    assert_eq!(m.now(Input::Gone(1, crash()))[1], Effect::Delay { child: 1, attempt: 1 }, "its second failure");
    m.now(Input::Gone(0, crash()));
    assert_eq!(m.now(Input::Elapsed(1)), [], "its turn has not come");
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(1)], "and when it comes, it has waited");
}

#[test]
fn shutdown_in_the_middle_of_a_start() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 3]);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    assert_eq!(m.now(Input::Shutdown), [stop(1, false)]);
    assert_eq!(m.now(Input::Started(1)), [], "it came up just before the order reached it");
    assert_eq!(m.now(Input::Gone(1, crash())), [stop(0, false)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Exit(Verdict::Shutdown)]);
}

#[test]
fn a_child_that_will_not_die_is_never_started_again() {
    let mut m = running(Strategy::OneForAll, 3, 2);
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 1), stop(1, true)]);
    let effects = m.now(Input::Stuck(1, "still runs".into()));
    assert!(matches!(effects[..], [Effect::Exit(Verdict::Escalated { child: 1, .. })]), "{effects:?}");
}

#[test]
fn backoff_delays_restarts_and_resets_after_a_steady_run() {
    let mut m = Machine::new(rules(Strategy::OneForOne, LAX), [term(Restart::Permanent, Some(BACKOFF))]);
    let mut now = Instant::now();
    m.step(now, Input::Boot);
    m.step(now, Input::Started(0));
    for attempt in 0..3 {
        assert_eq!(m.step(now, Input::Gone(0, crash()))[1], Effect::Delay { child: 0, attempt });
        assert_eq!(m.step(now, Input::Elapsed(0)), [Effect::Start(0)]);
        m.step(now, Input::Started(0));
    }
    now += BACKOFF.max;
    assert_eq!(m.step(now, Input::Gone(0, crash()))[1], Effect::Delay { child: 0, attempt: 0 });
    assert_eq!(m.step(now, Input::Shutdown), [Effect::Exit(Verdict::Shutdown)], "nothing is there to be stopped");
    assert_eq!(m.step(now, Input::Elapsed(0)), []);
}
