//! What outlives the actors: a slot per link, epochs, counters, the memory of refusals.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use converge_ledger_core::NodeId;
use tokio::time::Instant;

use super::handshake::Local;
use super::slot::Slot;
use super::status::{LaneStatus, ListenerStatus, PeerStatus};
use super::{Identity, Lane, LinkEvent, Settings, Sink};

/// Claimed ids whose refusal is remembered, so that it is told once. Beyond that only counted.
const REFUSALS_REMEMBERED_MAX: usize = 64;

/// A lock whose holders cannot leave it half-changed: a panic elsewhere is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything the actors of one node's distribution share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) addresses: BTreeMap<NodeId, String>,
    pub(super) slots: BTreeMap<(NodeId, Lane), Arc<Slot>>,
    /// Bound before the tree; every incarnation of the listener accepts on a clone. Gone once the node has ended.
    pub(super) socket: Mutex<Option<TcpListener>>,
    pub(super) arrivals: Arrivals,
    pub(super) sink: Arc<dyn Sink>,
    epochs: AtomicU64,
    refusals: Mutex<BTreeMap<NodeId, String>>,
    /// Peers whose names did not resolve at the last dial, and why.
    unresolved: Mutex<BTreeMap<NodeId, String>>,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        identity: Identity,
        mut peers: BTreeMap<NodeId, String>,
        socket: Option<TcpListener>,
        sink: Arc<dyn Sink>,
    ) -> Shared {
        let settings = settings.sane();
        peers.remove(&identity.node_id);
        let slots = peers
            .keys()
            .flat_map(|peer| Lane::ALL.map(|lane| (*peer, lane)))
            .map(|(peer, lane)| ((peer, lane), Arc::new(Slot::new(peer, lane, &settings))))
            .collect();
        Shared {
            local: Local {
                cluster: identity.cluster_id,
                group: settings.group,
                node: identity.node_id,
                incarnation: rand::random(),
                peers: peers.keys().copied().collect(),
            },
            addresses: peers,
            slots,
            socket: Mutex::new(socket),
            arrivals: Arrivals::default(),
            sink,
            // Half of the range is left to count in.
            epochs: AtomicU64::new(rand::random::<u64>() >> 1),
            refusals: Mutex::default(),
            unresolved: Mutex::default(),
            settings,
        }
    }

    /// The number of the next connection.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Relaxed) + 1
    }

    /// A handshake with this peer ended well: the same refusal afterwards is news again.
    pub(super) fn forget_refusal(&self, peer: NodeId) {
        lock(&self.refusals).remove(&peer);
        lock(&self.unresolved).remove(&peer);
    }

    /// Notes a refusal; tells log and sink unless the same was told before.
    pub(super) fn refused(&self, claimed: NodeId, reason: &str) {
        {
            let mut refusals = lock(&self.refusals);
            if refusals.get(&claimed).is_some_and(|told| told == reason) {
                return;
            }
            if refusals.len() >= REFUSALS_REMEMBERED_MAX && !refusals.contains_key(&claimed) {
                return;
            }
            refusals.insert(claimed, reason.to_owned());
        }
        let peer = self.addresses.contains_key(&claimed).then_some(claimed);
        tracing::warn!(node = %self.local.node, peer = %claimed, reason, "peer handshake refused");
        let told = catch_unwind(AssertUnwindSafe(|| {
            self.sink.hello_refused(peer, reason.to_owned());
        }));
        if told.is_err() {
            tracing::error!(node = %self.local.node, "the sink of refusals panicked");
        }
    }

    /// Notes whether a peer's name resolves; warns once until that changes, whatever the number of lanes and dials.
    pub(super) fn unresolved(&self, peer: NodeId, error: Option<String>) {
        let mut names = lock(&self.unresolved);
        match error {
            None => _ = names.remove(&peer),
            Some(error) => {
                if names.insert(peer, error.clone()).is_none() {
                    tracing::warn!(node = %self.local.node, %peer, error, "the name of a peer does not resolve");
                }
            }
        }
    }

    /// Events are told from destructors too, where a second panic would abort the process.
    pub(super) fn tell(&self, event: LinkEvent) {
        if catch_unwind(AssertUnwindSafe(|| self.sink.event(event))).is_err() {
            tracing::error!(node = %self.local.node, ?event, "the sink of link events panicked");
        }
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let refusals = lock(&self.refusals).clone();
        let unresolved = lock(&self.unresolved).clone();
        let peer = |(id, address): (&NodeId, &String)| {
            let lanes: BTreeMap<Lane, LaneStatus> =
                Lane::ALL.map(|lane| (lane, self.slots[&(*id, lane)].status())).into();
            PeerStatus {
                id: *id,
                address: address.clone(),
                connected: lanes.values().all(|lane| lane.epoch.is_some()),
                rtt_us: lanes[&Lane::Control].rtt_us,
                refused: refusals.get(id).cloned(),
                unresolved: unresolved.get(id).cloned(),
                lanes,
            }
        };
        self.addresses.iter().map(peer).collect()
    }
}

/// Counters of the peer port.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) accepted: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) timed_out: AtomicU64,
    crowded_out: AtomicU64,
    /// When that was last.
    crowded_at: Mutex<Option<Instant>>,
    pub(super) accept_errors: AtomicU64,
}

/// A log line for so many handshakes that made room.
const WARN_EVERY: u64 = 1000;

impl Arrivals {
    /// A handshake made room for a newer one.
    pub(super) fn crowd_out(&self, shared: &Shared) {
        *lock(&self.crowded_at) = Some(Instant::now());
        if self.crowded_out.fetch_add(1, Relaxed).is_multiple_of(WARN_EVERY) {
            let (node, max) = (shared.local.node, shared.settings.handshakes_max);
            tracing::warn!(%node, max, "too many handshakes at the peer port at once: the oldest makes room for the newest; \
                see who connects there");
        }
    }

    pub(super) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            accepted: self.accepted.load(Relaxed),
            joined: self.joined.load(Relaxed),
            refused: self.refused.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            crowded_out: self.crowded_out.load(Relaxed),
            crowded_out_ago: lock(&self.crowded_at).map(|at| at.elapsed()),
            accept_errors: self.accept_errors.load(Relaxed),
        }
    }
}
