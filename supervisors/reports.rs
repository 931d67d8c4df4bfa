//! Crash and progress reports: what supervisors tell the world.
//!
//! One report is one structured `tracing` event, and one item of every stream that [`Tree::reports`] has handed out. A
//! start that fails is a warning of the supervisor that goes on after it; where a supervisor fails to start because of
//! it, that one's own failure says so, and where a whole tree does, whoever started it has the reason.
//! Owns the bus of a tree. A report never waits for a reader: who reads too slowly is told how many were missed.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use crate::node::Node;
use crate::tree::Tree;

/// Reports that a reader may be behind; past that it misses the oldest.
const REPORTS: usize = 1024;

/// Something that happened to one place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// When it was told.
    pub at: Instant,
    /// Ids from the root, separated by `/`.
    pub path: String,
    /// The last of them.
    pub id: String,
    /// The incarnation that it is about.
    pub incarnation: u64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is up; for a supervisor: all its children are.
    Started,
    /// There was nothing to run; its supervisor goes on without it.
    Ignored,
    /// It ended, and nothing of it is left.
    Exited {
        /// Why.
        reason: String,
        /// It ended by itself and with no error, or as its supervisor wanted it to: also by a kill, where its specification
        /// asks for that. A transient child is restarted only when this is false.
        normal: bool,
    },
    /// It did not start, and nothing of it is left.
    StartFailed {
        /// Why.
        reason: String,
        /// What did not start: itself, or something below it.
        at: String,
    },
    /// It failed and is going to be started again.
    Restarting {
        /// Why it failed.
        reason: String,
        /// Restarts that its supervisor's window holds now, this one included.
        in_window: usize,
        /// Restarts that the window may hold.
        allowed: usize,
    },
    /// A supervisor ends because a child failed once too often.
    GaveUp {
        /// The path of the child.
        child: String,
        /// Why that failed, and which limit was passed.
        reason: String,
    },
    /// A supervisor ends because significant children ended, as its specification says.
    AutoShutdown {
        /// The path of the last of them.
        child: String,
    },
    /// It was killed and is still there; it is not started again.
    Stuck {
        /// What is still there.
        reason: String,
    },
    /// A supervisor was told to stop and has stopped all its children.
    Stopped,
}

/// A stream of reports. See [`Tree::reports`].
#[derive(Debug)]
pub struct Reports {
    bus: broadcast::Receiver<Report>,
}

/// Why a stream of reports has no report to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportsError {
    /// The reader was too slow: so many reports are lost to it. The next call goes on after them.
    #[error("{0} reports were missed")]
    Missed(u64),
    /// Nothing of the tree is left, no handle on it, or on a place or a dynamic supervisor in it, either: there will be no
    /// more reports.
    #[error("the tree is gone")]
    Ended,
}

impl Reports {
    /// The next report, waiting for it. Safe to be dropped half way.
    ///
    /// # Errors
    /// See [`ReportsError`].
    pub async fn next(&mut self) -> Result<Report, ReportsError> {
        self.bus.recv().await.map_err(|error| match error {
            RecvError::Lagged(missed) => ReportsError::Missed(missed),
            RecvError::Closed => ReportsError::Ended,
        })
    }

    /// The next report, if it is there already.
    ///
    /// # Errors
    /// See [`ReportsError`].
    pub fn try_next(&mut self) -> Result<Option<Report>, ReportsError> {
        match self.bus.try_recv() {
            Ok(report) => Ok(Some(report)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Lagged(missed)) => Err(ReportsError::Missed(missed)),
            Err(TryRecvError::Closed) => Err(ReportsError::Ended),
        }
    }
}

impl Tree {
    /// What happens from now on, to every place of the tree. At most 1024 reports wait for a reader; one that is slower
    /// than that is told how many it missed, and slows nobody.
    ///
    /// Reports come from supervisors. One that is killed or panics says nothing of its children, which end with it: its
    /// own end, told by the one above, is theirs too.
    pub fn reports(&self) -> Reports {
        Reports { bus: self.root().bus.0.subscribe() }
    }
}

/// Where the supervisors of one tree tell their reports.
#[derive(Debug)]
pub(crate) struct Bus(broadcast::Sender<Report>);

impl Bus {
    pub(crate) fn new() -> Bus {
        Bus(broadcast::Sender::new(REPORTS))
    }

    /// Tells what happened to this incarnation of a place.
    pub(crate) fn tell(&self, node: &Node, incarnation: u64, event: Event, loudness: Loudness) {
        match loudness {
            Loudness::Usual => log(node, incarnation, &event),
            Loudness::Aside => tracing::debug!(path = node.path, child = node.id, incarnation, ?event, "did not start"),
        }
        if self.0.receiver_count() > 0 {
            let (path, id) = (node.path.clone(), node.id.clone());
            // That the last reader has just gone is no error.
            let _ = self.0.send(Report { at: Instant::now(), path, id, incarnation, event });
        }
    }
}

/// How a report is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loudness {
    Usual,
    /// A start failed, and whoever asked for it gets the reason: to say it as well would be to say it again, once for
    /// each supervisor in between.
    Aside,
}

fn log(node: &Node, incarnation: u64, event: &Event) {
    let (path, child) = (&*node.path, &*node.id);
    match event {
        Event::Started => tracing::info!(path, child, incarnation, "started"),
        Event::Ignored => tracing::info!(path, child, incarnation, "nothing to run"),
        Event::Exited { reason, normal: true } => tracing::info!(path, child, incarnation, reason, "exited"),
        Event::Exited { reason, normal: false } => tracing::warn!(path, child, incarnation, reason, "exited"),
        Event::StartFailed { reason, at } => tracing::warn!(path, child, incarnation, reason, at, "did not start"),
        Event::Restarting { reason, in_window, allowed } => {
            tracing::warn!(path, child, incarnation, reason, in_window, allowed, "restarting");
        }
        Event::GaveUp { child: failed, reason } => {
            tracing::error!(path, child, incarnation, failed, reason, "giving up");
        }
        Event::AutoShutdown { child: ended } => tracing::info!(path, child, incarnation, ended, "shuts itself down"),
        Event::Stuck { reason } => tracing::error!(path, child, incarnation, reason, "a killed child does not end"),
        Event::Stopped => tracing::info!(path, child, incarnation, "stopped"),
    }
}
