//! Three real processes, killed at random moments under load: nothing acknowledged is lost.
//!
//! `CONVERGE_KILL_ROUNDS` sets the number of rounds (20), `CONVERGE_TEST_SEED` repeats a schedule.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

mod support;

use std::time::{Duration, Instant};

use rand::RngExt as _;
use support::cluster::{Cluster, SETTLED};
use support::load::{History, Load};
use support::node::Node;
use support::{seeded, setting};

const CLIENTS: usize = 16;
const ROUNDS: usize = 20;
/// In this part of the rounds the leader is killed, else a follower.
const LEADER_SHARE: f64 = 0.6;

fn contexts() -> Vec<String> {
    (0..4).map(|number| format!("context-{number}")).collect()
}

fn load(cluster: &Cluster, seed: u64) -> Load {
    let channels: Vec<_> = cluster.nodes.iter().map(Node::channel).collect();
    Load::start(CLIENTS, &contexts(), &channels, seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_leader_or_follower_at_random_moments_loses_nothing() {
    let mut dice = seeded("sigkill");
    let rounds = setting("CONVERGE_KILL_ROUNDS", ROUNDS);
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mut clients = load(&cluster, dice.random());
    let mut gaps = Vec::new();
    for round in 0..rounds {
        clients.more(CLIENTS as u64, SETTLED).await;
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
        clients.more(CLIENTS as u64, SETTLED).await;
        gaps.push((lead, killed.elapsed() - down));
        cluster.nodes[victim].ready().await;
        eprintln!("round {round}: node {} killed, {} acknowledged", victim + 1, clients.acknowledged());
    }
    let history = clients.finish().await;
    let stored = cluster.agreed(&contexts()).await;
    history.hold_against(&stored);
    report(&history, &gaps);
}

fn report(history: &History, gaps: &[(bool, Duration)]) {
    for (lead, name) in [(true, "leader"), (false, "follower")] {
        let mut of: Vec<_> = gaps.iter().filter(|gap| gap.0 == lead).map(|gap| gap.1).collect();
        of.sort();
        if let (Some(middle), Some(last)) = (of.get(of.len() / 2), of.last()) {
            eprintln!("{} kills of a {name}; until {CLIENTS} more acks: median {middle:?}, most {last:?}", of.len());
        }
    }
    let (acknowledged, retries, reads) = (history.acknowledged.len(), history.retries, history.reads);
    eprintln!(
        "{acknowledged} acknowledged, {retries} attempts repeated, none lost, none twice; {reads} reads, none stale"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_all_three_at_once_loses_nothing() {
    let mut dice = seeded("all at once");
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mut clients = load(&cluster, dice.random());
    for _ in 0..3 {
        clients.more(200, SETTLED).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
        let pids: Vec<String> = cluster.nodes.iter().map(|node| node.pid().to_string()).collect();
        // One command, so that no node sees another one die.
        let status = std::process::Command::new("kill").arg("-KILL").args(&pids).status();
        assert!(status.unwrap().success());
        cluster.kill_all().await;
        cluster.start().await;
    }
    clients.more(200, SETTLED).await;
    let history = clients.finish().await;
    history.hold_against(&cluster.agreed(&contexts()).await);
    report(&history, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_a_node_alone_loses_nothing() {
    let mut dice = seeded("alone");
    let mut cluster = Cluster::of(1);
    cluster.nodes[0].peers = None;
    cluster.start().await;
    let mut clients = load(&cluster, dice.random());
    for _ in 0..5 {
        clients.more(100, SETTLED).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..50))).await;
        cluster.nodes[0].kill().await;
        cluster.nodes[0].start().await;
    }
    clients.more(100, SETTLED).await;
    let history = clients.finish().await;
    history.hold_against(&cluster.agreed(&contexts()).await);
}

#[test]
#[should_panic(expected = "acknowledged in context-0 and lost")]
fn a_lost_entry_is_seen() {
    let (history, mut stored) = three_entries();
    stored.get_mut("context-0").unwrap().pop();
    history.hold_against(&stored);
}

#[test]
#[should_panic(expected = "was written twice")]
fn an_entry_that_was_written_twice_is_seen() {
    let (history, mut stored) = three_entries();
    let entries = stored.get_mut("context-0").unwrap();
    let again = support::wire::Entry { sequence: 4, ..entries[2].clone() };
    entries.push(again);
    history.hold_against(&stored);
}

#[test]
#[should_panic(expected = "has a gap or a repeat")]
fn a_gap_is_seen() {
    let (history, mut stored) = three_entries();
    stored.get_mut("context-0").unwrap().remove(1);
    history.hold_against(&stored);
}

fn three_entries() -> (History, std::collections::BTreeMap<String, Vec<support::wire::Entry>>) {
    let entry = |sequence: u64| support::wire::Entry {
        payload: sequence.to_string().into_bytes(),
        sequence,
        ..Default::default()
    };
    let entries: Vec<_> = (1..=3).map(entry).collect();
    let context = "context-0".to_owned();
    let history = History {
        acknowledged: entries.iter().map(|entry| (context.clone(), entry.clone())).collect(),
        attempted: [(context.clone(), entries.iter().map(|entry| entry.payload.clone()).collect())].into(),
        ..History::default()
    };
    history.hold_against(&[(context.clone(), entries.clone())].into());
    (history, [(context, entries)].into())
}
