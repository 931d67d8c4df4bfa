//! Entries one after another, of a context or of the whole ledger, in either direction: what the overlay had of them first,
//! and the rest from segments and database.
//!
//! A page finds each run of entries by its place and reads it through the index, so that every entry is held against its
//! checksum (S5). It looks at no more than it gives, but for entries with other keys, and those are bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use converge_ledger_core::{Entry, Head, LogIndex, Sequence};
use redb::ReadTransaction;

use super::database::log::LogReader;
use super::database::overlay::{Generation, Overlay};
use super::database::places::PlaceReader;
use super::database::rows::{RowReader, db_head};
use super::database::tables::EntryRun;
use super::database::trouble::Trouble;
use super::page::ENTRY_BYTES_MIN;
use super::rowed::RowedEntry;
use super::segments::reader::SegmentReader;
use super::types::{AppliedMark, Direction, Ordinal, StreamEnd, StreamOf, StreamPage, StreamQuery};

/// A page takes so many runs from memory: each has an entry at least.
const RUNS_MAX: usize = 1024;

/// A page looks at so many entries, whatever its limit.
const LOOKS_MAX: usize = 4096;

/// A run of entries in the overlay, and its first sequence.
struct NearRun {
    first: u64,
    run: Arc<EntryRun>,
}

/// What the overlay has of a stream: taken before the database is looked at.
pub(crate) struct NearStream {
    applied: AppliedMark,
    /// Of the context, where the overlay has it.
    head: Option<Head>,
    /// From this place on all there is was in the overlay, and nothing of it is looked for in the database.
    begins: u64,
    /// By the place of their first entry.
    runs: BTreeMap<u64, NearRun>,
    /// The log entries of these runs that the database may not have.
    tail: BTreeMap<LogIndex, Arc<RowedEntry>>,
}

/// The end of what is read, as the overlay knows it; where that is no context's, the database does.
pub(crate) fn near_end(overlay: &Overlay, of: &StreamOf) -> (AppliedMark, Option<Ordinal>) {
    let last = match of {
        StreamOf::All => Some(Ordinal(overlay.applied.position.get())),
        StreamOf::Context(context) => overlay.head(context).map(|head| Ordinal(head.latest.get())),
    };
    (overlay.applied, last)
}

impl NearStream {
    pub(crate) fn of(overlay: &Overlay, query: &StreamQuery) -> NearStream {
        let applied = overlay.applied;
        let mut near =
            NearStream { applied, head: None, begins: u64::MAX, runs: BTreeMap::new(), tail: BTreeMap::new() };
        let last = match &query.of {
            StreamOf::All => applied.position.get(),
            StreamOf::Context(context) => {
                near.head = overlay.head(context);
                let Some(head) = near.head else { return near };
                head.latest.get()
            }
        };
        let generations: Vec<&Generation> = overlay.flushing.as_deref().into_iter().chain([&overlay.active]).collect();
        let of = near.head.map(|head| head.number.get());
        near.begins = generations.iter().filter_map(|generation| first_place(generation, of)).min().unwrap_or(u64::MAX);
        let limit = if query.limit > 0 && query.key.is_none() { query.limit.min(RUNS_MAX) } else { RUNS_MAX };
        match query.direction {
            Direction::Forwards => {
                for generation in generations {
                    near.take(places_from(generation, of, query.from.0), limit);
                }
            }
            Direction::Backwards => {
                for generation in generations.into_iter().rev() {
                    near.take(places_back(generation, of, query.from.0.min(last)), limit);
                }
            }
        }
        for NearRun { run, .. } in near.runs.values() {
            if let Some(entry) = overlay.get(run.index) {
                near.tail.insert(run.index, Arc::clone(entry));
            }
        }
        near
    }

    fn take<'g>(&mut self, runs: impl Iterator<Item = (u64, u64, &'g Arc<EntryRun>)>, limit: usize) {
        for (place, first, run) in runs.take(limit.saturating_sub(self.runs.len())) {
            self.runs.insert(place, NearRun { first, run: Arc::clone(run) });
        }
    }

    /// The page: from the database what the overlay does not have.
    pub(crate) fn page(
        &self,
        txn: &ReadTransaction,
        segments: &SegmentReader,
        query: &StreamQuery,
        scan_bytes_max: usize,
    ) -> Result<StreamPage, Trouble> {
        let last = match &query.of {
            StreamOf::All => self.applied.position.get(),
            StreamOf::Context(context) => {
                let head = self.head.map_or_else(|| db_head(txn, context), |head| Ok(Some(head)))?;
                head.map_or(0, |head| head.latest.get())
            }
        };
        let end = StreamEnd { last: Ordinal(last), applied: self.applied };
        let mut reader = StreamReader {
            query,
            near: self,
            places: PlaceReader::new(txn),
            rows: RowReader::new(LogReader::new(txn, segments), &self.tail),
            found: None,
        };
        reader.page(end, scan_bytes_max)
    }
}

/// The place of the first run that a generation has of a context, or of all.
fn first_place(generation: &Generation, of: Option<u64>) -> Option<u64> {
    match of {
        None => generation.by_position.first_key_value().map(|(position, _)| *position),
        Some(number) => generation.runs.range((number, 0)..=(number, u64::MAX)).next().map(|((_, first), _)| *first),
    }
}

/// Runs with their place and their first sequence, from the one that covers `from`, or the next one.
fn places_from(
    generation: &Generation,
    of: Option<u64>,
    from: u64,
) -> Box<dyn Iterator<Item = (u64, u64, &Arc<EntryRun>)> + '_> {
    let start = places_back(generation, of, from).next();
    let covers = start.filter(|(place, _, run)| from - place < run.entries());
    let from = covers.map_or(from, |(place, ..)| place);
    match of {
        None => Box::new(
            generation
                .by_position
                .range(from..)
                .filter_map(|(place, key)| Some((*place, key.1, generation.runs.get(key)?))),
        ),
        Some(number) => {
            let runs = generation.runs.range((number, from)..=(number, u64::MAX));
            Box::new(runs.map(|((_, first), run)| (*first, *first, run)))
        }
    }
}

/// Runs with their place and their first sequence, from the last that begins at `from` or before, backwards.
fn places_back(
    generation: &Generation,
    of: Option<u64>,
    from: u64,
) -> Box<dyn Iterator<Item = (u64, u64, &Arc<EntryRun>)> + '_> {
    match of {
        None => Box::new(
            generation
                .by_position
                .range(..=from)
                .rev()
                .filter_map(|(place, key)| Some((*place, key.1, generation.runs.get(key)?))),
        ),
        Some(number) => {
            let runs = generation.runs.range((number, 0)..=(number, from)).rev();
            Box::new(runs.map(|((_, first), run)| (*first, *first, run)))
        }
    }
}

/// A run that entries are read from: the context, the first sequence, and the place of the first entry.
struct FoundRun {
    context: String,
    first: u64,
    place: u64,
    run: Arc<EntryRun>,
}

struct StreamReader<'a> {
    query: &'a StreamQuery,
    near: &'a NearStream,
    places: PlaceReader<'a>,
    rows: RowReader<'a>,
    /// What was read from last.
    found: Option<FoundRun>,
}

impl StreamReader<'_> {
    fn page(&mut self, end: StreamEnd, scan_bytes_max: usize) -> Result<StreamPage, Trouble> {
        let StreamQuery { direction, from, limit, max_bytes, .. } = *self.query;
        let from = match direction {
            Direction::Forwards => from.max(Ordinal(1)),
            Direction::Backwards => from.min(end.last),
        };
        let mut page = StreamPage { entries: Vec::new(), next: Some(from), end };
        let (mut bytes, mut scanned, mut looks) = (0, 0, 0);
        while let Some(at) = page.next.filter(|at| *at >= Ordinal(1) && *at <= end.last) {
            let full = limit > 0 && page.entries.len() >= limit;
            if full || scanned > scan_bytes_max || looks >= LOOKS_MAX {
                return Ok(page);
            }
            let entry = match self.entry(at.0)? {
                Some(entry) => entry,
                // Memory has more than one page takes of it.
                None if looks > 0 => return Ok(page),
                None => return Err(Trouble::DataLoss(format!("there is no entry {}", at.0))),
            };
            let weight = entry.content_bytes() + ENTRY_BYTES_MIN;
            if self.query.key.as_ref().is_none_or(|key| *key == entry.key) {
                if !page.entries.is_empty() && bytes + weight > max_bytes {
                    return Ok(page);
                }
                bytes += weight;
                page.entries.push(entry);
            }
            (scanned, looks) = (scanned + weight, looks + 1);
            page.next = direction.next(at);
        }
        page.next = None;
        Ok(page)
    }

    fn entry(&mut self, at: u64) -> Result<Option<Entry>, Trouble> {
        let covers = |found: &FoundRun| at >= found.place && at - found.place < found.run.entries();
        if !self.found.as_ref().is_some_and(covers) {
            self.found = if at >= self.near.begins { self.near(at)? } else { Some(self.stored(at)?) };
        }
        let Some(found) = self.found.as_ref() else { return Ok(None) };
        let sequence = Sequence(found.first + (at - found.place));
        self.rows.entry(&found.context, found.first, &found.run, sequence).map(Some)
    }

    /// The run that covers this place, from memory; none where the page did not take it.
    fn near(&mut self, at: u64) -> Result<Option<FoundRun>, Trouble> {
        let before = self.near.runs.range(..=at).next_back();
        let covering = before.filter(|(place, near)| at - **place < near.run.entries());
        let Some((&place, NearRun { first, run })) = covering else { return Ok(None) };
        let context = match &self.query.of {
            StreamOf::Context(context) => context.clone(),
            StreamOf::All => self.rows.context_of(run.index, run.row)?,
        };
        Ok(Some(FoundRun { context, first: *first, place, run: Arc::clone(run) }))
    }

    /// The run that covers this place, from the database.
    fn stored(&mut self, at: u64) -> Result<FoundRun, Trouble> {
        match &self.query.of {
            StreamOf::Context(context) => {
                let (first, run) = self.places.by_sequence(context, Sequence(at))?;
                Ok(FoundRun { context: context.clone(), first, place: first, run: Arc::new(run) })
            }
            StreamOf::All => {
                let (index, row) = self.places.row(at)?;
                let context = self.rows.context_of(index, row)?;
                let (first, run) = self.places.by_position(&context, at)?;
                if run.index != index {
                    let what = format!("position {at} is of log entry {index}, and of {} in {context:?}", run.index);
                    return Err(Trouble::DataLoss(what));
                }
                Ok(FoundRun { context, first, place: run.position.get(), run: Arc::new(run) })
            }
        }
    }
}
