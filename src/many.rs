//! Many appends in one call, in order.
//!
//! They go in groups. A group is one batch, and apply stops in it at the first entry that it refuses; the next group
//! leaves once all of the one before are in the ledger. So what is in the ledger is always a prefix of what the caller
//! gave, whatever happens on the way, and each entry of it once: a group is submitted again as one append is.

use std::collections::VecDeque;
use std::time::Duration;

use converge_actors::entry::{Admission, Attempt, append_weight};
use converge_ledger_core::{Append, Command, NewEntry, Outcome, Position, Sequence};
use tokio::time::Instant;

use crate::ledger::{Failure, deadline, not_submitted, refused, unknown};
use crate::{Error, Ledger};

/// A group that waits longer than this for credits has met a limit.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// One entry of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManyEntry {
    /// What to append.
    pub entry: NewEntry,
    /// The client's key, scoped to the context.
    pub idempotency_key: Option<String>,
    /// The context's latest sequence before this append. What comes before it in the same call counts.
    pub expected_sequence: Option<Sequence>,
}

impl From<NewEntry> for ManyEntry {
    fn from(entry: NewEntry) -> ManyEntry {
        ManyEntry { entry, ..ManyEntry::default() }
    }
}

impl ManyEntry {
    /// What it takes of a group.
    pub(crate) fn weight(&self) -> usize {
        append_weight(&self.entry, self.idempotency_key.as_deref())
    }
}

/// Where one of many stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place in the context.
    pub sequence: Sequence,
    /// Its place in the ledger.
    pub position: Position,
    /// It stood there before this call.
    pub deduplicated: bool,
}

/// Not all of many were appended: those before one of them are in the ledger.
#[derive(Debug, thiserror::Error)]
#[error("entry {} of those given: {error}", at + 1)]
pub struct ManyFailed {
    /// Those that are in the ledger for sure, in order: the first so many.
    pub done: Vec<Placed>,
    /// Which entry the error is about, counted from 0.
    pub at: usize,
    /// Why it is not done. Where it may have been written ([`Error::written`]), so may be those behind it, as far as they
    /// go without a gap; otherwise nothing from it on is in the ledger.
    #[source]
    pub error: Error,
}

impl Ledger {
    /// Appends entries in order, to as many contexts as they name. `Ok` means that a majority has synced them all.
    ///
    /// All are checked before the first one is sent, so that one that cannot be accepted keeps all from being written.
    /// The deadline is that of the whole call, 10 s where none is given.
    ///
    /// # Errors
    /// [`ManyFailed`]: what is in the ledger is a prefix of what was given, each entry once. With idempotency keys the
    /// same call can be made again after any error.
    pub async fn append_many(
        &self,
        entries: Vec<ManyEntry>,
        within: Option<Duration>,
    ) -> Result<Vec<Placed>, ManyFailed> {
        let deadline = deadline(within);
        for (at, one) in entries.iter().enumerate() {
            if let Err(error) = self.check(&one.entry, one.idempotency_key.as_deref()) {
                return Err(ManyFailed { done: Vec::new(), at, error });
            }
        }
        let mut done = Vec::with_capacity(entries.len());
        let mut left = VecDeque::from(entries);
        while !left.is_empty() {
            let group = self.next_group(&mut left);
            let (placed, failed) = self.append_group(group, deadline).await;
            done.extend(placed);
            if let Some(error) = failed {
                return Err(ManyFailed { at: done.len(), done, error });
            }
        }
        Ok(done)
    }

    /// Room for so many commands and an attempt of theirs; waits for them while there is time, for the room in line.
    pub(crate) async fn enter(
        &self,
        commands: usize,
        bytes: usize,
        deadline: Instant,
    ) -> Result<(Admission, Attempt), Error> {
        self.takes_appends()?;
        let mut admitted = std::pin::pin!(self.inner.entries.admitted(commands, bytes, deadline));
        let admitted = tokio::select! {
            biased;
            admitted = admitted.as_mut() => admitted,
            () = tokio::time::sleep(LONG_WAIT) => {
                self.inner.reached.note("limits.inflight_bytes", "groups of appends and loads wait");
                admitted.await
            }
        };
        self.serving()?;
        let room = admitted.map_err(not_submitted)?;
        loop {
            match self.begin(commands, deadline) {
                // All may begin once the oldest has ended: there is no line to wait in.
                Err(Error::TooManyAttempts { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(self.inner.calls.overload_pause).await;
                }
                begun => return Ok((room, begun?)),
            }
        }
    }

    /// Takes from the front what one group holds: one entry at least.
    pub(crate) fn next_group(&self, left: &mut VecDeque<ManyEntry>) -> Vec<ManyEntry> {
        let bounds = self.inner.entries.group_bounds();
        let mut bytes = 0;
        let fit = left.iter().take(bounds.commands_max).take_while(|one| {
            bytes += one.weight();
            bytes <= bounds.bytes_max
        });
        let fit = fit.count().max(1).min(left.len());
        left.drain(..fit).collect()
    }

    /// Appends a group of entries that were checked; says where those are that are in the ledger for sure, and why the
    /// next one is not.
    pub(crate) async fn append_group(&self, group: Vec<ManyEntry>, deadline: Instant) -> (Vec<Placed>, Option<Error>) {
        let bytes = group.iter().map(|one| one.entry.content_bytes()).sum();
        let (admission, attempt) = match self.enter(group.len(), bytes, deadline).await {
            Ok(entered) => entered,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let command = |(counter, one): (u64, ManyEntry)| Append {
            counter,
            id: self.entry_id(),
            appended_at_ns: (self.inner.clock)(),
            idempotency_key: one.idempotency_key,
            expected_sequence: one.expected_sequence,
            fence_epoch: None,
            received_lamport: None,
            follows: counter > attempt.counter(),
            entry: one.entry,
        };
        let appends: Vec<Append> = attempt.counters().zip(group).map(command).collect();
        let first = appends.first().cloned();
        let commands = appends.into_iter().map(Command::Append).collect();
        let settled = match self.inner.entries.submit_group(&attempt, commands, admission, deadline).await {
            Ok(settled) => settled,
            Err(error) => return (Vec::new(), Some(failed(self.failure(error), first))),
        };
        let mut placed = Vec::with_capacity(attempt.counters().count());
        for outcome in settled.outcomes() {
            match outcome {
                Outcome::Appended(place) => placed.push(Placed {
                    sequence: place.sequence,
                    position: place.position,
                    deduplicated: place.deduplicated,
                }),
                // What follows was not reached.
                Outcome::Refused(refusal) => {
                    let failure = refused(refusal, || self.inner.entries.id_of(&attempt));
                    return (placed, Some(failed(failure, first)));
                }
                other => unreachable!("an append has an append's outcome, not {other:?}"),
            }
        }
        (placed, None)
    }
}

/// The error of a group whose first append is given.
fn failed(failure: Failure, first: Option<Append>) -> Error {
    match (failure, first) {
        (Failure::Refused(error), _) => error,
        (Failure::Unknown(attempt), Some(first)) => unknown(attempt, first),
        (Failure::Unknown(_) | Failure::Moved, _) => unreachable!("only a load moves, and a group has a first append"),
    }
}
