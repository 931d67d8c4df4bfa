//! What a node says about itself, gathered from shared state without asking an actor.

use std::panic::{AssertUnwindSafe, catch_unwind};

use converge_actors::distribution::ListenerStatus;
use converge_actors::replication::{NO_LEADER_ELECTIONS, Overfull};
use converge_actors::storage::Phase;
use converge_ledger_core::NodeId;
use serde::Serialize;

use crate::ledger::Inner;
use crate::reached::alarm;

/// Who is missing in a cluster that has not begun, in the same words wherever it is said.
pub(crate) fn not_formed(missing: &[NodeId]) -> String {
    let ids = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match missing.len() {
        1 => format!("the cluster is not formed yet: voter {ids} has not been reached"),
        _ => format!("the cluster is not formed yet: voters {ids} have not been reached"),
    }
}

/// What a node says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// Empty before genesis.
    pub cluster_id: String,
    /// leader, follower, candidate, learner.
    pub role: String,
    /// 0 where unknown.
    pub leader_id: u64,
    /// Current term.
    pub term: u64,
    /// Raft commit index.
    pub commit_index: u64,
    /// Applied index.
    pub applied_index: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Last position over the ledger.
    pub last_position: u64,
    /// The level of the applied state: which formats may be written.
    pub level: u32,
    /// Positions for which an idempotency key is known; 0 before genesis.
    pub key_window: u64,
    /// Digest of the applied state, hex.
    pub digest: String,
    /// recovering, serving, outdated, fenced.
    pub phase: String,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
    /// Bytes of the segments on disk.
    pub segment_bytes: u64,
    /// Bytes of the database on disk.
    pub database_bytes: u64,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// What an operator should look at.
    pub alarms: Vec<String>,
}

/// What a node knows of a peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub id: u64,
    /// Where it listens.
    pub address: String,
    /// A link stands.
    pub connected: bool,
    /// What the leader knows to be there.
    pub match_index: Option<u64>,
}

/// Whether clients are well served here. `None` when that is about to show: a node whose leader went away just now.
#[cfg(feature = "grpc")]
pub(crate) fn serves(node: &Inner) -> Option<bool> {
    let view = node.replication.view().borrow().clone();
    if node.storage.status().phase != Phase::Serving || view.role == converge_actors::replication::Role::None {
        return Some(false);
    }
    match view.leaderless_since {
        None => Some(true),
        Some(since) => (since.elapsed() > node.election).then_some(false),
    }
}

/// Our log events do not take an actor down with the subscriber.
fn lost_events() -> Option<String> {
    let lost = tracing::lost();
    (lost > 0).then(|| format!("{lost} log events were lost: the tracing subscriber of this process panicked"))
}

/// Handshakes that made room at the peer port a short time ago.
fn crowded_out(listener: &ListenerStatus) -> Option<String> {
    let advice = "the oldest makes room for the newest, so that a slow peer may not get in; see who connects there, and let \
                  only peers reach the port";
    alarm("handshakes at the peer port", listener.crowded_out, listener.crowded_out_ago?, advice)
}

/// Entries that were not taken a short time ago.
fn overfull(overfull: Overfull) -> Option<String> {
    let advice = "appends wait until a majority has synced what was proposed, and this node has applied it; see the voters' \
                  disks and the network to them";
    alarm("bytes of the log that are not committed, or not applied", overfull.times, overfull.last.elapsed(), advice)
}

fn named(phase: &Phase) -> &'static str {
    match phase {
        Phase::Recovering => "recovering",
        Phase::Serving => "serving",
        Phase::Outdated { .. } => "outdated",
        Phase::Fenced { .. } => "fenced",
    }
}

pub(crate) fn status(node: &Inner) -> Status {
    let storage = node.storage.status();
    let view = node.replication.view().borrow().clone();
    let matched = node.replication.matched();
    let linked = node.distribution.status();
    let mut alarms = storage.alarms;
    alarms.extend(linked.iter().filter_map(|peer| Some(format!("peer {}: {}", peer.id, peer.unresolved.as_ref()?))));
    let peers = linked.into_iter().map(|peer| PeerStatus {
        id: peer.id.get(),
        match_index: matched.iter().find(|(id, _)| *id == peer.id).map(|(_, index)| index.get()),
        connected: peer.connected,
        address: peer.address,
    });
    if !view.missing.is_empty() {
        alarms.push(format!("{}; start them, look at their peers and the network", not_formed(&view.missing)));
    }
    let leaderless = view.leaderless_since.map(|since| since.elapsed());
    if let Some(lasted) = leaderless.filter(|lasted| *lasted > node.election * NO_LEADER_ELECTIONS) {
        let seconds = lasted.as_secs();
        alarms.push(format!("no leader for {seconds} s: a majority of the voters has to be reached; see its peers"));
    }
    alarms.extend(node.replication.unheard().into_iter().map(|(voter, since)| {
        let seconds = since.elapsed().as_secs();
        format!(
            "voter {voter} has not been heard of for {seconds} s: see that its node runs, what its log and alarms say, and \
             the network to it"
        )
    }));
    alarms.extend(node.alarms.iter().filter_map(|alarm| {
        let said = catch_unwind(AssertUnwindSafe(|| alarm()));
        said.unwrap_or_else(|_| Some("an alarm of the host's panicked".into()))
    }));
    alarms.extend(lost_events());
    if node.entries.held_up() {
        alarms.push("appends are refused: as many as may began since the oldest that has not ended".to_owned());
    }
    if node.entries.is_superseded() {
        alarms.push(
            "appends through this node end unknown: its directory was put back from an older copy; start it again"
                .to_owned(),
        );
    }
    alarms.extend(node.reached.alarms());
    alarms.extend(crowded_out(&node.distribution.listener_status()));
    alarms.extend(node.replication.overfull().and_then(overfull));
    Status {
        node_id: node.id.get(),
        cluster_id: node.cluster_id.to_string(),
        role: view.role.as_str().to_owned(),
        leader_id: view.leader.map_or(0, |id| id.get()),
        term: view.term.get(),
        commit_index: storage.commit.max(node.replication.commit()).get(),
        applied_index: storage.applied.get(),
        last_index: storage.last.get(),
        last_position: storage.last_position.get(),
        level: storage.level,
        key_window: storage.key_window.unwrap_or(0),
        digest: hex(&storage.digest),
        phase: named(&storage.phase).to_owned(),
        journal_bytes: storage.journal_bytes,
        segment_bytes: storage.segment_bytes,
        database_bytes: storage.redb_bytes,
        peers: peers.collect(),
        alarms,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
