//! What can go wrong with storage, by what the caller can do about it.

use std::path::PathBuf;

use converge_ledger_core::LogIndex;
use converge_ledger_core::codec::CodecError;

/// Why storage did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data directory cannot be used as it is; nothing in it was changed. Start-up ends with
    /// this, and says what to do.
    #[error("data directory {dir:?}: {reason}")]
    Refused {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong, and the next step.
        reason: String,
    },
    /// A newer program wrote what is in the data directory: to this one it would look as if it were not there. Nothing of it
    /// was lost, and start-up ends with this.
    #[error(
        "NEWER_FORMAT: {what} has format {found}, this program reads up to {known}: start the newer program again, \
         which finds all that it wrote"
    )]
    NewerFormat {
        /// What was read, and where.
        what: String,
        /// Its version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// Storage is starting, restarting or stopping. Nothing was done; try again.
    #[error("storage is not serving yet: try again shortly")]
    Unavailable,
    /// Something is lacking for the moment: descriptors, memory. Nothing was done; try again.
    #[error("lacking for the moment: {0}")]
    Passing(String),
    /// Storage refuses for good until an operator restarts the process.
    #[error("storage is fenced: {0}")]
    Fenced(Cause),
    /// Bytes on this node's disk are not those that were written. Never served; the node fences
    /// itself.
    #[error("data loss: {0}")]
    DataLoss(String),
    /// Apply has stopped at what only a newer program can read. The log is stored on; what is read stays at the old position.
    #[error("{0}")]
    Outdated(Outdated),
    /// One log entry is larger than a journal record may be. Nothing was done.
    #[error("log entry {index} has {bytes} bytes, the journal takes at most {max}")]
    TooLarge {
        /// The log entry.
        index: LogIndex,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

impl Error {
    /// Whether storage has fenced itself: nothing is written before its actor, or the process, starts anew.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Error::Fenced(_) | Error::DataLoss(_))
    }
}

/// A committed log entry that only a newer program can apply, on which all that follow it wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "OUTDATED: log entry {index} cannot be applied by this program: {needs}. Install the newer program and start this node \
     again, nothing is lost; meanwhile it stores and votes, but takes no appends and no linearizable reads: ask another node"
)]
pub struct Outdated {
    /// The log entry; what is applied ends before it.
    pub index: LogIndex,
    /// What in it is newer than this program.
    pub needs: CodecError,
}

/// Why storage fenced itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A read, a write or a sync failed. What is on the disk is unknown until the process starts anew,
    /// for the page cache may hold what the disk does not.
    #[error("{what} failed: {error}. Check the disk, then restart the process")]
    Io {
        /// The operation.
        what: String,
        /// What the system said.
        error: String,
    },
    /// A write found no room. Left by itself once there is room, for no sync failed: what was written before is not
    /// lost, and recovery finds out what is there.
    #[error("{what} found no room on the disk: {error}. Make room, and the node goes on")]
    DiskFull {
        /// The operation.
        what: String,
        /// What the system said.
        error: String,
    },
    /// The log has what a newer program wrote: to pass over it would give another state than other nodes have.
    #[error("NEWER_FORMAT: {what}. Start the newer program on this directory; nothing of it is lost")]
    NewerFormat {
        /// What was read.
        what: String,
    },
    /// Bytes on the disk are not those that were written.
    #[error("data loss: {what}. Replace this node; never restore a copy of its directory")]
    DataLoss {
        /// What was found, and where.
        what: String,
    },
}

impl Cause {
    /// The cause that a failed operation on a file amounts to.
    pub(crate) fn of(what: &str, error: &std::io::Error) -> Cause {
        let what = what.to_owned();
        let full = super::passing::is_full(error);
        let error = error.to_string();
        if full { Cause::DiskFull { what, error } } else { Cause::Io { what, error } }
    }

    /// The error that callers get while this cause holds.
    #[must_use]
    pub fn error(&self) -> Error {
        match self {
            Cause::DataLoss { what } => Error::DataLoss(what.clone()),
            other => Error::Fenced(other.clone()),
        }
    }

    /// How much it forbids: a graver cause takes the place of a lesser one.
    pub(crate) fn gravity(&self) -> u8 {
        match self {
            Cause::DiskFull { .. } => 0,
            Cause::Io { .. } | Cause::NewerFormat { .. } => 1,
            Cause::DataLoss { .. } => 2,
        }
    }

    /// Whether what was written before can still be read with a checksum to vouch for it.
    #[must_use]
    pub fn can_read(&self) -> bool {
        !matches!(self, Cause::DataLoss { .. })
    }
}
