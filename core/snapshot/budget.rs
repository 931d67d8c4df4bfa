//! What a snapshot takes in memory, and what it may.

use std::collections::BTreeMap;
use std::mem;

use super::format::SnapshotError;

/// Memory of an entry besides its content: where that starts, and its link of the [`chain`].
pub(super) const ENTRY_BYTES: u64 = (mem::size_of::<usize>() + mem::size_of::<[u8; 32]>()) as u64;
/// Memory of a pair of metadata besides its text, while it is read: in a map of slices, then in
/// one of its own, of whose nodes more than half may be empty.
const PAIR_BYTES: u64 = 192;

/// What is left of the memory that a snapshot may take.
pub(super) struct Budget {
    left: u64,
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { left: limit as u64, limit }
    }

    /// For as long as the snapshot is there.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), SnapshotError> {
        self.fits(bytes)?;
        self.left -= bytes;
        Ok(())
    }

    /// For a moment.
    pub(super) fn fits(&self, bytes: u64) -> Result<(), SnapshotError> {
        if bytes <= self.left { Ok(()) } else { Err(SnapshotError::TooLarge { limit: self.limit }) }
    }
}

/// Memory of the texts of one entry, while it is out of the content.
pub(super) fn text_bytes<S: AsRef<str>>(key: &str, metadata: &BTreeMap<S, S>) -> u64 {
    let texts: usize = metadata.iter().map(|(name, value)| name.as_ref().len() + value.as_ref().len()).sum();
    (key.len() + texts) as u64 + pairs_bytes(metadata.len() as u64)
}

pub(super) fn pairs_bytes(pairs: u64) -> u64 {
    pairs.saturating_mul(PAIR_BYTES)
}
