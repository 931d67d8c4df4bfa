//! Every limit holds to the byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::{LimitError, Limits, NewEntry};

use crate::sample::{entry, history};

fn check(change: impl FnOnce(&mut NewEntry)) -> Result<(), LimitError> {
    let mut entry = entry("orders", "hello");
    change(&mut entry);
    Limits::default().check(&entry)
}

fn pairs(count: usize, bytes: usize) -> BTreeMap<String, String> {
    let mut pairs: BTreeMap<_, _> = (0..count).map(|n| (format!("{n:04}"), String::new())).collect();
    let rest = bytes - 4 * count;
    pairs.insert("0000".to_owned(), "v".repeat(rest));
    pairs
}

#[test]
fn payload() {
    const LIMIT: usize = 4_194_304;
    assert_eq!(check(|entry| entry.payload = Bytes::new()), Ok(()));
    assert_eq!(check(|entry| entry.payload = vec![0; LIMIT].into()), Ok(()));
    let refused = LimitError::PayloadTooLarge { bytes: LIMIT + 1, limit: LIMIT };
    assert_eq!(check(|entry| entry.payload = vec![0; LIMIT + 1].into()), Err(refused));
}

#[test]
fn context_id() {
    assert_eq!(check(|entry| entry.context_id.clear()), Err(LimitError::ContextIdEmpty));
    assert_eq!(check(|entry| entry.context_id = "c".repeat(1024)), Ok(()));
    let refused = LimitError::ContextIdTooLong { bytes: 1025, limit: 1024 };
    assert_eq!(check(|entry| entry.context_id = "c".repeat(1025)), Err(refused));
}

#[test]
fn key() {
    assert_eq!(check(|entry| entry.key.clear()), Ok(()));
    assert_eq!(check(|entry| entry.key = "k".repeat(1024)), Ok(()));
    let refused = LimitError::KeyTooLong { bytes: 1025, limit: 1024 };
    assert_eq!(check(|entry| entry.key = "k".repeat(1025)), Err(refused));
}

#[test]
fn idempotency_key() {
    let limits = Limits::default();
    assert_eq!(limits.check_idempotency_key(&"k".repeat(1024)), Ok(()));
    let refused = LimitError::IdempotencyKeyTooLong { bytes: 1025, limit: 1024 };
    assert_eq!(limits.check_idempotency_key(&"k".repeat(1025)), Err(refused));
}

#[test]
fn metadata_pairs() {
    assert_eq!(check(|entry| entry.metadata = pairs(64, 256)), Ok(()));
    let refused = LimitError::TooManyPairs { pairs: 65, limit: 64 };
    assert_eq!(check(|entry| entry.metadata = pairs(65, 260)), Err(refused));
}

#[test]
fn metadata_bytes() {
    const LIMIT: usize = 65_536;
    assert_eq!(check(|entry| entry.metadata = pairs(3, LIMIT)), Ok(()));
    let refused = LimitError::MetadataTooLarge { bytes: LIMIT + 1, limit: LIMIT };
    assert_eq!(check(|entry| entry.metadata = pairs(3, LIMIT + 1)), Err(refused));
}

#[test]
fn limits_count_bytes_not_characters() {
    let refused = LimitError::KeyTooLong { bytes: 1026, limit: 1024 };
    assert_eq!(check(|entry| entry.key = "é".repeat(513)), Err(refused));
}

#[test]
fn an_entry_of_a_snapshot_is_held_to_the_same() {
    let mut entry = history("orders", 1).remove(0);
    assert_eq!(Limits::default().check_entry(&entry), Ok(()));
    entry.key = "k".repeat(1025);
    let refused = LimitError::KeyTooLong { bytes: 1025, limit: 1024 };
    assert_eq!(Limits::default().check_entry(&entry), Err(refused));
}
