//! The checker against every order there is, against spoilt histories, and against the clock.
#![allow(clippy::print_stderr, reason = "figures of a test")]

mod oracle;
mod runs;
mod spoilt;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use runs::{Dice, Shape, blur, disturb, run};

fn small(operations: usize, contexts: usize) -> Shape {
    Shape { operations, contexts, ticks: 4, shown: 3, states: false, window: None }
}

fn text(history: &[Operation]) -> String {
    let mut bytes = Vec::new();
    history.iter().for_each(|operation| operation.write(&mut bytes).unwrap());
    String::from_utf8(bytes).unwrap()
}

/// A small history that may be wrong in a few places.
fn histories() -> impl Strategy<Value = Vec<Operation>> {
    (any::<u64>(), 1..9_usize, 1..3_usize, 0..5_usize).prop_map(|(seed, operations, contexts, wrong)| {
        let mut dice = Dice::new(seed);
        let mut history = run(&mut dice, small(operations, contexts));
        if dice.one_in(2) {
            blur(&mut history, &mut dice);
        }
        (0..wrong).for_each(|_| disturb(&mut history, &mut dice));
        history
    })
}

/// `HISTORY_CASES` sets how many.
#[test]
fn the_check_agrees_with_a_search_of_all_orders() {
    let cases = std::env::var("HISTORY_CASES").map_or(20_000, |count| count.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let (good, bad) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let outcome = runner.run(&histories(), |history| {
        let verdict = check(&history);
        let explained = oracle::explains(&history);
        let counter = if explained { &good } else { &bad };
        counter.set(counter.get() + 1);
        prop_assert_eq!(verdict.holds(), explained, "{:#?}\n{}", verdict.violations, text(&history));
        Ok(())
    });
    outcome.unwrap();
    let (good, bad) = (good.get(), bad.get());
    eprintln!("{good} histories with an order, {bad} without");
    assert!(good >= cases / 6 && bad >= cases / 6, "both verdicts are tried often: {good} good, {bad} bad");
}

#[test]
fn a_correct_run_holds_and_survives_the_file() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        // Every other ledger forgets keys.
        let window = (seed % 2 == 1).then_some(1 + seed / 2);
        let shape = Shape { operations: 400, contexts: 3, ticks: 20, shown: 10, states: true, window };
        let mut history = run(&mut dice, shape);
        let verdict = check(&history);
        assert!(verdict.holds(), "seed {seed}: {:#?}\n{}", verdict.violations, text(&history));
        assert!(verdict.counts.acknowledged > 50 && verdict.counts.unknown > 10 && verdict.counts.reads > 20);
        assert_eq!(read(text(&history).as_bytes()).unwrap(), history);
        blur(&mut history, &mut dice);
        let verdict = check(&history);
        assert!(verdict.holds(), "seed {seed}, blurred: {:#?}\n{}", verdict.violations, text(&history));
    }
}

/// Each slot has an offer of its own, whatever that takes.
fn all_filled(slots: &[usize], offers: &[fill::Offer], taken: u64) -> bool {
    let Some((&slot, rest)) = slots.split_first() else { return true };
    offers.iter().enumerate().any(|(number, offer)| {
        let fits = offer.from.is_some_and(|from| from <= slot) || offer.only.contains(&slot);
        fits && taken & 1 << number == 0 && all_filled(rest, offers, taken | 1 << number)
    })
}

#[test]
fn unseen_slots_are_filled_when_they_can_be() {
    let mut dice = Dice::new(7);
    let mut counts = [0, 0];
    for _ in 0..20_000 {
        let slots: Vec<_> = (0..7).filter(|_| !dice.one_in(3)).collect();
        let offers = vec![fill::Offer::default(); slots.len() + dice.below(2)];
        let offers: Vec<_> = offers
            .into_iter()
            .map(|_| fill::Offer {
                from: dice.one_in(3).then(|| dice.below(7)),
                only: (0..dice.below(4)).map(|_| dice.below(7)).collect(),
            })
            .collect();
        let filled = fill::Arrangement::new(&offers).fill(&slots).is_none();
        assert_eq!(filled, all_filled(&slots, &offers, 0), "{slots:?} {offers:?}");
        counts[usize::from(filled)] += 1;
    }
    assert!(counts[0] > 1000 && counts[1] > 1000, "{counts:?}");
}

/// `HISTORY_OPERATIONS` sets how many; a million in a release build is what the figure in the docs is about.
#[test]
fn the_check_takes_time_like_sorting() {
    let operations = std::env::var("HISTORY_OPERATIONS").map_or(50_000, |count| count.parse().unwrap());
    let mut dice = Dice::new(1);
    let history = run(&mut dice, Shape { operations, contexts: 100, ticks: 50, shown: 10, states: true, window: None });
    let bytes = text(&history);
    let start = Instant::now();
    let again = read(bytes.as_bytes()).unwrap();
    let parsed = start.elapsed();
    let verdict = check(&again);
    let all = start.elapsed();
    let size = bytes.len() >> 20;
    eprintln!("{} operations, {size} MiB: read in {parsed:?}, checked in {:?}", history.len(), all - parsed);
    assert!(verdict.holds(), "{:#?}", verdict.violations);
    // Twenty times what it takes on a slow machine in a debug build.
    let bound = Duration::from_micros(400) * u32::try_from(operations).unwrap();
    assert!(all < bound, "{operations} operations took {all:?}");
}

#[test]
fn a_bad_line_is_named() {
    let good = text(&run(&mut Dice::new(1), small(2, 1)));
    let lines = good.lines().count() as u64;
    for bad in ["", "\n", "[]\n", "{}\n", "{\"op\":\"fly\"}\n", "{\"op\":\"end\",\"position\":-1}\n", "{\"op\":\"end\""]
    {
        let outcome = read(format!("{good}{bad}").as_bytes());
        match bad {
            "" => assert_eq!(outcome.unwrap().len() as u64, lines),
            _ => assert_eq!(outcome.expect_err(bad).line, lines + 1, "{bad:?}"),
        }
    }
    let unknown = "{\"op\":\"end\",\"position\":1,\"colour\":2}";
    assert!(read(unknown.as_bytes()).unwrap_err().to_string().contains("colour"), "no field is left unread");
}

#[test]
fn numbers_from_anywhere_do_no_harm() {
    let max = u64::MAX;
    let history = format!(
        r#"{{"op":"append","client":{max},"start":{max},"end":{max},"context":"c","value":"v","expected":{max},"outcome":{{"done":{{"sequence":{max},"position":{max}}}}}}}
{{"op":"append","client":0,"start":0,"end":{max},"context":"c","value":"w","expected":0,"outcome":{{"refused":{{"reason":"","actual":{max}}}}}}}
{{"op":"append","client":0,"start":0,"end":null,"context":"c","value":"x","expected":{max},"outcome":"unknown"}}
{{"op":"read","client":0,"start":0,"end":0,"context":"c","consistency":"linearizable","after":{max},"latest":{max},"entries":[[{max},"v",0],[0,"v",{max}]]}}
{{"op":"watch","client":0,"start":9,"end":0,"context":"c","after":{max},"entries":[[0,"v",null]]}}
{{"op":"state","node":{max},"context":"d","entries":[[1,"v",{max}],[1,"v",{max}]]}}
{{"op":"end","position":{max}}}
"#
    );
    let history = read(history.as_bytes()).unwrap();
    assert!(!check(&history).holds());
    for left_out in 0..history.len() {
        let mut history = history.clone();
        history.remove(left_out);
        assert!(!check(&history).holds(), "without line {}", left_out + 1);
    }
}

#[test]
fn a_flood_of_violations_is_counted() {
    let shape = Shape { operations: 9000, contexts: 1, ticks: 9, shown: 1, states: true, window: None };
    let mut history = run(&mut Dice::new(3), shape);
    for operation in &mut history {
        if let Operation::State(state) = operation {
            state.entries.iter_mut().for_each(|seen| seen.value.push('!'));
        }
    }
    let verdict = check(&history);
    assert!(verdict.violations.len() == 1000 && verdict.more > 1000, "{} more", verdict.more);
}
