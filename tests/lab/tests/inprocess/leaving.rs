//! Leadership that is handed over: by a leader that stops, and by one that is told to.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, eventually, load, verify};
use converge_ledger::{Ledger, NodeId, NotHandedOver};
use tokio::time::Instant;

const CLIENTS: usize = 6;
/// So long that nobody is elected by time in what follows.
const ELECTION: Duration = Duration::from_secs(4);

async fn slow_cluster() -> EmbeddedCluster {
    let slow = |config: &mut converge_ledger::Config| {
        (config.raft.heartbeat_ms, config.raft.election_ms) = (100, ELECTION.as_millis().try_into().unwrap());
    };
    EmbeddedCluster::start_with(3, slow).await
}

fn leader(ledgers: &[Ledger]) -> Option<NodeId> {
    let leads = |ledger: &&Ledger| ledger.status().role == "leader";
    ledgers.iter().find(leads).map(|ledger| NodeId(ledger.status().node_id))
}

/// Where a node is among all three.
fn place(id: NodeId) -> usize {
    usize::try_from(id.get() - 1).unwrap()
}

/// Who leads, once all know it.
async fn settled(ledgers: &[Ledger]) -> NodeId {
    eventually("all know the leader", || {
        let leader = leader(ledgers);
        leader.is_some_and(|leader| ledgers.iter().all(|ledger| ledger.status().leader_id == leader.get()))
    })
    .await;
    leader(ledgers).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = slow_cluster().await;
    let former = settled(&cluster.ledgers()).await;
    let stopping = cluster.take(place(former));
    let (others, record) = (cluster.ledgers(), Arc::default());
    let load = load(&others, CLIENTS, &record);
    load.progress(2).await;
    let begun = Instant::now();
    let stopped = tokio::spawn(stopping.stop(PATIENCE));
    eventually("another leads", || leader(&others).is_some()).await;
    assert!(begun.elapsed() < ELECTION / 2, "it took {:?}: as long as an election by time", begun.elapsed());
    stopped.await.unwrap().unwrap();
    load.progress(2).await;
    let record = load.finish().await;
    assert_eq!(record.failures(), 0, "appends in flight wait for the next leader");
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_whom_the_leader_is_told_without_a_failed_call() {
    let cluster = slow_cluster().await;
    let (ledgers, record) = (cluster.ledgers(), Arc::default());
    // The first leader is elected by time, which may outlast an append's deadline.
    let mut leads = settled(&ledgers).await;
    let load = load(&ledgers, CLIENTS, &record);
    for _ in 0..10 {
        load.progress(1).await;
        let next = NodeId(leads.get() % 3 + 1);
        let of = |id: NodeId| &ledgers[place(id)];
        let refused = of(next).move_leader(None, Some(PATIENCE)).await;
        assert_eq!(refused, Err(NotHandedOver::NotLeader(Some(leads))));
        assert_eq!(of(leads).move_leader(Some(next), Some(PATIENCE)).await, Ok(next));
        assert_eq!(of(leads).move_leader(Some(next), Some(PATIENCE)).await, Ok(next), "it leads already");
        leads = settled(&ledgers).await;
        assert_eq!(leads, next);
    }
    let other = ledgers[place(leads)].move_leader(None, Some(PATIENCE)).await.unwrap();
    assert_ne!(other, leads, "without a name it is another");
    let leads = settled(&ledgers).await;
    let leader = &ledgers[place(leads)];
    assert_eq!(leader.move_leader(Some(NodeId(9)), None).await, Err(NotHandedOver::NoVoter(NodeId(9))));
    let record = load.finish().await;
    assert_eq!(record.failures(), 0, "appends in flight wait for the next leader");
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_there_inherits_nothing() {
    let mut cluster = EmbeddedCluster::start(3).await;
    let leads = settled(&cluster.ledgers()).await;
    let gone = NodeId(leads.get() % 3 + 1);
    cluster.take(place(gone)).stop(PATIENCE).await.unwrap();
    let leader = cluster.ledgers().into_iter().find(|ledger| ledger.status().node_id == leads.get()).unwrap();
    let mut said = None;
    let until = Instant::now() + PATIENCE;
    while said != Some(Err(NotHandedOver::Unheard(gone))) {
        assert!(Instant::now() < until, "{said:?}");
        said = Some(leader.move_leader(Some(gone), Some(Duration::from_millis(50))).await);
    }
    assert_eq!(leader.status().role, "leader", "it leads on");
    cluster.stop().await;
}
