//! What happens at the peer port.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use converge_ledger_core::NodeId;
use tokio::time::Instant;

use super::lock::lock;
use super::status::ListenerStatus;

/// A log line for so many handshakes that made room.
const WARN_EVERY: u64 = 1000;

/// Counters of the peer port.
#[derive(Default)]
pub(super) struct Arrivals {
    crowded_out: AtomicU64,
    /// When that was last.
    crowded_at: Mutex<Option<Instant>>,
    /// Failed calls of accept.
    pub(super) accept_errors: AtomicU64,
}

impl Arrivals {
    /// A handshake made room for a newer one; `max` may be under way.
    pub(super) fn crowd_out(&self, node: NodeId, max: usize) {
        *lock(&self.crowded_at) = Some(Instant::now());
        if self.crowded_out.fetch_add(1, Relaxed).is_multiple_of(WARN_EVERY) {
            tracing::warn!(%node, max, "too many handshakes at the peer port at once: the oldest makes room for the newest; \
                see who connects there");
        }
    }

    pub(super) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            crowded_out: self.crowded_out.load(Relaxed),
            crowded_out_ago: lock(&self.crowded_at).map(|at| at.elapsed()),
        }
    }
}
