//! Sound inputs to begin with, written by this build's own encoders.

use bytes::Bytes;
use converge_ledger_core::snapshot::encode;
use converge_ledger_core::{Batch, NodeId, StoreId};
use raft::eraftpb::{self, Message, MessageType};

use super::sample::{Seed, batch, genesis, history, units};
use crate::replication::wire::{Frame, crosses_the_network};

/// Of all targets of this crate.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = frames();
    seeds.extend(batches());
    seeds.extend(snapshots());
    seeds.extend(logs());
    seeds.extend(crate::replication::fuzzing::seeds());
    seeds.extend(crate::distribution::fuzzing::seeds());
    seeds.extend(crate::distribution::calls::fuzzing::seeds());
    seeds.extend(crate::storage::fuzzing::seeds());
    seeds.extend(crate::storage::segments::fuzzing::seeds());
    seeds
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
        Seed::new("batch", "units", &[&[0], &units().encode()]),
        Seed::new("batch", "units_sealed", &[&[1], &units().encode()]),
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
    // A fence, then a transaction of two entries whose first condition holds and whose second does not.
    let units = [4, 0, 0, 2, 5, 1, 1, 0, 6, 2, 0, 2, 0, 1, 0, 1, 12, 5, 2, 0, 0, 0, 0];
    let mut seeds = vec![Seed::new("apply", "load", &[&load]), Seed::new("apply", "units", &[&units])];
    seeds.extend([37, 91, 173].map(|n| Seed::new("apply", format!("mixed_{n}"), &[&steps(n)])));
    seeds
}
