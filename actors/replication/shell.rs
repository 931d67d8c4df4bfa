//! Carries out what the core decides.

use std::collections::VecDeque;

use converge_ledger_core::{LogIndex, NodeId, Term};
use converge_supervisors::ractor::ActorRef;
use raft::eraftpb::{Entry, HardState, Message as RaftMessage, MessageType};
use tokio::time::Instant;

use super::args::Arguments;
use super::core::Output;
use super::log::from_raft;
use super::message::Message;
use super::received::lane_of;
use super::unapplied::Unapplied;
use super::wire::{self, Frame};
use crate::storage;

/// Executes what the core decides, in order; remembers the first failure.
pub(super) struct Shell<'a> {
    pub(super) args: &'a Arguments,
    pub(super) myself: &'a ActorRef<Message>,
    pub(super) tag: u64,
    pub(super) syncing: &'a mut VecDeque<(u64, Instant)>,
    pub(super) unapplied: &'a mut Unapplied,
    pub(super) reads: Vec<(Vec<u8>, LogIndex)>,
    pub(super) failure: Option<storage::Error>,
}

impl Output for Shell<'_> {
    fn send(&mut self, message: RaftMessage) {
        let (to, kind) = (NodeId(message.to), message.get_msg_type());
        if !wire::crosses_the_network(kind) {
            return;
        }
        let pieces = Frame::Raft(Box::new(message)).encode(self.tag);
        // Only appends are counted on: Raft takes them as in flight until it is told otherwise.
        if self.args.distribution.send(to, lane_of(kind), pieces).is_err() && kind == MessageType::MsgAppend {
            let _ = self.myself.cast(Message::Shed(to));
        }
    }

    fn persist(&mut self, number: u64, entries: Vec<Entry>, hard_state: Option<HardState>) {
        let entries = entries.into_iter().map(from_raft).collect();
        let hard_state = hard_state.map(|hs| storage::HardState {
            term: Term(hs.term),
            vote: NodeId(hs.vote),
            commit: LogIndex(hs.commit),
        });
        self.syncing.push_back((number, Instant::now()));
        let myself = self.myself.clone();
        // To this incarnation only: a later one has recovered what is durable by itself.
        let done = Box::new(move |result| drop(myself.cast(Message::Persisted { number, result })));
        if let Err(error) = self.args.storage.append(entries, hard_state, done) {
            self.failure.get_or_insert(error);
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let entries: Vec<_> = entries.into_iter().map(from_raft).collect();
        self.unapplied.add(&entries, Instant::now());
        if let Err(error) = self.args.storage.apply(entries) {
            self.failure.get_or_insert(error);
        }
    }

    fn read_state(&mut self, context: Vec<u8>, index: LogIndex) {
        self.reads.push((context, index));
    }
}
