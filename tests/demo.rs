//! The demo is a test of the whole: it must hold, and say so in its exit code.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

mod support;

use std::process::Command;

use support::program::binary;

#[test]
fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let output =
        Command::new(binary()).args(["demo", "--output", "json"]).env("TMPDIR", directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["acknowledged"], report["events"]);
    for none in ["lost", "duplicated", "gaps", "differing_nodes"] {
        assert_eq!(report[none], 0, "{report}");
    }
    assert!(report["without_leader_ms"].as_u64().unwrap() > 0, "the leader was killed: {report}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the demo cleans up");
}
