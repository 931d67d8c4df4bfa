//! The kit against OTP's rules: random scripts, done to a tree of the kit and to a model of OTP's supervisor, must tell
//! the same story. What the model says is checked against Erlang's own supervisor by `otp_erlang.rs`.
//!
//! After each step the order of starts and ends, what calls answer, which restarts were counted, who gave up, and what is
//! there are compared. Differences on purpose, which [`model::compare`] knows:
//!
//! - The kit's supervisor goes on reading while children start and stop. Of siblings that end together it may restart
//!   the first and the second at once, where OTP restarts the first, undoes that, and begins again.
//! - All below a killed supervisor is killed, and is gone before its successor starts. In Erlang a supervisor below a
//!   killed one stops its children in order, while the successor may run already.
//! - `count_children` of a dynamic supervisor counts its children; OTP counts the one template.
//! - What is being started when a sibling ends is called off where that sibling takes it along; OTP's has started it by
//!   then. So slow starts are those of the first start of all, which both finish.
//!
//! And those of [`model::Manner::Kit`], by which the model goes here: windows are exact, a request to end a child calls its
//! start off, dynamic children are asked about like all others, and one with nothing to run is forgotten.
//!
//! Not tried, since OTP has no such thing: backoff, start time-outs, a child that does not stop.
#![allow(missing_docs)]

mod model;

use std::collections::BTreeMap;

use model::aim::{self, Odd, Range, Together};
use model::compare::{Teller, difference};
use model::script::{Auto, Body, Child, Restart, Script, ScriptedOutcome, Step, Strategy, Sup, Why};
use model::{Manner, Record, kit, otp};
use proptest::prelude::{ProptestConfig, TestCaseError, proptest};

/// One end at a time, any start may fail.
const ALONE: Range = Range {
    calls: true,
    time: true,
    together: Together::Never,
    odd: Odd::Any,
    slow: 0,
    queued: false,
    auto_all: true,
    steps: 14,
    manner: Manner::Kit,
};
/// Several ends at a time. Starts go well, for how many there are is the kit's own affair (see `compare`).
const TOGETHER: Range = Range { together: Together::Alike, odd: Odd::Never, ..ALONE };
/// Siblings end while others start for the first time.
const SLOW: Range = Range { slow: 1, odd: Odd::First, ..ALONE };
/// Calls that wait behind one another.
const QUEUED: Range = Range { queued: true, odd: Odd::First, ..ALONE };

/// `OTP_TIMES=100` runs a hundred times as many.
fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("OTP_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let cases = cases.saturating_mul(times);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

fn same_story(script: &Script) -> Result<(), TestCaseError> {
    match difference(script, &otp::account(script, Manner::Kit), &kit::account(script), Teller::Kit) {
        Some(difference) => Err(TestCaseError::fail(difference)),
        None => Ok(()),
    }
}

proptest! {
    #![proptest_config(config(1_200))]

    #[test]
    fn a_script_goes_as_otp_has_it(script in aim::scripts(ALONE)) {
        same_story(&script)?;
    }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn siblings_that_end_together_end_as_otp_has_it(script in aim::scripts(TOGETHER)) {
        same_story(&script)?;
    }
}

proptest! {
    #![proptest_config(config(1_200))]

    #[test]
    fn who_ends_while_a_sibling_starts_is_dealt_with_as_otp_has_it(script in aim::scripts(SLOW)) {
        same_story(&script)?;
    }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn calls_that_wait_behind_one_another_are_answered_as_otp_has_it(script in aim::scripts(QUEUED)) {
        same_story(&script)?;
    }
}

/// Every kind of three siblings, any two or all of which end together, in every order, under a supervisor that ends with
/// the last significant one: what counts is who is there when all is at rest, not who happens to be down.
#[test]
fn three_siblings_that_end_together_end_as_otp_has_it() {
    let orders: [&[usize]; 12] = [
        &[0, 1],
        &[0, 2],
        &[1, 0],
        &[1, 2],
        &[2, 0],
        &[2, 1],
        &[0, 1, 2],
        &[0, 2, 1],
        &[1, 0, 2],
        &[1, 2, 0],
        &[2, 0, 1],
        &[2, 1, 0],
    ];
    let kinds = [
        (Restart::Permanent, false),
        (Restart::Transient, false),
        (Restart::Transient, true),
        (Restart::Temporary, false),
        (Restart::Temporary, true),
    ];
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        for number in 0..kinds.len().pow(3) {
            let kinds = [kinds[number % 5], kinds[number / 5 % 5], kinds[number / 25]];
            let root = siblings(strategy, kinds);
            for (order, why) in orders.iter().flat_map(|order| [(order, Why::Kill), (order, Why::Normal)]) {
                let ends = order.iter().map(|&i| (format!("root/{}", root.children[i].id), why)).collect();
                let script = Script { root: root.clone(), steps: vec![Step::Exit(ends), Step::Stop] };
                same_story(&script).unwrap_or_else(|error| panic!("{error}\n{script:?}"));
            }
        }
    }
}

/// The last but one significant child is being restarted when the last one ends, and its factory then has nothing to run.
#[test]
fn a_significant_sibling_that_does_not_come_back_has_ended() {
    let mut root = siblings(
        Strategy::OneForOne,
        [(Restart::Permanent, false), (Restart::Transient, true), (Restart::Temporary, true)],
    );
    let Body::Worker { starts, .. } = &mut root.children[1].body else { unreachable!("a worker") };
    *starts = vec![ScriptedOutcome::Up, ScriptedOutcome::Ignore];
    let ends = ["root/b", "root/c"].map(|path| (path.to_owned(), Why::Kill));
    let script = Script { root, steps: vec![Step::Exit(ends.to_vec())] };
    same_story(&script).unwrap_or_else(|error| panic!("{error}\n{script:?}"));
}

fn siblings(strategy: Strategy, kinds: [(Restart, bool); 3]) -> Sup {
    let children = kinds.into_iter().zip(0u32..).map(|((restart, significant), key)| Child {
        id: ["a", "b", "c"][key as usize].to_owned(),
        restart,
        significant,
        body: Body::Worker { key, brutal: false, starts: Vec::new(), slow: None },
    });
    Sup { strategy, intensity: 6, period: 10, auto: Auto::All, children: children.collect() }
}

/// The scripts get to what they are for.
#[test]
fn scripts_reach_every_rule() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for script in aim::scripts_of_seed(ALONE, 1, 1_500) {
        for (i, record) in otp::account(&script, Manner::Kit).iter().enumerate() {
            let step = i.checked_sub(1).map(|i| &script.steps[i]);
            for what in rules_in(step, record) {
                *seen.entry(what).or_default() += 1;
            }
        }
    }
    let often = [
        "already present",
        "already started",
        "ignored",
        "no supervisor",
        "not found",
        "ok",
        "refused",
        "running",
        "started",
        "did not start",
        "a start that is ignored",
        "a restart that fails",
        "siblings stopped and started",
        "a supervisor gave up",
        "the root gave up",
        "a dynamic child restarted",
        "a child that is undefined",
    ];
    for what in often {
        assert!(seen.get(what).is_some_and(|&times| times >= 10), "{what}: {seen:?}");
    }
}

fn rules_in(step: Option<&Step>, record: &Record) -> Vec<String> {
    let mut rules = vec![match record.reply.split_once(' ') {
        Some((path, rest)) if path.starts_with(otp::ROOT) => rest.to_owned(),
        _ => record.reply.clone(),
    }];
    let events = &record.events;
    let ended = |end: &str| events.iter().any(|event| event.starts_with("end ") && event.ends_with(end));
    if let Some(Step::Exit(ends)) = step {
        let (path, _) = &ends[0];
        let own = events.iter().filter(|event| event.contains(&format!(" {path} "))).count();
        let restarted = own > 1;
        let others = events.iter().any(|event| event.starts_with("down ") && !event.contains(path.as_str()));
        let facts = [
            ("a restart that fails", events.iter().any(|event| event.ends_with(" fail"))),
            ("siblings stopped and started", restarted && others),
            ("the root gave up", events.iter().any(|event| event == "end root shutdown")),
            ("a supervisor gave up", ended(" shutdown") && !ended("root shutdown")),
            ("a dynamic child restarted", restarted && path.contains("*/")),
        ];
        rules.extend(facts.iter().filter(|(_, true_here)| *true_here).map(|(fact, _)| (*fact).to_owned()));
    }
    if events.iter().any(|event| event.ends_with(" ignore")) {
        rules.push("a start that is ignored".to_owned());
    }
    if record.view.iter().any(|line| line.ends_with(" undefined")) {
        rules.push("a child that is undefined".to_owned());
    }
    rules
}
