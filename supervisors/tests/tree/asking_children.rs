//! A child that waits for what it asked of its own supervisor, while that is on its way out: the answer comes, for without
//! it the child could not stop.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildError, ChildSpec, Shutdown, SupervisorRef, Tree};
use tokio::time::timeout;

/// Asks for something of its elder "b", and waits for the answer in its handler.
struct Asker(Log);

enum Ask {
    Terminate(SupervisorRef),
    Restart(SupervisorRef),
}

impl Actor for Asker {
    type Msg = Ask;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Ask>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Ask>, ask: Ask, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.push("ask");
        let answer = match ask {
            Ask::Terminate(supervisor) => supervisor.terminate_child("b").await,
            Ask::Restart(supervisor) => supervisor.restart_child("b").await.map(drop),
        };
        self.0.push(match answer {
            Ok(()) => "done".to_owned(),
            Err(ChildError::StartFailed { reason, .. }) => reason,
            Err(other) => panic!("{other}"),
        });
        Ok(())
    }
}

/// b, and a younger one that will ask for something of it. Both may take as long as they like.
async fn start(log: &Log, b: &Knobs) -> (Tree, ActorRef<Ask>, SupervisorRef) {
    let patient = |child: ChildSpec| child.start_timeout(second() * 36_000).shutdown(Shutdown::Infinity);
    let own = log.clone();
    let asker = ChildSpec::actor("asker", move || (Asker(own.clone()), ()));
    let children = vec![patient(probe("b", log, b)), patient(asker)];
    let tree = Tree::start("root", spec(OneForOne, 1, 5, children)).await.unwrap();
    let (asker, root) = (tree.find("root/asker").unwrap(), tree.supervisor("root").unwrap());
    log.take();
    (tree, ActorRef::from(asker), root)
}

/// Stops the tree; what is done meanwhile lets the child go.
async fn stopped(tree: &Tree, meanwhile: impl FnOnce()) {
    let stop = tree.stop(second() * 36_000);
    let (stopped, ()) = tokio::join!(timeout(PATIENCE, stop), async {
        settle().await;
        meanwhile();
    });
    stopped.expect("nobody waits for somebody who waits").unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_elder_is_told_to_who_waits_for_it() {
    let (log, b) = (Log::new(), Knobs::new());
    let (tree, asker, root) = start(&log, &b).await;
    b.hang_stop(true);
    asker.send_message(Ask::Terminate(root)).unwrap();
    log.seen("stop b", 1).await;
    stopped(&tree, || b.hang_stop(false)).await;
    assert_eq!(log.take(), ["ask", "stop b", "done"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_is_called_off_before_who_waits_for_it_is_waited_for() {
    let (log, b) = (Log::new(), Knobs::new());
    let (tree, asker, root) = start(&log, &b).await;
    root.terminate_child("b").await.unwrap();
    b.hang_start(true);
    asker.send_message(Ask::Restart(root)).unwrap();
    log.seen("start b", 1).await;
    stopped(&tree, || {}).await;
    assert_eq!(log.take(), ["stop b", "ask", "start b", "its start was called off"]);
    assert!(!b.lock.held());
}
