//! The default restart intensities: one kill too many makes each supervisor give up, and its parent takes over.
#![allow(missing_docs)]

use crate::inprocess::{EmbeddedCluster, eventually, whole_again};
use converge_ledger::Node;
use converge_ledger::config::Supervision;
use converge_ledger::supervisors::Fault;

fn incarnation(node: &Node, path: &str) -> u64 {
    node.tree().snapshot().nodes.iter().find(|n| n.path == path).unwrap().incarnation
}

async fn start(nodes: u64) -> EmbeddedCluster {
    let defaults = |config: &mut converge_ledger::Config| {
        config.supervision = Supervision::default();
        config.listen.grpc = "127.0.0.1:0".into();
    };
    EmbeddedCluster::start_with(nodes, defaults).await
}

/// Kills `child` as often as `supervisor` forgives, and once more.
async fn gives_up(node: &Node, supervisor: &str, child: &str, forgiven: u32) {
    let path = format!("{supervisor}/{child}");
    for _ in 0..forgiven {
        let before = incarnation(node, &path);
        node.tree().inject(&path, Fault::Kill).await.unwrap();
        whole_again(node, &path, before).await;
        // Who has a write in flight when storage dies may die of that before it is stopped, and counts, too.
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
