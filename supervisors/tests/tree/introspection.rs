//! What can be seen of a running tree, and the hand on one actor.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::{OneForOne, RestForOne};
use converge_supervisors::{
    AutoShutdown, Backoff, Callback, ChildSpec, ChildState, Event, Phase, Report, Reports, ReportsError, Restart,
    Service, Shutdown, Started, SuspendError, Tree, Vitals,
};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

const ALLOWED: usize = 3;

/// root ─ s (one_for_one) ─ a, in a slot
async fn start() -> (Tree, Service<Do>, Knobs) {
    let (service, knobs) = (Service::new("a"), Knobs::new());
    let a = served("a", &service, &Log::new(), &knobs).shutdown(Shutdown::Timeout(second() * 5));
    let s = ChildSpec::supervisor("s", spec(OneForOne, 3, 5, vec![a]));
    (Tree::start("root", spec(OneForOne, 3, 5, vec![s])).await.unwrap(), service, knobs)
}

fn vitals(tree: &Tree) -> Vitals {
    tree.status("root/s/a").unwrap().vitals
}

fn ping() -> (Do, oneshot::Receiver<converge_supervisors::ractor::ActorId>) {
    let (reply, answer) = oneshot::channel();
    (Do::Ping(reply), answer)
}

#[tokio::test(start_paused = true)]
async fn a_busy_actor_shows_what_it_is_at_since_when_and_what_waits() {
    let (tree, service, _) = start().await;
    assert_eq!((vitals(&tree).phase, vitals(&tree).mailbox, vitals(&tree).handled), (Phase::Idle, Some(0), 0));
    service.call(Do::Ping, soon()).await.unwrap();
    settle().await;
    assert_eq!((vitals(&tree).phase, vitals(&tree).mailbox, vitals(&tree).handled), (Phase::Idle, Some(0), 1));
    assert_eq!(vitals(&tree).last_handle, Some(Duration::ZERO), "the first is timed");

    let (reply, _answer) = oneshot::channel();
    service.try_cast(Do::Hang(reply)).ok().unwrap();
    for _ in 0..3 {
        service.try_cast(ping().0).ok().unwrap();
    }
    tokio::time::sleep(second() * 10).await;
    let seen = vitals(&tree);
    assert_eq!((seen.phase, seen.mailbox, seen.handled), (Phase::In(Callback::Handle), Some(3), 1));
    assert!(seen.busy_for.is_some_and(|busy| busy >= second() * 10 && busy < second() * 11), "{seen:?}");

    tree.find("root/s/a").unwrap().kill();
    up(&tree, "root/s/a", 2).await;
    let seen = vitals(&tree);
    assert_eq!((seen.phase, seen.mailbox, seen.handled, seen.busy_for), (Phase::Idle, Some(0), 0, None), "begins anew");
    tree.stop(PATIENCE).await.unwrap();
    assert!(service.try_cast(ping().0).is_err());
}

#[tokio::test(start_paused = true)]
async fn starts_and_stops_are_phases_too() {
    let (tree, _service, knobs) = start().await;
    knobs.hang_start(true);
    tree.find("root/s/a").unwrap().kill();
    until("the start hangs", &tree, |tree| vitals(tree).phase == Phase::In(Callback::PreStart)).await;
    assert_eq!(tree.status("root/s/a").unwrap().state, ChildState::Starting);
    knobs.hang_start(false);
    up(&tree, "root/s/a", 2).await;
    knobs.hang_stop(true);
    tree.find("root/s/a").unwrap().stop(None);
    until("the stop hangs", &tree, |tree| vitals(tree).phase == Phase::In(Callback::PostStop)).await;
    knobs.hang_stop(false);
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_goes_around_the_service_never_makes_the_count_too_high_or_negative() {
    let (tree, service, _) = start().await;
    let direct = service.get().unwrap();
    for _ in 0..5 {
        direct.send_message(ping().0).unwrap();
    }
    settle().await;
    assert_eq!((vitals(&tree).mailbox, vitals(&tree).handled), (Some(0), 5));
    tree.suspend("root/s/a").unwrap();
    for _ in 0..3 {
        direct.send_message(ping().0).unwrap();
        service.try_cast(ping().0).ok().unwrap();
    }
    settle().await;
    assert_eq!(vitals(&tree).mailbox, Some(3), "of the six that wait");
    tree.resume("root/s/a").unwrap();
    settle().await;
    assert_eq!((vitals(&tree).mailbox, vitals(&tree).handled), (Some(0), 11), "exact again when it has run empty");
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_actor_without_a_service_has_no_count_and_a_supervisor_has_vitals() {
    let bench = Bench::start(OneForOne, 3, &["a"], |_, child| child).await;
    assert_eq!(bench.node("a").unwrap().vitals.mailbox, None);
    let root = bench.tree.status("root").unwrap().vitals;
    assert_eq!((root.phase, root.mailbox, root.handled), (Phase::Idle, None, 1), "it heard of the start of a");
    assert_eq!(bench.tree.status("root/nobody").map(|node| node.path), None);
    bench.tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_suspended_actor_handles_nothing_until_it_is_resumed() {
    let (tree, service, _) = start().await;
    tree.suspend("root/s/a").unwrap();
    tree.suspend("root/s/a").unwrap();
    assert_eq!((vitals(&tree).phase, vitals(&tree).suspended), (Phase::Suspended, true));
    let (message, answer) = ping();
    service.try_cast(message).ok().unwrap();
    let mut answer = answer;
    assert!(timeout(second() * 1_000, &mut answer).await.is_err());
    assert_eq!((vitals(&tree).phase, vitals(&tree).mailbox, vitals(&tree).handled), (Phase::Suspended, Some(1), 0));
    tree.resume("root/s/a").unwrap();
    tree.resume("root/s/a").unwrap();
    assert!(answer.await.is_ok());
    assert_eq!(vitals(&tree).phase, Phase::Idle);
    tree.stop(PATIENCE).await.unwrap();
}

/// What it is at goes on: only what comes next is held.
#[tokio::test(start_paused = true)]
async fn a_suspend_in_the_middle_of_a_message_lets_it_end() {
    let (tree, _service, knobs) = start().await;
    knobs.hang_start(true);
    tree.find("root/s/a").unwrap().kill();
    until("the start hangs", &tree, |tree| vitals(tree).phase == Phase::In(Callback::PreStart)).await;
    tree.suspend("root/s/a").unwrap();
    assert_eq!((vitals(&tree).phase, vitals(&tree).suspended), (Phase::In(Callback::PreStart), true));
    knobs.hang_start(false);
    up(&tree, "root/s/a", 2).await;
    assert_eq!(vitals(&tree).phase, Phase::Suspended);
    tree.stop(PATIENCE).await.unwrap();
}

/// With a message in the hand: `ractor` would read no stop there.
#[tokio::test(start_paused = true)]
async fn a_suspended_actor_is_stopped_in_order_and_at_once() {
    let (tree, service, _) = start().await;
    tree.suspend("root/s/a").unwrap();
    service.try_cast(ping().0).ok().unwrap();
    settle().await;
    assert_eq!(timeout(second(), tree.stop(PATIENCE)).await, Ok(Ok(())));
    assert_eq!(tree.status("root/s/a").unwrap().last_exit.as_deref(), Some("shutdown"), "not killed");
    assert_eq!(tree.suspend("root/s/a"), Err(SuspendError::NotThere("root/s/a".into())));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_stopping_is_not_suspended_again() {
    let (tree, _service, knobs) = start().await;
    knobs.hang_stop(true);
    let stopping = tokio::spawn({
        let tree = tree.clone();
        async move { tree.stop(PATIENCE).await }
    });
    until("the stop hangs", &tree, |tree| vitals(tree).phase == Phase::In(Callback::PostStop)).await;
    assert_eq!(tree.suspend("root/s/a"), Err(SuspendError::Stopping("root/s/a".into())));
    knobs.hang_stop(false);
    assert_eq!(stopping.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_restart_comes_up_resumed() {
    let (tree, service, _) = start().await;
    tree.suspend("root/s/a").unwrap();
    service.try_cast(ping().0).ok().unwrap();
    settle().await;
    tree.find("root/s/a").unwrap().kill();
    up(&tree, "root/s/a", 2).await;
    assert!(service.call(Do::Ping, soon()).await.is_ok());
    tree.stop(PATIENCE).await.unwrap();
}

/// Nothing waits for one that is not there, and nobody holds it.
#[tokio::test(start_paused = true)]
async fn one_that_does_not_run_shows_no_mailbox_and_no_suspension() {
    let backoff = Backoff { first: second(), max: second() };
    let service = Service::new("a");
    let a = served("a", &service, &Log::new(), &Knobs::new()).backoff(backoff);
    let tree = Tree::start("root", spec(OneForOne, 9, 60, vec![a])).await.unwrap();
    let gone = |state| {
        let seen = tree.status("root/a").unwrap();
        assert_eq!((seen.state, seen.actor), (state, None));
        let Vitals { phase, suspended, mailbox, busy_for, .. } = seen.vitals;
        assert_eq!((phase, suspended, mailbox, busy_for), (Phase::Idle, false, None, None), "{state:?}");
    };
    for n in 1..=2 {
        up(&tree, "root/a", n).await;
        tree.suspend("root/a").unwrap();
        for _ in 0..3 {
            service.try_cast(ping().0).ok().unwrap();
        }
        settle().await;
        tree.find("root/a").unwrap().kill();
        until("it waits for its restart", &tree, |tree| {
            tree.status("root/a").is_some_and(|node| node.state == ChildState::Restarting)
        })
        .await;
        gone(ChildState::Restarting);
    }
    tree.supervisor("root").unwrap().terminate_child("a").await.unwrap();
    gone(ChildState::Stopped);
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_is_not_suspended() {
    let (tree, _service, _) = start().await;
    assert_eq!(tree.suspend("root/x"), Err(SuspendError::NotThere("root/x".into())));
    tree.stop(PATIENCE).await.unwrap();
}

/// As in OTP: it restarts nobody, and answers nobody, until it is resumed.
#[tokio::test(start_paused = true)]
async fn a_suspended_supervisor_waits_with_everything() {
    let (tree, _service, _) = start().await;
    tree.suspend("root/s").unwrap();
    assert!(tree.status("root/s").unwrap().vitals.suspended);
    tree.find("root/s/a").unwrap().kill();
    let supervisor = tree.supervisor("root/s").unwrap();
    let asking = tokio::spawn(async move { supervisor.get_childspec("a").await });
    tokio::time::sleep(second() * 3600).await;
    assert!(tree.find("root/s/a").is_none() && !asking.is_finished());
    tree.resume("root/s").unwrap();
    up(&tree, "root/s/a", 2).await;
    assert!(asking.await.unwrap().is_ok());
    tree.stop(PATIENCE).await.unwrap();
}

/// A stop resumes first, whether its supervisor's or the tree's; and a restart comes up resumed.
#[tokio::test(start_paused = true)]
async fn suspended_supervisors_are_stopped_in_order() {
    let (tree, _service, _) = start().await;
    tree.suspend("root/s").unwrap();
    tree.find("root/s/a").unwrap().kill();
    settle().await;
    tree.supervisor("root").unwrap().terminate_child("s").await.unwrap();
    assert!(matches!(tree.supervisor("root").unwrap().restart_child("s").await, Ok(Started::Running { .. })));
    assert!(!tree.status("root/s").unwrap().vitals.suspended);
    for path in ["root/s", "root"] {
        tree.suspend(path).unwrap();
    }
    tree.find("root/s").unwrap().kill();
    settle().await;
    let before = tokio::time::Instant::now();
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
    assert!(before.elapsed() < second(), "nobody had to be killed, or waited for");
}

// --- reports

/// All that is there, as `id event`.
fn drain(reports: &mut Reports) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok(Some(Report { id, incarnation, event, .. })) = reports.try_next() {
        lines.push(match event {
            Event::Exited { reason, normal } => format!("{id} {incarnation} exited {reason} {normal}"),
            Event::StartFailed { reason, at } => format!("{id} {incarnation} start failed {at} {reason}"),
            Event::Restarting { reason, in_window, allowed } => {
                format!("{id} {incarnation} restarting {reason} {in_window}/{allowed}")
            }
            Event::GaveUp { child, reason } => format!("{id} {incarnation} gave up {child} {reason}"),
            other => format!("{id} {incarnation} {other:?}"),
        });
    }
    lines
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_told_as_exit_restart_and_start() {
    let (tree, _service, knobs) = start().await;
    let mut reports = tree.reports();
    tree.find("root/s/a").unwrap().kill();
    up(&tree, "root/s/a", 2).await;
    assert_eq!(drain(&mut reports), ["a 1 exited killed false", "a 1 restarting killed 1/3", "a 2 Started"]);
    knobs.fail_starts(1);
    tree.find("root/s/a").unwrap().stop(None);
    up(&tree, "root/s/a", 4).await;
    assert_eq!(
        drain(&mut reports),
        [
            "a 2 exited normal true",
            "a 2 restarting normal 2/3",
            "a 3 start failed root/s/a told to fail",
            "a 3 restarting told to fail 3/3",
            "a 4 Started"
        ]
    );
    tree.stop(PATIENCE).await.unwrap();
    let end = ["a 4 exited shutdown true", "s 1 Stopped", "s 1 exited shutdown true", "root 1 Stopped"];
    assert_eq!(drain(&mut reports)[..4], end);
    assert_eq!(drain(&mut reports), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_says_for_whom() {
    let (tree, _service, _) = start().await;
    let mut reports = tree.reports();
    for n in 1..=ALLOWED as u64 + 1 {
        up(&tree, "root/s/a", n).await;
        tree.find("root/s/a").unwrap().kill();
    }
    up(&tree, "root/s", 2).await;
    let told = drain(&mut reports);
    assert!(told.iter().any(|line| line.starts_with("s 1 gave up root/s/a killed (more than 3 ")), "{told:#?}");
    assert!(told.contains(&"s 2 Started".to_owned()), "{told:#?}");
    tree.stop(PATIENCE).await.unwrap();
}

/// The last one may end while a group is being stopped.
#[tokio::test(start_paused = true)]
async fn a_supervisor_that_shuts_itself_down_says_for_whom() {
    let patient = |id: &str, child: ChildSpec| match id {
        "s" => child.restart(Restart::Transient).significant(true),
        _ => child.shutdown(Shutdown::Infinity),
    };
    let (log, b) = (Log::new(), Knobs::new());
    let child = |id| patient(id, probe(id, &log, &if id == "b" { b.clone() } else { Knobs::new() }));
    let children = ["s", "a", "b"].map(child).to_vec();
    let spec = spec(RestForOne, 1, 5, children).auto_shutdown(AutoShutdown::AnySignificant);
    let tree = Tree::start("root", spec).await.unwrap();
    let mut reports = tree.reports();
    b.hang_stop(true);
    tree.find("root/a").unwrap().kill();
    log.seen("stop b", 1).await;
    tree.find("root/s").unwrap().stop(None);
    settle().await;
    b.hang_stop(false);
    assert_eq!(tree.wait().await, Ok(()));
    let told = drain(&mut reports);
    assert!(told.contains(&"root 1 AutoShutdown { child: \"root/s\" }".to_owned()), "{told:#?}");
}

/// A supervisor that stops reads no events any more, but what stopped well is not told as a crash.
#[tokio::test(start_paused = true)]
async fn who_stops_by_itself_while_its_supervisor_stops_has_not_crashed() {
    let patient = |_: &str, child: ChildSpec| child.shutdown(Shutdown::Infinity);
    let bench = Bench::start(RestForOne, 1, &["a", "b", "c", "d"], patient).await;
    let mut reports = bench.tree.reports();
    bench.knobs["d"].hang_stop(true);
    let stopping = bench.tree.stop(PATIENCE);
    let ends = async {
        bench.log.seen("stop d", 1).await;
        bench.cell("c").stop(None);
        bench.cell("b").kill();
        bench.cell("a").send_message(Do::Fail).unwrap();
        settle().await;
        bench.knobs["d"].hang_stop(false);
    };
    let (stopped, ()) = tokio::join!(stopping, ends);
    stopped.unwrap();
    let ends = [
        "d 1 exited shutdown true",
        "c 1 exited stopped by itself true",
        "b 1 exited ended without telling its supervisor false",
        "a 1 exited ended without telling its supervisor false",
    ];
    assert_eq!(drain(&mut reports)[..4], ends);
}

/// Whoever reads too slowly is told so, and nobody waits for him.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_what_it_missed() {
    let bench = Bench::start(RestForOne, 10_000, &["a"], |_, child| child).await;
    let (mut slow, mut never) = (bench.tree.reports(), bench.tree.reports());
    for n in 1..=500 {
        bench.up("a", n).await;
        bench.cell("a").kill();
    }
    bench.up("a", 501).await;
    assert_eq!(slow.next().await, Err(ReportsError::Missed(1_500 - 1_024)));
    assert_eq!(drain(&mut slow).len(), 1_024);
    bench.tree.stop(PATIENCE).await.unwrap();
    drop(bench);
    settle().await;
    assert!(matches!(never.try_next(), Err(ReportsError::Missed(_))));
    drain(&mut never);
    assert_eq!(never.next().await, Err(ReportsError::Ended));
}
