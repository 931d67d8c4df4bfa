//! A subscription, as the host and the APIs hold it.

use std::collections::VecDeque;

#[cfg(feature = "grpc")]
use converge_actors::storage::Ordinal;
use converge_actors::watch::{Follow, Room, Taken, Unbounded};
use converge_ledger_core::Entry;
use tokio::sync::watch;

use crate::Error;
use crate::ledger::stored_error;

/// A subscription; dropping it ends it. Holds at most one page of entries: a slow reader reads from storage.
pub struct Watch {
    /// None after an error.
    follow: Option<Follow>,
    page: VecDeque<Entry>,
    stopped: watch::Receiver<bool>,
}

impl Watch {
    pub(crate) fn new(follow: Follow, stopped: watch::Receiver<bool>) -> Watch {
        Watch { follow: Some(follow), page: VecDeque::new(), stopped }
    }

    /// The next entry; `None` when the node stops, or after an error.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                return Some(Ok(entry));
            }
            match self.taken(&Unbounded).await? {
                Ok((page, ())) => self.page = page,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next entries, and the room that was taken before they were read; `None` when the node stops.
    async fn taken<R: Room + Sync>(&mut self, room: &R) -> Option<Result<Taken<R>, Error>> {
        loop {
            let Watch { follow, stopped, .. } = self;
            let looking = follow.as_mut()?;
            // In a box, for most of the time it is not there: a watch that is idle waits at its cell alone.
            let look = Box::pin(async {
                tokio::select! {
                    biased;
                    looked = looking.look(room) => Some(looked),
                    _ = stopped.wait_for(|stopped| *stopped) => None,
                }
            });
            match look.await? {
                Ok(Some(taken)) => return Some(Ok(taken)),
                // The cell moves when the node has ended; that was said before.
                Ok(None) if *stopped.borrow() || stopped.has_changed().is_err() => return None,
                Ok(None) => looking.idle().await,
                Err(error) => {
                    *follow = None;
                    return Some(Err(stored_error(error)));
                }
            }
        }
    }
}

#[cfg(feature = "grpc")]
impl Watch {
    /// The next entries, and the room that was taken before they were read; `None` when the node stops. After
    /// [`Watch::next`], what that has not given yet is passed over.
    pub(crate) async fn page<R: Room + Sync>(&mut self, room: &R) -> Option<Result<Taken<R>, Error>> {
        self.taken(room).await
    }

    /// Goes on behind this entry, which was given before.
    pub(crate) fn rewind(&mut self, last: Ordinal) {
        self.page.clear();
        if let Some(follow) = &mut self.follow {
            follow.rewind(last);
        }
    }
}
