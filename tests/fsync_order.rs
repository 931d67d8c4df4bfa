//! Durable before acknowledged, seen from outside: strace on real nodes records journal write, sync
//! and reply, and the order must hold for every append.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

mod support;

use support::cluster::Cluster;
use support::node::Node;
use support::strace::{Recorded, can_trace, marker, parse, violations, wrapper};
use support::wire::{self, AppendRequest};
use tonic::Request;
use tonic::transport::Channel;

const SEQUENTIAL: u32 = 50;
/// With those that are in flight together.
const APPENDS: u32 = 250;
const CONCURRENT: usize = 16;

fn trace_of(node: &Node) -> String {
    node.log.with_extension("strace").display().to_string()
}

async fn append(channel: Channel, number: u32) {
    let payload = marker(number).into_bytes();
    let request = AppendRequest { context_id: "traced".to_owned(), payload, ..Default::default() };
    wire::append(&channel, Request::new(request)).await.unwrap();
}

/// Stops the nodes and reads what was recorded of them.
async fn recorded(cluster: &mut Cluster) -> Vec<Recorded> {
    let mut nodes = Vec::new();
    for node in &mut cluster.nodes {
        let trace = trace_of(node);
        nodes.push(Recorded::of(node, &trace).await);
    }
    nodes
}

/// Sequential appends, then concurrent ones, to one node; the markers that were appended.
async fn append_markers(node: &Node) -> Vec<u32> {
    let channel = node.channel();
    for number in 0..SEQUENTIAL {
        append(channel.clone(), number).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in SEQUENTIAL..APPENDS {
        if tasks.len() == CONCURRENT {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(append(channel.clone(), number));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Not checked: its reply goes over the same socket, so that every reply before it is a call that has returned. One
    // that is cut off by the node's end is in no trace.
    append(channel, APPENDS).await;
    (0..APPENDS).collect()
}

async fn holds(mut cluster: Cluster, quorum: usize) {
    for node in &mut cluster.nodes {
        node.through = wrapper(&trace_of(node));
        // Traced nodes are slow; nobody should campaign because of that.
        node.set("raft.election_ms", 3000);
        node.set("raft.heartbeat_ms", 200);
    }
    cluster.start().await;
    let leader = cluster.leader().await;
    let markers = append_markers(&cluster.nodes[leader]).await;
    let recorded = recorded(&mut cluster).await;
    let found = violations(&recorded, &markers, quorum);
    assert!(found.is_empty(), "{} of {} violated:\n{}", found.len(), markers.len(), found.join("\n"));
    let syncs: Vec<usize> = recorded.iter().map(Recorded::syncs).collect();
    assert!(syncs[leader] >= SEQUENTIAL as usize, "sequential appends need a sync each: {syncs:?}");
    eprintln!("{} appends, syncs per node {syncs:?}, each durable on {quorum} before its reply", markers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_syncs_every_append_before_it_replies() {
    if can_trace("a node alone") {
        let mut cluster = Cluster::of(1);
        cluster.nodes[0].peers = None;
        holds(cluster, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_sync_every_append_on_two_before_they_reply() {
    if can_trace("three nodes") {
        holds(Cluster::new(), 2).await;
    }
}

// The check itself, on recorded traces.

/// Recorded of a server that writes, syncs and replies; the sync was interrupted once in the record.
const GOOD: &str = r#"
100 1795352830.352645 pwrite64(6</data/journal-1>, "\0\1headmarker-000000", 47, 0) = 47 <0.000087>
100 1795352830.352875 fdatasync(6</data/journal-1>) = 0 <0.000560>
101 1795352830.353872 writev(5<TCP:[127.0.0.1:5000->127.0.0.1:37466]>, [{iov_base="h2", iov_len=2}, {iov_base="marker-000000", iov_len=14}], 2) = 16 <0.000087>
100 1795352830.377631 pwritev(6</data/journal-1>, [{iov_base="head", iov_len=4}, {iov_base="marker-000001", iov_len=14}], 2, 4096) = 18 <0.000057>
100 1795352830.377783 fdatasync(6</data/journal-1> <unfinished ...>
101 1795352830.377900 sendto(5<TCP:[127.0.0.1:5000->127.0.0.1:37466]>, "ping", 4, MSG_NOSIGNAL, NULL, 0) = 4 <0.000048>
100 1795352830.379426 <... fdatasync resumed>) = 0 <0.001643>
101 1795352830.379856 sendto(5<TCP:[127.0.0.1:5000->127.0.0.1:37466]>, "marker-000001", 14, MSG_NOSIGNAL, NULL, 0) = 14 <0.000062>
100 1795352830.389441 +++ exited with 0 +++
"#;

fn check(text: &str) -> Vec<String> {
    let node = Recorded { calls: parse(text), data: "/data/".to_owned(), grpc_port: 5000 };
    violations(&[node], &[0, 1], 1)
}

#[test]
fn a_recorded_trace_in_order_passes() {
    assert_eq!(check(GOOD), Vec::<String>::new());
    assert_eq!(parse(GOOD).len(), 7);
}

#[test]
fn a_reply_before_the_sync_returned_is_seen() {
    // The reply is moved in front of the moment when the second sync returned.
    let early = GOOD.replace("101 1795352830.379856 sendto", "101 1795352830.378000 sendto");
    let found = check(&early);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("marker 1") && found[0].contains("1426 us before"), "{found:?}");
}

#[test]
fn a_sync_that_began_before_the_write_ended_does_not_count() {
    let early = GOOD.replace("1795352830.352875 fdatasync", "1795352830.352700 fdatasync");
    // The second sync covers the first marker too, but only after its reply.
    assert!(check(&early).iter().any(|line| line.contains("marker 0") && line.contains("before it was durable")));
}

#[test]
fn a_failed_sync_and_one_of_another_file_do_not_count() {
    let failed = GOOD.replace(") = 0 <0.000560>", ") = -1 EIO (Input/output error) <0.000560>");
    assert!(check(&failed).iter().any(|line| line.contains("marker 0")), "{:?}", check(&failed));
    let other = GOOD.replace("fdatasync(6</data/journal-1>) = 0", "fdatasync(7</data/other>) = 0");
    assert!(check(&other).iter().any(|line| line.contains("marker 0")), "{:?}", check(&other));
}

#[test]
fn zero_syncs_are_seen() {
    let none: String =
        GOOD.lines().filter(|line| !line.contains("fdatasync")).map(|line| format!("{line}\n")).collect();
    let found = check(&none);
    assert!(found.iter().any(|line| line.contains("ever synced")), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_minority_is_not_enough() {
    let node = |text: &str| Recorded { calls: parse(text), data: "/data/".to_owned(), grpc_port: 5000 };
    let late = GOOD.replace("17953528", "17953529").replace("5000->", "5001->");
    let markers = [0];
    assert!(violations(&[node(GOOD), node(GOOD)], &markers, 2).is_empty());
    let found = violations(&[node(GOOD), node(&late)], &markers, 2);
    assert_eq!(found.len(), 1, "{found:?}");
}
