//! A page of a context: what the overlay had of it first, merged with the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use converge_ledger_core::{Head, LogIndex, Sequence};
use redb::ReadTransaction;

use super::database::log::LogReader;
use super::database::overlay::Overlay;
use super::database::rows::{RowReader, db_head};
use super::database::tables::{EntryRun, INDEX, block_from, run_covers};
use super::database::trouble::Trouble;
use super::rowed::RowedEntry;
use super::segments::reader::SegmentReader;
use super::types::{AppliedMark, Page, ReadQuery};

/// What an entry weighs besides its texts and bytes.
pub(crate) const ENTRY_BYTES_MIN: usize = 64;

/// What the overlay knew of a context at the start of a read.
#[derive(Debug, Default)]
pub(crate) struct Near {
    /// What was applied at that moment.
    applied: AppliedMark,
    head: Option<Head>,
    /// By first sequence.
    runs: BTreeMap<u64, Arc<EntryRun>>,
    /// There were more runs than the query can need.
    cut: bool,
    /// The log entries of these runs that the database may not have.
    tail: BTreeMap<LogIndex, Arc<RowedEntry>>,
}

impl Near {
    /// What the overlay has of a context: taken before the database is looked at.
    pub(crate) fn of(overlay: &Overlay, context: &str, query: &ReadQuery, scan_bytes_max: usize) -> Near {
        let runs_max = match (query.limit, &query.key) {
            (0, _) | (_, Some(_)) => scan_bytes_max / ENTRY_BYTES_MIN,
            (limit, None) => limit,
        };
        let flushing = overlay.flushing.as_deref();
        let mut near = Near { applied: overlay.applied, ..Near::default() };
        near.head = overlay.head(context);
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

    /// The page: from the database what the overlay does not have.
    pub(crate) fn page(
        &self,
        txn: &ReadTransaction,
        segments: &SegmentReader,
        context: &str,
        query: &ReadQuery,
        scan_bytes_max: usize,
    ) -> Result<Page, Trouble> {
        let Some(head) = self.head.map_or_else(|| db_head(txn, context), |head| Ok(Some(head)))? else {
            let AppliedMark { index, position, .. } = self.applied;
            return Ok(Page { applied: index, position, ..Page::default() });
        };
        let after = query.after;
        let next_after = after.min(head.latest).max(after);
        let mut reader = PageReader {
            txn,
            context,
            head,
            near: self,
            query,
            scan_bytes_max,
            page: Page {
                latest: head.latest,
                next_after,
                applied: self.applied.index,
                position: self.applied.position,
                ..Page::default()
            },
            rows: RowReader::new(LogReader::new(txn, segments), &self.tail),
            bytes: 0,
            scanned: 0,
        };
        reader.run()?;
        Ok(reader.page)
    }
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
    fn take_run(&mut self, first: u64, run: &EntryRun) -> Result<bool, Trouble> {
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
            let weight = entry.content_bytes() + ENTRY_BYTES_MIN;
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
