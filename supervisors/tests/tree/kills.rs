//! Deaths of every kind: nothing is left over, nothing runs twice, no slot stays full.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use converge_supervisors::{CallError, ChildSpec, ChildState, Escalated, Service, Shutdown, Tree};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep};

/// root ─ s (rest_for_one) ─┬ a
///                          ├ t (one_for_all) ─ b
///                          └ c, in a slot
struct Forest {
    tree: Tree,
    log: Log,
    a: Knobs,
    b: Knobs,
    c: Knobs,
    service: Service<Do>,
}

impl Forest {
    async fn start() -> Forest {
        let (log, a, b, c) = (Log::new(), Knobs::new(), Knobs::new(), Knobs::new());
        let service = Service::new("c");
        let t = spec(OneForAll, 1_000, 5, vec![probe("b", &log, &b)]);
        let children = vec![probe("a", &log, &a), ChildSpec::supervisor("t", t), served("c", &service, &log, &c)];
        let s = ChildSpec::supervisor("s", spec(RestForOne, 1_000, 5, children));
        let tree = Tree::start("root", spec(OneForOne, 1_000, 5, vec![s])).await.unwrap();
        Forest { tree, log, a, b, c, service }
    }

    fn kill(&self, path: &str) {
        self.tree.find(path).unwrap().kill();
    }

    /// This incarnation is up and so is all else, nothing was ever owned twice, and the slot holds the actor of the tree.
    async fn whole(&self, path: &str, incarnation: u64) {
        up(&self.tree, path, incarnation).await;
        for path in ["root/s", "root/s/a", "root/s/t", "root/s/t/b", "root/s/c"] {
            up(&self.tree, path, 1).await;
        }
        for knobs in [&self.a, &self.b, &self.c] {
            assert_eq!(knobs.lock.broken(), 0, "owned twice");
            assert!(knobs.lock.held());
        }
        let c = self.tree.find("root/s/c").unwrap();
        assert_eq!(self.service.get().map(|actor| actor.get_id()), Some(c.get_id()));
        let pinged = self.service.call(Do::Ping, soon()).await;
        assert_eq!(pinged, Ok(c.get_id()));
    }

    async fn stop(self) {
        assert_eq!(self.tree.stop(PATIENCE).await, Ok(()));
        for knobs in [&self.a, &self.b, &self.c] {
            assert!(!knobs.lock.held(), "an orphan");
        }
        assert!(self.service.get().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_comes_back_with_all_below_it() {
    let forest = Forest::start().await;
    for round in 2..30 {
        let old = ["root/s/a", "root/s/t", "root/s/t/b", "root/s/c"].map(|path| forest.tree.find(path).unwrap());
        forest.kill("root/s");
        forest.whole("root/s", round).await;
        for cell in old {
            assert_eq!(cell.get_status(), ActorStatus::Stopped, "an orphan");
        }
    }
    forest.stop().await;
}

/// The successor starts nothing before the predecessor's last grandchild has let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_subtree_that_goes_slowly_is_waited_for() {
    let forest = Forest::start().await;
    forest.b.slow_drop(Duration::from_millis(300));
    let before = Instant::now();
    forest.log.take();
    forest.kill("root/s");
    forest.log.seen("start a", 1).await;
    assert!(before.elapsed() >= Duration::from_millis(300), "a started while b of the old tree was there");
    forest.b.slow_drop(Duration::ZERO);
    forest.whole("root/s", 2).await;
    forest.stop().await;
}

/// `ractor` does not kill a child that is already stopping.
#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_while_a_child_hangs_in_post_stop() {
    let forest = Forest::start().await;
    forest.b.hang_stop(true);
    forest.tree.find("root/s/t/b").unwrap().stop(None);
    forest.log.seen("stop b", 1).await;
    forest.kill("root/s");
    forest.whole("root/s", 2).await;
    forest.b.hang_stop(false);
    forest.stop().await;
}

/// Nor does its supervisor, when it dies in the middle of an ordered stop.
#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_while_it_stops_a_child() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    b.hang_stop(true);
    let patient = probe("b", &log, &b).shutdown(Shutdown::Infinity);
    let s = ChildSpec::supervisor("s", spec(OneForAll, 9, 9, vec![probe("a", &log, &a), patient]));
    let tree = Tree::start("root", spec(OneForOne, 9, 9, vec![s])).await.unwrap();
    tree.find("root/s/a").unwrap().kill();
    log.seen("stop b", 1).await;
    tree.find("root/s").unwrap().kill();
    up(&tree, "root/s", 2).await;
    assert_eq!((a.lock.broken(), b.lock.broken()), (0, 0));
    b.hang_stop(false);
    tree.stop(PATIENCE).await.unwrap();
}

/// `ractor` does not kill a child that is draining either.
#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_while_a_child_drains() {
    let forest = Forest::start().await;
    let (reply, _answer) = oneshot::channel();
    let b = forest.tree.find("root/s/t/b").unwrap();
    b.send_message(Do::Hang(reply)).unwrap();
    settle().await;
    b.drain().unwrap();
    forest.kill("root/s");
    forest.whole("root/s", 2).await;
    forest.stop().await;
}

/// The start holds the lock; it must be over before the next one begins.
#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_in_the_middle_of_a_start() {
    for killed in ["root/s", "root/s/t"] {
        let forest = Forest::start().await;
        forest.b.hang_start(true);
        forest.kill("root/s/t/b");
        forest.log.seen("start b", 2).await;
        assert!(forest.b.lock.held());
        forest.kill(killed);
        forest.log.seen("start b", 3).await;
        forest.b.hang_start(false);
        forest.whole(killed, 2).await;
        forest.stop().await;
    }
}

/// An actor that is killed while it starts has failed to start.
#[tokio::test(start_paused = true)]
async fn a_kill_in_pre_start() {
    let forest = Forest::start().await;
    forest.a.hang_start(true);
    forest.kill("root/s/a");
    forest.log.seen("start a", 2).await;
    settle().await;
    forest.a.hang_start(false);
    forest.a.starting().unwrap().kill();
    forest.whole("root/s/a", 3).await;
    forest.stop().await;
}

/// A supervisor in an ordered stop reads no events any more: the state of a child that had to be killed must not wait
/// in one while its elders stop.
#[tokio::test(start_paused = true)]
async fn a_state_is_dropped_before_the_elder_is_asked_to_stop() {
    let limit = |_: &str, child: ChildSpec| child.shutdown(Shutdown::Timeout(second()));
    let bench = Bench::start(OneForOne, 1, &["a", "b"], limit).await;
    bench.knobs["a"].juniors(vec![bench.knobs["b"].lock.clone()]);
    let (reply, _answer) = oneshot::channel();
    bench.cell("b").send_message(Do::Hang(reply)).unwrap();
    settle().await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(bench.log.take().last().unwrap(), "stop a");
    assert_eq!(bench.knobs["a"].disorder(), 0);
}

/// With `ractor` alone the state, and the lock in it, would travel to the supervisor inside the exit event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_inside_a_handler() {
    let forest = Forest::start().await;
    for round in 2..30 {
        let (reply, _answer) = oneshot::channel();
        let a = forest.tree.find("root/s/a").unwrap();
        a.send_message(Do::Hang(reply)).unwrap();
        a.kill();
        forest.whole("root/s/a", round).await;
    }
    forest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_errors_stops_and_kills_of_a_service() {
    let forest = Forest::start().await;
    for round in 1..40 {
        let actor = forest.service.wait(soon()).await.unwrap();
        match round % 4 {
            0 => actor.kill(),
            1 => actor.stop(None),
            2 => actor.send_message(Do::Panic).unwrap(),
            _ => actor.send_message(Do::Fail).unwrap(),
        }
        actor.wait(Some(PATIENCE)).await.unwrap();
        forest.whole("root/s/c", round + 1).await;
    }
    assert_eq!(forest.c.lock.taken(), 40);
    forest.stop().await;
}

/// The guard sits in the wrapped actor: whatever the actor dies of, the slot is empty.
#[tokio::test(start_paused = true)]
async fn no_death_leaves_a_slot_full() {
    for death in 0..5 {
        let (log, knobs, service) = (Log::new(), Knobs::new(), Service::new("a"));
        assert!(service.try_cast(Do::Fail).is_err(), "nobody is there before the tree");
        let child = served("a", &service, &log, &knobs).restart(converge_supervisors::Restart::Temporary);
        let tree = Tree::start("root", spec(OneForOne, 1, 1, vec![child])).await.unwrap();
        let actor = service.get().expect("filled before the start is reported");
        let pending = oneshot::channel().0;
        match death {
            0 => actor.kill(),
            1 => actor.stop(None),
            2 => actor.send_message(Do::Panic).unwrap(),
            3 => tree.find("root").unwrap().kill(),
            _ => {
                actor.send_message(Do::Hang(pending)).unwrap();
                settle().await;
                actor.kill();
            }
        }
        actor.wait(Some(PATIENCE)).await.unwrap();
        settle().await;
        assert!(service.get().is_none(), "death {death}");
        let answer = service.call(Do::Ping, Instant::now() + second()).await;
        assert_eq!(answer, Err(CallError::NotSent));
        assert!(!knobs.lock.held());
    }
}

/// A start that fails after the slot was filled cannot happen in `pre_start`; a failed `pre_start` never fills it.
#[tokio::test(start_paused = true)]
async fn a_failed_start_fills_no_slot() {
    let (log, knobs, service) = (Log::new(), Knobs::new(), Service::new("a"));
    knobs.fail_starts(1);
    Tree::start("root", spec(OneForOne, 1, 1, vec![served("a", &service, &log, &knobs)])).await.unwrap_err();
    assert!(service.get().is_none());
}

/// A call meets the successor, not an error, while the service is being restarted.
#[tokio::test(start_paused = true)]
async fn calls_wait_across_a_restart() {
    let (log, knobs, service) = (Log::new(), Knobs::new(), Service::new("a"));
    let tree = Tree::start("root", spec(OneForOne, 9, 9, vec![served("a", &service, &log, &knobs)])).await.unwrap();
    let first = service.call(Do::Ping, soon()).await.unwrap();
    knobs.slow_start(second() * 2);
    let actor = service.get().unwrap();
    actor.kill();
    actor.wait(None).await.unwrap();
    settle().await;

    let impatient = service.call(Do::Ping, Instant::now() + second()).await;
    assert_eq!(impatient, Err(CallError::NotSent));
    let second_actor = service.call(Do::Ping, soon()).await.unwrap();
    assert_ne!(first, second_actor);

    let hung = service.call(Do::Hang, Instant::now() + second()).await;
    assert_eq!(hung, Err(CallError::Deadline));
    let dying = service.call(Do::Ping, soon());
    tokio::pin!(dying);
    tokio::select! {
        biased;
        _ = &mut dying => panic!("the actor hangs in its handler"),
        () = settle() => service.get().unwrap().kill(),
    }
    assert_eq!(dying.await, Err(CallError::Unknown), "it may have been acted on");
    tree.stop(PATIENCE).await.unwrap();
}

/// Anyone may stop a supervisor through its cell; its children go in order, and its parent brings it back.
#[tokio::test(start_paused = true)]
async fn a_supervisor_stopped_from_outside_stops_in_order() {
    let forest = Forest::start().await;
    forest.log.take();
    forest.tree.find("root/s").unwrap().stop(None);
    forest.whole("root/s", 2).await;
    assert_eq!(forest.log.take(), ["stop c", "stop b", "stop a", "start a", "start b", "start c"]);
    forest.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_root_is_the_end() {
    let forest = Forest::start().await;
    forest.kill("root");
    let end = forest.tree.wait().await;
    assert_eq!(end, Err(Escalated { path: "root".into(), reason: "killed".into() }));
    assert!(forest.tree.snapshot().nodes.iter().all(|node| node.state == ChildState::Stopped && node.actor.is_none()));
    forest.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_start_leaves_nothing() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    b.hang_start(true);
    let start = Tree::start("root", spec(OneForOne, 1, 1, vec![probe("a", &log, &a), probe("b", &log, &b)]));
    tokio::select! {
        biased;
        _ = start => panic!("b hangs"),
        () = log.seen("start b", 1) => {}
    }
    let before = Instant::now();
    while a.lock.held() || b.lock.held() {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(before.elapsed() < second(), "killed at once, not when b's start times out");
}

#[tokio::test(start_paused = true)]
async fn past_the_deadline_everything_is_killed() {
    let forest = Forest::start().await;
    forest.b.hang_stop(true);
    let before = Instant::now();
    forest.tree.stop(second()).await.unwrap_err();
    assert_eq!(before.elapsed().as_secs(), 1);
    assert_eq!(forest.log.take().last().unwrap(), "stop b", "a was not asked any more");
    forest.stop().await;
}

/// An embedding application's own supervisor.
struct Host;

impl Actor for Host {
    type Msg = ();
    type State = mpsc::UnboundedSender<Option<String>>;
    type Arguments = mpsc::UnboundedSender<Option<String>>;

    async fn pre_start(&self, _: ActorRef<()>, seen: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(seen)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        seen: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(_, _, reason) = event {
            let _ = seen.send(reason);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_supervisor_sees_the_tree_give_up() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let (host, _join) = Host::spawn(None, Host, seen).await.unwrap();
    let (log, knobs) = (Log::new(), Knobs::new());
    let root = spec(OneForOne, 0, 1, vec![probe("a", &log, &knobs)]);
    let tree = Tree::start_linked("root", root, host.get_cell()).await.unwrap();
    tree.find("root/a").unwrap().kill();
    let reason = events.recv().await.unwrap().unwrap();
    assert!(reason.starts_with("shutdown: gave up on root/a: killed"), "{reason}");
    assert_eq!(tree.wait().await.unwrap_err().path, "root/a");
    host.stop(None);
}

#[tokio::test(start_paused = true)]
async fn a_tree_dies_with_its_foreign_supervisor() {
    for kill in [true, false] {
        let (seen, _events) = mpsc::unbounded_channel();
        let (host, _join) = Host::spawn(None, Host, seen).await.unwrap();
        let (log, knobs) = (Log::new(), Knobs::new());
        let root = spec(OneForOne, 1, 1, vec![probe("a", &log, &knobs)]);
        let tree = Tree::start_linked("root", root, host.get_cell()).await.unwrap();
        if kill {
            host.kill();
        } else {
            host.stop(None);
        }
        assert_eq!(tree.wait().await.unwrap_err().reason, "killed");
        assert!(!knobs.lock.held());
        let refused = Tree::start_linked("root", spec(OneForOne, 1, 1, vec![]), host.get_cell()).await;
        assert!(refused.is_err(), "there is nobody to link to");
    }
}

/// A plain worker under the kit that supervises actors of its own with `ractor`'s default handler: when one of those
/// fails, the worker stops "normally", and is restarted for being permanent.
#[tokio::test(start_paused = true)]
async fn a_worker_with_children_of_its_own() {
    struct Parent(Log);
    impl Actor for Parent {
        type Msg = ();
        type State = ActorRef<Do>;
        type Arguments = ();
        async fn pre_start(&self, myself: ActorRef<()>, (): ()) -> Result<Self::State, ActorProcessingErr> {
            let child = Probe { name: "own".into(), log: self.0.clone(), knobs: Knobs::new() };
            let (child, _join) = Probe::spawn_linked(None, child, (), myself.get_cell()).await?;
            Ok(child)
        }
        async fn handle(&self, _: ActorRef<()>, (): (), child: &mut Self::State) -> Result<(), ActorProcessingErr> {
            child.send_message(Do::Panic)?;
            Ok(())
        }
    }
    let log = Log::new();
    let parents = log.clone();
    let child = ChildSpec::actor("p", move || (Parent(parents.clone()), ())).shutdown(Shutdown::BrutalKill);
    let tree = Tree::start("root", spec(OneForOne, 5, 5, vec![child])).await.unwrap();
    tree.find("root/p").unwrap().send_message(()).unwrap();
    up(&tree, "root/p", 2).await;
    assert_eq!(log.take(), ["start own", "start own"]);
    tree.stop(PATIENCE).await.unwrap();
}
