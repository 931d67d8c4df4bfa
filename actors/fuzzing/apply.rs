//! Logs that no well-behaved node would write, against the plain model.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::testing::{Memory, Model};
use converge_ledger_core::{
    Append, Batch, Boot, Command, Condition, EMPTY_CHAIN, EntryId, FenceEpoch, Lamport, Load, NewEntry, NodeId,
    RaiseFence, Sequence, Stage, StagedEntry, Transact, TransactEntry,
};

use super::Input;

const CONTEXTS: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 2] = ["k", "l"];
/// Log entries of one run: a chain of the model costs as much as its context is long.
const BATCHES_MAX: usize = 64;

/// A log out of these bytes, applied to the ledger and to the model: every outcome is the same, and so is every
/// entry in the end. Applied again from the start, the log gives the same digest.
pub fn apply(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (mut memory, mut model) = (Memory::new(), Model::default());
    let mut log: Vec<Option<Batch>> = Vec::new();
    while !input.is_empty() && log.len() < BATCHES_MAX {
        let batch = entry(&mut input, &log, &model);
        let effects = memory.apply(batch.clone());
        if let Some(batch) = &batch {
            assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(batch), "a batch reads back as another");
            assert_eq!(effects.outcomes, model.apply(batch), "log entry {} is {batch:?}", memory.state.applied);
        }
        log.push(batch);
    }
    for context in CONTEXTS {
        assert_eq!(memory.entries(context), model.entries(context), "context {context}");
    }
    assert_eq!(memory.state.last_position.get(), model.positions);
    let mut again = Memory::new();
    log.into_iter().for_each(|batch| drop(again.apply(batch)));
    assert_eq!(again, memory, "the same log gives another state");
    memory.state.last_position.get() > 0
}

fn entry(input: &mut Input<'_>, log: &[Option<Batch>], model: &Model) -> Option<Batch> {
    match input.below(8) {
        0 => None,
        1 if !log.is_empty() => log[input.below(log.len())].clone(),
        kind => {
            let origin = NodeId(1 + input.below(2) as u64);
            // Mostly the boot that is.
            let boot = Boot(if kind == 2 { input.below(4) as u64 } else { 1 });
            let low_water = if kind == 3 { input.number() } else { 0 };
            let low_staging = if kind == 4 { input.number() } else { 0 };
            let commands = (0..input.below(6)).map(|_| command(input, model)).collect();
            Some(Batch { origin, boot, low_water, low_staging, commands })
        }
    }
}

fn command(input: &mut Input<'_>, model: &Model) -> Command {
    let kind = input.below(8);
    let counter = input.number();
    match kind {
        0 | 1 | 4 => Command::Append(append(input, counter)),
        2 => Command::Stage(stage(input, counter, model)),
        3 => Command::Load(load(input, counter, model)),
        5 => Command::Fence(fence(input, counter)),
        _ => Command::Transact(transact(input, counter, model)),
    }
}

fn context(input: &mut Input<'_>) -> String {
    CONTEXTS[input.below(CONTEXTS.len())].to_owned()
}

fn fence(input: &mut Input<'_>, counter: u64) -> RaiseFence {
    let context_id = context(input);
    RaiseFence { counter, context_id, epoch: input.flag().then(|| FenceEpoch(input.number())) }
}

/// Mostly with conditions that hold.
fn transact(input: &mut Input<'_>, counter: u64, model: &Model) -> Transact {
    let condition = |input: &mut Input<'_>| {
        let (what, context_id) = (input.byte(), context(input));
        let known = model.contexts.get(&context_id);
        let (latest, epoch) = known.map_or((0, 0), |known| (known.latest().get(), known.fence_epoch.get()));
        let due = |input: &mut Input<'_>, of: u8, actual| if what & of == of { input.number() } else { actual };
        let sequence = (what & 1 == 0).then(|| Sequence(due(input, 12, latest)));
        let fence_epoch = (what & 2 == 0).then(|| FenceEpoch(due(input, 48, epoch)));
        Condition { context_id, sequence, fence_epoch }
    };
    let idempotency_key = input.flag().then(|| KEYS[input.below(KEYS.len())].to_owned());
    let conditions = (0..input.below(3)).map(|_| condition(input)).collect();
    let count = input.below(4) as u128;
    let part = |nth: u128| {
        let Append { appended_at_ns, received_lamport, entry, .. } = append(input, counter);
        let id = EntryId(((nth << 64) | u128::from(counter)).to_be_bytes());
        TransactEntry { id, appended_at_ns, received_lamport, entry }
    };
    Transact { counter, idempotency_key, conditions, entries: (0..count).map(part).collect() }
}

fn append(input: &mut Input<'_>, counter: u64) -> Append {
    let what = input.byte();
    let some = |bit: u8| what & bit != 0;
    Append {
        counter,
        id: EntryId(u128::from(counter).to_be_bytes()),
        appended_at_ns: counter,
        idempotency_key: some(1).then(|| KEYS[input.below(KEYS.len())].to_owned()),
        expected_sequence: some(2).then(|| Sequence(input.number())),
        fence_epoch: some(32).then(|| FenceEpoch(input.number() % 4)),
        received_lamport: some(4).then(|| Lamport(input.number())),
        follows: some(16),
        entry: NewEntry {
            context_id: context(input),
            key: String::new(),
            payload: Bytes::copy_from_slice(input.slice(usize::from(what >> 6))),
            metadata: metadata(some(8)),
        },
    }
}

/// Mostly a sound one that goes on from where the context is, for a load to find.
fn stage(input: &mut Input<'_>, counter: u64, model: &Model) -> Stage {
    let what = input.byte();
    let load = input.number();
    let context_id = context(input);
    let known = model.contexts.get(&context_id);
    let (latest, chain) = known.map_or((0, EMPTY_CHAIN), |context| (context.latest().get(), context.chain()));
    let entry = |n: u64| StagedEntry {
        lamport: Lamport(u64::from(what) + n),
        id: EntryId((u128::from(counter) + u128::from(n)).to_be_bytes()),
        appended_at_ns: counter,
        key: String::new(),
        payload: Bytes::new(),
        metadata: metadata(n % 2 == 1),
    };
    let chunk = Stage {
        counter,
        load,
        context_id,
        first: Sequence(if what & 3 == 3 { input.number() } else { latest.saturating_add(1) }),
        base_chain: if what & 12 == 12 { [what; 32] } else { chain },
        chain: [what; 32],
        entries: (0..input.below(4) as u64).map(entry).collect(),
    };
    let chain = chunk.computed_chain().filter(|_| what & 48 != 48).unwrap_or([what; 32]);
    Stage { chain, ..chunk }
}

/// Mostly one whose base is where the context is, for any other is refused at once.
fn load(input: &mut Input<'_>, counter: u64, model: &Model) -> Load {
    let stage = input.number();
    let context_id = context(input);
    let what = input.byte();
    let known = model.contexts.get(&context_id);
    let latest = known.map_or(0, |context| context.latest().get());
    let chain = known.map_or(EMPTY_CHAIN, |context| context.chain());
    Load {
        counter,
        stage,
        context_id,
        base: Sequence(if what & 3 == 3 { input.number() } else { latest }),
        base_chain: if what & 12 == 12 { [what; 32] } else { chain },
        count: input.number(),
        fail_if_exists: what & 48 == 48,
    }
}

fn metadata(some: bool) -> BTreeMap<String, String> {
    some.then(|| ("name".to_owned(), "value".to_owned())).into_iter().collect()
}
