//! Transactions over contexts, and fences.
//!
//! A transaction is one command in one log entry, so that all of it is in the ledger or nothing, on every node and for every
//! reader. It waits for nobody: what it depends on are conditions, which apply decides at its place in the log.

use std::time::Duration;

use converge_actors::entry::transaction_weight;
use converge_actors::storage::{self, Direction, Ordinal, StreamOf, StreamQuery};
use converge_ledger_core::{
    AttemptId, Command, Condition, Entry, FenceEpoch, Fenced, Lamport, NewEntry, Outcome, Position, RaiseFence,
    Sequence, Term, Transact, TransactEntry, Transacted,
};
use tokio::time::{Instant, timeout_at};

use crate::ledger::{Failure, deadline, limit};
use crate::{Error, Ledger};

/// Entries for as many contexts as they name, to be appended all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What to append, in order; one at least.
    pub entries: Vec<TransactionEntry>,
    /// What must hold before it, of contexts that get an entry and of others. What two transactions both depend on, only one
    /// of them can change.
    pub conditions: Vec<Condition>,
    /// The client's key, of the whole ledger. It stands for all of the request: entries and conditions.
    pub idempotency_key: Option<String>,
}

/// An entry of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionEntry {
    /// What to append.
    pub entry: NewEntry,
    /// A Lamport time from elsewhere: that of the entry is past it.
    pub received_lamport: Option<Lamport>,
}

impl From<NewEntry> for TransactionEntry {
    fn from(entry: NewEntry) -> TransactionEntry {
        TransactionEntry { entry, received_lamport: None }
    }
}

/// A done transaction.
#[derive(Clone, Debug)]
pub struct TransactionDone {
    /// The entries as they stand, one behind the other.
    pub entries: Vec<Entry>,
    /// They stood there before this call.
    pub deduplicated: bool,
    /// The term it was applied in.
    pub term: Term,
}

/// A context that was fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceDone {
    /// Its fence epoch from here on.
    pub epoch: FenceEpoch,
    /// Its latest sequence at that moment.
    pub latest: Sequence,
    /// The last position of the ledger at that moment.
    pub position: Position,
    /// The term it was applied in.
    pub term: Term,
}

/// What a retry of a transaction of unknown outcome needs.
#[derive(Debug, Clone)]
pub struct UnknownTransaction {
    /// The attempt whose outcome is not known.
    pub attempt: AttemptId,
    /// The transaction as it was given.
    pub transaction: Transaction,
}

impl Ledger {
    /// Appends all entries of a transaction, or none. `Ok` means that a majority has synced it.
    ///
    /// # Errors
    /// [`Error::Condition`] names the first condition that does not hold. Only [`Error::TransactionUnknown`] may have written
    /// something, and then all of it.
    pub async fn transact(&self, transaction: Transaction, within: Option<Duration>) -> Result<TransactionDone, Error> {
        let deadline = deadline(within);
        let Transaction { entries, conditions, idempotency_key } = transaction;
        // Before anything is done with them.
        self.inner.limits.check_transaction(&conditions, entries.len(), 0).map_err(limit)?;
        for one in &entries {
            self.check(&one.entry, idempotency_key.as_deref())?;
        }
        let entries: Vec<_> = entries.into_iter().map(|one| self.named(one)).collect();
        let bytes = transaction_weight(&conditions, &entries, idempotency_key.as_deref());
        self.inner.limits.check_transaction(&conditions, entries.len(), bytes).map_err(limit)?;
        let admission = self.admit(entries.len(), bytes)?;
        let attempt = self.begin(1, deadline)?;
        let command = Transact { counter: attempt.counter(), idempotency_key, conditions, entries };
        let unknown = |attempt, command| Error::TransactionUnknown(Box::new(UnknownTransaction::new(attempt, command)));
        match self.submit(&attempt, Command::Transact(command.clone()), admission, deadline).await {
            // It is in the ledger: from here on nothing can be an error that says otherwise.
            Ok(done) => {
                let Outcome::Transacted(place) = done.outcome else {
                    unreachable!("a transaction has its own outcome")
                };
                match self.transacted(&command, place, deadline).await {
                    Ok(entries) => Ok(TransactionDone { entries, deduplicated: place.deduplicated, term: done.term }),
                    Err(_) => Err(unknown(self.inner.entries.id_of(&attempt), command)),
                }
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unknown(attempt)) => Err(unknown(attempt, command)),
            Err(Failure::Moved) => unreachable!("only a load moves"),
        }
    }

    /// Raises the fence epoch of a context: to the given one, which must be above the current one, or by one. Who gives an
    /// other epoch with an append or a condition is refused from then on; who gives none passes.
    ///
    /// # Errors
    /// [`Error::StaleFence`] where the context is not below the given epoch, and those of [`Ledger::append`]; only
    /// [`Error::FenceUnknown`] may have fenced it.
    pub async fn fence(
        &self,
        context: &str,
        epoch: Option<FenceEpoch>,
        within: Option<Duration>,
    ) -> Result<FenceDone, Error> {
        let deadline = deadline(within);
        self.inner.limits.check_context_id(context).map_err(limit)?;
        let admission = self.admit(1, context.len())?;
        let attempt = self.begin(1, deadline)?;
        let command = RaiseFence { counter: attempt.counter(), context_id: context.to_owned(), epoch };
        match self.submit(&attempt, Command::Fence(command), admission, deadline).await {
            Ok(done) => {
                let Outcome::Fenced(fenced) = done.outcome else { unreachable!("a fence has its own outcome") };
                let Fenced { epoch, latest, position, .. } = fenced;
                Ok(FenceDone { epoch, latest, position, term: done.term })
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unknown(attempt)) => Err(Error::FenceUnknown { attempt }),
            Err(Failure::Moved) => unreachable!("only a load moves"),
        }
    }

    /// With its name and time.
    fn named(&self, TransactionEntry { entry, received_lamport }: TransactionEntry) -> TransactEntry {
        TransactEntry { id: self.entry_id(), appended_at_ns: (self.inner.clock)(), received_lamport, entry }
    }

    /// Reads back what is in the ledger: where each entry stands in its context, the outcome does not say.
    async fn transacted(&self, command: &Transact, place: Transacted, until: Instant) -> Result<Vec<Entry>, Error> {
        let count = command.entries.len();
        let mut entries = Vec::with_capacity(count);
        while entries.len() < count {
            let (from, limit) = (Ordinal(place.first.get() + entries.len() as u64), count - entries.len());
            let (of, direction) = (StreamOf::All, Direction::Forwards);
            let query = StreamQuery { of, direction, from, limit, key: None, max_bytes: usize::MAX };
            let page = timeout_at(until, self.inner.storage.stream(query)).await.map_err(|_| Error::ReadTimeout)?;
            // Storage that restarted since has to apply it again.
            let page =
                page.and_then(|page| if page.entries.is_empty() { Err(storage::Error::Unavailable) } else { Ok(page) });
            if let Some(page) = self.settled(until, page).await? {
                entries.extend(page.entries);
            }
        }
        Ok(entries)
    }
}

impl UnknownTransaction {
    fn new(attempt: AttemptId, command: Transact) -> UnknownTransaction {
        let Transact { idempotency_key, conditions, entries, .. } = command;
        let given =
            |part: TransactEntry| TransactionEntry { entry: part.entry, received_lamport: part.received_lamport };
        let entries = entries.into_iter().map(given).collect();
        UnknownTransaction { attempt, transaction: Transaction { entries, conditions, idempotency_key } }
    }
}
