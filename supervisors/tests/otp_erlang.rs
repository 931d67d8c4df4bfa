//! The model of OTP's rules, and the kit, against Erlang's own supervisor.
//!
//! Skipped, aloud, where there is no `escript`, or none of the debug information from which the script makes a supervisor
//! with a clock that it turns itself.
#![allow(missing_docs)]

mod model;

use model::aim::{self, Odd, Range, Together};
use model::compare::{Teller, difference};
use model::script::Script;
use model::{Manner, erlang, kit, otp};

/// Scripts that one run of Erlang gets, always the same ones. Others: `OTP_SCRIPTS=5000 OTP_SEED=7`.
const SCRIPTS: usize = 400;

const ALL: Range = Range {
    calls: true,
    time: true,
    together: Together::Any,
    odd: Odd::Any,
    slow: 0,
    queued: false,
    auto_all: true,
    steps: 14,
    manner: Manner::Otp,
};
/// Siblings end while others start.
const SLOW: Range = Range { slow: 3, ..ALL };
/// Calls wait behind one another.
const QUEUED: Range = Range { queued: true, ..ALL };
/// Where the kit means to do as OTP does, and the order is not its own.
const ALIKE: Range = Range { time: false, together: Together::Never, ..ALL };
/// The same, with siblings that end while others start.
const ALIKE_SLOW: Range = Range { slow: 1, odd: Odd::First, ..ALIKE };

#[test]
fn erlang_and_the_model_of_otp_tell_the_same_story() {
    for range in [ALL, SLOW, QUEUED] {
        let scripts = scripts(range);
        let Some(told) = told(&scripts) else { return };
        let differ = |(script, told)| difference(script, &otp::account(script, Manner::Otp), told, Teller::Erlang);
        none_differs(&scripts, scripts.iter().zip(&told).map(differ));
    }
}

/// Directly, without the model: but for what the kit does on purpose, which no script here is about.
#[test]
fn erlang_and_the_kit_tell_the_same_story() {
    for range in [ALIKE, ALIKE_SLOW] {
        let scripts: Vec<Script> = scripts(range).into_iter().filter(|script| !asks_otherwise(script)).collect();
        let Some(told) = told(&scripts) else { return };
        let differ = |(script, told)| difference(script, told, &kit::account(script), Teller::Kit);
        none_differs(&scripts, scripts.iter().zip(&told).map(differ));
    }
}

/// It gets an answer of OTP's that the kit does not give.
fn asks_otherwise(script: &Script) -> bool {
    otp::account(script, Manner::Otp) != otp::account(script, Manner::Kit)
}

fn scripts(range: Range) -> Vec<Script> {
    aim::scripts_of_seed(range, setting("OTP_SEED").unwrap_or(1), setting("OTP_SCRIPTS").unwrap_or(SCRIPTS))
}

fn none_differs(scripts: &[Script], differences: impl Iterator<Item = Option<String>>) {
    let mut differences: Vec<_> =
        scripts.iter().zip(differences).filter_map(|(script, found)| Some((script, found?))).collect();
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
            eprintln!(
                "skipped: no escript found, or no debug information of its supervisor, so there is no Erlang to compare with"
            );
            None
        }
        Err(erlang::Error::Failed(error)) => panic!("{error}"),
    }
}
