//! Puts what is applied into segments, in front of the transaction that takes it out of the log table.

use std::io;

use converge_ledger_core::LogIndex;
use converge_ledger_core::planted::{self, Bug};
use redb::{Database, ReadableDatabase};

use super::commit::WriteSet;
use super::log::read_tail;
use super::trouble::Trouble;
use crate::storage::passing::passes;
use crate::storage::segments::block::{BlockBuilder, ClosedBlock};
use crate::storage::segments::writer::SegmentWriter;
use crate::storage::segments::{BlockPlace, SegmentsEnd};
use crate::storage::types::LogEntry;

/// As much of the log table is held in memory at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What a transaction says of segments: the blocks that were closed for it, and how far they go with these.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) blocks: Vec<(LogIndex, BlockPlace)>,
    pub(crate) end: SegmentsEnd,
    /// A file could not be made, or named durably, for want of this. What is left stays in the log table, until a later commit.
    pub(crate) lack: Option<io::Error>,
}

impl Settled {
    /// No block was closed.
    pub(crate) fn nothing(end: SegmentsEnd) -> Settled {
        Settled { blocks: Vec::new(), end, lack: None }
    }
}

/// Why nothing was settled.
#[derive(Debug)]
pub(crate) enum Unsettled {
    /// A segment cannot be written or synced: what is on the disk is unknown (S2).
    Write(io::Error),
    /// The log table cannot be read.
    Read(Trouble),
}

impl From<Trouble> for Unsettled {
    fn from(trouble: Trouble) -> Unsettled {
        Unsettled::Read(trouble)
    }
}

/// Appends all blocks that the entries up to `applied` fill, and makes them durable. Which entries those are, the
/// transaction that follows makes durable too: applied is committed, so nothing that can be replaced comes into a segment
/// (S4).
pub(crate) fn settle(
    writer: &mut SegmentWriter,
    block_bytes_max: usize,
    db: &Database,
    set: &WriteSet,
    applied: LogIndex,
) -> Result<Settled, Unsettled> {
    let last = set.progress().last;
    assert!(applied <= last, "applied {applied} is not durable, the log ends at {last}");
    let to = if planted::is(Bug::UncommittedSettled) { last } else { applied };
    let mut settling = Settling { builder: BlockBuilder::new(block_bytes_max, writer.next()), lack: None, writer };
    let in_set = set.entries.front().map_or(to.next(), |entry| entry.index).min(to.next());
    while settling.builder.next() < in_set && settling.lack.is_none() {
        let from = settling.builder.next();
        let txn = db.begin_read().map_err(Trouble::from)?;
        let entries = read_tail(&txn, from, in_set, CHUNK_BYTES)?;
        entries.iter().try_for_each(|entry| settling.push(entry))?;
    }
    // For want of a file the table may not have been read to its end; what is behind it waits, too.
    if settling.lack.is_none() {
        let next = settling.builder.next();
        for entry in set.entries.iter().filter(|entry| (next..to.next()).contains(&entry.index)) {
            settling.push(entry)?;
        }
    }
    settling.finish()
}

struct Settling<'a> {
    builder: BlockBuilder,
    writer: &'a mut SegmentWriter,
    lack: Option<io::Error>,
}

impl Settling<'_> {
    fn push(&mut self, entry: &LogEntry) -> Result<(), Unsettled> {
        let closed = self.builder.push(entry);
        closed.into_iter().try_for_each(|block| self.put(&block))
    }

    fn put(&mut self, block: &ClosedBlock) -> Result<(), Unsettled> {
        if self.lack.is_some() {
            return Ok(());
        }
        let put = self.writer.put(block);
        self.tolerated(put).map(drop)
    }

    /// Nothing is lost for want of a descriptor.
    fn tolerated<T>(&mut self, result: io::Result<T>) -> Result<Option<T>, Unsettled> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if passes(&error) => {
                self.lack = Some(error);
                Ok(None)
            }
            Err(error) => Err(Unsettled::Write(error)),
        }
    }

    fn finish(mut self) -> Result<Settled, Unsettled> {
        if planted::is(Bug::BlockClosedEarly)
            && let Some(block) = self.builder.close()
        {
            self.put(&block)?;
        }
        let synced = self.writer.sync();
        let blocks = self.tolerated(synced)?.unwrap_or_default();
        Ok(Settled { blocks, end: self.writer.durable(), lack: self.lack })
    }
}
