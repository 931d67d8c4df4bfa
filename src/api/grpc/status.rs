//! What a failed call looks like on the wire.

use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::names;
use crate::Error;

/// Whether a failed call may have written something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Refused,
    Unknown,
}

/// The status of a refusal: nothing was written.
pub(super) fn refused(code: Code, message: impl Into<String>) -> Status {
    with_outcome(code, message, Outcome::Refused)
}

fn with_outcome(code: Code, message: impl Into<String>, outcome: Outcome) -> Status {
    let mut metadata = MetadataMap::new();
    let outcome = match outcome {
        Outcome::Refused => names::REFUSED,
        Outcome::Unknown => names::UNKNOWN,
    };
    metadata.insert(names::OUTCOME, MetadataValue::from_static(outcome));
    Status::with_metadata(code, message, metadata)
}

/// A refusal of more work than there is room for, with a hint when to return.
pub(super) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Status {
    let mut status = refused(Code::ResourceExhausted, message);
    let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    insert(&mut status, names::RETRY_AFTER_MS, ms);
    status
}

fn insert(status: &mut Status, name: &'static str, value: u64) {
    status.metadata_mut().insert(name, value.into());
}

/// The status of a ledger's error, with what a program needs in its trailers.
pub(super) fn from_error(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::PayloadTooLarge { .. } | Error::ResponseTooLarge { .. } | Error::SnapshotTooLarge { .. } => {
            refused(Code::ResourceExhausted, message)
        }
        Error::InvalidArgument(_) | Error::Rejected(_) | Error::InvalidSnapshot(_) => {
            refused(Code::InvalidArgument, message)
        }
        Error::Overloaded { retry_after } => overloaded(message, *retry_after),
        Error::ExpectedSequence { actual } => {
            let mut status = refused(Code::FailedPrecondition, message);
            insert(&mut status, names::ACTUAL_SEQUENCE, actual.get());
            status
        }
        Error::LoadDiverges { .. } => refused(Code::FailedPrecondition, message),
        Error::IdempotencyMismatch { .. } | Error::ContextExists { .. } => refused(Code::AlreadyExists, message),
        Error::Unavailable { .. } | Error::Stopped => refused(Code::Unavailable, message),
        Error::Unknown(_) | Error::LoadUnknown => with_outcome(Code::DeadlineExceeded, message, Outcome::Unknown),
        Error::ReadTimeout => refused(Code::DeadlineExceeded, message),
        Error::DataLoss(_) => refused(Code::DataLoss, message),
    }
}
