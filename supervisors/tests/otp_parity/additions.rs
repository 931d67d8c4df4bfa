//! What OTP has not: starts that are bounded, or that do not block their supervisor, backoff, the grace for siblings,
//! and states that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use converge_supervisors::Strategy::{OneForOne, RestForOne};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, ChildState, Restart, Shutdown, StartError, StopError, Tree};
use tokio::time::{Duration, Instant};

use super::common::*;

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
    root.sibling_shutdown = Some(Duration::from_millis(200));
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

/// What a child is made from is the user's too. Its drop may panic wherever it happens: that costs neither the supervisor
/// nor an answer.
#[derive(Clone)]
struct Brittle(Arc<AtomicBool>);

impl Drop for Brittle {
    fn drop(&mut self) {
        let armed = self.0.load(Ordering::SeqCst);
        assert!(!armed || std::thread::panicking(), "told to panic");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_child_is_made_from_panics_when_dropped() {
    let (log, armed) = (Log::new(), Arc::new(AtomicBool::new(false)));
    let make = {
        let (log, brittle) = (log.clone(), Brittle(armed.clone()));
        move || {
            let _ = &brittle;
            (Probe { name: "b".into(), log: log.clone(), knobs: Knobs::new() }, ())
        }
    };
    let tree = Tree::start("root", spec(OneForOne, 0, 5, vec![probe("a", &log, &Knobs::new())])).await.unwrap();
    let root = tree.supervisor("root").unwrap();
    let (a, supervisor) = (tree.find("root/a").unwrap(), tree.find("root").unwrap());
    armed.store(true, Ordering::SeqCst);
    let start = asking(async move { root.start_child(ChildSpec::actor("b", make).restart(Restart::Temporary)).await });
    running(answer(start.await).await);
    settle().await;
    assert_eq!((tree.find("root/a"), tree.find("root")), (Some(a), Some(supervisor)));
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
}

/// Holds something brittle in its start.
struct Slow(Brittle);

impl Actor for Slow {
    type Msg = ();
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        let _held = self.0.clone();
        self.0.0.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_when_it_is_called_off() {
    let tree = Tree::start("root", spec(OneForOne, 0, 5, vec![])).await.unwrap();
    let root = tree.supervisor("root").unwrap();
    let slow = ChildSpec::actor("b", || (Slow(Brittle(Default::default())), ())).start_timeout(second());
    let start = asking(async move { root.start_child(slow).await }).await;
    assert_eq!(refused(answer(start).await), not_started("root/b", "it did not start within 1s"));
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
}
