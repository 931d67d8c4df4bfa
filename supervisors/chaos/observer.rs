//! What chaos has to know of a running tree: what runs, what its supervisors still tolerate, who is left over.
//!
//! Reads reports and snapshots; asks no actor anything, and changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ractor::{ActorCell, ActorId, ActorStatus};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::after;
use crate::node::Node;
use crate::reports::{Event, Report, Reports, ReportsError};
use crate::snapshot::ChildState;
use crate::spec::Restart;
use crate::tree::Tree;

/// How often is looked at what nothing tells of.
const LOOK: Duration = Duration::from_millis(10);

/// What a supervisor's window held at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Restarts within the period, at most.
    pub most: usize,
    /// Restarts that it tolerates.
    pub allowed: usize,
}

/// An actor that is alive and has no place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Where it was when it had a place, or whose child it was.
    pub path: String,
    /// The actor.
    pub actor: ActorId,
}

/// What runs: path and incarnation.
pub(crate) type RunningPlaces = BTreeMap<String, u64>;

/// Whether a supervisor would tolerate so many more restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afford {
    Now,
    At(Instant),
    Never,
}

pub(crate) struct Observer {
    pub(crate) tree: Tree,
    reports: Reports,
    pub(crate) used: BTreeMap<String, Used>,
    /// Every actor seen in the tree, or as `ractor` child of one, that has not stopped.
    seen: Vec<(String, ActorCell)>,
}

impl Observer {
    pub(crate) fn new(tree: &Tree) -> Observer {
        let mut observer =
            Observer { tree: tree.clone(), reports: tree.reports(), used: BTreeMap::new(), seen: Vec::new() };
        observer.look_around();
        observer
    }

    /// Waits for the next report and takes it in. `None`: some were missed, or there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Report> {
        match self.reports.next().await {
            Ok(report) => Some(self.note(report)),
            Err(ReportsError::Missed(_)) => None,
            // The tree handle in here keeps the bus open.
            Err(ReportsError::Ended) => std::future::pending().await,
        }
    }

    /// Takes in all reports that are there.
    pub(crate) fn catch_up(&mut self) {
        loop {
            match self.reports.try_next() {
                Ok(Some(report)) => drop(self.note(report)),
                Err(ReportsError::Missed(_)) => {}
                Ok(None) | Err(ReportsError::Ended) => return,
            }
        }
    }

    fn note(&mut self, report: Report) -> Report {
        if let (Event::Restarting { in_window, allowed, .. }, Some(supervisor)) = (&report.event, above(&report.path)) {
            let used = self.used.entry(supervisor.to_owned()).or_insert(Used { most: 0, allowed: *allowed });
            used.most = used.most.max(*in_window);
        }
        report
    }

    /// Whether the supervisor of this place tolerates `cost` more restarts now.
    pub(crate) fn afford(&self, path: &str, cost: usize) -> Afford {
        let now = Instant::now();
        // As the supervisor itself counts: what it did before this looked, and what this missed, is in it.
        let supervisor = above(path).and_then(|above| self.tree.root().find(above));
        let Some((intensity, counts)) = supervisor.and_then(|node| node.hook.window(now)) else {
            return Afford::Never; // the root is restarted by nobody
        };
        let allowed = intensity.restarts as usize;
        match (counts.len() + cost).checked_sub(allowed) {
            None | Some(0) => Afford::Now,
            Some(over) => {
                // One that is exactly a period old still counts.
                let bearable = counts.get(over - 1).and_then(|at| at.checked_add(intensity.period));
                bearable.map_or(Afford::Never, |at| Afford::At(after(at, Duration::from_millis(1))))
            }
        }
    }

    /// Every place of the tree, depth first.
    pub(crate) fn places(&self) -> Vec<Arc<Node>> {
        let (mut places, mut next) = (Vec::new(), vec![Arc::clone(self.tree.root())]);
        while let Some(node) = next.pop() {
            next.extend(node.children().into_iter().rev());
            places.push(node);
        }
        places
    }

    /// What runs now.
    pub(crate) fn running(&self) -> RunningPlaces {
        let nodes = self.tree.snapshot().nodes.into_iter();
        nodes.filter(|node| node.state == ChildState::Running).map(|node| (node.path, node.incarnation)).collect()
    }

    /// Waits until all that ran before runs again, and `struck` in a later incarnation than that. A place that is no
    /// more is waited for by nobody. False when that did not happen in time.
    pub(crate) async fn recovered(
        &mut self,
        before: &RunningPlaces,
        struck: Option<(&str, u64)>,
        patience: Duration,
    ) -> bool {
        let whole = |observer: &Observer| {
            observer.tree.snapshot().nodes.iter().filter(|node| before.contains_key(&node.path)).all(|node| {
                let past = struck.filter(|struck| struck.0 == node.path).map_or(0, |struck| struck.1);
                node.state == ChildState::Running && node.incarnation > past
            })
        };
        let recovery = async {
            while !whole(self) {
                // That a place is given up comes behind the last report of it.
                let _ = timeout(LOOK, self.next()).await;
            }
        };
        timeout(patience, recovery).await.is_ok()
    }

    /// From a moment until the last of what has started since then had.
    pub(crate) fn since(&self, moment: Instant) -> Duration {
        let now = Instant::now();
        let nodes = self.tree.snapshot().nodes.into_iter();
        let started = nodes.filter_map(|node| Some(now - node.uptime?)).max();
        started.map_or(Duration::ZERO, |started| started.saturating_duration_since(moment))
    }

    // --- who is left over

    /// Remembers every actor that has a place now.
    pub(crate) fn look_around(&mut self) {
        self.seen.retain(|(_, cell)| cell.get_status() != ActorStatus::Stopped);
        let known: HashSet<ActorId> = self.seen.iter().map(|(_, cell)| cell.get_id()).collect();
        self.seen.extend(self.placed().into_iter().filter(|(_, cell)| !known.contains(&cell.get_id())));
    }

    /// The actors of the tree, and those that `ractor` knows below them.
    fn placed(&self) -> Vec<(String, ActorCell)> {
        let places = self.places().into_iter();
        let mut placed: Vec<(String, ActorCell)> =
            places.filter_map(|node| Some((node.path.clone(), node.cell()?))).collect();
        // First, for a supervisor's children have places of their own.
        let mut known: HashSet<ActorId> = placed.iter().map(|(_, cell)| cell.get_id()).collect();
        let mut next = 0;
        while let Some((path, cell)) = placed.get(next).cloned() {
            let children = cell.get_children().into_iter().filter(|child| known.insert(child.get_id()));
            placed.extend(children.map(|child| (path.clone(), child)));
            next += 1;
        }
        placed
    }

    /// Actors seen before that are alive and have no place any more, once they have had time to end.
    pub(crate) async fn orphans(&self, patience: Duration) -> Vec<Orphan> {
        let deadline = after(Instant::now(), patience);
        loop {
            let placed: HashSet<ActorId> = self.placed().iter().map(|(_, cell)| cell.get_id()).collect();
            let left = self
                .seen
                .iter()
                .filter(|(_, cell)| cell.get_status() != ActorStatus::Stopped && !placed.contains(&cell.get_id()));
            let left: Vec<Orphan> =
                left.map(|(path, cell)| Orphan { path: path.clone(), actor: cell.get_id() }).collect();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            sleep(LOOK).await;
        }
    }
}

/// Whether nobody starts it again.
pub(crate) fn is_temporary(place: &Node) -> bool {
    place.hook.restart() == Some(Restart::Temporary)
}

/// The path of the supervisor of a place.
pub(crate) fn above(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(above, _)| above)
}
