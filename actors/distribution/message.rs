//! What a link's actor is told.

use tokio::net::TcpStream;

use super::error::{Cause, Failure};

/// What the link's tasks and the listener report.
pub(super) enum Message {
    /// A dial ended.
    Dialed { dial: u64, outcome: Result<TcpStream, Failure> },
    /// A handshake of ours ended.
    Greeted { dial: u64, outcome: Result<TcpStream, Failure> },
    /// The peer dialed and its handshake ended well.
    Accepted(Accepted),
    /// A task of a connection ended.
    Ended { epoch: u64, cause: Cause },
}

/// A connection that the peer made.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    /// The peer's process.
    pub(super) incarnation: u64,
    /// The number of the dial in that process.
    pub(super) dial: u64,
}
