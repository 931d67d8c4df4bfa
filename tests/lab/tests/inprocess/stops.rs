//! A node is being stopped under load, and one of its actors or supervisors, the root among them, is killed at one point
//! of its stop; then the next point. Each time the node is down soon, nothing of it is left to be in its successor's way,
//! and what was acknowledged is there when it has started again.
#![allow(missing_docs, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, load, verify};
use converge_lab::workload::Record;
use converge_ledger::supervisors::Callback;
use converge_ledger::supervisors::chaos::{At, Fault, Moment};
use tokio::time::timeout;

const CLIENTS: usize = 4;
/// Acknowledgements of each client before the node is stopped.
const BEFORE_A_STOP: u64 = 2;
/// For a stop without a call that drains, a kill in it or not.
const STOP_SOON: Duration = Duration::from_secs(10);

/// Stops the first node, with a kill of `path` at this point of its `post_stop`, and starts it again. Whether the point
/// was there.
async fn stopped_at(cluster: &mut EmbeddedCluster, path: &str, at: At, record: &Arc<Record>) -> bool {
    let load = load(&cluster.ledgers(), CLIENTS, record);
    load.progress(BEFORE_A_STOP).await;
    let node = cluster.take(0);
    let tree = node.tree();
    let mut armed = tree.arm(path, Moment::next(Callback::PostStop, at), Fault::Kill).unwrap();
    timeout(STOP_SOON, node.stop(PATIENCE)).await.expect("it is down soon").unwrap();
    let alive: Vec<_> = tree.snapshot().nodes.into_iter().filter(|place| place.actor.is_some()).collect();
    assert!(alive.is_empty(), "left at {path} {at:?}: {alive:?}");
    load.finish().await;
    cluster.bring_back(0).await;
    armed.has_sprung().is_some()
}

async fn every_point_of_a_stop(count: u64, least: usize) {
    let mut cluster = EmbeddedCluster::start(count).await;
    let record = Arc::default();
    let paths: Vec<String> = cluster.nodes[0].tree().snapshot().nodes.into_iter().map(|place| place.path).collect();
    let mut reached = 0;
    for path in &paths {
        for at in std::iter::once(At::Start).chain((1..).map(At::Await)) {
            if !stopped_at(&mut cluster, path, at, &record).await {
                println!("{path}: ends before {at:?}");
                break;
            }
            reached += 1;
        }
        assert!(stopped_at(&mut cluster, path, At::End, &record).await, "{path} ends");
        reached += 1;
    }
    println!("{reached} points of {} places", paths.len());
    assert!(reached >= least, "{reached} points");
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_point_of_a_lone_nodes_stop() {
    every_point_of_a_stop(1, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_point_of_the_stop_of_one_of_three() {
    every_point_of_a_stop(3, 40).await;
}
