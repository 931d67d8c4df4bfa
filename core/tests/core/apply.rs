//! What each command does, one rule at a time.

use std::cell::Cell;

use converge_ledger_core::testing::{Memory, Rows};
use converge_ledger_core::{
    Append, Appended, Batch, Boot, Command, ContextNo, Head, KeyRow, Lamport, LogIndex, NodeId, Outcome, Position,
    Refusal, Sequence, State, View, apply,
};

use crate::sample::{append, batch};

fn one(memory: &mut Memory, append: Append) -> Outcome {
    let effects = memory.apply(Some(batch(0, [Command::Append(append)])));
    effects.outcomes[0]
}

fn appended(context: u64, sequence: u64, position: u64, lamport: u64) -> Outcome {
    Outcome::Appended(Appended {
        context: ContextNo(context),
        sequence: Sequence(sequence),
        position: Position(position),
        lamport: Lamport(lamport),
        deduplicated: false,
    })
}

#[test]
fn sequences_run_per_context_and_positions_over_all() {
    let mut memory = Memory::new();
    assert_eq!(one(&mut memory, append(1, "a", "x")), appended(1, 1, 1, 1));
    assert_eq!(one(&mut memory, append(2, "b", "x")), appended(2, 1, 2, 1));
    assert_eq!(one(&mut memory, append(3, "a", "x")), appended(1, 2, 3, 2));
    assert_eq!(memory.state.last_position, Position(3));
    assert_eq!(memory.state.contexts, 2);
    let of_a: Vec<_> = memory.entries("a").iter().map(|entry| entry.position.get()).collect();
    assert_eq!(of_a, [1, 3]);
}

#[test]
fn a_head_chains_its_entries() {
    let mut memory = Memory::new();
    for counter in 1..4 {
        one(&mut memory, append(counter, "a", "x"));
    }
    let entries = memory.entries("a");
    let chain = converge_ledger_core::snapshot::chain(&entries);
    assert_eq!(memory.rows.heads["a"].chain, chain[2]);
}

#[test]
fn lamport_time_is_past_what_was_received() {
    let mut memory = Memory::new();
    let mut with = |counter, received: Option<u64>| {
        let received_lamport = received.map(Lamport);
        one(&mut memory, Append { received_lamport, ..append(counter, "a", "x") })
    };
    assert_eq!(with(1, Some(41)), appended(1, 1, 1, 42));
    assert_eq!(with(2, Some(7)), appended(1, 2, 2, 43));
    assert_eq!(with(3, None), appended(1, 3, 3, 44));
    assert_eq!(with(4, Some(u64::MAX)), appended(1, 4, 4, u64::MAX));
    assert_eq!(with(5, None), appended(1, 5, 5, u64::MAX));
}

#[test]
fn a_key_is_known_for_as_many_positions_as_the_window_has() {
    let mut memory = Memory::new();
    memory.state.key_window = 3;
    let keyed = |counter| Append { idempotency_key: Some("k".to_owned()), ..append(counter, "a", "x") };
    let again = Outcome::Appended(Appended {
        context: ContextNo(1),
        sequence: Sequence(1),
        position: Position(1),
        lamport: Lamport(1),
        deduplicated: true,
    });
    assert_eq!(one(&mut memory, keyed(1)), appended(1, 1, 1, 1));
    one(&mut memory, append(2, "b", "x"));
    one(&mut memory, append(3, "b", "x"));
    assert_eq!(one(&mut memory, keyed(4)), again, "of three positions it is the first");
    // One more in the same batch, before the key's third time.
    let batch = batch(0, [Command::Append(append(5, "b", "x")), Command::Append(keyed(6))]);
    let effects = memory.apply(Some(batch));
    assert_eq!(effects.outcomes[1], appended(1, 2, 5, 2), "it is out of the window");
    assert_eq!(effects.keys.len(), 1, "and in it again from here");
}

#[test]
fn an_attempt_has_one_outcome_refusals_included() {
    let mut memory = Memory::new();
    assert_eq!(one(&mut memory, append(1, "a", "x")), appended(1, 1, 1, 1));
    assert_eq!(one(&mut memory, append(1, "a", "x")), appended(1, 1, 1, 1));
    let early = Append { expected_sequence: Some(Sequence(2)), ..append(2, "a", "x") };
    let refused = Outcome::Refused(Refusal::ExpectedSequence { actual: Sequence(1) });
    assert_eq!(one(&mut memory, early.clone()), refused);
    assert_eq!(one(&mut memory, append(3, "a", "x")), appended(1, 2, 2, 2));
    assert_eq!(one(&mut memory, early), refused, "though it would succeed by now");
    assert_eq!(memory.entries("a").len(), 2);
}

#[test]
fn an_idempotency_key_stands_for_the_first_entry() {
    let mut memory = Memory::new();
    let keyed = |counter, context: &str, payload: &str| Append {
        idempotency_key: Some("once".to_owned()),
        ..append(counter, context, payload)
    };
    assert_eq!(one(&mut memory, keyed(1, "a", "x")), appended(1, 1, 1, 1));
    let Outcome::Appended(again) = one(&mut memory, keyed(2, "a", "x")) else {
        panic!("a retry is not refused");
    };
    assert!(again.deduplicated);
    assert_eq!((again.sequence, again.position), (Sequence(1), Position(1)));
    let mismatch = Outcome::Refused(Refusal::IdempotencyMismatch { sequence: Sequence(1) });
    assert_eq!(one(&mut memory, keyed(3, "a", "y")), mismatch);
    assert_eq!(one(&mut memory, keyed(4, "b", "y")), appended(2, 1, 2, 1), "another context");
    // A retry hears of its first success, though the context is not where it expected.
    let retry = Append { expected_sequence: Some(Sequence(0)), ..keyed(5, "a", "x") };
    assert!(matches!(one(&mut memory, retry), Outcome::Appended(first) if first.deduplicated));
}

#[test]
fn a_key_is_recorded_on_success_only() {
    let mut memory = Memory::new();
    let keyed = |counter, payload: &str, expected| Append {
        idempotency_key: Some("once".to_owned()),
        expected_sequence: expected,
        ..append(counter, "a", payload)
    };
    let refused = Outcome::Refused(Refusal::ExpectedSequence { actual: Sequence(0) });
    assert_eq!(one(&mut memory, keyed(1, "x", Some(Sequence(5)))), refused);
    assert_eq!(memory.state.contexts, 0, "a refused append creates no context");
    assert_eq!(one(&mut memory, keyed(2, "y", None)), appended(1, 1, 1, 1));
}

#[test]
fn commands_of_a_batch_see_each_other() {
    let mut memory = Memory::new();
    let keyed = |counter, payload: &str| {
        let idempotency_key = Some("once".to_owned());
        Command::Append(Append { idempotency_key, ..append(counter, "a", payload) })
    };
    let expected = Append { expected_sequence: Some(Sequence(1)), ..append(4, "a", "z") };
    let commands = [keyed(1, "x"), keyed(1, "x"), keyed(2, "x"), keyed(3, "y")];
    let commands = commands.into_iter().chain([Command::Append(expected)]);
    let outcomes = memory.apply(Some(batch(0, commands))).outcomes;
    assert_eq!(outcomes[0], appended(1, 1, 1, 1));
    assert_eq!(outcomes[1], outcomes[0]);
    assert!(matches!(outcomes[2], Outcome::Appended(first) if first.deduplicated));
    let mismatch = Refusal::IdempotencyMismatch { sequence: Sequence(1) };
    assert_eq!(outcomes[3], Outcome::Refused(mismatch));
    assert_eq!(outcomes[4], appended(1, 2, 2, 2));
    assert_eq!(memory.entries("a").len(), 2);
}

#[test]
fn below_the_low_water_mark_nothing_is_kept_and_nothing_applies() {
    let mut memory = Memory::new();
    for counter in 1..5 {
        one(&mut memory, append(counter, "a", "x"));
    }
    memory.apply(Some(batch(4, [])));
    let kept: Vec<_> = memory.state.origins[&NodeId(1)].outcomes.keys().copied().collect();
    assert_eq!(kept, [4]);
    let superseded = Outcome::Refused(Refusal::Superseded);
    assert_eq!(one(&mut memory, append(3, "a", "x")), superseded);
    assert_eq!(one(&mut memory, append(4, "a", "x")), appended(1, 4, 4, 4));
    assert_eq!(memory.state.origins[&NodeId(1)].low_water, 4, "an older mark lowers nothing");
    // The mark counts for the commands of its own batch, too.
    let effects = memory.apply(Some(batch(9, [Command::Append(append(8, "a", "x"))])));
    assert_eq!(effects.outcomes, [superseded]);
    assert!(memory.state.origins[&NodeId(1)].outcomes.is_empty());
}

#[test]
fn a_newer_boot_closes_the_older() {
    let mut memory = Memory::new();
    let of_boot = |boot, counter| Batch { boot: Boot(boot), ..batch(0, [Command::Append(append(counter, "a", "x"))]) };
    let mut outcome = |batch| memory.apply(Some(batch)).outcomes[0];
    assert_eq!(outcome(of_boot(1, 1)), appended(1, 1, 1, 1));
    assert_eq!(outcome(of_boot(2, 1)), appended(1, 2, 2, 2), "counters start again");
    assert_eq!(outcome(of_boot(1, 1)), Outcome::Refused(Refusal::Superseded));
    assert_eq!(outcome(of_boot(1, 2)), Outcome::Refused(Refusal::Superseded));
    let mut raised = of_boot(1, 3);
    raised.low_water = 100;
    assert_eq!(outcome(raised), Outcome::Refused(Refusal::Superseded));
    assert_eq!(outcome(of_boot(2, 1)), appended(1, 2, 2, 2));
    let other = Batch { origin: NodeId(2), ..of_boot(1, 1) };
    assert_eq!(outcome(other), appended(1, 3, 3, 3), "another node's boots are its own");
}

#[test]
fn every_log_entry_changes_the_digest() {
    let apply = |batches: &[Option<Batch>]| {
        let mut memory = Memory::new();
        batches.iter().for_each(|batch| drop(memory.apply(batch.clone())));
        memory.state.digest
    };
    let some = |low_water, payload| {
        let refused = Append { expected_sequence: Some(Sequence(9)), ..append(2, "b", "x") };
        let commands = [Command::Append(append(1, "a", payload)), Command::Append(refused)];
        Some(batch(low_water, commands))
    };
    let refused = Append { expected_sequence: Some(Sequence(9)), ..append(1, "a", "x") };
    let logs: [&[Option<Batch>]; 10] = [
        &[Some(batch(0, []))],
        &[Some(batch(0, [Command::Append(refused)]))],
        &[],
        &[None],
        &[None, None],
        &[some(0, "x")],
        &[some(0, "y")],
        &[some(1, "x")],
        &[some(0, "x"), None],
        &[None, some(0, "x")],
    ];
    let digests: std::collections::BTreeSet<_> = logs.iter().map(|log| apply(log)).collect();
    assert_eq!(digests.len(), logs.len());
    assert_eq!(apply(logs[8]), apply(logs[8]));
}

/// A view that fails at the n-th read.
struct Failing<'a> {
    rows: &'a Rows,
    reads: Cell<u32>,
}

impl Failing<'_> {
    fn read<T>(&self, value: Result<T, std::convert::Infallible>) -> Result<T, &'static str> {
        let left = self.reads.get().checked_sub(1).ok_or("the disk is gone")?;
        self.reads.set(left);
        let Ok(value) = value;
        Ok(value)
    }
}

impl View for Failing<'_> {
    type Error = &'static str;

    fn head(&self, context_id: &str) -> Result<Option<Head>, Self::Error> {
        self.read(self.rows.head(context_id))
    }

    fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Self::Error> {
        self.read(self.rows.key(context, key))
    }
}

#[test]
fn a_failed_read_changes_nothing() {
    let mut memory = Memory::new();
    one(&mut memory, append(1, "a", "x"));
    let keyed = Append { idempotency_key: Some("k".to_owned()), ..append(3, "a", "x") };
    let commands = [append(2, "b", "x"), keyed, append(4, "c", "x")].map(Command::Append);
    let next = batch(2, commands);
    let run = |reads: u32| {
        let mut state: State = memory.state.clone();
        let view = Failing { rows: &memory.rows, reads: Cell::new(reads) };
        let result = apply(&mut state, &view, LogIndex(2), Some(&next));
        (state, result)
    };
    // A head for each of the three contexts, and a key.
    for reads in 0..4 {
        let (state, result) = run(reads);
        assert_eq!(result, Err("the disk is gone"), "after {reads} reads");
        assert_eq!(state, memory.state);
    }
    let (state, result) = run(4);
    assert_eq!(result.unwrap().outcomes.len(), 3);
    assert_eq!(state.applied, LogIndex(2));
}

#[test]
#[should_panic(expected = "one after the other")]
fn a_gap_in_the_log_is_a_broken_invariant() {
    let memory = Memory::new();
    let _ = apply(&mut State::default(), &memory.rows, LogIndex(2), None);
}
