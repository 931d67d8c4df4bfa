//! Admission, batching, and exactly-once submission of commands.
//!
//! Owns the open batch, the batches in flight and who waits for them. Does not order (that is `replication`),
//! does not decide outcomes (that is apply), and keeps nothing that a crash may not take: the callers keep their
//! requests and submit them again under the same attempt, and `origin` keeps the attempts.
//!
//! The actor has one phase; what moves is each batch, see `batcher`.
//!
//! Invariants: 4 (an attempt is applied once), and "once handed over, the only failure is *unknown*", held by
//! the claim of `origin`: either the caller gives a request up, or the actor hands it over, never both.

mod actor;
mod batcher;
mod origin;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{
    AttemptId, Boot, Command, Condition, NewEntry, NodeId, Outcome, Refusal, StagedEntry, Term, TransactEntry,
};
use converge_supervisors::ractor::ActorId;
use converge_supervisors::{CallError, ChildSpec, Service, Shutdown};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use self::actor::EntryServer;
pub use self::batcher::Bounds;
use self::origin::{Abandon, Claim, Origin};
pub use self::origin::{Attempt, Staging};
use crate::distribution::Distribution;
use crate::replication::{Replication, View};
use crate::storage::{AppliedBatch, Random, Storage};

/// What one incarnation is made of.
#[derive(Clone)]
pub struct Arguments {
    /// Asked which boot this is.
    pub storage: Storage,
    /// Takes batches where this node leads, and knows who does otherwise.
    pub replication: Replication,
    /// The way to the leader.
    pub distribution: Distribution,
    /// A batch without an answer is handed over again after this.
    pub patience: Duration,
    /// Chance: tells the tokens of one incarnation from those of others.
    pub random: Random,
}

/// What a request is charged besides its bytes, so that a flood of empty ones is bounded, too.
const REQUEST_OVERHEAD_BYTES: usize = 1024;
/// Of the credits, requests that wait for theirs leave one in so many to those that do not wait.
const LINE_LEAVES_PART: usize = 4;
/// What an overloaded node tells its clients.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Handle on the entry actor; valid before it starts and across restarts.
#[derive(Clone)]
pub struct Entries {
    service: Service<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    id: NodeId,
    bounds: Bounds,
    boot: OnceLock<Boot>,
    origin: Arc<Origin>,
    credits: Arc<Semaphore>,
    credits_max: usize,
    /// Those of them that requests may have that wait for theirs.
    line: Arc<Semaphore>,
    line_max: usize,
    /// A later boot of this node is in the log: its appends are not taken, and none of them has an outcome.
    superseded: AtomicBool,
    /// The node has ended: no actor comes any more.
    ended: watch::Sender<bool>,
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Error {
    /// Too much is in flight on this node. Nothing was written.
    #[error("too many bytes are in flight on this node: try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// When it may be better.
        retry_after: Duration,
    },
    /// As many attempts as may began since the oldest in flight. Nothing was written.
    #[error("{limit} appends began since the oldest that has not ended: poll or drop futures that are kept")]
    TooManyAttempts {
        /// How many may.
        limit: u64,
    },
    /// It was handed to nobody within its deadline. Nothing was written.
    #[error("no leader took it within its deadline")]
    Unavailable,
    /// It was handed over and did not show up within its deadline. It may have been written.
    #[error("it was handed over, but did not show up within its deadline")]
    Unknown(AttemptId),
}

/// What became of a command.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Apply's verdict.
    pub outcome: Outcome,
    /// The term of the log entry that carried it.
    pub term: Term,
}

/// What became of the commands of one attempt, in their order.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Of the whole batch that carried them.
    outcomes: Arc<Vec<(u64, Outcome)>>,
    own: Range<usize>,
    /// The term of the log entry that carried them.
    pub term: Term,
}

impl Settled {
    /// Apply's verdicts.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.outcomes[self.own.clone()].iter().map(|(_, outcome)| *outcome)
    }
}

/// How much one group may hold, so that it fits into one batch beside others.
#[derive(Debug, Clone, Copy)]
pub struct GroupBounds {
    /// At most so many commands.
    pub commands_max: usize,
    /// At most so many bytes, as [`append_weight`] counts them, or one command.
    pub bytes_max: usize,
}

/// A group holds no more commands than this, whatever a batch holds: what it is made of waits in memory for its room.
const GROUP_COMMANDS_MAX: usize = 1024;

/// Credits for one request, taken before anything else is done with it.
#[derive(Debug, Clone)]
pub struct Admission(#[allow(dead_code, reason = "held for its drop")] Arc<Credits>);

/// And, of one that waited, its part of what those may have.
type Credits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

pub(crate) enum Message {
    Submit(Box<Submission>, oneshot::Sender<Settled>),
    Applied(AppliedBatch),
    Led(View),
    NotProposed { by: NodeId, token: u64, hint: Option<NodeId> },
    LostLink(NodeId),
    Look,
}

pub(crate) struct Submission {
    /// With their weights. Those of one attempt go into one batch.
    commands: Vec<(Command, usize)>,
    claim: Arc<Claim>,
    admission: Admission,
}

impl Entries {
    /// A handle whose actor has not started; at most `inflight_bytes` are admitted at once.
    #[must_use]
    pub fn new(id: NodeId, inflight_bytes: usize, bounds: Bounds) -> Entries {
        let credits_max = inflight_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let shared = Shared {
            id,
            bounds,
            boot: OnceLock::new(),
            origin: Arc::default(),
            credits: Arc::new(Semaphore::new(credits_max)),
            credits_max,
            line: Arc::new(Semaphore::new(credits_max - credits_max / LINE_LEAVES_PART)),
            line_max: credits_max - credits_max / LINE_LEAVES_PART,
            superseded: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        };
        Entries { service: Service::new("entry"), shared: Arc::new(shared) }
    }

    /// How to start the actor under a supervisor.
    pub fn child_spec(&self, args: Arguments) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::service("entry", &self.service, move || (EntryServer { shared: shared.clone() }, args.clone()))
            .shutdown(Shutdown::Timeout(self.shared.bounds.shutdown))
    }

    /// Takes credits for a request of so many commands and bytes, all of it that is kept counted.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much is in flight.
    pub fn admit(&self, commands: usize, bytes: usize) -> Result<Admission, Error> {
        let charge = Self::charge(commands, bytes, self.shared.credits_max);
        let permit = self.shared.credits.clone().try_acquire_many_owned(charge);
        permit.map(|p| Admission(Arc::new((p, None)))).map_err(|_| Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// The same for a caller that waits for them, in the order of asking. While the first of the line waits, what others give
    /// back is its own, and [`Entries::admit`] finds none. A quarter is for those that do not wait: so neither keeps the
    /// other out.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the deadline passes before that, or the node has ended.
    pub async fn admitted(&self, commands: usize, bytes: usize, deadline: Instant) -> Result<Admission, Error> {
        let mut ended = self.shared.ended.subscribe();
        let (credits, line) = (self.shared.credits.clone(), self.shared.line.clone());
        let acquired = async {
            let line = line.acquire_many_owned(Self::charge(commands, bytes, self.shared.line_max)).await.ok()?;
            let charge = Self::charge(commands, bytes, self.shared.credits_max);
            Some((credits.acquire_many_owned(charge).await.ok()?, Some(line)))
        };
        let acquired = tokio::select! {
            biased;
            acquired = acquired => acquired,
            _ = ended.wait_for(|ended| *ended) => None,
            () = tokio::time::sleep_until(deadline) => None,
        };
        acquired.map(|c| Admission(Arc::new(c))).ok_or(Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// A request larger than all there is passes alone.
    fn charge(commands: usize, bytes: usize, max: usize) -> u32 {
        u32::try_from((bytes + commands * REQUEST_OVERHEAD_BYTES).min(max)).expect("credits fit")
    }

    /// How much one group may hold.
    #[must_use]
    pub fn group_bounds(&self) -> GroupBounds {
        let Bounds { batch_bytes_max, batch_commands_max, attempts_max, .. } = self.shared.bounds;
        let attempts_max = usize::try_from(attempts_max / 2).unwrap_or(usize::MAX).max(1);
        let commands_max = GROUP_COMMANDS_MAX.min(batch_commands_max).min(attempts_max);
        GroupBounds { commands_max, bytes_max: batch_bytes_max / 2 }
    }

    /// A new attempt of a caller that waits until `deadline`, with a counter for each of so many commands. Their outcomes,
    /// and those of all that begin after it, are kept on every node until it is dropped or its deadline passes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`].
    pub fn begin(&self, commands: usize, deadline: Instant) -> Result<Attempt, Error> {
        let limit = self.shared.bounds.attempts_max;
        self.shared.origin.begin(commands as u64, deadline, limit).ok_or(Error::TooManyAttempts { limit })
    }

    /// A new staging. What is staged under it is kept on every node until it is dropped.
    #[must_use]
    pub fn begin_staging(&self) -> Staging {
        self.shared.origin.begin_staging()
    }

    /// No attempt may begin until the oldest ends.
    #[must_use]
    pub fn held_up(&self) -> bool {
        self.shared.origin.held_up()
    }

    /// The log has a later boot of this node, and with it no append of this one is taken: the directory was put back from
    /// an older copy. Started again, the node counts its boots from that one on.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.shared.superseded.load(Ordering::Relaxed)
    }

    /// Requests for which a caller waits.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.origin.in_flight()
    }

    /// Submits a command, which carries `attempt`'s counter, until it is applied here or the deadline passes.
    /// Survives deaths of the actor: the request is submitted again under the same attempt.
    ///
    /// # Errors
    /// [`Error`], by whether anything may have been written.
    pub async fn submit(
        &self,
        attempt: &Attempt,
        command: Command,
        admission: Admission,
        deadline: Instant,
    ) -> Result<Done, Error> {
        let settled = self.submit_group(attempt, vec![command], admission, deadline).await?;
        let outcome = settled.outcomes().next().expect("a command has an outcome");
        Ok(Done { outcome, term: settled.term })
    }

    /// Submits a group as one request: commands that carry `attempt`'s counters in order, within [`GroupBounds`], each
    /// but the first following the one before it. They go into one batch, so that what comes of them is decided at once.
    ///
    /// # Errors
    /// [`Error`], by whether anything may have been written.
    pub async fn submit_group(
        &self,
        attempt: &Attempt,
        commands: Vec<Command>,
        admission: Admission,
        deadline: Instant,
    ) -> Result<Settled, Error> {
        assert!(commands.iter().map(Command::counter).eq(attempt.counters()), "commands carry their attempt");
        assert!(commands.iter().skip(1).all(Command::follows), "a group is not split");
        let weighed = |command: Command| {
            let bytes = weight(&command);
            (command, bytes)
        };
        let commands: Vec<_> = commands.into_iter().map(weighed).collect();
        let claim = Arc::new(Claim::default());
        let _abandon = Abandon(&claim);
        let mut deaths = 0;
        loop {
            let request = Submission { commands: commands.clone(), claim: claim.clone(), admission: admission.clone() };
            let asked = self.holder(deadline).await;
            match self.ask(Box::new(request), deadline).await {
                // A newer boot of this node has closed the attempt, or the mark that passes it at its deadline.
                Ok(settled) if settled.outcomes().any(|outcome| outcome == Outcome::Refused(Refusal::Superseded)) => {
                    if Instant::now() < deadline {
                        self.say_superseded();
                    }
                    return Err(self.unknown(attempt));
                }
                Ok(settled) => return Ok(settled),
                Err(CallError::NotSent | CallError::Deadline) => break,
                Err(CallError::Unknown) => deaths += 1,
            }
            if deaths >= self.shared.bounds.deaths_max {
                break;
            }
            // Its state goes a moment before it is out of its slot: a request for it would die with it. Where another one
            // took the request than was there before, one death may count as two.
            if let Some(asked) = asked {
                self.service.left(asked, deadline).await;
            }
        }
        Err(self.give_up(attempt, &claim))
    }

    /// The actor that is there, or the next one, so that its death is told from that of another; none by the deadline, or
    /// once the node has ended.
    async fn holder(&self, deadline: Instant) -> Option<ActorId> {
        let mut ended = self.shared.ended.subscribe();
        tokio::select! {
            biased;
            actor = self.service.wait(deadline) => actor.map(|actor| actor.get_id()),
            _ = ended.wait_for(|ended| *ended) => None,
        }
    }

    /// Asks the actor, or the next one; nobody any more once the node has ended.
    async fn ask(&self, request: Box<Submission>, deadline: Instant) -> Result<Settled, CallError> {
        let mut ended = self.shared.ended.subscribe();
        tokio::select! {
            biased;
            answer = self.service.call(|reply| Message::Submit(request, reply), deadline) => answer,
            _ = ended.wait_for(|ended| *ended) => Err(CallError::NotSent),
        }
    }

    /// The node has ended: whoever waits for the actor waits in vain.
    pub fn end(&self) {
        self.shared.ended.send_replace(true);
    }

    /// Refused only with the claim in hand: then no incarnation of the actor handed the request over, and none will,
    /// for handing it over takes the claim first.
    fn give_up(&self, attempt: &Attempt, claim: &Claim) -> Error {
        if claim.abandon() || planted::is(Bug::UnknownAsRefused) { Error::Unavailable } else { self.unknown(attempt) }
    }

    fn say_superseded(&self) {
        if !self.shared.superseded.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the log has a later start of this node than this one, so that it takes no append of it: the directory was put back from an older copy; start the node again once it has caught up"
            );
        }
    }

    fn unknown(&self, attempt: &Attempt) -> Error {
        Error::Unknown(self.id_of(attempt))
    }

    /// The attempt's name over all nodes and boots.
    #[must_use]
    pub fn id_of(&self, attempt: &Attempt) -> AttemptId {
        let boot = self.shared.boot.get().copied().unwrap_or_default();
        AttemptId { node: self.shared.id, boot, counter: attempt.counter() }
    }

    /// A batch was applied. Batches of other nodes are ignored.
    pub fn applied(&self, batch: &AppliedBatch) {
        if batch.origin.is_some_and(|(node, boot)| node == self.shared.id && self.shared.boot.get() == Some(&boot)) {
            let _ = self.service.try_cast(Message::Applied(batch.clone()));
        }
    }

    /// A peer refused a forwarded batch.
    pub fn not_proposed(&self, by: NodeId, token: u64, hint: Option<NodeId>) {
        let _ = self.service.try_cast(Message::NotProposed { by, token, hint });
    }

    /// The forward lane to a peer broke, or is up again.
    pub fn lost_link(&self, peer: NodeId) {
        let _ = self.service.try_cast(Message::LostLink(peer));
    }
}

/// What an append weighs in a batch.
#[must_use]
pub fn append_weight(entry: &NewEntry, idempotency_key: Option<&str>) -> usize {
    64 + entry.content_bytes() + idempotency_key.map_or(0, str::len)
}

/// What a command weighs in a batch.
fn weight(command: &Command) -> usize {
    match command {
        Command::Append(a) => append_weight(&a.entry, a.idempotency_key.as_deref()),
        Command::Stage(s) => 192 + s.context_id.len() + s.entries.iter().map(StagedEntry::bytes).sum::<usize>(),
        Command::Load(l) => l.context_id.len() + 128,
        Command::Transact(t) => transaction_weight(&t.conditions, &t.entries, t.idempotency_key.as_deref()),
        Command::Fence(f) => f.context_id.len() + 64,
    }
}

/// What a transaction weighs in a batch, and not less than its bytes there.
#[must_use]
pub fn transaction_weight(conditions: &[Condition], entries: &[TransactEntry], idempotency_key: Option<&str>) -> usize {
    let conditions = conditions.iter().map(|condition| 32 + condition.context_id.len());
    let entries = entries.iter().map(|part| append_weight(&part.entry, None));
    64 + idempotency_key.map_or(0, str::len) + conditions.sum::<usize>() + entries.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_credits_has_them_in_turn_and_before_all_who_ask_later() {
        let entries = Entries::new(NodeId(1), 10 * REQUEST_OVERHEAD_BYTES, Bounds::default());
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut others: Vec<_> = std::iter::from_fn(|| entries.admit(1, 0).ok()).collect();
        assert_eq!(others.len(), 10);
        let in_line = |commands: usize| {
            let entries = entries.clone();
            tokio::spawn(async move { entries.admitted(commands, 0, deadline).await })
        };
        let (group, next) = (in_line(4), in_line(1));
        tokio::task::yield_now().await;
        for _ in 0..3 {
            others.pop();
            tokio::task::yield_now().await;
            assert!(entries.admit(1, 0).is_err(), "what is given back is of the one that waits");
        }
        assert!(!group.is_finished() && !next.is_finished());
        others.pop();
        let admitted = group.await.unwrap().unwrap();
        assert!(!next.is_finished(), "it came later");
        others.pop();
        let next = next.await.unwrap().unwrap();
        assert_eq!(in_line(1).await.unwrap().unwrap_err(), Error::Overloaded { retry_after: RETRY_AFTER });
        assert!(Instant::now() >= deadline && entries.admit(1, 0).is_err());
        drop((admitted, next));
        assert!(entries.admit(5, 0).is_ok(), "who gave up keeps nothing");
        let late = in_line(10);
        tokio::task::yield_now().await;
        entries.end();
        assert!(late.await.unwrap().is_err(), "nobody waits for a node that has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_leave_a_quarter_to_those_that_do_not() {
        let entries = Entries::new(NodeId(1), 12 * REQUEST_OVERHEAD_BYTES, Bounds::default());
        let deadline = Instant::now() + Duration::from_secs(10);
        let groups = entries.admitted(9, 0, deadline).await.unwrap();
        let waits = tokio::spawn({
            let entries = entries.clone();
            async move { entries.admitted(100, 0, deadline).await }
        });
        tokio::task::yield_now().await;
        let others: Vec<_> = std::iter::from_fn(|| entries.admit(1, 0).ok()).collect();
        assert_eq!(others.len(), 3, "a line keeps nobody out");
        drop(groups);
        tokio::task::yield_now().await;
        assert!(entries.admit(1, 0).is_err() && !waits.is_finished(), "now it is its turn, and it takes all");
        drop(others);
        waits.await.unwrap().unwrap();
    }
}
