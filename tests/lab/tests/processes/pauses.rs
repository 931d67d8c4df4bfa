//! Processes that stand still for a while (SIGSTOP) and do not know it: the leader that was deposed in
//! its sleep must neither answer from what it knew nor lose what it was told.
#![allow(missing_docs, clippy::print_stderr)]

use crate::processes;
use std::sync::Arc;
use std::time::Duration;

use crate::support::cluster::{Cluster, SETTLED};
use crate::support::node::Node;
use crate::support::wire::{self, AppendRequest, GetRequest};
use crate::support::{seeded, setting, until};
use converge_lab::history::Counts;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;

const CONTEXT: &str = "paused";
const ROUNDS: usize = 12;
/// Reads that wait in the sleeping leader's sockets.
const QUEUED: usize = 16;
const CALL: Duration = Duration::from_secs(5);

async fn append(channel: &Channel) -> Option<u64> {
    let message = AppendRequest { context_id: CONTEXT.to_owned(), ..Default::default() };
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    let response = wire::append(channel, request).await.ok()?;
    response.into_inner().entry.map(|entry| entry.sequence)
}

/// The latest sequence by a linearizable read; nothing, when the node refuses.
async fn latest(channel: Channel) -> Option<u64> {
    let query = GetRequest { context_id: CONTEXT.to_owned(), after_sequence: u64::MAX, ..Default::default() };
    let mut request = Request::new(query);
    request.set_timeout(CALL);
    wire::get(&channel, request).await.ok().map(|page| page.into_inner().latest_sequence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_deposed_in_its_sleep_answers_no_read_from_what_it_knew() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let channels: Vec<Channel> = cluster.nodes.iter().map(Node::channel).collect();
    let mut answered = 0;
    for round in 0..5 {
        let leader = cluster.leader().await;
        // The connection exists before the sleep, so that requests lie in its socket.
        until("a write", SETTLED, || append(&channels[leader])).await;
        cluster.nodes[leader].signal("STOP").await.unwrap();
        let awake = (leader + 1) % 3;
        let acknowledged = until("a write without the old leader", SETTLED, || append(&channels[awake])).await;
        let mut reads: JoinSet<_> = (0..QUEUED).map(|_| latest(channels[leader].clone())).collect();
        // Every task has written its request when it has been polled once.
        for _ in 0..QUEUED {
            tokio::task::yield_now().await;
        }
        cluster.nodes[leader].signal("CONT").await.unwrap();
        while let Some(read) = reads.join_next().await {
            if let Some(seen) = read.unwrap() {
                assert!(seen >= acknowledged, "round {round}: read {seen}, {acknowledged} was acknowledged before");
                answered += 1;
            }
        }
    }
    eprintln!("{answered} of {} reads were answered, none of them stale", 5 * QUEUED);
    assert!(answered > 0, "no read was answered: nothing was shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_of_one_or_two_nodes_at_random_moments_lose_nothing() {
    let mut dice = seeded("pauses");
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mix = processes::mix(2);
    let nodes: Vec<&Node> = cluster.nodes.iter().collect();
    let clients = processes::load(&nodes, 8, &mix, dice.random(), &Arc::default());
    for _ in 0..setting("CONVERGE_PAUSE_ROUNDS", ROUNDS) {
        clients.progress(3).await;
        let first = dice.random_range(0..3);
        let sleepers = if dice.random_bool(0.4) { vec![first, (first + 1) % 3] } else { vec![first] };
        for &index in &sleepers {
            cluster.nodes[index].signal("STOP").await.unwrap();
        }
        // Around the election time-out of 400 to 800 ms: some sleepers are deposed, some are not.
        tokio::time::sleep(Duration::from_millis(dice.random_range(50..1500))).await;
        for &index in &sleepers {
            cluster.nodes[index].signal("CONT").await.unwrap();
        }
    }
    clients.progress(3).await;
    let record = clients.finish().await;
    let Counts { acknowledged, reads, .. } = processes::hold(&cluster, &mix, &record).await;
    eprintln!("{acknowledged} acknowledged and {reads} reads, none lost, none stale");
}
