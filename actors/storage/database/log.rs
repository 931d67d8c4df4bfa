//! Reading the log that left memory: blocks of segments, and behind them the tail in its table. Each is held against its
//! checksum (S5).

use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::{LogIndex, Term};
use redb::{ReadOnlyTable, ReadTransaction};

use super::tables::{BLOCKS, LOG, LogPrefix, join, parse_row0, place_from};
use super::trouble::Trouble;
use crate::storage::rowed::{RowedEntry, split};
use crate::storage::segments::reader::{DecodedBlock, SegmentReader};
use crate::storage::types::LogEntry;

/// The log as one transaction of the database sees it. Keeps the tables open, and the block that was read last in hand.
pub(crate) struct LogReader<'a> {
    txn: &'a ReadTransaction,
    segments: &'a SegmentReader,
    blocks: Option<ReadOnlyTable<u64, &'static [u8]>>,
    tail: Option<ReadOnlyTable<(u64, u32), &'static [u8]>>,
    block: Option<Arc<DecodedBlock>>,
}

impl<'a> LogReader<'a> {
    pub(crate) fn new(txn: &'a ReadTransaction, segments: &'a SegmentReader) -> LogReader<'a> {
        LogReader { txn, segments, blocks: None, tail: None, block: None }
    }

    /// The block with this entry; none when no segment has it.
    fn block(&mut self, index: LogIndex) -> Result<Option<&Arc<DecodedBlock>>, Trouble> {
        if self.block.as_ref().is_some_and(|block| block.get(index).is_some()) {
            return Ok(self.block.as_ref());
        }
        if self.blocks.is_none() {
            self.blocks = Some(self.txn.open_table(BLOCKS)?);
        }
        let blocks = self.blocks.as_ref().expect("was just opened");
        let Some((key, value)) = blocks.range(..=index.get())?.next_back().transpose()? else { return Ok(None) };
        let first = LogIndex(key.value());
        let place = place_from(first, value.value()).map_err(Trouble::DataLoss)?;
        if place.last < index {
            return Ok(None);
        }
        self.block = Some(self.segments.block(first, &place).map_err(Trouble::segment)?);
        Ok(self.block.as_ref())
    }

    fn tail(&mut self) -> Result<&ReadOnlyTable<(u64, u32), &'static [u8]>, Trouble> {
        if self.tail.is_none() {
            self.tail = Some(self.txn.open_table(LOG)?);
        }
        Ok(self.tail.as_ref().expect("was just opened"))
    }

    /// A row of a log entry.
    pub(crate) fn row(&mut self, index: LogIndex, row: u32) -> Result<Bytes, Trouble> {
        if let Some(block) = self.block(index)? {
            let found = block.get(index).ok_or_else(|| no_row(index, row))?;
            return rowed(found, row).map(|bytes| cut_out(bytes, block.bytes));
        }
        let tail = self.tail()?;
        if row > 0
            && let Some(value) = tail.get((index.get(), row))?
        {
            return Ok(Bytes::copy_from_slice(value.value()));
        }
        let value = tail.get((index.get(), 0))?.ok_or_else(|| no_row(index, row))?;
        let (prefix, at) = parse_row0(index, value.value()).map_err(Trouble::DataLoss)?;
        let data = Bytes::copy_from_slice(&value.value()[at..]);
        if prefix.rows > 1 {
            return if row == 0 { Ok(data) } else { Err(no_row(index, row)) };
        }
        // A program that was too old to tell the entry's rows put all of it in one place.
        let LogPrefix { term, kind, .. } = prefix;
        let rows = split(&LogEntry { index, term, kind, data });
        rows.into_iter().nth(row as usize).ok_or_else(|| no_row(index, row))
    }

    /// The term of a log entry that exists.
    pub(crate) fn term(&mut self, index: LogIndex) -> Result<Term, Trouble> {
        if let Some(block) = self.block(index)? {
            return block.get(index).map(|found| found.entry.term).ok_or_else(|| no_row(index, 0));
        }
        let row = self.tail()?.get((index.get(), 0))?.ok_or_else(|| no_row(index, 0))?;
        let (prefix, _) = parse_row0(index, row.value()).map_err(Trouble::DataLoss)?;
        Ok(prefix.term)
    }

    /// Log entries `from..to`, at least one, up to a weight.
    pub(crate) fn entries(&mut self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Trouble> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut left = max_bytes;
        let mut at = from;
        while at < to
            && let Some(block) = self.block(at)?
        {
            let found = &block.get(at).ok_or_else(|| no_row(at, 0))?.entry;
            if found.weight() > left && !entries.is_empty() {
                return Ok(entries);
            }
            left = left.saturating_sub(found.weight());
            entries.push(LogEntry { data: cut_out(&found.data, block.bytes), ..found.clone() });
            at = at.next();
        }
        if at < to {
            tail_entries(self.tail()?, (at, to), left, &mut entries)?;
        }
        Ok(entries)
    }
}

/// Log entries `from..to` of the log table, at least one, up to a weight.
pub(super) fn read_tail(
    txn: &ReadTransaction,
    from: LogIndex,
    to: LogIndex,
    max_bytes: usize,
) -> Result<Vec<LogEntry>, Trouble> {
    let mut entries = Vec::new();
    tail_entries(&txn.open_table(LOG)?, (from, to), max_bytes, &mut entries)?;
    Ok(entries)
}

/// Adds entries of the tail to those before them, at least one to none, up to a weight.
fn tail_entries(
    table: &ReadOnlyTable<(u64, u32), &'static [u8]>,
    (from, to): (LogIndex, LogIndex),
    max_bytes: usize,
    entries: &mut Vec<LogEntry>,
) -> Result<(), Trouble> {
    let (mut due, mut left) = (from, max_bytes);
    let mut open: Option<(LogPrefix, Vec<Bytes>)> = None;
    for row in table.range((from.get(), 0)..(to.get(), 0))? {
        let (key, value) = row?;
        let (index, n) = key.value();
        let (index, data) = (LogIndex(index), value.value());
        match &mut open {
            None if n == 0 && index == due => {
                let (prefix, at) = parse_row0(index, data).map_err(Trouble::DataLoss)?;
                open = Some((prefix, vec![Bytes::copy_from_slice(&data[at..])]));
            }
            Some((_, rows)) if index == due && rows.len() == n as usize => rows.push(Bytes::copy_from_slice(data)),
            _ => return Err(Trouble::DataLoss(format!("log entry {due} is incomplete"))),
        }
        if let Some((prefix, rows)) = open.take_if(|(prefix, rows)| rows.len() >= prefix.rows as usize) {
            let entry = join(due, &prefix, &rows).map_err(Trouble::DataLoss)?;
            if entry.weight() > left && !entries.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(entry.weight());
            entries.push(entry);
            due = due.next();
        }
    }
    if open.is_some() || due < to {
        return Err(Trouble::DataLoss(format!("log entry {due} is missing")));
    }
    Ok(())
}

fn no_row(index: LogIndex, row: u32) -> Trouble {
    Trouble::DataLoss(format!("log row {index}/{row} is missing"))
}

/// A row of an entry that is in memory.
pub(super) fn rowed(found: &RowedEntry, row: u32) -> Result<&Bytes, Trouble> {
    found.rows().get(row as usize).ok_or_else(|| no_row(found.entry.index, row))
}

/// Bytes that keep nothing alive that is much larger: whoever holds what was read holds that, and no more.
pub(super) fn cut_out(part: &Bytes, whole_bytes: usize) -> Bytes {
    let copy = whole_bytes > part.len().saturating_mul(2);
    if copy { Bytes::copy_from_slice(part) } else { part.clone() }
}
