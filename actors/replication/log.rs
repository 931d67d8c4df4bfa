//! The Raft crate's view of the replicated log: a thin reading of [`Storage`].
//!
//! The log is never purged, so its first index is 1 and a snapshot is never needed. Any failure here is a panic: the
//! crate takes an unreadable term for a conflict, so the actor must die before it acts on one, and recover from disk.

use converge_ledger_core::LogIndex;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use crate::storage::{EntryKind, LogEntry, Storage};

/// What the Raft node reads.
pub(crate) struct Log {
    storage: Storage,
    initial: RaftState,
}

impl Log {
    pub(crate) fn new(storage: Storage, hard_state: HardState, voters: Vec<u64>) -> Log {
        let conf_state = ConfState { voters, ..ConfState::default() };
        Log { storage, initial: RaftState::new(hard_state, conf_state) }
    }
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_bytes = usize::try_from(max_size.into().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let entries = self.storage.log_entries(LogIndex(low), LogIndex(high), max_bytes);
        let entries = readable(entries);
        Ok(entries.into_iter().map(to_raft).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == 0 {
            return Ok(0);
        }
        let term = readable(self.storage.log_term(LogIndex(index)));
        term.map(|t| t.get()).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.storage.log_last().get())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

fn readable<T>(result: Result<T, crate::storage::Error>) -> T {
    result.unwrap_or_else(|error| panic!("the log cannot be read: {error}"))
}

/// Our log entry as the Raft crate's.
pub(crate) fn to_raft(entry: LogEntry) -> Entry {
    let mut raft = Entry::default();
    raft.set_entry_type(match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    (raft.index, raft.term, raft.data) = (entry.index.get(), entry.term.get(), entry.data);
    raft
}

/// The Raft crate's log entry as ours.
pub(crate) fn from_raft(entry: Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    let (index, term) = (LogIndex(entry.index), converge_ledger_core::Term(entry.term));
    LogEntry { index, term, kind, data: entry.data }
}
