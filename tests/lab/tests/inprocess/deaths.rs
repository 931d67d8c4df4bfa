//! Each actor and each supervisor of a node's tree dies under load, by a kill and by a panic, on a node alone and on
//! each of three: nothing acknowledged is lost or doubled, the tree is whole again without an orphan, and no
//! client's call with 5 s of deadline fails.
#![allow(missing_docs)]

use std::sync::Arc;

use crate::inprocess::{EmbeddedCluster, cells, load, no_orphans, verify, whole_again};
use converge_ledger::Node;
use converge_ledger::supervisors::Fault;

const CLIENTS: usize = 8;
/// Acknowledgements of each client between two deaths: a call in flight at two of them would be given up as poison.
const BETWEEN_DEATHS: u64 = 4;

/// Everything below the root. The root's own death is the node's.
fn paths(node: &Node) -> Vec<String> {
    let snapshot = node.tree().snapshot();
    snapshot.nodes.iter().skip(1).map(|n| n.path.clone()).collect()
}

async fn die(node: &Node, path: &str, fault: Fault) {
    let before = node.tree().snapshot();
    let cells_before = cells(node, &before);
    let incarnation = before.nodes.iter().find(|n| n.path == path).unwrap().incarnation;
    node.tree().inject(path, fault).await.unwrap();
    whole_again(node, path, incarnation).await;
    no_orphans(&cells_before, &cells(node, &node.tree().snapshot()));
}

async fn every_place_dies(cluster: EmbeddedCluster, fault: Fault) {
    let load = load(&cluster.ledgers(), CLIENTS, &Arc::default());
    load.progress(BETWEEN_DEATHS).await;
    for node in &cluster.nodes {
        for path in paths(node) {
            die(node, &path, fault).await;
            load.progress(BETWEEN_DEATHS).await;
        }
    }
    let record = load.finish().await;
    assert_eq!(record.failures(), 0, "calls failed: {:?}", record.operations());
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_of_a_lone_node_is_killed() {
    every_place_dies(EmbeddedCluster::start(1).await, Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_of_a_lone_node_panics() {
    every_place_dies(EmbeddedCluster::start(1).await, Fault::Panic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_of_three_nodes_is_killed() {
    every_place_dies(EmbeddedCluster::start(3).await, Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_of_three_nodes_panics() {
    every_place_dies(EmbeddedCluster::start(3).await, Fault::Panic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_is_killed_where_the_ledger_has_a_thread() {
    every_place_dies(EmbeddedCluster::start_on_a_thread(3).await, Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_panics_where_the_ledger_has_a_thread() {
    every_place_dies(EmbeddedCluster::start_on_a_thread(3).await, Fault::Panic).await;
}
