//! What a failed call looks like on the wire.

use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::names;
use crate::{Error, Written};

/// The status of a refusal: nothing was written. For calls that were not handed to the ledger, and for reads.
pub(super) fn refused(code: Code, message: impl Into<String>) -> Status {
    with_outcome(code, message, Written::Nothing)
}

/// What the outcome trailer says.
pub(super) const fn outcome(written: Written) -> &'static str {
    match written {
        Written::Nothing => names::REFUSED,
        Written::Perhaps => names::UNKNOWN,
    }
}

fn with_outcome(code: Code, message: impl Into<String>, written: Written) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(names::OUTCOME, MetadataValue::from_static(outcome(written)));
    Status::with_metadata(code, message, metadata)
}

/// A refusal of more work than there is room for, with a hint when to return.
pub(super) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Status {
    let mut status = refused(Code::ResourceExhausted, message);
    retry_later(&mut status, retry_after);
    status
}

fn retry_later(status: &mut Status, after: Duration) {
    insert(status, names::RETRY_AFTER_MS, u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
}

/// Why it is a refusal, in the outcome's own word.
fn says(status: &mut Status, refusal: &'static str) {
    status.metadata_mut().insert(names::OUTCOME, MetadataValue::from_static(refusal));
}

fn insert(status: &mut Status, name: &'static str, value: u64) {
    status.metadata_mut().insert(name, value.into());
}

/// The status of a ledger's error, with what a program needs in its trailers. Whether anything was written is the
/// error's own word.
pub(super) fn from_error(error: &Error) -> Status {
    let mut status = with_outcome(code(error), error.to_string(), error.written());
    match error {
        Error::Overloaded { retry_after } | Error::TooManyAttempts { retry_after, .. } => {
            retry_later(&mut status, *retry_after);
        }
        Error::ExpectedSequence { actual } => insert(&mut status, names::ACTUAL_SEQUENCE, actual.get()),
        Error::Condition { nth, latest, fence_epoch } => {
            says(&mut status, names::CONDITION_FAILED);
            insert(&mut status, names::CONDITION, *nth as u64 + 1);
            insert(&mut status, names::ACTUAL_SEQUENCE, latest.get());
            insert(&mut status, names::FENCE_EPOCH, fence_epoch.get());
        }
        Error::StaleFence { current } => {
            says(&mut status, names::FENCED);
            insert(&mut status, names::FENCE_EPOCH, current.get());
        }
        _ => {}
    }
    status
}

fn code(error: &Error) -> Code {
    match error {
        Error::PayloadTooLarge { .. }
        | Error::Overloaded { .. }
        | Error::TooManyAttempts { .. }
        | Error::ResponseTooLarge { .. }
        | Error::SnapshotTooLarge { .. } => Code::ResourceExhausted,
        Error::InvalidArgument(_) | Error::Rejected(_) | Error::InvalidSnapshot(_) => Code::InvalidArgument,
        Error::ExpectedSequence { .. }
        | Error::Condition { .. }
        | Error::StaleFence { .. }
        | Error::LoadDiverges { .. } => Code::FailedPrecondition,
        Error::IdempotencyMismatch { .. } | Error::TransactionMismatch { .. } | Error::ContextExists { .. } => {
            Code::AlreadyExists
        }
        Error::Unavailable { .. } | Error::Outdated(_) | Error::Stopped => Code::Unavailable,
        Error::Unknown(_)
        | Error::TransactionUnknown(_)
        | Error::FenceUnknown { .. }
        | Error::LoadUnknown
        | Error::ReadTimeout => Code::DeadlineExceeded,
        Error::DataLoss(_) => Code::DataLoss,
    }
}
