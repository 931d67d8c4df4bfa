//! What goes into a ledger's calls and what comes out of them.

use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::{Entry, FenceEpoch, Lamport, Position, Sequence, Term};

/// Options of an append.
#[derive(Default, Clone, Debug)]
pub struct AppendOptions {
    /// The client's key, scoped to the context.
    pub idempotency_key: Option<String>,
    /// The context's latest sequence before this append.
    pub expected_sequence: Option<Sequence>,
    /// The context's fence epoch; another one refuses the append. A writer that may be fenced always gives its own.
    pub fence_epoch: Option<FenceEpoch>,
    /// A Lamport time from elsewhere: that of the entry is past it.
    pub received_lamport: Option<Lamport>,
    /// 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// A done append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The entry as it stands.
    pub entry: Entry,
    /// It stood there before this call.
    pub deduplicated: bool,
    /// The term it was applied in.
    pub term: Term,
}

/// What a read promises.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every append acknowledged before the read began.
    #[default]
    Linearizable,
    /// Served as linearizable.
    Lease,
    /// What this node has applied.
    Stale,
}

/// Options of a read.
#[derive(Default, Clone, Debug)]
pub struct ReadOptions {
    /// Exclusive.
    pub after: Sequence,
    /// 0: none.
    pub limit: u32,
    /// Only this key.
    pub key: Option<String>,
    /// What the read promises.
    pub consistency: Consistency,
    /// Only when this node has applied the entry at this position: it waits for that, and asks nobody. With
    /// [`Consistency::Stale`], who appended on another node reads there what it wrote, also without a majority.
    pub min_position: Position,
    /// 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// Entries of a context.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// The context's latest sequence.
    pub latest: Sequence,
    /// The node's term.
    pub term: Term,
    /// The position up to which all entries of the context are in it.
    pub position: Position,
}

/// Options of a watch.
#[derive(Default, Clone, Debug)]
pub struct WatchOptions {
    /// Exclusive; 0: all history first.
    pub from: Sequence,
    /// Only this key.
    pub key: Option<String>,
}

/// A copy of a context.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The blob.
    pub bytes: Bytes,
    /// The last sequence in it.
    pub sequence: Sequence,
    /// When it was made.
    pub created_at_ns: u64,
    /// Entries in it.
    pub entry_count: u64,
    /// Version of its format.
    pub version: u32,
}

/// A done load.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Entries that the call added.
    pub entries_restored: u64,
    /// The context's latest sequence.
    pub latest: Sequence,
}
