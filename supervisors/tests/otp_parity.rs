//! Cases of Erlang/OTP's own test suite for its supervisor (`supervisor_SUITE.erl`), by their names there.
//!
//! Left out, with the reason:
//!
//! - sup_start_ignore_*, sup_start_child_returns_error*, sup_start_restart_child_returns_error, child_adm*,
//!   child_specs*, extra_return, sup_flags, sup_start_map*, which_children*, count_children*,
//!   count_restarting_children, do_not_save_start_parameters_for_temporary_children: need `start_child` and its
//!   relatives, `Started::Ignore` or spec maps, which do not exist yet.
//! - simple_one_for_one*, hanging_restart_loop_simple, scale_many_temporary_children: need the dynamic supervisor.
//! - significant_*, nonsignificant_*: need `significant` and `auto_shutdown`.
//! - faulty_application_shutdown: needs `Application`.
//! - simple_global_supervisor, already_started_outside_supervisor: nothing is registered by name here.
//! - code_change*, get_callback_module, format_log_*: no counterpart in Rust.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use common::*;
use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::{ChildSpec, ChildState, Restart, Shutdown, StartError, StopError, Tree};
use tokio::time::{Duration, Instant, sleep};

fn keep(_: &str, child: ChildSpec) -> ChildSpec {
    child
}

fn with(restart: Restart) -> impl Fn(&str, ChildSpec) -> ChildSpec {
    move |_, child| child.restart(restart)
}

#[tokio::test(start_paused = true)]
async fn sup_start_normal() {
    let bench = Bench::start(OneForOne, 1, &["a"], keep).await;
    assert_eq!(bench.node("a").unwrap().state, ChildState::Running);
    assert_eq!(bench.tree.stop(second()).await, Ok(()));
    assert_eq!(bench.tree.wait().await, Ok(()));
    assert_eq!(bench.log.take(), ["start a", "stop a"]);
}

#[tokio::test(start_paused = true)]
async fn sup_start_error_return() {
    let (log, knobs) = (Log::new(), Knobs::new());
    knobs.fail_starts(1);
    let children = vec![probe("a", &log, &Knobs::new()), probe("b", &log, &Knobs::new()), probe("c", &log, &knobs)];
    let error = Tree::start("root", spec(OneForOne, 9, 9, children)).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/c".into(), reason: "told to fail".into() });
    assert_eq!(log.take(), ["start a", "start b", "start c", "no start c", "stop b", "stop a"], "unwound, not retried");
}

#[tokio::test(start_paused = true)]
async fn sup_start_fail() {
    let (log, knobs) = (Log::new(), Knobs::new());
    knobs.panic_starts(1);
    let error = Tree::start("root", spec(OneForOne, 9, 9, vec![probe("a", &log, &knobs)])).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/a".into(), reason: "told to panic".into() });
    assert!(!knobs.lock.held());
}

#[tokio::test(start_paused = true)]
async fn sup_start_map_faulty_specs() {
    let log = Log::new();
    let make = |id: &str| probe(id, &log, &Knobs::new());
    let nested = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, vec![make("x"), make("x")]));
    for children in [vec![make("a"), make("a")], vec![make("")], vec![make("a/b")], vec![make("a"), nested]] {
        let error = Tree::start("root", spec(OneForOne, 1, 1, children)).await.unwrap_err();
        assert!(matches!(error, StartError::Spec(_)), "{error}");
    }
    assert!(matches!(Tree::start("", spec(OneForOne, 1, 1, vec![])).await, Err(StartError::Spec(_))));
    assert_eq!(log.take(), [""; 0], "nothing was started");
}

#[tokio::test(start_paused = true)]
async fn sup_stop_infinity() {
    let bench = Bench::start(OneForOne, 1, &["a", "b"], |_, c| c.shutdown(Shutdown::Infinity)).await;
    bench.knobs["b"].hang_stop(true);
    let stopping = tokio::spawn({
        let tree = bench.tree.clone();
        async move { tree.stop(Duration::from_secs(1_000_000)).await }
    });
    sleep(Duration::from_secs(100_000)).await;
    assert!(!stopping.is_finished(), "b is waited for");
    bench.knobs["b"].hang_stop(false);
    assert_eq!(stopping.await.unwrap(), Ok(()));
    assert_eq!(bench.log.take(), ["start a", "start b", "stop b", "stop a"]);
    assert_eq!(bench.node("b").unwrap().last_exit.as_deref(), Some("shutdown"));
}

#[tokio::test(start_paused = true)]
async fn sup_stop_timeout() {
    let bench = Bench::start(OneForOne, 1, &["a", "b"], |_, c| c.shutdown(Shutdown::Timeout(second()))).await;
    bench.knobs["b"].hang_stop(true);
    let before = Instant::now();
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!((second()..second() * 2).contains(&before.elapsed()), "{:?}", before.elapsed());
    assert_eq!(bench.node("b").unwrap().last_exit.as_deref(), Some("killed"));
    assert_eq!(bench.node("a").unwrap().last_exit.as_deref(), Some("shutdown"));
}

#[tokio::test(start_paused = true)]
async fn sup_stop_brutal_kill() {
    let bench = Bench::start(OneForOne, 1, &["a", "b"], |_, c| c.shutdown(Shutdown::BrutalKill)).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(bench.log.take(), ["start a", "start b"], "post_stop does not run");
    assert_eq!(bench.node("a").unwrap().last_exit.as_deref(), Some("killed"));
}

/// How a child may end.
enum End {
    Normal,
    Shutdown,
    Abnormal,
}

/// Ends the only child that way; whether it came back.
async fn restarts(restart: Restart, end: End) -> bool {
    let bench = Bench::start(OneForOne, 1, &["a"], with(restart)).await;
    let cell = bench.cell("a");
    match end {
        End::Normal => cell.stop(None),
        End::Shutdown => cell.stop(Some("shutdown".into())),
        End::Abnormal => cell.stop(Some("abnormal".into())),
    }
    cell.wait(None).await.unwrap();
    settle().await;
    let node = bench.node("a");
    let back = node.as_ref().is_some_and(|node| node.state == ChildState::Running);
    if let Some(node) = node {
        assert_eq!(node.restarts, u64::from(back));
        assert_eq!(node.incarnation, 1 + u64::from(back));
    }
    bench.tree.stop(PATIENCE).await.unwrap();
    back
}

#[tokio::test(start_paused = true)]
async fn permanent_normal() {
    assert!(restarts(Restart::Permanent, End::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn transient_normal() {
    assert!(!restarts(Restart::Transient, End::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_normal() {
    assert!(!restarts(Restart::Temporary, End::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn permanent_shutdown() {
    assert!(restarts(Restart::Permanent, End::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn transient_shutdown() {
    assert!(!restarts(Restart::Transient, End::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_shutdown() {
    assert!(!restarts(Restart::Temporary, End::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn permanent_abnormal() {
    assert!(restarts(Restart::Permanent, End::Abnormal).await);
}

#[tokio::test(start_paused = true)]
async fn transient_abnormal() {
    assert!(restarts(Restart::Transient, End::Abnormal).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_abnormal() {
    assert!(!restarts(Restart::Temporary, End::Abnormal).await);
}

#[tokio::test(start_paused = true)]
async fn do_not_save_child_specs_for_temporary_children() {
    let bench = Bench::start(OneForOne, 1, &["a", "b"], with(Restart::Temporary)).await;
    bench.cell("a").kill();
    until("a is forgotten", &bench.tree, |tree| node(tree, "root/a").is_none()).await;
    assert!(bench.node("b").is_some());
}

/// A temporary child that is stopped because another failed does not come back with the others.
#[tokio::test(start_paused = true)]
async fn temporary_bystander() {
    for strategy in [OneForAll, RestForOne] {
        let adjust = |id: &str, c: ChildSpec| if id == "b" { c.restart(Restart::Temporary) } else { c };
        let bench = Bench::start(strategy, 10, &["a", "b", "c"], adjust).await;
        bench.log.take();
        bench.cell("a").kill();
        bench.up("c", 2).await;
        assert_eq!(bench.log.take(), ["stop c", "stop b", "start a", "start c"]);
        assert!(bench.node("b").is_none());
        bench.tree.stop(PATIENCE).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn multiple_restarts() {
    let bench = Bench::start(OneForOne, 3, &["a", "b", "c"], keep).await;
    for id in ["a", "b", "c"] {
        bench.cell(id).kill();
    }
    for id in ["a", "b", "c"] {
        bench.up(id, 2).await;
    }
    sleep(Duration::from_secs(6)).await;
    for incarnation in 3..6 {
        bench.cell("a").kill();
        bench.up("a", incarnation).await;
    }
    bench.cell("a").kill();
    let escalated = bench.tree.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/a");
    assert!(escalated.reason.starts_with("killed"), "{}", escalated.reason);
}

#[tokio::test(start_paused = true)]
async fn one_for_one() {
    let bench = Bench::start(OneForOne, 1, &["a", "b", "c"], keep).await;
    let (a, c) = (bench.cell("a").get_id(), bench.cell("c").get_id());
    bench.cell("b").kill();
    bench.up("b", 2).await;
    assert_eq!((bench.cell("a").get_id(), bench.cell("c").get_id()), (a, c));
    assert_eq!(bench.log.take(), ["start a", "start b", "start c", "start b"]);
}

#[tokio::test(start_paused = true)]
async fn one_for_one_escalation() {
    escalation(OneForOne, &["stop c", "stop a"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_escalation() {
    escalation(OneForAll, &["stop c", "stop a"]).await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_escalation() {
    escalation(RestForOne, &["stop c", "stop a"]).await;
}

/// b fails, and fails to come back: past the intensity everything is stopped.
async fn escalation(strategy: converge_supervisors::Strategy, stops: &[&str]) {
    let bench = Bench::start(strategy, 4, &["a", "b", "c"], keep).await;
    bench.knobs["b"].fail_starts(u32::MAX);
    bench.cell("b").kill();
    let escalated = bench.tree.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/b");
    let lines = bench.log.take();
    let failed = lines.iter().filter(|line| *line == "no start b").count();
    assert_eq!(failed, 4, "the kill and four failed starts are five failures");
    let first_stops: Vec<&String> = lines.iter().filter(|line| line.starts_with("stop")).collect();
    if strategy == OneForOne {
        assert_eq!(first_stops, stops);
    }
    assert!(bench.knobs.values().all(|knobs| !knobs.lock.held() && knobs.lock.broken() == 0));
    let root = node(&bench.tree, "root").unwrap();
    assert_eq!(root.state, ChildState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn one_for_all() {
    let bench = Bench::start(OneForAll, 1, &["a", "b", "c"], keep).await;
    bench.log.take();
    bench.cell("b").kill();
    bench.up("c", 2).await;
    assert_eq!(bench.log.take(), ["stop c", "stop a", "start a", "start b", "start c"]);
}

#[tokio::test(start_paused = true)]
async fn one_for_all_other_child_fails_restart() {
    let bench = Bench::start(OneForAll, 3, &["a", "b", "c"], keep).await;
    bench.log.take();
    bench.knobs["b"].fail_starts(1);
    bench.cell("a").kill();
    bench.up("c", 2).await;
    let expected = ["stop c", "stop b", "start a", "start b", "no start b", "stop a", "start a", "start b", "start c"];
    assert_eq!(bench.log.take(), expected);
}

#[tokio::test(start_paused = true)]
async fn rest_for_one() {
    let bench = Bench::start(RestForOne, 1, &["a", "b", "c", "d"], keep).await;
    let a = bench.cell("a").get_id();
    bench.log.take();
    bench.cell("b").kill();
    bench.up("d", 2).await;
    assert_eq!(bench.log.take(), ["stop d", "stop c", "start b", "start c", "start d"]);
    assert_eq!(bench.cell("a").get_id(), a);
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_other_child_fails_restart() {
    let bench = Bench::start(RestForOne, 3, &["a", "b", "c"], keep).await;
    bench.log.take();
    bench.knobs["b"].fail_starts(1);
    bench.cell("a").kill();
    bench.up("c", 2).await;
    assert_eq!(
        bench.log.take(),
        ["stop c", "stop b", "start a", "start b", "no start b", "start b", "start c"],
        "a stays, c waits"
    );
}

/// A group restart brings back a sibling that had ended normally (checked on OTP 25).
#[tokio::test(start_paused = true)]
async fn group_restart_revives_normal_exits() {
    let bench = Bench::start(OneForAll, 1, &["a", "b"], with(Restart::Transient)).await;
    bench.cell("a").stop(None);
    down(&bench.tree, "root/a").await;
    bench.cell("b").kill();
    bench.up("a", 2).await;
    bench.up("b", 2).await;
}

/// A child that unlinked itself is still the supervisor's to stop and to restart.
#[tokio::test(start_paused = true)]
async fn child_unlink() {
    let bench = Bench::start(OneForOne, 1, &["a"], keep).await;
    let root = bench.tree.find("root").unwrap();
    bench.cell("a").send_message(Do::Unlink(root)).unwrap();
    settle().await;
    let lost = bench.cell("a");
    assert!(lost.try_get_supervisor().is_none());
    lost.kill();
    bench.up("a", 2).await;
    bench.cell("a").send_message(Do::Unlink(bench.tree.find("root").unwrap())).unwrap();
    settle().await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(!bench.knobs["a"].lock.held());
}

/// A supervisor that gives up is a failed child of its parent.
#[tokio::test(start_paused = true)]
async fn tree() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    let inner = spec(OneForAll, 1, 5, vec![probe("a", &log, &a), probe("b", &log, &b)]);
    let children = vec![probe("x", &log, &Knobs::new()), ChildSpec::supervisor("s", inner)];
    let tree = Tree::start("root", spec(OneForOne, 2, 60, children)).await.unwrap();
    let paths: Vec<String> = tree.snapshot().nodes.into_iter().map(|node| node.path).collect();
    assert_eq!(paths, ["root", "root/x", "root/s", "root/s/a", "root/s/b"]);

    let x = tree.find("root/x").unwrap().get_id();
    let s = tree.find("root/s").unwrap();
    tree.find("root/s/a").unwrap().kill();
    up(&tree, "root/s/b", 2).await;
    assert_eq!(tree.find("root/s").unwrap(), s, "handled inside");

    tree.find("root/s/b").unwrap().kill();
    up(&tree, "root/s", 2).await;
    assert_ne!(tree.find("root/s").unwrap(), s, "given up and started again");
    let node = node(&tree, "root/s").unwrap();
    assert_eq!(node.restarts, 1);
    assert!(node.last_exit.as_ref().unwrap().starts_with("shutdown: gave up on root/s/b"), "{node:?}");
    assert_eq!(tree.find("root/x").unwrap().get_id(), x);

    log.take();
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(log.take(), ["stop b", "stop a", "stop x"], "depth first, in reverse");
}

/// As in OTP a supervisor gives up with a normal exit, so a transient one stays down.
#[tokio::test(start_paused = true)]
async fn transient_supervisor_that_gives_up_is_not_restarted() {
    let log = Log::new();
    let inner = spec(OneForOne, 0, 5, vec![probe("a", &log, &Knobs::new())]);
    let child = ChildSpec::supervisor("s", inner).restart(Restart::Transient);
    let tree = Tree::start("root", spec(OneForOne, 5, 5, vec![child])).await.unwrap();
    tree.find("root/s/a").unwrap().kill();
    down(&tree, "root/s").await;
    settle().await;
    assert_eq!(node(&tree, "root/s").unwrap().state, ChildState::Stopped);
    assert_eq!(node(&tree, "root").unwrap().state, ChildState::Running);
}

/// Escalation passes through every level up to the root.
#[tokio::test(start_paused = true)]
async fn escalation_to_the_root() {
    let (log, knobs) = (Log::new(), Knobs::new());
    let inner = spec(OneForOne, 1, 5, vec![probe("a", &log, &knobs)]);
    let child = ChildSpec::supervisor("s", inner);
    let tree = Tree::start("root", spec(OneForOne, 1, 60, vec![child])).await.unwrap();
    knobs.fail_starts(u32::MAX);
    tree.find("root/s/a").unwrap().kill();
    let escalated = tree.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/s");
    assert!(escalated.reason.contains("told to fail"), "{}", escalated.reason);
    assert_eq!(tree.stop(second()).await, Ok(()), "stopping what has ended is no error");
}

/// A child whose restart fails for ever keeps its supervisor busy, not deaf. In real time: paused time only moves when
/// nothing is busy.
#[tokio::test]
async fn hanging_restart_loop() {
    let bench = Bench::start(OneForOne, 1_000_000, &["a", "b"], keep).await;
    bench.knobs["a"].fail_starts(u32::MAX);
    bench.cell("a").kill();
    bench.log.seen("no start a", 100).await;
    assert_eq!(bench.node("b").unwrap().state, ChildState::Running);
    bench.cell("b").kill();
    bench.up("b", 2).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_rest_for_one() {
    let bench = Bench::start(RestForOne, 1_000_000, &["a", "b", "c"], keep).await;
    bench.knobs["b"].fail_starts(u32::MAX);
    bench.cell("a").kill();
    bench.log.seen("no start b", 100).await;
    bench.knobs["b"].fail_starts(0);
    bench.up("c", 2).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn order_of_children() {
    let ids = ["e", "c", "a", "d", "b"];
    let bench = Bench::start(OneForOne, 1, &ids, keep).await;
    let nodes: Vec<String> = bench.tree.snapshot().nodes.into_iter().skip(1).map(|node| node.path).collect();
    assert_eq!(nodes, ids.map(|id| format!("root/{id}")));
    bench.tree.stop(PATIENCE).await.unwrap();
    let starts = ids.map(|id| format!("start {id}"));
    let mut stops = ids.map(|id| format!("stop {id}"));
    stops.reverse();
    assert_eq!(bench.log.take(), [starts, stops].concat());
}

#[tokio::test(start_paused = true)]
async fn scale_start_stop_many_children() {
    let ids: Vec<String> = (0..1_000).map(|n| format!("w{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let bench = Bench::start(OneForOne, 1, &ids, keep).await;
    assert_eq!(bench.tree.snapshot().nodes.len(), 1_001);
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(bench.knobs.values().all(|knobs| knobs.lock.taken() == 1 && !knobs.lock.held()));
}

// --- what OTP has not

/// OTP's supervisor would wait for the hanging start; this one answers.
#[tokio::test(start_paused = true)]
async fn a_hanging_start_does_not_block_the_supervisor() {
    let bench = Bench::start(OneForOne, 5, &["a", "b"], |_, c| c.start_timeout(second() * 3600)).await;
    bench.knobs["a"].hang_start(true);
    bench.cell("a").kill();
    bench.log.seen("start a", 2).await;
    assert_eq!(bench.node("a").unwrap().state, ChildState::Starting);
    bench.cell("b").kill();
    bench.up("b", 2).await;
    let before = Instant::now();
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(before.elapsed() < second(), "the start was called off");
    assert!(!bench.knobs["a"].lock.held());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_has_failed() {
    let (log, knobs) = (Log::new(), Knobs::new());
    knobs.hang_start(true);
    let child = probe("a", &log, &knobs).start_timeout(second());
    let before = Instant::now();
    let error = Tree::start("root", spec(OneForOne, 1, 1, vec![child])).await.unwrap_err();
    assert_eq!(before.elapsed().as_secs(), 1);
    assert_eq!(error, StartError::Child { path: "root/a".into(), reason: "it did not start within 1s".into() });
    assert!(!knobs.lock.held());
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_takes_too_long_has_failed() {
    let (log, ok, slow) = (Log::new(), Knobs::new(), Knobs::new());
    slow.hang_start(true);
    let inner = spec(OneForOne, 1, 1, vec![probe("a", &log, &ok), probe("b", &log, &slow)]);
    let child = ChildSpec::supervisor("s", inner).start_timeout(second());
    let error = Tree::start("root", spec(OneForOne, 1, 1, vec![child])).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/s".into(), reason: "it did not start within 1s".into() });
    assert!(!ok.lock.held() && !slow.lock.held());
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_is_a_failed_start() {
    let child = ChildSpec::actor("a", || -> (Probe, ()) { panic!("no actor") });
    let error = Tree::start("root", spec(OneForOne, 1, 1, vec![child])).await.unwrap_err();
    let reason = "the child's factory panicked: no actor".into();
    assert_eq!(error, StartError::Child { path: "root/a".into(), reason });
}

/// Slow failures never fill the window; the row of them is what counts.
#[tokio::test(start_paused = true)]
async fn slow_failed_starts_escalate() {
    let bench = Bench::start(OneForOne, 2, &["a"], |_, c| c.start_timeout(second() * 10)).await;
    bench.knobs["a"].hang_start(true);
    bench.cell("a").kill();
    let before = Instant::now();
    let escalated = bench.tree.wait().await.unwrap_err();
    assert_eq!(before.elapsed().as_secs(), 30, "three starts of ten seconds");
    assert!(escalated.reason.contains("in a row"), "{}", escalated.reason);
}

#[tokio::test(start_paused = true)]
async fn backoff_delays_a_restart() {
    let backoff = converge_supervisors::Backoff { first: second() * 2, max: second() * 60 };
    let bench = Bench::start(OneForOne, 2, &["a", "b"], |_, c| c.backoff(backoff)).await;
    let before = Instant::now();
    bench.cell("a").kill();
    until("a waits", &bench.tree, |tree| node(tree, "root/a").unwrap().state == ChildState::Restarting).await;
    assert!(bench.tree.find("root/a").is_none());
    bench.up("a", 2).await;
    let waited = before.elapsed();
    assert!((second()..=second() * 2 + second() / 2).contains(&waited), "{waited:?}");
    bench.cell("b").kill();
    settle().await;
    let before = Instant::now();
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(before.elapsed() < second(), "a stop does not wait for a backoff");
}

/// Siblings of a failed elder do not get their full shutdown time.
#[tokio::test(start_paused = true)]
async fn siblings_get_the_grace_only() {
    let (log, b) = (Log::new(), Knobs::new());
    b.hang_stop(true);
    let child = probe("b", &log, &b).shutdown(Shutdown::Timeout(second() * 1000));
    let mut root = spec(RestForOne, 5, 5, vec![probe("a", &log, &Knobs::new()), child]);
    root.shutdown_grace_elder = Some(Duration::from_millis(200));
    let tree = Tree::start("root", root).await.unwrap();
    let before = Instant::now();
    tree.find("root/a").unwrap().kill();
    up(&tree, "root/b", 2).await;
    assert_eq!(before.elapsed().as_millis() / 100, 2);
    assert_eq!(node(&tree, "root/b").unwrap().last_exit.as_deref(), Some("killed"));

    let before = Instant::now();
    let stopped = tree.stop(second() * 100).await;
    assert_eq!(before.elapsed().as_secs(), 100, "an ordered stop knows no grace, only its deadline");
    assert_eq!(stopped, Err(StopError::Killed(vec!["root".into(), "root/a".into(), "root/b".into()])));
    assert!(!b.lock.held());
    assert_eq!(tree.wait().await, Ok(()), "it was asked to stop");
}

/// A state whose drop panics must not take the supervisor with it.
#[tokio::test(start_paused = true)]
async fn a_state_that_panics_when_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the state panics when it is dropped");
        }
    }
    struct Fragile {
        _alive: Arc<()>,
    }
    impl converge_supervisors::ractor::Actor for Fragile {
        type Msg = Do;
        type State = Bomb;
        type Arguments = ();
        async fn pre_start(
            &self,
            _: converge_supervisors::ractor::ActorRef<Do>,
            (): (),
        ) -> Result<Bomb, converge_supervisors::ractor::ActorProcessingErr> {
            Ok(Bomb)
        }
        async fn handle(
            &self,
            _: converge_supervisors::ractor::ActorRef<Do>,
            _: Do,
            _: &mut Bomb,
        ) -> Result<(), converge_supervisors::ractor::ActorProcessingErr> {
            Err("told to fail".into())
        }
    }
    let alive = Arc::new(());
    let log = Log::new();
    let counted = Arc::clone(&alive);
    let fragile = ChildSpec::actor("a", move || (Fragile { _alive: Arc::clone(&counted) }, ()));
    let tree =
        Tree::start("root", spec(OneForOne, 9, 9, vec![fragile, probe("b", &log, &Knobs::new())])).await.unwrap();
    let b = tree.find("root/b").unwrap().get_id();
    tree.find("root/a").unwrap().kill();
    up(&tree, "root/a", 2).await;
    tree.find("root/a").unwrap().stop(None);
    up(&tree, "root/a", 3).await;
    tree.find("root/a").unwrap().send_message(Do::Fail).unwrap();
    up(&tree, "root/a", 4).await;
    assert_eq!(tree.find("root/b").unwrap().get_id(), b);
    assert_eq!(Arc::strong_count(&alive), 3, "this test, the factory, and one actor");
}
