//! A whole context as one blob: self-contained, versioned, compressed, verified as a whole before
//! a single entry of it is handed out.
//!
//! ```text
//! blob    = magic [8], version u32 LE, header, crc32c LE (of all before it), one zstd frame
//! header  = postcard(context, created_at_ns, entries, content bytes, Merkle root [32])
//! content = for each entry: postcard(sequence, id [16], time u64 LE [8], Lamport time, key),
//!           postcard(metadata), postcard(payload length), payload
//! ```
//!
//! Positions are not in it: they belong to the ledger that it was taken from. Neither are
//! idempotency keys. The Merkle root (see [`root`]) covers everything else of every entry; the
//! checksum covers the header, so damage is named where it is.
//!
//! Entries are packed and unpacked one at a time: an entry takes far more memory than its bytes in
//! the content, above all where there are many small ones. What a blob takes unpacked is its
//! content and a fixed number of bytes per entry, whatever stands in it.

mod merkle;
mod pack;
mod unpack;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::mem;

use crate::entry::{EMPTY_CHAIN, Entry};
use crate::ids::Sequence;

pub use merkle::root;
pub use pack::{Packer, encode};
pub use unpack::{Decoded, decode};

/// The newest snapshot format, and the one that is written.
pub const VERSION: u32 = 1;

/// What every snapshot begins with.
pub const MAGIC: &[u8; 8] = b"CVLEDSNP";
/// Where the header starts.
const PREAMBLE_BYTES: usize = MAGIC.len() + mem::size_of::<u32>();
/// Memory of an entry besides its content: where that starts, and its link of the [`chain`].
const ENTRY_BYTES: u64 = (mem::size_of::<usize>() + mem::size_of::<[u8; 32]>()) as u64;
/// Memory of a pair of metadata besides its text, while it is read: in a map of slices, then in
/// one of its own, of whose nodes more than half may be empty.
const PAIR_BYTES: u64 = 192;

/// A blob is refused; nothing of it is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Something else altogether.
    #[error("not a Converge Ledger snapshot: it does not start as one")]
    Foreign,
    /// Written by a newer program, or damaged there.
    #[error("snapshot format {found} is unknown to this program, which reads up to {known}: upgrade it")]
    Version {
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The blob ends before the snapshot does.
    #[error("snapshot is truncated: copy it again")]
    Truncated,
    /// There are bytes behind the snapshot.
    #[error("snapshot has {bytes} bytes behind its end: copy it again")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The header is not the one that was written.
    #[error("snapshot header fails its checksum: copy it again")]
    Checksum,
    /// The compressed content is damaged.
    #[error("snapshot cannot be decompressed: {0}")]
    Compression(String),
    /// It would take more memory than it may.
    #[error("snapshot takes more than {limit} bytes when unpacked: raise the limit")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The content is not what its header announces, or not entries.
    #[error("snapshot content is malformed: {0}")]
    Malformed(&'static str),
    /// The entries are not 1, 2, 3 …
    #[error("snapshot entries are out of order: sequence {found} stands where {expected} belongs")]
    Order {
        /// The sequence that belongs there.
        expected: Sequence,
        /// The sequence that stands there.
        found: Sequence,
    },
    /// The entries are not those that the Merkle root was made of.
    #[error("snapshot entries do not match their Merkle root: the snapshot was altered")]
    Root,
}

/// The chain hash after every entry, as [`crate::Head::chain`] had it: two contexts are the same
/// up to a sequence if and only if these are equal there.
#[must_use]
pub fn chain<E: Borrow<Entry>>(entries: impl IntoIterator<Item = E>) -> Vec<[u8; 32]> {
    let entries = entries.into_iter();
    // Of that size at once: one that grows takes up to three times as much.
    let mut chain = Vec::with_capacity(entries.size_hint().0);
    let mut last = EMPTY_CHAIN;
    for entry in entries {
        last = entry.borrow().chain(&last);
        chain.push(last);
    }
    chain
}

/// What is left of the memory that a snapshot may take.
struct Budget {
    left: u64,
    limit: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { left: limit as u64, limit }
    }

    /// For as long as the snapshot is there.
    fn charge(&mut self, bytes: u64) -> Result<(), SnapshotError> {
        self.fits(bytes)?;
        self.left -= bytes;
        Ok(())
    }

    /// For a moment.
    fn fits(&self, bytes: u64) -> Result<(), SnapshotError> {
        if bytes <= self.left { Ok(()) } else { Err(SnapshotError::TooLarge { limit: self.limit }) }
    }
}

/// Memory of the texts of one entry, while it is out of the content.
fn text_bytes<S: AsRef<str>>(key: &str, metadata: &BTreeMap<S, S>) -> u64 {
    let texts: usize = metadata.iter().map(|(name, value)| name.as_ref().len() + value.as_ref().len()).sum();
    (key.len() + texts) as u64 + pairs_bytes(metadata.len() as u64)
}

fn pairs_bytes(pairs: u64) -> u64 {
    pairs.saturating_mul(PAIR_BYTES)
}
