//! What travels over links, and who is told of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use converge_ledger_core::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::SendError;

/// A connection of its own within a link, so that one kind of traffic cannot hold up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Heartbeats, votes: small and urgent.
    Control,
    /// Log entries and their acknowledgements.
    Append,
    /// Requests that one node hands to another.
    Forward,
    /// Calls of the host's actors. Peers of an older build do not have it: they refuse it alone.
    Call,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Lane; 4] = [Lane::Control, Lane::Append, Lane::Forward, Lane::Call];
    /// Those without which a node has no part in the ledger.
    pub const OF_THE_LEDGER: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Forward];

    /// The name in paths, logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Append => "append",
            Lane::Forward => "forward",
            Lane::Call => "call",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Lane::Control => 0,
            Lane::Append => 1,
            Lane::Forward => 2,
            Lane::Call => 3,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.code() == code)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame that arrived.
#[derive(Debug)]
pub struct Inbound {
    /// The peer that sent it.
    pub from: NodeId,
    /// The lane it came over.
    pub lane: Lane,
    /// The connection it came over: drop it when a newer one is up.
    pub epoch: u64,
    /// The pieces the peer passed to [`Distribution::send`](super::Distribution::send), joined.
    pub payload: Bytes,
    /// Keep it until the payload is dealt with.
    pub permit: Permit,
}

/// Credit that an [`Inbound`] frame holds; while it lives, its bytes, and what its consumer
/// [weighs](Permit::weigh), count against [`Settings::inbound_bytes_max`](super::Settings::inbound_bytes_max) of the link. Dropping it lets the
/// reader read on.
#[derive(Debug)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Waits until the link has so much credit.
    pub(crate) async fn acquire(credits: &Arc<Semaphore>, bytes: usize) -> Permit {
        let cost = u32::try_from(bytes).expect("the bound of a frame is far below 4 GiB");
        let held = Arc::clone(credits).acquire_many_owned(cost).await;
        Permit(Some(held.expect("the credits of a link are never closed")))
    }

    /// Counts `bytes` more: what a frame takes besides its payload shows only when it is read. Does not wait,
    /// and takes no more than the link has left, so that a frame of any weight passes; the link then reads on
    /// when enough was given back.
    pub fn weigh(&mut self, bytes: usize) {
        let Some(held) = &mut self.0 else { return };
        let credits = Arc::clone(held.semaphore());
        loop {
            let free = bytes.min(credits.available_permits());
            let cost = u32::try_from(free).unwrap_or(u32::MAX);
            match Arc::clone(&credits).try_acquire_many_owned(cost) {
                Ok(more) => return held.merge(more),
                // The reader of a connection that is being replaced took some in between.
                Err(_) => std::hint::spin_loop(),
            }
        }
    }

    /// A permit that holds no credit: for frames that came over no link.
    pub fn none() -> Permit {
        Permit(None)
    }
}

/// Lets a sender take back a frame that has not left the queue of its link. Either the link takes it off, or the sender
/// takes it back; never both.
#[derive(Debug, Clone, Default)]
pub(super) struct Recall(Arc<AtomicU8>);

/// What became of a frame that could be taken back.
const QUEUED: u8 = 0;
const LEFT: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl Recall {
    fn settle(&self, as_what: u8) -> bool {
        self.0.compare_exchange(QUEUED, as_what, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The link is about to write the frame; false when it was taken back.
    pub(super) fn leaves(&self) -> bool {
        self.settle(LEFT)
    }

    /// No byte of the frame will be written; false when it has left.
    pub(super) fn take_back(&self) -> bool {
        self.settle(TAKEN_BACK)
    }
}

/// A connection came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// A connection is ready; frames may be sent and will arrive.
    Up {
        /// The other node.
        peer: NodeId,
        /// Its lane.
        lane: Lane,
        /// The new connection.
        epoch: u64,
    },
    /// A connection ended; what was queued on it is lost.
    Down {
        /// The other node.
        peer: NodeId,
        /// Its lane.
        lane: Lane,
        /// The connection that ended.
        epoch: u64,
    },
}

/// Where frames and events go.
///
/// Called from the tasks of the links: no call may block or wait. Calls for one (peer, lane) are
/// serialised, calls for different ones are not. A call may use the [`Distribution`](super::Distribution).
pub trait Sink: Send + Sync + 'static {
    /// A frame arrived.
    fn deliver(&self, inbound: Inbound);
    /// A connection came or went.
    fn event(&self, event: LinkEvent);
}

/// Who this node is among its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; another one is refused.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
}

/// What carries frames in place of this module's links: a simulated network.
///
/// It calls the [`Sink`] under the rules that this module keeps.
pub trait Carrier: Send + Sync + 'static {
    /// See [`Distribution::send`](super::Distribution::send).
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    fn send(&self, peer: NodeId, lane: Lane, payload: Vec<Bytes>) -> Result<(), SendError>;
    /// See [`Distribution::reject`](super::Distribution::reject).
    fn reject(&self, peer: NodeId, lane: Lane, epoch: u64, reason: &str);
}
