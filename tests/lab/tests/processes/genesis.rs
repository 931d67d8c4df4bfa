//! How real processes become one cluster, and what they refuse to become.
#![allow(missing_docs, clippy::print_stderr)]

use crate::processes;
use crate::support;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::cluster::{Cluster, SETTLED, know_each_other, nodes, read_all};
use crate::support::node::{Node, free_address};
use crate::support::until;
use converge_lab::workload::{Mix, Record};
use converge_ledger::cli::processes::peers;

/// A start that cannot succeed ends within this.
const REFUSAL: Duration = Duration::from_secs(30);
/// Between the starts of nodes that begin one after the other.
const APART: Duration = Duration::from_secs(1);

/// The first of all clients.
const CONTEXT: &str = "c0";

/// No call ends as unknown on a busy machine: what is there in the end is known.
fn mix() -> Mix {
    Mix { deadline_ms: (30_000, 30_000), ..processes::mix(1) }
}

/// Appends a few entries through these nodes.
async fn write(nodes: &[&Node], record: &Arc<Record>) {
    let load = processes::load(nodes, 2, &mix(), rand::random(), record);
    load.progress(5).await;
    load.finish().await;
    assert!(record.troubles().is_empty(), "{:?}", record.troubles());
}

/// Appends a few entries through every node; a node that does not serve fails the test. Gives how many there are now.
async fn write_through(nodes: &[Node], record: &Arc<Record>) -> u64 {
    for node in nodes {
        write(&[node], record).await;
    }
    read_all(&nodes[0], CONTEXT).await.len() as u64
}

/// All nodes are one cluster's, and have what their clients were told, in the order in which they were.
async fn hold(cluster: &Cluster, record: &Record) {
    processes::hold(cluster, &mix(), record).await;
}

fn cluster_ids(statuses: &[serde_json::Value]) -> BTreeSet<String> {
    statuses.iter().map(|status| status["cluster_id"].as_str().unwrap().to_owned()).collect()
}

/// The process ended, did not succeed, and its log holds each of the words.
async fn refuses(node: &mut Node, words: &[&str]) {
    let before = node.log().len();
    node.spawn();
    let status = node.exit(REFUSAL).await;
    let log = node.log()[before..].to_owned();
    assert!(!status.success(), "node {} ended well\n{log}", node.id);
    for word in words {
        assert!(log.contains(word), "the reason does not name {word:?}:\n{log}");
    }
    assert!(!log.contains("panicked"), "a refusal is not a panic:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_nodes_started_in_any_order_seconds_apart_agree_on_one_cluster() {
    for order in [[2, 1, 0], [1, 0, 2], [0, 2, 1]] {
        let mut cluster = Cluster::new();
        for index in order {
            cluster.nodes[index].spawn();
            tokio::time::sleep(APART).await;
        }
        for node in &mut cluster.nodes {
            node.ready().await;
        }
        let record = Arc::default();
        write_through(&cluster.nodes, &record).await;
        hold(&cluster, &record).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_genesis_leaves_one_cluster_or_none() {
    let mut dice = support::seeded("killed genesis");
    for _ in 0..4 {
        let mut cluster = Cluster::new();
        for node in &mut cluster.nodes {
            node.spawn();
        }
        let pause = rand::RngExt::random_range(&mut dice, 0..400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let victim = rand::RngExt::random_range(&mut dice, 0..3);
        cluster.nodes[victim].kill().await;
        cluster.nodes[victim].spawn();
        for node in &mut cluster.nodes {
            node.ready().await;
        }
        eprintln!("node {victim} was killed after {pause} ms");
        let record = Arc::default();
        write_through(&cluster.nodes, &record).await;
        hold(&cluster, &record).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_directory_under_a_known_id_exits_with_the_reason() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write_through(&cluster.nodes, &record).await;
    cluster.nodes[1].kill().await;
    let data = cluster.nodes[1].data.clone();
    let kept = data.with_extension("kept");
    std::fs::rename(&data, &kept).unwrap();
    refuses(&mut cluster.nodes[1], &["wiped", "node 2"]).await;
    // The others never noticed, and the node is welcome with its own directory.
    write(&[&cluster.nodes[0], &cluster.nodes[2]], &record).await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.nodes[1].start().await;
    hold(&cluster, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_voter_list_is_a_start_error_that_names_both() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write_through(&cluster.nodes, &record).await;
    let node = &mut cluster.nodes[2];
    node.kill().await;
    let good = node.peers.clone();
    let list = |ids: &[u64], own: &Node| {
        let address = |id| if id == own.id { own.peer.clone() } else { free_address() };
        let addresses: Vec<_> = ids.iter().map(|id| (*id, address(*id))).collect();
        Some(peers(addresses.iter().map(|(id, address)| (*id, address.as_str()))))
    };
    node.peers = list(&[1, 3, 7], node);
    refuses(node, &["cluster.peers", "1, 2, 3", "1, 3, 7"]).await;
    node.peers = list(&[1, 2, 3, 4, 5], node);
    refuses(node, &["cluster.peers", "1, 2, 3", "1, 2, 3, 4, 5"]).await;
    // Three that became one, by an empty list.
    node.peers = None;
    refuses(node, &["cluster.peers", "1, 2, 3"]).await;
    node.peers = good;
    node.start().await;
    hold(&cluster, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_may_change() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write_through(&cluster.nodes, &record).await;
    let before = cluster_ids(&cluster.converged().await);
    cluster.kill_all().await;
    cluster.nodes.iter_mut().for_each(|node| node.peer = free_address());
    know_each_other(&mut cluster.nodes);
    cluster.start().await;
    assert_eq!(cluster_ids(&cluster.converged().await), before);
    hold(&cluster, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_turned_into_three_is_an_error() {
    let mut cluster = Cluster::new();
    let three = cluster.nodes[0].peers.take();
    cluster.nodes[0].start().await;
    let record = Arc::default();
    write_through(&cluster.nodes[..1], &record).await;
    cluster.nodes[0].kill().await;
    cluster.nodes[0].peers = three;
    refuses(&mut cluster.nodes[0], &["cluster.peers", "1, 2, 3"]).await;
    // What it kept is still there when it is alone again.
    cluster.nodes[0].peers = None;
    cluster.nodes[0].start().await;
    processes::hold_on(&[&cluster.nodes[0]], &mix(), &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_id_on_a_data_directory_is_refused() {
    let mut cluster = Cluster::of(1);
    let node = &mut cluster.nodes[0];
    node.peers = None;
    node.start().await;
    node.kill().await;
    node.id = 9;
    refuses(node, &[node.data.clone().to_str().unwrap(), "node 1", "node.id"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_directory_of_another_node_of_the_cluster_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write_through(&cluster.nodes, &record).await;
    cluster.converged().await;
    // Two nodes on one disk, mixed up: with both votes in one hand it would be no majority.
    cluster.nodes[1].kill().await;
    cluster.nodes[2].kill().await;
    let own = cluster.nodes[2].data.clone();
    cluster.nodes[2].data = cluster.nodes[1].data.clone();
    let foreign = cluster.nodes[2].data.display().to_string();
    refuses(&mut cluster.nodes[2], &[&foreign, "node 2"]).await;
    cluster.nodes[2].data = own;
    for index in [1, 2] {
        cluster.nodes[index].start().await;
    }
    hold(&cluster, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_clusters_with_different_names_refuse_each_other() {
    strangers("other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_clusters_that_share_name_and_ids_refuse_each_other() {
    strangers("converge").await;
}

/// Two clusters of which one node is pointed at the other: neither takes anything from the other.
async fn strangers(name: &str) {
    let (mut home, mut other) = (Cluster::new(), Cluster::new());
    for node in &mut other.nodes {
        node.set("cluster.name", name);
    }
    home.start().await;
    other.start().await;
    let (at_home, over_there) = (Arc::default(), Arc::default());
    let kept = write_through(&home.nodes, &at_home).await;
    write_through(&other.nodes, &over_there).await;
    write_through(&other.nodes, &over_there).await;
    home.converged().await;
    other.converged().await;
    let term = other.nodes[0].status().await.unwrap()["term"].clone();
    // Node 3 of home takes the place of node 3 of the other cluster. It has stopped in order: without a leader, one that was
    // killed knows its last record, and not that this is committed.
    for node in &mut home.nodes {
        node.terminate(SETTLED).await;
    }
    other.nodes[2].kill().await;
    let own = read_contents(&mut home.nodes[2], &other.nodes[2], name).await;
    assert_eq!(own, Some(kept), "the stray node lost or took entries");
    // Nobody over there was disturbed: no term was forced, appends go on.
    let left = &other.nodes[..2];
    assert_eq!(left[0].status().await.unwrap()["term"], term);
    write_through(left, &over_there).await;
    for node in left {
        let log = node.log();
        let refusals = log.lines().filter(|line| line.contains("refused")).count();
        assert!(refusals <= 5, "a refusal is logged once, not {refusals} times:\n{}", node.log_tail());
    }
    other.nodes[2].start().await;
    hold(&other, &over_there).await;
    home.start().await;
    hold(&home, &at_home).await;
}

/// Runs a node in the place of another one for a while; how many entries it then has of its own.
/// It may also exit, saying why: then it has nothing to lose, and the count is taken as kept.
async fn read_contents(stray: &mut Node, place: &Node, name: &str) -> Option<u64> {
    let (peer, peers) = (stray.peer.clone(), stray.peers.clone());
    stray.peer = place.peer.clone();
    stray.peers = place.peers.clone();
    stray.spawn();
    stray.ready().await;
    let what = format!("the stray node says that cluster {name} is not its own");
    until(&what, REFUSAL, || async {
        let log = stray.log();
        (log.contains("refused") || log.contains("another cluster") || log.contains("different cluster")).then_some(())
    })
    .await;
    let status = stray.status().await.unwrap();
    assert_eq!(status["leader_id"], 0, "the stray node follows a foreign leader: {status}");
    let count = processes::entries(stray, CONTEXT, &Record::default()).await.len() as u64;
    stray.kill().await;
    (stray.peer, stray.peers) = (peer, peers);
    Some(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_go_on_without_two() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster { nodes: nodes(directory.path(), 5), directory };
    cluster.start().await;
    let record = Arc::default();
    write(&[&cluster.nodes[0]], &record).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    cluster.nodes[(leader + 1) % 5].kill().await;
    let left: Vec<_> = (2..5).map(|step| &cluster.nodes[(leader + step) % 5]).collect();
    let load = processes::load(&left, 4, &mix(), 5, &record);
    load.progress(12).await;
    load.finish().await;
    for step in [0, 1] {
        cluster.nodes[(leader + step) % 5].start().await;
    }
    hold(&cluster, &record).await;
}
