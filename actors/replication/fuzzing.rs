//! Feeds Raft nodes in the middle of their work what no peer should send.
//!
//! A refused message must leave the node as it was; one that fences it must be a proof that data was lost; and nothing may
//! panic.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

use super::judge::Objection;
use super::live::{LoneNode, ME, PEERS, State, entry, message};
use super::wire::Frame;
use crate::fuzzing::Input;
use crate::fuzzing::sample::Seed;

/// What a run is made of, at most.
const STEPS_MAX: usize = 64;

impl LoneNode {
    /// Whether a message, by what is in it, can show a leader whose log is not this one.
    fn contradicts(&self, message: &Message) -> bool {
        let commit = self.summary().commit.get();
        let other = |index, term| self.own(index).is_some_and(|own| own.term != term);
        let claims = message.reject_hint != 0;
        let leads = message.term >= self.summary().term.get();
        let of_entry = |e: &Entry| match self.own(e.index) {
            Some(own) if own.term == e.term => own.data != e.data,
            own => own.is_some() && e.index <= commit,
        };
        leads
            && match message.get_msg_type() {
                MessageType::MsgAppend => {
                    claims
                        || (message.index <= commit && other(message.index, message.log_term))
                        || message.entries.iter().any(of_entry)
                }
                MessageType::MsgHeartbeat => {
                    claims || message.commit > self.last() || other(message.commit, message.commit_term)
                }
                MessageType::MsgReadIndexResp => claims || other(message.index, message.term),
                _ => false,
            }
    }

    /// Feeds a message of a voter, and holds the node to what it may do with it. `None` when it is to be fenced.
    fn judged(&mut self, message: Message) -> Option<bool> {
        let before = (self.summary(), self.last());
        let sent = self.output.sent.len();
        let contradicts = self.contradicts(&message);
        let result = self.feed(message.clone());
        let refused = matches!(result, Err(Objection::Bad(_) | Objection::Late | Objection::DataLoss(_)));
        let after = (self.summary(), self.last());
        assert!(!refused || (before == after && sent == self.output.sent.len()), "{result:?} changes a node");
        assert!(after.0.term >= before.0.term && after.0.commit >= before.0.commit, "{before:?}, then {after:?}");
        assert!(after.0.commit.get() <= after.1, "a commit beyond the log");
        match result {
            Ok(()) => Some(true),
            Err(Objection::Bad(_) | Objection::Late) => Some(false),
            Err(Objection::DataLoss(what)) => {
                assert!(contradicts, "fenced without a proof: {what} {message:?}");
                None
            }
            Err(Objection::Failed(error)) => panic!("{error} of {message:?}"),
        }
    }
}

/// A number around one that matters, now and then one near an end of its range.
fn around(input: &mut Input<'_>, matters: u64) -> u64 {
    match input.byte() {
        byte @ 0..200 => (matters + u64::from(byte) % 5).saturating_sub(2),
        _ => input.number(),
    }
}

fn drawn(input: &mut Input<'_>, live: &LoneNode) -> Message {
    use MessageType::*;
    let kinds = [
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
        MsgTimeoutNow,
    ];
    let (term, last, commit) = (live.summary().term.get(), live.last(), live.summary().commit.get());
    let kind = kinds[input.below(kinds.len())];
    let mut message = message(kind, PEERS[input.below(2)], around(input, term));
    if kind == MsgReadIndex && input.flag() {
        message.term = 0;
    }
    message.index = around(input, last);
    message.log_term = match live.own(message.index) {
        Some(own) if input.flag() => own.term,
        _ => around(input, term),
    };
    message.commit = around(input, commit);
    message.commit_term = if input.flag() { 0 } else { around(input, term) };
    message.reject = input.flag();
    message.reject_hint = if input.flag() { 0 } else { around(input, last) };
    if input.flag() {
        message.context = input.slice(16).to_vec().into();
    }
    let many = match kind {
        MsgAppend => input.below(5) as u64,
        MsgReadIndex | MsgReadIndexResp => 1,
        _ => 0,
    };
    let first = message.index.saturating_add(1);
    let mut entries = Vec::new();
    for index in (first..=u64::MAX).take(usize::try_from(many).expect("small")) {
        let same = live.own(index).filter(|_| input.flag());
        entries.push(same.unwrap_or_else(|| entry(index, around(input, term))));
    }
    message.set_entries(entries.into());
    message
}

/// A message as it comes out of a frame: what the decoder refuses never gets here.
fn framed(bytes: Vec<u8>) -> Option<Message> {
    let (frame, _) = Frame::decode(&bytes.into()).ok()?;
    let Frame::Raft(message) = frame else { return None };
    (PEERS.contains(&message.from) && message.to == ME).then_some(*message)
}

/// Feeds a node in some state a run of messages, its own clock's ticks and proposals. Says whether it took any message.
pub fn raft_step(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let mut live = LoneNode::new(State::ALL[input.below(State::ALL.len())]);
    let mut taken = false;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let message = match input.below(8) {
            0 => {
                let length = input.below(256);
                framed(input.slice(length).to_vec())
            }
            1 => {
                live.tick();
                continue;
            }
            2 => {
                let data = Bytes::copy_from_slice(input.slice(4));
                let _ = live.step(|core, out| core.propose(data, out));
                continue;
            }
            3 => {
                live.step(|core, out| core.read_index(vec![7; 16], out));
                continue;
            }
            _ => framed(Frame::Raft(Box::new(drawn(&mut input, &live))).encode(1).concat()),
        };
        let Some(message) = message else { continue };
        match live.judged(message) {
            Some(took) => taken |= took,
            // Nothing is heard of it any more.
            None => break,
        }
    }
    taken
}

/// Messages that a node takes, and such as none may, in each state.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (state, number) in State::ALL.into_iter().zip(0..) {
        let live = LoneNode::new(state);
        let (term, last) = (live.summary().term.get(), live.last());
        let frames = |messages: Vec<Message>| -> Vec<u8> {
            let framed = messages.into_iter().map(|message| Frame::Raft(Box::new(message)).encode(1).concat());
            let piece = |bytes: Vec<u8>| [&[0, u8::try_from(bytes.len()).expect("a small frame")], &bytes[..]].concat();
            [number].into_iter().chain(framed.flat_map(piece)).collect()
        };
        let mut append = message(MessageType::MsgAppend, PEERS[0], term + 1);
        (append.index, append.log_term) = (last, live.own(last).map_or(0, |own| own.term));
        append.set_entries(vec![entry(last + 1, term + 1)].into());
        let mut read = message(MessageType::MsgReadIndex, PEERS[1], 0);
        read.set_entries(vec![Entry { data: Bytes::from_static(&[7; 16]), ..Entry::default() }].into());
        let sound = frames(vec![append, message(MessageType::MsgHeartbeat, PEERS[0], term + 1), read]);
        let mut far = message(MessageType::MsgHeartbeat, PEERS[0], term + 1);
        far.commit = u64::MAX;
        let mut ahead = message(MessageType::MsgAppendResponse, PEERS[0], term.max(1));
        (ahead.index, ahead.commit) = (u64::MAX, u64::MAX);
        let wrong = frames(vec![
            message(MessageType::MsgHeartbeat, PEERS[0], 0),
            message(MessageType::MsgHeartbeat, PEERS[0], u64::MAX),
            far,
            ahead,
        ]);
        let name = format!("{state:?}").to_lowercase();
        seeds.push(Seed::new("raft_step", format!("{name}_sound"), &[&sound]));
        seeds.push(Seed::new("raft_step", format!("{name}_wrong"), &[&wrong]));
    }
    seeds
}
