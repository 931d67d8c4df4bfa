//! A Raft node in the middle of its work, for tests and fuzzers that feed it what no peer should send.
//!
//! The core is the product's, its log is in memory, and its disk is done at once.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use converge_ledger_core::{LogIndex, NodeId};
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{GetEntriesContext, RaftState, StateRole, StorageError};

use super::core::{Bounds, Core, Output, Settings, Summary};
use super::history::ReadLog;
use super::judge::Objection;

/// The node.
pub(super) const ME: u64 = 1;
/// The other voters.
pub(super) const PEERS: [u64; 2] = [2, 3];
/// Long enough for a node to campaign.
const PATIENCE_TICKS: usize = 25;

#[derive(Clone, Default)]
pub(super) struct Memory {
    entries: Rc<RefCell<Vec<Entry>>>,
    hard_state: HardState,
}

impl ReadLog for Memory {}

impl raft::Storage for Memory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let voters = ConfState { voters: vec![ME, PEERS[0], PEERS[1]], ..ConfState::default() };
        Ok(RaftState::new(self.hard_state.clone(), voters))
    }
    fn entries(
        &self,
        low: u64,
        high: u64,
        _: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let at = |index: u64| usize::try_from(index - 1).expect("small");
        Ok(self.entries.borrow()[at(low)..at(high)].to_vec())
    }
    fn term(&self, index: u64) -> raft::Result<u64> {
        let Some(before) = index.checked_sub(1) else { return Ok(0) };
        let entries = self.entries.borrow();
        let entry = usize::try_from(before).ok().and_then(|at| entries.get(at));
        entry.map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }
    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }
    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.borrow().len() as u64)
    }
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[derive(Default)]
pub(super) struct RecordedOutput {
    entries: Rc<RefCell<Vec<Entry>>>,
    syncing: Vec<u64>,
    applied: Option<u64>,
    pub(super) sent: Vec<Message>,
}

impl Output for RecordedOutput {
    fn send(&mut self, message: Message) {
        self.sent.push(message);
    }
    fn persist(&mut self, number: u64, entries: Vec<Entry>, _: Option<HardState>) {
        if let Some(first) = entries.first() {
            let mut log = self.entries.borrow_mut();
            let keep = usize::try_from(first.index - 1).expect("small");
            assert!(keep <= log.len(), "log has a gap before {}", first.index);
            log.truncate(keep);
            log.extend(entries);
        }
        self.syncing.push(number);
    }
    fn apply(&mut self, entries: Vec<Entry>) {
        self.applied = entries.last().map(|entry| entry.index).or(self.applied);
    }
    fn read_state(&mut self, _: Vec<u8>, _: LogIndex) {}
}

/// What a node is in when it is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Has an empty log, and knows nobody.
    Fresh,
    /// Has entries, committed but for the last, and started again since.
    Restarted,
    /// The same, and follows node 2.
    Follower,
    /// Asks whether it may ask for votes.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads, and has committed in its term.
    Leader,
    /// Leads, and has heard of nobody since.
    Ahead,
}

impl State {
    pub(super) const ALL: [State; 7] = [
        State::Fresh,
        State::Restarted,
        State::Follower,
        State::PreCandidate,
        State::Candidate,
        State::Leader,
        State::Ahead,
    ];
}

/// A node that lives, alone with what it is fed.
pub(super) struct LoneNode {
    core: Core<Memory>,
    pub(super) output: RecordedOutput,
}

/// The term of the log of a node that is not fresh, and its entries: the last one is not committed.
pub(super) const TERM: u64 = 5;
pub(super) const LAST: u64 = 6;

/// A message to the node.
pub(super) fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: ME, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// An entry as the nodes of these runs have it.
pub(super) fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: Bytes::from(format!("entry {index} of term {term}")), ..Entry::default() }
}

impl LoneNode {
    pub(super) fn new(state: State) -> LoneNode {
        let terms = [1, 1, 3, 3, TERM, TERM];
        let log: Vec<Entry> = (1..).zip(terms).map(|(index, term)| entry(index, term)).collect();
        let (log, hard_state) = match state {
            State::Fresh => (Vec::new(), HardState::default()),
            _ => (log, HardState { term: TERM, vote: PEERS[0], commit: LAST - 1, ..HardState::default() }),
        };
        let entries = Rc::new(RefCell::new(log));
        let settings = Settings {
            id: NodeId(ME),
            heartbeat_ticks: 2,
            election_ticks: 10,
            applied: LogIndex(hard_state.commit),
            seed: 1,
            single: false,
            bounds: Bounds::default(),
        };
        let memory = Memory { entries: entries.clone(), hard_state };
        let core = Core::new(settings, memory).expect("these settings are possible");
        let mut live = LoneNode { core, output: RecordedOutput { entries, ..RecordedOutput::default() } };
        live.step(|core, out| core.settle(out));
        live.become_one(state);
        live
    }

    fn become_one(&mut self, state: State) {
        match state {
            State::Fresh | State::Restarted => return,
            State::Follower => drop(self.feed(message(MessageType::MsgHeartbeat, PEERS[0], TERM))),
            _ => (0..PATIENCE_TICKS).for_each(|_| self.tick()),
        }
        if matches!(state, State::Candidate | State::Leader | State::Ahead) {
            drop(self.feed(message(MessageType::MsgRequestPreVoteResponse, PEERS[1], TERM + 1)));
        }
        if matches!(state, State::Leader | State::Ahead) {
            drop(self.feed(message(MessageType::MsgRequestVoteResponse, PEERS[1], TERM + 1)));
        }
        if state == State::Leader {
            let mut answer = message(MessageType::MsgAppendResponse, PEERS[1], TERM + 1);
            answer.index = self.last();
            drop(self.feed(answer));
        }
        let role = match state {
            State::Fresh | State::Restarted | State::Follower => StateRole::Follower,
            State::PreCandidate => StateRole::PreCandidate,
            State::Candidate => StateRole::Candidate,
            State::Leader | State::Ahead => StateRole::Leader,
        };
        assert_eq!(self.summary().role, role);
        assert!(state != State::Leader || self.summary().commit.get() == self.last());
        self.output.sent.clear();
    }

    /// One step, and all that the disk and apply have to say to it.
    pub(super) fn step<R>(&mut self, step: impl FnOnce(&mut Core<Memory>, &mut RecordedOutput) -> R) -> R {
        let result = step(&mut self.core, &mut self.output);
        loop {
            let numbers = std::mem::take(&mut self.output.syncing);
            let applied = self.output.applied.take();
            if numbers.is_empty() && applied.is_none() {
                return result;
            }
            for number in numbers {
                self.core.persisted(number, &mut self.output);
            }
            if let Some(applied) = applied {
                self.core.applied(LogIndex(applied), &mut self.output);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        self.step(|core, out| core.tick(out));
    }

    pub(super) fn feed(&mut self, message: Message) -> Result<(), Objection> {
        self.step(|core, out| core.message(message, out))
    }

    pub(super) fn summary(&self) -> Summary {
        self.core.summary()
    }

    pub(super) fn last(&self) -> u64 {
        self.output.entries.borrow().len() as u64
    }

    #[cfg(test)]
    pub(super) fn sent(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.output.sent)
    }

    /// An entry of its log.
    pub(super) fn own(&self, index: u64) -> Option<Entry> {
        let entries = self.output.entries.borrow();
        usize::try_from(index.checked_sub(1)?).ok().and_then(|at| entries.get(at)).cloned()
    }
}
