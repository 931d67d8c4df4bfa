//! What a killed actor leaves running: threads, and blocking work.
//!
//! Dropping a `tokio` join handle detaches, and nothing ends a thread from outside. So a thread that owns what the next
//! incarnation needs (a file, a port) takes a [`Hold`] with it, and the child counts as gone when its task has ended
//! *and* its [`Latch`] is released. This module counts; the waiting is the child's minder's.

use std::sync::Arc;

use tokio::sync::watch;

/// What holds back the successor of a child: made before the tree, given to [`ChildSpec::latch`] and to the factory of
/// the actor. One latch for one child, over all its incarnations; clones are the same latch. A specification that gives one to two
/// children is refused.
///
/// A child whose latch is still held 30 s after its task has ended is stuck: it is not started again, and its supervisor
/// gives up, naming the latch. Under `tokio`'s paused time those 30 s pass at once, for it does not see threads.
///
/// [`ChildSpec::latch`]: crate::ChildSpec::latch
#[derive(Clone, Debug)]
pub struct Latch {
    name: Arc<str>,
    holds: Arc<watch::Sender<usize>>,
}

impl Latch {
    /// A latch that nobody holds. The name is for people.
    pub fn new(name: &str) -> Latch {
        Latch { name: name.into(), holds: Arc::new(watch::Sender::new(0)) }
    }

    /// The name given to [`Latch::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same for all clones, and for no other.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.holds) as usize
    }

    /// Holds the latch until the guard is dropped. Take it in the actor, before the thread is spawned, and move it in:
    /// taken in the thread, it may come after the actor's death.
    #[must_use = "the latch is held until this is dropped"]
    pub fn hold(&self) -> Hold {
        self.holds.send_modify(|holds| *holds += 1);
        Hold { latch: self.clone() }
    }

    /// Somebody holds it.
    pub fn is_held(&self) -> bool {
        *self.holds.borrow() > 0
    }

    /// Waits until nobody does.
    pub async fn released(&self) {
        let mut holds = self.holds.subscribe();
        // The sender is in `self`: the channel cannot close while this waits.
        let _ = holds.wait_for(|&holds| holds == 0).await;
    }
}

/// Keeps a [`Latch`] held. To be dropped by the thread when it has let go of all that a successor needs, so before it in
/// drop order: last of the variables that it moved in.
#[derive(Debug)]
pub struct Hold {
    latch: Latch,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.latch.holds.send_modify(|holds| *holds -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn released_when_the_last_hold_is_dropped() {
        let latch = Latch::new("writer");
        latch.released().await;
        let (first, second) = (latch.hold(), latch.clone().hold());
        drop(first);
        assert!(latch.is_held());
        assert!(timeout(Duration::from_secs(1), latch.released()).await.is_err());
        drop(second);
        latch.released().await;
        assert!(!latch.is_held());
    }
}
