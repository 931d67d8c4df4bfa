//! What to run: specifications of children and supervisors.
//!
//! Data only. Knows how to make an actor, not when.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, SpawnErr};
use tokio::time::Duration;

use crate::backoff::Backoff;
use crate::intensity::Intensity;
use crate::latch::Latch;
use crate::node::Berth;
use crate::service::{Service, SlotGuard};
use crate::supervised::Supervised;

/// Time a worker has to start when its spec says nothing else.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a worker has to stop when its spec says nothing else (OTP's default).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is restarted when one child fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The child alone.
    OneForOne,
    /// All children: the others are stopped first, in reverse order, then all are started in order.
    OneForAll,
    /// The child and those started after it: stopped in reverse order, started in order.
    RestForOne,
}

/// Whether a child is restarted when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always, a normal exit included.
    Permanent,
    /// After an abnormal exit only.
    Transient,
    /// Never. Its spec is forgotten when it ends, and a restart of its group does not bring it back.
    Temporary,
}

/// How a child is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once; its `post_stop` does not run.
    BrutalKill,
    /// Asked to stop, and killed if it is still there after this long.
    Timeout(Duration),
    /// Asked to stop, and waited for without bound. For supervisors, whose children have bounds of their own.
    Infinity,
}

/// One child of a supervisor: how to make it, and what to do about its end.
///
/// Defaults: permanent; a worker stops within 5 s and starts within 30 s; a supervisor has no bound of its own for
/// either; no backoff.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) id: String,
    pub(crate) body: Body,
    pub(crate) restart: Restart,
    pub(crate) shutdown: Shutdown,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) latches: Vec<Latch>,
}

/// A supervisor: its children in start order, and what to do when one fails.
#[derive(Clone, Debug)]
pub struct SupervisorSpec {
    /// Who is restarted when one child fails.
    pub strategy: Strategy,
    /// How many restarts are tolerated before the supervisor gives up.
    pub intensity: Intensity,
    /// In start order. Ids are unique, not empty, and hold no `/`.
    pub children: Vec<ChildSpec>,
    /// For `RestForOne` and `OneForAll`: how long a sibling that is stopped *because another child failed* gets before
    /// it is killed, where that is less than its own shutdown time. An addition to OTP: when an elder is gone, its
    /// juniors have little left to do, and callers wait. `None`: each its own shutdown time.
    pub shutdown_grace_elder: Option<Duration>,
}

/// What a child is made of.
#[derive(Clone)]
pub(crate) enum Body {
    Worker(Launch),
    Supervisor(Arc<SupervisorSpec>),
}

/// Spawns one incarnation of a worker, linked to its supervisor.
pub(crate) type Launch = Arc<dyn Fn(Berth, ActorCell) -> Spawning + Send + Sync>;
/// A worker that is starting: resolves after its `pre_start`; dropping it calls the start off.
pub(crate) type Spawning = Pin<Box<dyn Future<Output = Result<Spawned, SpawnErr>> + Send>>;
/// A running actor and its end.
pub(crate) type Spawned = (ActorCell, JoinHandle<()>);

impl ChildSpec {
    /// A worker. `make` is called for each incarnation and returns the actor and its arguments; it should do no more
    /// than that: `pre_start` is the place for work. A panic in `make` is a failed start.
    pub fn actor<A, F>(id: impl Into<String>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::worker(id.into(), None, make)
    }

    /// A worker that fills `service` once it has started, before the next sibling starts. The slot is empty again when
    /// that incarnation stops, is killed, panics or is aborted.
    pub fn service<A, F>(id: impl Into<String>, service: &Service<A::Msg>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::worker(id.into(), Some(service.clone()), make)
    }

    /// A supervisor as a child: its start is over when all its children have started. When it gives up it exits with
    /// `"shutdown: …"` as OTP's does, so a permanent one is restarted by its parent and a transient one is not.
    pub fn supervisor(id: impl Into<String>, spec: SupervisorSpec) -> ChildSpec {
        ChildSpec {
            id: id.into(),
            body: Body::Supervisor(Arc::new(spec)),
            restart: Restart::Permanent,
            shutdown: Shutdown::Infinity,
            start_timeout: None,
            backoff: None,
            latches: Vec::new(),
        }
    }

    /// Sets when the child is restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how the child is stopped.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Sets how long a start may take: past that it is called off (a supervisor: killed with its subtree) and counts as
    /// failed.
    #[must_use]
    pub fn start_timeout(mut self, start_timeout: Duration) -> Self {
        self.start_timeout = Some(start_timeout);
        self
    }

    /// Sets a delay before restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Adds a latch: the child is gone, and may be started again, only when its task has ended and the latch is
    /// released.
    #[must_use]
    pub fn latch(mut self, latch: &Latch) -> Self {
        self.latches.push(latch.clone());
        self
    }

    /// The id, unique among its siblings.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn worker<A, F>(id: String, service: Option<Service<A::Msg>>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let launch = move |berth: Berth, parent: ActorCell| -> Spawning {
            let make = Arc::clone(&make);
            let slot = service.clone().map(|service| SlotGuard::new(service, Arc::clone(&berth.node.pulse)));
            Box::pin(async move {
                let (actor, arguments) = catch_unwind(AssertUnwindSafe(|| make()))
                    .map_err(|panic| SpawnErr::StartupFailed(panic_text(&*panic).into()))?;
                let wrapped = Supervised::new(actor, berth, slot);
                let (actor, join) = Supervised::spawn_linked(None, wrapped, arguments, parent).await?;
                Ok((actor.get_cell(), join))
            })
        };
        ChildSpec {
            id,
            body: Body::Worker(Arc::new(launch)),
            restart: Restart::Permanent,
            shutdown: Shutdown::Timeout(SHUTDOWN_TIMEOUT),
            start_timeout: Some(START_TIMEOUT),
            backoff: None,
            latches: Vec::new(),
        }
    }
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("ChildSpec");
        out.field("id", &self.id)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .field("start_timeout", &self.start_timeout)
            .field("backoff", &self.backoff);
        match &self.body {
            Body::Worker(_) => out.finish_non_exhaustive(),
            Body::Supervisor(spec) => out.field("supervisor", spec).finish(),
        }
    }
}

impl SupervisorSpec {
    /// A specification without the grace for siblings.
    pub fn new(strategy: Strategy, intensity: Intensity, children: Vec<ChildSpec>) -> Self {
        SupervisorSpec { strategy, intensity, children, shutdown_grace_elder: None }
    }

    /// Refuses what could not be told apart in a path.
    pub(crate) fn check(&self, path: &str) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for child in &self.children {
            check_id(&child.id).map_err(|reason| format!("a child of {path}: {reason}"))?;
            if !seen.insert(child.id.as_str()) {
                return Err(format!("{path} has two children with the id {:?}", child.id));
            }
            if let Body::Supervisor(spec) = &child.body {
                spec.check(&format!("{path}/{}", child.id))?;
            }
        }
        Ok(())
    }
}

/// An id is one segment of a path.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("the id is empty".to_owned());
    }
    if id.contains('/') {
        return Err(format!("the id {id:?} holds a '/', which separates the ids of a path"));
    }
    Ok(())
}

/// What a panic had to say.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the child's factory panicked: {}", text.unwrap_or("no message"))
}
