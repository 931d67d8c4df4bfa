//! The handle that applications and the APIs call.
//!
//! Owns nothing that runs: it holds the actors' handles, which are valid before the node starts and across
//! restarts. Checks limits and runs the host's validator in the caller's task, because neither may take an actor
//! down. Does not decide what an entry's outcome is; apply does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use converge_actors::distribution::Distribution;
use converge_actors::distribution::calls;
use converge_actors::entry::{self, Admission, Attempt, Done, Entries};
use converge_actors::replication::{NotHandedOver, ReadError, Replication};
use converge_actors::storage::{self, Ordinal, Random, Storage};
use converge_actors::watch::{Followed, Watches};
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    Append, AttemptId, ClusterId, Command, Entry, EntryId, LimitError, Limits, LogIndex, NewEntry, NodeId, Outcome,
    Position, Refusal,
};
use converge_supervisors::{Tree, TreeSnapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::environment::{Alarm, Calls, Clock};
use crate::error::Unknown;
use crate::reached::LimitsReached;
use crate::status::not_formed;
use crate::types::{AppendOptions, Appended, Loaded, Page, ReadOptions, Snapshot, WatchOptions};
use crate::watch::Watch;
use crate::{Error, Rejection, Status};

/// A host's own rule for entries; called in the caller's task, before anything is proposed. A panic is a
/// rejection.
pub type Validator = Arc<dyn Fn(&NewEntry) -> Result<(), Rejection> + Send + Sync>;

/// The deadline of a call that gives none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Nobody waits for the replication actor of a node that stops for longer than so many election time-outs.
const LEAVE_ELECTIONS: u32 = 3;

/// When to come back after the oldest attempt held up a new one.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A node's ledger. Cheap to clone; valid before the node starts and across restarts of every actor.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) cluster_id: ClusterId,
    pub(crate) limits: Limits,
    pub(crate) response_bytes: usize,
    pub(crate) snapshot_bytes: usize,
    pub(crate) election: Duration,
    pub(crate) storage: Storage,
    pub(crate) replication: Replication,
    pub(crate) entries: Entries,
    pub(crate) watches: Watches,
    pub(crate) distribution: Distribution,
    /// Calls between hosts.
    pub(crate) remote: Arc<calls::HostCalls>,
    pub(crate) validator: Option<Validator>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) calls: Calls,
    /// The host's.
    pub(crate) alarms: Vec<Alarm>,
    /// The tree, where this crate started it.
    pub(crate) tree: OnceLock<Tree>,
    pub(crate) stopped: watch::Sender<bool>,
    pub(crate) reached: LimitsReached,
}

/// What a test bench looks at besides what clients see.
#[cfg(feature = "lab")]
#[doc(hidden)]
impl Ledger {
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    #[must_use]
    pub fn replication(&self) -> &Replication {
        &self.inner.replication
    }
}

/// Nobody is left who could say that the node has ended.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stopped.send_replace(true);
        self.watches.end();
        self.remote.stop();
    }
}

impl Ledger {
    /// Appends one entry. `Ok` means that a majority has synced it.
    ///
    /// # Errors
    /// [`Error`]; only [`Error::Unknown`] may have written something, and it carries what a retry needs.
    pub async fn append(&self, entry: NewEntry, options: AppendOptions) -> Result<Appended, Error> {
        let deadline = deadline(options.deadline);
        self.check(&entry, options.idempotency_key.as_deref())?;
        let admission = self.admit(1, entry.content_bytes())?;
        let attempt = self.begin(1, deadline)?;
        let command = Append {
            counter: attempt.counter(),
            id: self.entry_id(),
            appended_at_ns: (self.inner.clock)(),
            idempotency_key: options.idempotency_key,
            expected_sequence: options.expected_sequence,
            fence_epoch: options.fence_epoch,
            received_lamport: options.received_lamport,
            follows: false,
            entry,
        };
        match self.submit(&attempt, Command::Append(command.clone()), admission, deadline).await {
            // It is in the ledger: from here on nothing can be an error that says otherwise.
            Ok(done) => match self.appended(&command, done, deadline).await {
                Some(appended) if !refused_after_write(&appended) => Ok(appended),
                Some(_) => Err(self.no_leader()),
                None => Err(unknown(self.inner.entries.id_of(&attempt), command)),
            },
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unknown(attempt)) => Err(unknown(attempt, command)),
            Err(Failure::Moved) => unreachable!("only a load moves"),
        }
    }

    /// Reads entries of a context. An unknown context is empty.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no majority confirms a linearizable read, [`Error::ResponseTooLarge`] when the
    /// answer is past the configured bound, [`Error::DataLoss`] when stored bytes fail their checksum.
    pub async fn read(&self, context: &str, options: ReadOptions) -> Result<Page, Error> {
        let bytes_max = self.inner.response_bytes;
        let mut pages = self.pages(context, options).await?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(more) = pages.next().await? {
            bytes += more.iter().map(size).sum::<usize>();
            entries.extend(more);
            // What was accepted can be read: one entry always fits, whatever the bound is now.
            if bytes > bytes_max && entries.len() > 1 {
                return Err(Error::ResponseTooLarge { limit: bytes_max });
            }
        }
        Ok(Page { entries, latest: pages.latest(), term: self.term(), position: pages.position() })
    }

    /// Follows a context: what exists behind `from`, then what comes, each entry once, in order, on every node.
    #[must_use]
    pub fn watch(&self, context: &str, options: WatchOptions) -> Watch {
        let Inner { watches, storage, stopped, .. } = &*self.inner;
        let key = options.key.filter(|key| !key.is_empty());
        let followed = Followed::Context(context.to_owned(), key);
        let follow = watches.follow(storage.clone(), followed, Ordinal(options.from.get()));
        Watch::new(follow, stopped.subscribe())
    }

    /// Follows the whole ledger: the entries of all contexts behind `from` in the order of their positions, then what comes, each
    /// once, on every node. Who comes back with the last position that it got misses nothing.
    #[must_use]
    pub fn watch_all(&self, from: Position) -> Watch {
        let Inner { watches, storage, stopped, .. } = &*self.inner;
        Watch::new(watches.follow(storage.clone(), Followed::All, Ordinal(from.get())), stopped.subscribe())
    }

    /// Copies a whole context into one self-contained blob.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn snapshot(&self, context: &str, deadline: Option<Duration>) -> Result<Snapshot, Error> {
        crate::snapshots::snapshot(self, context, deadline).await
    }

    /// Restores a context from a blob: all or nothing. A context that already holds the beginning of it gets the
    /// missing tail; one that holds anything else is refused.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`], [`Error::ContextExists`], [`Error::LoadDiverges`], and those of
    /// [`Ledger::append`].
    pub async fn load(
        &self,
        context: &str,
        snapshot: bytes::Bytes,
        fail_if_exists: bool,
        deadline: Option<Duration>,
    ) -> Result<Loaded, Error> {
        crate::snapshots::load(self, context, snapshot, fail_if_exists, deadline).await
    }

    /// What the node says about itself; asks no actor.
    #[must_use]
    pub fn status(&self) -> Status {
        crate::status::status(&self.inner)
    }

    /// The supervision tree; empty where the node hangs under a supervisor of the host's, which then knows it.
    #[must_use]
    pub fn tree(&self) -> TreeSnapshot {
        self.inner.tree.get().map_or_else(|| TreeSnapshot { nodes: Vec::new() }, Tree::snapshot)
    }

    pub(crate) fn entry_id(&self) -> EntryId {
        let random = &self.inner.random;
        EntryId(((u128::from(random()) << 64) | u128::from(random())).to_be_bytes())
    }

    pub(crate) fn check(&self, entry: &NewEntry, idempotency_key: Option<&str>) -> Result<(), Error> {
        self.inner.limits.check(entry).map_err(limit)?;
        if let Some(key) = idempotency_key {
            self.inner.limits.check_idempotency_key(key).map_err(limit)?;
        }
        let Some(validator) = &self.inner.validator else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| validator(entry))) {
            Ok(verdict) => verdict.map_err(Error::Rejected),
            Err(_panic) => {
                Err(Error::Rejected(Rejection { reason: "the validator panicked on this entry".to_owned() }))
            }
        }
    }

    /// Has this node, the leader, hand its office to another voter: to this one, or to one that was heard of and has most of the
    /// log. Returns who leads then. No append is lost by it: those in flight wait for the next leader, for some milliseconds as a
    /// rule.
    ///
    /// # Errors
    /// [`NotHandedOver`] names the cause; this node may lead on.
    pub async fn move_leader(&self, to: Option<NodeId>, given: Option<Duration>) -> Result<NodeId, NotHandedOver> {
        self.inner.replication.hand_over(to, self.inner.election, deadline(given)).await
    }

    /// The node is about to stop, and leaves its office to another within this time, if it can.
    pub(crate) async fn leave(&self, patience: Duration) {
        if *self.inner.stopped.borrow() {
            return;
        }
        let until = Instant::now() + patience.min(LEAVE_ELECTIONS * self.inner.election);
        match self.inner.replication.leave(self.inner.election, until).await {
            Ok(leader) => tracing::info!(%leader, "leadership was handed over"),
            Err(NotHandedOver::NotLeader(_) | NotHandedOver::Nobody) => {}
            Err(why) => tracing::info!(%why, "leadership was not handed over; the others elect a leader without it"),
        }
    }

    /// The node has ended: its port is free, and nobody waits for its actors any more.
    pub(crate) fn ended(&self) {
        self.inner.stopped.send_replace(true);
        self.inner.entries.end();
        self.inner.watches.end();
        self.inner.remote.stop();
        self.inner.distribution.unbind();
    }

    /// A node that has stopped or fell silent stays so until its process starts anew: nothing is worth waiting for.
    pub(crate) fn serving(&self) -> Result<(), Error> {
        if *self.inner.stopped.borrow() {
            return Err(Error::Stopped);
        }
        let silent = self.inner.replication.view().borrow().silent;
        if silent { Err(self.no_leader()) } else { Ok(()) }
    }

    pub(crate) fn takes_appends(&self) -> Result<(), Error> {
        self.serving()?;
        if let Some(outdated) = self.inner.storage.outdated() {
            return Err(Error::Outdated(outdated));
        }
        if self.inner.storage.room() != storage::Room::Ample {
            let reason = "this node's disk has no room, see its alarms; ask another node";
            return Err(Error::Unavailable { reason: reason.to_owned() });
        }
        Ok(())
    }

    pub(crate) fn admit(&self, commands: usize, bytes: usize) -> Result<Admission, Error> {
        self.takes_appends()?;
        match self.inner.entries.admit(commands, bytes) {
            Ok(admission) => Ok(admission),
            Err(error) => {
                if let entry::Error::Overloaded { .. } = error {
                    self.inner.reached.note("limits.inflight_bytes", "appends are shed, their clients come back");
                }
                Err(not_submitted(error))
            }
        }
    }

    /// A new attempt of so many commands; their outcomes are kept until it is dropped, or the deadline passes.
    pub(crate) fn begin(&self, commands: usize, deadline: Instant) -> Result<Attempt, Error> {
        self.inner.entries.begin(commands, deadline).map_err(not_submitted)
    }

    pub(crate) async fn submit(
        &self,
        attempt: &Attempt,
        command: Command,
        admission: Admission,
        deadline: Instant,
    ) -> Result<Done, Failure> {
        let done = self.inner.entries.submit(attempt, command, admission, deadline).await;
        let done = done.map_err(|error| self.failure(error))?;
        match done.outcome {
            Outcome::Appended(_)
            | Outcome::Staged
            | Outcome::Loaded { .. }
            | Outcome::Transacted(_)
            | Outcome::Fenced(_) => Ok(done),
            Outcome::Refused(refusal) => Err(refused(refusal, || self.inner.entries.id_of(attempt))),
        }
    }

    /// What a submission without an outcome is to its caller.
    pub(crate) fn failure(&self, error: entry::Error) -> Failure {
        match error {
            entry::Error::Unknown(attempt) => Failure::Unknown(attempt),
            // Both with the claim given up: it was handed to nobody, and will not be.
            error @ (entry::Error::Overloaded { .. } | entry::Error::TooManyAttempts { .. }) => {
                Failure::Refused(not_submitted(error))
            }
            entry::Error::Unavailable => Failure::Refused(self.serving().err().unwrap_or_else(|| self.no_leader())),
        }
    }

    /// The answer to an append that is in the ledger; none when the entry that it repeats cannot be read, which
    /// takes nothing back.
    async fn appended(&self, command: &Append, done: Done, deadline: Instant) -> Option<Appended> {
        let Outcome::Appended(place) = done.outcome else { unreachable!("an append has an append's outcome") };
        let entry = if place.deduplicated {
            let context = &command.entry.context_id;
            // Not there yet, where storage restarted since; what is lost it says itself.
            let first = || self.inner.storage.entry(context, place.sequence)?.ok_or(storage::Error::Unavailable);
            self.stored(deadline, first).await.ok()?
        } else {
            let NewEntry { context_id, key, payload, metadata } = command.entry.clone();
            Entry {
                context_id,
                key,
                payload,
                metadata,
                id: command.id,
                sequence: place.sequence,
                position: place.position,
                appended_at_ns: command.appended_at_ns,
                lamport: place.lamport,
            }
        };
        Some(Appended { entry, deduplicated: place.deduplicated, term: done.term })
    }

    /// Waits until this node has applied all that was acknowledged anywhere before this call.
    pub(crate) async fn confirm(&self, deadline: Instant) -> Result<LogIndex, Error> {
        self.serving()?;
        let patience = Instant::now() + self.inner.election * self.inner.calls.read_elections;
        let mut stopped = self.inner.stopped.subscribe();
        let index = tokio::select! {
            biased;
            index = self.inner.replication.read_index(deadline.min(patience)) => index,
            _ = stopped.wait_for(|stopped| *stopped) => return Err(Error::Stopped),
        };
        index.map_err(|error| match error {
            ReadError::Unavailable => self.no_leader(),
            ReadError::Outdated(outdated) => Error::Outdated(outdated),
            ReadError::Overloaded => {
                self.inner.reached.note("linearizable reads that wait", "reads are shed, their clients come back");
                Error::Overloaded { retry_after: Duration::from_millis(100) }
            }
        })
    }

    /// Reads from storage, waiting while it restarts.
    pub(crate) async fn stored<T>(
        &self,
        deadline: Instant,
        mut read: impl FnMut() -> Result<T, storage::Error>,
    ) -> Result<T, Error> {
        loop {
            if let Some(value) = self.settled(deadline, read()).await? {
                return Ok(value);
            }
        }
    }

    /// What a read from storage gave; none after a pause where storage restarts and there is time to ask again.
    pub(crate) async fn settled<T>(
        &self,
        deadline: Instant,
        read: Result<T, storage::Error>,
    ) -> Result<Option<T>, Error> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(storage::Error::Unavailable) if *self.inner.stopped.borrow() => Err(Error::Stopped),
            Err(storage::Error::Unavailable) if Instant::now() < deadline => {
                tokio::time::sleep(self.inner.calls.retry_pause).await;
                Ok(None)
            }
            Err(storage::Error::Unavailable) => Err(Error::ReadTimeout),
            Err(error) => Err(stored_error(error)),
        }
    }

    fn no_leader(&self) -> Error {
        let view = self.inner.replication.view().borrow().clone();
        let reason = match (view.silent, view.missing.is_empty(), view.leader) {
            (true, ..) => "this node's storage is fenced, see its alarms; ask another node".to_owned(),
            (_, false, _) => format!("{}; start them, look at their peers and the network", not_formed(&view.missing)),
            (_, _, None) => "no leader was found in time; try again or ask another node".to_owned(),
            (_, _, Some(leader)) => format!("leader {leader} did not answer in time; try again or ask another node"),
        };
        Error::Unavailable { reason }
    }
}

/// What a submission ends in, besides success.
pub(crate) enum Failure {
    /// Nothing was written: apply says so, or it was never handed over. See [`Error::written`].
    Refused(Error),
    /// A load met a context that had grown meanwhile. Nothing was written.
    Moved,
    /// It may have been written.
    Unknown(AttemptId),
}

pub(crate) fn deadline(given: Option<Duration>) -> Instant {
    Instant::now() + given.unwrap_or(DEADLINE_DEFAULT)
}

pub(crate) fn unknown(attempt: AttemptId, command: Append) -> Error {
    let Append { entry, idempotency_key, .. } = command;
    Error::Unknown(Box::new(Unknown { attempt, entry, idempotency_key }))
}

pub(crate) fn limit(error: LimitError) -> Error {
    match error {
        LimitError::PayloadTooLarge { bytes, limit } => Error::PayloadTooLarge { bytes, limit },
        other => Error::InvalidArgument(other.to_string()),
    }
}

/// Why a command was not even submitted.
pub(crate) fn not_submitted(error: entry::Error) -> Error {
    match error {
        entry::Error::Overloaded { retry_after } => Error::Overloaded { retry_after },
        entry::Error::TooManyAttempts { limit } => Error::TooManyAttempts { limit, retry_after: RETRY_AFTER },
        other => Error::Unavailable { reason: other.to_string() },
    }
}

/// What apply's refusal of an attempt is to its caller.
pub(crate) fn refused(refusal: Refusal, attempt: impl FnOnce() -> AttemptId) -> Failure {
    Failure::Refused(match refusal {
        Refusal::ExpectedSequence { actual } => Error::ExpectedSequence { actual },
        Refusal::IdempotencyMismatch { sequence } => Error::IdempotencyMismatch { sequence },
        Refusal::ContextExists { latest } => Error::ContextExists { latest },
        Refusal::LoadDiverges { latest } => Error::LoadDiverges { latest },
        Refusal::LoadIncomplete => Error::Unavailable {
            reason: "the load's parts are not all in the log; nothing was loaded, load the snapshot again".to_owned(),
        },
        Refusal::ChunkInvalid => Error::Unavailable {
            reason: "a chunk of the load came out as another one; nothing was loaded, load the snapshot again"
                .to_owned(),
        },
        Refusal::NotReached => {
            Error::Unavailable { reason: "an append before it was refused; nothing of it was written".to_owned() }
        }
        Refusal::LoadMoved { .. } => return Failure::Moved,
        Refusal::Condition { nth, latest, epoch } => Error::Condition { nth: nth as usize, latest, fence_epoch: epoch },
        Refusal::StaleFence { current } => Error::StaleFence { current },
        Refusal::TransactionMismatch { first } => Error::TransactionMismatch { first },
        // It is refused now; what was handed over before may have been applied, and its outcome forgotten.
        Refusal::Superseded => return Failure::Unknown(attempt()),
    })
}

/// The mistake that must not be made: what stands in the ledger, answered as if it did not.
fn refused_after_write(appended: &Appended) -> bool {
    planted::is(Bug::RefusedAfterWrite) && appended.entry.sequence.get().is_multiple_of(8)
}

pub(crate) fn stored_error(error: storage::Error) -> Error {
    match error {
        storage::Error::DataLoss(what) => Error::DataLoss(what),
        storage::Error::Outdated(outdated) => Error::Outdated(outdated),
        other => Error::Unavailable { reason: other.to_string() },
    }
}

/// What an entry weighs in an answer: each has the name of its context in memory.
pub(crate) fn size(entry: &Entry) -> usize {
    entry.content_bytes() + size_of::<Entry>()
}
