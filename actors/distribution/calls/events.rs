//! Who is told that nodes came and went.

use converge_ledger_core::NodeId;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// A node came or went: as far as this one can call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEvent {
    /// It can be called.
    Up {
        /// The node.
        node: NodeId,
        /// Its process: a number that each draws anew.
        incarnation: u64,
    },
    /// The connection has ended: because of the node, its process or the network. Calls that had left end as unknown.
    Down {
        /// The node.
        node: NodeId,
        /// The process that could be called.
        incarnation: u64,
    },
}

/// A node that can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteNode {
    /// The node.
    pub node: NodeId,
    /// Its process: a number that each draws anew.
    pub incarnation: u64,
}

/// The subscriber was slower than events came: so many are lost to it. Look at the nodes that are there, and go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} events of nodes came and went unread: look at the nodes that are there now, and go on")]
pub struct EventsLost(pub u64);

/// A subscription. Of each node, ups and downs alternate, each comes once.
#[derive(Debug)]
pub struct NodeEvents(pub(super) Receiver<NodeEvent>);

impl NodeEvents {
    /// Waits for the next one; `None` once the node has stopped. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<NodeEvent, EventsLost>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(lost)) => Some(Err(EventsLost(lost))),
            Err(RecvError::Closed) => None,
        }
    }
}
