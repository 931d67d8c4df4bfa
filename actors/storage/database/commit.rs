//! What goes into the database, and the transaction that puts it there.
//!
//! A [`WriteSet`] takes the journal's operations in order, whether they come from the journal's
//! writer or from a scan at start-up, and keeps what they amount to. One transaction stores it
//! together with the rows of applied entries, so that S3 holds in every durable state. What went into segments before it
//! (`settle`) leaves the log table in it, or does not come there at all.

use std::collections::{BTreeMap, VecDeque};

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{ContextNo, KeyRow, LogIndex, Lsn, State};
use redb::{Database, Durability, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::keys;
use super::names;
use super::overlay::Generation;
use super::settle::Settled;
use super::tables::{
    BLOCKS, CONTEXTS, EntryRun, INDEX, INDEX_FORMAT, IndexBlock, LOG, META, META_COUNTS, META_GENESIS, META_PROGRESS,
    META_SECRET, META_STATE, POSITIONS, Progress, RowCounts, Spans, StateRow, block_from, block_value, head_value,
    log_rows, meta_row, meta_value, place_value, spans_value,
};
use crate::storage::journal::record::Op;
use crate::storage::segments::SegmentsEnd;
use crate::storage::types::{Genesis, LogEntry};

/// From so many rows on, inserting them through a cursor is faster.
const CURSOR_ROWS_MIN: usize = 16;

/// A position row holds at most so many spans, one log entry each as a rule.
const SPANS_MAX: usize = 64;

/// What the journal's operations since the last commit amount to.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    /// As the database has it.
    stored: Progress,
    /// As it will be; `last` includes `entries`.
    next: Progress,
    /// Without a gap, up to `next.last`.
    pub(crate) entries: VecDeque<LogEntry>,
    /// Rows of the database at or behind this are to go.
    truncate: Option<LogIndex>,
    genesis: Option<Genesis>,
    /// Weight of all operations taken.
    pub(crate) bytes: usize,
}

impl WriteSet {
    pub(crate) fn new(stored: Progress) -> WriteSet {
        WriteSet { stored, next: stored, ..WriteSet::default() }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.next
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next.covered == self.stored.covered
    }

    /// Takes the operations of one journal record.
    pub(crate) fn absorb(&mut self, lsn: Lsn, ops: Vec<Op>, weight: usize) -> Result<(), String> {
        for op in ops {
            match op {
                Op::HardState(state) => self.next.hard_state = state,
                Op::Genesis(genesis) => self.genesis = Some(genesis),
                Op::Boot(boot) => self.next.boot = self.next.boot.max(boot),
                Op::Entries(entries) => self.absorb_entries(entries)?,
            }
        }
        self.bytes += weight;
        self.next.covered = lsn;
        Ok(())
    }

    fn absorb_entries(&mut self, entries: Vec<LogEntry>) -> Result<(), String> {
        let Some(first) = entries.first().map(|e| e.index) else {
            return Ok(());
        };
        let last = self.next.last;
        if first > last.next() || first == LogIndex(0) {
            return Err(format!("log entry {first} follows {last} in the journal"));
        }
        let settled = self.stored.segments.last;
        if first <= settled {
            return Err(format!("log entry {first} replaces one of a segment, which ends at {settled}"));
        }
        let kept = self.entries.front().map_or(last.next(), |e| e.index);
        if first < kept {
            let from = self.truncate.map_or(first, |t| t.min(first));
            if first <= self.stored.last && !planted::is(Bug::StaleRows) {
                self.truncate = Some(from);
            }
            self.entries.clear();
        } else {
            let keep = usize::try_from(first.get() - kept.get()).map_err(|e| e.to_string())?;
            self.entries.truncate(keep);
        }
        self.next.last = entries.last().map_or(last, |e| e.index);
        self.entries.extend(entries);
        Ok(())
    }

    pub(crate) fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// The transaction was committed; what it held is handed back.
    pub(crate) fn stored(&mut self, progress: Progress) -> VecDeque<LogEntry> {
        self.stored = progress;
        self.next.segments = progress.segments;
        // Term, vote and commit stay as they came: what was stored of commit may have been less.
        self.truncate = None;
        self.genesis = None;
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }

    /// What to store: commit is at least what was applied, also before an index was dropped, and at most the end of the
    /// log (S3).
    fn next_progress(&self, applied: LogIndex, segments: SegmentsEnd) -> Progress {
        let mut progress = Progress { segments, ..self.next };
        let commit = progress.hard_state.commit.min(progress.last).max(applied).max(segments.last);
        assert!(commit <= progress.last, "applied {applied} is not durable, the log ends at {}", progress.last);
        progress.hard_state.commit = commit;
        if planted::is(Bug::CoveredAhead) {
            progress.covered = progress.covered.next();
        }
        progress
    }
}

/// The rows of applied entries, and the state that goes with them.
pub(crate) struct AppliedRows<'a> {
    pub(crate) state: &'a State,
    pub(crate) rows: &'a Generation,
}

/// Stores a write set, applied rows, and what went into segments, durably.
///
/// `applied` is what the database has of the state machine when there are no new rows.
pub(crate) fn commit(
    db: &Database,
    set: &WriteSet,
    applied: LogIndex,
    rows: Option<AppliedRows<'_>>,
    settled: &Settled,
) -> Result<Progress, redb::Error> {
    let applied = rows.as_ref().map_or(applied, |r| r.state.applied);
    let progress = set.next_progress(applied, settled.end);
    let txn = begin(db)?;
    store_log(&txn, set, settled)?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(META_PROGRESS, &meta_value(META_PROGRESS, &progress)[..])?;
        if let Some(genesis) = set.genesis() {
            meta.insert(META_GENESIS, &meta_value(META_GENESIS, genesis)[..])?;
        }
        if let Some(rows) = &rows {
            let mut row = StateRow { format: INDEX_FORMAT, state: rows.state.clone() };
            if planted::is(Bug::AppliedAhead) {
                row.state.applied = row.state.applied.next();
            }
            meta.insert(META_STATE, &meta_value(META_STATE, &row)[..])?;
        }
    }
    if let Some(rows) = &rows {
        let counts = store_rows(&txn, rows)?;
        txn.open_table(META)?.insert(META_COUNTS, &meta_value(META_COUNTS, &counts)[..])?;
    }
    txn.commit()?;
    Ok(progress)
}

/// Every durable transaction of this database starts here: one without quick repair would make
/// the next start walk the whole file.
pub(crate) fn begin(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate).expect("no savepoint was made in this transaction");
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    Ok(txn)
}

fn store_log(txn: &WriteTransaction, set: &WriteSet, settled: &Settled) -> Result<(), redb::Error> {
    let mut log = txn.open_table(LOG)?;
    if let Some(from) = set.truncate {
        log.retain_in((from.get(), 0).., |_, _| false)?;
    }
    let end = settled.end.last;
    if !settled.blocks.is_empty() {
        log.retain_in(..(end.next().get(), 0), |_, _| false)?;
        let mut blocks = txn.open_table(BLOCKS)?;
        for (first, place) in &settled.blocks {
            blocks.insert(first.get(), &place_value(*first, place)[..])?;
        }
    }
    let tail = set.entries.iter().filter(|entry| entry.index > end);
    let mut rows: Vec<((u64, u32), bytes::Bytes)> = Vec::with_capacity(tail.clone().count() * 2);
    for entry in tail {
        let written = log_rows(entry);
        for (n, row) in (0u32..).zip(written.rows) {
            let row = if n == 0 { [&written.prefix[..], &row[..]].concat().into() } else { row };
            rows.push(((entry.index.get(), n), row));
        }
    }
    if rows.is_empty() { Ok(()) } else { insert_at_end(&mut log, &rows) }
}

/// All of the keys are behind the last one of the table.
fn insert_at_end(
    log: &mut Table<'_, (u64, u32), &[u8]>,
    rows: &[((u64, u32), bytes::Bytes)],
) -> Result<(), redb::Error> {
    let last = log.last()?.map(|(key, _)| key.value());
    let first = rows.first().map(|(key, _)| *key);
    assert!(last < first, "log row {first:?} is not behind {last:?}");
    if rows.len() < CURSOR_ROWS_MIN {
        for (key, row) in rows {
            log.insert(key, &row[..])?;
        }
        return Ok(());
    }
    let mut cursor = log.upper_bound_mut(std::ops::Bound::Unbounded::<(u64, u32)>)?;
    for (key, row) in rows {
        match cursor.insert_before(key, &row[..]) {
            Ok(()) => {}
            Err(redb::CursorError::Storage(error)) => return Err(error.into()),
            Err(error) => panic!("log row {key:?}: {error}"),
        }
    }
    cursor.close()?;
    Ok(())
}

fn store_rows<'a>(
    txn: &WriteTransaction,
    AppliedRows { state, rows }: &AppliedRows<'a>,
) -> Result<RowCounts, redb::Error> {
    let (before, secret) = {
        let meta = txn.open_table(META)?;
        (meta_row::<RowCounts>(&meta, META_COUNTS)?, meta_row(&meta, META_SECRET)?)
    };
    let mut contexts = txn.open_table(CONTEXTS)?;
    let mut new = Vec::new();
    for (context, head) in &rows.heads {
        if contexts.insert(&context[..], &head_value(context, head)[..])?.is_none() {
            new.push(&context[..]);
        }
    }
    let mut index = txn.open_table(INDEX)?;
    let mut runs = rows.runs.iter().peekable();
    while let Some(context) = runs.peek().map(|((context, _), _)| *context) {
        let of_context = std::iter::from_fn(|| runs.next_if(|((of, _), _)| *of == context));
        store_runs(&mut index, context, of_context.map(|((_, first), run)| (*first, run.as_ref())))?;
    }
    let mut positions = txn.open_table(POSITIONS)?;
    for (first, spans) in joined(&rows.positions) {
        positions.insert(first, &spans_value(first, &spans)[..])?;
    }
    let of_context = |(&context, keys): (&u64, &'a BTreeMap<String, KeyRow>)| {
        keys.iter().map(move |(key, row)| (ContextNo(context), &key[..], row))
    };
    let keys = rows.keys.iter().filter(|_| !planted::is(Bug::KeyUnstored)).flat_map(of_context);
    Ok(RowCounts {
        contexts: contexts.len()?,
        index: index.len()?,
        positions: positions.len()?,
        keys: keys::put(txn, &secret, state, before.keys, keys)?,
        names: names::put(txn, &secret, before.names, &new)?,
    })
}

/// Position rows that run on, as few: a row for each log entry of a lone client would cost a tenth of its payload.
fn joined(positions: &BTreeMap<u64, Spans>) -> Vec<(u64, Spans)> {
    let mut rows: Vec<(u64, Spans)> = Vec::new();
    let mut due = 0;
    for (&first, spans) in positions {
        match rows.last_mut() {
            Some((_, row)) if first == due && row.0.len() + spans.0.len() <= SPANS_MAX => {
                row.0.extend_from_slice(&spans.0);
            }
            _ => rows.push((first, spans.clone())),
        }
        due = first + spans.entries();
    }
    rows
}

/// Adds runs to the end of a context: to its last block while that has room, then to new ones.
fn store_runs<'a>(
    index: &mut Table<'_, (u64, u64), &[u8]>,
    context: u64,
    runs: impl Iterator<Item = (u64, &'a EntryRun)>,
) -> Result<(), redb::Error> {
    let (mut first, mut block) = last_block(index, context)?;
    for (at, run) in runs {
        let due = first + block.entries();
        if at != due {
            return Err(redb::Error::Corrupted(format!("index of context {context} ends before {due}, not {at}")));
        }
        if block.is_full() {
            index.insert((context, first), &block_value(context, first, &block)[..])?;
            (first, block) = (at, IndexBlock::default());
        }
        block.0.push(run.clone());
    }
    index.insert((context, first), &block_value(context, first, &block)[..])?;
    Ok(())
}

/// The block at the end of a context, and its first sequence.
fn last_block(index: &Table<'_, (u64, u64), &[u8]>, context: u64) -> Result<(u64, IndexBlock), redb::Error> {
    let last = index.range((context, 0)..=(context, u64::MAX))?.next_back().transpose()?;
    let Some((key, value)) = last else {
        return Ok((1, IndexBlock::default()));
    };
    let first = key.value().1;
    let block = block_from(context, first, value.value()).map_err(redb::Error::Corrupted)?;
    Ok((first, block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::database::tables::Span;

    fn spans(index: u64, counts: &[u32]) -> Spans {
        let span = |(count, row): (&u32, u32)| Span { index: LogIndex(index), row, count: *count, chunk: false };
        Spans(counts.iter().zip(0..).map(span).collect())
    }

    #[test]
    fn position_rows_that_run_on_are_joined_up_to_the_bound() {
        let lone: BTreeMap<u64, Spans> = (1..=100).map(|at| (at, spans(at, &[1]))).collect();
        let rows = joined(&lone);
        assert_eq!(rows.iter().map(|(first, row)| (*first, row.entries())).collect::<Vec<_>>(), [(1, 64), (65, 36)]);
        assert!(rows.iter().flat_map(|(_, row)| &row.0).map(|span| span.index.get()).eq(1..=100));
    }

    #[test]
    fn position_rows_with_a_gap_between_them_stay_apart() {
        let apart = BTreeMap::from([(1, spans(1, &[2, 3])), (6, spans(2, &[1])), (9, spans(4, &[1]))]);
        let joined_row = Spans([spans(1, &[2, 3]).0, spans(2, &[1]).0].concat());
        assert_eq!(joined(&apart), [(1, joined_row), (9, spans(4, &[1]))]);
    }

    use crate::storage::types::EntryKind;
    use bytes::Bytes;
    use converge_ledger_core::Term;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Op {
        let entry =
            |index| LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Normal, data: Bytes::new() };
        Op::Entries(range.map(entry).collect())
    }

    fn shape(set: &WriteSet) -> (Option<u64>, Vec<(u64, u64)>, u64) {
        let entries = set.entries.iter().map(|e| (e.index.get(), e.term.get()));
        let truncate = set.truncate.map(LogIndex::get);
        (truncate, entries.collect(), set.next.last.get())
    }

    #[test]
    fn truncations_reach_into_the_set_and_into_the_database() {
        let stored = Progress { last: LogIndex(5), ..Progress::default() };
        let mut set = WriteSet::new(stored);
        set.absorb(Lsn(1), vec![entries(6..=8, 1)], 1).unwrap();
        assert_eq!(shape(&set), (None, vec![(6, 1), (7, 1), (8, 1)], 8));
        set.absorb(Lsn(2), vec![entries(7..=7, 2)], 1).unwrap();
        assert_eq!(shape(&set), (None, vec![(6, 1), (7, 2)], 7));
        set.absorb(Lsn(3), vec![entries(4..=4, 3)], 1).unwrap();
        assert_eq!(shape(&set), (Some(4), vec![(4, 3)], 4));
        set.absorb(Lsn(4), vec![entries(5..=6, 3)], 1).unwrap();
        assert_eq!(shape(&set), (Some(4), vec![(4, 3), (5, 3), (6, 3)], 6));
        set.absorb(Lsn(5), vec![entries(3..=3, 4)], 1).unwrap();
        assert_eq!(shape(&set), (Some(3), vec![(3, 4)], 3));
        assert!(set.absorb(Lsn(6), vec![entries(5..=5, 4)], 1).is_err());
    }
}
