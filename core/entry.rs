//! An entry, before and after the ledger took it, and the hashes that bind one to its history.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{EntryId, Lamport, Position, Sequence};

/// The chain hash of a context without entries.
pub const EMPTY_CHAIN: [u8; 32] = [0; 32];

/// What a pair of metadata is charged besides its texts.
const PAIR_BYTES: usize = 8;

/// What a client asks to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEntry {
    /// The stream it belongs to; never empty once it passed [`crate::Limits::check`].
    pub context_id: String,
    /// The client's label; may be empty.
    pub key: String,
    /// The client's bytes; may be empty.
    pub payload: Bytes,
    /// The client's pairs.
    pub metadata: BTreeMap<String, String>,
}

/// Bytes of what an entry is made of, and 8 for each pair. What one takes besides these is for whoever
/// weighs it to add.
#[must_use]
pub fn content_bytes(context_id: &str, key: &str, payload: &[u8], metadata: &BTreeMap<String, String>) -> usize {
    let pairs = metadata.iter().map(|(name, value)| name.len() + value.len() + PAIR_BYTES);
    payload.len() + context_id.len() + key.len() + pairs.sum::<usize>()
}

impl NewEntry {
    /// See [`content_bytes`].
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        content_bytes(&self.context_id, &self.key, &self.payload, &self.metadata)
    }

    /// See [`content_hash`].
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        content_hash(&self.context_id, &self.key, &self.payload, &self.metadata)
    }
}

/// An entry of the ledger. Never updated, deleted or moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stream it belongs to.
    pub context_id: String,
    /// The client's label; may be empty.
    pub key: String,
    /// The client's bytes; may be empty.
    pub payload: Bytes,
    /// The client's pairs.
    pub metadata: BTreeMap<String, String>,
    /// Its name, fixed at admission.
    pub id: EntryId,
    /// Its place in its context.
    pub sequence: Sequence,
    /// Its place in the whole ledger; 0 in an entry that came out of a snapshot.
    pub position: Position,
    /// When the node that took the call admitted it, nanoseconds since 1970.
    pub appended_at_ns: u64,
    /// Its Lamport time in its context.
    pub lamport: Lamport,
}

impl Entry {
    /// See [`content_bytes`].
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        content_bytes(&self.context_id, &self.key, &self.payload, &self.metadata)
    }

    /// See [`content_hash`]. Computed, not stored: rows carry a checksum of their own.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        content_hash(&self.context_id, &self.key, &self.payload, &self.metadata)
    }

    /// The chain hash after this entry, when `previous` is the one before it.
    #[must_use]
    pub fn chain(&self, previous: &[u8; 32]) -> [u8; 32] {
        chain_link(previous, self.sequence, self.id, self.appended_at_ns, self.lamport, &self.content_hash())
    }
}

/// BLAKE3 over what the client said: context, key, payload and sorted metadata, each with its
/// length in front, so that no two different contents give the same input.
#[must_use]
pub fn content_hash(context_id: &str, key: &str, payload: &[u8], metadata: &BTreeMap<String, String>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"converge-ledger content 1");
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(context_id.as_bytes());
    field(key.as_bytes());
    field(payload);
    for (name, value) in metadata {
        field(name.as_bytes());
        field(value.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The chain hash after an entry: BLAKE3 over the hash before it and all that makes the entry
/// what it is, except its position, which differs between ledgers that hold the same context.
#[must_use]
pub fn chain_link(
    previous: &[u8; 32],
    sequence: Sequence,
    id: EntryId,
    appended_at_ns: u64,
    lamport: Lamport,
    content: &[u8; 32],
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"converge-ledger chain 1");
    hasher.update(previous);
    hasher.update(&sequence.get().to_le_bytes());
    hasher.update(&id.0);
    hasher.update(&appended_at_ns.to_le_bytes());
    hasher.update(&lamport.get().to_le_bytes());
    hasher.update(content);
    *hasher.finalize().as_bytes()
}
