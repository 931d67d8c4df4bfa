//! One callback of a supervisor, on its way to its end or to death.
//!
//! Whatever ends it half way (a kill while it waits, a panic, an error) takes all below the supervisor along, in the order
//! of the tree: `ractor` would kill its children in no order, so that a run would not repeat. And here chaos strikes, as
//! in `supervised` for a worker.

use std::pin::Pin;

use ractor::ActorProcessingErr;

use crate::hook::{MessageKind, Occasion};
use crate::node::{Incarnation, Node};
use crate::vitals::Callback;

pub(super) struct Turn {
    incarnation: Incarnation,
    callback: Callback,
    kind: Option<MessageKind>,
}

impl Turn {
    pub(super) fn new(incarnation: &Incarnation, callback: Callback) -> Turn {
        Turn { incarnation: incarnation.clone(), callback, kind: None }
    }

    /// For a message or an event: its kind is what a trap may wait for.
    pub(super) fn of(mut self, kind: impl FnOnce() -> MessageKind) -> Turn {
        self.kind = self.incarnation.node.hook.kind(kind);
        self
    }

    /// Runs the callback. Pinned by the caller, so that its future is not moved.
    pub(super) async fn run<T, F>(self, callback: Pin<&mut F>) -> Result<T, ActorProcessingErr>
    where
        F: Future<Output = Result<T, ActorProcessingErr>>,
    {
        let Incarnation { node, number } = &self.incarnation;
        let below = TakesAllAlong(node);
        let occasion = Occasion::new(*number, self.callback, self.kind);
        let result = node.hook.through(node, occasion, callback).await;
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
