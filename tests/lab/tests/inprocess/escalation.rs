//! The default restart intensities: one kill too many makes each supervisor give up, and its parent takes over.
#![allow(missing_docs)]

use std::sync::Arc;

use crate::inprocess::{EmbeddedCluster, eventually, load, whole_again};
use converge_ledger::Node;
use converge_ledger::config::{Config, Supervision};
use converge_ledger::supervisors::Fault;

fn incarnation(node: &Node, path: &str) -> u64 {
    node.tree().snapshot().nodes.iter().find(|n| n.path == path).unwrap().incarnation
}

fn defaults(config: &mut Config) {
    config.supervision = Supervision::default();
    config.listen.grpc = "127.0.0.1:0".into();
}

async fn start(nodes: u64) -> EmbeddedCluster {
    EmbeddedCluster::start_with(nodes, defaults).await
}

/// Kills `child` as often as `supervisor` forgives, and once more.
async fn gives_up(node: &Node, supervisor: &str, child: &str, forgiven: u32) {
    let path = format!("{supervisor}/{child}");
    for _ in 0..forgiven {
        let before = incarnation(node, &path);
        node.tree().inject(&path, Fault::Kill).await.unwrap();
        whole_again(node, &path, before).await;
        // On many threads, who has a write in flight when storage dies may die of that before it is stopped, and counts, too.
        eventually("nothing is in flight", || {
            let status = node.ledger().status();
            status.leader_id != 0 && status.applied_index == status.last_index
        })
        .await;
    }
    assert_eq!(incarnation(node, supervisor), 1, "{supervisor} forgives {forgiven} deaths");
    node.tree().inject(&path, Fault::Kill).await.unwrap();
    whole_again(node, supervisor, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledger_gives_up_after_five() {
    let cluster = start(1).await;
    gives_up(&cluster.nodes[0], "root/ledger", "storage", 5).await;
    cluster.stop().await;
}

/// Replication dies of it with what it has in flight, but the supervisor hears of storage first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_storage_under_load_counts_once_where_the_ledger_has_a_thread() {
    let cluster = EmbeddedCluster::start_on_a_thread_with(1, defaults).await;
    let node = &cluster.nodes[0];
    let load = load(&cluster.ledgers(), 8, &Arc::default());
    for _ in 0..5 {
        load.progress(4).await;
        let before = incarnation(node, "root/ledger/storage");
        node.tree().inject("root/ledger/storage", Fault::Kill).await.unwrap();
        whole_again(node, "root/ledger/storage", before).await;
    }
    load.progress(1).await;
    assert_eq!(incarnation(node, "root/ledger"), 1, "it forgives five deaths");
    load.finish().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_gives_up_after_ten() {
    let cluster = start(1).await;
    gives_up(&cluster.nodes[0], "root/api", "listener", 10).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distribution_and_links_give_up_after_twenty() {
    let cluster = start(3).await;
    gives_up(&cluster.nodes[0], "root/distribution", "listener", 20).await;
    gives_up(&cluster.nodes[1], "root/distribution/links", "1-control", 20).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_gives_up_after_three_and_says_so_to_the_host() {
    let cluster = start(1).await;
    let node = &cluster.nodes[0];
    for _ in 0..3 {
        let before = incarnation(node, "root/verdict");
        node.tree().inject("root/verdict", Fault::Kill).await.unwrap();
        whole_again(node, "root/verdict", before).await;
    }
    node.tree().inject("root/verdict", Fault::Kill).await.unwrap();
    let escalated = node.wait().await.unwrap_err();
    assert_eq!(escalated.path, "root/verdict");
    eventually("nothing of the tree runs", || node.tree().find("root/ledger/storage").is_none()).await;
}
