//! Starts that go well, that find nothing to run, and that fail.

use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{ChildState, Restart, StartError, Tree};

use super::common::*;
use super::keep;

#[tokio::test(start_paused = true)]
async fn sup_start_normal() {
    let bench = Bench::start(OneForOne, 1, &["a"], keep).await;
    assert_eq!(bench.node("a").unwrap().state, ChildState::Running);
    assert_eq!(bench.tree.stop(second()).await, Ok(()));
    assert_eq!(bench.tree.wait().await, Ok(()));
    assert_eq!(bench.log.take(), ["start a", "stop a"]);
}

/// A root of two children, the first of which has nothing to do.
async fn idle_first(restart: Restart) -> (Tree, Log) {
    let (log, idle) = (Log::new(), Knobs::new());
    idle.nothing_to_do(true);
    let children = [optional("a", &log, &idle), optional("b", &log, &Knobs::new())];
    let children = children.map(|child| child.restart(restart)).to_vec();
    (Tree::start("root", spec(OneForOne, 2, 5, children)).await.unwrap(), log)
}

/// In OTP by `start_child`; here by the specification too.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_child() {
    let (tree, log) = idle_first(Restart::Permanent).await;
    let root = tree.supervisor("root").unwrap();
    let (c, idle) = (Knobs::new(), Knobs::new());
    idle.nothing_to_do(true);
    ignored(root.start_child(optional("c", &log, &idle)).await);
    running(root.start_child(optional("d", &log, &c)).await);
    let expected = [
        ("a", ChildState::Stopped),
        ("b", ChildState::Running),
        ("c", ChildState::Stopped),
        ("d", ChildState::Running),
    ];
    assert_eq!(children(&root), are(&expected));
    assert_eq!(root.count_children(), counts(4, 2, 0, 4));
    assert_eq!(log.take(), ["start b", "start d"]);

    idle.nothing_to_do(false);
    running(root.restart_child("c").await);
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child() {
    let (tree, _log) = idle_first(Restart::Temporary).await;
    let root = tree.supervisor("root").unwrap();
    assert_eq!(children(&root), are(&[("b", ChildState::Running)]), "its spec is not kept");
    assert_eq!(root.count_children(), counts(1, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child_start_child() {
    let bench = Bench::start(OneForOne, 2, &[], keep).await;
    let idle = Knobs::new();
    idle.nothing_to_do(true);
    let temporary = |id: &str, knobs: &Knobs| optional(id, &bench.log, knobs).restart(Restart::Temporary);
    ignored(bench.root().start_child(temporary("a", &idle)).await);
    running(bench.root().start_child(temporary("b", &Knobs::new())).await);
    assert_eq!(children(&bench.root()), are(&[("b", ChildState::Running)]));
    assert_eq!(bench.root().count_children(), counts(1, 1, 0, 1));
}

/// A child of a dynamic supervisor that has nothing to do is none, whatever its restart.
async fn ignored_in_a_nursery(restart: Restart) {
    let nursery = Nursery::start(template(restart)).await;
    let idle = Knobs::new();
    idle.nothing_to_do(true);
    ignored(nursery.dynamic.start_child(("a".into(), idle)).await);
    let (b, _) = nursery.child("b").await;
    assert_eq!(children(&nursery.place()), are(&[(&b, ChildState::Running)]));
    assert_eq!(nursery.dynamic.count_children(), counts(1, 1, 0, 1));
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()), "it stops without an error");
    assert_eq!(nursery.log.take(), ["start b", "stop b"]);
}

#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child_start_child_simple() {
    ignored_in_a_nursery(Restart::Temporary).await;
}

#[tokio::test(start_paused = true)]
async fn sup_start_ignore_permanent_child_start_child_simple() {
    ignored_in_a_nursery(Restart::Permanent).await;
}

/// OTP's `init` returns what is no specification; here a specification always is one, and a child fails to start.
#[tokio::test(start_paused = true)]
async fn sup_start_error_return() {
    let (log, knobs) = (Log::new(), Knobs::new());
    knobs.fail_starts(1);
    let children = vec![probe("a", &log, &Knobs::new()), probe("b", &log, &Knobs::new()), probe("c", &log, &knobs)];
    let error = Tree::start("root", spec(OneForOne, 9, 9, children)).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/c".into(), reason: "told to fail".into() });
    assert_eq!(log.take(), ["start a", "start b", "start c", "no start c", "stop b", "stop a"], "unwound, not retried");
}

/// As above, by a panic.
#[tokio::test(start_paused = true)]
async fn sup_start_fail() {
    let (log, knobs) = (Log::new(), Knobs::new());
    knobs.panic_starts(1);
    let error = Tree::start("root", spec(OneForOne, 9, 9, vec![probe("a", &log, &knobs)])).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/a".into(), reason: "told to panic".into() });
    assert!(!knobs.lock.held());
}

#[tokio::test(start_paused = true)]
async fn sup_start_child_returns_error() {
    let bench = Bench::start(OneForOne, 0, &[], keep).await;
    let knobs = Knobs::new();
    knobs.fail_starts(1);
    let error = refused(bench.root().start_child(probe("a", &bench.log, &knobs)).await);
    assert_eq!(error, not_started("root/a", "told to fail"));
    knobs.panic_starts(1);
    let error = refused(bench.root().start_child(probe("b", &bench.log, &knobs)).await);
    assert_eq!(error, not_started("root/b", "told to panic"));
    assert_eq!(children(&bench.root()), [], "neither is there, nor did it count as a failure");
    assert_eq!(knobs.lock.taken(), 2, "not tried again");
    running(bench.root().start_child(probe("a", &bench.log, &knobs)).await);
}

#[tokio::test(start_paused = true)]
async fn sup_start_restart_child_returns_error() {
    let bench = Bench::start(OneForOne, 0, &["a"], keep).await;
    assert_eq!(bench.root().terminate_child("a").await, Ok(()));
    bench.knobs["a"].fail_starts(1);
    assert_eq!(refused(bench.root().restart_child("a").await), not_started("root/a", "told to fail"));
    settle().await;
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Stopped)]), "still there, still down");
    running(bench.root().restart_child("a").await);
}

#[tokio::test(start_paused = true)]
async fn sup_start_child_returns_error_simple() {
    let nursery = Nursery::start(template(Restart::Permanent)).await;
    let knobs = Knobs::new();
    knobs.fail_starts(1);
    let error = refused(nursery.dynamic.start_child(("a".into(), knobs.clone())).await);
    assert_eq!(error, not_started("root/d/0", "told to fail"));
    knobs.panic_starts(1);
    let error = refused(nursery.dynamic.start_child(("b".into(), knobs.clone())).await);
    assert_eq!(error, not_started("root/d/1", "told to panic"));
    assert_eq!(children(&nursery.place()), []);
    assert_eq!(knobs.lock.taken(), 2, "not tried again");
}
