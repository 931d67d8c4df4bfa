//! Directories put back from copies of different age, which nobody must do: what was acknowledged before the copies is
//! the operator's to lose, but a node whose committed log differs from the leader's is fenced, and never counted.
#![allow(missing_docs, clippy::print_stderr)]

use crate::processes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::cluster::{Cluster, SETTLED};
use crate::support::node::{Node, cli};
use crate::support::until;
use converge_lab::workload::Record;

/// The first of all contexts.
const CONTEXT: &str = "c0";
const CLIENTS: u64 = 3;

/// Copies what is in a directory of a node that does not run.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}

fn keep(node: &Node) -> PathBuf {
    assert!(!node.is_running());
    let kept = node.data.with_extension("kept");
    copy(&node.data, &kept);
    kept
}

fn put_back(node: &Node, kept: &Path) {
    assert!(!node.is_running());
    std::fs::remove_dir_all(&node.data).unwrap();
    copy(kept, &node.data);
}

/// Appends so many entries or more through these nodes.
async fn write(nodes: &[&Node], many: u64, record: &Arc<Record>) {
    let load = processes::load(nodes, CLIENTS, &processes::mix(1), rand::random(), record);
    load.progress(many.div_ceil(CLIENTS)).await;
    load.finish().await;
}

/// Waits until the node says that it lost data, and that it does not serve.
async fn is_fenced(node: &Node) {
    let status = until("the node with the other history is fenced", SETTLED, || async {
        node.status().await.filter(|status| status["phase"] == "fenced")
    })
    .await;
    let alarms = status["alarms"].to_string();
    assert!(alarms.contains("lost") || alarms.contains("differs"), "{alarms}\n{}", node.log_tail());
    let log = node.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// All that the clients of the record were told is on both of those that go on, in the order in which they were told it.
async fn hold(cluster: &Cluster, going_on: [usize; 2], record: &Record) {
    processes::hold_on(&going_on.map(|index| &cluster.nodes[index]), &processes::mix(1), record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_copy_that_meets_a_later_leader_is_fenced() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write(&cluster.nodes.iter().collect::<Vec<_>>(), 20, &record).await;
    let leader = cluster.leader().await;
    let [a, b] = [1, 2].map(|step| (leader + step) % 3);
    // The copies of the followers are of the term that goes on.
    let mut kept = BTreeMap::new();
    for index in [a, b] {
        cluster.nodes[index].kill().await;
        kept.insert(index, keep(&cluster.nodes[index]));
        cluster.nodes[index].start().await;
    }
    cluster.converged().await;
    write(&cluster.nodes.iter().collect::<Vec<_>>(), 40, &Arc::default()).await;
    cluster.converged().await;
    cluster.kill_all().await;
    for index in [a, b] {
        put_back(&cluster.nodes[index], &kept[&index]);
        cluster.nodes[index].spawn();
    }
    for index in [a, b] {
        cluster.nodes[index].ready().await;
    }
    write(&[&cluster.nodes[a], &cluster.nodes[b]], 10, &record).await;
    cluster.nodes[leader].spawn();
    is_fenced(&cluster.nodes[leader]).await;
    write(&[&cluster.nodes[a], &cluster.nodes[b]], 10, &record).await;
    hold(&cluster, [a, b], &record).await;
}

/// Rounds that may go to an election more of the first history than of the second.
const ROUNDS_MAX: u32 = 8;

/// The terms after the copies come a second time: entries have the same index and term, and other content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_term_that_comes_again_is_fenced() {
    for (before, after) in [(40, 5), (5, 40)] {
        let mut rounds = 0;
        while !a_term_comes_again(before, after).await {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "the second history never came to the term of the first");
        }
    }
}

/// A round; false where the second history did not come to the term of the first: then the node that has the first is the
/// later leader, and proves nothing against itself.
async fn a_term_comes_again(before: u64, after: u64) -> bool {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write(&cluster.nodes.iter().collect::<Vec<_>>(), 20, &record).await;
    cluster.converged().await;
    cluster.kill_all().await;
    let kept = [0, 1].map(|index| keep(&cluster.nodes[index]));
    cluster.start().await;
    write(&cluster.nodes.iter().collect::<Vec<_>>(), before, &Arc::default()).await;
    let statuses = cluster.converged().await;
    cluster.kill_all().await;
    for (index, kept) in kept.iter().enumerate() {
        put_back(&cluster.nodes[index], kept);
        cluster.nodes[index].spawn();
    }
    for index in 0..2 {
        cluster.nodes[index].ready().await;
    }
    write(&[&cluster.nodes[0], &cluster.nodes[1]], after, &record).await;
    let first = statuses[0]["term"].as_u64().unwrap();
    let term = cluster.nodes[0].status().await.unwrap()["term"].as_u64().unwrap();
    eprintln!("term {first} came again as {term}");
    if term < first {
        return false;
    }
    cluster.nodes[2].spawn();
    is_fenced(&cluster.nodes[2]).await;
    hold(&cluster, [0, 1], &record).await;
    true
}

/// The log knows later starts of a node than that of its copy: it takes no append of it, says so, and counts on from those once
/// it is started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_counts_its_starts_again_says_so_and_is_well_when_started_again() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let record = Arc::default();
    write(&[&cluster.nodes[2]], 5, &record).await;
    cluster.converged().await;
    cluster.nodes[2].kill().await;
    let kept = keep(&cluster.nodes[2]);
    for _ in 0..3 {
        cluster.nodes[2].start().await;
        write(&[&cluster.nodes[2]], 5, &record).await;
        cluster.nodes[2].kill().await;
    }
    // A leader that goes on would see at once that what this node acknowledged is gone.
    cluster.kill_all().await;
    put_back(&cluster.nodes[2], &kept);
    cluster.start().await;
    cluster.converged().await;
    let url = cluster.nodes[2].url();
    let appended = cli(&["append", CONTEXT, "key", "lost", "--endpoint", &url, "--timeout", "3s"]).await;
    assert!(!appended.status.success());
    let alarms = cluster.nodes[2].status().await.unwrap()["alarms"].to_string();
    assert!(alarms.contains("older copy"), "{alarms} {appended:?}\n{}", cluster.nodes[2].log_tail());
    assert!(cluster.nodes[2].log().contains("start the node again"));
    cluster.nodes[2].terminate(SETTLED).await;
    cluster.nodes[2].start().await;
    write(&[&cluster.nodes[2]], 10, &record).await;
    hold(&cluster, [0, 1], &record).await;
}
