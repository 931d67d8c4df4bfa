//! The public handle.

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::NodeId;
use converge_supervisors::{ChildSpec, Restart, Shutdown, Strategy, SupervisorSpec};

use super::error::SendError;
use super::lock::lock;
use super::settings::Settings;
use super::shared::Shared;
use super::slot::LinkSlot;
use super::status::{ListenerStatus, PeerStatus};
use super::types::{Carrier, Identity, Lane, Recall, Sink};
use super::{link, listener};

/// A link has only tasks to drop, so it stops at once; this is for a machine under load.
const STOP_GRACE: Duration = Duration::from_secs(2);

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
                slot.send(None, payload, None)
            }
            Carried::Elsewhere(carrier) => carrier.send(peer, lane, payload),
        }
    }

    /// As [`Distribution::send`], on the connection `epoch` and no other. Only links do.
    pub(super) fn send_on(
        &self,
        peer: NodeId,
        lane: Lane,
        epoch: u64,
        payload: Vec<Bytes>,
        recall: Option<Recall>,
    ) -> Result<(), SendError> {
        self.slot(peer, lane).ok_or(SendError::Down)?.send(Some(epoch), payload, recall)
    }

    /// As [`Distribution::send`], on the connection `epoch` and no other, as soon as its queue has room. Only links do.
    pub(super) async fn send_when_room(
        &self,
        peer: NodeId,
        lane: Lane,
        epoch: u64,
        payload: Vec<Bytes>,
    ) -> Result<(), SendError> {
        self.slot(peer, lane).ok_or(SendError::Down)?.send_when_room(epoch, payload).await
    }

    /// The process of the peer at the other end of the connection that is up: a number that each process draws anew.
    pub(super) fn incarnation(&self, peer: NodeId, lane: Lane) -> Option<u64> {
        self.slot(peer, lane)?.incarnation()
    }

    fn slot(&self, peer: NodeId, lane: Lane) -> Option<&Arc<LinkSlot>> {
        self.links()?.slots.get(&(peer, lane))
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
        self.slot(peer, lane)?.epoch()
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
