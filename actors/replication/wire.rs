//! What nodes say to each other, as bytes.
//!
//! A frame is a version byte, the length of a postcard header, the header, and the raw bytes of the log entries
//! or the batch that the header describes. Neither the network nor the disk ever carries protobuf: the Raft
//! crate's messages are translated here, field by field, so that its parser never sees hostile input.
//!
//! Every frame names its group and a tag of the genesis it was sent under, so that two clusters that happen to
//! share a name and node ids cannot mix, and several groups can share a link later without a new format.

use bytes::{Bytes, BytesMut};
use converge_ledger_core::{LogIndex, NodeId, StoreId, Term};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use serde::{Deserialize, Serialize};

use crate::storage::Genesis;

/// Version of the frame's layout, its first byte.
pub const FRAME_VERSION: u8 = 1;
/// The only group so far.
pub const GROUP: u64 = 1;
/// Longest header that is read; the entries of one message are bounded by the frame, this by their number.
const HEADER_BYTES_MAX: usize = 4 << 20;
const PREFIX: usize = 5;
/// A leader puts at most a mebibyte of entries into a message, of which each takes at least four bytes.
const ENTRIES_MAX: usize = (1 << 20) / 4;
/// Memory of a voter, at its place in a map.
const VOTER_BYTES: usize = 64;

/// Why a frame could not be read, or must not be acted on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the frame does.
    #[error("frame is truncated")]
    Truncated,
    /// A version that this build does not speak.
    #[error("frame version {0} is not spoken here (this build speaks {FRAME_VERSION}); upgrade the older node")]
    Version(u8),
    /// The header is not what it should be.
    #[error("frame header is malformed: {0}")]
    Malformed(&'static str),
}

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A message of the Raft protocol.
    Raft(Box<Message>),
    /// Who this node is, before and while a cluster is formed.
    Genesis {
        /// The sender's store.
        store_id: StoreId,
        /// The sender's genesis, once it has one.
        genesis: Option<Genesis>,
    },
    /// A batch for the leader.
    Propose {
        /// The sender's name for this hand-over, given back with a refusal.
        token: u64,
        /// The encoded batch.
        data: Bytes,
    },
    /// The batch of that token was not proposed, and will not be.
    NotProposed {
        /// The token of the refused hand-over.
        token: u64,
        /// Whom to ask instead.
        hint: Option<NodeId>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    group: u64,
    genesis: u64,
    body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
enum Body {
    Raft(RaftHeader),
    Genesis { store_id: StoreId, genesis: Option<Genesis> },
    Propose { token: u64 },
    NotProposed { token: u64, hint: Option<NodeId> },
}

#[derive(Debug, Serialize, Deserialize)]
struct RaftHeader {
    kind: u8,
    to: NodeId,
    from: NodeId,
    term: Term,
    log_term: Term,
    index: LogIndex,
    commit: LogIndex,
    commit_term: Term,
    reject: bool,
    reject_hint: u64,
    priority: i64,
    context: Vec<u8>,
    entries: Vec<EntryHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EntryHeader {
    kind: u8,
    term: Term,
    index: LogIndex,
    bytes: u32,
}

impl Frame {
    /// The frame as pieces to be written one after the other; entry bytes are not copied.
    #[must_use]
    pub fn encode(self, genesis: u64) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        let body = match self {
            Frame::Raft(message) => Body::Raft(raft_header(*message, &mut payloads)),
            Frame::Genesis { store_id, genesis } => Body::Genesis { store_id, genesis },
            Frame::Propose { token, data } => {
                payloads.push(data);
                Body::Propose { token }
            }
            Frame::NotProposed { token, hint } => Body::NotProposed { token, hint },
        };
        let header = postcard::to_stdvec(&Header { group: GROUP, genesis, body }).expect("a header encodes to memory");
        let mut head = BytesMut::with_capacity(PREFIX + header.len());
        head.extend_from_slice(&[FRAME_VERSION]);
        head.extend_from_slice(&u32::try_from(header.len()).expect("a header is bounded").to_le_bytes());
        head.extend_from_slice(&header);
        let mut pieces = vec![head.freeze()];
        pieces.extend(payloads.into_iter().filter(|p| !p.is_empty()));
        pieces
    }

    /// Reads a frame; payloads are slices of `bytes`. The number is the sender's genesis tag.
    ///
    /// # Errors
    /// [`Error`] for anything that is not a frame of this version. What is allocated is bounded by the bytes of the header
    /// and, where it describes entries without data, by their number: a few dozen MiB.
    pub fn decode(bytes: &Bytes) -> Result<(Frame, u64), Error> {
        let prefix = bytes.get(..PREFIX).ok_or(Error::Truncated)?;
        if prefix[0] != FRAME_VERSION {
            return Err(Error::Version(prefix[0]));
        }
        let length = u32::from_le_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(Error::Malformed("header is longer than any that is sent"));
        }
        let header = bytes.get(PREFIX..PREFIX + length).ok_or(Error::Truncated)?;
        let header: Header = postcard::from_bytes(header).map_err(|_| Error::Malformed("not a header"))?;
        if header.group != GROUP {
            return Err(Error::Malformed("unknown group"));
        }
        let rest = bytes.slice(PREFIX + length..);
        let frame = match header.body {
            Body::Raft(raft) => Frame::Raft(Box::new(raft_message(raft, rest)?)),
            Body::Propose { token } => Frame::Propose { token, data: rest },
            Body::Genesis { store_id, genesis } => no_rest(&rest, Frame::Genesis { store_id, genesis })?,
            Body::NotProposed { token, hint } => no_rest(&rest, Frame::NotProposed { token, hint })?,
        };
        Ok((frame, header.genesis))
    }
}

impl Frame {
    /// Memory it takes besides the bytes that it was read from: an entry without data has four of them.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Frame::Raft(message) => {
                size_of::<Message>() + message.context.len() + message.entries.len() * size_of::<Entry>()
            }
            Frame::Genesis { genesis, .. } => genesis.as_ref().map_or(0, |it| it.voters.len() * VOTER_BYTES),
            Frame::Propose { .. } | Frame::NotProposed { .. } => 0,
        }
    }
}

fn no_rest(rest: &Bytes, frame: Frame) -> Result<Frame, Error> {
    if rest.is_empty() { Ok(frame) } else { Err(Error::Malformed("bytes after the frame's end")) }
}

fn raft_header(mut message: Message, payloads: &mut Vec<Bytes>) -> RaftHeader {
    let entries = message
        .take_entries()
        .into_iter()
        .map(|mut entry| {
            let data = std::mem::take(&mut entry.data);
            let header = EntryHeader {
                kind: entry_code(entry.get_entry_type()),
                term: Term(entry.term),
                index: LogIndex(entry.index),
                bytes: u32::try_from(data.len()).expect("a Raft entry is bounded"),
            };
            payloads.push(data);
            header
        })
        .collect();
    RaftHeader {
        kind: message_code(message.get_msg_type()),
        to: NodeId(message.to),
        from: NodeId(message.from),
        term: Term(message.term),
        log_term: Term(message.log_term),
        index: LogIndex(message.index),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject,
        reject_hint: message.reject_hint,
        priority: message.priority,
        context: message.context.to_vec(),
        entries,
    }
}

fn raft_message(header: RaftHeader, mut rest: Bytes) -> Result<Message, Error> {
    let mut message = Message::default();
    let kind = message_kind(header.kind)?;
    if header.entries.len() > entries_max(kind) {
        return Err(Error::Malformed("more entries than its kind has"));
    }
    message.set_msg_type(kind);
    message.to = header.to.get();
    message.from = header.from.get();
    message.term = header.term.get();
    message.log_term = header.log_term.get();
    message.index = header.index.get();
    message.commit = header.commit.get();
    message.commit_term = header.commit_term.get();
    message.reject = header.reject;
    message.reject_hint = header.reject_hint;
    message.priority = header.priority;
    message.context = header.context.into();
    let mut entries = Vec::with_capacity(header.entries.len());
    for head in header.entries {
        if rest.len() < head.bytes as usize {
            return Err(Error::Truncated);
        }
        let mut entry = Entry::default();
        entry.set_entry_type(entry_kind(head.kind)?);
        entry.term = head.term.get();
        entry.index = head.index.get();
        entry.data = rest.split_to(head.bytes as usize);
        entries.push(entry);
    }
    if !rest.is_empty() {
        return Err(Error::Malformed("bytes after the last entry"));
    }
    // A gap, a falling term or a term of the future inside one message can come from no correct node.
    let mut previous = (header.index.get(), header.log_term.get());
    for entry in &entries {
        let carries_log = matches!(message.get_msg_type(), MessageType::MsgAppend);
        if carries_log
            && (Some(entry.index) != previous.0.checked_add(1) || entry.term < previous.1 || entry.term > message.term)
        {
            return Err(Error::Malformed("entries are not consecutive"));
        }
        previous = (entry.index, entry.term);
    }
    // A read's context is in its one entry; the crate takes it from there unseen.
    let reads = matches!(message.get_msg_type(), MessageType::MsgReadIndex | MessageType::MsgReadIndexResp);
    if reads && entries.len() != 1 {
        return Err(Error::Malformed("a read has one context"));
    }
    message.set_entries(entries.into());
    Ok(message)
}

/// Only these cross the network: local messages and snapshots never do.
const KINDS: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgHeartbeat),
    (6, MessageType::MsgHeartbeatResponse),
    (7, MessageType::MsgReadIndex),
    (8, MessageType::MsgReadIndexResp),
    (9, MessageType::MsgRequestPreVote),
    (10, MessageType::MsgRequestPreVoteResponse),
];
const TIMEOUT_NOW: u8 = 11;

/// Only an append carries entries of the log; a read's context is in its one entry.
fn entries_max(kind: MessageType) -> usize {
    match kind {
        MessageType::MsgAppend => ENTRIES_MAX,
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => 1,
        _ => 0,
    }
}

fn message_code(kind: MessageType) -> u8 {
    if kind == MessageType::MsgTimeoutNow {
        return TIMEOUT_NOW;
    }
    let found = KINDS.iter().find(|(_, k)| *k == kind);
    found.unwrap_or_else(|| panic!("a {kind:?} never leaves a node")).0
}

fn message_kind(code: u8) -> Result<MessageType, Error> {
    if code == TIMEOUT_NOW {
        return Ok(MessageType::MsgTimeoutNow);
    }
    let found = KINDS.iter().find(|(c, _)| *c == code);
    found.map(|(_, k)| *k).ok_or(Error::Malformed("unknown message kind"))
}

/// Whether the wire has a form for this kind of message.
#[must_use]
pub fn crosses_the_network(kind: MessageType) -> bool {
    kind == MessageType::MsgTimeoutNow || KINDS.iter().any(|(_, k)| *k == kind)
}

fn entry_code(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

fn entry_kind(code: u8) -> Result<EntryType, Error> {
    match code {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        _ => Err(Error::Malformed("unknown entry kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(pieces: Vec<Bytes>) -> Bytes {
        pieces.concat().into()
    }

    fn message(kind: MessageType, count: u64, payload: &[u8]) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.to, message.from, message.term) = (2, 1, 9);
        (message.log_term, message.index, message.commit) = (3, 41, 40);
        (message.reject, message.reject_hint, message.priority) = (true, 5, -1);
        message.context = vec![1, 2, 3].into();
        let entries: Vec<Entry> = (0..count)
            .map(|n| {
                let mut entry = Entry::default();
                (entry.term, entry.index) = (4, 42 + n);
                entry.data = Bytes::copy_from_slice(payload);
                entry
            })
            .collect();
        message.set_entries(entries.into());
        message
    }

    #[test]
    fn every_kind_that_crosses_survives_the_trip() {
        let timeout_now = (TIMEOUT_NOW, MessageType::MsgTimeoutNow);
        for (_, kind) in KINDS.into_iter().chain([timeout_now]) {
            let sent = Frame::Raft(Box::new(message(kind, entries_max(kind).min(3) as u64, b"payload")));
            let (got, tag) = Frame::decode(&flat(sent.clone().encode(77))).unwrap();
            assert_eq!((got, tag), (sent, 77));
        }
        let propose = Frame::Propose { token: 8, data: Bytes::from_static(b"batch") };
        assert_eq!(Frame::decode(&flat(propose.clone().encode(1))).unwrap().0, propose);
        let refused = Frame::NotProposed { token: 8, hint: Some(NodeId(3)) };
        assert_eq!(Frame::decode(&flat(refused.clone().encode(1))).unwrap().0, refused);
    }

    #[test]
    fn a_gap_between_entries_is_refused() {
        let mut gapped = message(MessageType::MsgAppend, 2, b"x");
        gapped.mut_entries()[1].index += 1;
        let bytes = flat(Frame::Raft(Box::new(gapped)).encode(1));
        assert_eq!(Frame::decode(&bytes), Err(Error::Malformed("entries are not consecutive")));
    }

    /// An entry without data takes four bytes of a header and some hundred of memory.
    #[test]
    fn more_entries_than_a_message_can_have_are_refused() {
        let refused = Err(Error::Malformed("more entries than its kind has"));
        let crowd = |kind, count| flat(Frame::Raft(Box::new(message(kind, count, b""))).encode(1));
        assert!(Frame::decode(&crowd(MessageType::MsgAppend, ENTRIES_MAX as u64)).is_ok());
        assert_eq!(Frame::decode(&crowd(MessageType::MsgAppend, ENTRIES_MAX as u64 + 1)), refused);
        assert_eq!(Frame::decode(&crowd(MessageType::MsgAppendResponse, 1)), refused);
        assert_eq!(Frame::decode(&crowd(MessageType::MsgReadIndex, 2)), refused);
    }

    #[test]
    fn an_entry_of_a_later_term_than_its_message_is_refused() {
        let mut forged = message(MessageType::MsgAppend, 1, b"x");
        forged.mut_entries()[0].term = 10;
        let bytes = flat(Frame::Raft(Box::new(forged)).encode(1));
        assert!(Frame::decode(&bytes).is_err());
    }

    #[test]
    fn a_read_without_its_context_is_refused() {
        for kind in [MessageType::MsgReadIndex, MessageType::MsgReadIndexResp] {
            let bytes = flat(Frame::Raft(Box::new(message(kind, 0, b""))).encode(1));
            assert!(Frame::decode(&bytes).is_err(), "the crate indexes into the entries of {kind:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn garbage_is_an_error_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), versioned: bool) {
            if versioned && !bytes.is_empty() { bytes[0] = FRAME_VERSION; }
            let _ = Frame::decode(&Bytes::from(bytes));
        }

        #[test]
        fn a_mutated_frame_is_an_error_or_a_frame(at in 0usize..400, to: u8, cut in 0usize..400) {
            let mut bytes = flat(Frame::Raft(Box::new(message(MessageType::MsgAppend, 4, b"payload"))).encode(1)).to_vec();
            let length = bytes.len();
            bytes[at % length] = to;
            bytes.truncate(length - cut % 3);
            let _ = Frame::decode(&Bytes::from(bytes));
        }
    }
}
