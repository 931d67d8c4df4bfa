//! The Raft crate's view of the replicated log: a thin reading of [`Storage`].
//!
//! The log is never purged, so its first index is 1 and a snapshot is never needed. Any failure here is a panic: the
//! crate takes an unreadable term for a conflict, so the actor must die before it acts on one, and recover from disk.
//!
//! What a peer that lags is to be sent is fetched by a task, for it may stand in files: the crate is told that the log is
//! unavailable for the moment, and asked to send again when the entries are there (`fetch`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use converge_ledger_core::LogIndex;
use converge_supervisors::ractor::ActorRef;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::fetch::Fetches;
use super::history::ReadLog;
use super::message::Message;
use crate::storage::{EntryKind, LogEntry, Storage};

/// What the Raft node reads.
pub(crate) struct Log {
    storage: Storage,
    initial: RaftState,
    fetches: RefCell<Fetches>,
    /// Terms of committed entries, which never change, asked for last: with every heartbeat that of what a peer has.
    terms: RefCell<VecDeque<(u64, u64)>>,
    /// Terms for which a file would have to be read are not told.
    spares_files: Cell<bool>,
}

/// Terms that are kept; several for each voter.
const TERMS_MAX: usize = 32;

impl Log {
    pub(crate) fn new(storage: Storage, hard_state: HardState, voters: Vec<u64>, actor: ActorRef<Message>) -> Log {
        let fetches = RefCell::new(Fetches::new(storage.clone(), actor, voters.len()));
        let conf_state = ConfState { voters, ..ConfState::default() };
        Log {
            storage,
            initial: RaftState::new(hard_state, conf_state),
            fetches,
            terms: RefCell::default(),
            spares_files: Cell::default(),
        }
    }

    /// Committed entries that were fetched can be read until the next ones are. Says who is to be sent them.
    pub(crate) fn fetched(&self, low: LogIndex, entries: Option<Vec<LogEntry>>) -> Vec<GetEntriesContext> {
        self.fetches.borrow_mut().fetched(low, entries)
    }
}

impl ReadLog for Log {
    fn spare_files(&self, spare: bool) {
        self.spares_files.set(spare);
    }

    fn is_near(&self, index: u64) -> bool {
        self.storage.log_is_near(LogIndex(index)) || self.terms.borrow().iter().any(|(of, _)| *of == index)
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
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_bytes = usize::try_from(max_size.into().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let (low, high) = (LogIndex(low), LogIndex(high));
        let mut fetches = self.fetches.borrow_mut();
        let near = || readable(self.storage.log_near(low, high, max_bytes));
        let commit = self.storage.log_commit();
        let can_wait = context.can_async() && low <= commit;
        // They are sent with the term of the one in front of them.
        let front = low.get() - 1;
        let has_front = front == 0 || fetches.term(LogIndex(front)).is_some() || self.is_near(front);
        // Whoever cannot wait wants all of them.
        let found = match context.can_async() {
            true if can_wait && !has_front => None,
            true => fetches.entries(low, high, max_bytes).or_else(near),
            false => fetches.whole(low, high).or_else(near),
        };
        let entries = match found {
            Some(entries) => entries,
            None if can_wait => {
                fetches.ask(low, high.min(commit.next()), max_bytes, context);
                return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
            }
            None => readable(self.storage.log_entries(low, high, max_bytes)),
        };
        Ok(entries.into_iter().map(to_raft).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == 0 {
            return Ok(0);
        }
        let mut terms = self.terms.borrow_mut();
        if let Some(at) = terms.iter().position(|(of, _)| *of == index) {
            let known = terms.remove(at).expect("was just found");
            terms.push_back(known);
            return Ok(known.1);
        }
        let fetched = self.fetches.borrow().term(LogIndex(index));
        let is_far = fetched.is_none() && !self.storage.log_is_near(LogIndex(index));
        // Of the commit itself and what follows, nothing is fetched.
        if self.spares_files.get() && is_far && LogIndex(index) < self.storage.log_commit() {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let term = fetched.or_else(|| readable(self.storage.log_term(LogIndex(index))));
        let term = term.ok_or(raft::Error::Store(StorageError::Unavailable))?.get();
        if LogIndex(index) <= self.storage.log_commit() {
            terms.push_back((index, term));
            if terms.len() > TERMS_MAX {
                terms.pop_front();
            }
        }
        Ok(term)
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
