//! What a stranger's bytes may take of a node's memory, measured as the system counts it. Alone in its process: others
//! would be measured, too.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod inprocess;

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger::{AppendOptions, Entry, EntryId, Error, NewEntry, Node, Position, ReadOptions, Sequence};
use converge_ledger_core::{Lamport, snapshot};
use inprocess::{PATIENCE, config, entry};

const ENTRIES: u64 = 80_000;
const SNAPSHOT_BYTES: usize = 8 << 20;
const RESPONSE_BYTES: usize = 16 << 20;
/// Besides what is unpacked: a decompressor, and what the node itself does meanwhile.
const SLACK_BYTES: usize = 24 << 20;

/// The most memory that this process had since the last [`forget_peak`].
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A blob of entries without content.
fn crowd(count: u64) -> Bytes {
    let mut packer = snapshot::Packer::new("x", usize::MAX);
    for n in 1..=count {
        let entry = Entry {
            context_id: "x".to_owned(),
            key: String::new(),
            payload: Bytes::new(),
            metadata: BTreeMap::new(),
            id: EntryId([0; 16]),
            sequence: Sequence(n),
            position: Position(0),
            appended_at_ns: 0,
            lamport: Lamport(n),
        };
        packer.push(&entry).unwrap();
    }
    packer.finish(1).into()
}

/// What a call takes at its peak.
async fn taken<T>(call: impl Future<Output = T>) -> (T, usize) {
    forget_peak();
    let before = peak_bytes();
    let answer = call.await;
    (answer, peak_bytes().saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_entries_under_a_long_name_take_no_more_than_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(1, dir.path(), &[]);
    config.limits.snapshot_bytes = SNAPSHOT_BYTES as u64;
    config.limits.response_bytes = RESPONSE_BYTES as u64;
    let node = Node::start(config).await.unwrap();
    let ledger = node.ledger();
    let (occupied, free) = ("o".repeat(1024), "f".repeat(1024));
    let new = NewEntry { context_id: occupied.clone(), ..entry("", "there already") };
    ledger.append(new, AppendOptions::default()).await.unwrap();
    let blob = crowd(ENTRIES);
    assert!(blob.len() < SNAPSHOT_BYTES);

    // Refused only after it was unpacked.
    let (refused, load_bytes) = taken(ledger.load(&occupied, blob.clone(), true, None)).await;
    assert!(matches!(refused, Err(Error::ContextExists { .. })), "{refused:?}");

    let loaded = ledger.load(&free, blob, true, Some(10 * PATIENCE)).await.unwrap();
    assert_eq!(loaded.entries_restored, ENTRIES);
    let (read, read_bytes) = taken(ledger.read(&free, ReadOptions::default())).await;
    assert!(matches!(read, Err(Error::ResponseTooLarge { .. })), "{} entries were read", read.unwrap().entries.len());
    let (packed, pack_bytes) = taken(ledger.snapshot(&free, Some(PATIENCE))).await;
    assert_eq!(packed.unwrap().entry_count, ENTRIES);

    let bounds = [4 * SNAPSHOT_BYTES, RESPONSE_BYTES, 4 * SNAPSHOT_BYTES];
    let all_taken = [load_bytes, read_bytes, pack_bytes];
    for ((call, taken), bound) in ["load", "read", "snapshot"].into_iter().zip(all_taken).zip(bounds) {
        assert!(taken < bound + SLACK_BYTES, "a {call} took {taken} bytes, {bound} is the bound: {all_taken:?}");
    }
    node.stop(PATIENCE).await.unwrap();
}
