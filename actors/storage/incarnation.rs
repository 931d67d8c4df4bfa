//! One incarnation of storage: what its actor and its two workers hand to one another, and that the threads of an earlier
//! one are gone before the next begins (S6).

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use converge_ledger_core::Lsn;
use converge_supervisors::ractor::ActorRef;
use converge_supervisors::{Hold, Latch};
use tokio::sync::Notify;

use super::executor::Signal;
use super::journal::record::Op;
use super::journal::ring::Spares;
use super::message::Message;
use super::types::Done;

/// Operations that become durable together, and whom to tell.
pub(crate) struct QueuedWrite {
    pub(crate) ops: Vec<Op>,
    pub(crate) weight: usize,
    pub(crate) done: Option<Done>,
}

/// What waits for the journal.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) writes: VecDeque<QueuedWrite>,
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

/// One incarnation: what waits for each of its workers. No two of its locks are ever held at once.
pub(crate) struct Incarnation {
    /// Whose it is; none in an inspection.
    actor: Option<ActorRef<Message>>,
    queue: Mutex<Queue>,
    pub(crate) journal_signal: Arc<Signal>,
    durable: Mutex<Durable>,
    pub(crate) redb_signal: Arc<Signal>,
    spares: Mutex<Spares>,
    /// Bytes that the database could take: durable log entries and rows of applied ones. Writers
    /// and apply wait while it is past its bound, so that memory is bounded by the disk's pace.
    pub(crate) backlog: AtomicUsize,
    /// Notified after every commit of the database, and when it fenced.
    pub(crate) committed: Notify,
    /// A worker is alive while it holds this.
    alive: Mutex<Option<Arc<Hold>>>,
}

impl Incarnation {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a worker to hold; none once it was closed.
    pub(crate) fn alive(&self) -> Option<Arc<Hold>> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.clone()
    }

    /// No new writes; the workers finish what there is, and end.
    fn close(&self) {
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

    /// A worker is dropped. Unless the incarnation was closed, it panicked: the other worker and the actor
    /// must neither go on without it nor wait for it.
    pub(crate) fn worker_ended(&self) {
        if !self.is_closed() {
            self.close();
            // The actor may be gone, or hear of it by the answer that does not come.
            let _ = self.actor.as_ref().map(|actor| actor.cast(Message::WorkerDied));
        }
    }
}

/// The incarnations of one handle, one after the other.
pub(crate) struct Incarnations {
    current: RwLock<Option<Arc<Incarnation>>>,
    latch: Latch,
}

impl Default for Incarnations {
    fn default() -> Self {
        Incarnations { current: RwLock::default(), latch: Latch::new("threads of storage") }
    }
}

impl Incarnations {
    /// One that no one can reach yet.
    pub(crate) fn begin(&self, actor: Option<ActorRef<Message>>) -> Arc<Incarnation> {
        Arc::new(Incarnation {
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

    /// The one that serves.
    pub(crate) fn current(&self) -> Option<Arc<Incarnation>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// It serves from here on.
    pub(crate) fn open(&self, incarnation: &Arc<Incarnation>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::clone(incarnation));
    }

    /// It serves no more; another that was opened since goes on.
    pub(crate) fn close(&self, incarnation: &Arc<Incarnation>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, incarnation)) {
            *current = None;
        }
        drop(current);
        incarnation.close();
    }
}
