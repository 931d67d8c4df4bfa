//! How a child ends, and what its restart makes of that.

use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::{ChildSpec, ChildState, Restart};

use super::common::*;
use super::with;

/// How a child may end.
enum ChildEnd {
    Normal,
    Shutdown,
    Abnormal,
}

/// Ends the only child that way; whether it came back.
async fn restarts(restart: Restart, end: ChildEnd) -> bool {
    let bench = Bench::start(OneForOne, 1, &["a"], with(restart)).await;
    let cell = bench.cell("a");
    match end {
        ChildEnd::Normal => cell.stop(None),
        ChildEnd::Shutdown => cell.stop(Some("shutdown".into())),
        ChildEnd::Abnormal => cell.stop(Some("abnormal".into())),
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
    assert!(restarts(Restart::Permanent, ChildEnd::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn transient_normal() {
    assert!(!restarts(Restart::Transient, ChildEnd::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_normal() {
    assert!(!restarts(Restart::Temporary, ChildEnd::Normal).await);
}

#[tokio::test(start_paused = true)]
async fn permanent_shutdown() {
    assert!(restarts(Restart::Permanent, ChildEnd::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn transient_shutdown() {
    assert!(!restarts(Restart::Transient, ChildEnd::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_shutdown() {
    assert!(!restarts(Restart::Temporary, ChildEnd::Shutdown).await);
}

#[tokio::test(start_paused = true)]
async fn permanent_abnormal() {
    assert!(restarts(Restart::Permanent, ChildEnd::Abnormal).await);
}

#[tokio::test(start_paused = true)]
async fn transient_abnormal() {
    assert!(restarts(Restart::Transient, ChildEnd::Abnormal).await);
}

#[tokio::test(start_paused = true)]
async fn temporary_abnormal() {
    assert!(!restarts(Restart::Temporary, ChildEnd::Abnormal).await);
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
