//! The kit against OTP's rules: random scripts, done to a tree of the kit and to a model of OTP's supervisor, must tell
//! the same story.
#![allow(missing_docs)]

mod model;

use model::aim::{self, Range};
use model::compare::{Teller, difference};
use model::{kit, otp};
use proptest::prelude::*;

const SCRIPTS: u32 = 1_500;

const ALL: Range = Range { calls: false, time: true, steps: 14 };

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(SCRIPTS))]

    #[test]
    fn random_scripts_go_as_otp_has_it(script in aim::scripts(ALL)) {
        let (model, told) = (otp::account(&script), kit::account(&script));
        if let Some(difference) = difference(&script, &model, &told, Teller::Kit) {
            return Err(TestCaseError::fail(difference));
        }
    }
}
