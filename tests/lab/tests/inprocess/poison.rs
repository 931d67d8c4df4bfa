//! A request that was in flight at two deaths of the entry actor is not submitted a third time.
#![allow(missing_docs)]

use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, entry, eventually, whole_again};
use converge_ledger::supervisors::Fault;
use converge_ledger::{AppendOptions, Error, Node};

/// Far longer than the test: what ends a call before it is not its deadline.
const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_as_unknown_long_before_its_deadline() {
    let mut cluster = EmbeddedCluster::start_with(3, |config| config.raft.election_ms = 1000).await;
    let ledgers = cluster.ledgers();
    eventually("a leader", || ledgers.iter().any(|l| l.status().role == "leader")).await;
    let leads = ledgers.iter().position(|l| l.status().role == "leader").unwrap();
    let node = cluster.nodes.remove(leads);
    let followers = std::mem::take(&mut cluster.nodes).into_iter().map(|node| node.stop(PATIENCE));
    let stops: Vec<_> = followers.map(tokio::spawn).collect();
    for stop in stops {
        stop.await.unwrap().unwrap();
    }

    // Proposed, and nobody there to commit it.
    let ledger = node.ledger();
    let before = ledger.status().last_index;
    let options = AppendOptions { deadline: Some(DEADLINE), ..AppendOptions::default() };
    let call = tokio::spawn(async move { ledger.append(entry("c", "x"), options).await });
    eventually("it is in the leader's log", || node.ledger().status().last_index > before).await;

    let mut deaths = 0;
    while !call.is_finished() {
        assert!(deaths < 20, "it is submitted again and again");
        kill_entry(&node).await;
        deaths += 1;
    }
    assert!(deaths >= 2, "one death is forgiven");
    assert!(matches!(call.await.unwrap(), Err(Error::Unknown(_))));
    node.stop(PATIENCE).await.unwrap();
}

async fn kill_entry(node: &Node) {
    let path = "root/ledger/entry";
    let snapshot = node.tree().snapshot();
    let incarnation = snapshot.nodes.iter().find(|n| n.path == path).unwrap().incarnation;
    node.tree().inject(path, Fault::Kill).await.unwrap();
    whole_again(node, path, incarnation).await;
}
