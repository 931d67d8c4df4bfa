//! What transactions and fences do, one rule at a time.

use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Append, Appended, Command, Condition, FenceEpoch, Fenced, Outcome, Position, RaiseFence, Refusal, Sequence,
    Transact, TransactEntry, Transacted,
};

use crate::sample::{append, batch};

fn one(memory: &mut Memory, command: Command) -> Outcome {
    memory.apply(Some(batch(0, [command]))).outcomes[0]
}

fn transact(counter: u64, entries: &[(&str, &str)]) -> Transact {
    let part = |(nth, (context_id, payload)): (u64, &(&str, &str))| {
        let Append { id, appended_at_ns, entry, .. } = append(100 * counter + nth, context_id, payload);
        TransactEntry { id, appended_at_ns, received_lamport: None, entry }
    };
    let entries = (0..).zip(entries).map(part).collect();
    Transact { counter, idempotency_key: None, conditions: Vec::new(), entries }
}

fn keyed(counter: u64, entries: &[(&str, &str)]) -> Transact {
    Transact { idempotency_key: Some("once".to_owned()), ..transact(counter, entries) }
}

fn at(context_id: &str, sequence: u64) -> Condition {
    Condition { context_id: context_id.to_owned(), sequence: Some(Sequence(sequence)), fence_epoch: None }
}

fn under(context_id: &str, epoch: u64) -> Condition {
    Condition { context_id: context_id.to_owned(), sequence: None, fence_epoch: Some(FenceEpoch(epoch)) }
}

fn fence(counter: u64, context_id: &str, epoch: Option<u64>) -> Command {
    Command::Fence(RaiseFence { counter, context_id: context_id.to_owned(), epoch: epoch.map(FenceEpoch) })
}

fn done(first: u64, count: u64, deduplicated: bool) -> Outcome {
    Outcome::Transacted(Transacted { first: Position(first), count, deduplicated })
}

fn failed(nth: u32, latest: u64, epoch: u64) -> Outcome {
    Outcome::Refused(Refusal::Condition { nth, latest: Sequence(latest), epoch: FenceEpoch(epoch) })
}

fn stale(current: u64) -> Outcome {
    Outcome::Refused(Refusal::StaleFence { current: FenceEpoch(current) })
}

fn epoch_of(outcome: Outcome) -> u64 {
    let Outcome::Fenced(Fenced { epoch, .. }) = outcome else { panic!("{outcome:?}") };
    epoch.get()
}

#[test]
fn entries_of_many_contexts_are_appended_one_behind_the_other() {
    let mut memory = Memory::new();
    one(&mut memory, Command::Append(append(1, "a", "x")));
    let many = transact(2, &[("a", "1"), ("b", "2"), ("a", "3")]);
    assert_eq!(one(&mut memory, Command::Transact(many)), done(2, 3, false));
    let places = |context: &str| {
        memory.entries(context).iter().map(|e| (e.sequence.get(), e.position.get())).collect::<Vec<_>>()
    };
    assert_eq!(places("a"), [(1, 1), (2, 2), (3, 4)]);
    assert_eq!(places("b"), [(1, 3)]);
}

#[test]
fn where_a_condition_does_not_hold_nothing_is_appended_and_the_first_such_is_named() {
    let mut memory = Memory::new();
    one(&mut memory, Command::Append(append(1, "a", "x")));
    one(&mut memory, fence(2, "b", None));
    let with = |counter, conditions: Vec<Condition>| {
        Command::Transact(Transact { conditions, ..transact(counter, &[("c", "1"), ("d", "2")]) })
    };
    assert_eq!(one(&mut memory, with(3, vec![at("a", 1), at("b", 1), at("c", 9)])), failed(1, 0, 1));
    assert_eq!(one(&mut memory, with(4, vec![under("b", 0)])), failed(0, 0, 1));
    assert_eq!(memory.state.last_position, Position(1));
    assert_eq!(memory.state.contexts, 2, "a context that is only asked about does not come to be");
    assert_eq!(one(&mut memory, with(3, Vec::new())), failed(1, 0, 1), "an attempt has one outcome");
    let hold = vec![at("a", 1), at("b", 0), under("b", 1), at("never", 0), under("never", 0)];
    assert_eq!(one(&mut memory, with(5, hold)), done(2, 2, false));
}

#[test]
fn conditions_are_held_against_the_state_before_the_transaction_and_after_what_is_before_it() {
    let mut memory = Memory::new();
    let both = Transact { conditions: vec![at("a", 1), at("b", 0)], ..transact(2, &[("b", "1"), ("a", "2")]) };
    let commands = [Command::Append(append(1, "a", "x")), Command::Transact(both.clone())];
    let outcomes = memory.apply(Some(batch(0, commands))).outcomes;
    assert_eq!(outcomes[1], done(2, 2, false), "its own entries do not count");
    let again = Command::Transact(Transact { counter: 3, ..both });
    assert_eq!(one(&mut memory, again), failed(0, 2, 0), "of two that race, one wins");
}

#[test]
fn a_key_stands_for_one_request_in_the_whole_ledger() {
    let mut memory = Memory::new();
    let first = Transact { conditions: vec![at("a", 0)], ..keyed(1, &[("a", "1"), ("b", "2")]) };
    assert_eq!(one(&mut memory, Command::Transact(first.clone())), done(1, 2, false));
    one(&mut memory, fence(2, "a", None));
    let again = Transact { counter: 3, ..first.clone() };
    assert_eq!(one(&mut memory, Command::Transact(again)), done(1, 2, true), "though its condition holds no more");
    let mismatch = Outcome::Refused(Refusal::TransactionMismatch { first: Position(1) });
    let other = [keyed(4, &[("a", "1"), ("b", "3")]), Transact { counter: 5, conditions: Vec::new(), ..first }];
    for (other, outcome) in other.into_iter().zip([mismatch, mismatch]) {
        assert_eq!(one(&mut memory, Command::Transact(other)), outcome);
    }
    // The keys of contexts are others, those of one that comes to be with this append included.
    for (counter, context) in [(6, "a"), (7, "new")] {
        let append = Append { idempotency_key: Some("once".to_owned()), ..append(counter, context, "1") };
        let outcome = one(&mut memory, Command::Append(append));
        assert!(matches!(outcome, Outcome::Appended(Appended { deduplicated: false, .. })), "{outcome:?}");
    }
}

#[test]
fn a_refused_transaction_leaves_its_key() {
    let mut memory = Memory::new();
    let refused = Transact { conditions: vec![at("a", 1)], ..keyed(1, &[("a", "1")]) };
    assert_eq!(one(&mut memory, Command::Transact(refused)), failed(0, 0, 0));
    assert_eq!(one(&mut memory, Command::Transact(keyed(2, &[("a", "2")]))), done(1, 1, false));
}

#[test]
fn the_key_of_a_transaction_leaves_the_window_as_any_other() {
    let mut memory = Memory::new();
    memory.state.key_window = 3;
    assert_eq!(one(&mut memory, Command::Transact(keyed(1, &[("a", "1"), ("a", "2")]))), done(1, 2, false));
    one(&mut memory, Command::Append(append(2, "b", "x")));
    assert_eq!(one(&mut memory, Command::Transact(keyed(3, &[("a", "1"), ("a", "2")]))), done(1, 2, true));
    one(&mut memory, Command::Append(append(4, "b", "x")));
    assert_eq!(one(&mut memory, Command::Transact(keyed(5, &[("a", "1"), ("a", "2")]))), done(5, 2, false));
}

#[test]
fn a_fence_only_rises() {
    let mut memory = Memory::new();
    assert_eq!(epoch_of(one(&mut memory, fence(1, "a", None))), 1);
    assert_eq!(epoch_of(one(&mut memory, fence(2, "a", Some(7)))), 7);
    assert_eq!(one(&mut memory, fence(3, "a", Some(7))), stale(7));
    assert_eq!(one(&mut memory, fence(4, "a", Some(0))), stale(7));
    assert_eq!(epoch_of(one(&mut memory, fence(5, "a", None))), 8);
    assert_eq!(epoch_of(one(&mut memory, fence(6, "a", Some(u64::MAX)))), u64::MAX);
    assert_eq!(one(&mut memory, fence(7, "a", None)), stale(u64::MAX));
    assert_eq!(epoch_of(one(&mut memory, fence(6, "a", None))), u64::MAX, "an attempt has one outcome");
    assert_eq!((memory.state.contexts, memory.state.last_position), (1, Position(0)));
    assert_eq!(memory.entries("a"), []);
}

#[test]
fn who_sends_another_epoch_is_refused_and_who_sends_none_passes() {
    let mut memory = Memory::new();
    let with = |counter, epoch| {
        let fence_epoch = Some(FenceEpoch(epoch));
        Append { fence_epoch, ..append(counter, "a", "x") }
    };
    let is_in = |outcome| matches!(outcome, Outcome::Appended(_));
    assert!(is_in(one(&mut memory, Command::Append(with(1, 0)))));
    one(&mut memory, fence(2, "a", None));
    assert_eq!(one(&mut memory, Command::Append(with(3, 0))), stale(1));
    assert_eq!(one(&mut memory, Command::Append(with(4, 2))), stale(1));
    assert!(is_in(one(&mut memory, Command::Append(with(5, 1)))));
    assert!(is_in(one(&mut memory, Command::Append(append(6, "a", "x")))));
    assert!(is_in(one(&mut memory, Command::Append(with(1, 0)))), "its outcome stands");
    let late = Append { expected_sequence: Some(Sequence(9)), ..with(7, 0) };
    assert_eq!(one(&mut memory, Command::Append(late)), stale(1), "the fence comes before the sequence");
    let fenced = memory.rows.heads["a"];
    assert_eq!((fenced.fence_epoch, fenced.latest), (FenceEpoch(1), Sequence(3)));
}

#[test]
fn a_retry_of_what_is_in_the_ledger_hears_so_after_a_fence() {
    let mut memory = Memory::new();
    let keyed = |counter| Append {
        idempotency_key: Some("once".to_owned()),
        fence_epoch: Some(FenceEpoch(0)),
        ..append(counter, "a", "x")
    };
    one(&mut memory, Command::Append(keyed(1)));
    one(&mut memory, fence(2, "a", None));
    let again = one(&mut memory, Command::Append(keyed(3)));
    assert!(matches!(again, Outcome::Appended(place) if place.deduplicated), "{again:?}");
}

#[test]
fn a_fence_is_in_the_digest() {
    let digest = |epoch| {
        let mut memory = Memory::new();
        one(&mut memory, fence(1, "a", Some(epoch)));
        one(&mut memory, Command::Append(append(2, "a", "x")));
        memory.state.digest
    };
    assert_ne!(digest(1), digest(2));
    assert_eq!(digest(2), digest(2));
}
