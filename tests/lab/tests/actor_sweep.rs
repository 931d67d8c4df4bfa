//! Each actor and each supervisor of a node is killed at each of its awaits, one after another, under load: nothing
//! acknowledged is lost or doubled, no client's call fails at one death, nothing is left without a place in the tree. And
//! a monkey, for what a list of points does not reach: several deaths at a time, panics, errors and stalls.
#![allow(missing_docs, clippy::print_stdout)]

mod inprocess;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use converge_lab::workload::Load;
use converge_ledger::Node;
use converge_ledger::supervisors::chaos::{
    At, Budget, Fault, Monkey, Point, Sweep, Table, Target, Trigger, sweep_awaits,
};
use converge_ledger::supervisors::{Callback, Kind};
use inprocess::{EmbeddedCluster, PATIENCE, load, verify};
use tokio::time::sleep;

const CLIENTS: usize = 8;
/// Acknowledgements of each client between two deaths: a call in flight at two of them would be given up as poison.
const BETWEEN_DEATHS: u64 = 4;

/// Kills at every await of every actor of `node` but its root.
async fn swept(node: &Node, load: &Load) -> Table {
    let drive = async || load.progress(BETWEEN_DEATHS).await;
    let is_supervisor = |path: &str| node.tree().status(path).is_some_and(|at| at.kind == Kind::Supervisor);
    let mut failed = 0;
    let check = async |point: &Point| {
        // Whatever was in flight at this death is done before the next, however late this one came.
        load.progress(BETWEEN_DEATHS).await;
        let before = std::mem::replace(&mut failed, load.record.failures());
        match failed - before {
            0 => Ok(()),
            // One death to make it start, and one in the start: a call that was in flight at both is given up.
            _ if matches!(point.callback, Callback::PreStart | Callback::PostStart) => Ok(()),
            // Nor does a supervisor get a message without a death.
            _ if is_supervisor(&point.path) && point.callback != Callback::PostStop => Ok(()),
            more => Err(format!("{more} calls failed")),
        }
    };
    sweep_awaits(&node.tree(), Sweep::new().patience(PATIENCE).tries(2), drive, check).await
}

/// Sweeps the first node; `least` points must have been there.
async fn sweep(cluster: EmbeddedCluster, least: usize) {
    let load = load(&cluster.ledgers(), CLIENTS, &Arc::default());
    load.progress(BETWEEN_DEATHS).await;
    let table = swept(&cluster.nodes[0], &load).await;
    let tree = cluster.nodes[0].tree();
    for point in &table.not_run {
        // What another's death brings about: `while_others_die` is for that.
        let kind = tree.status(&point.path).unwrap().kind;
        assert_eq!((point.callback, kind), (Callback::Handle, Kind::Worker), "{table}");
    }
    for supervisor in tree.snapshot().nodes.into_iter().skip(1).filter(|place| place.kind == Kind::Supervisor) {
        let rows = table.rows.iter().filter(|row| row.reached && row.point.path == supervisor.path);
        let waits: BTreeSet<Callback> =
            rows.filter(|row| matches!(row.point.at, At::Await(_))).map(|row| row.point.callback).collect();
        let own = [Callback::Handle, Callback::PostStop].into();
        assert_eq!(waits, own, "{} waits while it is suspended and in its stop: {table}", supervisor.path);
    }
    judge(cluster, load, &table, least).await;
}

/// Sweeps the messages of these actors of the first node, while `stir` makes others die: what comes with a recovery or with
/// a connection that is made anew is met so.
async fn while_others_die(count: u64, targets: &[&str], kinds: &[(&str, u64)], stir: impl AsyncFn(&EmbeddedCluster)) {
    let cluster = EmbeddedCluster::start(count).await;
    let load = load(&cluster.ledgers(), CLIENTS, &Arc::default());
    load.progress(BETWEEN_DEATHS).await;
    let drive = async || {
        stir(&cluster).await;
        load.progress(BETWEEN_DEATHS).await;
    };
    // A call that is in flight at both deaths is given up, and says so.
    let check = async |_: &Point| {
        load.progress(BETWEEN_DEATHS).await;
        Ok(())
    };
    let sweep = Sweep::new().patience(PATIENCE).messages_only();
    let sweep = targets.iter().fold(sweep, |sweep, target| sweep.target(Target::path(target)));
    let table = sweep_awaits(&cluster.nodes[0].tree(), sweep, drive, check).await;
    for (path, kind) in kinds {
        let kind = format!("#{kind}");
        let mut reached = table.rows.iter().filter(|row| row.reached && row.point.path.ends_with(path));
        let met = reached.any(|row| row.point.kind.as_ref().is_some_and(|met| met.to_string() == kind));
        assert!(met, "{path} was never killed at a message {kind}: {table}");
    }
    judge(cluster, load, &table, kinds.len()).await;
}

/// Nothing lost, nothing doubled, no orphan.
async fn judge(cluster: EmbeddedCluster, load: Load, table: &Table, least: usize) {
    println!("{table}");
    println!("{} points, of which {} were reached", table.rows.len(), table.reached());
    let record = load.finish().await;
    let failures: Vec<String> = table.failures().map(|row| format!("{}: {:?}", row.point, row.verdict)).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(table.orphans.is_empty() && table.cut.is_empty(), "{table}");
    assert!(table.reached() >= least, "{} points", table.reached());
    verify(&cluster, &record).await;
    cluster.stop().await;
}

/// `Recover` at storage, `Led` at entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_await_while_replication_dies() {
    let kinds = [("storage", 1), ("entry", 2)];
    while_others_die(1, &["root/ledger/storage", "root/ledger/entry"], &kinds, async |cluster| {
        // It may be down with the one that is swept.
        let _ = cluster.nodes[0].tree().inject("root/ledger/replication", Fault::Kill).await;
    })
    .await;
}

/// `Link` at replication, `LostLink` at entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_await_while_links_die() {
    let kinds = [("replication", 2), ("entry", 4)];
    while_others_die(
        3,
        &["root/ledger/replication", "root/ledger/entry", "root/distribution/links/2-*"],
        &kinds,
        async |cluster| {
            for lane in ["append", "control", "forward"] {
                let _ = cluster.nodes[1].tree().inject(&format!("root/distribution/links/1-{lane}"), Fault::Kill).await;
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_await_of_a_lone_node() {
    sweep(EmbeddedCluster::start(1).await, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_await_of_a_lone_node_whose_ledger_has_a_thread() {
    sweep(EmbeddedCluster::start_on_a_thread(1).await, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_await_of_one_of_three_nodes() {
    sweep(EmbeddedCluster::start(3).await, 60).await;
}

/// Monkeys on all three nodes at once, for a few seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_under_a_monkey_each() {
    let cluster = EmbeddedCluster::start(3).await;
    let load = load(&cluster.ledgers(), CLIENTS, &Arc::default());
    load.progress(BETWEEN_DEATHS).await;
    let monkeys: Vec<_> = cluster.nodes.iter().zip(1..).map(|(node, seed)| monkey(seed).attach(&node.tree())).collect();
    sleep(Duration::from_secs(10)).await; // of faults
    let mut hits = 0;
    for monkey in monkeys {
        let outcome = monkey.detach().await;
        println!("{outcome}");
        assert!(outcome.is_survived(), "{outcome}");
        hits += outcome.hits.len();
    }
    assert!(hits >= 30, "{hits} hits");
    load.progress(BETWEEN_DEATHS).await;
    let record = load.finish().await;
    verify(&cluster, &record).await;
    cluster.stop().await;
}

fn monkey(seed: u64) -> Monkey {
    Monkey::new(seed)
        .target(Target::workers().weight(3))
        .target(Target::path("root/**"))
        .fault(Fault::Kill, 3)
        .fault(Fault::Panic, 1)
        .fault(Fault::Error, 1)
        .fault(Fault::Stall(Duration::from_millis(50)), 1)
        .trigger(Trigger::Every { interval: Duration::from_millis(300), jitter: 0.9 })
        .budget(Budget::Within { spare: 0 })
}
