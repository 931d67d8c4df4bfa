//! Apply against the plain model, on logs that no well-behaved node would write.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use converge_ledger_core::codec::{decode_keyed, encode_keyed};
use converge_ledger_core::testing::{Memory, Model};
use converge_ledger_core::{
    Append, Batch, Boot, Command, Condition, EntryId, FenceEpoch, Head, Lamport, Load, LogIndex, NewEntry, NodeId,
    Outcome, Position, RaiseFence, Refusal, Sequence, Transact, TransactEntry,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use crate::sample::{any_append, any_fence, any_load, any_stage, any_transact, history, stage};

/// Steps after which every node boots again.
const STEPS_PER_BOOT: usize = 15;
/// Counters of loads and stages lie above those of appends.
const LOAD_COUNTERS: u64 = 1000;

/// What happens next, to be made concrete by what happened so far.
#[derive(Clone, Debug)]
enum EntryPlan {
    /// An entry of the log without commands.
    Empty,
    /// New calls, or some with counters that were there before.
    Appends { origin: u64, older_boot: bool, low_water: u64, low_staging: u64, appends: Vec<Append> },
    /// Transactions of such entries, and fences.
    Units { origin: u64, units: Vec<Unit> },
    /// The transactions of an earlier log entry, as new attempts.
    Retry { which: Index },
    /// An earlier log entry again, with its commands turned around or as they were.
    Again { which: Index, reversed: bool },
    /// The parts of a load that adds so many entries to a context.
    Stages { origin: u64, context: &'static str, more: u64, split: bool },
    /// One of the loads whose parts were staged.
    Load { which: Index, flaw: Flaw },
}

/// A transaction or a fence.
#[derive(Clone, Debug)]
enum Unit {
    Transact { counter: u64, key: Option<String>, conditions: Vec<Condition>, entries: Vec<Append> },
    Fence(RaiseFence),
}

/// What is wrong with a load.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    /// Nothing, unless the context moved since its parts were staged.
    None,
    /// Nothing: it was adapted to where the context is.
    Retried,
    Chain,
    Count,
    Exists,
}

/// No two attempts give an entry the same.
fn entry_id(origin: NodeId, boot: Boot, counter: u64, nth: u8) -> EntryId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&[origin.get() as u8, boot.get() as u8, counter as u8, nth]);
    EntryId(id)
}

fn command(origin: NodeId, boot: Boot, unit: Unit) -> Command {
    let (counter, key, conditions, entries) = match unit {
        Unit::Transact { counter, key, conditions, entries } => (counter, key, conditions, entries),
        Unit::Fence(fence) => return Command::Fence(fence),
    };
    let part = |(nth, append): (u8, Append)| TransactEntry {
        id: entry_id(origin, boot, counter, nth),
        appended_at_ns: append.appended_at_ns,
        received_lamport: append.received_lamport,
        entry: append.entry,
    };
    let entries = (0..).zip(entries).map(part).collect();
    Command::Transact(Transact { counter, idempotency_key: key, conditions, entries })
}

fn any_context() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

prop_compose! {
    fn few_appends()(
        counter in 0u64..24,
        idempotency_key in option::of("[kl]"),
        expected in option::weighted(0.3, 0u64..5),
        epoch in option::weighted(0.2, 0u64..3),
        follows in prop::bool::weighted(0.4),
        received in option::of(prop_oneof![0u64..30, Just(u64::MAX)]),
        context_id in any_context(),
        payload in "[xy]",
    ) -> Append {
        Append {
            counter,
            id: EntryId::default(),
            appended_at_ns: counter,
            idempotency_key,
            expected_sequence: expected.map(Sequence),
            fence_epoch: epoch.map(FenceEpoch),
            received_lamport: received.map(Lamport),
            follows,
            entry: NewEntry {
                context_id: context_id.to_owned(),
                key: String::new(),
                payload: Bytes::from(payload),
                metadata: BTreeMap::new(),
            },
        }
    }
}

fn few_conditions() -> impl Strategy<Value = Vec<Condition>> {
    let one = (any_context(), option::weighted(0.7, 0u64..6), option::weighted(0.3, 0u64..3)).prop_map(
        |(context_id, sequence, epoch)| Condition {
            context_id: context_id.to_owned(),
            sequence: sequence.map(Sequence),
            fence_epoch: epoch.map(FenceEpoch),
        },
    );
    vec(one, 0..3)
}

fn any_unit() -> impl Strategy<Value = Unit> {
    let transact = (0u64..24, option::of("[kl]"), few_conditions(), vec(few_appends(), 0..4))
        .prop_map(|(counter, key, conditions, entries)| Unit::Transact { counter, key, conditions, entries });
    let fence = (0u64..24, any_context(), option::of(prop_oneof![0u64..4, Just(u64::MAX)])).prop_map(
        |(counter, context_id, epoch)| {
            let (context_id, epoch) = (context_id.to_owned(), epoch.map(FenceEpoch));
            Unit::Fence(RaiseFence { counter, context_id, epoch })
        },
    );
    prop_oneof![4 => transact, 1 => fence]
}

fn any_step() -> impl Strategy<Value = EntryPlan> {
    let flaw = prop_oneof![
        3 => Just(Flaw::None),
        3 => Just(Flaw::Retried),
        1 => Just(Flaw::Chain),
        1 => Just(Flaw::Count),
        1 => Just(Flaw::Exists),
    ];
    let low_water = prop_oneof![3 => Just(0u64), 1 => 0u64..20, 1 => 0u64..LOAD_COUNTERS + 40];
    prop_oneof![
        1 => Just(EntryPlan::Empty),
        4 => (1u64..3, prop::bool::weighted(0.1), low_water.clone(), low_water, vec(few_appends(), 0..5)).prop_map(
            |(origin, older_boot, low_water, low_staging, appends)| {
                EntryPlan::Appends { origin, older_boot, low_water, low_staging, appends }
            }
        ),
        3 => (1u64..3, vec(any_unit(), 0..4)).prop_map(|(origin, units)| EntryPlan::Units { origin, units }),
        2 => any::<Index>().prop_map(|which| EntryPlan::Retry { which }),
        2 => any::<(Index, bool)>().prop_map(|(which, reversed)| EntryPlan::Again { which, reversed }),
        2 => (1u64..3, any_context(), 0u64..4, any::<bool>()).prop_map(
            |(origin, context, more, split)| EntryPlan::Stages { origin, context, more, split }
        ),
        3 => (any::<Index>(), flaw).prop_map(|(which, flaw)| EntryPlan::Load { which, flaw }),
    ]
}

/// The ledger, the model beside it, and what the nodes know that write the log.
#[derive(Default)]
struct Comparison {
    memory: Memory,
    model: Model,
    /// Loads whose parts were staged, with their origin and boot.
    loads: Vec<(NodeId, Boot, Load)>,
    counter: u64,
    seen: BTreeSet<&'static str>,
}

impl Comparison {
    fn step(&mut self, at: usize, step: EntryPlan) {
        let boot = Boot(1 + (at / STEPS_PER_BOOT) as u64);
        match step {
            EntryPlan::Empty => drop(self.memory.apply(None)),
            EntryPlan::Appends { origin, older_boot, low_water, low_staging, appends } => {
                let boot = if older_boot { Boot(boot.get() - 1) } else { boot };
                self.appends(NodeId(origin), boot, (low_water, low_staging), appends);
            }
            EntryPlan::Units { origin, units } => {
                let origin = NodeId(origin);
                let commands = units.into_iter().map(|unit| command(origin, boot, unit)).collect();
                self.apply(Batch { origin, boot, low_water: 0, low_staging: 0, commands });
            }
            EntryPlan::Retry { which } => self.retry(which, boot),
            EntryPlan::Again { which, reversed } => self.again(which, reversed),
            EntryPlan::Stages { origin, context, more, split } => {
                self.stages(NodeId(origin), boot, context, more, split);
            }
            EntryPlan::Load { which, flaw } if !self.loads.is_empty() => self.load(which, flaw),
            EntryPlan::Load { .. } => {}
        }
    }

    fn appends(&mut self, origin: NodeId, boot: Boot, marks: (u64, u64), appends: Vec<Append>) {
        let named = |append: Append| {
            let id = entry_id(origin, boot, append.counter, 0);
            Command::Append(Append { id, ..append })
        };
        let commands = appends.into_iter().map(named).collect();
        let (low_water, low_staging) = marks;
        self.apply(Batch { origin, boot, low_water, low_staging, commands });
    }

    fn retry(&mut self, which: Index, boot: Boot) {
        let log: Vec<_> = self.memory.rows.log.values().flatten().cloned().collect();
        if log.is_empty() {
            return;
        }
        let Batch { origin, commands, .. } = which.get(&log).clone();
        let transacts = commands.into_iter().filter_map(|command| match command {
            Command::Transact(transact) => Some(transact),
            _ => None,
        });
        let again = |(nth, transact): (u64, Transact)| {
            let counter = self.counter + LOAD_COUNTERS + 1 + nth;
            let named = |(nth, part): (u8, TransactEntry)| {
                // As a node names them that takes the call a second time.
                let mut id = entry_id(origin, boot, counter, nth);
                id.0[4..12].copy_from_slice(&counter.to_be_bytes());
                TransactEntry { id, ..part }
            };
            let entries = (0..).zip(transact.entries).map(named).collect();
            Command::Transact(Transact { counter, entries, ..transact })
        };
        let commands: Vec<_> = (0..).zip(transacts).map(again).collect();
        self.counter += commands.len() as u64;
        self.apply(Batch { origin, boot, low_water: 0, low_staging: 0, commands });
    }

    fn again(&mut self, which: Index, reversed: bool) {
        let log: Vec<_> = self.memory.rows.log.values().flatten().cloned().collect();
        if log.is_empty() {
            return;
        }
        let mut batch = which.get(&log).clone();
        if reversed {
            batch.commands.reverse();
        }
        self.apply(batch);
    }

    fn next_counter(&mut self) -> u64 {
        self.counter += 1;
        LOAD_COUNTERS + self.counter
    }

    fn stages(&mut self, origin: NodeId, boot: Boot, context: &str, more: u64, split: bool) {
        let there = self.model.entries(context).to_vec();
        let base = Sequence(there.len() as u64);
        let base_chain = self.model.contexts.get(context).map_or([0; 32], |there| there.chain());
        // Also an entry that the context has already, which is ignored.
        let from = there.len().saturating_sub(1);
        let all = [there, history(context, base.get() + more).split_off(base.get() as usize)].concat();
        let load = self.next_counter();
        // One entry, then two, and again: a load from the middle of a chunk is not what the chunks hold.
        let sizes = [1, 2].into_iter().cycle().scan(from, |at, size| {
            let start = *at;
            *at += size;
            (start < all.len()).then(|| start..(start + size).min(all.len()))
        });
        let mut commands: Vec<_> = sizes
            .map(|range| Command::Stage(stage(self.next_counter(), load, &all[..range.end], range.start)))
            .collect();
        if split {
            let commands = commands.split_off(commands.len() / 2);
            self.apply(Batch { origin, boot, low_water: 0, low_staging: 0, commands });
        }
        self.apply(Batch { origin, boot, low_water: 0, low_staging: 0, commands });
        let context_id = context.to_owned();
        let (stage, counter, count, fail_if_exists) = (load, load, more, false);
        let load = Load { counter, stage, context_id, base, base_chain, count, fail_if_exists };
        self.loads.push((origin, boot, load));
    }

    fn load(&mut self, which: Index, flaw: Flaw) {
        let (origin, boot, mut load) = which.get(&self.loads).clone();
        let context = self.model.contexts.get(&load.context_id).cloned().unwrap_or_default();
        if !matches!(flaw, Flaw::None) {
            load.counter = self.next_counter();
        }
        match flaw {
            Flaw::None => {}
            Flaw::Retried => {
                let end = load.base.get() + load.count;
                load.base = context.latest();
                load.base_chain = context.chain();
                load.count = end.saturating_sub(load.base.get());
            }
            Flaw::Chain => load.base_chain[0] ^= 1,
            Flaw::Count => load.count += 1,
            Flaw::Exists => load.fail_if_exists = true,
        }
        self.apply(Batch { origin, boot, low_water: 0, low_staging: 0, commands: vec![Command::Load(load)] });
    }

    fn apply(&mut self, batch: Batch) {
        let expected = self.model.apply(&batch);
        let effects = self.memory.apply(Some(batch));
        assert_eq!(effects.outcomes, expected);
        self.seen.extend(expected.iter().map(name));
    }

    fn check(&self) {
        let names: Vec<_> = self.memory.rows.heads.keys().collect();
        assert_eq!(names, self.model.contexts.keys().collect::<Vec<_>>());
        for (name, context) in &self.model.contexts {
            assert_eq!(self.memory.entries(name), context.entries);
            let head = self.memory.rows.heads[name];
            assert_eq!((head.number, head.latest), (context.number, context.latest()));
            assert_eq!(head.fence_epoch, context.fence_epoch);
            assert_eq!(Head::decode(name, &head.encode(name)), Ok(head));
            assert_eq!(head.chain, context.chain());
            let sequences = context.entries.iter().map(|entry| entry.sequence.get());
            assert!(sequences.eq(1..=context.entries.len() as u64));
        }
        let entries = || self.model.contexts.values().flat_map(|context| &context.entries);
        let positions: BTreeSet<_> = entries().map(|entry| entry.position).collect();
        let last = self.memory.state.last_position.get();
        assert!(positions.into_iter().eq((1..=last).map(Position)));
        assert_eq!(entries().count() as u64, last);
        let own = || entries().filter(|entry| entry.id.0[0] != 0);
        let attempts: BTreeSet<_> = own().map(|entry| entry.id).collect();
        assert_eq!(attempts.len(), own().count(), "an attempt is one entry");
    }

    /// The same log again, through its bytes, with the state written and read back each time.
    fn check_replay(&self) {
        let mut replay = Memory::new();
        replay.state.key_window = self.memory.state.key_window;
        for batch in self.memory.rows.log.values() {
            let batch = batch.as_ref().map(|batch| Batch::decode(&batch.encode()).unwrap());
            replay.apply(batch);
            replay.state = decode_keyed(b"state", &encode_keyed(b"state", &replay.state)).unwrap();
        }
        assert_eq!(replay, self.memory);
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Appended(appended) if appended.deduplicated => "deduplicated",
        Outcome::Appended(_) => "appended",
        Outcome::Staged => "staged",
        Outcome::Loaded { restored: 0, .. } => "loaded nothing",
        Outcome::Loaded { .. } => "loaded",
        Outcome::Refused(Refusal::ExpectedSequence { .. }) => "expected sequence",
        Outcome::Refused(Refusal::IdempotencyMismatch { .. }) => "idempotency mismatch",
        Outcome::Refused(Refusal::ContextExists { .. }) => "context exists",
        Outcome::Refused(Refusal::LoadMoved { .. }) => "load moved",
        Outcome::Refused(Refusal::LoadDiverges { .. }) => "load diverges",
        Outcome::Refused(Refusal::LoadIncomplete) => "load incomplete",
        Outcome::Refused(Refusal::Superseded) => "superseded",
        Outcome::Refused(Refusal::ChunkInvalid) => "chunk invalid",
        Outcome::Refused(Refusal::NotReached) => "not reached",
        Outcome::Transacted(done) if done.deduplicated => "transacted before",
        Outcome::Transacted(_) => "transacted",
        Outcome::Fenced(_) => "fenced",
        Outcome::Refused(Refusal::Condition { .. }) => "condition",
        Outcome::Refused(Refusal::StaleFence { .. }) => "stale fence",
        Outcome::Refused(Refusal::TransactionMismatch { .. }) => "transaction mismatch",
    }
}

const OUTCOMES: usize = 19;

#[test]
fn apply_does_what_the_model_does() {
    let seen = RefCell::new(BTreeSet::new());
    let mut runner = TestRunner::new(Config { cases: 256, source_file: Some(file!()), ..Config::default() });
    let window = option::of(1u64..12);
    let result = runner.run(&(vec(any_step(), 1..60), window), |(steps, window)| {
        let mut run = Comparison::default();
        run.model.key_window = window;
        run.memory.state.key_window = window.unwrap_or(run.memory.state.key_window);
        for (at, step) in steps.into_iter().enumerate() {
            run.step(at, step);
        }
        run.check();
        run.check_replay();
        seen.borrow_mut().extend(run.seen);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    // The logs above are worth something only if all of it happens in them.
    assert_eq!(seen.borrow().len(), OUTCOMES, "{seen:?}");
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..3, u64::MAX - 2..=u64::MAX, any::<u64>()]
}

prop_compose! {
    fn extreme_command()(
        kind in 0..5,
        mut transact in any_transact(),
        mut fence in any_fence(),
        mut append in any_append(),
        mut stage in any_stage(),
        mut load in any_load(),
        (counter, staging, sequence, base, count) in
            (extreme(), extreme(), extreme(), extreme(), extreme()),
        empty_chain in any::<bool>(),
        context in any_context(),
    ) -> Command {
        append.counter = counter;
        transact.counter = counter;
        transact.conditions.iter_mut().for_each(|condition| condition.context_id = context.to_owned());
        transact.entries.iter_mut().for_each(|part| part.entry.context_id = context.to_owned());
        (fence.counter, fence.context_id) = (counter, context.to_owned());
        append.entry.context_id = context.to_owned();
        append.expected_sequence = append.expected_sequence.map(|_| Sequence(base));
        (stage.counter, stage.load, stage.first) = (counter, staging, Sequence(sequence));
        context.clone_into(&mut stage.context_id);
        if empty_chain {
            stage.base_chain = [0; 32];
        }
        stage.chain = stage.computed_chain().unwrap_or(stage.chain);
        (load.counter, load.stage, load.base, load.count) =
            (counter, staging, Sequence(base), count);
        load.context_id = context.to_owned();
        if empty_chain {
            load.base_chain = [0; 32];
        }
        match kind {
            0 => Command::Append(append),
            1 => Command::Stage(stage),
            2 => Command::Load(load),
            3 => Command::Transact(transact),
            _ => Command::Fence(fence),
        }
    }
}

prop_compose! {
    fn extreme_batch()(
        (origin, boot) in (extreme(), extreme()),
        low_water in prop_oneof![4 => Just(0), 1 => extreme()],
        low_staging in prop_oneof![4 => Just(0), 1 => extreme()],
        commands in vec(extreme_command(), 0..6),
    ) -> Batch {
        Batch { origin: NodeId(origin), boot: Boot(boot), low_water, low_staging, commands }
    }
}

proptest! {
    /// A panic of apply would stop every node for ever.
    #[test]
    fn apply_is_total(batches in vec(extreme_batch(), 1..12)) {
        let (mut memory, mut model) = (Memory::new(), Model::default());
        for batch in &batches {
            let expected = model.apply(batch);
            prop_assert_eq!(memory.apply(Some(batch.clone())).outcomes, expected);
        }
        prop_assert_eq!(memory.state.applied, LogIndex(batches.len() as u64));
    }
}
