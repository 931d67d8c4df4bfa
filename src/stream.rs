//! Entries one after another, of a context or of the whole ledger, in either direction.

use std::collections::VecDeque;
use std::time::Duration;

use converge_actors::storage::{self, Direction, Ordinal, StreamOf, StreamQuery};
use converge_actors::watch::{Room, Taken, Unbounded};
use converge_ledger_core::{Entry, LogIndex, Position, Sequence, Term};
use tokio::time::Instant;

use crate::ledger::{deadline, limit};
use crate::types::Consistency;
use crate::{Error, Ledger};

/// A step of a stream has so many entries at most.
const STEP_ENTRIES: usize = 1024;

/// What a stream reads, and the first entry of it; 0: the end that it starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFrom {
    /// The entries of a context, by sequence.
    Context(String, Sequence),
    /// The entries of all contexts, by position.
    All(Position),
}

/// Options of a stream.
#[derive(Default, Clone, Debug)]
pub struct StreamOptions {
    /// Which way.
    pub direction: Direction,
    /// At most so many entries; 0: none.
    pub limit: u64,
    /// It ends before the entry with which its entries come to more bytes; one is always given. 0: none.
    pub max_bytes: u64,
    /// Only this key.
    pub key: Option<String>,
    /// What it promises.
    pub consistency: Consistency,
    /// Only when this node has applied the entry at this position: it waits for that, and asks nobody.
    pub min_position: Position,
    /// For its beginning, and for each step by itself; 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// Entries that were in the ledger when it began. Holds one step of them at most.
pub struct Stream {
    ledger: Ledger,
    query: StreamQuery,
    patience: Option<Duration>,
    /// What a step must have applied: what it knew of when it began.
    confirmed: LogIndex,
    /// Where it ends: what comes in while it reads belongs to the next one.
    last: Ordinal,
    position: Position,
    /// How many entries are wanted yet, and bytes.
    left: Remaining,
    /// The entries of the last step, and what they weigh.
    given: Vec<(Ordinal, u64)>,
    /// It ended because enough was given.
    cut: bool,
    /// Where the next step begins; none behind the last.
    next: Option<Ordinal>,
    step: VecDeque<Entry>,
}

/// How much is wanted yet.
#[derive(Clone, Copy, Debug)]
struct Remaining {
    entries: u64,
    bytes: u64,
    /// One entry was given: only the first may be larger than what is left.
    began: bool,
}

impl Remaining {
    /// Takes an entry; not where it is too much.
    fn take(&mut self, bytes: u64) -> bool {
        if self.entries == 0 || (bytes > self.bytes && self.began) {
            return false;
        }
        (self.entries, self.bytes, self.began) = (self.entries - 1, self.bytes.saturating_sub(bytes), true);
        true
    }
}

impl Ledger {
    /// Reads entries one after another: of a context or of all, in either direction. What is in the ledger when this returns.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn stream(&self, from: StreamFrom, options: StreamOptions) -> Result<Stream, Error> {
        let until = deadline(options.deadline);
        let (of, from) = match from {
            StreamFrom::All(position) => (StreamOf::All, Ordinal(position.get())),
            StreamFrom::Context(context, sequence) => {
                self.inner.limits.check_context_id(&context).map_err(limit)?;
                (StreamOf::Context(context), Ordinal(sequence.get()))
            }
        };
        let confirmed = self.may_read(options.consistency, options.min_position, until).await?;
        let end = self
            .stored(until, || match self.inner.storage.stream_end(&of)? {
                // Storage that restarted in between may have to apply again what was confirmed.
                end if end.applied.index < confirmed => Err(storage::Error::Unavailable),
                end => Ok(end),
            })
            .await?;
        let from = match options.direction {
            Direction::Forwards => from.max(Ordinal(1)),
            Direction::Backwards if from == Ordinal(0) => end.last,
            Direction::Backwards => from.min(end.last),
        };
        let query = StreamQuery {
            of,
            direction: options.direction,
            from,
            limit: 0,
            key: options.key.filter(|key| !key.is_empty()),
            max_bytes: self.inner.calls.read_step_bytes,
        };
        Ok(Stream {
            ledger: self.clone(),
            query,
            patience: options.deadline,
            confirmed: end.applied.index,
            last: end.last,
            position: end.applied.position,
            left: Remaining { entries: bound(options.limit), bytes: bound(options.max_bytes), began: false },
            given: Vec::new(),
            cut: false,
            next: Some(from),
            step: VecDeque::new(),
        })
    }
}

impl Stream {
    /// The next entry; `None` behind the last.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        if self.step.is_empty() {
            match self.taken(&Unbounded).await? {
                Ok((step, ())) => self.step = step,
                Err(error) => return Some(Err(error)),
            }
        }
        self.step.pop_front().map(Ok)
    }

    /// The last sequence of the context, or the last position of the ledger, when it began: it knows of nothing later.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.0
    }

    /// The position up to which this node had applied all when it began.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The node's term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.ledger.term()
    }

    /// The next entries, at least one, and the room that was taken before they were read; `None` behind the last. An error ends it.
    pub(crate) async fn taken<R: Room + Sync>(&mut self, room: &R) -> Option<Result<Taken<R>, Error>> {
        loop {
            let from = self.next.filter(|next| *next >= Ordinal(1) && *next <= self.last)?;
            if self.cut {
                return None;
            }
            let held = room.take().await;
            match self.read(from).await {
                Ok(entries) if entries.is_empty() => {}
                Ok(entries) => return Some(Ok((entries.into(), held))),
                Err(error) => {
                    self.next = None;
                    return Some(Err(error));
                }
            }
            drop(held);
            // A key that matches little: others want to run, too.
            tokio::task::yield_now().await;
        }
    }

    async fn read(&mut self, from: Ordinal) -> Result<Vec<Entry>, Error> {
        let deadline = deadline(self.patience);
        let left = usize::try_from(self.left.entries).unwrap_or(usize::MAX);
        let query = StreamQuery { from, limit: left.min(STEP_ENTRIES), ..self.query.clone() };
        let mut page = loop {
            let page = match self.page(query.clone(), deadline).await? {
                // Storage that restarted has to apply again what was there when this began.
                Ok(page) if page.end.applied.index < self.confirmed || page.end.last < self.last => {
                    Err(storage::Error::Unavailable)
                }
                page => page,
            };
            if let Some(page) = self.ledger.settled(deadline, page).await? {
                break page;
            }
        };
        page.entries.retain(|entry| self.ordinal(entry) <= self.last);
        let (mut left, before) = (self.left, page.entries.len());
        let fit = page.entries.iter().take_while(|entry| left.take(entry.content_bytes() as u64)).count();
        page.entries.truncate(fit);
        self.cut = left.entries == 0 || fit < before;
        self.left = left;
        self.next = page.next;
        self.given = page.entries.iter().map(|entry| (self.ordinal(entry), entry.content_bytes() as u64)).collect();
        Ok(page.entries)
    }

    async fn page(
        &self,
        query: StreamQuery,
        deadline: Instant,
    ) -> Result<Result<storage::StreamPage, storage::Error>, Error> {
        let page = self.ledger.inner.storage.stream(query);
        tokio::time::timeout_at(deadline, page).await.map_err(|_| Error::ReadTimeout)
    }

    fn ordinal(&self, entry: &Entry) -> Ordinal {
        match self.query.of {
            StreamOf::Context(_) => Ordinal(entry.sequence.get()),
            StreamOf::All => Ordinal(entry.position.get()),
        }
    }
}

#[cfg(feature = "grpc")]
impl Stream {
    /// Where another stream goes on behind this entry; 0 where nothing can be left.
    pub(crate) fn behind(&self, last: Ordinal) -> u64 {
        self.query.direction.next(last).filter(|next| *next <= self.last).map_or(0, |next| next.0)
    }

    /// Goes on behind this entry, which was given before: with those of the last step that were not sent.
    pub(crate) fn rewind(&mut self, last: Ordinal) {
        self.step.clear();
        let direction = self.query.direction;
        for (_, bytes) in std::mem::take(&mut self.given).into_iter().filter(|(at, _)| direction.is_after(*at, last)) {
            self.left.entries = self.left.entries.saturating_add(1);
            self.left.bytes = self.left.bytes.saturating_add(bytes);
            self.cut = false;
        }
        self.next = direction.next(last);
    }

    /// The place of the first entry to come; 0 where none is.
    pub(crate) fn first(&self) -> u64 {
        self.next.filter(|next| *next >= Ordinal(1) && *next <= self.last).map_or(0, |next| next.0)
    }

    /// The place before the first entry.
    pub(crate) fn before(&self) -> Ordinal {
        let first = self.next.unwrap_or_default().0;
        Ordinal(match self.query.direction {
            Direction::Forwards => first.saturating_sub(1),
            Direction::Backwards => first.saturating_add(1),
        })
    }

    /// It ended because enough was given, not because nothing is left.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn place_of(&self, entry: &Entry) -> Ordinal {
        self.ordinal(entry)
    }
}

/// A bound that was given, or none.
fn bound(given: u64) -> u64 {
    if given == 0 { u64::MAX } else { given }
}
