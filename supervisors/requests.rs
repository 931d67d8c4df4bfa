//! What people ask of a running supervisor: OTP's `start_child` and its relatives.
//!
//! A [`SupervisorRef`] names a place in a tree, not an actor: it stays good when the supervisor itself is restarted. A place
//! that is given up is not taken again: one of the same path is another.
//! What changes something goes through the supervisor's mailbox and waits for the outcome; what only looks reads shared
//! state, and answers whatever state the supervisor is in.

use std::sync::Arc;

use ractor::{ActorCell, ActorRef};
use tokio::sync::oneshot;

use crate::node::Node;
use crate::snapshot::{Counts, Kind, TreeNode};
use crate::spec::{ChildSpec, SpecError};
use crate::supervisor::Msg;

/// How a child's start went well.
#[derive(Clone, Debug)]
pub enum Started {
    /// It is up.
    Running {
        /// Its id, which for a child of a [`DynamicSupervisor`](crate::DynamicSupervisor) the supervisor chose.
        id: String,
        /// Its first incarnation.
        actor: ActorCell,
    },
    /// Its factory had nothing to run; see [`ChildSpec::optional`].
    Ignore,
}

/// Why a request about a child was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The supervisor has no such child.
    #[error("there is no child with the id {0:?}")]
    NotFound(String),
    /// A child with this id runs; it was left alone.
    #[error("the child {0:?} runs already")]
    Running(String),
    /// The child is waiting to be restarted; it was left alone.
    #[error("the child {0:?} is being restarted")]
    Restarting(String),
    /// A child with this id is there and does not run: restart or delete it.
    #[error("a child with the id {0:?} is there, and down: restart or delete it")]
    AlreadyPresent(String),
    /// The child did not start. One that was to be added is not there; one that was to be restarted is still down.
    #[error("{path} did not start: {reason}")]
    StartFailed {
        /// The child, or the one below it that failed.
        path: String,
        /// Why.
        reason: String,
    },
    /// The specification is refused; nothing was started.
    #[error("the specification is refused: {0}")]
    Refused(#[from] SpecError),
    /// A dynamic supervisor has as many children as it may have, or a supervisor as many requests waiting.
    #[error("the supervisor holds {0} already, and may hold no more; try again later")]
    Full(usize),
    /// The supervisor is down or on its way out: nothing was done.
    #[error("the supervisor at {0} is down; nothing was done")]
    Down(String),
    /// The supervisor died in the middle: look at the tree for what came of it.
    #[error("the supervisor at {0} died before it answered; it may have acted")]
    Unknown(String),
}

/// The answer to one request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ChildError>>;

/// A request, as the supervisor gets it.
pub(crate) enum Control {
    Start { spec: ChildSpec, reply: Reply<Started> },
    Restart { id: String, reply: Reply<Started> },
    Terminate { id: String, reply: Reply<()> },
    Delete { id: String, reply: Reply<()> },
    Spec { id: String, reply: Reply<ChildSpec> },
}

/// A supervisor's place in a tree. Cheap to clone.
///
/// Good for as long as the supervisor is a child there, through all its restarts. When it was deleted, or forgotten for
/// being temporary, and is then added again or comes back with the one above, it has a new place, and this one stays
/// [`Down`](ChildError::Down): ask [`Tree::supervisor`](crate::Tree::supervisor) for the new one.
#[derive(Clone, Debug)]
pub struct SupervisorRef {
    node: Arc<Node>,
}

impl SupervisorRef {
    pub(crate) fn to(node: Arc<Node>) -> Option<SupervisorRef> {
        (node.kind == Kind::Supervisor).then_some(SupervisorRef { node })
    }

    /// Adds a child, as the youngest, and starts it. It is lost when the supervisor itself is restarted, as in OTP.
    ///
    /// # Errors
    /// See [`ChildError`]. A child that did not start is not there.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<Started, ChildError> {
        self.ask(|reply| Control::Start { spec, reply }).await
    }

    /// Stops a child, by its own [`Shutdown`](crate::Shutdown), and leaves it down; a temporary one is forgotten. One
    /// that is starting is called off, and one that waits to be restarted no longer does. A child that is down already
    /// is no error. A restart of its group brings it back.
    ///
    /// # Errors
    /// See [`ChildError`].
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        self.ask(|reply| Control::Terminate { id: id.to_owned(), reply }).await
    }

    /// Starts a child that is down.
    ///
    /// # Errors
    /// See [`ChildError`]. A failed start is not tried again, and does not count for the restart intensity.
    pub async fn restart_child(&self, id: &str) -> Result<Started, ChildError> {
        self.ask(|reply| Control::Restart { id: id.to_owned(), reply }).await
    }

    /// Forgets a child that is down.
    ///
    /// # Errors
    /// See [`ChildError`].
    pub async fn delete_child(&self, id: &str) -> Result<(), ChildError> {
        self.ask(|reply| Control::Delete { id: id.to_owned(), reply }).await
    }

    /// The specification of a child. That of a temporary child which runs can no longer be started: what it was started
    /// with is let go.
    ///
    /// # Errors
    /// See [`ChildError`].
    pub async fn get_childspec(&self, id: &str) -> Result<ChildSpec, ChildError> {
        self.ask(|reply| Control::Spec { id: id.to_owned(), reply }).await
    }

    /// Its children, in start order, without those below them.
    pub fn which_children(&self) -> Vec<TreeNode> {
        self.node.children().iter().map(|child| child.look()).collect()
    }

    /// How many children it has. Takes no longer where there are many.
    pub fn count_children(&self) -> Counts {
        self.node.counts()
    }

    /// Its place.
    pub fn path(&self) -> &str {
        &self.node.path
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Control) -> Result<T, ChildError> {
        let down = || ChildError::Down(self.node.path.clone());
        let (cell, gone) = self.node.supervisor().ok_or_else(down)?;
        let (reply, answer) = oneshot::channel();
        // The reference does not outlive this: it would keep the request in the channel of a supervisor that has died.
        ActorRef::<Msg>::from(cell).send_message(Msg::Control(make(reply))).map_err(|_unsent| down())?;
        gone.or_answer(answer).await.unwrap_or_else(|| Err(ChildError::Unknown(self.node.path.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use ractor::{Actor, ActorProcessingErr};

    use super::*;
    use crate::gone::Alive;
    use crate::reports::Bus;

    /// Keeps what it is asked, beyond its own end: as the channel of a dead supervisor may, for as long as anyone holds a
    /// reference to it.
    struct Keeper {
        kept: Arc<Mutex<Vec<Msg>>>,
        _alive: Alive,
    }

    impl Actor for Keeper {
        type Msg = Msg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(msg);
            myself.kill();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_outlives_its_supervisor_is_answered() {
        let (alive, kept) = (Alive::new(), Arc::default());
        let gone = alive.watch();
        let keeper = Keeper { kept: Arc::clone(&kept), _alive: alive };
        let (actor, _join) = Keeper::spawn(None, keeper, ()).await.unwrap();
        let node = Node::root("root", &Arc::new(Bus::new()));
        let (incarnation, _live) = node.begin();
        incarnation.claim(actor.get_cell(), Some(gone));
        let supervisor = SupervisorRef::to(node).unwrap();
        let asked = tokio::time::timeout(tokio::time::Duration::from_secs(3600), supervisor.terminate_child("a")).await;
        assert_eq!(asked, Ok(Err(ChildError::Unknown("root".to_owned()))));
        assert_eq!(kept.lock().unwrap_or_else(PoisonError::into_inner).len(), 1, "nobody has dropped it");
    }
}
