//! What each state of a node does with messages that a correct peer never sends, and with those of a leader whose log is
//! another one.

use raft::eraftpb::{Entry, Message, MessageType};

use super::Objection;
use crate::replication::live::{LAST, LoneNode, PEERS, State, TERM, entry, message};

/// A leader's append after the entry at `after`, as the log of these runs has it.
fn append(term: u64, after: u64, entries: Vec<Entry>) -> Message {
    let mut append = message(MessageType::MsgAppend, PEERS[0], term);
    append.index = after;
    append.log_term = LoneNode::new(State::Restarted).own(after).map_or(0, |own| own.term);
    append.set_entries(entries.into());
    append
}

fn heartbeat(term: u64, commit: u64, commit_term: u64) -> Message {
    Message { commit, commit_term, ..message(MessageType::MsgHeartbeat, PEERS[0], term) }
}

fn answer(term: u64, index: u64) -> Message {
    Message { index, ..message(MessageType::MsgAppendResponse, PEERS[0], term) }
}

/// The node fences itself for this, and has said nothing.
fn fenced(live: &mut LoneNode, message: Message) {
    let result = live.feed(message.clone());
    assert!(matches!(result, Err(Objection::DataLoss(_))), "{result:?} of {message:?}");
    assert!(live.sent().is_empty());
}

/// What it acknowledges, if it does.
fn acknowledged(live: &mut LoneNode, message: Message) -> Option<u64> {
    live.feed(message).unwrap();
    let sent = live.sent();
    let answers = sent.iter().filter(|m| m.get_msg_type() == MessageType::MsgAppendResponse && !m.reject);
    answers.map(|m| m.index).next_back()
}

#[test]
fn a_leader_whose_log_differs_below_the_commit_is_proof_of_loss() {
    for state in [State::Restarted, State::Follower, State::PreCandidate] {
        // An entry, and the one in front of it.
        fenced(&mut LoneNode::new(state), append(TERM + 1, 2, vec![entry(3, TERM + 1)]));
        fenced(&mut LoneNode::new(state), Message { log_term: 2, ..append(TERM + 1, 2, Vec::new()) });
        // The same index and term, another content.
        let mut other = entry(4, 3);
        other.data = bytes::Bytes::from_static(b"other");
        fenced(&mut LoneNode::new(state), append(TERM + 1, 2, vec![entry(3, 3), other]));
        // What it has acknowledged.
        fenced(&mut LoneNode::new(state), heartbeat(TERM + 1, LAST + 1, TERM));
        fenced(&mut LoneNode::new(state), heartbeat(TERM + 1, 4, TERM));
        let mut read = message(MessageType::MsgReadIndexResp, PEERS[0], TERM + 1);
        (read.index, read.entries) = (4, vec![Entry::default()].into());
        fenced(&mut LoneNode::new(state), read);
    }
}

#[test]
fn the_check_of_a_leader_tells_histories_apart_where_index_and_term_do_not() {
    // What node 1 says as a leader of what it has …
    let mut leader = LoneNode::new(State::Leader);
    leader.step(|core, out| core.propose(bytes::Bytes::from_static(b"x"), out)).unwrap();
    let said = leader.sent().into_iter().find(|m| m.get_msg_type() == MessageType::MsgAppend).unwrap();
    assert_eq!((said.index, said.log_term), (LAST + 1, TERM + 1), "the empty entry of its term is in front");
    assert_ne!(said.reject_hint, 0);
    let to_me = |message: &Message| Message { from: PEERS[0], to: 1, ..message.clone() };
    let empty = |index| Entry { index, term: TERM + 1, ..Entry::default() };
    // … is what a follower with the same log compares with its own.
    let mut same = LoneNode::new(State::Restarted);
    assert_eq!(acknowledged(&mut same, append(TERM + 1, LAST, vec![empty(LAST + 1)])), Some(LAST + 1));
    assert_eq!(acknowledged(&mut same, to_me(&said)), Some(LAST + 2));
    // One that has other content before the same empty entry, of the same term, sees that.
    let mut other = LoneNode::new(State::Restarted);
    let changed = Entry { data: bytes::Bytes::from_static(b"other"), ..entry(LAST, TERM + 1) };
    other.feed(append(TERM + 1, LAST - 1, vec![changed])).unwrap();
    other.feed(Message { log_term: TERM + 1, ..append(TERM + 1, LAST, vec![empty(LAST + 1)]) }).unwrap();
    other.sent();
    fenced(&mut other, to_me(&said));
}

#[test]
fn what_is_late_or_comes_twice_fences_nobody() {
    let mut live = LoneNode::new(State::Follower);
    let first = append(TERM, LAST, vec![entry(LAST + 1, TERM), entry(LAST + 2, TERM)]);
    assert_eq!(acknowledged(&mut live, first.clone()), Some(LAST + 2));
    assert_eq!(acknowledged(&mut live, first.clone()), Some(LAST + 2));
    live.feed(heartbeat(TERM, LAST + 2, TERM)).unwrap();
    assert_eq!(acknowledged(&mut live, first), Some(LAST + 2));
    live.feed(heartbeat(TERM, 2, 1)).unwrap();
    // A later leader, then what an earlier one had sent: its entries have been replaced.
    live.feed(heartbeat(TERM + 2, 0, 0)).unwrap();
    live.feed(append(TERM - 1, 2, vec![entry(3, TERM - 1)])).unwrap();
    live.feed(heartbeat(TERM - 1, LAST + 9, TERM - 1)).unwrap();
    assert_eq!(live.summary().commit.get(), LAST + 2);
}

#[test]
fn what_is_not_committed_may_be_replaced() {
    let mut live = LoneNode::new(State::Restarted);
    assert_eq!(acknowledged(&mut live, append(TERM + 1, LAST - 1, vec![entry(LAST, TERM + 1)])), Some(LAST));
    assert_eq!(live.own(LAST).unwrap().term, TERM + 1);
}

#[test]
fn an_acknowledgement_claims_no_more_than_was_compared() {
    let mut live = LoneNode::new(State::Restarted);
    // The crate would say that it has all up to its commit, of which this leader has shown two entries.
    assert_eq!(acknowledged(&mut live, append(TERM + 1, 1, vec![entry(2, 1)])), Some(2));
    assert_eq!(acknowledged(&mut live, append(TERM + 1, 2, vec![entry(3, 3), entry(4, 3)])), Some(4));
    fenced(&mut live, append(TERM + 1, 4, vec![entry(5, TERM + 1)]));
}

#[test]
fn what_was_not_appended_is_not_claimed_later() {
    let mut live = LoneNode::new(State::Restarted);
    // It starts below the commit: the crate appends nothing, and this node keeps its own last entry.
    let below = append(TERM + 1, LAST - 2, vec![live.own(LAST - 1).unwrap(), entry(LAST, TERM + 1)]);
    assert_eq!(acknowledged(&mut live, below), Some(LAST - 1));
    assert_eq!(live.own(LAST).unwrap().term, TERM);
    // Once the commit is higher, the crate would answer with that.
    live.feed(heartbeat(TERM + 1, LAST, 0)).unwrap();
    assert_eq!(acknowledged(&mut live, append(TERM + 1, 1, vec![entry(2, 1)])), Some(LAST - 1));
}

#[test]
fn the_commit_of_a_vote_is_not_taken() {
    // Of the answer to a candidate, …
    let mut live = LoneNode::new(State::PreCandidate);
    let rejected = message(MessageType::MsgRequestPreVoteResponse, PEERS[0], TERM);
    live.feed(Message { reject: true, commit: LAST, commit_term: TERM, ..rejected }).unwrap();
    assert_eq!(live.summary().commit.get(), LAST - 1);
    // … and of one that asks, is behind, and asks for a term that this node does not come to by it: a leader of an
    // earlier one may still be heard.
    for kind in [MessageType::MsgRequestPreVote, MessageType::MsgRequestVote] {
        let mut live = LoneNode::new(State::Follower);
        live.feed(append(TERM, LAST, vec![entry(LAST + 1, TERM)])).unwrap();
        (0..12).for_each(|_| live.tick());
        let (index, log_term) = (LAST, TERM);
        let asks = message(kind, PEERS[1], TERM + 4);
        live.feed(Message { index, log_term, commit: LAST, commit_term: TERM, ..asks }).unwrap();
        assert!(live.sent().iter().any(|message| message.reject), "the candidate's log is behind");
        assert_eq!(live.summary().commit.get(), LAST - 1, "{kind:?}");
    }
}

#[test]
fn numbers_that_no_node_comes_to_are_refused_in_every_state() {
    let with = |kind, term, change: &dyn Fn(&mut Message)| {
        let mut made = message(kind, PEERS[0], term);
        change(&mut made);
        made
    };
    use MessageType::*;
    for state in State::ALL {
        let term = LoneNode::new(state).summary().term.get();
        let later = term + 1;
        let far = |m: &mut Message| (m.index, m.commit, m.log_term) = (u64::MAX, u64::MAX, 1);
        let forged = [
            message(MsgHeartbeat, PEERS[0], 0),
            message(MsgRequestVote, PEERS[0], 0),
            message(MsgAppendResponse, PEERS[0], u64::MAX),
            message(MsgRequestVote, PEERS[0], u64::MAX),
            heartbeat(later, u64::MAX, 1),
            heartbeat(later, 1, later + 1),
            with(MsgAppend, later, &far),
            with(MsgAppendResponse, later, &far),
            with(MsgRequestVote, later, &far),
            with(MsgRequestPreVote, later, &far),
            with(MsgReadIndexResp, later, &far),
            with(MsgAppend, later, &|m| m.index = 1),
            with(MsgAppend, later, &|m| m.set_entries(vec![entry(1, 0)].into())),
            with(MsgReadIndexResp, later, &|_| {}),
            heartbeat(later, 0, 1),
            with(MsgRequestVote, later, &|m| (m.index, m.log_term) = (1, later)),
            with(MsgRequestVote, later, &|m| (m.index, m.log_term, m.commit) = (1, 1, 2)),
            with(MsgHeartbeat, later, &|m| m.context = vec![1; 1000].into()),
            with(MsgReadIndex, later, &|m| m.set_entries(vec![Entry::default()].into())),
            message(MsgRequestVoteResponse, PEERS[0], later + 1),
            message(MsgRequestPreVoteResponse, PEERS[0], later + 1),
        ];
        for message in forged {
            let mut live = LoneNode::new(state);
            let before = live.summary();
            let result = live.feed(message.clone());
            assert!(matches!(result, Err(Objection::Bad(_))), "{state:?}: {result:?} of {message:?}");
            assert_eq!(live.summary(), before);
            assert!(live.sent().is_empty());
        }
    }
}

#[test]
fn a_leader_takes_no_answer_to_what_it_has_not_sent_and_no_second_leader() {
    for state in [State::Leader, State::Ahead] {
        let term = LoneNode::new(state).summary().term.get();
        let ahead = Message { reject: true, reject_hint: LAST + 1, ..answer(term, LAST) };
        for message in [answer(term, LAST + 2), ahead, heartbeat(term, 0, 0), append(term, LAST, Vec::new())] {
            let mut live = LoneNode::new(state);
            let result = live.feed(message);
            assert!(matches!(result, Err(Objection::Bad(_))), "{state:?}: {result:?}");
        }
    }
    let mut live = LoneNode::new(State::Follower);
    let second = Message { from: PEERS[1], ..heartbeat(TERM, 0, 0) };
    assert!(matches!(live.feed(second), Err(Objection::Bad(_))));
}

#[test]
fn what_is_for_another_role_is_dropped() {
    let mut live = LoneNode::new(State::Follower);
    let mut read = message(MessageType::MsgReadIndex, PEERS[1], 0);
    read.set_entries(vec![Entry::default()].into());
    assert_eq!(live.feed(read), Err(Objection::Late));
    assert_eq!(live.feed(message(MessageType::MsgTimeoutNow, PEERS[1], TERM)), Err(Objection::Late));
    assert!(live.sent().is_empty());
}
