//! What a link's actor is told, and how a task tells its actor that it has ended.

use converge_supervisors::ractor::{self, ActorRef};
use tokio::net::TcpStream;

use super::error::{Cause, ConnectError};

/// What the link's tasks and the listener report.
pub(super) enum Message {
    /// A dial ended.
    Dialed { dial: u64, outcome: Result<TcpStream, ConnectError> },
    /// A handshake of ours ended: with a connection to that process of the peer.
    Greeted { dial: u64, outcome: Result<(TcpStream, u64), ConnectError> },
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

/// Sends its message when it is dropped: a task that holds one is heard of however it ends.
pub(super) struct SendOnDrop<M: ractor::Message> {
    actor: ActorRef<M>,
    message: Option<M>,
}

impl<M: ractor::Message> SendOnDrop<M> {
    pub(super) fn new(actor: &ActorRef<M>, message: M) -> SendOnDrop<M> {
        SendOnDrop { actor: actor.clone(), message: Some(message) }
    }

    pub(super) fn set(&mut self, message: M) {
        self.message = Some(message);
    }
}

impl<M: ractor::Message> Drop for SendOnDrop<M> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            // An actor that is gone need not be told.
            let _ = self.actor.cast(message);
        }
    }
}
