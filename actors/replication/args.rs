//! What one incarnation is made of.

use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::{ClusterId, NodeId};

use super::core::Bounds;
use crate::distribution::Distribution;
use crate::storage::{Random, Storage};

/// Reports that this node must not run with this directory and configuration. An error where the node still starts: the
/// start is to end with it, instead of going on to an end that is known.
pub type Fatal = Arc<dyn Fn(String) -> Result<(), String> + Send + Sync>;
/// What one incarnation is made of.
#[derive(Clone)]
pub struct Arguments {
    /// The store of the log; recovered from at every start.
    pub storage: Storage,
    /// The links to the other voters.
    pub distribution: Distribution,
    /// This node.
    pub id: NodeId,
    /// All voters, this node included, as configured.
    pub voters: Vec<NodeId>,
    /// The cluster as configured.
    pub cluster_id: ClusterId,
    /// What a genesis of this node's says of idempotency keys.
    pub key_window: u64,
    /// Interval of a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest election time-out; a node waits between this and twice this.
    pub election: Duration,
    /// Chance: seeds the election time-outs of each incarnation, and tells its reads from those of others.
    pub random: Random,
    /// What one step and one peer may take.
    pub bounds: Bounds,
    /// Where a reason goes for which this node must stop.
    pub fatal: Fatal,
}
