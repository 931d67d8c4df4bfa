//! Several nodes in one process, under load, for tests that kill actors.
#![allow(unreachable_pub, dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use converge_ledger::config::{Config, IntensityConfig};
use converge_ledger::supervisors::ractor::{ActorCell, ActorStatus};
use converge_ledger::supervisors::{ChildState, Fault, TreeSnapshot};
use converge_ledger::{AppendOptions, Consistency, Entry, Error, Ledger, NewEntry, Node, ReadOptions};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The deadline of a client's call.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(5);

/// Nodes and their directories.
pub struct Cluster {
    pub nodes: Vec<Node>,
    configs: Vec<Config>,
    _dirs: Vec<tempfile::TempDir>,
}

/// A configuration for tests: fast elections, and intensities that chaos does not use up.
pub fn config(id: u64, dir: &Path, peers: &[String]) -> Config {
    let mut config = Config::default();
    config.node.id = id;
    config.node.data_dir = dir.to_owned();
    config.listen.grpc = "off".into();
    config.cluster.peers = peers.to_vec();
    if let Some(own) = peers.iter().find_map(|peer| peer.strip_prefix(&format!("{id}="))) {
        config.listen.peer = own.to_owned();
    }
    config.raft.heartbeat_ms = 50;
    config.raft.election_ms = 300;
    let many = IntensityConfig { restarts: 10_000, seconds: 1 };
    let supervision = &mut config.supervision;
    (supervision.root, supervision.ledger, supervision.distribution) = (many, many, many);
    (supervision.links, supervision.api) = (many, many);
    config
}

/// Addresses that were free a moment ago, as `id=host:port`.
pub fn peers(count: u64) -> Vec<String> {
    let sockets: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().zip(1..).map(|(socket, id)| format!("{id}={}", socket.local_addr().unwrap())).collect()
}

impl Cluster {
    pub async fn start(count: u64) -> Cluster {
        Cluster::start_with(count, |_| {}).await
    }

    pub async fn start_with(count: u64, adjust: impl Fn(&mut Config)) -> Cluster {
        // RUST_LOG shows what the nodes say, in a test that fails.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().with_ansi(false).try_init();
        let peers = if count == 1 { Vec::new() } else { peers(count) };
        let dirs: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut cluster = Cluster { nodes: Vec::new(), configs: Vec::new(), _dirs: dirs };
        for (dir, id) in cluster._dirs.iter().zip(1..) {
            let mut config = config(id, dir.path(), &peers);
            adjust(&mut config);
            cluster.nodes.push(Node::start(config.clone()).await.unwrap());
            cluster.configs.push(config);
        }
        cluster
    }

    /// Takes a node out, to be stopped.
    pub fn take(&mut self, place: usize) -> Node {
        self.nodes.remove(place)
    }

    /// Starts one that was taken out and stopped, on what it left.
    pub async fn bring_back(&mut self, place: usize) {
        let node = Node::start(self.configs[place].clone()).await.unwrap();
        self.nodes.insert(place, node);
    }

    pub fn ledgers(&self) -> Vec<Ledger> {
        self.nodes.iter().map(Node::ledger).collect()
    }

    /// Stops every node and leaves nothing behind.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop(PATIENCE).await.unwrap();
        }
    }
}

pub fn entry(context: &str, payload: impl Into<Bytes>) -> NewEntry {
    NewEntry { context_id: context.into(), key: "k".into(), payload: payload.into(), metadata: BTreeMap::new() }
}

/// Waits until `holds` says so.
///
/// # Panics
/// With `what` when it does not within [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Loads there were so far: no payload is one of an earlier load's.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// Clients that append without pause and remember what was acknowledged.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Calls acknowledged, by client.
    acked: Vec<Arc<AtomicU64>>,
    record: Arc<Mutex<Record>>,
    clients: JoinSet<()>,
}

#[derive(Default)]
pub struct Record {
    /// Payload to (context, sequence).
    pub acked: BTreeMap<String, (String, u64)>,
    pub failed: Vec<(String, Error)>,
}

impl Load {
    /// `clients` clients, spread over the ledgers and four contexts.
    pub fn start(ledgers: &[Ledger], clients: usize) -> Load {
        let mut load =
            Load { stop: Arc::default(), acked: Vec::new(), record: Arc::default(), clients: JoinSet::new() };
        let number = LOADS.fetch_add(1, Ordering::Relaxed);
        for client in 0..clients {
            let ledger = ledgers[client % ledgers.len()].clone();
            let (stop, acked, record) = (load.stop.clone(), Arc::<AtomicU64>::default(), load.record.clone());
            load.acked.push(acked.clone());
            load.clients.spawn(async move {
                let context = format!("context-{}", client % 4);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let payload = format!("{number}/{client}/{n}");
                    let options = AppendOptions {
                        deadline: Some(CLIENT_DEADLINE),
                        idempotency_key: (n % 2 == 0).then(|| payload.clone()),
                        ..AppendOptions::default()
                    };
                    match ledger.append(entry(&context, payload.clone()), options).await {
                        Ok(done) => {
                            acked.fetch_add(1, Ordering::Relaxed);
                            let place = (context.clone(), done.entry.sequence.get());
                            record.lock().await.acked.insert(payload, place);
                        }
                        // The node will not serve again.
                        Err(Error::Stopped) => return,
                        Err(error) => record.lock().await.failed.push((payload, error)),
                    }
                }
            });
        }
        load
    }

    /// Waits until every client had so many more calls acknowledged: none still waits in a call from before.
    pub async fn progress(&self, more: u64) {
        let targets: Vec<u64> = self.acked.iter().map(|acked| acked.load(Ordering::Relaxed) + more).collect();
        let reached =
            || self.acked.iter().zip(&targets).all(|(acked, target)| acked.load(Ordering::Relaxed) >= *target);
        eventually("every client makes progress", reached).await;
    }

    /// Calls that failed so far.
    pub async fn failures(&self) -> usize {
        self.record.lock().await.failed.len()
    }

    pub async fn finish(mut self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        std::mem::take(&mut *self.record.lock().await)
    }
}

/// All entries of a context as one node has them.
pub async fn all(ledger: &Ledger, context: &str) -> Vec<Entry> {
    let options = ReadOptions { consistency: Consistency::Stale, ..ReadOptions::default() };
    ledger.read(context, options).await.unwrap().entries
}

/// Invariants 1 to 4 on every node, after the last fault.
pub async fn verify(cluster: &Cluster, record: &Record) {
    let ledgers = cluster.ledgers();
    // What a leader finds in its log is committed with the first entry of its term, and a linearizable read waits for that:
    // behind it, nothing more comes.
    for ledger in &ledgers {
        let options = ReadOptions { deadline: Some(PATIENCE), limit: 1, ..ReadOptions::default() };
        ledger.read("context-0", options).await.unwrap();
    }
    eventually("all nodes apply the same log", || {
        let statuses: Vec<_> = ledgers.iter().map(Ledger::status).collect();
        let commit = statuses.iter().map(|s| s.commit_index).max().unwrap();
        statuses.iter().all(|s| s.applied_index == commit && s.leader_id != 0)
    })
    .await;
    let digests: BTreeSet<String> = ledgers.iter().map(|l| l.status().digest).collect();
    assert_eq!(digests.len(), 1, "nodes that applied the same log have the same digest");
    for ledger in &ledgers {
        let mut positions = BTreeSet::new();
        let mut stored: BTreeMap<String, (String, u64)> = BTreeMap::new();
        for context in (0..4).map(|n| format!("context-{n}")) {
            for (entry, expected) in all(ledger, &context).await.into_iter().zip(1..) {
                assert_eq!(entry.sequence.get(), expected, "sequences of {context} have no gap");
                assert!(positions.insert(entry.position.get()), "position {} was given out twice", entry.position);
                let payload = String::from_utf8(entry.payload.to_vec()).unwrap();
                let place = (context.clone(), entry.sequence.get());
                let before = stored.insert(payload.clone(), place);
                assert_eq!(before, None, "{payload} stands there twice");
            }
        }
        assert_eq!(positions.last().copied().unwrap_or(0), positions.len() as u64, "positions have no gap");
        for (payload, place) in &record.acked {
            assert_eq!(stored.get(payload), Some(place), "{payload} was acknowledged");
        }
    }
}

/// Waits until every place of the tree runs, and `path` does so in a later incarnation than `before`.
pub async fn whole_again(node: &Node, path: &str, before: u64) {
    let what = format!("{path} is back and the tree is whole");
    eventually(&what, || {
        let snapshot = node.tree().snapshot();
        let back = snapshot.nodes.iter().any(|n| n.path == path && n.incarnation > before);
        back && snapshot.nodes.iter().all(|n| n.state == ChildState::Running)
    })
    .await;
}

/// Kills the actor at `path` and waits until its successor runs.
pub async fn kill(node: &Node, path: &str) {
    let incarnation = node.tree().snapshot().nodes.iter().find(|n| n.path == path).unwrap().incarnation;
    node.tree().inject(path, Fault::Kill).await.unwrap();
    whole_again(node, path, incarnation).await;
}

pub fn cells(node: &Node, snapshot: &TreeSnapshot) -> BTreeMap<String, ActorCell> {
    snapshot.nodes.iter().filter_map(|n| Some((n.path.clone(), node.tree().find(&n.path)?))).collect()
}

/// No actor of before is alive unless it is still in the tree.
pub fn no_orphans(before: &BTreeMap<String, ActorCell>, now: &BTreeMap<String, ActorCell>) {
    let current: BTreeSet<_> = now.values().map(ActorCell::get_id).collect();
    for (path, cell) in before {
        let gone = cell.get_status() == ActorStatus::Stopped;
        assert!(gone || current.contains(&cell.get_id()), "{path} left an orphan: {:?}", cell.get_status());
    }
}
