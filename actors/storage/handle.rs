//! The public handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Entry, Head, LogIndex, Lsn, Sequence, Term};
use converge_supervisors::{ChildSpec, Shutdown};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::actor::StorageActor;
use super::error::{Cause, Error, Outdated};
use super::incarnation::QueuedWrite;
use super::journal::record::{ENTRY_OVERHEAD, Op};
use super::message::Message;
use super::offload::Offload;
use super::room::{Room, leaves_from};
use super::settings::Settings;
use super::shared::Shared;
use super::types::{
    AppliedMark, ContextsPage, ContextsQuery, Done, Genesis, HardState, LogEntry, OnApplied, Page, Phase, ReadQuery,
    Recovered, Status, StreamEnd, StreamOf, StreamPage, StreamQuery,
};

/// Long enough to make the index of a large ledger anew; nothing else takes long at start-up.
const START_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How long replication waits for storage to have applied what is committed. Its own start waits longer, see
/// [`RECOVERIES_TIMEOUT`].
const RECOVER_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Longer than the start of whoever asks storage for all that it may in a start: to recover, to store a genesis, and to
/// recover again.
pub(crate) const RECOVERIES_TIMEOUT: Duration = Duration::from_secs(3 * RECOVER_TIMEOUT.as_secs() + 60);

/// Storage, from outside. Cheap to clone, made before the tree, valid across restarts.
///
/// Appends go straight to the journal's queue and reads to memory and the database; only what
/// changes the state machine passes through the actor.
#[derive(Clone, Debug)]
pub struct Storage {
    shared: Arc<Shared>,
}

impl Storage {
    /// A handle on storage that is not running yet.
    #[must_use]
    pub fn new(settings: Settings, on_applied: OnApplied) -> Storage {
        Storage { shared: Arc::new(Shared::new(settings, on_applied)) }
    }

    /// The child that runs it. Its start fails when the data directory is refused; on data loss
    /// and failing disks it runs, fenced.
    #[must_use]
    pub fn child_spec(&self) -> ChildSpec {
        let shared = Arc::clone(&self.shared);
        let make = move || (StorageActor, Arc::clone(&shared));
        ChildSpec::service("storage", &self.shared.service, make)
            .shutdown(Shutdown::Timeout(self.shared.settings.shutdown))
            .start_timeout(START_TIMEOUT)
    }

    /// What Raft starts from. Everything that was appended before is durable then, and everything
    /// known to be committed is applied.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when storage is not running; the cause when it is fenced.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        self.call(Message::Recover).await
    }

    /// Stores the genesis; durable when this returns. The same one again is fine.
    ///
    /// # Errors
    /// [`Error::Refused`] when the directory has another genesis, else as [`Storage::recover`].
    pub async fn write_genesis(&self, genesis: Genesis) -> Result<(), Error> {
        self.call(|reply| Message::WriteGenesis(genesis, reply)).await
    }

    /// Asks the actor that is there. Not the next one: a younger sibling asks in its start, and no other storage is started
    /// before that has ended.
    async fn call<R>(&self, make: impl FnOnce(oneshot::Sender<Result<R, Error>>) -> Message) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.service.try_cast(make(reply)).map_err(|_| Error::Unavailable)?;
        match timeout(RECOVER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }

    /// Puts entries at the end of the log, in place of all at or behind the first of them, and
    /// takes the hard state. The entries can be read when this returns; `done` is called, on the
    /// journal's thread and in the order of the calls, when all of it is durable.
    ///
    /// A hard state in which only the commit index is new costs no write of its own.
    ///
    /// # Errors
    /// Nothing was taken, and `done` is dropped: [`Error::Unavailable`] between incarnations, the
    /// cause when fenced, [`Error::TooLarge`].
    ///
    /// # Panics
    /// When the entries have gaps or would replace a committed one.
    pub fn append(&self, entries: Vec<LogEntry>, hard_state: Option<HardState>, done: Done) -> Result<(), Error> {
        let max = self.shared.settings.journal_record_bytes_max;
        if let Some(large) = entries.iter().find(|e| entry_weight(e) > max) {
            return Err(Error::TooLarge { index: large.index, bytes: large.data.len(), max });
        }
        let (known, commit) = {
            let overlay = self.shared.memory.overlay();
            (overlay.hard_state, overlay.commit())
        };
        let vital = hard_state.filter(|s| (s.term, s.vote) != (known.term, known.vote));
        let vital = vital.filter(|_| !planted::is(Bug::VoteUnwritten));
        // With entries, the newest commit index costs nothing, and the database may have it a minute later.
        let newest = || {
            let state = hard_state.unwrap_or(known);
            HardState { commit: state.commit.max(commit), ..state }
        };
        let state = if entries.is_empty() { vital } else { Some(newest()) };
        let writes = split(&entries, state, max, done);
        self.shared.submit(writes, &entries, hard_state)
    }

    /// Log entries `lo..hi`, as many as weigh `max_bytes`, but at least one if `lo` exists.
    ///
    /// # Errors
    /// [`Error::Unavailable`] between incarnations; [`Error::DataLoss`].
    pub fn log_entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
        self.shared.read_log(lo, hi, max_bytes)
    }

    /// Whether memory has this log entry.
    #[must_use]
    pub fn log_is_near(&self, index: LogIndex) -> bool {
        self.shared.memory.overlay().near(index).is_some()
    }

    /// What is known to be committed: it never changes again.
    #[must_use]
    pub fn log_commit(&self) -> LogIndex {
        self.shared.memory.overlay().commit()
    }

    /// As [`Storage::log_entries`], but reads no file: none where memory does not have the first of them.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn log_near(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Result<Option<Vec<LogEntry>>, Error> {
        self.shared.near_log(lo, hi, max_bytes)
    }

    /// As [`Storage::log_entries`], on a thread that may wait for a file. Entries before the first of them come with them,
    /// back to one with content.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub async fn log_fetch(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let mut entries = shared.read_before(lo)?;
            entries.extend(shared.read_log(lo, hi, max_bytes)?);
            Ok(entries)
        };
        self.offload().run(work).await
    }

    /// The term of a log entry; 0 for index 0, none behind the end.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn log_term(&self, index: LogIndex) -> Result<Option<Term>, Error> {
        self.shared.read_term(index)
    }

    /// The end of the log, durable or not; 0 before storage was recovered.
    #[must_use]
    pub fn log_last(&self) -> LogIndex {
        self.shared.memory.overlay().last()
    }

    /// Applies committed entries, in order; each is reported to `on_applied`. Those that were
    /// applied already are passed over; a gap kills the actor. An outdated program applies none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when storage is not running; the cause when it is fenced.
    pub fn apply(&self, entries: Vec<LogEntry>) -> Result<(), Error> {
        self.shared.writable()?;
        if self.shared.outdated().is_some() {
            return Ok(());
        }
        let cast = self.shared.service.try_cast(Message::Apply(entries));
        cast.map_err(|_| Error::Unavailable)
    }

    /// Reads entries of a context; an unknown context is empty.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    #[allow(clippy::needless_pass_by_value)] // callers build a query for one call
    pub fn read(&self, context: &str, query: ReadQuery) -> Result<Page, Error> {
        self.shared.read_page(context, &query)
    }

    /// As [`Storage::read`], on a thread of its own and in its turn: for a read that may look at much. Where nothing is
    /// found it goes on, but not for ever: a turn is a few reads long. The page has the latest sequence that the first saw, and shows what all did.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub async fn scan(&self, context: &str, query: ReadQuery) -> Result<Page, Error> {
        let (shared, context) = (Arc::clone(&self.shared), context.to_owned());
        let work = move || shared.scan_page(&context, query);
        self.shared.turns.run(self.offload(), work).await
    }

    /// Entries one after another, of a context or of all; on a thread of its own and in its turn, as [`Storage::scan`].
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub async fn stream(&self, query: StreamQuery) -> Result<StreamPage, Error> {
        let shared = Arc::clone(&self.shared);
        self.shared.turns.run(self.offload(), move || shared.stream_page(&query)).await
    }

    /// Where a stream ends at the moment.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn stream_end(&self, of: &StreamOf) -> Result<StreamEnd, Error> {
        self.shared.stream_end(of)
    }

    /// Contexts by name; on a thread of its own and in its turn, as [`Storage::scan`].
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub async fn contexts(&self, query: ContextsQuery) -> Result<ContextsPage, Error> {
        let shared = Arc::clone(&self.shared);
        self.shared.turns.run(self.offload(), move || shared.contexts_page(&query)).await
    }

    /// How far the state machine is.
    #[must_use]
    pub fn applied(&self) -> AppliedMark {
        self.shared.memory.overlay().applied
    }

    /// Where work goes that would hold up other tasks.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.shared.settings.offload
    }

    /// One entry, if it exists.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn entry(&self, context: &str, sequence: Sequence) -> Result<Option<Entry>, Error> {
        self.shared.entry(context, sequence)
    }

    /// The end of a context, with the log entry up to which all is in it; none if it has no entries and was never fenced.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn head_at(&self, context: &str) -> Result<(Option<Head>, LogIndex), Error> {
        self.shared.read_head_at(context)
    }

    /// The end of a context; none if it has no entries and was never fenced.
    ///
    /// # Errors
    /// As [`Storage::log_entries`].
    pub fn head(&self, context: &str) -> Result<Option<Head>, Error> {
        self.shared.read_head(context)
    }

    /// Fences the node as data loss: Raft has proof that this node lost part of its log.
    pub fn fence(&self, what: impl Into<String>) {
        self.shared.data_loss(what.into());
    }

    /// Why the node is fenced; none when it is not.
    #[must_use]
    pub fn fence_error(&self) -> Option<Error> {
        self.shared.fence.cause().map(|cause| cause.error())
    }

    /// Why nothing is applied here any more, for the node is fenced or outdated; none where it is.
    #[must_use]
    pub fn halt(&self) -> Option<Error> {
        self.shared.halt()
    }

    /// Waits until nothing is applied here any more, for the node is fenced or outdated, and returns why.
    pub async fn halted(&self) -> Error {
        self.shared.halted().await
    }

    /// Where apply has stopped, at an entry that only a newer program can read. What is handed over for apply is dropped
    /// from there on: nothing waits for it here, and a newer program finds it in the log.
    #[must_use]
    pub fn outdated(&self) -> Option<Outdated> {
        self.shared.outdated()
    }

    /// The room on the disk. Where it is not ample, nothing is to be proposed: a follower may still take what others
    /// decide, as long as its journal has room.
    #[must_use]
    pub fn room(&self) -> Room {
        self.shared.lacks.room()
    }

    /// The level of the applied state, as it moves.
    #[must_use]
    pub fn level(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.shared.level)
    }

    /// How storage is, from shared memory.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let phase = shared.phase();
        let process = *shared.process();
        let mut alarms = Vec::new();
        if let Phase::Fenced { cause } = &phase {
            alarms.push(match cause {
                Cause::DiskFull { .. } => format!("{cause}, with {} bytes free", leaves_from(&shared.settings)),
                _ => cause.to_string(),
            });
        }
        if let Phase::Outdated { outdated } = &phase {
            alarms.push(outdated.to_string());
        }
        let (room, lack) = (shared.lacks.room(), shared.lacks.other());
        alarms.extend(room.alarm(shared.settings.free_bytes_min));
        alarms.extend(lack.map(|what| format!("lacking for the moment: {what}")));
        let out = matches!(room, Room::Out { .. });
        if !out && shared.incarnations.current().is_some_and(|incarnation| shared.crowded(&incarnation)) {
            alarms.push("the disk is too slow: writers wait for the database".into());
        }
        let overlay = shared.memory.overlay();
        Status {
            phase,
            level: shared.level.load(Ordering::Acquire),
            key_window: overlay.genesis.as_ref().map(|genesis| genesis.key_window),
            applied: overlay.applied.index,
            commit: overlay.commit(),
            last: overlay.last(),
            last_position: overlay.applied.position,
            digest: overlay.applied.digest,
            journal_bytes: shared.journal_bytes.load(Ordering::Relaxed),
            segment_bytes: shared.segment_bytes.load(Ordering::Relaxed),
            redb_bytes: shared.redb_bytes.load(Ordering::Relaxed),
            overlay_bytes: overlay.bytes() as u64,
            durable_lsn: Lsn(shared.durable_lsn.load(Ordering::Acquire)),
            covered_lsn: Lsn(shared.covered_lsn.load(Ordering::Acquire)),
            store_id: process.store_id,
            boot: process.boot,
            alarms,
        }
    }
}

fn entry_weight(entry: &LogEntry) -> usize {
    entry.data.len() + 3 * ENTRY_OVERHEAD
}

/// Cuts an append into writes that each fit a journal record; the last one calls back. The hard
/// state goes first: its term covers the entries (S3).
fn split(entries: &[LogEntry], hard_state: Option<HardState>, max: usize, done: Done) -> Vec<QueuedWrite> {
    let mut writes = Vec::with_capacity(1);
    let late = hard_state.filter(|_| planted::is(Bug::HardStateLast));
    let hard_state = hard_state.filter(|_| late.is_none());
    let mut ops: Vec<Op> = hard_state.map(Op::HardState).into_iter().collect();
    let mut weight: usize = ops.iter().map(Op::weight).sum();
    let mut part: Vec<LogEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        if !part.is_empty() && weight + entry_weight(entry) > max {
            ops.push(Op::Entries(std::mem::take(&mut part)));
            writes.push(QueuedWrite { ops: std::mem::take(&mut ops), weight, done: None });
            weight = 0;
        }
        weight += entry_weight(entry);
        part.push(entry.clone());
    }
    if !part.is_empty() {
        ops.push(Op::Entries(part));
    }
    ops.extend(late.map(Op::HardState));
    writes.push(QueuedWrite { ops, weight, done: Some(done) });
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where storage died while the others of its first start came up, its successor comes when they have given up.
    #[tokio::test(start_paused = true)]
    async fn a_sibling_that_starts_does_not_wait_for_the_next_storage() {
        let storage = Storage::new(Settings::new("/nowhere"), Arc::new(|_| {}));
        let asked = timeout(Duration::from_secs(1), storage.recover()).await;
        assert!(matches!(asked, Ok(Err(Error::Unavailable))), "{asked:?}");
    }
}
