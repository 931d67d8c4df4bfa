//! What a log entry asks of the state machine.
//!
//! A [`Batch`] is one Raft entry: commands of one boot of one node, proposed together. Its bytes
//! are in [`crate::batch`].

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::entry::{Entry, NewEntry};
use crate::ids::{AttemptId, Boot, EntryId, Lamport, NodeId, Position, Sequence};

/// Commands that were proposed together; one Raft entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The node that took the calls.
    pub origin: NodeId,
    /// The boot of that node in which it took them.
    pub boot: Boot,
    /// No attempt of that boot below this counter is in flight any more, so that its outcome can
    /// be forgotten. Never goes back.
    pub low_water: u64,
    /// In the order in which they apply. None at all is legal: a low-water mark on its own.
    pub commands: Vec<Command>,
}

impl Batch {
    /// The attempt that a command of this batch belongs to.
    #[must_use]
    pub fn attempt(&self, command: &Command) -> AttemptId {
        AttemptId { node: self.origin, boot: self.boot, counter: command.counter() }
    }
}

/// One step of the state machine; exactly one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Append one entry.
    Append(Append),
    /// Keep one entry of a load invisibly.
    Stage(Stage),
    /// Make the staged entries of a load visible, all or none.
    Load(Load),
}

impl Command {
    /// The attempt counter within the batch's origin and boot.
    #[must_use]
    pub fn counter(&self) -> u64 {
        match self {
            Self::Append(append) => append.counter,
            Self::Stage(stage) => stage.counter,
            Self::Load(load) => load.counter,
        }
    }
}

/// Append one entry to its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The attempt counter.
    pub counter: u64,
    /// The entry's name, fixed at admission.
    pub id: EntryId,
    /// The entry's time, fixed at admission.
    pub appended_at_ns: u64,
    /// The client's key for exactly-once, scoped to the context.
    pub idempotency_key: Option<String>,
    /// The context's latest sequence must be this before the append.
    pub expected_sequence: Option<Sequence>,
    /// A Lamport time the client got from elsewhere.
    pub received_lamport: Option<Lamport>,
    /// What to append.
    pub entry: NewEntry,
}

/// Keep one entry for a later [`Load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The attempt counter of this command itself.
    pub counter: u64,
    /// The staging it belongs to: the attempt counter of the first [`Load`] that names it.
    pub load: u64,
    /// The entry as it stood where the snapshot was taken.
    pub entry: StagedEntry,
}

/// An entry out of a snapshot, without the name of a context, which its [`Load`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedEntry {
    /// Kept by the load.
    pub sequence: Sequence,
    /// Kept by the load.
    pub lamport: Lamport,
    /// Kept by the load.
    pub id: EntryId,
    /// Kept by the load.
    pub appended_at_ns: u64,
    /// The client's label.
    pub key: String,
    /// The client's bytes.
    pub payload: Bytes,
    /// The client's pairs.
    pub metadata: BTreeMap<String, String>,
}

impl StagedEntry {
    /// The entry that it becomes in this context at this position.
    #[must_use]
    pub fn into_entry(self, context_id: String, position: Position) -> Entry {
        let Self { sequence, lamport, id, appended_at_ns, key, payload, metadata } = self;
        Entry { context_id, key, payload, metadata, id, sequence, position, appended_at_ns, lamport }
    }
}

impl From<Entry> for StagedEntry {
    fn from(entry: Entry) -> Self {
        let Entry { key, payload, metadata, id, sequence, appended_at_ns, lamport, .. } = entry;
        Self { sequence, lamport, id, appended_at_ns, key, payload, metadata }
    }
}

/// Append the staged entries `base + 1 ..= base + count` to a context, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The attempt counter.
    pub counter: u64,
    /// The staging to take from: the counter of the first try, which later tries keep when they
    /// adapt `base` to a context that moved in between.
    pub stage: u64,
    /// The context to load into.
    pub context_id: String,
    /// What the context's latest sequence must be.
    pub base: Sequence,
    /// What the context's chain hash must be ([`crate::EMPTY_CHAIN`] for a base of 0).
    pub base_chain: [u8; 32],
    /// How many entries to append; 0 only checks.
    pub count: u64,
    /// Refuse unless the context is empty.
    pub fail_if_exists: bool,
}
