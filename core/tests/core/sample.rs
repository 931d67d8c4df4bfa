//! Values to test with: a few fixed ones, and strategies for all.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::{
    Append, Batch, Boot, Command, Condition, EMPTY_CHAIN, Entry, EntryId, FenceEpoch, Lamport, Load, NewEntry, NodeId,
    Position, RaiseFence, Sequence, Stage, StagedEntry, Transact, TransactEntry, snapshot,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn entry(context_id: &str, payload: &str) -> NewEntry {
    NewEntry {
        context_id: context_id.to_owned(),
        key: "facts".to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        metadata: BTreeMap::new(),
    }
}

pub(crate) fn append(counter: u64, context_id: &str, payload: &str) -> Append {
    Append {
        counter,
        id: EntryId(u128::from(counter).to_be_bytes()),
        appended_at_ns: 1_700_000_000_000_000_000 + counter,
        idempotency_key: None,
        expected_sequence: None,
        fence_epoch: None,
        received_lamport: None,
        follows: false,
        entry: entry(context_id, payload),
    }
}

pub(crate) fn batch(low_water: u64, commands: impl IntoIterator<Item = Command>) -> Batch {
    let (origin, boot, low_staging) = (NodeId(1), Boot(1), 0);
    Batch { origin, boot, low_water, low_staging, commands: commands.into_iter().collect() }
}

/// Sequences 1..=n of a context, as a snapshot gives them.
pub(crate) fn history(context_id: &str, n: u64) -> Vec<Entry> {
    let one = |n: u64| Entry {
        context_id: context_id.to_owned(),
        key: format!("key {}", n % 3),
        payload: Bytes::from(format!("payload {n}")),
        metadata: BTreeMap::from([("n".to_owned(), n.to_string())]),
        id: EntryId(u128::from(n + 1000).to_be_bytes()),
        sequence: Sequence(n),
        position: Position(0),
        appended_at_ns: 1_600_000_000_000_000_000 + n,
        lamport: Lamport(2 * n),
    };
    (1..=n).map(one).collect()
}

pub(crate) fn any_metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(".{0,4}", ".{0,8}", 0..4)
}

pub(crate) fn any_payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

prop_compose! {
    pub(crate) fn any_append()(
        (counter, id, appended_at_ns) in any::<(u64, [u8; 16], u64)>(),
        idempotency_key in option::of(".{0,8}"),
        expected in any::<Option<u64>>(),
        epoch in any::<Option<u64>>(),
        received in any::<Option<u64>>(),
        follows in any::<bool>(),
        context_id in ".{0,12}",
        key in ".{0,12}",
        payload in any_payload(),
        metadata in any_metadata(),
    ) -> Append {
        Append {
            counter,
            id: EntryId(id),
            appended_at_ns,
            idempotency_key,
            expected_sequence: expected.map(Sequence),
            fence_epoch: epoch.map(FenceEpoch),
            received_lamport: received.map(Lamport),
            follows,
            entry: NewEntry { context_id, key, payload, metadata },
        }
    }
}

/// The chunk of these entries of a context, from its start or out of its middle.
pub(crate) fn stage(counter: u64, load: u64, history: &[Entry], from: usize) -> Stage {
    let chain = snapshot::chain(history);
    let before = |n: usize| n.checked_sub(1).map_or(EMPTY_CHAIN, |last| chain[last]);
    Stage {
        counter,
        load,
        context_id: history[0].context_id.clone(),
        first: Sequence(from as u64 + 1),
        base_chain: before(from),
        chain: before(history.len()),
        entries: history[from..].iter().cloned().map(StagedEntry::from).collect(),
    }
}

prop_compose! {
    pub(crate) fn any_staged()(
        (lamport, id, appended_at_ns) in any::<(u64, [u8; 16], u64)>(),
        key in ".{0,12}",
        payload in any_payload(),
        metadata in any_metadata(),
    ) -> StagedEntry {
        StagedEntry { lamport: Lamport(lamport), id: EntryId(id), appended_at_ns, key, payload, metadata }
    }
}

prop_compose! {
    /// Mostly one that is what it says.
    pub(crate) fn any_stage()(
        (counter, load, first) in any::<(u64, u64, u64)>(),
        context_id in ".{0,12}",
        (base_chain, other) in any::<([u8; 32], [u8; 32])>(),
        entries in vec(any_staged(), 0..4),
        sound in prop::bool::weighted(0.8),
    ) -> Stage {
        let chunk = Stage { counter, load, context_id, first: Sequence(first), base_chain, chain: other, entries };
        let chain = chunk.computed_chain().filter(|_| sound).unwrap_or(other);
        Stage { chain, ..chunk }
    }
}

prop_compose! {
    pub(crate) fn any_load()(
        (counter, stage, base, count) in any::<(u64, u64, u64, u64)>(),
        context_id in ".{0,12}",
        base_chain in any::<[u8; 32]>(),
        fail_if_exists in any::<bool>(),
    ) -> Load {
        Load { counter, stage, context_id, base: Sequence(base), base_chain, count, fail_if_exists }
    }
}

prop_compose! {
    fn any_condition()(
        context_id in ".{0,12}",
        sequence in any::<Option<u64>>(),
        epoch in any::<Option<u64>>(),
    ) -> Condition {
        Condition { context_id, sequence: sequence.map(Sequence), fence_epoch: epoch.map(FenceEpoch) }
    }
}

prop_compose! {
    pub(crate) fn any_transact()(
        counter in any::<u64>(),
        idempotency_key in option::of(".{0,8}"),
        conditions in vec(any_condition(), 0..3),
        appends in vec(any_append(), 0..4),
    ) -> Transact {
        let part = |append: Append| {
            let Append { id, appended_at_ns, received_lamport, entry, .. } = append;
            TransactEntry { id, appended_at_ns, received_lamport, entry }
        };
        Transact { counter, idempotency_key, conditions, entries: appends.into_iter().map(part).collect() }
    }
}

prop_compose! {
    pub(crate) fn any_fence()(
        counter in any::<u64>(),
        context_id in ".{0,12}",
        epoch in any::<Option<u64>>(),
    ) -> RaiseFence {
        RaiseFence { counter, context_id, epoch: epoch.map(FenceEpoch) }
    }
}

pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any_append().prop_map(Command::Append),
        any_stage().prop_map(Command::Stage),
        any_load().prop_map(Command::Load),
        any_transact().prop_map(Command::Transact),
        any_fence().prop_map(Command::Fence),
    ]
}

prop_compose! {
    pub(crate) fn any_batch()(
        (origin, boot, low_water, low_staging) in any::<(u64, u64, u64, u64)>(),
        commands in vec(any_command(), 0..6),
    ) -> Batch {
        Batch { origin: NodeId(origin), boot: Boot(boot), low_water, low_staging, commands }
    }
}
