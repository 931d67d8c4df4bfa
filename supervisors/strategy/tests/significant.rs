//! Significant children and the supervisor's shutdown because of them.

use super::*;

fn with(strategy: Strategy, auto_shutdown: AutoShutdown) -> Rules {
    Rules { auto_shutdown, ..rules(strategy, LAX) }
}

fn significant(restart: Restart) -> Terms {
    Terms { significant: true, ..term(restart, None) }
}

fn bystander() -> Terms {
    term(Restart::Permanent, None)
}

#[test]
fn any_of_them_is_enough() {
    let terms = [bystander(), significant(Restart::Transient), significant(Restart::Temporary)];
    let mut m = booted(with(Strategy::OneForOne, AutoShutdown::AnySignificant), &terms);
    assert_eq!(m.now(Input::Gone(1, normal())), [stop(2, false)]);
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Forget(2), stop(0, false)]);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Exit(Verdict::AutoShutdown)]);
}

#[test]
fn the_last_of_them_is_needed() {
    let terms = [significant(Restart::Temporary), significant(Restart::Transient), significant(Restart::Transient)];
    let mut m = booted(with(Strategy::OneForOne, AutoShutdown::AllSignificant), &terms);
    assert_eq!(m.now(Input::Gone(0, crash())), [Effect::Forget(0)], "a temporary one may end as it likes");
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), Effect::Start(1)], "that was not for good");
    assert_eq!(m.now(Input::Gone(2, normal())), [], "1 is coming up");
    m.now(Input::Started(1));
    assert_eq!(m.now(Input::Gone(1, normal())), [Effect::Exit(Verdict::AutoShutdown)]);
}

#[test]
fn one_that_is_terminated_or_stopped_with_its_group_does_not_count() {
    for auto_shutdown in [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant] {
        let terms = [bystander(), significant(Restart::Temporary), significant(Restart::Temporary)];
        let mut m = booted(with(Strategy::OneForAll, auto_shutdown), &terms);
        m.ask(Request::Terminate(1)).unwrap();
        assert_eq!(m.now(Input::Gone(1, crash())).len(), 2, "an answer, and it is forgotten");
        m.now(Input::Gone(0, crash()));
        assert_eq!(m.now(Input::Gone(2, normal())), [Effect::Forget(2), Effect::Start(0)]);
        assert_eq!(m.now(Input::Started(0)), []);
        assert!(matches!(m.phase, Phase::Running));
    }
}

#[test]
fn one_whose_start_is_ignored_does_not_count() {
    let terms = [significant(Restart::Transient), significant(Restart::Temporary)];
    let mut m = Machine::new(with(Strategy::OneForOne, AutoShutdown::AnySignificant), terms);
    m.now(Input::Boot);
    m.now(Input::Ignored(0));
    assert_eq!(m.now(Input::Ignored(1)), [Effect::Forget(1), Effect::Ready]);
}

/// OTP hears of an exit only when all are up, so for it those that are about to be started run already.
#[test]
fn those_that_are_about_to_be_started_are_not_down() {
    let terms = [significant(Restart::Transient), bystander(), significant(Restart::Transient)];
    let all = with(Strategy::RestForOne, AutoShutdown::AllSignificant);

    let mut m = Machine::new(all, terms);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    assert_eq!(m.now(Input::Gone(0, normal())), [], "at boot");
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(2)]);

    let mut m = booted(all, &terms);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), stop(2, true)]);
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Gone(0, normal())), [], "in a restart of the group");
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(2)]);
    assert_eq!(m.now(Input::Started(2)), []);
    assert_eq!(m.now(Input::Gone(2, normal()))[..], [stop(1, false)], "now it is the last");
}

/// As for OTP, whose `start_link` has returned by then.
#[test]
fn one_that_ends_at_boot_ends_the_supervisor_when_all_are_up() {
    let terms = [significant(Restart::Temporary), significant(Restart::Transient), bystander()];
    let mut m = Machine::new(with(Strategy::OneForOne, AutoShutdown::AnySignificant), terms);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    assert_eq!(m.now(Input::Gone(0, normal())), []);
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(2)]);
    assert_eq!(m.now(Input::Started(2)), [Effect::Ready, Effect::Forget(0), stop(2, false)]);
    m.now(Input::Gone(2, crash()));
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Exit(Verdict::AutoShutdown)]);

    let mut m = Machine::new(with(Strategy::OneForOne, AutoShutdown::AllSignificant), terms);
    m.now(Input::Boot);
    m.now(Input::Started(0));
    m.now(Input::Gone(0, normal()));
    m.now(Input::Started(1));
    assert_eq!(m.now(Input::Started(2)), [Effect::Ready, Effect::Forget(0)], "1 is left");
    assert_eq!(m.now(Input::Gone(1, normal())), [stop(2, false)]);
}

#[test]
fn a_group_that_is_being_stopped_comes_back_too() {
    let terms = [significant(Restart::Transient), bystander(), bystander(), significant(Restart::Transient)];
    let mut m = booted(with(Strategy::RestForOne, AutoShutdown::AllSignificant), &terms);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), stop(3, true)]);
    assert_eq!(m.now(Input::Gone(3, crash())), [stop(2, true)]);
    assert_eq!(m.now(Input::Gone(0, normal())), [], "3 is down, but not for good");
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Start(1)]);
}

/// Whether the last has ended is asked at each end. Those that were found down are not looked at again.
#[test]
fn many_that_end_one_after_another_are_not_looked_through_each_time() {
    const CHILDREN: usize = 2_000;
    let intensity = crate::Intensity { restarts: 1, period: tokio::time::Duration::from_secs(5) };
    let rules = Rules {
        strategy: crate::Strategy::OneForOne,
        intensity,
        auto_shutdown: AutoShutdown::AllSignificant,
        dynamic: false,
    };
    let terms = Terms { restart: Restart::Transient, backoff: None, significant: true };
    let (mut machine, now) = (Machine::new(rules, vec![terms; CHILDREN]), Instant::now());
    machine.step(now, Input::Boot);
    for child in 0..CHILDREN {
        machine.step(now, Input::Started(child));
    }
    for child in 0..CHILDREN - 1 {
        assert_eq!(machine.step(now, Input::Gone(child, Exit::from_reason(None))), []);
    }
    let last = machine.step(now, Input::Gone(CHILDREN - 1, Exit::from_reason(None)));
    assert_eq!(last, [Effect::Exit(Verdict::AutoShutdown)]);
    assert!(machine.looks <= 2 * CHILDREN, "{} looks", machine.looks);
}
