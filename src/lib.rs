//! An append-only, replicated ledger that never loses an acknowledged write.

#![forbid(unsafe_code)]

#[cfg(feature = "grpc")]
pub mod api;
mod application;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
pub mod config;
#[doc(hidden)]
pub mod environment;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod heads;
mod ledger;
mod many;
mod node;
mod pages;
mod reached;
pub mod remote;
mod snapshots;
mod sockets;
mod status;
mod stream;
mod transactions;
mod types;
mod verdict;
mod watch;

pub use config::{Config, ConfigError};
pub use converge_actors::replication::NotHandedOver;
pub use converge_actors::storage::{Direction, Outdated};
pub use converge_ledger_core::{
    ClusterId, Condition, Entry, EntryId, FenceEpoch, Lamport, LogIndex, NewEntry, NodeId, Position, Sequence, Term,
};
pub use converge_supervisors::{self as supervisors, Escalated, StopError};
pub use error::{Error, Rejection, Unknown, Written};
pub use heads::{CONTEXTS_DEFAULT, CONTEXTS_MAX, ContextHead, Contexts, LedgerHead, ReadAt};
pub use ledger::{DEADLINE_DEFAULT, Ledger, Validator};
pub use many::{ManyEntry, ManyFailed, Placed};
pub use node::{Builder, Node, StartError};
pub use status::{PeerStatus, Status};
pub use stream::{Stream, StreamFrom, StreamOptions};
pub use transactions::{FenceDone, Transaction, TransactionDone, TransactionEntry, UnknownTransaction};
pub use types::{AppendOptions, Appended, Consistency, Loaded, Page, ReadOptions, Snapshot, WatchOptions};
pub use watch::Watch;
