//! What the database does not have yet: the tail of the log, and the rows of entries applied since
//! its last commit.
//!
//! Readers look here first and in the database second; a row may move from here to there in
//! between and is then seen twice, never not at all. Owns no file and no thread. Its size is
//! bounded by those that add to it, see `Shared::crowded`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use converge_ledger_core::{ContextNo, Head, KeyRow, LogIndex, Term};

use super::kept::KeptEntries;
use super::tables::{EntryRun, Spans};
use crate::storage::rowed::RowedEntry;
use crate::storage::types::{AppliedMark, Genesis, HardState, LogEntry};

/// Rough cost of a row in memory besides its text.
const ROW_BYTES: usize = 96;

/// Rows of applied entries, as one commit of the database takes them.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    pub(crate) heads: BTreeMap<String, Head>,
    pub(crate) keys: BTreeMap<u64, BTreeMap<String, KeyRow>>,
    /// By context and first sequence.
    pub(crate) runs: BTreeMap<(u64, u64), Arc<EntryRun>>,
    /// The same, as keys of `runs`, by the position of their first entry.
    pub(crate) by_position: BTreeMap<u64, (u64, u64)>,
    pub(crate) positions: BTreeMap<u64, Spans>,
    pub(crate) bytes: usize,
}

impl Generation {
    pub(crate) fn key(&self, context: ContextNo, key: &str) -> Option<KeyRow> {
        self.keys.get(&context.get())?.get(key).copied()
    }

    pub(crate) fn put_head(&mut self, context: String, head: Head) {
        self.bytes += ROW_BYTES + context.len();
        self.heads.insert(context, head);
    }

    pub(crate) fn put_key(&mut self, context: ContextNo, key: String, row: KeyRow) {
        self.bytes += ROW_BYTES + key.len();
        let keys = self.keys.entry(context.get()).or_default();
        keys.insert(key, row);
    }

    pub(crate) fn put_run(&mut self, context: u64, first: u64, run: EntryRun) {
        self.bytes += ROW_BYTES + run.weight();
        self.by_position.insert(run.position.get(), (context, first));
        self.runs.insert((context, first), Arc::new(run));
    }

    pub(crate) fn put_spans(&mut self, first: u64, spans: Spans) {
        self.bytes += ROW_BYTES + spans.0.len() * 16;
        self.positions.insert(first, spans);
    }
}

/// The shared memory of one incarnation of storage.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// Index of the first entry of the tail; everything below is in the database or a segment, and nothing of
    /// the database at or above it counts.
    first: u64,
    /// The entries before `first`.
    kept: KeptEntries,
    tail: VecDeque<Arc<RowedEntry>>,
    tail_bytes: usize,
    pub(crate) active: Generation,
    pub(crate) flushing: Option<Arc<Generation>>,
    /// The newest that was handed in, durable or not.
    pub(crate) hard_state: HardState,
    pub(crate) applied: AppliedMark,
    pub(crate) genesis: Option<Genesis>,
}

impl Overlay {
    /// All of the log is in the database, up to `last`.
    pub(crate) fn new(
        last: LogIndex,
        hard_state: HardState,
        applied: AppliedMark,
        genesis: Option<Genesis>,
    ) -> Overlay {
        Overlay { first: last.get() + 1, hard_state, applied, genesis, ..Overlay::default() }
    }

    /// The end of the log, durable or not.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex((self.first + self.tail.len() as u64).saturating_sub(1))
    }

    /// The first index that is not to be read from the database.
    pub(crate) fn first(&self) -> LogIndex {
        LogIndex(self.first)
    }

    /// The first index that need not be read from there.
    pub(crate) fn near_first(&self) -> LogIndex {
        self.kept.first().unwrap_or(self.first())
    }

    /// The end of the log as it was recovered, and how much of it stays in memory after a commit.
    pub(crate) fn keep(&mut self, kept: KeptEntries) {
        self.kept = kept;
    }

    /// What is known to be committed here.
    pub(crate) fn commit(&self) -> LogIndex {
        let known = self.hard_state.commit.min(self.last());
        known.max(self.applied.index)
    }

    /// The head of a context that grew since the last commit.
    pub(crate) fn head(&self, context: &str) -> Option<Head> {
        let active = self.active.heads.get(context);
        let flushing = || self.flushing.as_ref()?.heads.get(context);
        active.or_else(flushing).copied()
    }

    /// What is known to be committed and not applied yet; none when all is.
    pub(crate) fn unapplied(&self) -> Option<Range<LogIndex>> {
        (self.applied.index < self.commit()).then(|| self.applied.index.next()..self.commit().next())
    }

    pub(crate) fn bytes(&self) -> usize {
        let flushing = self.flushing.as_ref().map_or(0, |g| g.bytes);
        self.tail_bytes + self.active.bytes + flushing
    }

    /// Why these entries may not follow; a bug of the caller.
    pub(crate) fn misfit(&self, entries: &[LogEntry]) -> Option<String> {
        let first = entries.first()?.index;
        if first <= self.commit() {
            let commit = self.commit();
            return Some(format!("log entry {first} is committed (up to {commit})"));
        }
        if first > self.last().next() {
            let last = self.last();
            return Some(format!("log entry {first} leaves a gap behind {last}"));
        }
        let gap = entries.windows(2).find(|w| w[1].index != w[0].index.next());
        gap.map(|w| format!("log entry {} is followed by {}", w[0].index, w[1].index))
    }

    /// Puts entries at the end of the log, in place of all at or behind the first of them (S4).
    pub(crate) fn append(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first().map(|e| e.index.get()) else {
            return;
        };
        if first < self.first {
            self.first = first;
            self.kept.cut(LogIndex(first));
            self.tail.clear();
            self.tail_bytes = 0;
        }
        let keep = usize::try_from(first - self.first).expect("fits memory");
        for gone in self.tail.drain(keep..) {
            self.tail_bytes -= gone.entry.weight();
        }
        for entry in entries {
            self.tail_bytes += entry.weight();
            self.tail.push_back(RowedEntry::new(entry.clone()));
        }
    }

    /// The term of an entry that is here, or was here a short time ago.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        self.near(index).map(|found| found.entry.term)
    }

    /// An entry that is here, or was here a short time ago.
    pub(crate) fn near(&self, index: LogIndex) -> Option<&Arc<RowedEntry>> {
        if index < self.first() { self.kept.get(index) } else { self.get(index) }
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Arc<RowedEntry>> {
        let at = index.get().checked_sub(self.first)?;
        self.tail.get(usize::try_from(at).ok()?)
    }

    /// The rows in `active` go to the database now; they stay readable.
    pub(crate) fn begin_flush(&mut self) -> Arc<Generation> {
        assert!(self.flushing.is_none(), "two commits at once");
        let generation = Arc::new(std::mem::take(&mut self.active));
        self.flushing = Some(Arc::clone(&generation));
        generation
    }

    /// The database has the generation and these log entries. Entries that were replaced in the
    /// meantime stay. What left is handed back, to be freed without the lock.
    pub(crate) fn end_flush(&mut self, written: &VecDeque<LogEntry>) -> impl Send + use<> {
        let generation = self.flushing.take();
        let mut gone = Vec::new();
        let skip = written.front().map_or(0, |e| self.first.saturating_sub(e.index.get()));
        for entry in written.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            let same = self.tail.front().is_some_and(|t| t.entry.index == entry.index && t.entry.term == entry.term);
            if !same {
                break;
            }
            self.tail_bytes -= entry.weight();
            self.first += 1;
            let left = self.tail.pop_front().expect("was just looked at");
            self.kept.push(left, self.applied.index, &mut gone);
        }
        (generation, gone)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::types::EntryKind;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Normal, data: Bytes::new() }
    }

    #[test]
    fn a_new_tail_replaces_what_stood_there() {
        let mut overlay = Overlay::new(LogIndex(3), HardState::default(), AppliedMark::default(), None);
        overlay.append(&[entry(4, 1), entry(5, 1)]);
        overlay.append(&[entry(5, 2)]);
        assert_eq!(overlay.last(), LogIndex(5));
        assert_eq!(overlay.get(LogIndex(5)).unwrap().entry.term, Term(2));
        overlay.append(&[entry(2, 3)]);
        assert_eq!((overlay.first(), overlay.last()), (LogIndex(2), LogIndex(2)));
        assert_eq!(overlay.bytes(), entry(2, 3).weight());
    }

    #[test]
    fn a_flush_takes_away_only_what_it_wrote() {
        let mut overlay = Overlay::new(LogIndex(0), HardState::default(), AppliedMark::default(), None);
        let written: VecDeque<_> = (1..=4).map(|i| entry(i, 1)).collect();
        overlay.append(&written.clone().into_iter().collect::<Vec<_>>());
        overlay.begin_flush();
        overlay.append(&[entry(3, 2)]);
        drop(overlay.end_flush(&written));
        assert_eq!((overlay.first(), overlay.last()), (LogIndex(3), LogIndex(3)));
        overlay.begin_flush();
        drop(overlay.end_flush(&[entry(3, 2)].into()));
        assert_eq!((overlay.first(), overlay.last()), (LogIndex(4), LogIndex(3)));
        assert_eq!(overlay.bytes(), 0);
    }

    #[test]
    fn entries_that_left_stay_near_up_to_the_bound_and_are_forgotten_when_they_are_replaced() {
        let applied = AppliedMark { index: LogIndex(3), ..AppliedMark::default() };
        let mut overlay = Overlay::new(LogIndex(3), HardState::default(), applied, None);
        let weight = entry(4, 1).weight();
        overlay.keep(KeptEntries::new(vec![RowedEntry::new(entry(3, 1))], 2 * weight));
        assert_eq!((overlay.term(LogIndex(3)), overlay.near_first()), (Some(Term(1)), LogIndex(3)));
        let written: VecDeque<_> = [entry(4, 1), entry(5, 2)].into();
        overlay.append(&written.clone().into_iter().collect::<Vec<_>>());
        overlay.begin_flush();
        drop(overlay.end_flush(&written));
        assert_eq!((overlay.term(LogIndex(4)), overlay.term(LogIndex(5))), (Some(Term(1)), Some(Term(2))));
        assert_eq!((overlay.term(LogIndex(3)), overlay.near_first()), (None, LogIndex(4)), "there is room for two");
        let more: VecDeque<_> = [entry(6, 2), entry(7, 2)].into();
        overlay.append(&more.clone().into_iter().collect::<Vec<_>>());
        overlay.begin_flush();
        drop(overlay.end_flush(&more));
        assert_eq!(overlay.near_first(), LogIndex(4), "what is not applied stays");
        overlay.append(&[entry(6, 3)]);
        assert_eq!((overlay.term(LogIndex(5)), overlay.term(LogIndex(6))), (Some(Term(2)), Some(Term(3))));
        overlay.append(&[entry(5, 4)]);
        assert_eq!((overlay.term(LogIndex(4)), overlay.term(LogIndex(5))), (Some(Term(1)), Some(Term(4))));
        overlay.append(&[entry(4, 5)]);
        assert_eq!((overlay.term(LogIndex(4)), overlay.near_first()), (Some(Term(5)), LogIndex(4)));
        overlay.begin_flush();
        drop(overlay.end_flush(&[entry(4, 5)].into()));
        assert_eq!(overlay.bytes(), 0, "what is kept does not wait for the database");
        assert_eq!(overlay.term(LogIndex(4)), Some(Term(5)));
    }

    #[test]
    fn committed_entries_gaps_and_holes_do_not_fit() {
        let hard_state = HardState { commit: LogIndex(2), ..HardState::default() };
        let overlay = Overlay::new(LogIndex(3), hard_state, AppliedMark::default(), None);
        assert!(overlay.misfit(&[entry(2, 1)]).is_some());
        assert!(overlay.misfit(&[entry(5, 1)]).is_some());
        assert!(overlay.misfit(&[entry(4, 1), entry(6, 1)]).is_some());
        assert!(overlay.misfit(&[entry(3, 1), entry(4, 1)]).is_none());
    }
}
