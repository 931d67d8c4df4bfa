//! An input of a target, and what many of them are made of.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::{
    Append, Batch, Boot, ClusterId, Command, Condition, EMPTY_CHAIN, Entry, EntryId, FenceEpoch, KEY_WINDOW_DEFAULT,
    Lamport, Load, NewEntry, NodeId, Position, RaiseFence, Sequence, Stage, StagedEntry, StoreId, Transact,
    TransactEntry,
};

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

/// A cluster's birth certificate.
pub(crate) fn genesis() -> Genesis {
    let voters = (1..=3).map(|id| (NodeId(id.into()), StoreId([id; 16]))).collect();
    Genesis { cluster_id: ClusterId([1; 16]), group: 1, voters, key_window: KEY_WINDOW_DEFAULT }
}

/// Bytes of a log entry with appends and a load.
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
            fence_epoch: None,
            received_lamport: expected.map(Lamport),
            follows: false,
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

/// Bytes of a log entry with a transaction, and with fences.
pub(crate) fn units() -> Batch {
    let part = |n: u64, context_id: &str| TransactEntry {
        id: EntryId(u128::from(n).to_be_bytes()),
        appended_at_ns: 1_700_000_000_000_000_000,
        received_lamport: (n == 2).then_some(Lamport(300)),
        entry: NewEntry {
            context_id: context_id.to_owned(),
            key: "key".to_owned(),
            payload: Bytes::from_static(b"payload"),
            metadata: BTreeMap::new(),
        },
    };
    let transact = Transact {
        counter: 2,
        idempotency_key: Some("once".to_owned()),
        conditions: vec![
            Condition { context_id: "a".to_owned(), sequence: Some(Sequence(0)), fence_epoch: None },
            Condition { context_id: "b".to_owned(), sequence: None, fence_epoch: Some(FenceEpoch(300)) },
        ],
        entries: vec![part(1, "a"), part(2, "b")],
    };
    let fence = |counter, epoch: Option<u64>| {
        Command::Fence(RaiseFence { counter, context_id: "b".to_owned(), epoch: epoch.map(FenceEpoch) })
    };
    let commands = vec![fence(1, Some(300)), Command::Transact(transact), fence(3, None)];
    Batch { origin: NodeId(1), boot: Boot(1), low_water: 1, low_staging: 1, commands }
}

/// Entries of a context, the first `n`.
pub(super) fn history(n: u64) -> Vec<Entry> {
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
