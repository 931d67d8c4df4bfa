//! One callback of a supervisor, on its way to its end or to death.
//!
//! Whatever ends it half way (a kill while it waits, a panic, an error) takes all below the supervisor along, in the order
//! of the tree: `ractor` would kill its children in no order, so that a run would not repeat. And here chaos strikes, as
//! in `supervised` for a worker.

use std::pin::Pin;
use std::sync::Arc;

use ractor::ActorProcessingErr;

#[cfg(feature = "chaos")]
use crate::chaos::{MessageKind, Occasion};
use crate::node::{Incarnation, Node};
use crate::vitals::Callback;

pub(super) struct Turn {
    node: Arc<Node>,
    #[cfg(feature = "chaos")]
    occasion: Occasion,
}

impl Turn {
    pub(super) fn new(incarnation: &Incarnation, callback: Callback) -> Turn {
        #[cfg(not(feature = "chaos"))]
        let _ = callback;
        Turn {
            node: Arc::clone(&incarnation.node),
            #[cfg(feature = "chaos")]
            occasion: Occasion { incarnation: incarnation.number, callback, kind: None },
        }
    }

    /// For a message or an event: its kind is what a trap may wait for.
    #[cfg(feature = "chaos")]
    pub(super) fn of(mut self, kind: impl FnOnce() -> MessageKind) -> Turn {
        self.occasion.kind = self.node.trap.is_busy().then(kind);
        self
    }

    /// Runs the callback. Pinned by the caller, so that its future is not moved.
    pub(super) async fn run<T, F>(self, callback: Pin<&mut F>) -> Result<T, ActorProcessingErr>
    where
        F: Future<Output = Result<T, ActorProcessingErr>>,
    {
        let below = TakesAllAlong(&self.node);
        #[cfg(feature = "chaos")]
        let result = self.node.trap.through(&self.node, self.occasion, callback).await;
        #[cfg(not(feature = "chaos"))]
        let result = callback.await;
        if result.is_ok() {
            std::mem::forget(below);
        }
        result
    }
}

/// Kills all below unless it is forgotten.
struct TakesAllAlong<'a>(&'a Node);

impl Drop for TakesAllAlong<'_> {
    fn drop(&mut self) {
        self.0.kill_subtree();
    }
}
