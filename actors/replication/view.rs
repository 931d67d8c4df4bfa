//! What the rest of the node may see of the Raft node, without asking it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use converge_ledger_core::{LogIndex, NodeId, Term};
use raft::StateRole;
use tokio::sync::watch;
use tokio::time::Instant;

use super::core::Summary;

/// What this node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Has no genesis yet, or is not running.
    #[default]
    None,
    /// Follows, or waits for a leader.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// The word that status shows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::None => "none",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}

/// Who leads. Changes are rare; commit and applied move apart from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// What this node is.
    pub role: Role,
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// Voters that a forming cluster still waits for.
    pub missing: Vec<NodeId>,
    /// Whether this node fell silent: its storage is fenced, or its directory is wrong.
    pub silent: bool,
    /// Since when a node that runs has known of no leader.
    pub leaderless_since: Option<Instant>,
}

/// How often this node took no more entries because too much of its log was not committed, or not applied.
#[derive(Debug, Clone, Copy)]
pub struct Overfull {
    /// Since the actor's first start.
    pub times: u64,
    /// The last one.
    pub last: Instant,
    /// When that was logged.
    logged: Instant,
}

/// Such refusals are logged at most this often.
const OVERFULL_LOG_EVERY: Duration = Duration::from_secs(10);

/// What the actor says of itself, for whoever has its handle; kept across restarts.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) view: watch::Sender<View>,
    commit: AtomicU64,
    applied: AtomicU64,
    matched: Mutex<Vec<(NodeId, LogIndex)>>,
    unheard: Mutex<Vec<(NodeId, Instant)>>,
    overfull: Mutex<Option<Overfull>>,
    ticking: AtomicBool,
    tag: AtomicU64,
}

impl Published {
    pub(crate) fn running(&self, summary: Summary) {
        self.commit.store(summary.commit.get(), Ordering::Relaxed);
        let role = match summary.role {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate | StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let since = || self.view.borrow().leaderless_since.unwrap_or_else(Instant::now);
        let leaderless_since = summary.leader.is_none().then(since);
        self.replace(View { role, leader: summary.leader, term: summary.term, leaderless_since, ..View::default() });
    }

    pub(crate) fn forming(&self, missing: Vec<NodeId>) {
        self.replace(View { missing, ..View::default() });
    }

    pub(crate) fn silent(&self) {
        let term = self.view.borrow().term;
        self.replace(View { silent: true, term, ..View::default() });
    }

    fn replace(&self, new: View) {
        self.view.send_if_modified(|view| {
            if *view == new {
                return false;
            }
            if (view.role, view.leader) != (new.role, new.leader) {
                let leader = new.leader.map(NodeId::get);
                tracing::info!(role = new.role.as_str(), leader, term = %new.term, "role or leader changed");
            }
            *view = new;
            true
        });
    }

    pub(crate) fn commit(&self) -> LogIndex {
        LogIndex(self.commit.load(Ordering::Relaxed))
    }

    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }

    /// A Raft node started. `applied` may be lower than before a restart of storage: what was applied in memory
    /// only is applied again, and a read that waits must wait for that.
    pub(crate) fn started(&self, applied: LogIndex, tag: u64) {
        self.applied.store(applied.get(), Ordering::Release);
        self.tag.store(tag, Ordering::Release);
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag.load(Ordering::Acquire)
    }

    pub(crate) fn set_applied(&self, index: LogIndex) {
        self.applied.fetch_max(index.get(), Ordering::AcqRel);
    }

    pub(crate) fn matched(&self) -> Vec<(NodeId, LogIndex)> {
        self.matched.lock().expect("no code panics while it holds this lock").clone()
    }

    pub(crate) fn set_matched(&self, matched: Vec<(NodeId, LogIndex)>) {
        *self.matched.lock().expect("no code panics while it holds this lock") = matched;
    }

    pub(crate) fn unheard(&self) -> Vec<(NodeId, Instant)> {
        self.unheard.lock().expect("no code panics while it holds this lock").clone()
    }

    pub(crate) fn set_unheard(&self, unheard: Vec<(NodeId, Instant)>) {
        *self.unheard.lock().expect("no code panics while it holds this lock") = unheard;
    }

    pub(crate) fn overfull(&self) -> Option<Overfull> {
        *self.overfull.lock().expect("no code panics while it holds this lock")
    }

    /// Entries were not taken because too much of the log is not committed, or not applied.
    pub(crate) fn refused_overfull(&self) {
        let mut overfull = self.overfull.lock().expect("no code panics while it holds this lock");
        let (before, last) = (overfull.map_or(0, |before| before.times), Instant::now());
        let logged = overfull.map(|before| before.logged).filter(|logged| last - *logged < OVERFULL_LOG_EVERY);
        let is_news = logged.is_none();
        *overfull = Some(Overfull { times: before + 1, last, logged: logged.unwrap_or(last) });
        drop(overfull);
        if is_news {
            tracing::warn!(
                "no more entries are taken for a moment: too much of the log is not committed, or not applied"
            );
        }
    }

    /// Whether the last tick was handled, so that another may be sent.
    pub(crate) fn tick_due(&self) -> bool {
        !self.ticking.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn tick_done(&self) {
        self.ticking.store(false, Ordering::Release);
    }
}
