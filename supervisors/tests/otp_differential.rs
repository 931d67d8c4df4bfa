//! The kit against OTP's rules: random scripts, done to a tree of the kit and to a model of OTP's supervisor, must tell
//! the same story.
#![allow(missing_docs)]

mod model;

use model::aim::{self, Range, Together};
use model::compare::{Teller, difference};
use model::script::Script;
use model::{kit, otp};
use proptest::prelude::*;

/// One end at a time, any start may fail.
const ALONE: Range = Range { calls: true, time: true, together: Together::Never, odd_starts: true, steps: 14 };
/// Several ends at a time. Starts go well, for how many there are is the kit's own affair (see `compare`).
const TOGETHER: Range = Range { together: Together::Alike, odd_starts: false, ..ALONE };

/// `OTP_SCRIPTS=100` runs a hundred times as many.
fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("OTP_SCRIPTS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let cases = cases.saturating_mul(times);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

fn same_story(script: &Script) -> Result<(), TestCaseError> {
    match difference(script, &otp::account(script), &kit::account(script), Teller::Kit) {
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
