//! The Python client suite of `tests/conformance/`, as one test of `cargo test`.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

use std::process::Command;

#[test]
fn a_python_client_gets_what_the_contract_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/tests/conformance/run.sh"))
        .arg("--quiet")
        .env("CONVERGE_LEDGER_BIN", env!("CARGO_BIN_EXE_converge-ledger"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // What was skipped, and why, must be seen also when all is well.
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the suite failed, see above");
}
