//! Ordered stops: by request, in time, or by force.

use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{Restart, Shutdown, Template};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::common::*;

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

#[tokio::test(start_paused = true)]
async fn sup_stop_timeout_dynamic() {
    let limit = Template { shutdown: Some(Shutdown::Timeout(second())), ..template(Restart::Temporary) };
    let nursery = Nursery::start(limit).await;
    let (stuck, calm) = (Knobs::new(), Knobs::new());
    stuck.hang_stop(true);
    nursery.child_with("a", &stuck).await;
    nursery.child_with("b", &calm).await;
    nursery.child_with("c", &stuck).await;
    let before = Instant::now();
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(before.elapsed().as_secs(), 1, "all at once, not one after the other");
    let mut log = nursery.log.take();
    log.sort();
    assert_eq!(log, ["start a", "start b", "start c", "stop a", "stop b", "stop c"]);
    assert!(!stuck.lock.held() && !calm.lock.held());
}

#[tokio::test(start_paused = true)]
async fn sup_stop_brutal_kill_dynamic() {
    let brutal = Template { shutdown: Some(Shutdown::BrutalKill), ..template(Restart::Temporary) };
    let nursery = Nursery::start(brutal).await;
    let knobs: Vec<Knobs> = (0..10).map(|_| Knobs::new()).collect();
    for knobs in &knobs {
        nursery.child_with("a", knobs).await;
    }
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(nursery.log.take(), ["start a"; 10], "no post_stop ran");
    assert!(knobs.iter().all(|knobs| !knobs.lock.held()));
}

/// Children that end by themselves, for whatever reason, while their supervisor stops: neither hangs it nor is restarted.
#[tokio::test(start_paused = true)]
async fn sup_stop_race() {
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        let bench = Bench::start(OneForOne, 9, &["a", "b", "c", "d", "z"], |_, c| c.restart(restart)).await;
        bench.knobs["z"].hang_stop(true);
        let tree = bench.tree.clone();
        let stopping = asking(async move { tree.stop(PATIENCE).await }).await;
        bench.cell("a").stop(None);
        bench.cell("b").stop(Some("shutdown: test".into()));
        bench.cell("c").stop(Some("other".into()));
        bench.cell("d").send_message(Do::Panic).unwrap();
        settle().await;
        bench.knobs["z"].hang_stop(false);
        assert_eq!(answer(stopping).await, Ok(()));
        assert!(bench.knobs.values().all(|knobs| knobs.lock.taken() == 1 && !knobs.lock.held()));
    }
}

#[tokio::test(start_paused = true)]
async fn sup_stop_non_shutdown_exit_dynamic() {
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        let nursery = Nursery::start(template(restart)).await;
        let (slow, knobs) = (Knobs::new(), Knobs::new());
        slow.hang_stop(true);
        nursery.child_with("slow", &slow).await;
        let (_, busy) = nursery.child_with("busy", &knobs).await;
        // It will die of its own while the others stop.
        let (reply, _answer) = oneshot::channel();
        busy.send_message(Do::Hang(reply)).unwrap();
        settle().await;
        let tree = nursery.tree.clone();
        let stopping = asking(async move { tree.stop(PATIENCE).await }).await;
        busy.kill();
        settle().await;
        slow.hang_stop(false);
        assert_eq!(answer(stopping).await, Ok(()));
        assert_eq!((slow.lock.taken(), knobs.lock.taken()), (1, 1));
        assert!(!slow.lock.held() && !knobs.lock.held());
    }
}
