//! The model of OTP's rules, and the kit, against Erlang's own supervisor.
//!
//! Skipped, aloud, where there is no `escript`. Erlang's time is real, so the scripts have none of it: their periods are
//! an hour, and windows are left to the model.
#![allow(missing_docs)]

mod model;

use model::aim::{self, Range, Together};
use model::compare::{Teller, difference};
use model::script::Script;
use model::{erlang, otp};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Scripts that one run of Erlang gets. More: `OTP_SCRIPTS=5000`.
const SCRIPTS: usize = 400;

const ALL: Range = Range { calls: true, time: false, together: Together::Any, odd_starts: true, steps: 14 };

#[test]
fn erlang_tells_what_the_model_tells() {
    let count = std::env::var("OTP_SCRIPTS").ok().and_then(|count| count.parse().ok()).unwrap_or(SCRIPTS);
    let scripts = scripts(count);
    let Some(told) = told(&scripts) else { return };
    let mut differences = Vec::new();
    for (script, told) in scripts.iter().zip(&told) {
        if let Some(difference) = difference(script, &otp::account(script), told, Teller::Erlang) {
            differences.push((script, difference));
        }
    }
    // The shortest says most.
    differences.sort_by_key(|(script, _)| format!("{script:?}").len());
    if let Some((script, difference)) = differences.first() {
        panic!("{} of {count} scripts differ; the shortest: {difference}\n{script:?}", differences.len());
    }
}

/// Always the same ones, so that a failure can be seen again.
fn scripts(count: usize) -> Vec<Script> {
    let seed = std::env::var("OTP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1u8);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = aim::scripts(ALL);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a script").current()).collect()
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn told(scripts: &[Script]) -> Option<Vec<model::Account>> {
    match erlang::accounts(scripts, &std::env::temp_dir()) {
        Ok(accounts) => {
            assert_eq!(accounts.len(), scripts.len(), "an account for each script");
            Some(accounts)
        }
        Err(erlang::Error::Missing) => {
            eprintln!("skipped: no escript found, so there is no Erlang to compare with");
            None
        }
        Err(erlang::Error::Failed(error)) => panic!("{error}"),
    }
}
