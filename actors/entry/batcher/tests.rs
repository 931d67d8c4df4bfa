//! The batcher alone.

use super::*;
use converge_ledger_core::{Append, EntryId, NewEntry};

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const MARKS: Marks = Marks { low_water: 1, low_staging: 1 };
const T0: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(1);
const BATCH_BYTES_MAX: usize = 1 << 20;
const HANDED_BYTES_MAX: usize = 10 << 20;

fn command(counter: u64) -> Command {
    let entry =
        NewEntry { context_id: "c".into(), key: String::new(), payload: Bytes::new(), metadata: BTreeMap::new() };
    Command::Append(Append {
        counter,
        id: EntryId([0; 16]),
        appended_at_ns: 0,
        idempotency_key: None,
        expected_sequence: None,
        received_lamport: None,
        entry,
    })
}

fn batcher(leader: Option<NodeId>) -> Batcher {
    let mut batcher = Batcher::new(ME, Boot(1), PATIENCE, Bounds::default());
    batcher.led_by(leader);
    batcher
}

fn push(batcher: &mut Batcher, counters: std::ops::RangeInclusive<u64>) {
    counters.for_each(|counter| batcher.push(command(counter), 100));
}

fn counters(effect: &Effect) -> Vec<u64> {
    let (Effect::Propose { data, .. } | Effect::Forward { data, .. }) = effect;
    Batch::decode(data).unwrap().commands.iter().map(Command::counter).collect()
}

fn run(batcher: &mut Batcher, now: Duration) -> Vec<Effect> {
    batcher.run(now, || MARKS, |_| true)
}

#[test]
fn one_alone_goes_at_once() {
    let mut b = batcher(Some(ME));
    push(&mut b, 1..=1);
    let effects = run(&mut b, T0);
    assert!(matches!(&effects[..], [Effect::Propose { token: 1, .. }]));
}

#[test]
fn while_one_is_in_flight_the_next_waits_until_as_many_wait() {
    let mut b = batcher(Some(ME));
    push(&mut b, 1..=4);
    assert_eq!(counters(&run(&mut b, T0)[0]), vec![1, 2, 3, 4]);
    push(&mut b, 5..=7);
    assert!(run(&mut b, T0).is_empty(), "three wait, four are in flight");
    push(&mut b, 8..=8);
    assert_eq!(counters(&run(&mut b, T0)[0]), vec![5, 6, 7, 8]);
}

#[test]
fn no_more_than_four_batches_are_in_flight() {
    let mut b = batcher(Some(ME));
    let mut next = 1;
    for size in [1, 1, 2, 4] {
        push(&mut b, next..=next + size - 1);
        next += size;
        assert_eq!(run(&mut b, T0).len(), 1);
    }
    push(&mut b, next..=next + 99);
    assert!(run(&mut b, T0).is_empty());
    b.resolved(T0, [1]);
    assert_eq!(counters(&run(&mut b, T0)[0]).len(), 100);
}

#[test]
fn a_full_batch_goes_whatever_is_in_flight() {
    let mut b = batcher(Some(ME));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    (2..=6).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX / 2));
    let sizes: Vec<usize> = run(&mut b, T0).iter().map(|e| counters(e).len()).collect();
    assert_eq!(sizes, vec![2, 2], "two of half the bound fill a batch; the fifth alone is not worth one yet");
}

#[test]
fn one_command_larger_than_the_bound_is_a_batch_of_its_own() {
    let mut b = batcher(Some(ME));
    (1..=2).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX * 4));
    let all: Vec<Vec<u64>> = run(&mut b, T0).iter().map(counters).collect();
    assert_eq!(all, vec![vec![1], vec![2]]);
}

#[test]
fn without_a_leader_nothing_is_sealed_and_who_gave_up_is_never_handed_over() {
    let mut b = batcher(None);
    push(&mut b, 1..=2);
    assert!(run(&mut b, T0).is_empty());
    b.led_by(Some(OTHER));
    let effects = b.run(T0, || MARKS, |counter| counter == 2);
    assert!(matches!(&effects[..], [Effect::Forward { to: OTHER, .. }]));
    assert_eq!(counters(&effects[0]), vec![2]);
}

#[test]
fn a_new_leader_gets_everything_again_with_the_same_bytes() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=2);
    let Effect::Forward { data: first, .. } = run(&mut b, T0).remove(0) else { panic!() };
    b.led_by(None);
    assert!(run(&mut b, T0).is_empty());
    b.led_by(Some(ME));
    let Effect::Propose { data: again, .. } = run(&mut b, T0).remove(0) else { panic!() };
    assert_eq!(first, again);
}

#[test]
fn a_refusal_with_a_hint_goes_there_and_one_without_waits() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    b.not_proposed(OTHER, 1, None);
    assert!(run(&mut b, T0).is_empty());
    b.not_proposed(OTHER, 1, Some(NodeId(3)));
    assert!(matches!(run(&mut b, T0)[..], [Effect::Forward { to: NodeId(3), .. }]));
}

#[test]
fn no_answer_means_again_less_and_less_often() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    let mut handed = Vec::new();
    for second in 1..=10 {
        let now = PATIENCE * second;
        b.expire(now, |_| true);
        if !run(&mut b, now).is_empty() {
            handed.push(second);
        }
    }
    assert_eq!(handed, vec![1, 3, 7]);
}

#[test]
fn a_lost_link_gives_back_what_went_over_it() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    b.lost_link(NodeId(3));
    assert!(run(&mut b, T0).is_empty());
    b.lost_link(OTHER);
    assert_eq!(run(&mut b, T0).len(), 1);
}

#[test]
fn a_batch_that_nobody_waits_for_is_forgotten() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=2);
    run(&mut b, T0);
    b.expire(T0, |counter| counter != 1);
    assert!(!b.is_idle());
    b.expire(T0, |_| false);
    assert!(b.is_idle());
}

#[test]
fn without_a_leader_what_nobody_waits_for_is_not_kept() {
    let mut b = batcher(None);
    (1..=100).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX));
    b.expire(T0, |counter| counter == 7);
    b.led_by(Some(ME));
    assert_eq!(b.open.len(), 1, "the callers of the others gave up, nothing of theirs stays in memory");
    assert_eq!(b.open_bytes, BATCH_BYTES_MAX);
    assert_eq!(counters(&run(&mut b, T0)[0]), vec![7]);
}

#[test]
fn no_more_is_handed_over_at_once_than_a_link_takes() {
    let mut b = batcher(Some(OTHER));
    for counter in 1..=20 {
        let mut large = command(counter);
        let Command::Append(append) = &mut large else { panic!() };
        append.entry.payload = vec![0; BATCH_BYTES_MAX].into();
        b.push(large, BATCH_BYTES_MAX);
    }
    let first = run(&mut b, T0);
    let bytes = |effect: &Effect| match effect {
        Effect::Propose { data, .. } | Effect::Forward { data, .. } => data.len(),
    };
    assert!(first.iter().map(bytes).sum::<usize>() <= HANDED_BYTES_MAX);
    assert!(run(&mut b, T0).is_empty(), "the rest waits");
    b.resolved(T0, [1, 2]);
    let next: Vec<Vec<u64>> = run(&mut b, T0).iter().map(counters).collect();
    let after = first.len() as u64;
    assert_eq!(next, vec![vec![after + 1], vec![after + 2]], "in order, as room comes");
}

#[test]
fn a_new_leader_is_asked_again_as_soon_as_the_first_was() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    for second in 1..=7 {
        b.expire(PATIENCE * second, |_| true);
        run(&mut b, PATIENCE * second);
    }
    b.led_by(Some(NodeId(3)));
    run(&mut b, PATIENCE * 8);
    b.expire(PATIENCE * 9, |_| true);
    assert_eq!(run(&mut b, PATIENCE * 9).len(), 1);
}

#[test]
fn a_late_refusal_of_a_former_leader_leads_nowhere() {
    let mut b = batcher(Some(OTHER));
    push(&mut b, 1..=1);
    run(&mut b, T0);
    b.led_by(Some(NodeId(3)));
    assert_eq!(run(&mut b, T0).len(), 1);
    b.not_proposed(OTHER, 1, Some(NodeId(4)));
    assert!(run(&mut b, T0).is_empty(), "it is with node 3, which has not refused it");
    push(&mut b, 2..=2);
    assert!(matches!(run(&mut b, T0)[..], [Effect::Forward { to: NodeId(3), .. }]));
}

#[test]
fn while_earlier_ones_come_through_a_later_one_is_not_handed_over_again() {
    let mut b = batcher(Some(ME));
    for counter in 1..=4 {
        b.push(command(counter), BATCH_BYTES_MAX);
        assert_eq!(run(&mut b, T0).len(), 1);
    }
    let late = PATIENCE * 3 / 4;
    b.resolved(late, [2]);
    b.expire(PATIENCE, |_| true);
    let again: Vec<Vec<u64>> = run(&mut b, PATIENCE).iter().map(counters).collect();
    assert_eq!(again, vec![vec![1]], "the first was overtaken, so it is lost; the last two are behind");
    b.expire(late + PATIENCE, |_| true);
    assert_eq!(run(&mut b, late + PATIENCE).len(), 2, "nothing came any more");
}
