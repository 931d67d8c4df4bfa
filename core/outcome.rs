//! What became of an attempt.
//!
//! Outcomes are stored and enter the digest of the state: variants and fields are only ever added
//! at the end.

use serde::{Deserialize, Serialize};

use crate::ids::{ContextNo, FenceEpoch, Lamport, Position, Sequence};

/// What became of one command; the same on every node, and the same when it is applied again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The entry is in the ledger.
    Appended(Appended),
    /// The chunk is kept for its load.
    Staged,
    /// The load is done.
    Loaded {
        /// The context; 0 when an empty load met a context that does not exist.
        context: ContextNo,
        /// Entries that were appended by it.
        restored: u64,
        /// The context's latest sequence afterwards.
        latest: Sequence,
    },
    /// Nothing was written.
    Refused(Refusal),
    /// All entries of the transaction are in the ledger.
    Transacted(Transacted),
    /// The context has a new fence epoch.
    Fenced(Fenced),
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Its context.
    pub context: ContextNo,
    /// Its place in the context.
    pub sequence: Sequence,
    /// Its place in the ledger.
    pub position: Position,
    /// Its Lamport time.
    pub lamport: Lamport,
    /// It is an earlier entry with the same idempotency key and content.
    pub deduplicated: bool,
}

/// Where the entries of a transaction stand: one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transacted {
    /// The place of the first one in the ledger.
    pub first: Position,
    /// How many there are.
    pub count: u64,
    /// They are those of an earlier transaction with the same idempotency key and content.
    pub deduplicated: bool,
}

/// How a context was fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// The context.
    pub context: ContextNo,
    /// Its fence epoch from here on.
    pub epoch: FenceEpoch,
    /// Its latest sequence at that moment: who had an older epoch appends nothing behind it under that.
    pub latest: Sequence,
    /// The last position of the ledger at that moment.
    pub position: Position,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The context is not where the client thought.
    #[error("the context's latest sequence is {actual}, not the expected one: read on from there")]
    ExpectedSequence {
        /// The context's latest sequence.
        actual: Sequence,
    },
    /// The idempotency key stands for another content.
    #[error("the idempotency key belongs to entry {sequence}, which has other content: use another key")]
    IdempotencyMismatch {
        /// The entry that has the key.
        sequence: Sequence,
    },
    /// The load was to create the context.
    #[error("the context exists, up to sequence {latest}: load without fail_if_exists")]
    ContextExists {
        /// The context's latest sequence.
        latest: Sequence,
    },
    /// The context moved since the load was prepared; its staged entries are still there.
    #[error("the context moved to sequence {latest} during the load: try again from there")]
    LoadMoved {
        /// The context's latest sequence.
        latest: Sequence,
    },
    /// The context has entries that the snapshot has not.
    #[error("the context, up to sequence {latest}, differs from the snapshot")]
    LoadDiverges {
        /// The context's latest sequence.
        latest: Sequence,
    },
    /// The staged entries are not those that the load names.
    #[error("the load's parts are not all there: load the snapshot again")]
    LoadIncomplete,
    /// The attempt is of an older boot of its node, or below its low-water mark.
    #[error("the attempt was given up by its node")]
    Superseded,
    /// The chunk is not what it says of itself, or differs from what was staged in its place.
    #[error("the chunk is not what it says of itself: load the snapshot again")]
    ChunkInvalid,
    /// The append follows another one in its batch, which did not append.
    #[error("an append before it was refused: nothing behind that was written")]
    NotReached,
    /// A condition of the transaction does not hold.
    #[error("condition {} does not hold: its context is at sequence {latest} with fence epoch {epoch}", u64::from(*nth) + 1)]
    Condition {
        /// Which one, counted from 0: the first that does not.
        nth: u32,
        /// The latest sequence of its context.
        latest: Sequence,
        /// The fence epoch of its context.
        epoch: FenceEpoch,
    },
    /// The context has another fence epoch; or, to be fenced, one that is not below the given one.
    #[error("the context's fence epoch is {current}, which the given one does not fit: look who has fenced it")]
    StaleFence {
        /// The context's fence epoch.
        current: FenceEpoch,
    },
    /// The idempotency key stands for another transaction.
    #[error(
        "the idempotency key belongs to the transaction at position {first}, which has other content: use another key"
    )]
    TransactionMismatch {
        /// The place of its first entry in the ledger.
        first: Position,
    },
}
