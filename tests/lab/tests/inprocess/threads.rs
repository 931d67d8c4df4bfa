//! The thread that Raft, the links and the entry server run on reads no file, whoever lags and whatever is cold.

use std::sync::Arc;

use converge_actors::storage;
use converge_lab::disk::WatchedDisk;
use converge_ledger::environment::Environment;
use converge_ledger::{AppendOptions, Ledger};

use crate::inprocess::{EmbeddedCluster, PATIENCE, entry, eventually, level};

/// Entries of 64 KiB, in contexts that come back after all others.
async fn append(ledger: &Ledger, count: usize) {
    for number in 0..count {
        let options = AppendOptions { idempotency_key: Some(number.to_string()), ..AppendOptions::default() };
        let context = format!("c{}", number % 8);
        ledger.append(entry(&context, vec![7; 64 << 10]), options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lags_and_cold_contexts_cost_the_ledgers_thread_no_read_of_a_file() {
    let disk = WatchedDisk::default();
    let lagging = WatchedDisk::default();
    // Nothing else than what a peer needs is read of segments.
    let elsewhere = || disk.reads(|thread, file| thread != "ledger" && file.starts_with("segment-"));
    let mut environment = Environment::default();
    environment.storage = storage::Settings {
        disk: Arc::new(disk.clone()),
        // What was committed is read from the file again.
        commit_bytes: 256 << 10,
        redb_cache_bytes: 0,
        segment_cache_bytes: 0,
        kept_bytes: 1 << 20,
        ..environment.storage
    };
    let mut cluster = EmbeddedCluster::start_in(3, environment).await;
    append(&cluster.nodes[0].ledger(), 8).await;
    level(&cluster.ledgers()).await;
    let behind = cluster.take(2);
    behind.stop(PATIENCE).await.unwrap();
    append(&cluster.nodes[0].ledger(), 128).await;
    // Another leader, which knows nothing of the one that lags.
    let again = cluster.take(0);
    again.stop(PATIENCE).await.unwrap();
    cluster.bring_back(0).await;
    append(&cluster.nodes[0].ledger(), 16).await;
    // What this one reads itself is counted apart.
    cluster.environment.storage.disk = Arc::new(lagging.clone());
    let (term, before) = (cluster.nodes[0].ledger().status().term, elsewhere());
    cluster.bring_back(2).await;
    level(&cluster.ledgers()).await;
    eventually("what the one that lagged is sent is read", || elsewhere() > before).await;
    let here = |disk: &WatchedDisk| disk.reads(|thread, _| thread == "ledger");
    assert_eq!((here(&disk), here(&lagging)), (0, 0), "reads on the ledger's thread");
    assert_eq!(cluster.nodes[0].ledger().status().term, term, "nobody was deposed");
    cluster.stop().await;
}

/// Answers come from apply, so a leader that applies nothing answers nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_apply_hangs_leaves_its_office() {
    let disk = WatchedDisk::default();
    let mut environment = Environment::default();
    environment.storage =
        storage::Settings { disk: Arc::new(disk.clone()), commit_bytes: 1, redb_cache_bytes: 0, ..environment.storage };
    let cluster = EmbeddedCluster::start_in(3, environment).await;
    append(&cluster.nodes[0].ledger(), 8).await;
    level(&cluster.ledgers()).await;
    let leader = cluster.ledgers()[0].status().leader_id;
    let place = usize::try_from(leader - 1).unwrap();
    disk.hang(Some(cluster.data_dir(place)));
    let other = cluster.nodes[(place + 1) % 3].ledger();
    // Whether it has the key is in a file.
    let options = AppendOptions { idempotency_key: Some("cold".into()), ..AppendOptions::default() };
    other.append(entry("cold", b"k".to_vec()), options).await.unwrap();
    eventually("another leads", || ![0, leader].contains(&other.status().leader_id)).await;
    append(&other, 16).await;
    disk.hang(None);
    level(&cluster.ledgers()).await;
    cluster.stop().await;
}
