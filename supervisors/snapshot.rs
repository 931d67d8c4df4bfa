//! A look at the tree: what each place is and where its child is in its life.

use ractor::ActorId;
use tokio::time::Duration;

use crate::vitals::Vitals;

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A supervisor of this kit.
    Supervisor,
    /// Any other actor.
    Worker,
}

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// Its start is under way.
    Starting,
    /// It runs.
    Running,
    /// It ended and will be started again, after its backoff or when it is its turn.
    Restarting,
    /// It has been asked to stop.
    Stopping,
    /// It does not run.
    Stopped,
}

impl ChildState {
    /// What OTP counts as active.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, ChildState::Running | ChildState::Stopping)
    }
}

/// The tree at one moment, as far as that exists: each node is consistent in itself.
#[derive(Clone, Debug)]
pub struct TreeSnapshot {
    /// Depth first, in start order; the root is the first.
    pub nodes: Vec<TreeNode>,
}

/// One node of a [`TreeSnapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TreeNode {
    /// Ids from the root, separated by `/`.
    pub path: String,
    /// Supervisor or worker.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: ChildState,
    /// The actor, while there is one.
    pub actor: Option<ActorId>,
    /// Number of the current (or last) attempt to start it; the first is 1.
    pub incarnation: u64,
    /// Times it came up again after its first start.
    pub restarts: u64,
    /// Why its last incarnation ended, or did not start.
    pub last_exit: Option<String>,
    /// Time since it came up, while it runs.
    pub uptime: Option<Duration>,
    /// What it is doing.
    pub vitals: Vitals,
}

/// How many children a supervisor has: OTP's `count_children`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Children, whether they run or not.
    pub specs: usize,
    /// Those that run.
    pub active: usize,
    /// Those that are supervisors, whether they run or not.
    pub supervisors: usize,
    /// Those that are not.
    pub workers: usize,
}
