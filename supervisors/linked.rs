//! The actors that a worker links below itself.
//!
//! `ractor` kills them when the worker ends and waits for none of them, and what they hold, a file or a port, the worker's
//! successor would find taken. After the worker's end nobody can say who they were. So they are noted whenever a callback
//! of the worker is over, whatever ended it, and the worker's minder waits for those that were noted last.
//!
//! Not known are those that somebody else links, or that one of them links, after the last callback of a worker that is
//! then killed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ractor::{ActorCell, ActorStatus};

/// Who is linked below one worker.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    cells: Mutex<Vec<ActorCell>>,
    /// There are some. Most workers never have any, and each of their messages comes past here.
    some: AtomicBool,
}

impl Linked {
    /// A new incarnation has none.
    pub(crate) fn reset(&self) {
        self.set(Vec::new());
    }

    /// Notes who is linked below this worker now.
    pub(crate) fn note(&self, worker: &ActorCell) {
        let children = worker.get_children();
        if !children.is_empty() {
            self.set(all_below(children));
        } else if self.some.load(Ordering::Relaxed) {
            self.set(Vec::new());
        }
    }

    fn set(&self, cells: Vec<ActorCell>) {
        self.some.store(!cells.is_empty(), Ordering::Relaxed);
        *self.cells.lock().unwrap_or_else(PoisonError::into_inner) = cells;
    }

    /// Those that went with their worker and are still there. One that was linked to somebody else is that one's.
    pub(crate) fn left(&self) -> Vec<ActorCell> {
        let mut left = self.cells.lock().unwrap_or_else(PoisonError::into_inner).clone();
        left.retain(|cell| cell.get_status() != ActorStatus::Stopped && cell.try_get_supervisor().is_none());
        left
    }

    /// The worker has ended: waits until they have.
    pub(crate) async fn gone(&self) {
        for cell in self.left() {
            if cell.get_status() >= ActorStatus::Draining {
                cell.kill(); // `ractor` lets such go on for as long as they like
            }
            let _ = cell.wait(None).await;
        }
    }
}

/// These and whoever is linked below them.
fn all_below(mut cells: Vec<ActorCell>) -> Vec<ActorCell> {
    let mut known: HashSet<_> = cells.iter().map(ActorCell::get_id).collect();
    let mut next = 0;
    while let Some(cell) = cells.get(next) {
        let below = cell.get_children();
        cells.extend(below.into_iter().filter(|cell| known.insert(cell.get_id())));
        next += 1;
    }
    cells
}

/// Notes them when it is dropped: at the end of a callback.
pub(crate) struct NotedAtEnd<'a>(pub(crate) &'a Linked, pub(crate) &'a ActorCell);

impl Drop for NotedAtEnd<'_> {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}
