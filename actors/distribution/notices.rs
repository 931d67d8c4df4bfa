//! What the sink and the log of this node are told of its peers; the same trouble is said once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use converge_ledger_core::NodeId;

use super::lock::lock;
use super::types::{LinkEvent, Sink};

/// Claimed ids whose refusal is remembered, so that it is said once. Of others nothing is said.
const REFUSALS_REMEMBERED_MAX: usize = 64;

/// Shared by all links of a node.
pub(super) struct Notices {
    node: NodeId,
    pub(super) sink: Arc<dyn Sink>,
    epochs: AtomicU64,
    refusals: Mutex<BTreeMap<NodeId, String>>,
    /// Peers whose names did not resolve at the last dial, and why.
    unresolved: Mutex<BTreeMap<NodeId, String>>,
}

/// What is wrong with a peer.
pub(super) struct Noted {
    /// Why the last handshake was refused.
    pub(super) refused: Option<String>,
    /// Why its name does not resolve.
    pub(super) unresolved: Option<String>,
}

impl Notices {
    pub(super) fn new(node: NodeId, sink: Arc<dyn Sink>) -> Notices {
        Notices {
            node,
            sink,
            // Half of the range is left to count in.
            epochs: AtomicU64::new(rand::random::<u64>() >> 1),
            refusals: Mutex::default(),
            unresolved: Mutex::default(),
        }
    }

    /// The number of the next connection.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Relaxed) + 1
    }

    /// A handshake with this peer ended well: the same refusal afterwards is news again.
    pub(super) fn forget_refusal(&self, peer: NodeId) {
        lock(&self.refusals).remove(&peer);
        lock(&self.unresolved).remove(&peer);
    }

    /// Notes a refusal; says it unless the same was said before.
    pub(super) fn refused(&self, claimed: NodeId, reason: &str) {
        {
            let mut refusals = lock(&self.refusals);
            if refusals.get(&claimed).is_some_and(|told| told == reason) {
                return;
            }
            if refusals.len() >= REFUSALS_REMEMBERED_MAX && !refusals.contains_key(&claimed) {
                return;
            }
            refusals.insert(claimed, reason.to_owned());
        }
        tracing::warn!(node = %self.node, peer = %claimed, reason, "peer handshake refused");
    }

    /// Notes whether a peer's name resolves; warns once until that changes, whatever the number of lanes and dials.
    pub(super) fn unresolved(&self, peer: NodeId, error: Option<String>) {
        let mut names = lock(&self.unresolved);
        match error {
            None => _ = names.remove(&peer),
            Some(error) => {
                if names.insert(peer, error.clone()).is_none() {
                    tracing::warn!(node = %self.node, %peer, error, "the name of a peer does not resolve");
                }
            }
        }
    }

    /// Events are told from destructors too, where a second panic would abort the process.
    pub(super) fn tell(&self, event: LinkEvent) {
        if catch_unwind(AssertUnwindSafe(|| self.sink.event(event))).is_err() {
            tracing::error!(node = %self.node, ?event, "the sink of link events panicked");
        }
    }

    pub(super) fn of(&self, peer: NodeId) -> Noted {
        Noted {
            refused: lock(&self.refusals).get(&peer).cloned(),
            unresolved: lock(&self.unresolved).get(&peer).cloned(),
        }
    }
}
