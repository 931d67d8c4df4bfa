//! Calls between the hosts of nodes: an actor that an application registers on one node under a name is called from
//! every other, with a typed message.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use converge_ledger::remote::{CallContext, Remote};
//! use converge_ledger::{Node, NodeId};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Reserve {
//!     item: String,
//! }
//!
//! impl Remote for Reserve {
//!     const TAG: &'static str = "shop.Reserve";
//!     type Reply = u64;
//! }
//!
//! # async fn example(node: Node) -> Result<(), Box<dyn std::error::Error>> {
//! let remote = node.remote();
//! let _stock = remote.register("stock", |_: CallContext, wanted: Reserve| async move {
//!     if wanted.item == "tea" { Ok(41) } else { Err(format!("there is no {}", wanted.item)) }
//! })?;
//! let wanted = Reserve { item: "tea".into() };
//! let left = remote.call(NodeId(2), "stock", wanted, Duration::from_secs(1)).await?;
//! # let _ = left;
//! # Ok(())
//! # }
//! ```
//!
//! - A call reaches its handler **at most once**. Nothing here sends it again; whoever does so knows from the error whether
//!   the handler may have run ([`RemoteError`]).
//! - Whoever calls names the **node and the name**. No name is known to the cluster, so none can be stale. Where one owner
//!   is needed, write it to the ledger. [`RemoteCalls::call_all`] asks every node.
//! - A handler runs on the tokio runtime on which it was registered. Of one node at most [`OPEN_MAX`] calls are worked at,
//!   with [`HANDLED_BYTES_MAX`] of messages; a message has at most [`MESSAGE_BYTES_MAX`].
//! - Its future is **dropped** at the deadline of the call, and when the caller gives up: what is to be finished all the
//!   same belongs into a task or an actor of its own. A panic fails the call, and nothing else.
//! - Nothing is promised of the order of calls that are under way at once.
//! - Messages are [`postcard`](https://docs.rs/postcard), whose bytes do not say what they are. A message that changes its
//!   form takes another [`Remote::TAG`]: the older program then says [`NotSent::WrongType`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_actors::distribution::calls::{CallAnswer, HostCalls};
use converge_ledger_core::NodeId;
use converge_supervisors::ractor::concurrency::oneshot;
use converge_supervisors::ractor::{ActorRef, Message, RpcReplyPort};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use converge_actors::distribution::calls::{
    ANSWERS_BYTES_MAX, CallContext, DEADLINE_MAX, EVENTS_MAX, EventsLost, HANDLED_BYTES_MAX, MESSAGE_BYTES_MAX,
    MayHaveRun, NAME_BYTES_MAX, NAMES_MAX, NodeEvent, NodeEvents, NotSent, OPEN_MAX, RegisterError, Registration,
    RemoteError, RemoteNode,
};

use crate::Ledger;

/// A message of a host's, and its answer.
pub trait Remote: Serialize + DeserializeOwned + Send + 'static {
    /// Tells this message, in this form, from all others: at most [`NAME_BYTES_MAX`] bytes.
    const TAG: &'static str;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// Calls of a node to others, and of others to it. Cheap to clone; valid before the node starts and across restarts of
/// every actor. It holds on to what the node's [`Ledger`] holds on to, so that calls go on where only this is left.
#[derive(Clone)]
pub struct RemoteCalls {
    ledger: Ledger,
}

impl fmt::Debug for RemoteCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls().fmt(f)
    }
}

impl Ledger {
    /// Calls of actors of hosts, on every node of the cluster; see [`crate::remote`].
    #[must_use]
    pub fn remote(&self) -> RemoteCalls {
        RemoteCalls { ledger: self.clone() }
    }
}

impl RemoteCalls {
    fn calls(&self) -> &Arc<HostCalls> {
        &self.ledger.inner.remote
    }

    /// Registers a function of this node's host. It runs, in a task for each call, on the tokio runtime on which this is
    /// called. What it returns as an error is the caller's [`RemoteError::Failed`].
    ///
    /// # Errors
    /// [`RegisterError`]: the name is not registered.
    pub fn register<M, Run, E>(
        &self,
        name: &str,
        handler: impl Fn(CallContext, M) -> Run + Send + Sync + 'static,
    ) -> Result<Registration, RegisterError>
    where
        M: Remote,
        Run: Future<Output = Result<M::Reply, E>> + Send + 'static,
        E: fmt::Display,
    {
        let handler = Arc::new(handler);
        let untyped = move |context, body: Bytes| {
            let handler = Arc::clone(&handler);
            let answering = async move {
                let Some(message) = read::<M>(&body) else { return CallAnswer::WrongType };
                drop(body);
                let ran = handler(context, message).await.map_err(|error| error.to_string());
                ran.map_or_else(CallAnswer::Failed, |reply| answer(&reply))
            };
            Box::pin(answering) as _
        };
        self.calls().register(name, M::TAG, Arc::new(untyped))
    }

    /// Registers an actor of this node's host: `message` makes of each call what the actor takes. The actor works at it
    /// also where the caller no longer waits. Whoever keeps the [`Registration`] in the actor's state registers every
    /// incarnation, and none that has ended.
    ///
    /// # Errors
    /// [`RegisterError`]: the name is not registered.
    pub fn register_actor<M: Remote, A: Message>(
        &self,
        name: &str,
        actor: ActorRef<A>,
        message: impl Fn(M, RpcReplyPort<M::Reply>) -> A + Send + Sync + 'static,
    ) -> Result<Registration, RegisterError> {
        let shared = Arc::new((actor, message));
        let untyped = move |_: CallContext, body: Bytes| {
            let shared = Arc::clone(&shared);
            let answering = async move {
                let (actor, message) = &*shared;
                let Some(asked) = read::<M>(&body) else { return CallAnswer::WrongType };
                let (port, reply) = oneshot();
                // What comes back with the error holds the port.
                if actor.cast(message(asked, port.into())).is_err() {
                    return CallAnswer::NoSuchName;
                }
                drop(shared);
                // The actor ended with the call in its mailbox, or took it and dropped it: nobody can tell.
                reply.await.map_or(CallAnswer::NoAnswer, |reply| answer(&reply))
            };
            Box::pin(answering) as _
        };
        self.calls().register(name, M::TAG, Arc::new(untyped))
    }

    /// Calls whoever is registered under that name on that node, which may be this one, and waits for the answer, for
    /// `deadline` at most. The future may be dropped: the handler's is dropped, too.
    ///
    /// # Errors
    /// [`RemoteError`] tells whether the handler may have run.
    pub async fn call<M: Remote>(
        &self,
        node: NodeId,
        name: &str,
        message: M,
        deadline: Duration,
    ) -> Result<M::Reply, RemoteError> {
        let body = encoded(message)?;
        let ended = self.calls().call(node, name, M::TAG, body, until(deadline)).await;
        reply::<M>(ended)
    }

    /// Sends a message and waits for nothing: `Ok` says that it is queued, not that it arrives. At most once, as a call;
    /// its handler runs for [`DEADLINE_MAX`] at most.
    ///
    /// # Errors
    /// [`NotSent`]: the handler does not run.
    pub fn cast<M: Remote>(&self, node: NodeId, name: &str, message: M) -> Result<(), NotSent> {
        self.calls().cast(node, name, M::TAG, encoded(message)?)
    }

    /// Calls that name on every node of the cluster, this one included, all at once. In order of their ids.
    pub async fn call_all<M: Remote>(
        &self,
        name: &str,
        message: M,
        deadline: Duration,
    ) -> Vec<(NodeId, Result<M::Reply, RemoteError>)> {
        let of_all = match encoded(message) {
            Ok(body) => self.calls().call_all(name, M::TAG, body, until(deadline)).await,
            Err(reason) => self.calls().all().map(|node| (node, Err(reason.into()))).collect(),
        };
        of_all.into_iter().map(|(node, ended)| (node, reply::<M>(ended))).collect()
    }

    /// The other nodes that can be called now.
    #[must_use]
    pub fn nodes(&self) -> Vec<RemoteNode> {
        self.calls().nodes()
    }

    /// Which nodes come and go from now on. Look at [`RemoteCalls::nodes`] after this, and nothing is missed.
    ///
    /// They end with the node. One under a supervisor of the host's ([`Node::child`](crate::Node::child)) may be started
    /// again at any time: there they end when its last [`Ledger`] and [`RemoteCalls`] is dropped. A handler that owns one
    /// of these keeps it for as long as its name is registered.
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        self.calls().events()
    }
}

/// What postcard cannot write is no message of its type.
fn encoded(message: impl Serialize) -> Result<Bytes, NotSent> {
    postcard::to_stdvec(&message).map(Bytes::from).map_err(|_| NotSent::WrongType)
}

fn answer(reply: &impl Serialize) -> CallAnswer {
    // What the handler did is done, also where its answer cannot be written.
    postcard::to_stdvec(reply).map_or(CallAnswer::NoAnswer, |bytes| CallAnswer::Done(bytes.into()))
}

fn reply<M: Remote>(ended: Result<Bytes, RemoteError>) -> Result<M::Reply, RemoteError> {
    read(&ended?).ok_or(RemoteError::Unknown(MayHaveRun::Unreadable))
}

/// A value that is all of these bytes: what has more of them was written as another type.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

fn until(deadline: Duration) -> Instant {
    Instant::now() + deadline.min(DEADLINE_MAX)
}
