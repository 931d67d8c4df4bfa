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

mod batcher;
mod origin;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{AttemptId, Boot, Command, NodeId, Outcome, Refusal, StagedEntry, Term};
use converge_supervisors::ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use converge_supervisors::{CallError, ChildSpec, Service, Shutdown};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::batcher::Bounds;
use self::batcher::{Batcher, Effect};
use self::origin::{Abandon, Claim, Origin};
pub use self::origin::{Attempt, Staging};
use crate::distribution::{Distribution, Lane};
use crate::replication::wire::Frame;
use crate::replication::{Replication, View};
use crate::storage::{self, AppliedBatch, Random, Storage};

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

/// Credits for one request, taken before anything else is done with it.
#[derive(Debug, Clone)]
pub struct Admission(#[allow(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

pub(crate) enum Message {
    Submit(Box<Submission>, oneshot::Sender<Done>),
    Applied(AppliedBatch),
    Led(View),
    NotProposed { by: NodeId, token: u64, hint: Option<NodeId> },
    LostLink(NodeId),
    Look,
}

pub(crate) struct Submission {
    command: Command,
    bytes: usize,
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

    /// Takes credits for a request of so many bytes, all of it that is kept counted.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much is in flight.
    pub fn admit(&self, bytes: usize) -> Result<Admission, Error> {
        // A request larger than all credits passes alone.
        let charge = (bytes + REQUEST_OVERHEAD_BYTES).min(self.shared.credits_max);
        let charge = u32::try_from(charge).expect("credits fit");
        let permit = self.shared.credits.clone().try_acquire_many_owned(charge);
        permit.map(|p| Admission(Arc::new(p))).map_err(|_| Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// A new attempt of a caller that waits until `deadline`. Its outcome, and those of all that begin after it, are
    /// kept on every node until it is dropped or its deadline passes.
    pub fn begin(&self, deadline: Instant) -> Result<Attempt, Error> {
        let limit = self.shared.bounds.attempts_max;
        self.shared.origin.begin(deadline, limit).ok_or(Error::TooManyAttempts { limit })
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
        assert_eq!(command.counter(), attempt.counter(), "a command carries its attempt");
        let claim = Arc::new(Claim::default());
        let _abandon = Abandon(&claim);
        let bytes = weight(&command);
        let mut deaths = 0;
        loop {
            let request =
                Submission { command: command.clone(), bytes, claim: claim.clone(), admission: admission.clone() };
            let asked = self.holder(deadline).await;
            match self.ask(Box::new(request), deadline).await {
                // A newer boot of this node has closed the attempt, or the mark that passes it at its deadline.
                Ok(Done { outcome: Outcome::Refused(Refusal::Superseded), .. }) => {
                    if Instant::now() < deadline {
                        self.say_superseded();
                    }
                    return Err(self.unknown(attempt));
                }
                Ok(done) => return Ok(done),
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
    async fn ask(&self, request: Box<Submission>, deadline: Instant) -> Result<Done, CallError> {
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

/// What a command weighs in a batch.
fn weight(command: &Command) -> usize {
    64 + match command {
        Command::Append(a) => a.entry.content_bytes() + a.idempotency_key.as_ref().map_or(0, String::len),
        Command::Stage(s) => 128 + s.context_id.len() + s.entries.iter().map(StagedEntry::bytes).sum::<usize>(),
        Command::Load(l) => l.context_id.len() + 64,
    }
}

/// The actor.
struct EntryServer {
    shared: Arc<Shared>,
}

pub(crate) struct State {
    args: Arguments,
    shared: Arc<Shared>,
    myself: ActorRef<Message>,
    batcher: Batcher,
    /// Requests by attempt, from submission to outcome.
    waiting: BTreeMap<u64, Waiting>,
    /// Tokens are unique to an incarnation, so that a late refusal to a former one hits nothing.
    token_base: u64,
    view: View,
    started: Instant,
    _tasks: JoinSet<()>,
}

struct Waiting {
    reply: oneshot::Sender<Done>,
    claim: Arc<Claim>,
    _admission: Admission,
}

impl Actor for EntryServer {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        // Not `recover`: that applies what is committed, which is replication's to order once it runs.
        let storage = args.storage.status();
        let boot = match (storage.boot, storage.phase) {
            // Without storage there is no leader to be known here, so nothing will be handed over.
            (_, storage::Phase::Fenced { .. }) => Boot(0),
            (Some(boot), _) => *self.shared.boot.get_or_init(|| boot),
            (None, _) => return Err(storage::Error::Unavailable.into()),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(args.replication.clone(), myself.clone()));
        tasks.spawn(look(myself.clone(), self.shared.bounds.look_every));
        Ok(State {
            batcher: Batcher::new(self.shared.id, boot, args.patience, self.shared.bounds),
            waiting: BTreeMap::new(),
            token_base: (args.random)() & !u64::from(u32::MAX),
            view: View::default(),
            started: Instant::now(),
            shared: self.shared.clone(),
            _tasks: tasks,
            args,
            myself,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Submit(request, reply) => state.submit(*request, reply),
            Message::Applied(batch) => state.applied(&batch),
            Message::Led(view) => state.led(view),
            Message::NotProposed { by, token, hint } => {
                state.batcher.not_proposed(by, token ^ state.token_base, hint);
            }
            Message::LostLink(peer) => state.batcher.lost_link(peer),
            Message::Look => {
                let waiting = &mut state.waiting;
                waiting.retain(|_, waiting| !waiting.reply.is_closed());
                state.batcher.expire(state.started.elapsed(), |counter| waiting.contains_key(&counter));
            }
        }
        state.run();
        Ok(())
    }
}

impl State {
    fn submit(&mut self, request: Submission, reply: oneshot::Sender<Done>) {
        let Submission { command, bytes, claim, admission } = request;
        self.waiting.insert(command.counter(), Waiting { reply, claim, _admission: admission });
        self.batcher.push(command, bytes);
    }

    fn applied(&mut self, batch: &AppliedBatch) {
        for (counter, outcome) in batch.outcomes.iter() {
            if let Some(waiting) = self.waiting.remove(counter) {
                let _ = waiting.reply.send(Done { outcome: *outcome, term: batch.term });
            }
        }
        self.batcher.resolved(self.started.elapsed(), batch.outcomes.iter().map(|(counter, _)| *counter));
    }

    fn led(&mut self, view: View) {
        if (view.leader, view.term) != (self.view.leader, self.view.term) {
            self.batcher.led_by(view.leader);
        }
        self.view = view;
    }

    fn run(&mut self) {
        let waiting = &self.waiting;
        let claim = |counter: u64| waiting.get(&counter).is_some_and(|w| !w.reply.is_closed() && w.claim.hand_over());
        let effects = self.batcher.run(self.started.elapsed(), || self.shared.origin.marks(), claim);
        effects.into_iter().for_each(|effect| self.execute(effect));
    }

    /// What cannot be handed over is taken as lost: it is handed over again after its patience, or as soon as the
    /// link is back.
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { token, data } => {
                let token = token ^ self.token_base;
                let myself = self.myself.clone();
                let by = self.shared.id;
                let refused = Box::new(move |hint| drop(myself.cast(Message::NotProposed { by, token, hint })));
                let _ = self.args.replication.propose(data, refused);
            }
            Effect::Forward { to, token, data } => {
                let token = token ^ self.token_base;
                let frame = Frame::Propose { token, data }.encode(self.args.replication.tag());
                let _ = self.args.distribution.send(to, Lane::Forward, frame);
            }
        }
    }
}

/// Tells the actor who leads, now and at every change.
async fn follow(replication: Replication, myself: ActorRef<Message>) {
    let mut view = replication.view();
    loop {
        let now = view.borrow_and_update().clone();
        if myself.cast(Message::Led(now)).is_err() || view.changed().await.is_err() {
            return;
        }
    }
}

async fn look(myself: ActorRef<Message>, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if myself.cast(Message::Look).is_err() {
            return;
        }
    }
}
