//! Which entries make a block: by what they are, never by when they came. Pure.

use converge_ledger_core::LogIndex;

use super::format::{BlockHead, ChainHash, put_entry};
use crate::storage::types::LogEntry;

/// A block that takes no more entries; the chain is still to be put in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClosedBlock {
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
    entries: Vec<u8>,
}

impl ClosedBlock {
    /// Its bytes, behind the block of this hash.
    pub(crate) fn seal(&self, before: ChainHash) -> Vec<u8> {
        BlockHead { first: self.first, last: self.last, before }.seal(&self.entries)
    }
}

/// Fills blocks with committed entries, in order. The entry that would take a block past its bound opens the next; one that
/// is larger than that is a block by itself.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    bytes_max: usize,
    /// Of the open block.
    first: LogIndex,
    next: LogIndex,
    entries: Vec<u8>,
}

impl BlockBuilder {
    /// With an empty block, for this entry and what follows.
    pub(crate) fn new(bytes_max: usize, first: LogIndex) -> BlockBuilder {
        BlockBuilder { bytes_max, first, next: first, entries: Vec::new() }
    }

    /// The entry that is due.
    pub(crate) fn next(&self) -> LogIndex {
        self.next
    }

    /// Takes the entry that is due; hands out the blocks that are closed by it, which are two at most.
    ///
    /// # Panics
    /// When it is another entry.
    pub(crate) fn push(&mut self, entry: &LogEntry) -> impl Iterator<Item = ClosedBlock> + use<> {
        assert_eq!(entry.index, self.next, "a segment has no gap");
        let before = self.entries.len();
        self.entries = put_entry(std::mem::take(&mut self.entries), entry);
        let mut closed = [None, None];
        if before > 0 && self.entries.len() > self.bytes_max {
            let entries = self.entries.split_off(before);
            closed[0] = self.close();
            self.entries = entries;
        }
        self.next = entry.index.next();
        if self.entries.len() >= self.bytes_max {
            closed[1] = self.close();
        }
        closed.into_iter().flatten()
    }

    /// Closes the open block; none where it is empty.
    pub(crate) fn close(&mut self) -> Option<ClosedBlock> {
        let entries = std::mem::take(&mut self.entries);
        let first = std::mem::replace(&mut self.first, self.next);
        (!entries.is_empty()).then(|| ClosedBlock { first, last: LogIndex(self.next.get() - 1), entries })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use converge_ledger_core::Term;
    use converge_ledger_core::chance::Dice;

    use super::*;
    use crate::storage::types::EntryKind;

    fn entry(index: u64, bytes: usize) -> LogEntry {
        let data = Bytes::from(vec![7; bytes]);
        LogEntry { index: LogIndex(index), term: Term(1), kind: EntryKind::Normal, data }
    }

    fn shapes(sizes: &[usize]) -> Vec<(u64, u64)> {
        let mut builder = BlockBuilder::new(100, LogIndex(1));
        let entries = (1..).zip(sizes).map(|(index, bytes)| entry(index, *bytes));
        let closed: Vec<_> = entries.flat_map(|entry| builder.push(&entry)).collect();
        closed.iter().map(|block| (block.first.get(), block.last.get())).collect()
    }

    #[test]
    fn a_block_is_closed_by_the_entry_that_does_not_fit() {
        // An entry takes three bytes besides its data.
        assert_eq!(shapes(&[47, 46]), []);
        assert_eq!(shapes(&[47, 47]), [(1, 2)], "full to the byte");
        assert_eq!(shapes(&[47, 48]), [(1, 1)]);
        assert_eq!(shapes(&[10, 500, 10]), [(1, 1), (2, 2)], "a large one is a block by itself");
        assert_eq!(shapes(&[500, 500]), [(1, 1), (2, 2)]);
        assert_eq!(shapes(&[0; 40]), [(1, 33)]);
    }

    #[test]
    fn blocks_are_the_same_however_the_entries_come() {
        let mut dice = Dice(3);
        let entries: Vec<_> = (1..=200).map(|index| entry(index, dice.below(150) as usize)).collect();
        let mut builder = BlockBuilder::new(100, LogIndex(1));
        let all: Vec<_> = entries.iter().flat_map(|entry| builder.push(entry)).collect();
        assert!(all.len() > 50, "{} blocks", all.len());
        let mut parts: Vec<ClosedBlock> = Vec::new();
        let mut end = 0;
        while end < entries.len() {
            end = (end + 1 + dice.below(9) as usize).min(entries.len());
            let first = parts.last().map_or(LogIndex(1), |block| block.last.next());
            let mut builder = BlockBuilder::new(100, first);
            let due = entries[..end].iter().filter(|entry| entry.index >= first);
            parts.extend(due.flat_map(|entry| builder.push(entry)).collect::<Vec<_>>());
        }
        assert_eq!(parts, all);
    }
}
