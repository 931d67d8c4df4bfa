//! Cells of watched contexts: what subscribers wait at.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use converge_ledger_core::Sequence;
use tokio::sync::Notify;

use super::follow::Followed;

/// One for all who watch the same. It is small, and a subscriber that waits has no more than a place in its line.
#[derive(Debug, Default)]
pub(super) struct Cell {
    latest: AtomicU64,
    /// How often it was moved.
    moves: AtomicU64,
    moved: Notify,
}

impl Cell {
    /// The latest sequence that it was told.
    pub(super) fn latest(&self) -> Sequence {
        Sequence(self.latest.load(Ordering::Acquire))
    }

    /// How often it was moved; what was told before can be read then.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Waits until it was moved more often than that.
    pub(super) async fn wait(&self, seen: u64) {
        // First in line, then the look: a move in between is not missed.
        let moved = self.moved.notified();
        if self.moves() == seen {
            moved.await;
        }
    }

    /// The context has grown up to here.
    fn tell(&self, latest: Sequence) {
        self.latest.store(latest.get(), Ordering::Release);
        self.wake();
    }

    /// Whoever waits is to look.
    fn wake(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.moved.notify_waiters();
    }
}

/// Cells by context; they outlive the actor that moves them. A cell without subscribers is dropped when its context grows, and
/// all such are when there are twice as many as at the last time.
#[derive(Debug)]
pub(super) struct Cells {
    inner: Mutex<Inner>,
    /// Of those who watch all contexts.
    all: Arc<Cell>,
    prune_from: usize,
    /// Which incarnation of the actor moves them; 0 while there is none.
    tended: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    cells: BTreeMap<String, Arc<Cell>>,
    prune_at: usize,
    incarnations: u64,
}

impl Cells {
    pub(super) fn new(prune_from: usize) -> Cells {
        let inner = Inner { cells: BTreeMap::new(), prune_at: prune_from, incarnations: 0 };
        Cells { inner: Mutex::new(inner), all: Arc::default(), prune_from, tended: AtomicU64::new(0) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell for one who watches this.
    pub(super) fn of(&self, followed: &Followed) -> Arc<Cell> {
        match followed {
            Followed::Context(context, _) => self.of_context(context),
            Followed::All => Arc::clone(&self.all),
        }
    }

    fn of_context(&self, context: &str) -> Arc<Cell> {
        let mut inner = self.inner();
        if let Some(cell) = inner.cells.get(context) {
            return Arc::clone(cell);
        }
        if inner.cells.len() >= inner.prune_at {
            inner.cells.retain(|_, cell| is_watched(cell));
            inner.prune_at = (inner.cells.len() * 2).max(self.prune_from);
        }
        Arc::clone(inner.cells.entry(context.to_owned()).or_default())
    }

    /// These contexts have grown up to there.
    pub(super) fn tell(&self, heads: &[(String, Sequence)]) {
        let mut told = Vec::new();
        {
            let mut inner = self.inner();
            for (context, latest) in heads {
                let Some(cell) = inner.cells.get(context) else { continue };
                if is_watched(cell) {
                    told.push((Arc::clone(cell), *latest));
                } else {
                    inner.cells.remove(context);
                }
            }
        }
        // Without the lock: what is woken may want it.
        told.into_iter().for_each(|(cell, latest)| cell.tell(latest));
        self.all.wake();
    }

    /// Whoever waits is to look.
    pub(super) fn wake_all(&self) {
        let all: Vec<_> = self.inner().cells.values().map(Arc::clone).collect();
        all.into_iter().for_each(|cell| cell.wake());
        self.all.wake();
    }

    /// Which incarnation of the actor moves the cells; 0 while there is none. Looked at after a cell's moves, a 0 is not missed.
    pub(super) fn tended(&self) -> u64 {
        self.tended.load(Ordering::Acquire)
    }

    /// From here on somebody moves them. What was said before moved none.
    pub(super) fn take_over(&self) {
        let incarnation = {
            let mut inner = self.inner();
            inner.incarnations += 1;
            inner.incarnations
        };
        self.tended.store(incarnation, Ordering::Release);
        self.wake_all();
    }

    /// Nobody moves them any more.
    pub(super) fn leave(&self) {
        self.tended.store(0, Ordering::Release);
        self.wake_all();
    }
}

fn is_watched(cell: &Arc<Cell>) -> bool {
    Arc::strong_count(cell) > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cells: &Cells) -> Vec<String> {
        cells.inner().cells.keys().cloned().collect()
    }

    #[test]
    fn cells_that_nobody_watches_go_and_the_others_are_told() {
        let cells = Cells::new(3);
        let kept = cells.of_context("kept");
        for context in ["a", "b", "c"] {
            drop(cells.of_context(context));
        }
        assert_eq!(names(&cells), ["c", "kept"], "there were as many as are looked through");
        assert!(Arc::ptr_eq(&kept, &cells.of_context("kept")), "who watches the same context waits at the same cell");
        let heads = ["c", "kept", "other"].map(|context| (context.to_owned(), Sequence(7)));
        cells.tell(&heads);
        assert_eq!(names(&cells), ["kept"]);
        assert_eq!((kept.latest(), kept.moves()), (Sequence(7), 1));
        assert_eq!(cells.of(&Followed::All).moves(), 1, "who watches all is told of each");
    }

    #[tokio::test]
    async fn a_move_after_the_look_is_not_missed() {
        let cells = Cells::new(1);
        let cell = cells.of_context("context");
        let seen = cell.moves();
        cells.take_over();
        cell.wait(seen).await;
        assert_eq!(cells.tended(), 1);
        let seen = cell.moves();
        let waits = tokio::spawn({
            let cell = Arc::clone(&cell);
            async move { cell.wait(seen).await }
        });
        tokio::task::yield_now().await;
        cells.leave();
        waits.await.unwrap();
        assert_eq!(cells.tended(), 0);
    }
}
