//! What a frame says, for those who watch nodes from outside: a simulator that holds them to it.

use bytes::Bytes;
use converge_ledger_core::{LogIndex, Term};
use raft::eraftpb::MessageType;

use super::wire::{Error, Frame};

/// What a frame says or promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A leader's entries behind `after`, up to `last`; it knows that `commit` is committed.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry in front of those sent.
        after: LogIndex,
        /// The last entry sent.
        last: LogIndex,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// A follower has everything up to `index` on its disk; or not, when it rejects.
    AppendAnswer {
        /// The follower's term.
        term: Term,
        /// The last entry of the follower that agrees.
        index: LogIndex,
        /// It does not agree.
        rejected: bool,
    },
    /// A leader is there.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// What the follower may take as committed.
        commit: LogIndex,
    },
    /// A candidate asks for a vote.
    VoteRequest {
        /// The term it wants to lead.
        term: Term,
    },
    /// An answer to a candidate.
    VoteAnswer {
        /// The term voted in.
        term: Term,
        /// The vote was given.
        granted: bool,
    },
    /// Anything else; promises nothing that must survive a crash.
    Other(&'static str),
}

/// Reads a frame as it travels.
///
/// # Errors
/// As the node that it goes to would say.
pub fn said(payload: &Bytes) -> Result<Said, Error> {
    let (frame, _) = Frame::decode(payload)?;
    let message = match frame {
        Frame::Raft(message) => message,
        Frame::Genesis { .. } => return Ok(Said::Other("genesis")),
        Frame::Propose { .. } => return Ok(Said::Other("propose")),
        Frame::NotProposed { .. } => return Ok(Said::Other("not proposed")),
    };
    let (term, index) = (Term(message.term), LogIndex(message.index));
    let commit = LogIndex(message.commit);
    Ok(match message.get_msg_type() {
        MessageType::MsgAppend => {
            let last = LogIndex(message.index + message.entries.len() as u64);
            Said::Append { term, after: index, last, commit }
        }
        MessageType::MsgAppendResponse => Said::AppendAnswer { term, index, rejected: message.reject },
        MessageType::MsgHeartbeat => Said::Heartbeat { term, commit },
        MessageType::MsgRequestVote => Said::VoteRequest { term },
        MessageType::MsgRequestVoteResponse => Said::VoteAnswer { term, granted: !message.reject },
        MessageType::MsgHeartbeatResponse => Said::Other("heartbeat answer"),
        MessageType::MsgRequestPreVote => Said::Other("pre-vote"),
        MessageType::MsgRequestPreVoteResponse => Said::Other("pre-vote answer"),
        MessageType::MsgReadIndex => Said::Other("read index"),
        MessageType::MsgReadIndexResp => Said::Other("read index answer"),
        _ => Said::Other("raft"),
    })
}
