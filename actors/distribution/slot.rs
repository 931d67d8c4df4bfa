//! One link's part of the shared state: what outlives its actor.
//!
//! A [`LinkSlot`] has two locks, each held for a moment. `outbound` is what senders need; it is never held
//! while the sink is called, so a sink may send. `gate` serialises what the sink sees of one link; it
//! is what makes "no frame of an epoch after its `Down`" true although tasks end asynchronously.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use converge_ledger_core::NodeId;
use converge_supervisors::Service;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::error::{Cause, SendError};
use super::lock::lock;
use super::message::Message;
use super::notices::Notices;
use super::settings::{FRAME_OVERHEAD_BYTES, Settings};
use super::status::{LaneStatus, LinkPhase};
use super::types::{Inbound, Lane, LinkEvent, Permit, Recall};

/// A frame in the queue of a link; its permit counts it until it is written or dropped.
pub(super) struct Outgoing {
    pub(super) pieces: Vec<Bytes>,
    pub(super) bytes: usize,
    recall: Option<Recall>,
    _queued: OwnedSemaphorePermit,
}

impl Outgoing {
    /// Whether it is to be written: asked by the writer, once. From here on nobody takes it back.
    pub(super) fn leaves(&self) -> bool {
        self.recall.as_ref().is_none_or(Recall::leaves)
    }
}

/// The live connection, as senders see it.
struct Outbound {
    epoch: u64,
    /// The peer's process.
    incarnation: u64,
    frames: mpsc::Sender<Outgoing>,
    end: CloseSignal,
}

/// The live connection, as the sink sees it.
struct OpenConnection {
    epoch: u64,
    end: CloseSignal,
}

/// Ends a connection's tasks from outside: a newer connection took over, or a consumer rejected it.
#[derive(Clone, Default)]
pub(super) struct CloseSignal {
    now: CancellationToken,
    rejected: Arc<OnceLock<String>>,
}

impl CloseSignal {
    /// Runs a task of the connection until it ends or is ended.
    pub(super) async fn or(&self, task: impl Future<Output = Cause>) -> Cause {
        let ended = || self.rejected.get().cloned().map_or(Cause::Replaced, Cause::Rejected);
        self.now.run_until_cancelled(task).await.unwrap_or_else(ended)
    }
}

/// One link's part of the shared state.
pub(super) struct LinkSlot {
    pub(super) peer: NodeId,
    pub(super) lane: Lane,
    /// The link actor of the moment.
    pub(super) link: Service<Message>,
    /// Bytes its consumers may hold, over all connections.
    pub(super) inbound_bytes: Arc<Semaphore>,
    /// At most one name look-up runs, however often its waiting is given up.
    pub(super) lookup: Arc<Semaphore>,
    pub(super) counters: Counters,
    /// Longest payload of a frame.
    pub(super) frame_bytes_max: usize,
    queue_bytes: Arc<Semaphore>,
    queue_frames_max: usize,
    outbound: Mutex<Option<Outbound>>,
    gate: Mutex<Option<OpenConnection>>,
    notes: Mutex<Notes>,
    dials: AtomicU64,
    notices: Arc<Notices>,
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
    /// Connections closed because of what the peer sent.
    pub(super) malformed: AtomicU64,
}

struct Notes {
    /// Which incarnation of the link's actor writes here.
    owner: u64,
    phase: LinkPhase,
    last_error: Option<String>,
    /// The trouble that was logged last, since a connection lasted.
    told: Option<String>,
}

impl LinkSlot {
    pub(super) fn new(peer: NodeId, lane: Lane, settings: &Settings, notices: Arc<Notices>) -> LinkSlot {
        let credits = |bytes: usize| Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        LinkSlot {
            peer,
            lane,
            link: Service::new("link"),
            inbound_bytes: credits(settings.inbound_bytes_max),
            lookup: Arc::new(Semaphore::new(1)),
            counters: Counters::default(),
            frame_bytes_max: settings.frame_bytes_max,
            queue_bytes: credits(settings.queue_bytes_max),
            queue_frames_max: settings.queue_frames_max,
            outbound: Mutex::default(),
            gate: Mutex::default(),
            notes: Mutex::new(Notes { owner: 0, phase: LinkPhase::Stopped, last_error: None, told: None }),
            dials: AtomicU64::new(0),
            notices,
        }
    }

    /// Queues a frame on the live connection; if that is to be a certain one, on no other.
    pub(super) fn send(&self, epoch: Option<u64>, pieces: Vec<Bytes>, recall: Option<Recall>) -> Result<(), SendError> {
        let (bytes, cost) = self.weight(&pieces)?;
        let outbound = lock(&self.outbound);
        let live = outbound.as_ref().filter(|live| epoch.is_none_or(|epoch| live.epoch == epoch));
        let live = live.ok_or(SendError::Down)?;
        let shed = || {
            self.counters.shed.fetch_add(1, Relaxed);
            SendError::Full
        };
        let queued = self.queue_bytes.clone().try_acquire_many_owned(cost).map_err(|_| shed())?;
        live.frames.try_send(Outgoing { pieces, bytes, recall, _queued: queued }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => shed(),
            mpsc::error::TrySendError::Closed(_) => SendError::Down,
        })
    }

    /// Queues a frame on the connection `epoch` and no other, as soon as there is room.
    pub(super) async fn send_when_room(&self, epoch: u64, pieces: Vec<Bytes>) -> Result<(), SendError> {
        let (bytes, cost) = self.weight(&pieces)?;
        let frames = || {
            let outbound = lock(&self.outbound);
            let live = outbound.as_ref().filter(|live| live.epoch == epoch).ok_or(SendError::Down)?;
            Ok(live.frames.clone())
        };
        // One whose connection is no more takes no turn of those that wait for room.
        frames()?;
        let queued = self.queue_bytes.clone().acquire_many_owned(cost).await.map_err(|_| SendError::Down)?;
        let frames = frames()?;
        let outgoing = Outgoing { pieces, bytes, recall: None, _queued: queued };
        frames.send(outgoing).await.map_err(|_| SendError::Down)
    }

    /// The bytes of a payload, and what they take of the queue.
    fn weight(&self, pieces: &[Bytes]) -> Result<(usize, u32), SendError> {
        let bytes = pieces.iter().map(Bytes::len).sum::<usize>();
        if bytes > self.frame_bytes_max {
            return Err(SendError::TooLong);
        }
        let cost = u32::try_from(bytes + FRAME_OVERHEAD_BYTES).map_err(|_| SendError::TooLong)?;
        Ok((bytes, cost))
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        lock(&self.outbound).as_ref().map(|live| live.epoch)
    }

    /// The process of the peer at the other end.
    pub(super) fn incarnation(&self) -> Option<u64> {
        lock(&self.outbound).as_ref().map(|live| live.incarnation)
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

    /// Makes a new connection, to that process of the peer, the live one, ending an older one first.
    pub(super) fn open(self: &Arc<Self>, incarnation: u64) -> Opened {
        let end = CloseSignal::default();
        let (sender, frames) = mpsc::channel(self.queue_frames_max);
        let mut gate = lock(&self.gate);
        if let Some(old) = gate.take() {
            self.end(&old);
        }
        let epoch = self.notices.next_epoch();
        *lock(&self.outbound) = Some(Outbound { epoch, incarnation, frames: sender, end: end.clone() });
        *gate = Some(OpenConnection { epoch, end: end.clone() });
        self.counters.connections.fetch_add(1, Relaxed);
        self.notices.forget_refusal(self.peer);
        self.notices.tell(LinkEvent::Up { peer: self.peer, lane: self.lane, epoch });
        drop(gate);
        let live = ConnectionGuard { slot: Arc::clone(self), epoch };
        Opened { live, frames, end }
    }

    /// Ends the connection `epoch`, unless a newer one already did.
    fn close(&self, epoch: u64) {
        let mut gate = lock(&self.gate);
        if gate.as_ref().is_some_and(|open| open.epoch == epoch)
            && let Some(old) = gate.take()
        {
            self.end(&old);
        }
    }

    fn end(&self, old: &OpenConnection) {
        old.end.now.cancel();
        *lock(&self.outbound) = None;
        self.counters.rtt_us_plus_one.store(0, Relaxed);
        self.notices.tell(LinkEvent::Down { peer: self.peer, lane: self.lane, epoch: old.epoch });
    }

    /// Hands a frame to the sink while its connection is the live one; `false` once it is not.
    pub(super) fn deliver(&self, epoch: u64, payload: Bytes, permit: Permit) -> bool {
        let gate = lock(&self.gate);
        if gate.as_ref().is_none_or(|open| open.epoch != epoch) {
            return false;
        }
        self.counters.frames_received.fetch_add(1, Relaxed);
        self.counters.bytes_received.fetch_add(payload.len() as u64, Relaxed);
        self.notices.sink.deliver(Inbound { from: self.peer, lane: self.lane, epoch, payload, permit });
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

    pub(super) fn status(&self) -> LaneStatus {
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
            malformed: counters.malformed.load(Relaxed),
            last_error,
            rtt_us: counters.rtt_us_plus_one.load(Relaxed).checked_sub(1),
        }
    }
}

/// What a new connection works with.
pub(super) struct Opened {
    pub(super) live: ConnectionGuard,
    pub(super) frames: mpsc::Receiver<Outgoing>,
    pub(super) end: CloseSignal,
}

/// While it lives, its connection may be the live one; its drop, however it comes about, empties the
/// slot and tells of the end.
pub(super) struct ConnectionGuard {
    slot: Arc<LinkSlot>,
    pub(super) epoch: u64,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.slot.close(self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::distribution::Sink;
    use tokio::time::timeout;

    /// Remembers events and payloads in order.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Sink for Recorder {
        fn deliver(&self, inbound: Inbound) {
            lock(&self.0).push(format!("{:?}", inbound.payload));
        }
        fn event(&self, event: LinkEvent) {
            lock(&self.0).push(match event {
                LinkEvent::Up { .. } => "up".to_owned(),
                LinkEvent::Down { .. } => "down".to_owned(),
            });
        }
    }

    fn slot() -> (Arc<LinkSlot>, Arc<Recorder>) {
        let sink = Arc::new(Recorder::default());
        let notices = Arc::new(Notices::new(NodeId(1), sink.clone()));
        let settings = Settings { queue_frames_max: 2, ..Settings::default() };
        (Arc::new(LinkSlot::new(NodeId(2), Lane::Append, &settings, notices)), sink)
    }

    fn deliver(slot: &LinkSlot, epoch: u64, payload: &'static [u8]) -> bool {
        slot.deliver(epoch, Bytes::from_static(payload), Permit::none())
    }

    #[tokio::test]
    async fn a_replaced_connection_is_ended_and_delivers_nothing_more() {
        let (slot, sink) = slot();
        let old = slot.open(1);
        let new = slot.open(1);
        assert!(new.live.epoch > old.live.epoch);
        assert!(!deliver(&slot, old.live.epoch, b"late"));
        assert!(deliver(&slot, new.live.epoch, b"new"));
        assert!(matches!(old.end.or(std::future::pending()).await, Cause::Replaced));
        drop(old);
        assert_eq!(slot.epoch(), Some(new.live.epoch), "the late end of the old one closed the new");
        drop(new);
        assert_eq!(slot.epoch(), None);
        assert_eq!(*lock(&sink.0), ["up", "down", "up", "b\"new\"", "down"]);
    }

    #[test]
    fn nothing_is_delivered_after_the_end() {
        let (slot, sink) = slot();
        let opened = slot.open(1);
        let epoch = opened.live.epoch;
        drop(opened);
        assert!(!deliver(&slot, epoch, b"late"));
        assert_eq!(*lock(&sink.0), ["up", "down"]);
    }

    #[test]
    fn a_full_queue_sheds_and_a_dead_one_gives_its_credit_back() {
        let (slot, _) = slot();
        let free = slot.queue_bytes.available_permits();
        let send = || slot.send(None, vec![Bytes::from_static(b"x")], None);
        assert_eq!(send(), Err(SendError::Down));
        let opened = slot.open(1);
        assert_eq!([send(), send(), send()], [Ok(()), Ok(()), Err(SendError::Full)]);
        assert_eq!(slot.status().shed, 1);
        drop(opened);
        assert_eq!(send(), Err(SendError::Down));
        assert_eq!(slot.queue_bytes.available_permits(), free);
    }

    #[test]
    fn a_frame_leaves_or_is_taken_back_and_never_both() {
        let (slot, _) = slot();
        let mut opened = slot.open(1);
        let epoch = opened.live.epoch;
        let mut send = |recall: &Recall| {
            slot.send(Some(epoch), vec![Bytes::from_static(b"x")], Some(recall.clone())).unwrap();
            opened.frames.try_recv().unwrap()
        };
        let (kept, taken_back) = (Recall::default(), Recall::default());
        assert!(send(&kept).leaves() && !kept.take_back());
        let outgoing = send(&taken_back);
        assert!(taken_back.take_back() && !outgoing.leaves());
        assert_eq!(slot.send(Some(epoch + 1), vec![Bytes::new()], None), Err(SendError::Down), "another connection");
    }

    #[tokio::test]
    async fn a_frame_that_waits_for_room_comes_in_its_connection_or_not_at_all() {
        let (slot, _) = slot();
        let mut opened = slot.open(1);
        let epoch = opened.live.epoch;
        let send = || slot.send(None, vec![Bytes::from_static(b"x")], None);
        assert_eq!([send(), send()], [Ok(()), Ok(())]);
        let late = || {
            let slot = Arc::clone(&slot);
            tokio::spawn(async move { slot.send_when_room(epoch, vec![Bytes::from_static(b"late")]).await })
        };
        let waits = late();
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        opened.frames.recv().await.unwrap();
        assert_eq!(waits.await.unwrap(), Ok(()));
        let waits = late();
        tokio::task::yield_now().await;
        drop((opened.live, opened.frames));
        assert_eq!(waits.await.unwrap(), Err(SendError::Down));
        let all = u32::try_from(slot.queue_bytes.available_permits()).unwrap();
        let _full = slot.queue_bytes.clone().try_acquire_many_owned(all).unwrap();
        let late = timeout(Duration::from_secs(10), slot.send_when_room(epoch, vec![Bytes::new()])).await;
        assert_eq!(late.unwrap(), Err(SendError::Down), "it waits for no room");
    }
}
