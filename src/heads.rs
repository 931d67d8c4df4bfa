//! Which contexts there are, and where they and the ledger end.

use std::time::Duration;

use converge_actors::storage::{self, AppliedMark, ContextsQuery};
use converge_ledger_core::{ClusterId, FenceEpoch, Head, Lamport, LogIndex, Position, Sequence, Term};
use tokio::time::Instant;

use crate::ledger::{deadline, limit};
use crate::types::Consistency;
use crate::{Error, Ledger};

/// Contexts in a list whose caller says nothing of how many.
pub const CONTEXTS_DEFAULT: usize = 1_000;

/// Contexts in a list at most.
pub const CONTEXTS_MAX: usize = 10_000;

/// Bytes of names in a list, at most, or one name.
const NAMES_BYTES_MAX: usize = 1 << 20;

/// When a node may answer.
#[derive(Default, Clone, Debug)]
pub struct ReadAt {
    /// What the answer promises.
    pub consistency: Consistency,
    /// Only when this node has applied the entry at this position: it waits for that, and asks nobody.
    pub min_position: Position,
    /// 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// The end of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextHead {
    /// The context.
    pub context_id: String,
    /// The sequence of its last entry.
    pub latest: Sequence,
    /// The highest Lamport time in it.
    pub lamport: Lamport,
    /// Its fence epoch; 0 where it was never fenced.
    pub fence_epoch: FenceEpoch,
    /// Chain hash after its last entry: two contexts with equal ones hold the same entries.
    pub chain: [u8; 32],
}

/// The end of the ledger, as a node has applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerHead {
    /// How many entries there are.
    pub position: Position,
    /// The last log entry applied.
    pub applied_index: LogIndex,
    /// The node's term.
    pub term: Term,
    /// Equal on all nodes that have applied the same log entry.
    pub digest: [u8; 32],
    /// Which cluster it is.
    pub cluster_id: ClusterId,
}

/// Contexts in the order of their names, which is that of their bytes.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// Each with its end.
    pub contexts: Vec<ContextHead>,
    /// Where to go on: the last of these names, where there are more.
    pub next: Option<String>,
    /// The position up to which all is in the list.
    pub position: Position,
    /// The node's term.
    pub term: Term,
}

impl Ledger {
    /// Lists contexts whose names begin with `prefix`, behind the name `after`: as many as asked for, 0 for [`CONTEXTS_DEFAULT`],
    /// at most [`CONTEXTS_MAX`].
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn contexts(&self, prefix: &str, after: &str, count: u32, at: ReadAt) -> Result<Contexts, Error> {
        let deadline = deadline(at.deadline);
        for name in [prefix, after].into_iter().filter(|name| !name.is_empty()) {
            self.inner.limits.check_context_id(name).map_err(limit)?;
        }
        let limit = match count as usize {
            0 => CONTEXTS_DEFAULT,
            count => count.min(CONTEXTS_MAX),
        };
        let confirmed = self.may_read(at.consistency, at.min_position, deadline).await?;
        let query = ContextsQuery { prefix: prefix.to_owned(), after: after.to_owned(), limit };
        let page = loop {
            let listed = self.inner.storage.contexts(query.clone());
            let page = match tokio::time::timeout_at(deadline, listed).await.map_err(|_| Error::ReadTimeout)? {
                // Storage that restarted in between may have to apply again what was confirmed.
                Ok(page) if page.applied.index < confirmed => Err(storage::Error::Unavailable),
                page => page,
            };
            if let Some(page) = self.settled(deadline, page).await? {
                break page;
            }
        };
        let (mut bytes, mut contexts, all) = (0, Vec::new(), page.contexts.len());
        for (name, head) in page.contexts {
            bytes += name.len() + size_of::<ContextHead>();
            if bytes > NAMES_BYTES_MAX && !contexts.is_empty() {
                break;
            }
            contexts.push(context_head(name, &head));
        }
        let more = page.truncated || contexts.len() < all;
        let next = contexts.last().filter(|_| more).map(|last| last.context_id.clone());
        Ok(Contexts { contexts, next, position: page.applied.position, term: self.term() })
    }

    /// Where a context ends, as the ledger has it; none for one without entries that was never fenced.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn head(&self, context: &str, at: ReadAt) -> Result<(Option<ContextHead>, LedgerHead), Error> {
        self.inner.limits.check_context_id(context).map_err(limit)?;
        let deadline = deadline(at.deadline);
        let ledger = self.end(&at, deadline).await?;
        let (storage, confirmed) = (&self.inner.storage, ledger.applied_index);
        let head = self.stored(deadline, || match storage.head_at(context)? {
            (_, applied) if applied < confirmed => Err(storage::Error::Unavailable),
            (head, _) => Ok(head),
        });
        Ok((head.await?.map(|head| context_head(context.to_owned(), &head)), ledger))
    }

    /// Where the ledger ends.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn ledger_head(&self, at: ReadAt) -> Result<LedgerHead, Error> {
        self.end(&at, deadline(at.deadline)).await
    }

    async fn end(&self, at: &ReadAt, deadline: Instant) -> Result<LedgerHead, Error> {
        let confirmed = self.may_read(at.consistency, at.min_position, deadline).await?;
        let storage = &self.inner.storage;
        let applied = self.stored(deadline, || match storage.stream_end(&storage::StreamOf::All)?.applied {
            applied if applied.index < confirmed => Err(storage::Error::Unavailable),
            applied => Ok(applied),
        });
        let AppliedMark { index, position, digest } = applied.await?;
        let cluster_id = self.inner.cluster_id;
        Ok(LedgerHead { position, applied_index: index, term: self.term(), digest, cluster_id })
    }

    /// Waits until this node may answer a read: with what was acknowledged before, where that is asked for, and with what stands
    /// up to a position. Says what it has applied then.
    pub(crate) async fn may_read(
        &self,
        consistency: Consistency,
        min_position: Position,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        let confirmed = match consistency {
            Consistency::Stale => LogIndex(0),
            Consistency::Linearizable | Consistency::Lease => self.confirm(deadline).await?,
        };
        Ok(confirmed.max(self.reach(min_position, deadline).await?))
    }

    /// Waits until this node has applied the entry at a position: nobody is asked. Says up to which log entry it has then.
    async fn reach(&self, position: Position, deadline: Instant) -> Result<LogIndex, Error> {
        let storage = &self.inner.storage;
        let mut stopped = self.inner.stopped.subscribe();
        // What was seen there, for storage may have to apply it again a moment later.
        let reached = || Some(storage.applied()).filter(|applied| applied.position >= position);
        if position == Position(0) {
            return Ok(LogIndex(0));
        }
        tokio::select! {
            biased;
            applied = self.inner.watches.until(reached) => Ok(applied.index),
            _ = stopped.wait_for(|stopped| *stopped) => Err(Error::Stopped),
            error = storage.halted() => Err(crate::ledger::stored_error(error)),
            () = tokio::time::sleep_until(deadline) => {
                let has = storage.applied().position;
                let reason = format!(
                    "this node has applied entries up to position {has}, not yet up to {position}; try again or ask another node"
                );
                Err(Error::Unavailable { reason })
            }
        }
    }

    pub(crate) fn term(&self) -> Term {
        self.inner.replication.view().borrow().term
    }
}

fn context_head(context_id: String, head: &Head) -> ContextHead {
    let Head { latest, lamport, fence_epoch, chain, .. } = *head;
    ContextHead { context_id, latest, lamport, fence_epoch, chain }
}
