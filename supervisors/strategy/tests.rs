//! The machine alone: scripts for what it decides, and a random world for what it must never do.

use proptest::prelude::*;
use tokio::time::Duration;

use super::*;
use crate::spec::Strategy;

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
    assert_eq!(machine.step(now, Event::Boot), [Effect::Start(0)]);
    for i in 0..count {
        let next = if i + 1 < count { Effect::Start(i + 1) } else { Effect::Ready };
        assert_eq!(machine.step(now, Event::Started(i)), [next]);
    }
    machine
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
    fn now(&mut self, event: Event) -> Vec<Effect> {
        self.step(Instant::now(), event)
    }
}

#[test]
fn a_failed_first_start_unwinds_in_reverse_order() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 3]);
    m.now(Event::Boot);
    m.now(Event::Started(0));
    m.now(Event::Started(1));
    assert_eq!(m.now(Event::StartFailed(2, no_start())), [stop(1, false)]);
    assert_eq!(m.now(Event::Gone(1, crash())), [stop(0, false)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [Effect::Exit(Verdict::StartFailed(no_start()))]);
}

#[test]
fn one_for_one_restarts_the_child_alone() {
    let mut m = running(Strategy::OneForOne, 3, 3);
    assert_eq!(m.now(Event::Gone(1, crash())), [restarting(1, 1), Effect::Start(1)]);
    assert_eq!(m.now(Event::Gone(2, crash())), [restarting(2, 2), Effect::Start(2)]);
    assert_eq!(m.now(Event::Started(2)), []);
    assert_eq!(m.now(Event::Started(1)), []);
}

#[test]
fn rest_for_one_restarts_the_juniors_in_order() {
    let mut m = running(Strategy::RestForOne, 3, 4);
    assert_eq!(m.now(Event::Gone(1, crash())), [restarting(1, 1), stop(3, true)]);
    assert_eq!(m.now(Event::Gone(3, crash())), [stop(2, true)]);
    assert_eq!(m.now(Event::Gone(2, crash())), [Effect::Start(1)]);
    assert_eq!(m.now(Event::Started(1)), [Effect::Start(2)]);
    assert_eq!(m.now(Event::Started(2)), [Effect::Start(3)]);
    assert_eq!(m.now(Event::Started(3)), []);
}

#[test]
fn an_elder_that_fails_meanwhile_widens_the_group() {
    let mut m = running(Strategy::RestForOne, 3, 4);
    assert_eq!(m.now(Event::Gone(2, crash())), [restarting(2, 1), stop(3, true)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [restarting(0, 2)], "3 is still being stopped");
    assert_eq!(m.now(Event::Gone(3, crash())), [stop(1, true)]);
    assert_eq!(m.now(Event::Gone(1, crash())), [Effect::Start(0)]);
}

#[test]
fn an_elder_that_fails_during_the_restart_begins_it_again() {
    let mut m = running(Strategy::RestForOne, 3, 3);
    m.now(Event::Gone(0, crash()));
    m.now(Event::Gone(2, crash()));
    assert_eq!(m.now(Event::Gone(1, crash())), [Effect::Start(0)]);
    assert_eq!(m.now(Event::Started(0)), [Effect::Start(1)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [restarting(0, 2), stop(1, true)], "its start is called off");
    assert_eq!(m.now(Event::StartFailed(1, no_start())), [Effect::Start(0)], "and that is no failure");
}

#[test]
fn one_for_all_tries_again_from_the_first() {
    let mut m = running(Strategy::OneForAll, 3, 3);
    assert_eq!(m.now(Event::Gone(2, crash())), [restarting(2, 1), stop(1, true)]);
    assert_eq!(m.now(Event::Gone(1, crash())), [stop(0, true)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [Effect::Start(0)]);
    assert_eq!(m.now(Event::Started(0)), [Effect::Start(1)]);
    let again = Effect::Restarting { child: 1, reason: "no".into(), in_window: 2 };
    assert_eq!(m.now(Event::StartFailed(1, no_start())), [again, stop(0, true)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [Effect::Start(0)]);
}

#[test]
fn a_sibling_that_dies_before_its_turn_is_no_failure() {
    let mut m = running(Strategy::OneForAll, 1, 3);
    assert_eq!(m.now(Event::Gone(0, crash())), [restarting(0, 1), stop(2, true)]);
    assert_eq!(m.now(Event::Gone(1, crash())), [], "a second restart would pass the intensity");
    assert_eq!(m.now(Event::Gone(2, crash())), [Effect::Start(0)]);
}

#[test]
fn past_the_intensity_it_stops_all_and_exits() {
    let mut m = running(Strategy::RestForOne, 0, 3);
    let effects = m.now(Event::Gone(1, crash()));
    assert_eq!(effects, [stop(2, true)], "juniors of the failed child go in a hurry");
    assert_eq!(m.now(Event::Gone(2, crash())), [stop(0, false)], "elders do not");
    let effects = m.now(Event::Gone(0, crash()));
    assert!(matches!(&effects[..], [Effect::Exit(Verdict::Escalated { child: 1, .. })]), "{effects:?}");
    assert!(m.is_done());
}

#[test]
fn slow_failed_starts_escalate_though_the_window_never_fills() {
    let mut m = running(Strategy::OneForOne, 2, 1);
    let mut now = Instant::now();
    m.step(now, Event::Gone(0, crash()));
    for _ in 0..2 {
        now += Duration::from_secs(60);
        let effects = m.step(now, Event::StartFailed(0, no_start()));
        assert!(matches!(effects[..], [Effect::Restarting { in_window: 1, .. }, Effect::Start(0)]), "{effects:?}");
    }
    now += Duration::from_secs(60);
    let effects = m.step(now, Event::StartFailed(0, no_start()));
    assert!(matches!(effects[..], [Effect::Exit(Verdict::Escalated { child: 0, .. })]), "{effects:?}");
}

#[test]
fn a_start_that_succeeds_clears_the_failed_ones() {
    let mut m = running(Strategy::OneForOne, 2, 1);
    let mut now = Instant::now();
    for _ in 0..10 {
        m.step(now, Event::Gone(0, crash()));
        for _ in 0..2 {
            now += Duration::from_secs(60);
            assert_eq!(m.step(now, Event::StartFailed(0, no_start())).len(), 2);
        }
        now += Duration::from_secs(60);
        assert_eq!(m.step(now, Event::Started(0)), []);
    }
}

#[test]
fn transient_and_temporary_children() {
    let mut m = machine(Strategy::OneForAll, 3, &[Restart::Transient, Restart::Temporary, Restart::Permanent]);
    m.now(Event::Boot);
    (0..3).for_each(|i| drop(m.now(Event::Started(i))));
    let normal = Exit::from_reason(None);
    assert_eq!(m.now(Event::Gone(0, normal)), [], "a transient child may end normally");
    assert_eq!(m.now(Event::Gone(2, crash())), [restarting(2, 1), stop(1, true)]);
    assert_eq!(m.now(Event::Gone(1, crash())), [Effect::Forget(1), Effect::Start(0)], "the group restart revives it");
    assert_eq!(m.now(Event::Started(0)), [Effect::Start(2)], "and leaves the temporary one out");
}

#[test]
fn shutdown_in_the_middle_of_a_start() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 3]);
    m.now(Event::Boot);
    m.now(Event::Started(0));
    assert_eq!(m.now(Event::Shutdown), [stop(1, false)]);
    assert_eq!(m.now(Event::Started(1)), [], "it came up just before the order reached it");
    assert_eq!(m.now(Event::Gone(1, crash())), [stop(0, false)]);
    assert_eq!(m.now(Event::Gone(0, crash())), [Effect::Exit(Verdict::Shutdown)]);
}

#[test]
fn a_child_that_will_not_die_is_never_started_again() {
    let mut m = running(Strategy::OneForAll, 3, 2);
    assert_eq!(m.now(Event::Gone(0, crash())), [restarting(0, 1), stop(1, true)]);
    let effects = m.now(Event::Stuck(1, "still runs".into()));
    assert!(matches!(effects[..], [Effect::Exit(Verdict::Escalated { child: 1, .. })]), "{effects:?}");
}

#[test]
fn backoff_delays_restarts_and_resets_after_a_steady_run() {
    let mut m = Machine::new(rules(Strategy::OneForOne, LAX), [term(Restart::Permanent, Some(BACKOFF))]);
    let mut now = Instant::now();
    m.step(now, Event::Boot);
    m.step(now, Event::Started(0));
    for attempt in 0..3 {
        assert_eq!(m.step(now, Event::Gone(0, crash()))[1], Effect::Delay { child: 0, attempt });
        assert_eq!(m.step(now, Event::Elapsed(0)), [Effect::Start(0)]);
        m.step(now, Event::Started(0));
    }
    now += BACKOFF.max;
    assert_eq!(m.step(now, Event::Gone(0, crash()))[1], Effect::Delay { child: 0, attempt: 0 });
    assert_eq!(m.step(now, Event::Shutdown), [Effect::Exit(Verdict::Shutdown)], "nothing is there to be stopped");
    assert_eq!(m.step(now, Event::Elapsed(0)), []);
}

/// What really is, as opposed to what the machine believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Really {
    Absent,
    Delayed,
    Starting,
    Up,
    /// Dead or dying; `Gone` is still to come.
    Dying {
        normal: bool,
    },
    /// A `Stop` is out; it was called off before it was up, or not.
    Stopping {
        was_up: bool,
    },
}

impl Really {
    fn is_there(self) -> bool {
        !matches!(self, Really::Absent | Really::Delayed)
    }
}

struct World {
    machine: Machine,
    strategy: Strategy,
    terms: Vec<Terms>,
    children: Vec<Really>,
    ever_up: Vec<bool>,
    retired: Vec<bool>,
    ready: bool,
    exited: bool,
}

impl World {
    fn new(strategy: Strategy, intensity: Intensity, terms: Vec<Terms>) -> World {
        let n = terms.len();
        let machine = Machine::new(rules(strategy, intensity), terms.iter().copied());
        World {
            machine,
            strategy,
            terms,
            children: vec![Really::Absent; n],
            ever_up: vec![false; n],
            retired: vec![false; n],
            ready: false,
            exited: false,
        }
    }

    fn step(&mut self, event: Event) {
        assert!(!self.exited, "no event may matter after the exit");
        for effect in self.machine.step(Instant::now(), event) {
            self.perform(effect);
        }
        let stopping = self.children.iter().filter(|child| matches!(child, Really::Stopping { .. })).count();
        assert!(stopping <= 1, "one stop at a time");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start(i) => {
                assert!(!self.children[i].is_there(), "{i} is started while it is there");
                assert!(!self.retired[i], "{i} is a temporary child that ended");
                let boot = !self.ever_up[i];
                let ordered = boot || self.strategy != Strategy::OneForOne;
                if ordered {
                    assert!(
                        !self.children[i + 1..].iter().any(|child| child.is_there()),
                        "{i} starts under its juniors"
                    );
                }
                if boot {
                    assert!(
                        (0..i).all(|elder| self.ever_up[elder] || self.retired[elder]),
                        "{i} starts before its elders"
                    );
                }
                self.children[i] = Really::Starting;
            }
            Effect::Stop { child, .. } => {
                let later = &self.children[child + 1..];
                let leaving = |really: &Really| matches!(really, Really::Dying { .. }) || !really.is_there();
                assert!(later.iter().all(leaving), "{child} is stopped before its juniors: {later:?}");
                self.children[child] = match self.children[child] {
                    Really::Starting => Really::Stopping { was_up: false },
                    Really::Up | Really::Dying { .. } => Really::Stopping { was_up: true },
                    other => panic!("a stop for {child}, which is {other:?}"),
                };
            }
            Effect::Delay { child, .. } => {
                assert!(!self.children[child].is_there());
                self.children[child] = Really::Delayed;
            }
            Effect::Forget(i) => {
                assert_eq!(self.terms[i].restart, Restart::Temporary);
                self.retired[i] = true;
            }
            Effect::Ready => self.ready = true,
            Effect::Restarting { .. } => {}
            Effect::Answer(..) => panic!("nobody asked"),
            Effect::Exit(_) => {
                assert!(!self.children.iter().any(|child| child.is_there()), "exit with children: {:?}", self.children);
                self.exited = true;
            }
        }
    }

    /// Lets something happen to one child.
    fn poke(&mut self, i: usize, fail: bool, normal: bool) {
        let event = match self.children[i] {
            Really::Absent => return,
            Really::Up => {
                self.children[i] = Really::Dying { normal };
                return;
            }
            Really::Delayed => Event::Elapsed(i),
            Really::Starting if fail && self.ever_up[i] => Event::StartFailed(i, no_start()),
            Really::Starting => Event::Started(i),
            Really::Dying { normal } => Event::Gone(i, Exit { reason: "end".into(), normal }),
            Really::Stopping { was_up: false } => Event::StartFailed(i, no_start()),
            Really::Stopping { was_up: true } => Event::Gone(i, crash()),
        };
        self.children[i] = match event {
            Event::Started(_) => {
                self.ever_up[i] = true;
                Really::Up
            }
            _ => Really::Absent,
        };
        self.step(event);
    }

    /// Answers everything that is out, favourably.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let busy = |really: &Really| !matches!(really, Really::Absent | Really::Up);
            let Some(i) = self.children.iter().position(busy) else { return };
            self.poke(i, false, false);
            if self.exited {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.machine);
    }
}

fn terms() -> impl proptest::strategy::Strategy<Value = Vec<Terms>> {
    let restart = prop_oneof![
        4 => Just(Restart::Permanent),
        1 => Just(Restart::Transient),
        1 => Just(Restart::Temporary),
    ];
    let backoff = prop_oneof![3 => Just(None), 1 => Just(Some(BACKOFF))];
    use proptest::strategy::Strategy as _;
    let children = (restart, backoff).prop_map(|(restart, backoff)| term(restart, backoff));
    prop::collection::vec(children, 1..6)
}

fn strategies() -> impl proptest::strategy::Strategy<Value = Strategy> {
    prop_oneof![Just(Strategy::OneForOne), Just(Strategy::OneForAll), Just(Strategy::RestForOne)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever dies whenever: order is respected, nothing runs twice, and in the end all that must run does.
    #[test]
    fn gets_whole_again(
        strategy in strategies(),
        terms in terms(),
        pokes in prop::collection::vec((0usize..6, any::<bool>(), any::<bool>()), 0..60),
    ) {
        let mut world = World::new(strategy, LAX, terms);
        world.step(Event::Boot);
        for (i, fail, normal) in pokes {
            let i = i % world.children.len();
            world.poke(i, fail, normal);
        }
        world.settle();
        prop_assert!(world.ready && !world.exited);
        prop_assert!(matches!(world.machine.phase, Phase::Running), "{:?}", world.machine);
        for (i, terms) in world.terms.iter().enumerate() {
            if terms.restart == Restart::Permanent {
                prop_assert_eq!(world.children[i], Really::Up);
            }
        }
    }

    /// A shutdown at any moment ends with nothing left.
    #[test]
    fn stops_from_anywhere(
        strategy in strategies(),
        terms in terms(),
        restarts in 0u32..4,
        pokes in prop::collection::vec((0usize..6, any::<bool>(), any::<bool>()), 0..40),
    ) {
        let intensity = Intensity { restarts, period: Duration::from_secs(3600) };
        let mut world = World::new(strategy, intensity, terms);
        world.step(Event::Boot);
        for (i, fail, normal) in pokes {
            if !world.exited {
                let i = i % world.children.len();
                world.poke(i, fail, normal);
            }
        }
        if !world.exited {
            world.step(Event::Shutdown);
        }
        for _ in 0..100 {
            let there = world.children.iter().rposition(|child| child.is_there());
            let Some(i) = there.filter(|_| !world.exited) else { break };
            world.poke(i, false, false);
        }
        prop_assert!(world.exited, "{:?}", world.machine);
    }
}
