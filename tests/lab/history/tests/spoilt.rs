//! What a broken ledger would show: a correct run with one thing wrong that no order explains.
#![allow(clippy::ptr_arg, reason = "all spoilers are of one type")]

use super::*;

/// Spoils a history, or finds nothing to spoil.
type Spoil = fn(&mut Vec<Operation>, &mut Dice) -> Option<()>;

const LATE: u64 = 1 << 40;

/// A place of the history that `fits`, by chance.
fn find(history: &[Operation], dice: &mut Dice, fits: impl Fn(&Operation) -> bool) -> Option<usize> {
    let places: Vec<_> = (0..history.len()).filter(|&at| fits(&history[at])).collect();
    (!places.is_empty()).then(|| places[dice.below(places.len())])
}

fn state<'h>(history: &'h mut [Operation], dice: &mut Dice, least: usize) -> Option<&'h mut Vec<Seen>> {
    let at =
        find(history, dice, |operation| matches!(operation, Operation::State(state) if state.entries.len() >= least))?;
    match &mut history[at] {
        Operation::State(state) => Some(&mut state.entries),
        _ => None,
    }
}

fn watch<'h>(history: &'h mut [Operation], dice: &mut Dice, least: usize) -> Option<&'h mut Vec<Seen>> {
    let at =
        find(history, dice, |operation| matches!(operation, Operation::Watch(watch) if watch.entries.len() >= least))?;
    match &mut history[at] {
        Operation::Watch(watch) => Some(&mut watch.entries),
        _ => None,
    }
}

fn append<'h>(history: &'h mut [Operation], dice: &mut Dice, fits: impl Fn(&Append) -> bool) -> Option<&'h mut Append> {
    let at = find(history, dice, |operation| matches!(operation, Operation::Append(append) if fits(append)))?;
    match &mut history[at] {
        Operation::Append(append) => Some(append),
        _ => None,
    }
}

fn is_first(append: &Append) -> bool {
    matches!(&append.outcome, Outcome::Done(done) if !done.deduplicated)
}

fn lose_the_tail(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    state(history, dice, 1)?.pop();
    Some(())
}

fn lose_the_tail_everywhere(history: &mut Vec<Operation>, _: &mut Dice) -> Option<()> {
    let last = history.iter().rev().find_map(|operation| match operation {
        Operation::Append(append) if is_first(append) => Some((append.context.clone(), append.value.clone())),
        _ => None,
    })?;
    for operation in history.iter_mut() {
        if let Operation::State(state) = operation
            && state.context == last.0
        {
            let at = state.entries.iter().position(|seen| seen.value == last.1)?;
            state.entries.truncate(at);
        }
    }
    Some(())
}

fn fork(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let entries = state(history, dice, 2)?;
    let at = dice.below(entries.len() - 1);
    let value = entries[at].value.clone();
    entries[at].value = std::mem::replace(&mut entries[at + 1].value, value);
    Some(())
}

fn write_twice(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let entries = state(history, dice, 2)?;
    let last = entries.last()?.clone();
    let value = entries[0].value.clone();
    entries.push(Seen { sequence: last.sequence.next(), value, position: None });
    Some(())
}

fn invent(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    watch(history, dice, 1)?[0].value = "never appended".into();
    Some(())
}

fn watch_gap(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let entries = watch(history, dice, 2)?;
    entries.remove(dice.below(entries.len() - 1));
    Some(())
}

fn watch_repeats(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let entries = watch(history, dice, 1)?;
    let at = dice.below(entries.len());
    entries.insert(at, entries[at].clone());
    Some(())
}

/// A read long after the last append that still shows an early state.
fn stale_read(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let first = find(history, dice, |operation| matches!(operation, Operation::Append(append) if is_first(append)))?;
    let Operation::Append(append) = &history[first] else { return None };
    let context = append.context.clone();
    history.push(Operation::Read(Read {
        client: 0,
        start: Time(LATE),
        end: Time(LATE + 1),
        context,
        consistency: Consistency::Linearizable,
        after: Default::default(),
        latest: Default::default(),
        entries: Vec::new(),
        limited: false,
    }));
    Some(())
}

/// An entry that was acknowledged before its append began.
fn late_start(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let mut latest = std::collections::BTreeMap::new();
    for operation in history.iter() {
        if let Operation::Append(Append { context, outcome: Outcome::Done(done), .. }) = operation {
            let known = latest.entry(context.clone()).or_insert(done.sequence);
            *known = done.sequence.max(*known);
        }
    }
    let early = |append: &Append| match &append.outcome {
        Outcome::Done(done) => !done.deduplicated && done.sequence < latest[&append.context],
        _ => false,
    };
    let append = append(history, dice, early)?;
    (append.start, append.end) = (Time(LATE), Some(Time(LATE + 1)));
    Some(())
}

fn refuse_what_was_written(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let append = append(history, dice, |append| is_first(append) && append.idempotency_key.is_none())?;
    append.outcome = Outcome::Refused(Refused { reason: "no".into(), actual: None });
    Some(())
}

fn deduplicate_elsewhere(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let append = append(history, dice, |append| matches!(&append.outcome, Outcome::Done(done) if done.deduplicated))?;
    match &mut append.outcome {
        Outcome::Done(done) => done.sequence = done.sequence.next(),
        _ => return None,
    }
    Some(())
}

fn two_firsts(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let append = append(history, dice, |append| is_first(append) && append.idempotency_key.is_some())?.clone();
    history.push(Operation::Append(append));
    Some(())
}

fn ignore_the_expected(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let append = append(history, dice, is_first)?;
    match &append.outcome {
        Outcome::Done(done) => append.expected = Some(done.sequence),
        _ => return None,
    }
    Some(())
}

fn reuse_a_position(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let entries = state(history, dice, 2)?;
    let at = dice.below(entries.len() - 1);
    let position = entries[at].position?;
    entries[at + 1].position = Some(position);
    Some(())
}

fn lose_a_context(history: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    state(history, dice, 1)?.clear();
    Some(())
}

/// Two appends of two contexts, one after the other, change positions.
fn fork_positions(history: &mut Vec<Operation>, _: &mut Dice) -> Option<()> {
    let top = history.iter().find_map(|operation| match operation {
        Operation::End(end) => Some(end.position.get()),
        _ => None,
    })?;
    for (context, start, position) in [("x", LATE, top + 2), ("y", LATE + 2, top + 1)] {
        history.push(Operation::Append(Append {
            client: 0,
            start: Time(start),
            end: Some(Time(start + 1)),
            context: context.into(),
            value: "v".into(),
            idempotency_key: None,
            expected: None,
            behind: None,
            outcome: Outcome::Done(Done {
                sequence: converge_ledger_core::Sequence(1),
                position: Some(converge_ledger_core::Position(position)),
                deduplicated: false,
            }),
        }));
    }
    Some(())
}

/// Of one call, an entry is lost, and the one behind it is there; or both are, the other way round.
#[test]
fn an_entry_that_its_call_gave_later_needs_those_before_it() {
    let history = |first: &str, second: &str| {
        let append = |value: &str, behind: &str| {
            format!(
                r#"{{"op":"append","client":1,"start":1,"end":2,"context":"c","value":"{value}","outcome":"unknown"{behind}}}"#
            )
        };
        let behind = r#","behind":{"context":"c","value":"a"}"#;
        let states = [first, second].into_iter().filter(|value| !value.is_empty());
        let states: Vec<_> = (1..).zip(states).map(|(n, value)| format!(r#"[{n},"{value}",{n}]"#)).collect();
        let (count, states) = (states.len(), states.join(","));
        let lines = [
            append("a", ""),
            append("b", behind),
            format!(r#"{{"op":"state","node":1,"context":"c","entries":[{states}]}}"#),
            format!(r#"{{"op":"end","position":{count}}}"#),
        ];
        check(&read(lines.join("\n").as_bytes()).unwrap()).violations
    };
    for (first, second) in [("", ""), ("a", ""), ("a", "b")] {
        assert_eq!(history(first, second), [], "{first} {second}");
    }
    for (first, second) in [("b", ""), ("b", "a")] {
        let violations = history(first, second);
        assert_eq!(violations.iter().map(|broken| broken.rule).collect::<Vec<_>>(), [Rule::Prefix], "{violations:?}");
    }
}

/// A ledger that knows keys for a shorter or a longer time than it says.
#[test]
fn keys_that_are_forgotten_too_early_or_too_late_are_caught() {
    let mut caught = [0, 0];
    for seed in 0..60 {
        let shape =
            Shape { operations: 200, contexts: 2, ticks: 5, shown: 5, states: true, window: Some(4 + seed % 20) };
        let history = run(&mut Dice::new(seed), shape);
        for (late, count) in caught.iter_mut().enumerate() {
            let mut history = history.clone();
            let Operation::Begin(begin) = &mut history[0] else { unreachable!("it begins with that") };
            begin.key_window = if late == 1 { begin.key_window / 2 } else { begin.key_window * 2 };
            let violations = check(&history).violations;
            let expected = [&[Rule::Key, Rule::Twice][..], &[Rule::Deduplicated]][late];
            *count += u64::from(violations.iter().any(|violation| expected.contains(&violation.rule)));
        }
    }
    assert!(caught.iter().all(|caught| *caught >= 30), "{caught:?} of 60");
}

#[test]
fn what_a_broken_ledger_shows_is_caught() {
    let spoils: &[(&str, Spoil, &[Rule])] = &[
        ("lose_the_tail", lose_the_tail, &[Rule::Lost, Rule::Diverged]),
        ("lose_the_tail_everywhere", lose_the_tail_everywhere, &[Rule::Lost]),
        ("fork", fork, &[Rule::Place, Rule::Diverged]),
        ("write_twice", write_twice, &[Rule::Twice, Rule::Unfilled]),
        ("invent", invent, &[Rule::Uninvoked]),
        ("watch_gap", watch_gap, &[Rule::Gap]),
        ("watch_repeats", watch_repeats, &[Rule::Gap]),
        ("stale_read", stale_read, &[Rule::Order]),
        ("late_start", late_start, &[Rule::Order]),
        ("refuse_what_was_written", refuse_what_was_written, &[Rule::Refused]),
        ("deduplicate_elsewhere", deduplicate_elsewhere, &[Rule::Place, Rule::Twice, Rule::Unfilled]),
        ("two_firsts", two_firsts, &[Rule::Deduplicated]),
        ("ignore_the_expected", ignore_the_expected, &[Rule::Expected]),
        ("reuse_a_position", reuse_a_position, &[Rule::Position]),
        ("lose_a_context", lose_a_context, &[Rule::Lost, Rule::Diverged]),
        ("fork_positions", fork_positions, &[Rule::LedgerOrder]),
    ];
    for (name, spoil, rules) in spoils {
        let mut spoilt = 0;
        for seed in 0..60 {
            let mut dice = Dice::new(seed);
            let shape = Shape { operations: 60, contexts: 2, ticks: 5, shown: 5, states: true, window: None };
            let mut history = run(&mut dice, shape);
            if spoil(&mut history, &mut dice).is_none() {
                continue;
            }
            spoilt += 1;
            let violations = check(&history).violations;
            let caught = violations.iter().any(|violation| rules.contains(&violation.rule));
            assert!(caught, "{name}, seed {seed}: {violations:#?}\n{}", text(&history));
        }
        assert!(spoilt >= 30, "{name} found something to spoil {spoilt} times only");
    }
}
