//! Loading: staged in chunks, then all or nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;

use converge_ledger_core::testing::{Memory, Rows};
use converge_ledger_core::{
    Batch, Boot, Command, ContextNo, EMPTY_CHAIN, Entry, Head, Indexed, KeyRow, Lamport, Load, LogIndex, NodeId,
    Outcome, Part, Position, Refusal, Sequence, Stage, State, View, apply, snapshot,
};

use crate::sample::{append, batch, history, stage};

const STAGING: u64 = 10;

/// Commands that stage `entries`, from the place `from` on, in chunks of `size`, under the counters from `counter`.
fn stages(counter: u64, entries: &[Entry], from: usize, size: usize) -> Vec<Command> {
    let starts = (from..entries.len()).step_by(size);
    let chunk = |(counter, start): (u64, usize)| {
        Command::Stage(stage(counter, STAGING, &entries[..(start + size).min(entries.len())], start))
    };
    (counter..).zip(starts).map(chunk).collect()
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

fn parts(memory: &Memory) -> BTreeMap<Sequence, Part> {
    memory.state.origins[&NodeId(1)].staged.get(&STAGING).map(|staging| staging.parts.clone()).unwrap_or_default()
}

#[test]
fn entries_are_restored_as_they_were_under_new_positions() {
    let mut memory = Memory::new();
    memory.apply(Some(batch(0, [Command::Append(append(1, "other", "x"))])));
    let entries = history("orders", 5);
    memory.apply(Some(batch(0, stages(11, &entries, 0, 3))));
    assert_eq!(parts(&memory).len(), 2);
    assert!(memory.entries("orders").is_empty(), "staged entries are invisible");
    assert_eq!(memory.state.last_position, Position(1));

    let outcome = run(&mut memory, load(20, &entries, 0));
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
    let mut commands = stages(11, &entries, 0, 2);
    commands.reverse();
    commands.push(Command::Load(load(20, &entries, 0)));
    commands.push(Command::Append(append(21, "orders", "x")));
    let effects = memory.apply(Some(batch(0, commands)));
    assert_eq!(effects.outcomes[2], loaded(4, 4));
    assert_eq!(contents(&memory, "orders")[..4], entries);
    assert_eq!(memory.entries("orders").len(), 5);
}

/// What a load costs follows from its chunks, and not from their entries.
#[test]
fn no_chunk_has_an_outcome_and_the_last_command_takes_a_step_for_each() {
    /// Heads only: a load asks for nothing else.
    struct Heads<'a>(&'a Rows);
    impl View for Heads<'_> {
        type Error = Infallible;
        fn head(&self, context_id: &str) -> Result<Option<Head>, Infallible> {
            self.0.head(context_id)
        }
        fn key(&self, _: ContextNo, _: &str) -> Result<Option<KeyRow>, Infallible> {
            panic!("a load has no idempotency keys")
        }
    }
    let entries = history("orders", 2_000);
    let mut state = State::default();
    let rows = Rows::default();
    let mut index = 0;
    let mut step = |command: Command| {
        index += 1;
        let Ok(effects) = apply(&mut state, &Heads(&rows), LogIndex(index), Some(&batch(0, [command])));
        let origin = &state.origins[&NodeId(1)];
        (effects, origin.outcomes.len(), origin.staged.values().map(|staging| staging.parts.len()).sum::<usize>())
    };
    for (n, chunk) in (1..).zip(stages(11, &entries, 0, 500)) {
        let (effects, outcomes, parts) = step(chunk);
        assert_eq!((effects.entries.len(), outcomes, parts), (0, 0, n));
    }
    let (effects, outcomes, parts) = step(Command::Load(load(20, &entries, 0)));
    assert_eq!(effects.outcomes, [loaded(2_000, 2_000)]);
    assert_eq!((effects.entries.len(), outcomes, parts), (4, 1, 0));
    assert!(effects.entries.iter().all(|indexed| matches!(indexed, Indexed::Chunk(chunk) if chunk.count == 500)));
    assert_eq!(effects.heads["orders"].chain, snapshot::chain(&entries)[1_999]);
}

#[test]
fn a_chunk_that_comes_again_changes_nothing() {
    let mut memory = Memory::new();
    let entries = history("orders", 4);
    memory.apply(Some(batch(0, stages(11, &entries, 0, 2))));
    let once = parts(&memory);
    let outcomes = memory.apply(Some(batch(0, stages(31, &entries, 0, 2)))).outcomes;
    assert_eq!(outcomes, [Outcome::Staged; 2]);
    assert_eq!(parts(&memory), once);
    assert_eq!(run(&mut memory, load(20, &entries, 0)), loaded(4, 4));
}

#[test]
fn a_prefix_gets_the_missing_tail() {
    let mut memory = Memory::new();
    let entries = history("orders", 6);
    memory.apply(Some(batch(0, stages(11, &entries, 0, 3))));
    assert_eq!(run(&mut memory, load(19, &entries[..2], 0)), refused(Refusal::LoadIncomplete));
    assert_eq!(run(&mut memory, load(20, &entries, 0)), loaded(6, 6));

    // The same again over what is there: only what is new is staged.
    let more = history("orders", 9);
    memory.apply(Some(batch(0, stages(21, &more, 6, 2))));
    assert_eq!(run(&mut memory, load(30, &more, 6)), loaded(3, 9));
    assert_eq!(contents(&memory, "orders"), more);
    // And with nothing new.
    assert_eq!(run(&mut memory, load(31, &more, 9)), loaded(0, 9));
}

#[test]
fn a_load_that_was_overtaken_stages_again_what_lies_over_the_end() {
    let mut memory = Memory::new();
    let entries = history("orders", 5);
    memory.apply(Some(batch(0, stages(11, &entries, 0, 2))));
    // Another node loads the first three meanwhile.
    let other = |commands| Some(Batch { origin: NodeId(2), ..batch(0, commands) });
    memory.apply(other(stages(11, &entries[..3], 0, 3)));
    memory.apply(other(vec![Command::Load(load(20, &entries[..3], 0))]));

    let latest = Sequence(3);
    let moved = refused(Refusal::LoadMoved { latest });
    assert_eq!(run(&mut memory, load(20, &entries, 0)), moved);
    assert_eq!(parts(&memory).len(), 3, "what was staged is kept");
    assert_eq!(run(&mut memory, load(20, &entries, 3)), moved, "the attempt had its outcome");
    assert_eq!(run(&mut memory, load(21, &entries, 3)), refused(Refusal::LoadIncomplete));
    // The second chunk reaches over the third entry: what is behind that goes in once more, and joins the last.
    memory.apply(Some(batch(0, [Command::Stage(stage(22, STAGING, &entries[..4], 3))])));
    assert_eq!(run(&mut memory, load(23, &entries, 3)), loaded(2, 5));
    assert_eq!(contents(&memory, "orders"), entries);
}

#[test]
fn another_history_is_refused() {
    let mut memory = Memory::new();
    let entries = history("orders", 3);
    memory.apply(Some(batch(0, stages(11, &entries, 0, 2))));
    memory.apply(Some(batch(0, [Command::Append(append(1, "orders", "x"))])));
    let latest = Sequence(1);
    assert_eq!(run(&mut memory, load(20, &entries, 1)), refused(Refusal::LoadDiverges { latest }));
    assert_eq!(run(&mut memory, load(21, &entries, 0)), refused(Refusal::LoadMoved { latest }));
    let fresh = Load { fail_if_exists: true, ..load(22, &entries, 1) };
    assert_eq!(run(&mut memory, fresh), refused(Refusal::ContextExists { latest }));
    assert_eq!(memory.entries("orders").len(), 1);
}

#[test]
fn chunks_must_join_from_the_base_to_the_end() {
    let entries = history("orders", 6);
    let all = || stages(11, &entries, 0, 2);
    let without = |n: usize| {
        let mut chunks = all();
        chunks.remove(n);
        chunks
    };
    let more = history("orders", 7);
    let mut foreign = all();
    // Sound in itself, and it goes on from another history.
    if let Command::Stage(chunk) = &mut foreign[1] {
        chunk.base_chain = [7; 32];
        chunk.chain = chunk.computed_chain().unwrap();
    }
    let over = stages(11, &more, 0, 4);
    for staged in [without(0), without(1), without(2), foreign, over] {
        let mut memory = Memory::new();
        memory.apply(Some(batch(0, staged)));
        assert_eq!(run(&mut memory, load(20, &entries, 0)), refused(Refusal::LoadIncomplete));
        assert_eq!(memory.state.last_position, Position(0));
        assert_eq!(memory.state.contexts, 0);
    }
    let mut memory = Memory::new();
    memory.apply(Some(batch(0, all())));
    let elsewhere = Load { context_id: "other".to_owned(), ..load(20, &entries, 0) };
    assert_eq!(run(&mut memory, elsewhere), refused(Refusal::LoadIncomplete), "the hashes are of another context");
}

#[test]
fn a_chunk_that_is_not_what_it_says_is_refused() {
    let entries = history("orders", 3);
    let sound = stage(11, STAGING, &entries, 0);
    let wrong = [
        Stage { chain: [1; 32], ..sound.clone() },
        Stage { base_chain: [1; 32], ..sound.clone() },
        Stage { context_id: "other".to_owned(), ..sound.clone() },
        Stage { entries: Vec::new(), chain: sound.base_chain, ..sound.clone() },
        Stage { first: Sequence(0), ..sound.clone() },
        Stage { first: Sequence(2), ..sound.clone() },
        Stage { first: Sequence(u64::MAX), ..sound.clone() },
        Stage { first: Sequence(u64::MAX - 2), ..sound.clone() },
    ];
    for chunk in wrong {
        let mut memory = Memory::new();
        let outcomes = memory.apply(Some(batch(0, [Command::Stage(chunk)]))).outcomes;
        assert_eq!(outcomes, [refused(Refusal::ChunkInvalid)]);
        assert!(parts(&memory).is_empty());
    }
    let mut memory = Memory::new();
    let other = history("other", 3);
    let clash = Stage { counter: 12, ..stage(12, STAGING, &entries[..2], 0) };
    let commands = [sound, clash, stage(13, STAGING, &other, 0)].map(Command::Stage);
    let outcomes = memory.apply(Some(batch(0, commands))).outcomes;
    let invalid = refused(Refusal::ChunkInvalid);
    assert_eq!(outcomes, [Outcome::Staged, invalid, invalid]);
}

#[test]
fn numbers_at_their_ends_are_refused() {
    let mut memory = Memory::new();
    let one = load(20, &history("orders", 1), 0);
    for (counter, count) in (30..).zip([1, 2, u64::MAX]) {
        let outcome = run(&mut memory, Load { counter, count, ..one.clone() });
        assert_eq!(outcome, refused(Refusal::LoadIncomplete));
    }
    let latest = Sequence(0);
    let beyond = Load { base: Sequence(u64::MAX), count: u64::MAX, ..one };
    assert_eq!(run(&mut memory, beyond), refused(Refusal::LoadMoved { latest }));
}

#[test]
fn nothing_of_an_empty_load_is_written() {
    let mut memory = Memory::new();
    let empty = Load { count: 0, ..load(20, &history("orders", 1), 0) };
    let context = ContextNo(0);
    let outcome = Outcome::Loaded { context, restored: 0, latest: Sequence(0) };
    assert_eq!(run(&mut memory, empty), outcome);
    assert_eq!(memory.state.contexts, 0);
    assert!(memory.rows.heads.is_empty());
}

#[test]
fn abandoned_chunks_are_dropped() {
    let entries = history("orders", 2);
    let staged = || {
        let mut memory = Memory::new();
        memory.apply(Some(batch(0, stages(11, &entries, 0, 2))));
        assert_eq!(parts(&memory).len(), 1);
        memory
    };
    let mark = |low_staging| Some(Batch { low_staging, ..batch(0, []) });
    let mut memory = staged();
    memory.apply(Some(batch(1_000, [])));
    memory.apply(mark(STAGING));
    assert_eq!(parts(&memory).len(), 1, "the load itself may still be under way");
    memory.apply(mark(STAGING + 1));
    assert!(parts(&memory).is_empty());
    let late = stages(1_013, &entries, 0, 2);
    let outcomes = memory.apply(Some(batch(0, late))).outcomes;
    assert_eq!(outcomes, [refused(Refusal::Superseded)], "nothing would drop it again");

    let mut memory = staged();
    memory.apply(Some(Batch { boot: Boot(2), ..batch(0, []) }));
    assert!(parts(&memory).is_empty());
    memory.apply(Some(batch(0, stages(13, &entries, 0, 2))));
    assert!(parts(&memory).is_empty());

    let mut memory = staged();
    let raising = [Command::Load(load(30, &entries, 0))];
    let outcomes = memory.apply(Some(Batch { low_staging: STAGING + 1, ..batch(0, raising) })).outcomes;
    assert_eq!(outcomes, [refused(Refusal::LoadIncomplete)]);
}
