//! A node whose program is too old for what its cluster commits: it serves nobody, and takes nothing from the others.
#![allow(missing_docs)]

use crate::inprocess::{PATIENCE, all, config, entry, eventually, level, peers};
use converge_actors::storage::Settings;
use converge_ledger::config::Config;
use converge_ledger::environment::Environment;
use converge_ledger::{AppendOptions, Error, Ledger, Node, ReadOptions, WatchOptions};
use tokio::time::timeout;

const OLD: usize = 2;

async fn start_old(config: &Config) -> Node {
    let storage = Settings { batch_version_max: 1, ..Settings::new("") };
    let environment = Environment { storage, ..Environment::default() };
    Node::builder(config.clone()).environment(environment).start().await.unwrap()
}

async fn append(ledger: &Ledger, payload: &str) {
    let options = AppendOptions { deadline: Some(PATIENCE), ..AppendOptions::default() };
    ledger.append(entry("c", payload.to_owned()), options).await.unwrap();
}

async fn is_outdated(node: &Node) {
    let ledger = node.ledger();
    eventually("apply stops", || ledger.status().phase == "outdated").await;
    let status = ledger.status();
    assert!(status.alarms[0].starts_with("OUTDATED: log entry "), "{:?}", status.alarms);
    let refused = ledger.append(entry("c", "refused"), AppendOptions::default()).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");
    let read = ledger.read("c", ReadOptions::default()).await;
    assert!(matches!(read, Err(Error::Outdated(_))), "{read:?}");
    assert_eq!(all(&ledger, "c").await, [], "a stale read shows the old position");
    let mut watch = ledger.watch("c", WatchOptions::default());
    let watched = timeout(PATIENCE, watch.next()).await.expect("a subscriber is told").expect("why");
    assert!(matches!(watched, Err(Error::Outdated(_))), "{watched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outdated_node_stores_and_votes_and_leads_nobody() {
    let peers = peers(3);
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut configs: Vec<Config> = dirs.iter().zip(1..).map(|(dir, id)| config(id, dir.path(), &peers)).collect();
    // Most likely the old one leads first, and has to let go.
    configs[0].raft.election_ms = 900;
    configs[1].raft.election_ms = 900;
    let mut nodes = Vec::new();
    for config in &configs[..OLD] {
        nodes.push(Node::start(config.clone()).await.unwrap());
    }
    let mut old = start_old(&configs[OLD]).await;

    append(&nodes[0].ledger(), "one").await;
    is_outdated(&old).await;
    append(&nodes[1].ledger(), "two").await;
    eventually("one that can serve leads", || matches!(nodes[0].ledger().status().leader_id, 1 | 2)).await;

    // With the old one alone the other is a majority.
    nodes.pop().unwrap().stop(PATIENCE).await.unwrap();
    append(&nodes[0].ledger(), "three").await;
    // It starts again, and comes to the same place.
    old.stop(PATIENCE).await.unwrap();
    old = start_old(&configs[OLD]).await;
    append(&nodes[0].ledger(), "four").await;
    is_outdated(&old).await;
    let status = old.ledger().status();
    assert!(status.commit_index > status.applied_index, "it stores what it cannot read");

    // The second node lacks what the first and the old one have: only from there can it come.
    nodes.pop().unwrap().stop(PATIENCE).await.unwrap();
    old.stop(PATIENCE).await.unwrap();
    for config in &configs[1..] {
        nodes.push(Node::start(config.clone()).await.unwrap());
    }
    append(&nodes[0].ledger(), "five").await;
    let ledgers: Vec<Ledger> = nodes.iter().map(Node::ledger).collect();
    level(&ledgers).await;
    for ledger in &ledgers {
        let payloads: Vec<_> = all(ledger, "c").await.into_iter().map(|entry| entry.payload).collect();
        assert_eq!(payloads, ["one", "two", "three", "four", "five"]);
    }
    for node in nodes {
        node.stop(PATIENCE).await.unwrap();
    }
}
