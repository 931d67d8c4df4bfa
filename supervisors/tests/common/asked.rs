//! Children that come and go: helpers for requests and for dynamic supervisors.

use std::future::Future;
use std::sync::atomic::Ordering;

use converge_supervisors::ractor::ActorCell;
use converge_supervisors::{
    ChildError, ChildSpec, ChildState, Counts, DynamicSupervisor, Intensity, Restart, Started, Strategy, SupervisorRef,
    Template, Tree, TreeNode,
};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use super::{Knobs, Log, PATIENCE, Probe, spec};

/// A probe whose factory may have nothing to run.
pub fn optional(id: &str, log: &Log, knobs: &Knobs) -> ChildSpec {
    named(id, id, log, knobs)
}

/// Like [`optional`], logging under another name than its id.
pub fn named(id: &str, name: &str, log: &Log, knobs: &Knobs) -> ChildSpec {
    let (name, log, knobs) = (name.to_owned(), log.clone(), knobs.clone());
    ChildSpec::optional(id, move || seed(&name, &log, &knobs))
}

fn seed(name: &str, log: &Log, knobs: &Knobs) -> Option<(Probe, ())> {
    let run = !knobs.inner.nothing_to_do.load(Ordering::SeqCst);
    run.then(|| (Probe { name: name.to_owned(), log: log.clone(), knobs: knobs.clone() }, ()))
}

/// root ─ d: a dynamic supervisor of probes that are started with their name and knobs.
pub struct Nursery {
    pub tree: Tree,
    pub log: Log,
    pub dynamic: DynamicSupervisor<(String, Knobs)>,
}

/// A template with this restart, and more restarts than a test makes.
pub fn template(restart: Restart) -> Template {
    let intensity = Intensity { restarts: 1_000, period: Duration::from_secs(3600) };
    Template { intensity, restart, ..Template::default() }
}

impl Nursery {
    pub async fn start(template: Template) -> Nursery {
        let log = Log::new();
        let own = log.clone();
        let dynamic = DynamicSupervisor::new(template, move |(name, knobs): (String, Knobs)| seed(&name, &own, &knobs));
        let children = vec![ChildSpec::dynamic("d", &dynamic)];
        let tree = Tree::start("root", spec(Strategy::OneForOne, 0, 5, children)).await.unwrap();
        Nursery { tree, log, dynamic }
    }

    /// Starts a child that must come up: its id and actor.
    pub async fn child(&self, name: &str) -> (String, ActorCell) {
        self.child_with(name, &Knobs::new()).await
    }

    pub async fn child_with(&self, name: &str, knobs: &Knobs) -> (String, ActorCell) {
        running(self.dynamic.start_child((name.to_owned(), knobs.clone())).await)
    }

    pub fn place(&self) -> SupervisorRef {
        self.tree.supervisor("root/d").unwrap()
    }
}

/// The child that came up.
pub fn running(started: Result<Started, ChildError>) -> (String, ActorCell) {
    match started {
        Ok(Started::Running { id, actor }) => (id, actor),
        other => panic!("it is not up: {other:?}"),
    }
}

pub fn ignored(started: Result<Started, ChildError>) {
    assert!(matches!(started, Ok(Started::Ignore)), "{started:?}");
}

/// The error of a start; a start that went well is none.
pub fn refused(started: Result<Started, ChildError>) -> ChildError {
    started.expect_err("it is not to be started")
}

pub fn not_started(path: &str, reason: &str) -> ChildError {
    ChildError::StartFailed { path: path.to_owned(), reason: reason.to_owned() }
}

/// OTP's four numbers.
pub fn counts(specs: usize, active: usize, supervisors: usize, workers: usize) -> Counts {
    Counts { specs, active, supervisors, workers }
}

/// The last segment of each child's path, and whether it runs.
pub fn children(supervisor: &SupervisorRef) -> Vec<(String, ChildState)> {
    supervisor.which_children().iter().map(|node| (id(node), node.state)).collect()
}

fn id(node: &TreeNode) -> String {
    node.path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// What is expected of [`children`].
pub fn are(expected: &[(&str, ChildState)]) -> Vec<(String, ChildState)> {
    expected.iter().map(|(id, state)| ((*id).to_owned(), *state)).collect()
}

/// Asks in a task of its own, and lets it reach the supervisor. Paused time only.
pub async fn asking<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let task = tokio::spawn(request);
    super::settle().await;
    task
}

/// The answer, which must come.
pub async fn answer<T>(task: JoinHandle<T>) -> T {
    timeout(PATIENCE, task).await.expect("no answer").unwrap()
}

/// The actor has ended, and its supervisor has had time to see it. Paused time only.
pub async fn ended(cell: &ActorCell) {
    cell.wait(Some(PATIENCE)).await.unwrap();
    super::settle().await;
}
