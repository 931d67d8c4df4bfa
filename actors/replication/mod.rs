//! The Raft node as an actor: it orders, replicates and commits, and nothing else.
//!
//! Owns the `raft` crate's state machine (`core`); no other module names that crate. Does not store (that
//! is `storage`), does not know entries (a batch is bytes here), and answers no client.
//!
//! A restart is a real restart: `pre_start` asks storage for what is durable and starts a Raft node from that.
//!
//! ```text
//!             ┌──────────┐  genesis synced   ┌─────────┐  storage fenced, log tail lost
//!  recover ──▶│ Forming  │──────────────────▶│ Running │──────────────────────────────┐
//!     │       └────┬─────┘                   └─────────┘                              ▼
//!     │            │ listed with another store  ▲                               ┌──────────┐
//!     │            ▼                            │                               │  Silent  │
//!     │        ┌────────┐   genesis on disk     │        genesis names others   └──────────┘
//!     └───────▶│ Wrong  │◀──────────────────────┴──── (configuration differs) ──▶ Wrong
//!              └────────┘
//! ```
//! `Silent` and `Wrong` neither vote nor acknowledge. `Wrong` is reported through [`Args::fatal`] and the node
//! stops; `Silent` stays, so that status and alarms can say why.
//!
//! Touches invariants S1, S2, S8 and 6, 8, 9: how is said at `core` and `Core::persisted`.

mod core;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod genesis;
mod history;
mod inbound;
mod judge;
#[cfg(any(test, feature = "fuzzing"))]
mod live;
mod log;
mod outage;
mod reads;
pub mod said;
mod shell;
#[cfg(test)]
mod simulation;
mod start;
mod view;
mod voters;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Batch, Boot, ClusterId, LogIndex, NodeId, StoreId};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Service, Shutdown};
use raft::StateRole;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::core::Bounds;
use self::core::Core;
use self::genesis::Forming;
use self::log::Log;
use self::outage::{Outage, Say, Trouble, list};
use self::reads::Reads;
use self::shell::Shell;
use self::view::Shared;
pub use self::view::{Role, View};
use self::voters::Voters;
use crate::distribution::{Distribution, Inbound, Lane, LinkEvent};
use crate::storage::{self, Genesis, Random, Recovered, Storage};

/// A node without a leader for longer than so many election time-outs says so: by then another should have been elected.
pub const NO_LEADER_ELECTIONS: u32 = 2;

/// Reports that this node must not run with this directory and configuration. An error where the node still starts: the
/// start is to end with it, instead of going on to an end that is known.
pub type Fatal = Arc<dyn Fn(String) -> Result<(), String> + Send + Sync>;
/// Called once when a proposal was not taken; it was written nowhere.
pub type Refused = Box<dyn FnOnce(Option<NodeId>) + Send>;

/// A leader without room gives up its office once in so many election time-outs.
const OFFICE_CYCLE_ELECTIONS: u32 = 30;

/// What one incarnation is made of.
#[derive(Clone)]
pub struct Args {
    /// The store of the log; recovered from at every start.
    pub storage: Storage,
    /// The links to the other voters.
    pub distribution: Distribution,
    /// This node.
    pub id: NodeId,
    /// All voters, this node included, as configured.
    pub voters: Vec<NodeId>,
    /// The cluster as configured.
    pub cluster_id: ClusterId,
    /// Interval of a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest election time-out; a node waits between this and twice this.
    pub election: Duration,
    /// Chance: seeds the election time-outs of each incarnation, and tells its reads from those of others.
    pub random: Random,
    /// What one step and one peer may take.
    pub bounds: Bounds,
    /// Where a reason goes for which this node must stop.
    pub fatal: Fatal,
}

/// Handle on the replication actor; valid before it starts and across restarts.
#[derive(Clone)]
pub struct Replication {
    service: Service<Message>,
    shared: Arc<Shared>,
}

/// Why a read index could not be had.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// No majority confirmed it within the deadline.
    #[error("no majority confirmed the read within its deadline")]
    Unavailable,
    /// Too many reads wait already.
    #[error("too many linearizable reads are waiting")]
    Overloaded,
}

/// What the actor is told. Private: callers use [`Replication`].
pub(crate) enum Message {
    Tick,
    Frame(inbound::Received),
    Link(LinkEvent),
    /// An append to this peer was shed.
    Shed(NodeId),
    Propose {
        data: Bytes,
        refused: Refused,
    },
    Read {
        reply: ReadReply,
    },
    Persisted {
        number: u64,
        result: Result<(), storage::Error>,
    },
    Applied(LogIndex),
}

type ReadReply = oneshot::Sender<Result<LogIndex, ReadError>>;

impl Default for Replication {
    fn default() -> Self {
        Self::new()
    }
}

impl Replication {
    /// A handle whose actor has not started.
    #[must_use]
    pub fn new() -> Replication {
        Replication { service: Service::new("replication"), shared: Arc::new(Shared::default()) }
    }

    /// How to start the actor under a supervisor.
    pub fn child_spec(&self, args: Args) -> ChildSpec {
        let (shared, shutdown) = (self.shared.clone(), args.bounds.shutdown);
        ChildSpec::service("replication", &self.service, move || (Raft { shared: shared.clone() }, args.clone()))
            .shutdown(Shutdown::Timeout(shutdown))
            // It contains storage's: one death behind a long queue of applies is one restart, not many.
            .start_timeout(storage::RECOVERIES_TIMEOUT)
    }

    /// Hands a batch to the local Raft node. `refused` is called if it is not the leader; otherwise nothing is
    /// called, and the batch shows up as applied, or never.
    ///
    /// # Errors
    /// Gives `refused` back when the actor is not running: nothing was handed over.
    pub fn propose(&self, data: Bytes, refused: Refused) -> Result<(), Refused> {
        self.service.try_cast(Message::Propose { data, refused }).map_err(|message| match message {
            Message::Propose { refused, .. } => refused,
            _ => unreachable!("the message just made"),
        })
    }

    /// Waits until everything acknowledged before this call is applied here.
    ///
    /// # Errors
    /// [`ReadError`]; the read may be tried again.
    pub async fn read_index(&self, deadline: Instant) -> Result<LogIndex, ReadError> {
        loop {
            match self.service.call(|reply| Message::Read { reply }, deadline).await {
                Ok(answer) => return answer,
                // The actor restarted: ask the next incarnation.
                Err(converge_supervisors::CallError::Unknown) if Instant::now() < deadline => {
                    tokio::task::yield_now().await
                }
                Err(_) => return Err(ReadError::Unavailable),
            }
        }
    }

    /// A frame of a peer. Decoded here, in the link's task.
    ///
    /// # Errors
    /// What is wrong with it; the link is to be closed.
    pub fn deliver(&self, inbound: Inbound) -> Result<(), wire::Error> {
        let received = inbound::Received::decode(inbound)?;
        // Without an actor the frame is lost, as on a network; Raft sends again.
        let _ = self.service.try_cast(Message::Frame(received));
        Ok(())
    }

    /// A link came up or went down.
    pub fn link(&self, event: LinkEvent) {
        let _ = self.service.try_cast(Message::Link(event));
    }

    /// Everything up to `index` is applied.
    pub fn applied(&self, index: LogIndex) {
        let _ = self.service.try_cast(Message::Applied(index));
    }

    /// Who leads, and what this node is. Changes can be awaited.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.shared.view.subscribe()
    }

    /// The tag that frames of this cluster carry; 0 before it is formed.
    pub(crate) fn tag(&self) -> u64 {
        self.shared.tag()
    }

    /// The commit index last seen.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.shared.commit()
    }

    /// What each voter is known to hold, where this node leads.
    #[must_use]
    pub fn matched(&self) -> Vec<(NodeId, LogIndex)> {
        self.shared.matched()
    }

    /// The voters that this node leads and has not heard of for five election time-outs, and since when.
    #[must_use]
    pub fn unheard(&self) -> Vec<(NodeId, Instant)> {
        self.shared.unheard()
    }
}

/// The actor.
struct Raft {
    shared: Arc<Shared>,
}

pub(crate) struct State {
    args: Args,
    shared: Arc<Shared>,
    myself: ActorRef<Message>,
    phase: Phase,
    store_id: StoreId,
    boot: Boot,
    reads: Reads<ReadReply>,
    started: Instant,
    ticks: u64,
    epochs: std::collections::BTreeMap<(NodeId, Lane), u64>,
    /// When each sync that has not returned was asked for, oldest first.
    syncing: std::collections::VecDeque<(u64, Instant)>,
    /// Whether the disk is so slow that nothing is to be begun here.
    stalled: bool,
    /// When a node with little room on its disk gives up its office next, should it lead then.
    leaves_at: Option<Instant>,
    strangers: inbound::Strangers,
    outage: Outage,
    others: Voters,
    _ticker: JoinSet<()>,
}

/// See the diagram at the module.
enum Phase {
    Forming(Forming),
    Running(Box<Running>),
    Silent,
    Wrong,
}

impl Phase {
    /// The voters that a forming cluster waits for, as text.
    fn missing(&self) -> String {
        match self {
            Phase::Forming(forming) => list(&forming.missing()),
            _ => String::new(),
        }
    }
}

struct Running {
    core: Core<Log>,
    genesis: Genesis,
    tag: u64,
}

impl Actor for Raft {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let recovered = match args.storage.recover().await {
            Ok(recovered) => Some(recovered),
            // Expected trouble is a phase: this node stays up to say what happened.
            Err(error) if error.is_fenced() => None,
            Err(error) => return Err(error.into()),
        };
        let mut state = State::new(args, self.shared.clone(), myself, recovered.as_ref());
        if let Some(recovered) = recovered {
            state.enter(recovered).await?;
        }
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Tick => state.tick()?,
            Message::Frame(received) => state.frame(received).await?,
            Message::Link(event) => state.link(event)?,
            Message::Shed(peer) => drop(state.drive(|core, out| core.unreachable(peer, out))?),
            Message::Propose { data, refused } => {
                if let Err(hint) = state.propose(data)? {
                    refused(hint);
                }
            }
            Message::Read { reply } => state.read(reply)?,
            Message::Persisted { number, result } => state.persisted(number, result)?,
            Message::Applied(index) => state.applied(index)?,
        }
        state.publish();
        Ok(())
    }
}

impl State {
    fn new(args: Args, shared: Arc<Shared>, myself: ActorRef<Message>, recovered: Option<&Recovered>) -> State {
        let ticker = ticker(myself.clone(), args.heartbeat / args.bounds.ticks_per_heartbeat, shared.clone());
        State {
            reads: Reads::new((args.random)(), args.bounds.read_rounds_max, args.bounds.reads_waiting_max),
            phase: Phase::Silent,
            store_id: recovered.map_or(StoreId([0; 16]), |r| r.store_id),
            boot: recovered.map_or(Boot(0), |r| r.boot),
            started: Instant::now(),
            ticks: 0,
            epochs: Default::default(),
            syncing: Default::default(),
            stalled: false,
            leaves_at: None,
            strangers: Default::default(),
            outage: Outage::default(),
            others: Voters::default(),
            _ticker: ticker,
            args,
            shared,
            myself,
        }
    }

    /// Runs one step of the core and all that follows from it. `None` when there is no Raft node.
    fn drive<R>(
        &mut self,
        step: impl FnOnce(&mut Core<Log>, &mut Shell<'_>) -> R,
    ) -> Result<Option<R>, ActorProcessingErr> {
        let Phase::Running(running) = &mut self.phase else { return Ok(None) };
        let mut shell = Shell {
            args: &self.args,
            myself: &self.myself,
            tag: running.tag,
            syncing: &mut self.syncing,
            reads: Vec::new(),
            failure: None,
        };
        let result = step(&mut running.core, &mut shell);
        let (reads, failure) = (shell.reads, shell.failure);
        for (context, index) in reads {
            self.reads.answered(&context, index);
        }
        if let Some(error) = failure {
            self.storage_failed(error)?;
        }
        self.answer_reads();
        Ok(Some(result))
    }

    /// A fenced storage silences this node; anything else is for the supervisor.
    fn storage_failed(&mut self, error: storage::Error) -> Result<(), ActorProcessingErr> {
        if !error.is_fenced() {
            return Err(error.into());
        }
        tracing::error!(%error, "storage is fenced; this node falls silent");
        self.phase = Phase::Silent;
        Ok(())
    }

    fn tick(&mut self) -> Result<(), ActorProcessingErr> {
        self.shared.tick_done();
        self.ticks += 1;
        self.reads.retain(|reply| !reply.is_closed());
        let bounds = &self.args.bounds;
        self.reads.retry(self.started.elapsed(), self.args.heartbeat * bounds.read_patience_heartbeats);
        if matches!(self.phase, Phase::Forming(_)) && (self.ticks - 1).is_multiple_of(bounds.genesis_ticks) {
            self.introduce(None);
        }
        let leaves = self.check_disk();
        let reluctant = self.stalled || self.leaves_at.is_some();
        self.drive(|core, out| {
            core.set_reluctant(reluctant);
            if leaves {
                core.step_down(out);
            }
            core.tick(out);
        })?;
        if let Phase::Running(running) = &self.phase {
            self.shared.set_matched(running.core.matched());
        }
        self.complain();
        self.miss();
        self.open_reads()
    }

    /// Says which voters this leader does not hear of, when that lasts, and when they are back.
    fn miss(&mut self) {
        let leads = self.leads();
        let others = self.args.voters.iter().copied().filter(|id| *id != self.args.id);
        for notice in self.others.look(leads, others, self.started.elapsed(), self.args.election) {
            match notice {
                voters::Notice::Unheard(voter, lasted) => tracing::warn!(
                    %voter,
                    ?lasted,
                    "a voter is not heard of: see that its node runs, what its log and alarms say, and the network to it"
                ),
                voters::Notice::Back(voter, lasted) => tracing::info!(%voter, ?lasted, "a voter is heard of again"),
            }
        }
        let since = |(voter, since)| (voter, self.started + since);
        self.shared.set_unheard(self.others.unheard().map(since).collect());
    }

    fn leads(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.core.summary().role == StateRole::Leader)
    }

    /// Says that nobody can be served here, when that lasts, and when it is over.
    fn complain(&mut self) {
        let trouble = match &self.phase {
            Phase::Forming(_) => Some(Trouble::NotFormed),
            Phase::Running(running) if running.core.summary().leader.is_none() => Some(Trouble::NoLeader),
            // A node that fell silent has said why.
            Phase::Running(_) | Phase::Silent | Phase::Wrong => None,
        };
        let patience = self.args.election * NO_LEADER_ELECTIONS;
        match self.outage.look(trouble, self.started.elapsed(), patience) {
            Some(Say::Lasts(Trouble::NotFormed, lasted)) => {
                let missing = self.phase.missing();
                tracing::warn!(
                    ?lasted,
                    missing,
                    "the cluster is not formed: voters are missing, or the lowest has not answered yet; start them, and see that cluster.peers names their addresses"
                );
            }
            Some(Say::Lasts(Trouble::NoLeader, lasted)) => {
                tracing::warn!(
                    ?lasted,
                    "no leader: appends and linearizable reads are refused until a majority of the voters can be reached"
                );
            }
            Some(Say::Over(Trouble::NotFormed, lasted)) => tracing::info!(?lasted, "the cluster is formed"),
            Some(Say::Over(Trouble::NoLeader, lasted)) => tracing::info!(?lasted, "there is a leader again"),
            None => {}
        }
    }

    /// Whether this node leads and must not: a leader that cannot sync would hold office and refuse every write.
    fn check_disk(&mut self) -> bool {
        let waited = self.syncing.front().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let leads = self.leads();
        let stalled = waited > self.args.election;
        if leads && stalled && !self.stalled {
            tracing::warn!(?waited, "a sync takes longer than an election time-out; another node has to lead");
        }
        self.stalled = stalled;
        let short = self.gives_up_office(leads);
        leads && (stalled || short)
    }

    /// A leader whose disk has little room lets the others elect one that has more, now and then: where all of them are
    /// short of it, somebody should lead the reads. It refuses proposals, so that its log is soon with the others.
    fn gives_up_office(&mut self, leads: bool) -> bool {
        if self.alone() || self.args.storage.room() == storage::Room::Ample {
            self.leaves_at = None;
            return false;
        }
        // One that leads when it becomes short leaves at once. One that is elected later waited longer than the others, and
        // was the only one that could be.
        let now = Instant::now();
        let due = self.leaves_at.unwrap_or(now);
        let drained = matches!(&self.phase, Phase::Running(running) if running.core.is_drained_leader());
        let leaves = drained && now >= due;
        if leaves {
            tracing::warn!(
                "the disk has little room; this leader gives up its office, so that one that has more leads"
            );
        }
        let stays = leads && !leaves;
        self.leaves_at = Some(if stays { due } else { now + self.args.election * OFFICE_CYCLE_ELECTIONS });
        leaves
    }

    /// There is no other voter.
    fn alone(&self) -> bool {
        self.args.voters.len() == 1
    }

    fn propose(&mut self, data: Bytes) -> Result<Result<(), Option<NodeId>>, ActorProcessingErr> {
        if (self.stalled && self.alone()) || self.args.storage.room() != storage::Room::Ample {
            // Refused before anything is written; whoever leads next may have room.
            return Ok(Err(None));
        }
        let result = self.drive(|core, out| core.propose(data, out))?;
        Ok(result.unwrap_or(Err(core::NotProposed { hint: None })).map_err(|refused| refused.hint))
    }

    fn read(&mut self, reply: ReadReply) -> Result<(), ActorProcessingErr> {
        if planted::is(Bug::ReadUnconfirmed) {
            let _ = reply.send(Ok(self.shared.applied()));
            return Ok(());
        }
        if let Err(reply) = self.reads.add(reply) {
            let _ = reply.send(Err(ReadError::Overloaded));
        }
        self.open_reads()
    }

    fn open_reads(&mut self) -> Result<(), ActorProcessingErr> {
        let may_read = matches!(&self.phase, Phase::Running(running) if running.core.may_read());
        if may_read && let Some(context) = self.reads.open(self.started.elapsed()) {
            self.drive(|core, out| core.read_index(context, out))?;
        }
        Ok(())
    }

    fn answer_reads(&mut self) {
        let applied = self.shared.applied();
        for reply in self.reads.applied(applied) {
            let _ = reply.send(Ok(applied));
        }
    }

    fn persisted(&mut self, number: u64, result: Result<(), storage::Error>) -> Result<(), ActorProcessingErr> {
        if let Err(error) = result {
            return self.storage_failed(error);
        }
        while self.syncing.front().is_some_and(|(n, _)| *n <= number) {
            self.syncing.pop_front();
        }
        self.drive(|core, out| core.persisted(number, out)).map(|_| ())
    }

    fn applied(&mut self, index: LogIndex) -> Result<(), ActorProcessingErr> {
        self.shared.set_applied(index);
        self.drive(|core, out| core.applied(index, out))?;
        self.open_reads()
    }

    fn publish(&self) {
        match &self.phase {
            Phase::Running(running) => self.shared.publish(running.core.summary()),
            Phase::Forming(forming) => self.shared.forming(forming.missing()),
            Phase::Silent | Phase::Wrong => self.shared.silent(),
        }
    }
}

/// Ticks the actor; a tick that has not been handled yet is not doubled.
fn ticker(myself: ActorRef<Message>, every: Duration, shared: Arc<Shared>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    shared.tick_done();
    tasks.spawn(async move {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if shared.tick_due() && myself.cast(Message::Tick).is_err() {
                return;
            }
        }
    });
    tasks
}

/// Whether these bytes are a batch that every node can apply, and of the node that sent them. Checked before a
/// stranger's bytes enter the log: every origin is remembered for ever, and its low-water mark lets go of outcomes.
fn is_batch_of(from: NodeId, data: &Bytes) -> bool {
    Batch::decode(data).is_ok_and(|batch| batch.origin == from)
}
