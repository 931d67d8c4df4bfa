//! Actors that block their threads: a kill does not reach them. In here `KILL_WAIT` is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ractor::ActorProcessingErr;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{ChildState, Intensity, StopError, Strategy, SupervisorSpec, Tree};

const PATIENCE: Duration = Duration::from_secs(20);

/// Blocks in its handler, once it has said so, until the test lets go of the sender.
struct Blocker {
    starts: Arc<AtomicU32>,
}

impl Actor for Blocker {
    type Msg = (Sender<()>, Receiver<()>);
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        (inside, gate): Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let _ = inside.send(());
        let _ = gate.recv();
        Ok(())
    }
}

fn spec(strategy: Strategy, children: Vec<ChildSpec>) -> SupervisorSpec {
    SupervisorSpec::new(strategy, Intensity { restarts: 1, period: Duration::from_secs(60) }, children)
}

fn blocker(id: &str, starts: &Arc<AtomicU32>) -> ChildSpec {
    let starts = Arc::clone(starts);
    let make = move || (Blocker { starts: Arc::clone(&starts) }, ());
    ChildSpec::actor(id, make).shutdown(Shutdown::BrutalKill)
}

/// Blocks the actor at `path`, and returns when it is blocked; dropping the sender frees it.
async fn block(tree: &Tree, path: &str) -> Sender<()> {
    let hold = || {
        let (hold, gate) = channel::<()>();
        let (inside, entered) = channel::<()>();
        tree.find(path).unwrap().send_message((inside, gate)).unwrap();
        entered.recv().unwrap();
        hold
    };
    // What it woke last waits on its thread, and nobody else may run it: that must not be the supervisor, with the news
    // of its start. So it is past that, and the supervisor has heard of it.
    drop(hold());
    let (above, id) = path.rsplit_once('/').unwrap();
    tree.supervisor(above).unwrap().get_childspec(id).await.unwrap();
    hold()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tree_that_cannot_be_stopped_says_so() {
    let starts = Arc::new(AtomicU32::new(0));
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![blocker("a", &starts)])).await.unwrap();
    let hold = block(&tree, "root/a").await;
    let stopped = tree.stop(Duration::from_millis(100)).await;
    assert_eq!(stopped, Err(StopError::Stuck(vec!["root/a".into()])));
    drop(hold);
    while tree.find("root/a").is_some() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(tree.stop(Duration::from_secs(5)).await, Ok(()));
}

/// Rather than run a second one beside it, supervisor after supervisor gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_does_not_die_ends_the_tree() {
    let (a, b) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let inner = spec(Strategy::OneForAll, vec![blocker("a", &a), blocker("b", &b)]);
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![ChildSpec::supervisor("s", inner)])).await.unwrap();
    let hold = block(&tree, "root/s/b").await;
    tree.find("root/s/a").unwrap().kill();
    let escalated = tree.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/s");
    assert!(escalated.reason.contains("root/s/b still runs"), "{}", escalated.reason);
    assert_eq!(b.load(Ordering::SeqCst), 1, "it was never started beside itself");
    assert_eq!(tree.snapshot().nodes[0].state, ChildState::Stopped);
    drop(hold);
}

/// Wraps a worker's launch so that the test can abort the actor's task.
fn abortable(mut spec: ChildSpec, abort: &Arc<std::sync::Mutex<Option<tokio::task::AbortHandle>>>) -> ChildSpec {
    let Body::Worker(launch) = spec.body else { panic!("not a worker") };
    let abort = Arc::clone(abort);
    spec.body = Body::Worker(Arc::new(move |incarnation, parent| {
        let (spawning, abort) = (launch(incarnation, parent), Arc::clone(&abort));
        Box::pin(async move {
            let spawned = spawning.await?;
            *abort.lock().unwrap() = spawned.as_ref().map(|(_, join)| join.abort_handle());
            Ok(spawned)
        })
    }));
    spec
}

#[tokio::test(start_paused = true)]
async fn an_aborted_task_is_an_abnormal_exit() {
    let (starts, abort) = (Arc::new(AtomicU32::new(0)), Arc::default());
    let service = crate::Service::new("a");
    let counted = Arc::clone(&starts);
    let make = move || (Blocker { starts: Arc::clone(&counted) }, ());
    let child = ChildSpec::service("a", &service, make).restart(crate::Restart::Transient);
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![abortable(child, &abort)])).await.unwrap();
    let first = service.get().unwrap();
    abort.lock().unwrap().take().unwrap().abort();
    first.wait(None).await.unwrap();
    let second = loop {
        let now = service.wait(Instant::now() + Duration::from_secs(5)).await.expect("it comes back");
        if now != first {
            break now;
        }
    };
    sleep(Duration::from_millis(1)).await;
    let node = tree.snapshot().nodes.remove(1);
    assert_eq!((node.actor, node.incarnation), (Some(second.get_id()), 2));
    assert_eq!(node.last_exit.as_deref(), Some("actor_task_cancelled"));
    assert_eq!(starts.load(Ordering::SeqCst), 2);
}

/// The end of a runtime aborts every task in it.
#[test]
fn the_end_of_the_runtime_empties_the_slots() {
    let service = crate::Service::new("a");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let make = || (Blocker { starts: Arc::default() }, ());
    let children = vec![ChildSpec::service("a", &service, make)];
    let tree = runtime.block_on(Tree::start("root", spec(Strategy::OneForOne, children))).unwrap();
    assert!(service.get().is_some());
    drop(runtime);
    assert!(service.get().is_none());
    assert_eq!(tree.find("root/a").map(|cell| cell.get_status()), None);
}

/// Links a blocker to itself, and tells who it is.
struct Parent(std::sync::mpsc::Sender<ActorRef<(Sender<()>, Receiver<()>)>>);

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        let inner = Blocker { starts: Arc::default() };
        let (inner, _join) = Blocker::spawn_linked(None, inner, (), myself.get_cell()).await?;
        let _ = self.0.send(inner);
        Ok(())
    }
}

/// What a worker linked to itself holds its successor back as a latch does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_linked_actor_that_does_not_die_ends_the_tree() {
    let (tell, inner) = channel();
    let child = ChildSpec::actor("a", move || (Parent(tell.clone()), ()));
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![child])).await.unwrap();
    let (hold, gate) = channel::<()>();
    let (inside, entered) = channel::<()>();
    inner.recv().unwrap().send_message((inside, gate)).unwrap();
    entered.recv().unwrap();
    tree.find("root/a").unwrap().kill();
    let escalated = tree.wait().await.unwrap_err();
    assert!(escalated.reason.contains("actors linked to root/a still run"), "{}", escalated.reason);
    assert!(inner.try_recv().is_err(), "it was never started again");
    drop(hold);
}

/// A current-thread runtime on a thread that the test may block; it ends with the process.
fn beside() -> tokio::runtime::Handle {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// An actor that blocks nobody answers in time.
async fn answers(tree: &Tree, path: &str) {
    let ((inside, entered), (_, gate)) = (channel::<()>(), channel::<()>());
    tree.find(path).unwrap().send_message((inside, gate)).unwrap();
    let answer = async {
        while entered.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, answer).await.unwrap();
}

/// Blocks its thread in its start, once it has said so.
struct StartBlocker(Sender<()>, Arc<std::sync::Mutex<Receiver<()>>>);

impl Actor for StartBlocker {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        let _ = self.0.send(());
        let _ = self.1.lock().unwrap().recv();
        Ok(())
    }
}

/// The start of `root/a` hangs on a runtime of its own until what comes first is dropped; what comes second asked for it.
async fn hanging_start(tree: &Tree) -> (Sender<()>, tokio::task::JoinHandle<Result<(), String>>) {
    let ((inside, entered), (hold, gate)) = (channel::<()>(), channel::<()>());
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let child = ChildSpec::actor("a", move || (StartBlocker(inside.clone(), Arc::clone(&gate)), ()));
    let child = child.start_timeout(Duration::from_millis(50)).on(beside());
    let root = tree.supervisor("root").unwrap();
    let asked = tokio::spawn(async move { root.start_child(child).await.map(drop).map_err(|error| error.to_string()) });
    while entered.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    (hold, asked)
}

/// The time-outs of its supervisor are on another thread.
#[tokio::test]
async fn a_start_that_hangs_on_a_runtime_of_its_own_is_called_off() {
    let sibling = blocker("b", &Arc::default());
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![sibling])).await.unwrap();
    let (hold, asked) = hanging_start(&tree).await;
    answers(&tree, "root/b").await;
    let escalated = timeout(PATIENCE, tree.wait()).await.expect("its time-out passes").unwrap_err();
    assert!(escalated.reason.contains("the start of root/a still runs"), "{}", escalated.reason);
    asked.await.unwrap().unwrap_err();
    drop(hold);
}

#[tokio::test]
async fn a_child_that_hangs_on_a_runtime_of_its_own_is_killed_after_its_time() {
    let starts = Arc::new(AtomicU32::new(0));
    let child = blocker("a", &starts).shutdown(Shutdown::Timeout(Duration::from_millis(50))).on(beside());
    let children = vec![child, blocker("b", &Arc::default())];
    let tree = Tree::start("root", spec(Strategy::OneForOne, children)).await.unwrap();
    let hold = block(&tree, "root/a").await;
    let root = tree.supervisor("root").unwrap();
    let asked = tokio::spawn(async move { root.terminate_child("a").await });
    answers(&tree, "root/b").await;
    let escalated = timeout(PATIENCE, tree.wait()).await.expect("its time-out passes").unwrap_err();
    assert!(escalated.reason.contains("root/a still runs"), "{}", escalated.reason);
    asked.await.unwrap().unwrap_err();
    assert_eq!(starts.load(Ordering::SeqCst), 1, "it was never started beside itself");
    drop(hold);
}

/// What comes up when it was to be called off is ended.
#[tokio::test]
async fn a_start_that_ends_after_its_time_leaves_nothing() {
    let tree = Tree::start("root", spec(Strategy::OneForOne, vec![])).await.unwrap();
    let (hold, asked) = hanging_start(&tree).await;
    timeout(PATIENCE, tree.wait()).await.expect("its time-out passes").unwrap_err();
    asked.await.unwrap().unwrap_err();
    drop(hold);
    let gone = async {
        while tree.find("root/a").is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("its late start is ended");
}
