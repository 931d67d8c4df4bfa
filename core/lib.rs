//! The pure core of Converge Ledger: what an entry is, how it is written down, and what applying
//! one does.
//!
//! Owns the data model, the encodings of log entries and rows, the state machine, and snapshots.
//! Does no I/O, reads no clock, draws no chance, and awaits nothing: everything is an argument,
//! so that every node computes the same, and a test can.

#![forbid(unsafe_code)]

pub mod chance;
pub mod checksum;
pub mod codec;
pub mod levels;
#[doc(hidden)]
pub mod planted;
pub mod snapshot;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod apply;
mod batch;
mod command;
mod entry;
mod ids;
mod limits;
mod outcome;
mod state;

pub use apply::apply;
pub use batch::{BatchRow, VERSION as BATCH_VERSION, decode_row, row_chunk, row_entry, rows};
pub use codec::CodecError;
pub use command::{Append, Batch, Command, Condition, Load, RaiseFence, Stage, StagedEntry, Transact, TransactEntry};
pub use entry::{EMPTY_CHAIN, Entry, NewEntry, chain_link, content_bytes, content_hash};
pub use ids::{
    AttemptId, Boot, ClusterId, ContextNo, EntryId, FenceEpoch, Lamport, LogIndex, Lsn, NodeId, ParseIdError, Position,
    Sequence, StoreId, Term,
};
pub use limits::{LimitError, Limits};
pub use outcome::{Appended, Fenced, Outcome, Refusal, Transacted};
pub use state::{
    Effects, Head, IndexChunk, IndexRow, Indexed, KEY_WINDOW_DEFAULT, KeyRow, Origin, Part, Staging, State, View,
};
