//! What a node takes from the world: files, threads, time, chance, and the network between nodes.
//!
//! In production there is one, [`Environment::default`]. A simulator puts its own in place, and the rest of the
//! node does not know.

use std::sync::Arc;

use converge_actors::distribution::{Carrier, Identity, Sink};
use converge_actors::storage::{self, Random};
use converge_actors::{entry, replication};

/// Nanoseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Hears of every applied batch.
pub(crate) type Observer = Arc<dyn Fn(&storage::AppliedBatch) + Send + Sync>;

/// Where frames go instead of over sockets.
pub(crate) trait Network: Send + Sync {
    /// A node joins; its frames and link events go to `sink`.
    fn join(&self, identity: Identity, sink: Arc<dyn Sink>) -> Arc<dyn Carrier>;
}

/// Where work goes that would hold up other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offload {
    /// To tokio's blocking threads.
    Threads,
    /// Nowhere: it is done at once, in the caller's task.
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "only a simulation has one thread"))]
    Inline,
}

impl Offload {
    /// Runs `work` to its end; its panic is the caller's.
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self == Offload::Inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Environment {
    /// Files, threads and bounds of storage; its directory is the configuration's.
    pub(crate) storage: storage::Settings,
    pub(crate) raft: replication::Bounds,
    pub(crate) entry: entry::Bounds,
    pub(crate) random: Random,
    pub(crate) clock: Clock,
    /// None: sockets.
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) offload: Offload,
    /// Hears of every applied batch.
    pub(crate) observer: Option<Observer>,
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            storage: storage::Settings::new(""),
            raft: replication::Bounds::default(),
            entry: entry::Bounds::default(),
            random: Arc::new(rand::random::<u64>),
            clock: Arc::new(crate::clock::now_ns),
            network: None,
            offload: Offload::Threads,
            observer: None,
        }
    }
}
