//! Tells subscribers that a context grew, or the ledger; what it grew by they read from storage.
//!
//! Moves one cell per watched context, and one for those who watch all, and has nothing per subscriber: a cell says only that it has moved, so that a slow
//! subscriber costs no memory and simply reads further behind. Does not read entries and does not remember positions;
//! [`Follow`] does, in the subscriber's task.
//!
//! Invariant 7. No gap between history and live: a subscriber first looks how often the cell has moved, then reads, and waits
//! only where it has not moved since. None before commit: cells move when apply does.
//!
//! The actor has one phase, `Serving`. The cells outlive it: who subscribes needs no actor. While there is none, subscribers look
//! now and then. When one starts or ends, every cell moves, for what was said to none moved none. Where the node applies nothing
//! any more, or has ended, the cells move a last time, and every [`Follow`] finds out why.

mod cell;
mod follow;

use std::sync::Arc;
use std::time::Duration;

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Service, Shutdown};
use tokio::task::JoinSet;

pub use self::follow::{Follow, Followed, Room, Taken, Unbounded};

use self::cell::Cells;
use crate::storage::{AppliedBatch, Ordinal, Storage};

/// What a subscriber and the actor may take, and how long they wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// A subscriber holds at most so many bytes of entries it has not taken yet, or one entry; 256 KiB by default.
    pub page_bytes_max: usize,
    /// A subscriber scans at most so many entries at a time for its key; 1024 by default, at least 1.
    pub page_entries_max: usize,
    /// A pause before storage that is starting anew is asked again; 20 ms by default.
    pub retry_pause: Duration,
    /// Below so many watched contexts nothing is pruned; 1024 by default.
    pub prune_from: usize,
    /// The actor is killed when it takes longer than this to stop; 5 s by default.
    pub shutdown: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            page_bytes_max: 256 << 10,
            page_entries_max: 1024,
            retry_pause: Duration::from_millis(20),
            prune_from: 1024,
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Handle on the watch actor; valid before it starts and across restarts.
#[derive(Clone)]
pub struct Watches {
    inner: Arc<Inner>,
}

struct Inner {
    service: Service<Grown>,
    cells: Arc<Cells>,
    bounds: Bounds,
}

/// Contexts have grown.
struct Grown(AppliedBatch);

impl Watches {
    /// A handle whose actor has not started.
    #[must_use]
    pub fn new(bounds: Bounds) -> Watches {
        let cells = Arc::new(Cells::new(bounds.prune_from));
        Watches { inner: Arc::new(Inner { service: Service::new("watch"), cells, bounds }) }
    }

    /// How to start the actor under a supervisor.
    pub fn child_spec(&self, storage: &Storage) -> ChildSpec {
        let Inner { service, cells, bounds } = &*self.inner;
        let arguments = Arguments { storage: storage.clone(), cells: Arc::clone(cells) };
        ChildSpec::service("watch", service, move || (Watch, arguments.clone()))
            .shutdown(Shutdown::Timeout(bounds.shutdown))
    }

    /// A batch was applied.
    pub fn applied(&self, batch: &AppliedBatch) {
        if !batch.heads.is_empty() {
            let _ = self.inner.service.try_cast(Grown(batch.clone()));
        }
    }

    /// The node has ended: whoever waits is to find out.
    pub fn end(&self) {
        self.inner.cells.wake_all();
    }

    /// Entries behind `from`: what exists, then what comes.
    #[must_use]
    pub fn follow(&self, storage: Storage, followed: Followed, from: Ordinal) -> Follow {
        Follow::new(self.clone(), storage, followed, from)
    }

    /// Waits until `look` gives something, which is asked again whenever the ledger has grown here.
    pub async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let all = self.cells().of(&Followed::All);
        loop {
            // The cell first, then the look: what is applied in between moves the cell.
            let (seen, is_tended) = (all.moves(), self.cells().tended() > 0);
            if let Some(found) = look() {
                return found;
            }
            if is_tended {
                all.wait(seen).await;
            } else {
                tokio::time::sleep(self.bounds().retry_pause).await;
            }
        }
    }

    fn cells(&self) -> &Cells {
        &self.inner.cells
    }

    fn bounds(&self) -> &Bounds {
        &self.inner.bounds
    }
}

/// The actor.
struct Watch;

#[derive(Clone)]
struct Arguments {
    storage: Storage,
    cells: Arc<Cells>,
}

struct State {
    cells: Arc<Cells>,
    /// Waits for the end of all apply.
    _halt: JoinSet<()>,
}

impl Actor for Watch {
    type Msg = Grown;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Grown>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { storage, cells } = arguments;
        let mut halt = JoinSet::new();
        let halted = Arc::clone(&cells);
        halt.spawn(async move {
            storage.halted().await;
            halted.wake_all();
        });
        Ok(State { cells, _halt: halt })
    }

    /// Its service's slot is filled by now.
    async fn post_start(&self, _: ActorRef<Grown>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.cells.take_over();
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Grown>,
        Grown(batch): Grown,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.cells.tell(&batch.heads);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.cells.leave();
    }
}
