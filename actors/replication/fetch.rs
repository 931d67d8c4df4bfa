//! Entries of the log that a lagging peer needs, read by tasks: no file is read where Raft and the links run.
//!
//! One fetch brings about one message. What came last stays readable until the next comes, with those before it back to one
//! with content: the message that carries it says the term and the check of what is in front of it. Only committed entries
//! are fetched, so what came stays true, whatever happens to the log meanwhile (S4).

use std::collections::BTreeMap;

use converge_ledger_core::{LogIndex, Term};
use converge_supervisors::ractor::ActorRef;
use raft::GetEntriesContext;
use tokio::task::JoinSet;

use super::message::Message;
use crate::storage::{Error, LogEntry, Storage};

/// Fetches on their way at once, for each voter: one that is sent to, and one that came to nothing since.
const FETCHES_PER_VOTER: usize = 2;

/// What a fetch came to, said when it ends, and also where it ends in a panic: so its place is free again.
struct Fetching {
    actor: ActorRef<Message>,
    low: LogIndex,
    result: Option<Result<Vec<LogEntry>, Error>>,
}

impl Fetching {
    fn is(mut self, result: Result<Vec<LogEntry>, Error>) {
        self.result = Some(result);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            let _ = self.actor.cast(Message::Fetched { low: self.low, result });
        }
    }
}

/// Fetches on their way, and what came last.
pub(super) struct Fetches {
    storage: Storage,
    actor: ActorRef<Message>,
    max: usize,
    /// By the index of the first entry: who waits for it.
    waiting: BTreeMap<LogIndex, Vec<GetEntriesContext>>,
    /// Without a gap.
    last: Vec<LogEntry>,
    tasks: JoinSet<()>,
}

impl Fetches {
    pub(super) fn new(storage: Storage, actor: ActorRef<Message>, voters: usize) -> Fetches {
        let max = FETCHES_PER_VOTER * voters;
        Fetches { storage, actor, max, waiting: BTreeMap::new(), last: Vec::new(), tasks: JoinSet::new() }
    }

    /// Fetches entries, unless too much is on its way: whoever asked is asked again by the next heartbeat.
    pub(super) fn ask(&mut self, low: LogIndex, high: LogIndex, max_bytes: usize, context: GetEntriesContext) {
        if let Some(waiting) = self.waiting.get_mut(&low) {
            // The same peer asks with every heartbeat.
            if waiting.len() < self.max {
                waiting.push(context);
            }
            return;
        }
        if self.waiting.len() >= self.max {
            return;
        }
        self.waiting.insert(low, vec![context]);
        while self.tasks.try_join_next().is_some() {}
        let storage = self.storage.clone();
        let answer = Fetching { actor: self.actor.clone(), low, result: Some(Err(Error::Unavailable)) };
        self.tasks.spawn(async move { answer.is(storage.log_fetch(low, high, max_bytes).await) });
    }

    /// These came, or nothing for want of something that passes. Says who can be served.
    pub(super) fn fetched(&mut self, low: LogIndex, entries: Option<Vec<LogEntry>>) -> Vec<GetEntriesContext> {
        let waiting = self.waiting.remove(&low).unwrap_or_default();
        match entries {
            Some(entries) => {
                self.last = entries;
                waiting
            }
            None => Vec::new(),
        }
    }

    /// Those of `low..high` that came last, as many as weigh `max_bytes`, at least one; none if `low` is not among them. There
    /// can be more of them in the log.
    pub(super) fn entries(&self, low: LogIndex, high: LogIndex, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let at = self.place(low)?;
        let mut left = max_bytes;
        let fits = |(place, entry): &(usize, &LogEntry)| {
            let weight = entry.weight();
            let fits = entry.index < high && (*place == 0 || weight <= left);
            left = left.saturating_sub(weight);
            fits
        };
        Some(self.last[at..].iter().enumerate().take_while(fits).map(|(_, entry)| entry.clone()).collect())
    }

    /// All of `low..high`, where they are among those that came last.
    pub(super) fn whole(&self, low: LogIndex, high: LogIndex) -> Option<Vec<LogEntry>> {
        let (from, to) = (self.place(low)?, self.place(LogIndex(high.get().checked_sub(1)?))?);
        (from <= to).then(|| self.last[from..=to].to_vec())
    }

    /// The term of one that came last.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        self.place(index).map(|at| self.last[at].term)
    }

    fn place(&self, index: LogIndex) -> Option<usize> {
        let at = usize::try_from(index.get().checked_sub(self.last.first()?.index.get())?).ok()?;
        (at < self.last.len()).then_some(at)
    }
}
