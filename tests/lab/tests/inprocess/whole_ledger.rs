//! The ledger as a whole: who reads or watches all of it gets each entry once, in the order of positions, on every node, while
//! the actors that it is read through die.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, all, entry, kill, load, verify};
use converge_lab::workload::Mix;
use converge_ledger::{
    AppendOptions, Consistency, Direction, Entry, Error, Ledger, Position, ReadAt, ReadOptions, Sequence, StreamFrom,
    StreamOptions,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Follows the whole ledger up to the position that `end` will name.
fn subscribe(
    ledger: Ledger,
    leaves: bool,
    end: tokio::sync::watch::Receiver<Option<Position>>,
) -> JoinHandle<Vec<Entry>> {
    tokio::spawn(async move {
        let (mut end, mut seen) = (end, Vec::new());
        let mut watch = ledger.watch_all(Position(0));
        loop {
            let last = *end.borrow_and_update();
            let cursor = Position(seen.len() as u64);
            if last.is_some_and(|last| cursor >= last) {
                return seen;
            }
            tokio::select! {
                next = watch.next() => {
                    let entry = next.expect("the node runs").unwrap();
                    assert_eq!(entry.position, cursor.next(), "each entry once, in order");
                    seen.push(entry);
                }
                _ = end.changed() => continue,
            }
            if leaves && seen.len().is_multiple_of(5) {
                watch = ledger.watch_all(Position(seen.len() as u64));
            }
        }
    })
}

async fn read(ledger: &Ledger, from: StreamFrom, options: StreamOptions) -> Vec<Entry> {
    let mut stream = ledger.stream(from, options).await.unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await {
        entries.push(entry.unwrap());
    }
    entries
}

/// All contexts of a node in the order of positions, read one by one.
async fn merged(ledger: &Ledger) -> Vec<Entry> {
    let mut merged = BTreeMap::new();
    for context in Mix::default().contexts() {
        for entry in all(ledger, &context).await {
            assert!(merged.insert(entry.position, entry).is_none(), "a position twice");
        }
    }
    merged.into_values().collect()
}

/// What each node says of the whole ledger is what its contexts hold.
async fn check(ledger: &Ledger) -> Vec<Entry> {
    let expected = merged(ledger).await;
    let stale = StreamOptions { consistency: Consistency::Stale, ..StreamOptions::default() };
    let forwards = read(ledger, StreamFrom::All(Position(0)), stale.clone()).await;
    assert!(forwards == expected, "{} entries of {}", forwards.len(), expected.len());
    let backwards = StreamOptions { direction: Direction::Backwards, ..stale.clone() };
    let mut back = read(ledger, StreamFrom::All(Position(0)), backwards.clone()).await;
    back.reverse();
    assert!(back == expected, "{} entries of {} backwards", back.len(), expected.len());
    let limited = StreamOptions { limit: 7, ..backwards };
    let some = read(ledger, StreamFrom::Context("c0".into(), Sequence(9)), limited).await;
    assert_eq!(some.iter().map(|entry| entry.sequence.get()).collect::<Vec<_>>(), [9, 8, 7, 6, 5, 4, 3]);
    let at = ReadAt { consistency: Consistency::Stale, ..ReadAt::default() };
    let listed = ledger.contexts("c", "", 0, at.clone()).await.unwrap();
    assert_eq!(listed.contexts.len(), Mix::default().contexts().count());
    for head in listed.contexts {
        let of_context = expected.iter().filter(|entry| entry.context_id == head.context_id);
        assert_eq!(head.latest.get(), of_context.count() as u64);
        let (one, end) = ledger.head(&head.context_id, at.clone()).await.unwrap();
        assert_eq!((one, end.position.get()), (Some(head), expected.len() as u64));
    }
    expected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_all_gets_each_entry_once_on_any_node_whoever_dies() {
    let cluster = EmbeddedCluster::start(3).await;
    let load = load(&cluster.ledgers(), 8, &Arc::default());
    let (tell, end) = tokio::sync::watch::channel(None);
    load.progress(2).await;
    let subscribers: Vec<_> = cluster
        .ledgers()
        .iter()
        .flat_map(|ledger| [false, true].map(|leaves| subscribe(ledger.clone(), leaves, end.clone())))
        .collect();
    for node in &cluster.nodes {
        for path in ["root/ledger/watch", "root/ledger/replication", "root/ledger/storage", "root/ledger"] {
            kill(node, path).await;
            load.progress(2).await;
            // What it promises a reader holds right after a death.
            let ledger = node.ledger();
            let before = ledger.status().last_position;
            let seen = read(&ledger, StreamFrom::All(Position(0)), StreamOptions::default()).await;
            assert!(seen.len() as u64 >= before, "{} entries, {before} were applied before", seen.len());
            assert!(seen.iter().zip(1..).all(|(entry, position)| entry.position == Position(position)));
        }
    }
    let record = load.finish().await;
    verify(&cluster, &record).await;
    let mut states = Vec::new();
    for ledger in cluster.ledgers() {
        states.push(check(&ledger).await);
    }
    assert!(states.iter().all(|state| *state == states[0]), "the nodes differ");
    tell.send_replace(Some(Position(states[0].len() as u64)));
    for subscriber in subscribers {
        let seen = timeout(PATIENCE, subscriber).await.expect("it gets all there is").unwrap();
        assert!(seen == states[0], "{} entries of {}", seen.len(), states[0].len());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_position_reads_what_it_wrote_on_any_node() {
    let cluster = EmbeddedCluster::start(3).await;
    let ledgers = cluster.ledgers();
    for n in 1..=30_u64 {
        let place = (n % 3) as usize;
        let appended = ledgers[place].append(entry("c", n.to_string()), AppendOptions::default()).await.unwrap();
        let min_position = appended.entry.position;
        for ledger in &ledgers {
            let options = ReadOptions { consistency: Consistency::Stale, min_position, ..ReadOptions::default() };
            let page = ledger.read("c", options).await.unwrap();
            assert!(page.latest.get() == n && page.position >= min_position && page.term.get() > 0, "{page:?}");
        }
    }
    let deadline = Some(Duration::from_millis(200));
    let (consistency, min_position) = (Consistency::Stale, Position(31));
    let (ledger, start) = (&ledgers[0], Instant::now());
    let read = ledger.read("c", ReadOptions { consistency, min_position, deadline, ..ReadOptions::default() });
    let head = ledger.head("c", ReadAt { consistency, min_position, deadline });
    let (read, head) = tokio::join!(read, head);
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(matches!(head, Err(Error::Unavailable { .. })), "{head:?}");
    assert!(start.elapsed() >= Duration::from_millis(200), "it waited until the deadline");
    // Who waits is told as soon as it is there.
    let waits = ledger.ledger_head(ReadAt { consistency, min_position, deadline: Some(PATIENCE) });
    let (waited, appended) = tokio::join!(waits, ledgers[1].append(entry("d", "x"), AppendOptions::default()));
    assert_eq!((waited.unwrap().position, appended.unwrap().entry.position), (Position(31), Position(31)));
    cluster.stop().await;
}
