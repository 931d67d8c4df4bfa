//! One subscription: a cursor, which goes through what exists and then waits for what comes.

use std::collections::VecDeque;
use std::sync::Arc;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Entry, Sequence};

use super::cell::Cell;
use super::{Bounds, Watches};
use crate::storage::{self, Direction, Ordinal, ReadQuery, Storage, StreamOf, StreamQuery};

/// What is followed.
#[derive(Clone, Debug)]
pub enum Followed {
    /// One context, by sequence; its entries with this key, where one is given.
    Context(String, Option<String>),
    /// All contexts, by position.
    All,
}

/// Room for a page, taken before the page is read and held by whoever got it.
pub trait Room {
    /// Gives the room back when it is dropped.
    type Held: Send;

    /// Waits for room; nothing was read yet.
    fn take(&self) -> impl Future<Output = Self::Held> + Send;
}

/// No bound: the subscriber holds one page.
pub struct Unbounded;

impl Room for Unbounded {
    type Held = ();

    async fn take(&self) {}
}

/// The next entries, at least one, and the room that was taken for them before they were read.
pub type Taken<R> = (VecDeque<Entry>, <R as Room>::Held);

/// One subscription. Holds a cursor; dropping it ends it.
///
/// It looks, and idles where there was nothing. An idle one costs little: [`Follow::idle`] is a small future, unlike
/// [`Follow::look`], which whoever keeps many of them puts in a box.
pub struct Follow {
    watches: Watches,
    storage: Storage,
    followed: Followed,
    /// The last one that was looked at.
    cursor: Ordinal,
    cell: Option<Arc<Cell>>,
    /// The moves of the cell before the last look.
    seen: u64,
    /// Which incarnation of the actor moved it then.
    tended: u64,
}

impl Follow {
    pub(super) fn new(watches: Watches, storage: Storage, followed: Followed, cursor: Ordinal) -> Follow {
        Follow { watches, storage, followed, cursor, cell: None, seen: 0, tended: 0 }
    }

    /// The next entries; waits until there are some, without room.
    ///
    /// # Errors
    /// As [`Follow::look`].
    pub async fn page<R: Room + Sync>(&mut self, room: &R) -> Result<Taken<R>, storage::Error> {
        loop {
            if let Some(taken) = Box::pin(self.look(room)).await? {
                return Ok(taken);
            }
            self.idle().await;
        }
    }

    /// The next entries; none where there is nothing behind the cursor.
    ///
    /// # Errors
    /// When storage is fenced, outdated, or found corruption; what was applied before is given first, and the
    /// subscription is over then.
    pub async fn look<R: Room + Sync>(&mut self, room: &R) -> Result<Option<Taken<R>>, storage::Error> {
        loop {
            // The cell first, then the read: what is applied in between moves the cell.
            let is_tended = self.look_at_cell();
            // A node that applies nothing: here it would never grow. What it applied before is read yet.
            let halt = self.storage.halt();
            let held = room.take().await;
            let moved = match self.read().await {
                Ok((_, page)) if !page.is_empty() => return Ok(Some((page, held))),
                Ok((moved, _)) => Some(moved),
                Err(storage::Error::Unavailable) => None,
                Err(error) => return Err(error),
            };
            drop(held);
            match (moved, halt) {
                // A key that matches little: others want to run, too.
                (Some(true), _) => tokio::task::yield_now().await,
                (Some(false), Some(error)) => return Err(error),
                (Some(false), None) if is_tended => return Ok(None),
                // While storage or the actor starts anew, nothing tells when there is more to read, or that there never will be.
                _ => tokio::time::sleep(self.watches.bounds().retry_pause).await,
            }
        }
    }

    /// Waits until there may be more to read since the last look, or something else to say. After a look
    /// that found nothing, and no other: what one left to read moves no cell.
    pub async fn idle(&self) {
        if let Some(cell) = &self.cell {
            cell.wait(self.seen).await;
        }
    }

    /// Goes on behind this entry, which was given before.
    pub fn rewind(&mut self, last: Ordinal) {
        self.cursor = last;
    }

    /// How often the cell was moved, and whether somebody moves it.
    fn look_at_cell(&mut self) -> bool {
        let cell = self.cell.get_or_insert_with(|| self.watches.cells().of(&self.followed));
        self.seen = cell.moves();
        let tended = self.watches.cells().tended();
        if tended != self.tended {
            self.tended = tended;
            if planted::is(Bug::WatchSkips) {
                self.cursor = self.cursor.max(Ordinal(cell.latest().get()));
            }
            if planted::is(Bug::WatchRepeats) {
                self.cursor = Ordinal(self.cursor.0.saturating_sub(1));
            }
        }
        tended > 0
    }

    /// Reads a page, and says whether the cursor moved: not where there is nothing behind it.
    async fn read(&mut self) -> Result<(bool, VecDeque<Entry>), storage::Error> {
        let &Bounds { page_bytes_max: max_bytes, page_entries_max: limit, .. } = self.watches.bounds();
        let (entries, last) = match &self.followed {
            Followed::Context(context, key) => {
                let query = ReadQuery { after: Sequence(self.cursor.0), limit, key: key.clone(), max_bytes };
                let page = match key {
                    // It may match little, and look at much.
                    Some(_) => self.storage.scan(context, query).await?,
                    None => self.storage.read(context, query)?,
                };
                (page.entries, Ordinal(page.next_after.get()))
            }
            Followed::All => {
                let direction = Direction::Forwards;
                let from = direction.next(self.cursor).unwrap_or(self.cursor);
                let query = StreamQuery { of: StreamOf::All, direction, from, limit, key: None, max_bytes };
                let page = self.storage.stream(query).await?;
                let last = page.entries.last().map_or(self.cursor, |entry| Ordinal(entry.position.get()));
                (page.entries, last)
            }
        };
        let moved = last > self.cursor;
        self.cursor = self.cursor.max(last);
        Ok((moved, entries.into()))
    }
}
