//! Several nodes, and what must be the same on all of them.

use std::path::Path;
use std::time::Duration;

use converge_ledger::cli::processes::peers;
use tempfile::TempDir;
use tonic::Request;

use super::node::Node;
use super::until;
use super::wire::{self, Entry, GetRequest};

/// Entries of one page when a whole context is read.
const PAGE: u32 = 1000;
/// For a new leader, and for a restarted node to catch up.
pub const SETTLED: Duration = Duration::from_secs(40);

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub directory: TempDir,
}

impl Cluster {
    /// Three nodes with short election time-outs; not started.
    pub fn new() -> Self {
        Self::of(3)
    }

    pub fn of(size: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes(directory.path(), size);
        Self { nodes, directory }
    }

    pub async fn start(&mut self) {
        for node in &mut self.nodes {
            node.spawn();
        }
        for node in &mut self.nodes {
            node.ready().await;
        }
        self.leader().await;
    }

    /// The index of the one node that leads.
    pub async fn leader(&self) -> usize {
        until("one node leads", SETTLED, || async {
            let mut leaders = Vec::new();
            for (index, node) in self.nodes.iter().enumerate() {
                if node.is_leader().await {
                    leaders.push(index);
                }
            }
            (leaders.len() == 1).then(|| leaders[0])
        })
        .await
    }

    /// Waits until every node has applied all that any has in its log.
    pub async fn converged(&self) -> Vec<serde_json::Value> {
        converged(&self.nodes.iter().collect::<Vec<_>>()).await
    }

    pub async fn kill_all(&mut self) {
        for node in &mut self.nodes {
            node.kill().await;
        }
    }
}

/// Waits until each of these nodes has applied all that any of them has in its log.
pub async fn converged(nodes: &[&Node]) -> Vec<serde_json::Value> {
    until("every node has applied the same", SETTLED, || async {
        let mut statuses = Vec::new();
        for node in nodes {
            statuses.push(node.status().await?);
        }
        let applied = &statuses[0]["applied_index"];
        let same = statuses.iter().all(|s| &s["applied_index"] == applied && &s["commit_index"] == applied);
        same.then_some(statuses)
    })
    .await
}

/// Nodes 1..=size that list each other.
pub fn nodes(root: &Path, size: u64) -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..=size).map(|id| Node::new(root, id)).collect();
    know_each_other(&mut nodes);
    for node in &mut nodes {
        node.set("raft.heartbeat_ms", 50);
        node.set("raft.election_ms", 400);
    }
    nodes
}

pub fn know_each_other(nodes: &mut [Node]) {
    let peers = peers(nodes.iter().map(|node| (node.id, node.peer.as_str())));
    nodes.iter_mut().for_each(|node| node.peers = Some(peers.clone()));
}

/// Every entry of a context, by linearizable reads of one node.
pub async fn read_all(node: &Node, context: &str) -> Vec<Entry> {
    let channel = node.channel();
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after_sequence = entries.last().map_or(0, |entry| entry.sequence);
        let query = GetRequest { context_id: context.to_owned(), key: String::new(), after_sequence, limit: PAGE };
        let page = until("a read succeeds", SETTLED, || async {
            let mut request = Request::new(query.clone());
            request.set_timeout(Duration::from_secs(5));
            wire::get(&channel, request).await.ok()
        })
        .await
        .into_inner();
        if page.entries.is_empty() {
            assert_eq!(page.latest_sequence, entries.len() as u64, "the last page of {context} ends early");
            return entries;
        }
        entries.extend(page.entries);
    }
}
