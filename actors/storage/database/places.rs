//! Where entries are, by sequence and by position, as one transaction of the database sees it.
//!
//! A position's row says which log row became the entry; what context that is, the log row itself says. Its run is then
//! found in the context's index, whose runs are in the order of positions as well. So nothing is read through for it.

use std::collections::BTreeMap;

use converge_ledger_core::{LogIndex, Sequence};
use redb::{ReadOnlyTable, ReadTransaction};

use super::rows::db_head;
use super::tables::{EntryRun, INDEX, IndexBlock, POSITIONS, Spans, block_from, run_covers, spans_from};
use super::trouble::Trouble;

/// A context's number, and the block of its index that was looked at last, with the first sequence of that.
struct ContextIndex {
    number: u64,
    block: Option<(u64, IndexBlock)>,
}

/// See the module. Keeps the tables open, and in hand what was looked at last: of each context, as long as one page is read.
pub(crate) struct PlaceReader<'a> {
    txn: &'a ReadTransaction,
    index: Option<ReadOnlyTable<(u64, u64), &'static [u8]>>,
    positions: Option<ReadOnlyTable<u64, &'static [u8]>>,
    contexts: BTreeMap<String, ContextIndex>,
    spans: Option<(u64, Spans)>,
}

impl<'a> PlaceReader<'a> {
    pub(crate) fn new(txn: &'a ReadTransaction) -> PlaceReader<'a> {
        PlaceReader { txn, index: None, positions: None, contexts: BTreeMap::new(), spans: None }
    }

    /// The log row of the entry at a position.
    pub(crate) fn row(&mut self, position: u64) -> Result<(LogIndex, u32), Trouble> {
        let covers = |(first, spans): &(u64, Spans)| position >= *first && position - first < spans.entries();
        if !self.spans.as_ref().is_some_and(covers) {
            self.spans = self.spans_before(position)?.filter(covers);
        }
        let missing = || Trouble::DataLoss(format!("position {position} has no row"));
        let (first, spans) = self.spans.as_ref().ok_or_else(missing)?;
        let mut at = *first;
        for span in &spans.0 {
            let nth = position - at;
            if nth < u64::from(span.count) {
                let nth = u32::try_from(nth).expect("less than a u32");
                return Ok((span.index, if span.chunk { span.row } else { span.row + nth }));
            }
            at += u64::from(span.count);
        }
        Err(missing())
    }

    /// The row of positions that begins there, or is the next one before.
    fn spans_before(&mut self, position: u64) -> Result<Option<(u64, Spans)>, Trouble> {
        if self.positions.is_none() {
            self.positions = Some(self.txn.open_table(POSITIONS)?);
        }
        let table = self.positions.as_ref().expect("was just opened");
        let Some((key, value)) = table.range(..=position)?.next_back().transpose()? else { return Ok(None) };
        let first = key.value();
        Ok(Some((first, spans_from(first, value.value()).map_err(Trouble::DataLoss)?)))
    }

    /// The run of a context that has this sequence, and its first sequence.
    pub(crate) fn by_sequence(&mut self, context: &str, sequence: Sequence) -> Result<(u64, EntryRun), Trouble> {
        let missing = || Trouble::DataLoss(format!("context {context:?} has no entry {sequence}"));
        let (number, held) = self.take(context)?;
        let covers =
            |(first, block): &(u64, IndexBlock)| sequence.get() >= *first && sequence.get() - first < block.entries();
        let (first, block) = match held.filter(covers) {
            Some(held) => held,
            None => self.block_before(number, sequence.get())?.ok_or_else(missing)?,
        };
        let found = block.runs(first).find(|(first, run)| run_covers(*first, run, sequence));
        let found = found.map(|(first, run)| (first, run.clone())).ok_or_else(missing)?;
        self.put(context, (first, block));
        Ok(found)
    }

    /// The run of a context that has the entry at this position, and its first sequence.
    pub(crate) fn by_position(&mut self, context: &str, position: u64) -> Result<(u64, EntryRun), Trouble> {
        let missing = || Trouble::DataLoss(format!("context {context:?} has no entry at position {position}"));
        let (number, held) = self.take(context)?;
        // Sequences between which the block begins. The one beside the block in hand is looked at first: who reads on needs it.
        let (mut low, mut high, mut probe) = (1, u64::MAX, u64::MAX);
        if let Some((first, block)) = held {
            match find(first, &block, position) {
                Side::Here(at, run) => {
                    self.put(context, (first, block));
                    return Ok((at, run));
                }
                Side::Before => (high, probe) = (first.saturating_sub(1), first.saturating_sub(1)),
                Side::After => (low, probe) = (after(first, &block), after(first, &block)),
                Side::Nowhere => return Err(missing()),
            }
        }
        while low <= high {
            let (first, block) = self.block_before(number, probe)?.ok_or_else(missing)?;
            if first < low {
                // No block begins between there and the probe.
                low = probe.checked_add(1).ok_or_else(missing)?;
            } else {
                match find(first, &block, position) {
                    Side::Here(at, run) => {
                        self.put(context, (first, block));
                        return Ok((at, run));
                    }
                    Side::Before => high = first.saturating_sub(1),
                    Side::After => low = after(first, &block),
                    Side::Nowhere => return Err(missing()),
                }
            }
            probe = if high == u64::MAX { high } else { low.midpoint(high) };
        }
        Err(missing())
    }

    /// The number of a context, and the block in hand, which is put back after the look.
    fn take(&mut self, context: &str) -> Result<(u64, Option<(u64, IndexBlock)>), Trouble> {
        if let Some(known) = self.contexts.get_mut(context) {
            return Ok((known.number, known.block.take()));
        }
        let head = db_head(self.txn, context)?;
        let head = head.ok_or_else(|| Trouble::DataLoss(format!("context {context:?} has entries, but no row")))?;
        let number = head.number.get();
        self.contexts.insert(context.to_owned(), ContextIndex { number, block: None });
        Ok((number, None))
    }

    fn put(&mut self, context: &str, block: (u64, IndexBlock)) {
        if let Some(known) = self.contexts.get_mut(context) {
            known.block = Some(block);
        }
    }

    /// The block of a context's index with this first sequence, or the next one before.
    fn block_before(&mut self, number: u64, sequence: u64) -> Result<Option<(u64, IndexBlock)>, Trouble> {
        if self.index.is_none() {
            self.index = Some(self.txn.open_table(INDEX)?);
        }
        let table = self.index.as_ref().expect("was just opened");
        let row = table.range((number, 0)..=(number, sequence))?.next_back().transpose()?;
        let Some((key, value)) = row else { return Ok(None) };
        let first = key.value().1;
        Ok(Some((first, block_from(number, first, value.value()).map_err(Trouble::DataLoss)?)))
    }
}

/// Where a position is, seen from a block.
enum Side {
    /// In this run of it, which has this first sequence.
    Here(u64, EntryRun),
    Before,
    After,
    /// Between two of its runs: it belongs to another context.
    Nowhere,
}

fn find(first: u64, block: &IndexBlock, position: u64) -> Side {
    for (at, run) in block.runs(first) {
        let begins = run.position.get();
        if position < begins {
            return if at == first { Side::Before } else { Side::Nowhere };
        }
        if position - begins < run.entries() {
            return Side::Here(at, run.clone());
        }
    }
    Side::After
}

/// The first sequence after a block.
fn after(first: u64, block: &IndexBlock) -> u64 {
    first.saturating_add(block.entries().max(1))
}
