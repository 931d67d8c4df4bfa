//! Tells subscribers that a context grew; what it grew by they read from storage.
//!
//! Owns one notification cell per watched context, nothing per subscriber: a cell holds only the latest
//! sequence, so that a slow subscriber costs no memory and simply reads further behind. Does not read entries
//! and does not remember positions; [`Follow`] does, in the subscriber's task.
//!
//! Invariant 7. No gap between history and live: a subscriber first takes the cell, then reads, and waits only
//! when it has read up to what the cell said. None before commit: cells move when apply does.
//!
//! The actor has one phase, `Serving`. When it dies its cells close; every [`Follow`] subscribes again and goes on
//! from its own cursor.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Entry, Sequence};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Service, Shutdown};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::storage::{self, AppliedBatch, ReadQuery, Storage};

/// What a subscriber and the actor may take, and how long they wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// A subscriber holds at most so many bytes of entries it has not taken yet, or one entry; 256 KiB by default.
    pub page_bytes_max: usize,
    /// A subscriber scans at most so many entries at a time for its key; 1024 by default, at least 1.
    pub page_entries_max: usize,
    /// How long a subscriber waits for a restarting actor before it looks at storage anyway; 1 s by default.
    pub subscribe_wait: Duration,
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
            subscribe_wait: Duration::from_secs(1),
            retry_pause: Duration::from_millis(20),
            prune_from: 1024,
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Handle on the watch actor; valid before it starts and across restarts.
#[derive(Clone)]
pub struct Watches {
    service: Service<Message>,
    bounds: Bounds,
}

pub(crate) enum Message {
    Subscribe { context: String, reply: oneshot::Sender<watch::Receiver<Sequence>> },
    Applied(AppliedBatch),
}

impl Watches {
    /// A handle whose actor has not started.
    #[must_use]
    pub fn new(bounds: Bounds) -> Watches {
        Watches { service: Service::new("watch"), bounds }
    }

    /// How to start the actor under a supervisor.
    pub fn child_spec(&self) -> ChildSpec {
        let bounds = self.bounds;
        ChildSpec::service("watch", &self.service, move || (Watch, bounds)).shutdown(Shutdown::Timeout(bounds.shutdown))
    }

    /// A batch was applied.
    pub fn applied(&self, batch: &AppliedBatch) {
        if !batch.heads.is_empty() {
            let _ = self.service.try_cast(Message::Applied(batch.clone()));
        }
    }

    /// Entries of a context behind `from`: what exists, then what comes.
    #[must_use]
    pub fn follow(&self, storage: Storage, context: String, from: Sequence, key: Option<String>) -> Follow {
        Follow { watches: self.clone(), storage, context, key, cursor: from, page: VecDeque::new(), grown: None }
    }
}

/// Room for a page, taken before the page is read and held by whoever got it.
pub trait Room {
    /// Gives the room back when it is dropped.
    type Held: Send;

    /// Waits for room; nothing was read yet.
    fn take(&self) -> impl Future<Output = Self::Held> + Send;
}

/// No bound: the subscriber holds one page.
struct Unbounded;

impl Room for Unbounded {
    type Held = ();

    async fn take(&self) {}
}

/// One subscription. Holds a cursor and at most one page; dropping it ends it.
pub struct Follow {
    watches: Watches,
    storage: Storage,
    context: String,
    key: Option<String>,
    cursor: Sequence,
    page: VecDeque<Entry>,
    grown: Option<watch::Receiver<Sequence>>,
}

impl Follow {
    /// The next entry; waits until there is one.
    ///
    /// # Errors
    /// When storage is fenced or found corruption; what was applied before is given first, and the subscription is over
    /// then.
    pub async fn next(&mut self) -> Result<Entry, storage::Error> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                return Ok(entry);
            }
            let (page, ()) = self.page(&Unbounded).await?;
            self.page = page;
        }
    }

    /// The next entries, at least one, and the room that was taken for them before they were read; waits until there
    /// are some, without room. After [`Follow::next`], what that has not given yet is passed over.
    ///
    /// # Errors
    /// As [`Follow::next`].
    pub async fn page<R: Room + Sync>(&mut self, room: &R) -> Result<(VecDeque<Entry>, R::Held), storage::Error> {
        let mut fenced = None;
        loop {
            // The cell first, then the read: what is applied in between moves the cell.
            let seen = self.seen().await;
            let held = room.take().await;
            match self.read().await {
                Ok((_, page)) if !page.is_empty() => return Ok((page, held)),
                Ok((moved, _)) => {
                    drop(held);
                    match (moved, fenced.take()) {
                        // A key that matches little: others want to run, too.
                        (true, error) => {
                            fenced = error;
                            tokio::task::yield_now().await;
                        }
                        // What was applied before the fence may not have moved the cell yet: one more look.
                        (false, None) => fenced = self.wait(seen).await.err(),
                        (false, Some(error)) => return Err(error),
                    }
                }
                Err(storage::Error::Unavailable) => {
                    drop(held);
                    tokio::time::sleep(self.watches.bounds.retry_pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on behind this entry, which was given before.
    pub fn rewind(&mut self, last: Sequence) {
        self.page.clear();
        self.cursor = last;
    }

    /// Reads a page, and says whether the cursor moved: not where the context has nothing behind it.
    async fn read(&mut self) -> Result<(bool, VecDeque<Entry>), storage::Error> {
        let Bounds { page_bytes_max: max_bytes, page_entries_max: limit, .. } = self.watches.bounds;
        let query = ReadQuery { after: self.cursor, limit, key: self.key.clone(), max_bytes };
        let page = match query.key {
            // It may match little, and look at much.
            Some(_) => self.storage.scan(&self.context, query).await?,
            None => self.storage.read(&self.context, query)?,
        };
        let moved = page.next_after > self.cursor;
        self.cursor = self.cursor.max(page.next_after);
        Ok((moved, page.entries.into()))
    }

    /// The latest sequence that the cell has told, from a cell that is alive.
    async fn seen(&mut self) -> Option<Sequence> {
        if self.grown.as_ref().is_none_or(|grown| grown.has_changed().is_err()) {
            let context = self.context.clone();
            let deadline = Instant::now() + self.watches.bounds.subscribe_wait;
            let subscribe = |reply| Message::Subscribe { context, reply };
            self.grown = self.watches.service.call(subscribe, deadline).await.ok();
            match &self.grown {
                Some(grown) if planted::is(Bug::WatchSkips) => self.cursor = self.cursor.max(*grown.borrow()),
                Some(_) if planted::is(Bug::WatchRepeats) => {
                    self.cursor = Sequence(self.cursor.get().saturating_sub(1));
                }
                _ => {}
            }
        }
        self.grown.as_mut().map(|grown| *grown.borrow_and_update())
    }

    /// Waits until the context may have grown. A fenced or outdated node applies nothing: here it would never grow.
    async fn wait(&mut self, seen: Option<Sequence>) -> Result<(), storage::Error> {
        let grown = async {
            match (&mut self.grown, seen) {
                // A closed cell means that the actor died: look again.
                (Some(grown), Some(_)) => drop(grown.changed().await),
                _ => tokio::time::sleep(self.watches.bounds.retry_pause).await,
            }
        };
        tokio::select! {
            biased;
            () = grown => Ok(()),
            error = self.storage.halted() => Err(error),
        }
    }
}

/// The actor.
struct Watch;

/// Cells by context. A cell without subscribers is dropped when its context grows, and all such are when there
/// are twice as many as at the last time.
pub(crate) struct State {
    cells: BTreeMap<String, watch::Sender<Sequence>>,
    prune_from: usize,
    prune_at: usize,
}

impl Actor for Watch {
    type Msg = Message;
    type State = State;
    type Arguments = Bounds;

    async fn pre_start(&self, _: ActorRef<Message>, bounds: Bounds) -> Result<State, ActorProcessingErr> {
        let prune_from = bounds.prune_from;
        Ok(State { cells: BTreeMap::new(), prune_from, prune_at: prune_from })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Subscribe { context, reply } => drop(reply.send(state.subscribe(context))),
            Message::Applied(batch) => state.applied(&batch),
        }
        Ok(())
    }
}

impl State {
    fn subscribe(&mut self, context: String) -> watch::Receiver<Sequence> {
        if self.cells.len() >= self.prune_at {
            self.cells.retain(|_, cell| cell.receiver_count() > 0);
            self.prune_at = (self.cells.len() * 2).max(self.prune_from);
        }
        self.cells.entry(context).or_insert_with(|| watch::Sender::new(Sequence(0))).subscribe()
    }

    fn applied(&mut self, batch: &AppliedBatch) {
        for (context, latest) in batch.heads.iter() {
            let Some(cell) = self.cells.get(context) else { continue };
            if cell.receiver_count() == 0 {
                self.cells.remove(context);
            } else {
                cell.send_replace(*latest);
            }
        }
    }
}
