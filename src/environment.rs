//! What a node takes from the world: files, threads, time, chance, and the network between nodes.
//!
//! In production there is one, [`Environment::default`]. A simulator puts its own in place, and the rest of the
//! node does not know.

use std::sync::Arc;
use std::time::Duration;

use converge_actors::distribution::{Carrier, Identity, Sink};
use converge_actors::storage::{self, Random};
use converge_actors::{entry, replication, watch};
use tokio::runtime::Handle;

/// Nanoseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Hears of every applied batch.
pub type Observer = Arc<dyn Fn(&storage::AppliedBatch) + Send + Sync>;

/// Says whether something is wrong that an operator should look at.
pub type Alarm = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Where frames go instead of over sockets.
pub trait Network: Send + Sync {
    /// A node joins; its frames and link events go to `sink`.
    fn join(&self, identity: Identity, sink: Arc<dyn Sink>) -> Arc<dyn Carrier>;
}

/// What a call may take, and how long it waits within its deadline.
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    /// Entries are read in steps of so many bytes, or one.
    pub read_step_bytes: usize,
    /// A pause before a storage that restarts is asked again.
    pub retry_pause: Duration,
    /// A linearizable read waits for a majority at most this many election time-outs.
    pub read_elections: u32,
    /// How often a load adapts to a context that grows under it.
    pub load_tries_max: u32,
    /// A load stages chunks of so many bytes, or of one entry.
    pub chunk_bytes: usize,
    /// Chunks in flight at once.
    pub staging_max: usize,
    /// A pause before a group, or a chunk of a load, asks again whether the oldest attempt has ended.
    pub overload_pause: Duration,
    /// Unpacked, a blob may take so many times the bound of a packed one.
    pub unpacked_factor: usize,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            read_step_bytes: 1 << 20,
            retry_pause: Duration::from_millis(10),
            read_elections: 5,
            load_tries_max: 8,
            chunk_bytes: 64 << 10,
            staging_max: 4,
            overload_pause: Duration::from_millis(20),
            unpacked_factor: 4,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Environment {
    /// Files, threads and bounds of storage; its directory is the configuration's.
    pub storage: storage::Settings,
    pub raft: replication::Bounds,
    pub entry: entry::Bounds,
    pub watch: watch::Bounds,
    pub calls: Calls,
    /// Younger siblings of a failed child of `ledger` get this long, then are killed: clients have deadlines.
    pub sibling_shutdown: Duration,
    /// Where the ledger's actors and the links run; `None`: where the node does.
    pub ledger_runtime: Option<Handle>,
    pub random: Random,
    pub clock: Clock,
    /// None: sockets.
    pub network: Option<Arc<dyn Network>>,
    /// Hears of every applied batch.
    pub observer: Option<Observer>,
    /// What a host wants an operator to see beside the node's own alarms.
    pub alarms: Vec<Alarm>,
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            storage: storage::Settings::new(""),
            raft: replication::Bounds::default(),
            entry: entry::Bounds::default(),
            watch: watch::Bounds::default(),
            calls: Calls::default(),
            sibling_shutdown: Duration::from_millis(200),
            ledger_runtime: None,
            random: Arc::new(rand::random::<u64>),
            clock: Arc::new(crate::clock::now_ns),
            network: None,
            observer: None,
            alarms: Vec::new(),
        }
    }
}
