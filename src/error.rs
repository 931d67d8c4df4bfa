//! What a call on a [`crate::Ledger`] can end in.

use std::time::Duration;

use converge_actors::storage::Outdated;
use converge_ledger_core::{AttemptId, FenceEpoch, NewEntry, Position, Sequence};

use crate::transactions::UnknownTransaction;

/// Why a call did not succeed, named by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The payload is larger than the node accepts. Nothing was written.
    #[error("payload of {bytes} bytes is larger than the limit of {limit} bytes: split it")]
    PayloadTooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// An argument is not acceptable. Nothing was written.
    #[error("{0}")]
    InvalidArgument(String),
    /// The node holds as many bytes in flight as it may. Nothing was written.
    #[error("the node is overloaded: try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// As many appends as may began since the oldest that has not ended. Nothing was written.
    #[error("{limit} appends began since the oldest that has not ended: poll or drop futures that are kept")]
    TooManyAttempts {
        /// How many may.
        limit: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The host's validator refused the entry. Nothing was written.
    #[error("{0}")]
    Rejected(Rejection),
    /// The context's latest sequence is another one. Nothing was written.
    #[error("the context's latest sequence is {actual}: read it and decide again")]
    ExpectedSequence {
        /// The context's latest sequence.
        actual: Sequence,
    },
    /// The idempotency key was used with other content. Nothing was written.
    #[error("the idempotency key belongs to entry {sequence}, which has other content: use another key")]
    IdempotencyMismatch {
        /// The entry that the key belongs to.
        sequence: Sequence,
    },
    /// A condition of the transaction does not hold. Nothing was written.
    #[error("condition {} does not hold: its context is at sequence {latest} with fence epoch {fence_epoch}; read it and decide again", nth + 1)]
    Condition {
        /// Which one, counted from 0: the first that does not.
        nth: usize,
        /// The latest sequence of its context.
        latest: Sequence,
        /// The fence epoch of its context.
        fence_epoch: FenceEpoch,
    },
    /// The context has another fence epoch than the given one; or, to be fenced, one that is not below it. Nothing was
    /// written.
    #[error("the context's fence epoch is {current}, which the given one does not fit: look who has fenced it")]
    StaleFence {
        /// The context's fence epoch.
        current: FenceEpoch,
    },
    /// The idempotency key was used for another transaction. Nothing was written.
    #[error(
        "the idempotency key belongs to the transaction at position {first}, which has other content: use another key"
    )]
    TransactionMismatch {
        /// The place of its first entry in the ledger.
        first: Position,
    },
    /// The context already has entries. Nothing was written.
    #[error("the context already has {latest} entries")]
    ContextExists {
        /// The context's latest sequence.
        latest: Sequence,
    },
    /// The context's entries are not those of the snapshot. Nothing was written.
    #[error("the context's {latest} entries are not those of the snapshot: load it into another context")]
    LoadDiverges {
        /// The context's latest sequence.
        latest: Sequence,
    },
    /// The snapshot cannot be read or fails its check. Nothing was written.
    #[error("{0}")]
    InvalidSnapshot(String),
    /// The answer would be larger than the node sends.
    #[error("the answer is larger than {limit} bytes: page with a limit and the last sequence read")]
    ResponseTooLarge {
        /// The most that is sent.
        limit: usize,
    },
    /// The context does not fit in a snapshot.
    #[error("the context is too large for a snapshot of {limit} bytes: raise limits.snapshot_bytes")]
    SnapshotTooLarge {
        /// The configured bound.
        limit: usize,
    },
    /// The call could not be served. Nothing was written.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// This node's program is too old for what the cluster has committed. Nothing was written.
    #[error("{0}")]
    Outdated(Outdated),
    /// The deadline passed; the entry may have been written.
    #[error("the outcome is unknown: retry with the same idempotency key")]
    Unknown(Box<Unknown>),
    /// The deadline passed; all of the transaction may have been written, or nothing.
    #[error(
        "the outcome of the transaction is unknown, it is in the ledger wholly or not at all: retry with the same idempotency key"
    )]
    TransactionUnknown(Box<UnknownTransaction>),
    /// The deadline passed; the context may have been fenced.
    #[error(
        "the outcome of the fence is unknown: look at the context's head for its epoch, and fence again under a higher one"
    )]
    FenceUnknown {
        /// The attempt whose outcome is not known.
        attempt: AttemptId,
    },
    /// The deadline of a load passed; it may have been done, wholly or not at all. Loading again is safe: what is
    /// there already changes nothing.
    #[error("the outcome of the load is unknown: load the same snapshot again, which changes nothing if it is done")]
    LoadUnknown,
    /// The deadline of a read passed.
    #[error("the read's deadline passed")]
    ReadTimeout,
    /// Stored bytes fail their checksum.
    #[error("{0}")]
    DataLoss(String),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Whether a failed call may have written something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing was written, and nothing will be: the call may be made again under any key, or given up.
    Nothing,
    /// Something may have been written, or may be yet: make the call again under the same key.
    Perhaps,
}

impl Error {
    /// Whether the call may have written something. The only place that says so: APIs and clients ask here.
    ///
    /// A new error belongs to [`Written::Perhaps`], unless the comment beside it can say why nothing was written.
    #[must_use]
    pub fn written(&self) -> Written {
        match self {
            // Judged before the call is admitted: no attempt exists yet.
            Error::PayloadTooLarge { .. } | Error::InvalidArgument(_) | Error::Rejected(_) => Written::Nothing,
            // No credits or no attempt: an append is not submitted, and what a load staged is invisible and dropped.
            Error::Overloaded { .. } | Error::TooManyAttempts { .. } => Written::Nothing,
            // Apply's word on the attempt's only command, equal on every node and kept as its outcome. A load's
            // own checks before it commits say the same: until then nothing of it is visible.
            Error::ExpectedSequence { .. }
            | Error::IdempotencyMismatch { .. }
            | Error::Condition { .. }
            | Error::StaleFence { .. }
            | Error::TransactionMismatch { .. }
            | Error::ContextExists { .. }
            | Error::LoadDiverges { .. } => Written::Nothing,
            // A blob is unpacked and checked before anything of it is staged.
            Error::InvalidSnapshot(_) => Written::Nothing,
            // Only reads end so, and a read writes nothing.
            Error::ResponseTooLarge { .. } | Error::SnapshotTooLarge { .. } | Error::ReadTimeout => Written::Nothing,
            // Reads, and the look at the context with which a load begins. What an append reads back comes from
            // behind its outcome, and ends as unknown there ([`crate::Ledger::append`]).
            Error::DataLoss(_) => Written::Nothing,
            // Found before anything was submitted; and reads.
            Error::Outdated(_) => Written::Nothing,
            // Found before anything was submitted; or the claim on a submission was given up before it was handed
            // over, after which it never is (`entry::Entries::submit`).
            Error::Unavailable { .. } | Error::Stopped => Written::Nothing,
            Error::Unknown(_) | Error::TransactionUnknown(_) | Error::FenceUnknown { .. } | Error::LoadUnknown => {
                Written::Perhaps
            }
        }
    }
}

/// What a retry of an append of unknown outcome needs.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// The attempt whose outcome is not known.
    pub attempt: AttemptId,
    /// The entry as it was given.
    pub entry: NewEntry,
    /// The idempotency key, where one was given.
    pub idempotency_key: Option<String>,
}

/// Why a host's validator refuses an entry.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    /// What to tell the caller.
    pub reason: String,
}
