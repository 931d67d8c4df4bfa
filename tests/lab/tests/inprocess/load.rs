//! A load that is larger than a chunk: what it costs in log entries, that it reads back wherever one begins, and that the
//! index made anew from the log is the same. How long it takes beside clients is `examples/load_beside.rs`.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::inprocess::{PATIENCE, config};
use bytes::Bytes;
use converge_actors::storage::inspect;
use converge_ledger::{AppendOptions, Entry, EntryId, Ledger, NewEntry, Node, Position, ReadOptions, Sequence};
use converge_ledger::{WatchOptions, config::Config};
use converge_ledger_core::{Lamport, snapshot};

const ENTRIES: u64 = 20_000;
/// Chunks of 64 KiB hold some thousand empty entries.
const LOG_ENTRIES_MAX: u64 = 40;

fn alone(directory: &Path) -> Config {
    config(1, directory, &[])
}

fn entry(n: u64) -> Entry {
    Entry {
        context_id: "original".to_owned(),
        key: String::new(),
        payload: if n.is_multiple_of(1_000) { Bytes::from(vec![7; 3_000]) } else { Bytes::new() },
        metadata: BTreeMap::new(),
        id: EntryId(u128::from(n).to_be_bytes()),
        sequence: Sequence(n),
        position: Position(0),
        appended_at_ns: n,
        // Its distance to the sequence changes from entry to entry.
        lamport: Lamport(2 * n),
    }
}

/// A blob of the first entries of the same history.
fn blob(count: u64) -> Bytes {
    let mut packer = snapshot::Packer::new("original", usize::MAX);
    (1..=count).for_each(|n| packer.push(&entry(n)).unwrap());
    packer.finish(1).into()
}

async fn reads_back(ledger: &Ledger, context: &str) {
    for after in [0, 1, 999, 1_023, ENTRIES / 2, ENTRIES - 1] {
        let options = ReadOptions { after: Sequence(after), limit: 1_500, ..ReadOptions::default() };
        let page = ledger.read(context, options).await.unwrap();
        assert_eq!(page.entries.len() as u64, (ENTRIES - after).min(1_500));
        assert_eq!(page.latest, Sequence(ENTRIES));
        let first = page.entries[0].position.get() - after;
        for (found, n) in page.entries.iter().zip(after + 1..) {
            let position = Position(first + n - 1);
            assert_eq!(*found, Entry { context_id: context.to_owned(), position, ..entry(n) });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_costs_as_many_log_entries_as_it_has_chunks_and_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(alone(directory.path())).await.unwrap();
    let ledger = node.ledger();
    let appended = NewEntry { context_id: "copy".to_owned(), ..NewEntry::default() };
    ledger
        .append(NewEntry { context_id: "other".to_owned(), ..appended.clone() }, AppendOptions::default())
        .await
        .unwrap();

    // The start of the same history is there already, and ends within what would be a chunk.
    assert_eq!(ledger.load("copy", blob(700), true, Some(PATIENCE)).await.unwrap().entries_restored, 700);
    let before = ledger.status().applied_index;
    let loaded = ledger.load("copy", blob(ENTRIES), false, Some(PATIENCE)).await.unwrap();
    assert_eq!((loaded.entries_restored, loaded.latest), (ENTRIES - 700, Sequence(ENTRIES)));
    let cost = ledger.status().applied_index - before;
    assert!((2..=LOG_ENTRIES_MAX).contains(&cost), "{cost} log entries");
    reads_back(&ledger, "copy").await;

    // Again: nothing is new. And what is watched is what was loaded, and goes on.
    assert_eq!(ledger.load("copy", blob(ENTRIES), false, Some(PATIENCE)).await.unwrap().entries_restored, 0);
    let done = ledger.append(appended, AppendOptions::default()).await.unwrap();
    assert_eq!((done.entry.sequence, done.entry.position), (Sequence(ENTRIES + 1), Position(ENTRIES + 2)));
    let mut watch = ledger.watch("copy", WatchOptions { from: Sequence(ENTRIES - 2), key: None });
    for sequence in ENTRIES - 1..=ENTRIES + 1 {
        assert_eq!(watch.next().await.unwrap().unwrap().sequence, Sequence(sequence));
    }
    drop(watch);
    node.stop(PATIENCE).await.unwrap();

    let verified = inspect::verify(directory.path()).unwrap();
    assert_eq!((verified.problems, verified.entries), (Vec::new(), ENTRIES + 2));
    let digest = inspect::summary(directory.path()).unwrap().digest;
    assert_eq!(inspect::rebuild_index(directory.path()).unwrap().digest, digest);
    let verified = inspect::verify(directory.path()).unwrap();
    assert_eq!((verified.problems, verified.entries), (Vec::new(), ENTRIES + 2));

    // From the database, with nothing in memory.
    let node = Node::start(alone(directory.path())).await.unwrap();
    let options = ReadOptions { after: Sequence(ENTRIES - 1), ..ReadOptions::default() };
    let page = node.ledger().read("copy", options).await.unwrap();
    assert_eq!(page.entries[0].payload, entry(ENTRIES).payload);
    assert_eq!(page.entries.len(), 2);
    node.stop(PATIENCE).await.unwrap();
}
