//! Why storage could not start.

use std::io;

use super::error::{Cause, Error};
use super::passing::passes;
use super::settings::Settings;

/// Why start-up came to no end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The process should not start.
    Refused(Error),
    /// The node runs, fenced.
    Fence(Cause),
    /// Something is lacking for the moment; nothing was lost, and it may be tried again.
    Passing(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DataLoss(what) => Failure::Fence(Cause::DataLoss { what }),
            Error::Fenced(cause) => Failure::Fence(cause),
            other => Failure::Refused(other),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::Fence(cause) => cause.error(),
            Failure::Passing(what) => Error::Passing(what),
        }
    }
}

pub(crate) fn data_loss(what: impl Into<String>) -> Failure {
    Failure::Fence(Cause::DataLoss { what: what.into() })
}

pub(crate) fn io_failure<'a>(what: &'a str) -> impl Fn(io::Error) -> Failure + 'a {
    move |error| match passes(&error) {
        true => Failure::Passing(format!("{what}: {error}")),
        false => Failure::Fence(Cause::of(what, &error)),
    }
}

/// A newer program wrote it.
pub(crate) fn newer(what: impl Into<String>, found: impl Into<u32>, known: impl Into<u32>) -> Failure {
    Failure::Refused(Error::NewerFormat { what: what.into(), found: found.into(), known: known.into() })
}

/// The data directory cannot be used as it is.
pub(crate) fn refused(settings: &Settings, reason: impl Into<String>) -> Error {
    Error::Refused { dir: settings.dir.clone(), reason: reason.into() }
}
