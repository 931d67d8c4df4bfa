//! Reading rows of the database, each against its checksum (S5).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    BatchRow, Command, Entry, Head, LogIndex, Position, Sequence, Stage, decode_row, row_chunk, row_entry,
};
use redb::ReadTransaction;

use super::log::{LogReader, cut_out, rowed};
use super::names;
use super::tables::{CONTEXTS, EntryRun, RunLayout, chunk_tag, head_from, lamport, row_check};
use super::trouble::Trouble;
use crate::storage::rowed::RowedEntry;

/// Reads log rows: those of the overlay's tail first. Keeps the chunk that was read last.
pub(crate) struct RowReader<'a> {
    log: LogReader<'a>,
    tail: &'a BTreeMap<LogIndex, Arc<RowedEntry>>,
    chunk: Option<(LogIndex, u32, Stage)>,
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(log: LogReader<'a>, tail: &'a BTreeMap<LogIndex, Arc<RowedEntry>>) -> Self {
        RowReader { log, tail, chunk: None }
    }

    fn row(&mut self, index: LogIndex, row: u32) -> Result<Bytes, Trouble> {
        if let Some(found) = self.tail.get(&index) {
            return rowed(found, row).map(|bytes| cut_out(bytes, found.entry.data.len()));
        }
        self.log.row(index, row)
    }

    /// The context of the entries in a row.
    pub(crate) fn context_of(&mut self, index: LogIndex, row: u32) -> Result<String, Trouble> {
        let bytes = self.row(index, row)?;
        match decode_row(row, &bytes) {
            Ok(BatchRow::Command(Command::Append(append))) => Ok(append.entry.context_id),
            Ok(BatchRow::Command(Command::Stage(stage))) => Ok(stage.context_id),
            Ok(BatchRow::Part(part)) => Ok(part.entry.context_id),
            Ok(BatchRow::Command(_) | BatchRow::Transact(..)) => {
                Err(Trouble::DataLoss(format!("log row {index}/{row} has no entries")))
            }
            Err(error) => Err(Trouble::DataLoss(format!("log row {index}/{row}: {error}"))),
        }
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

pub(crate) fn db_head(txn: &ReadTransaction, context: &str) -> Result<Option<Head>, Trouble> {
    let table = txn.open_table(CONTEXTS)?;
    let Some(value) = table.get(context)? else {
        if names::has(txn, context)? {
            let what = format!("the database has no row of context {context:?}, though it knows the name");
            return Err(Trouble::DataLoss(what));
        }
        return Ok(None);
    };
    let head = head_from(context, value.value()).map_err(Trouble::DataLoss)?;
    Ok(Some(head))
}
