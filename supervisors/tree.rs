//! A running tree: start it, look at it, wait for it, stop it.
//!
//! Owns the root supervisor, which has no supervisor of this kit above it. A task of its own waits for the root's end
//! and publishes the verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, SpawnErr};
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, timeout};

use crate::exit::{Exit, KILLED, SHUTDOWN};
use crate::minder::{KILL_WAIT, describe};
use crate::node::{Incarnation, Live, Node};
use crate::reports::{Bus, Event, Loudness};
use crate::requests::SupervisorRef;
use crate::snapshot::{TreeNode, TreeSnapshot};
use crate::spec::{SpecError, SupervisorSpec, check_id};
use crate::strategy::StartFailure;
use crate::supervisor::{Orders, Setup, Supervisor};
use crate::vitals::{Pulse, SuspendError};

/// A handle on a running root supervisor and all below it. Clones are handles on the same tree; dropping them all does
/// not stop it.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    node: Arc<Node>,
    incarnation: u64,
    cell: ActorCell,
    stopping: Arc<AtomicBool>,
    end: watch::Receiver<Option<Result<(), Escalated>>>,
}

/// The root gave up, or was killed: nothing of the tree runs any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tree gave up on {path}: {reason}")]
pub struct Escalated {
    /// The child of the root that failed once too often; the root itself when it was killed.
    pub path: String,
    /// Why it failed the last time.
    pub reason: String,
}

/// A tree that did not start. Nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The specification is not one; nothing was started.
    #[error("the specification is refused: {0}")]
    Spec(#[from] SpecError),
    /// A child did not start; those before it were stopped again, in reverse order.
    #[error("{path} did not start: {reason}")]
    Child {
        /// The child.
        path: String,
        /// Its error.
        reason: String,
    },
}

/// A tree that did not stop by itself in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// These were still there at the deadline and were killed. Nothing is left.
    #[error("killed after the deadline: {}", .0.join(", "))]
    Killed(Vec<String>),
    /// These block their threads and are still there long after they were killed.
    #[error("still running after they were killed: {}; end the process", .0.join(", "))]
    Stuck(Vec<String>),
}

impl Tree {
    /// Starts a root supervisor and its children, in order, and returns when all are up. `name` is the first segment of
    /// every path.
    ///
    /// # Errors
    /// See [`StartError`]; what had started has been stopped again. Dropping the future kills what had started.
    pub async fn start(name: &str, spec: SupervisorSpec) -> Result<Tree, StartError> {
        Tree::launch(name, spec, None).await
    }

    /// Like [`Tree::start`], under a plain `ractor` actor: the parent sees the root terminate when it gives up (reason
    /// `"shutdown: …"`), and the tree dies with its parent. A parent that merely stops kills the tree, for that is what
    /// `ractor` does; it should call [`Tree::stop`] first.
    ///
    /// # Errors
    /// See [`Tree::start`].
    pub async fn start_linked(name: &str, spec: SupervisorSpec, parent: ActorCell) -> Result<Tree, StartError> {
        Tree::launch(name, spec, Some(parent)).await
    }

    async fn launch(name: &str, spec: SupervisorSpec, parent: Option<ActorCell>) -> Result<Tree, StartError> {
        check_id(name).and_then(|()| spec.check())?;
        let node = Node::root(name, &Arc::new(Bus::new()));
        node.furnish(&spec.children);
        let (incarnation, live) = node.begin();
        let (tell, boot) = oneshot::channel();
        let setup = Setup { orders: Orders::Static(Arc::new(spec)), incarnation: incarnation.clone(), boot: tell };
        let spawned = match parent {
            Some(parent) => Supervisor::spawn_linked(None, Supervisor::new(), setup, parent).await,
            None => Supervisor::spawn(None, Supervisor::new(), setup).await,
        };
        let (actor, join) = spawned.map_err(|error| refused(&node, error))?;
        let (publish, mut end) = watch::channel(None);
        let stopping = Arc::new(AtomicBool::new(false));
        tokio::spawn(keep(incarnation.clone(), live, join, Arc::clone(&stopping), publish));
        let root = Root { node, incarnation: incarnation.number, cell: actor.get_cell(), stopping, end: end.clone() };
        let guard = KillOnDrop(Some(Arc::clone(&root.node)));
        let failure = match boot.await {
            Ok(Ok(())) => {
                guard.disarm();
                root.node.running(root.incarnation);
                root.node.tell(Event::Started);
                return Ok(Tree { root: Arc::new(root) });
            }
            Ok(Err(failure)) => failure,
            Err(_dropped) => {
                StartFailure { path: name.to_owned(), reason: "it was killed while it was starting".into() }
            }
        };
        let _ = end.wait_for(Option::is_some).await;
        Err(StartError::Child { path: failure.path, reason: failure.reason })
    }

    /// The tree now. Never asks an actor, so it answers whatever state the tree is in.
    pub fn snapshot(&self) -> TreeSnapshot {
        let mut nodes = Vec::new();
        self.root.node.snapshot(&mut nodes);
        TreeSnapshot { nodes }
    }

    /// The actor at a path such as `"root/ledger/storage"`, if one is alive there.
    pub fn find(&self, path: &str) -> Option<ActorCell> {
        self.root.node.find(path).and_then(|node| node.cell())
    }

    /// The supervisor at a path, to add, stop, restart and remove its children. `None`: no supervisor has that place.
    pub fn supervisor(&self, path: &str) -> Option<SupervisorRef> {
        self.root.node.find(path).and_then(SupervisorRef::to)
    }

    /// Makes the actor at `path` begin no message and no event until [`Tree::resume`]. The one it is in goes on to its
    /// end, as does one that it is taking up in this very moment, on another thread. Suspending twice is suspending once.
    ///
    /// A supervisor that is suspended restarts nobody and answers no request; as in OTP, whoever suspends one has to
    /// resume it. It goes on to note what its children die of, which is all that it does with an event.
    ///
    /// What it is sent stays in its mailbox. Its supervisor stops it as if it were not suspended, and a restart comes up
    /// resumed. A stop by anyone else (`ActorCell::stop`) may have to wait until it is resumed: `ractor` reads none
    /// while a message is held. A kill does not wait.
    ///
    /// # Errors
    /// See [`SuspendError`].
    pub fn suspend(&self, path: &str) -> Result<(), SuspendError> {
        self.gate(path, |pulse| pulse.suspend().then_some(()).ok_or_else(|| SuspendError::Stopping(path.to_owned())))
    }

    /// Lets a suspended actor go on. One that is not suspended is left as it is.
    ///
    /// # Errors
    /// See [`SuspendError`].
    pub fn resume(&self, path: &str) -> Result<(), SuspendError> {
        self.gate(path, |pulse| {
            pulse.resume();
            Ok(())
        })
    }

    /// One place of the tree, as [`Tree::snapshot`] has it.
    pub fn status(&self, path: &str) -> Option<TreeNode> {
        self.root().find(path).map(|node| node.look())
    }

    fn gate(&self, path: &str, turn: impl FnOnce(&Pulse) -> Result<(), SuspendError>) -> Result<(), SuspendError> {
        let node = self.root().find(path).filter(|node| node.is_live());
        let node = node.ok_or_else(|| SuspendError::NotThere(path.to_owned()))?;
        turn(&node.pulse)
    }

    /// The root's place.
    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root.node
    }

    /// Waits until nothing of the tree runs any more.
    ///
    /// # Errors
    /// When it was not stopped, but gave up or was killed.
    pub async fn wait(&self) -> Result<(), Escalated> {
        let mut end = self.root.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(verdict) => verdict.clone().unwrap_or(Ok(())),
            // Only a runtime that is shutting down drops the keeper.
            Err(_closed) => Ok(()),
        }
    }

    /// Stops the tree in reverse order of start, each child within its own shutdown time. At the deadline whatever is
    /// still there is killed. Returns when nothing is left.
    ///
    /// Stopping a tree that has ended, or that someone else is stopping, is no error.
    ///
    /// # Errors
    /// When something had to be killed because of the deadline, or could not even be killed.
    pub async fn stop(&self, deadline: Duration) -> Result<(), StopError> {
        // Who comes when it has ended did not end it.
        if !self.has_ended() {
            self.root.stopping.store(true, Ordering::SeqCst);
        }
        self.root.node.stopping(self.root.incarnation);
        self.root.node.pulse.leave();
        self.root.cell.stop(Some(SHUTDOWN.to_owned()));
        let mut end = self.root.end.clone();
        let mut killed = Vec::new();
        if timeout(deadline, end.wait_for(Option::is_some)).await.is_err() {
            killed = self.alive();
            self.kill();
            // Twice: for the root, whose children's states are dropped in it, and for all below it.
            let _ = timeout(KILL_WAIT * 2, end.wait_for(Option::is_some)).await;
        }
        let stuck = self.alive();
        if !stuck.is_empty() {
            return Err(StopError::Stuck(stuck));
        }
        if killed.is_empty() { Ok(()) } else { Err(StopError::Killed(killed)) }
    }

    /// Ends it without waiting for anything.
    pub(crate) fn kill(&self) {
        self.root.node.kill_all();
    }

    /// Nothing of it runs any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.root.end.borrow().is_some()
    }

    /// Someone has called [`Tree::stop`], before it had ended.
    pub(crate) fn is_stopped_on_purpose(&self) -> bool {
        self.root.stopping.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Vec<String> {
        let mut paths = self.root.node.live_below();
        if self.root.node.is_live() {
            paths.insert(0, self.root.node.path.clone());
        }
        paths
    }
}

/// Waits for the root's end, then for the end of all below it, and publishes the verdict.
async fn keep(
    incarnation: Incarnation,
    live: Live,
    join: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
    publish: watch::Sender<Option<Result<(), Escalated>>>,
) {
    let _ = join.await;
    let node = &incarnation.node;
    node.kill_subtree();
    // Something that blocks its thread must not keep the verdict from those who could end the process.
    let _ = timeout(KILL_WAIT, node.subtree_gone()).await;
    let conclusion = node.conclusion();
    // Its start returns the reason.
    let refused = matches!(conclusion, Some(Err(_))) && !node.came_up();
    let loudness = if refused { Loudness::Aside } else { Loudness::Usual };
    let (exit, verdict) = match conclusion {
        Some(Err(StartFailure { path, reason })) => (Exit::abnormal(reason.clone()), Err(Escalated { path, reason })),
        None if !stopping.load(Ordering::SeqCst) => {
            let killed = Escalated { path: node.path.clone(), reason: KILLED.to_owned() };
            (Exit::abnormal(KILLED), Err(killed))
        }
        None | Some(Ok(())) => (Exit::from_reason(Some(SHUTDOWN.to_owned())), Ok(())),
    };
    node.ended(incarnation.number, &exit);
    node.tell_as(Event::Exited { reason: exit.reason, normal: exit.normal }, loudness);
    drop(live);
    publish.send_replace(Some(verdict));
}

fn refused(node: &Node, error: SpawnErr) -> StartError {
    StartError::Child { path: node.path.clone(), reason: describe(error) }
}

/// Kills a root whose start is no longer awaited.
struct KillOnDrop(Option<Arc<Node>>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(root) = &self.0 {
            root.kill_all();
        }
    }
}
