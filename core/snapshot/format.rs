//! What a blob begins with, and why one is refused.

use std::mem;

use crate::ids::Sequence;

/// The newest snapshot format, and the one that is written.
pub const VERSION: u32 = 1;

/// What every snapshot begins with.
pub const MAGIC: &[u8; 8] = b"CVLEDSNP";
/// Where the header starts.
pub(super) const PREAMBLE_BYTES: usize = MAGIC.len() + mem::size_of::<u32>();
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
