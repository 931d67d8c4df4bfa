//! Requests about single children, one script each.

use super::*;

const NEW: Place = 9;

fn permanent() -> Terms {
    term(Restart::Permanent, None)
}

fn answer(child: Place, outcome: Outcome) -> Effect {
    Effect::Answer(child, outcome)
}

impl Machine {
    fn taken(&mut self, request: Request) -> Vec<Effect> {
        self.ask(request).unwrap_or_else(|refusal| panic!("{request:?} is refused: {refusal:?}"))
    }

    fn refused(&mut self, request: Request) -> Refusal {
        let before = format!("{self:?}");
        let refusal = self.ask(request).expect_err("it is not to be taken");
        assert_eq!(format!("{self:?}"), before, "a refusal changes nothing");
        refusal
    }
}

#[test]
fn a_child_that_is_added_is_the_youngest() {
    let mut m = running(Strategy::RestForOne, 3, 2);
    assert_eq!(m.taken(Request::Start(NEW, permanent())), [Effect::Start(NEW)]);
    assert_eq!(m.now(Input::Started(NEW)), [answer(NEW, Outcome::Started)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), stop(NEW, true)]);
    assert_eq!(m.now(Input::Gone(NEW, crash())), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Started(1)), [Effect::Start(NEW)]);
    assert_eq!(m.now(Input::Started(NEW)), [], "nobody waits for this one");
}

#[test]
fn a_child_that_is_added_and_does_not_start_is_none_and_no_failure() {
    let mut m = running(Strategy::OneForAll, 0, 1);
    m.taken(Request::Start(NEW, permanent()));
    let effects = m.now(Input::StartFailed(NEW, no_start()));
    assert_eq!(effects, [answer(NEW, Outcome::Failed(no_start())), Effect::Forget(NEW)]);
    assert!(matches!(m.phase, Phase::Running));
}

#[test]
fn what_is_ignored_is_kept_down_unless_temporary() {
    let mut m = running(Strategy::OneForOne, 3, 1);
    m.taken(Request::Start(NEW, permanent()));
    assert_eq!(m.now(Input::Ignored(NEW)), [answer(NEW, Outcome::Ignored)]);
    assert_eq!(m.already(NEW), Refusal::Present);
    m.taken(Request::Start(NEW + 1, term(Restart::Temporary, None)));
    assert_eq!(m.now(Input::Ignored(NEW + 1)), [answer(NEW + 1, Outcome::Ignored), Effect::Forget(NEW + 1)]);
}

#[test]
fn the_boot_goes_on_past_a_child_that_is_ignored() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent, Restart::Temporary, Restart::Permanent]);
    m.now(Input::Boot);
    assert_eq!(m.now(Input::Ignored(0)), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Ignored(1)), [Effect::Forget(1), Effect::Start(2)]);
    assert_eq!(m.now(Input::Started(2)), [Effect::Ready]);
}

#[test]
fn a_child_is_terminated_restarted_and_deleted() {
    let mut m = running(Strategy::OneForOne, 0, 2);
    assert_eq!(m.refused(Request::Delete(1)), Refusal::Running);
    assert_eq!(m.refused(Request::Restart(1)), Refusal::Running);
    assert_eq!(m.taken(Request::Terminate(1)), [stop(1, false)]);
    for request in [Request::Terminate(1), Request::Restart(1), Request::Delete(1)] {
        assert_eq!(m.refused(request), Refusal::Later);
    }
    assert_eq!(m.now(Input::Gone(1, crash())), [answer(1, Outcome::Terminated)], "and that is no failure");
    assert_eq!(m.taken(Request::Terminate(1)), [answer(1, Outcome::Terminated)], "it is down: no error");
    assert_eq!(m.taken(Request::Restart(1)), [Effect::Start(1)]);
    assert_eq!(m.now(Input::StartFailed(1, no_start())), [answer(1, Outcome::Failed(no_start()))], "not tried again");
    assert_eq!(m.taken(Request::Restart(1)), [Effect::Start(1)]);
    assert_eq!(m.now(Input::Started(1)), [answer(1, Outcome::Started)]);
    m.taken(Request::Terminate(1));
    m.now(Input::Gone(1, normal()));
    assert_eq!(m.taken(Request::Delete(1)), [Effect::Forget(1)]);
}

#[test]
fn a_temporary_child_that_is_terminated_is_forgotten() {
    let mut m = booted(rules(Strategy::OneForOne, LAX), &[term(Restart::Temporary, None)]);
    m.taken(Request::Terminate(0));
    assert_eq!(m.now(Input::Gone(0, crash())), [answer(0, Outcome::Terminated), Effect::Forget(0)]);
}

/// As in OTP.
#[test]
fn a_group_restart_revives_what_was_terminated() {
    let mut m = running(Strategy::OneForAll, 3, 2);
    m.taken(Request::Terminate(1));
    m.now(Input::Gone(1, crash()));
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 1), Effect::Start(0)]);
    assert_eq!(m.now(Input::Started(0)), [Effect::Start(1)]);
}

#[test]
fn a_start_that_hangs_can_be_called_off() {
    let mut m = machine(Strategy::OneForOne, 3, &[Restart::Permanent; 2]);
    m.now(Input::Boot);
    assert_eq!(m.taken(Request::Terminate(0)), [stop(0, false)]);
    let effects = m.now(Input::StartFailed(0, no_start()));
    assert_eq!(effects, [answer(0, Outcome::Terminated), Effect::Start(1)], "and the boot goes on");
    assert_eq!(m.now(Input::Started(1)), [Effect::Ready]);
}

#[test]
fn a_child_that_is_added_and_called_off_is_none_even_if_it_was_just_up() {
    for just_up in [false, true] {
        let mut m = running(Strategy::OneForOne, 3, 1);
        m.taken(Request::Start(NEW, permanent()));
        assert_eq!(m.taken(Request::Terminate(NEW)), [stop(NEW, false)]);
        let end = if just_up {
            assert_eq!(m.now(Input::Started(NEW)), []);
            Input::Gone(NEW, crash())
        } else {
            Input::StartFailed(NEW, no_start())
        };
        assert_eq!(m.now(end), [answer(NEW, Outcome::Terminated), Effect::Forget(NEW)], "just up: {just_up}");
    }
}

#[test]
fn a_start_that_a_group_restart_interrupts_is_answered_when_the_group_is_up() {
    for just_up in [false, true] {
        let mut m = running(Strategy::OneForAll, 3, 1);
        m.taken(Request::Start(NEW, permanent()));
        assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 1), stop(NEW, true)]);
        let end = if just_up {
            assert_eq!(m.now(Input::Started(NEW)), []);
            Input::Gone(NEW, crash())
        } else {
            Input::StartFailed(NEW, no_start())
        };
        assert_eq!(m.now(end), [Effect::Start(0)]);
        assert_eq!(m.now(Input::Started(0)), [Effect::Start(NEW)]);
        assert_eq!(m.now(Input::Started(NEW)), [answer(NEW, Outcome::Started)], "just up: {just_up}");
    }
}

#[test]
fn a_start_that_an_exit_interrupts_is_answered() {
    let mut m = running(Strategy::OneForAll, 3, 2);
    m.taken(Request::Start(NEW, permanent()));
    m.now(Input::Gone(0, crash()));
    assert_eq!(m.now(Input::StartFailed(NEW, no_start())), [stop(1, true)], "it waits for the group");
    let effects = m.now(Input::Shutdown);
    assert!(
        matches!(effects[..], [Effect::Answer(NEW, Outcome::Failed(_)), Effect::Forget(NEW)]),
        "at once: {effects:?}"
    );
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Exit(Verdict::Shutdown)]);
}

/// A younger child may be waiting for it.
#[test]
fn a_start_under_way_is_called_off_by_an_exit_before_the_younger_are_gone() {
    let mut m = running(Strategy::OneForOne, 3, 2);
    m.taken(Request::Terminate(0));
    m.now(Input::Gone(0, crash()));
    m.taken(Request::Restart(0));
    assert_eq!(m.now(Input::Shutdown), [stop(0, false), stop(1, false)]);
    let told = answer(0, Outcome::Failed(no_start()));
    assert_eq!(m.now(Input::StartFailed(0, no_start())), [told]);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Exit(Verdict::Shutdown)]);
}

#[test]
fn a_backoff_is_called_off() {
    let mut m = booted(rules(Strategy::OneForOne, LAX), &[term(Restart::Permanent, Some(BACKOFF))]);
    m.now(Input::Gone(0, crash()));
    assert_eq!(m.refused(Request::Restart(0)), Refusal::Restarting);
    assert_eq!(m.refused(Request::Delete(0)), Refusal::Restarting);
    assert_eq!(m.taken(Request::Terminate(0)), [answer(0, Outcome::Terminated)]);
    assert_eq!(m.now(Input::Elapsed(0)), []);
    assert_eq!(m.taken(Request::Restart(0)), [Effect::Start(0)], "at once, whatever it failed before");
}

/// Each try makes way for the next: who had to wait for a quiet moment would wait for ever.
#[test]
fn a_child_whose_restart_keeps_failing_is_said_to_be_restarting() {
    for strategy in [Strategy::OneForOne, Strategy::RestForOne] {
        let mut m = running(strategy, 100, 2);
        m.now(Input::Gone(1, crash()));
        assert_eq!(m.refused(Request::Delete(1)), Refusal::Later, "its first restart may well succeed");
        m.now(Input::StartFailed(1, no_start()));
        for request in [Request::Restart(1), Request::Delete(1)] {
            assert_eq!(m.refused(request), Refusal::Restarting);
        }
        assert_eq!(m.already(1), Refusal::Restarting);
        assert_eq!(m.taken(Request::Terminate(1)), [stop(1, false)]);
        assert_eq!(m.refused(Request::Delete(1)), Refusal::Later, "it is being stopped");
        m.now(Input::StartFailed(1, no_start()));
        assert_eq!(m.already(1), Refusal::Present);
        assert_eq!(m.taken(Request::Delete(1)), [Effect::Forget(1)]);
    }
}

#[test]
fn while_a_group_restarts_requests_wait() {
    let mut m = running(Strategy::OneForAll, 3, 2);
    m.now(Input::Gone(0, crash()));
    let requests = [Request::Start(NEW, permanent()), Request::Restart(0), Request::Delete(0), Request::Terminate(1)];
    for request in requests {
        assert_eq!(m.refused(request), Refusal::Later, "{request:?}");
    }
    m.now(Input::Gone(1, crash()));
    m.now(Input::Started(0));
    assert_eq!(m.refused(Request::Terminate(0)), Refusal::Later);
    assert_eq!(m.taken(Request::Terminate(1)), [stop(1, false)], "its start may hang");
}

#[test]
fn on_the_way_out_everything_is_refused() {
    let mut m = running(Strategy::OneForOne, 3, 1);
    m.now(Input::Shutdown);
    for _ in 0..2 {
        for request in [Request::Start(NEW, permanent()), Request::Restart(0), Request::Terminate(0)] {
            assert_eq!(m.refused(request), Refusal::Exiting);
        }
        m.now(Input::Gone(0, crash()));
    }
}

#[test]
fn a_child_that_will_not_die_ends_the_supervisor_and_who_waits_is_told() {
    let mut m = running(Strategy::OneForOne, 3, 1);
    m.taken(Request::Terminate(0));
    let effects = m.now(Input::Stuck(0, "still runs".into()));
    assert!(
        matches!(effects[..], [Effect::Answer(0, Outcome::Failed(_)), Effect::Exit(Verdict::Escalated { .. })]),
        "{effects:?}"
    );
}

#[test]
fn a_dynamic_supervisor_forgets_what_is_down_and_stops_all_at_once() {
    let dynamic = Rules { dynamic: true, ..rules(Strategy::OneForOne, LAX) };
    let mut m = booted(dynamic, &[]);
    for (place, restart) in [(0, Restart::Transient), (1, Restart::Permanent), (2, Restart::Permanent)] {
        m.taken(Request::Start(place, term(restart, None)));
        m.now(Input::Started(place));
    }
    assert_eq!(m.now(Input::Gone(0, normal())), [Effect::Forget(0)]);
    assert_eq!(m.now(Input::Gone(1, crash())), [restarting(1, 1), Effect::Start(1)]);
    assert_eq!(m.now(Input::Ignored(1)), [Effect::Forget(1)], "a restart with nothing to run");
    for place in [3, 4] {
        m.taken(Request::Start(place, permanent()));
        m.now(Input::Started(place));
    }
    m.taken(Request::Terminate(3));
    assert_eq!(m.now(Input::Gone(3, crash())), [answer(3, Outcome::Terminated), Effect::Forget(3)]);
    assert_eq!(m.now(Input::Shutdown), [stop(2, false), stop(4, false)]);
    assert_eq!(m.awaited(), Some(2));
    assert_eq!(m.now(Input::Gone(2, crash())), [Effect::Forget(2)]);
    assert_eq!(m.now(Input::Gone(4, crash())), [Effect::Forget(4), Effect::Exit(Verdict::Shutdown)]);
}

/// Whose backoff is over while the others are stopped is no child any more.
#[test]
fn a_dynamic_supervisor_on_its_way_out_forgets_those_that_wait() {
    let intensity = Intensity { restarts: 1, period: Duration::from_secs(5) };
    let mut m = booted(Rules { dynamic: true, ..rules(Strategy::OneForOne, intensity) }, &[]);
    for place in 0..3 {
        m.taken(Request::Start(place, term(Restart::Permanent, Some(BACKOFF))));
        m.now(Input::Started(place));
    }
    assert_eq!(m.now(Input::Gone(0, crash())), [restarting(0, 1), Effect::Delay { child: 0, attempt: 0 }]);
    assert_eq!(m.now(Input::Gone(1, crash())), [Effect::Forget(0), stop(2, false)]);
    let effects = m.now(Input::Gone(2, crash()));
    assert!(
        matches!(effects[..], [Effect::Forget(2), Effect::Exit(Verdict::Escalated { child: 1, .. })]),
        "the one it gave up on is named: {effects:?}"
    );
}
