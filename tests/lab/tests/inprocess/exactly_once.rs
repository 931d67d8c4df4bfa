//! Once or not at all, whatever dies: keys, snapshots larger than a log entry, a host's rule that panics.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, all, config, entry, kill, level};
use bytes::Bytes;
use converge_ledger::{AppendOptions, Error, Ledger, Node, ReadOptions, Rejection, Sequence};
use tokio::task::JoinSet;

const LEDGER: [&str; 4] = ["root/ledger/storage", "root/ledger/replication", "root/ledger/entry", "root/ledger"];

/// Appends under a key until it is known what became of it.
async fn append(ledger: &Ledger, context: &str, key: &str) -> Sequence {
    loop {
        let options = AppendOptions { idempotency_key: Some(key.to_owned()), ..AppendOptions::default() };
        match ledger.append(entry(context, key.to_owned()), options).await {
            Ok(done) => return done.entry.sequence,
            Err(Error::Unknown(_) | Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stands_for_one_entry_on_all_nodes_whoever_dies() {
    const KEYS: usize = 400;
    let cluster = EmbeddedCluster::start(3).await;
    let stop = Arc::<AtomicBool>::default();
    let mut clients = JoinSet::new();
    // The same keys through every node at once.
    for ledger in cluster.ledgers() {
        let stop = stop.clone();
        clients.spawn(async move {
            let mut sequences = BTreeMap::new();
            for key in 0..KEYS {
                sequences.insert(key, append(&ledger, "keys", &key.to_string()).await);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            sequences
        });
    }
    for node in &cluster.nodes {
        for path in LEDGER {
            kill(node, path).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut known = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        for (key, sequence) in client.unwrap() {
            assert_eq!(*known.entry(key).or_insert(sequence), sequence, "key {key} stands for one entry");
        }
    }
    let ledgers = cluster.ledgers();
    level(&ledgers).await;
    for ledger in &ledgers {
        let stored: Vec<Bytes> = all(ledger, "keys").await.into_iter().map(|entry| entry.payload).collect();
        assert_eq!(stored.len(), known.len(), "one entry for each key");
        for (key, sequence) in &known {
            assert_eq!(stored[usize::try_from(sequence.get()).unwrap() - 1], key.to_string());
        }
        let options = AppendOptions { idempotency_key: Some("0".into()), ..AppendOptions::default() };
        let other = ledger.append(entry("keys", "other content"), options).await;
        assert!(matches!(other, Err(Error::IdempotencyMismatch { .. })), "{other:?}");
    }
    cluster.stop().await;
}

/// Entries of the snapshot; together more than a log entry may hold.
const ENTRIES: usize = 12;
const ENTRY_BYTES: usize = 600 << 10;

async fn load(ledger: Ledger, context: String, snapshot: Bytes) {
    loop {
        match ledger.load(&context, snapshot.clone(), false, None).await {
            Ok(loaded) => return assert_eq!(loaded.latest, Sequence(ENTRIES as u64)),
            Err(Error::LoadUnknown | Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Looks at a context until the load is over: it is empty or whole.
async fn look(ledger: Ledger, context: String, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        match ledger.read(&context, ReadOptions::default()).await {
            Ok(page) => assert!([0, ENTRIES].contains(&page.entries.len()), "{} are there", page.entries.len()),
            Err(Error::Unavailable { .. } | Error::ReadTimeout) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_larger_than_a_log_entry_is_loaded_wholly_or_not_whoever_dies() {
    let cluster = EmbeddedCluster::start(3).await;
    let ledgers = cluster.ledgers();
    for n in 0..ENTRIES {
        let payload: Vec<u8> = (0..ENTRY_BYTES).map(|at| (at * 31 + at / 255 * 7 + n) as u8).collect();
        ledgers[0].append(entry("source", payload), AppendOptions::default()).await.unwrap();
    }
    let snapshot = ledgers[0].snapshot("source", None).await.unwrap();
    let source = all(&ledgers[0], "source").await;
    for (node, ledger) in cluster.nodes.iter().zip(&ledgers) {
        let context = format!("target-{}", ledger.status().node_id);
        let over = Arc::<AtomicBool>::default();
        let looking = tokio::spawn(look(ledgers[0].clone(), context.clone(), over.clone()));
        let loading = tokio::spawn(load(ledger.clone(), context.clone(), snapshot.bytes.clone()));
        for path in ["root/ledger/entry", "root/ledger/replication", "root/ledger/storage"] {
            kill(node, path).await;
        }
        tokio::time::timeout(PATIENCE, loading).await.expect("it is loaded in the end").unwrap();
        over.store(true, Ordering::Relaxed);
        looking.await.unwrap();
        let page = ledgers[0].read(&context, ReadOptions::default()).await.unwrap();
        assert_eq!(page.entries.len(), source.len());
        for (restored, original) in page.entries.iter().zip(&source) {
            assert_eq!((restored.id, &restored.payload), (original.id, &original.payload));
            assert_eq!((restored.sequence, restored.appended_at_ns), (original.sequence, original.appended_at_ns));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_refuses_or_panics_costs_its_own_call_only() {
    let dir = tempfile::tempdir().unwrap();
    let rule = |entry: &converge_ledger::NewEntry| match &entry.payload[..] {
        b"panic" => panic!("a rule's own fault"),
        b"no" => Err(Rejection { reason: "not here".into() }),
        _ => Ok(()),
    };
    let node = Node::builder(config(1, dir.path(), &[])).validator(rule).start().await.unwrap();
    let ledger = node.ledger();
    let before = node.tree().snapshot();
    let options = || AppendOptions { deadline: Some(Duration::from_secs(5)), ..AppendOptions::default() };
    for refused in ["panic", "no", "panic"] {
        let outcome = ledger.append(entry("c", refused), options()).await;
        assert!(matches!(outcome, Err(Error::Rejected(_))), "{outcome:?}");
        ledger.append(entry("c", "yes"), options()).await.unwrap();
    }
    let payloads: Vec<Bytes> = all(&ledger, "c").await.into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, ["yes", "yes", "yes"]);
    let restarts = |snapshot: &converge_ledger::supervisors::TreeSnapshot| -> Vec<u64> {
        snapshot.nodes.iter().map(|node| node.incarnation).collect()
    };
    assert_eq!(restarts(&node.tree().snapshot()), restarts(&before), "no actor of the node died of it");
    node.stop(PATIENCE).await.unwrap();
}
