//! What a client wants, and the entries that it makes of that.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger::NewEntry;
use serde::{Deserialize, Serialize};

/// Once in so many times is never.
pub(super) const NEVER: u64 = u64::MAX;

fn never() -> u64 {
    NEVER
}

/// What one client wants, and how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mix {
    /// It picks one of so many for each call, the same ones as other clients.
    pub contexts: u64,
    /// Its own node, while that runs; otherwise any.
    pub home: Option<u64>,
    /// Pause between its calls, at most.
    pub think_ms: u64,
    /// From the least to the most that it gives a call.
    pub deadline_ms: (u64, u64),
    /// The most that an entry is padded with.
    pub payload_bytes: u64,
    /// Once in so many calls it reads.
    pub read_one_in: u64,
    /// Once in so many calls it watches.
    pub watch_one_in: u64,
    /// Once in so many calls it copies a context by snapshot and load.
    pub load_one_in: u64,
    /// Once in so many appends it expects a sequence.
    pub expect_one_in: u64,
    /// It gives an idempotency key to once in so many, and tries those again that ended as unknown.
    pub key_one_in: u64,
    /// Once in so many appends it appends many in one call.
    #[serde(default = "never")]
    pub many_one_in: u64,
    /// Once in so many appends it uses a key again that it used before, also long before: for the same entry, or for
    /// another. What may come of that, the history knows.
    #[serde(default = "never")]
    pub reuse_one_in: u64,
    /// For contexts that grow long: reads and watches begin at most so many entries before the latest, and a read asks
    /// for as many. 0: anywhere, and all.
    #[serde(default)]
    pub page: u64,
}

impl Default for Mix {
    /// Appends alone, without a pause, half of them with a key, some of them many in one call.
    fn default() -> Mix {
        Mix {
            contexts: 4,
            home: None,
            think_ms: 0,
            deadline_ms: (5_000, 5_000),
            payload_bytes: 16,
            read_one_in: NEVER,
            watch_one_in: NEVER,
            load_one_in: NEVER,
            expect_one_in: NEVER,
            key_one_in: 2,
            many_one_in: 4,
            reuse_one_in: NEVER,
            page: 0,
        }
    }
}

impl Mix {
    /// The contexts that it writes to.
    pub fn contexts(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.contexts).map(context)
    }
}

pub(super) fn context(number: u64) -> String {
    format!("c{number}")
}

/// The entry that carries a value. What else it holds follows from the value, so that it can be seen whether it came
/// through.
#[must_use]
pub fn entry(context: &str, value: &str, padding: usize) -> NewEntry {
    NewEntry {
        context_id: context.to_owned(),
        key: key_of(value),
        payload: Bytes::from(format!("{value}|{padding}|{}", "x".repeat(padding))),
        metadata: metadata_of(value),
    }
}

/// What an entry carries; anything else, if it is not as it was made.
pub(super) fn value_of(key: &str, payload: &[u8], metadata: &BTreeMap<String, String>) -> String {
    let text = String::from_utf8_lossy(payload);
    let mut parts = text.splitn(3, '|');
    let value = parts.next().unwrap_or_default().to_owned();
    let (length, padding) = (parts.next(), parts.next().unwrap_or_default());
    let whole = length.is_none_or(|length| *length == padding.len().to_string()) && padding.bytes().all(|x| x == b'x');
    // The entry of a probe says nothing.
    if value.is_empty() || whole && key == key_of(&value) && *metadata == metadata_of(&value) {
        return value;
    }
    format!("{value}, spoiled: {text} {key} {metadata:?}")
}

fn key_of(value: &str) -> String {
    format!("k{}", value.len() % 3)
}

fn metadata_of(value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("of".to_owned(), value.to_owned())])
}
