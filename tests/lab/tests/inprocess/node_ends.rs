//! How a node ends inside a host's process: what it held is free, and nobody waits for it in vain.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::inprocess::{PATIENCE, all, config, entry, eventually, peers};
use converge_ledger::supervisors::Fault;
use converge_ledger::{AppendOptions, Error, Node, ReadOptions, WatchOptions};
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_frees_its_ports_and_directory_though_its_handle_lives() {
    let (dir, peers) = (tempfile::tempdir().unwrap(), peers(1));
    let mut config = config(1, dir.path(), &peers);
    config.listen.grpc = "127.0.0.1:0".into();
    let node = Node::start(config.clone()).await.unwrap();
    config.listen.grpc = node.grpc_addr().unwrap().to_string();
    let former = node.ledger();
    former.append(entry("c", "first"), AppendOptions::default()).await.unwrap();
    node.stop(PATIENCE).await.unwrap();
    let node = Node::start(config).await.unwrap();
    node.ledger().append(entry("c", "second"), AppendOptions::default()).await.unwrap();
    assert_eq!(all(&node.ledger(), "c").await.len(), 2);
    assert!(matches!(former.append(entry("c", "x"), AppendOptions::default()).await, Err(Error::Stopped)));
    node.stop(PATIENCE).await.unwrap();
}

/// A voter of three whose peers never come: it has no leader, and calls wait for one.
async fn lonely(dir: &tempfile::TempDir, adjust: impl Fn(&mut converge_ledger::Config)) -> Node {
    let mut config = config(1, dir.path(), &peers(3));
    adjust(&mut config);
    Node::start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_end_with_the_node_and_not_at_their_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let node = lonely(&dir, |config| config.raft.election_ms = 20_000).await;
    let (ledger, reader) = (node.ledger(), node.ledger());
    let deadline = Some(Duration::from_secs(60));
    let options = AppendOptions { deadline, ..AppendOptions::default() };
    let append = tokio::spawn(async move { ledger.append(entry("c", "x"), options).await });
    let options = ReadOptions { deadline, ..ReadOptions::default() };
    let read = tokio::spawn(async move { reader.read("c", options).await });
    tokio::task::yield_now().await;
    node.stop(PATIENCE).await.unwrap();
    let ended = timeout(Duration::from_secs(5), async { (append.await.unwrap(), read.await.unwrap()) }).await;
    let (append, read) = ended.expect("nobody waits for a node that has stopped");
    assert!(matches!(append, Err(Error::Stopped)), "{append:?}");
    assert!(matches!(read, Err(Error::Stopped)), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_with_a_node_that_gives_up_though_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(1, dir.path(), &[])).await.unwrap();
    let ledger = node.ledger();
    let mut watch = ledger.watch("c", WatchOptions::default());
    let subscriber = tokio::spawn(async move { watch.next().await.is_none() });
    node.tree().inject("root", Fault::Kill).await.unwrap();
    let options = AppendOptions { deadline: Some(PATIENCE * 2), ..AppendOptions::default() };
    let ended = timeout(PATIENCE, async {
        while !matches!(ledger.append(entry("c", "x"), options.clone()).await, Err(Error::Stopped)) {}
        subscriber.await.unwrap()
    });
    assert!(ended.await.expect("nobody waits for a node that has given up"), "the subscription is over");
}

#[test]
fn a_node_dropped_outside_of_its_runtime_stops() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let node = runtime.block_on(Node::start(config(1, dir.path(), &[]))).unwrap();
    let tree = node.tree();
    drop(node);
    let stopped = runtime.block_on(async { timeout(PATIENCE, tree.wait()).await });
    assert_eq!(stopped, Ok(Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_weighs_counts_its_metadata_against_the_bytes_in_flight() {
    const INFLIGHT: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let node = lonely(&dir, |config| config.limits.inflight_bytes = INFLIGHT).await;
    let metadata: BTreeMap<String, String> = (0..60).map(|n| (format!("{n:04}"), "x".repeat(1000))).collect();
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let (ledger, mut large) = (node.ledger(), entry("c", ""));
            large.metadata = metadata.clone();
            let options = AppendOptions { deadline: Some(Duration::from_millis(500)), ..AppendOptions::default() };
            tokio::spawn(async move { ledger.append(large, options).await })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        match call.await.unwrap() {
            Err(Error::Overloaded { .. }) => {}
            Err(Error::Unavailable { .. }) => admitted += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(admitted > 0);
    assert!(admitted * 60_000 <= INFLIGHT, "{admitted} requests of 60 kB were admitted into {INFLIGHT} bytes");
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_node_refuses_at_once_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(1, dir.path(), &[]);
    let node = Node::start(config.clone()).await.unwrap();
    node.ledger().append(entry("c", "x"), AppendOptions::default()).await.unwrap();
    node.stop(PATIENCE).await.unwrap();
    damage(dir.path());
    let node = Node::start(config).await.unwrap();
    let ledger = node.ledger();
    eventually("the node knows that it is fenced", || ledger.status().phase == "fenced").await;
    let began = Instant::now();
    let append = ledger.append(entry("c", "y"), AppendOptions::default()).await;
    let read = ledger.read("c", ReadOptions::default()).await;
    assert!(began.elapsed() < Duration::from_secs(1), "a fenced node stays so: nothing is worth waiting for");
    assert!(matches!(&append, Err(Error::Unavailable { reason }) if reason.contains("fenced")), "{append:?}");
    assert!(matches!(&read, Err(Error::Unavailable { .. } | Error::DataLoss(_))), "{read:?}");
    assert!(!ledger.status().alarms.is_empty());
    node.stop(PATIENCE).await.unwrap();
}

/// Flips bytes all over the database's file.
fn damage(dir: &std::path::Path) {
    let path = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "redb"));
    let path = path.expect("a database");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&path, bytes).unwrap();
}
