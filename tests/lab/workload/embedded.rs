//! A ledger in this process.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger::{
    AppendOptions, Appended, Consistency, Entry, Error, Ledger, ManyEntry, ManyFailed, NewEntry, Page, Placed,
    ReadOptions, Sequence, WatchOptions, Written,
};
use converge_ledger_core::chance::Dice;
use tokio::time::{Instant, sleep_until};

use super::mix::value_of;
use super::{Acknowledged, Api, Missed, Record};
use crate::history::{Done, Operation, Outcome, Refused, Seen, Time};

/// So many entries of any client fit into the smallest answer that a simulated node gives.
const PAGE: u32 = 48;
/// Of one page, once nothing goes wrong any more.
const PAGE_TIME: Duration = Duration::from_secs(10);

/// One node's ledger.
pub struct Embedded {
    ledger: Ledger,
    record: Arc<Record>,
    /// The node will not serve again.
    is_stopped: bool,
}

impl Embedded {
    /// What is seen goes into the record.
    #[must_use]
    pub fn new(ledger: Ledger, record: &Arc<Record>) -> Embedded {
        Embedded { ledger, record: record.clone(), is_stopped: false }
    }

    /// A death costs a call its time, or its outcome; anything else is a finding.
    fn missed(&mut self, error: &Error) -> Missed {
        self.is_stopped |= matches!(error, Error::Stopped);
        let finding = match error {
            Error::Unknown(_) | Error::Unavailable { .. } | Error::ReadTimeout | Error::Stopped => {
                self.record.failed();
                None
            }
            error => Some(format!("a node answers: {error}")),
        };
        missed(error, finding)
    }
}

impl Api for Embedded {
    type Place = Ledger;

    fn place(&mut self, _: Option<u64>, dice: &mut Dice) -> Option<Ledger> {
        self.another(dice)
    }

    fn another(&mut self, _: &mut Dice) -> Option<Ledger> {
        (!self.is_stopped).then(|| self.ledger.clone())
    }

    fn is_over(&self) -> bool {
        self.record.is_over()
    }

    fn now(&self) -> Time {
        self.record.now()
    }

    fn record(&self, _: &Ledger, operation: Operation) {
        self.record.add(operation);
    }

    fn violated(&self, what: String) {
        self.record.trouble(what);
    }

    async fn append(&mut self, at: &Ledger, entry: NewEntry, options: AppendOptions) -> Result<Acknowledged, Missed> {
        at.append(entry, options).await.map(acknowledged).map_err(|error| self.missed(&error))
    }

    async fn append_many(
        &mut self,
        at: &Ledger,
        entries: Vec<ManyEntry>,
        deadline: Duration,
    ) -> (Vec<Done>, Option<Missed>) {
        let (done, failed) = many(at.append_many(entries, Some(deadline)).await);
        (done, failed.map(|error| self.missed(&error)))
    }

    async fn read(
        &mut self,
        at: &Ledger,
        context: &str,
        options: ReadOptions,
    ) -> Result<(Sequence, Vec<Seen>), Missed> {
        at.read(context, options).await.map(shown).map_err(|error| self.missed(&error))
    }

    async fn watch(
        &mut self,
        at: &Ledger,
        context: &str,
        from: Sequence,
        until: Instant,
        entries: &mut Vec<Seen>,
    ) -> Result<(), Missed> {
        let ended = follow(at, (context, from), until, pending, entries).await;
        ended.map_err(|error| self.missed(&error))
    }
}

pub(crate) fn missed(error: &Error, finding: Option<String>) -> Missed {
    let actual = match error {
        Error::ExpectedSequence { actual } => Some(*actual),
        _ => None,
    };
    let outcome = match error.written() {
        Written::Perhaps => Outcome::Unknown,
        Written::Nothing => Outcome::Refused(Refused { reason: error.to_string(), actual }),
    };
    Missed { outcome, finding }
}

pub(crate) fn acknowledged(done: Appended) -> Acknowledged {
    Acknowledged { seen: seen(&done.entry), deduplicated: done.deduplicated }
}

/// What a call of many came to.
pub(crate) fn many(answer: Result<Vec<Placed>, ManyFailed>) -> (Vec<Done>, Option<Error>) {
    let (placed, failed) = match answer {
        Ok(placed) => (placed, None),
        Err(ManyFailed { done, error, .. }) => (done, Some(error)),
    };
    let done = |Placed { sequence, position, deduplicated }| Done { sequence, position: Some(position), deduplicated };
    (placed.into_iter().map(done).collect(), failed)
}

pub(crate) fn shown(page: Page) -> (Sequence, Vec<Seen>) {
    (page.latest, page.entries.iter().map(seen).collect())
}

pub(crate) fn seen(entry: &Entry) -> Seen {
    let value = value_of(&entry.key, &entry.payload, &entry.metadata);
    Seen { sequence: entry.sequence, value, position: Some(entry.position) }
}

/// Takes entry after entry, until then, or until the node is gone, or the subscription ends.
pub(crate) async fn follow<F: Future<Output = ()>>(
    ledger: &Ledger,
    (context, from): (&str, Sequence),
    until: Instant,
    gone: impl Fn() -> F,
    entries: &mut Vec<Seen>,
) -> Result<(), Error> {
    let mut watch = ledger.watch(context, WatchOptions { from, key: None });
    loop {
        let next = tokio::select! {
            biased;
            () = gone() => None,
            () = sleep_until(until) => None,
            next = watch.next() => next,
        };
        match next {
            Some(entry) => entries.push(seen(&entry?)),
            None => return Ok(()),
        }
    }
}

/// All of a context on a node, once nothing goes wrong any more.
///
/// # Errors
/// Those of a read.
pub async fn whole(ledger: &Ledger, context: &str) -> Result<Vec<Seen>, Error> {
    let mut all: Vec<Seen> = Vec::new();
    loop {
        let after = all.last().map_or(Sequence(0), |seen| seen.sequence);
        let (limit, consistency, deadline) = (PAGE, Consistency::Stale, Some(PAGE_TIME));
        let options = ReadOptions { after, limit, consistency, deadline, ..ReadOptions::default() };
        let (latest, entries) = ledger.read(context, options).await.map(shown)?;
        let is_last = entries.last().is_none_or(|seen| seen.sequence >= latest);
        all.extend(entries);
        if is_last {
            return Ok(all);
        }
    }
}
