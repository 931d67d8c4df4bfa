//! An append that is in the ledger already, and whose entry cannot be read back, is never answered as a refusal.
#![allow(missing_docs)]

use std::path::Path;
use std::time::Duration;

use crate::inprocess::{PATIENCE, config};
use converge_ledger::{AppendOptions, Config, Error, NewEntry, Node};

/// Stands in the database's file once the journal was carried over.
const PAYLOAD: &str = "a payload that is found again";

fn alone(directory: &Path) -> Config {
    config(1, directory, &[])
}

async fn append(node: &Node, key: &str, payload: &'static str) -> Result<bool, Error> {
    let entry = NewEntry { context_id: "orders".into(), payload: payload.into(), ..NewEntry::default() };
    let options = AppendOptions {
        idempotency_key: Some(key.into()),
        deadline: Some(Duration::from_secs(5)),
        ..AppendOptions::default()
    };
    node.ledger().append(entry, options).await.map(|appended| appended.deduplicated)
}

/// Flips a bit in every copy of the payload that the database has.
fn rot(directory: &Path) -> usize {
    let path = directory.join("ledger.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = PAYLOAD.as_bytes();
    let found: Vec<usize> =
        (0..=bytes.len() - needle.len()).filter(|at| &bytes[*at..*at + needle.len()] == needle).collect();
    found.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&path, bytes).unwrap();
    found.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_append_whose_entry_is_damaged_is_unknown_and_not_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(alone(directory.path())).await.unwrap();
    assert!(!append(&node, "once", PAYLOAD).await.unwrap());
    // The end of the log is read by the start.
    assert!(!append(&node, "behind", "another").await.unwrap());
    node.stop(PATIENCE).await.unwrap();
    assert!(rot(directory.path()) > 0, "the database does not have the entry");

    let node = Node::start(alone(directory.path())).await.unwrap();
    // Under a new key, the client that is told "nothing was written" would write it twice.
    match append(&node, "once", PAYLOAD).await {
        Err(Error::Unknown(unknown)) => assert_eq!(unknown.idempotency_key.as_deref(), Some("once")),
        other => panic!("the entry is there, and the answer was {other:?}"),
    }
    node.stop(PATIENCE).await.unwrap();
}
