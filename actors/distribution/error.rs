//! What can go wrong with a link.

use std::io;
use std::time::Duration;

use super::frame::Malformed;

/// Why a frame was not queued. It was not sent, not even in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The link's queue is full: the peer is slower than this node. Drop the frame or try later.
    #[error("the queue of the link is full")]
    Full,
    /// There is no connection. [`LinkEvent::Up`](super::LinkEvent::Up) tells when there is one again.
    #[error("the link is down")]
    Down,
    /// The payload is longer than [`Settings::frame_bytes_max`](super::Settings::frame_bytes_max) and never will be sent: split it.
    #[error("the payload is longer than a frame may be")]
    TooLong,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: String, error: io::Error },
    #[error("{address} does not resolve: {error}; mend the name in the list of peers, or the resolver")]
    Unresolved { address: String, error: io::Error },
    #[error("{0} cannot be reached in time")]
    TimedOut(String),
    #[error("the peer closed or did not answer during the handshake: {0}")]
    Broken(io::Error),
    #[error("the peer did not answer the hello in time")]
    Unanswered,
    #[error("the peer answered what is no frame: {0}")]
    Malformed(#[from] Malformed),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the dial ended unexpectedly")]
    Lost,
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        ConnectError::Broken(error)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("nothing was heard from the peer for {0:?}")]
    Silent(Duration),
    #[error("the peer sent what is no frame: {0}")]
    Malformed(#[from] Malformed),
    #[error("a frame was rejected: {0}")]
    Rejected(String),
    #[error("a newer connection took over")]
    Replaced,
    #[error("a task of the connection ended unexpectedly")]
    Lost,
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Cause {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Cause::Closed,
            _ => Cause::Io(error),
        }
    }
}
