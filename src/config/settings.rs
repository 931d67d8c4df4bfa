//! The settings and their defaults. Bounds are in `validate`.

use std::path::PathBuf;
use std::time::Duration;

use converge_ledger_core::KEY_WINDOW_DEFAULT;
use converge_supervisors::Intensity;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Everything that can be set. The default is a node alone on loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub node: NodeConfig,
    /// Where it listens.
    pub listen: Listen,
    /// Whom it belongs to.
    pub cluster: Cluster,
    /// Consensus timing.
    pub raft: Raft,
    /// Bounds in bytes.
    pub limits: LimitsConfig,
    /// Room on the disk.
    pub storage: StorageConfig,
    /// Bounds of the gRPC API.
    pub grpc: GrpcConfig,
    /// Restart intensities of the supervision tree.
    pub supervision: Supervision,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Unique in the cluster, at least 1.
    pub id: u64,
    /// Where the journal and the database are kept.
    pub data_dir: PathBuf,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { id: 1, data_dir: PathBuf::from("./converge-ledger-data") }
    }
}

/// Addresses to listen on, `host:port`; port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// For clients; `off` serves none.
    pub grpc: String,
    /// For the other nodes.
    pub peer: String,
}

impl Default for Listen {
    fn default() -> Self {
        Self { grpc: "127.0.0.1:50051".into(), peer: "127.0.0.1:7001".into() }
    }
}

/// The value of `listen.grpc` that serves no gRPC.
pub(super) const GRPC_OFF: &str = "off";

impl Listen {
    /// The address for clients, `None` where it is `off`.
    pub fn grpc_addr(&self) -> Option<&str> {
        (self.grpc != GRPC_OFF).then_some(self.grpc.as_str())
    }
}

/// Whom the node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// With the voters' ids it makes the cluster id, fixed at genesis.
    pub name: String,
    /// The voters, `id=host:port` each; empty for a node alone. The
    /// environment and flags give them as one comma-separated text.
    #[serde(deserialize_with = "text_or_list")]
    pub peers: Vec<String>,
    /// An idempotency key is known for so many positions of the ledger after its entry. Fixed at genesis, by the voter
    /// with the lowest id; the others take it over, and later changes count for nothing.
    pub key_window: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { name: "converge".into(), peers: Vec::new(), key_window: KEY_WINDOW_DEFAULT }
    }
}

/// Consensus timing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// A node waits between this and twice this before it campaigns. At least
    /// three heartbeats, so that one lost heartbeat unseats nobody.
    pub election_ms: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_ms: 1000 }
    }
}

/// Bounds in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The largest payload of one entry.
    pub payload_bytes: u64,
    /// Entries admitted and not yet answered, together.
    pub inflight_bytes: u64,
    /// The largest answer to one read; past it, page. One entry always fits.
    pub response_bytes: u64,
    /// The largest snapshot blob that can be made or loaded, compressed; one entry always fits.
    pub snapshot_bytes: u64,
    /// What reads and watches may hold together of entries read, encoded and not yet sent. At least one of the largest
    /// answers always fits.
    pub answer_bytes: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            payload_bytes: 4 << 20,
            inflight_bytes: 64 << 20,
            response_bytes: 64 << 20,
            snapshot_bytes: 256 << 20,
            answer_bytes: 192 << 20,
        }
    }
}

/// Room on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Below so many free bytes the node takes no appends, below half of it it stores nothing more; with room again it
    /// goes on. Enough for two journal files of 64 MiB and a commit of all that waits in memory. 0: not looked at.
    pub free_bytes_min: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { free_bytes_min: 256 << 20 }
    }
}

/// Bounds of the gRPC API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// Connections open at once; further ones wait in the backlog. The process cuts it to what the limit of open files
    /// leaves beside links and journal; an embedding host keeps it well below that limit (1,024 on many systems). Three of
    /// four may have watches of contexts, which may stay for ever.
    pub connections: u32,
    /// Calls open at once on one connection.
    pub streams: u32,
    /// Appends open at once on all connections, and as many reads; further ones are shed.
    pub requests: u32,
    /// Watches open at once on all connections; further ones are shed. Each may hold 16 KiB while nobody reads it.
    pub watches: u32,
    /// Bytes of requests being received, on all connections.
    pub request_bytes: u64,
    /// The deadline of a call that gives none.
    pub deadline_default_ms: u64,
    /// A call's deadline is cut to this.
    pub deadline_max_ms: u64,
    /// How long a stopping node waits for its calls.
    pub drain_ms: u64,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            connections: 512,
            streams: 1024,
            requests: 16_384,
            watches: 4096,
            request_bytes: 512 << 20,
            deadline_default_ms: 10_000,
            deadline_max_ms: 300_000,
            drain_ms: 15_000,
        }
    }
}

/// More than `restarts` within `seconds` make a supervisor give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntensityConfig {
    /// Restarts that are forgiven.
    pub restarts: u32,
    /// Within this time.
    pub seconds: u64,
}

impl IntensityConfig {
    const fn new(restarts: u32, seconds: u64) -> Self {
        Self { restarts, seconds }
    }
}

impl From<IntensityConfig> for Intensity {
    fn from(config: IntensityConfig) -> Self {
        Intensity { restarts: config.restarts, period: Duration::from_secs(config.seconds) }
    }
}

/// Restart intensities, one per supervisor of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Supervision {
    /// The root: past it the node stops.
    pub root: IntensityConfig,
    /// Storage, replication, entry, watch.
    pub ledger: IntensityConfig,
    /// Links, and the peer port.
    pub distribution: IntensityConfig,
    /// One link per peer and lane.
    pub links: IntensityConfig,
    /// The client port and its connections.
    pub api: IntensityConfig,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            root: IntensityConfig::new(3, 60),
            ledger: IntensityConfig::new(5, 60),
            distribution: IntensityConfig::new(20, 10),
            links: IntensityConfig::new(20, 10),
            api: IntensityConfig::new(10, 10),
        }
    }
}

/// A list, or one text of comma-separated items.
fn text_or_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of \"id=host:port\", or one comma-separated text")]
    enum Peers {
        Text(String),
        List(Vec<String>),
    }
    let text = match Peers::deserialize(from)? {
        Peers::List(list) => return Ok(list),
        Peers::Text(text) => text,
    };
    let list = split_list(&text);
    if list.is_empty() && !text.trim().is_empty() {
        return Err(D::Error::custom("there is no peer in it: name all voters, or leave it out for a node alone"));
    }
    Ok(list)
}

/// The items of a comma-separated text; an empty text has none.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
