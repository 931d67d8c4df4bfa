//! The thread that Raft, the links and the entry server run on reads no file, whoever lags and whatever is cold.

use std::sync::Arc;
use std::time::Duration;

use converge_actors::storage;
use converge_lab::disk::WatchedDisk;
use converge_ledger::environment::Environment;
use converge_ledger::{AppendOptions, Ledger};
use tokio::time::Instant;

use crate::inprocess::{EmbeddedCluster, PATIENCE, entry, eventually, level};

const ENTRY_BYTES: usize = 64 << 10;

/// Entries of so many bytes, in contexts that come back after all others.
async fn append(ledger: &Ledger, count: usize) {
    for number in 0..count {
        let options = AppendOptions { idempotency_key: Some(number.to_string()), ..AppendOptions::default() };
        let context = format!("c{}", number % 8);
        ledger.append(entry(&context, vec![7; ENTRY_BYTES]), options).await.unwrap();
    }
}

/// Nodes for which apply looks into files.
fn reading(disk: &WatchedDisk) -> Environment {
    let mut environment = Environment::default();
    environment.storage =
        storage::Settings { disk: Arc::new(disk.clone()), commit_bytes: 1, redb_cache_bytes: 0, ..environment.storage };
    environment
}

/// An entry for whose apply a node whose reads hang has to wait: whether it has the key is in a file.
async fn append_cold(ledger: &Ledger) {
    let options = AppendOptions { idempotency_key: Some("cold".into()), ..AppendOptions::default() };
    ledger.append(entry("cold", b"k".to_vec()), options).await.unwrap();
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
    let cluster = EmbeddedCluster::start_in(3, reading(&disk)).await;
    append(&cluster.nodes[0].ledger(), 8).await;
    level(&cluster.ledgers()).await;
    let leader = cluster.ledgers()[0].status().leader_id;
    let place = usize::try_from(leader - 1).unwrap();
    disk.hang(Some(cluster.data_dir(place)));
    let other = cluster.nodes[(place + 1) % 3].ledger();
    append_cold(&other).await;
    eventually("another leads", || ![0, leader].contains(&other.status().leader_id)).await;
    append(&other, 16).await;
    disk.hang(None);
    level(&cluster.ledgers()).await;
    cluster.stop().await;
}

/// Past the bound it takes no entries, as if they were lost. Nobody needs it, and it asks for no vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_apply_hangs_takes_entries_up_to_its_bound_and_catches_up() {
    const BOUND_BYTES: u64 = 8 * ENTRY_BYTES as u64;
    const ELECTION: Duration = Duration::from_secs(1);
    const ENTRIES: usize = 64;
    let disk = WatchedDisk::default();
    let mut environment = reading(&disk);
    (environment.raft.uncommitted_bytes_max, environment.raft.message_bytes_max) = (BOUND_BYTES, BOUND_BYTES / 2);
    let election = u64::try_from(ELECTION.as_millis()).unwrap();
    let cluster = EmbeddedCluster::start_in_with(3, environment, |config| config.raft.election_ms = election).await;
    append(&cluster.nodes[0].ledger(), 8).await;
    level(&cluster.ledgers()).await;
    let before = cluster.nodes[0].ledger().status();
    let place = usize::try_from(before.leader_id - 1).unwrap();
    let (leader, follower) = (cluster.nodes[place].ledger(), cluster.nodes[(place + 1) % 3].ledger());
    disk.hang(Some(cluster.data_dir((place + 1) % 3)));
    append_cold(&leader).await;
    append(&leader, ENTRIES).await;
    let told = |alarm: &String| alarm.contains("not applied");
    eventually("it takes no more", || follower.status().alarms.iter().any(told)).await;
    // For longer than it would wait for a leader.
    let until = Instant::now() + 3 * ELECTION;
    while Instant::now() < until {
        append(&leader, 1).await;
    }
    let (ahead, hung) = (leader.status(), follower.status());
    assert!(ahead.applied_index >= hung.applied_index + ENTRIES as u64, "the others go on: {ahead:?} {hung:?}");
    let held = hung.last_index - hung.applied_index;
    assert!((1..=2 * BOUND_BYTES / ENTRY_BYTES as u64).contains(&held), "{held} entries are held: {hung:?}");
    let office = |ledger: &Ledger| (ledger.status().term, ledger.status().leader_id);
    assert_eq!([office(&leader), office(&follower)], [(before.term, before.leader_id); 2], "nobody campaigned");
    disk.hang(None);
    level(&cluster.ledgers()).await;
    assert_eq!(office(&leader), (before.term, before.leader_id), "and nobody was deposed");
    cluster.stop().await;
}
