//! A context read step by step, so that whoever wants only to pass its entries on holds few of them.

use converge_actors::storage::{self, ReadQuery};
use converge_ledger_core::{Entry, LogIndex, Sequence};
use tokio::time::Instant;

use crate::ledger::{deadline, limit};
use crate::types::{Consistency, ReadOptions};
use crate::{Error, Ledger};

/// What a context held when the first step was read.
pub(crate) struct Pages<'a> {
    ledger: &'a Ledger,
    context: &'a str,
    deadline: Instant,
    /// What a step must have applied.
    confirmed: LogIndex,
    /// The next step; its limit is how many entries are wanted yet.
    query: ReadQuery,
    /// The first step.
    #[cfg(feature = "grpc")]
    first: ReadQuery,
    /// Of the first step.
    latest: Option<Sequence>,
    over: bool,
}

impl Ledger {
    /// Confirms that this node may answer, and reads nothing yet.
    pub(crate) async fn pages<'a>(&'a self, context: &'a str, options: ReadOptions) -> Result<Pages<'a>, Error> {
        self.inner.limits.check_context_id(context).map_err(limit)?;
        let deadline = deadline(options.deadline);
        let confirmed = match options.consistency {
            Consistency::Stale => LogIndex(0),
            Consistency::Linearizable | Consistency::Lease => self.confirm(deadline).await?,
        };
        let query = ReadQuery {
            after: options.after,
            limit: options.limit as usize,
            key: options.key.filter(|key| !key.is_empty()),
            max_bytes: self.inner.calls.read_step_bytes,
        };
        Ok(Pages {
            ledger: self,
            context,
            deadline,
            confirmed,
            #[cfg(feature = "grpc")]
            first: query.clone(),
            query,
            latest: None,
            over: false,
        })
    }
}

impl Pages<'_> {
    /// When the whole read has to be over.
    #[cfg(feature = "grpc")]
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// There is no further step.
    #[cfg(feature = "grpc")]
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Begins anew, with what the context holds then.
    #[cfg(feature = "grpc")]
    pub(crate) fn restart(&mut self) {
        self.query = self.first.clone();
        (self.latest, self.over) = (None, false);
    }

    /// The entries of the next step, which may be none; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>, Error> {
        if self.over {
            return Ok(None);
        }
        if self.latest.is_some() {
            tokio::task::yield_now().await;
        }
        // Storage that restarted in between may have to apply again what was confirmed.
        let read = || match self.ledger.inner.storage.read(self.context, self.query.clone())? {
            page if page.applied < self.confirmed => Err(storage::Error::Unavailable),
            page => Ok(page),
        };
        let mut page = self.ledger.stored(self.deadline, read).await?;
        // What comes in while this reads belongs to the next call.
        let latest = *self.latest.get_or_insert(page.latest);
        page.entries.retain(|entry| entry.sequence <= latest);
        let full = self.query.limit != 0 && page.entries.len() >= self.query.limit;
        self.over = full || !page.truncated || page.next_after >= latest;
        self.query.after = page.next_after;
        self.query.limit = self.query.limit.saturating_sub(page.entries.len());
        Ok(Some(page.entries))
    }

    /// The context's latest sequence when the first step was read.
    ///
    /// # Panics
    /// Before that.
    pub(crate) fn latest(&self) -> Sequence {
        self.latest.expect("a step was read")
    }
}
