//! What a reader and a subscriber see while the actors they read through die: nothing that was acknowledged is ever
//! missing, nothing comes twice.
#![allow(missing_docs)]

mod inprocess;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use converge_ledger::supervisors::Fault;
use converge_ledger::{AppendOptions, Ledger, Node, ReadOptions};
use inprocess::{Cluster, entry, eventually, whole_again};
use tokio::task::JoinSet;

const STORAGE: &str = "root/ledger/storage";

async fn kill(node: &Node, path: &str) {
    let incarnation = node.tree().snapshot().nodes.iter().find(|n| n.path == path).unwrap().incarnation;
    node.tree().inject(path, Fault::Kill).await.unwrap();
    whole_again(node, path, incarnation).await;
}

fn with_key(key: &str) -> AppendOptions {
    AppendOptions { idempotency_key: Some(key.into()), ..AppendOptions::default() }
}

/// Appends to "c" with keys, each twice: the second time it is the first entry.
async fn append_all(ledger: Ledger, stop: Arc<AtomicBool>, acked: Arc<AtomicU64>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = n.to_string();
        let first = ledger.append(entry("c", key.clone()), with_key(&key)).await.unwrap().entry;
        acked.fetch_max(first.sequence.get(), Ordering::SeqCst);
        let again = ledger.append(entry("c", key.clone()), with_key(&key)).await.unwrap();
        assert!(again.deduplicated);
        assert_eq!(again.entry, first);
    }
}

async fn read_all(ledger: Ledger, stop: Arc<AtomicBool>, acked: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let known = acked.load(Ordering::SeqCst);
        let page = ledger.read("c", ReadOptions::default()).await.unwrap();
        assert!(page.latest.get() >= known, "{known} was acknowledged before a read that ends at {}", page.latest);
        assert_eq!(page.entries.len() as u64, page.latest.get(), "a read has all up to its latest");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_misses_nothing_while_storage_dies() {
    let cluster = Cluster::start(1).await;
    let (node, ledger) = (&cluster.nodes[0], cluster.nodes[0].ledger());
    let (stop, acked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut clients = JoinSet::new();
    clients.spawn(append_all(ledger.clone(), stop.clone(), acked.clone()));
    for _ in 0..8 {
        clients.spawn(read_all(ledger.clone(), stop.clone(), acked.clone()));
    }
    for _ in 0..20 {
        let target = acked.load(Ordering::SeqCst) + 3;
        eventually("appends go on", || acked.load(Ordering::SeqCst) >= target || clients.len() < 9).await;
        kill(node, STORAGE).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    cluster.stop().await;
}
