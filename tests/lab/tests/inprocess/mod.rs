//! Several nodes in one process, under load, for tests that kill actors.
#![allow(unreachable_pub, dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_lab::history::{End, Operation, State};
use converge_lab::workload::{Embedded, Load, Mix, Record, whole};
use converge_ledger::cli::ledger_thread::LedgerThread;
use converge_ledger::config::{Config, IntensityConfig};
use converge_ledger::environment::Environment;
use converge_ledger::supervisors::ractor::{ActorCell, ActorStatus};
use converge_ledger::supervisors::{ChildState, Fault, TreeSnapshot};
use converge_ledger::{Consistency, Entry, Ledger, NewEntry, Node, NodeId, Position, ReadOptions};
use tokio::time::Instant;

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes and their directories.
pub struct EmbeddedCluster {
    pub nodes: Vec<Node>,
    configs: Vec<Config>,
    _dirs: Vec<tempfile::TempDir>,
    /// What a node that starts takes in place of the machine's world.
    pub environment: Environment,
    /// Ends last.
    thread: Option<LedgerThread>,
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

impl EmbeddedCluster {
    pub async fn start(count: u64) -> EmbeddedCluster {
        EmbeddedCluster::start_with(count, |_| {}).await
    }

    /// With a thread of its own for their ledgers, as the program has one.
    pub async fn start_on_a_thread(count: u64) -> EmbeddedCluster {
        EmbeddedCluster::start_on_a_thread_with(count, |_| {}).await
    }

    pub async fn start_on_a_thread_with(count: u64, adjust: impl Fn(&mut Config)) -> EmbeddedCluster {
        EmbeddedCluster::launch(count, adjust, Environment::default(), Some(LedgerThread::start().unwrap())).await
    }

    /// In another world, with a thread of its own for their ledgers.
    pub async fn start_in(count: u64, environment: Environment) -> EmbeddedCluster {
        EmbeddedCluster::start_in_with(count, environment, |_| {}).await
    }

    pub async fn start_in_with(count: u64, environment: Environment, adjust: impl Fn(&mut Config)) -> EmbeddedCluster {
        EmbeddedCluster::launch(count, adjust, environment, Some(LedgerThread::start().unwrap())).await
    }

    pub async fn start_with(count: u64, adjust: impl Fn(&mut Config)) -> EmbeddedCluster {
        EmbeddedCluster::launch(count, adjust, Environment::default(), None).await
    }

    async fn launch(
        count: u64,
        adjust: impl Fn(&mut Config),
        environment: Environment,
        thread: Option<LedgerThread>,
    ) -> EmbeddedCluster {
        // RUST_LOG shows what the nodes say, in a test that fails.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().with_ansi(false).try_init();
        let peers = if count == 1 { Vec::new() } else { peers(count) };
        let dirs: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut cluster = EmbeddedCluster { nodes: Vec::new(), configs: Vec::new(), _dirs: dirs, environment, thread };
        for (dir, id) in cluster._dirs.iter().zip(1..) {
            let mut config = config(id, dir.path(), &peers);
            adjust(&mut config);
            cluster.nodes.push(cluster.start_node(&config).await);
            cluster.configs.push(config);
        }
        cluster
    }

    async fn start_node(&self, config: &Config) -> Node {
        let builder = Node::builder(config.clone()).environment(self.environment.clone());
        let builder = match &self.thread {
            Some(thread) => builder.ledger_runtime(thread.runtime()),
            None => builder,
        };
        builder.start().await.unwrap()
    }

    /// Where a node keeps its files.
    pub fn data_dir(&self, place: usize) -> &Path {
        &self.configs[place].node.data_dir
    }

    /// Takes a node out, to be stopped.
    pub fn take(&mut self, place: usize) -> Node {
        self.nodes.remove(place)
    }

    /// Starts one that was taken out and stopped, on what it left.
    pub async fn bring_back(&mut self, place: usize) {
        let node = self.start_node(&self.configs[place]).await;
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

/// Clients that append without pause, spread over the ledgers.
pub fn load(ledgers: &[Ledger], clients: usize, record: &Arc<Record>) -> Load {
    load_of(&Mix::default(), ledgers, clients, record)
}

pub fn load_of(mix: &Mix, ledgers: &[Ledger], clients: usize, record: &Arc<Record>) -> Load {
    let api = |ledger: &Ledger| Embedded::new(ledger.clone(), record);
    Load::start(record, mix, 1, ledgers.iter().cycle().take(clients).map(api).collect())
}

/// All entries of a context as one node has them.
pub async fn all(ledger: &Ledger, context: &str) -> Vec<Entry> {
    let options = ReadOptions { consistency: Consistency::Stale, ..ReadOptions::default() };
    ledger.read(context, options).await.unwrap().entries
}

/// Waits until all nodes have applied the same log, which gives them one state.
pub async fn level(ledgers: &[Ledger]) {
    eventually("all nodes apply the same log and have the same digest", || {
        let statuses: Vec<_> = ledgers.iter().map(Ledger::status).collect();
        let commit = statuses.iter().map(|status| status.commit_index).max();
        let digests: BTreeSet<&String> = statuses.iter().map(|status| &status.digest).collect();
        digests.len() == 1 && statuses.iter().all(|s| s.leader_id != 0 && Some(s.applied_index) == commit)
    })
    .await;
}

/// Invariants 1 to 5 on every node, after the last fault.
pub async fn verify(cluster: &EmbeddedCluster, record: &Record) {
    let ledgers = cluster.ledgers();
    // What a leader finds in its log is committed with the first entry of its term, and a linearizable read waits for that:
    // behind it, nothing more comes.
    for ledger in &ledgers {
        let options = ReadOptions { deadline: Some(PATIENCE), limit: 1, ..ReadOptions::default() };
        ledger.read("c0", options).await.unwrap();
    }
    level(&ledgers).await;
    let status = ledgers[0].status();
    for (ledger, node) in ledgers.iter().zip(1..) {
        for context in Mix::default().contexts() {
            let entries = whole(ledger, &context).await.unwrap();
            record.add(Operation::State(State { node: NodeId(node), context, entries }));
        }
    }
    record.add(Operation::End(End { position: Position(status.last_position) }));
    record.hold();
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
    strike(node, path, Fault::Kill).await;
}

/// Has what is at `path` die so, and waits until its successor runs.
pub async fn strike(node: &Node, path: &str, fault: Fault) {
    let incarnation = node.tree().snapshot().nodes.iter().find(|n| n.path == path).unwrap().incarnation;
    node.tree().inject(path, fault).await.unwrap();
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
