//! A supervisor dies and whoever is above it does not hear of that, for long or for ever: an actor of another kind that
//! keeps its events or is busy, or a supervisor that is in its own stop. All that waits for the dead one must not wait
//! for the one above, too.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use converge_supervisors::{ChildError, ChildSpec, Shutdown, StartError, SupervisorSpec, Tree};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Keeps every event it gets.
struct Hoarder;

impl Actor for Hoarder {
    type Msg = ();
    type State = Vec<SupervisionEvent>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        kept: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        kept.push(event);
        Ok(())
    }
}

/// A worker whose start never ends.
fn endless(knobs: &Knobs) -> ChildSpec {
    knobs.hang_start(true);
    probe("endless", &Log::new(), knobs).start_timeout(second() * 36_000)
}

fn unknown(path: &str) -> ChildError {
    ChildError::Unknown(path.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_root_that_is_killed() {
    let (host, _join) = Hoarder::spawn(None, Hoarder, ()).await.unwrap();
    let tree = Tree::start_linked("root", spec(OneForOne, 1, 1, vec![]), host.get_cell()).await.unwrap();
    let (root, child) = (tree.supervisor("root").unwrap(), endless(&Knobs::new()));
    let start = asking(async move { root.start_child(child).await }).await;
    tree.find("root").unwrap().kill();
    tree.wait().await.unwrap_err();
    assert_eq!(refused(answer(start).await), unknown("root"));
    host.stop(None);
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_supervisor_that_is_killed_while_its_parent_stops() {
    let (log, patient) = (Log::new(), Knobs::new());
    patient.hang_stop(true);
    let s = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, vec![]));
    let children = vec![s, probe("patient", &log, &patient).shutdown(Shutdown::Infinity)];
    let tree = Tree::start("root", spec(OneForOne, 1, 1, children)).await.unwrap();
    let stopped = tree.clone();
    let stop = asking(async move { stopped.stop(second() * 3600).await }).await;
    let (s, child) = (tree.supervisor("root/s").unwrap(), endless(&Knobs::new()));
    let start = asking(async move { s.start_child(child).await }).await;
    tree.find("root/s").unwrap().kill();
    assert_eq!(refused(answer(start).await), unknown("root/s"));
    patient.hang_stop(false);
    assert_eq!(answer(stop).await, Ok(()));
}

/// Starts a tree below itself in a handler, and so hears no event of it meanwhile.
struct Host(SupervisorSpec);

impl Actor for Host {
    type Msg = oneshot::Sender<Option<StartError>>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        reply: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(Tree::start_linked("root", self.0.clone(), myself.get_cell()).await.err());
        Ok(())
    }
}

/// Kills its supervisor.
struct Parricide;

impl Actor for Parricide {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<()>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        myself.get_cell().try_get_supervisor().expect("is linked").kill();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_killed_while_it_starts() {
    let children = vec![ChildSpec::actor("parricide", || (Parricide, ())), endless(&Knobs::new())];
    let (host, _join) = Host::spawn(None, Host(spec(OneForOne, 1, 1, children)), ()).await.unwrap();
    let (reply, failed) = oneshot::channel();
    host.send_message(reply).unwrap();
    let failed = timeout(PATIENCE, failed).await.expect("the start never ends").unwrap();
    let reason = "it was killed while it was starting".to_owned();
    assert_eq!(failed, Some(StartError::Child { path: "root".to_owned(), reason }));
    host.stop(None);
}

/// One thread of many: a task that is woken goes before one that is new. So the supervisor is dead, and all that had
/// begun below it is killed, before the task that is to start its child first runs; that one must not begin any more.
#[cfg(feature = "chaos")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_start_that_had_not_begun_when_its_supervisor_died() {
    use converge_supervisors::Callback;
    use converge_supervisors::chaos::{At, Fault, Moment};

    let scene = async {
        let (host, _join) = Hoarder::spawn(None, Hoarder, ()).await.unwrap();
        let tree = Tree::start_linked("root", spec(OneForOne, 1, 1, vec![]), host.get_cell()).await.unwrap();
        tree.arm("root", Moment::next(Callback::Handle, At::End), Fault::Kill).unwrap().leave();
        let (root, knobs) = (tree.supervisor("root").unwrap(), Knobs::new());
        let child = endless(&knobs);
        let start = tokio::spawn(async move { root.start_child(child).await });
        let ended = timeout(second() * 5, tree.wait()).await;
        assert!(!knobs.lock.held(), "it has a start under way and nobody above");
        ended.expect("the tree is at its end").unwrap_err();
        assert_eq!(refused(answer(start).await), unknown("root"));
        host.stop(None);
    };
    tokio::spawn(scene).await.unwrap();
}
