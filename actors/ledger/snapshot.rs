//! A whole context as one blob.

use crate::entry::Entry;

/// The newest snapshot format.
pub const VERSION: u32 = 1;

/// What a sound snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The context it was taken of.
    pub context_id: String,
    /// When it was taken, nanoseconds since 1970.
    pub created_at_ns: u64,
    /// Sequences 1..=n; positions are 0.
    pub entries: Vec<Entry>,
}

/// A snapshot is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Not a snapshot at all.
    #[error("these bytes are not a Converge Ledger snapshot")]
    NotASnapshot,
}

/// The blob of a whole context.
#[must_use]
pub fn encode(context_id: &str, entries: &[Entry], created_at_ns: u64) -> Vec<u8> {
    let _ = (context_id, entries, created_at_ns);
    unimplemented!()
}

/// Reads and verifies a blob.
///
/// # Errors
/// Anything but what [`encode`] wrote, or more than `limit` bytes of content.
pub fn decode(blob: &[u8], limit: usize) -> Result<Decoded, SnapshotError> {
    let _ = (blob, limit);
    Err(SnapshotError::NotASnapshot)
}

/// The chain hash after every entry.
#[must_use]
pub fn chain(entries: &[Entry]) -> Vec<[u8; 32]> {
    let mut last = crate::entry::EMPTY_CHAIN;
    entries
        .iter()
        .map(|entry| {
            last = entry.chain(&last);
            last
        })
        .collect()
}
