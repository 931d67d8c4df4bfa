//! Actors that a worker links below itself: the next incarnation finds nothing of them.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Restart, Tree};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

/// A port that one at a time can have.
#[derive(Clone, Debug, Default)]
struct Port(Arc<AtomicBool>);

struct Bound(Port);

impl Port {
    fn bind(&self) -> Result<Bound, ActorProcessingErr> {
        if self.0.swap(true, Ordering::SeqCst) { Err("the port is taken".into()) } else { Ok(Bound(self.clone())) }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::SeqCst);
    }
}

/// What the actors of a test share.
#[derive(Clone, Debug)]
struct Stage {
    ports: [Port; 2],
    /// Starts that the worker is to fail once all below it is there.
    fail: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
    /// Told when the one at the bottom blocks its thread.
    busy: mpsc::UnboundedSender<ActorRef<()>>,
}

/// Has the port of its level, and one of the next level below it, if there is one. The last blocks its thread at once,
/// so that a kill has to wait.
struct Inner(Stage, usize);

impl Actor for Inner {
    type Msg = ();
    type State = Bound;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<()>, (): ()) -> Result<Bound, ActorProcessingErr> {
        let Inner(shared, level) = self;
        let bound = shared.ports[*level].bind()?;
        if level + 1 < shared.ports.len() {
            Inner::spawn_linked(None, Inner(shared.clone(), level + 1), (), myself.get_cell()).await?;
        } else {
            myself.send_message(())?;
        }
        Ok(bound)
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), _: &mut Bound) -> Result<(), ActorProcessingErr> {
        let _ = self.0.busy.send(myself);
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Kill,
    Stop,
    Panic,
    Error,
}

struct LinkedWorker(Stage);

impl Actor for LinkedWorker {
    type Msg = Death;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Death>, (): ()) -> Result<(), ActorProcessingErr> {
        let LinkedWorker(shared) = self;
        let inner = Inner::spawn_linked(None, Inner(shared.clone(), 0), (), myself.get_cell()).await;
        if inner.is_err() {
            shared.refused.fetch_add(1, Ordering::SeqCst);
        }
        inner?;
        if shared.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err("told to fail".into());
        }
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Death>, end: Death, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match end {
            Death::Kill => myself.kill(),
            Death::Stop => myself.stop(None),
            Death::Panic => panic!("told to panic"),
            Death::Error => return Err("told to fail".into()),
        }
        Ok(())
    }
}

/// The worker is up, and the one at the bottom is busy: both.
async fn busy(tree: &Tree, busy: &mut mpsc::UnboundedReceiver<ActorRef<()>>, incarnation: u64) -> ActorCell {
    up(tree, "root/w", incarnation).await;
    while busy.recv().await.expect("they live").get_status() == converge_supervisors::ractor::ActorStatus::Stopped {}
    tree.find("root/w").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_comes_back_when_nothing_below_it_is_left() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let shared = Stage { ports: Default::default(), fail: Arc::default(), refused: Arc::default(), busy: tell };
    let own = shared.clone();
    let w = ChildSpec::actor("w", move || (LinkedWorker(own.clone()), ())).restart(Restart::Permanent);
    let tree = Tree::start("root", spec(OneForOne, 100_000, 5, vec![w])).await.unwrap();
    let mut incarnation = 1;
    for end in [Death::Kill, Death::Stop, Death::Panic, Death::Error] {
        for idle in [false, true] {
            let worker = busy(&tree, &mut told, incarnation).await;
            match (idle, end) {
                (true, Death::Kill) => worker.kill(),
                (true, _) => worker.stop(None),
                (false, end) => worker.send_message(end).unwrap(),
            }
            incarnation += 1;
        }
    }
    // A start that fails when all below it is there.
    busy(&tree, &mut told, incarnation).await;
    shared.fail.store(3, Ordering::SeqCst);
    tree.find("root/w").unwrap().kill();
    busy(&tree, &mut told, incarnation + 4).await;
    assert_eq!(shared.refused.load(Ordering::SeqCst), 0, "starts that found a port taken");
    let ended = tree.stop(PATIENCE).await;
    ended.unwrap();
    assert!(!shared.ports.iter().any(|port| port.0.load(Ordering::SeqCst)), "after the stop nothing is left of them");
}

/// Links what it is sent to itself.
struct Adopter;

impl Actor for Adopter {
    type Msg = ActorCell;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<ActorCell>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<ActorCell>,
        child: ActorCell,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match child.try_get_supervisor() {
            None => child.link(myself.get_cell()),
            Some(_) => child.unlink(myself.get_cell()),
        }
        Ok(())
    }
}

struct Independent;

impl Actor for Independent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// One that a worker let go of, or that another has taken over, is not waited for.
#[tokio::test(start_paused = true)]
async fn one_that_is_linked_no_more_is_nobodys_to_wait_for() {
    let children = ["a", "b"].map(|id| ChildSpec::actor(id, || (Adopter, ()))).to_vec();
    let tree = Tree::start("root", spec(OneForOne, 10, 5, children)).await.unwrap();
    let adopter = |id: &str| ActorRef::<ActorCell>::from(tree.find(&format!("root/{id}")).unwrap());
    let (freed, moved) = (
        Independent::spawn(None, Independent, ()).await.unwrap().0,
        Independent::spawn(None, Independent, ()).await.unwrap().0,
    );
    for child in [&freed, &freed, &moved] {
        adopter("a").send_message(child.get_cell()).unwrap();
        settle().await;
    }
    moved.link(adopter("b").get_cell());
    adopter("a").kill();
    sleep(second()).await;
    up(&tree, "root/a", 2).await;
    for child in [&freed, &moved] {
        assert_eq!(child.get_status(), converge_supervisors::ractor::ActorStatus::Running);
    }
    tree.stop(PATIENCE).await.unwrap();
    freed.stop(None);
}
