//! What a frame says: the nodes are held to it.

use bytes::Bytes;
use converge_actors::replication::wire::{Error, Frame};
use converge_ledger_core::{LogIndex, Term};
use raft::eraftpb::MessageType;

/// What a frame says or promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
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
pub(super) fn said(payload: &Bytes) -> Result<Contents, Error> {
    let (frame, _) = Frame::decode(payload)?;
    let message = match frame {
        Frame::Raft(message) => message,
        Frame::Genesis { .. } => return Ok(Contents::Other("genesis")),
        Frame::Propose { .. } => return Ok(Contents::Other("propose")),
        Frame::NotProposed { .. } => return Ok(Contents::Other("not proposed")),
    };
    let (term, index) = (Term(message.term), LogIndex(message.index));
    let commit = LogIndex(message.commit);
    Ok(match message.get_msg_type() {
        MessageType::MsgAppend => {
            let last = LogIndex(message.index + message.entries.len() as u64);
            Contents::Append { term, after: index, last, commit }
        }
        MessageType::MsgAppendResponse => Contents::AppendAnswer { term, index, rejected: message.reject },
        MessageType::MsgHeartbeat => Contents::Heartbeat { term, commit },
        MessageType::MsgRequestVote => Contents::VoteRequest { term },
        MessageType::MsgRequestVoteResponse => Contents::VoteAnswer { term, granted: !message.reject },
        MessageType::MsgHeartbeatResponse => Contents::Other("heartbeat answer"),
        MessageType::MsgRequestPreVote => Contents::Other("pre-vote"),
        MessageType::MsgRequestPreVoteResponse => Contents::Other("pre-vote answer"),
        MessageType::MsgReadIndex => Contents::Other("read index"),
        MessageType::MsgReadIndexResp => Contents::Other("read index answer"),
        _ => Contents::Other("raft"),
    })
}
