//! What the actor remembers, its phases, and the step by which the Raft node moves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Boot, LogIndex, NodeId, StoreId};
use converge_supervisors::ractor::{ActorProcessingErr, ActorRef};
use raft::StateRole;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::Arguments;
use super::core::{Core, NotProposed};
use super::genesis::Forming;
use super::log::Log;
use super::message::{Message, ReadError, ReadReply};
use super::outage::{Outage, list};
use super::reads::Reads;
use super::received::Strangers;
use super::shell::Shell;
use super::unapplied::Unapplied;
use super::view::Published;
use super::voters::Voters;
use crate::distribution::Lane;
use crate::storage::{self, Genesis, LogEntry, Recovered};

/// One incarnation, from its start to its end.
pub(crate) struct State {
    pub(super) args: Arguments,
    pub(super) published: Arc<Published>,
    pub(super) myself: ActorRef<Message>,
    pub(super) phase: Phase,
    pub(super) store_id: StoreId,
    pub(super) boot: Boot,
    pub(super) reads: Reads<ReadReply>,
    pub(super) started: Instant,
    pub(super) ticks: u64,
    pub(super) epochs: BTreeMap<(NodeId, Lane), u64>,
    /// When each sync that has not returned was asked for, oldest first.
    pub(super) syncing: VecDeque<(u64, Instant)>,
    /// Whether the disk is so slow that nothing is to be begun here.
    pub(super) stalled: bool,
    /// When a node with little room on its disk gives up its office next, should it lead then.
    pub(super) leaves_at: Option<Instant>,
    /// Whether this node is about to stop.
    pub(super) leaves: bool,
    pub(super) strangers: Strangers,
    pub(super) outage: Outage,
    pub(super) others: Voters,
    pub(super) unapplied: Unapplied,
    _ticker: JoinSet<()>,
}

/// See the diagram at the module.
pub(super) enum Phase {
    Forming(Forming),
    Running(Box<RaftNode>),
    Silent,
    Wrong,
}

impl Phase {
    /// The voters that a forming cluster waits for, as text.
    pub(super) fn missing(&self) -> String {
        match self {
            Phase::Forming(forming) => list(&forming.missing()),
            _ => String::new(),
        }
    }
}

pub(super) struct RaftNode {
    pub(super) core: Core<Log>,
    pub(super) genesis: Genesis,
    pub(super) tag: u64,
}

impl State {
    pub(super) fn new(
        args: Arguments,
        published: Arc<Published>,
        myself: ActorRef<Message>,
        recovered: Option<&Recovered>,
    ) -> State {
        let ticker = ticker(myself.clone(), args.heartbeat / args.bounds.ticks_per_heartbeat, published.clone());
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
            leaves: false,
            strangers: Default::default(),
            outage: Outage::default(),
            others: Voters::default(),
            unapplied: Unapplied::default(),
            _ticker: ticker,
            args,
            published,
            myself,
        }
    }

    /// Runs one step of the core and all that follows from it. `None` when there is no Raft node.
    pub(super) fn drive<R>(
        &mut self,
        step: impl FnOnce(&mut Core<Log>, &mut Shell<'_>) -> R,
    ) -> Result<Option<R>, ActorProcessingErr> {
        let Phase::Running(running) = &mut self.phase else { return Ok(None) };
        let mut shell = Shell {
            args: &self.args,
            myself: &self.myself,
            tag: running.tag,
            syncing: &mut self.syncing,
            unapplied: &mut self.unapplied,
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
    pub(super) fn storage_failed(&mut self, error: storage::Error) -> Result<(), ActorProcessingErr> {
        if !error.is_fenced() {
            return Err(error.into());
        }
        tracing::error!(%error, "storage is fenced; this node falls silent");
        self.phase = Phase::Silent;
        Ok(())
    }

    pub(super) fn leads(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.core.summary().role == StateRole::Leader)
    }

    /// Whether it is of use that this node leads. One without room takes no proposals, and one whose program is outdated
    /// does not know what they do.
    pub(super) fn may_lead(&self) -> bool {
        self.args.storage.room() == storage::Room::Ample && self.args.storage.outdated().is_none()
    }

    /// There is no other voter.
    pub(super) fn alone(&self) -> bool {
        self.args.voters.len() == 1
    }

    pub(super) fn propose(&mut self, data: Bytes) -> Result<Result<(), Option<NodeId>>, ActorProcessingErr> {
        if (self.stalled && self.alone()) || !self.may_lead() {
            // Refused before anything is written; whoever leads next may have room, or a newer program.
            return Ok(Err(None));
        }
        if self.leads() && self.is_behind() {
            return Ok(Err(None));
        }
        let result = self.drive(|core, out| core.propose(data, out))?;
        let result = result.unwrap_or(Err(NotProposed { hint: None }));
        let hands_over = matches!(&self.phase, Phase::Running(running) if running.core.heir().is_some());
        if result.is_err() && self.leads() && !hands_over {
            self.published.refused_overfull();
        }
        Ok(result.map_err(|refused| refused.hint))
    }

    /// Whether too much is committed and not applied for more entries to be taken, and says so.
    pub(super) fn is_behind(&mut self) -> bool {
        let over = self.unapplied.is_over(self.args.bounds.uncommitted_bytes_max);
        let behind = over && self.args.storage.outdated().is_none();
        if behind {
            self.published.refused_overfull();
        }
        behind
    }

    pub(super) fn read(&mut self, reply: ReadReply) -> Result<(), ActorProcessingErr> {
        if planted::is(Bug::ReadUnconfirmed) {
            let _ = reply.send(Ok(self.published.applied()));
            return Ok(());
        }
        if let Some(outdated) = self.args.storage.outdated() {
            let _ = reply.send(Err(ReadError::Outdated(outdated)));
            return Ok(());
        }
        if let Err(reply) = self.reads.add(reply) {
            let _ = reply.send(Err(ReadError::Overloaded));
        }
        self.open_reads()
    }

    pub(super) fn open_reads(&mut self) -> Result<(), ActorProcessingErr> {
        let may_read = matches!(&self.phase, Phase::Running(running) if running.core.may_read());
        if may_read && let Some(context) = self.reads.open(self.started.elapsed()) {
            self.drive(|core, out| core.read_index(context, out))?;
        }
        Ok(())
    }

    pub(super) fn answer_reads(&mut self) {
        let applied = self.published.applied();
        for reply in self.reads.applied(applied) {
            let _ = reply.send(Ok(applied));
        }
    }

    pub(super) fn persisted(
        &mut self,
        number: u64,
        result: Result<(), storage::Error>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(error) = result {
            return self.storage_failed(error);
        }
        while self.syncing.front().is_some_and(|(n, _)| *n <= number) {
            self.syncing.pop_front();
        }
        self.drive(|core, out| core.persisted(number, out)).map(|_| ())
    }

    pub(super) fn applied(&mut self, index: LogIndex) -> Result<(), ActorProcessingErr> {
        self.published.set_applied(index);
        self.unapplied.applied(index, Instant::now());
        self.drive(|core, out| core.applied(index, out))?;
        self.open_reads()
    }

    /// Sends on to a peer that lags.
    pub(super) fn fetched(
        &mut self,
        low: LogIndex,
        result: Result<Vec<LogEntry>, storage::Error>,
    ) -> Result<(), ActorProcessingErr> {
        let entries = match result {
            Ok(entries) => Some(entries),
            Err(error) if error.is_fenced() => return self.storage_failed(error),
            // The next heartbeat to the peer asks again.
            Err(error) => {
                tracing::warn!(%error, "entries for a peer that lags could not be read; they are asked for again");
                None
            }
        };
        let Phase::Running(running) = &self.phase else { return Ok(()) };
        let contexts = running.core.log().fetched(low, entries);
        self.drive(|core, out| core.fetched(contexts, out)).map(|_| ())
    }

    pub(super) fn publish(&self) {
        match &self.phase {
            Phase::Running(running) => self.published.running(running.core.summary()),
            Phase::Forming(forming) => self.published.forming(forming.missing()),
            Phase::Silent | Phase::Wrong => self.published.silent(),
        }
    }
}

/// Ticks the actor; a tick that has not been handled yet is not doubled.
fn ticker(myself: ActorRef<Message>, every: Duration, published: Arc<Published>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    published.tick_done();
    tasks.spawn(async move {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if published.tick_due() && myself.cast(Message::Tick).is_err() {
                return;
            }
        }
    });
    tasks
}
