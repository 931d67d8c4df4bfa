//! Children whose restart fails again and again: their supervisor is busy, not deaf. In real time, for paused time moves
//! only when nothing is busy.

use converge_supervisors::Strategy::{OneForOne, RestForOne};
use converge_supervisors::{ChildError, ChildState, Intensity, Restart, Template};

use super::common::*;
use super::keep;

#[tokio::test]
async fn hanging_restart_loop() {
    let bench = Bench::start(OneForOne, 1_000_000, &["a", "b"], keep).await;
    let (root, a) = (bench.root(), &bench.knobs["a"]);
    a.fail_starts(u32::MAX);
    bench.cell("a").kill();
    bench.log.seen("no start a", 100).await;
    let restarting = || ChildError::Restarting("a".into());
    assert_eq!(refused(root.start_child(probe("a", &bench.log, a)).await), restarting());
    assert_eq!(refused(root.restart_child("a").await), restarting());
    assert_eq!(root.delete_child("a").await, Err(restarting()));
    assert_eq!(root.count_children(), counts(2, 1, 0, 2));
    running(root.start_child(probe("c", &bench.log, &Knobs::new())).await);
    bench.cell("b").kill();
    bench.up("b", 2).await;

    assert_eq!(root.terminate_child("a").await, Ok(()));
    assert_eq!(bench.node("a").unwrap().state, ChildState::Stopped);
    a.fail_starts(0);
    running(root.restart_child("a").await);
    a.fail_starts(u32::MAX);
    bench.log.take();
    bench.cell("a").kill();
    bench.log.seen("no start a", 100).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
}

/// When the child is terminated, OTP leaves its juniors down; here the restart of the group goes on without it. What is
/// asked of *other* children waits for the end of that restart; OTP answers between two tries.
#[tokio::test]
async fn hanging_restart_loop_rest_for_one() {
    let bench = Bench::start(RestForOne, 1_000_000, &["a", "b", "c"], keep).await;
    let (root, b) = (bench.root(), &bench.knobs["b"]);
    b.fail_starts(u32::MAX);
    bench.cell("b").kill();
    bench.log.seen("no start b", 100).await;
    let restarting = || ChildError::Restarting("b".into());
    assert_eq!(refused(root.start_child(probe("b", &bench.log, b)).await), restarting());
    assert_eq!(refused(root.restart_child("b").await), restarting());
    assert_eq!(root.delete_child("b").await, Err(restarting()));
    assert_eq!(root.count_children(), counts(3, 1, 0, 3));
    assert_eq!(bench.node("c").unwrap().state, ChildState::Stopped);
    let other = tokio::spawn({
        let (root, d) = (bench.root(), probe("d", &bench.log, &Knobs::new()));
        async move { root.start_child(d).await }
    });

    assert_eq!(root.terminate_child("b").await, Ok(()));
    bench.up("c", 2).await;
    running(answer(other).await);
    assert_eq!(bench.node("b").unwrap().state, ChildState::Stopped);
    b.fail_starts(0);
    running(root.restart_child("b").await);
    b.fail_starts(u32::MAX);
    bench.log.take();
    bench.cell("a").kill();
    bench.log.seen("no start b", 100).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert!(bench.knobs.values().all(|knobs| knobs.lock.broken() == 0 && !knobs.lock.held()));
}

#[tokio::test]
async fn hanging_restart_loop_simple() {
    let intensity = Intensity { restarts: 1_000_000, period: second() };
    let nursery = Nursery::start(Template { intensity, ..template(Restart::Permanent) }).await;
    let (a, calm) = (Knobs::new(), Knobs::new());
    let (id, first) = nursery.child_with("a", &a).await;
    a.fail_starts(u32::MAX);
    first.kill();
    nursery.log.seen("no start a", 100).await;
    let restarting = || ChildError::Restarting(id.clone());
    assert_eq!(refused(nursery.place().restart_child(&id).await), restarting());
    assert_eq!(nursery.place().delete_child(&id).await, Err(restarting()));
    assert_eq!(nursery.dynamic.count_children(), counts(1, 0, 0, 1));
    nursery.child_with("b", &calm).await;

    assert_eq!(nursery.dynamic.terminate_child(&id).await, Ok(()));
    assert_eq!(nursery.dynamic.count_children(), counts(1, 1, 0, 1));
    a.fail_starts(0);
    let (_, again) = nursery.child_with("a", &a).await;
    a.fail_starts(u32::MAX);
    nursery.log.take();
    again.kill();
    nursery.log.seen("no start a", 100).await;
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
    assert!(!a.lock.held() && !calm.lock.held());
}
