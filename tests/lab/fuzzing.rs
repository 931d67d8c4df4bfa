//! The decoders of a node, and the test bench's own: the lines of a history.

pub use converge_actors::fuzzing::Seed;
pub use converge_ledger::fuzzing::Target;
use converge_ledger::fuzzing::{self, target};

const HISTORY: Target = target("history", history, 1 << 20, 2048);

/// All of them.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    fuzzing::TARGETS.iter().chain([&HISTORY])
}

/// The target of that name.
///
/// # Panics
/// There is none.
#[must_use]
pub fn named(name: &str) -> &'static Target {
    let found = targets().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target is called {name}"))
}

/// The lines of a history. What is read is written as the same operations, and the check comes to an end whatever the
/// numbers in it say.
fn history(data: &[u8]) -> bool {
    let operations = match crate::history::read(data) {
        Ok(operations) => operations,
        Err(error) => {
            let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count() as u64;
            assert!((1..=lines).contains(&error.line), "no line is named: {error}");
            return false;
        }
    };
    let mut again = Vec::new();
    for operation in &operations {
        operation.write(&mut again).expect("memory takes what is written");
    }
    assert_eq!(crate::history::read(&again[..]).expect("a line of ours can be read"), operations);
    let verdict = crate::history::check(&operations);
    assert_eq!(verdict.counts.operations, operations.len() as u64);
    assert_eq!(crate::history::check(&operations), verdict, "a second look gives another verdict");
    true
}

/// Sound inputs to begin with, written by this build's own encoders.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = fuzzing::seeds();
    for (name, lines) in [
        ("plain", include_str!("histories/good/plain.jsonl")),
        ("expected", include_str!("histories/good/expected.jsonl")),
        ("deduplicated", include_str!("histories/good/retry-is-deduplicated.jsonl")),
        ("stale_and_watch", include_str!("histories/good/stale-read-and-watch.jsonl")),
        ("bad_order", include_str!("histories/bad/order-reads-go-back.jsonl")),
        ("bad_gap", include_str!("histories/bad/gap-watch.jsonl")),
        ("no_history", "{\"op\":\"append\"}\n"),
    ] {
        seeds.push(Seed::new("history", name, &[lines.as_bytes()]));
    }
    seeds
}
