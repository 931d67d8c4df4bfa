//! What can be asked to go wrong on the simulated disk, and what it counts.

use std::ops::Range;

/// What is to go wrong, by the number of the operation; see [`Counters`] for the counts so far.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The power is cut before this operation; it and all later ones fail.
    pub cut_at: Option<u64>,
    /// This sync fails. What it should have written is unknown: the page cache shows it, the disk
    /// has any part of it, and no later sync writes it again.
    pub fail_sync: Option<u64>,
    /// This write fails with an I/O error, and may have been done in part: some sectors of it.
    pub fail_write: Option<u64>,
    /// These reads fail with an I/O error.
    pub fail_read: Option<Range<u64>>,
    /// These openings of files fail for lack of a descriptor; nothing is done then.
    pub fail_open: Option<Range<u64>>,
    /// Bytes that files may take in total. A write that finds no more room may have been done in
    /// part. Holes take no room.
    pub capacity: Option<u64>,
    /// For what the faults leave to chance.
    pub seed: u64,
}

/// How much was asked of a disk since it was made, drawn or killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations of any kind. Asking for a length is none.
    pub ops: u64,
    /// Files opened or made, directories listed or synced: whatever takes a descriptor.
    pub opens: u64,
    /// Reads of files.
    pub reads: u64,
    /// Writes to files.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Bytes written to files.
    pub bytes: u64,
}

/// An operation that changes what a power cut would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named like the operations of the disk
pub enum Change {
    Write,
    SetLen,
    Sync,
    Create,
    Rename,
    Remove,
    SyncDir,
}
