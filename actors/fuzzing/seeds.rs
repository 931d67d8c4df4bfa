//! Sound inputs to begin with, written by this build's own encoders.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::snapshot::encode;
use converge_ledger_core::{
    Append, Batch, Boot, ClusterId, Command, EMPTY_CHAIN, Entry, EntryId, Lamport, Load, NewEntry, NodeId, Position,
    Sequence, Stage, StagedEntry, StoreId,
};
use raft::eraftpb::{self, Message, MessageType};

use crate::replication::wire::{Frame, crosses_the_network};
use crate::storage::Genesis;

/// One input of a target.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The target it is for.
    pub target: &'static str,
    /// What is in it.
    pub name: String,
    /// It.
    pub bytes: Vec<u8>,
}

impl Seed {
    /// Of these pieces, one behind the other.
    #[must_use]
    pub fn new(target: &'static str, name: impl Into<String>, pieces: &[&[u8]]) -> Self {
        Self { target, name: name.into(), bytes: pieces.concat() }
    }
}

/// Of all targets of this crate.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = frames();
    seeds.extend(batches());
    seeds.extend(snapshots());
    seeds.extend(logs());
    seeds.extend(crate::replication::fuzzing::seeds());
    seeds.extend(crate::distribution::fuzzing::seeds());
    seeds.extend(crate::storage::fuzzing::seeds());
    seeds
}

/// A cluster's birth certificate.
pub(crate) fn genesis() -> Genesis {
    let voters = (1..=3).map(|id| (NodeId(id.into()), StoreId([id; 16]))).collect();
    Genesis { cluster_id: ClusterId([1; 16]), group: 1, voters }
}

/// Bytes of a log entry with commands of every kind.
pub(crate) fn batch() -> Batch {
    let entry = NewEntry {
        context_id: "context".to_owned(),
        key: "key".to_owned(),
        payload: Bytes::from_static(b"payload"),
        metadata: BTreeMap::from([("name".to_owned(), "value".to_owned())]),
    };
    let append = |counter: u64, key: Option<&str>, expected: Option<u64>| {
        Command::Append(Append {
            counter,
            id: EntryId(u128::from(counter).to_be_bytes()),
            appended_at_ns: 1_700_000_000_000_000_000,
            idempotency_key: key.map(str::to_owned),
            expected_sequence: expected.map(Sequence),
            received_lamport: expected.map(Lamport),
            entry: entry.clone(),
        })
    };
    let stage = |counter: u64, sequence: u64| {
        let entry = |n: u64| StagedEntry::from(history(2).swap_remove(usize::from(n == 2)));
        let mut chunk = Stage {
            counter,
            load: 3,
            context_id: "loaded".to_owned(),
            first: Sequence(1),
            base_chain: EMPTY_CHAIN,
            chain: EMPTY_CHAIN,
            entries: vec![entry(1)],
        };
        chunk.chain = chunk.computed_chain().expect("it has its place");
        if sequence == 2 {
            (chunk.first, chunk.base_chain, chunk.entries) = (Sequence(2), chunk.chain, vec![entry(2)]);
            chunk.chain = chunk.computed_chain().expect("it has its place");
        }
        Command::Stage(chunk)
    };
    let load = Load {
        counter: 6,
        stage: 3,
        context_id: "loaded".to_owned(),
        base: Sequence(0),
        base_chain: EMPTY_CHAIN,
        count: 2,
        fail_if_exists: true,
    };
    let commands =
        vec![append(1, Some("once"), None), append(2, None, Some(1)), stage(4, 1), stage(5, 2), Command::Load(load)];
    Batch { origin: NodeId(1), boot: Boot(1), low_water: 1, low_staging: 1, commands }
}

fn history(n: u64) -> Vec<Entry> {
    let one = |n: u64| Entry {
        context_id: "context".to_owned(),
        key: "key".to_owned(),
        payload: Bytes::from(format!("payload {n}")),
        metadata: BTreeMap::from([("n".to_owned(), n.to_string())]),
        id: EntryId(u128::from(n).to_be_bytes()),
        sequence: Sequence(n),
        position: Position(0),
        appended_at_ns: 1_600_000_000_000_000_000 + n,
        lamport: Lamport(n),
    };
    (1..=n).map(one).collect()
}

fn frames() -> Vec<Seed> {
    let seed = |name: String, frame: Frame| Seed::new("peer_frame", name, &[&frame.encode(7).concat()]);
    let mut seeds = vec![
        seed("genesis".into(), Frame::Genesis { store_id: StoreId([1; 16]), genesis: Some(genesis()) }),
        seed("fresh".into(), Frame::Genesis { store_id: StoreId([1; 16]), genesis: None }),
        seed("propose".into(), Frame::Propose { token: 8, data: batch().encode() }),
        seed("not_proposed".into(), Frame::NotProposed { token: 8, hint: Some(NodeId(3)) }),
    ];
    let kinds = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
    ];
    for kind in kinds {
        assert!(crosses_the_network(kind), "{kind:?} has no form on the wire");
        seeds.push(seed(format!("{kind:?}"), Frame::Raft(Box::new(message(kind)))));
    }
    let mut gap = message(MessageType::MsgAppend);
    gap.mut_entries()[1].index += 1;
    seeds.push(seed("gap".into(), Frame::Raft(Box::new(gap))));
    seeds
}

fn message(kind: MessageType) -> Message {
    let count = match kind {
        MessageType::MsgAppend => 3,
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => 1,
        _ => 0,
    };
    let entry = |n: u64| eraftpb::Entry {
        term: 4,
        index: 42 + n,
        data: Bytes::from(format!("entry {n}")),
        ..eraftpb::Entry::default()
    };
    let mut message = Message { to: 2, from: 1, term: 9, log_term: 3, index: 41, commit: 40, ..Message::default() };
    message.set_msg_type(kind);
    message.context = vec![1, 2, 3].into();
    message.set_entries((0..count).map(entry).collect::<Vec<_>>().into());
    message
}

fn batches() -> Vec<Seed> {
    let (full, empty) = (batch().encode(), Batch { commands: Vec::new(), ..batch() }.encode());
    vec![
        Seed::new("batch", "all_commands", &[&[0], &full]),
        Seed::new("batch", "all_commands_sealed", &[&[1], &full]),
        Seed::new("batch", "no_commands", &[&[0], &empty]),
        Seed::new("batch", "no_commands_sealed", &[&[1], &empty]),
    ]
}

fn snapshots() -> Vec<Seed> {
    let seed = |name, mode: u8, bytes: &[u8]| Seed::new("snapshot", name, &[&[mode], bytes]);
    // A zstd frame of one block that repeats a byte 128 KiB long, which its header has as its size.
    let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 2, 0, 0x03, 0, 0x10, 0];
    vec![
        seed("three_entries", 0, &encode("context", &history(3), 1)),
        seed("empty", 0, &encode("context", &[], 1)),
        seed("bomb", 1, &[&[3, 255, 0, 0, 2, 0, 0, 0, 0, 0], &bomb[..]].concat()),
        seed("content", 2, b"\x01\x01entry"),
        seed("ours", 3, &[&[1, 0, 0, 4], &[3; 100][..]].concat()),
        seed("ours_damaged", 3, &[&[0, 90, 1, 4], &[3; 100][..]].concat()),
    ]
}

/// Sequences of draws; what they come to is decided by `apply`.
fn logs() -> Vec<Seed> {
    let steps = |seed: u8| -> Vec<u8> { (0..=255u8).map(|n| n.wrapping_mul(seed).rotate_left(3) ^ seed).collect() };
    // Two entries are staged, then loaded into the first context.
    let load = [4, 0, 0, 3, 2, 1, 7, 1, 1, 2, 2, 7, 2, 1, 3, 5, 7, 0, 0, 2];
    let mut seeds = vec![Seed::new("apply", "load", &[&load])];
    seeds.extend([37, 91, 173].map(|n| Seed::new("apply", format!("mixed_{n}"), &[&steps(n)])));
    seeds
}
