//! Reading: the overlay first, then segments and database, merged.
//!
//! Readers never pass through the actor's mailbox and keep the database only for one read (S6).
//! Every row is checked against its checksum, and every run of entries against the one in front of
//! it: what does not fit is data loss, and fences the node (S5).

use std::collections::VecDeque;

use converge_ledger_core::{Entry, Head, LogIndex, Sequence, Term};
use redb::ReadTransaction;

use super::contexts::NearContexts;
use super::database::kept::{KeptEntries, UNAPPLIED_TIMES};
use super::database::log::LogReader;
use super::database::rows::db_head;
use super::database::trouble::{READING, Trouble, redb_cause};
use super::error::{Cause, Error};
use super::page::Near;
use super::rowed::RowedEntry;
use super::shared::Shared;
use super::stream::{NearStream, near_end};
use super::types::{
    ContextsPage, ContextsQuery, LogEntry, Ordinal, Page, ReadQuery, StreamEnd, StreamOf, StreamPage, StreamQuery,
};

/// Entries without content that are looked through for the last one with content: elections without an append between them.
const END_MAX: usize = 64;

/// A turn of a reader that finds nothing is so many reads long.
const SCAN_READS_MAX: usize = 8;

/// The entries in front of one, back to one with content; `read` gives the one at an index.
fn back_to_content<E>(
    index: LogIndex,
    mut read: impl FnMut(LogIndex) -> Result<Vec<LogEntry>, E>,
) -> Result<VecDeque<LogEntry>, E> {
    let mut entries: VecDeque<LogEntry> = VecDeque::new();
    for at in (1..index.get()).rev().take(END_MAX).map(LogIndex) {
        read(at)?.into_iter().for_each(|entry| entries.push_front(entry));
        if entries.front().is_some_and(|entry| !entry.data.is_empty()) {
            break;
        }
    }
    Ok(entries)
}

impl Shared {
    /// What a reader is told, after the node fenced itself if it has to.
    fn trouble(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::DataLoss(what) => self.data_loss(what),
            Trouble::Newer(what) => self.fence(Cause::NewerFormat { what }),
            Trouble::Io(error) => self.fence(Cause::of(READING, &error)),
            Trouble::Passing(what) => Error::Passing(what),
            Trouble::Redb(error) => self.fence(redb_cause("reading the database", &error)),
            Trouble::Closed => self.fence.cause().map_or(Error::Unavailable, |cause| cause.error()),
        }
    }

    pub(crate) fn read_head(&self, context: &str) -> Result<Option<Head>, Error> {
        self.read_head_at(context).map(|(head, _)| head)
    }

    /// With the log entry up to which it knows all.
    pub(crate) fn read_head_at(&self, context: &str) -> Result<(Option<Head>, LogIndex), Error> {
        self.readable()?;
        let overlay = self.memory.overlay();
        let (near, applied) = (overlay.head(context), overlay.applied.index);
        drop(overlay);
        let head = match near {
            Some(head) => Some(head),
            None => self.db.read(|txn| db_head(txn, context)).map_err(|t| self.trouble(t))?,
        };
        Ok((head, applied))
    }

    /// See [`super::Storage::log_entries`].
    pub(crate) fn read_log(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
        self.readable()?;
        let (first, last, mut tail) = self.tail(from, to, max_bytes);
        let end = to.min(last.next());
        let mut entries = Vec::new();
        if from < first.min(end) {
            let below = first.min(end);
            let read = |txn: &ReadTransaction| LogReader::new(txn, &self.segments).entries(from, below, max_bytes);
            entries = self.db.read(read).map_err(|t| self.trouble(t))?;
            if entries.len() as u64 != below.get() - from.get() {
                return Ok(entries);
            }
            let mut left = max_bytes.saturating_sub(entries.iter().map(LogEntry::weight).sum());
            let more = tail.iter().take_while(|entry| {
                let fits = left >= entry.weight();
                left = left.saturating_sub(entry.weight());
                fits
            });
            tail.truncate(more.count());
        }
        entries.extend(tail);
        Ok(entries)
    }

    /// Keeps the end of the log in memory, from the last entry with content on, and what is not known to be committed:
    /// whoever leads next starts there.
    pub(crate) fn keep_end(&self) -> Result<(), Trouble> {
        let (last, commit) = {
            let overlay = self.memory.overlay();
            (overlay.last(), overlay.commit())
        };
        let entries = self.db.read(|txn| {
            let mut reader = LogReader::new(txn, &self.segments);
            let mut entries = back_to_content(last.next(), |at| reader.entries(at, at.next(), 0))?;
            let first = entries.front().map_or(last.next(), |entry: &LogEntry| entry.index);
            let (mut more, mut bytes) = (Vec::new(), 0);
            let mut at = commit.next();
            while at < first && bytes <= self.settings.kept_bytes * UNAPPLIED_TIMES {
                let found = reader.entries(at, first, self.settings.kept_bytes)?;
                bytes += found.iter().map(LogEntry::weight).sum::<usize>();
                at = LogIndex(at.get() + found.len() as u64);
                more.extend(found);
            }
            if at >= first {
                more.into_iter().rev().for_each(|entry| entries.push_front(entry));
            }
            Ok(entries.into_iter().map(RowedEntry::new).collect::<VecDeque<_>>())
        })?;
        self.memory.keep(KeptEntries::new(entries.into(), self.settings.kept_bytes));
        Ok(())
    }

    /// The entries in front of one, back to one with content.
    pub(crate) fn read_before(&self, index: LogIndex) -> Result<Vec<LogEntry>, Error> {
        back_to_content(index, |at| self.read_log(at, at.next(), 0)).map(Vec::from)
    }

    /// As [`Shared::read_log`], where memory has the first of them.
    pub(crate) fn near_log(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: usize,
    ) -> Result<Option<Vec<LogEntry>>, Error> {
        self.readable()?;
        let (first, _, tail) = self.tail(from, to, max_bytes);
        Ok((from >= first).then_some(tail))
    }

    /// From where on memory has the log, where that ends, and what of it is asked for.
    fn tail(&self, from: LogIndex, to: LogIndex, max: usize) -> (LogIndex, LogIndex, Vec<LogEntry>) {
        let overlay = self.memory.overlay();
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut at = from.max(overlay.near_first());
        while at < to
            && let Some(found) = overlay.near(at)
        {
            bytes += found.entry.weight();
            if bytes > max && !entries.is_empty() {
                break;
            }
            entries.push(found.entry.clone());
            at = at.next();
        }
        (overlay.near_first(), overlay.last(), entries)
    }

    pub(crate) fn read_term(&self, index: LogIndex) -> Result<Option<Term>, Error> {
        if index == LogIndex(0) {
            return Ok(Some(Term(0)));
        }
        self.readable()?;
        let overlay = self.memory.overlay();
        if index > overlay.last() {
            return Ok(None);
        }
        let known = overlay.term(index);
        if known.is_some() || index >= overlay.first() {
            return Ok(known);
        }
        drop(overlay);
        let term = self.db.read(|txn| LogReader::new(txn, &self.segments).term(index)).map_err(|t| self.trouble(t))?;
        Ok(Some(term))
    }

    /// See [`super::Storage::read`].
    /// A page with something in it, if that is found within a few reads.
    pub(crate) fn scan_page(&self, context: &str, mut query: ReadQuery) -> Result<Page, Error> {
        let mut page = self.read_page(context, &query)?;
        for _ in 1..SCAN_READS_MAX {
            if !page.entries.is_empty() || !page.truncated || page.next_after <= query.after {
                break;
            }
            query.after = page.next_after;
            let next = self.read_page(context, &query)?;
            // Storage may have restarted between the two, and have to apply again what the first one showed.
            let (applied, position) = (page.applied.min(next.applied), page.position.min(next.position));
            page = Page { latest: page.latest, applied, position, ..next };
        }
        Ok(page)
    }

    /// See [`super::Storage::stream`].
    pub(crate) fn stream_page(&self, query: &StreamQuery) -> Result<StreamPage, Error> {
        self.readable()?;
        let near = NearStream::of(&self.memory.overlay(), query);
        let read = |txn: &ReadTransaction| near.page(txn, &self.segments, query, self.settings.scan_bytes_max);
        self.db.read(read).map_err(|t| self.trouble(t))
    }

    /// See [`super::Storage::stream_end`].
    pub(crate) fn stream_end(&self, of: &StreamOf) -> Result<StreamEnd, Error> {
        self.readable()?;
        let (applied, last) = near_end(&self.memory.overlay(), of);
        let last = match (last, of) {
            (Some(last), _) => last,
            (None, StreamOf::Context(context)) => Ordinal(self.read_head(context)?.map_or(0, |head| head.latest.get())),
            (None, StreamOf::All) => Ordinal(applied.position.get()),
        };
        Ok(StreamEnd { last, applied })
    }

    /// See [`super::Storage::contexts`].
    pub(crate) fn contexts_page(&self, query: &ContextsQuery) -> Result<ContextsPage, Error> {
        self.readable()?;
        let near = NearContexts::of(&self.memory.overlay(), query);
        self.db.read(|txn| near.page(txn, query)).map_err(|t| self.trouble(t))
    }

    pub(crate) fn read_page(&self, context: &str, query: &ReadQuery) -> Result<Page, Error> {
        self.readable()?;
        let scan_bytes_max = self.settings.scan_bytes_max;
        let near = Near::of(&self.memory.overlay(), context, query, scan_bytes_max);
        let read = |txn: &ReadTransaction| near.page(txn, &self.segments, context, query, scan_bytes_max);
        self.db.read(read).map_err(|t| self.trouble(t))
    }

    /// See [`super::Storage::entry`].
    pub(crate) fn entry(&self, context: &str, sequence: Sequence) -> Result<Option<Entry>, Error> {
        let Some(before) = sequence.get().checked_sub(1) else {
            return Ok(None);
        };
        let query = ReadQuery { after: Sequence(before), limit: 1, key: None, max_bytes: usize::MAX };
        let page = self.read_page(context, &query)?;
        Ok(page.entries.into_iter().next())
    }
}
