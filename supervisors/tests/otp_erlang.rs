//! The model of OTP's rules, and the kit, against Erlang's own supervisor.
//!
//! Skipped, aloud, where there is no `escript`. Erlang's time is real, so the scripts have none of it: their periods are
//! an hour, and windows are left to the model.
#![allow(missing_docs)]

mod model;

use model::aim::{self, Range, Together};
use model::compare::{Teller, difference};
use model::script::{Script, Step};
use model::{erlang, kit, otp};

/// Scripts that one run of Erlang gets, always the same ones. Others: `OTP_SCRIPTS=5000 OTP_SEED=7`.
const SCRIPTS: usize = 400;

const ALL: Range =
    Range { calls: true, time: false, together: Together::Any, odd_starts: true, auto_all: true, steps: 14 };

#[test]
fn erlang_model_and_kit_tell_the_same_story() {
    let scripts =
        aim::scripts_of_seed(ALL, setting("OTP_SEED").unwrap_or(1), setting("OTP_SCRIPTS").unwrap_or(SCRIPTS));
    let Some(told) = told(&scripts) else { return };
    let mut differences = Vec::new();
    for (script, told) in scripts.iter().zip(&told) {
        let by_model = difference(script, &otp::account(script), told, Teller::Erlang);
        // Where siblings end together, the kit's order is its own: `otp_differential.rs` says more.
        let alone = |step: &Step| !matches!(step, Step::Exit(ends) if ends.len() > 1);
        let by_kit = || difference(script, told, &kit::account(script), Teller::Kit);
        let found = by_model.or_else(|| if script.steps.iter().all(alone) { by_kit() } else { None });
        differences.extend(found.map(|found| (script, found)));
    }
    // The shortest says most.
    differences.sort_by_key(|(script, _)| format!("{script:?}").len());
    if let Some((script, difference)) = differences.first() {
        panic!("{} of {} scripts differ; the shortest: {difference}\n{script:?}", differences.len(), scripts.len());
    }
}

fn setting<N: std::str::FromStr>(name: &str) -> Option<N> {
    std::env::var(name).ok()?.parse().ok()
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
