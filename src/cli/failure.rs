//! How a command fails: an exit code, the cause, the next step.

use std::fmt;
use std::process::ExitCode;

use crate::api::grpc::names;
use tonic::{Code, Status};

use super::client::{Call, is_overload, may_retry, number, said_by_node};

/// The exit codes. Usage, 2, is also what clap exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody reads what is left to say: an end like any other, without a word.
    Done = 0,
    Error = 1,
    Usage = 2,
    Unavailable = 3,
    Precondition = 4,
    Integrity = 5,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    /// What to do about it; empty where the message says it.
    next: String,
    /// Where it is a node's answer.
    code: Option<Code>,
    /// The latest sequence, where another one was expected.
    actual: Option<u64>,
    /// It may have been carried out: an attempt's answer was lost.
    maybe_done: bool,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Failure { kind, message, next: String::new(), code: None, actual: None, maybe_done: false }
    }

    pub fn error(message: impl Into<String>) -> Self {
        Failure::new(Kind::Error, message)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn code(&self) -> Option<Code> {
        self.code
    }

    pub fn actual(&self) -> Option<u64> {
        self.actual
    }

    pub fn maybe_done(&self) -> bool {
        self.maybe_done
    }

    /// It is not known whether the write was carried out, and the same one may be made again.
    pub fn is_unknown(&self) -> bool {
        self.maybe_done && self.kind == Kind::Unavailable
    }

    /// With another next step, where somebody knows a better one.
    pub fn next(self, next: impl Into<String>) -> Self {
        Failure { next: next.into(), ..self }
    }

    /// Without the next step.
    pub fn why(&self) -> &str {
        &self.message
    }

    /// Says something more at the end.
    pub fn with(self, more: impl fmt::Display) -> Self {
        Failure { message: format!("{self}; {more}"), next: String::new(), ..self }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// A node's answer, or the lack of one, while doing `what` at `endpoint`.
    pub fn from_status(what: &str, endpoint: &str, status: &Status) -> Self {
        let is_said = said_by_node(status);
        let (kind, next) = match status.code() {
            // A node says itself what to do.
            Code::Unavailable if is_said => (Kind::Unavailable, ""),
            Code::Unavailable => (Kind::Unavailable, "check that the node runs, or name others with --endpoint"),
            Code::DeadlineExceeded | Code::Cancelled => {
                (Kind::Unavailable, "look at `converge-ledger status`, or give it more --timeout")
            }
            Code::FailedPrecondition | Code::AlreadyExists => (Kind::Precondition, ""),
            Code::DataLoss => {
                (Kind::Integrity, "look at the node's alarms with `converge-ledger status`, ask another node")
            }
            Code::ResourceExhausted if is_overload(status) => (Kind::Unavailable, "try again later"),
            Code::Unimplemented => (Kind::Error, "is there a converge-ledger of this version at that address?"),
            Code::Unknown | Code::Internal if !is_said => {
                (Kind::Error, "the connection broke, or there is no converge-ledger at that address")
            }
            _ => (Kind::Error, ""),
        };
        let cause = cause(status);
        // What a node that cannot serve now advises stands behind a semicolon.
        let (cause, next) = match cause.split_once("; ") {
            Some((cause, advised)) if is_said && next.is_empty() && may_retry(status) => (cause, advised),
            _ => (cause.as_str(), next),
        };
        Failure {
            kind,
            message: format!("{what}: {endpoint}: {cause}"),
            next: next.to_owned(),
            code: Some(status.code()),
            actual: number(status.metadata(), names::ACTUAL_SEQUENCE),
            maybe_done: false,
        }
    }
}

impl Failure {
    /// A call that was given up: for a write, whether it was written; why; and what to do.
    pub fn of_call(call: Call, endpoint: &str, status: &Status, maybe_done: bool) -> Self {
        let what = match call {
            Call::Read(what) | Call::Write(what) => what,
        };
        let told = |verdict: &str| Failure::from_status(&format!("{what}: {verdict}"), endpoint, status);
        match call {
            Call::Write(_) if may_retry(status) && maybe_done => {
                let failure = told("unknown whether it was written");
                Failure { maybe_done, kind: Kind::Unavailable, ..failure }.next("read what is there, then try again")
            }
            Call::Write(_) if may_retry(status) => told("not written"),
            Call::Read(_) => Failure::from_status(what, endpoint, status),
            Call::Write(_) => Failure { maybe_done, ..Failure::from_status(what, endpoint, status) },
        }
    }
}

/// What a status says.
fn cause(status: &Status) -> String {
    match status.message() {
        // What a node says then is what to do, which is ours to say.
        _ if status.metadata().get(names::OUTCOME).is_some_and(|outcome| outcome == names::UNKNOWN) => {
            "no outcome in time".to_owned()
        }
        "" => format!("{:?}", status.code()),
        message => with_source(message, status),
    }
}

/// tonic says only "transport error" and keeps the reason in the sources.
fn with_source(message: &str, status: &Status) -> String {
    let mut text = message.to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) && cause != "transport error" {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.next.as_str() {
            "" => Ok(()),
            next => write!(f, "; {next}"),
        }
    }
}
