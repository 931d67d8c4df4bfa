//! Applying committed entries, in memory.
//!
//! The core decides what an entry does; this module gives it a view of overlay and database, and
//! puts the effects into the overlay in one step. No transaction of the database is on this path.

use std::cell::OnceCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

use converge_ledger_core::codec::CodecError;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    Batch, Command, ContextNo, Effects, Head, IndexChunk, IndexRow, Indexed, KeyRow, View, apply as core_apply,
};
use redb::{Database, ReadTransaction, ReadableDatabase};

use super::database::keys::KeyReader;
use super::database::lent::guarded;
use super::database::overlay::Generation;
use super::database::rows::db_head;
use super::database::tables::{EntryRun, RunLayout, Span, Spans, chunk_tag, row_check};
use super::database::trouble::Trouble;
use super::error::Outdated;
use super::incarnation::Incarnation;
use super::rowed::split;
use super::shared::Shared;
use super::types::{AppliedBatch, EntryKind, LogEntry};

impl Shared {
    /// Applies entries and reports each, up to one that this program is too old for.
    pub(crate) fn apply_all(&self, incarnation: &Incarnation, entries: &[LogEntry]) -> Result<(), Trouble> {
        for entry in entries {
            let Some(batch) = self.batch_of(entry) else { return Ok(()) };
            self.apply_one(incarnation, entry, batch.as_ref(), true)?;
        }
        Ok(())
    }

    /// What an entry asks for, which may be nothing. None from an entry on that this program is too old for: apply stops
    /// there.
    pub(crate) fn batch_of(&self, entry: &LogEntry) -> Option<Option<Batch>> {
        if self.outdated().is_some() {
            return None;
        }
        match decode(entry, self.settings.batch_version_max) {
            Ok(batch) => Some(batch),
            Err(needs) => {
                self.outdate(Outdated { index: entry.index, needs });
                None
            }
        }
    }

    /// Applies an entry that was decoded to `batch`, makes its effects readable, and reports it. Not where that `may_read` no file
    /// and would have to; says so then.
    ///
    /// # Panics
    /// When the entry is not the next one; a lower one is ignored.
    pub(crate) fn apply_one(
        &self,
        incarnation: &Incarnation,
        entry: &LogEntry,
        batch: Option<&Batch>,
        may_read: bool,
    ) -> Result<bool, Trouble> {
        let Some(mut state) = self.memory.applying() else {
            return Err(Trouble::Closed);
        };
        if entry.index <= state.applied {
            return Ok(true);
        }
        let due = state.applied.next();
        assert_eq!(entry.index, due, "apply leaves a gap");
        let view = Merged::new(self);
        if !may_read && !view.is_near(batch) {
            return Ok(false);
        }
        let effects = core_apply(&mut state, &view, entry.index, batch)?;
        drop(view);
        self.level.store(state.level, Ordering::Release);
        let rows = IndexRows::of(entry, &effects);
        let applied = describe(entry, batch, &effects);
        let (added, was_empty) = state.publish(|active| put(active, effects, rows));
        // Before a commit can take the rows, and these bytes off again.
        incarnation.backlog.fetch_add(added, Ordering::Relaxed);
        drop(state);
        if was_empty {
            incarnation.redb_signal.raise();
        }
        (self.on_applied)(applied);
        Ok(true)
    }
}

fn put(active: &mut Generation, effects: Effects, rows: IndexRows) {
    for (context, head) in effects.heads {
        active.put_head(context, head);
    }
    for (context, key, row) in effects.keys {
        active.put_key(context, key, row);
    }
    for (context, first, run) in rows.runs {
        active.put_run(context, first, run);
    }
    if let Some((first, spans)) = rows.positions {
        active.put_spans(first, spans);
    }
}

/// Only a normal entry with data carries a batch. One that no program ever wrote, though its bytes are those that were
/// proposed, does nothing, on every node alike: no node proposes such ([`crate::replication`]), and what it is does not
/// change with a newer program. One that is newer does something on those nodes that know it, so it is not passed over:
///
/// # Errors
/// What this program lacks.
fn decode(entry: &LogEntry, version_max: u8) -> Result<Option<Batch>, CodecError> {
    if entry.kind != EntryKind::Normal || entry.data.is_empty() {
        return Ok(None);
    }
    let decoded = match entry.data[0] {
        found if found > version_max => Err(CodecError::Version { what: "a batch", found, known: version_max }),
        _ => Batch::decode(&entry.data),
    };
    match decoded {
        Ok(batch) => Ok(Some(batch)),
        Err(error) if error.is_newer() && !planted::is(Bug::UnknownSkipped) => Err(error),
        Err(error) => {
            tracing::error!(index = %entry.index, %error, "a log entry is no batch");
            Ok(None)
        }
    }
}

fn describe(entry: &LogEntry, batch: Option<&Batch>, effects: &Effects) -> AppliedBatch {
    let commands = batch.map_or(&[][..], |batch| &batch.commands);
    let counters = commands.iter().map(Command::counter);
    let outcomes = counters.zip(effects.outcomes.iter().cloned()).collect();
    let heads = effects.heads.iter();
    let heads = heads.map(|(context, head)| (context.clone(), head.latest));
    AppliedBatch {
        index: entry.index,
        term: entry.term,
        origin: batch.map(|batch| (batch.origin, batch.boot)),
        outcomes: Arc::new(outcomes),
        heads: Arc::new(heads.collect()),
    }
}

/// Index and position rows of one applied entry.
#[derive(Default)]
struct IndexRows {
    runs: Vec<(u64, u64, EntryRun)>,
    positions: Option<(u64, Spans)>,
}

impl IndexRows {
    /// Reads no row of an earlier log entry: a load names the chunks that it links, and that is enough.
    fn of(entry: &LogEntry, effects: &Effects) -> IndexRows {
        let Some(first) = effects.entries.first().map(|indexed| indexed.position().get()) else {
            return IndexRows::default();
        };
        let own = split(entry);
        let mut rows = IndexRows::default();
        let mut spans = Spans::default();
        for indexed in &effects.entries {
            match indexed {
                Indexed::Entry(row) => {
                    rows.add_row(row, row_check(&own[row.row as usize]));
                    add_span(&mut spans, row);
                }
                Indexed::Chunk(chunk) => {
                    let IndexChunk { index, row, count, .. } = *chunk;
                    rows.add_chunk(chunk);
                    spans.0.push(Span { index, row, count, chunk: true });
                }
            }
        }
        rows.positions = Some((first, spans));
        rows
    }

    fn add_row(&mut self, at: &IndexRow, check: [u8; 4]) {
        let IndexRow { position, index, row, .. } = *at;
        let (context, sequence) = (at.context.get(), at.sequence.get());
        let lead = at.lamport.get().wrapping_sub(sequence).cast_signed();
        if let Some((of, first, run)) = self.runs.last_mut()
            && let n = run.entries()
            && let RunLayout::Each { lead: of_run, checks } = &mut run.rows
            && (*of, *first + n, *of_run) == (context, sequence, lead)
            && (run.index, u64::from(run.row) + n) == (index, u64::from(row))
            && run.position.get() + n == position.get()
        {
            checks.push(check);
            return;
        }
        let rows = RunLayout::Each { lead, checks: vec![check] };
        self.runs.push((context, sequence, EntryRun { position, index, row, rows }));
    }

    fn add_chunk(&mut self, chunk: &IndexChunk) {
        let IndexChunk { context, first, count, position, chain, index, row } = *chunk;
        let rows = RunLayout::Chunk { count, tag: chunk_tag(&chain) };
        self.runs.push((context.get(), first.get(), EntryRun { position, index, row, rows }));
    }
}

fn add_span(spans: &mut Spans, at: &IndexRow) {
    match spans.0.last_mut() {
        Some(last) if !last.chunk && last.index == at.index && last.row + last.count == at.row => last.count += 1,
        _ => spans.0.push(Span { index: at.index, row: at.row, count: 1, chunk: false }),
    }
}

/// Overlay, then database. Valid while the state machine's lock is held: no rows leave `active`
/// then, and those being written now are kept here.
struct Merged<'a> {
    shared: &'a Shared,
    flushing: Option<Arc<Generation>>,
    db: RwLockReadGuard<'a, Option<Database>>,
    txn: OnceCell<ReadTransaction>,
    keys: OnceCell<KeyReader>,
}

impl<'a> Merged<'a> {
    fn new(shared: &'a Shared) -> Self {
        let flushing = shared.memory.overlay().flushing.clone();
        Merged { shared, flushing, db: shared.db.borrow(), txn: OnceCell::new(), keys: OnceCell::new() }
    }

    /// Whether applying it reads no file and does not loop over what was staged before.
    fn is_near(&self, batch: Option<&Batch>) -> bool {
        batch.into_iter().flat_map(|batch| &batch.commands).all(|command| match command {
            Command::Append(append) => {
                append.idempotency_key.is_none() && self.near_head(&append.entry.context_id).is_some()
            }
            Command::Transact(transact) => {
                transact.idempotency_key.is_none()
                    && transact.contexts().all(|context_id| self.near_head(context_id).is_some())
            }
            Command::Fence(fence) => self.near_head(&fence.context_id).is_some(),
            Command::Stage(_) | Command::Load(_) => false,
        })
    }

    /// The head of a context, where it is in memory.
    fn near_head(&self, context_id: &str) -> Option<Head> {
        let active = self.shared.memory.overlay().active.heads.get(context_id).copied();
        active.or_else(|| self.flushing.as_ref()?.heads.get(context_id).copied())
    }

    fn with_db<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Trouble>) -> Result<T, Trouble> {
        guarded(|| {
            if self.txn.get().is_none() {
                let db = self.db.as_ref().ok_or(Trouble::Closed)?;
                let _ = self.txn.set(db.begin_read()?);
            }
            read(self.txn.get().expect("was just set"))
        })
    }

    fn db_key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Trouble> {
        self.with_db(|txn| {
            if self.keys.get().is_none() {
                let _ = self.keys.set(KeyReader::new(txn)?);
            }
            Ok(self.keys.get().expect("was just set").key(context, key)?)
        })
    }
}

impl View for Merged<'_> {
    type Error = Trouble;

    fn head(&self, context_id: &str) -> Result<Option<Head>, Trouble> {
        match self.near_head(context_id) {
            Some(head) => Ok(Some(head)),
            None if planted::is(Bug::SequenceGap) => {
                let head = self.with_db(|txn| db_head(txn, context_id))?;
                Ok(head.map(|head| Head { latest: head.latest.next(), ..head }))
            }
            None => self.with_db(|txn| db_head(txn, context_id)),
        }
    }

    fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Trouble> {
        let active = self.shared.memory.overlay().active.key(context, key);
        let flushing = || self.flushing.as_ref()?.key(context, key);
        match active.or_else(flushing) {
            Some(row) => Ok(Some(row)),
            None => self.db_key(context, key),
        }
    }
}
