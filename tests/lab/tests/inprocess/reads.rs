//! What a reader and a subscriber see while the actors they read through die: nothing that was acknowledged is ever
//! missing, nothing comes twice.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, all, entry, eventually, kill, load, load_of, verify};
use converge_lab::workload::Mix;
use converge_ledger::supervisors::ractor::ActorStatus;
use converge_ledger::{AppendOptions, Ledger, Node, ReadOptions, Sequence, WatchOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const STORAGE: &str = "root/ledger/storage";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_misses_nothing_while_storage_dies() {
    let cluster = EmbeddedCluster::start(1).await;
    let mix = Mix { read_one_in: 2, ..Mix::default() };
    let load = load_of(&mix, &cluster.ledgers(), 9, &Arc::default());
    for _ in 0..20 {
        load.progress(2).await;
        kill(&cluster.nodes[0], STORAGE).await;
    }
    let record = load.finish().await;
    assert_eq!(record.failures(), 0, "a death of storage fails no call");
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_answered_as_soon_as_a_new_leader_may_answer() {
    // So slow that nothing but the leader's first commit can be what the read waits for.
    let slow = |config: &mut converge_ledger::Config| {
        (config.raft.heartbeat_ms, config.raft.election_ms) = (5_000, 50_000);
    };
    let cluster = EmbeddedCluster::start_with(1, slow).await;
    let (node, ledger) = (&cluster.nodes[0], cluster.nodes[0].ledger());
    ledger.append(entry("c", "x"), AppendOptions::default()).await.unwrap();
    for _ in 0..5 {
        let reader = ledger.clone();
        let slot = node.tree().find("root/ledger/replication").unwrap();
        let read = tokio::spawn(async move {
            // Dead, but not yet followed by another: the read waits for that one's slot.
            eventually("the actor is dead", || slot.get_status() >= ActorStatus::Stopping).await;
            let options = ReadOptions { deadline: Some(Duration::from_secs(4)), ..ReadOptions::default() };
            reader.read("c", options).await
        });
        kill(node, "root/ledger/replication").await;
        assert_eq!(read.await.unwrap().unwrap().latest, Sequence(1));
    }
    cluster.stop().await;
}

/// How a subscriber behaves.
#[derive(Clone, Copy)]
enum Pace {
    /// Takes whatever comes.
    Eager,
    /// Takes nothing while others go a page ahead.
    Slow,
    /// Leaves after a few entries and comes back from where it was.
    Leaving,
}

/// Follows "c0" up to the sequence that `end` will name, and checks that it gets each entry once and in order.
fn subscribe(ledger: Ledger, from: u64, pace: Pace, end: tokio::sync::watch::Receiver<Option<u64>>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut end = end;
        let mut cursor = from;
        let follow = |from| ledger.watch("c0", WatchOptions { from: Sequence(from), key: None });
        let mut watch = follow(cursor);
        loop {
            let last = *end.borrow_and_update();
            if last.is_some_and(|last| cursor >= last) {
                return cursor - from;
            }
            tokio::select! {
                next = watch.next() => {
                    let entry = next.expect("the node runs").unwrap();
                    assert_eq!(entry.sequence.get(), cursor + 1, "each entry once, in order");
                    cursor += 1;
                }
                _ = end.changed() => continue,
            }
            match pace {
                Pace::Slow if cursor == from + 1 => drop(end.wait_for(Option::is_some).await),
                Pace::Leaving if cursor.is_multiple_of(5) => watch = follow(cursor),
                _ => {}
            }
        }
    })
}

async fn leader(nodes: &[Node]) -> &Node {
    let mut found = None;
    eventually("there is a leader", || {
        found = nodes.iter().find(|node| node.ledger().status().role == "leader");
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_on_any_node_gets_each_entry_once_whoever_dies() {
    let cluster = EmbeddedCluster::start(3).await;
    let load = load(&cluster.ledgers(), 8, &Arc::default());
    let (tell, end) = tokio::sync::watch::channel(None);
    load.progress(2).await;
    let mut subscribers = Vec::new();
    for ledger in cluster.ledgers() {
        for (from, pace) in [(0, Pace::Eager), (0, Pace::Slow), (2, Pace::Leaving), (3, Pace::Eager)] {
            subscribers.push((from, subscribe(ledger.clone(), from, pace, end.clone())));
        }
    }
    for node in &cluster.nodes {
        for path in ["root/ledger/watch", "root/ledger/replication", "root/ledger/storage", "root/ledger"] {
            kill(node, path).await;
            load.progress(2).await;
        }
    }
    // Leader changes.
    for _ in 0..2 {
        kill(leader(&cluster.nodes).await, "root/ledger/replication").await;
        load.progress(2).await;
    }
    let record = load.finish().await;
    verify(&cluster, &record).await;
    let last = all(&cluster.nodes[0].ledger(), "c0").await.len() as u64;
    tell.send_replace(Some(last));
    for (from, subscriber) in subscribers {
        let seen = timeout(PATIENCE, subscriber).await.expect("it gets all there is").unwrap();
        assert_eq!(seen, last - from);
    }
    cluster.stop().await;
}
