//! The Raft node without its world: what goes in is an event, what comes out are calls on [`Output`].
//!
//! Owns the crate's `RawNode` and the order of persistence. Does not know actors, clocks, links or disks, so a
//! simulator can drive it step by step. The rules it keeps, each with what breaks without it:
//!
//! - A Ready is persisted in order. One that needs no sync still queues behind those that do, because
//!   acknowledging it acknowledges all earlier ones (S1, S2).
//! - A follower's messages leave only after the sync of their Ready: an `AppendResponse` or a vote that is not
//!   on disk is a promise that a crash breaks (invariants 6 and 8).
//! - A leader's messages leave at once, in parallel with its own sync; its own vote for the commit index is
//!   counted only after that sync.
//! - `advance_append_async` comes after [`Output::persist`], which makes the entries readable: the crate drops
//!   its own copy there.
//! - A message of a peer is judged before it is stepped (`judge`), and an acknowledgement claims no more than was
//!   compared with the leader that it goes to: the crate would claim everything up to the commit.
//! - The election time-out is set after every step from (seed, term, role, count), not by the crate's
//!   thread-local randomness, so that a seed repeats a run.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::chance::mix;
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{LogIndex, NodeId, Term};
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{Config, GetEntriesContext, RawNode, StateRole};

use super::history::{Histories, ReadLog};
use super::judge::{Objection, judge};

/// Where the core's decisions go. Calls come in the order in which they must take effect.
pub(crate) trait Output {
    /// Send now.
    fn send(&mut self, message: Message);
    /// Make the entries readable at once and durable in order; answer later with [`Core::persisted`].
    fn persist(&mut self, number: u64, entries: Vec<Entry>, hard_state: Option<HardState>);
    /// Apply these committed entries, in order.
    fn apply(&mut self, entries: Vec<Entry>);
    /// The read index of that context is confirmed.
    fn read_state(&mut self, context: Vec<u8>, index: LogIndex);
}

/// What stays the same for a whole incarnation.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: NodeId,
    pub(crate) heartbeat_ticks: usize,
    pub(crate) election_ticks: usize,
    pub(crate) applied: LogIndex,
    pub(crate) seed: u64,
    pub(crate) single: bool,
    pub(crate) bounds: Bounds,
}

/// What the crate leaves unbounded; see `ARCHITECTURE.md`, "Bounds", for how they fit together.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Largest Raft message, unless it is one entry; 1 MiB by default.
    pub message_bytes_max: u64,
    /// Messages with entries on their way to one peer. One that comes back is sent all of these in one step: they
    /// must fit a link's queue, and be read in a moment. 16 by default.
    pub inflight_messages_max: usize,
    /// Past this a leader refuses proposals, for so much is not committed; 64 MiB by default. Where as much is committed
    /// and not applied, no node takes entries.
    pub uncommitted_bytes_max: u64,
    /// Committed entries that one step hands to apply; 8 MiB by default.
    pub committed_bytes_max: u64,
    /// Ticks per heartbeat: a finer clock spreads election time-outs. 2 by default, at least 1.
    pub ticks_per_heartbeat: u32,
    /// A forming node says who it is once in so many ticks; 4 by default, at least 1.
    pub genesis_ticks: u64,
    /// A linearizable read that got no index within so many heartbeats is asked again; 3 by default.
    pub read_patience_heartbeats: u32,
    /// Rounds of reads in flight at once; callers beyond them wait for the next one. 8 by default, at least 1.
    pub read_rounds_max: usize,
    /// Readers that may wait; one more is refused. 65,536 by default.
    pub reads_waiting_max: usize,
    /// The actor is killed when it takes longer than this to stop; 10 s by default.
    pub shutdown: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            message_bytes_max: 1 << 20,
            inflight_messages_max: 16,
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 8 << 20,
            ticks_per_heartbeat: 2,
            genesis_ticks: 4,
            read_patience_heartbeats: 3,
            read_rounds_max: 8,
            reads_waiting_max: 65_536,
            shutdown: Duration::from_secs(10),
        }
    }
}

/// Why a proposal was not taken. Nothing of it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotProposed {
    pub(crate) hint: Option<NodeId>,
}

/// What the rest of the node may know about the Raft node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) role: StateRole,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: Term,
    pub(crate) commit: LogIndex,
}

pub(crate) struct Core<L: ReadLog> {
    node: RawNode<L>,
    settings: Settings,
    /// Readies whose sync has not returned, oldest first, with the messages that wait for it.
    held: VecDeque<HeldMessages>,
    timeout: Timeout,
    reluctant: bool,
    histories: Histories,
    agreed: Agreed,
}

/// The longest election time-out is below so many of the shortest: that of a reluctant node.
const ELECTIONS_MAX: usize = 3;

/// Up to where this node's log is known to be that of the leader of a term.
#[derive(Default)]
struct Agreed {
    term: u64,
    index: u64,
}

/// The election time-out in force.
#[derive(Default)]
struct Timeout {
    ticks: usize,
    /// Term, role, leader and reluctance that it was set for.
    cause: Option<(u64, StateRole, u64, bool)>,
    count: u64,
}

struct HeldMessages {
    number: u64,
    messages: Vec<Message>,
    /// Whether a sync of its own answers for it; otherwise it goes with the one before it.
    syncs: bool,
}

impl<L: ReadLog> Core<L> {
    pub(crate) fn new(settings: Settings, log: L) -> raft::Result<Core<L>> {
        let config = Config {
            id: settings.id.get(),
            election_tick: settings.election_ticks,
            max_election_tick: settings.election_ticks * ELECTIONS_MAX,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: settings.applied.get(),
            max_size_per_msg: settings.bounds.message_bytes_max,
            max_inflight_msgs: settings.bounds.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            // Not even a partial lease: rule 14 of the crate.
            read_only_option: match planted::is(Bug::ReadByLease) {
                false => raft::ReadOnlyOption::Safe,
                true => raft::ReadOnlyOption::LeaseBased,
            },
            skip_bcast_commit: false,
            batch_append: false,
            max_uncommitted_size: settings.bounds.uncommitted_bytes_max,
            max_committed_size_per_ready: settings.bounds.committed_bytes_max,
            ..Config::default()
        };
        config.validate()?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger)?;
        let mut core = Core {
            node,
            settings,
            held: VecDeque::new(),
            timeout: Timeout::default(),
            reluctant: false,
            histories: Histories::default(),
            agreed: Agreed::default(),
        };
        core.set_timeout();
        if core.settings.single {
            core.node.campaign()?;
        }
        Ok(core)
    }

    /// Handles what the crate already has to say after a start.
    pub(crate) fn settle(&mut self, out: &mut impl Output) {
        self.after(out);
    }

    /// Whether another should lead if one can: this node waits for a whole election time-out more than they do before it
    /// campaigns. It votes as ever.
    pub(crate) fn set_reluctant(&mut self, reluctant: bool) {
        self.reluctant = reluctant;
    }

    /// A leader that should not lead becomes a follower of its term, as the crate makes it one where it hears of no
    /// majority. Merely silent it would keep its office: its lease ignores votes, and with another voter down nobody
    /// could be elected. Election safety stays the crate's: its vote of the term is kept, and whoever comes next is elected
    /// in a later one. Alone, there is nobody else.
    pub(crate) fn step_down(&mut self, out: &mut impl Output) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !self.settings.single {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
        self.after(out);
    }

    /// Has that voter campaign as soon as it has the whole log. Until it is elected, or for an election time-out, no proposal is
    /// taken. Does nothing where this node does not lead: the crate would ask the leader.
    pub(crate) fn transfer(&mut self, heir: NodeId, out: &mut impl Output) {
        if self.node.raft.state == StateRole::Leader {
            self.spare_files(true);
            self.node.transfer_leader(heir.get());
            self.after(out);
        }
    }

    /// To whom this leader hands its office: meanwhile it takes no proposals.
    pub(crate) fn heir(&self) -> Option<NodeId> {
        self.node.raft.lead_transferee.map(NodeId)
    }

    /// Takes proposals again; an heir that was told to campaign may still be elected.
    pub(crate) fn abort_transfer(&mut self, out: &mut impl Output) {
        self.node.raft.abort_leader_transfer();
        self.after(out);
    }

    /// Leads, and a majority has all that this node has: whoever has that can be elected.
    pub(crate) fn is_drained_leader(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader && raft.raft_log.committed == raft.raft_log.last_index()
    }

    pub(crate) fn tick(&mut self, out: &mut impl Output) {
        self.node.tick();
        self.after(out);
    }

    /// A message of a peer, already checked to be from that peer, to this node, and of a kind that crosses the
    /// network.
    ///
    /// # Errors
    /// [`Objection`]: but for a failure of the crate, nothing was done with the message.
    pub(crate) fn message(&mut self, mut message: Message, out: &mut impl Output) -> Result<(), Objection> {
        let agrees = judge(&self.node.raft, &message, &mut self.histories)?;
        match message.get_msg_type() {
            // The crate's short way to a commit. A pre-vote would raise it without the term in which it was committed, and
            // an append that the leader of this node's own term sent before would then look like proof of loss.
            MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse => (message.commit, message.commit_term) = (0, 0),
            // It would lead at once.
            MessageType::MsgTimeoutNow if self.reluctant => return Err(Objection::Late),
            _ => {}
        }
        let term = message.term;
        let answers =
            matches!(message.get_msg_type(), MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse);
        self.spare_files(answers);
        let result = self.node.step(message);
        if let Some(index) = agrees.filter(|_| self.node.raft.term == term) {
            self.agreed = match &self.agreed {
                Agreed { term: same, index: before } if *same == term => Agreed { term, index: index.max(*before) },
                _ => Agreed { term, index },
            };
        }
        self.after(out);
        match result {
            // Expected: dropped proposals and responses of a peer that is not in the configuration.
            Err(raft::Error::ProposalDropped | raft::Error::StepPeerNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(Objection::Failed(error)),
        }
    }

    pub(crate) fn propose(&mut self, data: Bytes, out: &mut impl Output) -> Result<(), NotProposed> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotProposed { hint: self.leader() });
        }
        let entry = Entry { data, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(vec![entry].into());
        // The crate drops a proposal when too much is uncommitted, or during a transfer of leadership.
        self.spare_files(true);
        let result = self.node.raft.step(message).map_err(|_| NotProposed { hint: None });
        self.after(out);
        result
    }

    pub(crate) fn read_index(&mut self, context: Vec<u8>, out: &mut impl Output) {
        self.node.read_index(context);
        self.after(out);
    }

    pub(crate) fn unreachable(&mut self, peer: NodeId, out: &mut impl Output) {
        self.node.report_unreachable(peer.get());
        self.after(out);
    }

    pub(crate) fn applied(&mut self, index: LogIndex, out: &mut impl Output) {
        if index.get() > self.node.raft.raft_log.applied {
            self.node.advance_apply_to(index.get());
            self.after(out);
        }
    }

    /// Nothing more is applied in this process. The crate is told that all is, so that it holds nothing back for apply: what
    /// is passed over in it are changes of members alone, and there are none yet.
    pub(crate) fn pass_over(&mut self, out: &mut impl Output) {
        let log = &self.node.raft.raft_log;
        self.applied(LogIndex(log.committed.min(log.persisted)), out);
    }

    /// The sync of Ready `number`, and so of all before it, returned Ok.
    pub(crate) fn persisted(&mut self, number: u64, out: &mut impl Output) {
        let mut last = None;
        while let Some(held) = self.held.front() {
            // Readies without a sync of their own go with the last one before them that has one.
            if held.number > number && held.syncs {
                break;
            }
            let held = self.held.pop_front().expect("a front was just seen");
            last = Some(held.number);
            held.messages.into_iter().for_each(|message| out.send(message));
        }
        if let Some(last) = last {
            self.spare_files(true);
            self.node.on_persist_ready(last);
            if planted::is(Bug::QuorumOfOne) && self.node.raft.state == StateRole::Leader {
                let synced = self.node.raft.raft_log.persisted;
                self.node.raft.raft_log.commit_to(synced);
            }
            self.after(out);
        }
    }

    /// What the Raft node reads its log from.
    pub(crate) fn log(&self) -> &L {
        self.node.store()
    }

    /// Entries that the log did not have at hand are there now.
    pub(crate) fn fetched(&mut self, contexts: Vec<GetEntriesContext>, out: &mut impl Output) {
        self.spare_files(true);
        contexts.into_iter().for_each(|context| self.node.on_entries_fetched(context));
        self.after(out);
    }

    pub(crate) fn summary(&self) -> Summary {
        let raft = &self.node.raft;
        Summary {
            role: raft.state,
            leader: self.leader(),
            term: Term(raft.term),
            commit: LogIndex(raft.raft_log.committed),
        }
    }

    /// Whether a read index may be asked for: the crate drops what is asked without a leader, or of one that has
    /// committed nothing in its term yet.
    pub(crate) fn may_read(&self) -> bool {
        let raft = &self.node.raft;
        let committed = raft.state != StateRole::Leader || raft.commit_to_current_term();
        committed && self.leader().is_some()
    }

    pub(crate) fn is_voter(&self, id: NodeId) -> bool {
        self.node.raft.prs().get(id.get()).is_some()
    }

    /// What each peer is known to hold; empty unless this node leads.
    pub(crate) fn matched(&self) -> Vec<(NodeId, LogIndex)> {
        if self.node.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut all: Vec<_> = self.node.raft.prs().iter().map(|(id, p)| (NodeId(*id), LogIndex(p.matched))).collect();
        all.sort_unstable();
        all
    }

    fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.node.raft.leader_id)).filter(|id| id.get() != 0)
    }

    /// A leader can do without a term that would have to be read from a file, until the end of this step.
    fn spare_files(&self, spare: bool) {
        self.node.store().spare_files(spare && self.node.raft.state == StateRole::Leader);
    }

    fn after(&mut self, out: &mut impl Output) {
        self.spare_files(false);
        self.set_timeout();
        while self.node.has_ready() {
            self.ready(out);
            self.set_timeout();
        }
    }

    fn ready(&mut self, out: &mut impl Output) {
        let mut ready = self.node.ready();
        assert!(ready.snapshot().is_empty(), "a snapshot came where none is ever sent");
        let number = ready.number();
        for mut message in ready.take_messages() {
            self.vouch(&mut message);
            out.send(message);
        }
        for read in ready.take_read_states() {
            out.read_state(read.request_ctx, LogIndex(read.index));
        }
        let committed = ready.take_committed_entries();
        let mut messages = ready.take_persisted_messages();
        messages.iter_mut().for_each(|message| self.vouch(message));
        if planted::is(Bug::AnswerBeforeSync) {
            messages.drain(..).for_each(|message| out.send(message));
        }
        let syncs = ready.must_sync();
        if syncs {
            // A change of commit alone needs no sync: applied, stored later, stands for it.
            let hard_state = ready.hs().cloned();
            out.persist(number, ready.take_entries(), hard_state);
        }
        self.node.advance_append_async(ready);
        if syncs || !self.held.is_empty() {
            self.held.push_back(HeldMessages { number, messages, syncs });
        } else {
            messages.into_iter().for_each(|message| out.send(message));
            self.node.on_persist_ready(number);
        }
        if !committed.is_empty() {
            out.apply(committed);
        }
    }

    /// A leader says with a message what its log is; a follower acknowledges what it has compared with that.
    fn vouch(&mut self, message: &mut Message) {
        let acknowledges = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
        if acknowledges && !planted::is(Bug::HistoryUnchecked) {
            let agreed = if self.agreed.term == message.term { self.agreed.index } else { 0 };
            message.index = message.index.min(agreed);
        }
        self.histories.vouch(&self.node.raft.raft_log, message);
    }

    /// Replaces whatever the crate drew with what (seed, term, role, count) decides. The crate draws only where one
    /// of term, role or leader changes, so that is when a new one is due; otherwise the last one is set again. One of a
    /// reluctant node is longer than any other's.
    fn set_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let cause = (raft.term, raft.state, raft.leader_id, self.reluctant);
        if self.timeout.cause != Some(cause) {
            self.timeout.cause = Some(cause);
            self.timeout.count += 1;
            let mixed = [raft.id, raft.term, raft.state as u64, self.timeout.count]
                .into_iter()
                .fold(self.settings.seed, |state, value| mix(state ^ value));
            let spread = mixed % self.settings.election_ticks as u64;
            let spread = usize::try_from(spread).expect("a tick count is small");
            let elections = if self.reluctant { ELECTIONS_MAX - 1 } else { 1 };
            self.timeout.ticks = self.settings.election_ticks * elections + spread;
        }
        raft.set_randomized_election_timeout(self.timeout.ticks);
    }
}
