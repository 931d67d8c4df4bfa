//! What a peer's message may say, judged before the Raft crate sees it.
//!
//! The crate trusts its peers. A term of 0 makes a candidate forget its own, one of `u64::MAX` overflows at the next
//! campaign, a conflict with what is committed is a panic, and an append below the receiver's commit is answered with
//! "I have up to my commit" without comparing anything. So three questions are asked here first:
//!
//! - *Could a correct node say this?* If not, it is [`Objection::Bad`]: the Raft node stays as it was, the link is closed.
//! - *Is it still for this node's role?* If not, it is [`Objection::Late`], and dropped.
//! - *Does a leader's log agree with this one?* Whoever leads the current term, or a later one, has every committed
//!   entry. So what it says of an index up to this node's commit, or of one that this node has acknowledged to it, is
//!   what this node has; otherwise one of the two lost data, as after directories were put back from older copies, and
//!   it is [`Objection::DataLoss`]. A leader of an earlier term may have entries that were replaced since: it is not
//!   compared, and the crate does not act on it. Messages of the current leader that come late or twice agree as well.
//!   That holds while what is committed here was committed in this node's term or an earlier one: so the core takes no
//!   commit from a vote.
//!
//! After such a restoration a term may come a second time, and with it entries of the same index and term, but another
//! content. So content is compared, too: for entries that this node has already, and for the one in front of them by its
//! [check](super::history).

use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{Raft, StateRole, Storage};

use converge_ledger_core::planted::{self, Bug};

use super::history::{Histories, said_check};

/// A message whose term is further ahead is forged: with an election a second, this many take 136 years.
const TERMS_AHEAD_MAX: u64 = 1 << 32;
/// A message whose index is further ahead of the log is forged: with a million entries a second, this many take 8 years.
const INDEXES_AHEAD_MAX: u64 = 1 << 48;
/// Longest context of a read or an election. Ours have 16 bytes.
const CONTEXT_BYTES_MAX: usize = 64;

/// Why a message is not stepped. The Raft node is as it was before it.
#[derive(Debug, PartialEq)]
pub(crate) enum Objection {
    /// No correct node says this: the link is to be closed.
    Bad(&'static str),
    /// It was meant for what this node is not, or is no longer.
    Late,
    /// The sender leads, and its log proves that it or this node lost data: this node is to be fenced.
    DataLoss(String),
    /// The crate failed.
    Failed(raft::Error),
}

/// Judges a message of a voter. For an append that this node's log agrees with, gives the index up to which it does
/// once the message is stepped.
pub(super) fn judge<L: Storage>(
    raft: &Raft<L>,
    message: &Message,
    histories: &mut Histories,
) -> Result<Option<u64>, Objection> {
    plausible(raft, message)?;
    let of_this_term = message.term == raft.term;
    match message.get_msg_type() {
        // The crate would pass it on under its sender's name.
        MessageType::MsgReadIndex if raft.state != StateRole::Leader => Err(Objection::Late),
        MessageType::MsgReadIndex => Ok(None),
        // Of an earlier term: the crate acts on none of it, but tells the sender of the later one.
        _ if message.term < raft.term => Ok(None),
        MessageType::MsgAppend => {
            only_leader(raft, message)?;
            agrees(raft, message, histories)
        }
        MessageType::MsgHeartbeat => {
            only_leader(raft, message)?;
            has_acknowledged(raft, message, histories).map(|()| None)
        }
        MessageType::MsgReadIndexResp => {
            only_leader(raft, message)?;
            confirms(raft, message, histories).map(|()| None)
        }
        MessageType::MsgAppendResponse if of_this_term && raft.state == StateRole::Leader => {
            answers(raft, message).map(|()| None)
        }
        MessageType::MsgTimeoutNow if !of_this_term || raft.leader_id != message.from => Err(Objection::Late),
        MessageType::MsgRequestVoteResponse if !message.reject && !of_this_term => {
            Err(Objection::Bad("a vote for a term that this node has not asked for"))
        }
        MessageType::MsgRequestPreVoteResponse if !message.reject && message.term - raft.term > 1 => {
            Err(Objection::Bad("a pre-vote for a term that this node has not asked for"))
        }
        _ => Ok(None),
    }
}

/// Numbers that a correct node can come to, whatever happened.
fn plausible<L: Storage>(raft: &Raft<L>, message: &Message) -> Result<(), Objection> {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgReadIndex, MsgReadIndexResp, MsgRequestPreVote, MsgRequestVote,
    };
    let kind = message.get_msg_type();
    // Alone a read for the leader travels without a term.
    if (message.term == 0) != (kind == MsgReadIndex) {
        return Err(Objection::Bad("a term where there is none, or none where there is one"));
    }
    if message.term.saturating_sub(raft.term) > TERMS_AHEAD_MAX {
        return Err(Objection::Bad("a term further ahead than elections can bring it"));
    }
    let index_max = raft.raft_log.last_index().saturating_add(INDEXES_AHEAD_MAX);
    let hint = if kind == MsgAppendResponse { message.reject_hint } else { 0 };
    if [message.index, message.commit, hint].into_iter().any(|index| index > index_max) {
        return Err(Objection::Bad("an index further ahead than appends can bring it"));
    }
    if message.log_term > message.term || message.commit_term > message.term {
        return Err(Objection::Bad("an entry of a later term than its message"));
    }
    let of_nothing = message.commit == 0 && message.commit_term != 0;
    if of_nothing || (kind == MsgReadIndexResp && message.index == 0) {
        return Err(Objection::Bad("a commit of no entry"));
    }
    let votes = matches!(kind, MsgRequestVote | MsgRequestPreVote);
    // The crate takes an entry of term 0 for one that it has, wherever its log ends.
    let termless = kind == MsgAppend && message.entries.iter().any(|entry| entry.term == 0);
    if termless || ((votes || kind == MsgAppend) && (message.index == 0) != (message.log_term == 0)) {
        return Err(Objection::Bad("an entry without a term, or a term without an entry"));
    }
    let beyond = message.commit > message.index || message.commit_term > message.log_term;
    if votes && (message.log_term == message.term || beyond) {
        return Err(Objection::Bad("a candidate whose log is ahead of itself"));
    }
    let long = message.entries.iter().any(|entry| entry.data.len() > CONTEXT_BYTES_MAX);
    if message.context.len() > CONTEXT_BYTES_MAX || (kind != MsgAppend && long) {
        return Err(Objection::Bad("a context longer than any"));
    }
    if message.entries.iter().any(|entry| entry.get_entry_type() != EntryType::EntryNormal) {
        return Err(Objection::Bad("a change of members, which no node makes yet"));
    }
    Ok(())
}

/// A term has one leader: a second one shows that some node forgot its vote.
fn only_leader<L: Storage>(raft: &Raft<L>, message: &Message) -> Result<(), Objection> {
    let other = raft.state == StateRole::Leader || ![0, message.from].contains(&raft.leader_id);
    if message.term == raft.term && other {
        return Err(Objection::Bad("a second leader of this term"));
    }
    Ok(())
}

/// An append: the entry in front of it and its entries, as far as this node has them.
fn agrees<L: Storage>(raft: &Raft<L>, message: &Message, histories: &mut Histories) -> Result<Option<u64>, Objection> {
    if planted::is(Bug::HistoryUnchecked) {
        return Ok(None);
    }
    let (log, commit) = (&raft.raft_log, raft.raft_log.committed);
    if message.index > log.last_index() {
        return Ok(None);
    }
    let pairs = message.entries.iter().map(|entry| (entry.index, entry.term, Some(&entry.data)));
    for (index, term, data) in [(message.index, message.log_term, None)].into_iter().chain(pairs) {
        if index > log.last_index() {
            break;
        }
        let own = own_term(raft, index);
        match data {
            _ if own != term && index <= commit => return Err(differs(message, index, term, own)),
            // In front: the crate rejects the message. Within: it replaces all from here on.
            None if own != term => return Ok(None),
            Some(_) if own != term => break,
            None => same_check(raft, message, index, histories)?,
            Some(data) if histories.entry(log, index).data != *data => return Err(other_content(message, index)),
            Some(_) => {}
        }
    }
    // No overflow: an index is bounded above, and so is the number of entries.
    let last = message.index + message.entries.len() as u64;
    // Of one that starts below the commit the crate appends nothing: what is above stays what this node had.
    Ok(Some(if message.index < commit { last.min(commit) } else { last }))
}

/// A heartbeat: its commit is never above what this node has acknowledged to its sender.
fn has_acknowledged<L: Storage>(raft: &Raft<L>, message: &Message, histories: &mut Histories) -> Result<(), Objection> {
    let (index, last) = (message.commit, raft.raft_log.last_index());
    if index > last {
        return Err(Objection::DataLoss(format!(
            "node {} leads with commit {index}, which this node acknowledged, but its log ends at {last}: the tail was lost (an older copy of the directory?)",
            message.from
        )));
    }
    if message.commit_term == 0 || planted::is(Bug::HistoryUnchecked) {
        return Ok(());
    }
    match own_term(raft, index) {
        own if own != message.commit_term => Err(differs(message, index, message.commit_term, own)),
        _ => same_check(raft, message, index, histories),
    }
}

/// The answer to a read: its index is the leader's commit, and was committed in the leader's term.
fn confirms<L: Storage>(raft: &Raft<L>, message: &Message, histories: &mut Histories) -> Result<(), Objection> {
    let index = message.index;
    if index > raft.raft_log.last_index() || planted::is(Bug::HistoryUnchecked) {
        return Ok(());
    }
    match own_term(raft, index) {
        own if own == message.term => same_check(raft, message, index, histories),
        own if index <= raft.raft_log.committed => Err(differs(message, index, message.term, own)),
        _ => Ok(()),
    }
}

/// The answer to an append of this leader.
fn answers<L: Storage>(raft: &Raft<L>, message: &Message) -> Result<(), Objection> {
    if message.index > raft.raft_log.last_index() {
        return Err(Objection::Bad("an answer to an append that this leader has not sent"));
    }
    if message.reject && message.reject_hint > message.index {
        return Err(Objection::Bad("a rejection that points ahead of itself"));
    }
    Ok(())
}

fn own_term<L: Storage>(raft: &Raft<L>, index: u64) -> u64 {
    // Never taken for a conflict: whoever cannot read its log dies, and recovers it from disk.
    raft.raft_log.term(index).unwrap_or_else(|error| panic!("the log cannot be read: {error}"))
}

/// Compares what the sender says of the history up to this index, if it does, with the history here.
fn same_check<L: Storage>(
    raft: &Raft<L>,
    message: &Message,
    index: u64,
    histories: &mut Histories,
) -> Result<(), Objection> {
    let Some(theirs) = said_check(message).filter(|_| index > 0) else { return Ok(()) };
    if histories.check(&raft.raft_log, index) == theirs { Ok(()) } else { Err(other_content(message, index)) }
}

fn differs(message: &Message, index: u64, term: u64, own: u64) -> Objection {
    Objection::DataLoss(format!(
        "the log here differs from that of node {}, which leads term {}: entry {index} is of term {own} here and of term {term} there (copies of directories of different age?)",
        message.from, message.term
    ))
}

fn other_content(message: &Message, index: u64) -> Objection {
    Objection::DataLoss(format!(
        "the log here differs from that of node {}, which leads term {}: entry {index} has another content (copies of directories of different age?)",
        message.from, message.term
    ))
}

#[cfg(test)]
mod tests;
