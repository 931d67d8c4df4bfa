//! Reading: the overlay first, then the database, merged.
//!
//! Readers never pass through the actor's mailbox and keep the database only for one read (S6).
//! Every row is checked against its checksum, and every run of entries against the one in front of
//! it: what does not fit is data loss, and fences the node (S5).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    ContextNo, Entry, Head, KeyRow, LogIndex, Position, Sequence, Stage, Term, row_chunk, row_entry,
};
use redb::{ReadTransaction, ReadableDatabase};

use super::absent;
use super::error::{Cause, Error};
use super::overlay::TailEntry;
use super::shared::Shared;
use super::tables::{
    CONTEXTS, INDEX, KEYS, LOG, LogPrefix, Rows, Run, block_from, chunk_tag, head_from, join, key_from, lamport,
    parse_row0, row_check, run_covers,
};
use super::types::{LogEntry, Page, ReadQuery};

/// What an entry weighs besides its texts and bytes.
const ENTRY_BYTES_MIN: usize = 64;

/// Why something could not be read.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Not the bytes that were written.
    DataLoss(String),
    /// The database says so.
    Redb(redb::Error),
    /// The database is closed at the moment, or will be.
    Closed,
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Trouble::DataLoss(format!("the database: {what}")),
            // It refuses everything since a failure, and whoever met that one fences for what it was.
            redb::Error::PreviousIo => Trouble::Closed,
            other => Trouble::Redb(other),
        }
    }
}

/// The cause that a failure of the database amounts to.
pub(crate) fn redb_cause(what: &str, error: &redb::Error) -> Cause {
    match error {
        redb::Error::Io(error) => Cause::of(what, error),
        redb::Error::Corrupted(found) => Cause::DataLoss { what: format!("{what}: {found}") },
        other => Cause::Io { what: what.to_owned(), error: other.to_string() },
    }
}

impl Shared {
    /// What a reader is told, after the node fenced itself if it has to.
    fn trouble(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::DataLoss(what) => self.data_loss(what),
            Trouble::Redb(error) => self.fence(redb_cause("reading the database", &error)),
            Trouble::Closed => self.fenced().map_or(Error::Unavailable, |cause| cause.error()),
        }
    }

    /// Borrows a snapshot of the database for one read. A panic inside redb means that its pages
    /// are damaged: it trusts them.
    pub(crate) fn with_db<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(Trouble::Closed)?;
        catch_unwind(AssertUnwindSafe(|| read(&db.begin_read()?)))
            .unwrap_or_else(|_| Err(Trouble::DataLoss("the database: a page is damaged".into())))
    }

    pub(crate) fn read_head(&self, context: &str) -> Result<Option<Head>, Error> {
        self.readable()?;
        if let Some(head) = self.overlay_head(context) {
            return Ok(Some(head));
        }
        self.with_db(|txn| db_head(txn, context)).map_err(|t| self.trouble(t))
    }

    fn overlay_head(&self, context: &str) -> Option<Head> {
        let overlay = self.overlay();
        let active = overlay.active.heads.get(context);
        let flushing = || overlay.flushing.as_ref()?.heads.get(context);
        active.or_else(flushing).copied()
    }

    /// See [`super::Storage::log_entries`].
    pub(crate) fn read_log(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
        self.readable()?;
        let (first, last, mut tail) = self.tail(from, to, max_bytes);
        let end = to.min(last.next());
        let mut entries = Vec::new();
        if from < first.min(end) {
            let below = first.min(end);
            let read = |txn: &ReadTransaction| db_log(txn, from, below, max_bytes);
            entries = self.with_db(read).map_err(|t| self.trouble(t))?;
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

    /// The bounds of the tail and what of it is asked for.
    fn tail(&self, from: LogIndex, to: LogIndex, max: usize) -> (LogIndex, LogIndex, Vec<LogEntry>) {
        let overlay = self.overlay();
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut at = from.max(overlay.first());
        while at < to
            && let Some(found) = overlay.get(at)
        {
            bytes += found.entry.weight();
            if bytes > max && !entries.is_empty() {
                break;
            }
            entries.push(found.entry.clone());
            at = at.next();
        }
        (overlay.first(), overlay.last(), entries)
    }

    pub(crate) fn read_term(&self, index: LogIndex) -> Result<Option<Term>, Error> {
        if index == LogIndex(0) {
            return Ok(Some(Term(0)));
        }
        self.readable()?;
        let overlay = self.overlay();
        if index > overlay.last() {
            return Ok(None);
        }
        let known = overlay.term(index);
        if known.is_some() || index >= overlay.first() {
            return Ok(known);
        }
        drop(overlay);
        let prefix = self.with_db(|txn| Ok(db_row0(txn, index)?.0));
        Ok(Some(prefix.map_err(|t| self.trouble(t))?.term))
    }

    /// See [`super::Storage::read`].
    pub(crate) fn read_page(&self, context: &str, query: &ReadQuery) -> Result<Page, Error> {
        self.readable()?;
        let after = query.after;
        let near = self.overlay_runs(context, query);
        let read = self.with_db(|txn| {
            let head = match near.head {
                Some(head) => head,
                None => match db_head(txn, context)? {
                    Some(head) => head,
                    None => return Ok(Page::default()),
                },
            };
            let mut reader = PageReader {
                txn,
                context,
                head,
                near: &near,
                query,
                scan_bytes_max: self.settings.scan_bytes_max,
                page: Page { latest: head.latest, next_after: after.min(head.latest).max(after), ..Page::default() },
                rows: RowReader::new(txn, &near.tail),
                bytes: 0,
                scanned: 0,
            };
            reader.run()?;
            Ok(reader.page)
        });
        let page = read.map_err(|t| self.trouble(t))?;
        Ok(Page { applied: near.applied, ..page })
    }

    /// What the overlay has of a context: taken before the database is looked at.
    fn overlay_runs(&self, context: &str, query: &ReadQuery) -> Near {
        let runs_max = match (query.limit, &query.key) {
            (0, _) | (_, Some(_)) => self.settings.scan_bytes_max / ENTRY_BYTES_MIN,
            (limit, None) => limit,
        };
        let overlay = self.overlay();
        let flushing = overlay.flushing.as_deref();
        let mut near = Near { applied: overlay.applied.index, ..Near::default() };
        let of_active = overlay.active.heads.get(context);
        near.head = of_active.or_else(|| flushing?.heads.get(context)).copied();
        let Some(head) = near.head else {
            return near;
        };
        let number = head.number.get();
        for generation in flushing.into_iter().chain([&overlay.active]) {
            let of_context = generation.runs.range((number, 0)..=(number, u64::MAX));
            for (&(_, first), run) in of_context {
                if first + run.entries() <= query.after.get().saturating_add(1) {
                    continue;
                }
                if near.runs.len() > runs_max {
                    near.cut = true;
                    break;
                }
                near.runs.insert(first, Arc::clone(run));
            }
        }
        for run in near.runs.values() {
            if let Some(entry) = overlay.get(run.index) {
                near.tail.insert(run.index, Arc::clone(entry));
            }
        }
        near
    }
}

/// What the overlay knew of a context at the start of a read.
#[derive(Debug, Default)]
struct Near {
    /// What was applied at that moment.
    applied: LogIndex,
    head: Option<Head>,
    /// By first sequence.
    runs: BTreeMap<u64, Arc<Run>>,
    /// There were more runs than the query can need.
    cut: bool,
    /// The log entries of these runs that the database may not have.
    tail: BTreeMap<LogIndex, Arc<TailEntry>>,
}

struct PageReader<'a> {
    txn: &'a ReadTransaction,
    context: &'a str,
    head: Head,
    near: &'a Near,
    query: &'a ReadQuery,
    scan_bytes_max: usize,
    page: Page,
    rows: RowReader<'a>,
    bytes: usize,
    scanned: usize,
}

impl PageReader<'_> {
    fn run(&mut self) -> Result<(), Trouble> {
        let near_first = self.near.runs.keys().next().copied().unwrap_or(u64::MAX);
        let latest = self.head.latest.get();
        if self.due() <= latest && self.due() < near_first {
            let table = self.txn.open_table(INDEX)?;
            let number = self.head.number.get();
            let start = table
                .range((number, 0)..=(number, self.due()))?
                .next_back()
                .transpose()?
                .map_or(1, |(key, _)| key.value().1);
            for row in table.range((number, start)..=(number, latest))? {
                let (key, value) = row?;
                let first = key.value().1;
                if first >= near_first {
                    break;
                }
                let block = block_from(number, first, value.value()).map_err(Trouble::DataLoss)?;
                for (first, run) in block.runs(first).take_while(|(first, _)| *first < near_first) {
                    if !self.take_run(first, run)? {
                        return Ok(());
                    }
                }
            }
        }
        let near = self.near;
        for (&first, run) in &near.runs {
            if !self.take_run(first, run)? {
                return Ok(());
            }
        }
        if self.due() <= latest && (self.full() || near.cut) {
            self.page.truncated = true;
        } else if self.due() <= latest {
            return Err(Trouble::DataLoss(format!(
                "context {:?} ends at {}, not at {latest}",
                self.context, self.page.next_after
            )));
        }
        Ok(())
    }

    /// The next sequence to look at.
    fn due(&self) -> u64 {
        self.page.next_after.get().saturating_add(1)
    }

    /// Takes what is due from a run. Says whether the page goes on.
    fn take_run(&mut self, first: u64, run: &Run) -> Result<bool, Trouble> {
        while self.due() <= self.head.latest.get() {
            let due = self.due();
            if first > due {
                return Err(Trouble::DataLoss(format!("context {:?} has no entry {due}", self.context)));
            }
            if !run_covers(first, run, Sequence(due)) {
                return Ok(true);
            }
            if self.full() {
                self.page.truncated = true;
                return Ok(false);
            }
            let entry = self.rows.entry(self.context, first, run, Sequence(due))?;
            let weight = entry_weight(&entry);
            self.scanned += weight;
            if self.query.key.as_ref().is_none_or(|key| *key == entry.key) {
                if !self.page.entries.is_empty() && self.bytes + weight > self.query.max_bytes {
                    self.page.truncated = true;
                    return Ok(false);
                }
                self.bytes += weight;
                self.page.entries.push(entry);
            }
            self.page.next_after = Sequence(due);
        }
        Ok(true)
    }

    fn full(&self) -> bool {
        let limit = self.query.limit;
        (limit > 0 && self.page.entries.len() >= limit) || self.scanned > self.scan_bytes_max
    }
}

fn entry_weight(entry: &Entry) -> usize {
    let metadata = entry.metadata.iter().map(|(k, v)| k.len() + v.len() + 8);
    entry.payload.len() + entry.context_id.len() + entry.key.len() + metadata.sum::<usize>() + ENTRY_BYTES_MIN
}

/// Reads log rows, and keeps the table open between them, and the chunk that was read last.
pub(crate) struct RowReader<'a> {
    txn: &'a ReadTransaction,
    tail: &'a BTreeMap<LogIndex, Arc<TailEntry>>,
    log: Option<redb::ReadOnlyTable<(u64, u32), &'static [u8]>>,
    chunk: Option<(LogIndex, u32, Stage)>,
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(txn: &'a ReadTransaction, tail: &'a BTreeMap<LogIndex, Arc<TailEntry>>) -> Self {
        RowReader { txn, tail, log: None, chunk: None }
    }

    fn row(&mut self, index: LogIndex, row: u32) -> Result<Bytes, Trouble> {
        if let Some(found) = self.tail.get(&index) {
            return tail_row(found, row).map(|bytes| cut_out(&bytes, found.entry.data.len()));
        }
        if self.log.is_none() {
            self.log = Some(self.txn.open_table(LOG)?);
        }
        let log = self.log.as_ref().expect("was just opened");
        let value = log.get((index.get(), row))?.ok_or_else(|| no_row(index, row))?;
        let data = value.value();
        let at = if row == 0 { parse_row0(index, data).map_err(Trouble::DataLoss)?.1 } else { 0 };
        Ok(Bytes::copy_from_slice(&data[at..]))
    }

    /// The entry with this sequence out of a run that starts at `first` and covers it.
    pub(crate) fn entry(&mut self, context: &str, first: u64, run: &Run, sequence: Sequence) -> Result<Entry, Trouble> {
        let nth = u32::try_from(sequence.get() - first).expect("within a log entry");
        let position = Position(run.position.get() + u64::from(nth));
        let (lead, checks) = match &run.rows {
            Rows::Each { lead, checks } => (*lead, checks),
            Rows::Chunk { count, tag } => {
                let chunk = self.chunk(context, Sequence(first), run, *count, *tag)?;
                return Ok(chunk.entry(sequence, position).expect("the chunk has as many entries as its run"));
            }
        };
        let (index, row) = (run.index, run.row + nth);
        let bytes = self.row(index, row)?;
        if row_check(&bytes) != checks[nth as usize] && !planted::is(Bug::RowUnchecked) {
            return Err(Trouble::DataLoss(format!(
                "log row {index}/{row} is not entry {sequence} of context {context:?}"
            )));
        }
        row_entry(row, &bytes, context, sequence, position, lamport(lead, sequence.get()))
            .map_err(|error| Trouble::DataLoss(format!("log row {index}/{row}: {error}")))
    }

    /// Reads and checks a chunk once for all of its entries that are read in a row.
    fn chunk(
        &mut self,
        context: &str,
        first: Sequence,
        run: &Run,
        count: u32,
        tag: [u8; 8],
    ) -> Result<&Stage, Trouble> {
        let (index, row) = (run.index, run.row);
        if self.chunk.as_ref().is_none_or(|(of, at, _)| (*of, *at) != (index, row)) {
            let bytes = self.row(index, row)?;
            let chunk = row_chunk(row, &bytes, context, first, count)
                .map_err(|error| Trouble::DataLoss(format!("log row {index}/{row}: {error}")))?;
            if chunk_tag(&chunk.chain) != tag && !planted::is(Bug::RowUnchecked) {
                return Err(Trouble::DataLoss(format!(
                    "log row {index}/{row} is not the chunk of context {context:?} from {first} on"
                )));
            }
            self.chunk = Some((index, row, chunk));
        }
        Ok(&self.chunk.as_ref().expect("was just read").2)
    }
}

fn no_row(index: LogIndex, row: u32) -> Trouble {
    Trouble::DataLoss(format!("log row {index}/{row} is missing"))
}

/// A row that keeps no batch alive that is much larger: whoever holds what was read holds that, and no more.
fn cut_out(row: &Bytes, batch_bytes: usize) -> Bytes {
    let copy = batch_bytes > row.len().saturating_mul(2);
    if copy { Bytes::copy_from_slice(row) } else { row.clone() }
}

fn tail_row(found: &TailEntry, row: u32) -> Result<Bytes, Trouble> {
    let rows = found.rows();
    let bytes = rows.get(row as usize).cloned();
    bytes.ok_or_else(|| no_row(found.entry.index, row))
}

pub(crate) fn db_head(txn: &ReadTransaction, context: &str) -> Result<Option<Head>, Trouble> {
    let table = txn.open_table(CONTEXTS)?;
    let Some(value) = table.get(context)? else {
        absent::check::<&str>(&table, &context)?;
        return Ok(None);
    };
    let head = head_from(context, value.value()).map_err(Trouble::DataLoss)?;
    Ok(Some(head))
}

pub(crate) fn db_key(txn: &ReadTransaction, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Trouble> {
    let table = txn.open_table(KEYS)?;
    let Some(value) = table.get((context.get(), key))? else {
        absent::check::<(u64, &str)>(&table, &(context.get(), key))?;
        return Ok(None);
    };
    let row = key_from(context, key, value.value()).map_err(Trouble::DataLoss)?;
    Ok(Some(row))
}

fn db_row0(txn: &ReadTransaction, index: LogIndex) -> Result<(LogPrefix, Bytes), Trouble> {
    let table = txn.open_table(LOG)?;
    let value = table.get((index.get(), 0))?;
    let value = value.ok_or_else(|| no_row(index, 0))?;
    let (prefix, at) = parse_row0(index, value.value()).map_err(Trouble::DataLoss)?;
    Ok((prefix, Bytes::copy_from_slice(&value.value()[at..])))
}

/// Log entries `from..to` of the database, at least one, up to a weight.
pub(crate) fn db_log(
    txn: &ReadTransaction,
    from: LogIndex,
    to: LogIndex,
    max_bytes: usize,
) -> Result<Vec<LogEntry>, Trouble> {
    let table = txn.open_table(LOG)?;
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    let mut open: Option<(LogIndex, LogPrefix, Vec<Bytes>)> = None;
    for row in table.range((from.get(), 0)..(to.get(), 0))? {
        let (key, value) = row?;
        let (index, n) = key.value();
        let index = LogIndex(index);
        let data = value.value();
        if n == 0 {
            let due = LogIndex(from.get() + entries.len() as u64);
            if index != due || open.is_some() {
                return Err(Trouble::DataLoss(format!("log entry {due} is incomplete")));
            }
            let (prefix, at) = parse_row0(index, data).map_err(Trouble::DataLoss)?;
            open = Some((index, prefix, vec![Bytes::copy_from_slice(&data[at..])]));
        } else {
            match &mut open {
                Some((of, _, rows)) if *of == index && rows.len() == n as usize => {
                    rows.push(Bytes::copy_from_slice(data));
                }
                _ => return Err(Trouble::DataLoss(format!("log row {index}/{n} is stray"))),
            }
        }
        if let Some((of, prefix, rows)) = open.take_if(|(_, p, rows)| rows.len() >= p.rows as usize) {
            let entry = join(of, &prefix, &rows).map_err(Trouble::DataLoss)?;
            bytes += entry.weight();
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
    }
    if open.is_some() || entries.len() as u64 != to.get() - from.get() {
        let due = from.get() + entries.len() as u64;
        return Err(Trouble::DataLoss(format!("log entry {due} is missing")));
    }
    Ok(entries)
}
