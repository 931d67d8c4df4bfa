//! Loading: staged in parts, then all or nothing.

use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Batch, Boot, Command, ContextNo, EMPTY_CHAIN, Entry, Lamport, Load, NodeId, Outcome, Part, Position, Refusal,
    Sequence, Stage, snapshot,
};

use crate::sample::{append, batch, history};

const STAGING: u64 = 10;

/// Commands that stage these entries, under the counters from `counter`.
fn stages(counter: u64, entries: &[Entry]) -> Vec<Command> {
    let stage =
        |(counter, entry): (u64, &Entry)| Command::Stage(Stage { counter, load: STAGING, entry: entry.clone().into() });
    (counter..).zip(entries).map(stage).collect()
}

/// The load that makes `entries` out of their first `base`.
fn load(counter: u64, entries: &[Entry], base: usize) -> Load {
    let chain = snapshot::chain(entries);
    Load {
        counter,
        stage: STAGING,
        context_id: entries[0].context_id.clone(),
        base: Sequence(base as u64),
        base_chain: base.checked_sub(1).map_or(EMPTY_CHAIN, |last| chain[last]),
        count: (entries.len() - base) as u64,
        fail_if_exists: false,
    }
}

fn run(memory: &mut Memory, command: Load) -> Outcome {
    memory.apply(Some(batch(0, [Command::Load(command)]))).outcomes[0]
}

fn loaded(restored: u64, latest: u64) -> Outcome {
    Outcome::Loaded { context: ContextNo(1), restored, latest: Sequence(latest) }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

/// As the store has them, but for the position.
fn contents(memory: &Memory, context_id: &str) -> Vec<Entry> {
    let mut entries = memory.entries(context_id);
    entries.iter_mut().for_each(|entry| entry.position = Position(0));
    entries
}

fn parts(memory: &Memory) -> &[Part] {
    memory.state.origins[&NodeId(1)].staged.get(&STAGING).map_or(&[], Vec::as_slice)
}

#[test]
fn entries_are_restored_as_they_were_under_new_positions() {
    let mut memory = Memory::new();
    memory.apply(Some(batch(0, [Command::Append(append(1, "other", "x"))])));
    let entries = history("orders", 5);
    memory.apply(Some(batch(0, stages(11, &entries[..3]))));
    memory.apply(Some(batch(0, stages(14, &entries[3..]))));
    assert_eq!(parts(&memory).len(), 2);
    assert!(memory.entries("orders").is_empty(), "staged entries are invisible");
    assert_eq!(memory.state.last_position, Position(1));

    let outcome = run(&mut memory, load(STAGING, &entries, 0));
    let context = ContextNo(2);
    assert_eq!(outcome, Outcome::Loaded { context, restored: 5, latest: Sequence(5) });
    assert_eq!(contents(&memory, "orders"), entries);
    let positions: Vec<_> = memory.entries("orders").iter().map(|e| e.position.get()).collect();
    assert_eq!(positions, [2, 3, 4, 5, 6]);
    let head = memory.rows.heads["orders"];
    assert_eq!(head.lamport, Lamport(10));
    assert_eq!(head.chain, snapshot::chain(&entries)[4]);
    assert!(parts(&memory).is_empty());
}

#[test]
fn stages_and_load_may_share_a_batch_and_come_in_any_order() {
    let mut memory = Memory::new();
    let entries = history("orders", 4);
    let mut commands = stages(13, &entries[2..]);
    commands.extend(stages(11, &entries[..2]));
    commands.push(Command::Load(load(STAGING, &entries, 0)));
    let effects = memory.apply(Some(batch(0, commands)));
    assert_eq!(effects.outcomes[4], loaded(4, 4));
    assert_eq!(contents(&memory, "orders"), entries);
}

/// The rows of two log entries are not one run of rows, though their numbers may look like it.
#[test]
fn a_part_lies_in_one_log_entry() {
    let mut memory = Memory::new();
    let entries = history("orders", 3);
    memory.apply(Some(batch(0, stages(11, &entries[..2]))));
    let appends = (1..3).map(|counter| Command::Append(append(counter, "other", "x")));
    memory.apply(Some(batch(0, appends.chain(stages(13, &entries[2..])))));
    assert_eq!(parts(&memory).len(), 2);
    let outcome = run(&mut memory, load(STAGING, &entries, 0));
    let context = ContextNo(2);
    assert_eq!(outcome, Outcome::Loaded { context, restored: 3, latest: Sequence(3) });
    assert_eq!(contents(&memory, "orders"), entries);
}

#[test]
fn a_prefix_gets_the_missing_tail() {
    let mut memory = Memory::new();
    let entries = history("orders", 6);
    memory.apply(Some(batch(0, stages(11, &entries))));
    assert_eq!(run(&mut memory, load(STAGING, &entries[..2], 0)), refused(Refusal::LoadIncomplete));
    assert_eq!(run(&mut memory, load(20, &entries, 0)), loaded(6, 6));

    // The same again over what is there: only what is new is staged.
    let more = history("orders", 9);
    memory.apply(Some(batch(0, stages(21, &more[6..]))));
    assert_eq!(run(&mut memory, load(30, &more, 6)), loaded(3, 9));
    assert_eq!(contents(&memory, "orders"), more);
    // And with nothing new.
    assert_eq!(run(&mut memory, load(31, &more, 9)), loaded(0, 9));
}

#[test]
fn a_load_that_was_overtaken_may_try_again_with_what_it_staged() {
    let mut memory = Memory::new();
    let entries = history("orders", 5);
    memory.apply(Some(batch(0, stages(11, &entries))));
    // Another node loads the first three meanwhile.
    let other = |commands| Some(Batch { origin: NodeId(2), ..batch(0, commands) });
    memory.apply(other(stages(11, &entries[..3])));
    memory.apply(other(vec![Command::Load(load(STAGING, &entries[..3], 0))]));

    let latest = Sequence(3);
    let moved = refused(Refusal::LoadMoved { latest });
    assert_eq!(run(&mut memory, load(STAGING, &entries, 0)), moved);
    assert_eq!(parts(&memory).len(), 1, "what was staged is kept");
    assert_eq!(run(&mut memory, load(STAGING, &entries, 3)), moved, "the attempt had its outcome");
    assert_eq!(run(&mut memory, load(20, &entries, 3)), loaded(2, 5));
    assert_eq!(contents(&memory, "orders"), entries);
}

#[test]
fn another_history_is_refused() {
    let mut memory = Memory::new();
    let entries = history("orders", 3);
    memory.apply(Some(batch(0, stages(11, &entries))));
    memory.apply(Some(batch(0, [Command::Append(append(1, "orders", "x"))])));
    let latest = Sequence(1);
    assert_eq!(run(&mut memory, load(20, &entries, 1)), refused(Refusal::LoadDiverges { latest }));
    assert_eq!(run(&mut memory, load(21, &entries, 0)), refused(Refusal::LoadMoved { latest }));
    let fresh = Load { fail_if_exists: true, ..load(22, &entries, 1) };
    assert_eq!(run(&mut memory, fresh), refused(Refusal::ContextExists { latest }));
    assert_eq!(memory.entries("orders").len(), 1);
}

#[test]
fn parts_must_be_all_there_once() {
    let entries = history("orders", 4);
    let staged: [&[Entry]; 6] = [
        &entries[..3],
        &entries[1..],
        &[entries[0].clone(), entries[1].clone(), entries[3].clone()],
        &[&entries[..], &entries[2..3]].concat(),
        &[&entries[..3], &entries[1..]].concat(),
        &[&entries[..], &history("orders", 5)[4..]].concat(),
    ];
    for staged in staged {
        let mut memory = Memory::new();
        memory.apply(Some(batch(0, stages(11, staged))));
        let outcome = run(&mut memory, load(STAGING, &entries, 0));
        assert_eq!(outcome, refused(Refusal::LoadIncomplete), "{}", staged.len());
        assert_eq!(memory.state.last_position, Position(0));
        assert_eq!(memory.state.contexts, 0);
    }
}

#[test]
fn numbers_at_their_ends_are_refused() {
    let mut memory = Memory::new();
    let at = |sequence: u64| {
        let mut entry = history("orders", 1).remove(0);
        entry.sequence = Sequence(sequence);
        entry
    };
    let ends = [at(u64::MAX), at(0), at(u64::MAX), at(u64::MAX - 1), at(u64::MAX), at(1), at(2)];
    memory.apply(Some(batch(0, stages(11, &ends))));
    let one = load(20, &history("orders", 1), 0);
    for (counter, count) in (30..).zip([0, 1, 2, u64::MAX]) {
        let outcome = run(&mut memory, Load { counter, count, ..one.clone() });
        assert_eq!(outcome, refused(Refusal::LoadIncomplete));
    }
    let latest = Sequence(0);
    let beyond = Load { base: Sequence(u64::MAX), count: u64::MAX, ..one };
    assert_eq!(run(&mut memory, beyond), refused(Refusal::LoadMoved { latest }));
}

#[test]
fn a_part_may_start_at_zero() {
    let mut memory = Memory::new();
    let mut entries = history("orders", 3);
    let mut zero = entries[0].clone();
    zero.sequence = Sequence(0);
    entries.insert(0, zero);
    memory.apply(Some(batch(0, stages(11, &entries))));
    assert_eq!(parts(&memory).len(), 1);
    assert_eq!(run(&mut memory, load(20, &entries[1..], 0)), loaded(3, 3));
    assert_eq!(contents(&memory, "orders"), entries[1..]);
}

#[test]
fn nothing_of_an_empty_load_is_written() {
    let mut memory = Memory::new();
    let empty = Load { count: 0, ..load(STAGING, &history("orders", 1), 0) };
    let context = ContextNo(0);
    let outcome = Outcome::Loaded { context, restored: 0, latest: Sequence(0) };
    assert_eq!(run(&mut memory, empty), outcome);
    assert_eq!(memory.state.contexts, 0);
    assert!(memory.rows.heads.is_empty());
}

#[test]
fn abandoned_parts_are_dropped() {
    let entries = history("orders", 2);
    let staged = || {
        let mut memory = Memory::new();
        memory.apply(Some(batch(0, stages(11, &entries))));
        assert_eq!(parts(&memory).len(), 1);
        memory
    };
    let mut memory = staged();
    memory.apply(Some(batch(STAGING, [])));
    assert_eq!(parts(&memory).len(), 1, "the staging itself may still be in flight");
    memory.apply(Some(batch(STAGING + 1, [])));
    assert_eq!(parts(&memory), []);
    let late = stages(13, &entries[1..]);
    let outcomes = memory.apply(Some(batch(0, late))).outcomes;
    assert_eq!(outcomes, [refused(Refusal::Superseded)], "nothing would drop it again");

    let mut memory = staged();
    memory.apply(Some(Batch { boot: Boot(2), ..batch(0, []) }));
    assert_eq!(parts(&memory), []);
    memory.apply(Some(batch(0, stages(13, &entries))));
    assert_eq!(parts(&memory), []);

    let mut memory = staged();
    let raising = [Command::Load(Load { counter: 30, ..load(20, &entries, 0) })];
    let outcomes = memory.apply(Some(batch(STAGING + 1, raising))).outcomes;
    assert_eq!(outcomes, [refused(Refusal::LoadIncomplete)]);
}
