//! What the actor is told, and what its callers are answered.

use bytes::Bytes;
use converge_ledger_core::{LogIndex, NodeId};
use tokio::sync::oneshot;

use super::handover::{Heir, NotHandedOver};
use super::received::Received;
use crate::distribution::LinkEvent;
use crate::storage::{self, LogEntry};

/// Called once when a proposal was not taken; it was written nowhere.
pub type Refused = Box<dyn FnOnce(Option<NodeId>) + Send>;

/// Why a read index could not be had.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// No majority confirmed it within the deadline.
    #[error("no majority confirmed the read within its deadline")]
    Unavailable,
    /// This node applies nothing more: it cannot know what was acknowledged.
    #[error("{0}")]
    Outdated(storage::Outdated),
    /// Too many reads wait already.
    #[error("too many linearizable reads are waiting")]
    Overloaded,
}

/// What the actor is told. Private: callers use [`Replication`].
pub(crate) enum Message {
    Tick,
    Frame(Received),
    Link(LinkEvent),
    /// An append to this peer was shed.
    Shed(NodeId),
    Propose {
        data: Bytes,
        refused: Refused,
    },
    Read {
        reply: ReadReply,
    },
    HandOver {
        heir: Heir,
        /// This node is about to stop.
        leaves: bool,
        reply: oneshot::Sender<Result<NodeId, NotHandedOver>>,
    },
    /// The heir was not elected in time.
    KeepOffice,
    Persisted {
        number: u64,
        result: Result<(), storage::Error>,
    },
    Applied(LogIndex),
    /// Entries from `low` on that a lagging peer needs, with the one before them.
    Fetched {
        low: LogIndex,
        result: Result<Vec<LogEntry>, storage::Error>,
    },
}

pub(super) type ReadReply = oneshot::Sender<Result<LogIndex, ReadError>>;
