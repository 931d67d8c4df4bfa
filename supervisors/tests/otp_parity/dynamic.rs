//! `simple_one_for_one`: dynamic supervisors.

use std::sync::Arc;

use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{
    ChildSpec, ChildState, DynamicSupervisor, Intensity, Restart, Shutdown, Started, Template, Tree,
};

use super::common::*;

#[tokio::test(start_paused = true)]
async fn simple_one_for_one() {
    let nursery = Nursery::start(template(Restart::Permanent)).await;
    let ((a, first), (b, other)) = (nursery.child("a").await, nursery.child("b").await);
    first.kill();
    ended(&first).await;
    assert_eq!(children(&nursery.place()), are(&[(&a, ChildState::Running), (&b, ChildState::Running)]));
    assert_eq!(nursery.tree.find(&format!("root/d/{b}")), Some(other), "the others are left alone");
    assert_ne!(nursery.tree.find(&format!("root/d/{a}")), Some(first), "it came back");
    assert_eq!(nursery.log.take(), ["start a", "start b", "start a"], "from what it was started with");
}

/// By each child's own shutdown, all at once.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_shutdown() {
    let nursery =
        Nursery::start(Template { shutdown: Some(Shutdown::Timeout(second() * 2)), ..template(Restart::Permanent) });
    let nursery = nursery.await;
    let slow = Knobs::new();
    slow.hang_stop(true);
    for name in ["a", "b", "c"] {
        nursery.child_with(name, &slow).await;
    }
    let before = tokio::time::Instant::now();
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(before.elapsed().as_secs(), 2);
    assert!(!slow.lock.held());
}

#[tokio::test(start_paused = true)]
async fn simple_one_for_one_escalation() {
    let intensity = Intensity { restarts: 4, period: second() * 3600 };
    let nursery = Nursery::start(Template { intensity, ..template(Restart::Permanent) }).await;
    let (bad, calm) = (Knobs::new(), Knobs::new());
    let (_, first) = nursery.child_with("a", &bad).await;
    nursery.child_with("b", &calm).await;
    bad.fail_starts(u32::MAX);
    first.kill();
    let escalated = nursery.tree.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/d");
    assert!(escalated.reason.starts_with("shutdown: gave up on root/d/0: told to fail"), "{}", escalated.reason);
    assert_eq!(bad.lock.taken(), 5, "the start, and four restarts");
    assert!(!calm.lock.held());
}

/// OTP-16804: after the first death of a temporary child, what children were started with was kept.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_corruption() {
    let log = Log::new();
    let dynamic = DynamicSupervisor::new(template(Restart::Temporary), move |_weight: Arc<()>| {
        Some((Probe { name: "a".into(), log: log.clone(), knobs: Knobs::new() }, ()))
    });
    let tree = Tree::start("root", spec(OneForOne, 0, 5, vec![ChildSpec::dynamic("d", &dynamic)])).await.unwrap();
    let weight = Arc::new(());
    for _ in 0..3 {
        let (_, actor) = running(dynamic.start_child(Arc::clone(&weight)).await);
        assert_eq!(Arc::strong_count(&weight), 1, "let go as soon as it is up");
        actor.stop(Some("abnormal".into()));
        ended(&actor).await;
    }
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
}

/// A child that was restarted, and then had nothing to run, is none; OTP up to 25 kept it, dead, as a child `undefined`.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_restart_ignore() {
    let nursery = Nursery::start(template(Restart::Permanent)).await;
    let (idle, calm) = (Knobs::new(), Knobs::new());
    let (_, first) = nursery.child_with("a", &idle).await;
    let (b, _) = nursery.child_with("b", &calm).await;
    idle.nothing_to_do(true);
    first.kill();
    ended(&first).await;
    assert_eq!(children(&nursery.place()), are(&[(&b, ChildState::Running)]));
    assert_eq!(nursery.dynamic.count_children(), counts(1, 1, 0, 1));
    idle.nothing_to_do(false);
    let again = nursery.dynamic.start_child(("a".into(), idle)).await;
    assert!(matches!(again, Ok(Started::Running { .. })));
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
}
