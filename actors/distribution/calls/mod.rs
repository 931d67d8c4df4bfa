//! Calls between the hosts of nodes: an actor that is registered on a node under a name is called from any other.
//!
//! **Job**: carry a message to the handler of that name on that node, at most once, and its answer back. **Owns**: the
//! names of this node, the calls that it waits for, the calls that it works at, and the lane [`Lane::Call`].
//! **Does not do**: it reads no message. It sends nothing a second time. No name is known to another node, so none can be
//! stale: whoever calls names node and name, as `gen_server:call({Name, Node})` does. Nothing is promised of the order of
//! calls that are under way at once.
//!
//! ```text
//! caller                                            called
//!   Call{id, name, tag, left, body} ──────────────▶   place? registered? run
//!                                   ◀──────────────   Reply{id, answer}
//!   Cancel{id}, once nobody waits   ──────────────▶   the handler's future is dropped
//! ```
//!
//! What users rely on:
//! - **At most once.** A call is one frame on one connection. Whatever becomes of that, the frame is never sent again. On a
//!   connection the numbers of calls rise, and one that does not closes it.
//! - **Not sent is told from unknown.** [`RemoteError::NotSent`] means that the handler did not run and will not: the
//!   frame had not left the queue, and was taken back (`Recall`), or the called node said so.
//!   Once the frame has left, all that can be said without an answer is [`RemoteError::Unknown`].
//! - An answer reaches the call that it answers, over its connection, or nobody.
//! - The deadline goes with the call as the time that is left, so that clocks need not agree. At it, and when the caller
//!   gives up, the handler's future is dropped. When only the connection ends, the handler goes on.
//! - The reader of a link never waits for a handler.

mod asking;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod registry;
mod serving;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::NodeId;
use converge_ledger_core::planted::{self, Bug};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use self::asking::{Asking, CallLink, Ended, GivenUp, QueuedCall};
use self::registry::{Registered, Registry};
use self::serving::{CallPlace, Serving};
use self::wire::CallFrame;
use super::handle::{Distribution, WeakDistribution};
use super::lock::lock;
use super::types::{Inbound, Lane, LinkEvent};

pub use error::{MayHaveRun, NotSent, RegisterError, RemoteError};
pub use events::{EventsLost, NodeEvent, NodeEvents, RemoteNode};
pub use registry::{Answering, CallContext, Handler, Registration};
pub use wire::{CallAnswer, MalformedCall};

/// Longest message, and longest answer.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Longest name, and longest tag of a message's type.
pub const NAME_BYTES_MAX: usize = 128;
/// Names of one node.
pub const NAMES_MAX: usize = 1024;
/// Calls under way from one node to another.
pub const OPEN_MAX: usize = 1024;
/// Bytes of messages that a node works at for one caller.
pub const HANDLED_BYTES_MAX: usize = 16 << 20;
/// Bytes of answers of one node that wait until their callers look, and of answers to one node that wait for the link.
pub const ANSWERS_BYTES_MAX: usize = 16 << 20;
/// No call is waited for longer, and no handler of a message without an answer runs longer.
pub const DEADLINE_MAX: Duration = Duration::from_secs(300);
/// Events that wait for a subscriber.
pub const EVENTS_MAX: usize = 256;
/// The words of a failure are cut here.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest payload of a frame of [`Lane::Call`].
pub(super) const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;
/// Bytes that wait on one link of [`Lane::Call`] to be written, or arrived and are not dealt with.
pub(super) const QUEUE_BYTES_MAX: usize = 4 << 20;

/// The calls of one node. Made before the supervision tree, valid across all restarts.
pub struct HostCalls {
    node: NodeId,
    /// Set as soon as they are made, for they are made for a sink that has this.
    links: OnceLock<WeakDistribution>,
    asking: BTreeMap<NodeId, Asking>,
    /// The last number that came over the connection of that epoch.
    heard: Mutex<BTreeMap<NodeId, (u64, u64)>>,
    registry: Arc<Registry>,
    serving: Arc<Serving>,
    /// `None` once the node has stopped.
    events: Mutex<Option<broadcast::Sender<NodeEvent>>>,
}

impl fmt::Debug for HostCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCalls").field("node", &self.node).finish_non_exhaustive()
    }
}

impl HostCalls {
    /// Of this node, among those.
    pub fn new(node: NodeId, nodes: impl IntoIterator<Item = NodeId>) -> Arc<HostCalls> {
        let peers = nodes.into_iter().filter(|peer| *peer != node);
        Arc::new(HostCalls {
            node,
            links: OnceLock::new(),
            asking: peers.map(|peer| (peer, Asking::default())).collect(),
            heard: Mutex::default(),
            registry: Arc::default(),
            serving: Arc::default(),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS_MAX))),
        })
    }

    /// The links over which calls go; once.
    pub fn attach(&self, links: WeakDistribution) {
        let _ = self.links.set(links);
    }

    fn links(&self) -> Option<Distribution> {
        self.links.get()?.upgrade()
    }

    /// Registers a handler of messages of that tag, which runs on the tokio runtime on which this is called.
    ///
    /// # Errors
    /// [`RegisterError`]: the handler is not registered.
    pub fn register(&self, name: &str, tag: &str, handler: Handler) -> Result<Registration, RegisterError> {
        self.registry.register(name, tag, handler)
    }

    /// Calls whoever is registered under that name on that node, and waits for the answer. The future may be dropped: the
    /// call then ends where it is, and a handler that runs is dropped with it.
    ///
    /// # Errors
    /// [`RemoteError`] tells whether the handler may have run.
    pub async fn call(&self, node: NodeId, name: &str, tag: &str, body: Bytes, deadline: Instant) -> Ended {
        let deadline = deadline.min(Instant::now() + DEADLINE_MAX);
        let mut ended = self.call_once(node, name, tag, body.clone(), deadline).await;
        while planted::is(Bug::CallResent)
            && matches!(&ended, Err(RemoteError::Unknown(MayHaveRun::LinkLost) | RemoteError::NotSent(NotSent::Down)))
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(5)).await;
            ended = self.call_once(node, name, tag, body.clone(), deadline).await;
        }
        ended
    }

    async fn call_once(&self, node: NodeId, name: &str, tag: &str, body: Bytes, deadline: Instant) -> Ended {
        self.judge(name, tag, &body)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NotSent::Late.into());
        }
        if node == self.node {
            return self.call_here(name, tag, body, deadline).await;
        }
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let (name, tag) = (name.to_owned(), tag.to_owned());
        let asking = self.asking.get(&node).ok_or(NotSent::UnknownNode)?;
        let links = self.links().ok_or(NotSent::Down)?;
        let asked = asking.ask(|epoch, id, recall| {
            let frame = CallFrame::Call { id, name, tag, left_ms, body };
            Ok(links.send_on(node, Lane::Call, epoch, frame.encode(), Some(recall))?)
        })?;
        let mut waiting = WaitingCall { calls: self, node, asked };
        if let Ok(held) = timeout_at(deadline, &mut waiting.asked.answer).await {
            return held.map_or(Err(RemoteError::Unknown(MayHaveRun::LinkLost)), |held| held.ended);
        }
        match waiting.give_up() {
            GivenUp::TakenBack => Err(NotSent::Late.into()),
            GivenUp::Left => Err(RemoteError::Unknown(MayHaveRun::Deadline)),
            // The answer came with the deadline.
            GivenUp::Ended => {
                let held = waiting.asked.answer.try_recv();
                held.map_or(Err(RemoteError::Unknown(MayHaveRun::Deadline)), |held| held.ended)
            }
        }
    }

    /// Sends a message and waits for nothing: `Ok` says that it is queued. At most once, as a call.
    ///
    /// # Errors
    /// [`NotSent`]: the handler does not run.
    pub fn cast(&self, node: NodeId, name: &str, tag: &str, body: Bytes) -> Result<(), NotSent> {
        self.judge(name, tag, &body)?;
        if node == self.node {
            let registered = self.registry.find(name, tag)?;
            let place = self.serving.admit(node, None, body.len()).ok_or(NotSent::Overloaded)?;
            self.run(registered, place, self.context(node, DEADLINE_MAX), body, |_, _| async {});
            return Ok(());
        }
        let link = self.asking.get(&node).ok_or(NotSent::UnknownNode)?.link().ok_or(NotSent::Down)?;
        let frame = CallFrame::Cast { name: name.to_owned(), tag: tag.to_owned(), body };
        let links = self.links().ok_or(NotSent::Down)?;
        Ok(links.send_on(node, Lane::Call, link.epoch, frame.encode(), None)?)
    }

    /// Calls every node of the cluster, this one included, all at once. In order of their ids.
    pub async fn call_all(
        self: &Arc<Self>,
        name: &str,
        tag: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Vec<(NodeId, Ended)> {
        let mut under_way = JoinSet::new();
        for node in self.all() {
            let (calls, name, tag, body) = (Arc::clone(self), name.to_owned(), tag.to_owned(), body.clone());
            under_way.spawn(async move { (node, calls.call(node, &name, &tag, body, deadline).await) });
        }
        let mut ended = under_way.join_all().await;
        ended.sort_by_key(|(node, _)| *node);
        ended
    }

    /// The nodes of the cluster, this one included, in order of their ids.
    pub fn all(&self) -> impl Iterator<Item = NodeId> {
        let mut all: Vec<NodeId> = self.asking.keys().copied().chain([self.node]).collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// The other nodes that can be called now.
    pub fn nodes(&self) -> Vec<RemoteNode> {
        let up = |(node, asking): (&NodeId, &Asking)| {
            asking.link().map(|link| RemoteNode { node: *node, incarnation: link.incarnation })
        };
        self.asking.iter().filter_map(up).collect()
    }

    /// What comes and goes from now on: look at [`HostCalls::nodes`] afterwards, and nothing is missed.
    pub fn events(&self) -> NodeEvents {
        let events = lock(&self.events);
        NodeEvents(events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe))
    }

    /// The node has ended: nothing can be called any more, nothing is worked at, and nobody is registered.
    pub fn stop(&self) {
        self.serving.stop();
        self.registry.stop();
        lock(&self.events).take();
    }

    fn judge(&self, name: &str, tag: &str, body: &Bytes) -> Result<(), NotSent> {
        if self.serving.is_stopped() {
            Err(NotSent::Down)
        } else if body.len() > MESSAGE_BYTES_MAX {
            Err(NotSent::TooLong)
        } else if name.len() > NAME_BYTES_MAX {
            Err(NotSent::NoSuchName)
        } else if tag.len() > NAME_BYTES_MAX {
            Err(NotSent::WrongType)
        } else {
            Ok(())
        }
    }

    fn context(&self, from: NodeId, left: Duration) -> CallContext {
        CallContext { from, deadline: Instant::now() + left.min(DEADLINE_MAX) }
    }

    async fn call_here(&self, name: &str, tag: &str, body: Bytes, deadline: Instant) -> Ended {
        let registered = self.registry.find(name, tag)?;
        let place = self.serving.admit(self.node, None, body.len()).ok_or(NotSent::Overloaded)?;
        let _given_up = place.given_up.clone().drop_guard();
        let (sender, mut answer) = oneshot::channel();
        let context = CallContext { from: self.node, deadline };
        // The place goes with the answer: what its caller has not looked at counts.
        self.run(registered, place, context, body, |answer, place| async move {
            let _ = sender.send((answer, place));
        });
        match timeout_at(deadline, &mut answer).await {
            Ok(Ok((answer, _place))) => answer.ended(),
            Ok(Err(_)) if Instant::now() < deadline => Err(RemoteError::Unknown(MayHaveRun::NoAnswer)),
            Ok(Err(_)) | Err(_) => Err(RemoteError::Unknown(MayHaveRun::Deadline)),
        }
    }

    /// Runs a handler in a task, and gives its answer to whoever waits.
    fn run<Told: Future<Output = ()> + Send + 'static>(
        &self,
        registered: Registered,
        mut place: CallPlace,
        context: CallContext,
        body: Bytes,
        tell: impl FnOnce(CallAnswer, CallPlace) -> Told + Send + 'static,
    ) {
        let Registered { handler, runtime, .. } = registered;
        runtime.spawn(async move {
            if let Some(answer) = place.run(&handler, context, body).await {
                let _ = timeout_at(context.deadline, tell(answer, place)).await;
            }
        });
    }

    /// A frame of [`Lane::Call`] arrived. Does not wait.
    ///
    /// # Errors
    /// [`MalformedCall`]: the connection is to be closed.
    pub fn deliver(&self, inbound: Inbound) -> Result<(), MalformedCall> {
        let Inbound { from, epoch, payload, .. } = inbound;
        match CallFrame::decode(&payload)? {
            CallFrame::Call { id, name, tag, left_ms, body } => {
                self.in_order(from, epoch, id)?;
                if let Err(refused) = self.called(from, (epoch, id), (&name, &tag), left_ms, body) {
                    let frame = CallFrame::Reply { id, answer: refused }.encode();
                    // Where there is no room, the caller's deadline tells it.
                    let _ = self.links().map(|links| links.send_on(from, Lane::Call, epoch, frame, None));
                }
            }
            CallFrame::Cast { name, tag, body } => {
                if let Ok(registered) = self.registry.find(&name, &tag)
                    && let Some(place) = self.serving.admit(from, None, body.len())
                {
                    self.run(registered, place, self.context(from, DEADLINE_MAX), body, |_, _| async {});
                }
            }
            CallFrame::Reply { id, answer } => {
                if let Some(asking) = self.asking.get(&from) {
                    asking.answered(epoch, id, answer.ended());
                }
            }
            CallFrame::Cancel { id } => self.serving.cancel(from, (epoch, id)),
        }
        Ok(())
    }

    /// A call that comes twice on its connection is none of ours.
    fn in_order(&self, from: NodeId, epoch: u64, id: u64) -> Result<(), MalformedCall> {
        let mut heard = lock(&self.heard);
        let (of, last) = heard.entry(from).or_default();
        if *of == epoch && id <= *last {
            return Err(MalformedCall("has a number that does not rise"));
        }
        (*of, *last) = (epoch, id);
        Ok(())
    }

    fn called(
        &self,
        from: NodeId,
        key: (u64, u64),
        (name, tag): (&str, &str),
        left_ms: u32,
        body: Bytes,
    ) -> Result<(), CallAnswer> {
        let registered = self.registry.find(name, tag).map_err(|reason| match reason {
            NotSent::WrongType => CallAnswer::WrongType,
            _ => CallAnswer::NoSuchName,
        })?;
        let place = self.serving.admit(from, Some(key), body.len()).ok_or(CallAnswer::Overloaded)?;
        let (links, (epoch, id)) = (self.links.get().cloned(), key);
        let context = self.context(from, Duration::from_millis(left_ms.into()));
        self.run(registered, place, context, body, move |answer, place| async move {
            // Kept until the link has the answer: answers that wait for it count.
            let _place = place;
            let frame = CallFrame::Reply { id, answer }.encode();
            if let Some(links) = links.as_ref().and_then(WeakDistribution::upgrade) {
                let _ = links.send_when_room(from, Lane::Call, epoch, frame).await;
            }
        });
        Ok(())
    }

    /// A connection of [`Lane::Call`] came or went. Does not wait.
    pub fn event(&self, event: LinkEvent) {
        let (LinkEvent::Up { peer, .. } | LinkEvent::Down { peer, .. }) = event;
        let Some(asking) = self.asking.get(&peer) else { return };
        match event {
            LinkEvent::Up { epoch, .. } => {
                let incarnation = self.links().and_then(|links| links.incarnation(peer, Lane::Call)).unwrap_or(0);
                asking.up(CallLink { epoch, incarnation });
                self.tell(NodeEvent::Up { node: peer, incarnation });
            }
            LinkEvent::Down { .. } => {
                if let Some(CallLink { incarnation, .. }) = asking.down() {
                    self.tell(NodeEvent::Down { node: peer, incarnation });
                }
            }
        }
    }

    fn tell(&self, event: NodeEvent) {
        // Nobody may have subscribed.
        let _ = lock(&self.events).as_ref().map(|events| events.send(event));
    }
}

/// A call whose caller waits. Dropped, it is given up.
struct WaitingCall<'a> {
    calls: &'a HostCalls,
    node: NodeId,
    asked: QueuedCall,
}

impl WaitingCall<'_> {
    fn give_up(&self) -> GivenUp {
        let QueuedCall { id, epoch, .. } = self.asked;
        let given_up = self.calls.asking[&self.node].give_up(id);
        if given_up == GivenUp::Left {
            let frame = CallFrame::Cancel { id }.encode();
            // Where there is no room, the deadline ends it there.
            let _ = self.calls.links().map(|links| links.send_on(self.node, Lane::Call, epoch, frame, None));
        }
        given_up
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
