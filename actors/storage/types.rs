//! What goes into storage and what comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::{
    Boot, ClusterId, Entry, Head, LogIndex, Lsn, NodeId, Outcome, Position, Sequence, State, StoreId, Term,
};
use serde::{Deserialize, Serialize};

use super::error::{Cause, Error, Outdated};

/// What a log entry is to Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A batch of the ledger, or nothing (a new leader's first entry).
    Normal,
    /// A change of one member.
    ConfChange,
    /// A joint change of members.
    ConfChangeV2,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place: 1, 2, 3 …
    pub index: LogIndex,
    /// The term in which it was proposed.
    pub term: Term,
    /// What it is to Raft.
    pub kind: EntryKind,
    /// An encoded batch; empty for a leader's first entry.
    pub data: Bytes,
}

impl LogEntry {
    /// What it weighs against bounds in bytes, its bookkeeping included.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len() + 64
    }
}

/// What Raft must not forget besides the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Whom this node voted for in it; 0 for nobody.
    pub vote: NodeId,
    /// The last log entry known to be committed.
    pub commit: LogIndex,
}

/// Who the cluster is; agreed on once, before Raft starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The cluster's name for itself.
    pub cluster_id: ClusterId,
    /// The Raft group; 0 until a node has several.
    pub group: u64,
    /// The voters and the data directory of each.
    pub voters: BTreeMap<NodeId, StoreId>,
    /// For so many positions an idempotency key is known.
    pub key_window: u64,
}

impl Genesis {
    /// The state in front of the first log entry is what the genesis says; after it, the state speaks for itself.
    pub(crate) fn begin(&self, state: &mut State) {
        if state.applied == LogIndex(0) {
            state.key_window = self.key_window;
        }
    }
}

/// What Raft starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term, vote, and a commit index that is at least `applied` and at most `last_index`.
    pub hard_state: HardState,
    /// The last log entry applied; equal to `hard_state.commit`, unless this program is outdated.
    pub applied: LogIndex,
    /// The end of the log.
    pub last_index: LogIndex,
    /// None in a directory that never was part of a cluster.
    pub genesis: Option<Genesis>,
    /// The data directory's random name.
    pub store_id: StoreId,
    /// Which start of a process on this directory this is.
    pub boot: Boot,
}

/// Called once, on the journal thread, when an append is durable or certain never to be reported
/// as such. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Called with every applied log entry, in order, on the storage actor or on its recovery. Must
/// not block.
pub type OnApplied = Arc<dyn Fn(AppliedBatch) + Send + Sync>;

/// One applied log entry.
#[derive(Clone, Debug)]
pub struct AppliedBatch {
    /// The log entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Who proposed it; none when it carries no batch.
    pub origin: Option<(NodeId, Boot)>,
    /// Attempt counter and outcome of each command, in order.
    pub outcomes: Arc<Vec<(u64, Outcome)>>,
    /// Each context that grew or was fenced, and its latest sequence now.
    pub heads: Arc<Vec<(String, Sequence)>>,
}

/// Which entries of a context to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadQuery {
    /// Only entries behind this one.
    pub after: Sequence,
    /// At most so many; 0 for no such bound.
    pub limit: usize,
    /// Only entries with this key.
    pub key: Option<String>,
    /// At most so many bytes of entries, but always at least one entry.
    pub max_bytes: usize,
}

/// Entries of a context, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries that matched.
    pub entries: Vec<Entry>,
    /// The context's latest sequence; 0 for an unknown context.
    pub latest: Sequence,
    /// Where to go on: the last sequence that was looked at.
    pub next_after: Sequence,
    /// A bound ended the page before `latest`.
    pub truncated: bool,
    /// The page shows everything up to this log entry.
    pub applied: LogIndex,
    /// And so everything up to this position.
    pub position: Position,
}

/// How far the state machine is, for readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedMark {
    /// The last log entry applied.
    pub index: LogIndex,
    /// How many entries the ledger has after it.
    pub position: Position,
    /// Digest of the state after it.
    pub digest: [u8; 32],
}

/// What entries are read of, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOf {
    /// One context, by sequence.
    Context(String),
    /// All contexts, by position.
    All,
}

/// The sequence of an entry in its context, or its position in the ledger: as [`StreamOf`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ordinal(pub u64);

/// Which way entries are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the oldest on.
    #[default]
    Forwards,
    /// From the newest back.
    Backwards,
}

impl Direction {
    /// The place after this one; none where nothing can be.
    #[must_use]
    pub fn next(self, at: Ordinal) -> Option<Ordinal> {
        let next = match self {
            Direction::Forwards => at.0.checked_add(1),
            Direction::Backwards => at.0.checked_sub(1).filter(|at| *at > 0),
        };
        next.map(Ordinal)
    }

    /// Whether who reads this way meets `at` after `other`.
    #[must_use]
    pub fn is_after(self, at: Ordinal, other: Ordinal) -> bool {
        match self {
            Direction::Forwards => at > other,
            Direction::Backwards => at < other,
        }
    }
}

/// Which entries to read, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamQuery {
    /// Of one context, or of all.
    pub of: StreamOf,
    /// Which way.
    pub direction: Direction,
    /// The first one to look at. What is behind the end is passed over backwards; forwards there is nothing there.
    pub from: Ordinal,
    /// At most so many; 0 for no such bound.
    pub limit: usize,
    /// Only entries with this key.
    pub key: Option<String>,
    /// At most so many bytes of entries, but always at least one entry.
    pub max_bytes: usize,
}

/// Where what is read ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The last entry that there is; 0 where there is none.
    pub last: Ordinal,
    /// It is the last one of all that was applied up to there.
    pub applied: AppliedMark,
}

/// Entries one after another, in the direction that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPage {
    /// The entries that matched.
    pub entries: Vec<Entry>,
    /// Where to go on; none where nothing is left.
    pub next: Option<Ordinal>,
    /// What the page knew of.
    pub end: StreamEnd,
}

/// Which contexts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextsQuery {
    /// Only names that begin so.
    pub prefix: String,
    /// Only names behind this one.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

/// Contexts in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextsPage {
    /// Each with its end.
    pub contexts: Vec<(String, Head)>,
    /// There are more.
    pub truncated: bool,
    /// The page shows everything up to there.
    pub applied: AppliedMark,
}

/// Where storage is in its life; see the state diagram of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the journal and the database; nothing is served.
    Recovering,
    /// Everything is served.
    Serving,
    /// The log is stored as ever, but apply has stopped until a newer program starts on this directory.
    Outdated {
        /// Where, and what it takes to go on.
        outdated: Outdated,
    },
    /// Nothing is written any more until the process starts anew.
    Fenced {
        /// Why.
        cause: Cause,
    },
}

/// A look at storage from outside, without asking the actor.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// The level of the applied state.
    pub level: u32,
    /// For so many positions an idempotency key is known; none before genesis.
    pub key_window: Option<u64>,
    /// The last log entry applied.
    pub applied: LogIndex,
    /// The last log entry known to be committed.
    pub commit: LogIndex,
    /// The end of the log, durable or not.
    pub last: LogIndex,
    /// How many entries the ledger has.
    pub last_position: Position,
    /// Digest of the applied state: equal on all nodes at equal `applied`.
    pub digest: [u8; 32],
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Bytes of the segments' files.
    pub segment_bytes: u64,
    /// Bytes of the database's file.
    pub redb_bytes: u64,
    /// Bytes held in memory until the database has them.
    pub overlay_bytes: u64,
    /// The last journal record that is durable.
    pub durable_lsn: Lsn,
    /// The last journal record whose content is durable in the database.
    pub covered_lsn: Lsn,
    /// The data directory's random name; none before it was opened.
    pub store_id: Option<StoreId>,
    /// Which start of a process on this directory this is; none before it was opened.
    pub boot: Option<Boot>,
    /// What an operator should look at; empty when all is well.
    pub alarms: Vec<String>,
}
