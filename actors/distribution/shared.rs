//! What outlives the actors: a slot per link, epochs, counters, the memory of refusals.
//!
//! A [`Slot`] has two locks, each held for a moment. `outbound` is what senders need; it is never held
//! while the sink is called, so a sink may send. `gate` serialises what the sink sees of one link; it
//! is what makes "no frame of an epoch after its `Down`" true although tasks end asynchronously.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use converge_ledger_core::NodeId;
use converge_supervisors::Service;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::connection::Cause;
use super::handshake::Local;
use super::status::{LaneStatus, LinkPhase, ListenerStatus, PeerStatus};
use super::{Identity, Inbound, Lane, LinkEvent, Permit, SendError, Settings, Sink, link};

/// Charged per frame on top of its bytes, so that empty frames are not free.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 256;
/// Claimed ids whose refusal is remembered, so that it is told once. Beyond that only counted.
const REFUSALS_REMEMBERED_MAX: usize = 64;

/// A lock whose holders cannot leave it half-changed: a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything the actors of one node's distribution share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) addresses: BTreeMap<NodeId, String>,
    pub(super) slots: BTreeMap<(NodeId, Lane), Arc<Slot>>,
    /// Bound before the tree; every incarnation of the listener accepts on a clone.
    pub(super) socket: Option<TcpListener>,
    pub(super) arrivals: Arrivals,
    sink: Arc<dyn Sink>,
    epochs: AtomicU64,
    refusals: Mutex<BTreeMap<NodeId, String>>,
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
            socket,
            arrivals: Arrivals::default(),
            sink,
            // Half of the range is left to count in.
            epochs: AtomicU64::new(rand::random::<u64>() >> 1),
            refusals: Mutex::default(),
            settings,
        }
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

    /// Events are told from destructors too, where a second panic would abort the process.
    fn tell(&self, event: LinkEvent) {
        if catch_unwind(AssertUnwindSafe(|| self.sink.event(event))).is_err() {
            tracing::error!(node = %self.local.node, ?event, "the sink of link events panicked");
        }
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let refusals = lock(&self.refusals).clone();
        let peer = |(id, address): (&NodeId, &String)| {
            let lanes: BTreeMap<Lane, LaneStatus> =
                Lane::ALL.map(|lane| (lane, self.slots[&(*id, lane)].status())).into();
            PeerStatus {
                id: *id,
                address: address.clone(),
                connected: lanes.values().all(|lane| lane.epoch.is_some()),
                rtt_us: lanes[&Lane::Control].rtt_us,
                refused: refusals.get(id).cloned(),
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
    pub(super) crowded_out: AtomicU64,
    pub(super) accept_errors: AtomicU64,
}

impl Arrivals {
    pub(super) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            accepted: self.accepted.load(Relaxed),
            joined: self.joined.load(Relaxed),
            refused: self.refused.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            crowded_out: self.crowded_out.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
        }
    }
}

/// A frame in the queue of a link; its permit counts it until it is written or dropped.
pub(super) struct Outgoing {
    pub(super) pieces: Vec<Bytes>,
    pub(super) bytes: usize,
    _queued: OwnedSemaphorePermit,
}

/// The live connection, as senders see it.
struct Outbound {
    epoch: u64,
    frames: mpsc::Sender<Outgoing>,
    end: End,
}

/// The live connection, as the sink sees it.
struct Open {
    epoch: u64,
    end: End,
}

/// Ends a connection's tasks from outside: a newer connection took over, or a consumer rejected it.
#[derive(Clone, Default)]
pub(super) struct End {
    now: CancellationToken,
    rejected: Arc<OnceLock<String>>,
}

impl End {
    /// Runs a task of the connection until it ends or is ended.
    pub(super) async fn or(&self, task: impl Future<Output = Cause>) -> Cause {
        let ended = || self.rejected.get().cloned().map_or(Cause::Replaced, Cause::Rejected);
        self.now.run_until_cancelled(task).await.unwrap_or_else(ended)
    }
}

/// One link's part of the shared state.
pub(super) struct Slot {
    pub(super) peer: NodeId,
    pub(super) lane: Lane,
    /// The link actor of the moment.
    pub(super) link: Service<link::Message>,
    /// Bytes its consumers may hold, over all connections.
    pub(super) inbound_bytes: Arc<Semaphore>,
    /// At most one name look-up runs, however often its waiting is given up.
    pub(super) lookup: Arc<Semaphore>,
    pub(super) counters: Counters,
    queue_bytes: Arc<Semaphore>,
    queue_frames_max: usize,
    outbound: Mutex<Option<Outbound>>,
    gate: Mutex<Option<Open>>,
    notes: Mutex<Notes>,
    dials: AtomicU64,
}

/// Counters of one link, over all connections.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) frames_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) shed: AtomicU64,
    /// Microseconds plus one; 0 is unknown.
    pub(super) rtt_us_plus_one: AtomicU64,
}

struct Notes {
    /// Which incarnation of the link's actor writes here.
    owner: u64,
    phase: LinkPhase,
    last_error: Option<String>,
    /// The trouble that was logged last, since a connection lasted.
    told: Option<String>,
}

impl Slot {
    fn new(peer: NodeId, lane: Lane, settings: &Settings) -> Slot {
        let credits = |bytes: usize| Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Slot {
            peer,
            lane,
            link: Service::new("link"),
            inbound_bytes: credits(settings.inbound_bytes_max),
            lookup: Arc::new(Semaphore::new(1)),
            counters: Counters::default(),
            queue_bytes: credits(settings.queue_bytes_max),
            queue_frames_max: settings.queue_frames_max,
            outbound: Mutex::default(),
            gate: Mutex::default(),
            notes: Mutex::new(Notes { owner: 0, phase: LinkPhase::Stopped, last_error: None, told: None }),
            dials: AtomicU64::new(0),
        }
    }

    /// Queues a frame on the live connection.
    pub(super) fn send(&self, frame_bytes_max: usize, pieces: Vec<Bytes>) -> Result<(), SendError> {
        let bytes = pieces.iter().map(Bytes::len).sum::<usize>();
        if bytes > frame_bytes_max {
            return Err(SendError::TooLong);
        }
        let outbound = lock(&self.outbound);
        let live = outbound.as_ref().ok_or(SendError::Down)?;
        let shed = || {
            self.counters.shed.fetch_add(1, Relaxed);
            SendError::Full
        };
        let cost = u32::try_from(bytes + FRAME_OVERHEAD_BYTES).map_err(|_| SendError::TooLong)?;
        let queued = self.queue_bytes.clone().try_acquire_many_owned(cost).map_err(|_| shed())?;
        live.frames.try_send(Outgoing { pieces, bytes, _queued: queued }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => shed(),
            mpsc::error::TrySendError::Closed(_) => SendError::Down,
        })
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        lock(&self.outbound).as_ref().map(|live| live.epoch)
    }

    /// Ends the connection `epoch` if it is up. Takes no gate: a sink may call it while it is called.
    pub(super) fn reject(&self, epoch: u64, reason: &str) {
        if let Some(live) = lock(&self.outbound).as_ref()
            && live.epoch == epoch
        {
            // The first reason stands.
            let _ = live.end.rejected.set(reason.to_owned());
            live.end.now.cancel();
        }
    }

    /// The number of the next dial on this lane.
    pub(super) fn next_dial(&self) -> u64 {
        self.dials.fetch_add(1, Relaxed) + 1
    }

    /// Makes a new connection the live one, ending an older one first.
    pub(super) fn open(self: &Arc<Self>, shared: &Arc<Shared>) -> Opened {
        let end = End::default();
        let (sender, frames) = mpsc::channel(self.queue_frames_max);
        let mut gate = lock(&self.gate);
        if let Some(old) = gate.take() {
            self.end(shared, &old);
        }
        let epoch = shared.epochs.fetch_add(1, Relaxed) + 1;
        *lock(&self.outbound) = Some(Outbound { epoch, frames: sender, end: end.clone() });
        *gate = Some(Open { epoch, end: end.clone() });
        self.counters.connections.fetch_add(1, Relaxed);
        lock(&shared.refusals).remove(&self.peer);
        shared.tell(LinkEvent::Up { peer: self.peer, lane: self.lane, epoch });
        drop(gate);
        let live = Live { shared: Arc::clone(shared), slot: Arc::clone(self), epoch };
        Opened { live, frames, end }
    }

    /// Ends the connection `epoch`, unless a newer one already did.
    fn close(&self, shared: &Shared, epoch: u64) {
        let mut gate = lock(&self.gate);
        if gate.as_ref().is_some_and(|open| open.epoch == epoch)
            && let Some(old) = gate.take()
        {
            self.end(shared, &old);
        }
    }

    fn end(&self, shared: &Shared, old: &Open) {
        old.end.now.cancel();
        *lock(&self.outbound) = None;
        self.counters.rtt_us_plus_one.store(0, Relaxed);
        shared.tell(LinkEvent::Down { peer: self.peer, lane: self.lane, epoch: old.epoch });
    }

    /// Hands a frame to the sink while its connection is the live one; `false` once it is not.
    pub(super) fn deliver(&self, shared: &Shared, epoch: u64, payload: Bytes, permit: Permit) -> bool {
        let gate = lock(&self.gate);
        if gate.as_ref().is_none_or(|open| open.epoch != epoch) {
            return false;
        }
        self.counters.frames_received.fetch_add(1, Relaxed);
        self.counters.bytes_received.fetch_add(payload.len() as u64, Relaxed);
        shared.sink.deliver(Inbound { from: self.peer, lane: self.lane, epoch, payload, permit });
        true
    }

    /// A new incarnation of the actor takes the phase over; returns its number.
    pub(super) fn claim(&self) -> u64 {
        let mut notes = lock(&self.notes);
        notes.owner += 1;
        notes.owner
    }

    /// Shows the phase of the actor, unless a newer incarnation shows its own.
    pub(super) fn set_phase(&self, owner: u64, phase: LinkPhase) {
        let mut notes = lock(&self.notes);
        if notes.owner == owner {
            notes.phase = phase;
        }
    }

    /// Notes why a connection ended or could not be made; says whether that is news.
    pub(super) fn note_error(&self, error: &str) -> bool {
        let mut notes = lock(&self.notes);
        notes.last_error = Some(error.to_owned());
        let news = notes.told.as_deref() != Some(error);
        if news {
            notes.told = Some(error.to_owned());
        }
        news
    }

    /// A connection lasted: from here on the same trouble is news again.
    pub(super) fn forget_trouble(&self) {
        lock(&self.notes).told = None;
    }

    fn status(&self) -> LaneStatus {
        let (phase, last_error) = {
            let notes = lock(&self.notes);
            (notes.phase, notes.last_error.clone())
        };
        let counters = &self.counters;
        let epoch = self.epoch();
        LaneStatus {
            // The actor enters `Up` a moment after the slot is filled; senders go by the slot.
            phase: epoch.map_or(phase, |epoch| LinkPhase::Up { epoch }),
            epoch,
            connections: counters.connections.load(Relaxed),
            frames_sent: counters.frames_sent.load(Relaxed),
            bytes_sent: counters.bytes_sent.load(Relaxed),
            frames_received: counters.frames_received.load(Relaxed),
            bytes_received: counters.bytes_received.load(Relaxed),
            shed: counters.shed.load(Relaxed),
            last_error,
            rtt_us: counters.rtt_us_plus_one.load(Relaxed).checked_sub(1),
        }
    }
}

/// What a new connection works with.
pub(super) struct Opened {
    pub(super) live: Live,
    pub(super) frames: mpsc::Receiver<Outgoing>,
    pub(super) end: End,
}

/// While it lives, its connection may be the live one; its drop, however it comes about, empties the
/// slot and tells of the end.
pub(super) struct Live {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    pub(super) epoch: u64,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.slot.close(&self.shared, self.epoch);
    }
}
