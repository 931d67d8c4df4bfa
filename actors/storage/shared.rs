//! What the actor, the two workers and the readers of storage share. It lives as long as the handle, across incarnations.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use converge_ledger_core::levels::MIN_LEVEL;
use converge_ledger_core::{Boot, LogIndex, StoreId};
use converge_supervisors::Service;
use tokio::sync::watch;

use super::database::lent::Lent;
use super::error::{Cause, Error, Outdated};
use super::fence::Fence;
use super::incarnation::{Incarnation, Incarnations, QueuedWrite};
use super::memory::Memory;
use super::message::Message;
use super::offload::Turns;
use super::passing::Sorting;
use super::room::{Lacks, Room, leaves_from};
use super::segments::SegmentsEnd;
use super::segments::reader::SegmentReader;
use super::settings::Settings;
use super::types::{HardState, LogEntry, OnApplied, Phase};

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
    pub(crate) incarnations: Incarnations,
    pub(crate) memory: Memory,
    pub(crate) db: Lent,
    pub(crate) segments: SegmentReader,
    pub(crate) fence: Fence,
    /// Where apply has stopped for want of a newer program.
    outdated: watch::Sender<Option<Outdated>>,
    pub(crate) lacks: Lacks,
    pub(crate) turns: Turns,
    /// The level of the applied state.
    pub(crate) level: Arc<AtomicU32>,
    process: Mutex<Process>,
    /// The last commit panicked.
    pub(crate) commit_panicked: AtomicBool,
    pub(crate) durable_lsn: AtomicU64,
    pub(crate) covered_lsn: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    pub(crate) redb_bytes: AtomicU64,
    pub(crate) segment_bytes: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings, on_applied: OnApplied) -> Shared {
        let disk = Arc::new(Sorting(Arc::clone(&settings.disk)));
        let settings = Settings { disk, ..settings };
        Shared {
            segments: SegmentReader::new(&settings),
            settings,
            on_applied,
            service: Service::new("storage"),
            incarnations: Incarnations::default(),
            memory: Memory::default(),
            db: Lent::default(),
            fence: Fence::default(),
            outdated: watch::Sender::default(),
            lacks: Lacks::default(),
            turns: Turns::default(),
            level: Arc::new(AtomicU32::new(MIN_LEVEL)),
            process: Mutex::default(),
            commit_panicked: AtomicBool::new(false),
            durable_lsn: AtomicU64::new(0),
            covered_lsn: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(0),
            redb_bytes: AtomicU64::new(0),
            segment_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all writing until the process starts anew, or until a full disk has room again. The first cause stays,
    /// unless this one is graver.
    pub(crate) fn fence(&self, cause: Cause) -> Error {
        if self.fence.set(&cause) {
            tracing::error!(dir = %self.settings.dir.display(), %cause, "storage fenced itself");
        }
        if let Some(incarnation) = self.incarnations.current() {
            incarnation.wake();
        }
        cause.error()
    }

    pub(crate) fn data_loss(&self, what: String) -> Error {
        self.fence(Cause::DataLoss { what })
    }

    /// Looks at the room.
    pub(crate) fn look(&self) -> Room {
        self.lacks.look(&self.settings)
    }

    /// Whether storage is fenced for a full disk alone, and there is room again. Room that cannot be counted is none: a
    /// directory that was moved away has no number either, and S8 forbids to make another in its place.
    pub(crate) fn may_leave(&self) -> bool {
        let free = || self.lacks.free(&self.settings);
        self.fence.is_over_with_room() && free().is_some_and(|free| free >= leaves_from(&self.settings))
    }

    /// As much waits for the database before it is committed.
    pub(crate) fn commit_bytes(&self) -> usize {
        let Settings { commit_bytes, overlay_bytes_max, .. } = &self.settings;
        let gib = usize::try_from(self.redb_bytes.load(Ordering::Relaxed) >> 30).unwrap_or(usize::MAX);
        let scaled = commit_bytes.saturating_mul(gib.saturating_add(1)).min(overlay_bytes_max / 8);
        scaled.max(*commit_bytes)
    }

    /// For who asks how storage is.
    pub(crate) fn say_segments(&self, end: &SegmentsEnd) {
        self.segment_bytes.store(end.closed_bytes + end.bytes, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        if let Some(cause) = self.fence.cause() {
            Phase::Fenced { cause }
        } else if let Some(outdated) = self.outdated() {
            Phase::Outdated { outdated }
        } else if self.incarnations.current().is_some() {
            Phase::Serving
        } else {
            Phase::Recovering
        }
    }

    /// The incarnation, if storage may be written to.
    pub(crate) fn writable(&self) -> Result<Arc<Incarnation>, Error> {
        match self.fence.cause() {
            Some(cause) => Err(cause.error()),
            None => self.incarnations.current().ok_or(Error::Unavailable),
        }
    }

    /// Whether storage may be read. Where a fenced node has nothing open, nothing is open before its actor, or the
    /// process, starts again.
    pub(crate) fn readable(&self) -> Result<(), Error> {
        let open = self.incarnations.current().is_some();
        match self.fence.cause() {
            Some(cause) if !open || !cause.can_read() => Err(cause.error()),
            _ if open => Ok(()),
            _ => Err(Error::Unavailable),
        }
    }

    /// The writers have to wait for the database.
    pub(crate) fn crowded(&self, incarnation: &Incarnation) -> bool {
        incarnation.backlog.load(Ordering::Relaxed) > self.settings.overlay_bytes_max
    }

    /// Makes entries readable and queues them for the journal, in one order for all callers.
    pub(crate) fn submit(
        &self,
        writes: Vec<QueuedWrite>,
        entries: &[LogEntry],
        hard_state: Option<HardState>,
    ) -> Result<(), Error> {
        let incarnation = self.writable()?;
        let mut queue = incarnation.queue();
        if queue.closed {
            return Err(Error::Unavailable);
        }
        let appended = self.memory.append(&mut queue, entries, hard_state);
        if appended.is_ok() {
            queue.writes.extend(writes);
        }
        drop(queue);
        appended.unwrap_or_else(|misfit| panic!("{misfit}"));
        incarnation.journal_signal.raise();
        Ok(())
    }

    /// Where apply has stopped for want of a newer program.
    pub(crate) fn outdated(&self) -> Option<Outdated> {
        *self.outdated.borrow()
    }

    /// Apply stops here, until a newer program starts on this directory: to pass over the entry would give another state
    /// than the nodes have that can read it.
    pub(crate) fn outdate(&self, outdated: Outdated) {
        tracing::error!(dir = %self.settings.dir.display(), %outdated, "apply stops");
        self.outdated.send_replace(Some(outdated));
    }

    /// An incarnation begins, and comes to where apply stops by itself.
    pub(crate) fn not_outdated_yet(&self) {
        self.outdated.send_replace(None);
    }

    /// Why nothing is applied any more; none where it is.
    pub(crate) fn halt(&self) -> Option<Error> {
        let fenced = self.fence.cause().map(|cause| cause.error());
        fenced.or_else(|| self.outdated().map(Error::Outdated))
    }

    /// Waits until nothing is applied any more, and says why.
    pub(crate) async fn halted(&self) -> Error {
        let mut outdated = self.outdated.subscribe();
        tokio::select! {
            cause = self.fence.caused() => cause.error(),
            found = outdated.wait_for(Option::is_some) => {
                let found = found.ok().and_then(|found| *found);
                Error::Outdated(found.expect("was waited for, and the sender is in here"))
            }
        }
    }

    /// The committed log entries that this program can still apply, as far as it knows.
    pub(crate) fn unapplied(&self) -> Option<Range<LogIndex>> {
        if self.outdated().is_some() { None } else { self.memory.overlay().unapplied() }
    }

    /// The last log entry applied.
    pub(crate) fn applied(&self) -> LogIndex {
        self.memory.overlay().applied.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_grow_with_the_database_up_to_an_eighth_of_what_memory_may_hold() {
        let commit_bytes = |commit_bytes, overlay_bytes_max, redb_bytes| {
            let settings = Settings { commit_bytes, overlay_bytes_max, ..Settings::new("/nowhere") };
            let shared = Shared::new(settings, Arc::new(|_| {}));
            shared.redb_bytes.store(redb_bytes, Ordering::Relaxed);
            shared.commit_bytes()
        };
        let defaults = |gib: u64| commit_bytes(2 << 20, 64 << 20, gib << 30);
        assert_eq!([0, 1, 8, 100, 1 << 20].map(defaults), [2, 4, 8, 8, 8].map(|mib| mib << 20));
        assert_eq!(commit_bytes(2 << 20, 64 << 20, (1 << 30) - 1), 2 << 20);
        assert_eq!(commit_bytes(1 << 30, 64 << 20, 0), 1 << 30, "what was asked for holds");
        assert_eq!(commit_bytes(usize::MAX, usize::MAX, u64::MAX), usize::MAX);
    }
}
