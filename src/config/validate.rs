//! The bounds of the settings, and how they fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use converge_ledger_core::{Limits, NodeId};

use super::ConfigError;
use super::address::{Address, check_directory, check_text};
use super::settings::{Config, GrpcConfig, LimitsConfig, Raft, Supervision};

/// The most voters that a cluster may have.
pub const MAX_VOTERS: usize = 5;
/// Numbers of voters that a cluster may have: an even one adds a node that can
/// fail and no failure that can be survived.
const VOTERS: [usize; 3] = [1, 3, MAX_VOTERS];
/// A heartbeat must have this often the chance to arrive in an election time-out.
const HEARTBEATS_PER_ELECTION: u64 = 3;
/// Short of the least, a retry a moment later may find its key gone; past the most, rows of keys outgrow any disk.
const KEY_WINDOWS: RangeInclusive<u64> = 1 << 10..=1 << 40;
/// What an entry may take beside its payload: names and metadata.
const ENTRY_OVERHEAD_BYTES: u64 = 128 << 10;
/// The largest payload that a Raft entry has room for.
const PAYLOAD_BYTES_MAX: u64 = Limits::CONTRACT.payload_bytes as u64;
/// The largest entry that any setting ever let in: what is there can be read, whatever the limits are now.
pub(crate) const ENTRY_BYTES_MAX: usize = (PAYLOAD_BYTES_MAX + ENTRY_OVERHEAD_BYTES) as usize;
/// gRPC frames a message with 32 bits; half of that is far past any use.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

impl Config {
    /// Checks every bound. The error names the key and what is possible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.numbers().iter().try_for_each(Number::check)?;
        // A path that is no text was not made by a mistake in one.
        if let Some(dir) = self.node.data_dir.to_str() {
            check_directory(dir).or_else(|why| impossible("node.data_dir", dir, why))?;
        }
        if let Some(grpc) = self.listen.grpc_addr() {
            let or_off = |why: String| format!("{why}; off serves no clients");
            Address::parse(grpc, 0).map(drop).or_else(|why| impossible("listen.grpc", grpc, or_off(why)))?;
        }
        let peer = &self.listen.peer;
        let port =
            Address::parse(peer, 0).map(|address| address.port).or_else(|why| impossible("listen.peer", peer, why))?;
        // A node alone does not listen for others.
        if !self.cluster.peers.is_empty() && port != 0 && self.listen.grpc_addr() == Some(peer) {
            return impossible("listen.grpc", peer, "listen.peer is this address, too: give each a port of its own");
        }
        let name = &self.cluster.name;
        if name.is_empty() || name.len() > 255 {
            return impossible("cluster.name", name, "1 to 255 bytes");
        }
        check_text(name).or_else(|why| impossible("cluster.name", name, why))?;
        self.voters().map(drop)
    }

    /// Every number that can be set. Those that others are measured by come before them.
    fn numbers(&self) -> Vec<Number> {
        let Config { node, cluster, raft, limits, storage, grpc, supervision, .. } = self;
        let mut numbers = vec![
            number("node.id", node.id, 1..=u64::MAX, "a node's id is at least 1"),
            number("cluster.key_window", cluster.key_window, KEY_WINDOWS, ""),
            number("storage.free_bytes_min", storage.free_bytes_min, 0..=u64::MAX, ""),
        ];
        numbers.extend(raft.numbers());
        numbers.extend(limits.numbers());
        numbers.extend(grpc.numbers(limits));
        numbers.extend(supervision.numbers());
        numbers
    }

    /// The configured voters with their addresses, this node among them; a
    /// node alone is its own only voter.
    pub fn voters(&self) -> Result<BTreeMap<NodeId, String>, ConfigError> {
        const KEY: &str = "cluster.peers";
        let mut voters = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for text in &self.cluster.peers {
            let (id, address) = parse_peer(text)?;
            if !addresses.insert(address.to_lowercase()) {
                return impossible(KEY, text, "the address stands there twice");
            }
            if voters.insert(id, address).is_some() {
                return impossible(KEY, text, "the id stands there twice");
            }
        }
        if voters.is_empty() {
            voters.insert(NodeId(self.node.id), self.listen.peer.clone());
        }
        let given = || self.cluster.peers.join(",");
        if !VOTERS.contains(&voters.len()) {
            let count = voters.len();
            return impossible(KEY, given(), format!("{count} voters; 1, 3 or 5 are possible"));
        }
        if !voters.contains_key(&NodeId(self.node.id)) {
            let id = self.node.id;
            return impossible(
                KEY,
                given(),
                format!("this node, node.id = {id}, is not among them: list it, or set its id"),
            );
        }
        Ok(voters)
    }
}

/// Splits `id=host:port`.
pub fn parse_peer(text: &str) -> Result<(NodeId, String), ConfigError> {
    const KEY: &str = "cluster.peers";
    const SHAPE: &str = "a peer is written id=host:port, with an id from 1 to 18446744073709551615";
    // In a list on one line, a space may follow a comma.
    let text = text.trim_matches(' ');
    let Some((id, addr)) = text.split_once('=') else {
        return impossible(KEY, text, SHAPE);
    };
    let id = match id.parse::<u64>() {
        Ok(given) if given > 0 && id.bytes().all(|byte| byte.is_ascii_digit()) => given,
        _ => return impossible(KEY, text, SHAPE),
    };
    match Address::parse(addr, 1) {
        Ok(address) if address.is_unspecified() => {
            let next = "others cannot connect to it: list the address that they reach, and set listen.peer to this one";
            impossible(KEY, text, next)
        }
        Ok(_) => Ok((NodeId(id), addr.to_owned())),
        Err(why) => impossible(KEY, text, format!("{why}, after id=")),
    }
}

/// A number that is set, and what is possible.
struct Number {
    key: &'static str,
    value: u64,
    range: RangeInclusive<u64>,
    /// Why just that, where another setting says so.
    because: &'static str,
}

fn number(key: &'static str, value: impl Into<u64>, range: RangeInclusive<u64>, because: &'static str) -> Number {
    Number { key, value: value.into(), range, because }
}

impl Number {
    fn check(&self) -> Result<(), ConfigError> {
        if self.range.contains(&self.value) {
            return Ok(());
        }
        impossible(self.key, self.value, format!("possible is {}", self.possible()))
    }

    fn possible(&self) -> String {
        let (start, end) = (self.range.start(), self.range.end());
        match self.because {
            "" => format!("{start} to {end}"),
            because => format!("{start} to {end}: {because}"),
        }
    }
}

/// What is possible for a number, where all others have their defaults.
pub(super) fn possible(key: &str) -> Option<String> {
    let numbers = Config::default().numbers();
    numbers.iter().find(|number| number.key == key).map(Number::possible)
}

impl Raft {
    fn numbers(&self) -> [Number; 2] {
        let min = self.heartbeat_ms.saturating_mul(HEARTBEATS_PER_ELECTION);
        [
            number("raft.heartbeat_ms", self.heartbeat_ms, 10..=10_000, ""),
            number("raft.election_ms", self.election_ms, min..=60_000, "at least 3 times raft.heartbeat_ms"),
        ]
    }
}

impl LimitsConfig {
    fn numbers(&self) -> [Number; 5] {
        const ENTRY: &str = "at least limits.payload_bytes, and 131072 more";
        // Less room than one entry takes, and a legal call could never pass.
        let entry = self.payload_bytes.saturating_add(ENTRY_OVERHEAD_BYTES);
        [
            number("limits.payload_bytes", self.payload_bytes, 1..=PAYLOAD_BYTES_MAX, ""),
            number("limits.inflight_bytes", self.inflight_bytes, entry..=64 << 30, ENTRY),
            number("limits.response_bytes", self.response_bytes, entry..=MESSAGE_BYTES_MAX, ENTRY),
            number("limits.snapshot_bytes", self.snapshot_bytes, entry..=MESSAGE_BYTES_MAX, ENTRY),
            number("limits.answer_bytes", self.answer_bytes, 1 << 20..=64 << 30, ""),
        ]
    }
}

impl GrpcConfig {
    fn numbers(&self, limits: &LimitsConfig) -> [Number; 8] {
        const MESSAGE: &str = "at least limits.snapshot_bytes, and 131072 more";
        let message = limits.snapshot_bytes.saturating_add(ENTRY_OVERHEAD_BYTES);
        let cap = 1..=self.deadline_max_ms;
        [
            number("grpc.connections", self.connections, 1..=1 << 20, ""),
            number("grpc.streams", self.streams, 1..=1 << 16, ""),
            number("grpc.requests", self.requests, 1..=1 << 20, ""),
            number("grpc.watches", self.watches, 1..=1 << 20, ""),
            number("grpc.request_bytes", self.request_bytes, message..=64 << 30, MESSAGE),
            number("grpc.deadline_max_ms", self.deadline_max_ms, 1..=86_400_000, ""),
            number("grpc.deadline_default_ms", self.deadline_default_ms, cap, "at most grpc.deadline_max_ms"),
            number("grpc.drain_ms", self.drain_ms, 0..=600_000, ""),
        ]
    }
}

impl Supervision {
    fn numbers(&self) -> impl Iterator<Item = Number> {
        [
            ("supervision.root.restarts", "supervision.root.seconds", self.root),
            ("supervision.ledger.restarts", "supervision.ledger.seconds", self.ledger),
            ("supervision.distribution.restarts", "supervision.distribution.seconds", self.distribution),
            ("supervision.links.restarts", "supervision.links.seconds", self.links),
            ("supervision.api.restarts", "supervision.api.seconds", self.api),
        ]
        .into_iter()
        .flat_map(|(restarts, seconds, of)| {
            [number(restarts, of.restarts, 0..=u32::MAX.into(), ""), number(seconds, of.seconds, 1..=86_400, "")]
        })
    }
}

fn impossible<T>(key: &'static str, value: impl ToString, bound: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Impossible { key, value: value.to_string(), bound: bound.into(), given_in: None })
}
