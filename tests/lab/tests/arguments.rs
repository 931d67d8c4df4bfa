//! What an argument cannot do is refused before anything is started.
#![allow(missing_docs)]

use std::process::Command;

/// Exit code and complaint.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_converge-lab")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_an_argument_cannot_do_is_refused_at_once() {
    for (arguments, word) in [
        (&["chaos", "--nodes", "4"][..], "3 or 5"),
        (&["chaos", "--nodes", "6"], "3 or 5"),
        (&["chaos", "--program", "/nowhere/converge-ledger"], "--program"),
        (&["chaos", "--clients", "257"], "possible is a whole number from 1 to 256"),
        (&["sim", "--seed", "s"], "possible is a whole number from 0 to 18446744073709551615"),
        (&["sim", "--seeds", "2", "--trace"], "--trace is for one run"),
        (&["sim", "--for", "1s", "--history", "h"], "--history is for one run"),
    ] {
        let (code, error) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
    let (code, error) = refused(&["check-history", "/dev/null"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("nothing to check"), "{error}");
}
