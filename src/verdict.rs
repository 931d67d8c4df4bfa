//! The child that ends a node which must not run: a wiped directory, or other voters than the directory's.
//!
//! Owns nothing. Once a verdict is there it fails, and fails again at every restart, until the root gives up with
//! that reason: the one way in which every kind of node ends, as a process, embedded, or under a host's
//! supervisor. A verdict while the node starts ([`Verdict::starting`]) ends the start, at once where it is found before all
//! is up, and goes to whoever asked for the node: nothing has failed yet.

use converge_supervisors::ChildSpec;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Why the node must not run; the first reason stays.
#[derive(Debug, Clone)]
pub(crate) struct Verdict(watch::Sender<Judgement>);

#[derive(Debug, Default)]
struct Judgement {
    reason: Option<String>,
    is_starting: bool,
}

impl Judgement {
    /// The reason to fail with.
    fn due(&self) -> Option<&String> {
        self.reason.as_ref().filter(|_| !self.is_starting)
    }
}

impl Verdict {
    pub(crate) fn new() -> Verdict {
        Verdict(watch::Sender::new(Judgement::default()))
    }

    /// The node starts, and [`Verdict::started`] will be asked.
    pub(crate) fn starting(&self) {
        self.0.send_modify(|judgement| judgement.is_starting = true);
    }

    /// All of it is up.
    ///
    /// # Errors
    /// Why it must not run.
    pub(crate) fn started(&self) -> Result<(), String> {
        self.0.send_modify(|judgement| judgement.is_starting = judgement.reason.is_some());
        self.reason().map_or(Ok(()), Err)
    }

    /// Says that this node must not run.
    ///
    /// # Errors
    /// The reason, while the node starts: nothing more of it should.
    pub(crate) fn give(&self, reason: String) -> Result<(), String> {
        let is_starting = self.0.borrow().is_starting;
        if !is_starting {
            tracing::error!(reason, "this node must not run");
        }
        let given = reason.clone();
        self.0.send_if_modified(|judgement| judgement.reason.is_none() && judgement.reason.replace(given).is_none());
        if is_starting { Err(reason) } else { Ok(()) }
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().reason.clone()
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
        if let Some(reason) = verdict.0.borrow().due() {
            return Err(reason.clone().into());
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut verdict = verdict.0.subscribe();
            if let Ok(judgement) = verdict.wait_for(|judgement| judgement.due().is_some()).await {
                let _ = myself.cast(judgement.due().cloned().unwrap_or_default());
            }
        });
        Ok(tasks)
    }

    async fn handle(&self, _: ActorRef<String>, reason: String, _: &mut JoinSet<()>) -> Result<(), ActorProcessingErr> {
        Err(reason.into())
    }
}
