//! Who is restarted with whom, how often, and what happens then.

use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::{ChildSpec, ChildState, Restart, Tree};
use tokio::time::{Duration, sleep};

use super::common::*;
use super::{keep, with};

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

/// root (one_for_all) ─┬ s1 ─ a, b
///                     ├ s2, to which c and d are added
///                     └ s3, transient and terminated
#[tokio::test(start_paused = true)]
async fn tree() {
    let (log, c) = (Log::new(), Knobs::new());
    let make = |id: &str| probe(id, &log, &Knobs::new());
    let sub = |id: &str, children| ChildSpec::supervisor(id, spec(OneForOne, 4, 3600, children));
    let subs = vec![sub("s1", vec![make("a"), make("b")]), sub("s2", vec![])];
    let tree = Tree::start("root", spec(OneForAll, 4, 3600, subs)).await.unwrap();
    let [root, s1, s2] = ["root", "root/s1", "root/s2"].map(|path| tree.supervisor(path).unwrap());
    running(root.start_child(sub("s3", vec![]).restart(Restart::Transient)).await);
    assert_eq!(root.terminate_child("s3").await, Ok(()));
    assert_eq!(root.count_children(), counts(3, 2, 3, 0));
    running(s2.start_child(probe("c", &log, &c)).await);
    running(s2.start_child(make("d")).await);
    assert_eq!((s1.count_children(), s2.count_children()), (counts(2, 2, 0, 2), counts(2, 2, 0, 2)));

    // The one that dies is restarted, alone.
    log.take();
    tree.find("root/s2/d").unwrap().kill();
    up(&tree, "root/s2/d", 2).await;
    assert_eq!(log.take(), ["start d"]);

    // Its supervisor gives up: the whole tree is restarted, what was terminated too, but not what was added below.
    c.fail_starts(u32::MAX);
    tree.find("root/s2/c").unwrap().kill();
    up(&tree, "root/s3", 2).await;
    assert_eq!(root.count_children(), counts(3, 3, 3, 0));
    assert_eq!((s1.count_children(), s2.count_children()), (counts(2, 2, 0, 2), counts(0, 0, 0, 0)));
    assert_eq!(node(&tree, "root/s1/a").unwrap().incarnation, 2);
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
}

/// A supervisor that gives up is a failed child of its parent.
#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_restarted() {
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

/// A child that unlinked itself is still the supervisor's to stop and to restart.
#[tokio::test(start_paused = true)]
async fn child_unlink() {
    let bench = Bench::start(OneForOne, 1, &["a"], keep).await;
    let unlink = || bench.cell("a").send_message(Do::Unlink(bench.tree.find("root").unwrap())).unwrap();
    unlink();
    settle().await;
    assert_eq!(bench.root().terminate_child("a").await, Ok(()));
    assert!(!bench.knobs["a"].lock.held());
    running(bench.root().restart_child("a").await);
    unlink();
    settle().await;
    let lost = bench.cell("a");
    assert!(lost.try_get_supervisor().is_none());
    lost.kill();
    bench.up("a", 3).await;
    unlink();
    settle().await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(!bench.knobs["a"].lock.held());
}
