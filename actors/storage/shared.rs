//! What the actor, the two workers and the readers of storage share, and who may do what in it.
//!
//! [`Shared`] lives as long as the handle, across incarnations. A [`Lane`] is one incarnation:
//! its queues, and the latch that says that its threads are gone (S6). Lock order: `Lane::queue`,
//! then `Shared::state`, then `Shared::overlay`; `Shared::db` is taken with none of them held by
//! anyone who waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use converge_ledger_core::{Boot, LogIndex, Lsn, State, StoreId};
use converge_supervisors::ractor::ActorRef;
use converge_supervisors::{Hold, Latch, Service};
use redb::Database;
use tokio::sync::Notify;

use super::actor::Message;
use super::error::{Cause, Error};
use super::executor::Signal;
use super::journal::record::Op;
use super::journal::ring::Spares;
use super::overlay::Overlay;
use super::passing::Sorting;
use super::room::Lacks;
use super::settings::Settings;
use super::types::{Done, HardState, LogEntry, OnApplied, Phase};

/// Operations that become durable together, and whom to tell.
pub(crate) struct Request {
    pub(crate) ops: Vec<Op>,
    pub(crate) weight: usize,
    pub(crate) done: Option<Done>,
}

/// What waits for the journal.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) requests: VecDeque<Request>,
    pub(crate) closed: bool,
}

/// What is durable in the journal and waits for the database.
#[derive(Default)]
pub(crate) struct Durable {
    pub(crate) records: Vec<(Lsn, Vec<Op>, usize)>,
    pub(crate) bytes: usize,
    /// The journal writer is gone; nothing follows.
    pub(crate) ended: bool,
    /// A commit is wanted without waiting for its time.
    pub(crate) wanted: bool,
}

/// One incarnation of storage.
pub(crate) struct Lane {
    /// Whose incarnation it is; none in an inspection.
    actor: Option<ActorRef<Message>>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) journal_signal: Arc<Signal>,
    pub(crate) durable: Mutex<Durable>,
    pub(crate) redb_signal: Arc<Signal>,
    pub(crate) spares: Mutex<Spares>,
    /// Bytes that the database could take: durable log entries and rows of applied ones. Writers
    /// and apply wait while it is past its bound, so that memory is bounded by the disk's pace.
    pub(crate) backlog: AtomicUsize,
    /// Told after every commit of the database, and when it fenced.
    pub(crate) committed: Notify,
    /// A worker is alive while it holds this.
    alive: Mutex<Option<Arc<Hold>>>,
}

impl Lane {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a worker to hold; none once the lane was closed.
    pub(crate) fn alive(&self) -> Option<Arc<Hold>> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.clone()
    }

    /// No new requests; the workers finish what there is, and end.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    pub(crate) fn wake(&self) {
        self.journal_signal.raise();
        self.redb_signal.raise();
        self.committed.notify_waiters();
    }

    /// No next journal file can be had. Whoever stops does not wait until one can: the writer lets go of what it holds
    /// without a file, of which nobody was told that it is durable (S2), and its thread ends before the database's (S6).
    pub(crate) fn give_up_files(&self) {
        if self.is_closed() && !std::mem::replace(&mut self.spares().ended, true) {
            self.journal_signal.raise();
        }
    }

    pub(crate) fn want_commit(&self) {
        self.durable().wanted = true;
        self.redb_signal.raise();
    }
}

/// What is known about the directory for as long as the process lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) boot: Option<Boot>,
    pub(crate) store_id: Option<StoreId>,
    /// Storage came up once, also fenced: from then on it is the fence that says what may be tried again.
    pub(crate) came_up: bool,
}

/// Storage, across incarnations.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) on_applied: OnApplied,
    pub(crate) service: Service<Message>,
    lane: RwLock<Option<Arc<Lane>>>,
    overlay: RwLock<Overlay>,
    /// The state machine. Its lock also orders apply and the taking of rows for a commit.
    pub(crate) state: Mutex<State>,
    /// Borrowed for one read; the worker that owns it takes it out to close it.
    pub(crate) db: RwLock<Option<Database>>,
    pub(crate) process: Mutex<Process>,
    pub(super) fence: RwLock<Option<Cause>>,
    lacks: Mutex<Lacks>,
    latch: Latch,
    /// The last commit panicked.
    pub(crate) commit_panicked: AtomicBool,
    pub(crate) durable_lsn: AtomicU64,
    pub(crate) covered_lsn: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    pub(crate) redb_bytes: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings, on_applied: OnApplied) -> Shared {
        let disk = Arc::new(Sorting(Arc::clone(&settings.disk)));
        Shared {
            settings: Settings { disk, ..settings },
            on_applied,
            service: Service::new("storage"),
            lane: RwLock::default(),
            overlay: RwLock::default(),
            state: Mutex::default(),
            db: RwLock::default(),
            process: Mutex::default(),
            fence: RwLock::default(),
            lacks: Mutex::default(),
            latch: Latch::new("threads of storage"),
            commit_panicked: AtomicBool::new(false),
            durable_lsn: AtomicU64::new(0),
            covered_lsn: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(0),
            redb_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that no one can reach yet.
    pub(crate) fn new_lane(&self, actor: Option<ActorRef<Message>>) -> Arc<Lane> {
        Arc::new(Lane {
            actor,
            queue: Mutex::default(),
            journal_signal: Arc::default(),
            durable: Mutex::default(),
            redb_signal: Arc::default(),
            spares: Mutex::default(),
            backlog: AtomicUsize::new(0),
            committed: Notify::new(),
            alive: Mutex::new(Some(Arc::new(self.latch.hold()))),
        })
    }

    /// Returns when no thread of an earlier incarnation is left. It is waited for in the start, and not by the
    /// supervisor (`ChildSpec::latch`), which would give up on a disk that hangs for half a minute.
    pub(crate) async fn all_gone(&self) {
        self.latch.released().await;
    }

    pub(crate) fn lane(&self) -> Option<Arc<Lane>> {
        let lane = self.lane.read().unwrap_or_else(PoisonError::into_inner);
        lane.clone()
    }

    /// Serves from here on.
    pub(crate) fn open_lane(&self, lane: &Arc<Lane>) {
        let mut current = self.lane.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::clone(lane));
    }

    /// Serves no more, unless another lane was opened since.
    pub(crate) fn close_lane(&self, lane: &Arc<Lane>) {
        let mut current = self.lane.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, lane)) {
            *current = None;
        }
        drop(current);
        lane.close();
    }

    pub(crate) fn fenced(&self) -> Option<Cause> {
        let fence = self.fence.read().unwrap_or_else(PoisonError::into_inner);
        fence.clone()
    }

    pub(super) fn lacks(&self) -> MutexGuard<'_, Lacks> {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all writing until the process starts anew, or until a full disk has room again. The first cause stays,
    /// unless this one is graver.
    pub(crate) fn fence(&self, cause: Cause) -> Error {
        let mut fence = self.fence.write().unwrap_or_else(PoisonError::into_inner);
        let replace = fence.as_ref().is_none_or(|old| old.gravity() < cause.gravity());
        if replace {
            if matches!(cause, Cause::DiskFull { .. }) {
                self.found_full();
            }
            tracing::error!(dir = %self.settings.dir.display(), %cause, "storage fenced itself");
            *fence = Some(cause.clone());
        }
        drop(fence);
        if let Some(lane) = self.lane() {
            lane.wake();
        }
        cause.error()
    }

    /// A worker is dropped. Unless the lane was closed, it panicked: the other worker and the actor
    /// must neither go on without it nor wait for it.
    pub(crate) fn worker_ended(&self, lane: &Lane) {
        if !lane.is_closed() {
            lane.close();
            // The actor may be gone, or hear of it by the answer that does not come.
            let _ = lane.actor.as_ref().map(|actor| actor.cast(Message::WorkerDied));
        }
    }

    pub(crate) fn data_loss(&self, what: String) -> Error {
        self.fence(Cause::DataLoss { what })
    }

    pub(crate) fn phase(&self) -> Phase {
        if let Some(cause) = self.fenced() {
            Phase::Fenced { cause }
        } else if self.lane().is_some() {
            Phase::Serving
        } else {
            Phase::Recovering
        }
    }

    /// The lane, if storage may be written to.
    pub(crate) fn writable(&self) -> Result<Arc<Lane>, Error> {
        match self.fenced() {
            Some(cause) => Err(cause.error()),
            None => self.lane().ok_or(Error::Unavailable),
        }
    }

    /// Whether storage may be read. Where a fenced node has nothing open, nothing is open before its actor, or the process, starts again.
    pub(crate) fn readable(&self) -> Result<(), Error> {
        let open = self.lane().is_some();
        match self.fenced() {
            Some(cause) if !open || !cause.can_read() => Err(cause.error()),
            _ if open => Ok(()),
            _ => Err(Error::Unavailable),
        }
    }

    /// The writers have to wait for the database.
    pub(crate) fn crowded(&self, lane: &Lane) -> bool {
        lane.backlog.load(Ordering::Relaxed) > self.settings.overlay_bytes_max
    }

    /// Makes entries readable and queues them for the journal, in one order for all callers.
    pub(crate) fn submit(
        &self,
        requests: Vec<Request>,
        entries: &[LogEntry],
        hard_state: Option<HardState>,
    ) -> Result<(), Error> {
        let lane = self.writable()?;
        let mut queue = lane.queue();
        if queue.closed {
            return Err(Error::Unavailable);
        }
        let mut overlay = self.overlay_mut();
        let misfit = overlay.misfit(entries);
        if misfit.is_none() {
            overlay.append(entries);
            if let Some(hard_state) = hard_state {
                overlay.hard_state = hard_state;
            }
        }
        drop(overlay);
        if misfit.is_none() {
            queue.requests.extend(requests);
        }
        drop(queue);
        assert!(misfit.is_none(), "{}", misfit.unwrap_or_default());
        lane.journal_signal.raise();
        Ok(())
    }

    /// The last log entry applied.
    pub(crate) fn applied(&self) -> LogIndex {
        self.overlay().applied.index
    }
}
