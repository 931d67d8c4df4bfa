//! Calls between two processes: the example does what it says. Cargo builds it beside the tests of its package, unless one
//! of them is named.
#![allow(missing_docs)]

use std::process::{Command, Stdio};

/// What an example printed, line by line.
fn printed(example: &str) -> Vec<String> {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(std::path::Path::parent).unwrap().join("examples").join(example);
    assert!(path.exists(), "there is no {}: cargo build --workspace --examples", path.display());
    let output = Command::new(path).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn two_processes_call_each_other() {
    let expected = [
        "before it is there: the call was not sent: there is no connection to the node",
        "node 1 is up",
        "one packet of tea: Ok(2)",
        "three more: Err(OutOfStock { left: 2 })",
        "a name that nobody has: the call was not sent: nobody is registered there under that name",
        "killed while it counted: the call may have been carried out: the connection ended before the answer came",
        "node 1 is down",
        "after that: the call was not sent: there is no connection to the node",
    ];
    assert_eq!(printed("remote"), expected);
}
