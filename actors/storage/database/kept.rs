//! Entries that left the tail and stay in memory a while: Raft asks for the newest ones, and for those that a peer that lags
//! a little needs, and reads no file for them.

use std::collections::VecDeque;
use std::sync::Arc;

use converge_ledger_core::LogIndex;

use crate::storage::rowed::RowedEntry;

/// What is not applied yet stays, up to so many times the bound: a candidate looks through it at once.
pub(crate) const UNAPPLIED_TIMES: usize = 8;

/// The last of them, without a gap, up to a bound. The newest one always stays.
#[derive(Debug, Default)]
pub(crate) struct KeptEntries {
    entries: VecDeque<Arc<RowedEntry>>,
    bytes: usize,
    bytes_max: usize,
}

impl KeptEntries {
    /// At the end of the log as it was recovered.
    pub(crate) fn new(entries: Vec<Arc<RowedEntry>>, bytes_max: usize) -> KeptEntries {
        let bytes = entries.iter().map(|kept| kept.entry.weight()).sum();
        KeptEntries { entries: entries.into(), bytes, bytes_max }
    }

    /// One more, behind the last. What has no room any more is handed back, where it is applied.
    pub(crate) fn push(&mut self, entry: Arc<RowedEntry>, applied: LogIndex, gone: &mut Vec<Arc<RowedEntry>>) {
        self.bytes += entry.entry.weight();
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let waits = self.first().is_some_and(|first| first > applied);
            if waits && self.bytes <= self.bytes_max * UNAPPLIED_TIMES {
                break;
            }
            let oldest = self.entries.pop_front().expect("there is more than one");
            self.bytes -= oldest.entry.weight();
            gone.push(oldest);
        }
    }

    /// Entries at or behind this index are replaced (S4).
    pub(crate) fn cut(&mut self, first: LogIndex) {
        while let Some(gone) = self.entries.pop_back_if(|last| last.entry.index >= first) {
            self.bytes -= gone.entry.weight();
        }
    }

    /// The index of the first one.
    pub(crate) fn first(&self) -> Option<LogIndex> {
        self.entries.front().map(|kept| kept.entry.index)
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Arc<RowedEntry>> {
        let at = index.get().checked_sub(self.first()?.get())?;
        self.entries.get(usize::try_from(at).ok()?)
    }
}
