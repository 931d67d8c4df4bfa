//! An append-only, replicated ledger that never loses an acknowledged write.

#![forbid(unsafe_code)]

#[cfg(feature = "grpc")]
pub mod api;
pub mod config;
mod error;
mod ledger;

pub use config::{Config, ConfigError};
pub use converge_ledger_core::{Entry, EntryId, NewEntry, NodeId, Position, Sequence, Term};
pub use error::{Error, Rejection, Unknown};
pub use ledger::{
    AppendOptions, Appended, Consistency, Escalated, Ledger, Loaded, Node, Page, PeerStatus,
    ReadOptions, Snapshot, StartError, Status, StopError, Watch, WatchOptions,
};
