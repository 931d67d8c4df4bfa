//! Links between the nodes of a cluster.
//!
//! **Job**: keep one TCP connection per (peer, [`Lane`]) alive, and move bounded frames over it.
//! **Owns**: the peer port's listener, the sockets of all links, their queues and credits.
//! **Does not do**: it reads no payload, routes nothing, retries nothing. A frame that was queued when
//! a connection ended is gone; whoever sent it learns of the end by [`LinkEvent::Down`]. Addresses are
//! a static list; there is no discovery yet. Nothing is authenticated or encrypted: the peer port
//! belongs on a private network.
//!
//! ```text
//! distribution            (a supervisor of the application)
//! ├─ links                one_for_one
//! │  ├─ 1-control         one link per peer and lane: a phase machine, see `link`
//! │  ├─ 1-append
//! │  └─ …
//! └─ listener             accepts on a socket bound before the tree, shakes hands
//! ```
//!
//! What users rely on:
//! - Of two nodes the one with the **higher id dials**. A connection is bidirectional.
//! - Each connection has an **epoch**: it rises within a process (each side counts its own), starts at
//!   random, and travels in [`Inbound`]. Per lane and epoch frames arrive in order, each at most once.
//! - Per link, calls of the [`Sink`] are serialised: `Up{e}`, then frames of `e`, then `Down{e}`, and
//!   only then `Up` of the next epoch. A frame of an epoch never comes after its `Down`.
//! - The death of any actor here closes its connections, empties their queues and delivers `Down`;
//!   the restarted actor reconnects.
//!
//! Everything is bounded by [`Settings`]: a full queue sheds ([`SendError::Full`]), and a reader whose
//! [`Permit`]s are all held by slow consumers stops reading. A link so holds at most its credit, and what the
//! last frame weighs beyond that.

mod backoff;
mod connection;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod greeting;
mod handshake;
mod link;
mod listener;
mod settings;
mod shared;
mod slot;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::{ClusterId, NodeId};
use converge_supervisors::{ChildSpec, Restart, Shutdown, Strategy, SupervisorSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use settings::Settings;
pub use status::{LaneStatus, LinkPhase, ListenerStatus, PeerStatus};

use shared::{Shared, lock};

/// A link has only tasks to drop, so it stops at once; this is for a machine under load.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A connection of its own within a link, so that one kind of traffic cannot hold up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Heartbeats, votes: small and urgent.
    Control,
    /// Log entries and their acknowledgements.
    Append,
    /// Requests that one node hands to another.
    Forward,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Forward];

    /// The name in paths, logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Append => "append",
            Lane::Forward => "forward",
        }
    }

    fn code(self) -> u8 {
        match self {
            Lane::Control => 0,
            Lane::Append => 1,
            Lane::Forward => 2,
        }
    }

    fn from_code(code: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.code() == code)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame that arrived.
#[derive(Debug)]
pub struct Inbound {
    /// The peer that sent it.
    pub from: NodeId,
    /// The lane it came over.
    pub lane: Lane,
    /// The connection it came over: drop it when a newer one is up.
    pub epoch: u64,
    /// The pieces the peer passed to [`Distribution::send`], joined.
    pub payload: Bytes,
    /// Keep it until the payload is dealt with.
    pub permit: Permit,
}

/// Credit that an [`Inbound`] frame holds; while it lives, its bytes, and what its consumer
/// [weighs](Permit::weigh), count against [`Settings::inbound_bytes_max`] of the link. Dropping it lets the
/// reader read on.
#[derive(Debug)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Waits until the link has so much credit.
    pub(crate) async fn acquire(credits: &Arc<Semaphore>, bytes: usize) -> Permit {
        let cost = u32::try_from(bytes).expect("the bound of a frame is far below 4 GiB");
        let held = Arc::clone(credits).acquire_many_owned(cost).await;
        Permit(Some(held.expect("the credits of a link are never closed")))
    }

    /// Counts `bytes` more: what a frame takes besides its payload shows only when it is read. Does not wait,
    /// and takes no more than the link has left, so that a frame of any weight passes; the link then reads on
    /// when enough was given back.
    pub fn weigh(&mut self, bytes: usize) {
        let Some(held) = &mut self.0 else { return };
        let credits = Arc::clone(held.semaphore());
        loop {
            let free = bytes.min(credits.available_permits());
            let cost = u32::try_from(free).unwrap_or(u32::MAX);
            match Arc::clone(&credits).try_acquire_many_owned(cost) {
                Ok(more) => return held.merge(more),
                // The reader of a connection that is being replaced took some in between.
                Err(_) => std::hint::spin_loop(),
            }
        }
    }

    /// A permit that holds no credit: for frames that came over no link.
    pub fn none() -> Permit {
        Permit(None)
    }
}

/// A connection came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// A connection is ready; frames may be sent and will arrive.
    Up {
        /// The other node.
        peer: NodeId,
        /// Its lane.
        lane: Lane,
        /// The new connection.
        epoch: u64,
    },
    /// A connection ended; what was queued on it is lost.
    Down {
        /// The other node.
        peer: NodeId,
        /// Its lane.
        lane: Lane,
        /// The connection that ended.
        epoch: u64,
    },
}

/// Where frames and events go.
///
/// Called from the tasks of the links: no call may block or wait. Calls for one (peer, lane) are
/// serialised, calls for different ones are not. A call may use the [`Distribution`].
pub trait Sink: Send + Sync + 'static {
    /// A frame arrived.
    fn deliver(&self, inbound: Inbound);
    /// A connection came or went.
    fn event(&self, event: LinkEvent);
    /// A handshake was refused, by this node or by the peer. Called once per reason, not per attempt.
    /// `peer` is `None` when the other side is not among the configured peers.
    fn hello_refused(&self, peer: Option<NodeId>, reason: String);
}

/// Who this node is among its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; another one is refused.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
}

/// Why a frame was not queued. It was not sent, not even in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The link's queue is full: the peer is slower than this node. Drop the frame or try later.
    #[error("the queue of the link is full")]
    Full,
    /// There is no connection. [`LinkEvent::Up`] tells when there is one again.
    #[error("the link is down")]
    Down,
    /// The payload is longer than [`Settings::frame_bytes_max`] and never will be sent: split it.
    #[error("the payload is longer than a frame may be")]
    TooLong,
}

/// What carries frames in place of this module's links: a simulated network.
///
/// It calls the [`Sink`] under the rules that this module keeps.
pub trait Carrier: Send + Sync + 'static {
    /// See [`Distribution::send`].
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    fn send(&self, peer: NodeId, lane: Lane, payload: Vec<Bytes>) -> Result<(), SendError>;
    /// See [`Distribution::reject`].
    fn reject(&self, peer: NodeId, lane: Lane, epoch: u64, reason: &str);
}

/// Handle on the links of a node. Made before the supervision tree, valid across all restarts.
#[derive(Clone)]
pub struct Distribution {
    carried: Carried<Arc<Shared>>,
}

/// By this module's links, or by something else.
#[derive(Clone)]
enum Carried<Links> {
    Links(Links),
    Elsewhere(Arc<dyn Carrier>),
}

/// A handle that keeps nothing alive; see [`Distribution::downgrade`].
#[derive(Clone)]
pub struct WeakDistribution {
    carried: Carried<Weak<Shared>>,
}

impl WeakDistribution {
    /// The links, if anyone still has them.
    #[must_use]
    pub fn upgrade(&self) -> Option<Distribution> {
        let carried = match &self.carried {
            Carried::Links(shared) => Carried::Links(shared.upgrade()?),
            Carried::Elsewhere(carrier) => Carried::Elsewhere(carrier.clone()),
        };
        Some(Distribution { carried })
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.links().map(|shared| shared.local.node);
        f.debug_struct("Distribution").field("node", &node).finish_non_exhaustive()
    }
}

impl Distribution {
    /// Prepares links from this node to `peers` (id to `host:port`; host names are looked up at each
    /// dial; this node's own id is skipped). `socket` is the bound peer port; without one, only peers
    /// with lower ids can be reached, by dialing them.
    pub fn new(
        settings: Settings,
        identity: Identity,
        peers: BTreeMap<NodeId, String>,
        socket: Option<TcpListener>,
        sink: Arc<dyn Sink>,
    ) -> Distribution {
        Distribution { carried: Carried::Links(Arc::new(Shared::new(settings, identity, peers, socket, sink))) }
    }

    /// Frames go elsewhere; there are no links, and nothing to supervise.
    #[must_use]
    pub fn elsewhere(carrier: Arc<dyn Carrier>) -> Distribution {
        Distribution { carried: Carried::Elsewhere(carrier) }
    }

    fn links(&self) -> Option<&Arc<Shared>> {
        match &self.carried {
            Carried::Links(shared) => Some(shared),
            Carried::Elsewhere(_) => None,
        }
    }

    /// The children of the `distribution` supervisor, in start order.
    pub fn children(&self) -> Vec<ChildSpec> {
        let Some(shared) = self.links() else { return Vec::new() };
        let links = shared
            .slots
            .values()
            .map(|slot| {
                link::child_spec(shared, slot).restart(Restart::Permanent).shutdown(Shutdown::Timeout(STOP_GRACE))
            })
            .collect();
        let mut children = vec![ChildSpec::supervisor(
            "links",
            SupervisorSpec::new(Strategy::OneForOne, shared.settings.links_intensity, links),
        )];
        if lock(&shared.socket).is_some() {
            children
                .push(listener::child_spec(shared).restart(Restart::Permanent).shutdown(Shutdown::Timeout(STOP_GRACE)));
        }
        children
    }

    /// Queues one frame, made of `payload` in order. Never blocks and never waits: `Ok` says that it is
    /// queued on the connection that is up now, not that it will arrive.
    pub fn send(&self, peer: NodeId, lane: Lane, payload: Vec<Bytes>) -> Result<(), SendError> {
        match &self.carried {
            Carried::Links(shared) => {
                let slot = shared.slots.get(&(peer, lane)).ok_or(SendError::Down)?;
                slot.send(shared.settings.frame_bytes_max, payload)
            }
            Carried::Elsewhere(carrier) => carrier.send(peer, lane, payload),
        }
    }

    /// Closes the peer port for good: the node has ended, and another may listen there though handles of this one
    /// live on.
    pub fn unbind(&self) {
        let _ = self.links().map(|shared| lock(&shared.socket).take());
    }

    /// For a [`Sink`] that uses the distribution it is the sink of: neither then keeps the other alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakDistribution {
        let carried = match &self.carried {
            Carried::Links(shared) => Carried::Links(Arc::downgrade(shared)),
            Carried::Elsewhere(carrier) => Carried::Elsewhere(carrier.clone()),
        };
        WeakDistribution { carried }
    }

    /// The epoch of the connection that is up, if one is.
    pub fn epoch(&self, peer: NodeId, lane: Lane) -> Option<u64> {
        self.links()?.slots.get(&(peer, lane))?.epoch()
    }

    /// Closes the connection that brought a frame which its consumer cannot accept: the bytes are those
    /// the peer sent, but they make no sense. `reason` becomes the link's last error. The link
    /// reconnects after its backoff. May be called from within [`Sink::deliver`]; without effect once
    /// `epoch` is over.
    pub fn reject(&self, peer: NodeId, lane: Lane, epoch: u64, reason: &str) {
        match &self.carried {
            Carried::Links(shared) => {
                if let Some(slot) = shared.slots.get(&(peer, lane)) {
                    slot.reject(epoch, reason);
                }
            }
            Carried::Elsewhere(carrier) => carrier.reject(peer, lane, epoch, reason),
        }
    }

    /// Every peer, by id, read from shared state without asking an actor.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.links().map_or_else(Vec::new, |shared| shared.status())
    }

    /// What happened at the peer port.
    pub fn listener_status(&self) -> ListenerStatus {
        self.links().map_or_else(ListenerStatus::default, |shared| shared.arrivals.status())
    }
}
