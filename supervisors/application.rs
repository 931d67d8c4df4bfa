//! A tree with a beginning and an end: OTP's `application`.
//!
//! Starts the tree, takes it through its start phases, waits for its end, and says what that end means. It never exits
//! a process: a host gets an `Err`, and a binary makes of it what it likes. What OTP's application also is (a unit of
//! code, with an environment and dependencies) is a crate, a configuration and `Cargo.toml` here.

#[cfg(feature = "signals")]
mod signals;

use std::future::Future;
use std::pin::Pin;

use ractor::ActorCell;
use tokio::time::{Duration, timeout};

use crate::gone::{Alive, Gone};
use crate::spec::SupervisorSpec;
use crate::tree::{Escalated, StartError, StopError, Tree};

#[cfg(feature = "signals")]
pub use signals::{RunError, Signals};

/// How long a stop may take when nothing else is said.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How long a start phase may take when nothing else is said.
const PHASE_TIMEOUT: Duration = Duration::from_secs(30);

/// What it means when an application ends that nobody stopped. OTP's restart types of applications, where "the node
/// ends" is an `Err` here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitPolicy {
    /// Every such end is an error: the host must not go on without it.
    #[default]
    Permanent,
    /// It may end by itself in good order (see [`AutoShutdown`](crate::AutoShutdown)); to give up is an error.
    Transient,
    /// However it ends, the host goes on; the log has the reason.
    Temporary,
}

/// What a start phase or an end of one has to say when it fails.
pub type PhaseError = Box<dyn std::error::Error + Send + Sync>;
type PhaseFuture = Pin<Box<dyn Future<Output = Result<(), PhaseError>> + Send>>;
type PhaseWork = Box<dyn FnOnce(Tree) -> PhaseFuture + Send>;

/// An application that is to be started.
///
/// ```
/// # use converge_supervisors::{Application, ExitPolicy, Intensity, Strategy, SupervisorSpec};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), vec![/* children */]);
/// let running = Application::new("shop", spec)
///     .exit_policy(ExitPolicy::Transient)
///     .phase("open the doors", |tree| async move {
///         println!("{} places", tree.snapshot().nodes.len());
///         Ok(())
///     })
///     .start()
///     .await?;
/// running.stop().await?;
/// running.wait().await?;
/// # Ok(()) }
/// ```
pub struct Application {
    name: String,
    spec: SupervisorSpec,
    parent: Option<ActorCell>,
    policy: ExitPolicy,
    stop_deadline: Duration,
    phase_timeout: Duration,
    phases: Vec<(String, PhaseWork)>,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

/// An application that did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// Its tree did not.
    #[error(transparent)]
    Tree(#[from] StartError),
    /// A start phase failed, or took too long, or its tree ended; what was left was stopped again, in order.
    #[error("start phase {phase:?}: {reason}")]
    Phase {
        /// The phase.
        phase: String,
        /// Its error.
        reason: PhaseError,
    },
}

/// An end that the exit policy calls an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The tree gave up, or was killed.
    #[error(transparent)]
    GaveUp(#[from] Escalated),
    /// It ended in good order, but nobody had told it to, and it is permanent.
    #[error("{0} ended by itself")]
    Unexpected(String),
}

/// A running application. Clones are handles on the same one; dropping them all does not stop it.
#[derive(Clone, Debug)]
pub struct Running {
    tree: Tree,
    name: String,
    policy: ExitPolicy,
    stop_deadline: Duration,
    /// Tells that `on_end` has run.
    ended: Gone,
}

impl Application {
    /// An application of this tree. The name is the first segment of every path in it.
    pub fn new(name: impl Into<String>, spec: SupervisorSpec) -> Application {
        Application {
            name: name.into(),
            spec,
            parent: None,
            policy: ExitPolicy::default(),
            stop_deadline: STOP_DEADLINE,
            phase_timeout: PHASE_TIMEOUT,
            phases: Vec::new(),
            on_end: None,
        }
    }

    /// Links it to an actor of the host's, as [`Tree::start_linked`] does.
    #[must_use]
    pub fn linked_to(mut self, parent: ActorCell) -> Application {
        self.parent = Some(parent);
        self
    }

    /// Sets what it means when it ends by itself.
    #[must_use]
    pub fn exit_policy(mut self, policy: ExitPolicy) -> Application {
        self.policy = policy;
        self
    }

    /// Sets how long a stop may take before everything is killed.
    #[must_use]
    pub fn stop_deadline(mut self, deadline: Duration) -> Application {
        self.stop_deadline = deadline;
        self
    }

    /// Sets how long each start phase may take.
    #[must_use]
    pub fn phase_timeout(mut self, limit: Duration) -> Application {
        self.phase_timeout = limit;
        self
    }

    /// Adds a start phase: done when the whole tree is up, after the phases before it. OTP's `start_phase`.
    #[must_use]
    pub fn phase<F>(mut self, name: impl Into<String>, work: impl FnOnce(Tree) -> F + Send + 'static) -> Application
    where
        F: Future<Output = Result<(), PhaseError>> + Send + 'static,
    {
        self.phases.push((name.into(), Box::new(move |tree| Box::pin(work(tree)))));
        self
    }

    /// Sets what is done, once, when nothing of the tree runs any more, however it ended and whether or not anyone
    /// waits for it. [`Running::wait`] and [`Running::stop`] return when it is done; [`Tree::wait`] knows nothing of it.
    /// OTP's `stop` callback.
    #[must_use]
    pub fn on_end(mut self, work: impl FnOnce() + Send + 'static) -> Application {
        self.on_end = Some(Box::new(work));
        self
    }

    /// Starts the tree and goes through the phases.
    ///
    /// # Errors
    /// See [`ApplicationError`]. Dropping the future ends what had started.
    pub async fn start(self) -> Result<Running, ApplicationError> {
        let Application { name, spec, parent, policy, stop_deadline, phase_timeout, phases, on_end } = self;
        let tree = match parent {
            Some(parent) => Tree::start_linked(&name, spec, parent).await?,
            None => Tree::start(&name, spec).await?,
        };
        let alive = Alive::new();
        let ended = alive.watch();
        match on_end {
            None => drop(alive),
            Some(on_end) => {
                let tree = tree.clone();
                tokio::spawn(async move {
                    let _until_done = alive; // also when it panics
                    let _ = tree.wait().await;
                    on_end();
                });
            }
        }
        let unfinished = StopOnDrop(Some((tree.clone(), stop_deadline)));
        for (phase, work) in phases {
            let done = tokio::select! {
                biased;
                done = timeout(phase_timeout, work(tree.clone())) => match done {
                    // It may have stopped the tree itself.
                    Ok(Ok(())) if tree.has_ended() => Err("the tree ended".into()),
                    Ok(done) => done,
                    Err(_elapsed) => Err(format!("it took longer than {phase_timeout:?}").into()),
                },
                ended = tree.wait() => Err(match ended {
                    Ok(()) => "the tree ended".into(),
                    Err(escalated) => escalated.into(),
                }),
            };
            if let Err(reason) = done {
                let _ = stop(&tree, stop_deadline, &ended).await;
                unfinished.disarm();
                return Err(ApplicationError::Phase { phase, reason });
            }
            tracing::debug!(application = %name, phase, "start phase done");
        }
        unfinished.disarm();
        Ok(Running { tree, name, policy, stop_deadline, ended })
    }
}

impl Running {
    /// Its tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Waits until nothing of it runs any more and what [`Application::on_end`] set is done: a `main` may return.
    ///
    /// # Errors
    /// When nobody had stopped it and its exit policy calls that an error.
    pub async fn wait(&self) -> Result<(), Ended> {
        let ended = self.tree.wait().await;
        self.ended.clone().wait().await;
        match (ended, self.policy) {
            (Err(escalated), ExitPolicy::Temporary) => {
                tracing::error!(application = %self.name, reason = %escalated, "gave up; its host goes on");
                Ok(())
            }
            (Err(escalated), _) => Err(escalated.into()),
            (Ok(()), ExitPolicy::Permanent) if !self.tree.is_stopped_on_purpose() => {
                Err(Ended::Unexpected(self.name.clone()))
            }
            (Ok(()), _) => Ok(()),
        }
    }

    /// Stops it, in reverse order of start, within its stop deadline, and waits for what [`Application::on_end`] set, for
    /// as long again at most.
    ///
    /// # Errors
    /// See [`Tree::stop`]. While something is stuck, the end has not come, and is not waited for.
    pub async fn stop(&self) -> Result<(), StopError> {
        stop(&self.tree, self.stop_deadline, &self.ended).await
    }
}

async fn stop(tree: &Tree, deadline: Duration, ended: &Gone) -> Result<(), StopError> {
    let stopped = tree.stop(deadline).await;
    if !matches!(stopped, Err(StopError::Stuck(_))) {
        let done = tokio::time::timeout(deadline, ended.clone().wait()).await;
        if done.is_err() {
            tracing::error!("what was set to run at the end is not done; it is not waited for any longer");
        }
    }
    stopped
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phases: Vec<&String> = self.phases.iter().map(|(name, _)| name).collect();
        let mut out = f.debug_struct("Application");
        out.field("name", &self.name).field("policy", &self.policy).field("phases", &phases).finish_non_exhaustive()
    }
}

/// Stops a tree whose start phases are no longer awaited.
struct StopOnDrop(Option<(Tree, Duration)>);

impl StopOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some((tree, deadline)) = self.0.take() {
            // Outside a runtime nothing can wait for an ordered stop.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(async move { tree.stop(deadline).await })),
                Err(_) => tree.kill(),
            }
        }
    }
}
