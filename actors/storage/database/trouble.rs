//! What can go wrong with the database, and what it means for the node.

use std::io;

use crate::storage::error::{Cause, Error};
use crate::storage::failure::Failure;
use crate::storage::passing::passes;
use crate::storage::segments::SegmentError;
use crate::storage::segments::format::VERSION;

/// What was done when a segment could not be read.
pub(crate) const READING: &str = "reading a segment";

/// Why something could not be read.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Not the bytes that were written.
    DataLoss(String),
    /// Bytes of a newer program.
    Newer(String),
    /// A file of a segment cannot be read.
    Io(io::Error),
    /// It cannot be opened for lack of a descriptor.
    Passing(String),
    /// The database says so.
    Redb(redb::Error),
    /// The database is closed at the moment, or will be.
    Closed,
}

impl Trouble {
    pub(crate) fn segment(error: SegmentError) -> Trouble {
        match error {
            SegmentError::Io(error) if passes(&error) => Trouble::Passing(format!("{READING}: {error}")),
            SegmentError::Io(error) => Trouble::Io(error),
            SegmentError::DataLoss(what) => Trouble::DataLoss(what),
            SegmentError::Newer { what, version } => {
                Trouble::Newer(format!("{what} has format {version}, this program reads up to {VERSION}"))
            }
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Trouble::DataLoss(format!("the database: {what}")),
            // It refuses everything since a failure, and whoever met that one fences for what it was.
            redb::Error::PreviousIo => Trouble::Closed,
            other => Trouble::Redb(other),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::DataLoss(what) => Failure::Fence(Cause::DataLoss { what }),
            Trouble::Newer(what) => Failure::Fence(Cause::NewerFormat { what }),
            Trouble::Io(error) => Failure::Fence(Cause::of(READING, &error)),
            Trouble::Passing(what) => Failure::Passing(what),
            Trouble::Redb(error) => Failure::Fence(redb_cause("reading the database", &error)),
            // Its worker is gone, or has met a failure that it will fence for: an exit, after which it is opened again.
            Trouble::Closed => Failure::Refused(Error::Unavailable),
        }
    }
}

/// The cause that a failure of the database amounts to.
pub(crate) fn redb_cause(what: &str, error: &redb::Error) -> Cause {
    match error {
        redb::Error::Io(error) => Cause::of(what, error),
        redb::Error::Corrupted(found) => Cause::DataLoss { what: format!("{what}: {found}") },
        other => Cause::Io { what: what.to_owned(), error: other.to_string() },
    }
}

pub(crate) fn db_failure<E: Into<redb::Error>>(what: &str) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::Fence(redb_cause(what, &error.into()))
}
