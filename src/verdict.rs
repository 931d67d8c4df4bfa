//! The child that ends a node which must not run: a wiped directory, or other voters than the directory's.
//!
//! Owns nothing. Once a verdict is there it fails, and fails again at every restart, until the root gives up with
//! that reason: the one way in which every kind of node ends, as a process, embedded, or under a host's
//! supervisor.

use converge_supervisors::ChildSpec;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Why the node must not run; the first reason stays.
#[derive(Debug, Clone)]
pub(crate) struct Verdict(watch::Sender<Option<String>>);

impl Verdict {
    pub(crate) fn new() -> Verdict {
        Verdict(watch::Sender::new(None))
    }

    /// Says that this node must not run.
    pub(crate) fn give(&self, reason: String) {
        tracing::error!(reason, "this node must not run");
        self.0.send_if_modified(|verdict| verdict.is_none() && verdict.replace(reason).is_none());
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    pub(crate) fn child_spec(&self) -> ChildSpec {
        let verdict = self.clone();
        ChildSpec::actor("verdict", move || (Sentinel, verdict.clone()))
    }
}

struct Sentinel;

impl Actor for Sentinel {
    type Msg = String;
    type State = JoinSet<()>;
    type Arguments = Verdict;

    async fn pre_start(&self, myself: ActorRef<String>, verdict: Verdict) -> Result<JoinSet<()>, ActorProcessingErr> {
        if let Some(reason) = verdict.reason() {
            return Err(reason.into());
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut verdict = verdict.0.subscribe();
            if let Ok(reason) = verdict.wait_for(Option::is_some).await {
                let _ = myself.cast(reason.clone().unwrap_or_default());
            }
        });
        Ok(tasks)
    }

    async fn handle(&self, _: ActorRef<String>, reason: String, _: &mut JoinSet<()>) -> Result<(), ActorProcessingErr> {
        Err(reason.into())
    }
}
