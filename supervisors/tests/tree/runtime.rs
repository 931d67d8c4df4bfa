//! `ChildSpec::on`: a child, and all below it, runs on a runtime of its own, over every restart; and a runtime that ends
//! early is an end, and no hang.

use crate::common::{PATIENCE, down, node, spec, until, up};
use converge_supervisors::Strategy::{OneForOne, RestForOne};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    ChildSpec, ChildState, DynamicSupervisor, Restart, Service, StartError, StopError, Template, Tree,
};
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, timeout};

const BESIDE: &str = "beside";

/// A current-thread runtime on a thread of this name, until it is dropped.
struct Beside {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Beside {
    fn start() -> Beside {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || drop(runtime.block_on(stopped));
        let thread = thread::Builder::new().name(BESIDE.into()).spawn(run).unwrap();
        Beside { runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    fn runtime(&self) -> Handle {
        self.runtime.clone()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Tells on which thread each of its callbacks runs.
struct Homing(mpsc::UnboundedSender<String>);

enum Question {
    Where(oneshot::Sender<String>),
    Panic,
}

fn here() -> String {
    thread::current().name().unwrap_or("unnamed").to_owned()
}

impl Actor for Homing {
    type Msg = Question;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Question>, (): ()) -> Result<(), ActorProcessingErr> {
        tokio::task::yield_now().await;
        let _ = self.0.send(here());
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Question>, ask: Question, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match ask {
            Question::Where(reply) => drop(reply.send(here())),
            Question::Panic => panic!("told to"),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Question>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let _ = self.0.send(here());
        Ok(())
    }
}

type Places = (mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<String>);

fn homing(id: &str, tell: &mpsc::UnboundedSender<String>) -> ChildSpec {
    let tell = tell.clone();
    ChildSpec::actor(id, move || (Homing(tell.clone()), ()))
}

async fn next(places: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(PATIENCE, places.recv()).await.expect("told in time").unwrap()
}

async fn asked(service: &Service<Question>) -> String {
    service.call(Question::Where, tokio::time::Instant::now() + PATIENCE).await.unwrap()
}

#[tokio::test]
async fn a_child_runs_there_and_its_sibling_does_not() {
    let beside = Beside::start();
    let (tell, mut places): Places = mpsc::unbounded_channel();
    let (there, elsewhere) = (Service::new("there"), Service::new("elsewhere"));
    let of = |id: &str, service: &Service<Question>| {
        let tell = tell.clone();
        ChildSpec::service(id, service, move || (Homing(tell.clone()), ()))
    };
    let children = vec![of("there", &there).on(beside.runtime()), of("elsewhere", &elsewhere)];
    let tree = Tree::start("root", spec(OneForOne, 2, 60, children)).await.unwrap();
    let own = here();
    assert_eq!((next(&mut places).await, next(&mut places).await), (BESIDE.into(), own.clone()));
    assert_eq!((asked(&there).await, asked(&elsewhere).await), (BESIDE.into(), own));
    tree.stop(PATIENCE).await.unwrap();
    drop((tell, there, elsewhere));
    // In reverse order, each where it ran.
    assert_eq!((next(&mut places).await, next(&mut places).await), (here(), BESIDE.into()));
}

#[tokio::test]
async fn it_comes_back_there_after_a_kill_and_a_panic() {
    let beside = Beside::start();
    let (tell, mut places): Places = mpsc::unbounded_channel();
    let tree =
        Tree::start("root", spec(OneForOne, 2, 60, vec![homing("a", &tell).on(beside.runtime())])).await.unwrap();
    assert_eq!(next(&mut places).await, BESIDE);
    tree.find("root/a").unwrap().kill();
    up(&tree, "root/a", 2).await;
    assert_eq!(next(&mut places).await, BESIDE);
    tree.find("root/a").unwrap().send_message(Question::Panic).unwrap();
    up(&tree, "root/a", 3).await;
    assert_eq!(next(&mut places).await, BESIDE);
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_is_below_a_supervisor_runs_there_too() {
    let beside = Beside::start();
    let (tell, mut places): Places = mpsc::unbounded_channel();
    let crowd = {
        let tell = tell.clone();
        DynamicSupervisor::new(Template { restart: Restart::Permanent, ..Template::default() }, move |(): ()| {
            Some((Homing(tell.clone()), ()))
        })
    };
    let below = vec![homing("a", &tell), ChildSpec::dynamic("crowd", &crowd)];
    let s = ChildSpec::supervisor("s", spec(RestForOne, 5, 60, below)).on(beside.runtime());
    let tree = Tree::start("root", spec(OneForOne, 5, 60, vec![s])).await.unwrap();
    assert_eq!(next(&mut places).await, BESIDE);
    // Asked for from here, started there.
    crowd.start_child(()).await.unwrap();
    assert_eq!(next(&mut places).await, BESIDE);
    crowd.which_children()[0].actor.unwrap();
    tree.find("root/s/crowd/0").unwrap().kill();
    assert_eq!(next(&mut places).await, BESIDE);
    tree.find("root/s").unwrap().kill();
    up(&tree, "root/s", 2).await;
    assert_eq!(next(&mut places).await, BESIDE);
    tree.supervisor("root").unwrap().terminate_child("s").await.unwrap();
    assert_eq!(next(&mut places).await, BESIDE, "it stops in order");
    down(&tree, "root/s/a").await;
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_ends_early_is_an_end_of_the_tree() {
    let beside = Beside::start();
    let (tell, mut places): Places = mpsc::unbounded_channel();
    let s = ChildSpec::supervisor("s", spec(OneForOne, 5, 60, vec![homing("a", &tell)])).on(beside.runtime());
    let tree = Tree::start("root", spec(OneForOne, 2, 60, vec![homing("b", &tell), s])).await.unwrap();
    assert_eq!((next(&mut places).await, next(&mut places).await), (here(), BESIDE.into()));
    drop(beside);
    let ended = timeout(PATIENCE, tree.wait()).await.expect("it ends, and does not hang").unwrap_err();
    assert_eq!(ended.path, "root/s");
    assert!(ended.reason.starts_with("its runtime has ended"), "{ended}");
    assert_eq!(next(&mut places).await, here(), "its sibling stops in order");
    assert!(["root", "root/s", "root/s/a"].iter().all(|path| tree.find(path).is_none()));
}

#[tokio::test]
async fn a_runtime_that_has_ended_starts_nothing() {
    let beside = Beside::start();
    let runtime = beside.runtime();
    drop(beside);
    let (tell, _places): Places = mpsc::unbounded_channel();
    let started = Tree::start("root", spec(OneForOne, 2, 60, vec![homing("a", &tell).on(runtime)]));
    let refused = timeout(PATIENCE, started).await.expect("it fails, and does not hang").unwrap_err();
    assert_eq!(refused, StartError::Child { path: "root/a".into(), reason: "its runtime has ended".into() });
}

/// A temporary child is forgotten, as after every end.
#[tokio::test]
async fn a_temporary_child_ends_with_its_runtime_alone() {
    let beside = Beside::start();
    let (tell, mut places): Places = mpsc::unbounded_channel();
    let child = homing("a", &tell).restart(Restart::Temporary).on(beside.runtime());
    let tree = Tree::start("root", spec(OneForOne, 2, 60, vec![child])).await.unwrap();
    next(&mut places).await;
    drop(beside);
    until("it is forgotten", &tree, |tree| node(tree, "root/a").is_none()).await;
    assert_eq!(node(&tree, "root").unwrap().state, ChildState::Running);
    tree.stop(PATIENCE).await.unwrap();
}

/// Nobody can stop what nobody drives; the stop of a tree is bounded all the same.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_nobody_drives_holds_up_no_stop_for_ever() {
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let (tell, _places): Places = mpsc::unbounded_channel();
    let tree = Tree::start("root", spec(OneForOne, 2, 60, vec![])).await.unwrap();
    let child = homing("a", &tell).on(idle.handle().clone());
    let asked = tree.supervisor("root").unwrap();
    let start = tokio::spawn(async move { asked.start_child(child).await });
    until("it is to start", &tree, |tree| node(tree, "root/a").is_some()).await;
    let stopped = tree.stop(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&stopped, StopError::Stuck(paths) if paths.contains(&"root/a".to_owned())), "{stopped}");
    start.await.unwrap().unwrap_err();
    idle.shutdown_background();
}
