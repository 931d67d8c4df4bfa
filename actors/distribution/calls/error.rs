//! What a call can end in, named by what its caller knows then.

use super::wire::CallAnswer;
use crate::distribution::SendError;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The handler did not run, and will not: it is safe to call again.
    #[error("the call was not sent: {0}")]
    NotSent(NotSent),
    /// The handler may have run, or may be running.
    #[error("the call may have been carried out: {0}")]
    Unknown(MayHaveRun),
    /// The handler ran, and said so itself, or panicked; in its own words. What it did before may stand.
    #[error("the call failed: {0}")]
    Failed(String),
}

/// Why a handler did not run, and will not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// There is no connection to the node, or this one has stopped. [`NodeEvent::Up`](super::NodeEvent::Up) tells when
    /// there is one again.
    #[error("there is no connection to the node")]
    Down,
    /// As much waits for this node as may: the node is slower than its callers.
    #[error("as much waits to be sent to the node, or to be answered by it, as may")]
    Full,
    /// No node of the cluster has that id.
    #[error("no node of the cluster has that id")]
    UnknownNode,
    /// The node has nobody registered under that name.
    #[error("nobody is registered there under that name")]
    NoSuchName,
    /// Who is registered there takes other messages, or cannot read this one.
    #[error("who is registered there takes other messages")]
    WrongType,
    /// The node works at as many calls of this one as it may.
    #[error("the node works at as many calls of this one as it may")]
    Overloaded,
    /// The deadline passed before the call left this node.
    #[error("its deadline passed before it left")]
    Late,
    /// The message is longer than [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX), and never will be sent.
    #[error("the message is longer than a message may be")]
    TooLong,
}

/// Why nobody knows whether a handler ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MayHaveRun {
    /// The connection ended after the call had left, and before its answer came.
    #[error("the connection ended before the answer came")]
    LinkLost,
    /// The deadline passed after the call had left.
    #[error("its deadline passed before the answer came")]
    Deadline,
    /// The answer came and was dropped, for as many bytes of answers wait for callers that do not look as may.
    #[error("its answer found no room: poll the calls whose answers came before it")]
    AnswerDropped,
    /// The called node has no answer: an actor ended or dropped the call, the node stopped, or the answer is longer than
    /// [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX), cannot be written, or found no room there among those that wait.
    #[error("the called node has no answer of it that could be sent")]
    NoAnswer,
    /// The answer came, and is of another type than the caller asked for.
    #[error("its answer is of another type")]
    Unreadable,
}

impl From<NotSent> for RemoteError {
    fn from(reason: NotSent) -> RemoteError {
        RemoteError::NotSent(reason)
    }
}

impl From<SendError> for NotSent {
    fn from(error: SendError) -> NotSent {
        match error {
            SendError::Full => NotSent::Full,
            SendError::Down => NotSent::Down,
            SendError::TooLong => NotSent::TooLong,
        }
    }
}

impl CallAnswer {
    /// What the caller makes of it.
    pub(super) fn ended(self) -> Result<bytes::Bytes, RemoteError> {
        match self {
            CallAnswer::Done(reply) => Ok(reply),
            CallAnswer::NoSuchName => Err(NotSent::NoSuchName.into()),
            CallAnswer::WrongType => Err(NotSent::WrongType.into()),
            CallAnswer::Overloaded => Err(NotSent::Overloaded.into()),
            CallAnswer::Failed(text) => Err(RemoteError::Failed(text)),
            CallAnswer::NoAnswer => Err(RemoteError::Unknown(MayHaveRun::NoAnswer)),
        }
    }
}

/// Why a name was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Somebody has the name.
    #[error("the name is taken")]
    Taken,
    /// As many names as may be are registered.
    #[error("as many names are registered as may be")]
    Full,
    /// The name, or the tag of the messages, is longer than [`NAME_BYTES_MAX`](super::NAME_BYTES_MAX).
    #[error("the name, or the tag of its messages, is longer than a name may be")]
    TooLong,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// It was not called on a tokio runtime, where the handler could run.
    #[error("there is no tokio runtime here on which the handler could run")]
    NoRuntime,
}
