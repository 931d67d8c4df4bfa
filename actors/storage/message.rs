//! What storage's actor is told.

use tokio::sync::oneshot;

use super::error::Error;
use super::types::{Genesis, LogEntry, Recovered};

/// What the handle, the workers and the clock ask of the actor.
pub(crate) enum Message {
    /// Committed entries, in order.
    Apply(Vec<LogEntry>),
    /// Replication starts: all before must be durable and applied.
    Recover(oneshot::Sender<Result<Recovered, Error>>),
    /// The cluster is born.
    WriteGenesis(Genesis, oneshot::Sender<Result<(), Error>>),
    /// A thread of this incarnation ended, though nobody asked it to.
    WorkerDied,
    /// It may be time to leave a full disk.
    Look,
}
