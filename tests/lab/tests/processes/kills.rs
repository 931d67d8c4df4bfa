//! Three real processes, killed at random moments under load: nothing acknowledged is lost.
//!
//! `CONVERGE_KILL_ROUNDS` sets the number of rounds (20), `CONVERGE_TEST_SEED` repeats a schedule.
#![allow(missing_docs, clippy::print_stderr)]

use crate::processes;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::processes::{hold, mix, same_segments};
use crate::support::cluster::Cluster;
use crate::support::{seeded, setting};
use converge_lab::history::Counts;
use converge_lab::workload::{Load, Mix};
use rand::RngExt as _;

const CLIENTS: u64 = 16;
const ROUNDS: usize = 20;
/// In this part of the rounds the leader is killed, else a follower.
const LEADER_SHARE: f64 = 0.6;

fn load(cluster: &Cluster, mix: &Mix, seed: u64) -> Load {
    processes::load(&cluster.nodes.iter().collect::<Vec<_>>(), CLIENTS, mix, seed, &Arc::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_leader_or_follower_at_random_moments_loses_nothing() {
    let mut dice = seeded("sigkill");
    let rounds = setting("CONVERGE_KILL_ROUNDS", ROUNDS);
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mix = mix(4);
    let clients = load(&cluster, &mix, dice.random());
    let mut gaps = Vec::new();
    for round in 0..rounds {
        clients.progress(1).await;
        let leader = cluster.leader().await;
        let lead = dice.random_bool(LEADER_SHARE);
        let victim = if lead { leader } else { (leader + dice.random_range(1..3)) % 3 };
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..300))).await;
        let node = &mut cluster.nodes[victim];
        node.kill().await;
        let killed = Instant::now();
        // Half of the time the victim is back before the others have settled.
        let down = Duration::from_millis(if dice.random_bool(0.5) { 0 } else { dice.random_range(0..800) });
        tokio::time::sleep(down).await;
        node.spawn();
        clients.progress(1).await;
        gaps.push((lead, killed.elapsed() - down));
        cluster.nodes[victim].ready().await;
        eprintln!("round {round}: node {} killed, {} acknowledged", victim + 1, clients.record.acknowledged());
    }
    let record = clients.finish().await;
    report(&hold(&cluster, &mix, &record).await, &gaps);
    let bytes = same_segments(&mut cluster).await;
    assert!(bytes > 64 << 10, "only {bytes} bytes of segments");
}

fn report(counts: &Counts, gaps: &[(bool, Duration)]) {
    for (lead, name) in [(true, "leader"), (false, "follower")] {
        let mut of: Vec<_> = gaps.iter().filter(|gap| gap.0 == lead).map(|gap| gap.1).collect();
        of.sort();
        if let (Some(middle), Some(last)) = (of.get(of.len() / 2), of.last()) {
            eprintln!(
                "{} kills of a {name}; until each client has one more ack: median {middle:?}, most {last:?}",
                of.len()
            );
        }
    }
    let Counts { acknowledged, unknown, reads, .. } = counts;
    eprintln!("{acknowledged} acknowledged, {unknown} unknown, none lost, none twice; {reads} reads, none stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_all_three_at_once_loses_nothing() {
    let mut dice = seeded("all at once");
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mix = mix(4);
    let clients = load(&cluster, &mix, dice.random());
    for _ in 0..3 {
        clients.progress(12).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
        let pids: Vec<String> = cluster.nodes.iter().map(|node| node.pid().to_string()).collect();
        // One command, so that no node sees another one die.
        let status = std::process::Command::new("kill").arg("-KILL").args(&pids).status();
        assert!(status.unwrap().success());
        cluster.kill_all().await;
        cluster.start().await;
    }
    clients.progress(12).await;
    let record = clients.finish().await;
    report(&hold(&cluster, &mix, &record).await, &[]);
    same_segments(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_a_node_alone_loses_nothing() {
    let mut dice = seeded("alone");
    let mut cluster = Cluster::of(1);
    cluster.nodes[0].peers = None;
    cluster.start().await;
    let mix = mix(4);
    let clients = load(&cluster, &mix, dice.random());
    for _ in 0..5 {
        clients.progress(6).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..50))).await;
        cluster.nodes[0].kill().await;
        cluster.nodes[0].start().await;
    }
    clients.progress(6).await;
    let record = clients.finish().await;
    hold(&cluster, &mix, &record).await;
}
