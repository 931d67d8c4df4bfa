//! What a log entry asks of the state machine.
//!
//! A [`Batch`] is one Raft entry: commands of one boot of one node, proposed together. Its bytes
//! are in [`crate::batch`].

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::entry::{Entry, NewEntry, chain_link, content_bytes, content_hash};
use crate::ids::{AttemptId, Boot, EntryId, FenceEpoch, Lamport, NodeId, Position, Sequence};

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
    /// No load of that boot with a staging below this number is under way any more, so that what it staged can be
    /// dropped. Apart from `low_water`: a load takes long, and may not hold the outcomes of all appends beside it.
    /// Never goes back.
    pub low_staging: u64,
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
    /// Keep a chunk of a load invisibly.
    Stage(Stage),
    /// Make the staged entries of a load visible, all or none.
    Load(Load),
    /// Append entries to many contexts, all or none.
    Transact(Transact),
    /// Raise the fence epoch of a context.
    Fence(RaiseFence),
}

impl Command {
    /// The attempt counter within the batch's origin and boot.
    #[must_use]
    pub fn counter(&self) -> u64 {
        match self {
            Self::Append(append) => append.counter,
            Self::Stage(stage) => stage.counter,
            Self::Load(load) => load.counter,
            Self::Transact(transact) => transact.counter,
            Self::Fence(fence) => fence.counter,
        }
    }

    /// How many rows it has in its batch: a transaction has one for each of its entries besides its own.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Self::Transact(transact) => 1 + transact.entries.len(),
            Self::Append(_) | Self::Stage(_) | Self::Load(_) | Self::Fence(_) => 1,
        }
    }

    /// It belongs behind the command before it in its batch.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self, Self::Append(append) if append.follows)
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
    /// The context's fence epoch must be this.
    pub fence_epoch: Option<FenceEpoch>,
    /// A Lamport time the client got from elsewhere.
    pub received_lamport: Option<Lamport>,
    /// It belongs behind the command before it in its batch: where that one did not append, this one is refused. So what
    /// one caller sends in a row is in the ledger from its first entry on, or as far as it could go.
    pub follows: bool,
    /// What to append.
    pub entry: NewEntry,
}

/// Keep consecutive entries for a later [`Load`]. Staging the same chunk again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The attempt counter of this command itself.
    pub counter: u64,
    /// The staging it belongs to.
    pub load: u64,
    /// The context that the load is for, whose name the hashes cover.
    pub context_id: String,
    /// The sequence of the first entry; the others follow without a gap.
    pub first: Sequence,
    /// The context's chain hash before the first entry.
    pub base_chain: [u8; 32],
    /// The chain hash after the last one: what apply computes must be the same.
    pub chain: [u8; 32],
    /// The entries, at least one.
    pub entries: Vec<StagedEntry>,
}

impl Stage {
    /// The chain hash after the last entry, computed from them; none if they have no place in any context.
    #[must_use]
    pub fn computed_chain(&self) -> Option<[u8; 32]> {
        let last = self.first.get().checked_add(self.entries.len() as u64)?.checked_sub(1)?;
        if self.first == Sequence(0) || self.entries.is_empty() || last == u64::MAX {
            return None;
        }
        let sequences = (self.first.get()..).map(Sequence);
        let links = sequences.zip(&self.entries);
        Some(links.fold(self.base_chain, |chain, (sequence, entry)| entry.link(&self.context_id, sequence, &chain)))
    }

    /// The entry with this sequence; its bytes are copied, so that it does not keep the whole chunk in memory.
    #[must_use]
    pub fn entry(&self, sequence: Sequence, position: Position) -> Option<Entry> {
        let nth = usize::try_from(sequence.get().checked_sub(self.first.get())?).ok()?;
        let mut entry = self.entries.get(nth)?.clone();
        if self.entries.len() > 1 {
            entry.payload = Bytes::copy_from_slice(&entry.payload);
        }
        Some(entry.into_entry(self.context_id.clone(), sequence, position))
    }
}

/// An entry out of a snapshot, without its context and its place there, which the chunk gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedEntry {
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

/// What a staged entry takes besides its texts and bytes, at most.
const STAGED_BYTES: usize = 64;

impl StagedEntry {
    /// About what it takes in a chunk, and not less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        STAGED_BYTES + content_bytes("", &self.key, &self.payload, &self.metadata)
    }

    /// The entry that it becomes.
    #[must_use]
    pub fn into_entry(self, context_id: String, sequence: Sequence, position: Position) -> Entry {
        let Self { lamport, id, appended_at_ns, key, payload, metadata } = self;
        Entry { context_id, key, payload, metadata, id, sequence, position, appended_at_ns, lamport }
    }

    fn link(&self, context_id: &str, sequence: Sequence, previous: &[u8; 32]) -> [u8; 32] {
        let content = content_hash(context_id, &self.key, &self.payload, &self.metadata);
        chain_link(previous, sequence, self.id, self.appended_at_ns, self.lamport, &content)
    }
}

impl From<Entry> for StagedEntry {
    fn from(entry: Entry) -> Self {
        let Entry { key, payload, metadata, id, appended_at_ns, lamport, .. } = entry;
        Self { lamport, id, appended_at_ns, key, payload, metadata }
    }
}

/// Append the staged entries `base + 1 ..= base + count` to a context, all or none. The chunks must join there: one
/// that begins behind the base, and is followed by one that begins where it ends, up to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The attempt counter.
    pub counter: u64,
    /// The staging to take from. Later tries keep it, when they adapt `base` to a context that moved in between.
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

/// Append entries to as many contexts as it takes, all or none, and only where every condition holds. All of it is one
/// command, so that no batch has a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transact {
    /// The attempt counter.
    pub counter: u64,
    /// The client's key for exactly-once: one for the whole ledger, apart from those of contexts.
    pub idempotency_key: Option<String>,
    /// What must hold before the first entry, in the order in which it is looked at.
    pub conditions: Vec<Condition>,
    /// What to append, in order.
    pub entries: Vec<TransactEntry>,
}

impl Transact {
    /// The contexts that it asks about, and those that it appends to.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        let asked = self.conditions.iter().map(|condition| &condition.context_id);
        asked.chain(self.entries.iter().map(|part| &part.entry.context_id)).map(String::as_str)
    }

    /// BLAKE3 over all that the client asked for, so that its key stands for one request.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        fn optional(number: Option<u64>) -> [u8; 9] {
            let mut bytes = [0; 9];
            bytes[0] = u8::from(number.is_some());
            bytes[1..].copy_from_slice(&number.unwrap_or(0).to_le_bytes());
            bytes
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"converge-ledger transaction 1");
        hasher.update(&(self.conditions.len() as u64).to_le_bytes());
        for Condition { context_id, sequence, fence_epoch } in &self.conditions {
            hasher.update(&(context_id.len() as u64).to_le_bytes());
            hasher.update(context_id.as_bytes());
            hasher.update(&optional(sequence.map(Sequence::get)));
            hasher.update(&optional(fence_epoch.map(FenceEpoch::get)));
        }
        for entry in &self.entries {
            hasher.update(&entry.entry.content_hash());
            hasher.update(&optional(entry.received_lamport.map(Lamport::get)));
        }
        *hasher.finalize().as_bytes()
    }
}

/// What must hold of a context, whether it gets an entry or not. All that is there must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The context.
    pub context_id: String,
    /// Its latest sequence is this; 0: it has no entry.
    pub sequence: Option<Sequence>,
    /// Its fence epoch is this; 0: it was never fenced.
    pub fence_epoch: Option<FenceEpoch>,
}

/// An entry of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactEntry {
    /// The entry's name, fixed at admission.
    pub id: EntryId,
    /// The entry's time, fixed at admission.
    pub appended_at_ns: u64,
    /// A Lamport time the client got from elsewhere.
    pub received_lamport: Option<Lamport>,
    /// What to append.
    pub entry: NewEntry,
}

/// Raise the fence epoch of a context: who sends an older one with an append or a condition is refused from then on.
/// Who sends none passes, so a writer that may be fenced always sends its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseFence {
    /// The attempt counter.
    pub counter: u64,
    /// The context; one without entries can be fenced, too.
    pub context_id: String,
    /// The new epoch, above the current one; none: the next one.
    pub epoch: Option<FenceEpoch>,
}
