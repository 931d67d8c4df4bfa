//! Reading rows of the database, each against its checksum (S5).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    ContextNo, Entry, Head, KeyRow, LogIndex, Position, Sequence, Stage, Term, row_chunk, row_entry,
};
use redb::ReadTransaction;

use super::absent;
use super::overlay::TailEntry;
use super::tables::{
    CONTEXTS, EntryRun, KEYS, LOG, LogPrefix, RunLayout, chunk_tag, head_from, join, key_from, lamport, parse_row0,
    row_check,
};
use super::trouble::Trouble;
use crate::storage::types::LogEntry;

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
    pub(crate) fn entry(
        &mut self,
        context: &str,
        first: u64,
        run: &EntryRun,
        sequence: Sequence,
    ) -> Result<Entry, Trouble> {
        let nth = u32::try_from(sequence.get() - first).expect("within a log entry");
        let position = Position(run.position.get() + u64::from(nth));
        let (lead, checks) = match &run.rows {
            RunLayout::Each { lead, checks } => (*lead, checks),
            RunLayout::Chunk { count, tag } => {
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
        run: &EntryRun,
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

/// The term of a log entry that exists.
pub(crate) fn db_term(txn: &ReadTransaction, index: LogIndex) -> Result<Term, Trouble> {
    let row = txn.open_table(LOG)?.get((index.get(), 0))?.ok_or_else(|| no_row(index, 0))?;
    let (prefix, _) = parse_row0(index, row.value()).map_err(Trouble::DataLoss)?;
    Ok(prefix.term)
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
