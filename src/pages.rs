//! A context read step by step, so that whoever wants only to pass its entries on holds few of them.

use converge_actors::storage::{self, ReadQuery};
use converge_ledger_core::{Entry, LogIndex, Position, Sequence};
use tokio::time::Instant;

use crate::ledger::{deadline, limit};
use crate::types::ReadOptions;
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
    /// Of the first step, and the position up to which it showed all.
    latest: Option<Sequence>,
    position: Position,
    over: bool,
}

impl Ledger {
    /// Confirms that this node may answer, and reads nothing yet.
    pub(crate) async fn pages<'a>(&'a self, context: &'a str, options: ReadOptions) -> Result<Pages<'a>, Error> {
        self.inner.limits.check_context_id(context).map_err(limit)?;
        let deadline = deadline(options.deadline);
        let confirmed = self.may_read(options.consistency, options.min_position, deadline).await?;
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
            position: Position(0),
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
        let mut page = loop {
            let page = match self.read().await? {
                // Storage that restarted in between may have to apply again what was confirmed.
                Ok(page) if page.applied < self.confirmed => Err(storage::Error::Unavailable),
                page => page,
            };
            if let Some(page) = self.ledger.settled(self.deadline, page).await? {
                break page;
            }
        };
        // What comes in while this reads belongs to the next call.
        if self.latest.is_none() {
            self.position = page.position;
        }
        let latest = *self.latest.get_or_insert(page.latest);
        page.entries.retain(|entry| entry.sequence <= latest);
        let full = self.query.limit != 0 && page.entries.len() >= self.query.limit;
        self.over = full || !page.truncated || page.next_after >= latest;
        self.query.after = page.next_after;
        self.query.limit = self.query.limit.saturating_sub(page.entries.len());
        Ok(Some(page.entries))
    }

    /// A first step of a few entries at once; whatever may look at much in its turn.
    async fn read(&self) -> Result<Result<storage::Page, storage::Error>, Error> {
        let Pages { ledger, context, query, deadline, .. } = self;
        let storage = &ledger.inner.storage;
        if query.key.is_none() && self.latest.is_none() {
            return Ok(storage.read(context, query.clone()));
        }
        tokio::time::timeout_at(*deadline, storage.scan(context, query.clone())).await.map_err(|_| Error::ReadTimeout)
    }

    /// The position up to which the first step showed all.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The context's latest sequence when the first step was read.
    ///
    /// # Panics
    /// Before that.
    pub(crate) fn latest(&self) -> Sequence {
        self.latest.expect("a step was read")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;
    use crate::{Config, NewEntry, Node};

    const ENTRIES: usize = 30_000;
    const READERS: usize = 64;
    const APPENDS: u32 = 10;

    async fn append(ledger: &Ledger) {
        let entry = NewEntry { context_id: "c".into(), ..Default::default() };
        ledger.append(entry, Default::default()).await.unwrap();
    }

    /// Consensus waits for no reader that looks at much and finds nothing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn reads_and_watches_of_a_key_that_matches_nothing_do_not_hold_up_appends() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = directory.path().join("data");
        config.listen.grpc = "off".into();
        let node = Node::start(config).await.unwrap();
        let ledger = node.ledger();
        let mut writers = JoinSet::new();
        for _ in 0..READERS {
            let ledger = ledger.clone();
            writers.spawn(async move {
                for _ in 0..ENTRIES / READERS {
                    append(&ledger).await;
                }
            });
        }
        writers.join_all().await;
        let mut readers = JoinSet::new();
        let nothing = || Some("nothing".to_owned());
        for _ in 0..READERS {
            let (read, watched) = (ledger.clone(), ledger.clone());
            readers.spawn(async move {
                loop {
                    let page = read.read("c", ReadOptions { key: nothing(), ..Default::default() }).await.unwrap();
                    assert!(page.entries.is_empty() && page.latest >= Sequence(1));
                }
            });
            readers.spawn(async move {
                let options = crate::WatchOptions { key: nothing(), ..Default::default() };
                watched.watch("c", options).next().await;
            });
        }
        let start = Instant::now();
        for _ in 0..APPENDS {
            append(&ledger).await;
        }
        let took = start.elapsed();
        assert!(took < APPENDS * Duration::from_millis(500), "{APPENDS} appends took {took:?}");
        readers.abort_all();
        node.stop(Duration::from_secs(30)).await.unwrap();
    }
}
