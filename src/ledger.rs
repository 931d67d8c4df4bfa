//! The handle that applications and the APIs call.
#![allow(clippy::unimplemented, clippy::unused_async)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::{Entry, NewEntry, Sequence, Term};
use converge_supervisors::TreeSnapshot;
use serde::Serialize;

use crate::{Config, Error};

/// A handle on a node's ledger.
#[derive(Clone)]
pub struct Ledger;

impl Ledger {
    /// Appends one entry.
    pub async fn append(&self, _entry: NewEntry, _options: AppendOptions) -> Result<Appended, Error> {
        unimplemented!()
    }
    /// Reads entries of a context.
    pub async fn read(&self, _context: &str, _options: ReadOptions) -> Result<Page, Error> {
        unimplemented!()
    }
    /// Follows a context.
    pub fn watch(&self, _context: &str, _options: WatchOptions) -> Watch {
        unimplemented!()
    }
    /// Copies a context.
    pub async fn snapshot(&self, _context: &str, _deadline: Option<Duration>) -> Result<Snapshot, Error> {
        unimplemented!()
    }
    /// Restores a context.
    pub async fn load(
        &self,
        _context: &str,
        _snapshot: Bytes,
        _fail_if_exists: bool,
        _deadline: Option<Duration>,
    ) -> Result<Loaded, Error> {
        unimplemented!()
    }
    /// The node's status.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
    /// The node's supervision tree.
    pub fn tree(&self) -> TreeSnapshot {
        unimplemented!()
    }
}

/// Options of an append.
#[derive(Default, Clone, Debug)]
pub struct AppendOptions {
    /// The client's key, scoped to the context.
    pub idempotency_key: Option<String>,
    /// The context's latest sequence before this append.
    pub expected_sequence: Option<Sequence>,
    /// 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// A done append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The entry as it stands.
    pub entry: Entry,
    /// It stood there before this call.
    pub deduplicated: bool,
    /// The term it was applied in.
    pub term: Term,
}

/// What a read promises.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every append acknowledged before the read began.
    #[default]
    Linearizable,
    /// Served as linearizable.
    Lease,
    /// What this node has applied.
    Stale,
}

/// Options of a read.
#[derive(Default, Clone, Debug)]
pub struct ReadOptions {
    /// Exclusive.
    pub after: Sequence,
    /// 0: none.
    pub limit: u32,
    /// Only this key.
    pub key: Option<String>,
    /// What the read promises.
    pub consistency: Consistency,
    /// 10 s where none is given.
    pub deadline: Option<Duration>,
}

/// Entries of a context.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// The context's latest sequence.
    pub latest: Sequence,
    /// The node's term.
    pub term: Term,
}

/// Options of a watch.
#[derive(Default, Clone, Debug)]
pub struct WatchOptions {
    /// Exclusive; 0: all history first.
    pub from: Sequence,
    /// Only this key.
    pub key: Option<String>,
}

/// A subscription.
pub struct Watch;

impl Watch {
    /// The next entry; `None` when the node stops.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        unimplemented!()
    }
}

/// A copy of a context.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The blob.
    pub bytes: Bytes,
    /// The last sequence in it.
    pub sequence: Sequence,
    /// When it was made.
    pub created_at_ns: u64,
    /// Entries in it.
    pub entry_count: u64,
    /// Version of its format.
    pub version: u32,
}

/// A done load.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Entries that the call added.
    pub entries_restored: u64,
    /// The context's latest sequence.
    pub latest: Sequence,
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
    /// Digest of the applied state, hex.
    pub digest: String,
    /// recovering, serving, fenced.
    pub phase: String,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
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

/// A running node.
pub struct Node;

impl Node {
    /// Starts a node.
    pub async fn start(_config: Config) -> Result<Node, StartError> {
        unimplemented!()
    }
    /// The handle to call.
    pub fn ledger(&self) -> Ledger {
        Ledger
    }
    /// Where gRPC is served.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        None
    }
    /// Where peers connect.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
    /// Until the tree gives up.
    pub async fn wait(&self) -> Result<(), Escalated> {
        unimplemented!()
    }
    /// Stops everything.
    pub async fn stop(self, _deadline: Duration) -> Result<(), StopError> {
        unimplemented!()
    }
}

pub use converge_supervisors::{Escalated, StopError};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);
