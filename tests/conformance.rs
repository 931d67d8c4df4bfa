//! The Python client suite of `tests/conformance/`, as one test of `cargo test`.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

mod support;

use std::io::Write as _;
use std::process::Command;

use support::program::binary;

#[test]
fn a_python_client_gets_what_the_contract_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/tests/conformance/run.sh"))
        .arg("--quiet")
        .env("CONVERGE_BIN", binary())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Not by a macro: what was skipped, and why, must be seen also when the test passes.
    writeln!(std::io::stderr(), "{said}{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    assert!(output.status.success(), "the suite failed, see above");
}
