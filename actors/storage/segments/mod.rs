//! The committed log: written once, in order, and never again.
//!
//! ```text
//! log/segment-0001   header │ block │ block │ … │ trailer      closed
//! log/segment-0002   header │ block │ …                        the open one
//! ```
//!
//! Only entries that are applied here come in, so nothing in a segment is ever replaced (S4). Which entries make a block,
//! and which blocks a file, follows from the entries alone: **the segments of all replicas are equal byte for byte**, up to
//! the end of the shorter.
//!
//! The database is the root: a segment counts up to the length that the last commit names ([`SegmentsEnd`]), and what is
//! longer is cut at a start. What a commit names was synced before it. A row of the database says where each block is
//! ([`BlockPlace`]); the entries of the open block are in the database's log table, as is what is not committed yet.
//!
//! Bytes are in [`format`]; which entries make a block in [`block`]; who writes is the database's worker (`committer`)
//! through [`writer`]; [`open`] is for a start, [`reader`] for readers, [`walk`] for a verification.

pub(crate) mod block;
pub(crate) mod format;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod open;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod pieces;
pub(crate) mod reader;
pub(crate) mod walk;
pub(crate) mod writer;

use std::io;
use std::path::{Path, PathBuf};

use converge_ledger_core::LogIndex;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, data_loss, io_failure, newer};
use format::{ChainHash, Unreadable, VERSION};

/// The folder of the segments in a data directory.
const FOLDER: &str = "log";
const PREFIX: &str = "segment-";

/// How far the segments go. Changes with a commit of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentsEnd {
    /// The number of the open file; 0 before there is one.
    pub(crate) file: u64,
    /// Where its last block ends. What is behind that does not count.
    pub(crate) bytes: u64,
    /// Bytes of the files that are closed.
    pub(crate) closed_bytes: u64,
    pub(crate) blocks: u64,
    /// The last log entry in them.
    pub(crate) last: LogIndex,
    /// The hash of the last block, and so of all.
    pub(crate) chain: ChainHash,
}

/// Where a block is, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockPlace {
    /// The last log entry in it.
    pub(crate) last: LogIndex,
    pub(crate) file: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// Its own checksum, so that no other block is taken for it.
    pub(crate) crc: u32,
}

/// Why something of a segment cannot be read.
#[derive(Debug)]
pub(crate) enum SegmentError {
    Io(io::Error),
    DataLoss(String),
    /// A sound piece of a newer program.
    Newer {
        what: String,
        version: u16,
    },
}

impl SegmentError {
    /// A failed read of a file: one that ends early, or is not there, has lost what the database counts on.
    fn of(name: &str, error: io::Error) -> SegmentError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => SegmentError::DataLoss(format!("{name} ends early")),
            io::ErrorKind::NotFound => SegmentError::DataLoss(format!("{name} is missing")),
            _ => SegmentError::Io(error),
        }
    }

    fn unreadable(what: String, error: Unreadable) -> SegmentError {
        match error {
            Unreadable::Damaged => SegmentError::DataLoss(format!("{what} is damaged")),
            Unreadable::Newer(version) => SegmentError::Newer { what, version },
        }
    }
}

impl From<SegmentError> for Failure {
    fn from(error: SegmentError) -> Failure {
        match error {
            SegmentError::Io(error) => io_failure("reading a segment")(error),
            SegmentError::DataLoss(what) => data_loss(what),
            SegmentError::Newer { what, version } => newer(what, version, VERSION),
        }
    }
}

/// The folder of the segments.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join(FOLDER)
}

/// A file as it is named to people: with its folder.
fn name(number: u64) -> String {
    format!("{FOLDER}/{PREFIX}{number:04}")
}

fn path(dir: &Path, number: u64) -> PathBuf {
    folder(dir).join(format!("{PREFIX}{number:04}"))
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}
